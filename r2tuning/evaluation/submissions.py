"""Prediction files of every benchmark: our JSON lines, or the file that the benchmark's public evaluator reads."""

import json
import os
from typing import Any

from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.metrics import read_submission
from dataset_scripts.reading import AnnotationError, Record, is_number, parse_json, read_json, read_lines
from r2tuning.evaluation.predictions import read_predictions


# Metrics that do not read the scores of moments. Soccer-GMR's takes a missing score for 1.
SCORES_OPTIONAL = ("generalized", "corpus", "interval_sets", "first_moment")
TVR_TASKS = ("VCMR", "SVMR", "VR")
EXPECTED_WINDOW = "[start, end] or [start, end, score] of numbers"


def read_prediction_file(path: str | os.PathLike, benchmark: str) -> list[dict[str, Any]]:
    """Read predictions for a benchmark.

    Args:
        path: File of JSON lines as for `read_predictions`, plain or compressed by gzip. On Soccer-GMR, TVR, VUE-TR and
            TimeLens-Bench moments may lack a score, and the file may be one JSON document: a list of such objects, or the
            submission file of TVR or VUE-TR.
        benchmark: Name of the benchmark.

    Returns:
        Records for `compute_scores`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another form; the message names the line or the record.
    """
    if BENCHMARKS[benchmark].metric not in SCORES_OPTIONAL:
        return read_predictions(path)
    if not _is_document(path):
        records = []
        for number, line in read_lines(path):
            records.append(Record(parse_json(line, path, number), f"{path}, line {number}"))
    else:
        document = read_json(path)
        if isinstance(document, dict) and "video2idx" in document:
            _check_tvr(Record(document, str(path)))
            return _convert_tvr(document, path)
        if not isinstance(document, list):
            raise AnnotationError(
                f"{path}: found a JSON document of another form, expected a list of predictions, or TVR's submission file "
                "with `video2idx`"
            )
        records = [Record(fields, f"{path}, record {number}") for number, fields in enumerate(document)]
    for record in records:
        _check_record(record)
    return read_submission([record.fields for record in records])


def _convert_tvr(document: dict[str, Any], path: str | os.PathLike) -> list[dict[str, Any]]:
    try:
        return read_submission(document)
    except ValueError as error:  # an index that is not one of `video2idx`
        raise AnnotationError(f"{path}: {error}") from error


def _is_document(path: str | os.PathLike) -> bool:
    """Whether a file is one JSON document instead of JSON lines; a document may be spread over lines."""
    _, first = next(read_lines(path))
    if first.lstrip().startswith(b"["):
        return True
    try:
        fields = json.loads(first)
    except (ValueError, RecursionError):
        return first.strip() == b"{"
    return isinstance(fields, dict) and "video2idx" in fields


def _check_record(record: Record) -> None:
    """Check what is read of a prediction, ours or VUE-TR's."""
    if record.has("query_id") and "answer" in record.fields:
        record.identifier("query_id")
        _check_windows(record, "answer", may_hold_empty=True)
        return
    record.identifier("vid" if record.has("vid") and not record.has("qid") else "qid")
    if record.has("pred_relevant_windows"):
        _check_windows(record, "pred_relevant_windows")
    if record.has("pred_saliency_scores"):
        record.numbers("pred_saliency_scores")


def _check_windows(record: Record, field: str, may_hold_empty: bool = False) -> None:
    """Check a list of moments; VUE-TR also writes an empty list in place of a moment."""
    for number, window in enumerate(record.items(field, f"a list of {EXPECTED_WINDOW}")):
        if window == [] and may_hold_empty:
            continue
        if not (isinstance(window, list) and len(window) in (2, 3) and all(map(is_number, window))):
            raise record.item_error(field, number, EXPECTED_WINDOW)


def _check_tvr(document: Record) -> None:
    """Check the form of TVR's submission file, except for its predictions."""
    if not isinstance(document.fields["video2idx"], dict):
        raise document.error("video2idx", "an object {name of a video: index}")
    tasks = [task for task in TVR_TASKS if document.has(task)]
    if not tasks:
        raise document.error("VCMR", f"one or several of {', '.join(TVR_TASKS)}")
    for task in tasks:
        for number, fields in enumerate(document.items(task, "a list of predictions")):
            entry = Record(fields, f"{document.place}, {task}[{number}]")
            entry.identifier("desc_id")
            for position, prediction in enumerate(entry.items("predictions")):
                if not (isinstance(prediction, list) and prediction and type(prediction[0]) is int):
                    raise entry.item_error("predictions", position, "a list that begins with the index of a video")


__all__ = ["read_prediction_file"]
