"""Existence: recognising the queries that nothing in the video matches."""

import math

import numpy as np
import pytest

from dataset_scripts.metrics import compute_scores
from dataset_scripts.metrics.existence import (
    calibration_error,
    false_alarm_rate,
    rejection_f1,
    roc_auc,
    score_existence,
)


def prediction(qid, score, windows=()):
    return {"qid": qid, "pred_exist_score": score, "pred_relevant_windows": [list(window) for window in windows]}


def rows(*present):
    """One row per flag, with the qids "0", "1", ..."""
    return [{"qid": str(index), "moments": [[0, 10]] if flag else []} for index, flag in enumerate(present)]


def test_roc_auc_counts_ties_half():
    assert roc_auc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == 3.5 / 4
    assert roc_auc([0.1, 0.9], [True, False]) == 0
    assert roc_auc([0.5] * 6, [True, False] * 3) == 0.5
    assert roc_auc([0.1, 0.9], [True, True]) == roc_auc([0.1, 0.9], [False, False]) == 0.5


def test_roc_auc_equals_the_count_of_all_pairs():
    generator = np.random.default_rng(0)
    scores, present = generator.integers(0, 5, 200) / 4, generator.random(200) < 0.4
    pairs = np.sign(scores[present][:, None] - scores[~present]) / 2 + 0.5
    assert roc_auc(scores, present) == pytest.approx(pairs.mean(), abs=1e-12)


def test_false_alarm_rate_at_the_highest_threshold_that_detects_the_share():
    present_scores = np.arange(1, 21) / 20  # 19 of 20 are at or above 0.1
    scores = [*present_scores, 0.05, 0.1, 0.11, 0.0]
    present = [True] * 20 + [False] * 4
    assert false_alarm_rate(scores, present) == 2 / 4
    assert false_alarm_rate(scores, present, detection=1.0) == 3 / 4
    assert false_alarm_rate(scores, present, detection=0.01) == 0
    with pytest.raises(ValueError, match="got 2 present and 0 absent"):
        false_alarm_rate([0.1, 0.2], [True, True])
    with pytest.raises(ValueError, match="`detection` must be above 0 and at most 1, got 0"):
        false_alarm_rate(scores, present, detection=0)


def test_calibration_error_by_hand():
    # [0.2, 0.3): mean 0.25, share 0.5; the last bin, which contains 1: mean 0.95, share 0.5.
    assert calibration_error([0.2, 0.29999, 0.9, 1.0], [True, False, True, False]) == pytest.approx(0.35, abs=1e-4)
    assert calibration_error([0.0, 1.0], [False, True]) == 0
    assert calibration_error([0.0, 1.0], [False, True], num_bins=1) == 0
    assert calibration_error([0.4, 0.6], [True, False], num_bins=1) == pytest.approx(0)
    assert calibration_error([0.4, 0.6], [True, False], num_bins=2) == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got values from 0.5 to 1.5"):
        calibration_error([0.5, 1.5], [True, False])


def test_rejection_f1_rejects_scores_at_the_threshold():
    present = [True, True, False, False, False]
    scores = [0.9, 0.4, 0.4, 0.1, 0.6]
    assert rejection_f1(scores, present, 0.4) == pytest.approx(2 / 3)  # precision 2 / 3, recall 2 / 3
    assert rejection_f1(scores, present, 0.3) == pytest.approx(2 * (1 * 1 / 3) / (1 + 1 / 3))
    assert rejection_f1([0.9, 0.9], [True, False], 0.5) == 0
    assert rejection_f1([0.9, 0.9], [True, True], 0.5) == 0


@pytest.mark.parametrize(
    ("scores", "present", "message"),
    [
        ([0.1, math.nan], [True, False], "must be finite, got nan"),
        ([0.1], [True, False], "equally long"),
        ([], [], "empty"),
    ],
)
def test_arrays_that_cannot_be_scored(scores, present, message):
    for function in (roc_auc, false_alarm_rate, calibration_error):
        with pytest.raises(ValueError, match=message):
            function(scores, present)


def test_score_existence():
    predictions = [prediction("0", 0.9), prediction("1", 0.2), prediction("2", 0.4), prediction("3", 0.1)]
    scores = score_existence(predictions, rows(True, True, False, False))
    assert scores == {"EX-AUROC": 75.0, "EX-FAR@95": 50.0, "EX-ECE": 35.0, "EX-Rej-F1@0.5": 80.0}


def test_missing_scores_are_the_lowest():
    references = rows(True, True, False)
    full = [prediction("0", 0.9), prediction("1", 0.0), prediction("2", 0.4)]
    expected = score_existence(full, references)
    assert score_existence([full[0], full[2]], references) == expected
    assert (
        score_existence([full[0], {"qid": 1, "pred_relevant_windows": [[0, 1, 0.99]]}, full[2]], references)
        == expected
    )
    logits = [prediction("0", -1.0), prediction("2", -3.0)]
    assert score_existence(logits, references)["EX-AUROC"] == 75  # below 0 the lowest score given
    assert score_existence(logits, references)["EX-ECE"] is None


def test_reference_mode_reads_as_soccer_gmr():
    references = rows(True, True, False, False)
    predictions = [
        prediction("0", "0.3"),
        prediction("1", None, [[0, 1, 0.8], [0, 1]]),
        prediction("2", [1]),
        prediction("9", 1),
    ]
    scores = score_existence(predictions, references, match_reference_code=True)
    assert (scores["EX-AUROC"], scores["EX-Rej-F1@0.5"]) == (100, 66.67)  # 0.3 and 0.8 against 0; query 3 is left out
    assert score_existence(predictions[:2], references, match_reference_code=True)["EX-AUROC"] == 50


def test_only_one_kind_of_queries():
    scores = score_existence([prediction("0", 0.2)], rows(False))
    assert scores == {"EX-AUROC": None, "EX-FAR@95": None, "EX-ECE": 20.0, "EX-Rej-F1@0.5": 100.0}
    assert score_existence([prediction("0", 0.2)], rows(True))["EX-Rej-F1@0.5"] is None


def test_queries_without_annotation_are_not_scored():
    references = [*rows(True, False), {"qid": "2", "moments": None}]
    predictions = [prediction("0", 0.9), prediction("1", 0.1), prediction("2", 0.95)]
    assert score_existence(predictions, references) == score_existence(predictions[:2], references[:2])
    with pytest.raises(ValueError, match="unknown which queries are absent"):
        score_existence(predictions[2:], references[2:])


@pytest.mark.parametrize("value", ["0.3", True, math.nan, math.inf, [0.3]])
def test_malformed_score_is_named(value):
    with pytest.raises(ValueError, match="`pred_exist_score` of query '1' must be a finite number, got "):
        score_existence([prediction("0", 0.5), prediction("1", value)], rows(True, False))


def test_unknown_query_is_named():
    with pytest.raises(ValueError, match="lacks: '7'"):
        score_existence([prediction("7", 0.5)], rows(True, False))


def grounding_rows():
    """A present query, and an absent one whose annotated saliency is 0 throughout."""
    present = {"qid": "1", "query": "a dog", "moments": [[0, 2]], "saliency": {"scores": [[4], [0]]}}
    absent = {"qid": "2", "query": "a cat", "moments": [], "saliency": {"scores": [[0], [0]]}}
    return [present, absent]


def grounding_predictions(**fields):
    found = {"qid": "1", "pred_relevant_windows": [[0, 2, 0.9]], "pred_saliency_scores": [0.9, 0.1]}
    imagined = {"qid": "2", "pred_relevant_windows": [[0, 2, 0.8]], "pred_saliency_scores": [0.8, 0.1]}
    return [{**found, **fields}, {**imagined, **fields}]


def test_absent_queries_are_not_scored_for_moments_and_highlights():
    predictions, references = grounding_predictions(), grounding_rows()
    scores = compute_scores("qvhighlights", predictions, references)
    assert scores == compute_scores("qvhighlights", predictions[:1], references[:1])
    assert scores["brief"]["MR-full-mAP"] == scores["brief"]["HL-min-Fair-mAP"] == 100
    assert not [name for name in scores["brief"] if name.startswith("EX")]


def test_existence_joins_the_brief_scores():
    predictions, references = grounding_predictions(pred_exist_score=0.5), grounding_rows()
    brief = compute_scores("qvhighlights", predictions, references)["brief"]
    without = compute_scores("qvhighlights", grounding_predictions(), references)["brief"]
    assert brief == {**without, **score_existence(predictions, references)}
    assert brief["EX-AUROC"] == 50
    present_only = compute_scores("qvhighlights", predictions[:1], references[:1])
    assert present_only["brief"] == without  # existence is not annotated where no query is absent


def test_absent_queries_alone_have_existence_scores_alone():
    predictions, references = grounding_predictions(pred_exist_score=0.25), grounding_rows()
    scores = compute_scores("qvhighlights", predictions[1:], references[1:])
    assert scores == {"brief": {"EX-AUROC": None, "EX-FAR@95": None, "EX-ECE": 25.0, "EX-Rej-F1@0.5": 100.0}}
    with pytest.raises(ValueError, match="nothing to score: .*`pred_exist_score`"):
        compute_scores("qvhighlights", grounding_predictions()[1:], references[1:])


def test_reference_code_has_no_absent_queries():
    predictions, references = grounding_predictions(pred_exist_score=0.5), grounding_rows()
    with pytest.raises(ValueError, match="no score where `moments` is missing or empty, as for '2'"):
        compute_scores("qvhighlights", predictions, references, match_reference_code=True)
    saliency = [{"qid": some["qid"], "pred_saliency_scores": some["pred_saliency_scores"]} for some in predictions]
    matched = compute_scores("qvhighlights", saliency, references, match_reference_code=True)
    assert matched["HL-min-Fair"] == {"HL-mAP": 50, "HL-Hit1": 50}  # counted as a failure there
    assert compute_scores("qvhighlights", saliency, references)["HL-min-Fair"] == {"HL-mAP": 100, "HL-Hit1": 100}
