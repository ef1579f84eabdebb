"""Every transfer method on every kind of backbone: it works, or it is refused with its reason."""

import copy
import functools
from dataclasses import replace

import pytest
import tiny_towers
import torch
from huggingface_hub.errors import StrictDataclassError
from model_checks import (
    CLOSE,
    assert_equal_outputs,
    assert_same_answer,
    make_inputs,
    make_labels,
    move_weights,
    single,
)
from tiny_towers import KINDS, as_parameters, make_backbone, make_model, save_backbone
from torch import nn
from transformers import AutoModel

from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS
from modeling_r2tuning.method_vpt_r2tuning import run_with_prompts
from modeling_r2tuning.methods_r2tuning import is_learned
from modeling_r2tuning.tower_specs_r2tuning import ENCODER_KINDS, TOWER_SPECS
from modeling_r2tuning.towers_r2tuning import ENCODERS, add_frame_token, embed_frames, vision_layers


REFUSED = {("siglip", "vop"), ("siglip", "e3va")}
PAIRS = [(kind, method) for kind in KINDS for method in METHOD_SPECS if (kind, method) not in REFUSED]
OTHER_KINDS = [kind for kind in KINDS if kind not in ("clip", "metaclip_2")]  # CLIP, built alike, has tests of its own
MASKED = [kind for kind, spec in TOWER_SPECS.items() if spec.text_attention == "masked"]
# They shift all scores of a softmax equally, so their gradient is rounding error or zero.
KEY_BIASES = (".k_proj.bias", ".key.bias")
FRAMES, WORDS = (5, 3, 1), (5, 2, 6)


def num_layers(method):
    """The depth of the shallower encoder where all layers are read."""
    return 1 if METHOD_SPECS[method].reads_last_layer_only else 3


@functools.cache
def _backbone(kind):
    return make_backbone(kind)


def make_new(kind, method, **fields):
    """A tiny model of a method before training."""
    backbone = copy.deepcopy(_backbone(kind))  # the model shares its configuration
    return make_model(kind, backbone, method=method, num_recurrent_steps=num_layers(method), **fields)


def make(kind, method, **fields):
    """A tiny model of a method whose zero-initialised weights are moved away from zero."""
    model = make_new(kind, method, **fields)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.numel() and not parameter.any():
                parameter.normal_(std=0.1)
    return model


def make_batch(config, frames=FRAMES, words=WORDS):
    """A ragged batch of random pixels and token ids, padded as the processor pads."""
    inputs = make_inputs(config, frames, words)
    if config.tower_spec.text_attention == "fixed_length":
        longest, padding = config.max_text_length, config.text_config.pad_token_id
        mask = inputs["attention_mask"]
        ids = inputs["input_ids"].masked_fill(~mask, padding)
        missing = (0, longest - mask.shape[1])
        inputs["input_ids"] = nn.functional.pad(ids, missing, value=padding)
        inputs["attention_mask"] = nn.functional.pad(mask, missing, value=False)
    return inputs


def one_of(config, inputs, row):
    """One example, without the padding that the text encoder does not need."""
    alone = single(inputs, row)
    if config.tower_spec.text_attention == "fixed_length":
        for name in ("input_ids", "attention_mask"):
            alone[name] = inputs[name][row : row + 1]
    return alone


def train(model):
    model.zero_grad()
    inputs = make_batch(model.config)
    model.train()(**inputs, **make_labels(model.config, FRAMES)).loss.backward()


def text_states(model, ids, mask):
    """What the R2 block receives of texts, `(batch, text_length, width)`."""
    states = model.get_text_hidden_states(ids, mask)
    return model.method.refine_text(states.masked_fill(~mask[..., None, None], 0.0))[:, :, -1]


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "method"), as_parameters(PAIRS))
def test_gradients_reach_exactly_what_is_learned(kind, method):
    model = make(kind, method)
    train(model)
    learned = 0
    for name, parameter in model.named_parameters():
        wanted = is_learned(name, model.config)
        assert (parameter.grad is not None) == parameter.requires_grad == wanted, name
        if wanted and name.startswith((*ENCODERS, "method.")) and not name.endswith(KEY_BIASES):
            assert parameter.grad.abs().max() > 0, name
            learned += 1
    assert learned or method in ("none", "r2_tuning")


@pytest.mark.parametrize("kind", as_parameters(KINDS))
def test_full_tuning_leaves_out_what_has_no_effect(kind):
    """If everything were trainable, exactly the parameters that it leaves out would get no gradient."""
    model = make(kind, "full").requires_grad_(True)
    train(model)
    without = [name for name, p in model.named_parameters() if name.startswith(ENCODERS) and p.grad is None]
    assert without == [name for name, _ in model.named_parameters() if not is_learned(name, model.config)]
    assert without


@pytest.mark.parametrize("method", ["lora", "losa"])
@pytest.mark.parametrize("kind", as_parameters(OTHER_KINDS))
def test_training_runs_under_autocast(kind, method):
    """Inside the encoders and beside them; the pooling head and the side network have other precisions than the states."""
    model = make(kind, method)
    full = model(**make_batch(model.config)).saliency_scores
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train(model)
        half = model.eval()(**make_batch(model.config)).saliency_scores
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)


# ---- batches ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("kind", "method"), as_parameters(pair for pair in PAIRS if pair[0] in OTHER_KINDS))
def test_an_example_gives_the_same_answer_alone_in_a_batch_and_encoded(kind, method):
    model = make(kind, method)
    inputs = make_batch(model.config)
    outputs = model(**inputs, output_hidden_states=True)
    for row in range(len(FRAMES)):
        alone = one_of(model.config, inputs, row)
        wanted = model(**alone, output_hidden_states=True)
        assert_same_answer(outputs, row, wanted)
    video = model.encode_video(alone["pixel_values_videos"], chunk_size=1)
    text = {name: alone[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model.ground(video, **text).logits, wanted.logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", as_parameters(KINDS))
def test_cached_states_give_what_the_pixels_give(kind):
    for method, spec in METHOD_SPECS.items():
        if not spec.reads_plain_layers or (kind, method) in REFUSED:
            continue
        model = make(kind, method)
        inputs = make_batch(model.config)
        cached = {
            "video_hidden_states": model.get_video_hidden_states(inputs["pixel_values_videos"]),
            "text_hidden_states": model.get_text_hidden_states(inputs["input_ids"], inputs["attention_mask"]),
        }
        masks = {name: inputs[name] for name in ("frame_mask", "attention_mask")}
        assert_equal_outputs(model(**cached, **masks), model(**inputs))


# ---- text ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", as_parameters(MASKED))
def test_words_see_each_other_and_no_padding(kind, attention):
    """Also through prompts and adapters in the text encoder; side layers are causal."""
    for method in METHOD_SPECS:
        model = make(kind, method)
        model.set_attn_implementation(attention)
        ids = torch.tensor([[7, 9, 11, 13, 0, 0], [8, 10, 12, 14, 16, 18]])
        mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
        states = text_states(model, ids, mask)
        alone = text_states(model, ids[:1, :4], mask[:1, :4])
        torch.testing.assert_close(states[:1, :4], alone, **CLOSE, msg=method)
        junk = ids.clone()
        junk[0, 4:] = 99
        torch.testing.assert_close(text_states(model, junk, mask)[0, :4], alone[0], **CLOSE, msg=method)
        changed = ids.clone()
        changed[1, 5] = 99
        moved = (text_states(model, changed, mask) - states).abs().amax(dim=-1)
        assert not moved[0].any(), method
        assert (moved[1] > 1e-4).all(), method  # what the side layers of LST read is bidirectional


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", as_parameters(MASKED))
def test_prompts_of_the_text_encoder_stand_before_the_words(kind, attention):
    """Compared with the layers run on prompts and words of a text without padding, which needs no mask."""
    model = make(kind, "vop")
    model.set_attn_implementation(attention)
    ids = torch.tensor([[7, 9, 11, 13, 0, 0]])
    mask = torch.tensor([[True] * 4 + [False] * 2])
    spec = model.config.tower_spec
    body = model.text_model.get_submodule(spec.text_body)
    tokens = body.embeddings(input_ids=ids[:, :4])
    for layer, prompts in zip(body.get_submodule(spec.text_layers), model.method.text_prompts.prompts, strict=True):
        tokens = layer(torch.cat([prompts[None], tokens], dim=1), None)[:, len(prompts) :]
    torch.testing.assert_close(model.get_text_hidden_states(ids, mask)[:, :4, -1], tokens, **CLOSE)


def test_prompts_lengthen_a_mask_of_any_shape():
    """Flash attention takes a mask of tokens; the others take one of pairs, boolean or added to the scores."""
    seen = []

    def layer(tokens, mask):
        seen.append(mask)
        return tokens

    tokens, prompts = torch.zeros(2, 3, 4), torch.zeros(5, 4)
    for mask in (torch.zeros(2, 3), torch.zeros(2, 1, 3, 3, dtype=torch.bool), torch.full((2, 1, 3, 3), -1.0)):
        run_with_prompts(layer, prompts, tokens, mask)
    flat, pairs, scores = seen
    assert flat.shape == (2, 8)
    assert pairs.shape == scores.shape == (2, 1, 8, 8)
    assert (flat[:, :5] == 1).all()
    assert pairs[..., :5].all()
    assert not scores[..., :5].any()
    assert not flat[:, 5:].any()
    assert not pairs[..., 5:, 5:].any()


# ---- layers ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("vision_depth", "text_depth"), [(4, 3), (3, 5)])
@pytest.mark.parametrize("kind", as_parameters(KINDS))
def test_encoders_of_unequal_depth_are_read_from_the_end(kind, vision_depth, text_depth, monkeypatch):
    """The layers read are those of the encoder run in the ordinary way, counted back from its last."""
    monkeypatch.setitem(tiny_towers.VISION, "num_hidden_layers", vision_depth)
    monkeypatch.setitem(tiny_towers.TEXT, "num_hidden_layers", text_depth)
    backbone = make_backbone(kind)
    for method, last in {"r2_tuning": [-3, -2, -1], "losa": [-3, -2, -1], "lst": [-3, -1], "none": [-1]}.items():
        model = make_model(kind, backbone, method=method, num_recurrent_steps=num_layers(method))
        inputs = make_batch(model.config, (2,), (5,))
        frames = inputs["pixel_values_videos"][0]
        layers = backbone.vision_model(frames, output_hidden_states=True).hidden_states
        wanted = [add_frame_token(backbone.vision_model, layers[index], model.config.tower_spec) for index in last]
        tokens = slice(None) if METHOD_SPECS[method].reads_patches else slice(1)
        states = model.get_video_hidden_states(frames[None])[0]
        torch.testing.assert_close(states, torch.stack(wanted, dim=1)[:, :, tokens], **CLOSE)
        found = backbone.text_model(inputs["input_ids"], output_hidden_states=True).hidden_states
        words = torch.stack([found[index] for index in last], dim=2)
        torch.testing.assert_close(model.get_text_hidden_states(inputs["input_ids"]), words, **CLOSE)
    with pytest.raises(StrictDataclassError, match=r"number of layers of either encoder \(3\)"):
        make_model(kind, backbone, num_recurrent_steps=4)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in OTHER_KINDS if TOWER_SPECS[kind].has_cls])
def test_the_highway_reads_both_branches_of_every_layer(kind):
    """The branches of the last layers add up to the difference between their input and output."""
    model = make(kind, "e3va")
    pixels = make_inputs(model.config, (4,), (1,))["pixel_values_videos"]
    states = model.get_video_hidden_states(pixels)[0]
    assert states.shape == (4, 7, 1, 64)
    first, *_ = vision_layers(model.vision_model)  # the encoder has one layer more than are read
    given = first(embed_frames(model.vision_model, pixels[0], model.config.tower_spec), None)[:, :1]
    torch.testing.assert_close(given + states[:, :-1].sum(dim=1), states[:, -1], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("method", ["lora", "st_adapter", "losa"])
@pytest.mark.parametrize("kind", as_parameters(OTHER_KINDS))
def test_zero_initialised_methods_start_as_the_frozen_encoders(kind, method):
    model = make_new(kind, method)
    plain = make_new(kind, "none")
    plain.r2_block.load_state_dict(model.r2_block.state_dict())
    plain.grounding_head.load_state_dict(model.grounding_head.state_dict())
    inputs = make_batch(model.config)
    assert_equal_outputs(model(**inputs), plain(**inputs), **CLOSE)


@torch.no_grad()
def test_an_adapter_without_cls_convolves_every_token():
    """In SigLIP the first token is a patch like any other."""
    model = make("siglip", "st_adapter")
    adapter, tokens = model.method.vision[0], torch.randn(5, 9, 64)
    down = adapter.down(tokens)
    over_time = adapter.conv(down.permute(1, 2, 0)).permute(2, 0, 1)
    wanted = tokens + adapter.up(nn.functional.gelu(over_time))
    torch.testing.assert_close(adapter(tokens), wanted, **CLOSE)
    assert ((adapter(tokens) - tokens)[:, 0].abs().amax(dim=-1) > 1e-4).all()


# ---- LoRA ------------------------------------------------------------------------------------------------------------


def projections_of(model):
    """Square linear layers in the encoders' layers: query, key, value and output of each attention."""
    found = set()
    for name, module in model.named_modules():
        inside = name.startswith(ENCODERS) and (".layers." in name or ".layer." in name)
        if inside and type(module) is nn.Linear and module.in_features == module.out_features:
            found.add(name)
    return found


@pytest.mark.parametrize("kind", as_parameters(KINDS))
def test_lora_adapts_all_projections_of_both_encoders(kind):
    plain, model = make_new(kind, "none"), make(kind, "lora")
    adapted = {name.removesuffix(".lora_A") for name, _ in model.named_modules() if name.endswith(".lora_A")}
    assert adapted == projections_of(plain)
    assert len(adapted) == 4 * (4 + 3)


@pytest.mark.parametrize("kind", as_parameters(KINDS))
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"encoder\.layers?\.0\..*(q_proj|query)", "LoRA adapts 1 .*text_model, 12 are"),
        ("no_such_layer", "LoRA adapts 0 .*text"),
    ],
)
def test_lora_refuses_a_pattern_that_misses_projections(kind, pattern, message, monkeypatch):
    spec = replace(TOWER_SPECS[kind], text_projections=pattern)
    for config_class in spec.encoder_configs:
        monkeypatch.setitem(ENCODER_KINDS, config_class.model_type, (spec, config_class))
    with pytest.raises(RuntimeError, match=message):
        make_new(kind, "lora")


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip", "altclip"])
def test_a_checkpoint_comes_back_with_its_backbone_elsewhere(kind, tmp_path):
    """Of every method; full tuning alone stores the encoders."""
    save_backbone(kind, tmp_path / "backbone")
    for method in METHOD_SPECS:
        if (kind, method) in REFUSED:
            continue
        model = make(kind, method, save_backbone=False)
        model.config.backbone_name_or_path = str(tmp_path / "backbone")
        model.save_pretrained(tmp_path / method)
        loaded = AutoModel.from_pretrained(tmp_path / method)
        assert loaded.config.save_backbone == (method == "full")
        inputs = make_batch(model.config, (4,), (3,))
        assert_equal_outputs(move_weights(loaded)(**inputs), model(**inputs))
        learned = {name for name, p in loaded.named_parameters() if p.requires_grad}
        assert learned == {name for name, p in model.named_parameters() if p.requires_grad}


# ---- refusal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "method"), sorted(REFUSED))
def test_a_method_that_needs_a_cls_token_is_refused(kind, method):
    reason = f"'{method}' uses the CLS token .* and SigLIP has none: choose another method"
    with pytest.raises(StrictDataclassError, match=reason):
        make_new(kind, method)


def test_methods_that_need_a_cls_token_are_those_refused():
    refused = set()
    for kind, tower in TOWER_SPECS.items():
        needy = [method for method, spec in METHOD_SPECS.items() if spec.needs_cls and not tower.has_cls]
        refused.update((kind, method) for method in needy)
    assert refused == REFUSED
