"""The transfer methods of Table 9; tests that hold for every model are in `test_modeling.py`."""

import json

import pytest
import torch
from model_checks import CLOSE, assert_equal_outputs, is_learned, make_inputs, make_labels, move_weights
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import TINY_TEXT, TINY_VISION
from torch import nn
from transformers import AutoModel, CLIPVisionConfig

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.block_r2tuning import ZeroLinear
from modeling_r2tuning.method_e3va_r2tuning import AdapterHighway
from modeling_r2tuning.method_losa_r2tuning import LowRankSideNetwork
from modeling_r2tuning.method_lst_r2tuning import Ladder
from modeling_r2tuning.method_st_adapter_r2tuning import Bottleneck, SpatioTemporalAdapter
from modeling_r2tuning.method_vop_r2tuning import ContextPrompts


IN_CLIP = ("full", "lora", "vpt", "vop", "st_adapter")
BESIDE_CLIP = ("e3va", "losa", "lst")
METHODS = ("none", *IN_CLIP, *BESIDE_CLIP)
FOUR_LAYERS = {"vision": {**TINY_VISION, "num_hidden_layers": 4}, "text": {**TINY_TEXT, "num_hidden_layers": 4}}
M = 1024**2  # as the released code counts


def num_layers(method, depth):
    return depth if method in BESIDE_CLIP else 1


@pytest.fixture
def make(make_model):
    """Make a tiny model of a method."""
    return lambda method, **fields: make_model(method=method, num_recurrent_steps=num_layers(method, 3), **fields)


@pytest.fixture(params=METHODS)
def model(request, make):
    return make(request.param)


# ---- size --------------------------------------------------------------------------------------------------------

# Learned parameters with ViT-B/32, the paper's column in M, and by how many percent ours exceed it.
SIZES = {
    "none": (2_704_652, 2.7, -4.5),
    "full": (153_324_044, 147.0, -0.5),
    "lora": (4_670_732, 4.4, 1.2),
    "vpt": (2_796_812, 2.8, -4.7),
    "vop": (14_637_836, 14.5, -3.7),
    "st_adapter": (12_969_740, 12.2, 1.4),
    "e3va": (3_365_132, 3.3, -2.8),
    "losa": (3_028_964, 4.8, -39.8),  # its mixers of rank 16 are that small, see the module
    "lst": (8_057_624, 7.4, 3.8),
    "r2_tuning": (2_836_242, 2.7, 0.2),
}
# Key and query of R2-Tuning's pooling. The paper lists as many parameters without tuning as for R2-Tuning, so it seems
# to include them, although they have no use without pooling. They make up all of the difference for the first two
# methods, and part of it for the third.
POOLING = 131_584
LACK_POOLING = {"none", "vpt", "vop"}


@pytest.mark.parametrize("method", SIZES)
def test_number_of_learned_parameters_is_near_that_of_the_paper(method):
    steps = 4 if method == "r2_tuning" else num_layers(method, 12)
    with torch.device("meta"):
        model = R2TuningForVideoGrounding(R2TuningConfig(method=method, num_recurrent_steps=steps))
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(is_learned(model.config, name) for name in learned)
    ours, paper, percent = SIZES[method]
    assert sum(parameter.numel() for parameter in learned.values()) == ours
    assert 100 * (ours / M / paper - 1) == pytest.approx(percent, abs=0.06)
    if method in LACK_POOLING:
        percent = 100 * ((ours + POOLING) / M / paper - 1)
    assert method == "losa" or abs(percent) < (4 if method == "lst" else 3)


# ---- checkpoints -------------------------------------------------------------------------------------------------


def test_only_what_is_learned_is_stored(model, tmp_path):
    model.save_pretrained(tmp_path)
    stored = set(load_file(tmp_path / "model.safetensors"))
    adapter = tmp_path / "lora/adapter_model.safetensors"
    assert adapter.exists() == (model.config.method == "lora")
    if adapter.exists():
        names = {name.removeprefix("base_model.model.") for name in load_file(adapter)}
        stored |= {name.replace(".weight", ".default.weight") for name in names}
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # Full tuning does not train two norms after the last state that is read; they are stored with the encoders.
    assert stored - learned == (set(model.state_dict()) - learned if model.config.method == "full" else set())
    assert learned <= stored


@torch.no_grad()
@pytest.mark.parametrize("save_backbone", [False, True], ids=["clip elsewhere", "clip inside"])
def test_a_checkpoint_comes_back_through_the_auto_class(make, tmp_path, save_backbone):
    for method in METHODS:
        model = make(method, save_backbone=save_backbone)
        model.save_pretrained(tmp_path / method)
        loaded = AutoModel.from_pretrained(tmp_path / method)
        assert loaded.config.method == method
        assert loaded.config.save_backbone == (save_backbone or method == "full")
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        inputs = make_inputs(model.config)
        assert_equal_outputs(move_weights(loaded)(**inputs), model(**inputs))
        for name, parameter in loaded.named_parameters():
            assert parameter.requires_grad == is_learned(loaded.config, name), name


@torch.no_grad()
def test_peft_reads_the_adapters_of_a_lora_checkpoint(make, tmp_path):
    """Added to a model with the same heads, they give the same outputs."""
    model, plain = make("lora"), make("none")
    plain.r2_block.load_state_dict(model.r2_block.state_dict())
    plain.grounding_head.load_state_dict(model.grounding_head.state_dict())
    inputs = make_inputs(model.config)
    want = model(**inputs).logits
    assert (plain(**inputs).logits - want).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 16, 16)
    loaded = PeftModel.from_pretrained(plain, tmp_path / "lora").eval()
    torch.testing.assert_close(loaded(**inputs).logits, want, **CLOSE)


def test_a_lora_checkpoint_without_its_adapters_is_refused(make, tmp_path):
    make("lora").save_pretrained(tmp_path)
    (tmp_path / "lora/adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match="adapter_model.safetensors"):
        R2TuningForVideoGrounding.from_pretrained(tmp_path)


def test_others_may_read_a_checkpoint(make, tmp_path):
    """The mode of safetensors files is that of any new file, too."""
    make("lora").save_pretrained(tmp_path)
    (tmp_path / "usual").touch()
    weights = sorted(tmp_path.rglob("*.safetensors"))
    assert [path.name for path in weights] == ["adapter_model.safetensors", "model.safetensors"]
    assert {path.stat().st_mode for path in weights} == {(tmp_path / "usual").stat().st_mode}


def test_a_push_without_the_adapters_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match=r"call `model.push_to_hub\(name\)` instead"):
        make("lora").save_pretrained(tmp_path, push_to_hub=True)


def test_adapters_for_other_layers_are_refused(make, make_model, tmp_path):
    make("lora").save_pretrained(tmp_path / "three")
    deeper = {f"{tower}_config": fields for tower, fields in FOUR_LAYERS.items()}
    make_model(method="lora", num_recurrent_steps=1, save_backbone=True, **deeper).save_pretrained(tmp_path / "four")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "four/lora" / name).write_bytes((tmp_path / "three/lora" / name).read_bytes())
    with pytest.raises(ValueError, match="belongs to other adapters: it lacks .*layers.3"):
        R2TuningForVideoGrounding.from_pretrained(tmp_path / "four")


# ---- gradients ---------------------------------------------------------------------------------------------------

FIRST_LAYER = {
    "full": ("vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    "lora": tuple(
        f"{tower}_model.encoder.layers.0.self_attn.v_proj.lora_B.default.weight" for tower in ("vision", "text")
    ),
    "vpt": ("method.vision_prompts.prompts",),
    "vop": ("method.vision_prompts.prompts", "method.text_prompts.prompts"),
    "st_adapter": ("method.vision.0.conv.weight", "method.text.0.down.weight"),
}


@pytest.mark.parametrize("method", IN_CLIP)
def test_gradients_reach_the_first_layer_of_the_encoders(make, method):
    model = make(method)
    model.train()(**make_inputs(model.config), **make_labels(model.config)).loss.backward()
    for name in FIRST_LAYER[method]:
        gradient = model.get_parameter(name).grad
        assert (gradient[0] if name.endswith("prompts") else gradient).abs().max() > 0, name


@pytest.mark.parametrize("method", BESIDE_CLIP)
def test_a_side_network_learns_beside_every_layer(make, method):
    model = make(method)
    model.train()(**make_inputs(model.config), **make_labels(model.config)).loss.backward()
    for name, parameter in model.method.named_parameters():
        if not name.endswith("k_proj.bias"):  # which shifts all scores of a softmax equally
            assert parameter.grad.abs().max() > 0, name


# ---- which frames and tokens see each other ----------------------------------------------------------------------


@torch.no_grad()
def test_frames_see_each_other_in_clip_only_where_the_method_mixes_them(model):
    pixels = make_inputs(model.config, (6,), (1,))["pixel_values_videos"]
    other = pixels.clone()
    other[0, 3] += 1
    states, changed = model.get_video_hidden_states(pixels)[0], model.get_video_hidden_states(other)[0]
    differs = [not torch.equal(one, two) for one, two in zip(states, changed, strict=True)]
    assert differs[3]
    if model.config.method == "vop":  # an LSTM in each direction
        assert all(differs)
    elif model.config.method == "st_adapter":  # three layers of three frames each
        assert differs == [True] * 6
    else:
        assert sum(differs) == 1


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_over_the_text_is_causal(make, attention, tmp_path):
    """Also with prompts before the tokens, and in side networks."""
    for method in METHODS:
        make(method).save_pretrained(tmp_path / method)
        model = R2TuningForVideoGrounding.from_pretrained(tmp_path / method, attn_implementation=attention)
        ids = torch.tensor([[3, 5, 7, 9, 11]])
        words = model.project_text(model.get_text_hidden_states(ids))[0]
        changed = model.project_text(model.get_text_hidden_states(torch.tensor([[3, 5, 8, 9, 11]])))[0]
        torch.testing.assert_close(changed[:, :2], words[:, :2], **CLOSE)
        assert ((changed - words)[:, 2:].abs().amax(dim=-1) > 1e-4).all(), method


@torch.no_grad()
@pytest.mark.parametrize("method", ["vop", "lst"])
def test_both_implementations_of_attention_agree(make, tmp_path, method):
    make(method).save_pretrained(tmp_path)
    inputs = make_inputs(make(method).config)
    eager, sdpa = (
        R2TuningForVideoGrounding.from_pretrained(tmp_path, attn_implementation=name)(**inputs)
        for name in ("eager", "sdpa")
    )
    assert_equal_outputs(eager, sdpa, **CLOSE)


def test_autocast_halves_the_states_of_a_frozen_clip(model):
    inputs = make_inputs(model.config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        video = model.get_video_hidden_states(inputs["pixel_values_videos"])
    learned = model.config.method in IN_CLIP
    assert video.dtype == (torch.float32 if learned else torch.bfloat16)
    assert video.requires_grad == learned


def test_vop_works_under_autocast_where_a_cpu_has_no_lstm_in_bfloat16(make, monkeypatch):
    monkeypatch.setattr("modeling_r2tuning.method_vop_r2tuning.cpu_has_bfloat16", lambda: False)
    context = next(part for part in make("vop").modules() if isinstance(part, ContextPrompts))
    frames = torch.randn(5, context.lstm.input_size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prompts = context(frames.bfloat16())
    assert prompts.dtype == torch.bfloat16
    torch.testing.assert_close(prompts.float(), context(frames), rtol=0.02, atol=0.02)


def test_frozen_weights_are_cast_once_for_all_chunks(model, monkeypatch):
    """States and gradients are unchanged, and the backward pass keeps no copy of a weight for each chunk."""
    pixels = make_inputs(model.config)["pixel_values_videos"]
    width, hidden = model.config.vision_config.hidden_size, model.config.vision_config.intermediate_size

    def run():
        copies = {}

        def pack(tensor):
            if tensor.dtype == torch.bfloat16 and tensor.shape in ((hidden, width), (width, hidden)):
                copies[tensor.data_ptr()] = tensor
            return tensor

        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            states = model.get_video_hidden_states(pixels, chunk_size=1)
        if states.requires_grad:
            states.float().sum().backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return states, grads, len(copies)

    states, grads, copies = run()
    assert copies <= 2 * model.config.vision_config.num_hidden_layers
    monkeypatch.setattr(model, "_with_frozen_copies", lambda layers, _: layers)
    want, want_grads, many = run()
    assert many > copies or model.config.method not in {"lora", "vpt", "vop", "st_adapter"}
    torch.testing.assert_close(states, want, rtol=0, atol=0)
    assert grads.keys() == want_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, want_grads[name], rtol=1e-5, atol=1e-6)


# ---- comparison with the equations -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("method", ["lora", "st_adapter", "losa"])
def test_zero_initialised_methods_start_as_the_frozen_encoders(make_config, tiny_clip, method):
    torch.manual_seed(0)
    config = make_config(method=method, num_recurrent_steps=num_layers(method, 3))
    model, plain = (
        R2TuningForVideoGrounding(config),
        R2TuningForVideoGrounding(make_config(method="none", num_recurrent_steps=1)),
    )
    for each in (model.eval(), plain.eval()):
        each.copy_backbone(tiny_clip.vision_model, tiny_clip.text_model)
    plain.r2_block.load_state_dict(model.r2_block.state_dict())
    plain.grounding_head.load_state_dict(model.grounding_head.state_dict())
    inputs = make_inputs(config)
    assert_equal_outputs(model(**inputs), plain(**inputs), **CLOSE)


def layer_inputs(model, pixels):
    """Input of the image encoder's first layer."""
    return model.vision_model.pre_layrnorm(model.vision_model.embeddings(pixels))


@torch.no_grad()
def test_prompts_stand_before_the_tokens_of_every_layer(make):
    model = make("vpt")
    pixels = make_inputs(model.config, (4,), (1,))["pixel_values_videos"]
    tokens = layer_inputs(model, pixels[0])
    for layer, prompts in zip(model.vision_model.encoder.layers, model.method.vision_prompts.prompts, strict=True):
        tokens = layer(torch.cat([prompts.expand(4, -1, -1), tokens], dim=1), None)[:, len(prompts) :]
    torch.testing.assert_close(model.get_video_hidden_states(pixels)[0, :, 0], tokens[:, :1], **CLOSE)


@torch.no_grad()
def test_context_prompts_are_computed_from_the_frames_of_a_layer(make):
    model = make("vop")
    method, pixels = model.method, make_inputs(model.config, (4,), (1,))["pixel_values_videos"]
    tokens = layer_inputs(model, pixels[0])
    for layer, prompts in zip(model.vision_model.encoder.layers, method.vision_prompts.prompts, strict=True):
        forward, _ = method.context.lstm(tokens[:, 0])
        context = method.context.output_linear(forward).view(4, 2, -1)
        seen = torch.cat([context, prompts.expand(4, -1, -1), tokens], dim=1)
        tokens = layer(seen, None)[:, 2 + len(prompts) :]
    torch.testing.assert_close(model.get_video_hidden_states(pixels)[0, :, 0], tokens[:, :1], **CLOSE)


@torch.no_grad()
def test_an_adapter_convolves_patches_over_three_frames():
    torch.manual_seed(0)
    adapter, tokens = SpatioTemporalAdapter(8, num_prefix_tokens=1), torch.randn(5, 3, 8)
    nn.init.normal_(adapter.up.weight)
    got = adapter(tokens)
    assert torch.equal(got[:, 0], tokens[:, 0])
    down = adapter.down(tokens)
    weight = adapter.conv.weight[:, 0]  # (hidden, 3)
    for frame in range(5):
        near = [(offset, frame + offset - 1) for offset in range(3) if 0 <= frame + offset - 1 < 5]
        hidden = adapter.conv.bias + sum(weight[:, offset] * down[other, 1:] for offset, other in near)
        want = tokens[frame, 1:] + adapter.up(nn.functional.gelu(hidden))
        torch.testing.assert_close(got[frame, 1:], want, **CLOSE)


@torch.no_grad()
def test_text_adapters_see_one_word_at_a_time():
    torch.manual_seed(0)
    adapter, tokens = Bottleneck(8), torch.randn(2, 5, 8)
    nn.init.normal_(adapter.up.weight)
    torch.testing.assert_close(adapter(tokens)[:, 2:3], adapter(tokens[:, 2:3]), **CLOSE)


@torch.no_grad()
def test_the_highway_reads_both_branches_of_every_layer(make):
    """The branches add up to the difference between output and input of the encoder."""
    model = make("e3va")
    pixels = make_inputs(model.config, (4,), (1,))["pixel_values_videos"]
    states = model.get_video_hidden_states(pixels)
    assert states.shape == (1, 4, 7, 1, 64)
    cls = layer_inputs(model, pixels[0])[:, :1]
    torch.testing.assert_close(cls + states[0, :, :-1].sum(dim=1), states[0, :, -1], **CLOSE)


@torch.no_grad()
def test_the_highway_sums_parallel_adapters(make_config):
    torch.manual_seed(0)
    highway = AdapterHighway(make_config(method="e3va"))
    randomize(highway)
    states = torch.randn(2, 3, 7, 1, 64)
    total = states[:, :, 6]
    for index, adapter in enumerate(highway.adapters):
        total = total + adapter(states[:, :, index])
    torch.testing.assert_close(highway.refine_video(states)[:, :, 0], highway.norm(total), **CLOSE)


def randomize(module):
    for part in module.modules():
        if isinstance(part, ZeroLinear):
            nn.init.normal_(part.weight, std=0.1)


@torch.no_grad()
def test_the_low_rank_side_network_refines_layer_by_layer(make_config):
    torch.manual_seed(0)
    network = LowRankSideNetwork(make_config(method="losa"))
    randomize(network)
    states = torch.randn(2, 3, 3, 5, 64)
    refined = torch.zeros(2, 3, 5, 64)
    for index, mixer in enumerate(network.mixers):
        given = states[:, :, index] + refined
        over_tokens = torch.stack([mixer.tokens(given[..., channel]) for channel in range(64)], dim=-1)
        refined = refined + over_tokens + mixer.channels(given + over_tokens)
    torch.testing.assert_close(network.refine_video(states)[:, :, 0], states[:, :, 2] + refined, **CLOSE)


@torch.no_grad()
def test_the_ladder_weighs_the_encoder_against_the_previous_side_layer():
    torch.manual_seed(0)
    ladder = Ladder(CLIPVisionConfig(**FOUR_LAYERS["vision"]), 3).eval()
    nn.init.uniform_(ladder.gate, -2, 2)
    states = torch.randn(2, 3, 5, 64)
    side = torch.zeros(2, 5, 16)
    for index in range(3):
        share = torch.sigmoid(ladder.gate[index])
        side = ladder.layers[index](share * ladder.ladders[index](states[:, index]) + (1 - share) * side, None)
    torch.testing.assert_close(ladder(states), ladder.output_linear(side), **CLOSE)


@torch.no_grad()
def test_every_second_layer_up_to_the_last_has_a_ladder(make):
    """The cached states of all layers are selected in the same way."""
    model, plain = make("lst"), make("r2_tuning", num_temporal_layers=1)
    assert plain.config.num_recurrent_steps == 1
    plain.config.num_recurrent_steps = 3
    pixels = make_inputs(model.config, (4,), (1,))["pixel_values_videos"]
    states = plain.get_video_hidden_states(pixels)
    assert torch.equal(model.get_video_hidden_states(pixels), states[:, :, [0, 2]])
    assert torch.equal(states[:, :, model.config.layers_read], states[:, :, [0, 2]])


@pytest.mark.parametrize(
    ("steps", "read"), [(1, [-1]), (2, [-1]), (3, [-3, -1]), (4, [-3, -1]), (12, [-11, -9, -7, -5, -3, -1])]
)
def test_layers_that_lst_reads(steps, read):
    config = R2TuningConfig(method="lst", num_recurrent_steps=steps)
    assert list(range(-12, 0))[config.layers_read] == read
    assert config.num_video_states == config.num_text_states == len(read)


# ---- encode once, ask many ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_each_window_of_pixels_is_grounded_as_a_video_of_its_own(model):
    """For pieces of any size; frames see only those of their window."""
    pixels = make_inputs(model.config, (23,), (1,))["pixel_values_videos"][0]
    ids = torch.tensor([[3, 5, 7]])
    encoded = model.encode_video(pixels.split(5), window_sec=14, chunk_size=3)
    outputs = model.ground(encoded, input_ids=ids)
    assert encoded.window_starts.tolist() == [0, 4, 8, 12, 16]
    for row, start in enumerate(encoded.window_starts):
        alone = model(pixel_values_videos=pixels[None, start : start + 8], input_ids=ids)
        frames, points = outputs.frame_mask[row], outputs.point_mask[row]
        torch.testing.assert_close(outputs.saliency_scores[row, frames], alone.saliency_scores[0], **CLOSE)
        torch.testing.assert_close(outputs.logits[row, points], alone.logits[0], **CLOSE)


CHANGED_WEIGHTS = {
    "full": "vision_model.encoder.layers.1.mlp.fc1.weight",
    "lora": "vision_model.encoder.layers.1.self_attn.q_proj.lora_B.default.weight",
    "vpt": "method.vision_prompts.prompts",
    "vop": "method.context.output_linear.weight",
    "st_adapter": "method.vision.1.conv.weight",
    "e3va": "method.adapters.0.down.0.weight",
    "losa": "method.mixers.0.tokens.up.weight",
    "lst": "method.vision.gate",
}


@pytest.mark.parametrize("method", CHANGED_WEIGHTS)
def test_a_video_encoded_before_a_step_of_training_is_refused(make, method):
    model = make(method)
    encoded = model.encode_video(make_inputs(model.config, (5,), (1,))["pixel_values_videos"])
    ids = torch.tensor([[3, 5, 7]])
    assert model.ground(encoded, input_ids=ids).logits.isfinite().all()
    with torch.no_grad():
        model.get_parameter(CHANGED_WEIGHTS[method]).mul_(1.001)
    with pytest.raises(ValueError, match="made with weights other than"):
        model.ground(encoded, input_ids=ids)
