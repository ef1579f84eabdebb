import io
import json
import logging
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from modeling_r2tuning import R2TuningProcessor
from modeling_r2tuning.heads_r2tuning import VideoGroundingOutput
from modeling_r2tuning.points_r2tuning import make_points


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def outputs():
    """Two queries, a video of 8 frames at 1 fps: the best moment of both is [1, 5], the next one nearly the same."""
    points = make_points(8, [1])
    offsets = torch.full((2, 8, 2), 0.5)
    logits = torch.full((2, 8), -5.0)
    offsets[:, 3], logits[:, 3] = 2.0, 2.0
    offsets[:, 4], logits[:, 4] = torch.tensor([2.9, 1.2]), 1.0
    return VideoGroundingOutput(
        logits=logits,
        boundary_offsets=offsets,
        saliency_scores=torch.linspace(0, 1, 8).repeat(2, 1),
        points=points,
        point_mask=torch.ones(2, 8, dtype=torch.bool),
        frame_mask=torch.ones(2, 8, dtype=torch.bool),
    )


def test_pixels_are_normalised_as_clip_does(processor, frames):
    got = processor(videos=frames)["pixel_values_videos"]
    want = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    torch.testing.assert_close(got[0], want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "convert",
    [
        lambda frames: torch.from_numpy(frames),
        lambda frames: torch.from_numpy(frames).permute(0, 3, 1, 2),
        lambda frames: torch.from_numpy(frames) / 255,
        lambda frames: (frames / 255).astype(np.float32),
        lambda frames: [Image.fromarray(frame) for frame in frames],
        lambda frames: list(frames),
        lambda frames: [frames],
    ],
    ids=["tensor", "channels first", "float tensor", "float array", "images", "list of frames", "list of videos"],
)
def test_frames_of_every_common_form_are_accepted(processor, frames, convert):
    got, want = processor(videos=convert(frames)), processor(videos=frames)
    assert torch.equal(got["pixel_values_videos"], want["pixel_values_videos"])


def test_path_bytes_and_file_object_are_the_same_video(processor, checkpoint):
    path = checkpoint / "sample.mp4"
    want = processor(videos=path)["pixel_values_videos"]
    for video in (str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert torch.equal(processor(videos=video)["pixel_values_videos"], want)


def test_times_of_a_file(processor, checkpoint):
    inputs = processor(videos=[checkpoint / "sample.mp4"], fps=0.5)
    assert inputs["fps"].tolist() == [0.5]
    assert inputs["duration_sec"].tolist() == pytest.approx([20.0])
    assert inputs["frame_mask"].shape == (1, 10)


def test_videos_of_different_length_are_padded(processor, frames):
    inputs = processor(videos=[frames, frames[:2]], text=["a", "b c"])
    assert inputs["pixel_values_videos"].shape == (2, 5, 3, 64, 64)
    assert inputs["frame_mask"].sum(dim=1).tolist() == [5, 2]
    assert inputs["attention_mask"].sum(dim=1).tolist() == [3, 4]
    assert torch.equal(inputs["duration_sec"], torch.tensor([5.0, 2.0]))


def test_pieces_together_are_the_whole_video(processor, frames):
    stream = processor.stream_video(frames, chunk_size=2)
    pieces = list(stream)
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert torch.equal(torch.cat(pieces), processor(videos=frames)["pixel_values_videos"][0])


def test_one_video_many_queries(processor, frames):
    inputs = processor(videos=frames, text=["a", "b", "c"])
    assert len(inputs["pixel_values_videos"]) == 1
    assert len(inputs["input_ids"]) == 3


def test_a_long_query_is_truncated_with_one_warning(processor, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("modeling_r2tuning"), "propagate", True)
    inputs = processor(text=["a " * 100, "b " * 100, "short"])
    assert inputs["input_ids"].shape == (3, 77)
    assert inputs["input_ids"][0, -1] == processor.tokenizer.eos_token_id
    assert [record.getMessage() for record in caplog.records] == ["2 of 3 queries exceed 77 tokens and are truncated."]


@pytest.mark.parametrize("row", ["path", "bytes", "both"])
def test_rows_of_a_dataset_are_videos(row, processor, checkpoint):
    path = checkpoint / "sample.mp4"
    video = {
        "path": {"path": str(path), "bytes": None},
        "bytes": {"path": None, "bytes": path.read_bytes()},
        "both": {"path": "gone.mp4", "bytes": path.read_bytes()},
    }[row]
    want = processor(videos=path)["pixel_values_videos"]
    assert torch.equal(processor(videos=video)["pixel_values_videos"], want)
    assert len(processor(videos=[video, str(path)])["pixel_values_videos"]) == 2


# ---- options of transformers' processors ------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [True, "longest", "max_length", False, "do_not_pad"])
def test_padding_of_texts(padding, processor):
    width = 77 if padding == "max_length" else 4
    inputs = processor(text="b c", padding=padding)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (1, width)
    assert inputs["attention_mask"].sum() == 4
    assert torch.equal(inputs["input_ids"][:, :4], processor(text="b c")["input_ids"])


def test_max_length(processor):
    assert processor(text="a", padding="max_length", max_length=9)["input_ids"].shape == (1, 9)
    cut = processor(text=["a b c d e f", "a"], max_length=5)["input_ids"]
    assert cut.tolist() == processor(text=["a b c", "a"])["input_ids"].tolist()


@pytest.mark.parametrize("truncation", [False, "do_not_truncate"])
def test_a_long_text_is_refused_without_truncation(truncation, processor):
    assert torch.equal(processor(text="a b", truncation=truncation).input_ids, processor(text="a b").input_ids)
    with pytest.raises(ValueError, match="1 of 2 queries exceed 77 tokens: shorten or truncate"):
        processor(text=["a", "a " * 100], truncation=truncation)


def test_tokens_are_those_of_the_tokenizer(processor):
    texts = ["a", "b " * 100, "a longer one"]
    ours = processor(text=texts)
    theirs = processor.tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"].bool())


def test_arrays_and_lists_equal_the_tensors(processor, frames):
    given = {"videos": [frames, frames[:2]], "text": ["a", "b c"]}
    tensors, arrays, lists = (processor(**given, return_tensors=kind) for kind in ("pt", "np", None))
    assert tensors.keys() == arrays.keys() == lists.keys()
    for name, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(arrays[name], np.ndarray)
        assert isinstance(lists[name], list)
        assert arrays[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[name], tensor)
        np.testing.assert_array_equal(np.array(lists[name]), tensor)
    assert processor(text=["a", "b c"], padding=False, return_tensors=None)["input_ids"] == [
        tensors["input_ids"][0, :3].tolist(),
        tensors["input_ids"][1].tolist(),
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": "a", "return_tensors": "tf"}, ValueError, "`return_tensors` must be 'pt', 'np' or None, got 'tf'"),
        ({"text": "a", "padding": "left"}, ValueError, "`padding` must be one of .*'max_length'.* got 'left'"),
        ({"text": "a", "truncation": "middle"}, ValueError, "`truncation` must be one of"),
        ({"text": "a", "max_length": 78}, ValueError, "`max_length` must be a whole number from 2 to 77, got 78"),
        ({"text": "a", "max_length": 1}, ValueError, "from 2 to 77"),
        ({"text": ["a", "b c"], "padding": False}, ValueError, "unequal lengths: set `padding`"),
        ({"text": "a", "images": 1}, TypeError, "pass a video, or its frames with `fps`, as `videos`"),
        ({"text": "a", "pading": True}, TypeError, "unexpected keyword argument 'pading'"),
        ({"text": 3}, TypeError, "`text` must be a string or a list of strings, got 3"),
        ({"text": b"a"}, TypeError, "`text` must be a string or a list of strings"),
        ({"text": {"a": 1}}, TypeError, "`text` must be a string or a list of strings"),
        ({"text": "a \udcff"}, ValueError, "must be valid Unicode"),
        ({"videos": {"path": None, "bytes": None}}, ValueError, "'path' or 'bytes', got None for both"),
        ({"videos": "gone.mp4", "text": [" "]}, ValueError, "empty query"),
        ({"videos": "gone.mp4", "progress": 3}, ValueError, "`progress` must be a function"),
    ],
)
def test_arguments_that_are_not_allowed(processor, arguments, error, message):
    with pytest.raises(error, match=message):
        processor(**arguments)


def test_swapped_video_and_text_are_refused(processor, checkpoint, frames):
    path = str(checkpoint / "sample.mp4")
    assert torch.equal(processor([path], ["a"]).pixel_values_videos, processor(videos=path).pixel_values_videos)
    row = {"path": path, "bytes": None}
    for swapped in (path, [path], "http://host/a.mp4", checkpoint / "sample.mp4", b"film", frames, [frames], row):
        with pytest.raises(ValueError, match=r"order is \(videos, text\), got 'people laugh' as a video"):
            processor("people laugh", swapped)
    with pytest.raises(FileNotFoundError):
        processor("people laugh", "a dog barks")


def test_threads_share_a_processor(processor):
    """A tokenizer keeps truncation and padding as settings, which must not leak into calls of other threads."""
    groups = [["a"], ["b " * 100, "a longer one"], ["x", "y z"]]
    want = [processor(text=texts) for texts in groups]

    def ask(number):
        got = processor(text=groups[number % 3])
        return all(np.array_equal(got[name], value) for name, value in want[number % 3].items())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(400)))
    finally:
        sys.setswitchinterval(interval)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got neither"),
        ({"text": ""}, "empty query"),
        ({"text": ["a", "  "]}, "empty query"),
        ({"text": []}, "at least one query"),
        ({"videos": []}, "at least one video"),
        ({"videos": np.zeros((0, 64, 64, 3), np.uint8)}, "shape"),
        ({"videos": np.zeros((4, 64, 64), np.uint8)}, "shape"),
        ({"videos": np.zeros((4, 64, 64, 3), np.int64)}, "uint8"),
        ({"videos": np.full((4, 64, 64, 3), np.nan)}, "finite"),
        ({"videos": np.full((4, 64, 64, 3), 255.0)}, r"\[0, 1\]"),
        ({"videos": np.zeros((4, 8, 8, 3), np.uint8), "fps": 0}, "fps"),
        ({"videos": np.zeros((2, 4, 8, 8, 3), np.uint8), "text": ["a", "b", "c"]}, "3 for 2 videos"),
    ],
)
def test_bad_input_is_a_value_error(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"text": [3]}, {"videos": 3}, {"videos": {"a": 1}}, {"videos": [["a.mp4"]]}, {"videos": [[{"path": "a.mp4"}]]}],
)
def test_wrong_kinds_are_a_type_error(processor, arguments):
    with pytest.raises(TypeError):
        processor(**arguments)


def test_settings_survive_saving(processor, tmp_path):
    changed = R2TuningProcessor(processor.image_processor, processor.tokenizer, 2.0, "linear", 0.6, 0.1, 1.5, -0.25)
    changed.save_pretrained(tmp_path)
    for kind in (R2TuningProcessor, AutoProcessor):
        loaded = kind.from_pretrained(tmp_path)
        assert isinstance(loaded, R2TuningProcessor)
        assert (loaded.fps, loaded.nms, loaded.nms_threshold, loaded.round_to) == (2.0, "linear", 0.6, 0.1)
        assert (loaded.existence_scale, loaded.existence_bias) == (1.5, -0.25)
        assert loaded(text="a b")["input_ids"].tolist() == processor(text="a b")["input_ids"].tolist()


def test_settings_of_the_existence_head_may_be_missing_from_old_files(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    del settings["existence_scale"], settings["existence_bias"]
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    loaded = R2TuningProcessor.from_pretrained(tmp_path)
    assert (loaded.existence_scale, loaded.existence_bias) == (1.0, 0.0)


@pytest.mark.parametrize(
    "setting",
    [
        {"fps": -1.0},
        {"nms": "soft"},
        {"nms_threshold": 0.0},
        {"round_to": -2},
        {"existence_scale": 0.0},
        {"existence_scale": -1.0},
        {"existence_scale": float("inf")},
        {"existence_scale": True},
        {"existence_bias": float("nan")},
        {"existence_bias": None},
    ],
)
def test_settings_are_checked_when_a_processor_is_made(setting, processor):
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}` must be"):
        R2TuningProcessor(processor.image_processor, processor.tokenizer, **setting)


def test_a_folder_without_processor_is_refused(checkpoint, tmp_path):
    for path in checkpoint.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(OSError, match="processor_config.json"):
        R2TuningProcessor.from_pretrained(tmp_path)


def test_answers_are_plain_python(processor, outputs):
    answers = processor.post_process_video_grounding(outputs, fps=1.0)
    assert len(answers) == 2
    best = answers[1]["moments"][0]
    assert best == {"start": 1.0, "end": 5.0, "score": pytest.approx(torch.tensor(2.0).sigmoid().item())}
    assert answers[0]["frame_times"] == [float(t) for t in range(8)]
    assert len(answers[0]["saliency"]) == 8
    assert answers[0]["highlights"][0]["time"] == 4.0
    assert type(answers[0]["highlights"][0]["score"]) is float
    assert answers[0]["summary"] == [{"start": 4.0, "end": 6.0}]


def test_hard_nms_suppresses_duplicates_and_a_threshold_drops_them(processor, outputs):
    moments = processor.post_process_video_grounding(outputs, fps=1.0, nms="hard")[0]["moments"]
    assert len(moments) == 8
    assert (1.1, 5.2, 0.0) in [(round(m["start"], 4), round(m["end"], 4), m["score"]) for m in moments]
    moments = processor.post_process_video_grounding(outputs, fps=1.0, nms=None, score_threshold=0.5)[0]["moments"]
    assert len(moments) == 2
    moments = processor.post_process_video_grounding(outputs, fps=1.0, nms="hard", score_threshold=0.5)[0]["moments"]
    assert len(moments) == 1


def test_with_a_threshold_suppressed_moments_are_left_out(processor, outputs):
    moments = processor.post_process_video_grounding(outputs, fps=1.0, nms="hard", score_threshold=0.0)[0]["moments"]
    everything = processor.post_process_video_grounding(outputs, fps=1.0, nms="hard")[0]["moments"]
    assert moments == [moment for moment in everything if moment["score"] > 0]
    assert 0 < len(moments) < len(everything) == 8


def test_moments_are_clamped_rounded_and_limited(processor, outputs):
    (answer, _) = processor.post_process_video_grounding(
        outputs, fps=0.5, duration_sec=torch.tensor([9.5, 16.0]), nms=None, round_to=4.0, max_moments=2
    )
    assert [(m["start"], m["end"]) for m in answer["moments"]] == [(2.0, 9.5), (pytest.approx(2.2), 9.5)]


def test_processor_settings_are_the_defaults(processor, outputs):
    rounding = R2TuningProcessor(processor.image_processor, processor.tokenizer, 1.0, None, 0.7, 3.0)
    moments = rounding.post_process_video_grounding(outputs)[0]["moments"]
    assert (moments[0]["start"], moments[0]["end"]) == (0.0, 6.0)
    assert moments[1]["score"] > 0.7


def test_a_model_without_moment_head_gives_no_moments(processor, outputs):
    outputs = VideoGroundingOutput(**{name: value for name, value in outputs.items() if name != "boundary_offsets"})
    answer = processor.post_process_video_grounding(outputs, fps=1.0)[0]
    assert answer["moments"] == []
    assert answer["saliency"] == pytest.approx(outputs.logits[0].sigmoid().tolist())


# ---- absent queries --------------------------------------------------------------------------------------------------


@pytest.fixture
def existence_outputs(outputs):
    """`outputs` with existence logits of 1 and -1."""
    return VideoGroundingOutput(**outputs, existence_logits=torch.tensor([1.0, -1.0]))


def test_answers_without_existence_head_have_no_probability(processor, outputs):
    answers = processor.post_process_video_grounding(outputs, fps=1.0)
    assert answers == processor.post_process_video_grounding(outputs, fps=1.0, min_probability=0.9)
    assert answers[0].keys() == {"moments", "saliency", "frame_times", "highlights", "summary"}


def test_probabilities_are_calibrated_by_two_numbers(processor, existence_outputs):
    calibrated = R2TuningProcessor(
        processor.image_processor, processor.tokenizer, existence_scale=2.0, existence_bias=-0.5
    )
    for made, scale, bias in ((processor, 1.0, 0.0), (calibrated, 2.0, -0.5)):
        answers = made.post_process_video_grounding(existence_outputs, fps=1.0)
        for answer, logit in zip(answers, (1.0, -1.0), strict=True):
            assert type(answer["probability"]) is float
            assert answer["probability"] == pytest.approx(1 / (1 + math.exp(-(scale * logit + bias))), rel=1e-9)
            assert "found" not in answer


def test_high_probabilities_stay_distinct(processor, existence_outputs):
    existence_outputs["existence_logits"] = torch.tensor([30.0, 31.0])
    first, second = processor.post_process_video_grounding(existence_outputs, fps=1.0)
    assert first["probability"] < second["probability"] < 1


def test_without_min_probability_only_the_probability_is_added(processor, outputs, existence_outputs):
    plain = processor.post_process_video_grounding(outputs, fps=1.0)
    answers = processor.post_process_video_grounding(existence_outputs, fps=1.0)
    for answer, without_head in zip(answers, plain, strict=True):
        assert answer == {**without_head, "probability": answer["probability"]}


def test_a_query_below_the_probability_is_not_found(processor, existence_outputs):
    plain = processor.post_process_video_grounding(existence_outputs, fps=1.0)
    found, absent = processor.post_process_video_grounding(existence_outputs, fps=1.0, min_probability=0.5)
    assert found == {**plain[0], "found": True}
    assert absent == {**plain[1], "found": False, "moments": [], "highlights": [], "summary": []}
    assert absent["saliency"]


@pytest.mark.parametrize(("min_probability", "expected"), [(0, True), (0.5, True), (0.51, False), (1, False)])
def test_a_query_is_found_from_the_probability_on(processor, existence_outputs, min_probability, expected):
    existence_outputs["existence_logits"] = torch.zeros(2)  # probability 0.5
    answer, _ = processor.post_process_video_grounding(existence_outputs, fps=1.0, min_probability=min_probability)
    assert answer["found"] is expected


@pytest.mark.parametrize("name", ["logits", "boundary_offsets", "saliency_scores"])
def test_predictions_from_nan_pixels_are_refused(name, processor, outputs):
    outputs[name][1, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        processor.post_process_video_grounding(outputs, fps=1.0)


def test_existence_logits_from_nan_pixels_are_refused(processor, existence_outputs):
    existence_outputs["existence_logits"][1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        processor.post_process_video_grounding(existence_outputs, fps=1.0)


@pytest.mark.parametrize("outputs", [torch.zeros(2, 8), (torch.zeros(2, 8),)])
def test_parts_of_the_output_are_refused(outputs, processor):
    with pytest.raises(TypeError, match="`outputs` must be the model's whole output, got"):
        processor.post_process_video_grounding(outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nms": "soft"}, "nms"),
        ({"nms_threshold": 0.0}, "nms_threshold"),
        ({"round_to": 0}, "round_to"),
        ({"round_to": 1e-320}, "round_to"),
        ({"max_moments": 0}, "max_moments"),
        ({"summary_share": 1.5}, "summary_share"),
        ({"num_highlights": -1}, "num_highlights"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"min_probability": -0.1}, "`min_probability` must be a number from 0 to 1 or None, got -0.1"),
        ({"min_probability": 1.1}, "min_probability"),
        ({"min_probability": float("nan")}, "min_probability"),
        ({"min_probability": "0.5"}, "min_probability"),
        ({"fps": torch.ones(3)}, "fps"),
        ({"fps": 0.0}, "positive and finite"),
        ({"duration_sec": float("inf")}, "positive and finite"),
    ],
)
def test_bad_settings_name_the_argument(processor, outputs, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor.post_process_video_grounding(outputs, **{"fps": 1.0, **arguments})
