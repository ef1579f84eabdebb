"""The loop over the encoders' layers honours hooks, adapters and offloading, and changes nothing in the layers."""

import copy
import pickle

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from model_checks import CLOSE, make_inputs
from torch import nn
from transformers import CLIPModel
from transformers.utils import logging as transformers_logging

from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.towers_r2tuning import with_weights


def run(model, halved=False, chunk_size=2):
    """Hidden states of frames and texts."""
    inputs = make_inputs(model.config, (5,), (4,))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=halved):
        states = model.get_video_hidden_states(inputs["pixel_values_videos"], chunk_size)
        return states, model.get_text_hidden_states(inputs["input_ids"])


def all_layers(model):
    return [*model.vision_model.encoder.layers, *model.text_model.encoder.layers]


def assert_same(got, want):
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_states_are_those_that_transformers_gives(make_model):
    model = make_model()
    inputs = make_inputs(model.config, (5,), (4,))
    video, text = run(model, chunk_size=None)
    count = model.config.num_recurrent_steps
    want = model.vision_model(inputs["pixel_values_videos"][0], output_hidden_states=True).hidden_states[-count:]
    assert torch.equal(video[0], torch.stack(want, dim=1))
    want = model.text_model(inputs["input_ids"], output_hidden_states=True).hidden_states[-count:]
    assert torch.equal(text, torch.stack(want, dim=2))


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [1, 4, 7, None])
@pytest.mark.parametrize("method", ["r2_tuning", "vop"])
def test_padded_frames_are_not_encoded(make_model, method, chunk_size):
    """The states of real frames are those of each video alone, and those of padded frames are 0."""
    model = make_model(method=method, num_recurrent_steps=3 if method == "r2_tuning" else 1)
    inputs = make_inputs(model.config)
    pixels, mask, encoded = inputs["pixel_values_videos"], inputs["frame_mask"], []
    model.vision_model.embeddings.register_forward_hook(lambda *call: encoded.append(len(call[2])))
    states = model.get_video_hidden_states(pixels, chunk_size, frame_mask=mask)
    lengths = mask.sum(dim=1).tolist()
    assert sum(encoded) == sum(lengths)
    whole_videos = model.config.method_spec.mixes_frames
    assert whole_videos or max(encoded) == (chunk_size or sum(lengths))
    for video, length, got in zip(pixels, lengths, states, strict=True):
        torch.testing.assert_close(got[:length], model.get_video_hidden_states(video[None, :length])[0], **CLOSE)
        assert not got[length:].any()
    assert torch.equal(model.get_video_hidden_states(pixels, chunk_size, num_frames=lengths), states)
    assert states.movedim(2, 0).is_contiguous()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"frame_mask": torch.tensor([[True, False, True]] * 2)}, "`frame_mask` must be padded on the right"),
        ({"frame_mask": torch.tensor([[True] * 3, [False] * 3])}, "`frame_mask` must have a `True` in every row"),
        ({"frame_mask": torch.ones(2, 4)}, "`frame_mask` must have the shape"),
        ({"num_frames": [3]}, "`num_frames` must have 2 numbers from 1 to 3"),
        ({"num_frames": [3, 4]}, "`num_frames` must have 2 numbers from 1 to 3"),
    ],
)
def test_wrong_lengths_are_refused(tiny_model, lengths, message):
    with pytest.raises(ValueError, match=message):
        tiny_model.get_video_hidden_states(torch.zeros(2, 3, 3, 64, 64), **lengths)


# ---- hooks, adapters and offloading ------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("halved", [False, True], ids=["float32", "autocast"])
def test_the_chosen_attention_is_used(make_model, monkeypatch, tmp_path, halved):
    from transformers.models.clip import modeling_clip

    calls = []
    eager = modeling_clip.eager_attention_forward
    monkeypatch.setattr(modeling_clip, "eager_attention_forward", lambda *a, **k: calls.append(1) or eager(*a, **k))
    make_model().save_pretrained(tmp_path)
    for name, expected in (("sdpa", 0), ("eager", 3 * 3 + 3)):  # three chunks of frames, three layers
        run(R2TuningForVideoGrounding.from_pretrained(tmp_path, attn_implementation=name), halved)
        assert len(calls) == expected


@pytest.mark.parametrize("halved", [False, True], ids=["float32", "autocast"])
def test_layers_are_recomputed_with_activation_checkpointing(make_model, halved):
    """If someone sets CLIP to training mode; the gradients are the same."""
    model, recomputed = make_model(method="lora", num_recurrent_steps=1), []

    def recompute(function, *inputs):
        recomputed.append(1)
        return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)

    gradients = []
    for on in (False, True):
        for layer in all_layers(model):
            layer.train(on)
            layer.gradient_checkpointing, layer._gradient_checkpointing_func = on, recompute
        model.zero_grad()
        sum(states.float().sum() for states in run(model, halved)).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(recomputed) == 3 * 3 + 3
    assert_same(*gradients)


@torch.no_grad()
@pytest.mark.parametrize("halved", [False, True], ids=["float32", "autocast"])
def test_adapters_of_peft_take_part(make_model, halved):
    from peft import LoraConfig, inject_adapter_in_model

    model = make_model()
    want = run(model, halved)
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj", "fc1"]), model)
    begun = [states.to(before.dtype) for states, before in zip(run(model, halved), want, strict=True)]
    assert_same(begun, want)  # an adapter starts as the identity
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    assert all(not torch.equal(got, before) for got, before in zip(run(model, halved), want, strict=True))


class Counter(ModelHook):
    """Counts its calls; the factor shows that its output is used."""

    def __init__(self, factor=1.0):
        self.calls, self.factor = 0, factor

    def post_forward(self, module, output):
        self.calls += 1
        return output * self.factor


@torch.no_grad()
@pytest.mark.parametrize("method", ["r2_tuning", "vpt", "e3va"])
@pytest.mark.parametrize("halved", [False, True], ids=["float32", "autocast"])
def test_hooks_of_accelerate_are_called(make_model, method, halved):
    model = make_model(method=method, num_recurrent_steps=1 if method == "vpt" else 3)
    want = run(model, halved)
    hooks = [Counter() for _ in all_layers(model)]
    for layer, hook in zip(all_layers(model), hooks, strict=True):
        add_hook_to_module(layer, hook)
    assert_same(run(model, halved), want)
    assert [hook.calls for hook in hooks] == [3, 3, 3, 1, 1, 1]
    hooks[2].factor = 2.0
    assert torch.equal(run(model, halved)[0][:, :, -1], 2 * want[0][:, :, -1])


@torch.no_grad()
def test_weights_offloaded_by_accelerate_are_used(make_model):
    from accelerate import cpu_offload

    model = make_model()
    want = run(model, halved=True)
    cpu_offload(model.vision_model, execution_device=torch.device("cpu"))
    assert model.vision_model.encoder.layers[0].mlp.fc1.weight.is_meta
    assert_same(run(model, halved=True), want)


# ---- frozen weights in autocast's precision ----------------------------------------------------------------------


def change_in_place(model):
    model.vision_model.encoder.layers[0].mlp.fc1.weight.mul_(1.5)


def change_data(model):
    model.vision_model.encoder.layers[0].mlp.fc1.weight.data += 0.1  # as peft merges; this keeps the version counter


def put_others(model):
    model.vision_model.encoder.layers[0].mlp.fc1.weight = nn.Parameter(torch.ones(128, 64), requires_grad=False)


def load_others(model):
    other = CLIPModel(make_clip_config(model)).vision_model
    model.vision_model.load_state_dict(other.state_dict())


def make_clip_config(model):
    from transformers import CLIPConfig

    return CLIPConfig(vision_config=model.config.vision_config, text_config=model.config.text_config)


def make_learned(model):
    model.vision_model.encoder.layers[0].mlp.fc1.weight.requires_grad_(True)


@torch.no_grad()
@pytest.mark.parametrize("change", [change_in_place, change_data, put_others, load_others, make_learned])
def test_copies_follow_their_weights(make_model, change):
    model = make_model()
    run(model, halved=True)
    change(model)
    got = run(model, halved=True)
    model._frozen_copies.clear()
    assert_same(got, run(model, halved=True))
    fresh = copy.deepcopy(model)
    fresh._with_frozen_copies = lambda layers, _: layers
    assert_same(got, run(fresh, halved=True))


@torch.no_grad()
def test_copies_are_made_once(make_model):
    model = make_model()
    run(model, halved=True)
    kept = model._frozen_copies._kept
    run(model, halved=True)
    assert model._frozen_copies._kept is kept
    run(model, halved=False)
    assert model._frozen_copies._kept is kept
    assert all(copied.dtype == torch.bfloat16 for copied in kept[1].values())
    assert not any("frozen_copies" in name for name in model.state_dict())
    assert copy.deepcopy(model)._frozen_copies._kept is None
    assert pickle.loads(pickle.dumps(model._frozen_copies))._kept is None
    with torch.enable_grad():
        run(model, halved=True)
    assert model._frozen_copies._kept is None  # a step of training needs the memory
    run(model, halved=True)
    assert model.to(torch.float32)._frozen_copies._kept is None


def test_no_copies_are_made_of_learned_weights(make_model):
    model = make_model(method="full", num_recurrent_steps=1)
    run(model, halved=True)
    assert model._frozen_copies._kept is None


def test_a_twin_shares_all_but_the_given_weights():
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    weight = torch.zeros(2, 2)
    twin = with_weights(module, {"1.0.weight": weight})
    assert twin[1][0].weight is weight
    assert twin[0] is module[0]
    assert twin[1][1] is module[1][1]
    assert twin[1][0].bias is module[1][0].bias
    assert module[1][0].weight is not weight


# ---- loading -----------------------------------------------------------------------------------------------------


def test_loading_clip_leaves_the_verbosity_of_other_threads_alone(make_model, tmp_path, monkeypatch, caplog):
    make_model().save_pretrained(tmp_path)
    monkeypatch.setattr(transformers_logging, "set_verbosity", None)
    monkeypatch.setattr(transformers_logging, "set_verbosity_error", None)
    monkeypatch.setattr(transformers_logging.get_logger("transformers"), "propagate", True)
    R2TuningForVideoGrounding.from_pretrained(tmp_path)
    assert "UNEXPECTED" not in caplog.text
    assert "MISSING" not in caplog.text


def test_a_clip_without_some_weights_is_refused(make_model, tiny_clip, tmp_path):
    model = make_model()
    weights = {k: v for k, v in tiny_clip.state_dict().items() if k != "text_model.encoder.layers.1.mlp.fc1.bias"}
    tiny_clip.save_pretrained(tmp_path / "clip", state_dict=weights)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"The backbone '.*clip' is incomplete: it lacks 1 weights, such as \['text_model"
    ):
        R2TuningForVideoGrounding.from_pretrained(tmp_path / "model", backbone_name_or_path=str(tmp_path / "clip"))
