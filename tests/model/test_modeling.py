import json
import shutil

import pytest
import torch
from model_checks import CLOSE, ModelChecks, assert_equal_outputs, make_inputs, make_labels
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import TINY_TEXT, TINY_VISION
from torch import nn
from transformers import CLIPConfig, CLIPModel

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, block_r2tuning, fused_pooling_r2tuning
from modeling_r2tuning.block_r2tuning import (
    DropPath,
    TemporalAttention,
    temporal_endpoints,
    time_code,
)
from modeling_r2tuning.heads_r2tuning import Downsample


HIGHLIGHTS = {"strides": (1,), "use_temporal_endpoints": False, "use_moment_head": False}
CONFIGURATIONS = {
    "default": {},
    "paper": {"loss_recipe": "paper"},
    "tvsum": HIGHLIGHTS,
    "youtube_paper": {**HIGHLIGHTS, "loss_recipe": "paper", "positive_saliency": "above_half"},
    "self_cross": {"attention_order": "self_cross"},
    "separate_blocks": {"shared_block": False},
    "forward": {"layer_fusion": "forward"},
    "single": {"layer_fusion": "single"},
    "mean": {"layer_fusion": "mean"},
    "three_layers": {"num_temporal_layers": 3},
    "one_step": {"num_recurrent_steps": 1},
    "without_tuning": {"method": "none", "num_recurrent_steps": 1},
    **{name: {"method": name, "num_recurrent_steps": 1} for name in ("full", "lora", "vpt", "vop", "st_adapter")},
    **{name: {"method": name} for name in ("e3va", "losa", "lst")},
    "existence": {"use_existence_head": True},
    "no_calibration": {"use_video_calibration": False, "use_layer_calibration": False},
}


class TestR2Tuning(ModelChecks):
    @pytest.fixture(params=CONFIGURATIONS)
    def model(self, request, make_model):
        return make_model(**CONFIGURATIONS[request.param])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(tiny_model):
    inputs = {**make_inputs(tiny_model.config), **make_labels(tiny_model.config)}
    with torch.no_grad():
        want = tiny_model(**inputs)
        got = tiny_model.cuda()(**{k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
    # TF32 convolutions keep three digits.
    torch.testing.assert_close(got.saliency_scores.cpu(), want.saliency_scores, atol=1e-3, rtol=0)
    torch.testing.assert_close(got.loss.cpu(), want.loss, atol=1e-3, rtol=0)


# ---- size --------------------------------------------------------------------------------------------------------


def count(module):
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_number_of_learned_parameters_is_that_of_the_paper():
    """QVHighlights: 2,836,242 in these parts; with CLIP's towers 1.84 % of the whole."""
    with torch.device("meta"):
        model = R2TuningForVideoGrounding(R2TuningConfig())
    step, head = model.r2_block.steps[0], model.grounding_head
    parts = {
        "temporal layer": (count(step.temporal_layers), 1_053_440),
        "video projection": (count(step.video_projection), 265_220),
        "text projection": (count(step.text_projection), 198_656),
        "key and query": (count(step.video_key) + count(step.text_query), 131_584),
        "pyramid": (count(head.pyramid), 791_040),
        "classification head": (count(head.classification_head), 197_633),
        "boundary head": (count(head.boundary_head), 198_402),
        "text pooling": (count(head.text_pooling), 256),
        "scalars": (model.r2_block.scale.numel() + model.r2_block.gate.numel() + head.level_scale.numel(), 11),
        "model": (count(model), 2_836_242),
    }
    assert {name: got for name, (got, _) in parts.items()} == {name: want for name, (_, want) in parts.items()}


def test_number_of_learned_parameters_of_a_highlight_model():
    with torch.device("meta"):
        model = R2TuningForVideoGrounding(R2TuningConfig(**HIGHLIGHTS))
    assert count(model) == 1_846_281


# ---- initial weights ---------------------------------------------------------------------------------------------


def test_initial_weights_are_those_of_the_released_code(make_config):
    """Gates 0.5, spatial pooling off, level scales 1; attention xavier, feed-forward kaiming, their biases 0."""
    torch.manual_seed(0)
    model = R2TuningForVideoGrounding(make_config(hidden_size=256, num_attention_heads=8))
    assert not model.r2_block.scale.any()
    assert not model.r2_block.gate.any()
    assert model.grounding_head.level_scale.eq(1).all()
    layer = model.r2_block.steps[0].temporal_layers[0]
    for attention in (layer.cross_attention, layer.self_attention):
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            assert linear.weight.abs().max().item() == pytest.approx((6 / 512) ** 0.5, rel=1e-3)
            assert not linear.bias.any()
    for linear, fan_out in ((layer.feed_forward.fc1, 1024), (layer.feed_forward.fc2, 256)):
        assert linear.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
        assert not linear.bias.any()
    key = model.r2_block.steps[0].video_key
    assert key.weight.abs().max().item() == pytest.approx(1 / 16, rel=1e-3)
    assert key.bias.any()


# ---- layers against their plain forms ----------------------------------------------------------------------------


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop_path, ones = DropPath(0.1), torch.ones(20000, 2, 3)
    dropped = drop_path(ones)
    assert torch.equal(dropped, dropped[:, :1, :1].expand(-1, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(drop_path.eval()(ones), ones)


def test_attention_equals_that_of_torch(make_config):
    torch.manual_seed(0)
    ours, theirs = TemporalAttention(make_config()), nn.MultiheadAttention(32, 4, batch_first=True)
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    query, key, value = torch.randn(2, 7, 32), torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    want = theirs(query, key, value, key_padding_mask=~mask)[0]
    torch.testing.assert_close(ours(query, key, value, mask), want, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_has_the_gradients_of_full_precision(make_config, dtype):
    torch.manual_seed(0)
    layer = TemporalAttention(make_config())
    frames, mask = torch.randn(2, 7, 32), torch.arange(7) < torch.tensor([[5], [7]])
    gradients = []
    for enabled in (False, True):
        inputs = frames.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=enabled):
            result = layer(inputs, inputs, inputs, mask)
        assert result.dtype == (dtype if enabled else torch.float32)
        result.float().square().sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=0.02, rtol=0.02)


def test_frames_recomputed_in_pieces_have_the_same_gradients(make_model, monkeypatch):
    monkeypatch.setattr(block_r2tuning, "FRAMES_AT_ONCE", 2)
    model = make_model(dropout=0.0, drop_path=0.0).train()
    inputs = {**make_inputs(model.config, cached=True), **make_labels(model.config)}
    model(**inputs).loss.backward()
    want = {name: p.grad.clone() for name, p in model.r2_block.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    model(**inputs).loss.backward()
    for name, parameter in model.r2_block.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], **CLOSE, msg=name)


def test_downsample_equals_its_convolution(make_config):
    torch.manual_seed(0)
    layer, features = Downsample(make_config()), torch.randn(2, 7, 32)
    want = layer.norm(layer.conv(features.mT).mT).relu()
    torch.testing.assert_close(layer(features), want, **CLOSE)


def test_temporal_endpoints_count_each_videos_own_frames():
    """49 is a length for which stepping by 1/49 gives one frame too many."""
    endpoints = temporal_endpoints(torch.tensor([49, 2]), 49)
    assert endpoints.shape == (2, 49, 2)
    torch.testing.assert_close(endpoints[0, -1], torch.tensor([48 / 49, 1.0]))
    torch.testing.assert_close(endpoints[1, :2], torch.tensor([[0.0, 0.5], [0.5, 1.0]]))


def pooled_slowly(step, video, text):
    """Eq. 4-5 for one video and one query, word by word."""
    words = []
    for word in text:
        scores = step.video_key(video) @ step.text_query(word) / video.shape[-1] ** 0.5
        words.append((scores.softmax(dim=-1)[..., None] * video).sum(dim=-2) + word)
    return torch.stack(words).amax(dim=0)


@torch.no_grad()
def test_patches_are_pooled_according_to_the_equations(tiny_model):
    step = tiny_model.r2_block.steps[0]
    video, text = torch.randn(2, 3, 5, 32), torch.randn(4, 6, 32)
    lengths = [6, 2, 4, 1]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    pooled = step.pool_patches(video, text, mask)
    for row, length in enumerate(lengths):
        want = pooled_slowly(step, video[row // 2], text[row, :length])
        torch.testing.assert_close(pooled[row], want, **CLOSE)


def test_pooling_gives_the_same_with_and_without_gradients(tiny_model):
    step = tiny_model.r2_block.steps[0]
    inputs = torch.randn(2, 3, 5, 32), torch.randn(2, 6, 32), torch.ones(2, 6).bool()
    with torch.no_grad():
        want = step.pool_patches(*inputs)
    assert torch.equal(step.pool_patches(*inputs).detach(), want)


@pytest.mark.parametrize("tokens_at_once", [1, 10, 1024])
@pytest.mark.parametrize("per_video", [1, 2])
def test_training_pools_patches_with_the_same_gradients(make_model, monkeypatch, tokens_at_once, per_video):
    """With any number of frames at once, queries that share a video, and padded words."""
    monkeypatch.setattr(fused_pooling_r2tuning, "TOKENS_AT_ONCE", tokens_at_once)
    step = make_model().double().r2_block.steps[0]
    video, text = torch.randn(2, 3, 5, 32).double(), torch.randn(2 * per_video, 6, 32).double()
    mask = torch.arange(6) < torch.tensor([6, 2, 4, 1])[: 2 * per_video, None]
    inputs = [video.requires_grad_(), text.requires_grad_()]
    got = step.read_frames(*inputs, mask)
    want = video[:, :, 0].repeat_interleave(per_video, dim=0), step.pool_patches(*inputs, mask)
    torch.testing.assert_close(got, want)
    probes = [torch.randn_like(each) for each in want]
    inputs += [step.text_query.weight, step.video_key.weight]
    gradients = [torch.autograd.grad(outputs, inputs, probes) for outputs in (got, want)]
    torch.testing.assert_close(*gradients)


def test_training_pools_patches_in_autocasts_precision(tiny_model):
    step = tiny_model.r2_block.steps[0]
    video, text = torch.randn(2, 3, 5, 32).bfloat16().requires_grad_(), torch.randn(2, 6, 32)
    with torch.autocast("cpu", torch.bfloat16):
        got = step.read_frames(video, text, torch.ones(2, 6).bool())
    want = step.read_frames(video.float(), text, torch.ones(2, 6).bool())
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, atol=0.05, rtol=0.05)
    gradients = [torch.autograd.grad([each.float().sum() for each in outputs], [video])[0] for outputs in (got, want)]
    torch.testing.assert_close(*gradients, atol=0.05, rtol=0.05)


# ---- fusion of the layers ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("fusion", "used"), [("reversed", [2, 1, 0]), ("forward", [0, 1, 2]), ("single", [0]), ("mean", [None])]
)
def test_layers_are_visited_in_the_order_of_figure_7(make_model, fusion, used):
    model = make_model(layer_fusion=fusion)
    inputs = make_inputs(model.config, cached=True)
    states = inputs["text_hidden_states"]
    layers = [states.mean(dim=2) if layer is None else states[:, :, layer] for layer in used]
    got = model.r2_block.project_text(states)
    assert len(got) == len(used)
    for words, layer in zip(got, layers, strict=True):
        assert torch.equal(words, model.r2_block.steps[0].text_projection(layer))


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["reversed", "forward"])
def test_closed_gates_pass_the_first_step_on(make_model, fusion):
    """A gate of 0 leaves only the output of the previous step, Eq. 7."""
    model = make_model(layer_fusion=fusion)
    block = model.r2_block
    block.gate.fill_(-1e4)
    inputs = make_inputs(model.config, (5,), (3,), cached=True)
    steps = model(**inputs, output_hidden_states=True).hidden_states
    frames = steps[0]
    code = time_code(torch.tensor([5]), 5, 32)
    words = block.project_text(inputs["text_hidden_states"])
    for step, text in zip(steps[1:], words[1:], strict=True):  # the temporal layers still run, each on its own words
        frames = block.steps[0].temporal_layers[0](frames, text, code, inputs["frame_mask"], inputs["attention_mask"])
        torch.testing.assert_close(step, frames, **CLOSE)


@torch.no_grad()
def test_levels_do_not_see_each_other(tiny_model):
    """The heads run once over all levels; each level has the outputs that it has alone."""
    inputs = make_inputs(tiny_model.config, cached=True)
    outputs, head = tiny_model(**inputs), tiny_model.grounding_head
    levels = head.pyramid(outputs.video_features.relu(), inputs["frame_mask"].sum(dim=1))
    assert len(levels) == 3
    logits = [head.classification_head(level, mask[..., None])[..., 0] for level, mask in levels]
    torch.testing.assert_close(outputs.logits, torch.cat(logits, dim=1), **CLOSE)
    offsets = [
        head.boundary_head(level, mask[..., None]).exp() * scale
        for (level, mask), scale in zip(levels, head.level_scale, strict=True)
    ]
    torch.testing.assert_close(outputs.boundary_offsets, torch.cat(offsets, dim=1), **CLOSE)


# ---- checks of the inputs ----------------------------------------------------------------------------------------

IDS = torch.ones(2, 5, dtype=torch.long)
WRONG_INPUTS = {
    "no text": ({"text_hidden_states": None}, "either `input_ids` or `text_hidden_states`"),
    "two texts": ({"input_ids": IDS}, "either `input_ids` or `text_hidden_states`"),
    "no video": ({"video_hidden_states": None}, "either `pixel_values_videos` or `video_hidden_states`"),
    "two videos": ({"pixel_values_videos": torch.zeros(2, 4, 3, 64, 64)}, "either `pixel_values_videos` or"),
    "one frame axis": (
        {"video_hidden_states": torch.zeros(4, 3, 5, 64)},
        r"`video_hidden_states` must .* \(4, 3, 5, 64\)",
    ),
    "layers of video": (
        {"video_hidden_states": torch.zeros(2, 4, 4, 5, 64)},
        "`video_hidden_states` must have the shape",
    ),
    "width of video": (
        {"video_hidden_states": torch.zeros(2, 4, 3, 5, 63)},
        "`video_hidden_states` must have the shape",
    ),
    "no frames": ({"video_hidden_states": torch.zeros(2, 0, 3, 5, 64)}, "not be empty"),
    "layers of text": ({"text_hidden_states": torch.zeros(2, 5, 4, 48)}, "`text_hidden_states` must have the shape"),
    "no words": ({"text_hidden_states": torch.zeros(2, 0, 3, 48)}, "not be empty"),
    "queries and videos": (
        {"text_hidden_states": torch.zeros(3, 5, 3, 48), "attention_mask": None},
        "3 queries cannot be divided evenly among 2",
    ),
    "size of pixels": (
        {"video_hidden_states": None, "pixel_values_videos": torch.zeros(2, 4, 3, 32, 32)},
        "`pixel_values_videos` must have the shape",
    ),
    "shape of ids": ({"text_hidden_states": None, "input_ids": IDS[0]}, "`input_ids` must have the shape"),
    "too many ids": (
        {"text_hidden_states": None, "input_ids": IDS.repeat(1, 4)},
        "not be longer than 16 tokens, got 20",
    ),
    "frame mask length": ({"frame_mask": torch.ones(2, 3)}, "`frame_mask` must have the shape"),
    "frame mask rows": ({"frame_mask": torch.ones(3, 4)}, "`frame_mask` must have the shape"),
    "frame mask empty": (
        {"frame_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])},
        "`frame_mask` must have a `True`",
    ),
    "frame mask hole": (
        {"frame_mask": torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]])},
        "`frame_mask` must be padded on the right",
    ),
    "text mask length": ({"attention_mask": torch.ones(2, 4)}, "`attention_mask` must have the shape"),
    "text mask empty": ({"attention_mask": torch.zeros(2, 5)}, "`attention_mask` must have a `True`"),
    "incomplete labels": ({"saliency": None, "moments": None}, r"incomplete: \['moments', 'saliency'\] are missing"),
    "labels without fps": ({"fps": None}, r"incomplete: \['fps'\] are missing"),
    "saliency length": ({"saliency": torch.zeros(2, 3)}, "`saliency` must have the shape"),
    "positive frames": ({"positive_frame": torch.tensor([1])}, "`positive_frame` must have the shape"),
    "padded positive": (
        {"positive_frame": torch.tensor([1, 3])},
        r"`positive_frame` must be a valid frame .* \[1, 3\]",
    ),
    "late positive": ({"positive_frame": torch.tensor([4, 1])}, "`positive_frame` must be a valid frame"),
    "negative positive": ({"positive_frame": torch.tensor([-1, 1])}, "`positive_frame` must be a valid frame"),
    "too few moments": ({"moments": [torch.zeros(1, 2)]}, "`moments` must have the shape"),
    "flat moments": ({"moments": torch.zeros(2, 2)}, "`moments`"),
    "odd moments": ({"moments": [torch.zeros(3), torch.zeros(1, 2)]}, "`moments`"),
    "moment mask": ({"moments": torch.zeros(2, 3, 2), "moment_mask": torch.ones(2, 2)}, "`moment_mask` must"),
    "fps shape": ({"fps": torch.ones(3)}, r"`fps` must be a number or one for each query, got the shape \(3,\)"),
    "negative fps": ({"fps": -1.0}, "`fps` must be positive"),
    "fps not a number": ({"fps": float("nan")}, "`fps` must be positive"),
    "duration shape": ({"duration_sec": torch.ones(2, 2)}, "`duration_sec` must be a number or one for each query"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_wrong_inputs_are_refused_with_their_name(tiny_model, name):
    changes, message = WRONG_INPUTS[name]
    config = tiny_model.config
    inputs = {**make_inputs(config, (4, 3), (5, 2), cached=True), **make_labels(config, (4, 3)), **changes}
    with pytest.raises(ValueError, match=message):
        tiny_model(**inputs)


@torch.no_grad()
def test_masks_may_be_numbers_or_omitted(tiny_model):
    inputs = make_inputs(tiny_model.config, (4, 4), (5, 5), cached=True)
    want = tiny_model(**inputs)
    assert_equal_outputs(tiny_model(**{name: t.long() if "mask" in name else t for name, t in inputs.items()}), want)
    assert_equal_outputs(tiny_model(**{name: t for name, t in inputs.items() if "mask" not in name}), want)


@torch.no_grad()
def test_half_precision_caches_are_accepted(tiny_model):
    """The official caches are in half precision; the results are those of the same values in float32."""
    inputs = make_inputs(tiny_model.config, cached=True)
    half = {name: t.half() if "states" in name else t for name, t in inputs.items()}
    full = {name: t.float() if "states" in name else t for name, t in half.items()}
    assert_equal_outputs(tiny_model(**half), tiny_model(**full))


@torch.no_grad()
def test_time_values_are_expanded_to_one_for_each_query(tiny_model):
    inputs = make_inputs(tiny_model.config, (4, 3), (5, 2, 3, 1), cached=True)
    outputs = tiny_model(**inputs, fps=torch.tensor([0.5, 1.0]), duration_sec=9)
    assert outputs.fps.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert outputs.duration_sec.tolist() == [9.0] * 4
    assert outputs.loss is None
    assert outputs.loss_parts is None


@torch.no_grad()
def test_moments_may_be_a_list_or_one_padded_tensor(tiny_model):
    inputs = {**make_inputs(tiny_model.config, (9, 7), (5, 2), cached=True), **make_labels(tiny_model.config, (9, 7))}
    inputs["moments"] = [[[0.0, 4.0], [6.0, 17.0]], [[2.0, 5.0]]]
    listed = tiny_model(**inputs)
    padded = torch.tensor([[[0.0, 4.0], [6.0, 17.0]], [[2.0, 5.0], [float("inf")] * 2]])
    mask = torch.tensor([[1, 1], [1, 0]]).bool()
    assert_equal_outputs(listed.loss_parts, tiny_model(**{**inputs, "moments": padded}, moment_mask=mask).loss_parts)


# ---- losses stay finite ------------------------------------------------------------------------------------------

HARD_LABELS = {
    # Between two frames: no point lies inside.
    "no positive point": {"moments": [[[2.1, 2.8]], [[4.1, 4.8]]]},
    "no moment": {"moments": [[], []]},
    # At index 1 both frames are more salient than the positive one, so there is no negative.
    "masked everywhere": {
        "saliency": torch.tensor([[0.5, 1, 0, 0], [0.5, 1, 0, 0]]),
        "positive_frame": torch.zeros(2).long(),
    },
    "nothing salient": {"saliency": torch.zeros(2, 4)},
    # The second video has no frame 3.
    "missing in the other": {"positive_frame": torch.tensor([3, 0])},
}


@pytest.mark.parametrize("recipe", ["released", "paper"])
@pytest.mark.parametrize("name", HARD_LABELS)
def test_losses_and_gradients_stay_finite(make_model, name, recipe):
    model = make_model(loss_recipe=recipe).train()
    inputs = make_inputs(model.config, (4, 3), (5, 2), cached=True)
    outputs = model(**inputs, **{**make_labels(model.config, (4, 3)), **HARD_LABELS[name]})
    outputs.loss.backward()
    assert all(part.isfinite() for part in outputs.loss_parts.values())
    if name in ("no positive point", "no moment"):
        assert outputs.loss_parts["boundary"] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_loss_is_the_sum_of_its_parts(tiny_model):
    outputs = tiny_model(**make_inputs(tiny_model.config), **make_labels(tiny_model.config))
    torch.testing.assert_close(outputs.loss, sum(outputs.loss_parts.values()))


def test_one_training_step_lowers_the_loss(make_model):
    model = make_model(dropout=0.0, drop_path=0.0).train()
    inputs = {**make_inputs(model.config, cached=True), **make_labels(model.config)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


# ---- checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture
def saved_model(tiny_model, tmp_path):
    """Folder of `tiny_model`, saved without CLIP."""
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_checkpoint_holds_only_what_is_learned(tiny_model, saved_model):
    file = saved_model / "model.safetensors"
    weights = load_file(file)
    assert weights.keys() == {name for name, p in tiny_model.named_parameters() if p.requires_grad}
    assert file.stat().st_size < 4 * count(tiny_model) + 100 * len(weights) + 1000  # a name and an offset for each


def test_a_self_contained_checkpoint_needs_no_clip(make_model, tmp_path):
    model = make_model(save_backbone=True, backbone_name_or_path=None)
    model.save_pretrained(tmp_path)
    loaded = R2TuningForVideoGrounding.from_pretrained(tmp_path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }


def test_loaded_encoders_are_frozen_and_the_rest_is_not(saved_model):
    """transformers makes every loaded parameter trainable; the model freezes the encoders again."""
    loaded = R2TuningForVideoGrounding.from_pretrained(saved_model)
    for name, parameter in loaded.named_parameters():
        assert parameter.requires_grad == (not name.startswith(("vision_model.", "text_model."))), name


def test_clip_may_be_moved_to_another_folder(tiny_model, saved_model, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "elsewhere")
    loaded = R2TuningForVideoGrounding.from_pretrained(saved_model, backbone_name_or_path=str(tmp_path / "elsewhere"))
    assert loaded.config.backbone_name_or_path == str(tmp_path / "elsewhere")
    assert all(torch.equal(value, tiny_model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_loading_returns_the_loading_info_of_transformers(saved_model):
    loaded, info = R2TuningForVideoGrounding.from_pretrained(saved_model, output_loading_info=True)
    assert isinstance(loaded, R2TuningForVideoGrounding)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.mark.parametrize("name", ["folder/that/is/not", "org/not-on-disk"])
def test_a_missing_clip_is_named(saved_model, tmp_path, name):
    with pytest.raises(
        OSError, match=f"'{name}' (is neither a folder|cannot be loaded).* Pass `backbone_name_or_path=`"
    ):
        R2TuningForVideoGrounding.from_pretrained(
            saved_model, backbone_name_or_path=name, local_files_only=True, cache_dir=tmp_path
        )


def test_a_checkpoint_without_any_clip_is_refused(saved_model):
    with pytest.raises(ValueError, match="holds no backbone and its configuration names none. Pass"):
        R2TuningForVideoGrounding.from_pretrained(saved_model, backbone_name_or_path=None)


def save_clip(folder, vision=(), text=()):
    config = CLIPConfig(
        vision_config={**TINY_VISION, **dict(vision)}, text_config={**TINY_TEXT, **dict(text)}, projection_dim=32
    )
    CLIPModel(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": {"patch_size": 16}}, "vision_config has patch_size=16 where 32 is needed"),
        ({"vision": {"hidden_size": 32}}, "vision_config has hidden_size=32 where 64 is needed"),
        ({"vision": {"num_hidden_layers": 2}}, "vision_config has num_hidden_layers=2 where 3 is needed"),
        ({"text": {"vocab_size": 65}}, "text_config has vocab_size=65 where 64 is needed"),
        ({"text": {"max_position_embeddings": 17}}, "text_config has max_position_embeddings=17 where 16 is needed"),
    ],
)
def test_a_clip_of_another_shape_is_refused(saved_model, tmp_path, changes, message):
    save_clip(tmp_path / "other", **changes)
    with pytest.raises(ValueError, match=message):
        R2TuningForVideoGrounding.from_pretrained(saved_model, backbone_name_or_path=str(tmp_path / "other"))


@pytest.mark.parametrize("lost", ["vision_model.encoder.layers.1.", "text_model."])
def test_a_clip_without_some_of_its_weights_is_refused(saved_model, clip_folder, tmp_path, lost):
    """Otherwise the encoder would silently be random."""
    shutil.copytree(clip_folder, tmp_path / "clip")
    edit_weights(tmp_path / "clip" / "model.safetensors", lambda w: [w.pop(k) for k in list(w) if k.startswith(lost)])
    with pytest.raises((ValueError, OSError), match="The backbone '.*clip'"):
        R2TuningForVideoGrounding.from_pretrained(saved_model, backbone_name_or_path=str(tmp_path / "clip"))


def test_a_checkpoint_without_some_of_its_weights_is_refused(saved_model):
    edit_weights(
        saved_model / "model.safetensors", lambda weights: weights.pop("grounding_head.boundary_head.conv1.bias")
    )
    with pytest.raises(
        ValueError, match=r"lacks weights \(1, such as \['grounding_head.boundary_head.conv1.bias'\]\)"
    ):
        R2TuningForVideoGrounding.from_pretrained(saved_model)


def test_a_checkpoint_that_wrongly_claims_to_hold_clip_is_refused(saved_model):
    settings = json.loads((saved_model / "config.json").read_text())
    (saved_model / "config.json").write_text(json.dumps({**settings, "save_backbone": True}))
    with pytest.raises(ValueError, match="lacks weights .* such as .*text_model"):
        R2TuningForVideoGrounding.from_pretrained(saved_model)


def test_a_trained_clip_is_saved_too(make_model, tmp_path):
    model = make_model()
    model.vision_model.encoder.layers[0].mlp.fc1.weight.requires_grad_(True).data.add_(1)
    model.save_pretrained(tmp_path)
    loaded = R2TuningForVideoGrounding.from_pretrained(tmp_path)
    assert loaded.config.save_backbone
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_implementation_reaches_both_encoders(tiny_model, saved_model, attention):
    loaded = R2TuningForVideoGrounding.from_pretrained(saved_model, attn_implementation=attention)
    assert loaded.vision_model.config._attn_implementation == attention
    assert loaded.text_model.config._attn_implementation == attention
    inputs = make_inputs(tiny_model.config)
    with torch.no_grad():
        assert_equal_outputs(loaded(**inputs), tiny_model(**inputs), **CLOSE)


# ---- peft --------------------------------------------------------------------------------------------------------

TOWERS = r"(vision_model|text_model)\..*\.(q_proj|v_proj)"


def lora(**options):
    return LoraConfig(r=2, target_modules=TOWERS, init_lora_weights=False, **options)


def train_once(model, config):
    model.train()(**make_inputs(config), **make_labels(config)).loss.backward()
    model.eval()


def logits(model, config):
    with torch.no_grad():
        return model(**make_inputs(config)).logits


def test_native_lora_adapters_are_trained_saved_and_loaded(tiny_model, saved_model, tmp_path):
    model = R2TuningForVideoGrounding.from_pretrained(saved_model)
    model.add_adapter(lora())
    train_once(model, model.config)
    added = [p for name, p in model.named_parameters() if "lora_" in name]
    assert len(added) == 2 * 2 * 2 * 3  # A and B, for q and v, in two encoders of three layers
    assert all(parameter.grad.abs().max() > 0 for parameter in added)
    model.save_pretrained(tmp_path / "lora")
    assert not (tmp_path / "lora" / "model.safetensors").exists()
    loaded = R2TuningForVideoGrounding.from_pretrained(tmp_path / "lora")
    want = logits(model, model.config)
    assert (want - logits(tiny_model, model.config)).abs().max() > 1e-3
    torch.testing.assert_close(logits(loaded, model.config), want, **CLOSE)


LEARNED_MODULES = ["r2_block", "pyramid", "text_pooling", "classification_head", "boundary_head"]


@pytest.mark.parametrize(
    "learned", [None, LEARNED_MODULES, ["r2_block", "grounding_head"]], ids=["lora", "modules", "head"]
)
def test_peft_models_are_trained_saved_and_loaded(saved_model, tmp_path, learned):
    model = get_peft_model(R2TuningForVideoGrounding.from_pretrained(saved_model), lora(modules_to_save=learned))
    config = model.base_model.model.config
    train_once(model, config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in trained)
    assert any("r2_block" in name for name in trained) == (learned is not None)
    assert all(parameter.grad is not None for parameter in trained.values())
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path / "peft")
    base = R2TuningForVideoGrounding.from_pretrained(saved_model)
    plain = logits(base, config)
    loaded = PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    want = logits(model, config)
    assert (want - plain).abs().max() > 1e-3
    torch.testing.assert_close(logits(loaded, config), want, **CLOSE)


# ---- other encoders ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("vision", "text", "tokens"),
    [
        ({"patch_size": 16}, {}, 17),
        ({"image_size": 96, "patch_size": 16, "hidden_size": 32}, {"hidden_size": 64, "num_attention_heads": 2}, 37),
        ({"num_hidden_layers": 5, "hidden_act": "gelu"}, {"num_hidden_layers": 4, "max_position_embeddings": 9}, 5),
    ],
)
def test_any_clip_vit_works(make_model, vision, text, tokens):
    """Number of tokens, widths and depths follow from the encoders' configurations."""
    model = make_model(vision_config={**TINY_VISION, **vision}, text_config={**TINY_TEXT, **text})
    inputs = make_inputs(model.config, (4, 3), (5, 2))
    width = model.config.vision_config.hidden_size
    states = model.get_video_hidden_states(inputs["pixel_values_videos"])
    assert states.shape == (2, 4, 3, tokens, width)
    assert model(**inputs).logits.isfinite().all()


@torch.no_grad()
def test_states_equal_those_of_transformers(make_model):
    """Output of the last K blocks, the last one without the final norm."""
    model = make_model(num_recurrent_steps=2)
    inputs = make_inputs(model.config, (4,), (5,))
    frames, ids = inputs["pixel_values_videos"], inputs["input_ids"]
    recorded = model.vision_model(frames[0], output_hidden_states=True).hidden_states
    states = model.get_video_hidden_states(frames)[0]
    torch.testing.assert_close(states, torch.stack(recorded[-2:], dim=1), atol=0, rtol=0)
    recorded = model.text_model(ids, output_hidden_states=True)
    words = model.get_text_hidden_states(ids)
    torch.testing.assert_close(words, torch.stack(recorded.hidden_states[-2:], dim=2), atol=0, rtol=0)
    assert not torch.allclose(words[:, :, -1], recorded.last_hidden_state)
