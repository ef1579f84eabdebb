"""The runner answers as the pipeline does. Here the graphs run in torch, so that many cases take little time."""

import json

import numpy as np
import pytest
import torch
from export_samples import QUERIES, assert_same
from random_checkpoint import byte_tokenizer, random_model, random_processor, write_sample_video
from tiny_towers import DISTINCT, as_parameters, make_image_processor, make_model, make_tokenizer

from modeling_r2tuning import R2TuningProcessor
from modeling_r2tuning.decoding_r2tuning import owned_frames
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.tower_specs_r2tuning import TOWER_SPECS
from modeling_r2tuning.windows_r2tuning import stream_windows, window_size
from r2tuning.export.graphs import FramesGraph, HeadsGraph, TextGraph


pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
from r2tuning.export import runner, settings  # noqa: E402 (needs onnxruntime)


KINDS = as_parameters(TOWER_SPECS, DISTINCT)


class TorchSession:
    """A graph that runs in torch, with the interface of `onnxruntime.InferenceSession`."""

    def __init__(self, graph):
        self.graph = graph
        self.calls = 0

    def run(self, names, inputs):
        self.calls += 1
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        with torch.no_grad():
            outputs = self.graph(**tensors)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        found = dict(zip(self.graph.outputs, outputs, strict=True))
        return [found[name].numpy() for name in names or self.graph.outputs]


def make_runner(model, processor, folder, monkeypatch):
    """A runner of this model in a folder without graphs."""
    graphs = {"frames": FramesGraph(model), "text": TextGraph(model), "heads": HeadsGraph(model)}
    sessions = {}
    for name, file in runner.GRAPHS.items():
        (folder / file).touch()
        sessions[str(folder / file)] = TorchSession(graphs[name])
    document = settings.make_settings(model, processor, graphs["heads"].outputs)
    (folder / runner.SETTINGS).write_text(json.dumps(document))
    settings.write_tokenizer(processor, folder)
    monkeypatch.setattr(runner.onnxruntime, "InferenceSession", lambda path, *_, **__: sessions[path])
    return runner.Runner(folder)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of 20 seconds."""
    path = tmp_path_factory.mktemp("video") / "sample.mp4"
    write_sample_video(path)
    return path


@pytest.mark.parametrize(
    ("window_sec", "nms"),
    [(None, "hard"), (150.0, "linear"), (8.0, "gaussian"), (8.0, "hard"), (5.0, "linear"), (5.0, None)],
)
def test_answers_are_those_of_the_pipeline(video, tmp_path, monkeypatch, window_sec, nms):
    """Short and long videos, padded or not, every method of suppression, with and without rounding."""
    tokenizer = byte_tokenizer()
    model = random_model(tokenizer, use_existence_head=True, window_sec=window_sec)
    processor = random_processor(tokenizer)
    processor.nms, processor.fps = nms, 1.7
    processor.round_to = 0.5 if nms == "linear" else None
    processor.existence_scale, processor.existence_bias = 1.5, -0.2
    ours = make_runner(model, processor, tmp_path, monkeypatch)
    pipe = VideoGroundingPipeline(model=model, processor=processor)
    for options in ({"min_probability": None}, {"min_probability": 0.5, "max_moments": 7}):
        assert_same(ours(str(video), QUERIES, **options), pipe(str(video), query=QUERIES, **options))


def test_answers_without_moment_head(video, tmp_path, monkeypatch):
    tokenizer = byte_tokenizer()
    model = random_model(tokenizer, use_moment_head=False, strides=(1,))
    processor = random_processor(tokenizer)
    ours = make_runner(model, processor, tmp_path, monkeypatch)
    answer = ours(str(video), QUERIES[0])
    assert answer["moments"] == []
    assert_same(answer, VideoGroundingPipeline(model=model, processor=processor)(str(video), query=QUERIES[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_with_every_kind_of_backbone(video, tmp_path, monkeypatch, kind):
    """They differ in the size of frames, cropping, tokenizer, padding and case of texts."""
    model = make_model(kind, window_sec=10.0)
    spec = TOWER_SPECS[kind]
    processor = R2TuningProcessor(
        make_image_processor(kind),
        make_tokenizer(kind),
        fps=1.0,
        max_text_length=spec.max_text_length(model.config.text_config),
        pad_to_max_text_length=spec.text_attention == "fixed_length",
        lowercase_text=spec.lowercases,
    )
    ours = make_runner(model, processor, tmp_path, monkeypatch)
    pipe = VideoGroundingPipeline(model=model, processor=processor)
    for queries in ([*QUERIES, "一个人打开门", "Zwei LEUTE lachen"], ["x"]):  # padded to the longest, and not
        assert_same(ours(str(video), queries), pipe(str(video), queries))


def test_a_video_is_encoded_once(video, tmp_path, monkeypatch):
    """For several calls, and each of its frames once, whatever the windows."""
    tokenizer = byte_tokenizer()
    ours = make_runner(random_model(tokenizer, window_sec=8.0), random_processor(tokenizer), tmp_path, monkeypatch)
    monkeypatch.setattr(runner, "FRAMES_AT_ONCE", 7)
    encoded = ours.encode(str(video))
    assert [(window.start, window.num_frames) for window in encoded.windows] == [(0, 9), (4, 9), (8, 9), (12, 8)]
    assert ours.sessions["frames"].calls == 3  # 20 frames
    first, second = ours.ground(encoded, QUERIES[:1]), ours.ground(encoded, QUERIES[1:])
    assert ours.sessions["frames"].calls == 3
    assert_same([*first, *second], ours(str(video), QUERIES))


def test_many_queries_are_answered_in_batches(video, tmp_path, monkeypatch):
    tokenizer = byte_tokenizer()
    ours = make_runner(random_model(tokenizer), random_processor(tokenizer), tmp_path, monkeypatch)
    expected = ours(str(video), QUERIES)
    monkeypatch.setattr(runner, "QUERIES_AT_ONCE", 2)
    assert_same(ours(str(video), QUERIES), expected)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 9, 10, 12, 13, 50])
@pytest.mark.parametrize("window_sec", [None, 0.5, 3.0, 8.0])
def test_windows_are_those_of_the_library(num_frames, window_sec):
    frames = torch.arange(num_frames)[:, None]
    expected = []
    for start, window in stream_windows(frames.split(5), window_size(window_sec, 1.0)):
        expected.append((start, start + len(window)))
    bounds = runner.window_bounds(num_frames, 1.0, window_sec)
    assert bounds == expected
    longest = max(end - start for start, end in bounds)
    mask = torch.arange(longest) < torch.tensor([end - start for start, end in bounds])[:, None]
    starts = torch.tensor([start for start, _ in bounds])
    assert runner.owned_frames(bounds) == [
        tuple(row) for row in (owned_frames(mask, starts) + starts[:, None]).tolist()
    ]


# ---- refused -------------------------------------------------------------------------------------------------------


def test_unusable_arguments_are_refused(video, tmp_path, monkeypatch):
    tokenizer = byte_tokenizer()
    ours = make_runner(random_model(tokenizer), random_processor(tokenizer), tmp_path, monkeypatch)
    encoded = ours.encode(str(video))
    for queries in ([], [" "], [3]):
        with pytest.raises(ValueError, match="`queries` must be non-empty strings"):
            ours.ground(encoded, queries)
    with pytest.raises(ValueError, match="`max_moments` must be"):
        ours.ground(encoded, QUERIES, max_moments=0)
    with pytest.raises(ValueError, match="`min_probability` must be"):
        ours.ground(encoded, QUERIES, min_probability=2)
    with pytest.raises(FileNotFoundError, match="missing.mp4"):
        ours("missing.mp4", QUERIES)
    (tmp_path / runner.SETTINGS).write_text('{"format": "r2tuning-onnx-0"}')
    with pytest.raises(ValueError, match="this runner reads"):
        runner.Runner(tmp_path)
    (tmp_path / "text.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no 'text.onnx'"):
        runner.Runner(tmp_path)


def test_weights_that_are_not_finite_give_no_answer(video, tmp_path, monkeypatch):
    tokenizer = byte_tokenizer()
    model = random_model(tokenizer)
    ours = make_runner(model, random_processor(tokenizer), tmp_path, monkeypatch)
    torch.nn.init.constant_(model.grounding_head.classification_head.conv2.bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        ours(str(video), QUERIES)


def test_an_image_processor_that_does_more_is_refused():
    tokenizer = byte_tokenizer()
    model, processor = random_model(tokenizer), random_processor(tokenizer)
    processor.image_processor.crop_size = {"height": 96, "width": 96}  # larger than a frame, so frames are padded
    with pytest.raises(ValueError, match="does more than scale"):
        settings.make_settings(model, processor, ())


def test_a_tokenizer_of_another_library_is_refused(tmp_path):
    processor = random_processor(byte_tokenizer())
    processor.tokenizer = object()
    with pytest.raises(ValueError, match="is not one of the library `tokenizers`"):
        settings.write_tokenizer(processor, tmp_path)


def test_a_tokenizer_that_gives_other_ids_than_its_file_is_refused(tmp_path, monkeypatch):
    processor = random_processor(byte_tokenizer())
    tokenize = type(processor.tokenizer).__call__

    def shifted(self, texts, **options):
        rows = tokenize(self, texts, **options)["input_ids"]
        return {"input_ids": [[*row, 0] for row in rows]}

    monkeypatch.setattr(type(processor.tokenizer), "__call__", shifted)
    with pytest.raises(ValueError, match=r"gives other ids than its tokenizer\.json"):
        settings.write_tokenizer(processor, tmp_path)
