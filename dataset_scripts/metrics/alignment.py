"""Predictions and references brought together by query, and turned into arrays; what cannot be scored is refused."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np


NAMED_AT_MOST = 5  # queries that an error lists before it only counts them
SHOWN_AT_MOST = 100  # characters of a wrong value in an error


class Query(NamedTuple):
    """What is known about one query.

    Attributes:
        qid: Its id, as a string.
        predictions: Its records among the predictions, in their order; usually one, none where nothing was predicted.
        references: Its records among the references; usually one.
    """

    qid: str
    predictions: list[Mapping]
    references: list[Mapping]

    @property
    def scores(self) -> list[float]:
        """Predicted saliency in the last record, one score a clip; empty where nothing was predicted."""
        return predicted_list(self.predictions[-1], "pred_saliency_scores") if self.predictions else []

    @property
    def annotation(self) -> list[list[float]]:
        """Annotated saliency in the last record, a row a clip, a score an annotator; empty where not annotated."""
        return (self.references[-1].get("saliency") or {}).get("scores") or []


def query_id(record: Mapping) -> str | None:
    """The `qid` of a record, or its `vid` where it has none."""
    qid = record.get("qid")
    qid = record.get("vid") if qid is None else qid
    return None if qid is None else str(qid)


def predicted_list(record: Mapping, key: str) -> list:
    """A list in a prediction; empty where it is missing.

    Raises:
        ValueError: There is something else.
    """
    value = record.get(key)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, list | tuple | None):
        raise ValueError(f"`{key}` of query '{query_id(record)}' must be a list, got {str(value)[:SHOWN_AT_MOST]}.")
    return list(value or [])


def name_queries(qids: list[str]) -> str:
    """Some ids for an error message."""
    names = ", ".join(f"'{qid}'" for qid in qids[:NAMED_AT_MOST])
    return names if len(qids) <= NAMED_AT_MOST else f"{names} and {len(qids) - NAMED_AT_MOST} more"


def group_by_query(records: Iterable[Mapping], name: str) -> dict[str, list[Mapping]]:
    """Records of each query, queries in order of appearance.

    Raises:
        ValueError: A record without an id.
    """
    groups: dict[str, list[Mapping]] = {}
    for index, record in enumerate(records):
        qid = query_id(record)
        if qid is None:
            raise ValueError(f"Each of the `{name}` needs a `qid`, number {index} has the keys {sorted(record)}.")
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
        predictions: Records with a `qid` each.
        references: The same; ids of both sides are compared as strings.
        match_reference_code: Refuse queries without a prediction.
        match_number: Refuse predictions for unknown queries; `False` = only the queries that both sides know.

    Raises:
        ValueError: The two sides do not belong together.
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
    qids = [qid for qid in predicted if qid in wanted] + (missing if match_number else [])
    if not qids:
        raise ValueError(f"`predictions` ({len(predicted)}) and `references` ({len(wanted)}) have no query in common.")
    return [Query(qid, predicted.get(qid, []), wanted[qid]) for qid in qids]


def require(key: str, values: Iterable[tuple[str, object]]):
    """Raise where the public evaluators stop: one of the values, each with its query's id, is empty."""
    empty = list(dict.fromkeys(qid for qid, value in values if not value))
    if empty:
        raise ValueError(
            f"The reference code has no score where `{key}` is missing or empty, as for {name_queries(empty)}. Leave "
            "these queries out on both sides, or pass `match_reference_code=False`."
        )


def align_saliency(
    predictions: Iterable[Mapping], references: Iterable[Mapping], *, match_reference_code: bool, match_number: bool
) -> list[Query]:
    """`align`, for the queries with annotated saliency.

    Raises:
        ValueError: There is none, or, with `match_reference_code`, some lack predicted or annotated saliency.
    """
    queries = align(predictions, references, match_reference_code=match_reference_code, match_number=match_number)
    if match_reference_code:
        require("pred_saliency_scores", [(query.qid, query.scores) for query in queries])
        require("saliency", [(query.qid, query.annotation) for query in queries])
    annotated = [query for query in queries if query.annotation]
    if not annotated:
        raise ValueError("None of the `references` has `saliency`: there is nothing to score saliency against.")
    return annotated


def read_numbers(items: Iterable, width: int | None) -> np.ndarray | None:
    """Items as `(num_items,)`, or as `(num_items, width)`; `None` if they are not that or not finite."""
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
    """Rows of different lengths as one array.

    Args:
        rows: One list a query, of numbers or of lists of `width` numbers.
        qids: Whose they are.
        name: What they are, for the error.
        width: Numbers of an item; `None` = the items are numbers.
        fill: Value of the padding.

    Returns:
        `(queries, longest)` or `(queries, longest, width)`, and how long each row is; `longest` is at least 1.

    Raises:
        ValueError: A row holds something else, or a value that is not finite.
    """
    values = read_numbers(chain.from_iterable(rows), width)
    if values is None:
        bad = next(index for index, row in enumerate(rows) if read_numbers(row, width) is None)
        form = "a list of finite numbers" if width is None else f"a list of lists of {width} finite numbers"
        raise ValueError(f"`{name}` of query '{qids[bad]}' must be {form}, got {str(rows[bad])[:SHOWN_AT_MOST]}.")
    counts = np.array([len(row) for row in rows])
    real = np.arange(max(1, counts.max())) < counts[:, None]  # (queries, longest)
    padded = np.full((*real.shape, *values.shape[1:]), fill)
    padded[real] = values
    return padded, counts


def group_by_size(sizes: Iterable[tuple[int, ...]]) -> list[list[int]]:
    """Positions of items of like size: padded together they take no multiple of what they hold.

    A single long item would otherwise make all others as long.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(tuple(number.bit_length() for number in size), []).append(index)
    return list(groups.values())


def read_saliency(queries: list[Query], num_annotators: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and annotated saliency of queries that have the latter.

    Args:
        queries: Of like size, as all are padded to the longest.
        num_annotators: Scores of each annotated clip.

    Returns:
        Predicted scores `(queries, longest)`, 0 where padded; how many there are; annotated scores
        `(queries, clips, annotators)`, -inf where padded; how many clips there are.

    Raises:
        ValueError: Scores are not finite numbers, or not from `num_annotators` everywhere.
    """
    qids, truth = [query.qid for query in queries], [query.annotation for query in queries]
    predicted, num_scores = pad_rows([query.scores for query in queries], qids, "pred_saliency_scores")
    annotated, num_clips = pad_rows(truth, qids, "saliency", num_annotators, fill=-np.inf)
    return predicted, num_scores, annotated, num_clips


__all__ = [
    "Query",
    "align",
    "align_saliency",
    "group_by_size",
    "pad_rows",
    "predicted_list",
    "query_id",
    "read_saliency",
    "require",
]
