"""The metrics of VUE-TR, by small examples of each rule and by what the default mode does differently."""

import math

import pytest

from dataset_scripts.metrics import compute_scores, read_submission, score_interval_sets


def row(qid, *moments, domain=None):
    return {"qid": str(qid), "moments": [list(moment) for moment in moments], "domain": domain}


def prediction(qid, *moments):
    return {"qid": qid, "pred_relevant_windows": [list(moment) for moment in moments]}


def figures(predictions, references, **options):
    """Precision, recall and IoU over all queries."""
    overall = score_interval_sets(predictions, references, **options)["overall"]
    return [overall["precision"], overall["recall"], overall["iou"]]


def both_modes(answer, moments):
    """Rounded, since the areas are sums of a hundred terms."""
    ours = figures([prediction(1, *answer)], [row(1, *moments)])
    assert ours == figures([prediction(1, *answer)], [row(1, *moments)], match_reference_code=True)
    return [round(value, 6) for value in ours]


def test_exact_answer():
    """IoU must be above the threshold, so it misses t = 1: half a step of the trapezoidal rule."""
    assert both_modes([(10, 20, 0.3), (30, 40, 0.9)], [(10, 20), (30, 40)]) == [100, 100, 99.5]


def test_half_of_a_moment():
    """Recall 0.5 reaches the thresholds 0, ..., 0.5; IoU exceeds 0, ..., 0.49."""
    assert both_modes([(10, 15)], [(10, 20)]) == [100, 50.5, 49.5]


def test_threshold_that_is_a_little_above_its_name():
    """0.35 as 35 * 0.01 is above 7 / 20."""
    assert both_modes([(0, 20)], [(0, 7)])[0] == 34.5


def test_answer_is_rounded_outwards():
    assert both_modes([(10.9, 19.1)], [(10, 20)]) == [100, 100, 99.5]
    assert both_modes([(10, 20)], [(10.25, 20)])[0] == 97.5  # moments are not


def test_wrong_answer():
    """Every value is at least 0."""
    assert both_modes([(50, 60)], [(10, 20)]) == [0.5, 0.5, 0]


def test_order_and_overlap_of_the_answer():
    """The public precision and recall depend on them; those of the default mode do not."""
    references = [row(1, (10, 20), (30, 40))]
    shuffled = [prediction(1, (30, 40), (10, 20))]
    assert figures(shuffled, references) == pytest.approx([100, 100, 99.5])
    assert figures(shuffled, references, match_reference_code=True) == pytest.approx([50.5, 50.5, 99.5])
    twice = [prediction(1, (10, 20), (30, 40), (50, 60), (50, 60))]
    assert figures(twice, references)[0] == pytest.approx(66.5)  # 20 of 30 seconds
    assert figures(twice, references, match_reference_code=True)[0] == pytest.approx(50.5)  # 20 of 40
    touching = [prediction(1, (10, 15), (15, 20), (30, 40))]
    assert figures(touching, references) == pytest.approx([100, 100, 99.5])


def test_empty_answers():
    references = [row(1, (10, 20)), row(2, (10, 20))]
    exact = prediction(1, (10, 20))
    for some in ([exact, prediction(2)], [exact, prediction(2, (15, 15))], [exact]):
        assert figures(some, references) == pytest.approx([50.25, 50.25, 49.75])
    assert figures([exact, prediction(2)], references, match_reference_code=True) == pytest.approx([100, 50.25, 49.75])
    assert figures([exact], references, match_reference_code=True) == pytest.approx([100, 100, 99.5])
    nothing = figures([prediction(1)], references[:1], match_reference_code=True)
    assert math.isnan(nothing[0])
    assert figures([prediction(1)], references[:1])[0] == pytest.approx(0.5)


def test_absent_queries():
    """No answer is the right one; recall leaves the query out."""
    references = [row(1, (10, 20)), row(2)]
    exact = prediction(1, (10, 20))
    assert figures([exact, prediction(2)], references) == pytest.approx([100, 100, 99.5])
    assert figures([exact, prediction(2, (0, 5))], references) == pytest.approx([50.25, 100, 49.75])
    assert figures([prediction(2)], references[1:])[1] is None


def test_reversed_predictions():
    matched = figures([prediction(1, (20, 10))], [row(1, (10, 20))], match_reference_code=True)
    assert matched == pytest.approx([100, 100, 0])
    dropped = [prediction(1, (20, 10), (30, 40))]
    assert figures(dropped, [row(1, (30, 40))], match_reference_code=True)[2] == pytest.approx(99.5)
    with pytest.raises(ValueError, match=r"`pred_relevant_windows` of query '1'.*start <= end, got \[20, 10\]"):
        figures([prediction(1, (20, 10))], [row(1, (10, 20))])


def test_groups_are_the_parts_of_the_domain():
    references = [
        row(1, (10, 20), domain="short/phrase/vision"),
        row(2, (10, 20), domain="short/keyword/vision+audio"),
    ]
    scores = score_interval_sets([prediction(1, (10, 20)), prediction(2)], references)
    assert {name: scores[name]["queries"] for name in scores if name != "brief"} == {
        "overall": 2,
        "short": 2,
        "phrase": 1,
        "vision": 1,
        "keyword": 1,
        "vision+audio": 1,
    }
    assert scores["phrase"]["recall"] == pytest.approx(100)
    assert scores["keyword"]["recall"] == pytest.approx(0.5)
    assert scores["brief"] == {"AUC-precision": 50.25, "AUC-recall": 50.25, "AUC-IoU": 49.75}


def test_repeated_query():
    """The last answer counts; in the public code each answer counts as a query."""
    predictions = [prediction(1, (10, 20)), prediction(1)]
    assert score_interval_sets(predictions, [row(1, (10, 20))])["overall"]["queries"] == 1
    matched = score_interval_sets(predictions, [row(1, (10, 20))], match_reference_code=True)["overall"]
    assert matched["queries"] == 2
    assert matched["recall"] == pytest.approx(50.25)


@pytest.mark.parametrize("moment", [["10", 20], [10, math.nan], [10], []])
def test_malformed_prediction_is_named(moment):
    for mode in (False, True):
        with pytest.raises(ValueError, match="`pred_relevant_windows` of query '1'"):
            figures([prediction(1, moment)], [row(1, (10, 20))], match_reference_code=mode)


def test_two_sides():
    predictions, references = [prediction(1, (10, 20)), prediction(9)], [row(1, (10, 20))]
    for mode in (False, True):
        with pytest.raises(ValueError, match="lacks: '9'"):
            figures(predictions, references, match_reference_code=mode)
    assert figures(predictions, references, match_number=False) == pytest.approx([100, 100, 99.5])
    with pytest.raises(ValueError, match="None of the `references` has `moments`"):
        figures(predictions[:1], [{"qid": "1", "moments": None}])


def test_public_submission():
    document = [{"query_id": 1, "query": "x", "answer": [[10.0, 20.0]]}, {"query_id": 2, "answer": [[]]}]
    assert read_submission(document) == [prediction(1, (10.0, 20.0)), prediction(2)]
    assert read_submission([{"qid": 1, "pred_exist_score": 0.5}]) == [{"qid": 1, "pred_exist_score": 0.5}]
    for wrong, message in (
        ({"results": []}, "A submission is a list of records"),
        ([1], "Record 0 of the submission"),
    ):
        with pytest.raises(ValueError, match=message):
            read_submission(wrong)


def test_benchmark():
    predictions, references = [prediction(1, (10, 20))], [row(1, (10, 20))]
    assert compute_scores("vue_tr", predictions, references) == score_interval_sets(predictions, references)
