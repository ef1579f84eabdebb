"""Metrics of the benchmarks, in NumPy.

`compute_scores` takes a whole list of predictions. `moments.py`, `highlights.py` and `summaries.py` hold one task each;
`moment_retrieval.py`, `highlight_detection.py` and `summarization.py` make modules for `evaluate.load` of them. (Apart,
because `evaluate` imports transformers and with it torch.)

Where the evaluator of the released R2-Tuning code has an answer, ours is the same to the last printed digit; in the
default mode but for the last two rows of this table. In brackets what the released code does where it has none.

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction | counts as 0 | `ValueError` (AssertionError) |
| `pred_relevant_windows` empty or missing | counts as 0 | `ValueError` (IndexError, KeyError) |
| `pred_saliency_scores` empty or missing | counts as 0 | `ValueError` (ValueError, KeyError) |
| query without `moments` or without `saliency` | not scored for that task | `ValueError` (IndexError, KeyError) |
| prediction for an unknown query | `ValueError` | `ValueError` (AssertionError) |
| value that is not finite, window without score | `ValueError` | `ValueError` (NaN, IndexError) |
| nothing to score | `ValueError` | `ValueError` (an empty result) |
| range (short, middle, long) without a query | `None` | the figures of "full" |
| the first prediction or reference lacks what others have | scored, as above | task left out |

With `match_number=False` only the queries that both sides have are scored, in both modes.
"""

from collections.abc import Iterable, Mapping

from .alignment import Query, align, query_id
from .highlights import score_highlights, score_youtube_highlights
from .moments import score_moments
from .summaries import score_summaries


MOMENT_BENCHMARKS = ("qvhighlights", "charades_sta", "ego4d_nlq", "tacos", "moving_shapes")
DOMAIN_BENCHMARKS = {
    "youtube_highlights": score_youtube_highlights,
    "tvsum": score_summaries,
    "moving_shapes_summary": score_summaries,
}
BRIEF_RECALLS = ("0.3", "0.5", "0.7")


def tasks_to_score(queries: list[Query]) -> tuple[bool, bool]:
    """Whether windows and whether saliency are scored: where any query has a prediction and any is annotated."""
    predictions = [record for query in queries for record in query.predictions]
    return (
        any(record.get("pred_relevant_windows") is not None for record in predictions)
        and any(record.get("moments") for query in queries for record in query.references),
        any(record.get("pred_saliency_scores") is not None for record in predictions)
        and any(query.annotation for query in queries),
    )


def tasks_of_reference_code(queries: list[Query], references: list[Mapping]) -> tuple[bool, bool]:
    """The same by the rule of the public evaluator, which looks at the first prediction and the first reference."""
    qids = {query.qid for query in queries}
    prediction = queries[0].predictions[0]
    reference = next(reference for reference in references if query_id(reference) in qids)
    return (
        prediction.get("pred_relevant_windows") is not None,
        prediction.get("pred_saliency_scores") is not None and reference.get("saliency") is not None,
    )


def summarize_moments(scores: dict[str, dict]) -> dict[str, float | None]:
    """The figures that papers print, of the result of `score_moments`."""
    full = scores["full"]
    brief = {f"MR-full-{name}@{at}": full[f"MR-{name}"][at] for name in ("R1", "R5") for at in BRIEF_RECALLS}
    brief |= {f"MR-full-mAP@{at}": full["MR-mAP"][at] for at in ("0.5", "0.75")}
    for name in ("full", "long", "middle", "short"):
        brief |= {f"MR-{name}-mAP": scores[name]["MR-mAP"]["average"], f"MR-{name}-mIoU": scores[name]["MR-mIoU"]}
    return dict(sorted(brief.items()))


def compute_scores(
    benchmark: str,
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict]:
    """Score predictions for a benchmark.

    Args:
        benchmark: "qvhighlights", "charades_sta", "ego4d_nlq", "tacos", "youtube_highlights", "tvsum", "moving_shapes" or
            "moving_shapes_summary".
        predictions: Records with `qid` (compared as string; else `vid`), `pred_relevant_windows`
            `[[start_sec, end_sec, score], ...]` and / or `pred_saliency_scores`, one a clip.
        references: Rows of the dataset, with `qid`, `query`, `moments`, `saliency` and `domain`.
        match_reference_code: Behave as the released R2-Tuning code in every corner (table above).
        match_number: Both sides must hold the same queries; `False` = score those that they share.

    Returns:
        Percentages rounded to two decimals. For the first four benchmarks "brief" with the figures that papers print,
        then what was scored: "HL-min-Fair", "HL-min-Good", "HL-min-VeryGood" for saliency, and "full", "long", "middle",
        "short", "by_query_length" for windows. For the last two "brief" with `mAP-{domain}` and `mAP-average`.

    Raises:
        ValueError: An unknown benchmark, or predictions that cannot be scored (table above); queries are named.

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
    predictions, references = list(predictions), list(references)
    options = {"match_reference_code": match_reference_code, "match_number": match_number}
    if benchmark in DOMAIN_BENCHMARKS:
        return {"brief": DOMAIN_BENCHMARKS[benchmark](predictions, references, **options)}
    if benchmark not in MOMENT_BENCHMARKS:
        names = ", ".join((*MOMENT_BENCHMARKS, *DOMAIN_BENCHMARKS))
        raise ValueError(f"`benchmark` must be one of {names}, got {benchmark!r}.")
    queries = align(predictions, references, **options)
    tasks = tasks_of_reference_code(queries, references) if match_reference_code else tasks_to_score(queries)
    with_moments, with_saliency = tasks
    if not with_moments and not with_saliency:
        raise ValueError(
            "There is nothing to score: `predictions` need `pred_relevant_windows` for `references` with `moments`, or "
            "`pred_saliency_scores` for `references` with `saliency`."
        )
    brief, scores = {}, {}
    if with_moments:
        moments = score_moments(predictions, references, **options)
        brief |= summarize_moments(moments)
    if with_saliency:
        scores |= score_highlights(predictions, references, **options)
        brief |= {f"{name}-{key[3:]}": value for name, level in scores.items() for key, value in level.items()}
    if with_moments:
        scores |= {name: moments[name] for name in ("full", "long", "middle", "short", "by_query_length")}
    return {"brief": brief, **scores}


__all__ = ["compute_scores", "score_highlights", "score_moments", "score_summaries", "score_youtube_highlights"]
