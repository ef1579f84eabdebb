import inspect
import json
import logging
import threading

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from dataset_scripts.features import FEATURES
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, VideoGroundingPipeline
from modeling_r2tuning.options_r2tuning import RULES
from modeling_r2tuning.pipeline_r2tuning import OPTIONS


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


def test_task_loads_our_classes(grounder):
    assert isinstance(grounder, VideoGroundingPipeline)
    assert isinstance(grounder.model, R2TuningForVideoGrounding)


def test_pipeline_equals_the_auto_classes(grounder, checkpoint, sample):
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        outputs = model(**processor(videos=sample, text="a red circle"))
    want = processor.post_process_video_grounding(outputs, score_threshold=0.0)[0]
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


def test_long_videos_are_refused_unless_max_frames_allows_them(grounder, sample):
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
    """A list is answered by a list, an iterator by an iterator; videos have their own queries or share one."""
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


# ---- datasets --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(sample):
    """A dataset in the form of `load_vtg_dataset`."""
    row = {"qid": "1", "video_id": "a", "video": str(sample), "duration_sec": 20.0, "moments": [[1.0, 2.0]]}
    missing = {"saliency": None, "domain": None, "task": ["moment_retrieval"]}
    queries = ("a", "b")
    return datasets.Dataset.from_list([{**row, **missing, "query": query} for query in queries], features=FEATURES)


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_datasets_of_rows_are_answered_while_they_are_read(grounder, sample, rows):
    want = grounder(sample, query="a"), grounder(sample, query="b")
    streamed = datasets.IterableDataset.from_generator(lambda: iter(rows), features=FEATURES)
    for dataset in (rows, streamed, Stream(list(rows))):
        answers = grounder(dataset)
        assert not isinstance(answers, list)
        assert list(answers) == list(want)
    assert len(grounder(rows)) == 2


def test_columns_of_videos_are_asked_the_query_of_the_call(grounder, sample, rows):
    want = [grounder(sample, query=["a", "b"])] * 2
    for videos in (KeyDataset(rows, "video"), rows["video"], Stream([sample, str(sample)])):
        assert list(grounder(videos, query=["a", "b"])) == want


def test_a_row_is_answered_as_its_video(grounder, sample, rows):
    want = grounder(sample, query="a")
    row = rows[0]
    assert row["video"] == {"path": str(sample), "bytes": None}
    assert grounder(row) == grounder(row["video"], query="a") == want
    assert grounder([row, {**row, "query": None}], query="a") == [want, want]
    assert grounder({"path": None, "bytes": sample.read_bytes()}, query="a") == want


def test_videos_are_not_read_in_advance(grounder, sample):
    read = []

    class Videos:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            read.append(index)
            return sample if index < 2 else "gone.mp4"

    answers = iter(grounder(Videos(), query="a"))
    assert read == []
    next(answers)
    assert read == [0]
    next(answers)
    with pytest.raises(FileNotFoundError):
        next(answers)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": None, "query": "a"}, "no video .*`video_dir`"),
        ({"query": "a"}, "keys"),
        ({"video": "v.mp4", "query": None}, "keys"),
        ({"video": "v.mp4", "query": "a", "fps": 2.0}, r"Options are passed in the call.*\['fps'\]"),
        ({"video": "v.mp4", "query": ["a", " "]}, "`query` must not hold an empty query"),
    ],
)
def test_incomplete_rows_are_refused(row, message, grounder):
    with pytest.raises(ValueError, match=message):
        grounder(row)


# ---- other kinds of videos -------------------------------------------------------------------------------------------


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


def test_frames_without_fps_that_exceed_the_window_are_warned_of(grounder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("modeling_r2tuning"), "propagate", True)
    monkeypatch.setattr(grounder.model.config, "window_sec", 5.0)
    frames = np.zeros((6, 64, 64, 3), np.uint8)
    for options in ({"fps": 1.0}, {"fps": 30.0}):
        grounder(frames, query="a", **options)
    grounder(frames[:5], query="a")
    assert caplog.records == []
    grounder(frames, query="a")
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "6 frames without `fps` are taken as 1 a second, a video of 6 seconds, which is"
    )


def test_suppressed_moments_are_left_out_by_default(grounder, sample):
    kept = grounder(sample, query="a", nms="hard")["moments"]
    everything = grounder(sample, query="a", nms="hard", score_threshold=None)["moments"]
    assert kept == [moment for moment in everything if moment["score"] > 0]
    assert 0 < len(kept) < len(everything)


def test_options_of_post_processing(grounder, sample):
    assert len(grounder(sample, query="a", max_moments=3)["moments"]) == 3
    assert len(grounder(sample, query="a", num_highlights=2)["highlights"]) == 2


def test_a_video_is_read_in_a_thread_of_its_own(grounder, sample):
    threads = set()
    grounder(sample, query="a", progress=lambda done, total: threads.add(threading.current_thread()))
    assert len(threads) == 1
    assert threading.current_thread() not in threads


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
        (("v.mp4",), {"query": 3}, TypeError, "`query` must be a string or a list of strings, got 3"),
        (("v.mp4",), {"query": ["a", 3]}, TypeError, "`query` must be a string or a list of strings, got int"),
        (("v.mp4",), {"query": "a", "top_k": 3}, TypeError, "top_k.*max_moments"),
    ],
)
def test_errors_say_what_to_do(grounder, arguments, options, error, message):
    with pytest.raises(error, match=message):
        grounder(*arguments, **options)


NOT_ALLOWED = {
    "fps": (0, -1.0, float("nan"), float("inf"), 1e-300, "fast", True),
    "progress": (3,),
    "max_frames": (0, -1, 1.5, None),
    "max_pixels": (0, -1, 1.5, None),
    "window_sec": (0, -1.0, float("nan"), "default"),
    "chunk_size": (0, -1, 1.5, None, True),
    "batch_size": (0, -1, 1.5, "many"),
    "num_workers": (1, 4),
    "nms": ("soft", 3, True),
    "nms_threshold": (0.0, 1.1, float("nan"), "half"),
    "round_to": (0, -1.0, float("nan"), "second"),
    "max_moments": (0, 1.5, None, "3"),
    "score_threshold": (-0.1, 1.1, float("nan"), "low"),
    "min_probability": (-0.1, 1.1, float("nan"), "half", True),
    "num_highlights": (-1, 1.5, None),
    "summary_share": (0, 1.5, None, float("nan")),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in NOT_ALLOWED for value in NOT_ALLOWED[name]])
def test_options_are_checked_before_a_video_is_opened(name, value, grounder):
    with pytest.raises(ValueError, match=f"`{name}` must be "):
        grounder("gone.mp4", query="a", **{name: value})
    with pytest.raises(ValueError, match=f"`{name}` must be "):
        VideoGroundingPipeline(model=grounder.model, processor=grounder.processor, **{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"fps": None, "nms": "default", "nms_threshold": None, "round_to": "default", "window_sec": "config"},
        {"fps": np.float32(1), "max_moments": np.int64(50), "batch_size": None, "num_workers": 0, "progress": None},
    ],
)
def test_values_that_stand_for_the_default_are_allowed(options, grounder, sample):
    assert grounder(sample, query="a", **options) == grounder(sample, query="a")


def test_every_option_has_a_rule():
    settings = inspect.signature(R2TuningProcessor.post_process_video_grounding).parameters.keys()
    assert NOT_ALLOWED.keys() == {*OPTIONS, "num_workers"}
    assert RULES.keys() == {*NOT_ALLOWED, "existence_scale", "existence_bias"}  # the latter only of the processor
    assert settings - {"self", "outputs", "duration_sec"} <= RULES.keys()


def test_saved_pipeline_loads_again(grounder, sample, tmp_path):
    grounder.save_pretrained(tmp_path)
    again = pipeline("video-grounding", model=str(tmp_path))
    assert_same(again(sample, query="a"), grounder(sample, query="a"))
    kept = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]["video-grounding"]
    assert "default" not in kept, "it holds a path of this machine"


def test_half_precision_encoders(checkpoint, sample, grounder):
    half = pipeline("video-grounding", model=str(checkpoint), dtype=torch.bfloat16)
    assert half.model.vision_model.dtype == torch.bfloat16
    assert half.model.grounding_head.level_scale.dtype == torch.float32
    got, want = half(sample, query="a")["saliency"], grounder(sample, query="a")["saliency"]
    np.testing.assert_allclose(got, want, atol=0.02)  # bfloat16 keeps 8 bits
