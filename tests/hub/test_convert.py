"""Conversion of the authors' weights: accepted forms, refused files, settings, and CLIP in the checkpoint."""

import math
import os
import pickle

import pytest
import torch
import torch.nn.functional as F
from parity import FIXTURES, draw, read_json, released_weights
from tiny_models import TINY_TEXT, TINY_VISION
from transformers import CLIPConfig

from dataset_scripts.benchmarks import released_benchmarks
from modeling_r2tuning import R2TuningForVideoGrounding
from r2tuning.released.convert import (
    convert_original_checkpoint,
    get_benchmark,
    original_filename,
)


CLIP_WIDTHS = {"visual.": 128, "": 64}  # of the shared `small_clip`, 6 layers each
HEADS = {"visual.": 2, "": 1}  # 64 channels per head, as in every CLIP ViT


def tensors(weights):
    return {key: torch.from_numpy(value) for key, value in weights.items()}


@pytest.fixture
def weights():
    """The released code's state dict of the small model S1, without CLIP."""
    return tensors(released_weights(FIXTURES, "s1"))


@pytest.fixture
def convert(tiny_clip_config):
    """Convert with the tiny CLIP and S1's four heads."""

    def run(source, benchmark="qvhighlights", **options):
        options = {"backbone_config": tiny_clip_config, "num_attention_heads": 4, **options}
        return convert_original_checkpoint(source, benchmark=benchmark, **options)

    return run


@pytest.fixture(scope="module")
def whole_weights(shared_data):
    """A released checkpoint that holds its small CLIP too, under keys that begin with `clip.`."""
    shapes = read_json(shared_data / "parity", "shapes")
    # CLIP's activations stay moderate with a tenth of unit variance.
    clip = {f"clip.{key}": draw(f"clip/{key}", tuple(shape), std=0.1) for key, shape in shapes["small_clip"].items()}
    clip |= {key: 1 + value for key, value in clip.items() if "ln_" in key and key.endswith("weight")}
    return {**tensors(clip), **tensors(released_weights(shared_data / "parity", "small_r2"))}


def assert_equal_models(got, want):
    assert got.state_dict().keys() == want.state_dict().keys()
    for name, value in want.state_dict().items():
        if name.startswith(("r2_block.", "grounding_head.")):  # CLIP is random, as the checkpoints do not hold it
            assert torch.equal(got.state_dict()[name], value), name


# ---- accepted forms of a checkpoint ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["wrapped", "module", "path", "wrapped path", "half"])
def test_all_forms_of_a_checkpoint_give_the_same_model(convert, weights, tmp_path, form):
    want = convert(weights)
    given = {
        "wrapped": {"state_dict": weights, "meta": {"epoch": 3}},
        "module": {f"module.{key}": value for key, value in weights.items()},
        "path": weights,
        "wrapped path": {"state_dict": weights, "meta": {"epoch": 3}, "optimizer": {"step": 1}},
        "half": {key: value.double() for key, value in weights.items()},
    }[form]
    if "path" in form:
        torch.save(given, tmp_path / "model.pth")
        given = tmp_path / "model.pth"
    model = convert(given)
    assert not model.training
    assert model.grounding_head.level_scale.dtype == torch.float32
    assert_equal_models(model, want)


def test_the_given_weights_are_not_changed(convert, weights):
    before = {key: value.clone() for key, value in weights.items()}
    model = convert(weights)
    with torch.no_grad():
        model.r2_block.scale.add_(1)
    assert weights.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in weights.items())


def test_the_stored_temperature_is_ignored(convert, weights):
    """The released code never trains it; ours is a constant."""
    want = convert(weights)
    weights["loss._loss_sal.scale"] = torch.tensor([9.0])
    assert_equal_models(convert(weights), want)
    del weights["loss._loss_sal.scale"]
    assert_equal_models(convert(weights), want)


def test_no_initial_weight_survives(convert, weights):
    torch.manual_seed(1)
    first = convert(weights)
    torch.manual_seed(2)
    assert_equal_models(convert(weights), first)


# ---- what is refused ---------------------------------------------------------------------------------------------


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_is_not_run(convert, weights, tmp_path):
    content = {"state_dict": weights, "meta": Malicious(tmp_path / "proof")}
    torch.save(content, tmp_path / "torch")
    (tmp_path / "pickle").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("torch", "pickle"):
        with pytest.raises(ValueError, match=f"{name}' is not a PyTorch checkpoint that is safe to load"):
            convert(tmp_path / name)
    assert not (tmp_path / "proof").exists()


def test_unusable_files_are_refused(convert, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint at '.*nothing'"):
        convert(tmp_path / "nothing")
    (tmp_path / "garbage").write_bytes(b"garbage" * 9)
    with pytest.raises(ValueError, match="garbage' is not a PyTorch checkpoint"):
        convert(tmp_path / "garbage")


@pytest.mark.parametrize("given", [{"epoch": 3}, {"state_dict": 3}, {"state_dict": {"a": "b"}}])
def test_anything_but_a_dictionary_of_weights_is_refused(convert, given):
    with pytest.raises(ValueError, match="holds no dictionary of weights"):
        convert(given)


def test_a_file_with_a_list_is_refused(convert, tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list")
    with pytest.raises(ValueError, match="holds no dictionary of weights"):
        convert(tmp_path / "list")


def test_weights_of_another_model_are_refused(convert):
    with pytest.raises(ValueError, match="not a checkpoint of R2-Tuning: it lacks 'adapter.scale'"):
        convert({"backbone.weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("adapter.extra", torch.ones(2), r"unknown \['adapter.extra'\]"),
        ("adapter.video_map.1.weight", torch.ones(2), "unknown .*video_projection"),
        ("pyramid.blocks.1.7.weight", torch.ones(2), "unknown .*pyramid.levels.1.1.2"),
        ("adapter.gate", None, r"missing \['r2_block.gate'\]"),
        ("pyramid.blocks.2.8.bias", None, r"missing \['grounding_head.pyramid.levels.2.1.norm.bias'\]"),
        (
            "pooling.att.weight",
            torch.ones(1, 31),
            r"misshaped \['grounding_head.text_pooling.score.weight: \(1, 31\) where \(1, 32\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(convert, weights, key, value, message):
    if value is None:
        del weights[key]
    else:
        weights[key] = value
    with pytest.raises(ValueError, match=f"The checkpoint does not fit: {message}"):
        convert(weights)


def test_all_problems_are_listed_at_once(convert, weights):
    del weights["adapter.gate"], weights["coord_head.module.1.bias"]
    weights["a"] = weights["b"] = torch.ones(1)
    wrong = r"unknown \['a', 'b'\]; missing \['grounding_head.boundary_head.conv1.bias', 'r2_block.gate'\]\."
    with pytest.raises(ValueError, match=wrong):
        convert(weights)


def test_weights_trained_on_another_clip_are_refused(convert, weights):
    with pytest.raises(ValueError, match="trained on another CLIP: its projections read 66 video channels"):
        convert(weights, backbone_config=CLIPConfig())
    narrow = CLIPConfig(vision_config=TINY_VISION, text_config={**TINY_TEXT, "hidden_size": 32})
    with pytest.raises(ValueError, match="48 text channels, `backbone_config` has 64 and 32"):
        convert(weights, backbone_config=narrow)


# ---- settings ----------------------------------------------------------------------------------------------------


def test_sizes_follow_from_the_weights(convert, weights):
    config = convert(weights, dropout=0.25).config
    assert (config.hidden_size, config.num_recurrent_steps, config.strides) == (32, 3, [1, 2, 4])
    assert config.use_temporal_endpoints
    assert config.use_moment_head
    assert config.dropout == 0.25
    assert not config.save_backbone


@pytest.mark.parametrize(
    ("benchmark", "fps", "dropout", "saliency_weight"),
    [
        ("qvhighlights", 0.5, 0.5, 0.1),
        ("ego4d_nlq", 0.5, 0.3, 0.1),
        ("charades_sta", 1.0, 0.35, 0.01),
        ("tacos", 0.5, 0.5, 0.05),
    ],
)
def test_settings_of_the_moment_benchmarks(convert, weights, benchmark, fps, dropout, saliency_weight):
    """Settings of the released configurations."""
    config = convert(weights, benchmark).config
    assert (config.fps, config.dropout, config.saliency_loss_weight) == (fps, dropout, saliency_weight)
    assert config.loss_recipe == "released"


@pytest.mark.parametrize(
    ("benchmark", "domain", "rule"),
    [("tvsum", "BK", "above_median"), ("youtube_highlights", "dog", "above_half")],
)
def test_settings_of_the_highlight_benchmarks(convert, weights, benchmark, domain, rule):
    """One stride, no frame times, no boundary head."""
    weights = {k: v for k, v in weights.items() if not k.startswith(("coord_head.", "pyramid."))}
    weights["coef"] = weights["coef"][:1]
    for part in ("0.weight", "0.bias", "2.weight"):
        weights[f"adapter.video_map.{part}"] = weights[f"adapter.video_map.{part}"][..., :64]
    model = convert(weights, benchmark, domain=domain)
    assert model.config.strides == [1]
    assert not model.config.use_temporal_endpoints
    assert not model.config.use_moment_head
    assert model.config.positive_saliency == rule
    assert model.config.dropout == 0.5


def test_published_files():
    """All twenty, by benchmark and domain."""
    names = []
    for name, spec in released_benchmarks().items():
        names += [original_filename(name, domain) for domain in spec.released_checkpoints]
    published = """
        qvhighlights-ed516355 ego4d-6a6f5754 charades-1de02112 tacos-81759b55 youtube_dog-702bd293
        youtube_gym-ff68b1b3 youtube_par-27442af0 youtube_ska-dad28398 youtube_ski-df2edc4c youtube_sur-d384d8b2
        tvsum_bk-45b59440 tvsum_bt-13683fdf tvsum_ds-d11b33d3 tvsum_fm-2c8c119d tvsum_ga-58e79858 tvsum_ms-d9b4f8fa
        tvsum_pk-1830ce03 tvsum_pr-51d78fc9 tvsum_vt-0069d8d3 tvsum_vu-6f8ebb4b
    """
    assert names == [f"checkpoints/r2_tuning_{name}.pth" for name in published.split()]
    assert original_filename("tvsum", "GA") == "checkpoints/r2_tuning_tvsum_ga-58e79858.pth"
    assert original_filename("youtube_highlights", "skiing") == "checkpoints/r2_tuning_youtube_ski-df2edc4c.pth"


def test_post_processing_of_the_released_evaluation():
    nms = {name: (settings.nms, settings.round_to) for name, settings in released_benchmarks().items()}
    assert nms == {
        "qvhighlights": ("hard", 2.0),
        "ego4d_nlq": ("linear", None),
        "charades_sta": ("linear", 0.1),
        "tacos": ("linear", None),
        "youtube_highlights": (None, None),
        "tvsum": (None, None),
    }


def test_unknown_benchmarks_and_domains_are_refused(convert, weights):
    with pytest.raises(ValueError, match=r"`benchmark` must be one of \['charades_sta', .*\], got 'activitynet'"):
        convert(weights, "activitynet")
    with pytest.raises(ValueError, match="`domain` of qvhighlights must be left out, .* got 'BK'"):
        convert(weights, domain="BK")
    with pytest.raises(ValueError, match=r"`domain` of tvsum must be one of \['BK', .*\], got 'dog'"):
        get_benchmark("tvsum", "dog")
    with pytest.raises(ValueError, match=r"tvsum has one model for each domain: give one of \['BK'"):
        original_filename("tvsum")


# ---- CLIP in the checkpoint --------------------------------------------------------------------------------------


def run_block(hidden, weights, prefix, heads, mask):
    """One of openai/CLIP's residual blocks."""
    width = hidden.shape[-1]

    def part(name):
        return weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"]

    query, key, value = (
        projected.unflatten(-1, (heads, -1)).transpose(1, 2)
        for projected in F.linear(
            F.layer_norm(hidden, (width,), *part("ln_1")),
            weights[f"{prefix}attn.in_proj_weight"],
            weights[f"{prefix}attn.in_proj_bias"],
        ).chunk(3, dim=-1)
    )
    scores = query @ key.mT / math.sqrt(width // heads) + mask
    hidden = hidden + F.linear((scores.softmax(-1) @ value).transpose(1, 2).flatten(-2), *part("attn.out_proj"))
    inner = F.linear(F.layer_norm(hidden, (width,), *part("ln_2")), *part("mlp.c_fc"))
    return hidden + F.linear(inner * torch.sigmoid(1.702 * inner), *part("mlp.c_proj"))


def run_blocks(hidden, weights, tower, mask, num_layers=6, last=4):
    """Outputs of the last blocks, `(batch, last, length, width)`."""
    states = []
    for layer in range(num_layers):
        hidden = run_block(hidden, weights, f"clip.{tower}transformer.resblocks.{layer}.", HEADS[tower], mask)
        states.append(hidden)
    return torch.stack(states[-last:], dim=1)


def clip_video_states(frames, weights):
    patches = F.conv2d(frames, weights["clip.visual.conv1.weight"], stride=16).flatten(2).mT
    cls = weights["clip.visual.class_embedding"].expand(len(frames), 1, -1)
    hidden = torch.cat([cls, patches], dim=1) + weights["clip.visual.positional_embedding"]
    norm = weights["clip.visual.ln_pre.weight"], weights["clip.visual.ln_pre.bias"]
    return run_blocks(F.layer_norm(hidden, (128,), *norm), weights, "visual.", torch.zeros(()))


def clip_text_states(ids, weights):
    length = ids.shape[1]
    hidden = weights["clip.token_embedding.weight"][ids] + weights["clip.positional_embedding"][:length]
    return run_blocks(hidden, weights, "", torch.full((length, length), -math.inf).triu(1))


@torch.no_grad()
def test_the_encoders_compute_what_openai_clip_computes(whole_weights):
    """Hidden states of the last K blocks, before any final norm; sizes and heads follow from the weights."""
    model = convert_original_checkpoint(whole_weights, benchmark="qvhighlights")
    vision, text = model.config.vision_config, model.config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size) == (128, 6, 16, 48)
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (64, 6, 64)
    assert text.max_position_embeddings == 16
    assert (vision.num_attention_heads, text.num_attention_heads) == (2, 1)
    torch.manual_seed(0)
    frames, ids = torch.randn(3, 3, 48, 48), torch.randint(0, 64, (2, 9))
    got = model.get_video_hidden_states(frames[None])[0]
    torch.testing.assert_close(got, clip_video_states(frames, whole_weights), atol=1e-4, rtol=1e-4)
    got = model.get_text_hidden_states(ids)
    torch.testing.assert_close(got, clip_text_states(ids, whole_weights).transpose(1, 2), atol=1e-4, rtol=1e-4)


def test_a_checkpoint_with_clip_is_saved_with_clip(whole_weights, tmp_path):
    model = convert_original_checkpoint(whole_weights, benchmark="qvhighlights")
    assert model.config.save_backbone
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())
    model.save_pretrained(tmp_path)
    loaded = R2TuningForVideoGrounding.from_pretrained(tmp_path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_number_of_attention_heads_of_clip_may_be_given(whole_weights):
    """The number of heads does not follow from the weights."""
    found = convert_original_checkpoint(whole_weights, benchmark="qvhighlights").config
    vision = {**found.vision_config.to_dict(), "num_attention_heads": 8}
    given = CLIPConfig(vision_config=vision, text_config=found.text_config.to_dict())
    model = convert_original_checkpoint(whole_weights, benchmark="qvhighlights", backbone_config=given)
    assert model.vision_model.encoder.layers[0].self_attn.num_heads == 8
    assert model.config.num_attention_heads == 8


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("clip.visual.ln_pre.bias", None, r"missing \['vision_model.pre_layrnorm.bias'\]"),
        ("clip.transformer.resblocks.5.attn.in_proj_bias", None, "missing .*layers.5.self_attn.k_proj.bias"),
        ("clip.visual.extra", torch.ones(1), r"unknown \['clip.visual.extra'\]"),
        (
            "clip.visual.conv1.weight",
            None,
            "The CLIP in the checkpoint is incomplete: it lacks 'clip.visual.conv1.weight'",
        ),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(whole_weights, key, value, message):
    weights = {k: v for k, v in whole_weights.items() if k != key}
    if value is not None:
        weights[key] = value
    with pytest.raises(ValueError, match=message):
        convert_original_checkpoint(weights, benchmark="qvhighlights")
