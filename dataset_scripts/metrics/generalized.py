"""Generalized moment retrieval: queries may have no, one or several moments (Soccer-GMR).

Source: `eval/eval_main.py` of dymm9977/generalized-moment-retrieval, with its defaults.

Annotated moments are clipped to the video, empty and repeated ones are dropped, and the rest is sorted; a query that has
none left is absent. G are the moments of a query, P_k its first k predictions in list order (k = 1, 3, 5), s its
existence score. M(t) are the pairs of P_k and G by the greedy pairing of `pairing.py` at the threshold t.

- Existence, over all queries: AUROC; Rej-F1, Rej-P, Rej-R and Acc at 0.4 and 0.6, where a query is found if s is strictly
  above the threshold, and absent queries are the class of interest. s is `pred_exist_score`, or else the highest score of
  the query's predictions, or else 0.
- G-mIoU@k, over all queries: predictions with `end <= start` are dropped, and all of a query's predictions are dropped
  unless s > 0.4. Then sum of the IoUs of M(0) / (|P_k| + |G| - |M(0)|); 1 if both sides are empty.
- mAP, over the present queries: as in `moments.py`, with a missing score read as 1.
- mR@k, over the present queries: |M(t)| / |G|, mean over queries and t = 0.5, 0.55, ..., 0.95. A perfect model has less
  than 100 where |G| > k.
- mR+@k, over queries with several moments: max(0, |M(t)| - 1) / (|G| - 1), averaged likewise; mR+@1 is always 0.
- mIoU@k, over the present queries: mean IoU of M(-1). Moments without a prediction do not lower it.
- mIoU+@k, over queries with several moments: the same without the best pair; 0 with fewer than two pairs.

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction | counts as "nothing found": no moments and the lowest existence score | left out |
| prediction for an unknown query | `ValueError` | left out |
| prediction without `pred_exist_score` and without scored moments | lowest existence score | existence score 0 |
| `pred_exist_score` that is not a finite number | `ValueError` | as `float` converts it; otherwise as if missing |
| reversed prediction (end before start) | `ValueError` | takes a rank; as long as a moment, mAP counts it as a hit |
| prediction that is not numeric or not finite | `ValueError` | `ValueError` (UFuncTypeError; NaN is undefined) |
| AUROC without present or absent queries | `None` | 50 |
| Rej-F1, Rej-P and Rej-R without absent queries | `None` | 0 |
| mR+ and mIoU+ without a query with several moments | `None` | 0 |
| no query has a moment | `ValueError` | `ValueError` |
| two predictions for a query | the last counts; mAP considers ten moments of each, the gate counts both | the same |
| reference whose `moments` is `None` | not scored | not scored |

The lowest existence score is 0, or the lowest number among the scores if one is negative. `match_number=False` leaves
unknown queries and those without a prediction out, as the public evaluator always does.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .alignment import Query, align, group_by_size, read_predictions, with_scores
from .average_precision import percent
from .existence import highest_moment_score, read_score, roc_auc, soccer_gmr_score
from .moments import AP_THRESHOLDS, average_precision, count_moments, first_predictions, match, read_arrays
from .pairing import first_ious, pair_greedily


NUM_PREDICTIONS = (1, 3, 5)  # k
MAX_PREDICTIONS = 10  # of a record, for G-mIoU
REJECTION_THRESHOLDS = (0.4, 0.6)
GATE = 0.4
SOURCES = ("pred_exist_score", "window_score", "default")


class Existence(NamedTuple):
    """Existence scores.

    Attributes:
        scores: Array `(num_queries,)`, of the last record of each query.
        sources: Where each of `scores` comes from, one of `SOURCES`.
        record_scores: One score for each record, also for repeated ones.
        record_sources: Where each of `record_scores` comes from.
    """

    scores: np.ndarray
    sources: list[str]
    record_scores: list[list[float]]
    record_sources: list[str]


class Pairs(NamedTuple):
    """What the figures over the present queries are computed from.

    Attributes:
        ap: `(num_queries, num_thresholds)`, average precision.
        found: `(num_queries, 5, num_thresholds)`, whether a prediction takes a moment.
        iou: `(num_queries, 5)`, IoU of the pairs at threshold -1; NaN = no pair.
        num_moments: `(num_queries,)`.
    """

    ap: np.ndarray
    found: np.ndarray
    iou: np.ndarray
    num_moments: np.ndarray


def score_generalized(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict[str, Any]]:
    """Score predictions with the metrics of Soccer-GMR.

    Args:
        predictions: Records with `qid`, `pred_relevant_windows` `[[start_sec, end_sec, score], ...]` (the score may be
            missing) and `pred_exist_score`.
        references: Rows with `qid`, `duration_sec` and `moments`, `[]` for absent queries.
        match_reference_code: Reproduce the public evaluator in every corner case (table in the module's docstring).
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        The structure of the public result file: "brief" with the figures of papers, and "GMR-CLS", "G-mIoU_gate",
        "G-mIoU_detail", "mAP_detail", "mR_detail", "mR+_detail", "mIoU_detail", "mIoU+_detail" and "stats". Percentages
        rounded to two decimals, and counts.

    Raises:
        ValueError: The two sides do not match, a prediction is malformed, or no query has a moment.
    """
    match_number = match_number and not match_reference_code
    queries = align(predictions, references, match_number=match_number)
    queries = read_queries(queries, allow_reversed=match_reference_code)
    present = np.array([count_moments(query) > 0 for query in queries], dtype=bool)
    if not present.any():
        raise ValueError("None of the `references` has a moment inside its video: moments cannot be scored.")
    existence = read_existence(queries, match_reference_code)
    empty = 0.0 if match_reference_code else None  # a figure without queries

    scores = {
        "GMR-CLS": score_classes(existence, present, match_reference_code),
        "G-mIoU_gate": count_gate(queries, existence),
        "G-mIoU_detail": score_gated(queries, existence),
        **score_present([query for query, has_moment in zip(queries, present, strict=True) if has_moment], empty),
        "stats": count_queries(queries),
    }
    return {"brief": summarize(scores), **scores}


def read_queries(queries: list[Query], *, allow_reversed: bool) -> list[Query]:
    """The annotated queries with cleaned moments and with a score for each prediction."""
    result = []
    for query in queries:
        reference = query.references[-1]
        if reference.get("moments") is None:
            continue
        moments = clean_moments(reference["moments"], reference["duration_sec"])
        records = []
        for record in query.predictions:
            predicted = read_predictions(record, allow_reversed=allow_reversed)
            records.append({**record, "pred_relevant_windows": predicted})
        result.append(Query(query.qid, records, [{"moments": moments}]))
    return result


def clean_moments(moments: Iterable[Iterable[float]], duration: float) -> list[tuple[float, float]]:
    """Moments clipped to the video, sorted, without empty and repeated ones."""
    kept = set()
    for start, end in moments:
        start, end = max(0.0, float(start)), min(float(end), float(duration))
        if start < end:
            kept.add((start, end))
    return sorted(kept)


# ---- existence -----------------------------------------------------------------------------------------------------


def read_existence(queries: list[Query], match_reference_code: bool) -> Existence:
    """The existence scores of all records; see `Existence`."""
    record_scores, record_sources, sources = [], [], []
    for query in queries:
        scores = []
        source = "default"
        for record in query.predictions:
            score, source = soccer_gmr_score(record) if match_reference_code else checked_score(record)
            scores.append(score)
            record_sources.append(source)
        record_scores.append(scores)
        sources.append(source)
    last = np.array([scores[-1] if scores else np.nan for scores in record_scores])
    lowest = np.nanmin(np.append(last, 0.0))
    return Existence(np.where(np.isnan(last), lowest, last), sources, record_scores, record_sources)


def checked_score(record: Mapping[str, Any]) -> tuple[float, str]:
    """The existence score of a record and its source, by the rules of the default mode; NaN = the lowest score."""
    score = read_score(record)
    if score is not None:
        return score, "pred_exist_score"
    score = highest_moment_score(record)
    return (np.nan, "default") if score is None else (score, "window_score")


def count_sources(sources: list[str]) -> dict[str, int]:
    """How many scores come from each source."""
    counts = Counter(sources)
    return {source: counts[source] for source in SOURCES if counts[source]}


def score_classes(existence: Existence, present: np.ndarray, match_reference_code: bool) -> dict[str, Any]:
    """AUROC, and the figures at each threshold."""
    has_both = present.any() and not present.all()
    auroc = None
    if has_both or match_reference_code:
        auroc = percent(roc_auc(existence.scores, present))
    per_threshold = {}
    for threshold in REJECTION_THRESHOLDS:
        figures = score_threshold(existence.scores > threshold, present)
        if present.all() and not match_reference_code:
            figures |= dict.fromkeys(("Rej-F1", "Rej-P", "Rej-R"))
        per_threshold[str(threshold)] = figures
    return {"AUROC": auroc, "per_threshold": per_threshold, "score_sources": count_sources(existence.sources)}


def score_threshold(found: np.ndarray, present: np.ndarray) -> dict[str, Any]:
    """Accuracy, and precision, recall and F1 of rejecting absent queries; a figure of 0 / 0 is 0.

    Args:
        found: Mask `(num_queries,)` of the queries that the model takes for present.
        present: Mask `(num_queries,)`.
    """
    num_right, num_missed = np.count_nonzero(found & present), np.count_nonzero(~found & present)
    num_rejected, num_false = np.count_nonzero(~found & ~present), np.count_nonzero(found & ~present)
    precision = num_rejected / max(1, num_rejected + num_missed)
    recall = num_rejected / max(1, num_rejected + num_false)
    f1 = 2 * precision * recall / (precision + recall) if num_rejected else 0.0
    return {
        "Rej-F1": percent(f1),
        "Acc": percent((num_right + num_rejected) / len(present)),
        "Rej-P": percent(precision),
        "Rej-R": percent(recall),
        "TP": num_right,
        "TN": num_rejected,
        "FP": num_false,
        "FN": num_missed,
    }


# ---- G-mIoU --------------------------------------------------------------------------------------------------------


def valid_predictions(record: Mapping[str, Any]) -> list[list[Any]]:
    """The predictions with a length above 0, with scores."""
    predictions = with_scores(record["pred_relevant_windows"])
    return [moment for moment in predictions if moment[0] < moment[1]]


def score_gated(queries: list[Query], existence: Existence) -> dict[str, float]:
    """G-mIoU@k."""
    gated = []
    for query, score in zip(queries, existence.scores, strict=True):
        predictions = []
        if query.predictions and score > GATE:
            predictions = valid_predictions(query.predictions[-1])[:MAX_PREDICTIONS]
        gated.append(Query(query.qid, [{"pred_relevant_windows": predictions}], query.references))
    num_predictions = np.array([len(query.predictions[0]["pred_relevant_windows"]) for query in gated])
    num_moments = np.array([count_moments(query) for query in gated])

    iou = np.zeros((len(gated), NUM_PREDICTIONS[-1]))
    for group in group_queries(gated):
        arrays = read_arrays([gated[index] for index in group])
        ious = first_ious(arrays, arrays.record >= 0, NUM_PREDICTIONS[-1])
        iou[group] = pair_greedily(ious, np.array([0.0]))[..., 0]
    scores = {}
    for k in NUM_PREDICTIONS:
        total = np.nansum(iou[:, :k], axis=1)
        num_pairs = np.count_nonzero(~np.isnan(iou[:, :k]), axis=1)
        union = np.minimum(num_predictions, k) + num_moments - num_pairs
        values = np.where(union > 0, total / np.maximum(union, 1), 1.0)
        scores[f"G-mIoU@{k}"] = percent(values.mean())
    return scores


def count_gate(queries: list[Query], existence: Existence) -> dict[str, Any]:
    """How many records the gate of G-mIoU lets through."""
    num_records = num_found = num_with_moments = num_kept = 0
    for query, scores in zip(queries, existence.record_scores, strict=True):
        for record, score in zip(query.predictions, scores, strict=True):
            has_moments = len(valid_predictions(record)) > 0
            num_records += 1
            num_found += score > GATE
            num_with_moments += has_moments
            num_kept += has_moments and score > GATE
    return {
        "cls_threshold": GATE,
        "decision_positive_if": "existence_score > cls_threshold",
        "num_submission_samples": num_records,
        "num_predicted_positive": int(num_found),
        "num_predicted_negative": int(num_records - num_found),
        "num_non_empty_windows_before_gate": num_with_moments,
        "num_non_empty_windows_after_gate": int(num_kept),
        "score_sources": count_sources(existence.record_sources),
    }


# ---- figures over the present queries ------------------------------------------------------------------------------


def group_queries(queries: list[Query]) -> list[list[int]]:
    """Positions of queries of similar size."""
    sizes = []
    for query in queries:
        num_predictions = sum(map(len, first_predictions(query)))
        sizes.append((num_predictions, count_moments(query)))
    return group_by_size(sizes)


def measure_pairs(queries: list[Query]) -> Pairs:
    """Average precision and pairs of queries with moments."""
    num_first = NUM_PREDICTIONS[-1]
    ap = np.zeros((len(queries), len(AP_THRESHOLDS)))
    found = np.zeros((len(queries), num_first, len(AP_THRESHOLDS)), dtype=bool)
    iou = np.full((len(queries), num_first), np.nan)
    num_moments = np.array([count_moments(query) for query in queries])
    thresholds = np.append(AP_THRESHOLDS, -1.0)
    for group in group_queries(queries):
        arrays = read_arrays([queries[index] for index in group])
        wanted = arrays.record >= 0
        matched = match(arrays, wanted[..., None])[:, :, 0]
        ap[group] = average_precision(matched, num_moments[group])
        paired = pair_greedily(first_ious(arrays, wanted, num_first), thresholds)
        found[group] = ~np.isnan(paired[..., :-1])
        iou[group] = paired[..., -1]
    return Pairs(ap, found, iou, num_moments)


def score_present(queries: list[Query], empty: float | None) -> dict[str, dict[str, Any]]:
    """mAP, mR@k, mR+@k, mIoU@k and mIoU+@k with their details.

    Args:
        queries: The queries with at least one moment.
        empty: Value of a figure that no query enters.
    """
    scored = []
    for query in queries:
        records = [{"pred_relevant_windows": with_scores(some["pred_relevant_windows"])} for some in query.predictions]
        scored.append(Query(query.qid, records, query.references))
    pairs = measure_pairs(scored)
    has_several = pairs.num_moments > 1
    ap = pairs.ap.mean(axis=0)
    recalls: dict[str, Any] = {}
    several: dict[str, Any] = {"num_multi_moment_queries": int(has_several.sum())}
    for k in NUM_PREDICTIONS:
        num_found = pairs.found[:, :k].sum(axis=1)  # (num_queries, num_thresholds)
        recall = num_found / pairs.num_moments[:, None]
        others = np.maximum(num_found - 1, 0) / np.maximum(pairs.num_moments - 1, 1)[:, None]
        recalls |= label_thresholds(f"mR@{k}", recall, empty)
        several |= label_thresholds(f"mR+@{k}", others[has_several], empty)
    return {
        "mAP_detail": {"mAP": percent(ap.mean()), "AP@IoU": label(ap)},
        "mR_detail": recalls,
        "mR+_detail": several,
        "mIoU_detail": score_ious("mIoU", pairs.iou, 0, empty),
        "mIoU+_detail": score_ious("mIoU+", pairs.iou[has_several], 1, empty),
    }


def label(values: np.ndarray) -> dict[str, float]:
    """Percentages by threshold."""
    return {f"{threshold:.2f}": percent(value) for threshold, value in zip(AP_THRESHOLDS, values, strict=True)}


def label_thresholds(name: str, values: np.ndarray, empty: float | None) -> dict[str, Any]:
    """The mean of `values (num_queries, num_thresholds)`, and the means at each threshold."""
    if not len(values):
        return {name: empty, f"{name}_per_IoU": dict.fromkeys(label(AP_THRESHOLDS), empty)}
    means = values.mean(axis=0)
    return {name: percent(means.mean()), f"{name}_per_IoU": label(means)}


def score_ious(name: str, iou: np.ndarray, num_best: int, empty: float | None) -> dict[str, float | None]:
    """Mean over the queries of the mean IoU of the pairs, for each k.

    Args:
        name: Name of the figure.
        iou: `(num_queries, 5)`, IoU of the pairs; NaN = no pair.
        num_best: How many of the best pairs are left out; with no pair left a query counts as 0.
        empty: Value of the figure without queries.
    """
    scores = {}
    for k in NUM_PREDICTIONS:
        if not len(iou):
            scores[f"{name}@{k}"] = empty
            continue
        ascending = np.sort(iou[:, :k], axis=1)  # NaN last
        num_used = np.maximum(np.count_nonzero(~np.isnan(ascending), axis=1) - num_best, 0)
        is_used = np.arange(k) < num_used[:, None]
        means = np.where(is_used, ascending, 0.0).sum(axis=1) / np.maximum(num_used, 1)
        scores[f"{name}@{k}"] = percent(means.mean())
    return scores


# ---- the result ----------------------------------------------------------------------------------------------------


def count_queries(queries: list[Query]) -> dict[str, Any]:
    """Numbers of queries by their moments, and the settings."""
    num_moments = np.array([count_moments(query) for query in queries])
    return {
        "num_total": len(queries),
        "num_positive": int((num_moments > 0).sum()),
        "num_negative": int((num_moments == 0).sum()),
        "num_multi_instance": int((num_moments > 1).sum()),
        "num_single_instance": int((num_moments == 1).sum()),
        "k_list": list(NUM_PREDICTIONS),
        "cls_thresholds": list(REJECTION_THRESHOLDS),
        "gmiou_cls_threshold": GATE,
    }


def summarize(scores: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """The figures that papers print."""
    brief = {"AUROC": scores["GMR-CLS"]["AUROC"]}
    for threshold, figures in scores["GMR-CLS"]["per_threshold"].items():
        brief[f"Rej-F1@{threshold}"] = figures["Rej-F1"]
        brief[f"Acc@{threshold}"] = figures["Acc"]
    brief |= scores["G-mIoU_detail"]
    brief["mAP"] = scores["mAP_detail"]["mAP"]
    for name in ("mR", "mR+", "mIoU", "mIoU+"):
        for k in NUM_PREDICTIONS:
            brief[f"{name}@{k}"] = scores[f"{name}_detail"][f"{name}@{k}"]
    return brief


__all__ = ["score_generalized"]
