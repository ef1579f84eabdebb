"""Video summarization: top-5 mAP of TVSum, as R2-Tuning and UMT compute it.

For each annotator, the shots with a score above the median of that annotator's scores are positive (over all annotated
shots; the lower median if their number is even). Only the five shots with the highest predictions are ranked, and recall
counts the positives among those five. The average precision is the area under the precision-recall curve by the
trapezoidal rule, starting from precision 1; it is 0 without a positive among the five. The score is the mean over
annotators, then over the videos of a domain.

Predictions beyond the annotated shots are ignored, and shots without a prediction are not ranked. The public evaluator
leaves the order of equal scores open; here the earlier shot comes first. Since recall counts only what is found, another
positive shot among the five can lower the score.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from .alignment import align_saliency
from .average_precision import rank, score_domains, trapezoid_average_precision


TOP_SHOTS = 5


def tvsum_average_precision(scores: ArrayLike, annotation: ArrayLike) -> float:
    """Top-5 average precision of one video, mean over the annotators, in [0, 1].

    Args:
        scores: Predicted scores `(num_scores,)`.
        annotation: Annotated scores `(num_shots, num_annotators)`.
    """
    scores, annotation = np.asarray(scores), np.asarray(annotation)
    lower_median = np.sort(annotation, axis=0)[(len(annotation) - 1) // 2]
    best = rank(scores[: len(annotation)])[:TOP_SHOTS]
    return float(trapezoid_average_precision((annotation[best] > lower_median).T).mean())


def score_summaries(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, float]:
    """Score predicted saliency with the metric of TVSum.

    Args:
        predictions: Records with `qid` (the video's id) and `pred_saliency_scores`, one score per two-second shot.
        references: Rows with `qid`, `domain` and `saliency`, whose `scores` hold one row per shot with one score per
            annotator.
        match_reference_code: Refuse videos without a prediction instead of scoring them 0.
        match_number: Both sides must hold the same videos; `False` = score the videos that both sides have.

    Returns:
        `mAP-{domain}` for each domain and `mAP-average` over the domains, percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not match, or scores are not finite numbers.
    """
    queries = align_saliency(
        predictions, references, match_reference_code=match_reference_code, match_number=match_number
    )
    return score_domains(queries, tvsum_average_precision)


__all__ = ["score_summaries", "tvsum_average_precision"]
