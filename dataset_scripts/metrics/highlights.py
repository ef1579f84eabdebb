"""Highlight detection: mAP and HIT@1 of QVHighlights, mAP of YouTube Highlights.

QVHighlights, as in the public evaluator, to the last printed digit. For each annotator, clips with a score of at least 2
(Fair), 3 (Good) or 4 (VeryGood) are positive.

- mAP: predicted scores beyond the annotated clips are cut, missing ones are 0. Equal scores form one threshold.
  Precision is made monotone by a running maximum from the low-score end and averaged over the thresholds where recall
  changes. An annotator without a positive clip counts 0. Mean over queries and annotators.
- HIT@1: whether the first clip with the highest score is positive for at least one annotator. A clip beyond the
  annotated ones is a miss.

YouTube Highlights: per video, average precision over the whole ranking by trapezoids; clips with a label above 0 are
positive; a video without any counts 0. Mean over the videos of a domain; the public evaluator leaves the order of equal
scores open, here the earlier clip comes first.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from .alignment import Query, align_saliency, group_by_size, read_saliency
from .average_precision import percent, rank, score_domains, sum_rows, trapezoid_average_precision


LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}  # lowest score of a positive clip


def sort_clips(scores: np.ndarray, truth: np.ndarray, num_clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clips by rising score, padding first.

    Args:
        scores: `(queries, clips)`.
        truth: `(queries, clips, annotators)`.
        num_clips: `(queries,)`.

    Returns:
        Scores `(queries, clips)`, -inf where padded, and annotations `(annotators, queries, clips)`.
    """
    scores = np.where(np.arange(scores.shape[1]) < num_clips[:, None], scores, -np.inf)
    order = scores.argsort(axis=1)
    truth = np.ascontiguousarray(np.moveaxis(truth, 2, 0))
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(truth, order[None], axis=2)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Interpolated average precision of each row.

    Args:
        scores: `(queries, clips)`, rising; -inf = padding, which is never positive.
        positive: `(..., queries, clips)`, the clips to find.

    Returns:
        `(..., queries)`; 0 without a positive clip.
    """
    first = np.ones(scores.shape, dtype=bool)  # of the clips with the same score, which form one threshold
    first[:, 1:] = scores[:, 1:] != scores[:, :-1]
    hits = np.cumsum(positive[..., ::-1], axis=-1, dtype=np.int32)[..., ::-1] * first  # from the threshold upwards
    precision = np.maximum.accumulate(hits / np.arange(scores.shape[1], 0, -1), axis=-1)
    above = np.maximum.accumulate(hits[..., ::-1], axis=-1)[..., ::-1]  # hits never rise, so the next threshold's
    gains = hits.copy()
    gains[..., :-1] -= above[..., 1:]
    rises = gains > 0
    return sum_rows(precision, rises) / np.maximum(rises.sum(axis=-1), 1)


def score_highlights(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict]:
    """Score predicted saliency as QVHighlights does.

    Args:
        predictions: Records with `qid` and `pred_saliency_scores`, one score a clip.
        references: Rows with `qid` and `saliency`, whose `scores` hold one row a clip with one score an annotator.
        match_reference_code: Behave as the public evaluator in every corner (table in the package's docstring).
        match_number: Both sides must hold the same queries; `False` = score those that they share.

    Returns:
        `HL-mAP` and `HL-Hit1` for "HL-min-Fair", "HL-min-Good" and "HL-min-VeryGood", percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not belong together, scores are not finite numbers or not from the same number of
            annotators, no reference has saliency, or, with `match_reference_code`, the public evaluator has no answer.
    """
    queries = align_saliency(
        predictions, references, match_reference_code=match_reference_code, match_number=match_number
    )
    num_annotators = len(queries[0].annotation[0])
    ap = np.zeros((len(LEVELS), len(queries), num_annotators))
    hits = np.zeros((len(LEVELS), len(queries)))
    for group in group_by_size((len(query.annotation), len(query.scores)) for query in queries):
        ap[:, group], hits[:, group] = measure_queries([queries[index] for index in group], num_annotators)
    return {
        f"HL-min-{name}": {"HL-mAP": percent(ap[level].mean()), "HL-Hit1": percent(hits[level].mean())}
        for level, name in enumerate(LEVELS)
    }


def measure_queries(queries: list[Query], num_annotators: int) -> tuple[np.ndarray, np.ndarray]:
    """Average precision `(levels, queries, annotators)` and hits `(levels, queries)` of queries of like size."""
    predicted, num_scores, truth, num_clips = read_saliency(queries, num_annotators)
    width = min(truth.shape[1], predicted.shape[1])
    scores = np.zeros(truth.shape[:2])
    scores[:, :width] = predicted[:, :width]
    scores, by_score = sort_clips(scores, truth, num_clips)

    top = np.where(np.arange(predicted.shape[1]) < num_scores[:, None], predicted, -np.inf).argmax(axis=1)
    is_clip = (top < num_clips) & (num_scores > 0)
    top_score = truth[np.arange(len(top)), np.where(is_clip, top, 0)].max(axis=1)
    ap = [(average_precision(scores, by_score >= level) * (num_scores > 0)).T for level in LEVELS.values()]
    hits = [is_clip & (top_score >= level) for level in LEVELS.values()]
    return np.stack(ap), np.stack(hits)


def youtube_average_precision(scores: list[float], match: list[float]) -> float:
    """Average precision of one video over the whole ranking, in [0, 1].

    Args:
        scores: One predicted score a clip.
        match: Label of each clip; above 0 is positive.
    """
    return float(trapezoid_average_precision((np.asarray(match) > 0)[rank(scores)]))


def score_youtube_highlights(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, float]:
    """Score predicted saliency as YouTube Highlights does.

    Args:
        predictions: Records with `qid` (the video's id) and `pred_saliency_scores`, one score an annotated clip.
        references: Rows with `qid`, `domain` and `saliency`, whose `scores` hold one row a clip with one label.
        match_reference_code: Refuse videos without a prediction instead of counting them as 0.
        match_number: Both sides must hold the same videos; `False` = score those that they share.

    Returns:
        `mAP-{domain}` for each domain and `mAP-average` over the domains, percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not belong together, scores are not finite numbers, or a video has another number of
            scores than of annotated clips.
    """
    queries = align_saliency(
        predictions, references, match_reference_code=match_reference_code, match_number=match_number
    )
    for query in queries:
        if query.scores and len(query.scores) != len(query.annotation):
            raise ValueError(
                f"`pred_saliency_scores` of video '{query.qid}' must hold one score for each of its "
                f"{len(query.annotation)} annotated clips, got {len(query.scores)}."
            )
    return score_domains(queries, lambda scores, truth: youtube_average_precision(scores, truth[:, 0]))


__all__ = ["score_highlights", "score_youtube_highlights", "youtube_average_precision"]
