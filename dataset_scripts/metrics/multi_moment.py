"""Retrieval of several moments of a query (QV-M2).

Source: `standalone_eval/eval.py` of Zhuo-Cao/QV-M2.

Ranges are "short" (0, 10], "middle" (10, 30], "long" (30, 150] and "full", by the length of a moment in seconds. A query
is in a range with its moments of that length only, and with all of its predictions; n is the number of those moments.

- `Generalized_mAP` (G-mAP): AP as in `moments.py`, mean over the queries, then over the thresholds.
- `1_tgt_mAP`, `2_tgt_mAP`: the same over the queries with n = 1 and n = 2. `>=3_tgt_mAP`: the same for each n >= 3, then the
  plain mean of these means, so that a single query with n = 14 weighs as much as all with n = 3.
- `MR-R{k}` at an IoU threshold t (k = 1, 2, 3; t = 0.3, 0.35, ..., 0.95): over the queries with n >= k, the number of pairs
  of the first k predictions with the moments by the greedy pairing of `pairing.py`, divided by k * number of queries.
  `MR-mR{k}`: the mean over t of the rounded figures.
- `MR-mIoU@{k}`: over the same queries, the mean IoU of all their pairs at threshold -1.

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction | counts as 0 | `ValueError` (AssertionError) |
| prediction for an unknown query | `ValueError` | `ValueError` (AssertionError) |
| empty `pred_relevant_windows` | counts as 0 | left out of every figure |
| `pred_relevant_windows` missing | counts as 0 | `ValueError` (KeyError; an empty result if in the first record) |
| fewer than k predictions, in `MR-R{k}` and `MR-mIoU@{k}` | a missing pair counts as 0 | left out |
| prediction without a score | `ValueError` | `ValueError` (IndexError) |
| reversed prediction (end before start) | `ValueError` | as long as a moment (0 / 0): a hit for AP, no pair otherwise |
| prediction that is not numeric or not finite | `ValueError` | `ValueError` (undefined) |
| no query with n = 1, or n = 2, in a range with queries | `None` | `ValueError` (KeyError) |
| no query with n >= 3; no query in `MR-R{k}` | `None` | 0 |
| range without a query | figures are `None` | zeros, under other names (`MR-mAP` by threshold and `MR-R1`) |
| query without moments (`[]`) | not scored | `ValueError` (NaN) |
| query that is not annotated (`None`) | not scored | `ValueError` (KeyError) |
| two predictions for a query | AP considers both, ten moments of each; the other figures the last | the same |

Highlights are not scored.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .alignment import Query, align, group_by_size, read_predictions, require
from .average_precision import percent
from .moments import (
    RECALL_THRESHOLDS,
    MomentArrays,
    average_precision,
    count_moments,
    first_predictions,
    match,
    read_arrays,
)
from .pairing import first_ious, pair_greedily


# Length of a moment in seconds: above the first number, up to the second.
RANGES = {"full": (-np.inf, np.inf), "long": (30, 150), "middle": (10, 30), "short": (0, 10)}
NUM_PREDICTIONS = (1, 2, 3)  # k
MANY = 3  # moments of a query from which on the numbers share a figure
# The public evaluator names the figures of a range without queries by these thresholds.
EMPTY_THRESHOLDS = np.linspace(0.5, 0.95, 19)


class Measures(NamedTuple):
    """The measures of the queries in one range.

    Attributes:
        ap: `(num_queries, num_thresholds)`, average precision.
        num_moments: `(num_queries,)`, moments in the range.
        num_predictions: `(num_queries,)`, of the last record.
        found: `(num_queries, 3, num_recall_thresholds)`, whether a prediction takes a moment.
        iou: `(num_queries, 3)`, IoU of the pairs at threshold -1; NaN = no pair.
    """

    ap: np.ndarray
    num_moments: np.ndarray
    num_predictions: np.ndarray
    found: np.ndarray
    iou: np.ndarray

    def select(self, chosen: np.ndarray) -> "Measures":
        """The measures of the queries of a mask `(num_queries,)`."""
        return Measures(*[values[chosen] for values in self])


def score_multi_moment(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict[str, Any]]:
    """Score predicted moments with the metrics of QV-M2.

    Args:
        predictions: Records with `qid` and `pred_relevant_windows`, `[[start_sec, end_sec, score], ...]`.
        references: Rows with `qid` and `moments`, `[[start_sec, end_sec], ...]`.
        match_reference_code: Reproduce the public evaluator in every corner case (table in the module's docstring).
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        "brief" with the figures of papers, then "full", "long", "middle" and "short" with `MR-mAP`, `MR-R{k}`, `MR-mR{k}`
        and `MR-mIoU@{k}`; percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not match, a prediction is malformed, nothing is annotated, or, with
            `match_reference_code`, the public evaluator has no answer.
    """
    queries = align(predictions, references, match_reference_code=match_reference_code, match_number=match_number)
    check_queries(queries, match_reference_code)
    queries = [query for query in queries if count_moments(query)]
    if not queries:
        raise ValueError("None of the `references` has `moments`: there is nothing to score predictions against.")
    scores = {}
    for name, measures in measure_queries(queries).items():
        if len(measures.ap):
            scores[name] = score_range(name, measures, match_reference_code)
        else:
            scores[name] = score_empty_range(match_reference_code)
    return {"brief": summarize(scores["full"]), **scores}


def check_queries(queries: list[Query], match_reference_code: bool) -> None:
    """Refuse malformed predictions and what the public evaluator fails on."""
    fields = []
    for query in queries:
        for record in query.predictions:
            read_predictions(record, allow_reversed=match_reference_code)
            fields.append((query.qid, record.get("pred_relevant_windows") is not None))
    if match_reference_code:
        require("moments", [(query.qid, count_moments(query)) for query in queries])
        require("pred_relevant_windows", fields)


# ---- measuring -----------------------------------------------------------------------------------------------------


def measure_queries(queries: list[Query]) -> dict[str, Measures]:
    """The measures of each range, without the queries outside it."""
    parts: dict[str, list[Measures]] = {name: [] for name in RANGES}
    sizes = []
    for query in queries:
        num_predictions = sum(map(len, first_predictions(query)))
        sizes.append((num_predictions, count_moments(query)))
    for group in group_by_size(sizes):
        arrays = read_arrays([queries[index] for index in group])
        wanted = select_moments(arrays)
        found = match(arrays, wanted)
        for index, name in enumerate(RANGES):
            parts[name].append(measure_range(arrays, wanted[..., index], found[:, :, index]))
    measures = {}
    for name, some in parts.items():
        measures[name] = Measures(*map(np.concatenate, zip(*some, strict=True)))
    return measures


def select_moments(arrays: MomentArrays) -> np.ndarray:
    """Masks `(num_queries, num_moments, num_ranges)` of the moments in each range."""
    length = arrays.moments[..., 1] - arrays.moments[..., 0]
    masks = []
    for above, up_to in RANGES.values():
        masks.append((arrays.record >= 0) & (above < length) & (length <= up_to))
    return np.stack(masks, axis=-1)


def measure_range(arrays: MomentArrays, wanted: np.ndarray, found: np.ndarray) -> Measures:
    """The measures of the queries that have a moment in a range.

    Args:
        arrays: The queries.
        wanted: Mask `(num_queries, num_moments)` of the moments in the range.
        found: Mask `(num_queries, num_predictions, num_thresholds)`, matches for AP by descending score.
    """
    inside = wanted.any(axis=1)
    num_moments = wanted.sum(axis=1)
    ious = first_ious(arrays, wanted, NUM_PREDICTIONS[-1])
    paired = pair_greedily(ious[inside], np.append(RECALL_THRESHOLDS, -1.0))
    return Measures(
        ap=average_precision(found[inside], num_moments[inside]),
        num_moments=num_moments[inside],
        num_predictions=(arrays.place[inside] >= 0).sum(axis=1),
        found=~np.isnan(paired[..., :-1]),
        iou=paired[..., -1],
    )


# ---- figures -------------------------------------------------------------------------------------------------------


def score_range(name: str, measures: Measures, match_reference_code: bool) -> dict[str, Any]:
    """The figures of one range that has queries."""
    if match_reference_code:
        measures = measures.select(measures.num_predictions > 0)
    scores: dict[str, Any] = {"MR-mAP": score_numbers(name, measures, match_reference_code)}
    for k in NUM_PREDICTIONS:
        scores |= score_first(measures, k, match_reference_code)
    return scores


def score_numbers(name: str, measures: Measures, match_reference_code: bool) -> dict[str, float | None]:
    """The mAP over all queries, and by the number of moments."""
    scores: dict[str, float | None] = {}
    for number in range(1, MANY):
        ap = measures.ap[measures.num_moments == number]
        if match_reference_code and not len(ap):
            raise ValueError(
                f"The reference code has no score where no query with predictions has {number} `moments`, as in the "
                f"range '{name}'. Pass `match_reference_code=False`."
            )
        scores[f"{number}_tgt_mAP"] = percent(mean_of_thresholds(ap)) if len(ap) else None
    means = []
    for number in np.unique(measures.num_moments):
        if number >= MANY:
            means.append(mean_of_thresholds(measures.ap[measures.num_moments == number]))
    scores[f">={MANY}_tgt_mAP"] = mean_or_empty(means, match_reference_code)
    scores["Generalized_mAP"] = percent(mean_of_thresholds(measures.ap))
    return scores


def mean_of_thresholds(ap: np.ndarray) -> float:
    """Mean over the queries, then over the thresholds: the other order differs in the last bit."""
    return ap.mean(axis=0).mean()


def mean_or_empty(values: list[float], match_reference_code: bool) -> float | None:
    """The mean in percent; without values 0 as in the public evaluator, or `None`."""
    if values:
        return percent(float(np.mean(values)))
    return 0.0 if match_reference_code else None


def score_first(measures: Measures, k: int, match_reference_code: bool) -> dict[str, Any]:
    """The figures of the first k predictions."""
    has_enough = measures.num_moments >= k
    if match_reference_code:
        has_enough &= measures.num_predictions >= k
    found, iou = measures.found[has_enough, :k], measures.iou[has_enough, :k]
    labels = [f"{threshold:.2f}" for threshold in RECALL_THRESHOLDS]
    if not len(iou):
        empty = 0.0 if match_reference_code else None
        return {f"MR-mIoU@{k}": empty, f"MR-R{k}": dict.fromkeys(labels, empty), f"MR-mR{k}": empty}
    recalls = found.sum(axis=(0, 1)) / (k * len(found))
    by_threshold = dict(zip(labels, map(percent, recalls), strict=True))
    pairs = iou[~np.isnan(iou)] if match_reference_code else np.nan_to_num(iou)
    return {
        f"MR-mIoU@{k}": percent(pairs.mean()) if pairs.size else 0.0,
        f"MR-R{k}": by_threshold,
        f"MR-mR{k}": float(f"{np.mean(list(by_threshold.values())):.2f}"),
    }


def score_empty_range(match_reference_code: bool) -> dict[str, Any]:
    """The figures of a range without queries."""
    if match_reference_code:
        zeros = dict.fromkeys([*map(str, EMPTY_THRESHOLDS), "average"], 0.0)
        return {"MR-mAP": zeros, "MR-R1": dict(zeros)}
    names = [f"{number}_tgt_mAP" for number in range(1, MANY)]
    scores: dict[str, Any] = {"MR-mAP": dict.fromkeys([*names, f">={MANY}_tgt_mAP", "Generalized_mAP"])}
    for k in NUM_PREDICTIONS:
        labels = [f"{threshold:.2f}" for threshold in RECALL_THRESHOLDS]
        scores |= {f"MR-mIoU@{k}": None, f"MR-R{k}": dict.fromkeys(labels), f"MR-mR{k}": None}
    return scores


def summarize(full: dict[str, Any]) -> dict[str, float | None]:
    """The figures that the paper prints."""
    precision = full["MR-mAP"]
    brief = {
        "MR-full-mAP": precision["Generalized_mAP"],
        "MR-full-mAP@1_tgt": precision["1_tgt_mAP"],
        "MR-full-mAP@2_tgt": precision["2_tgt_mAP"],
        f"MR-full-mAP@{MANY}+tgt": precision[f">={MANY}_tgt_mAP"],
    }
    for name in ("mIoU@", "mR"):
        for k in NUM_PREDICTIONS:
            brief[f"MR-full-{name}{k}"] = full[f"MR-{name}{k}"]
    return brief


__all__ = ["score_multi_moment"]
