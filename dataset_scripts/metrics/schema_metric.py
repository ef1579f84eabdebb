"""What the three `evaluate` modules share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import datasets
import evaluate

from .alignment import query_id


def declared(value: object, feature: object) -> object:
    """The part of a value that a feature declares; null where it is lacking."""
    if isinstance(feature, dict):
        return {name: declared((value or {}).get(name), inner) for name, inner in feature.items()}
    return value


class SchemaMetric(evaluate.Metric, ABC):
    """Metric that takes predictions and rows of the datasets as they are: keys that it does not score are left out.

    Abstract, so that `evaluate.load` passes over it in the modules that import it.
    """

    def describe(self, citation: str, prediction: dict, reference: dict) -> evaluate.MetricInfo:
        """The module's description from its docstring and the columns that it reads."""
        summary, _, inputs = self.__doc__.partition("\n")
        return evaluate.MetricInfo(
            description=summary,
            citation=citation,
            inputs_description=inputs,
            features=datasets.Features({"predictions": prediction, "references": reference}),
        )

    def add(self, *, prediction: Mapping, reference: Mapping):
        """Add the prediction and the reference of one query."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Iterable[Mapping], references: Iterable[Mapping]):
        """Add predictions and references of the same queries, as many of the one as of the other."""
        super().add_batch(
            predictions=[self.select(record, "predictions") for record in predictions],
            references=[self.select(record, "references") for record in references],
        )

    def select(self, record: Mapping, side: str) -> dict:
        """The declared columns of a record, null where it lacks one, its id as a string."""
        return {**declared(record, self.features[side]), "qid": query_id(record)}

    @abstractmethod
    def _compute(self, predictions: list[dict], references: list[dict], **options: bool) -> dict:
        """Score what was added."""


__all__ = ["SchemaMetric"]
