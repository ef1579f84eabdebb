"""The metrics of Soccer-GMR, by small examples of each rule and by what the default mode does differently."""

import math

import pytest

from dataset_scripts.metrics import compute_scores, score_generalized


def row(qid, *moments, duration=100):
    return {"qid": str(qid), "duration_sec": duration, "moments": [list(moment) for moment in moments]}


def prediction(qid, *moments, exist=0.9):
    return {"qid": qid, "pred_relevant_windows": [list(moment) for moment in moments], "pred_exist_score": exist}


def brief(predictions, references, **options):
    return score_generalized(predictions, references, **options)["brief"]


def both_modes(predictions, references):
    """The brief scores where the modes agree, apart from figures without a query."""
    matched = brief(predictions, references, match_reference_code=True)
    ours = brief(predictions, references)
    assert {name: value for name, value in ours.items() if value is not None}.items() <= matched.items()
    return matched


def test_exact_predictions():
    references = [row(1, (10, 20)), row(2), row(3, (10, 20), (40, 50))]
    predictions = [prediction(1, (10, 20, 1)), prediction(2, exist=0.1), prediction(3, (10, 20, 1), (40, 50, 1))]
    scores = both_modes(predictions, references)
    not_perfect = {"G-mIoU@1": 83.33, "mR@1": 75.0, "mR+@1": 0.0, "mIoU+@1": 0.0}  # one window for two moments
    assert scores == {**dict.fromkeys(scores, 100.0), **not_perfect}


def test_moments_are_cleaned():
    messy = row(1, (-5, 20), (40, 50), (0, 20), (30, 30), (90, 200), (150, 160), (60, 55))
    clean = row(1, (0, 20), (40, 50), (90, 100))
    predictions = [prediction(1, (40, 50, 0.9), (0, 20, 0.5))]
    assert brief(predictions, [messy]) == brief(predictions, [clean])
    outside = [row(1, (10, 20)), row(2, (150, 160))]
    scores = score_generalized([prediction(1, (10, 20)), prediction(2, exist=0)], outside)
    assert scores["stats"]["num_negative"] == 1


def test_existence_is_strictly_above_the_threshold():
    references = [row(1, (10, 20)), row(2, (10, 20)), row(3), row(4)]
    predictions = [
        prediction(1, (10, 20, 1), exist=0.6),
        prediction(2, (10, 20, 1), exist=0.5),
        prediction(3, exist=0.4),
        prediction(4, exist=0.41),
    ]
    details = score_generalized(predictions, references)["GMR-CLS"]["per_threshold"]
    counts = ("TP", "TN", "FP", "FN")
    assert [details["0.4"][name] for name in counts] == [2, 1, 1, 0]
    assert [details["0.6"][name] for name in counts] == [0, 2, 0, 2]
    assert details["0.4"]["Rej-P"] == 100
    assert details["0.4"]["Rej-R"] == 50
    assert details["0.4"]["Rej-F1"] == 66.67
    assert details["0.4"]["Acc"] == 75


def test_gate_of_the_generalized_iou():
    references = [row(1, (10, 20)), row(2, (10, 20)), row(3)]
    predictions = [prediction(1, (10, 20), exist=0.41), prediction(2, (10, 20), exist=0.4), prediction(3, exist=0.9)]
    # The second is rejected; the third is found, but without a moment both sides are empty.
    assert both_modes(predictions, references)["G-mIoU@1"] == 66.67
    gate = score_generalized(predictions, references)["G-mIoU_gate"]
    assert gate["num_predicted_positive"] == 2
    assert gate["num_non_empty_windows_before_gate"] == 2
    assert gate["num_non_empty_windows_after_gate"] == 1


def test_further_predictions_cost_and_empty_ones_do_not():
    predictions = [prediction(1, (5, 5), (10, 20), (60, 70), (80, 90))]
    scores = both_modes(predictions, [row(1, (10, 20))])
    assert scores["G-mIoU@1"] == 100
    assert scores["G-mIoU@3"] == 33.33


def test_pair_without_overlap_uses_the_moment_up():
    references = [row(1, (10, 20), (50, 60))]
    scores = both_modes([prediction(1, (80, 90), (10, 20))], references)
    assert (scores["mIoU@3"], scores["mR@3"], scores["G-mIoU@3"]) == (0, 50, 0)
    scores = both_modes([prediction(1, (10, 20), (80, 90))], references)
    assert scores["G-mIoU@3"] == 50  # the second pair has an IoU of 0 and makes the denominator 2 instead of 3
    assert (scores["mIoU@3"], scores["mIoU+@3"]) == (50, 0)


def test_moments_without_a_prediction_do_not_lower_the_mean_iou():
    scores = both_modes([prediction(1, (10, 20))], [row(1, (10, 20), (50, 60), (80, 90))])
    assert (scores["mIoU@1"], scores["mR@1"], scores["mIoU+@1"]) == (100, 33.33, 0)


def test_equal_overlaps_take_the_first_moment_in_pairing_and_the_last_in_the_map():
    # (2, 12) fits (0, 10) and (4, 14) equally well; (0, 8) fits only the first.
    scores = both_modes([prediction(1, (2, 12, 0.9), (0, 8, 0.8))], [row(1, (0, 10), (4, 14))])
    assert scores["mR@3"] == 35  # 4 thresholds with one pair of two, and 3 with (0, 8) alone
    assert scores["mAP"] == 47.5


def test_map_reads_ten_and_sorts_by_score():
    wrong = [(30, 31, 0.1)] * 9
    references = [row(1, (10, 20))]
    assert both_modes([prediction(1, *wrong, (10, 20, 0.9))], references)["mAP"] == 100
    assert both_modes([prediction(1, *wrong, (30, 31, 0.1), (10, 20, 0.9))], references)["mAP"] == 0
    assert both_modes([prediction(1, (30, 31, 0.9), (10, 20))], references)["mAP"] == 100  # a missing score is 1


def test_existence_score_from_the_moments():
    references = [row(1, (10, 20)), row(2)]
    predictions = [prediction(1, (10, 20, 0.3), (40, 50, 0.8), (60, 70)), prediction(2)]
    for record in predictions:
        del record["pred_exist_score"]
    for mode in (False, True):
        scores = score_generalized(predictions, references, match_reference_code=mode)
        assert scores["GMR-CLS"]["score_sources"] == {"window_score": 1, "default": 1}
        assert scores["brief"]["Rej-F1@0.6"] == 100


def test_reversed_predictions():
    """As long as a moment they are a hit of mAP in the public code, and an error here."""
    predictions = [prediction(1, (40, 30, 0.9))]
    scores = brief(predictions, [row(1, (10, 20))], match_reference_code=True)
    assert (scores["mAP"], scores["mR@1"], scores["mIoU@1"]) == (100, 0, 0)
    # It pairs with a moment of another length, at an IoU of 0.
    references = [row(1, (10, 20), (50, 70))]
    scores = brief([prediction(1, (40, 30), (50, 70))], references, match_reference_code=True)
    assert (scores["mIoU@3"], scores["mR@3"]) == (0, 50)
    with pytest.raises(ValueError, match=r"`pred_relevant_windows` of query '1'.*start <= end, got \[40, 30, 0.9\]"):
        brief(predictions, [row(1, (10, 20))])


def test_query_without_a_prediction_counts():
    references = [row(1, (10, 20)), row(2, (10, 20)), row(3), row(4)]
    predictions = [prediction(1, (10, 20), exist=0.2), prediction(3, exist=0.1)]
    full = [*predictions, prediction(2, exist=0), prediction(4, exist=0)]
    assert brief(predictions, references) == brief(full, references)
    scores = score_generalized(predictions, references, match_reference_code=True)
    assert scores["stats"]["num_total"] == 2
    assert scores["brief"]["mAP"] == 100
    assert brief(predictions, references)["mAP"] == 50
    assert brief(predictions, references, match_number=False) == brief(predictions, [references[0], references[2]])


def test_missing_existence_is_the_lowest_score():
    references = [row(1, (10, 20)), row(2)]
    predictions = [prediction(1, exist=-3.0)]
    assert brief(predictions, references)["AUROC"] == 50  # both have the lowest score, -3


def test_figures_without_a_query():
    references, predictions = [row(1, (10, 20))], [prediction(1, (10, 20))]
    ours, matched = brief(predictions, references), brief(predictions, references, match_reference_code=True)
    empty = {name for name, value in ours.items() if value is None}
    assert empty == {
        "AUROC",
        "Rej-F1@0.4",
        "Rej-F1@0.6",
        *(f"{name}+@{k}" for name in ("mR", "mIoU") for k in (1, 3, 5)),
    }
    assert matched["AUROC"] == 50
    assert {matched[name] for name in empty - {"AUROC"}} == {0}
    with pytest.raises(ValueError, match="None of the `references` has a moment"):
        brief([prediction(1)], [row(1)])


def test_unknown_query():
    predictions, references = [prediction(1, (10, 20)), prediction(9)], [row(1, (10, 20))]
    with pytest.raises(ValueError, match="lacks: '9'"):
        brief(predictions, references)
    matched = brief(predictions, references, match_reference_code=True)
    assert matched == brief(predictions[:1], references, match_reference_code=True)


@pytest.mark.parametrize(
    "moment", [["10", 20, 0.9], [10, math.nan], [10], [10, 20, None], [10, 20, 0.9, 1], [True, 20], 10, [10, 10**400]]
)
def test_malformed_prediction_is_named(moment):
    for mode in (False, True):
        with pytest.raises(ValueError, match="`pred_relevant_windows` of query '1'"):
            brief([{"qid": 1, "pred_relevant_windows": [moment]}], [row(1, (10, 20))], match_reference_code=mode)


@pytest.mark.parametrize("value", ["0.3", "high", True, math.nan])
def test_malformed_existence_is_named(value):
    with pytest.raises(ValueError, match="`pred_exist_score` of query '1'"):
        brief([prediction(1, (10, 20), exist=value)], [row(1, (10, 20))])


def test_queries_that_are_not_annotated_are_not_scored():
    references = [row(1, (10, 20)), {"qid": "2", "duration_sec": 100, "moments": None}]
    predictions = [prediction(1, (10, 20)), prediction(2, (10, 20))]
    assert brief(predictions, references) == brief(predictions[:1], references[:1])


def test_repeated_query():
    """The last record counts; mAP reads both, and the gate counts both."""
    predictions = [prediction(1, (10, 20, 0.9)), prediction(1, (80, 90, 0.95), exist=0.3)]
    scores = score_generalized(predictions, [row(1, (10, 20))])
    assert (scores["brief"]["mAP"], scores["brief"]["mR@5"]) == (50, 0)
    assert scores["G-mIoU_gate"]["num_submission_samples"] == 2
    assert scores["G-mIoU_gate"]["num_predicted_positive"] == 1


def test_benchmark():
    references, predictions = [row(1, (10, 20)), row(2)], [prediction(1, (10, 20)), prediction(2, exist=0.1)]
    assert compute_scores("soccer_gmr", predictions, references) == score_generalized(predictions, references)
