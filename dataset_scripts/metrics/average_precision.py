"""Functions that the average precisions of the three tasks share."""

from collections.abc import Callable

import numpy as np

from .alignment import Query, read_saliency


def percent(value: float) -> float:
    """A fraction in percent, rounded as the public evaluators print it."""
    return float(f"{100 * value:.2f}")


def sum_rows(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Sum of the chosen values of each row of `(..., length)`, equal to `np.sum(row[chosen])` in every bit.

    Setting the other values to zero would change the order of additions, and with it the last bit and sometimes the last
    printed digit.
    """
    # A leading zero that is always chosen, since `reduceat` cannot sum an empty row.
    start = [(0, 0)] * (values.ndim - 1) + [(1, 0)]
    values, chosen = np.pad(values, start), np.pad(chosen, start, constant_values=True)
    counts = np.count_nonzero(chosen, axis=-1).ravel()
    first = np.cumsum(counts) - counts  # where each row begins among the chosen values
    return np.add.reduceat(values[chosen], first).reshape(values.shape[:-1])


def rank(scores: np.ndarray) -> np.ndarray:
    """Indices in order of descending score; equal scores keep their order."""
    return np.argsort(-np.asarray(scores), kind="stable")


def trapezoid_average_precision(labels: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve by the trapezoidal rule, starting from precision 1.

    Args:
        labels: Array of 0 and 1 `(..., num_ranks)`, best rank first. Recall counts the positives among these.

    Returns:
        Array `(...)` in [0, 1]; 0 without a positive.
    """
    hits = np.cumsum(labels, axis=-1)
    precision = hits / np.arange(1, hits.shape[-1] + 1)
    previous = np.concatenate([np.ones_like(precision[..., :1]), precision[..., :-1]], axis=-1)
    return (labels * (previous + precision) / 2).sum(axis=-1) / np.maximum(hits[..., -1], 1)


def score_domains(queries: list[Query], measure: Callable[[np.ndarray, np.ndarray], float]) -> dict[str, float]:
    """Mean score of the videos of each domain, and mean over the domains.

    Args:
        queries: One query per video, with annotated saliency.
        measure: Computes the score in [0, 1] of a video from its predicted scores `(num_scores,)` and annotated scores
            `(num_units, num_annotators)`.

    Returns:
        `mAP-{domain}` and `mAP-average`, percentages rounded to two decimals. A video without a prediction scores 0.

    Raises:
        ValueError: A video has no domain, or scores are not finite numbers.
    """
    domains: dict[str, list[float]] = {}
    num_annotators = len(queries[0].annotation[0])
    for query in queries:
        [scores], [num_scores], [truth], [num_units] = read_saliency([query], num_annotators)
        domain = query.references[-1].get("domain")
        if domain is None:
            raise ValueError(f"The reference of video '{query.qid}' needs a `domain`.")
        value = measure(scores[:num_scores], truth[:num_units]) if num_scores else 0.0
        domains.setdefault(domain, []).append(value)
    means = {f"mAP-{domain}": float(np.mean(domains[domain])) for domain in sorted(domains)}
    means["mAP-average"] = float(np.mean(list(means.values())))
    return {name: percent(mean) for name, mean in means.items()}


__all__ = ["percent", "rank", "score_domains", "sum_rows", "trapezoid_average_precision"]
