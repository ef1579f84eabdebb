"""The base class of the three `evaluate` modules."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import evaluate

from .alignment import query_id


def select_declared(value: Any, feature: Any) -> Any:
    """The part of a value that a feature declares; null where it is missing."""
    if not isinstance(feature, dict):
        return value
    fields = value or {}
    return {name: select_declared(fields.get(name), inner) for name, inner in feature.items()}


class SchemaMetric(evaluate.Metric, ABC):
    """A metric that takes predictions and dataset rows unchanged and ignores the keys that it does not score.

    It is abstract so that `evaluate.load` skips it in the modules that import it.
    """

    def describe(self, citation: str, prediction: dict[str, Any], reference: dict[str, Any]) -> evaluate.MetricInfo:
        """The module's description, from its docstring and the columns that it reads."""
        summary, _, inputs = (self.__doc__ or "").partition("\n")
        return evaluate.MetricInfo(
            description=summary,
            citation=citation,
            inputs_description=inputs,
            features=datasets.Features({"predictions": prediction, "references": reference}),
        )

    def add(self, *, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
        """Add the prediction and the reference of one query."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Iterable[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]) -> None:
        """Add predictions and their references, in the same number and order."""
        selected_predictions = [self.select(record, "predictions") for record in predictions]
        selected_references = [self.select(record, "references") for record in references]
        super().add_batch(predictions=selected_predictions, references=selected_references)

    def select(self, record: Mapping[str, Any], side: str) -> dict[str, Any]:
        """The declared columns of a record, null where one is missing, with its id as a string."""
        return {**select_declared(record, self.features[side]), "qid": query_id(record)}

    @abstractmethod
    def _compute(
        self, predictions: list[dict[str, Any]], references: list[dict[str, Any]], **options: bool
    ) -> dict[str, Any]:
        """Score the records that were added."""


__all__ = ["SchemaMetric"]
