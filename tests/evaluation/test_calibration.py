"""The two numbers that turn existence scores into probabilities."""

import numpy as np
import pytest

from dataset_scripts.metrics.existence import calibration_error
from r2tuning.evaluation.calibration import SMALLEST_SCALE, apply_calibration, fit_probability


def sigmoid(values):
    return 1 / (1 + np.exp(-np.asarray(values)))


def mean_loss(logits, present, scale, bias):
    """Cross-entropy with Platt's targets, written out."""
    num_present = sum(present)
    num_absent = len(present) - num_present
    total = 0.0
    for logit, is_present in zip(logits, present, strict=True):
        target = (num_present + 1) / (num_present + 2) if is_present else 1 / (num_absent + 2)
        # -log(p) = log(1 + exp(-v)), and -log(1 - p) = log(1 + exp(v))
        value = scale * logit + bias
        total += target * np.logaddexp(0, -value) + (1 - target) * np.logaddexp(0, value)
    return total / len(present)


def search(logits, present):
    """The best scale of at least `SMALLEST_SCALE` and the bias, found on grids that become ever finer."""
    scale, bias, width = SMALLEST_SCALE, 0.0, 8.0
    while width > 1e-5:
        steps = width * np.linspace(-1, 1, 21)
        scales, biases = np.meshgrid(scale + steps, bias + steps, indexing="ij")
        losses = mean_loss(logits, present, scales, biases)
        best = np.where(scales >= SMALLEST_SCALE, losses, np.inf).argmin()
        scale, bias = scales.flat[best], biases.flat[best]
        width *= 0.6
    return scale, bias


@pytest.mark.parametrize(("counts", "seed"), [((6, 9), 0), ((12, 2), 14), ((1, 1), 2)])
def test_fit_is_the_optimum_found_by_search(counts, seed):
    """By chance, the scores of the second case are lower for present queries."""
    generator = np.random.default_rng(seed)
    present = [True] * counts[0] + [False] * counts[1]
    logits = generator.normal(0, 1.5, len(present)) + np.where(present, 0.5, -0.5)
    assert fit_probability(sigmoid(logits), present) == pytest.approx(search(logits, present), abs=1e-4)


def test_numbers_that_made_the_scores_are_found_again():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, 20_000)
    present = generator.random(20_000) < sigmoid(0.6 * logits - 0.8)
    scale, bias = fit_probability(sigmoid(logits), present)
    assert (scale, bias) == pytest.approx((0.6, -0.8), abs=0.04)
    calibrated = [apply_calibration(score, scale, bias) for score in sigmoid(logits)]
    assert calibration_error(calibrated, present) < 0.01 < 0.1 < calibration_error(sigmoid(logits), present)


def test_a_second_fit_changes_nothing():
    generator = np.random.default_rng(1)
    present = generator.random(50) < 0.5
    scores = sigmoid(generator.normal(0, 1, 50) + present)
    line = fit_probability(scores, present)
    again = fit_probability([apply_calibration(score, *line) for score in scores], present)
    assert again == pytest.approx((1, 0), abs=1e-9)


@pytest.mark.parametrize(("high", "low"), [(0.9, 0.3), (1.0, 0.0), (0.5 + 1e-3, 0.5)])
def test_separable_scores_get_the_smoothed_shares(high, low):
    """Without smoothing the scale would be infinite."""
    scale, bias = fit_probability([high, high, low, low], [True, True, False, False])
    assert np.isfinite([scale, bias]).all()
    assert apply_calibration(high, scale, bias) == pytest.approx(3 / 4, abs=1e-6)
    assert apply_calibration(low, scale, bias) == pytest.approx(1 / 4, abs=1e-6)


def test_the_optimum_is_reached_far_from_the_start():
    """One score far from the others, and few absent queries among many present ones."""
    scores = [1e-12] + [0.7] * 3000 + [0.69, 0.2]
    present = [False] + [True] * 3000 + [False, False]
    scale, bias = fit_probability(scores, present)
    logits = np.log(scores) - np.log1p(-np.array(scores))
    best = mean_loss(logits, present, scale, bias)
    for across in (-1e-3, 0, 1e-3):
        for along in (-1e-3, 0, 1e-3):
            assert mean_loss(logits, present, scale + across, bias + along) >= best


@pytest.mark.parametrize("scores", [[0.1, 0.2, 0.8, 0.9], [0.1, 0.9, 0.1, 0.9]], ids=["reversed", "uninformative"])
def test_scores_that_tell_nothing_keep_their_order_and_get_the_share(scores):
    scale, bias = fit_probability(scores, [True, True, False, False])
    assert scale == SMALLEST_SCALE
    probabilities = [apply_calibration(score, scale, bias) for score in scores]
    assert np.argsort(probabilities, kind="stable").tolist() == np.argsort(scores, kind="stable").tolist()
    np.testing.assert_allclose(probabilities, 0.5, atol=0.01)


def test_equal_scores_get_the_share():
    line = fit_probability([0.9] * 40, [True] * 30 + [False] * 10)
    assert line[0] == 1
    smoothed = (30 * 31 / 32 + 10 / 12) / 40
    assert apply_calibration(0.9, *line) == pytest.approx(smoothed)


def test_rounding_is_not_fitted():
    """Scores that differ by rounding alone would else get an enormous scale."""
    scale, bias = fit_probability([0.5 - 1e-12, 0.5 + 1e-12, 0.5], [False, True, True])
    assert scale == 1.0
    assert bias == pytest.approx(fit_probability([0.5] * 3, [False, True, True])[1])


def test_the_order_of_the_queries_does_not_matter():
    generator = np.random.default_rng(2)
    scores, present = generator.random(30), generator.random(30) < 0.5
    order = generator.permutation(30)
    assert fit_probability(scores[order], present[order]) == pytest.approx(fit_probability(scores, present), rel=1e-9)


@pytest.mark.parametrize(
    ("scores", "present", "message"),
    [
        ([0.5, float("nan")], [True, False], "numbers from 0 to 1, got nan at position 1"),
        ([1.5, 0.5], [True, False], "numbers from 0 to 1, got 1.5 at position 0"),
        ([0.5, float("inf")], [True, False], "numbers from 0 to 1, got inf"),
        ([0.5, 0.6], [True, True], "present and absent queries, got 2 present and 0 absent"),
        ([0.5, 0.6], [False, False], "got 0 present and 2 absent"),
        ([], [], "got 0 present and 0 absent"),
        ([0.5], [True, False], r"of the same length, got the shapes \(1,\) and \(2,\)"),
        ([[0.5, 0.6]], [[True, False]], "lists of the same length"),
    ],
)
def test_unusable_scores_are_refused(scores, present, message):
    with pytest.raises(ValueError, match=message):
        fit_probability(scores, present)


@pytest.mark.parametrize("score", [0.0, 1e-300, 0.25, 1.0])
def test_the_identity_calibration_changes_nothing(score):
    assert apply_calibration(score, 1.0, 0.0) == pytest.approx(score, abs=1e-15)
