"""Training targets on the sampled frames."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.targets import prepare_moments, prepare_saliency


ABSENT_SCORES = {"none": None, "zeros": [[0, 0, 0]] * 10, "not zero": [[4, 4, 4]] * 10}
TIMES = st.floats(-50, 200, allow_nan=False)
MOMENTS = st.lists(st.tuples(TIMES, TIMES).map(list), max_size=5)
QVHIGHLIGHTS, TVSUM, YOUTUBE = (BENCHMARKS[name] for name in ("qvhighlights", "tvsum", "youtube_highlights"))


def make_row(moments=None, scores=None):
    saliency = None if scores is None else {"scores": scores}
    return {"qid": "1", "video_id": "v", "moments": moments, "saliency": saliency}


def test_targets_equal_those_of_the_released_code(shared_data):
    cases = json.loads((shared_data / "parity" / "data_prep.json").read_text())
    assert len(cases) == 6
    for case in cases:
        label, frames, fps = case["label"], case["T"], case["fps"]
        scores = None
        if "saliency_scores" in label:
            scores = [[0, 0, 0] for _ in range(int(label["duration"] / 2))]
            for clip, row in zip(label["relevant_clip_ids"], label["saliency_scores"], strict=True):
                scores[clip] = row
        boundary = prepare_moments(label["relevant_windows"], frames, fps)
        saliency = prepare_saliency(make_row(label["relevant_windows"], scores), frames, fps, QVHIGHLIGHTS)
        assert boundary.dtype == saliency.dtype == np.float32
        np.testing.assert_array_equal(boundary.astype(float), case["boundary"])
        np.testing.assert_array_equal(saliency.astype(float), case["saliency"])


def test_moments_follow_the_frame_grid():
    moments = [[10, 24], [149.5, 150], [60, 50], [148, 400]]
    expected = [[10, 24], [148, 150], [50, 60], [148, 150]]
    np.testing.assert_array_equal(prepare_moments(moments, 75, 0.5), np.float32(expected))
    assert prepare_moments([], 75, 0.5).shape == (0, 2)


@pytest.mark.parametrize("scores", ABSENT_SCORES.values(), ids=ABSENT_SCORES)
def test_no_frame_is_salient_for_an_absent_query(scores):
    saliency = prepare_saliency(make_row([], scores), 12, 0.5, QVHIGHLIGHTS)
    assert saliency.dtype == np.float32
    assert saliency.tolist() == [0.0] * 12


@given(MOMENTS, st.integers(1, 100), st.sampled_from([0.5, 1.0, 2.0]))
def test_prepared_moments_are_a_frame_long_and_inside(moments, num_frames, fps):
    prepared = prepare_moments(moments, num_frames, fps)
    assert prepared.shape == (len(moments), 2)
    assert (prepared >= 0).all()
    assert (prepared <= num_frames / fps).all()
    assert (prepared[:, 1] - prepared[:, 0] >= 1 / fps - 1e-4).all()


@given(MOMENTS.filter(len), st.integers(1, 100), st.sampled_from([0.5, 1.0, 2.0]))
@example([[1e-9, 1.0]], 5, 1.0)
def test_every_moment_has_a_positive_frame(moments, num_frames, fps):
    saliency = prepare_saliency(make_row(moments), num_frames, fps, QVHIGHLIGHTS)
    assert saliency.shape == (num_frames,)
    assert set(saliency.tolist()) <= {0.0, 1.0}
    assert saliency.any()


def test_qvhighlights_scores_are_divided_by_twelve():
    row = make_row([[2, 4]], [[0, 0, 0], [4, 3, 2], [0, 0, 0]])
    np.testing.assert_array_equal(prepare_saliency(row, 3, 0.5, QVHIGHLIGHTS), np.float32([0, 9 / 12, 0]))
    np.testing.assert_array_equal(prepare_saliency(row, 2, 0.5, QVHIGHLIGHTS), np.float32([0, 9 / 12]))
    np.testing.assert_array_equal(prepare_saliency(row, 5, 0.5, QVHIGHLIGHTS), np.float32([0, 9 / 12, 0, 0, 0]))
    np.testing.assert_array_equal(
        prepare_saliency(row, 6, 1.0, QVHIGHLIGHTS), np.float32([0, 0, 9 / 12, 9 / 12, 0, 0])
    )


def test_tvsum_scores_are_rescaled_and_cut_to_the_annotated_units():
    row = make_row(None, [[1.0] * 20, [5.0] * 20, [3.0] * 10 + [2.0] * 10])
    np.testing.assert_array_equal(prepare_saliency(row, 4, 0.5, TVSUM), np.float32([0, 1, 30 / 80]))
    np.testing.assert_array_equal(prepare_saliency(row, 2, 0.5, TVSUM), np.float32([0, 1]))


def test_youtube_labels_are_rescaled_and_need_one_frame_per_unit():
    row = make_row(None, [[-1.0], [0.0], [1.0]])
    np.testing.assert_array_equal(prepare_saliency(row, 3, 0.7, YOUTUBE), np.float32([0, 0.5, 1]))
    with pytest.raises(ValueError, match="3 annotated units, got `num_frames` 4"):
        prepare_saliency(row, 4, 0.7, YOUTUBE)


def test_a_hidden_test_row_has_no_targets():
    with pytest.raises(ValueError, match="qid 1: neither"):
        prepare_saliency(make_row(), 4, 0.5, QVHIGHLIGHTS)
