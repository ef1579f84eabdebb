import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from modeling_r2tuning import R2TuningForVideoGrounding, VideoGroundingPipeline


@pytest.fixture(scope="module")
def grounder(checkpoint):
    return pipeline("video-grounding", model=str(checkpoint))


@pytest.fixture(scope="module")
def sample(checkpoint):
    return checkpoint / "sample.mp4"


def assert_same(got, want):
    assert got["query"] == want["query"]
    np.testing.assert_allclose(got["saliency"], want["saliency"], atol=1e-5)
    assert len(got["moments"]) == len(want["moments"])
    for name in ("start", "end", "score"):
        np.testing.assert_allclose([m[name] for m in got["moments"]], [m[name] for m in want["moments"]], atol=1e-3)


def test_task_gives_our_classes(grounder):
    assert isinstance(grounder, VideoGroundingPipeline)
    assert isinstance(grounder.model, R2TuningForVideoGrounding)


def test_pipeline_equals_the_auto_classes(grounder, checkpoint, sample):
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        outputs = model(**processor(videos=sample, text="a red circle"))
    want = processor.post_process_video_grounding(outputs)[0]
    assert_same(grounder(sample, query="a red circle"), {"query": "a red circle", **want})


def test_many_queries_equal_one_by_one(grounder, sample):
    queries = ["a red circle", "x", "a much longer query about nothing at all"]
    answers = grounder(sample, query=queries)
    for query, answer in zip(queries, answers, strict=True):
        assert_same(answer, grounder(sample, query=query))


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 2}, {"chunk_size": 3}])
def test_batch_and_chunk_size_change_nothing(grounder, sample, options):
    queries = ["a", "b c", "d"]
    for got, want in zip(grounder(sample, query=queries, **options), grounder(sample, query=queries), strict=True):
        assert_same(got, want)


def test_videos_that_are_too_long_are_refused_unless_asked_for(grounder, sample):
    with pytest.raises(ValueError, match="more than `max_frames` = 3; pass a larger `max_frames`"):
        grounder(sample, query="a", max_frames=3)
    with pytest.raises(ValueError, match="more than `max_frames` = 3"):
        grounder.processor(videos=sample, max_frames=3)
    assert_same(grounder(sample, query="a", max_frames=10**6), grounder(sample, query="a"))


def test_batch_size_of_the_constructor(checkpoint, sample, grounder):
    batched = pipeline("video-grounding", model=str(checkpoint), batch_size=4, fps=2.0)
    assert len(batched(sample, query="a")["saliency"]) == 40
    assert len(batched(sample, query="a", fps=0.5)["saliency"]) == 10
    assert len(batched([sample, sample], query=["a", "b"])) == 2


def test_several_videos_in_every_form(grounder, sample):
    """A list gives a list, an iterator an iterator; queries of their own or one for all."""
    want = grounder(sample, query="a")
    for answers in (
        grounder([sample, sample], query="a"),
        grounder([{"video": sample, "query": "a"}, {"video": str(sample), "query": "a"}]),
        list(grounder({"video": sample, "query": "a"} for _ in range(2))),
        list(grounder(iter([sample, sample]), query="a")),
    ):
        assert len(answers) == 2
        for answer in answers:
            assert_same(answer, want)
    assert isinstance(grounder([sample], query="a"), list)
    assert [len(each) for each in grounder([sample, sample], query=["a", "b"])] == [2, 2]
    assert_same(grounder({"video": sample, "query": "a"}), want)


def test_frames_and_bytes_are_videos_too(grounder, sample):
    frames = np.zeros((6, 64, 64, 3), np.uint8)
    assert len(grounder(frames, query="a")["saliency"]) == 6
    assert len(grounder(list(frames), query="a")["saliency"]) == 6
    assert_same(grounder(sample.read_bytes(), query="a"), grounder(sample, query="a"))
    with sample.open("rb") as file:
        assert_same(grounder(file, query="a"), grounder(sample, query="a"))


def test_long_video_is_grounded_in_windows(grounder, sample):
    answer = grounder(sample, query="a", window_sec=6.0)
    assert len(answer["saliency"]) == len(answer["frame_times"]) == 20
    assert all(0 <= m["start"] <= m["end"] <= 20 for m in answer["moments"])
    assert_same(grounder(sample, query="a", window_sec=None), grounder(sample, query="a"))


def test_options_of_post_processing(grounder, sample):
    assert len(grounder(sample, query="a", max_moments=3)["moments"]) == 3
    assert len(grounder(sample, query="a", num_highlights=2)["highlights"]) == 2


def test_progress_reaches_the_end(grounder, sample):
    calls = []
    grounder(sample, query="a", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (20, 20)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("v.mp4",), {}, ValueError, "query"),
        (({"video": "v.mp4", "text": "a"},), {}, ValueError, "keys"),
        (([],), {"query": "a"}, ValueError, "empty list"),
        (("v.mp4",), {"query": "a"}, FileNotFoundError, "v.mp4"),
        (("v.mp4",), {"query": ["a", ""]}, ValueError, "empty query"),
        (("v.mp4",), {"query": "a", "top_k": 3}, TypeError, "top_k.*max_moments"),
    ],
)
def test_errors_say_what_to_do(grounder, arguments, options, error, message):
    with pytest.raises(error, match=message):
        grounder(*arguments, **options)


def test_saved_pipeline_loads_again(grounder, sample, tmp_path):
    grounder.save_pretrained(tmp_path)
    again = pipeline("video-grounding", model=str(tmp_path))
    assert_same(again(sample, query="a"), grounder(sample, query="a"))
    kept = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]["video-grounding"]
    assert "default" not in kept, "a path of this machine"


def test_half_precision_encoders(checkpoint, sample, grounder):
    half = pipeline("video-grounding", model=str(checkpoint), dtype=torch.bfloat16)
    assert half.model.vision_model.dtype == torch.bfloat16
    assert half.model.grounding_head.level_scale.dtype == torch.float32
    got, want = half(sample, query="a")["saliency"], grounder(sample, query="a")["saliency"]
    np.testing.assert_allclose(got, want, atol=0.02)  # bfloat16 keeps 8 bits
