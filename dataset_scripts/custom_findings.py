"""What was found in a user's own table and videos: each kind of finding is counted, and named by the line of the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


__all__ = ["KINDS", "Finding", "Findings", "Kind", "RowError", "first_examples"]

NUM_EXAMPLES = 3  # examples of a kind that a message names


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: What was found, in the plural.
        effect: What it means for the data.
            "left_out": the query is not used; with `on_error="raise"` nothing is loaded.
            "missing": the same with `missing_videos="error"`.
            "changed": the query is used with a change; or it is left out as the paper does (`short_video`).
            "noted": it is used as it is, but should be looked at.
            "information": nothing is wrong.
        advice: What the user can do about it.
    """

    title: str
    effect: Literal["left_out", "missing", "changed", "noted", "information"]
    advice: str


KINDS: dict[str, Kind] = {
    "unreadable_row": Kind("rows that cannot be read", "left_out", "Correct what is named."),
    "empty_query": Kind("rows without a query", "left_out", "Write a sentence, or remove the row."),
    "bad_time": Kind(
        "rows with a time that cannot be read",
        "left_out",
        "Write seconds (75.5), mm:ss (1:15.5) or h:mm:ss (0:01:15.5).",
    ),
    "negative_time": Kind(
        "queries with a time before the video", "left_out", "Times count from the start of the video, 0."
    ),
    "reversed_moment": Kind("queries with a moment that ends before it starts", "left_out", "Exchange start and end."),
    "empty_moment": Kind(
        "queries with a moment of no length",
        "left_out",
        "Give the moment a length. For a query that nothing in the video matches, leave start and end empty.",
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
        "rows whose qid belongs to another query", "left_out", "Give each query a qid of its own, or none."
    ),
    "bad_saliency": Kind(
        "queries with saliency that cannot be used",
        "left_out",
        "Write a list with a score from 0 to 4 for every 2 s of the video.",
    ),
    "bad_split": Kind("rows with an unusable split", "left_out", "Write train, val or test."),
    "no_duration": Kind(
        "queries of videos of unknown length",
        "left_out",
        "Pass the folder of the videos as `video_dir`, or add a column `duration`.",
    ),
    "ambiguous_video": Kind(
        "queries whose video stands for several files",
        "left_out",
        "Write the path relative to `video_dir` with the extension; files that differ in the extension alone need "
        "different names.",
    ),
    "missing_video": Kind("queries of missing videos", "missing", "Add the files to `video_dir`, or remove the rows."),
    "missing_features": Kind(
        "queries of videos without features", "missing", "Run `r2tuning extract` again, which adds them to the cache."
    ),
    "unreadable_video": Kind("queries of unreadable videos", "missing", "Convert or replace the files."),
    "cut_end": Kind(
        "moments that end a little after the video",
        "changed",
        "Nothing to do: their end is set to the end of the video; they exceed it by no more than a rounded time does.",
    ),
    "joined_rows": Kind(
        "rows with further moments of a query",
        "changed",
        "Nothing to do if each row adds moments: they are one query. To keep them apart, give them different qids.",
    ),
    "repeated_moment": Kind(
        "rows that repeat an earlier one", "changed", "Nothing to do: each moment of a query is used once."
    ),
    "short_video": Kind(
        "training queries of videos shorter than 5 s", "changed", "They are left out of training, as in the paper."
    ),
    "duration_differs": Kind(
        "videos whose length differs from the table",
        "noted",
        "The length of the file is used, or without files the first in the table. Check that the table was written for "
        "these files.",
    ),
    "damaged_video": Kind(
        "videos that end before the length in their header",
        "noted",
        "The length of what can be read is used. Copy or convert the file again.",
    ),
    "two_names": Kind("videos under two names", "noted", "Write the name of a video the same way in every row."),
    "two_splits": Kind(
        "videos in two splits",
        "noted",
        "Scores on videos that were trained on are too high. Move each video to one split.",
    ),
    "several_qids": Kind(
        "sentences with several qids for one video",
        "noted",
        "The moments of one qid count as not matching the others. Give the rows of one query the same qid, or none.",
    ),
    "one_video": Kind(
        "tables of a single video",
        "noted",
        "No video can be held out for val: pass a table for it (`val_file`), or train without evaluation.",
    ),
    "saliency_scale": Kind(
        "tables without a saliency score above 1", "noted", "The scale is 0 to 4: multiply scores from 0 to 1 by 4."
    ),
    "other_encoding": Kind(
        "tables that are not in UTF-8",
        "noted",
        "Check the accented letters. Letters of other scripts are wrong: save the table as UTF-8.",
    ),
    "ignored_column": Kind("columns that are not used", "information", "Check that their names are not misspelt."),
    "unused_video": Kind("videos without a query", "information", "They are not used."),
}


class RowError(ValueError):
    """A row, query or video that cannot be used.

    Attributes:
        kind: The kind of finding, a key of `KINDS`.
        place: Where it was found; `None` = where the caller is reading.
    """

    def __init__(self, kind: str, detail: str, place: str | None = None):
        super().__init__(detail)
        self.kind = kind
        self.place = place


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
            examples = "; ".join(map(str, first_examples(findings)))
            more = "; ..." if len(findings) > NUM_EXAMPLES else ""
            parts.append(f"{KINDS[kind].title}: {len(findings):,} ({examples}{more})")
        return "; ".join(parts)


def first_examples(findings: Sequence[Finding]) -> list[Finding]:
    """The first few findings with different details, such as different videos, in their order."""
    different: dict[str, Finding] = {}
    for finding in findings:
        different.setdefault(finding.detail, finding)
    return list(different.values())[:NUM_EXAMPLES]
