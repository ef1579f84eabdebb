"""Moment retrieval: mAP, R1, R5 and mIoU, by length of the moments and of the query.

As in the public evaluator of R2-Tuning and UniVTG, to the last printed digit:

- mAP considers the first ten predictions of a record (not the ten best), in order of descending score. Each prediction
  takes the moment with the highest IoU among those that are still free and reach the threshold; of equal ones the later.
  Precision is made monotone, and the area under its steps is the query's average precision.
- R1 and mIoU consider the first prediction of the list, R5 the first five; the pair of prediction and moment with the
  highest IoU counts. Scores are ignored.
- mAP divides the overlap by the union, and two empty intervals always match (0 / 0). R1, R5 and mIoU divide by the span
  from the first start to the last end, and such a pair has an IoU of 0.
- A query is in a range if it has a moment of that length. Its other moments are dropped, and all predictions are kept.
- If an id occurs twice, mAP considers the predictions of both records (ten of each); the other
  figures consider those of the last.

A "prediction" below is one item of `pred_relevant_windows`, and a "moment" is annotated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .alignment import Query, align, group_by_size, pad_rows, predicted_list, require
from .average_precision import percent, sum_rows


MAX_PREDICTIONS = 10  # of a record, for mAP
AP_THRESHOLDS = np.array([step / 100 for step in range(50, 100, 5)])
RECALL_THRESHOLDS = np.array([step / 100 for step in range(30, 100, 5)])
# Length of a moment in seconds: above the first number, up to the second. Empty moments are only in "full".
RANGES = {"full": (-np.inf, np.inf), "long": (30, np.inf), "middle": (10, 30), "short": (0, 10)}
QUERY_BINS = {
    "1-10": 0,
    "11-20": 11,
    "21-30": 21,
    "31-40": 31,
    ">=41": 41,
}  # smallest number of words (R2-Tuning, Table 6)


def pairwise_iou(predictions: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Intersection over union of each prediction with each moment.

    Args:
        predictions: Array `(num_queries, num_predictions, 2)`.
        moments: Array `(num_queries, num_moments, 2)`.

    Returns:
        Array `(num_queries, num_predictions, num_moments)`; NaN where both are empty.
    """
    predictions, moments = predictions[:, :, None], moments[:, None]
    overlap = np.minimum(predictions[..., 1], moments[..., 1]) - np.maximum(predictions[..., 0], moments[..., 0])
    overlap = np.maximum(overlap, 0)
    union = (predictions[..., 1] - predictions[..., 0]) + (moments[..., 1] - moments[..., 0]) - overlap
    with np.errstate(invalid="ignore", divide="ignore"):
        return overlap / union


def hull_iou(predictions: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Overlap of `predictions (n, 2)` and `moments (n, 2)` over their common span, pair by pair; 0 where the span is 0."""
    overlap = np.minimum(predictions[:, 1], moments[:, 1]) - np.maximum(predictions[:, 0], moments[:, 0])
    overlap = np.maximum(overlap, 0)
    hull = np.maximum(predictions[:, 1], moments[:, 1]) - np.minimum(predictions[:, 0], moments[:, 0])
    return np.divide(overlap, hull, out=np.zeros_like(overlap), where=hull != 0)


@dataclass
class MomentArrays:
    """Predictions and moments of several queries, padded to the same number.

    Attributes:
        predictions: `(num_queries, num_predictions, 2)`, in the order of the list.
        rank: `(num_queries, num_predictions)`, rank of the prediction by descending score; equal scores keep their order.
        place: `(num_queries, num_predictions)`, index of the prediction in the query's last record; negative for
            predictions of other records and for padding.
        moments: `(num_queries, num_moments, 2)`.
        record: `(num_queries, num_moments)`, index of the reference that the moment is from; -1 = padding.
        iou: `(num_queries, num_predictions, num_moments)`; NaN where both are empty, -1 where either is padding.
    """

    predictions: np.ndarray
    rank: np.ndarray
    place: np.ndarray
    moments: np.ndarray
    record: np.ndarray
    iou: np.ndarray


def first_predictions(query: Query) -> list[list[Any]]:
    """The first ten predictions of each of a query's records."""
    return [predicted_list(record, "pred_relevant_windows")[:MAX_PREDICTIONS] for record in query.predictions]


def count_moments(query: Query) -> int:
    """Number of moments in all of a query's references."""
    return sum(len(reference.get("moments") or []) for reference in query.references)


def read_arrays(queries: list[Query]) -> MomentArrays:
    """The first ten predictions of each record and the moments of each reference, of queries of similar size."""
    predictions, is_prediction, rank, place = _read_predictions(queries)
    moments, record = _read_moments(queries)
    is_moment = record >= 0
    iou = np.where(is_prediction[:, :, None] & is_moment[:, None], pairwise_iou(predictions, moments), -1.0)
    return MomentArrays(predictions, rank, place, moments, record, iou)


def _read_predictions(queries: list[Query]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, whether each is real, their ranks and their places; see `MomentArrays`."""
    rows, num_in_last = [], []
    for query in queries:
        records = first_predictions(query)
        rows.append(list(chain.from_iterable(records)))
        num_in_last.append(len(records[-1]) if records else 0)
    padded, counts = pad_rows(rows, [query.qid for query in queries], "pred_relevant_windows", 3)
    index = np.arange(padded.shape[1])
    is_prediction = index < counts[:, None]
    order = np.argsort(np.where(is_prediction, -padded[..., 2], np.inf), axis=1, kind="stable")
    num_in_others = counts - np.array(num_in_last)
    place = np.where(is_prediction, index - num_in_others[:, None], -1)
    return padded[..., :2], is_prediction, order.argsort(axis=1), place


def _read_moments(queries: list[Query]) -> tuple[np.ndarray, np.ndarray]:
    """Moments and the reference of each; see `MomentArrays`."""
    rows, sources = [], []
    for query in queries:
        row: list[Any] = []
        for index, reference in enumerate(query.references):
            moments = reference.get("moments") or []
            row += moments
            sources += [index] * len(moments)
        rows.append(row)
    padded, counts = pad_rows(rows, [query.qid for query in queries], "moments", 2)
    is_moment = np.arange(padded.shape[1]) < counts[:, None]
    record = np.full(is_moment.shape, -1)
    record[is_moment] = sources
    return padded, record


def select_moments(arrays: MomentArrays) -> dict[str, np.ndarray]:
    """Masks `(num_queries, num_moments)` of the moments in each range."""
    length = arrays.moments[..., 1] - arrays.moments[..., 0]
    is_moment = arrays.record >= 0
    return {name: is_moment & (above < length) & (length <= up_to) for name, (above, up_to) in RANGES.items()}


def best_iou(arrays: MomentArrays, first: int, wanted: np.ndarray) -> np.ndarray:
    """IoU over the span, for the pair of prediction and moment with the highest IoU.

    Only the last record with predictions and the last record with wanted moments are considered.

    Args:
        arrays: The queries.
        first: Number of predictions to consider.
        wanted: Mask `(num_queries, num_moments)` of the moments to consider.

    Returns:
        Array `(num_queries,)`; 0 without a prediction.
    """
    usable = (arrays.place >= 0) & (arrays.place < first)  # (num_queries, num_predictions)
    usable = usable[:, : 1 + np.flatnonzero(usable.any(axis=0)).max(initial=0)]  # without columns that no query uses
    record = np.where(wanted, arrays.record, -1)
    newest = wanted & (record == record.max(axis=1, keepdims=True))  # (num_queries, num_moments)
    pairs = usable[:, :, None] & newest[:, None]
    iou = np.where(pairs, np.nan_to_num(arrays.iou[:, : usable.shape[1]]), -1.0)
    query = np.arange(len(iou))
    prediction, moment = np.divmod(iou.reshape(len(iou), -1).argmax(axis=1), iou.shape[2])
    best = hull_iou(arrays.predictions[query, prediction], arrays.moments[query, moment])
    return np.where(pairs.any(axis=(1, 2)), best, 0.0)


def match(arrays: MomentArrays, wanted: np.ndarray) -> np.ndarray:
    """Which predictions are matched to a moment, each moment at most once.

    Args:
        arrays: The queries.
        wanted: Masks `(num_queries, num_moments, num_ranges)` of the moments in each range.

    Returns:
        Mask `(num_queries, num_predictions, num_ranges, num_thresholds)`, predictions by descending score.
    """
    # All pairs that can match at some threshold, by rank, query and descending IoU; of equal IoUs the later moment first.
    query, prediction, moment = np.nonzero(~(arrays.iou < AP_THRESHOLDS[0]))
    rank, iou = arrays.rank[query, prediction], np.nan_to_num(arrays.iou[query, prediction, moment], nan=np.inf)
    order = np.lexsort((-moment, -iou, query, rank))
    query, moment, rank, iou = query[order], moment[order], rank[order], iou[order]
    # `turn` numbers the pairs of one prediction: it tries its best moment first.
    is_first = np.ones(len(rank), dtype=bool)
    is_first[1:] = (rank[1:] != rank[:-1]) | (query[1:] != query[:-1])
    index = np.arange(len(rank))
    turn = index - np.maximum.accumulate(np.where(is_first, index, 0))

    fits = wanted[query, moment][..., None] & (iou[:, None, None] >= AP_THRESHOLDS)  # (pairs, ranges, thresholds)
    taken = np.zeros((*wanted.shape, len(AP_THRESHOLDS)), dtype=bool)
    found = np.zeros((*arrays.rank.shape, *fits.shape[1:]), dtype=bool)
    rounds = rank * (turn.max(initial=0) + 1) + turn
    for number in np.unique(rounds):  # in each round every query tries one moment for one prediction
        now = rounds == number
        q, r, m = query[now], rank[now], moment[now]
        hit = fits[now] & ~taken[q, m] & ~found[q, r]
        taken[q, m] |= hit
        found[q, r] |= hit
    return found


def average_precision(found: np.ndarray, num_moments: np.ndarray) -> np.ndarray:
    """Average precision `(num_queries, num_thresholds)`.

    Args:
        found: Mask `(num_queries, num_predictions, num_thresholds)` of matched predictions, by descending score.
        num_moments: Array `(num_queries,)`, at least 1.
    """
    hits = np.cumsum(found.swapaxes(1, 2), axis=-1)  # (num_queries, num_thresholds, num_predictions)
    recall = hits / num_moments[:, None, None]
    precision = hits / np.arange(1, hits.shape[-1] + 1)
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # The curve ends at recall 1 and precision 0: a term of 0, kept because it affects the order of additions.
    end = [(0, 0), (0, 0), (0, 1)]
    gain = np.diff(np.pad(recall, end, constant_values=1.0), axis=-1, prepend=0.0)
    return sum_rows(gain * np.pad(precision, end), gain != 0)


def label(thresholds: np.ndarray, values: Iterable[float]) -> dict[str, float]:
    """Percentages by threshold."""
    return {str(threshold): percent(value) for threshold, value in zip(thresholds.tolist(), values, strict=True)}


@dataclass
class Measures:
    """The measures of every query in one range.

    Attributes:
        inside: `(num_queries,)`, whether the query is in the range; the other measures are 0 where it is not.
        ap: `(num_queries, num_thresholds)`, average precision.
        first: `(num_queries,)`, IoU of the first prediction.
        five: `(num_queries,)`, best IoU of the first five predictions.
    """

    inside: np.ndarray
    ap: np.ndarray
    first: np.ndarray
    five: np.ndarray

    @classmethod
    def empty(cls, num_queries: int) -> "Measures":
        """Measures of queries that are all outside the range."""
        inside, ap = np.zeros(num_queries, bool), np.zeros((num_queries, len(AP_THRESHOLDS)))
        return cls(inside, ap, np.zeros(num_queries), np.zeros(num_queries))


def measure_queries(queries: list[Query], fill_empty: bool) -> dict[str, Measures]:
    """The measures of each range; with `fill_empty` a range without a moment has those of "full"."""
    sizes = []
    for query in queries:
        num_predictions = sum(map(len, first_predictions(query)))
        sizes.append((num_predictions, count_moments(query)))
    groups = []
    for group in group_by_size(sizes):
        groups.append((group, read_arrays([queries[index] for index in group])))
    selections = [select_moments(arrays) for _, arrays in groups]
    measures = {name: Measures.empty(len(queries)) for name in RANGES}
    for name in RANGES:
        if fill_empty and not any(selection[name].any() for selection in selections):
            for selection in selections:
                selection[name] = selection["full"]
    for (group, arrays), selection in zip(groups, selections, strict=True):
        found = match(arrays, np.stack(list(selection.values()), axis=-1))
        for index, (name, moments) in enumerate(selection.items()):
            measure_range(measures[name], np.array(group), arrays, moments, found[:, :, index])
    return measures


def measure_range(
    measures: Measures, group: np.ndarray, arrays: MomentArrays, moments: np.ndarray, found: np.ndarray
) -> None:
    """Set the measures of a group of queries in one range.

    Args:
        measures: The measures of all queries in the range, changed in place.
        group: Indices of the group's queries among all queries.
        arrays: The group's queries.
        moments: Mask `(num_queries, num_moments)` of the moments in the range.
        found: Mask `(num_queries, num_predictions, num_thresholds)` of matched predictions.
    """
    inside = moments.any(axis=1)
    index = group[inside]
    measures.inside[index] = True
    measures.ap[index] = average_precision(found[inside], moments[inside].sum(axis=1))
    measures.first[index] = best_iou(arrays, 1, moments)[inside]
    measures.five[index] = best_iou(arrays, 5, moments)[inside]


def score_range(measures: Measures) -> dict[str, Any]:
    """The figures of one range; all are `None` if no query is in it."""
    if not measures.inside.any():
        no_ap = dict.fromkeys(map(str, AP_THRESHOLDS))
        no_recall = dict.fromkeys(map(str, RECALL_THRESHOLDS))
        return {
            "MR-mIoU": None,
            "MR-mAP": {**no_ap, "average": None},
            "MR-R1": no_recall,
            "MR-R5": dict(no_recall),
        }
    first, five = measures.first[measures.inside], measures.five[measures.inside]
    ap = measures.ap[measures.inside].mean(axis=0)
    return {
        "MR-mIoU": percent(first.mean()),
        "MR-mAP": {**label(AP_THRESHOLDS, ap), "average": percent(ap.mean())},
        "MR-R1": label(RECALL_THRESHOLDS, (first[:, None] >= RECALL_THRESHOLDS).mean(axis=0)),
        "MR-R5": label(RECALL_THRESHOLDS, (five[:, None] >= RECALL_THRESHOLDS).mean(axis=0)),
    }


def score_query_lengths(ap: np.ndarray, queries: list[Query]) -> dict[str, dict[str, Any]]:
    """Number of queries and mAP by number of words; the mAP of a bin without queries is `None`."""
    words = [len(query.references[-1]["query"].split()) for query in queries]
    bins = np.digitize(words, list(QUERY_BINS.values())[1:])
    scores = {}
    for index, name in enumerate(QUERY_BINS):
        inside = ap[bins == index]
        average = percent(inside.mean(axis=0).mean()) if len(inside) else None
        scores[name] = {"queries": len(inside), "MR-mAP": average}
    return scores


def score_moments(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict[str, Any]]:
    """Score predicted moments.

    Args:
        predictions: Records with `qid` and `pred_relevant_windows`, `[[start_sec, end_sec, score], ...]`.
        references: Rows with `qid`, `query` and `moments`, `[[start_sec, end_sec], ...]`.
        match_reference_code: Reproduce the public evaluator in every corner case (table in the package's docstring).
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        `MR-mAP`, `MR-R1`, `MR-R5` (each by threshold) and `MR-mIoU` of each range ("full", "long", "middle", "short"), and
        "by_query_length"; percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not match, a prediction or moment is not a list of finite numbers, no reference has
            moments, or, with `match_reference_code`, the public evaluator has no answer.
    """
    queries = align(predictions, references, match_reference_code=match_reference_code, match_number=match_number)
    if match_reference_code:
        predicted: list[tuple[str, object]] = []
        annotated: list[tuple[str, object]] = []
        for query in queries:
            predicted += [(query.qid, record.get("pred_relevant_windows")) for record in query.predictions]
            annotated += [(query.qid, record.get("moments")) for record in query.references]
        require("moments", annotated)
        require("pred_relevant_windows", predicted)
    queries = [query for query in queries if count_moments(query)]
    if not queries:
        raise ValueError("None of the `references` has `moments`: there is nothing to score predictions against.")
    measures = measure_queries(queries, fill_empty=match_reference_code)
    scores = {name: score_range(of_range) for name, of_range in measures.items()}
    scores["by_query_length"] = score_query_lengths(measures["full"].ap, queries)
    return scores


__all__ = ["score_moments"]
