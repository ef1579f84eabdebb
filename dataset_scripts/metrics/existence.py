"""Existence: whether a model recognises the queries that nothing in the video matches.

A query is present if it has at least one moment and absent if its list of moments is empty. A prediction carries one
number, `pred_exist_score`, which should be high for present queries; our models write the calibrated probability that
anything matches.

`roc_auc`, `false_alarm_rate`, `calibration_error` and `rejection_f1` take plain arrays and return fractions;
`score_existence` takes predictions and dataset rows and returns percentages.

| case | default | `match_reference_code=True` (the rules of Soccer-GMR) |
|---|---|---|
| query without a prediction | lowest score: "nothing found" | left out |
| prediction without `pred_exist_score` | lowest score | highest score of its moments, else 0 |
| score that is not a finite number | `ValueError` | as `float` converts it; otherwise as if missing |
| prediction for an unknown query | `ValueError` | left out |
| two predictions for a query | the last one | the last one |
| only present or only absent queries | AUROC and false alarms are `None` | AUROC is 50, false alarms are `None` |
| only present queries | Rej-F1 is `None` | Rej-F1 is 0 |
| reference whose `moments` is `None` | not scored | not scored |

The lowest score is 0, or the lowest number among the scores if one is negative. A missing prediction therefore counts as
a miss on a present query and as a correct rejection on an absent one.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .alignment import MAX_CHARACTERS, Query, align, is_number, query_id, read_predictions
from .average_precision import percent


REJECTION_THRESHOLD = 0.5


def roc_auc(scores: ArrayLike, present: ArrayLike) -> float:
    """Probability that a present query scores higher than an absent one; a tie counts half.

    Args:
        scores: Array `(num_queries,)`.
        present: Boolean array `(num_queries,)`, `True` for present queries.

    Returns:
        A fraction in [0, 1]; 0.5 if all queries are present or all are absent.

    Raises:
        ValueError: The two arrays do not match, or a score is not finite.
    """
    present_scores, absent_scores = _split(scores, present)
    num_pairs = len(present_scores) * len(absent_scores)
    if num_pairs == 0:
        return 0.5
    absent_scores = np.sort(absent_scores)
    num_below = np.searchsorted(absent_scores, present_scores, side="left").sum()
    num_not_above = np.searchsorted(absent_scores, present_scores, side="right").sum()
    return float((num_below + num_not_above) / 2 / num_pairs)


def false_alarm_rate(scores: ArrayLike, present: ArrayLike, detection: float = 0.95) -> float:
    """Share of the absent queries that are taken for present ones when the given share of present queries is detected.

    A query is detected if its score is at or above the threshold, and the threshold is the highest one that detects the
    share.

    Args:
        scores: Array `(num_queries,)`.
        present: Boolean array `(num_queries,)`, `True` for present queries.
        detection: Share of the present queries that must be detected, in (0, 1].

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: There is no present or no absent query, `detection` is out of range, the two arrays do not match, or a
            score is not finite.
    """
    if not 0 < detection <= 1:
        raise ValueError(f"`detection` must be above 0 and at most 1, got {detection}.")
    present_scores, absent_scores = _split(scores, present)
    if not len(present_scores) or not len(absent_scores):
        raise ValueError(
            f"False alarms need present and absent queries, got {len(present_scores)} present and "
            f"{len(absent_scores)} absent ones."
        )
    # The tolerance keeps 0.95 * 20 queries at 19, whatever the product's last bit is.
    num_detected = max(1, math.ceil(detection * len(present_scores) - 1e-9))
    threshold = np.sort(present_scores)[-num_detected]
    return float((absent_scores >= threshold).mean())


def calibration_error(probabilities: ArrayLike, present: ArrayLike, num_bins: int = 10) -> float:
    """Expected calibration error (ECE) with bins of equal width.

    The sum over the bins of `num_in_bin / num_queries * |mean probability - share of present queries|`.

    Args:
        probabilities: Array `(num_queries,)` of values in [0, 1].
        present: Boolean array `(num_queries,)`, `True` for present queries.
        num_bins: Number of bins; each contains its lower boundary, the last one also contains 1.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: A probability is outside [0, 1], or the two arrays do not match or are empty.
    """
    values, is_present = _read(probabilities, present)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"Probabilities must be in [0, 1], got values from {values.min()} to {values.max()}.")
    bins = np.minimum((values * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=values - is_present, minlength=num_bins)  # num_in_bin * (mean - share)
    return float(np.abs(gaps).sum() / len(values))


def rejection_f1(scores: ArrayLike, present: ArrayLike, threshold: float) -> float:
    """F1 of rejecting absent queries, the Rej-F1 of Soccer-GMR.

    A query is rejected unless its score is strictly above the threshold. Precision is the share of absent queries among
    the rejected ones, recall the share of rejected queries among the absent ones.

    Args:
        scores: Array `(num_queries,)`.
        present: Boolean array `(num_queries,)`, `True` for present queries.
        threshold: Highest score that is rejected.

    Returns:
        A fraction in [0, 1]; 0 if no absent query is rejected.

    Raises:
        ValueError: The two arrays do not match or are empty, or a score is not finite.
    """
    values, is_present = _read(scores, present)
    rejected = values <= threshold
    num_right = np.count_nonzero(rejected & ~is_present)
    # The harmonic mean of right / rejected and right / absent.
    total = np.count_nonzero(rejected) + np.count_nonzero(~is_present)
    return 2 * num_right / total if total else 0.0


def score_existence(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, float | None]:
    """Score the numbers that say whether anything in the video matches the query.

    Args:
        predictions: Records with `qid` and `pred_exist_score`.
        references: Rows with `qid` and `moments`; `[]` = absent, `None` = not annotated, therefore not scored.
        match_reference_code: Read scores as Soccer-GMR's evaluator does (table in the module's docstring).
        match_number: Refuse predictions for unknown queries; `False` = score the queries that both sides have.

    Returns:
        Percentages rounded to two decimals: `EX-AUROC` (`roc_auc`), `EX-FAR@95` (`false_alarm_rate` at 95 % detection),
        `EX-ECE` (`calibration_error`) and `EX-Rej-F1@0.5` (`rejection_f1`). `EX-AUROC` and `EX-FAR@95` are `None` without
        both kinds of queries, `EX-Rej-F1@0.5` without absent ones, and `EX-ECE` if a score is outside [0, 1].

    Raises:
        ValueError: The two sides do not match, a score is not a finite number, or nothing is annotated.
    """
    match_number = match_number and not match_reference_code
    queries = align(predictions, references, match_number=match_number)
    queries = [query for query in queries if query.references[-1].get("moments") is not None]
    if not queries:
        raise ValueError("None of the `references` has `moments`: it is unknown which queries are absent.")
    if match_reference_code:
        scores = np.array([soccer_gmr_score(query.predictions[-1])[0] for query in queries])
    else:
        scores = read_scores(queries)
    present = np.array([not query.is_absent for query in queries])

    has_both = present.any() and not present.all()
    auroc = false_alarms = error = rejection = None
    if has_both or match_reference_code:
        auroc = percent(roc_auc(scores, present))
    if has_both:
        false_alarms = percent(false_alarm_rate(scores, present))
    if scores.min() >= 0 and scores.max() <= 1:
        error = percent(calibration_error(scores, present))
    if not present.all() or match_reference_code:
        rejection = percent(rejection_f1(scores, present, REJECTION_THRESHOLD))
    return {
        "EX-AUROC": auroc,
        "EX-FAR@95": false_alarms,
        "EX-ECE": error,
        f"EX-Rej-F1@{REJECTION_THRESHOLD}": rejection,
    }


def read_scores(queries: list[Query]) -> np.ndarray:
    """The `pred_exist_score` of each query's last prediction, `(num_queries,)`; the lowest score where it is missing.

    Raises:
        ValueError: A score is not a finite number; the query is named.
    """
    scores = np.full(len(queries), np.nan)
    for index, query in enumerate(queries):
        if query.predictions:
            score = read_score(query.predictions[-1])
            scores[index] = np.nan if score is None else score
    lowest = np.nanmin(np.append(scores, 0.0))
    return np.where(np.isnan(scores), lowest, scores)


def read_score(prediction: Mapping[str, Any]) -> float | None:
    """The `pred_exist_score` of a prediction; `None` if it is missing.

    Raises:
        ValueError: It is not a finite number; the query is named.
    """
    value = prediction.get("pred_exist_score")
    if value is None:
        return None
    if not is_number(value):
        raise ValueError(
            f"`pred_exist_score` of query '{query_id(prediction)}' must be a finite number, got "
            f"{str(value)[:MAX_CHARACTERS]}."
        )
    return float(value)


def soccer_gmr_score(prediction: Mapping[str, Any]) -> tuple[float, str]:
    """The score by the rule of Soccer-GMR's evaluator, and where it comes from.

    Whatever `float` converts is accepted, also text and booleans ("pred_exist_score"). Otherwise it is the highest score
    of the moments that have one ("window_score"), and 0 if there is none ("default").
    """
    if "pred_exist_score" in prediction:
        try:
            return float(prediction["pred_exist_score"]), "pred_exist_score"
        except (TypeError, ValueError):
            pass  # the evaluator then treats it as missing
    highest = highest_moment_score(prediction)
    return (0.0, "default") if highest is None else (highest, "window_score")


def highest_moment_score(prediction: Mapping[str, Any]) -> float | None:
    """The highest score of the predicted moments that have one; `None` if there is none."""
    scores = []
    for moment in read_predictions(prediction, allow_reversed=True):
        if len(moment) > 2:
            scores.append(float(moment[2]))
    return max(scores, default=None)


def _read(scores: ArrayLike, present: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays as float64 and bool, checked."""
    values, is_present = np.asarray(scores, np.float64), np.asarray(present, bool)
    if values.ndim != 1 or values.shape != is_present.shape or not len(values):
        raise ValueError(
            "`scores` and `present` must be one-dimensional, not empty and equally long, got the shapes "
            f"{values.shape} and {is_present.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"`scores` must be finite, got {values[~np.isfinite(values)][0]}.")
    return values, is_present


def _split(scores: ArrayLike, present: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the present and of the absent queries."""
    values, is_present = _read(scores, present)
    return values[is_present], values[~is_present]


__all__ = ["calibration_error", "false_alarm_rate", "rejection_f1", "roc_auc", "score_existence"]
