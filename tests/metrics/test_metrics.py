"""Corner cases of the metrics, above all those in which the public evaluators have no answer."""

import copy
import math
import tracemalloc

import datasets
import pytest

from dataset_scripts.features import FEATURES
from dataset_scripts.metrics import compute_scores, score_moments
from dataset_scripts.metrics.highlights import youtube_average_precision
from dataset_scripts.metrics.summaries import tvsum_average_precision


def reference(qid="1", moments=((0, 10),), scores=((0,), (4,)), query="a dog runs"):
    return {
        "qid": qid,
        "query": query,
        "moments": None if moments is None else [list(moment) for moment in moments],
        "saliency": None if scores is None else {"scores": [list(row) for row in scores]},
    }


def prediction(qid="1", windows=((0, 10, 1.0),), scores=(0.1, 0.9)):
    return {
        "qid": qid,
        "pred_relevant_windows": [list(window) for window in windows],
        "pred_saliency_scores": list(scores),
    }


def domain_row(video, scores, domain="dog"):
    return {"qid": video, "domain": domain, "saliency": {"scores": scores}}


@pytest.mark.parametrize(
    "second",
    [
        [],
        [prediction("2", windows=(), scores=())],
        [{"qid": 2, "vid": "video", "pred_saliency_scores": None}],
    ],
)
def test_query_without_prediction_counts_as_zero(second):
    references = [reference("1"), reference("2")]
    scores = compute_scores("qvhighlights", [prediction("1"), *second], references)
    assert scores["brief"]["MR-full-mAP"] == scores["brief"]["MR-full-R5@0.7"] == scores["brief"]["MR-full-mIoU"] == 50
    assert scores["HL-min-Fair"] == {"HL-mAP": 50, "HL-Hit1": 50}
    with pytest.raises(ValueError, match="'2'"):
        compute_scores("qvhighlights", [prediction("1"), *second], references, match_reference_code=True)


def test_query_without_annotation_is_not_scored():
    predictions = [prediction("1"), prediction("2")]
    references = [reference("1"), reference("2", moments=None, scores=None)]
    scores = compute_scores("qvhighlights", predictions, references)
    assert scores["brief"]["MR-full-mAP"] == scores["brief"]["HL-min-Fair-mAP"] == 100
    with pytest.raises(ValueError, match="`moments`.*'2'"):
        compute_scores("qvhighlights", predictions, references, match_reference_code=True)


def emptied(figures):
    return {name: emptied(some) if isinstance(some, dict) else None for name, some in figures.items()}


def test_range_without_a_query():
    predictions, references = [prediction(windows=[(0, 8, 1.0)])], [reference()]
    scores = compute_scores("tacos", predictions, references)
    assert scores["long"] == emptied(scores["full"])
    assert scores["brief"]["MR-long-mIoU"] is None
    matched = compute_scores("tacos", predictions, references, match_reference_code=True)
    assert matched["long"] == matched["middle"] == matched["full"] == matched["short"] == scores["short"]


def test_reference_code_decides_by_the_first_prediction():
    predictions = [{"qid": "1", "pred_relevant_windows": [[0, 10, 1.0]]}, prediction("2")]
    references = [reference("2"), reference("1")]
    scores = compute_scores("qvhighlights", predictions, references)
    assert scores["HL-min-Fair"] == {"HL-mAP": 50, "HL-Hit1": 50}
    matched = compute_scores("qvhighlights", predictions, references, match_reference_code=True)
    assert "HL-min-Fair" not in matched
    assert matched["full"] == scores["full"]
    with pytest.raises(ValueError, match="`pred_saliency_scores` is missing or empty, as for '1'"):
        compute_scores("qvhighlights", predictions[::-1], references, match_reference_code=True)


def test_reference_code_decides_by_the_first_reference():
    predictions, references = [prediction("1"), prediction("2")], [reference("1", scores=None), reference("2")]
    assert compute_scores("qvhighlights", predictions, references)["HL-min-Fair"] == {"HL-mAP": 100, "HL-Hit1": 100}
    assert "HL-min-Fair" not in compute_scores("qvhighlights", predictions, references, match_reference_code=True)
    with pytest.raises(ValueError, match="`saliency` is missing or empty, as for '1'"):
        compute_scores("qvhighlights", predictions, references[::-1], match_reference_code=True)


@pytest.mark.parametrize("mode", [False, True])
def test_queries_that_both_sides_have(mode):
    predictions, references = [prediction("1"), prediction("2")], [reference("2"), reference("3")]
    with pytest.raises(ValueError, match="`predictions` holds queries that `references` lacks: '1'"):
        compute_scores("qvhighlights", predictions, references, match_reference_code=mode)
    scores = compute_scores("qvhighlights", predictions, references, match_reference_code=mode, match_number=False)
    assert scores == compute_scores("qvhighlights", predictions[1:], references[:1], match_reference_code=mode)


def test_query_length_in_words():
    counts = [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 99]
    references = [reference(str(count), query=" ".join(["word"] * count)) for count in counts]
    bins = compute_scores("tacos", [prediction(count) for count in counts], references)["by_query_length"]
    assert [some["queries"] for some in bins.values()] == [3, 2, 2, 2, 2]
    bins = compute_scores("tacos", [prediction()], [reference()])["by_query_length"]
    assert bins["1-10"] == {"queries": 1, "MR-mAP": 100}
    assert bins[">=41"] == {"queries": 0, "MR-mAP": None}


def test_nothing_to_score():
    for predictions, references in (
        ([{"qid": "1"}], [reference()]),
        ([prediction()], [reference(moments=None, scores=None)]),
        ([], [reference()]),
    ):
        with pytest.raises(ValueError, match="nothing to score"):
            compute_scores("qvhighlights", predictions, references)
    with pytest.raises(ValueError, match="no query in common"):
        compute_scores("qvhighlights", [], [])
    with pytest.raises(ValueError, match="None of the `references` has `moments`"):
        score_moments([prediction()], [reference(moments=None)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_relevant_windows": [[0, math.nan, 1.0]]}, "`pred_relevant_windows` of query '7'"),
        ({"pred_relevant_windows": [[0, 1, math.inf]]}, "`pred_relevant_windows` of query '7'"),
        (
            {"pred_relevant_windows": [[0, 1]]},
            r"`pred_relevant_windows` of query '7'.*3 finite numbers, got \[\[0, 1\]\]",
        ),
        ({"pred_relevant_windows": [0, 1, 0.5]}, "`pred_relevant_windows` of query '7'"),
        ({"pred_relevant_windows": 0.5}, "`pred_relevant_windows` of query '7' must be a list, got 0.5"),
        ({"pred_relevant_windows": {"a": [0, 1, 1]}}, "`pred_relevant_windows` of query '7' must be a list"),
        ({"pred_relevant_windows": [[0, 10**400, 1]]}, "`pred_relevant_windows` of query '7'"),
        ({"pred_saliency_scores": 1}, "`pred_saliency_scores` of query '7' must be a list, got 1"),
        ({"pred_saliency_scores": "12"}, "`pred_saliency_scores` of query '7' must be a list, got 12"),
        ({"pred_saliency_scores": [0.1, None]}, "`pred_saliency_scores` of query '7'"),
        ({"pred_saliency_scores": [[0.1], [0.2]]}, "`pred_saliency_scores` of query '7'"),
        ({"pred_saliency_scores": [-math.inf, 0.0]}, "`pred_saliency_scores` of query '7'"),
    ],
)
def test_numbers_that_cannot_be_scored_are_named(change, message):
    references = [reference("1"), reference("7")]
    with pytest.raises(ValueError, match=message):
        compute_scores("qvhighlights", [prediction("1"), {**prediction("7"), **change}], references)


def test_annotations_that_cannot_be_scored_are_named():
    with pytest.raises(ValueError, match="`moments` of query '2'"):
        compute_scores("tacos", [prediction("1"), prediction("2")], [reference("1"), reference("2", [[0, math.nan]])])
    references = [reference("1"), reference("2", scores=[[0, 1], [0, 1]])]
    with pytest.raises(ValueError, match="`saliency` of query '2'.*1 finite numbers"):
        compute_scores("qvhighlights", [prediction("1"), prediction("2")], references)
    with pytest.raises(ValueError, match=r"number 1 has the keys \['windows'\]"):
        compute_scores("tacos", [prediction("1"), {"windows": []}], [reference("1")])


def test_one_long_query_does_not_pad_all_others():
    """300 queries: one has a six-hour video and 2,000 moments, another as many scores beyond its annotated units."""
    references = [reference(str(number), scores=[[1, 2, 4]] * 10) for number in range(300)]
    predictions = [prediction(str(number)) for number in range(300)]
    expected = compute_scores("qvhighlights", predictions[2:], references[2:])
    references[0] = reference("0", [[start, start + 1] for start in range(2000)], [[1, 2, 4]] * 10_800)
    predictions[1] = {**predictions[1], "pred_saliency_scores": [0.5] * 10_800}
    tracemalloc.start()
    scores = compute_scores("qvhighlights", predictions, references)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20  # 10,800 clips of each query and annotator alone would be 78 MB
    assert scores["by_query_length"]["1-10"]["queries"] == 300
    assert compute_scores("qvhighlights", predictions, references[2:], match_number=False) == expected


def test_errors_list_a_few_queries_and_count_the_rest():
    with pytest.raises(ValueError, match="'0', '1', '2', '3', '4' and 3 more"):
        compute_scores("tacos", [prediction(qid) for qid in range(8)], [reference("9")])


def test_unknown_benchmark():
    with pytest.raises(ValueError, match="`benchmark` must be one of qvhighlights, .* tvsum, .* got 'qvh'"):
        compute_scores("qvh", [prediction()], [reference()])


def test_duplicates():
    """mAP uses the predictions of both records, ten of each; R1, R5, mIoU and highlights use the last record."""
    wrong = [(50, 60, 1.0)] * 10
    first = prediction(windows=[(0, 10, 0.5)], scores=(0.9, 0.1))
    last = prediction(windows=[*wrong, (0, 10, 2.0)])
    brief = compute_scores("qvhighlights", [first, last], [reference()])["brief"]
    assert brief["MR-full-mAP"] == pytest.approx(100 / 11, abs=0.01)  # after ten wrong ones; the eleventh is cut
    assert brief["MR-full-mIoU"] == brief["MR-full-R5@0.3"] == 0
    assert brief["HL-min-Fair-Hit1"] == 100

    again = reference(moments=[(50, 60)], scores=[[4], [0]])
    brief = compute_scores("qvhighlights", [first], [reference(), again])["brief"]
    assert brief["MR-full-mAP"] == 50  # one of two moments
    assert brief["MR-full-mIoU"] == 0
    assert brief["HL-min-Fair-Hit1"] == 100


def test_equal_overlaps_and_empty_intervals():
    """Of equal IoUs the later moment counts; 0 / 0 is a match for mAP, but not for R1."""
    moments = [(0, 4), (4, 8)]
    windows = [(2, 6, 0.9), (4, 8, 0.8), (0, 4, 0.7)]
    full = compute_scores("tacos", [prediction(windows=windows)], [reference(moments=moments)])["full"]
    assert full["MR-mAP"]["0.5"] == pytest.approx(100 * (1 / 2 * 2 / 3 + 1 / 2 * 2 / 3), abs=0.01)
    point = compute_scores("tacos", [prediction(windows=[(3, 3, 1)])], [reference(moments=[(90, 90)])])
    assert (point["full"]["MR-mAP"]["0.95"], point["full"]["MR-R1"]["0.3"]) == (100, 0)
    assert all(
        point["brief"][f"MR-{name}-mAP"] is None for name in ("long", "middle", "short")
    )  # zero-length moments are only in "full"


def test_inputs_stay_unchanged_and_may_be_iterators():
    predictions, references = [prediction("1"), prediction("2")], [reference("1"), reference("2")]
    before = copy.deepcopy((predictions, references))
    want = compute_scores("qvhighlights", predictions, references)
    assert (predictions, references) == before
    assert compute_scores("qvhighlights", iter(predictions), iter(references)) == want
    assert compute_scores("charades_sta", predictions, references) == want


def test_rows_of_a_dataset_are_references():
    predictions, references = [prediction("1"), prediction("2")], [reference("1"), reference("2", scores=None)]
    rows = [{**dict.fromkeys(FEATURES), **row} for row in references]
    dataset = datasets.Dataset.from_list(rows, features=FEATURES)
    scores = compute_scores("qvhighlights", predictions, dataset)
    assert scores == compute_scores("qvhighlights", predictions, references)
    assert scores["HL-min-VeryGood"]["HL-mAP"] == 100


def test_domains():
    predictions = [
        {"qid": "a", "pred_saliency_scores": [0.9, 0.1]},
        {"vid": "b", "pred_saliency_scores": [0.9, 0.1]},
    ]
    references = [
        domain_row("a", [[1], [-1]]),
        domain_row("b", [[-1], [0]]),
        domain_row("c", [[1], [1]]),
        domain_row("d", [[1], [1]], "surfing"),
    ]
    brief = compute_scores("youtube_highlights", predictions, references)["brief"]
    assert brief == {"mAP-dog": 33.33, "mAP-surfing": 0, "mAP-average": 16.67}
    with pytest.raises(ValueError, match="'c', 'd'"):
        compute_scores("youtube_highlights", predictions, references, match_reference_code=True)
    assert compute_scores("youtube_highlights", predictions, references[:2])["brief"]["mAP-average"] == 50
    with pytest.raises(ValueError, match="video 'b'.*2 annotated units, got 3"):
        compute_scores("youtube_highlights", [{"qid": "b", "pred_saliency_scores": [1, 2, 3]}], references)
    with pytest.raises(ValueError, match="video 'a' needs a `domain`"):
        compute_scores("youtube_highlights", predictions[:1], [domain_row("a", [[1], [1]], None)])


def test_equal_scores_keep_the_order_of_units():
    assert youtube_average_precision([0.5] * 100, [1] + [0] * 99) == 1
    assert tvsum_average_precision([0.5] * 100, [[1]] * 4 + [[2]] + [[1]] * 95) == pytest.approx(0.1)


def test_summaries_are_cut_to_the_shorter_side():
    annotation = [[1], [1], [5], [1], [5], [1]]
    references = [domain_row("a", annotation, "BK")]

    def score(scores):
        return compute_scores("tvsum", [{"qid": "a", "pred_saliency_scores": scores}], references)["brief"]["mAP-BK"]

    assert score([0, 0, 2, 0, 1, 0]) == score([0, 0, 2, 0, 1, 0, 9, 9]) == 100
    assert score([1, 0, 2]) == 100  # the second positive shot has no score; recall counts what is among the five
    assert score([1, 0]) == 0


def test_another_positive_shot_among_the_five_can_lower_the_summary_score():
    """Recall counts only the positives among the five."""
    annotation = [[5], [1], [1], [1], [1], [1], [1], [5]]
    assert tvsum_average_precision([8, 7, 6, 5, 4, 3, 2, 1], annotation) == 1
    assert tvsum_average_precision([8, 7, 6, 5, 3, 2, 1, 4], annotation) < 1
