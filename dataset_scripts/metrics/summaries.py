"""Video summarization: top-5 mAP of TVSum, as R2-Tuning and UMT count it.

Per annotator, shots with a score above the median of that annotator's scores are positive (the lower median where the
number of shots is even; over all annotated shots). The ranking is cut to the five best shots, recall counts the positives
among those five only, and the average precision is an area by trapezoids that starts from precision 1; 0 without a
positive among the five. Mean over annotators and over the videos of a domain. Scores beyond the annotated shots are cut,
shots without a score are not ranked. The public evaluator leaves the order of equal scores open, here the earlier shot
comes first. As recall counts only what is found, a positive shot that enters the five can lower the figure.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from .alignment import align_saliency
from .average_precision import rank, score_domains, trapezoid_average_precision


TOP_SHOTS = 5


def tvsum_average_precision(scores: list[float], annotation: list[list[float]]) -> float:
    """Top-5 average precision of one video, mean over the annotators, in [0, 1].

    Args:
        scores: One predicted score a shot.
        annotation: One row a shot with one score an annotator.
    """
    annotation = np.asarray(annotation)
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
    """Score predicted saliency as TVSum does.

    Args:
        predictions: Records with `qid` (the video's id) and `pred_saliency_scores`, one score a two-second shot.
        references: Rows with `qid`, `domain` and `saliency`, whose `scores` hold one row a shot with one score an
            annotator.
        match_reference_code: Refuse videos without a prediction instead of counting them as 0.
        match_number: Both sides must hold the same videos; `False` = score those that they share.

    Returns:
        `mAP-{domain}` for each domain and `mAP-average` over the domains, percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not belong together, or scores are not finite numbers.
    """
    queries = align_saliency(
        predictions, references, match_reference_code=match_reference_code, match_number=match_number
    )
    return score_domains(queries, tvsum_average_precision)


__all__ = ["score_summaries", "tvsum_average_precision"]
