"""int8 for the frozen encoders: close to float32, independent of the batch, and refused wherever it would mislead."""

import copy
import json
import pickle
import sys

import pytest
import torch
from model_checks import CLOSE, assert_equal_outputs, make_inputs
from test_threads import in_threads, make_calls, many_switches  # noqa: F401 (a fixture)
from tiny_towers import KINDS, VISION, as_parameters, make_backbone
from tiny_towers import make_model as make_kind
from torch import nn
from transformers import AutoModel, pipeline

from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.int8_r2tuning import check_int8


pytest.importorskip("torchao", reason="int8 needs torchao")

ENCODERS = ("vision_model", "text_model")


def quantized(model):
    """Names of the weights that are in int8."""
    return {name for name, weight in model.named_parameters() if type(weight).__name__ == "Int8Tensor"}


@pytest.fixture
def model(tiny_model):
    tiny_model.quantize_encoders()
    return tiny_model


@pytest.fixture
def inputs(tiny_model):
    return make_inputs(tiny_model.config, (5, 3), (4, 6))


# ---- states --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", as_parameters(KINDS))
def test_states_of_every_kind_are_close_and_independent_of_the_batch(kind):
    model = make_kind(kind, make_backbone(kind)).eval()
    size = VISION["image_size"]
    pixels = torch.randn(1, 5, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(3, 3 + model.config.tower_spec.max_text_length(model.config.text_config))[None] % 20 + 3
    exact = model.get_video_hidden_states(pixels), model.get_text_hidden_states(ids)
    model.quantize_encoders()
    rounded = model.get_video_hidden_states(pixels), model.get_text_hidden_states(ids)
    for want, got in zip(exact, rounded, strict=True):
        assert not torch.equal(got, want)
        assert torch.cosine_similarity(got, want, dim=-1).min() > 0.99
    chunked = model.get_video_hidden_states(pixels, chunk_size=2)
    alone = model.get_video_hidden_states(pixels[:, 2:3])
    # Not to the last bit: one in the float32 parts may turn the direction of a rounding.
    assert torch.cosine_similarity(chunked, rounded[0], dim=-1).min() > 0.9999
    assert torch.cosine_similarity(alone, rounded[0][:, 2:3], dim=-1).min() > 0.9999


@pytest.mark.parametrize("kind", as_parameters(KINDS))
def test_exactly_the_linear_layers_of_the_encoders_are_in_int8(kind):
    model = make_kind(kind, make_backbone(kind)).eval()
    want = set()
    for encoder in ENCODERS:
        for name, part in getattr(model, encoder).named_modules():
            if type(part) is nn.Linear:
                want.add(f"{encoder}.{name}.weight")
    model.quantize_encoders()
    assert quantized(model) == want
    assert len(want) > 12


@torch.no_grad()
def test_answers_are_close(tiny_model, inputs):
    want = tiny_model(**inputs)
    tiny_model.quantize_encoders()
    got = tiny_model(**inputs)
    assert 0 < (got.logits - want.logits).abs().max() < 0.1
    encoded = tiny_model.encode_video(inputs["pixel_values_videos"][0, :5])
    text = {name: inputs[name][:1] for name in ("input_ids", "attention_mask")}
    grounded = tiny_model.ground(encoded, **text)
    torch.testing.assert_close(grounded.saliency_scores[0], got.saliency_scores[0, :5], **CLOSE)


@torch.no_grad()
def test_autocast_leaves_int8_as_it_is(model, inputs):
    pixels = inputs["pixel_values_videos"]
    want = model.get_video_hidden_states(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        got = model.get_video_hidden_states(pixels)
    assert got.dtype == torch.bfloat16
    assert torch.cosine_similarity(got.float(), want, dim=-1).min() > 0.99
    assert model._frozen_copies._kept is None


def test_threads_share_a_model(model):
    assert in_threads(make_calls(model, False, (0,)) + make_calls(model, True, (1,)), 4) == (0, [])


@torch.no_grad()
def test_a_model_can_be_copied_and_sent_to_another_process(model, inputs):
    want = model(**inputs)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_equal_outputs(copied(**inputs), want)
        assert copied.has_int8_encoders


# ---- loading and saving --------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("save_backbone", [False, True])
@pytest.mark.parametrize("dtype", ["int8", torch.int8])
@pytest.mark.parametrize("loader", [R2TuningForVideoGrounding, AutoModel])
def test_a_checkpoint_is_loaded_in_int8(tiny_model, inputs, tmp_path, loader, dtype, save_backbone):
    """Whether the encoders are in it or are loaded from a backbone."""
    tiny_model.config.save_backbone = save_backbone
    tiny_model.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path, dtype=dtype)
    tiny_model.quantize_encoders()
    assert_equal_outputs(loaded(**inputs), tiny_model(**inputs))
    assert quantized(loaded) == quantized(tiny_model)
    assert not loaded.training


def test_a_pipeline_takes_int8(checkpoint):
    exact, rounded = (pipeline("video-grounding", model=str(checkpoint), dtype=dtype) for dtype in (None, "int8"))
    assert rounded.model.has_int8_encoders
    scores = [pipe(str(checkpoint / "sample.mp4"), query="a")["saliency"] for pipe in (exact, rounded)]
    assert scores[0] != scores[1]
    torch.testing.assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), rtol=0.0, atol=0.1)


def test_a_checkpoint_without_encoders_is_saved_unchanged(tiny_model, tmp_path):
    tiny_model.config.save_backbone = False
    tiny_model.save_pretrained(tmp_path / "before")
    R2TuningForVideoGrounding.from_pretrained(tmp_path / "before", dtype="int8").save_pretrained(tmp_path / "after")
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("before", "after")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "after/config.json").read_text())["dtype"] == "float32"


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_encoders_in_int8_are_not_saved(model, tmp_path):
    model.config.save_backbone = True
    with pytest.raises(ValueError, match="encoders are in int8 and cannot be saved"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_encoders_that_were_made_trainable_are_not_saved(model, tmp_path):
    model.config.save_backbone = False
    model.text_model.requires_grad_(False)
    model.vision_model.embeddings.patch_embedding.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="encoders are in int8 and cannot be saved"):
        model.save_pretrained(tmp_path)


def test_training_is_refused(model):
    with pytest.raises(ValueError, match="int8 encoders is for inference"):
        model.train()
    assert model.eval() is model


MOVES = {
    "meta": lambda model: model.to("meta"),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "double": lambda model: model.double(),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_other_devices_and_precisions_are_refused(model, move):
    with pytest.raises(ValueError, match="encoders are in int8, which is for the CPU alone"):
        move(model)
    assert model.to("cpu") is model.float() is model


def test_a_gpu_is_refused():
    with pytest.raises(ValueError, match="`dtype` int8 needs `device` cpu, got cuda:0"):
        check_int8(torch.device("cuda:0"))


def test_a_model_elsewhere_is_refused(tiny_model):
    with pytest.raises(ValueError, match="needs `device` cpu, got meta"):
        tiny_model.to("meta").quantize_encoders()


@pytest.mark.parametrize("method", ["full", "lora", "vpt", "vop", "st_adapter"])
def test_methods_that_learn_inside_the_encoders_are_refused(make_model, method):
    model = make_model(method=method, num_recurrent_steps=1)
    with pytest.raises(ValueError, match=f"must not be int8 for the method '{method}'"):
        model.quantize_encoders()
    assert not model.has_int8_encoders


def test_torchao_is_named_if_it_is_missing(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ImportError, match=r'needs torchao: `pip install "r2tuning\[int8\]"`'):
        tiny_model.quantize_encoders()
    assert quantized(tiny_model) == set()
