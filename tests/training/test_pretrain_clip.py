"""The small CLIP for Moving Shapes: its tokenizer, its training, and its measurements."""

import argparse
import itertools
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fresh_python import quick_spawn
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from dataset_scripts.moving_shapes.frames import Clause, ShownObject
from dataset_scripts.moving_shapes.queries import vocabulary
from dataset_scripts.moving_shapes.scenes import COLORS, SEEN, SHAPES
from modeling_r2tuning.files_r2tuning import claiming
from r2tuning.pretraining import run, trainer
from r2tuning.pretraining.acceptance import probe_tokens
from r2tuning.pretraining.model import PATCH_SIZE, make_tokenizer, position_code, whitening_filters
from r2tuning.pretraining.pictures import PICTURE_SETTINGS, draw_pictures
from r2tuning.pretraining.run import main, parse_combination, pretrain
from r2tuning.pretraining.trainer import contrastive_loss, match_clauses


def test_every_word_is_one_token():
    tokenizer = make_tokenizer()
    assert [word for word in vocabulary() if len(tokenizer(word)["input_ids"]) != 3] == []
    assert len({tokenizer(word)["input_ids"][1] for word in vocabulary()}) == len(vocabulary())
    assert len(tokenizer("zigzag")["input_ids"]) > 3, "other words are split"


def test_positions_differ_by_row_and_by_column():
    code = position_code(8, 128).unflatten(0, (8, 8))
    assert torch.equal(code[0, 3, 64:], code[5, 3, 64:])
    assert torch.equal(code[3, 0, :64], code[3, 5, :64])
    assert torch.cdist(code.flatten(0, 1), code.flatten(0, 1)).add(torch.eye(64)).min() > 0.1


def test_the_contrastive_loss_is_lowest_for_matches_on_the_diagonal():
    assert contrastive_loss(20 * torch.eye(4)) < contrastive_loss(20 * torch.eye(4).flip(0))


def test_a_clause_is_true_of_every_object_that_has_its_facts():
    left, right = (ShownObject("red", "ring", x, 0.5, 0.05, "rests") for x in (0.2, 0.8))
    clauses = [Clause(0, "", frozenset(facts)) for facts in (["red"], ["red", "left"], ["small", "right"], ["blue"])]
    assert match_clauses(clauses, [left, right]).tolist() == [[True, True, False, False], [True, False, True, False]]


def test_whitened_patches_have_equal_variance():
    """With correlated pixels every filter gives the same variance, except components below the noise."""
    torch.manual_seed(0)
    noise = torch.randn(200, 3, 64, 64)
    pixels = F.avg_pool2d(noise, 3, stride=1, padding=1) * 3
    found = F.conv2d(pixels, whitening_filters(pixels), stride=PATCH_SIZE).transpose(0, 1).flatten(1).var(dim=1)
    assert found.max() < 1.05
    assert found.min() > 0.6


def test_probes_find_the_properties_that_tokens_encode():
    """Tokens that encode place, size, colour and shape score about 1; random ones score low."""
    torch.manual_seed(0)
    random = torch.rand(600, 3).tolist()
    names = [(color, shape) for color in COLORS for shape in SHAPES]
    objects = [(ShownObject(*names[i % 30], x, y, 0.05 + 0.15 * r, "rests"),) for i, (x, y, r) in enumerate(random)]
    states = torch.randn(600, 65, 16)
    assert max(probe_tokens(states, objects).values()) < 0.5
    for picture, (item,) in enumerate(objects):
        properties = [item.x, item.y, item.radius]
        properties += [item.color == color for color in COLORS] + [item.shape == shape for shape in SHAPES]
        states[picture, 1:, :14] = torch.tensor(properties).float()
    assert min(probe_tokens(states, objects).values()) > 0.95


def test_pictures_do_not_depend_on_the_number_of_processes():
    with quick_spawn():
        alone, shared = draw_pictures(3, 8, 1), draw_pictures(3, 8, 2)
    assert (alone.images == shared.images).all()
    assert alone.captions == shared.captions
    assert len(alone.images) == 16


def test_only_the_chosen_combinations_are_drawn():
    only = (*itertools.product(("red", "blue", "cyan", "pink"), ("circle", "ring")),)
    drawn = draw_pictures(3, 8, 1, replace(PICTURE_SETTINGS, combinations=only))
    assert {(item.color, item.shape) for objects in drawn.objects for item in objects} <= set(only)
    assert not any("square" in caption for captions in drawn.captions for caption in captions)


def test_combinations_are_read_from_the_command_line():
    assert parse_combination("red circle") == ("red", "circle")
    with pytest.raises(argparse.ArgumentTypeError, match="a color .red, .* got 'circle red'"):
        parse_combination("circle red")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--held-out", "63"],
            "`--held-out` must be at least 64, the number of captions that a picture is compared with, got 63",
        ),
        (["--batch-size", "14"], "`--batch-size` must be even and at least 16, got 14"),
        (["--batch-size", "17"], "`--batch-size` must be even"),
        (["--pictures", "47"], "`--pictures` must be at least half of `--batch-size`, 48, got 47"),
        (["--steps", "0"], "`--steps` must be at least 1, got 0"),
        (["--layers", "0"], "`--layers` must be at least 1"),
        (["--processes", "0"], "`--processes` must be at least 1"),
        (["--seed", "-1"], "`--seed` must be at least 0"),
        (["--learning-rate", "nan"], "`--learning-rate` must be positive, got nan"),
        (["--combinations", "red circle"], "each of the `--combinations` must share its colour or shape"),
    ],
)
def test_options_are_checked_before_anything_is_drawn(tmp_path, monkeypatch, capsys, words, message):
    def draw(*arguments):
        raise AssertionError("pictures were drawn")

    monkeypatch.setattr(run, "draw_pictures", draw)
    assert main([str(tmp_path / "clip"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()


def test_existing_files_are_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "draw_pictures", None)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/model.safetensors").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for name, message in (("clip", "is not empty; name a new folder"), ("file", "File exists")):
        assert main([str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "new").mkdir()
    with claiming(tmp_path / "new"):
        assert main([str(tmp_path / "new")]) == 2
    assert "Another run is writing" in capsys.readouterr().err


def test_a_failing_measurement_does_not_lose_the_training(tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("no measurement")

    monkeypatch.setattr(run, "accept_clip", fail)
    numbers = {"layers": 1, "steps": 1, "pictures": 16, "held_out": 64, "batch_size": 16, "seed": 1, "processes": 1}
    with pytest.raises(ValueError, match="no measurement"):
        pretrain(tmp_path / "clip", combinations=SEEN, learning_rate=1e-3, **numbers)
    assert CLIPModel.from_pretrained(tmp_path / "clip").config.vision_config.num_hidden_layers == 1


def test_a_short_training_learns_and_is_saved(tmp_path, monkeypatch):
    """A few steps lower the loss; the model loads as any CLIP, and its card holds the measurements."""
    monkeypatch.setattr(trainer, "WARMUP_STEPS", 5)
    losses = []

    def step(self, original=trainer.Trainer.step):
        losses.append(original(self))
        return losses[-1]

    monkeypatch.setattr(trainer.Trainer, "step", step)
    document = pretrain(
        tmp_path / "clip",
        layers=2,
        steps=20,
        pictures=64,
        held_out=70,
        combinations=(*itertools.product(("red", "blue", "cyan", "pink"), ("circle", "ring")),),
        batch_size=16,
        learning_rate=1e-3,
        seed=1,
        processes=1,
    )
    assert len(losses) == 20
    assert document["loss"] == pytest.approx(sum(losses[-10:]) / 10)
    assert document["loss"] < 0.9 * losses[0]
    assert document["combinations"][:3] == ["red circle", "red ring", "blue circle"]
    assert "of 8 combinations" in (tmp_path / "clip/README.md").read_text()
    assert json.loads((tmp_path / "clip/acceptance.json").read_text()) == document
    assert f"| 1 | {document['probes'][0]['x']:.2f} |" in (tmp_path / "clip/README.md").read_text()
    clip = CLIPModel.from_pretrained(tmp_path / "clip").eval()
    tokenizer, image_processor = (
        kind.from_pretrained(tmp_path / "clip") for kind in (CLIPTokenizer, CLIPImageProcessor)
    )
    pixels = image_processor(draw_pictures(3, 1, 1).images[0], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = clip(pixel_values=pixels, **tokenizer(["a red circle"], return_tensors="pt")).logits_per_image
    assert logits.isfinite().all()
    assert clip.config.vision_config.num_hidden_layers == clip.config.text_config.num_hidden_layers == 2
    assert document["retrieval_64"]["picture_to_caption"] == pytest.approx(1 / 64, abs=0.2)
