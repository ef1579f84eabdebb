"""Calibration of the existence score: two numbers that turn it into the probability that anything matches a query."""

from collections.abc import Sequence

import numpy as np


SMALLEST_SCALE = 0.01
MAX_ITERATIONS = 100  # Newton's method takes about ten
SMALLEST_SPREAD = 1e-4  # of the logits; less is rounding
TOLERANCE = 1e-12  # of the gradient of the mean loss


def fit_probability(scores: Sequence[float], present: Sequence[bool]) -> tuple[float, float]:
    """Fit `probability = sigmoid(scale * logit(score) + bias)` by maximum likelihood (Platt scaling).

    The targets are smoothed as in Platt (1999), so that the fit is finite even if a threshold separates the two kinds:
    `(n + 1) / (n + 2)` for n present queries and `1 / (n + 2)` for n absent ones.

    The scale is at least 0.01, so that the probability always rises with the score. Scores that are not higher for present
    queries than for absent ones get this scale, and probabilities close to the share of present queries. Scores
    that are equal up to rounding get the scale 1 and this share.

    Args:
        scores: Existence scores in [0, 1].
        present: Whether the query of each score has a moment.

    Returns:
        `scale` and `bias`.

    Raises:
        ValueError: The lengths differ, a score is not a number from 0 to 1, or all queries are present, or all absent.
    """
    probabilities = np.asarray(scores, dtype=np.float64)
    is_present = np.asarray(present, dtype=bool)
    _check(probabilities, is_present)
    num_present = int(is_present.sum())
    num_absent = len(is_present) - num_present
    targets = np.where(is_present, (num_present + 1) / (num_present + 2), 1 / (num_absent + 2))
    logits = _logit(probabilities)
    center, spread = logits.mean(), np.ptp(logits)
    if spread < SMALLEST_SPREAD:
        return 1.0, float(_logit(targets.mean()) - center)
    # Newton's method is well conditioned on inputs that are centred and of range 1.
    standard = (logits - center) / spread
    ones = np.ones_like(standard)
    slope, intercept = _fit_logistic(np.stack([standard, ones], axis=1), targets)
    scale = slope / spread
    if scale < SMALLEST_SCALE:
        # The likelihood is concave: under the constraint its maximum lies on the border.
        scale = SMALLEST_SCALE
        [intercept] = _fit_logistic(ones[:, None], targets, offset=scale * spread * standard)
    return float(scale), float(intercept - scale * center)


def apply_calibration(score: float, scale: float, bias: float) -> float:
    """The calibrated probability sigmoid(scale * logit(score) + bias)."""
    return float(_sigmoid(scale * _logit(np.asarray(score, np.float64)) + bias))


def _check(scores: np.ndarray, present: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != present.shape:
        raise ValueError(
            f"`scores` and `present` must be lists of the same length, got the shapes {scores.shape} and {present.shape}."
        )
    is_allowed = (scores >= 0) & (scores <= 1)  # False for NaN
    if not is_allowed.all():
        first = int(np.argmin(is_allowed))
        raise ValueError(f"`scores` must be numbers from 0 to 1, got {scores[first]} at position {first}.")
    if present.all() or not present.any():
        counts = f"{int(present.sum())} present and {int((~present).sum())} absent queries"
        raise ValueError(f"The probability is fitted on present and absent queries, got {counts}.")


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-v)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)); 0 and 1 are replaced by the nearest numbers with a finite logit."""
    smallest = np.finfo(np.float64).eps
    bounded = np.clip(probabilities, smallest, 1 - smallest)
    return np.log(bounded) - np.log1p(-bounded)


def _fit_logistic(inputs: np.ndarray, targets: np.ndarray, offset: np.ndarray | float = 0.0) -> np.ndarray:
    """Weights w that minimise the mean cross-entropy of sigmoid(inputs @ w + offset) and `targets`.

    Newton's method; a step that does not lower the loss is halved until it does.

    Args:
        inputs: `(num_queries, num_weights)`.
        targets: `(num_queries,)`, strictly between 0 and 1.
        offset: `(num_queries,)` or one number.
    """

    def loss(weights: np.ndarray) -> float:
        values = inputs @ weights + offset
        return float((np.logaddexp(0.0, values) - targets * values).mean())  # log(1 + exp(v)) - t v

    weights = np.zeros(inputs.shape[1])
    for _ in range(MAX_ITERATIONS):
        probabilities = _sigmoid(inputs @ weights + offset)
        gradient = inputs.T @ (probabilities - targets) / len(targets)
        if np.abs(gradient).max() < TOLERANCE:
            break
        curvature = probabilities * (1 - probabilities)
        hessian = (inputs.T * curvature) @ inputs / len(targets)  # (num_weights, num_weights)
        step = np.linalg.solve(hessian, gradient)
        while loss(weights - step) > loss(weights):
            step = step / 2
        weights = weights - step
    return weights


__all__ = ["SMALLEST_SCALE", "apply_calibration", "fit_probability"]
