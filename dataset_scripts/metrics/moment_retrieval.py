"""Moment retrieval as a module for `evaluate.load`; `moments.py` computes the scores."""

from typing import Any

import datasets
import evaluate

from .alignment import align
from .average_precision import percent
from .moments import score_moments
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
"""


class MomentRetrieval(SchemaMetric):
    """Moment retrieval: mAP, R1, R5 and mIoU of predicted moments.

    Args:
        predictions: Records with `qid` and `pred_relevant_windows`, `[[start_sec, end_sec, score], ...]`; one record
            for each reference. Other keys are ignored.
        references: Rows with `qid`, `query` and `moments`, `[[start_sec, end_sec], ...]`.
        match_reference_code: Reproduce the public evaluator of R2-Tuning in every corner case.
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        Percentages: `MR-mAP`, `MR-R1` and `MR-R5` by threshold and `MR-mIoU`, for the ranges "full", "long" (above
        30 s), "middle" (above 10 s) and "short"; and in "by_query_length" the mAP by the number of words of the query.

    Examples:
        >>> import evaluate
        >>> metric = evaluate.load("dataset_scripts/metrics/moment_retrieval.py")
        >>> windows = [[0.0, 8.0, 0.9], [20.0, 32.0, 0.4]]
        >>> scores = metric.compute(
        ...     predictions=[{"qid": 1, "pred_relevant_windows": windows}],
        ...     references=[{"qid": "1", "query": "a dog runs", "moments": [[20.0, 30.0]]}],
        ... )
        >>> scores["full"]["MR-R1"]["0.5"], scores["full"]["MR-R5"]["0.5"]
        (0.0, 100.0)
        >>> scores["full"]["MR-mAP"]["0.5"], scores["full"]["MR-mAP"]["average"]
        (50.0, 35.0)
        >>> scores["by_query_length"]["1-10"]
        {'queries': 1, 'MR-mAP': 35.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        number, text = datasets.Value("float64"), datasets.Value("string")
        return self.describe(
            CITATION,
            {"qid": text, "pred_relevant_windows": [[number]]},
            {"qid": text, "query": text, "moments": [[number]]},
        )

    def _compute(
        self, predictions: list[dict[str, Any]], references: list[dict[str, Any]], **options: bool
    ) -> dict[str, Any]:
        return score_moments(predictions, references, **options)


__all__ = ["MomentRetrieval"]
