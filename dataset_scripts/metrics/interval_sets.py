"""Sets of intervals: AUC of precision, recall and IoU (VUE-TR).

Source: `VUE_TR/qa_eval.py` of bytedance/vidi.

An answer is the set of the predicted moments of a query, with starts rounded down and ends rounded up to whole seconds;
annotated moments stay as they are. There are 101 thresholds t = 0, 0.01, ..., 1, and each figure is the area under the share
of queries over t, by the trapezoidal rule:

- `precision`: overlap / length of the answer >= t.
- `recall`: overlap / length of the moments >= t; queries without a moment are left out.
- `iou`: IoU of the two unions > t, strictly, so that exact answers have 99.5. Two empty sides have an IoU of 1.

The figures are given for all queries ("overall") and for each part of `domain` between slashes; a row of VUE-TR has the
domain "{duration category}/{query format}/{query modality}".

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction | an empty answer | left out |
| prediction for an unknown query | `ValueError` | `ValueError` (KeyError) |
| empty answer, or one of length 0, in precision | 0; 1 if the query has no moment either (as in version 2 of VUE-TR) | left out |
| no query left in precision or recall | `None` | NaN |
| moments of an answer that overlap, in precision and recall | merged | counted twice |
| answer or annotation that is not sorted, in precision and recall | sorted | part of the overlap is lost |
| reversed prediction (end before start) | `ValueError` | swapped in precision and recall; dropped, after merging, in IoU |
| prediction that is not numeric or not finite | `ValueError` | `ValueError` (undefined) |
| two predictions for a query | the last one | each counts as a query |
| reference whose `moments` is `None` | not scored | `ValueError` (undefined) |

`match_number=False` scores the queries that both sides have, in both modes.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .alignment import Query, align, read_predictions
from .average_precision import percent


THRESHOLDS = np.linspace(0, 1, 101)
Interval = tuple[float, float]


class Measures(NamedTuple):
    """The measures of all queries.

    Attributes:
        precision: `(num_queries,)`; NaN = left out.
        recall: `(num_queries,)`; NaN = left out.
        iou: `(num_queries,)`.
    """

    precision: np.ndarray
    recall: np.ndarray
    iou: np.ndarray


def score_interval_sets(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict[str, Any]]:
    """Score the union of the predicted moments with the metrics of VUE-TR.

    Args:
        predictions: Records with `qid` and `pred_relevant_windows`, `[[start_sec, end_sec], ...]`; scores are ignored.
            `read_submission` converts the public file.
        references: Rows with `qid`, `moments` and `domain`.
        match_reference_code: Reproduce the public evaluator in every corner case (table in the module's docstring).
        match_number: Refuse predictions for unknown queries; `False` = score the queries that both sides have.

    Returns:
        "brief" (`AUC-precision`, `AUC-recall`, `AUC-IoU`; percentages rounded to two decimals), then for "overall" and each
        part of the domains `queries`, `precision`, `recall` and `iou`, percentages that are not rounded.

    Raises:
        ValueError: The two sides do not match, a prediction is malformed, or nothing is annotated.
    """
    queries = align(predictions, references, match_number=match_number)
    if match_reference_code:
        queries = [query for query in queries if query.predictions]
    queries = [query for query in queries if query.references[-1].get("moments") is not None]
    if not queries:
        raise ValueError("None of the `references` has `moments`: there is nothing to score predictions against.")
    if match_reference_code:
        queries = [Query(query.qid, [record], query.references) for query in queries for record in query.predictions]
    measures = measure_queries(queries, match_reference_code)
    groups = {"overall": np.ones(len(queries), dtype=bool), **read_groups(queries)}
    scores = {}
    for name, mask in groups.items():
        scores[name] = score_group(Measures(*[values[mask] for values in measures]), match_reference_code)
    names = {"AUC-precision": "precision", "AUC-recall": "recall", "AUC-IoU": "iou"}
    brief = {}
    for name, key in names.items():
        value = scores["overall"][key]
        brief[name] = None if value is None else percent(value / 100)
    return {"brief": brief, **scores}


def read_groups(queries: list[Query]) -> dict[str, np.ndarray]:
    """Masks `(num_queries,)` by part of the domain, in order of first appearance."""
    groups: dict[str, np.ndarray] = {}
    for index, query in enumerate(queries):
        domain = query.references[-1].get("domain")
        for name in domain.split("/") if domain else []:
            groups.setdefault(name, np.zeros(len(queries), dtype=bool))[index] = True
    return groups


def measure_queries(queries: list[Query], match_reference_code: bool) -> Measures:
    """Precision, recall and IoU of every query."""
    measures = []
    for query in queries:
        moments = [(float(start), float(end)) for start, end in query.references[-1]["moments"]]
        answer = read_answer(query, allow_reversed=match_reference_code)
        if match_reference_code:
            overlap, answered, annotated = overlap_as_given(answer, moments)
            precision = overlap / answered if answered else np.nan
        else:
            overlap, answered, annotated = overlap_of_unions(answer, moments)
            precision = overlap / answered if answered else float(not annotated)
        recall = overlap / annotated if annotated else np.nan
        measures.append((precision, recall, union_iou(answer, moments)))
    return Measures(*np.array(measures).T)


def read_answer(query: Query, *, allow_reversed: bool) -> list[Interval]:
    """The predicted moments of the last record, rounded outwards to whole seconds."""
    if not query.predictions:
        return []
    answer = []
    for moment in read_predictions(query.predictions[-1], allow_reversed=allow_reversed):
        answer.append((float(math.floor(moment[0])), float(math.ceil(moment[1]))))
    return answer


def merge(intervals: list[Interval]) -> list[Interval]:
    """The union of intervals: sorted, with those that overlap or touch merged."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def total_length(intervals: list[Interval]) -> float:
    """Sum of the lengths."""
    return sum(end - start for start, end in intervals)


def sweep_overlap(first: list[Interval], second: list[Interval]) -> float:
    """Overlap of two lists by a single pass over both; exact where both are sorted and disjoint."""
    overlap = 0.0
    i = j = 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            overlap += end - start
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return overlap


def overlap_as_given(answer: list[Interval], moments: list[Interval]) -> tuple[float, float, float]:
    """Overlap, and lengths of the answer and of the moments, of lists in their given order."""
    answer = [(min(interval), max(interval)) for interval in answer]
    moments = [(min(interval), max(interval)) for interval in moments]
    return sweep_overlap(moments, answer), total_length(answer), total_length(moments)


def overlap_of_unions(answer: list[Interval], moments: list[Interval]) -> tuple[float, float, float]:
    """Overlap and lengths of the two unions."""
    answer, moments = merge(answer), merge(moments)
    return sweep_overlap(moments, answer), total_length(answer), total_length(moments)


def union_iou(answer: list[Interval], moments: list[Interval]) -> float:
    """IoU of the merged answer and the moments, which are taken as disjoint."""
    if not answer or not moments:
        return float(not answer and not moments)
    answer = [interval for interval in merge(answer) if interval[0] <= interval[1]]
    overlap = 0.0
    for start, end in answer:
        for moment_start, moment_end in moments:
            overlap += max(0.0, min(end, moment_end) - max(start, moment_start))
    union = total_length(answer) + total_length(moments) - overlap
    return min(1.0, overlap / union) if union > 0 else 0.0


def area(shares: np.ndarray) -> float:
    """Area under `shares (num_thresholds,)` by the trapezoidal rule, in percent."""
    return float((np.diff(THRESHOLDS) * (shares[1:] + shares[:-1]) / 2).sum() * 100)


def score_group(measures: Measures, match_reference_code: bool) -> dict[str, Any]:
    """The figures of a group of queries."""
    scores: dict[str, Any] = {"queries": len(measures.iou)}
    for name in ("precision", "recall"):
        values = getattr(measures, name)
        values = values[~np.isnan(values)]
        if len(values):
            scores[name] = area((values[:, None] >= THRESHOLDS).mean(axis=0))
        else:
            scores[name] = np.nan if match_reference_code else None
    scores["iou"] = area((measures.iou[:, None] > THRESHOLDS).mean(axis=0))
    return scores


__all__ = ["score_interval_sets"]
