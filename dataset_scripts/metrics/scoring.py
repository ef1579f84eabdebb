"""`compute_scores`: the metric of a benchmark, chosen by its spec.

The other files of this folder know no benchmark: `evaluate.load` copies them to a place without this package.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from dataset_scripts.benchmarks import BENCHMARKS

from .alignment import Query, align, query_id
from .corpus import score_corpus
from .existence import score_existence
from .first_moment import score_first_moment
from .generalized import score_generalized
from .highlights import score_highlights, score_youtube_highlights
from .interval_sets import score_interval_sets
from .moments import score_moments
from .multi_moment import score_multi_moment
from .summaries import score_summaries


__all__ = ["compute_scores"]

DOMAIN_METRICS: dict[str, Callable[..., dict[str, float]]] = {
    "highlights": score_youtube_highlights,
    "summaries": score_summaries,
}
# Metrics that give "brief" and details.
BENCHMARK_METRICS: dict[str, Callable[..., dict[str, dict[str, Any]]]] = {
    "corpus": score_corpus,
    "first_moment": score_first_moment,
    "generalized": score_generalized,
    "interval_sets": score_interval_sets,
    "multi_moment": score_multi_moment,
}
RANGES = ("full", "long", "middle", "short")
BRIEF_RECALLS = ("0.3", "0.5", "0.7")
BRIEF_PRECISIONS = ("0.5", "0.75")


def compute_scores(
    benchmark: str,
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict[str, Any]]:
    """Score predictions for a benchmark.

    Args:
        benchmark: One of `BENCHMARKS` in `dataset_scripts.benchmarks`, such as "qvhighlights".
        predictions: Records with `qid` (compared as string; else `vid`), `pred_relevant_windows`
            `[[start_sec, end_sec, score], ...]`, `pred_saliency_scores`, one per unit, and / or `pred_exist_score`. For
            a corpus also `VCMR`, `SVMR` and `VR` (see `corpus.py`).
        references: Rows of the dataset, with `qid`, `query`, `moments`, `saliency` and `domain`.
        match_reference_code: Reproduce the benchmark's public evaluator in every corner case (tables in the package's
            docstring and in the module of each metric).
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        Percentages rounded to two decimals; "brief" holds the figures that papers print, and the details follow. For the
        metric "grounding" these are "HL-min-Fair", "HL-min-Good", "HL-min-VeryGood" for saliency, and "full", "long",
        "middle", "short", "by_query_length" for moments; `EX-AUROC`, `EX-FAR@95`, `EX-ECE` and `EX-Rej-F1@0.5` join
        "brief" where a query is absent and a prediction has `pred_exist_score`. For "highlights" and "summaries" there
        is only "brief", with `mAP-{domain}` and `mAP-average`. The modules of the other metrics name their figures.

    Raises:
        ValueError: An unknown benchmark, or predictions that cannot be scored (same tables); queries are named.

    Examples:
        >>> scores = compute_scores(
        ...     "charades_sta",
        ...     [{"qid": 0, "pred_relevant_windows": [[0.0, 12.0, 0.9]]}],
        ...     [{"qid": "0", "query": "person opens a door", "moments": [[0.0, 10.0]], "saliency": None}],
        ... )
        >>> scores["brief"]["MR-full-R1@0.7"], scores["brief"]["MR-full-mIoU"], scores["brief"]["MR-full-mAP"]
        (100.0, 83.33, 70.0)
        >>> scores["brief"]["MR-long-mAP"] is None
        True
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"`benchmark` must be one of {', '.join(BENCHMARKS)}, got {benchmark!r}.")
    predictions, references = list(predictions), list(references)
    options = {"match_reference_code": match_reference_code, "match_number": match_number}
    metric = BENCHMARKS[benchmark].metric
    if metric in DOMAIN_METRICS:
        return {"brief": DOMAIN_METRICS[metric](predictions, references, **options)}
    if metric in BENCHMARK_METRICS:
        return BENCHMARK_METRICS[metric](predictions, references, **options)
    return score_grounding(predictions, references, **options)


def score_grounding(
    predictions: list[Mapping], references: list[Mapping], *, match_reference_code: bool, match_number: bool
) -> dict[str, dict[str, Any]]:
    """Moments, saliency and existence, each where it is predicted and annotated."""
    options = {"match_reference_code": match_reference_code, "match_number": match_number}
    queries = align(predictions, references, **options)
    if match_reference_code:
        with_moments, with_saliency = tasks_of_reference_code(queries, references)
        with_existence = False  # the public evaluator knows no absent queries
    else:
        with_moments, with_saliency = tasks_to_score(queries)
        with_existence = has_existence(queries)
    if not with_moments and not with_saliency and not with_existence:
        raise ValueError(
            "There is nothing to score: `predictions` need `pred_relevant_windows` for `references` with `moments`, "
            "`pred_saliency_scores` for `references` with `saliency`, or `pred_exist_score` for `references` whose "
            "`moments` are empty."
        )
    moments = score_moments(predictions, references, **options) if with_moments else {}
    saliency = score_highlights(predictions, references, **options) if with_saliency else {}
    existence = score_existence(predictions, references, match_number=match_number) if with_existence else {}
    brief = {**summarize_moments(moments), **summarize_saliency(saliency), **existence}
    return {"brief": brief, **saliency, **moments}


def has_existence(queries: list[Query]) -> bool:
    """Whether existence is scored: any query is absent, and any prediction has a score for it."""
    if not any(query.is_absent for query in queries):
        return False
    predictions = chain.from_iterable(query.predictions for query in queries)
    return any(record.get("pred_exist_score") is not None for record in predictions)


def tasks_to_score(queries: list[Query]) -> tuple[bool, bool]:
    """Whether moments and whether saliency are scored: any query has a prediction, and any is annotated."""
    predictions = list(chain.from_iterable(query.predictions for query in queries))
    references = list(chain.from_iterable(query.references for query in queries))
    moments_predicted = any(record.get("pred_relevant_windows") is not None for record in predictions)
    moments_annotated = any(record.get("moments") for record in references)
    saliency_predicted = any(record.get("pred_saliency_scores") is not None for record in predictions)
    saliency_annotated = any(query.annotation and not query.is_absent for query in queries)
    return moments_predicted and moments_annotated, saliency_predicted and saliency_annotated


def tasks_of_reference_code(queries: list[Query], references: list[Mapping]) -> tuple[bool, bool]:
    """The same by the rule of the public evaluator, which looks at the first prediction and the first reference."""
    qids = {query.qid for query in queries}
    prediction = queries[0].predictions[0]
    reference = next(reference for reference in references if query_id(reference) in qids)
    has_moments = prediction.get("pred_relevant_windows") is not None
    has_saliency = prediction.get("pred_saliency_scores") is not None and reference.get("saliency") is not None
    return has_moments, has_saliency


def summarize_moments(scores: dict[str, dict]) -> dict[str, float | None]:
    """The figures that papers print, from the result of `score_moments`; none if moments are not scored."""
    if not scores:
        return {}
    full = scores["full"]
    brief = {}
    for name in ("R1", "R5"):
        for threshold in BRIEF_RECALLS:
            brief[f"MR-full-{name}@{threshold}"] = full[f"MR-{name}"][threshold]
    for threshold in BRIEF_PRECISIONS:
        brief[f"MR-full-mAP@{threshold}"] = full["MR-mAP"][threshold]
    for name in RANGES:
        brief[f"MR-{name}-mAP"] = scores[name]["MR-mAP"]["average"]
        brief[f"MR-{name}-mIoU"] = scores[name]["MR-mIoU"]
    return dict(sorted(brief.items()))


def summarize_saliency(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """The result of `score_highlights` in one flat dictionary, such as `HL-min-Fair-mAP`."""
    brief = {}
    for level, figures in scores.items():
        for name, value in figures.items():
            brief[f"{level}-{name.removeprefix('HL-')}"] = value
    return brief
