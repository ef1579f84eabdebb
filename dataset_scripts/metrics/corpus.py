"""Retrieval from a corpus of videos (TVR).

Source: `standalone_eval/eval.py` of jayleicn/TVRetrieval.

The first 100 predictions of a query are kept, in list order; scores are never read. At an IoU threshold t = 0.5, 0.7:

- VCMR (moments in a corpus): R@k at t is the share of queries with a moment of the right video and IoU >= t among the
  first k = 1, 5, 10, 100.
- SVMR (moments in the given video): the same after moments of other videos are removed. They cost no rank, but they do
  count among the 100.
- VR (videos): R@k is the share of queries whose video is among the first k. A video that is named several times takes
  several ranks.

IoU divides by the span from the first start to the last end, and is 0 where that is 0. The arithmetic, with the
thresholds, is in single precision in both modes: where a moment is cut exactly in half, double precision gives other
figures. `{task}_by_type` has the same figures for the queries of each `domain` (on TVR `v`, `t` and `vt`: answered by the
video, its subtitles or both), and `desc_type_ratio` their shares.

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction, for a task that others have | counts as a miss | `ValueError` (AssertionError) |
| empty list | counts as a miss | `ValueError` (IndexError) |
| prediction for an unknown query | `ValueError` | `ValueError` (AssertionError) |
| reversed prediction (end before start) | `ValueError` | takes a rank; IoU 0 |
| prediction that is not numeric or not finite | `ValueError` | `ValueError` (undefined) |
| query with several moments | any of them | with four or more (DiDeMo) at least two; with two or three any (undefined) |
| reference without a `domain` | in no type | `ValueError` (KeyError) |
| types | those that occur | `v`, `t` and `vt`; NaN for one without queries |
| `moments` is `[]` or `None` | not scored | `ValueError` (undefined) |
| two predictions for a query | the last that has the task | the same |

`match_number=False` scores the queries that both sides have, in both modes.
"""

import functools
import operator
from collections.abc import Iterable, Mapping
from itertools import chain
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from .alignment import (
    MAX_CHARACTERS,
    Query,
    align,
    pad_rows,
    predicted_list,
    read_numbers,
    read_predictions,
    require,
)
from .average_precision import percent
from .moments import count_moments


MAX_PREDICTIONS = 100
RANKS = (1, 5, 10, 100)  # k
THRESHOLDS = (0.5, 0.7)
TASKS = ("VCMR", "SVMR", "VR")
TYPES = ("v", "t", "vt")
DIDEMO_MOMENTS = 4  # moments of a query from which on two must be reached


class Corpus(NamedTuple):
    """The queries of a corpus.

    Attributes:
        queries: All scored queries.
        videos: The video of each.
        moments: `(num_queries, most_moments, 2)`, float32 seconds; NaN = padding.
        num_needed: `(num_queries,)`, how many of its moments a prediction must reach.
    """

    queries: list[Query]
    videos: list[str]
    moments: np.ndarray
    num_needed: np.ndarray


class Entries(NamedTuple):
    """The predictions of all queries for one task, one after another.

    Attributes:
        query: `(num_entries,)`, index of the query.
        is_right: `(num_entries,)`, whether the entry names the query's video.
        times: `(num_entries, 2)`, float32 start and end in seconds; 0 for entries that name only a video.
    """

    query: np.ndarray
    is_right: np.ndarray
    times: np.ndarray


def score_corpus(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict[str, Any]]:
    """Score predictions with the metrics of TVR.

    Args:
        predictions: Records with `qid` and any of `VCMR` and `SVMR`, `[[video_id, start_sec, end_sec], ...]`, and `VR`,
            `[video_id, ...]`; longer entries are allowed, and only their beginning is read. Without `SVMR`, the
            `pred_relevant_windows` of a record, `[[start_sec, end_sec, score], ...]`, are its moments in the query's own
            video. `read_submission` converts the public submission file.
        references: Rows with `qid`, `video_id`, `moments` and `domain`.
        match_reference_code: Reproduce the public evaluator in every corner case (table in the module's docstring).
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        "brief" (`VCMR-R1@0.5`, ..., `VR-R100`), then for each predicted task its figures as the public code names them
        ("VCMR": `0.5-r1`, ...) and those by type ("VCMR_by_type"); percentages rounded to two decimals.

    Raises:
        ValueError: The two sides do not match, a prediction is malformed, there is nothing to score, or, with
            `match_reference_code`, the public evaluator has no answer.
    """
    queries = align(predictions, references, match_reference_code=match_reference_code, match_number=match_number)
    corpus = read_corpus(queries, match_reference_code)
    types = read_types(corpus.queries, match_reference_code)
    brief: dict[str, float] = {}
    scores: dict[str, dict[str, Any]] = {}
    by_type: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        rows = select_task(corpus, task, allow_reversed=match_reference_code)
        if not any(row is not None for row in rows):
            continue
        if match_reference_code:
            require(task, [(query.qid, row) for query, row in zip(corpus.queries, rows, strict=True)])
        entries = read_entries(corpus, task, rows, allow_reversed=match_reference_code)
        first = rank_first(corpus, entries, task)
        scores[task] = score_recalls(first)
        brief |= {f"{task}-{brief_name(name)}": value for name, value in scores[task].items()}
        if types:
            by_type[f"{task}_by_type"] = score_types(first, types)
    if not scores:
        raise ValueError(
            "There is nothing to score: `predictions` need `VCMR`, `SVMR`, `VR` or `pred_relevant_windows`."
        )
    return {"brief": brief, **scores, **by_type}


# ---- reading -------------------------------------------------------------------------------------------------------


def read_corpus(queries: list[Query], match_reference_code: bool) -> Corpus:
    """The queries with moments, as arrays."""
    if match_reference_code:
        require("moments", [(query.qid, count_moments(query)) for query in queries])
    queries = [query for query in queries if count_moments(query)]
    if not queries:
        raise ValueError("None of the `references` has `moments`: there is nothing to score predictions against.")
    rows = [query.references[-1]["moments"] for query in queries]
    moments, num_moments = pad_rows(rows, [query.qid for query in queries], "moments", 2, fill=np.nan)
    num_needed = np.ones(len(queries), dtype=int)
    if match_reference_code:
        num_needed[num_moments >= DIDEMO_MOMENTS] = 2
    videos = [query.references[-1]["video_id"] for query in queries]
    return Corpus(queries, videos, moments.astype(np.float32), num_needed)


def read_types(queries: list[Query], match_reference_code: bool) -> dict[str, np.ndarray]:
    """Masks `(num_queries,)` of the queries of each type."""
    domains = [query.references[-1].get("domain") for query in queries]
    if match_reference_code:
        require("domain", [(query.qid, domain) for query, domain in zip(queries, domains, strict=True)])
    names = TYPES if match_reference_code else [name for name in dict.fromkeys(domains) if name is not None]
    values = np.array(domains, dtype=object)
    return {name: values == name for name in names}


def select_task(corpus: Corpus, task: str, *, allow_reversed: bool) -> list[list[Any] | None]:
    """The predictions of each query for a task, at most 100; `None` if it has none."""
    rows: list[list[Any] | None] = []
    for query, video in zip(corpus.queries, corpus.videos, strict=True):
        row = None
        for record in query.predictions:
            if record.get(task) is not None:
                row = predicted_list(record, task)
            elif task == "SVMR" and record.get("pred_relevant_windows") is not None:
                moments = read_predictions(record, allow_reversed=allow_reversed)
                row = [[video, *moment] for moment in moments]
        rows.append(None if row is None else row[:MAX_PREDICTIONS])
    return rows


def read_entries(corpus: Corpus, task: str, rows: list[list[Any] | None], *, allow_reversed: bool) -> Entries:
    """The predictions of a task as arrays.

    Raises:
        ValueError: An entry is malformed; the query is named.
    """
    filled = [row or [] for row in rows]
    parse = parse_videos if task == "VR" else functools.partial(parse_moments, allow_reversed=allow_reversed)
    parsed = parse(list(chain.from_iterable(filled)))
    if parsed is None:
        bad = next(index for index, row in enumerate(filled) if parse(row) is None)
        form = "video ids"
        if task != "VR":
            form = "[video_id, start, end] with finite numbers and start <= end"
        raise ValueError(
            f"`{task}` of query '{corpus.queries[bad].qid}' must hold {form}, got {str(filled[bad])[:MAX_CHARACTERS]}."
        )
    videos, times = parsed
    query = np.repeat(np.arange(len(filled)), list(map(len, filled)))
    wanted = [corpus.videos[index] for index in query]
    is_right = np.fromiter(map(operator.eq, videos, wanted), bool, len(query))
    return Entries(query, is_right, times)


def parse_videos(entries: list[Any]) -> tuple[list[str], np.ndarray] | None:
    """Names of the videos, and times of 0; `None` if an entry is neither a name nor a list that begins with one."""
    videos = []
    for entry in entries:
        video = entry[0] if isinstance(entry, list | tuple) and entry else entry
        if not isinstance(video, str):
            return None
        videos.append(video)
    return videos, np.zeros((len(videos), 2), np.float32)


def parse_moments(entries: list[Any], *, allow_reversed: bool) -> tuple[list[str], np.ndarray] | None:
    """Names of the videos and times `(num_entries, 2)` in float32; `None` if an entry is malformed."""
    if not all(isinstance(entry, list | tuple) and len(entry) >= 3 for entry in entries):
        return None
    videos = [entry[0] for entry in entries]
    numbers = list(chain.from_iterable(entry[1:3] for entry in entries))
    # Types are compared once each: with a million numbers a check of every one would take most of the time.
    for kind in set(map(type, numbers)):
        if not issubclass(kind, Real) or issubclass(kind, bool | np.bool_):
            return None
    if not all(issubclass(kind, str) for kind in set(map(type, videos))):
        return None
    times = read_numbers(numbers, None)
    if times is None:
        return None
    times = times.reshape(-1, 2)
    if not allow_reversed and (times[:, 1] < times[:, 0]).any():
        return None
    return videos, times.astype(np.float32)


# ---- figures -------------------------------------------------------------------------------------------------------


def rank_first(corpus: Corpus, entries: Entries, task: str) -> dict[str, np.ndarray]:
    """Rank of each query's first hit, counted from 0, `(num_queries,)` for each figure; infinite without a hit."""
    num_queries = len(corpus.queries)
    if task == "SVMR":  # moments of other videos cost no rank
        entries = Entries(*[values[entries.is_right] for values in entries])
    sizes = np.bincount(entries.query, minlength=num_queries)
    rank = np.arange(len(entries.query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    hits = {"": entries.is_right}
    if task != "VR":
        iou = hull_iou(entries.times[:, None], corpus.moments[entries.query])  # (num_entries, most_moments)
        hits = {}
        for threshold in THRESHOLDS:
            num_reached = (iou >= np.float32(threshold)).sum(axis=1)
            hits[f"{threshold}-"] = entries.is_right & (num_reached >= corpus.num_needed[entries.query])
    first = {}
    for name, is_hit in hits.items():
        first[name] = np.full(num_queries, np.inf)
        np.minimum.at(first[name], entries.query[is_hit], rank[is_hit])
    return first


def hull_iou(times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Overlap over the span from the first start to the last end, 0 where that is 0; in single precision."""
    overlap = np.minimum(times[..., 1], moments[..., 1]) - np.maximum(times[..., 0], moments[..., 0])
    overlap = np.maximum(overlap, 0)
    hull = np.maximum(times[..., 1], moments[..., 1]) - np.minimum(times[..., 0], moments[..., 0])
    return np.divide(overlap, hull, out=np.zeros_like(overlap), where=hull != 0)


def score_recalls(first: dict[str, np.ndarray], prefix: str = "") -> dict[str, float]:
    """R@k for each k; NaN without queries.

    Args:
        first: Rank of the first hit of each query, `(num_queries,)`, by figure.
        prefix: Beginning of each name.
    """
    scores = {}
    for name, ranks in first.items():
        for k in RANKS:
            share = (ranks < k).mean() if len(ranks) else np.nan
            scores[f"{prefix}{name}r{k}"] = percent(share)
    return scores


def score_types(first: dict[str, np.ndarray], types: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of each type, and the shares of the types among the queries as a text."""
    scores: dict[str, Any] = {}
    shares = []
    for kind, mask in types.items():
        scores |= score_recalls({name: ranks[mask] for name, ranks in first.items()}, f"{kind}-")
        shares.append(f"{kind} {percent(mask.mean())}")
    return {**scores, "desc_type_ratio": " ".join(shares)}


def brief_name(name: str) -> str:
    """The usual name of a figure: `R1@0.5` for `0.5-r1`, `R1` for `r1`."""
    threshold, _, rank = name.rpartition("-r")
    return f"R{rank}@{threshold}" if threshold else name.upper()


__all__ = ["MAX_PREDICTIONS", "score_corpus"]
