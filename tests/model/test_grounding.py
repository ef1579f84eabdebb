"""Queries in encoded videos: batches of windows, several videos, encoded texts, compact videos."""

import weakref

import pytest
import torch
from model_checks import CLOSE, assert_equal_outputs, make_inputs

from modeling_r2tuning import EncodedVideo
from modeling_r2tuning.block_r2tuning import R2Block
from modeling_r2tuning.grounding_r2tuning import WINDOWS_AT_ONCE
from modeling_r2tuning.windows_r2tuning import plan_windows, stream_windows


LENGTHS = (1, 3, 9, 30, 41)  # at 0.5 frames per second and windows of 20 s: 11 frames a window


def video_states(config, num_frames):
    return make_inputs(config, (num_frames,), (1,), cached=True, seed=num_frames)["video_hidden_states"][0]


@pytest.fixture
def states(tiny_model):
    return [video_states(tiny_model.config, length) for length in LENGTHS]


@pytest.fixture
def text(tiny_model):
    inputs = make_inputs(tiny_model.config, (1,) * 3, (5, 2, 6))
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def encode(model, states, **options):
    return model.encode_video(video_hidden_states=states, window_sec=20, **options)


@pytest.mark.parametrize("num_frames", range(1, 40))
@pytest.mark.parametrize("window", [None, 2, 3, 8, 11])
def test_the_plan_of_windows_is_that_of_the_stream(num_frames, window):
    windows = list(stream_windows([torch.arange(num_frames)], window))
    starts, mask = plan_windows(num_frames, window)
    assert starts.tolist() == [start for start, _ in windows]
    assert mask.sum(dim=1).tolist() == [len(frames) for _, frames in windows]
    assert mask.shape[1] == len(windows[0][1])


# ---- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_videos_are_grounded_together_as_alone(tiny_model, states, text, batch_size):
    """Whatever is batched: queries, windows of a video, windows of different lengths from several videos."""
    videos = [encode(tiny_model, one) for one in states]
    together = tiny_model.ground(videos, **text, batch_size=batch_size, output_video_features=True)
    assert len(together) == len(videos)
    for got, video in zip(together, videos, strict=True):
        want = tiny_model.ground(video, **text, output_video_features=True)
        assert_equal_outputs(got, want, **CLOSE)
        assert len(got.logits) == 3 * video.num_windows


def test_a_list_of_one_video_gives_a_list(tiny_model, states, text):
    video = encode(tiny_model, states[2])
    [got] = tiny_model.ground([video], **text)
    assert_equal_outputs(got, tiny_model.ground(video, **text), atol=0, rtol=0)
    assert tiny_model.ground([], **text) == []


def test_several_windows_are_answered_in_one_pass(tiny_model, states, text, monkeypatch):
    batches = []
    forward = R2Block.forward

    def count(self, video, words, frame_mask, text_mask):
        batches.append(len(frame_mask))
        return forward(self, video, words, frame_mask, text_mask)

    monkeypatch.setattr(R2Block, "forward", count)
    tiny_model.ground([encode(tiny_model, one) for one in states], **text, batch_size=12)
    num_rows = 3 * sum(len(plan_windows(length, 11)[0]) for length in LENGTHS)
    assert sum(batches) == num_rows
    assert max(batches) == 12


@pytest.mark.parametrize("window_sec", [14, None])
@pytest.mark.parametrize("method", ["r2_tuning", "vop"])
def test_a_video_is_encoded_and_grounded_in_one_pass(make_model, text, method, window_sec):
    model = make_model(method=method, num_recurrent_steps=3 if method == "r2_tuning" else 1)
    pixels = make_inputs(model.config, (40,), (1,))["pixel_values_videos"][0]
    options = {"window_sec": window_sec, "chunk_size": 5, "fps": 0.5}
    want = model.ground(model.encode_video(pixels, **options), **text)
    assert_equal_outputs(model.encode_and_ground(pixels.split(7), **text, **options), want, **CLOSE)
    assert model.encode_and_ground(pixels, **text, **options, duration_sec=79.5).duration_sec.unique() == 79.5


def test_only_a_few_windows_are_in_memory_in_one_pass(tiny_model, text):
    """The windows of a long video are grounded while it is read."""
    pixels = make_inputs(tiny_model.config, (4,), (1,))["pixel_values_videos"][0]
    alive, most = [], 0

    def read():
        nonlocal most
        for _ in range(100):
            yield pixels
            most = max(most, sum(features() is not None for features in alive))

    project = tiny_model._project_window

    def count(begun, dtype):
        embeds = project(begun, dtype)
        alive.append(weakref.ref(embeds))
        return embeds

    tiny_model._project_window = count
    outputs = tiny_model.encode_and_ground(read(), **text, window_sec=20)
    assert len(alive) == len(outputs.window_starts.unique()) > 70
    assert most <= WINDOWS_AT_ONCE


# ---- encoded texts -----------------------------------------------------------------------------------------------


def test_an_encoded_text_is_the_text(tiny_model, states, text, monkeypatch):
    video = encode(tiny_model, states[3])
    want = tiny_model.ground(video, **text)
    encoded = tiny_model.encode_text(**text)
    assert encoded.num_queries == 3
    cached = tiny_model.encode_text(
        text_hidden_states=tiny_model.get_text_hidden_states(**text), attention_mask=text["attention_mask"]
    )
    assert torch.equal(cached.text_embeds, encoded.text_embeds)
    monkeypatch.setattr(tiny_model, "project_text", None)  # texts are not encoded again
    assert_equal_outputs(tiny_model.ground(video, encoded), want, atol=0, rtol=0)


def test_a_text_beside_an_encoded_text_is_refused(tiny_model, states, text):
    video, encoded = encode(tiny_model, states[1]), tiny_model.encode_text(**text)
    with pytest.raises(ValueError, match="`encoded_text` holds the queries"):
        tiny_model.ground(video, encoded, input_ids=text["input_ids"])


@pytest.mark.parametrize("part", ["video_projection", "text_projection"])
def test_what_was_encoded_with_other_weights_is_refused(make_model, text, part):
    model = make_model()
    video, encoded = encode(model, video_states(model.config, 5)), model.encode_text(**text)
    model.ground(video, encoded)
    with torch.no_grad():
        model.r2_block.steps[0].get_submodule(part).output_linear.bias[0] += 1e-3
    with pytest.raises(ValueError, match="`encoded_video` was made with weights other than"):
        model.ground(video, model.encode_text(**text))
    video = encode(model, video_states(model.config, 5))
    with pytest.raises(ValueError, match="`encoded_text` was made with weights other than"):
        model.ground(video, encoded)


def test_the_fingerprint_is_computed_once(make_model, text, monkeypatch):
    model = make_model()
    video, encoded = encode(model, video_states(model.config, 5)), model.encode_text(**text)
    monkeypatch.setattr("modeling_r2tuning.fingerprint_r2tuning._digest", None)
    model.ground(video, encoded)


@pytest.mark.parametrize("change", ["in place", "through data", "another tensor"])
def test_every_change_of_the_weights_is_noticed(make_model, change):
    model = make_model()
    weight = model.r2_block.steps[0].video_projection.output_linear.weight
    before = model.get_fingerprint()
    if change == "in place":
        with torch.no_grad():
            weight[-1, -1] += 1
    elif change == "through data":
        weight.data += 1
    else:
        weight.data = weight.data.clone() + 1
    assert model.get_fingerprint() != before


# ---- compact videos and half precision ---------------------------------------------------------------------------

STRUCTURES = [
    {},
    {"shared_block": False, "layer_fusion": "forward"},
    {"layer_fusion": "mean"},
    {"use_temporal_endpoints": False},
    {"method": "none", "num_recurrent_steps": 1},
    {"method": "losa"},
    {"method": "lst"},
]


@pytest.mark.parametrize("fields", STRUCTURES, ids=str)
def test_a_compact_video_is_the_video(make_model, text, fields):
    model = make_model(**fields)
    for length in LENGTHS:
        states = make_inputs(model.config, (length,), (1,), cached=True, seed=length)["video_hidden_states"][0]
        compact, video = encode(model, states, compact=True), encode(model, states)
        assert compact.is_compact
        assert compact.num_frames == sum(part.shape[1] for part in compact.video_embeds) == length
        assert torch.equal(compact.window_starts, video.window_starts)
        assert torch.equal(compact.frame_mask, video.frame_mask)
        assert_equal_outputs(model.ground(compact, **text), model.ground(video, **text), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_a_compact_video_may_come_in_any_pieces(tiny_model, text, chunk_size):
    pixels = make_inputs(tiny_model.config, (23,), (1,))["pixel_values_videos"][0]
    options = {"window_sec": 14, "chunk_size": chunk_size}
    compact = tiny_model.encode_video(pixels, **options, compact=True)
    want = tiny_model.ground(tiny_model.encode_video(pixels, **options), **text)
    assert_equal_outputs(tiny_model.ground(compact, **text), want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_are_kept_in_the_precision_asked_for(tiny_model, states, text, dtype, compact):
    video = encode(tiny_model, states[3], dtype=dtype, compact=compact)
    assert {part.dtype for part in video.video_embeds} == {dtype}
    if not compact:
        same = encode(tiny_model, states[3]).to(dtype)
        assert all(torch.equal(one, two) for one, two in zip(video.video_embeds, same.video_embeds, strict=True))
    got, want = tiny_model.ground(video, **text), tiny_model.ground(encode(tiny_model, states[3]), **text)
    assert got.logits.dtype == torch.float32
    torch.testing.assert_close(got.saliency_scores, want.saliency_scores, atol=0.05, rtol=0)


def test_a_compact_video_is_half_as_large(tiny_model):
    states = video_states(tiny_model.config, 200)
    sizes = {}
    for compact in (False, True):
        video = encode(tiny_model, states, compact=compact)
        sizes[compact] = sum(part.nbytes for part in video.video_embeds + (video.token_statistics or []))
    assert sizes[True] < 0.6 * sizes[False]


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_compact_video_comes_back_from_its_file(tiny_model, states, text, dtype, tmp_path):
    video = encode(tiny_model, states[4], dtype=dtype, compact=True)
    video.save(tmp_path / "video")
    loaded = EncodedVideo.load(tmp_path / "video")
    for name in ("video_embeds", "token_statistics"):
        assert all(torch.equal(*parts) for parts in zip(getattr(loaded, name), getattr(video, name), strict=True))
    assert_equal_outputs(tiny_model.ground(loaded, **text), tiny_model.ground(video, **text), atol=0, rtol=0)


@pytest.mark.parametrize("method", ["vop", "st_adapter"])
def test_a_compact_video_of_a_method_that_mixes_frames_is_refused(make_model, method):
    model = make_model(method=method, num_recurrent_steps=1)
    pixels = make_inputs(model.config, (5,), (1,))["pixel_values_videos"][0]
    with pytest.raises(ValueError, match=f"`compact` must be False for the method '{method}'"):
        model.encode_video(pixels, compact=True)


def test_a_precision_that_cannot_hold_the_features_is_refused(make_model):
    model = make_model()
    states = video_states(model.config, 5)
    with pytest.raises(ValueError, match="`dtype` must be a floating-point type"):
        model.encode_video(video_hidden_states=states, dtype=torch.int8)
    with torch.no_grad():
        model.r2_block.steps[0].video_projection.output_linear.bias[0] = 1e6
    model.encode_video(video_hidden_states=states, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"`dtype` torch.float16 cannot hold the features"):
        model.encode_video(video_hidden_states=states, dtype=torch.float16)


WRONG_PARTS = {
    "lost piece": ({"video_embeds": 1}, "must hold the 7 frames of the windows, got 4"),
    "lost statistics": ({"token_statistics": 1}, "`token_statistics` must have the shapes of `video_embeds`"),
    "uneven statistics": (
        {"token_statistics": [torch.zeros(2, 4, 1, 2), torch.zeros(2, 3, 1, 1)]},
        "`token_statistics`",
    ),
}


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_parts_of_a_compact_video_that_do_not_fit_are_refused(name):
    changes, message = WRONG_PARTS[name]
    starts, mask = plan_windows(7, 4)
    parts = {
        "video_embeds": [torch.zeros(2, 4, 1, 8), torch.zeros(2, 3, 1, 8)],
        "token_statistics": [torch.zeros(2, 4, 1, 2), torch.zeros(2, 3, 1, 2)],
    }
    fields = {"frame_mask": mask, "window_starts": starts, "fps": 1.0, "duration_sec": 7.0, "fingerprint": "weights"}
    EncodedVideo(**parts, **fields)
    for key, value in changes.items():
        parts[key] = parts[key][:value] if isinstance(value, int) else value
    with pytest.raises(ValueError, match=message):
        EncodedVideo(**parts, **fields)
