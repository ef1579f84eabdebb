"""The small backbones for Moving Shapes: their tokenizer, their training, and their measurements."""

import argparse
import itertools
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fresh_python import quick_spawn
from torch import nn
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

from dataset_scripts.moving_shapes.frames import Clause, ShownObject
from dataset_scripts.moving_shapes.queries import vocabulary
from dataset_scripts.moving_shapes.scenes import COLORS, SEEN, SHAPES
from modeling_r2tuning import R2TuningProcessor
from modeling_r2tuning.files_r2tuning import claiming
from modeling_r2tuning.precision_r2tuning import cpu_has_bfloat16
from r2tuning.pretraining import run, trainer
from r2tuning.pretraining.acceptance import measure_words, object_cells, probe_tokens
from r2tuning.pretraining.kinds import KINDS, contrastive_loss, read_layers, sigmoid_loss
from r2tuning.pretraining.model import (
    PATCH_SIZE,
    SIGLIP_TEXT_LENGTH,
    make_siglip,
    make_tokenizer,
    position_code,
    whitening_filters,
)
from r2tuning.pretraining.pictures import PICTURE_SETTINGS, draw_pictures, normalize
from r2tuning.pretraining.run import main, parse_combination, pretrain
from r2tuning.pretraining.trainer import Trainer, match_clauses


SOME = (*itertools.product(("red", "blue", "cyan", "pink"), ("circle", "ring")),)  # combinations


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
    drawn = draw_pictures(3, 8, 1, replace(PICTURE_SETTINGS, combinations=SOME))
    assert {(item.color, item.shape) for objects in drawn.objects for item in objects} <= set(SOME)
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_measurement_does_not_lose_the_training(tmp_path, monkeypatch, kind):
    def fail(*arguments):
        raise ValueError("no measurement")

    monkeypatch.setattr(run, "accept_backbone", fail)
    numbers = {"layers": 1, "steps": 1, "pictures": 16, "held_out": 64, "batch_size": 16, "seed": 1, "processes": 1}
    with pytest.raises(ValueError, match="no measurement"):
        pretrain(tmp_path / "backbone", kind=kind, combinations=SEEN, learning_rate=1e-3, **numbers)
    assert AutoModel.from_pretrained(tmp_path / "backbone").config.vision_config.num_hidden_layers == 1


def test_an_unknown_kind_is_refused(tmp_path):
    numbers = {"layers": 1, "steps": 1, "pictures": 16, "held_out": 64, "batch_size": 16, "seed": 1, "processes": 1}
    with pytest.raises(ValueError, match=r"`kind` must be one of \['clip', 'siglip'\], got 'blip'"):
        pretrain(tmp_path / "blip", kind="blip", combinations=SEEN, learning_rate=1e-3, **numbers)
    assert not (tmp_path / "blip").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_training_learns_and_is_saved(tmp_path, monkeypatch, kind):
    """A few steps lower the loss; transformers loads the model, and its card holds the measurements."""
    monkeypatch.setattr(trainer, "WARMUP_STEPS", 5)
    losses = []

    def step(self, original=trainer.Trainer.step):
        losses.append(original(self))
        return losses[-1]

    monkeypatch.setattr(trainer.Trainer, "step", step)
    document = pretrain(
        tmp_path / "backbone",
        kind=kind,
        layers=2,
        steps=20,
        pictures=64,
        held_out=70,
        combinations=SOME,
        batch_size=16,
        learning_rate=1e-3,
        seed=1,
        processes=1,
    )
    assert len(losses) == 20
    assert document["loss"] == pytest.approx(sum(losses[-10:]) / 10)
    assert document["loss"] < 0.9 * losses[0]
    assert document["kind"] == kind
    assert document["combinations"][:3] == ["red circle", "red ring", "blue circle"]
    card = (tmp_path / "backbone/README.md").read_text()
    assert "of 8 combinations" in card
    assert f"`train/pretrain_backbone.py --kind {kind}`" in card
    assert f"| 1 | {document['probes'][0]['x']:.2f} |" in card
    assert json.loads((tmp_path / "backbone/acceptance.json").read_text()) == document
    model = AutoModel.from_pretrained(tmp_path / "backbone").eval()
    assert f"from transformers import {type(model).__name__}" in card
    processor = AutoProcessor.from_pretrained(tmp_path / "backbone")
    inputs = processor(
        images=draw_pictures(3, 1, 1).images[0], text="a red circle", padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    assert logits.isfinite().all()
    assert model.config.vision_config.num_hidden_layers == model.config.text_config.num_hidden_layers == 2
    assert document["retrieval_64"]["picture_to_caption"] == pytest.approx(1 / 64, abs=0.2)


# ---- CLIP ------------------------------------------------------------------------------------------------------------


def test_training_clip_gives_the_weights_of_its_plain_transcription():
    """Initialisation, loss and three steps, written out without the code that the kinds share, agree to the last bit."""
    drawn = draw_pictures(3, 40, 1)
    kind = KINDS["clip"]
    tokenizer, image_processor = kind.make_tokenizer(), kind.make_image_processor()
    pixels = normalize(drawn.images[::2], image_processor)
    torch.manual_seed(4)
    clip = kind.make_model(tokenizer, pixels, layers=2)
    torch.manual_seed(4)
    plain = initialise_plainly(clip.config, pixels)
    settings = {"seed": 4, "batch_size": 16, "learning_rate": 1e-3}
    Trainer(kind, clip, tokenizer, image_processor, drawn, **settings).run(3)
    batches = Trainer(kind, plain, tokenizer, image_processor, drawn, **settings)
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.05, betas=(0.9, 0.98))
    for number in range(3):
        optimizer.param_groups[0]["lr"] = batches._learning_rate(number, 3)
        loss = plain_clip_loss(plain, batches.draw_batch())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    trained = clip.state_dict()
    assert [name for name, value in plain.state_dict().items() if not torch.equal(value, trained[name])] == []


def initialise_plainly(config, pixels):
    """CLIP with whitened patches, waves as positions, equal queries and keys, and large token embeddings."""
    clip = CLIPModel._from_config(CLIPConfig.from_dict(config.to_dict()), attn_implementation="eager")
    with torch.no_grad():
        clip.vision_model.embeddings.patch_embedding.weight.copy_(whitening_filters(pixels))
        clip.vision_model.embeddings.position_embedding.weight[1:] = 2 * position_code(8, 128)
        for layer in clip.vision_model.encoder.layers:
            layer.self_attn.q_proj.weight.normal_(0, 0.085)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        clip.text_model.embeddings.token_embedding.weight.normal_(0, 0.5)
    return clip


def plain_clip_loss(clip, batch):
    """Cross entropy of pictures and captions, and of regions and clauses."""
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        states = clip.vision_model(batch.pixels).last_hidden_state
        projected = clip.visual_projection(clip.vision_model.post_layernorm(states))
        tokens = F.normalize(projected.float(), dim=-1)
        texts = []
        for inputs in (batch.captions, batch.clauses):
            states = clip.text_model(inputs["input_ids"]).last_hidden_state
            pooled = states[torch.arange(len(states)), inputs["attention_mask"].sum(dim=1) - 1]
            texts.append(F.normalize(clip.text_projection(pooled).float(), dim=-1))
    captions, clauses = texts
    scale = clip.logit_scale.exp().clamp(max=100)
    regions = scale * tokens[batch.pictures, batch.cells] @ clauses.T
    regions = regions.masked_fill(batch.true & ~torch.eye(len(regions), dtype=torch.bool), float("-inf"))
    return contrastive_loss(scale * tokens[:, 0] @ captions.T) + contrastive_loss(regions)


# ---- SigLIP ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def siglip():
    """A small SigLIP before training, its tokenizer, and pixels `(8, 3, 64, 64)`."""
    kind = KINDS["siglip"]
    tokenizer = kind.make_tokenizer()
    pixels = normalize(draw_pictures(3, 4, 1).images, kind.make_image_processor())
    torch.manual_seed(0)
    return make_siglip(tokenizer, pixels, layers=2).eval(), tokenizer, pixels


def test_every_caption_fits_in_the_text_of_siglip():
    captions = [caption for captions in draw_pictures(7, 200, 1).captions for caption in captions]
    lengths = [len(tokens) for tokens in make_tokenizer()(captions)["input_ids"]]
    assert 30 < max(lengths) < SIGLIP_TEXT_LENGTH


def test_tokens_of_siglip_have_unit_variance_before_training(siglip):
    """No norm follows its embeddings, so they have the scale that CLIP's have after its first norm."""
    model, _, pixels = siglip
    with torch.no_grad():
        tokens = model.vision_model.embeddings(pixels)
    assert tokens.std().item() == pytest.approx(1, abs=0.15)


def test_words_are_distinct_in_siglip_before_training(siglip):
    """They are nearly identical (0.91) with transformers' initialisation of its layers."""
    model, tokenizer, _ = siglip
    with torch.no_grad():
        assert measure_words(KINDS["siglip"], model, tokenizer)["mean_cosine"] < 0.5


def test_the_first_token_of_siglip_is_the_embedding_of_the_picture(siglip):
    model, _, pixels = siglip
    with torch.no_grad():
        layers = read_layers(KINDS["siglip"], model, pixels)
        pooled = model.get_image_features(pixels).pooler_output
    assert [layer.shape[1] for layer in layers] == [65, 65, 65]
    torch.testing.assert_close(layers[-1][:, 0], pooled)


def test_a_region_of_siglip_is_pooled_from_the_patch_at_its_centre(siglip):
    model, _, pixels = siglip
    cells = object_cells([ShownObject("red", "ring", 0.9, 0.3, 0.1, "rests")], 8)
    with torch.no_grad():
        _, regions = KINDS["siglip"].embed_pictures(model, pixels, torch.tensor([2]), cells)
        patch = model.vision_model(pixels).last_hidden_state[2:3, 2 * 8 + 7]
        expected = model.vision_model.head(patch[:, None])
    torch.testing.assert_close(regions, F.normalize(expected, dim=-1))


def test_texts_of_siglip_are_embedded_as_by_transformers(siglip):
    """From the last of a fixed number of positions, padding included and without a mask."""
    model, tokenizer, _ = siglip
    kind = KINDS["siglip"]
    texts = kind.tokenize(tokenizer, ["the red circle", "a blue ring at the left"])
    assert texts["input_ids"].shape == (2, SIGLIP_TEXT_LENGTH)
    with torch.no_grad():
        expected = model.get_text_features(input_ids=texts["input_ids"]).pooler_output
        torch.testing.assert_close(kind.embed_texts(model, texts), F.normalize(expected, dim=-1))


def test_the_sigmoid_loss_is_that_of_transformers(siglip):
    model, tokenizer, pixels = siglip
    kind = KINDS["siglip"]
    texts = kind.tokenize(tokenizer, ["the red circle", "a blue ring", "a pink cross", "the square"] * 2)
    none = torch.zeros(0, dtype=torch.long)
    with torch.no_grad():
        pictures, _ = kind.embed_pictures(model, pixels, none, none)
        loss = kind.loss(model, pictures, kind.embed_texts(model, texts))
        expected = model(input_ids=texts["input_ids"], pixel_values=pixels, return_loss=True).loss
    torch.testing.assert_close(loss, expected)


def test_further_matches_are_positives_of_the_sigmoid_loss():
    logits = torch.tensor([[5.0, 5.0], [-5.0, 5.0]])
    alone, both = torch.eye(2, dtype=torch.bool), torch.tensor([[True, True], [False, True]])
    assert sigmoid_loss(logits, both) < 0.1 < sigmoid_loss(logits, alone)


def test_r2_tuning_reads_siglip_as_it_was_trained(tmp_path, siglip):
    """The processor made from its folder pads texts to the length of its training."""
    model, tokenizer, _ = siglip
    for part in (model, tokenizer, KINDS["siglip"].make_image_processor()):
        part.save_pretrained(tmp_path)
    found = R2TuningProcessor.from_backbone(tmp_path)(text="The red circle", return_tensors="pt")
    expected = KINDS["siglip"].tokenize(tokenizer, ["the red circle"])
    assert torch.equal(found["input_ids"], expected["input_ids"])
