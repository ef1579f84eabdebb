"""Moment retrieval: mAP, R1, R5 and mIoU, by length of the moments and of the query.

As in the public evaluator of R2-Tuning and UniVTG, to the last printed digit:

- mAP takes the first ten windows of a record (not the ten best), best score first. Each window takes the moment with the
  highest IoU among those that are free and reach the threshold; of equal ones the later. Precision is made monotone, the
  area under its steps is the query's average precision.
- R1 and mIoU look at the first window of the list, R5 at the first five; the pair of window and moment with the highest
  IoU counts. Scores play no part.
- mAP divides the overlap by the union, and two windows without length always match (0 / 0). R1, R5 and mIoU divide by the
  span from the first start to the last end, and such a pair has an IoU of 0.
- A query is in a range if it has a moment of that length. Its other moments are dropped, its predictions all kept.
- Where an id occurs twice, mAP takes the windows of both records (ten of each), the others those of the last.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from .alignment import Query, align, group_by_size, pad_rows, predicted_list, require
from .average_precision import percent, sum_rows


MAX_WINDOWS = 10  # of a record, for mAP
AP_THRESHOLDS = np.array([step / 100 for step in range(50, 100, 5)])
RECALL_THRESHOLDS = np.array([step / 100 for step in range(30, 100, 5)])
# Length of a moment in seconds: above the first number, up to the second. Moments without length are in "full" alone.
RANGES = {"full": (-np.inf, np.inf), "long": (30, np.inf), "middle": (10, 30), "short": (0, 10)}
QUERY_BINS = {"1-10": 0, "11-20": 11, "21-30": 21, "31-40": 31, ">=41": 41}  # words, from (R2-Tuning, Table 6)


def pairwise_iou(windows: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Overlap over union of each window `(queries, num_windows, 2)` with each moment `(queries, num_moments, 2)`.

    Returns:
        `(queries, num_windows, num_moments)`; NaN where both have no length.
    """
    windows, moments = windows[:, :, None], moments[:, None]
    overlap = np.minimum(windows[..., 1], moments[..., 1]) - np.maximum(windows[..., 0], moments[..., 0])
    overlap = np.maximum(overlap, 0)
    union = (windows[..., 1] - windows[..., 0]) + (moments[..., 1] - moments[..., 0]) - overlap
    with np.errstate(invalid="ignore", divide="ignore"):
        return overlap / union


def hull_iou(windows: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Overlap over the common span of `windows (n, 2)` and `moments (n, 2)`, pair by pair; 0 where that is 0."""
    overlap = np.minimum(windows[:, 1], moments[:, 1]) - np.maximum(windows[:, 0], moments[:, 0])
    overlap = np.maximum(overlap, 0)
    hull = np.maximum(windows[:, 1], moments[:, 1]) - np.minimum(windows[:, 0], moments[:, 0])
    return np.divide(overlap, hull, out=np.zeros_like(overlap), where=hull != 0)


@dataclass
class MomentArrays:
    """Windows and moments of all queries, padded to the same number.

    Attributes:
        windows: `(queries, num_windows, 2)`, in the order of the list.
        rank: `(queries, num_windows)`, place of the window by falling score; equal scores keep their order.
        place: `(queries, num_windows)`, place of the window in the query's last record; negative = elsewhere or padding.
        moments: `(queries, num_moments, 2)`.
        record: `(queries, num_moments)`, which of the query's references the moment is from; -1 = padding.
        iou: `(queries, num_windows, num_moments)`; NaN where both have no length, -1 where either is padding.
    """

    windows: np.ndarray
    rank: np.ndarray
    place: np.ndarray
    moments: np.ndarray
    record: np.ndarray
    iou: np.ndarray


def first_windows(query: Query) -> list[list]:
    """The first ten windows of each of a query's predictions."""
    return [predicted_list(record, "pred_relevant_windows")[:MAX_WINDOWS] for record in query.predictions]


def count_moments(query: Query) -> int:
    """Number of moments in all of a query's references."""
    return sum(len(reference.get("moments") or []) for reference in query.references)


def read_arrays(queries: list[Query]) -> MomentArrays:
    """The first ten windows of each prediction and the moments of each reference, of queries of like size."""
    qids = [query.qid for query in queries]
    lists = [first_windows(query) for query in queries]
    rows, counts = pad_rows([list(chain(*row)) for row in lists], qids, "pred_relevant_windows", 3)
    windows, column = rows[..., :2], np.arange(rows.shape[1])
    is_window = column < counts[:, None]
    by_score = np.argsort(np.where(is_window, -rows[..., 2], np.inf), axis=1, kind="stable")
    in_last = np.array([len(row[-1]) if row else 0 for row in lists])
    place = np.where(is_window, column - (counts - in_last)[:, None], -1)

    lists = [[reference.get("moments") or [] for reference in query.references] for query in queries]
    moments, counts = pad_rows([list(chain(*row)) for row in lists], qids, "moments", 2)
    is_moment = np.arange(moments.shape[1]) < counts[:, None]
    record = np.full(is_moment.shape, -1)
    record[is_moment] = [index for row in lists for index, moments in enumerate(row) for _ in moments]
    iou = np.where(is_window[:, :, None] & is_moment[:, None], pairwise_iou(windows, moments), -1.0)
    return MomentArrays(windows, by_score.argsort(axis=1), place, moments, record, iou)


def select_moments(arrays: MomentArrays) -> dict[str, np.ndarray]:
    """The moments `(queries, num_moments)` of each range."""
    length = arrays.moments[..., 1] - arrays.moments[..., 0]
    real = arrays.record >= 0
    return {name: real & (above < length) & (length <= up_to) for name, (above, up_to) in RANGES.items()}


def best_iou(arrays: MomentArrays, first: int, wanted: np.ndarray) -> np.ndarray:
    """IoU over the span of the best pair of the `first` windows and the `wanted (queries, num_moments)` moments.

    Only the last record with windows, and the last with wanted moments, take part.

    Returns:
        `(queries,)`; 0 without a window.
    """
    usable = (arrays.place >= 0) & (arrays.place < first)  # (queries, num_windows)
    usable = usable[:, : 1 + np.flatnonzero(usable.any(axis=0)).max(initial=0)]
    record = np.where(wanted, arrays.record, -1)
    newest = wanted & (record == record.max(axis=1, keepdims=True))  # (queries, num_moments)
    pairs = usable[:, :, None] & newest[:, None]
    iou = np.where(pairs, np.nan_to_num(arrays.iou[:, : usable.shape[1]]), -1.0)
    query = np.arange(len(iou))
    window, moment = np.divmod(iou.reshape(len(iou), -1).argmax(axis=1), iou.shape[2])
    best = hull_iou(arrays.windows[query, window], arrays.moments[query, moment])
    return np.where(pairs.any(axis=(1, 2)), best, 0.0)


def match(arrays: MomentArrays, wanted: np.ndarray) -> np.ndarray:
    """Which predictions find a moment of their own.

    Args:
        arrays: The queries.
        wanted: `(queries, num_moments, num_ranges)`, the moments of each range.

    Returns:
        `(queries, num_windows, num_ranges, num_thresholds)`, predictions by falling score.
    """
    query, window, moment = np.nonzero(~(arrays.iou < AP_THRESHOLDS[0]))
    rank, iou = arrays.rank[query, window], np.nan_to_num(arrays.iou[query, window, moment], nan=np.inf)
    order = np.lexsort((-moment, -iou, query, rank))
    query, moment, rank, iou = query[order], moment[order], rank[order], iou[order]
    first = np.ones(len(rank), dtype=bool)  # of the pairs of one prediction
    first[1:] = (rank[1:] != rank[:-1]) | (query[1:] != query[:-1])
    index = np.arange(len(rank))
    turn = index - np.maximum.accumulate(np.where(first, index, 0))

    fits = wanted[query, moment][..., None] & (iou[:, None, None] >= AP_THRESHOLDS)  # (pairs, ranges, thresholds)
    taken = np.zeros((*wanted.shape, len(AP_THRESHOLDS)), dtype=bool)
    found = np.zeros((*arrays.rank.shape, *fits.shape[1:]), dtype=bool)
    steps = rank * (turn.max(initial=0) + 1) + turn
    for step in np.unique(steps):  # in a step each query tries one moment for one prediction
        now = steps == step
        q, r, m = query[now], rank[now], moment[now]
        hit = fits[now] & ~taken[q, m] & ~found[q, r]
        taken[q, m] |= hit
        found[q, r] |= hit
    return found


def average_precision(found: np.ndarray, num_moments: np.ndarray) -> np.ndarray:
    """Average precision `(queries, num_thresholds)`.

    Args:
        found: `(queries, num_windows, num_thresholds)`, by falling score.
        num_moments: `(queries,)`, at least 1.
    """
    hits = np.cumsum(found.swapaxes(1, 2), axis=-1)  # (queries, num_thresholds, num_windows)
    recall = hits / num_moments[:, None, None]
    precision = hits / np.arange(1, hits.shape[-1] + 1)
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # The curve ends at recall 1 and precision 0: a term of 0 that has its place in the order of addition.
    end = [(0, 0), (0, 0), (0, 1)]
    gain = np.diff(np.pad(recall, end, constant_values=1.0), axis=-1, prepend=0.0)
    return sum_rows(gain * np.pad(precision, end), gain != 0)


def label(thresholds: np.ndarray, values: Iterable[float]) -> dict[str, float]:
    """Percentages by threshold."""
    return {str(threshold): percent(value) for threshold, value in zip(thresholds.tolist(), values, strict=True)}


@dataclass
class Measures:
    """What is measured of the queries in one range.

    Attributes:
        inside: `(queries,)`, whether the query is in the range; elsewhere the others are 0.
        ap: `(queries, num_thresholds)`, average precision.
        first: `(queries,)`, IoU of the first window.
        five: `(queries,)`, best IoU of the first five.
    """

    inside: np.ndarray
    ap: np.ndarray
    first: np.ndarray
    five: np.ndarray

    @classmethod
    def empty(cls, num_queries: int) -> "Measures":
        """Of queries that are all outside."""
        inside, ap = np.zeros(num_queries, bool), np.zeros((num_queries, len(AP_THRESHOLDS)))
        return cls(inside, ap, np.zeros(num_queries), np.zeros(num_queries))


def measure_queries(queries: list[Query], fill_empty: bool) -> dict[str, Measures]:
    """Measures of each range; with `fill_empty` a range without any moment takes all."""
    sizes = ((sum(map(len, first_windows(query))), count_moments(query)) for query in queries)
    groups = [(group, read_arrays([queries[index] for index in group])) for group in group_by_size(sizes)]
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
    """Set the measures of a group of queries, whose places are in `group`, for the moments of a range."""
    inside = moments.any(axis=1)
    places = group[inside]
    measures.inside[places] = True
    measures.ap[places] = average_precision(found[inside], moments[inside].sum(axis=1))
    measures.first[places] = best_iou(arrays, 1, moments)[inside]
    measures.five[places] = best_iou(arrays, 5, moments)[inside]


def score_range(measures: Measures) -> dict:
    """Figures of one range; `None` in place of every figure if it holds no query."""
    if not measures.inside.any():
        ap, recall = dict.fromkeys(map(str, AP_THRESHOLDS)), dict.fromkeys(map(str, RECALL_THRESHOLDS))
        return {"MR-mIoU": None, "MR-mAP": {**ap, "average": None}, "MR-R1": recall, "MR-R5": dict(recall)}
    first, five = measures.first[measures.inside], measures.five[measures.inside]
    ap = measures.ap[measures.inside].mean(axis=0)
    return {
        "MR-mIoU": percent(first.mean()),
        "MR-mAP": {**label(AP_THRESHOLDS, ap), "average": percent(ap.mean())},
        "MR-R1": label(RECALL_THRESHOLDS, (first[:, None] >= RECALL_THRESHOLDS).mean(axis=0)),
        "MR-R5": label(RECALL_THRESHOLDS, (five[:, None] >= RECALL_THRESHOLDS).mean(axis=0)),
    }


def score_query_lengths(ap: np.ndarray, queries: list[Query]) -> dict[str, dict]:
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
) -> dict[str, dict]:
    """Score predicted windows.

    Args:
        predictions: Records with `qid` and `pred_relevant_windows`, `[[start_sec, end_sec, score], ...]`.
        references: Rows with `qid`, `query` and `moments`, `[[start_sec, end_sec], ...]`.
        match_reference_code: Behave as the public evaluator in every corner (table in the package's docstring).
        match_number: Both sides must hold the same queries; `False` = score those that they share.

    Returns:
        `MR-mAP`, `MR-R1`, `MR-R5` (each by threshold) and `MR-mIoU` of each range ("full", "long", "middle", "short"), and
        "by_query_length"; percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not belong together, a window or moment is no list of finite numbers, no reference
            has moments, or, with `match_reference_code`, the public evaluator has no answer.
    """
    queries = align(predictions, references, match_reference_code=match_reference_code, match_number=match_number)
    if match_reference_code:
        for key, side in (("pred_relevant_windows", "predictions"), ("moments", "references")):
            require(key, [(query.qid, record.get(key)) for query in queries for record in getattr(query, side)])
    queries = [query for query in queries if any(reference.get("moments") for reference in query.references)]
    if not queries:
        raise ValueError("None of the `references` has `moments`: there is nothing to score windows against.")
    measures = measure_queries(queries, fill_empty=match_reference_code)
    scores = {name: score_range(of_range) for name, of_range in measures.items()}
    scores["by_query_length"] = score_query_lengths(measures["full"].ap, queries)
    return scores


__all__ = ["score_moments"]
