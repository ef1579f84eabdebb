"""Video summarization as a module for `evaluate.load`; `summaries.py` computes the scores."""

from typing import Any

import datasets
import evaluate

from .alignment import align
from .average_precision import percent
from .schema_metric import SchemaMetric
from .summaries import score_summaries


# `evaluate.load` copies only the files that this file imports, so it must import all that they import.
NEEDED = (align, percent)
CITATION = """\
@inproceedings{song2015tvsum,
  title={{TVSum}: Summarizing Web Videos Using Titles},
  author={Song, Yale and Vallmitjana, Jordi and Stent, Amanda and Jaimes, Alejandro},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2015}
}
"""


class Summarization(SchemaMetric):
    """Video summarization: top-5 mAP of TVSum.

    Args:
        predictions: Records with `qid` and `pred_saliency_scores`, one score per shot; one record for each reference.
            Other keys are ignored.
        references: Rows with `qid`, `domain` and `saliency`, whose `scores` hold one row per shot.
        match_reference_code: Refuse videos without a prediction instead of scoring them 0.
        match_number: Both sides must hold the same videos; `False` = score the videos that both sides have.

    Returns:
        `mAP-{domain}` for each domain and `mAP-average` over the domains, percentages.

    Examples:
        >>> import evaluate
        >>> metric = evaluate.load("dataset_scripts/metrics/summarization.py")
        >>> metric.compute(
        ...     predictions=[{"qid": "a", "pred_saliency_scores": [0.9, 0.8, 0.1]}],
        ...     references=[{"qid": "a", "domain": "BK", "saliency": {"scores": [[3, 5], [1, 1], [1, 1]]}}],
        ... )
        {'mAP-BK': 100.0, 'mAP-average': 100.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        number, text = datasets.Value("float64"), datasets.Value("string")
        return self.describe(
            CITATION,
            {"qid": text, "pred_saliency_scores": [number]},
            {"qid": text, "domain": text, "saliency": {"scores": [[number]]}},
        )

    def _compute(
        self, predictions: list[dict[str, Any]], references: list[dict[str, Any]], **options: bool
    ) -> dict[str, Any]:
        return score_summaries(predictions, references, **options)


__all__ = ["Summarization"]
