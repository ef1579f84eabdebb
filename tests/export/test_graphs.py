"""The three graphs of a model: torch.export and torch.compile take them whole, for any size."""

import shutil

import pytest
import torch
from export_samples import GRAPHS, SIZES, SMALL, fields_of
from tiny_models import TINY
from tiny_towers import KINDS, make_model

from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS
from r2tuning.export.graphs import FramesGraph, HeadsGraph, TextGraph, merge_adapters, trace


# Other kinds of models. What follows the encoders differs in the number of tokens alone.
SEPARATE = [method for method, spec in METHOD_SPECS.items() if not spec.mixes_frames]
ENCODERS = [(kind, "r2_tuning") for kind in KINDS] + [("clip", method) for method in SEPARATE]
KINDS_AND_METHODS = [(*pair, name) for pair in ENCODERS for name in ("frames", "text")] + [("clip", "none", "heads")]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(**SMALL, use_existence_head=True)


def assert_equal(found, expected):
    """Compare the outputs of two forms of a graph."""
    found, expected = [(value,) if isinstance(value, torch.Tensor) else value for value in (found, expected)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # the kernels of both may differ


def draw(graph, sizes):
    torch.manual_seed(3)
    return tuple(graph.draw_inputs(**sizes).values())


@pytest.mark.parametrize("name", GRAPHS)
def test_one_trace_serves_every_size(model, name):
    graph = GRAPHS[name](model)
    program = trace(graph).module()
    with torch.no_grad():
        for sizes in SIZES[name]:
            inputs = draw(graph, sizes)
            assert_equal(program(*inputs), graph(*inputs))


@pytest.mark.integration
@pytest.mark.parametrize("name", GRAPHS)
def test_compiled_without_a_break(model, name):
    """`fullgraph=True` raises an error at a break."""
    graph = GRAPHS[name](model)
    torch._dynamo.reset()
    compiled = torch.compile(graph, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        inputs = draw(graph, SIZES[name][1])
        assert_equal(compiled(*inputs), graph(*inputs))


@pytest.mark.integration
@pytest.mark.parametrize("name", GRAPHS)
def test_compiled_by_inductor(model, name):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    graph = GRAPHS[name](model)
    torch._dynamo.reset()
    compiled = torch.compile(graph, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for sizes in SIZES[name][1:]:
            inputs = draw(graph, sizes)
            assert_equal(compiled(*inputs), graph(*inputs))


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "method", "name"), KINDS_AND_METHODS)
def test_every_kind_of_model_is_traced_and_compiled(kind, method, name):
    graph = GRAPHS[name](make_model(kind, **fields_of(method), strides=(1, 2)))
    program = trace(graph).module()
    sizes = SIZES[name][0]
    if kind == "siglip":  # its texts have a fixed length
        sizes = {key: value for key, value in sizes.items() if key != "text_length"}
    torch._dynamo.reset()
    compiled = torch.compile(graph, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        inputs = draw(graph, sizes)
        assert_equal(program(*inputs), graph(*inputs))
        assert_equal(compiled(*inputs), graph(*inputs))


@pytest.mark.integration
@pytest.mark.parametrize("fields", [{"strides": (1,), "use_moment_head": False}, {"use_temporal_endpoints": False}])
def test_other_configurations_are_traced(make_model, fields):
    model = make_model(**{**SMALL, **fields})
    for name in ("frames", "heads"):
        graph = GRAPHS[name](model)
        inputs = draw(graph, SIZES[name][0])
        with torch.no_grad():
            assert_equal(trace(graph).module()(*inputs), graph(*inputs))


# ---- in a row, the graphs are the model ------------------------------------------------------------------------------


def endpoints_of(num_frames, start=0, end=None):
    time = torch.arange(start, num_frames if end is None else end)[:, None] / num_frames
    return torch.cat([time, time + 1 / num_frames], dim=1)


def test_the_graphs_in_a_row_give_the_answer_of_the_model(model):
    """Also with padded frames and words, and two queries about each of two videos."""
    torch.manual_seed(0)
    pixels, lengths = torch.randn(2, 6, 3, 64, 64), (6, 4)
    frame_mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    texts = TextGraph(model).draw_inputs(batch=4, text_length=7)
    with torch.no_grad():
        expected = model(pixels, **texts, frame_mask=frame_mask)
        videos = []
        for frames, length in zip(pixels, lengths, strict=True):
            endpoints = torch.zeros(1, 6, 2)
            endpoints[0, :length] = endpoints_of(length)
            videos.append(FramesGraph(model)(frames, endpoints))
        words = TextGraph(model)(**texts).unflatten(1, (2, 2))
        heads = HeadsGraph(model)
        text_mask = texts["attention_mask"].unflatten(0, (2, 2))
        found = heads(torch.cat(videos, dim=1), words, frame_mask, text_mask)
    assert heads.outputs[3] == "existence_logits"
    real = expected.point_mask
    for name, value in zip(heads.outputs, found, strict=True):
        wanted = expected[name]
        if name in ("logits", "boundary_offsets"):
            value, wanted = value[real], wanted[real]
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)


def test_frames_are_encoded_once_for_all_of_their_windows(model):
    """Frames 2 to 4 of 6, in a window of the frames 0 to 3 and in one of 2 to 5."""
    torch.manual_seed(0)
    pixels = torch.randn(6, 3, 64, 64)
    encoded = model.encode_video(pixels, fps=1.0, window_sec=3.0)
    assert encoded.window_starts.tolist() == [0, 2]
    endpoints = torch.stack([endpoints_of(4, 2, 5), endpoints_of(4, 0, 3)])
    with torch.no_grad():
        video = FramesGraph(model)(pixels[2:5], endpoints)  # (num_steps, 2, 3, num_tokens, hidden)
    torch.testing.assert_close(video[:, 0, :2], encoded.video_embeds[0][:, 2:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(video[:, 1], encoded.video_embeds[1][:, :3], rtol=1e-5, atol=1e-5)


def test_outputs_are_those_of_the_heads_that_there_are(make_model):
    plain = HeadsGraph(make_model(strides=(1,), use_moment_head=False)).outputs
    assert plain == ("logits", "saliency_scores", "points", "point_mask")
    assert HeadsGraph(make_model(**TINY)).outputs[1] == "boundary_offsets"


def test_adapters_are_merged(make_model):
    """The merged model has no adapters, and the states of the adapted one."""
    model = make_model(**fields_of("lora"))
    graph = TextGraph(model)
    inputs = draw(graph, SIZES["text"][1])
    frames = draw(FramesGraph(model), SIZES["frames"][0])
    with torch.no_grad():
        adapted = graph(*inputs), FramesGraph(model)(*frames)
        merge_adapters(model)
        merged = graph(*inputs), FramesGraph(model)(*frames)
        plain = TextGraph(make_model(**fields_of("none")))(*inputs)
    assert not [name for name, _ in model.named_parameters() if "lora" in name or "base_layer" in name]
    for one, other in zip(merged, adapted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert (merged[0] - plain).abs().max() > 0.01
