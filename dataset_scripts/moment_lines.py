"""The common form of moment annotations: JSON lines, as in QVHighlights, R2-Tuning, UniVTG and lighthouse.

    {"qid": 7, "query": "...", "duration": 150, "vid": "...", "relevant_windows": [[start_sec, end_sec], ...],
     "relevant_clip_ids": [0, 1, ...], "saliency_scores": [[score of each annotator], ...]}

The two last fields are optional; a test split may also lack `relevant_windows`. Clips are two seconds long.
"""

import json
from collections.abc import Iterator

from .cleaning import CLIP_SEC, HIGHEST_QVHIGHLIGHTS_SCORE, Report
from .reading import Record, parse_json, read_lines


__all__ = ["holds_moments", "read_moment_lines"]

NUM_ANNOTATORS = 3  # of QVHighlights, for a video without a relevant clip


def holds_moments(path: str) -> bool:
    """Whether the first readable line of a file has `relevant_windows`: a hidden test split has none."""
    for _, line in read_lines(path):
        try:
            return json.loads(line).get("relevant_windows") is not None
        except (ValueError, AttributeError, RecursionError):
            continue  # named when the file is read
    return True


def read_moment_lines(path: str, split: str, report: Report) -> Iterator[tuple[Record, dict]]:
    """Records and examples of a file in the common form."""
    annotated = split != "test" or holds_moments(path)
    for number, line in read_lines(path):
        with report.skip_errors():
            record = Record(parse_json(line, path, number), f"{path}, line {number}")
            yield record, _read_example(record, annotated)


def _read_example(record: Record, annotated: bool) -> dict:
    if record.has("relevant_windows") and not annotated:
        raise record.error("relevant_windows", "none, as in the first line of the file")
    duration = record.number("duration", above=0)
    return {
        "qid": record.identifier("qid"),
        "query": record.text("query", "a sentence"),
        "video_id": record.text("vid"),
        "duration_sec": duration,
        "moments": record.windows("relevant_windows") if annotated else None,
        "saliency": _dense_saliency(record, duration),
        "domain": None,
    }


def _dense_saliency(record: Record, duration: float) -> dict | None:
    """Scores of every clip of the video; those that are not listed have zeros."""
    if not (record.has("relevant_clip_ids") or record.has("saliency_scores")):
        return None
    num_clips = int(duration / CLIP_SEC)
    clips = record.items("relevant_clip_ids", f"a list of {num_clips} clips at most")
    rows = record.scores("saliency_scores", 0, HIGHEST_QVHIGHLIGHTS_SCORE)
    if len(rows) != len(clips):
        raise record.error("saliency_scores", f"{len(clips)} rows, one for each of `relevant_clip_ids`")
    scores = [[0.0] * len(rows[0] if rows else [0] * NUM_ANNOTATORS) for _ in range(num_clips)]
    for number, (clip, row) in enumerate(zip(clips, rows, strict=True)):
        if type(clip) is not int or not 0 <= clip < num_clips:
            raise record.item_error("relevant_clip_ids", number, f"a clip of the video, 0 to {num_clips - 1}")
        scores[clip] = row
    if len(set(clips)) < len(clips):
        raise record.error("relevant_clip_ids", "every clip once")
    times = [[CLIP_SEC * clip, CLIP_SEC * (clip + 1)] for clip in range(num_clips)]
    return {"times_sec": times, "scores": scores}
