"""The metrics of TVR, by small examples of each rule and by what the default mode does differently."""

import math

import numpy as np
import pytest

from dataset_scripts.metrics import compute_scores, read_submission, score_corpus


def row(qid, video, *moments, domain="v"):
    return {"qid": str(qid), "video_id": video, "moments": [list(moment) for moment in moments], "domain": domain}


def two_rows():
    return [row(1, "a", (10, 20)), row(2, "b", (30, 40), domain="vt")]


def recalls(scores, name):
    """R@1, R@5, R@10 and R@100."""
    return [scores[f"{name}r{k}"] for k in (1, 5, 10, 100)]


def both_modes(predictions, references):
    """The scores of both modes, which agree but for the types that do not occur."""
    matched = score_corpus(predictions, references, match_reference_code=True)
    ours = score_corpus(predictions, references)
    assert ours["brief"] == matched["brief"]
    for task in {"VCMR", "SVMR", "VR"} & set(ours):
        assert ours[task] == matched[task]
    return ours


def test_moments_in_a_corpus():
    """IoU at the thresholds counts; the right time in another video does not."""
    predictions = [
        {"qid": 1, "VCMR": [["b", 10, 20], ["a", 10, 15]]},  # IoU 0.5
        {"qid": 2, "VCMR": [["b", 30, 37], *[["a", 0, 1]] * 4]},  # IoU 0.7
    ]
    scores = both_modes(predictions, two_rows())
    assert recalls(scores["VCMR"], "0.5-") == [50, 100, 100, 100]
    assert recalls(scores["VCMR"], "0.7-") == [50, 50, 50, 50]
    assert set(scores) == {"brief", "VCMR", "VCMR_by_type"}
    assert scores["brief"]["VCMR-R5@0.5"] == 100


def test_intersection_over_the_span():
    """Between two moments that do not touch lies a gap, which the span contains."""
    predictions = [{"qid": 1, "VCMR": [["a", 5, 25]]}, {"qid": 2, "VCMR": [["b", 35, 35]]}]
    scores = both_modes(predictions, two_rows())
    assert scores["brief"]["VCMR-R1@0.5"] == 50
    point = score_corpus([{"qid": 1, "VCMR": [["a", 5, 5]]}], [row(1, "a", (5, 5))])
    assert point["brief"]["VCMR-R100@0.5"] == 0  # 0 / 0


def test_moments_of_other_videos_cost_no_rank_within_a_video():
    others = [["b", 10, 20]] * 9
    predictions = [{"qid": 1, "SVMR": [*others, ["a", 10, 20]]}, {"qid": 2, "SVMR": [["b", 0, 1], ["b", 30, 40]]}]
    scores = both_modes(predictions, two_rows())
    assert recalls(scores["SVMR"], "0.5-") == [50, 100, 100, 100]


@pytest.mark.parametrize("task", ["VCMR", "SVMR"])
def test_a_hundred_predictions_are_read(task):
    """The cut comes before moments of other videos are removed."""
    others = [["b", 10, 20]] * 99
    references = two_rows()[:1]
    scores = score_corpus([{"qid": 1, task: [*others, ["a", 10, 20]]}], references)
    assert scores[task]["0.5-r100"] == 100
    scores = score_corpus([{"qid": 1, task: [*others, ["b", 0, 1], ["a", 10, 20]]}], references)
    assert scores[task]["0.5-r100"] == 0


def test_videos():
    """A repeated video takes several ranks; entries may be names, or lists that begin with one."""
    predictions = [{"qid": 1, "VR": ["b"] * 5 + ["a"]}, {"qid": 2, "VR": [["b", 0, 0, 0.3]]}]
    scores = both_modes(predictions, two_rows())
    assert recalls(scores["VR"], "") == [50, 50, 100, 100]
    assert scores["brief"] == {"VR-R1": 50, "VR-R5": 50, "VR-R10": 100, "VR-R100": 100}


def test_scores_are_not_read():
    predictions = [{"qid": 1, "VCMR": [["b", 10, 20, 0.1], ["a", 10, 20, 0.9]]}, {"qid": 2, "VCMR": [["b", 30, 40]]}]
    assert both_modes(predictions, two_rows())["brief"]["VCMR-R1@0.5"] == 50


def test_single_precision():
    """Cut exactly in half: 0.5 in single precision, and below it in double precision."""
    start, end, middle = 13.36, 30.34, 21.85
    for kind, hits in ((np.float32, True), (np.float64, False)):
        part, whole = kind(end) - kind(middle), kind(end) - kind(start)
        assert (part / whole >= kind(0.5)) == hits
    scores = both_modes([{"qid": 1, "VCMR": [["a", middle, end]]}], [row(1, "a", (start, end))])
    assert scores["brief"]["VCMR-R1@0.5"] == 100


def test_common_form_is_taken_for_the_given_video():
    moments = [[0, 1, 0.9], [10, 20, 0.8]]
    scores = both_modes([{"qid": 1, "vid": "a", "pred_relevant_windows": moments}], two_rows()[:1])
    assert recalls(scores["SVMR"], "0.5-") == [0, 100, 100, 100]
    assert set(scores) == {"brief", "SVMR", "SVMR_by_type"}
    preferred = {"qid": 1, "pred_relevant_windows": moments, "SVMR": [["a", 10, 20]]}
    assert score_corpus([preferred], two_rows()[:1])["brief"]["SVMR-R1@0.5"] == 100


def test_types():
    predictions = [{"qid": 1, "VR": ["a"]}, {"qid": 2, "VR": ["a"]}]
    ours = score_corpus(predictions, two_rows())["VR_by_type"]
    assert recalls(ours, "v-") == [100] * 4
    assert recalls(ours, "vt-") == [0] * 4
    assert ours["desc_type_ratio"] == "v 50.0 vt 50.0"
    matched = score_corpus(predictions, two_rows(), match_reference_code=True)["VR_by_type"]
    assert math.isnan(matched["t-r1"])
    assert matched["desc_type_ratio"] == "v 50.0 t 0.0 vt 50.0"
    without = [{**some, "domain": None} for some in two_rows()]
    assert set(score_corpus(predictions, without)) == {"brief", "VR"}
    with pytest.raises(ValueError, match="`domain` is missing or empty, as for '1', '2'"):
        score_corpus(predictions, without, match_reference_code=True)


@pytest.mark.parametrize("others", [[], [{"qid": 2, "VR": []}], [{"qid": 2}]])
def test_query_without_a_prediction_is_a_miss(others):
    predictions = [{"qid": 1, "VR": ["a"]}, *others]
    scores = score_corpus(predictions, two_rows())
    assert recalls(scores["VR"], "") == [50] * 4
    with pytest.raises(ValueError, match="'2'"):
        score_corpus(predictions, two_rows(), match_reference_code=True)


def test_several_moments():
    """Any of them, and with four or more in the public code (DiDeMo) two of them."""
    annotated = [(0, 5), (0, 5), (0, 10), (5, 10)]
    for moment, needs_two in (((0, 5), 100), ((5, 10), 0)):
        predictions = [{"qid": 1, "VCMR": [["a", *moment]]}]
        references = [row(1, "a", *annotated)]
        assert score_corpus(predictions, references)["brief"]["VCMR-R1@0.7"] == 100
        matched = score_corpus(predictions, references, match_reference_code=True)
        assert matched["brief"]["VCMR-R1@0.7"] == needs_two


def test_queries_without_moments_are_not_scored():
    references = [*two_rows(), {"qid": "3", "video_id": None, "moments": None}, row(4, "a")]
    predictions = [{"qid": qid, "VR": ["a"]} for qid in (1, 2, 3, 4)]
    assert score_corpus(predictions, references) == score_corpus(predictions[:2], references[:2])
    with pytest.raises(ValueError, match="`moments` is missing or empty, as for '3', '4'"):
        score_corpus(predictions, references, match_reference_code=True)
    with pytest.raises(ValueError, match="None of the `references` has `moments`"):
        score_corpus(predictions[2:], references[2:])


@pytest.mark.parametrize(
    "entry",
    [["a", 10], ["a", "10", 20], ["a", True, 20], ["a", 10, math.nan], [3, 10, 20], ["a", 20, 10], "a", 7],
)
@pytest.mark.parametrize("task", ["VCMR", "SVMR"])
def test_malformed_moment_is_named(task, entry):
    predictions = [{"qid": 1, task: [["a", 10, 20]]}, {"qid": 2, task: [["b", 30, 40], entry]}]
    with pytest.raises(ValueError, match=rf"`{task}` of query '2' must hold \[video_id, start, end\]"):
        score_corpus(predictions, two_rows())


def test_reversed_moment_takes_a_rank_in_the_public_code():
    predictions = [{"qid": 1, "VCMR": [["a", 20, 10], ["a", 10, 20]]}]
    scores = score_corpus(predictions, two_rows()[:1], match_reference_code=True)
    assert recalls(scores["VCMR"], "0.5-") == [0, 100, 100, 100]


@pytest.mark.parametrize("entry", [7, None, [], [7, 0, 0]])
def test_malformed_video_is_named(entry):
    with pytest.raises(ValueError, match="`VR` of query '1' must hold video ids"):
        score_corpus([{"qid": 1, "VR": ["a", entry]}], two_rows())


def test_predictions_that_cannot_be_scored():
    with pytest.raises(ValueError, match="`predictions` need `VCMR`, `SVMR`, `VR` or `pred_relevant_windows`"):
        score_corpus([{"qid": 1}], two_rows())
    with pytest.raises(ValueError, match="lacks: '9'"):
        score_corpus([{"qid": 9, "VR": ["a"]}], two_rows())
    with pytest.raises(ValueError, match="`VR` of query '1' must be a list, got a"):
        score_corpus([{"qid": 1, "VR": "a"}], two_rows())


def test_repeated_query():
    predictions = [{"qid": 1, "VR": ["a"], "VCMR": [["a", 10, 20]]}, {"qid": 1, "VR": ["b"]}]
    scores = score_corpus(predictions, two_rows()[:1])
    assert (scores["brief"]["VR-R1"], scores["brief"]["VCMR-R1@0.5"]) == (0, 100)  # the last that has the task


def test_public_submission():
    document = {
        "video2idx": {"a": 7, "b": 8},
        "VCMR": [{"desc_id": 1, "predictions": [[7, 10, 20, 0.5]]}, {"desc_id": 2, "predictions": []}],
        "VR": [{"desc_id": 1, "predictions": [[8, 0, 0], [7, 0, 0]]}],
    }
    records = read_submission(document)
    assert records == [{"qid": "1", "VCMR": [["a", 10, 20]], "VR": ["b", "a"]}, {"qid": "2", "VCMR": []}]
    assert score_corpus(records, two_rows())["brief"]["VR-R5"] == 50
    document["VR"][0]["predictions"][0][0] = 9
    with pytest.raises(ValueError, match=r"`VR` of query '1' must hold \[video index, start, end\].*KeyError\(9\)"):
        read_submission(document)


def test_benchmark():
    predictions = [{"qid": 1, "VR": ["a"]}, {"qid": 2, "VR": ["a"]}]
    assert compute_scores("tvr", predictions, two_rows()) == score_corpus(predictions, two_rows())
