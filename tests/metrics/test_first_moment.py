"""The metric of TimeLens-Bench, by small examples of each rule and by what the default mode does differently."""

import math

import pytest

from dataset_scripts.metrics import compute_scores, score_first_moment


def row(qid, *moments, domain=None):
    return {"qid": str(qid), "moments": [list(moment) for moment in moments], "domain": domain}


def prediction(qid, *moments):
    return {"qid": qid, "pred_relevant_windows": [list(moment) for moment in moments]}


def both_modes(predictions, references):
    scores = score_first_moment(predictions, references)
    assert scores == score_first_moment(predictions, references, match_reference_code=True)
    return scores["full"]


def test_first_moment_of_the_list():
    """IoU 0.5 of the first moment, whatever the scores; a threshold that is reached counts."""
    full = both_modes([prediction(1, (10, 15, 0.1), (10, 20, 0.9))], [row(1, (10, 20))])
    assert full == {"R1@0.3": 100, "R1@0.5": 100, "R1@0.7": 0, "mIoU": 50}


def test_overlap_over_the_span():
    """A gap between two moments counts as nothing less than no overlap."""
    references = [row(1, (10, 20)), row(2, (10, 20)), row(3, (10, 20))]
    predictions = [prediction(1, (0, 40)), prediction(2, (50, 60)), prediction(3)]
    full = both_modes(predictions, references)
    assert full["mIoU"] == pytest.approx(100 * 0.25 / 3)
    assert score_first_moment(predictions, references)["brief"]["mIoU"] == 8.33


def test_domains():
    references = [row(1, (10, 20), domain="charades"), row(2, (10, 20), domain="activitynet"), row(3, (10, 20))]
    scores = score_first_moment([prediction(qid, (10, 20)) for qid in (1, 3)], references)
    assert scores["by_domain"]["charades"]["mIoU"] == 100
    assert scores["by_domain"]["activitynet"]["R1@0.3"] == 0
    assert set(scores["by_domain"]) == {"charades", "activitynet"}


def test_query_without_a_prediction_counts_as_zero():
    references = [row(1, (10, 20)), row(2, (10, 20))]
    assert score_first_moment([prediction(1, (10, 20))], references)["brief"]["R1@0.7"] == 50
    with pytest.raises(ValueError, match="lacks queries of `references`: '2'"):
        score_first_moment([prediction(1, (10, 20))], references, match_reference_code=True)


def test_reversed_prediction():
    predictions, references = [prediction(1, (20, 10))], [row(1, (10, 20))]
    assert score_first_moment(predictions, references, match_reference_code=True)["brief"]["mIoU"] == 0
    with pytest.raises(ValueError, match="`pred_relevant_windows` of query '1'.*start <= end"):
        score_first_moment(predictions, references)


def test_several_moments_and_none():
    references = [row(1, (10, 20), (40, 50)), row(2), {"qid": "3", "moments": None}]
    predictions = [prediction(qid, (40, 50)) for qid in (1, 2, 3)]
    assert (
        score_first_moment(predictions, references)["brief"]["mIoU"] == 100
    )  # the closest; the others are not scored
    with pytest.raises(ValueError, match="`moments` is missing or empty, as for '2', '3'"):
        score_first_moment(predictions, references, match_reference_code=True)
    with pytest.raises(ValueError, match="one moment for each query, and '1' has 2"):
        score_first_moment(predictions[:1], references[:1], match_reference_code=True)
    with pytest.raises(ValueError, match="None of the `references` has `moments`"):
        score_first_moment(predictions[1:], references[1:])


@pytest.mark.parametrize("moment", [["10", 20], [10, math.nan], [10]])
def test_malformed_prediction_is_named(moment):
    for mode in (False, True):
        with pytest.raises(ValueError, match="`pred_relevant_windows` of query '1'"):
            score_first_moment([prediction(1, moment)], [row(1, (10, 20))], match_reference_code=mode)


def test_benchmark():
    predictions, references = [prediction(1, (10, 20))], [row(1, (10, 20))]
    assert compute_scores("timelens_bench", predictions, references) == score_first_moment(predictions, references)
