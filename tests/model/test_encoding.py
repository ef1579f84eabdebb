import os
import random
import resource
import signal
import stat
import weakref
from pathlib import Path

import pytest
import torch
from fresh_python import run_fresh
from model_checks import CLOSE, assert_equal_outputs, make_inputs
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_r2tuning import EncodedVideo
from modeling_r2tuning.decoding_r2tuning import owned_frames
from modeling_r2tuning.windows_r2tuning import stream_windows, window_size


def assert_same_video(got, want):
    assert len(got.video_embeds) == len(want.video_embeds)
    assert all(torch.equal(one, other) for one, other in zip(got.video_embeds, want.video_embeds, strict=True))
    assert torch.equal(got.frame_mask, want.frame_mask)
    assert torch.equal(got.window_starts, want.window_starts)
    assert (got.fps, got.duration_sec, got.fingerprint) == (want.fps, want.duration_sec, want.fingerprint)


def video_states(config, num_frames):
    return make_inputs(config, (num_frames,), (1,), cached=True, seed=num_frames)["video_hidden_states"][0]


@pytest.fixture
def windowed(tiny_model):
    """30 frames at 0.5 frames per second in windows of 20 s: 11 frames each, the last window shorter."""
    return tiny_model.encode_video(video_hidden_states=video_states(tiny_model.config, 30), window_sec=20)


# ---- the plan of windows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window_sec", "fps", "frames"), [(150, 0.5, 76), (150.0, 1.0, 151), (0.1, 30, 4), (3, 0.1, 2), (None, 0.5, None)]
)
def test_a_window_holds_a_video_of_its_length(window_sec, fps, frames):
    """It has one frame more than its seconds hold, whichever way they are rounded."""
    assert window_size(window_sec, fps) in (frames, frames if frames is None else frames + 1)
    assert frames is None or window_size(window_sec, fps) > window_sec * fps


LENGTHS = [(1, 8), (7, 8), (8, 8), (9, 8), (12, 8), (13, 8), (100, 8), (5, 2), (20, 3), (40, 7), (9, None)]


@pytest.mark.parametrize(("num_frames", "window"), LENGTHS)
@pytest.mark.parametrize("piece", [1, 3, 8, 1000])
def test_windows_do_not_depend_on_the_pieces(num_frames, window, piece):
    """Windows start every half window; all but the last are full, and the last one ends with the video."""
    video = torch.arange(num_frames)
    windows = list(stream_windows(video.split(piece), window))
    step = num_frames if window is None else window // 2
    assert [start for start, _ in windows] == [index * step for index in range(len(windows))]
    for start, frames in windows:
        assert torch.equal(frames, video[start : start + (window or num_frames)])
    assert all(len(frames) == window for _, frames in windows[:-1])
    last = windows[-1][0] + len(windows[-1][1])
    assert last == num_frames
    assert len(windows) == 1 or len(windows[-1][1]) > window - step


@pytest.mark.parametrize(("num_frames", "window"), LENGTHS)
def test_windows_own_every_frame_once(num_frames, window):
    windows = list(stream_windows([torch.arange(num_frames)], window))
    starts = torch.tensor([start for start, _ in windows])
    lengths = torch.tensor([len(frames) for _, frames in windows])
    owned = owned_frames(torch.arange(int(lengths.max())) < lengths[:, None], starts)
    frames = [frames[first:last] for (_, frames), (first, last) in zip(windows, owned.tolist(), strict=True)]
    assert torch.equal(torch.cat(frames), torch.arange(num_frames))
    assert (owned[:, 0] >= 0).all()
    assert (owned[:, 1] <= lengths).all()


def test_no_more_than_a_window_and_a_piece_are_in_memory():
    """Pieces are consumed lazily and released with their window; a window does not keep the whole video in memory."""
    pieces, made = [], 0

    def stream():
        nonlocal made
        for _ in range(50):
            piece = torch.zeros(4, 1000)
            pieces.append(weakref.ref(piece))
            made += 4
            yield piece
            del piece

    for start, frames in stream_windows(stream(), 16):
        assert made <= start + 16 + 4
        assert sum(piece() is not None for piece in pieces) <= 5
        assert frames.untyped_storage().nbytes() <= (16 + 4) * 4000
    assert made == 200


@pytest.mark.parametrize("pieces", [[], [torch.zeros(0, 2)]])
def test_a_video_without_frames_is_refused(pieces):
    with pytest.raises(ValueError, match="The video has no frames"):
        list(stream_windows(pieces, 4))


# ---- encode once, ask many ---------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True], ids=["pixels", "cached"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"layer_fusion": "forward", "shared_block": False},
        {"layer_fusion": "mean"},
        {"use_existence_head": True},
    ],
)
def test_a_short_video_is_grounded_as_by_forward(make_model, fields, cached):
    model = make_model(**fields)
    inputs = make_inputs(model.config, (9,), (5, 2, 6), cached=cached)
    want = model(**inputs, fps=0.5, duration_sec=18.0)
    video = {k: v[0] for k, v in inputs.items() if k in ("pixel_values_videos", "video_hidden_states")}
    text = {k: v for k, v in inputs.items() if k in ("input_ids", "text_hidden_states", "attention_mask")}
    encoded = model.encode_video(**video)
    assert encoded.num_windows == 1
    assert encoded.num_frames == 9
    assert "video_features" not in model.ground(encoded, **text)
    outputs = model.ground(encoded, **text, output_video_features=True)
    assert outputs.query_index.tolist() == [0, 1, 2]
    assert outputs.window_starts.tolist() == [0, 0, 0]
    want.query_index, want.window_starts = outputs.query_index, outputs.window_starts
    for name in want:
        torch.testing.assert_close(outputs[name], want[name], **CLOSE)


@torch.no_grad()
def test_each_window_is_grounded_as_a_video_of_its_own(tiny_model, windowed):
    """Rows are ordered by query and then by window; the padding of the last window has no effect."""
    text = make_inputs(tiny_model.config, (1,) * 2, (5, 2), cached=True)
    text = {name: text[name] for name in ("text_hidden_states", "attention_mask")}
    outputs = tiny_model.ground(windowed, **text)
    starts = windowed.window_starts.tolist()
    assert starts == [0, 5, 10, 15, 20]
    assert outputs.window_starts.tolist() == starts * 2
    assert outputs.query_index.tolist() == [0] * 5 + [1] * 5
    states = video_states(tiny_model.config, 30)
    for row, (query, start) in enumerate(zip(outputs.query_index, outputs.window_starts, strict=True)):
        words = {name: tensor[query : query + 1] for name, tensor in text.items()}
        alone = tiny_model(video_hidden_states=states[None, start : start + 11], **words)
        points = outputs.point_mask[row]
        torch.testing.assert_close(outputs.logits[row, points], alone.logits[0], **CLOSE)
        torch.testing.assert_close(outputs.boundary_offsets[row, points], alone.boundary_offsets[0], **CLOSE)
        frames = outputs.frame_mask[row]
        torch.testing.assert_close(outputs.saliency_scores[row, frames], alone.saliency_scores[0], **CLOSE)
    assert outputs.fps.tolist() == [0.5] * 10
    assert outputs.duration_sec.tolist() == [60.0] * 10


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_number_of_queries_answered_at_once_does_not_matter(tiny_model, windowed, batch_size):
    text = make_inputs(tiny_model.config, (1,) * 5, (5, 2, 6, 1, 3))
    text = {name: text[name] for name in ("input_ids", "attention_mask")}
    want = tiny_model.ground(windowed, **text)
    assert_equal_outputs(tiny_model.ground(windowed, **text, batch_size=batch_size), want, **CLOSE)


@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
@pytest.mark.parametrize("kind", ["tensor", "batch of one", "generator", "uneven pieces"])
def test_pixels_may_come_in_any_pieces(tiny_model, kind, chunk_size):
    pixels = make_inputs(tiny_model.config, (23,), (1,))["pixel_values_videos"][0]
    given = {
        "tensor": pixels,
        "batch of one": pixels[None],
        "generator": (frame[None] for frame in pixels),
        "uneven pieces": [pixels[:1], pixels[1:20], pixels[20:]],
    }[kind]
    want = tiny_model.encode_video(
        video_hidden_states=tiny_model.get_video_hidden_states(pixels[None])[0], window_sec=14
    )
    got = tiny_model.encode_video(given, window_sec=14, chunk_size=chunk_size)
    assert got.num_windows > 2
    assert torch.equal(got.window_starts, want.window_starts)
    assert torch.equal(got.frame_mask, want.frame_mask)
    for one, other in zip(got.video_embeds, want.video_embeds, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("window_sec", [150, None])
def test_a_long_video_is_grounded(tiny_model, window_sec):
    encoded = tiny_model.encode_video(
        video_hidden_states=video_states(tiny_model.config, 400), window_sec=window_sec, duration_sec=799.5
    )
    assert encoded.num_frames == 400
    assert encoded.duration_sec == 799.5
    assert encoded.num_windows == (1 if window_sec is None else 10)
    outputs = tiny_model.ground(encoded, input_ids=torch.tensor([[62, 5, 63]]))
    assert len(outputs.logits) == encoded.num_windows
    assert outputs.logits.isfinite().all()


def test_the_window_and_the_frame_rate_come_from_the_configuration(make_model):
    model = make_model(window_sec=10.0, fps=2.0)
    states = video_states(model.config, 30)
    encoded = model.encode_video(video_hidden_states=states)
    assert encoded.frame_mask.shape[1] == 21
    assert encoded.fps == 2.0
    assert encoded.duration_sec == 15.0
    assert model.encode_video(video_hidden_states=states, fps=0.5).frame_mask.shape[1] == 6
    assert make_model(window_sec=None).encode_video(video_hidden_states=states).num_windows == 1


def test_nothing_is_kept_for_backward(tiny_model):
    encoded = tiny_model.encode_video(video_hidden_states=video_states(tiny_model.config, 5))
    assert not encoded.video_embeds[0].requires_grad
    assert not tiny_model.ground(encoded, input_ids=torch.tensor([[62, 5, 63]])).logits.requires_grad


@torch.no_grad()
def test_half_precision_halves_an_encoded_video(tiny_model, windowed):
    half = windowed.to(torch.float16)
    assert {embeds.dtype for embeds in half.video_embeds} == {torch.float16}
    assert half.frame_mask.dtype == torch.bool
    ids = torch.tensor([[62, 5, 63]])
    got, want = tiny_model.ground(half, input_ids=ids), tiny_model.ground(windowed, input_ids=ids)
    assert got.logits.dtype == torch.float32
    # float16 keeps 11 bits of values below 10.
    torch.testing.assert_close(got.saliency_scores, want.saliency_scores, atol=0.01, rtol=0)


@pytest.mark.parametrize("field", ["input_norm.bias", "output_linear.weight"])
def test_a_video_encoded_with_other_weights_is_refused(make_model, field):
    model = make_model(shared_block=False)
    encoded = model.encode_video(video_hidden_states=video_states(model.config, 5))
    with torch.no_grad():
        model.r2_block.steps[-1].video_projection.get_parameter(field).flatten()[0] += 1e-3
    with pytest.raises(ValueError, match="made with weights other than"):
        model.ground(encoded, input_ids=torch.tensor([[62, 5, 63]]))


def test_a_reloaded_model_accepts_what_it_encoded(tiny_model, windowed, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    loaded = type(tiny_model).from_pretrained(tmp_path)
    ids = torch.tensor([[62, 5, 63]])
    assert_equal_outputs(loaded.ground(windowed, input_ids=ids), tiny_model.ground(windowed, input_ids=ids))


WRONG_VIDEOS = {
    "nothing": ({}, "either `pixel_values_videos` or `video_hidden_states`"),
    "both": (
        {"pixel_values_videos": torch.zeros(2, 3, 64, 64), "video_hidden_states": torch.zeros(2, 3, 5, 64)},
        "either `pixel_values_videos` or `video_hidden_states`",
    ),
    "two videos": ({"pixel_values_videos": torch.zeros(2, 4, 3, 64, 64)}, "`pixel_values_videos` must be one video"),
    "flat piece": ({"pixel_values_videos": [torch.zeros(3, 64, 64)]}, "`pixel_values_videos` must be one video"),
    "no frames": ({"pixel_values_videos": torch.zeros(0, 3, 64, 64)}, "The video has no frames"),
    "no pieces": ({"pixel_values_videos": []}, "The video has no frames"),
    "frame rate": ({"pixel_values_videos": torch.zeros(2, 3, 64, 64), "fps": -1}, "`fps` must be positive"),
    "window": ({"pixel_values_videos": torch.zeros(1, 3, 64, 64), "window_sec": -1}, "`window_sec` must be positive"),
    "no window": (
        {"pixel_values_videos": torch.zeros(1, 3, 64, 64), "window_sec": 0},
        "`window_sec` must be positive",
    ),
    "batch of states": (
        {"video_hidden_states": torch.zeros(1, 4, 3, 5, 64)},
        "`video_hidden_states` must have the shape",
    ),
    "layers": ({"video_hidden_states": torch.zeros(4, 4, 5, 64)}, "`video_hidden_states` must have the shape"),
    "width": ({"video_hidden_states": torch.zeros(4, 3, 5, 63)}, "`video_hidden_states` must have the shape"),
}


@pytest.mark.parametrize("name", WRONG_VIDEOS)
def test_wrong_videos_are_refused_with_a_reason(tiny_model, name):
    arguments, message = WRONG_VIDEOS[name]
    with pytest.raises(ValueError, match=message):
        tiny_model.encode_video(**arguments)


# ---- files -------------------------------------------------------------------------------------------------------


def test_an_encoded_video_comes_back_bit_by_bit(windowed, tmp_path):
    windowed.save(tmp_path / "video.safetensors")
    assert_same_video(EncodedVideo.load(tmp_path / "video.safetensors"), windowed)
    assert [path.name for path in tmp_path.iterdir()] == ["video.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_video_comes_back(windowed, tmp_path, dtype):
    half = windowed.to(dtype)
    half.save(str(tmp_path / "video"))
    assert_same_video(EncodedVideo.load(str(tmp_path / "video")), half)


def test_saving_replaces_an_older_file(windowed, tmp_path):
    path = tmp_path / "video"
    path.write_bytes(b"old")
    windowed.save(path)
    assert_same_video(EncodedVideo.load(path), windowed)


def test_a_failed_save_leaves_nothing_behind(windowed, tmp_path):
    """There is no temporary file, and the existing file is intact."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        windowed.save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("chosen", [[0], [4], [1, 2], [3, 0, 3]])
def test_some_windows_of_a_file_are_grounded_like_those_of_the_whole(tiny_model, windowed, tmp_path, chosen):
    path = tmp_path / "video"
    windowed.save(path)
    found = EncodedVideo.load(path, windows=chosen)
    assert found.window_starts.tolist() == [5 * index for index in sorted(set(chosen))]
    ids = {"input_ids": torch.tensor([[62, 5, 63], [62, 7, 63]])}
    got, whole = tiny_model.ground(found, **ids), tiny_model.ground(windowed, **ids)
    rows = torch.isin(whole.window_starts, found.window_starts)
    for name in ("logits", "boundary_offsets", "saliency_scores", "frame_mask", "duration_sec"):
        torch.testing.assert_close(got[name], whole[name][rows], **CLOSE)


def test_only_the_chosen_windows_are_read(windowed, tmp_path):
    """Damage elsewhere in the file goes unnoticed, damage in a chosen window does not."""
    path = tmp_path / "video"
    windowed.save(path)
    content = bytearray(path.read_bytes())
    place = content.find(windowed.video_embeds[3].numpy().tobytes()[:64])
    content[place] ^= 1
    path.write_bytes(content)
    assert EncodedVideo.load(path, windows=[1, 2]).num_windows == 2
    for windows in ([2, 3], None):
        with pytest.raises(ValueError, match=r"do not match its checksum \(video_embeds.3\)"):
            EncodedVideo.load(path, windows=windows)


@pytest.mark.parametrize("chosen", [[], [5], [-1, 2]])
def test_windows_that_a_file_lacks_are_refused(windowed, tmp_path, chosen):
    windowed.save(tmp_path / "video")
    with pytest.raises(IndexError, match="`windows` must be from 0 to 4"):
        EncodedVideo.load(tmp_path / "video", windows=chosen)


def test_windows_of_a_compact_file_cannot_be_chosen(tiny_model, tmp_path):
    states = video_states(tiny_model.config, 30)
    tiny_model.encode_video(video_hidden_states=states, window_sec=20, compact=True).save(tmp_path / "video")
    with pytest.raises(ValueError, match="it is compact"):
        EncodedVideo.load(tmp_path / "video", windows=[0])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No encoded video at '.*nothing'"):
        EncodedVideo.load(tmp_path / "nothing")


def rewrite(path, lost=None, **changes):
    """The same file without one of its tensors or with other metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != lost}  # noqa: SIM118 (not a dict)
    save_file(tensors, path, metadata=metadata)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage" * 100),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "other format": lambda path: rewrite(path, format="r2tuning-encoded-video-0"),
    "lost window": lambda path: rewrite(path, lost="video_embeds.1"),
    "lost mask": lambda path: rewrite(path, lost="frame_mask"),
    "first format": lambda path: rewrite(path, format="r2tuning-encoded-video-1"),
    "other frame rate": lambda path: rewrite(path, fps="1.0"),
    "no checksum": lambda path: rewrite(path, checksums="{}"),
    "other file": lambda path: save_file({"frame_mask": torch.ones(1, 1)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unusable_file_is_named_with_the_remedy(windowed, tmp_path, damage):
    path = tmp_path / "video"
    windowed.save(path)
    DAMAGES[damage](path)
    with pytest.raises(ValueError, match="video' is not a usable encoded video: .* Encode the video again."):
        EncodedVideo.load(path)


def small_video(**changes):
    """Three windows of four frames, the last one shorter."""
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[2, 3] = False
    embeds = list(torch.arange(48.0).reshape(3, 2, 4, 1, 2))
    fields = {"video_embeds": embeds, "frame_mask": mask, "window_starts": torch.tensor([0, 2, 4])}
    return EncodedVideo(**{**fields, "fps": 0.5, "duration_sec": 14.0, "fingerprint": "weights", **changes})


def test_no_flipped_bit_changes_a_video(tmp_path):
    """In header, metadata or values: the file is refused, or the bit has no meaning."""
    video, path = small_video(), tmp_path / "video"
    video.save(path)
    content = path.read_bytes()
    messages = []
    for bit in random.Random(0).sample(range(8 * len(content)), 400):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert_same_video(EncodedVideo.load(path), video)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 350
    assert all(str(path) in message for message in messages)


WRONG_PARTS = {
    "no windows": ({"video_embeds": []}, "`video_embeds` must be windows"),
    "no list": ({"video_embeds": torch.zeros(3, 2, 4, 1, 2)}, "`video_embeds` must be a list"),
    "whole numbers": ({"video_embeds": [torch.zeros(2, 4, 1, 2, dtype=torch.int32)] * 3}, "floating-point"),
    "no tokens": ({"video_embeds": [torch.zeros(2, 4, 0, 2)] * 3}, "floating-point"),
    "uneven windows": ({"video_embeds": [torch.zeros(2, size, 1, 2) for size in (4, 4, 3)]}, "of one shape"),
    "lost window": ({"video_embeds": [torch.zeros(2, 4, 1, 2)] * 2}, r"`frame_mask` .* shape \(2, 4\)"),
    "mask of numbers": ({"frame_mask": torch.ones(3, 4)}, "`frame_mask` must be boolean"),
    "hole": ({"frame_mask": torch.ones(3, 4).bool().index_fill(1, torch.tensor(1), False)}, "`frame_mask` must be"),
    "short window within": ({"frame_mask": torch.arange(4) < torch.tensor([[4], [3], [4]])}, "`frame_mask` must be"),
    "nothing new": ({"frame_mask": torch.arange(4) < torch.tensor([[4], [4], [2]])}, "at least 3 of 4 frames"),
    "negative start": ({"window_starts": torch.tensor([-2, 0, 2])}, "multiples of 2 from 0 on"),
    "unsorted starts": ({"window_starts": torch.tensor([0, 4, 2])}, "multiples of 2 from 0 on"),
    "gap within a window": ({"window_starts": torch.tensor([0, 2, 41])}, "multiples of 2 from 0 on"),
    "fractional starts": ({"window_starts": torch.tensor([0.0, 2.0, 4.0])}, "`window_starts` must be int64"),
    "start missing": ({"window_starts": torch.tensor([0, 2])}, "`window_starts` must be int64"),
    "frame rate": ({"fps": -0.5}, "`fps` must be a positive"),
    "no number": ({"fps": float("nan")}, "`fps` must be a positive"),
    "length": ({"duration_sec": float("inf")}, "`duration_sec` must be a positive"),
    "fingerprint": ({"fingerprint": None}, "`fingerprint` must be a non-empty string"),
}


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_parts_that_do_not_fit_are_refused(name):
    changes, message = WRONG_PARTS[name]
    with pytest.raises(ValueError, match=message):
        small_video(**changes)


def test_a_file_with_a_wrong_part_is_named(tmp_path):
    """Even if the checksum is right."""
    video = small_video()
    video.window_starts = torch.tensor([0, 4, 2])
    video.save(tmp_path / "video")
    with pytest.raises(ValueError, match=r"video' is not a usable encoded video: .*multiples of 2"):
        EncodedVideo.load(tmp_path / "video")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_infinite_numbers_are_not_saved(tmp_path, value):
    embeds = [torch.full((2, 4, 1, 2), value)] * 3
    with pytest.raises(ValueError, match="`video_embeds` must be finite"):
        small_video(video_embeds=embeds).save(tmp_path / "video")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_names_the_file(tmp_path):
    """The partial file of safetensors is removed, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path}/video'"):
            large_video().save(tmp_path / "video")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def large_video():
    return small_video(video_embeds=list(torch.zeros(3, 2, 4, 1, 2**16)))


KILLED = """
import resource, signal, sys, types
package = sys.modules["modeling_r2tuning"] = types.ModuleType("modeling_r2tuning")
package.__path__ = ["modeling_r2tuning"]  # without transformers
import torch
from modeling_r2tuning.encoding_r2tuning import EncodedVideo
video = EncodedVideo([torch.zeros(2, 4, 1, 2**18)], torch.ones(1, 4) > 0, torch.tensor([0]), 1.0, 4.0, "weights")
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, 2**22))  # the system kills in the middle of the file
video.save(sys.argv[1])
"""


@pytest.mark.integration
def test_the_next_save_removes_what_a_killed_one_left(windowed, tmp_path):
    path = tmp_path / "video"
    windowed.save(path)
    assert run_fresh(["-c", KILLED, path], cwd=Path(__file__).parents[2]).returncode == -signal.SIGXFSZ
    assert any(file.name.startswith(".tmp") for file in tmp_path.rglob("*"))  # that of safetensors
    assert_same_video(EncodedVideo.load(path), windowed)
    windowed.save(path)
    assert os.listdir(tmp_path) == ["video"]


def test_others_may_read_an_encoded_video(windowed, tmp_path):
    (tmp_path / "usual").touch()
    windowed.save(tmp_path / "video")
    assert stat.S_IMODE((tmp_path / "video").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
