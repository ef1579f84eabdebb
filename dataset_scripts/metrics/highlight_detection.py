"""Highlight detection as a module for `evaluate.load`; `highlights.py` computes the scores."""

from typing import Any

import datasets
import evaluate

from .alignment import align
from .average_precision import percent
from .highlights import score_highlights, score_youtube_highlights
from .schema_metric import SchemaMetric


# `evaluate.load` copies only the files that this file imports, so it must import all that they import.
NEEDED = (align, percent)
CITATION = """\
@inproceedings{lei2021detecting,
  title={Detecting Moments and Highlights in Videos via Natural Language Queries},
  author={Lei, Jie and Berg, Tamara L. and Bansal, Mohit},
  booktitle={Advances in Neural Information Processing Systems},
  year={2021}
}
@inproceedings{sun2014ranking,
  title={Ranking Domain-Specific Highlights by Analyzing Edited Videos},
  author={Sun, Min and Farhadi, Ali and Seitz, Steve},
  booktitle={European Conference on Computer Vision},
  year={2014}
}
"""


class HighlightDetection(SchemaMetric):
    """Highlight detection: mAP and HIT@1 of QVHighlights, or mAP of YouTube Highlights.

    The configuration "youtube_highlights" (second argument of `evaluate.load`) scores by domain.

    Args:
        predictions: Records with `qid` and `pred_saliency_scores`, one score per unit; one record for each reference.
            Other keys are ignored.
        references: Rows with `qid` and `saliency`, whose `scores` hold one row per unit; for YouTube Highlights also
            `domain`.
        match_reference_code: Reproduce the public evaluators in every corner case.
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        Percentages: `HL-mAP` and `HL-Hit1` for "HL-min-Fair", "HL-min-Good" and "HL-min-VeryGood"; for YouTube
        Highlights `mAP-{domain}` and `mAP-average`.

    Examples:
        >>> import evaluate
        >>> metric = evaluate.load("dataset_scripts/metrics/highlight_detection.py")
        >>> scores = metric.compute(
        ...     predictions=[{"qid": 1, "pred_saliency_scores": [0.1, 0.9, 0.5]}],
        ...     references=[{"qid": "1", "saliency": {"scores": [[0, 0, 1], [3, 2, 1], [4, 4, 4]]}}],
        ... )
        >>> scores["HL-min-Fair"]
        {'HL-mAP': 83.33, 'HL-Hit1': 100.0}
        >>> scores["HL-min-VeryGood"]
        {'HL-mAP': 50.0, 'HL-Hit1': 0.0}
        >>> metric = evaluate.load("dataset_scripts/metrics/highlight_detection.py", "youtube_highlights")
        >>> metric.compute(
        ...     predictions=[{"qid": "a", "pred_saliency_scores": [0.9, 0.8, 0.1]}],
        ...     references=[{"qid": "a", "domain": "dog", "saliency": {"scores": [[1], [-1], [1]]}}],
        ... )
        {'mAP-dog': 79.17, 'mAP-average': 79.17}
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "qvhighlights", "youtube_highlights"):
            raise ValueError(f"The configuration is qvhighlights or youtube_highlights, got {self.config_name!r}.")
        number, text = datasets.Value("float64"), datasets.Value("string")
        reference = {"qid": text, "saliency": {"scores": [[number]]}}
        if self.config_name == "youtube_highlights":
            reference["domain"] = text
        return self.describe(CITATION, {"qid": text, "pred_saliency_scores": [number]}, reference)

    def _compute(
        self, predictions: list[dict[str, Any]], references: list[dict[str, Any]], **options: bool
    ) -> dict[str, Any]:
        score = score_youtube_highlights if self.config_name == "youtube_highlights" else score_highlights
        return score(predictions, references, **options)


__all__ = ["HighlightDetection"]
