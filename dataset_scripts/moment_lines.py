"""The common form of moment annotations: JSON lines, as in QVHighlights, R2-Tuning, UniVTG and lighthouse.

    {"qid": 7, "query": "...", "duration": 150, "vid": "...", "relevant_windows": [[start_sec, end_sec], ...],
     "relevant_clip_ids": [0, 1, ...], "saliency_scores": [[score of each annotator], ...]}

The two last fields are optional; a test split may also lack `relevant_windows`. Clips are two seconds long. lighthouse's
lines for YouTube Highlights and TVSum have other fields, which the builders of these read.
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from .benchmarks import BENCHMARKS, UNIT_SEC
from .cleaning import Report
from .reading import AnnotationError, Record, parse_json, read_lines


__all__ = ["holds_moments", "read_lighthouse_lines", "read_moment_lines", "read_records"]

LONGEST_RATED_SEC = 6 * 60 * 60  # as every clip has a row, however few are listed
ReadLine = Callable[[Record, str, str, Report], dict]
SCALE = BENCHMARKS["qvhighlights"].saliency  # the scores in this form are those of QVHighlights
NUM_ANNOTATORS = 3  # of QVHighlights, for a file without any scores


def holds_moments(path: str) -> bool:
    """Whether the first readable line of a file has `relevant_windows`: a hidden test split has none."""
    for _, line in read_lines(path):
        try:
            return json.loads(line).get("relevant_windows") is not None
        except (ValueError, AttributeError, RecursionError):
            continue  # named when the file is read
    return True


def read_records(path: str, report: Report) -> Iterator[Record]:
    """The objects of a file of JSON lines."""
    for number, line in read_lines(path):
        with report.skip_errors():
            yield Record(parse_json(line, path, number), f"{path}, line {number}")


def read_moment_lines(path: str, split: str, report: Report) -> Iterator[tuple[Record, dict]]:
    """Records and examples of a file in the common form."""
    annotated = split != "test" or holds_moments(path)
    num_annotators = count_annotators(path)
    for record in read_records(path, report):
        with report.skip_errors():
            yield record, _read_example(record, annotated, num_annotators)


def read_lighthouse_lines(
    path: str, wanted: str, read_line: ReadLine, domains: Collection[str], report: Report
) -> Iterator[tuple[Record, dict]]:
    """Records and examples of one of lighthouse's files for a benchmark with domains, which holds one split.

    Args:
        path: The file.
        wanted: The domain to load, or "all".
        read_line: Makes an example of a record, the id of its video and its domain.
        domains: Those that may occur.
        report: Counts what is passed over.
    """
    for record in read_records(path, report):
        with report.skip_errors():
            video_id, domain = record.text("vid"), record.text("domain")
            if domain not in domains:
                raise record.error("domain", f"one of {', '.join(domains)}")
            if wanted in ("all", domain):
                yield record, read_line(record, video_id, domain, report)


def count_annotators(path: str) -> int:
    """Number of scores that a clip has in the first usable line with any."""
    for _, line in read_lines(path):
        if b'"saliency_scores"' in line:
            with suppress(AnnotationError, LookupError):  # a video without a relevant clip, or named later
                return len(
                    Record(parse_json(line, path), "").scores("saliency_scores", SCALE.lowest, SCALE.highest)[0]
                )
    return NUM_ANNOTATORS


def _read_example(record: Record, annotated: bool, num_annotators: int) -> dict:
    if record.has("relevant_windows") and not annotated:
        raise record.error("relevant_windows", "none, as in the first line of the file")
    duration = record.duration(record.number("duration", above=0))
    return {
        "qid": record.identifier("qid"),
        "query": record.text("query", "a sentence"),
        "video_id": record.text("vid"),
        "duration_sec": duration,
        "moments": record.windows("relevant_windows") if annotated else None,
        "saliency": _dense_saliency(record, duration, num_annotators),
        "domain": None,
    }


def _dense_saliency(record: Record, duration: float, num_annotators: int) -> dict | None:
    """Scores of every clip of the video; those that are not listed have zeros."""
    if not (record.has("relevant_clip_ids") or record.has("saliency_scores")):
        return None
    if duration > LONGEST_RATED_SEC:
        raise record.error("duration", f"at most {LONGEST_RATED_SEC:,}, six hours, where clips have scores")
    num_clips = int(duration / UNIT_SEC)
    clips = record.items("relevant_clip_ids", f"a list of {num_clips} clips at most")
    rows = record.scores("saliency_scores", SCALE.lowest, SCALE.highest)
    if len(rows) != len(clips):
        raise record.error("saliency_scores", f"{len(clips)} rows, one for each of `relevant_clip_ids`")
    scores = [[0.0] * (len(rows[0]) if rows else num_annotators) for _ in range(num_clips)]
    for number, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        if type(clip) is not int or not 0 <= clip < num_clips:
            raise record.item_error("relevant_clip_ids", number, f"a clip of the video, 0 to {num_clips - 1}")
        scores[clip] = row
    if len(set(clips)) < len(clips):
        raise record.error("relevant_clip_ids", "every clip once")
    times = [[UNIT_SEC * clip, UNIT_SEC * (clip + 1)] for clip in range(num_clips)]
    return {"times_sec": times, "scores": scores}
