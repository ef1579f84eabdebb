"""Every kind of backbone: its states are those of transformers, and the model on it keeps all promises made for CLIP."""

import json
import re

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from model_checks import CLOSE, assert_equal_outputs, assert_same_answer, make_labels, move_weights
from tiny_towers import (
    KINDS,
    SENTENCES,
    TEXT,
    VISION,
    as_parameters,
    make_backbone,
    make_image_processor,
    make_model,
    save_backbone,
)

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.tower_specs_r2tuning import REFUSED, TOWER_SPECS, backbone_spec
from r2tuning.features.settings import fingerprint


FRAMES = (7, 4, 1)
QUERIES = ["two people laugh", "人们在笑", "Ein Mann öffnet"]
# What takes a second runs by default for the kind that differs most from CLIP.
ONE_BY_DEFAULT = as_parameters(KINDS, ("siglip",))
NO_CLS = [kind for kind in KINDS if not TOWER_SPECS[kind].has_cls]
pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, with its tokenizer and its image processor."""
    root = tmp_path_factory.mktemp("towers")
    for kind in KINDS:
        save_backbone(kind, root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(params=as_parameters(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def backbone(kind):
    return make_backbone(kind)


@pytest.fixture
def model(kind, backbone):
    return lively(make_model(kind, backbone))


@pytest.fixture
def processor(kind, folders):
    return R2TuningProcessor.from_backbone(folders[kind])


def lively(model):
    """Let all paths of the block take part; as initialised, the spatial one adds nothing."""
    for parameter in (model.r2_block.scale, model.r2_block.gate, model.grounding_head.level_scale):
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def make_pixels(num_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_frames, 3, VISION["image_size"], VISION["image_size"], generator=generator)


def make_batch(processor, queries=QUERIES):
    """Videos of different lengths, their padding filled with junk, and a query for each."""
    pixels = torch.full((len(FRAMES), max(FRAMES), 3, VISION["image_size"], VISION["image_size"]), 7.0)
    frame_mask = torch.arange(max(FRAMES)) < torch.tensor(FRAMES)[:, None]
    for row, count in enumerate(FRAMES):
        pixels[row, :count] = make_pixels(count, seed=row)
    return {"pixel_values_videos": pixels, "frame_mask": frame_mask, **processor(text=queries)}


def usual_tokens(kind, tokenizer, texts):
    """What transformers' own pre-processing makes of texts, and the lengths without padding."""
    spec = TOWER_SPECS[kind]
    longest = TEXT["max_position_embeddings"] - spec.reserved_positions
    padding = "max_length" if spec.text_attention == "fixed_length" else True
    options = {"truncation": True, "max_length": longest, "return_tensors": "pt"}
    tokens = tokenizer([text.lower() if spec.lowercases else text for text in texts], padding=padding, **options)
    mask = tokens["attention_mask"].bool()
    fed = {"input_ids": tokens["input_ids"]}
    if spec.text_attention != "fixed_length":
        fed["attention_mask"] = tokens["attention_mask"]
    return fed, mask


# ---- states ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_states_of_frames_are_those_of_transformers(kind, backbone, attention, dtype):
    backbone.to(dtype).set_attn_implementation(attention)
    model = make_model(kind, backbone)
    model.set_attn_implementation(attention)
    model.vision_model.to(dtype)
    pixels = make_pixels(5)
    states = model.get_video_hidden_states(pixels[None])[0]
    output = backbone.vision_model(pixels.to(dtype), output_hidden_states=True)
    layers = torch.stack(output.hidden_states[-3:], dim=1)
    spec = TOWER_SPECS[kind]
    assert states.dtype == dtype
    assert states.shape == (5, 3, 1 + 9, VISION["hidden_size"])
    assert torch.equal(states[:, :, -9:], layers[:, :, -9:])
    if spec.has_cls:
        assert torch.equal(states, layers)
        token = backbone.vision_model.post_layernorm(states[:, -1, 0])
    else:
        token = states[:, -1, 0]
    assert torch.equal(token, output.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("kind", NO_CLS)
def test_without_cls_every_layer_has_the_pooled_token_of_its_own_patches(kind):
    backbone = make_backbone(kind)
    pixels = make_pixels(2)
    states = make_model(kind, backbone).get_video_hidden_states(pixels[None])[0]
    vision = backbone.vision_model
    for layer in range(3):
        want = vision.head(vision.post_layernorm(states[:, layer, 1:]))
        torch.testing.assert_close(states[:, layer, 0], want, **CLOSE)
    assert not torch.allclose(states[:, 0, 0], states[:, 2, 0], atol=0.01)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_states_of_texts_are_those_of_transformers(kind, backbone, processor, attention, dtype):
    backbone.to(dtype).set_attn_implementation(attention)
    model = make_model(kind, backbone)
    model.set_attn_implementation(attention)
    model.text_model.to(dtype)
    tokens, mask = usual_tokens(kind, processor.tokenizer, QUERIES)
    ours = processor(text=QUERIES)
    assert torch.equal(ours["input_ids"], tokens["input_ids"])
    assert torch.equal(ours["attention_mask"], mask)
    assert len(set(mask.sum(dim=1).tolist())) > 1
    states = model.get_text_hidden_states(**ours)
    want = torch.stack(backbone.text_model(**tokens, output_hidden_states=True).hidden_states[-3:], dim=2)
    assert states.dtype == dtype
    assert states.shape == (*mask.shape, 3, TEXT["hidden_size"])
    assert torch.equal(states[mask], want[mask])


@torch.no_grad()
def test_frozen_encoders_under_autocast_stay_close(model, processor):
    inputs = make_batch(processor)
    want = model.get_video_hidden_states(inputs["pixel_values_videos"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model.get_video_hidden_states(inputs["pixel_values_videos"])
        text = model.get_text_hidden_states(inputs["input_ids"], inputs["attention_mask"])
    assert got.dtype == text.dtype == torch.bfloat16
    spread = want.std()
    assert (got.float() - want).abs().mean() < 0.05 * spread


# ---- invariance ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_example_has_the_same_answer_alone_and_in_a_batch(model, processor):
    inputs = make_batch(processor)
    outputs = model(**inputs, output_hidden_states=True)
    for row, count in enumerate(FRAMES):
        text = processor(text=QUERIES[row])
        alone = model(inputs["pixel_values_videos"][row : row + 1, :count], **text, output_hidden_states=True)
        assert_same_answer(outputs, row, alone)


@torch.no_grad()
def test_padding_of_texts_to_the_longest_possible_changes_nothing(model, processor):
    pixels = make_pixels(4)[None]
    short = model(pixels, **processor(text=QUERIES[0]))
    long = model(pixels, **processor(text=QUERIES[0], padding="max_length"))
    torch.testing.assert_close(short.logits, long.logits, **CLOSE)
    torch.testing.assert_close(short.saliency_scores, long.saliency_scores, **CLOSE)


@torch.no_grad()
def test_frames_encoded_in_chunks_are_the_same(model):
    pixels = make_pixels(5)[None]
    want = model.get_video_hidden_states(pixels, None)
    for size in (1, 2, 5):
        torch.testing.assert_close(model.get_video_hidden_states(pixels, size), want, **CLOSE)


@torch.no_grad()
def test_cached_states_give_the_same_answer_as_pixels(model, processor):
    inputs = make_batch(processor)
    want = model(**inputs)
    video = model.get_video_hidden_states(inputs["pixel_values_videos"])
    text = model.get_text_hidden_states(inputs["input_ids"], inputs["attention_mask"])
    # A cache holds the tokens of the query alone, without padding.
    longest = int(inputs["attention_mask"].sum(dim=1).max())
    got = model(
        video_hidden_states=video,
        text_hidden_states=text[:, :longest],
        frame_mask=inputs["frame_mask"],
        attention_mask=inputs["attention_mask"][:, :longest],
    )
    for name in ("logits", "boundary_offsets", "saliency_scores", "video_features"):
        torch.testing.assert_close(got[name], want[name], **CLOSE)


@torch.no_grad()
def test_an_encoded_video_gives_the_same_answer_as_one_pass(model, processor):
    pixels = make_pixels(7)
    text = processor(text=QUERIES)
    want = model(pixels[None], **text)
    encoded = model.encode_video(iter(pixels.split(3)), fps=0.5, chunk_size=2)
    got = model.ground(encoded, **text, batch_size=2)
    torch.testing.assert_close(got.logits, want.logits, **CLOSE)
    torch.testing.assert_close(got.boundary_offsets, want.boundary_offsets, **CLOSE)


# ---- saving and loading ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("save_backbone_too", [False, True], ids=["without encoders", "with encoders"])
def test_a_saved_model_is_the_same(kind, folders, processor, tmp_path, save_backbone_too):
    fields = {"save_backbone": save_backbone_too}
    if not save_backbone_too:
        fields["backbone_name_or_path"] = str(folders[kind])
    model = lively(make_model(kind, **fields))
    inputs = make_batch(processor)
    want = move_weights(model)(**inputs)
    model.save_pretrained(tmp_path)
    with safe_names(tmp_path) as names:
        assert any(name.startswith("vision_model.") for name in names) == save_backbone_too
    loaded = R2TuningForVideoGrounding.from_pretrained(tmp_path)
    assert loaded.config.tower_spec is TOWER_SPECS[kind]
    assert not any(p.requires_grad for p in (*loaded.vision_model.parameters(), *loaded.text_model.parameters()))
    assert_equal_outputs(move_weights(loaded)(**inputs), want)


def safe_names(folder):
    from contextlib import contextmanager

    from safetensors import safe_open

    @contextmanager
    def opened():
        with safe_open(folder / "model.safetensors", "pt") as file:
            yield list(file.keys())

    return opened()


def test_a_configuration_comes_back_with_its_encoders(kind, model, tmp_path):
    model.config.save_pretrained(tmp_path)
    loaded = R2TuningConfig.from_pretrained(tmp_path)
    for part in ("vision_config", "text_config"):
        assert type(getattr(loaded, part)) is type(getattr(model.config, part))
        assert getattr(loaded, part).to_dict() == getattr(model.config, part).to_dict()
    assert (loaded.vision_config.num_hidden_layers, loaded.text_config.num_hidden_layers) == (4, 3)


def test_a_saved_processor_is_the_same(kind, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = R2TuningProcessor.from_pretrained(tmp_path)
    for name in ("max_text_length", "pad_to_max_text_length", "lowercase_text"):
        assert getattr(loaded, name) == getattr(processor, name)
    got, want = loaded(text=[*QUERIES, *SENTENCES]), processor(text=[*QUERIES, *SENTENCES])
    assert torch.equal(got["input_ids"], want["input_ids"])
    assert type(loaded.tokenizer) is type(processor.tokenizer)
    assert type(loaded.image_processor) is type(processor.image_processor)


# ---- wrong backbones -------------------------------------------------------------------------------------------------


@pytest.fixture
def referring(kind, folders, tmp_path):
    """A checkpoint without encoders."""
    make_model(kind, save_backbone=False, backbone_name_or_path=str(folders[kind])).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_backbone_of_another_kind_is_refused(kind, referring, folders):
    other = KINDS[KINDS.index(kind) - 1]
    named = re.escape(str(folders[other]))
    with pytest.raises(ValueError, match=f"'{named}' does not fit this checkpoint: its vision_config has model_type="):
        R2TuningForVideoGrounding.from_pretrained(referring, backbone_name_or_path=str(folders[other]))


def test_a_backbone_of_other_sizes_is_refused(kind, referring, folders, tmp_path):
    path = folders[kind] / "config.json"
    changed = json.loads(path.read_text())
    changed["text_config"]["num_hidden_layers"] = 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="its text_config has num_hidden_layers=2 where 3 is needed"):
        R2TuningForVideoGrounding.from_pretrained(referring, backbone_name_or_path=str(tmp_path / "other"))


def test_a_backbone_without_some_weights_is_refused(kind, backbone, referring, tmp_path):
    weights = dict(backbone.state_dict())
    lost = next(name for name in weights if name.startswith("vision_model.encoder.layers.3."))
    del weights[lost]
    backbone.save_pretrained(tmp_path / "broken", state_dict=weights)
    with pytest.raises(ValueError, match=r"broken' is incomplete: it lacks 1 weights, such as \['vision_model"):
        R2TuningForVideoGrounding.from_pretrained(referring, backbone_name_or_path=str(tmp_path / "broken"))


def test_a_backbone_without_unused_weights_of_its_text_head_is_named_too(kind, backbone, referring, tmp_path):
    """Weights that have no effect on the states still have to be there, or the encoder is not the published one."""
    kept = {name: value for name, value in backbone.state_dict().items() if not name.startswith("text_model.")}
    backbone.save_pretrained(tmp_path / "broken", state_dict=kept)
    with pytest.raises(ValueError, match="broken' is incomplete: it lacks"):
        R2TuningForVideoGrounding.from_pretrained(referring, backbone_name_or_path=str(tmp_path / "broken"))


@pytest.mark.parametrize("model_type", [*REFUSED, "gpt2", None])
def test_types_that_cannot_be_used_are_refused_with_their_reason(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match="is not a supported backbone") as raised:
        R2TuningProcessor.from_backbone(tmp_path)
    message = str(raised.value)
    assert REFUSED.get(model_type, "Supported are") in message
    assert str(tmp_path) in message
    assert repr(model_type) in message
    assert all(kind in message for kind in KINDS)
    with pytest.raises(ValueError, match="is not a supported backbone"):
        backbone_spec("name", model_type)


def test_encoders_of_two_backbones_are_refused(kind):
    spec, other = TOWER_SPECS[kind], TOWER_SPECS[KINDS[KINDS.index(kind) - 1]]
    with pytest.raises(StrictDataclassError, match="must be of one backbone"):
        R2TuningConfig(vision_config=spec.encoder_configs[0](), text_config=other.encoder_configs[1]())


def test_siglip_without_pooling_head_is_refused():
    vision = transformers.SiglipVisionConfig(**VISION, vision_use_head=False)
    with pytest.raises(StrictDataclassError, match="vision_use_head"):
        R2TuningConfig(vision_config=vision, text_config=transformers.SiglipTextConfig(**TEXT))


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_a_text_of_another_length_than_trained_is_refused():
    model = make_model("siglip")
    with pytest.raises(ValueError, match=r"`input_ids` must be padded to 24 tokens.*Got 5 tokens"):
        model(make_pixels(2)[None], input_ids=torch.ones(1, 5, dtype=torch.long))


def test_a_text_that_is_too_long_is_refused(model):
    longest = model.config.max_text_length
    with pytest.raises(ValueError, match=f"`input_ids` must not be longer than {longest} tokens"):
        model(make_pixels(2)[None], input_ids=torch.ones(1, longest + 1, dtype=torch.long))


def test_long_queries_are_truncated_as_transformers_does_with_a_warning(kind, processor, caplog, monkeypatch):
    from modeling_r2tuning import processing_r2tuning

    monkeypatch.setattr(processing_r2tuning.logger, "propagate", True)
    text = " ".join(SENTENCES * 3)
    longest = TEXT["max_position_embeddings"] - TOWER_SPECS[kind].reserved_positions
    tokens, _ = usual_tokens(kind, processor.tokenizer, [text])
    assert torch.equal(processor(text=text)["input_ids"], tokens["input_ids"])
    assert f"1 of 1 queries exceed {longest} tokens and are truncated" in caplog.text
    with pytest.raises(ValueError, match=f"exceed {longest} tokens"):
        processor(text=text, truncation=False)


def test_the_tokens_of_every_script_differ(kind, processor):
    ids = processor(text=SENTENCES, padding="max_length")["input_ids"]
    assert len({tuple(row) for row in ids.tolist()}) == len(SENTENCES)


def test_siglip_reads_text_in_lower_case(folders):
    processor = R2TuningProcessor.from_backbone(folders["siglip"])
    upper, lower = (processor(text=text)["input_ids"] for text in ("Two PEOPLE laugh", "two people laugh"))
    assert torch.equal(upper, lower)


# ---- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ONE_BY_DEFAULT)
def test_twenty_steps_lower_the_loss(kind, processor):
    model = make_model(kind, drop_path=0.0).train()
    before = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    inputs = make_batch(processor)
    states = model.get_video_hidden_states(inputs.pop("pixel_values_videos"))
    labels = make_labels(model.config, FRAMES)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(20):
        loss = model(video_hidden_states=states, **inputs, **labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert before
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters() if name in before)


def test_every_kind_takes_part_in_one_step_of_full_tuning(kind, processor):
    """Gradients reach every parameter of the encoders but those that the specification lists as unused."""
    model = make_model(kind, method="full", num_recurrent_steps=1)
    loss = model(**make_batch(processor), **make_labels(model.config, FRAMES)).loss
    loss.backward()
    reached, missed = set(), set()
    for name, parameter in model.named_parameters():
        if name.startswith(("vision_model.", "text_model.")) and parameter.requires_grad:
            (missed if parameter.grad is None else reached).add(name)
    assert missed == set()
    assert any(name.startswith("text_model.") for name in reached)
    assert any(name.startswith("vision_model.embeddings") for name in reached)


def test_the_encoders_have_exactly_the_weights_of_the_backbone(kind, backbone):
    """A weight that the backbone lacks would stay random, and a feature cache would not recognise the encoders."""
    first, second = make_model(kind, backbone), make_model(kind, backbone, dropout=0.5)
    for part in ("vision_model", "text_model"):
        want = getattr(backbone, part).state_dict()
        assert getattr(first, part).state_dict().keys() == want.keys()
        assert all(torch.equal(value, want[name]) for name, value in getattr(first, part).state_dict().items())
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(first) != fingerprint(make_model(kind, make_backbone(kind, seed=1)))


# ---- shapes ----------------------------------------------------------------------------------------------------------


def test_all_kinds_have_an_image_processor_and_tokenizer_of_their_own_class(kind, processor):
    assert type(processor.image_processor) is type(make_image_processor(kind))
    frames = torch.rand(2, 3, 40, 60)
    pixels = processor(videos=frames)["pixel_values_videos"]
    assert pixels.shape == (1, 2, 3, VISION["image_size"], VISION["image_size"])
