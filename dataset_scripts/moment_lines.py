"""The common format of moment annotations: JSON lines, as in QVHighlights, R2-Tuning, UniVTG and lighthouse.

    {"qid": 7, "query": "...", "duration": 150, "vid": "...", "relevant_windows": [[start_sec, end_sec], ...],
     "relevant_clip_ids": [0, 1, ...], "saliency_scores": [[score of each annotator], ...]}

The last two fields are optional; a test split may also lack `relevant_windows`. A "clip" is a unit of two seconds.
`"relevant_windows": []` is an annotation as well: nothing in the video matches the query.
lighthouse's lines for YouTube Highlights and TVSum have other fields, which the builders of those benchmarks read.
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

from .benchmarks import BENCHMARKS, UNIT_SEC
from .cleaning import Report
from .reading import AnnotationError, Record, parse_json, read_lines


__all__ = ["holds_moments", "read_lighthouse_lines", "read_moment_lines", "read_records"]

LONGEST_RATED_SEC = 6 * 60 * 60  # since every unit has a row, however few are listed
SCALE = BENCHMARKS["qvhighlights"].saliency  # scores in this format are on the scale of QVHighlights
NUM_ANNOTATORS = 3  # of QVHighlights, for a file without any scores
ReadLine = Callable[[Record, str, str, Report], dict[str, Any]]


def holds_moments(path: str) -> bool:
    """Whether the first readable line of a file has `relevant_windows`, even an empty list: a hidden test split has none."""
    for _, line in read_lines(path):
        try:
            return json.loads(line).get("relevant_windows") is not None
        except (ValueError, AttributeError, RecursionError):
            continue  # reported when the file is read
    return True


def read_records(path: str, report: Report) -> Iterator[Record]:
    """The records of a JSON lines file."""
    for number, line in read_lines(path):
        with report.skip_errors():
            yield Record(parse_json(line, path, number), f"{path}, line {number}")


def read_moment_lines(
    path: str, split: str, report: Report, scores_required: bool = True
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Records and examples of a file in the common format.

    Args:
        path: The file.
        split: The split it holds; a test split may be hidden.
        report: Counts malformed records.
        scores_required: Whether a line with `relevant_clip_ids` must have `saliency_scores`; if not, the saliency of a
            line without them is null.
    """
    annotated = split != "test" or holds_moments(path)
    num_annotators = count_annotators(path)
    for record in read_records(path, report):
        with report.skip_errors():
            example = _read_example(record, annotated)
            if scores_required or record.has("saliency_scores"):
                example["saliency"] = _dense_saliency(record, example["duration_sec"], num_annotators)
            yield record, example


def read_lighthouse_lines(
    path: str, wanted: str, read_line: ReadLine, domains: Collection[str], report: Report
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Records and examples of a lighthouse file, which holds one split of a benchmark with domains.

    Args:
        path: The file.
        wanted: The domain to load, or "all".
        read_line: Makes an example from a record, the id of its video and its domain.
        domains: The domains that may occur.
        report: Counts malformed records.
    """
    for record in read_records(path, report):
        with report.skip_errors():
            video_id, domain = record.text("vid"), record.text("domain")
            if domain not in domains:
                raise record.error("domain", f"one of {', '.join(domains)}")
            if wanted in ("all", domain):
                yield record, read_line(record, video_id, domain, report)


def count_annotators(path: str) -> int:
    """Number of scores per unit, from the first usable line with scores."""
    for _, line in read_lines(path):
        if b'"saliency_scores"' in line:
            with suppress(AnnotationError, LookupError):  # no relevant unit, or malformed and reported later
                record = Record(parse_json(line, path), "")
                return len(record.scores("saliency_scores", SCALE.lowest, SCALE.highest)[0])
    return NUM_ANNOTATORS


def _read_example(record: Record, annotated: bool) -> dict[str, Any]:
    """The example of a line, without its saliency."""
    if record.has("relevant_windows") and not annotated:
        raise record.error("relevant_windows", "no such field, as in the first line of the file")
    duration = record.duration(record.number("duration", above=0))
    moments = record.intervals("relevant_windows") if annotated else None
    if moments == [] and record.fields.get("relevant_clip_ids"):
        raise record.error(
            "relevant_clip_ids", "an empty list, as `relevant_windows` says that nothing matches the query"
        )
    return {
        "qid": record.identifier("qid"),
        "query": record.text("query", "a sentence"),
        "video_id": record.text("vid"),
        "duration_sec": duration,
        "moments": moments,
        "saliency": None,
        "domain": None,
    }


def _dense_saliency(record: Record, duration: float, num_annotators: int) -> dict[str, Any] | None:
    """Scores of every unit of the video; units that are not listed have zeros."""
    if not (record.has("relevant_clip_ids") or record.has("saliency_scores")):
        return None
    if duration > LONGEST_RATED_SEC:
        raise record.error("duration", f"at most {LONGEST_RATED_SEC:,}, six hours, where units have scores")
    num_units = int(duration / UNIT_SEC)
    units = record.items("relevant_clip_ids", f"a list of at most {num_units} units")
    rows = record.scores("saliency_scores", SCALE.lowest, SCALE.highest)
    if len(rows) != len(units):
        raise record.error("saliency_scores", f"{len(units)} rows, one for each of `relevant_clip_ids`")
    if rows:
        num_annotators = len(rows[0])
    scores = [[0.0] * num_annotators for _ in range(num_units)]
    for number, (unit, row) in enumerate(zip(units, rows, strict=True)):
        if type(unit) is not int or not 0 <= unit < num_units:
            raise record.item_error("relevant_clip_ids", number, f"a unit of the video, 0 to {num_units - 1}")
        scores[unit] = row
    if len(set(units)) < len(units):
        raise record.error("relevant_clip_ids", "each unit only once")
    times = [[UNIT_SEC * unit, UNIT_SEC * (unit + 1)] for unit in range(num_units)]
    return {"times_sec": times, "scores": scores}
