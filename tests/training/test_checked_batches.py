"""Batches that the collator has checked: equal losses, the same errors, and steps that do not wait for the device."""

import sys

import pytest
import torch
from accelerate.utils import send_to_device
from model_checks import assert_equal_outputs
from test_collate import make_example
from tiny_models import TINY, TINY_TEXT, TINY_VISION
from training_samples import as_arguments, reset_accelerate, write_benchmark

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.inputs_r2tuning import check_batch
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import read_config
from r2tuning.training.loop import train_step
from r2tuning.training.preparation import prepare_run


ABSENT = {"moments": torch.zeros(0, 2)}


def make_pixel_example(draw, video_id, frames, size=64, **changes):
    example = make_example(draw, video_id, frames, **changes)
    del example["video_hidden_states"], example["text_hidden_states"]
    generator = torch.Generator().manual_seed(frames)
    pixels = torch.randn(frames, 3, size, size, generator=generator)
    return {**example, "pixel_values_videos": pixels, "input_ids": torch.tensor([62, 1, 2, 63])}


BATCHES = {
    "padded": [make_example(0, "a", 6), make_example(1, "b", 4, words=2)],
    "of one length": [make_example(0, "a", 6), make_example(1, "b", 6)],
    "shared video": [make_example(0, "a", 6), make_example(1, "a", 6)],
    "some absent": [make_example(0, "a", 6), make_example(1, "b", 4, **ABSENT), make_example(2, "c", 5)],
    "all absent": [make_example(0, "a", 6, **ABSENT), make_example(1, "b", 4, **ABSENT)],
    "pixels": [make_pixel_example(0, "a", 6), make_pixel_example(1, "b", 4), make_pixel_example(2, "a", 6)],
}


@pytest.mark.parametrize("recipe", ["released", "paper"])
@pytest.mark.parametrize("name", BATCHES)
def test_a_checked_batch_has_the_same_losses_and_gradients(make_model, name, recipe):
    model = make_model(loss_recipe=recipe, use_existence_head=True)
    batch = GroundingCollator(0)(BATCHES[name])
    results = []
    for checked in (None, batch["checked"]):
        outputs = model(**{**batch, "checked": checked})
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(outputs.loss, learned, allow_unused=True)
        results.append({**outputs.loss_parts, **{str(n): g for n, g in enumerate(gradients) if g is not None}})
    assert_equal_outputs(*results)


def test_a_batch_that_was_divided_is_checked_again(tiny_model):
    batch = GroundingCollator(0)([make_example(0, "a", 6), make_example(1, "b", 6)])
    half = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    assert_equal_outputs(tiny_model(**half).loss_parts, tiny_model(**{**half, "checked": None}).loss_parts)
    with pytest.raises(ValueError, match="`fps` must be positive"):
        tiny_model(**{**half, "fps": torch.tensor([-1.0])})


WRONG_VALUES = {
    "fps": (torch.tensor([0.5, -1.0]), "`fps` must be positive"),
    "duration_sec": (torch.tensor([0.5, float("inf")]), "`duration_sec` must be positive"),
    "positive_frame": (torch.tensor([0, 5]), "`positive_frame` must be a valid frame"),
    "attention_mask": (torch.tensor([[True] * 3, [False] * 3]), "`attention_mask` must have a `True` in every row"),
    "frame_mask": (torch.tensor([[True, False, True]] * 2), "`frame_mask` must be padded on the right"),
    "video_index": (torch.tensor([0, 2]), "`video_index` must name videos from 0 to 1"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_are_refused_before_and_in_forward(tiny_model, name):
    """With the same message; `checked` skips them in `forward`."""
    batch = GroundingCollator(0)([make_example(0, "a", 3), make_example(1, "b", 3)])
    checked = batch.pop("checked")
    value, message = WRONG_VALUES[name]
    for refuse in (check_batch, lambda wrong: tiny_model(**wrong)):
        with pytest.raises(ValueError, match=message):
            refuse({**batch, name: value})
    if name in ("fps", "duration_sec"):
        tiny_model(**{**batch, name: value}, checked=checked)


@pytest.mark.parametrize("changes", [{"fps": -0.5}, {"duration_sec": 0.0}])
def test_the_collator_refuses_wrong_values(changes):
    with pytest.raises(ValueError, match="must be positive and finite"):
        GroundingCollator(0)([make_example(**changes)])


# ---- waiting for the device ---------------------------------------------------------------------------------------


def make_examples(config, cached):
    """Queries of videos of unequal lengths, one of them absent, another one about a video that was seen before."""
    vision, text = config.vision_config, config.text_config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    examples = []
    for draw, (video_id, frames) in enumerate([("a", 6), ("b", 4), ("c", 5), ("a", 6)]):
        if cached:
            video = torch.randn(frames, config.num_video_states, tokens, vision.hidden_size).half()
            words = torch.randn(3 + draw, config.num_text_states, text.hidden_size).half()
            example = make_example(draw, video_id, frames, video_hidden_states=video, text_hidden_states=words)
        else:
            example = make_pixel_example(draw, video_id, frames, vision.image_size)
        examples.append({**example, **ABSENT} if draw == 1 else example)
    return examples


@pytest.mark.parametrize(
    ("size", "recipe", "cached"),
    [("tiny", "paper", True), ("tiny", "released", False), ("default", "released", True), ("default", "paper", False)],
)
def test_a_step_runs_where_tensors_have_no_values(size, recipe, cached):
    """On the `meta` device nothing can be read, and no tensor may be on another device."""
    fields = {"vision_config": TINY_VISION, "text_config": TINY_TEXT, **TINY, "dropout": 0.5} if size == "tiny" else {}
    config = R2TuningConfig(**fields, loss_recipe=recipe, use_existence_head=True)
    with torch.device("meta"):
        model = R2TuningForVideoGrounding(config).train()
    batch = send_to_device(GroundingCollator(0)(make_examples(config, cached)), torch.device("meta"))
    outputs = model(**batch)
    outputs.loss.backward()
    assert outputs.loss.device.type == "meta"
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.grad.device.type for parameter in learned} == {"meta"}
    with pytest.raises(RuntimeError, match=r"meta"):
        model(**{**batch, "checked": None})


READING = ("tolist", "item", "nonzero", "__bool__", "__float__")


def test_a_training_step_reads_from_the_device_once(tiny_clip, tmp_path, monkeypatch):
    """Other reads are on the CPU in any case: of Adam's step counter, outside this package."""
    reset_accelerate()
    options = write_benchmark(tmp_path, tiny_clip)
    run = prepare_run(read_config(as_arguments(options, output_dir=tmp_path / "run", gradient_accumulation=2)))
    batches = iter([next(run.batches())] * 2)
    readers = []

    def watch(name):
        method = getattr(torch.Tensor, name)

        def read(self, *args, **kwargs):
            place = sys._getframe(1)
            readers.append((place.f_globals["__name__"], place.f_code.co_name))
            return method(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, read)

    for name in READING:
        watch(name)
    train_step(run, batches)
    assert not run.any_process(False)
    ours = [reader for reader in readers if reader[0].startswith(("r2tuning", "modeling_r2tuning"))]
    assert ours == [("r2tuning.training.loop", "_as_floats")]
