"""What `r2tuning evaluate` prints for the benchmarks whose metrics are not those of QVHighlights: titles and rows."""

from collections.abc import Callable
from typing import Any

from dataset_scripts.vue_tr import CATEGORIES


Rows = dict[str, dict[str, Any]]
NUM_PREDICTIONS = (1, 3, 5)  # k of Soccer-GMR
NUM_MOMENTS = (1, 2, 3)  # k of QV-M2
RANGES = ("full", "short", "middle", "long")
GROUP_LABELS = {"1_tgt_mAP": "1 moment", "2_tgt_mAP": "2 moments", ">=3_tgt_mAP": "3 and more"}
RANKS = (1, 5, 10, 100)  # k of TVR
CORPUS_TASKS = {"VCMR": "moments in the corpus", "SVMR": "moments in the video", "VR": "videos"}
THRESHOLDS = ("0.5", "0.7")
AUC_NAMES = {"precision": "precision", "recall": "recall", "IoU": "iou"}


def describe_scores(metric: str, scores: dict[str, Any]) -> list[tuple[str, Rows]]:
    """The tables of a result of `compute_scores`.

    Args:
        metric: Metric of the benchmark, see `BenchmarkSpec`.
        scores: The result.

    Returns:
        Titles, and the rows with their columns; empty for a metric whose tables `format_scores` makes itself.
    """
    describe = DESCRIPTIONS.get(metric)
    return [] if describe is None else describe(scores)


def _describe_generalized(scores: dict[str, Any]) -> list[tuple[str, Rows]]:
    brief = scores["brief"]
    existence = {}
    for threshold, figures in scores["GMR-CLS"]["per_threshold"].items():
        columns = {name: figures[name] for name in ("Rej-F1", "Rej-P", "Rej-R", "Acc")}
        existence[f"above {threshold}"] = {"AUROC": brief["AUROC"], **columns}
    ranks = {}
    for k in NUM_PREDICTIONS:
        ranks[f"first {k}"] = {name: brief[f"{name}@{k}"] for name in ("G-mIoU", "mR", "mR+", "mIoU", "mIoU+")}
    return [("existence", existence), ("moments", {"all": {"mAP": brief["mAP"]}}), ("predictions", ranks)]


def _describe_multi_moment(scores: dict[str, Any]) -> list[tuple[str, Rows]]:
    precisions, ranks = {}, {}
    for name in RANGES:
        figures = scores[name]
        # For a range without a query the public evaluator gives zeros under other names.
        columns = {"G-mAP": figures["MR-mAP"].get("Generalized_mAP")}
        for group, label in GROUP_LABELS.items():
            columns[label] = figures["MR-mAP"].get(group)
        precisions[name] = columns
        columns = {}
        for k in NUM_MOMENTS:
            columns |= {f"mR@{k}": figures.get(f"MR-mR{k}"), f"mIoU@{k}": figures.get(f"MR-mIoU@{k}")}
        ranks[name] = columns
    return [("mAP", precisions), ("first k", ranks)]


def _describe_corpus(scores: dict[str, Any]) -> list[tuple[str, Rows]]:
    tables = []
    for task, title in CORPUS_TASKS.items():
        if task not in scores:
            continue
        by_type = scores.get(f"{task}_by_type", {})
        rows = {"all": _recalls(scores[task], "")}
        for kind in _types(by_type):
            rows[kind] = _recalls(by_type, f"{kind}-")
        tables.append((f"{task}: {title}", rows))
    return tables


def _types(by_type: dict[str, Any]) -> list[str]:
    """The types in the names of figures, such as "vt" in "vt-0.5-r1"."""
    names = [name.partition("-")[0] for name in by_type if name != "desc_type_ratio"]
    return list(dict.fromkeys(names))


def _recalls(figures: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Recalls by rank, at each threshold where the task has moments."""
    columns = {}
    for threshold in ("", *THRESHOLDS):
        begin = f"{prefix}{threshold}-" if threshold else prefix
        for rank in RANKS:
            if f"{begin}r{rank}" in figures:
                columns[f"R{rank}@{threshold}" if threshold else f"R{rank}"] = figures[f"{begin}r{rank}"]
    return columns


def _describe_interval_sets(scores: dict[str, Any]) -> list[tuple[str, Rows]]:
    groups = ["overall"]
    for categories in CATEGORIES.values():
        groups += categories
    rows = {}
    for group in groups:
        if group in scores:
            columns = {name: scores[group][key] for name, key in AUC_NAMES.items()}
            rows[group] = {"queries": scores[group]["queries"], **columns}
    return [("AUC", rows)]


def _describe_first_moment(scores: dict[str, Any]) -> list[tuple[str, Rows]]:
    rows = {"all": scores["full"], **scores["by_domain"]}
    return [("first moment", rows)]


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], list[tuple[str, Rows]]]] = {
    "generalized": _describe_generalized,
    "multi_moment": _describe_multi_moment,
    "corpus": _describe_corpus,
    "interval_sets": _describe_interval_sets,
    "first_moment": _describe_first_moment,
}


__all__ = ["describe_scores"]
