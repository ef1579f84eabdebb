"""Batches of examples, positive frames, the plan of a run, and the examples themselves."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig
from r2tuning.training.data import GroundingData
from r2tuning.training.plan import BatchPlan, PlannedBatches


def make_example(draw=0, video_id="a", frames=4, words=3, **changes):
    generator = torch.Generator().manual_seed(hash(video_id) % 1000)
    saliency = torch.zeros(frames)
    saliency[1] = 0.5
    return {
        "draw": draw,
        "video_id": video_id,
        "video_hidden_states": torch.randn(frames, 3, 5, 64, generator=generator).half(),
        "text_hidden_states": torch.full((words, 3, 48), float(draw)).half(),
        "saliency": saliency,
        "moments": torch.tensor([[2.0, 4.0]]),
        "fps": 0.5,
        "duration_sec": 2.0 * frames,
        **changes,
    }


# ---- batches -----------------------------------------------------------------------------------------------------


def test_examples_are_padded_and_masked():
    moments = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    batch = GroundingCollator(0)([make_example(), make_example(1, "b", frames=6, words=2, moments=moments)])
    assert batch["video_hidden_states"].shape == (2, 6, 3, 5, 64)
    assert batch["video_hidden_states"].dtype == torch.float16
    assert batch["frame_mask"].tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert batch["attention_mask"].tolist() == [[True] * 3, [True, True, False]]
    assert batch["saliency"].shape == (2, 6)
    assert batch["moments"].tolist() == [[[2, 4], [0, 0]], [[0, 2], [4, 6]]]
    assert batch["moment_mask"].tolist() == [[True, False], [True, True]]
    assert batch["duration_sec"].tolist() == [8, 12]


def test_pixels_and_token_ids_are_padded_too():
    pixels = {"pixel_values_videos": torch.zeros(4, 3, 8, 8), "input_ids": torch.tensor([5, 1, 6])}
    example = make_example()
    for name in ("video_hidden_states", "text_hidden_states"):
        del example[name]
    longer = {**pixels, "input_ids": torch.tensor([5, 1, 2, 6])}
    batch = GroundingCollator(0)([{**example, **pixels}, {**example, **longer, "video_id": "b"}])
    assert batch["pixel_values_videos"].shape == (2, 4, 3, 8, 8)
    assert batch["input_ids"].tolist()[1] == [5, 1, 2, 6]
    assert batch["attention_mask"].tolist() == [[True, True, True, False], [True] * 4]


def test_queries_of_a_video_share_one_copy_of_it(tiny_model):
    """The model gives the same losses as with a copy for each query."""
    examples = [make_example(draw, video, frames) for draw, (video, frames) in enumerate([("a", 4), ("a", 4), ("b", 6), ("b", 6)])]  # fmt: skip
    shared = GroundingCollator(0)(examples)
    assert len(shared["video_hidden_states"]) == len(shared["frame_mask"]) == 2
    assert len(shared["text_hidden_states"]) == len(shared["saliency"]) == 4
    lone = [{**example, "video_id": str(index)} for index, example in enumerate(examples)]
    single = GroundingCollator(0)(lone)
    assert len(single["video_hidden_states"]) == 4
    got, want = tiny_model(**shared).loss_parts, tiny_model(**single).loss_parts
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-5, msg=name)


def test_videos_with_unequal_numbers_of_queries_are_not_shared():
    batch = GroundingCollator(0)([make_example(0, "a"), make_example(1, "a"), make_example(2, "b")])
    assert len(batch["video_hidden_states"]) == 3


def test_pixels_of_a_video_are_taken_once_wherever_its_queries_are(make_model):
    """Only their real frames are encoded, and the losses are those of a copy for each query."""
    order = [("a", 4), ("b", 6), ("a", 4), ("c", 2), ("c", 2)]
    examples = []
    for draw, (video_id, frames) in enumerate(order):
        example = make_example(draw, video_id, frames)
        del example["video_hidden_states"], example["text_hidden_states"]
        pixels = torch.randn(frames, 3, 64, 64, generator=torch.Generator().manual_seed(frames))
        example |= {"pixel_values_videos": pixels, "input_ids": torch.tensor([62, 1, 2, 63])}
        examples.append(example)
    batch = GroundingCollator(0)(examples)
    assert batch["pixel_values_videos"].shape[0] == len(batch["frame_mask"]) == 3
    assert batch["video_index"].tolist() == [0, 1, 0, 2, 2]
    single = GroundingCollator(0)([{**example, "video_id": str(n)} for n, example in enumerate(examples)])
    assert "video_index" not in single
    model, encoded = make_model(), []
    model.vision_model.embeddings.register_forward_hook(lambda *call: encoded.append(len(call[2])))
    got = model(**batch).loss_parts
    assert sum(encoded) == 4 + 6 + 2
    want = model(**single).loss_parts
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-5, msg=name)


# ---- positive frames ---------------------------------------------------------------------------------------------


def drawn(collator, count=200, **changes):
    return Counter(collator.draw_positive_frame(make_example(draw, **changes)) for draw in range(count))


def test_positive_frames_are_salient_and_vary_between_draws():
    found = drawn(GroundingCollator(0), saliency=torch.tensor([0.0, 0.1, 1.0, 0.0]))
    assert found.keys() == {1, 2}
    assert min(found.values()) > 60  # of 200; each has 100 on average, 60 would be 5.7 standard deviations less


def test_positive_frames_depend_on_seed_and_draw_only():
    example = make_example(7, saliency=torch.ones(50))
    frames = {GroundingCollator(3).draw_positive_frame(example) for _ in range(5)}
    assert len(frames) == 1
    assert frames != {GroundingCollator(4).draw_positive_frame(example)}


@pytest.mark.parametrize(
    ("rule", "saliency", "expected"),
    [
        ("above_median", [0.1, 0.2, 0.3, 1.0], {2, 3}),  # the lower median, 0.2
        ("above_half", [0.0, 0.5, 1.0, 1.0], {2, 3}),
        ("above_half", [0.0, 0.5, 0.0, 0.2], {1}),  # nothing is positive: the most salient
        ("above_median", [0.3, 0.3, 0.3, 0.3], {0}),
    ],
)
def test_positive_frames_without_moments(rule, saliency, expected):
    example = make_example(saliency=torch.tensor(saliency))
    del example["moments"]
    collator = GroundingCollator(0, rule)
    assert {collator.draw_positive_frame({**example, "draw": draw}) for draw in range(50)} == expected


def test_absent_queries_have_no_moment_and_frame_0():
    """Whatever their saliency is."""
    absent = make_example(1, "b", saliency=torch.tensor([0.0, 0.5, 1.0, 0.0]), moments=torch.zeros(0, 2))
    batch = GroundingCollator(0)([make_example(), absent])
    assert batch["moments"].tolist() == [[[2, 4]], [[0, 0]]]
    assert batch["moment_mask"].tolist() == [[True], [False]]
    assert batch["positive_frame"].tolist() == [1, 0]
    assert not GroundingCollator(0)([absent, absent])["moment_mask"].any()


# ---- plans -------------------------------------------------------------------------------------------------------


def make_plan(video_ids, num_processes=1, **changes):
    places = {"data_dir": "", "features": "", "output_dir": ""}
    config = TrainingConfig(benchmark="qvhighlights", **places, **changes)
    return BatchPlan(video_ids, config, num_processes, durations=[len(video) for video in video_ids])


def test_an_epoch_of_qvhighlights_has_226_steps():
    plan = make_plan(["v"] * 7218, batch_size=128, repeat_factor=4, epochs=30)
    assert (plan.steps_per_epoch, plan.num_steps) == (226, 6780)


@settings(max_examples=40)
@given(
    queries=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    size=st.integers(1, 3),
    videos=st.integers(1, 5),
    repeat=st.integers(1, 3),
    by_length=st.booleans(),
)
def test_every_query_is_drawn_equally_often(queries, size, videos, repeat, by_length):
    video_ids = [str(video) for video, count in enumerate(queries) for _ in range(count)]
    fields = {"batch_size": videos * size, "queries_per_video": size, "repeat_factor": repeat, "epochs": 2}
    fields["group_by_length"] = by_length
    plan = make_plan(video_ids, **fields)
    steps = [plan.draws(step) for step in range(plan.num_steps)]
    assert max(map(len, steps)) <= videos
    seen = [sum(steps[: plan.steps_per_epoch], []), sum(steps[plan.steps_per_epoch :], [])]
    for groups in seen:
        rows = Counter(draw % len(video_ids) for group in groups for draw in group)
        assert rows.keys() == set(range(len(video_ids)))
        assert min(rows.values()) >= repeat
        assert size > 1 or set(rows.values()) == {repeat}
        for group in groups:
            assert len(group) == size
            assert len({video_ids[draw % len(video_ids)] for draw in group}) == 1
    first, second = ({draw for group in groups for draw in group} for groups in seen)
    assert not first & second  # so that every epoch has its own positive frames


def test_videos_of_similar_length_share_a_batch():
    """Lengths within a batch are consecutive, and batches are in random order."""
    video_ids = ["v" * length for length in np.random.default_rng(0).permutation(np.arange(1, 101))]
    plan = make_plan(video_ids, batch_size=5, group_by_length=True)
    lengths = [[len(video_ids[draw]) for draw in sum(plan.draws(step), [])] for step in range(20)]
    assert max(max(batch) - min(batch) for batch in lengths) == 4
    assert sorted(lengths) != lengths
    assert make_plan(video_ids, batch_size=5, group_by_length=True).draws(3) == plan.draws(3)


@settings(max_examples=40)
@given(
    num_rows=st.integers(1, 30),
    num_processes=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    spare=st.integers(0, 9),
)
def test_parts_of_all_processes_make_up_the_batch(num_rows, num_processes, accumulation, spare):
    video_ids = [str(row) for row in range(num_rows)]
    fields = {"batch_size": num_processes * accumulation + spare, "epochs": 2}
    plan = make_plan(video_ids, num_processes, gradient_accumulation=accumulation, **fields)
    alone = make_plan(video_ids, **fields)
    loaders = [list(plan.batches(0, rank)) for rank in range(num_processes)]
    for step in range(plan.num_steps):
        parts = [batch for loader in loaders for batch in loader[step * accumulation : (step + 1) * accumulation]]
        assert all(parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        shared, whole = Counter(sum(parts, [])), Counter(sum(alone.draws(step), []))
        assert shared == whole or (shared >= whole and whole.total() < len(parts))


def test_a_plan_can_start_at_any_step():
    plan = make_plan([str(row) for row in range(10)], batch_size=4, epochs=3)
    whole = list(PlannedBatches(plan, 0, 0))
    assert len(whole) == len(PlannedBatches(plan, 0, 0)) == 9
    assert list(PlannedBatches(plan, 4, 0)) == whole[4:]
    assert len(PlannedBatches(plan, 4, 0)) == 5


def test_the_order_differs_between_epochs_and_seeds():
    orders = []
    for seed in (0, 1):
        plan = make_plan([str(row) for row in range(40)], batch_size=40, epochs=2, seed=seed)
        orders += [[draw % 40 for group in plan.draws(step) for draw in group] for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="cannot be divided among 3 processes"):
        make_plan(["a"], num_processes=3, batch_size=2)


def test_sorting_by_length_needs_durations():
    config = TrainingConfig(benchmark="qvhighlights", data_dir="", features="", output_dir="", group_by_length=True)
    with pytest.raises(ValueError, match="`group_by_length` needs `durations`"):
        BatchPlan(["a"], config)


# ---- data --------------------------------------------------------------------------------------------------------


class StubCache:
    """Features whose values are the number of times that they were read."""

    def __init__(self, frames):
        self.frames, self.read = frames, 0

    def video(self, video_id):
        self.read += 1
        return torch.zeros(self.frames, 3, 5, 64).half()

    def query(self, qid, text):
        return torch.zeros(len(text), 3, 48).half()


def make_row(task, saliency=None, moments=None, duration=20.0, **changes):
    if saliency is not None:
        times = [[2.0 * clip, 2.0 * clip + 2] for clip in range(len(saliency))]
        saliency = {"times_sec": times, "scores": saliency}
    row = {"qid": "1", "query": "abc", "video_id": "v", "duration_sec": duration, "domain": None, "video": None}
    return {**row, "task": task, "saliency": saliency, "moments": moments, **changes}


def test_moments_and_saliency_become_targets_of_frames(processor):
    rows = [make_row(["moment_retrieval"], moments=[[2.0, 5.0], [7.1, 7.3]])]
    example = GroundingData(rows, processor, StubCache(20), benchmark="qvhighlights")[0]
    np.testing.assert_allclose(example["moments"], [[2, 5], [6.7, 7.7]], rtol=1e-6)  # at least a frame long
    assert example["saliency"].nonzero().flatten().tolist() == [2, 3, 4, 7]
    assert (example["fps"], example["duration_sec"]) == (1.0, 20.0)


def test_an_absent_query_has_no_moment_and_no_salient_frame(processor):
    for saliency in (None, [[0.0, 0.0, 0.0]] * 10):
        rows = [make_row(["moment_retrieval"], moments=[], saliency=saliency)]
        example = GroundingData(rows, processor, StubCache(20), benchmark="qvhighlights")[0]
        assert example["moments"].shape == (0, 2)
        assert example["saliency"].tolist() == [0.0] * 20


def test_a_query_whose_moments_are_not_annotated_is_refused(processor):
    """It is not absent: `None` differs from `[]`."""
    for saliency in (None, [[4.0, 4.0, 4.0]] * 10):
        rows = [make_row(["moment_retrieval"], saliency=saliency)]
        with pytest.raises(ValueError, match=r"qid 1: .*`moments`.* annotated"):
            GroundingData(rows, processor, StubCache(20), benchmark="qvhighlights")[0]


def test_tvsum_videos_are_cut_to_their_annotated_part(processor):
    rows = [make_row(["video_summarization"], saliency=[[1.0] * 20, [5.0] * 20, [3.0] * 20])]
    example = GroundingData(rows, processor, StubCache(7), benchmark="tvsum")[0]
    assert len(example["video_hidden_states"]) == 3
    assert example["saliency"].tolist() == [0, 1, 0.5]
    assert "moments" not in example


def test_youtube_highlights_has_one_frame_for_each_annotated_clip(processor):
    rows = [make_row(["highlight_detection"], saliency=[[-1.0], [0.0], [1.0], [1.0]], duration=10.0)]
    example = GroundingData(rows, processor, StubCache(4), benchmark="youtube_highlights")[0]
    assert example["fps"] == 0.4
    assert example["saliency"].tolist() == [0, 0.5, 1, 1]


def test_a_video_of_youtube_highlights_is_fitted_to_its_annotated_clips(processor, checkpoint):
    """The video has 20 seconds but is annotated as 20.9: sampling alone gives one frame less."""
    video = {"path": str(checkpoint / "sample.mp4")}
    rows = [make_row(["highlight_detection"], saliency=[[1.0]] * 9, duration=20.9, video=video)]
    example = GroundingData(rows, processor, benchmark="youtube_highlights")[0]
    assert example["pixel_values_videos"].shape == (9, 3, 64, 64)


def test_a_video_is_read_once_for_all_its_queries(processor):
    cache = StubCache(20)
    rows = [make_row(["moment_retrieval"], moments=[[2.0, 5.0]], qid=str(qid)) for qid in range(3)]
    data = GroundingData(rows, processor, cache, benchmark="qvhighlights")
    examples = data.__getitems__([0, 4, 2])  # draws continue after the last row
    assert cache.read == 1
    assert [data.row(example["draw"])["qid"] for example in examples] == ["0", "1", "2"]
