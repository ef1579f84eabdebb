"""The learning rate schedules, the optimizer's groups, and the presets of the paper."""

import math

import pytest
import torch

from r2tuning.training.config import TrainingConfig, preset_names, read_preset
from r2tuning.training.optim import learning_rate, make_optimizer


PLACES = {"data_dir": "", "features": "", "output_dir": ""}


def make_config(**changes):
    return TrainingConfig(**{"benchmark": "qvhighlights", **PLACES, **changes})


def test_the_warm_up_is_linear_and_ignores_drops():
    config = make_config(learning_rate=1.0, warmup_steps=10, warmup_ratio=0.001, drop_epochs=[1])
    rates = [learning_rate(step, 2, config) for step in range(12)]
    assert rates[:10] == pytest.approx([0.001 + 0.999 * step / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([0.1, 0.1])


def test_each_drop_divides_the_rate_by_ten():
    config = make_config(learning_rate=1.0, warmup_steps=0, drop_epochs=[1, 3])
    rates = [learning_rate(step, 2, config) for step in range(8)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_the_cosine_falls_from_the_full_rate_to_zero():
    config = make_config(learning_rate=2.0, schedule="cosine", warmup_steps=4, epochs=3)
    rates = [learning_rate(step, 8, config) for step in range(24)]
    assert rates[4] == 2.0
    assert rates[14] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[23] == pytest.approx(1 + math.cos(math.pi * 19 / 20))


def test_a_run_shorter_than_its_warm_up_has_a_positive_rate():
    config = make_config(schedule="cosine", warmup_steps=500, epochs=1)
    assert 0 < learning_rate(3, 4, config) < config.learning_rate


def test_one_group_decays_norms_and_biases_too(make_model):
    model = make_model()
    optimizer = make_optimizer(model, make_config(learning_rate=0.25, weight_decay=0.5))
    (group,) = optimizer.param_groups
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in learned}
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.5)
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    before = [parameter.detach().clone() for parameter in learned]
    for parameter in learned:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(learned, before, strict=True):
        torch.testing.assert_close(parameter.detach(), old * (1 - 0.25 * 0.5))


# The last two: (row of the table of released settings) epochs, epochs of drops.
PUBLISHED = {
    "qvhighlights": (128, 5e-4, 500, 30, [20]),
    "charades_sta": (32, 2.5e-4, 500, 50, [30]),
    "tacos": (32, 2.5e-4, 500, 100, [50]),
    "ego4d_nlq": (32, 2.5e-4, 500, 30, [20]),
    "youtube_highlights": (4, 5e-4, 50, 200, []),
    "tvsum": (4, 5e-4, 50, 500, []),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_match_the_published_recipe(name):
    config = TrainingConfig(**read_preset(name), **PLACES)
    found = (config.batch_size, config.learning_rate, config.warmup_steps, config.epochs, config.drop_epochs)
    assert found == PUBLISHED[name]
    assert config.benchmark == name
    assert config.repeat_factor == (4 if name == "qvhighlights" else 1)
    shared = (config.weight_decay, config.max_grad_norm, config.warmup_ratio, config.schedule, config.mixed_precision)
    assert shared == (1e-4, 35, 0.001, "step", "fp16")


def test_absent_queries_leave_as_many_present_ones_in_a_step():
    """The preset with absent queries differs from the other only in the existence head and in what the share 40 % asks."""
    present, absent = read_preset("moving_shapes"), read_preset("moving_shapes_absent")
    assert absent.pop("model") == {**present.pop("model"), "use_existence_head": True}
    sizes = {name: (present.pop(name), absent.pop(name)) for name in ("batch_size", "queries_per_video")}
    assert sizes == {"batch_size": (36, 60), "queries_per_video": (6, 10)}
    assert (present.pop("benchmark"), absent.pop("benchmark")) == ("moving_shapes", "moving_shapes_absent")
    assert present == absent


def test_every_benchmark_has_a_preset():
    assert set(preset_names()) == {*PUBLISHED, "moving_shapes", "moving_shapes_absent"}
