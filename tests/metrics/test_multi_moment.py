"""The metrics of QV-M2, by small examples of each rule and by what the default mode does differently."""

import math

import pytest

from dataset_scripts.metrics import compute_scores, score_multi_moment


FIVE = [(10, 20), (30, 40), (50, 60), (70, 80), (90, 100)]


def row(qid, *moments):
    return {"qid": str(qid), "moments": [list(moment) for moment in moments]}


def prediction(qid, *moments):
    """Moments with falling scores."""
    scored = [[*moment, 1 - rank / 100][:3] for rank, moment in enumerate(moments)]
    return {"qid": qid, "pred_relevant_windows": scored}


def three_queries():
    """Queries with one, two and three moments, and exact predictions."""
    references = [row(number, *FIVE[:number]) for number in (1, 2, 3)]
    predictions = [prediction(number, *FIVE[:number]) for number in (1, 2, 3)]
    return predictions, references


def test_exact_predictions():
    for mode in (False, True):
        scores = score_multi_moment(*three_queries(), match_reference_code=mode)
        assert set(scores["brief"].values()) == {100}
        assert scores["short"] == scores["full"]


def test_numbers_of_moments_weigh_alike_from_three_on():
    predictions, references = three_queries()
    references += [row(4, *FIVE[:3]), row(5, *FIVE[:4])]
    predictions += [prediction(4, *FIVE[:3]), prediction(5, (0, 5))]
    scores = score_multi_moment(predictions, references)["brief"]
    assert scores["MR-full-mAP@3+tgt"] == 50  # the mean of 100 (three moments, twice) and 0 (four moments)
    assert scores["MR-full-mAP"] == 80


def test_recall_of_the_first_predictions():
    predictions, references = three_queries()
    predictions[1] = prediction(2, (10, 20), (60, 70))
    predictions[2] = prediction(3, (10, 20), (60, 70), (30, 40))
    for mode in (False, True):
        full = score_multi_moment(predictions, references, match_reference_code=mode)["full"]
        assert set(full["MR-R2"].values()) == {50}  # 2 of 2 x 2
        assert set(full["MR-R3"].values()) == {66.67}  # 2 of 1 x 3
        assert full["MR-mR3"] == 66.67
        assert list(full["MR-R1"]) == [f"{step / 100:.2f}" for step in range(30, 100, 5)]


def test_mean_iou_over_all_pairs():
    """The wrong prediction takes the first moment with an IoU of 0, and the exact one then gets the second."""
    predictions, references = three_queries()
    predictions[1] = prediction(2, (60, 70), (10, 20))
    for mode in (False, True):
        full = score_multi_moment(predictions, references, match_reference_code=mode)["full"]
        assert full["MR-mIoU@2"] == 50  # 0, 0 and twice 1
        assert full["MR-mIoU@1"] == 66.67
        assert full["MR-R2"]["0.50"] == 75  # the wrong one takes no moment here


def test_fewer_predictions_than_k():
    """The public code scores only queries with enough predictions; here a missing one is a miss."""
    predictions, references = three_queries()
    predictions[2] = prediction(3, FIVE[0])
    matched = score_multi_moment(predictions, references, match_reference_code=True)["brief"]
    assert (matched["MR-full-mR2"], matched["MR-full-mR3"], matched["MR-full-mIoU@3"]) == (100, 0, 0)
    ours = score_multi_moment(predictions, references)["brief"]
    assert (ours["MR-full-mR2"], ours["MR-full-mR3"], ours["MR-full-mIoU@2"]) == (75, 33.33, 75)
    assert ours["MR-full-mIoU@3"] == 33.33


def test_query_without_predicted_moments():
    predictions, references = three_queries()
    references += [row(4, FIVE[0])]
    matched = score_multi_moment([*predictions, prediction(4)], references, match_reference_code=True)
    assert set(matched["brief"].values()) == {100}
    ours = score_multi_moment([*predictions, prediction(4)], references)
    assert ours == score_multi_moment(predictions, references)  # no prediction at all
    assert ours["brief"]["MR-full-mAP"] == 75
    assert ours["brief"]["MR-full-mAP@1_tgt"] == 50
    for some in (predictions, [*predictions, {"qid": 4}]):
        with pytest.raises(ValueError, match="'4'"):
            score_multi_moment(some, references, match_reference_code=True)


def test_range_counts_its_own_moments():
    """The query with two moments has one short and one middle moment."""
    references = [row(1, (0, 20)), row(2, (0, 5), (20, 40))]
    predictions = [prediction(1, (0, 20)), prediction(2, (0, 5), (20, 40))]
    scores = score_multi_moment(predictions, references)
    assert scores["middle"]["MR-mAP"]["1_tgt_mAP"] == 75  # 100, and 50 since the short one is predicted first
    assert scores["middle"]["MR-mAP"]["2_tgt_mAP"] is None
    assert scores["short"]["MR-mAP"]["1_tgt_mAP"] == 100
    with pytest.raises(ValueError, match="no query with predictions has 2 `moments`, as in the range 'middle'"):
        score_multi_moment(predictions, references, match_reference_code=True)


def test_range_without_a_query():
    ours = score_multi_moment(*three_queries())
    assert set(ours["long"]["MR-mAP"].values()) == {None}
    assert list(ours["long"]["MR-R3"]) == list(ours["full"]["MR-R3"])
    assert set(ours["long"]) == set(ours["full"])
    matched = score_multi_moment(*three_queries(), match_reference_code=True)
    assert set(matched["long"]) == {"MR-mAP", "MR-R1"}
    assert set(matched["long"]["MR-R1"].values()) == {0}


def test_long_moments_end_at_150_seconds():
    scores = score_multi_moment([prediction(1, (0, 160))], [row(1, (0, 160))])
    assert scores["full"]["MR-mR1"] == 100
    assert scores["long"]["MR-mR1"] is None


def test_average_precision_reads_ten_and_sorts_by_score():
    predictions, references = three_queries()
    wrong = [[80, 81, 0.1]] * 9
    predictions[0] = {"qid": 1, "pred_relevant_windows": [*wrong, [10, 20, 0.9]]}
    assert score_multi_moment(predictions, references)["brief"]["MR-full-mAP@1_tgt"] == 100
    predictions[0] = {"qid": 1, "pred_relevant_windows": [*wrong, [80, 81, 0.1], [10, 20, 0.9]]}
    assert score_multi_moment(predictions, references)["brief"]["MR-full-mAP@1_tgt"] == 0


def test_reversed_predictions():
    predictions, references = three_queries()
    predictions[0] = prediction(1, (60, 50))  # as long as the moment: 0 / 0
    matched = score_multi_moment(predictions, references, match_reference_code=True)["full"]
    assert matched["MR-mAP"]["1_tgt_mAP"] == 100
    assert matched["MR-mR1"] == 66.67
    assert matched["MR-mIoU@1"] == 100  # there is no pair, which leaves it out
    with pytest.raises(ValueError, match="`pred_relevant_windows` of query '1'.*start <= end"):
        score_multi_moment(predictions, references)


@pytest.mark.parametrize("moment", [["10", 20, 0.9], [10, math.nan, 1], [10, 20]])
def test_malformed_prediction_is_named(moment):
    predictions, references = three_queries()
    predictions[1] = {"qid": 2, "pred_relevant_windows": [moment]}
    for mode in (False, True):
        with pytest.raises(ValueError, match="`pred_relevant_windows` of query '2'"):
            score_multi_moment(predictions, references, match_reference_code=mode)


def test_queries_without_moments():
    predictions, references = three_queries()
    more = [row(4), {"qid": "5", "moments": None}]
    answers = [prediction(4, (0, 5)), prediction(5, (0, 5))]
    assert score_multi_moment(predictions + answers, references + more) == score_multi_moment(predictions, references)
    with pytest.raises(ValueError, match="`moments` is missing or empty, as for '4', '5'"):
        score_multi_moment(predictions + answers, references + more, match_reference_code=True)
    with pytest.raises(ValueError, match="nothing to score"):
        score_multi_moment(answers, more)


def test_two_sides():
    predictions, references = three_queries()
    with pytest.raises(ValueError, match="lacks: '3'"):
        score_multi_moment(predictions, references[:2])
    shared = score_multi_moment(predictions, references[:2], match_number=False)
    assert shared == score_multi_moment(predictions[:2], references[:2])


def test_repeated_query():
    """AP reads both records, the other figures the last."""
    predictions, references = three_queries()
    predictions.append({"qid": 1, "pred_relevant_windows": [[80, 90, 2.0]]})
    for mode in (False, True):
        full = score_multi_moment(predictions, references, match_reference_code=mode)["full"]
        assert full["MR-mAP"]["1_tgt_mAP"] == 50
        assert full["MR-mR1"] == 66.67


def test_benchmark():
    predictions, references = three_queries()
    assert compute_scores("qv_m2", predictions, references) == score_multi_moment(predictions, references)
