"""Matching predictions with references by query, and converting them to arrays; invalid input is refused."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from numbers import Real
from typing import Any, NamedTuple

import numpy as np


MAX_NAMES = 5  # queries that an error lists; the others are only counted
MAX_CHARACTERS = 100  # of an invalid value in an error


class Query(NamedTuple):
    """The records of one query.

    Attributes:
        qid: The query's id, as a string.
        predictions: Its predictions in their order; usually one, empty if there is no prediction.
        references: Its references; usually one.
    """

    qid: str
    predictions: list[Mapping]
    references: list[Mapping]

    @property
    def scores(self) -> list[float]:
        """Predicted saliency of the last prediction, one score per unit; empty if there is no prediction."""
        return predicted_list(self.predictions[-1], "pred_saliency_scores") if self.predictions else []

    @property
    def annotation(self) -> list[list[float]]:
        """Annotated saliency of the last reference, one row per unit with one score per annotator; may be empty."""
        saliency = self.references[-1].get("saliency") or {}
        return saliency.get("scores") or []

    @property
    def is_absent(self) -> bool:
        """Whether the query is annotated as absent: its list of moments is empty, which `None` is not."""
        moments = self.references[-1].get("moments")
        return moments is not None and len(moments) == 0


def query_id(record: Mapping) -> str | None:
    """The `qid` of a record, or else its `vid`, as a string."""
    for key in ("qid", "vid"):
        if record.get(key) is not None:
            return str(record[key])
    return None


def predicted_list(record: Mapping, key: str) -> list:
    """A list field of a prediction; empty if it is missing.

    Raises:
        ValueError: The field is not a list.
    """
    value = record.get(key)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, list | tuple | None):
        raise ValueError(f"`{key}` of query '{query_id(record)}' must be a list, got {str(value)[:MAX_CHARACTERS]}.")
    return list(value or [])


def read_predictions(record: Mapping[str, Any], *, allow_reversed: bool = False) -> list[Any]:
    """The predicted moments of a record, `[start_sec, end_sec]` or `[start_sec, end_sec, score]` each, in list order.

    Args:
        record: A prediction with `pred_relevant_windows`; missing = none.
        allow_reversed: Accept moments that end before they start, as the public evaluators do.

    Raises:
        ValueError: The field is not a list, or a moment is malformed; the query is named.
    """
    predictions = predicted_list(record, "pred_relevant_windows")
    for moment in predictions:
        if not is_moment(moment) or (moment[1] < moment[0] and not allow_reversed):
            raise ValueError(
                f"`pred_relevant_windows` of query '{query_id(record)}' must hold [start, end] or [start, end, score] "
                f"with finite numbers and start <= end, got {str(moment)[:MAX_CHARACTERS]}."
            )
    return predictions


def is_moment(moment: Any) -> bool:
    """Whether a predicted moment consists of two or three finite numbers."""
    if not isinstance(moment, list | tuple | np.ndarray) or len(moment) not in (2, 3):
        return False
    return all(map(is_number, moment))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; booleans are not."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floating point
        return False


def with_scores(predictions: list[Any]) -> list[list[float]]:
    """Predicted moments with a score each; a missing score is 1."""
    scored = []
    for moment in predictions:
        score = moment[2] if len(moment) > 2 else 1.0
        scored.append([*moment[:2], score])
    return scored


def name_queries(qids: list[str]) -> str:
    """The first ids, and how many more there are, for an error message."""
    names = ", ".join(f"'{qid}'" for qid in qids[:MAX_NAMES])
    return names if len(qids) <= MAX_NAMES else f"{names} and {len(qids) - MAX_NAMES} more"


def group_by_query(records: Iterable[Mapping], name: str) -> dict[str, list[Mapping]]:
    """Records by query, in order of first appearance.

    Raises:
        ValueError: A record without an id.
    """
    groups: dict[str, list[Mapping]] = {}
    for index, record in enumerate(records):
        qid = query_id(record)
        if qid is None:
            raise ValueError(f"Each of the `{name}` needs a `qid`; number {index} has the keys {sorted(record)}.")
        groups.setdefault(qid, []).append(record)
    return groups


def align(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> list[Query]:
    """The queries to score: in the order of the predictions, then those without a prediction.

    Args:
        predictions: Records with a `qid`.
        references: Records with a `qid`; ids are compared as strings.
        match_reference_code: Refuse queries without a prediction.
        match_number: Refuse predictions for unknown queries; `False` = score only the queries that both sides have.

    Raises:
        ValueError: The two sides do not match.
    """
    predicted = group_by_query(predictions, "predictions")
    wanted = group_by_query(references, "references")
    unknown = [qid for qid in predicted if qid not in wanted]
    missing = [qid for qid in wanted if qid not in predicted]
    remedy = "Check the split, or pass `match_number=False` to score the queries that both sides have."
    if match_number and unknown:
        raise ValueError(f"`predictions` holds queries that `references` lacks: {name_queries(unknown)}. {remedy}")
    if match_number and match_reference_code and missing:
        raise ValueError(f"`predictions` lacks queries of `references`: {name_queries(missing)}. {remedy}")
    qids = [qid for qid in predicted if qid in wanted]
    if match_number:
        qids += missing
    if not qids:
        raise ValueError(f"`predictions` ({len(predicted)}) and `references` ({len(wanted)}) have no query in common.")
    return [Query(qid, predicted.get(qid, []), wanted[qid]) for qid in qids]


def require(key: str, values: Iterable[tuple[str, object]]) -> None:
    """Refuse empty values, on which the public evaluators fail.

    Args:
        key: The field that the values come from.
        values: (qid, value) pairs.

    Raises:
        ValueError: A value is empty; the queries are named.
    """
    empty: dict[str, None] = {}  # in order, each once
    for qid, value in values:
        if not value:
            empty[qid] = None
    if empty:
        raise ValueError(
            f"The reference code has no score where `{key}` is missing or empty, as for {name_queries(list(empty))}. Leave "
            "these queries out on both sides, or pass `match_reference_code=False`."
        )


def align_saliency(
    predictions: Iterable[Mapping], references: Iterable[Mapping], *, match_reference_code: bool, match_number: bool
) -> list[Query]:
    """`align` the queries with annotated saliency.

    Absent queries have no highlights, so their saliency, 0 throughout, is not scored. With `match_reference_code` it is:
    the public evaluator counts such a query as a failure.

    Raises:
        ValueError: No query has any, or, with `match_reference_code`, some lack predicted or annotated saliency.
    """
    queries = align(predictions, references, match_reference_code=match_reference_code, match_number=match_number)
    if match_reference_code:
        require("pred_saliency_scores", [(query.qid, query.scores) for query in queries])
        require("saliency", [(query.qid, query.annotation) for query in queries])
    else:
        queries = [query for query in queries if not query.is_absent]
    annotated = [query for query in queries if query.annotation]
    if not annotated:
        raise ValueError("None of the `references` has `saliency`: there is nothing to score saliency against.")
    return annotated


def read_numbers(items: Iterable, width: int | None) -> np.ndarray | None:
    """Items as an array `(num_items,)` or `(num_items, width)`; `None` if they are malformed or not finite."""
    try:
        items = list(items)
        if width is None:
            values = np.fromiter(items, np.float64, len(items))
        elif set(map(len, items)) <= {width}:
            values = np.fromiter(chain.from_iterable(items), np.float64, len(items) * width).reshape(-1, width)
        else:
            return None
    except (OverflowError, TypeError, ValueError):
        return None
    return values if np.isfinite(values).all() else None


def pad_rows(
    rows: list[list], qids: list[str], name: str, width: int | None = None, fill: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths, padded to one array.

    Args:
        rows: One list per query, of numbers or of lists of `width` numbers.
        qids: The query of each row, for the error.
        name: Name of the field, for the error.
        width: Length of an item; `None` = the items are numbers.
        fill: Value of the padding.

    Returns:
        An array `(num_queries, longest)` or `(num_queries, longest, width)`, and the length of each row; `longest` is at
        least 1.

    Raises:
        ValueError: A row is malformed, or a value is not finite.
    """
    values = read_numbers(chain.from_iterable(rows), width)
    if values is None:
        bad = next(index for index, row in enumerate(rows) if read_numbers(row, width) is None)
        form = "a list of finite numbers" if width is None else f"a list of lists of {width} finite numbers"
        raise ValueError(f"`{name}` of query '{qids[bad]}' must be {form}, got {str(rows[bad])[:MAX_CHARACTERS]}.")
    counts = np.array([len(row) for row in rows])
    real = np.arange(max(1, counts.max())) < counts[:, None]  # (num_queries, longest)
    padded = np.full((*real.shape, *values.shape[1:]), fill)
    padded[real] = values
    return padded, counts


def group_by_size(sizes: Iterable[tuple[int, ...]]) -> list[list[int]]:
    """Positions of items grouped by similar size, equal in the bit length of every number.

    A group is padded to its longest item, which less than doubles each dimension; padded all together, a single long item
    would make every other as long.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(sizes):
        key = tuple(number.bit_length() for number in size)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def read_saliency(queries: list[Query], num_annotators: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and annotated saliency of queries with annotated saliency.

    Args:
        queries: Queries of similar size, since all are padded to the longest.
        num_annotators: Number of scores of each annotated unit.

    Returns:
        Predicted scores `(num_queries, longest)`, 0 where padded; their numbers `(num_queries,)`; annotated scores
        `(num_queries, num_units, num_annotators)`, -inf where padded; the numbers of units `(num_queries,)`.

    Raises:
        ValueError: Scores are not finite numbers, or a unit has another number of annotators.
    """
    qids = [query.qid for query in queries]
    predicted, num_scores = pad_rows([query.scores for query in queries], qids, "pred_saliency_scores")
    truth = [query.annotation for query in queries]
    annotated, num_units = pad_rows(truth, qids, "saliency", num_annotators, fill=-np.inf)
    return predicted, num_scores, annotated, num_units


__all__ = [
    "Query",
    "align",
    "align_saliency",
    "group_by_size",
    "is_number",
    "name_queries",
    "pad_rows",
    "predicted_list",
    "query_id",
    "read_predictions",
    "read_saliency",
    "require",
    "with_scores",
]
