"""Highlight detection: mAP and HIT@1 of QVHighlights, mAP of YouTube Highlights.

QVHighlights, as in the public evaluator, to the last printed digit. For each annotator, units with a score of at least 2
(Fair), 3 (Good) or 4 (VeryGood) are positive.

- mAP: predicted scores beyond the annotated units are ignored, missing ones are 0. Equal scores form one threshold.
  Precision is made monotone by a running maximum from the lowest score on, and averaged over the thresholds at which
  recall changes. An annotator without a positive unit scores 0. Mean over queries and annotators.
- HIT@1: whether the first unit with the highest score is positive for at least one annotator. A unit beyond the
  annotated ones is a miss.

YouTube Highlights: for each video, the average precision over the whole ranking by the trapezoidal rule; units with a
label above 0 are positive, and a video without any scores 0. Mean over the videos of a domain. The public evaluator leaves
the order of equal scores open; here the earlier unit comes first.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from .alignment import Query, align_saliency, group_by_size, read_saliency
from .average_precision import percent, rank, score_domains, sum_rows, trapezoid_average_precision


LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}  # lowest score of a positive unit


def sort_units(scores: np.ndarray, truth: np.ndarray, num_units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort the units by ascending score, padding first.

    Args:
        scores: Array `(num_queries, num_units)`.
        truth: Array `(num_queries, num_units, num_annotators)`.
        num_units: Array `(num_queries,)`.

    Returns:
        Scores `(num_queries, num_units)`, -inf where padded, and annotations `(num_annotators, num_queries, num_units)`.
    """
    scores = np.where(np.arange(scores.shape[1]) < num_units[:, None], scores, -np.inf)
    order = scores.argsort(axis=1)
    truth = np.ascontiguousarray(np.moveaxis(truth, 2, 0))
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(truth, order[None], axis=2)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Interpolated average precision of each row.

    Args:
        scores: Array `(num_queries, num_units)`, ascending; -inf = padding, which is never positive.
        positive: Array `(..., num_queries, num_units)`, the units to find.

    Returns:
        Array `(..., num_queries)`; 0 without a positive unit.
    """
    # Units with equal scores form one threshold, which stands at the first of them.
    is_threshold = np.ones(scores.shape, dtype=bool)
    is_threshold[:, 1:] = scores[:, 1:] != scores[:, :-1]
    # Positive units with a score at or above each threshold; 0 where there is no threshold.
    hits = np.cumsum(positive[..., ::-1], axis=-1, dtype=np.int32)[..., ::-1] * is_threshold
    precision = np.maximum.accumulate(hits / np.arange(scores.shape[1], 0, -1), axis=-1)
    # Hits fall with rising score, so their maximum from the right is the hits of the next threshold.
    hits_above = np.maximum.accumulate(hits[..., ::-1], axis=-1)[..., ::-1]
    gains = hits.copy()
    gains[..., :-1] -= hits_above[..., 1:]
    rises = gains > 0  # recall changes at this threshold
    return sum_rows(precision, rises) / np.maximum(rises.sum(axis=-1), 1)


def score_highlights(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict]:
    """Score predicted saliency with the metrics of QVHighlights.

    Args:
        predictions: Records with `qid` and `pred_saliency_scores`, one score per unit.
        references: Rows with `qid` and `saliency`, whose `scores` hold one row per unit with one score per annotator.
        match_reference_code: Reproduce the public evaluator in every corner case (table in the package's docstring).
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        `HL-mAP` and `HL-Hit1` for "HL-min-Fair", "HL-min-Good" and "HL-min-VeryGood", percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not match, scores are not finite numbers or not from the same number of annotators,
            no reference has saliency, or, with `match_reference_code`, the public evaluator has no answer.
    """
    queries = align_saliency(
        predictions, references, match_reference_code=match_reference_code, match_number=match_number
    )
    num_annotators = len(queries[0].annotation[0])
    ap = np.zeros((len(LEVELS), len(queries), num_annotators))
    hits = np.zeros((len(LEVELS), len(queries)))
    sizes = [(len(query.annotation), len(query.scores)) for query in queries]
    for group in group_by_size(sizes):
        ap[:, group], hits[:, group] = measure_queries([queries[index] for index in group], num_annotators)
    scores = {}
    for level, name in enumerate(LEVELS):
        scores[f"HL-min-{name}"] = {"HL-mAP": percent(ap[level].mean()), "HL-Hit1": percent(hits[level].mean())}
    return scores


def measure_queries(queries: list[Query], num_annotators: int) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and hits of queries of similar size.

    Returns:
        Arrays `(num_levels, num_queries, num_annotators)` and `(num_levels, num_queries)`.
    """
    predicted, num_scores, truth, num_units = read_saliency(queries, num_annotators)
    width = min(truth.shape[1], predicted.shape[1])
    scores = np.zeros(truth.shape[:2])
    scores[:, :width] = predicted[:, :width]
    scores, sorted_truth = sort_units(scores, truth, num_units)
    has_prediction = num_scores > 0

    is_score = np.arange(predicted.shape[1]) < num_scores[:, None]
    top = np.where(is_score, predicted, -np.inf).argmax(axis=1)  # (num_queries,)
    is_annotated = (top < num_units) & has_prediction
    top_score = truth[np.arange(len(top)), np.where(is_annotated, top, 0)].max(axis=1)
    ap, hits = [], []
    for level in LEVELS.values():
        ap.append((average_precision(scores, sorted_truth >= level) * has_prediction).T)
        hits.append(is_annotated & (top_score >= level))
    return np.stack(ap), np.stack(hits)


def youtube_average_precision(scores: ArrayLike, match: ArrayLike) -> float:
    """Average precision of one video over the whole ranking, in [0, 1].

    Args:
        scores: Predicted scores `(num_units,)`.
        match: Labels `(num_units,)`; above 0 is positive.
    """
    positive = np.asarray(match) > 0
    return float(trapezoid_average_precision(positive[rank(np.asarray(scores))]))


def score_youtube_highlights(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, float]:
    """Score predicted saliency with the metric of YouTube Highlights.

    Args:
        predictions: Records with `qid` (the video's id) and `pred_saliency_scores`, one score per annotated unit.
        references: Rows with `qid`, `domain` and `saliency`, whose `scores` hold one row per unit with one label.
        match_reference_code: Refuse videos without a prediction instead of scoring them 0.
        match_number: Both sides must hold the same videos; `False` = score the videos that both sides have.

    Returns:
        `mAP-{domain}` for each domain and `mAP-average` over the domains, percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not match, scores are not finite numbers, or the numbers of scores and of annotated
            units of a video differ.
    """
    queries = align_saliency(
        predictions, references, match_reference_code=match_reference_code, match_number=match_number
    )
    for query in queries:
        if query.scores and len(query.scores) != len(query.annotation):
            raise ValueError(
                f"`pred_saliency_scores` of video '{query.qid}' must hold one score for each of its "
                f"{len(query.annotation)} annotated units, got {len(query.scores)}."
            )
    return score_domains(queries, lambda scores, truth: youtube_average_precision(scores, truth[:, 0]))


__all__ = ["score_highlights", "score_youtube_highlights", "youtube_average_precision"]
