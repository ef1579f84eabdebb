"""What was found in a user's own table and videos: each kind of finding is counted, and named by the line of the table."""

from dataclasses import dataclass
from typing import Literal


__all__ = ["KINDS", "Finding", "Findings", "Kind", "RowError"]

NUM_EXAMPLES = 3  # examples of a kind that a message names


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: What was found, in the plural.
        effect: "left_out": the query is not used, and with `on_error="raise"` nothing is loaded. "missing": the same
            for `missing_videos="error"`. "changed": the query is used as changed. "noted": it is used as it is.
        advice: What the user can do about it.
    """

    title: str
    effect: Literal["left_out", "missing", "changed", "noted"]
    advice: str


KINDS: dict[str, Kind] = {
    "unreadable_row": Kind("rows that cannot be read", "left_out", "Correct the values that are named."),
    "empty_query": Kind("rows without a query", "left_out", "Write a sentence, or remove the row."),
    "bad_time": Kind(
        "rows with a time that cannot be read",
        "left_out",
        "Write seconds (75.5), mm:ss (1:15.5) or h:mm:ss (0:01:15.5).",
    ),
    "negative_time": Kind(
        "queries with a time before the video", "left_out", "Times count from the video's start, 0."
    ),
    "reversed_moment": Kind("queries with a moment that ends before it starts", "left_out", "Exchange start and end."),
    "empty_moment": Kind(
        "queries with a moment of no length",
        "left_out",
        "Give the moment a length; for a query that nothing in the video matches, leave start and end empty.",
    ),
    "beyond_end": Kind(
        "queries with a moment beyond the end of the video",
        "left_out",
        "Check that the times are in seconds and belong to this video.",
    ),
    "contradiction": Kind(
        "queries with a moment in one row and none in another", "left_out", "Remove the row without a moment."
    ),
    "duplicate_id": Kind(
        "queries whose qid belongs to another query", "left_out", "Give each query a qid of its own, or no qid at all."
    ),
    "bad_saliency": Kind(
        "queries with saliency that cannot be used",
        "left_out",
        "Write a list with one score from 0 to 4 for every 2 s of the video.",
    ),
    "bad_split": Kind("rows with an unusable split", "left_out", "Write train, val or test."),
    "no_duration": Kind(
        "queries of videos of unknown length",
        "left_out",
        "Pass the folder of the videos as `video_dir`, or add a column `duration` in seconds.",
    ),
    "ambiguous_video": Kind(
        "queries of videos whose name stands for several files",
        "left_out",
        "Write the path relative to `video_dir`, with its extension; files that differ only in the extension need "
        "different names.",
    ),
    "missing_video": Kind("queries of missing videos", "missing", "Add the files to `video_dir`, or remove the rows."),
    "unreadable_video": Kind("queries of unreadable videos", "missing", "Convert or replace the files."),
    "cut_end": Kind(
        "moments whose end is set to the end of the video",
        "changed",
        "Nothing to do: they end at most 1 s later, as rounded times do.",
    ),
    "joined_rows": Kind(
        "rows with further moments of a query",
        "changed",
        "Nothing to do if each row adds a moment: they become one query. Give them a qid each to keep them apart.",
    ),
    "repeated_moment": Kind("rows that repeat a moment", "changed", "Nothing to do: the moment is used once."),
    "short_video": Kind(
        "training queries of videos shorter than 5 s", "changed", "They are left out of training, as in the paper."
    ),
    "duration_differs": Kind(
        "videos whose length differs from the table",
        "noted",
        "The length of the file is used; check that it is the same video.",
    ),
    "damaged_video": Kind(
        "videos that end before the length in their header",
        "noted",
        "The length of what can be read is used; copy or convert the file again.",
    ),
    "two_names": Kind("videos under two names", "noted", "Write the name of a video the same way in every row."),
    "two_splits": Kind(
        "videos in two splits", "noted", "Scores on a video that was trained on are too high: move it to one split."
    ),
    "saliency_scale": Kind(
        "tables whose saliency is nowhere above 1", "noted", "The scale is 0 to 4: multiply scores from 0 to 1 by 4."
    ),
    "other_encoding": Kind("tables that are not in UTF-8", "noted", "Check the accented letters, or save as UTF-8."),
    "ignored_columns": Kind("columns that are not used", "noted", "Nothing to do if their names are not misspelt."),
    "unused_video": Kind("videos without a query", "noted", "Nothing to do: they are not used."),
}


class RowError(ValueError):
    """A row, query or video that cannot be used; carries the kind of finding."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: A key of `KINDS`.
        place: The line of the table or the video, such as "my.csv, line 7".
        detail: What is there.
    """

    kind: str
    place: str
    detail: str

    def __str__(self) -> str:
        return f"{self.place}: {self.detail}"


class Findings:
    """Collects findings; equal ones are kept once."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def add(self, kind: str, place: str, detail: str) -> None:
        """Keep a finding."""
        self._found.setdefault(Finding(kind, place, detail))

    def by_kind(self) -> dict[str, list[Finding]]:
        """The findings of each kind that was found, in the order of `KINDS`."""
        grouped: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
        for finding in self._found:
            grouped[finding.kind].append(finding)
        return {kind: findings for kind, findings in grouped.items() if findings}

    def with_effect(self, effect: str) -> dict[str, list[Finding]]:
        """Those of `by_kind` that have an effect."""
        return {kind: findings for kind, findings in self.by_kind().items() if KINDS[kind].effect == effect}

    def describe(self, effect: str) -> str:
        """All findings with an effect in one line: the number of each kind, and where the first ones are."""
        parts = []
        for kind, findings in self.with_effect(effect).items():
            examples = "; ".join(map(str, findings[:NUM_EXAMPLES]))
            more = "; ..." if len(findings) > NUM_EXAMPLES else ""
            parts.append(f"{len(findings):,} {KINDS[kind].title} ({examples}{more})")
        return "; ".join(parts)
