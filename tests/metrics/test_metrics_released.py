"""The metrics give what the public evaluators print."""

import copy
import gzip
import json
import math

import numpy as np
import pytest

from dataset_scripts.metrics import compute_scores
from dataset_scripts.metrics.highlights import youtube_average_precision
from dataset_scripts.metrics.summaries import tvsum_average_precision


CASES = [
    "sample_val_preds",
    "25_windows_best_ones_last",
    "base",
    "charades_train_1500",
    "duplicate_query_in_predictions",
    "exact_predictions",
    "fewer_and_more_clips_than_gt",
    "first_query_lacks_saliency",
    "gt_with_zero_length_windows",
    "gt_without_saliency",
    "no_predicted_saliency",
    "no_predicted_windows_key",
    "one_query",
    "one_query_without_windows",
    "one_window_each",
    "only_queries_with_several_moments",
    "only_short_moments",
    "predictions_have_three_unknown_queries",
    "predictions_miss_four_queries",
    "predictions_outside_the_video",
    "reversed_predictions",
    "sixth_query_lacks_saliency",
    "tacos_val_1000",
    "ties_all_window_scores_equal",
    "ties_constant_saliency",
    "ties_saliency_rounded_to_0.1",
    "ties_window_scores_rounded_to_0.1",
    "windows_not_sorted_by_score",
    "zero_length_predictions",
]
REFUSED = {  # where the public code raises: the query that our error names
    "one_query_without_windows": "'4854'",
    "predictions_have_three_unknown_queries": "'900000', '900001', '900002'",
    "predictions_miss_four_queries": "'10173', '7451', '4487', '8078'",
    "sixth_query_lacks_saliency": "'4023'",
}


def read_lines(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return [json.loads(line) for line in file]


def read_json(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return json.load(file)


def to_row(record):
    """A record of the QVHighlights release as a row of the dataset."""
    saliency = None
    if "saliency_scores" in record:
        scores = [[0, 0, 0] for _ in range(int(record["duration"] / 2))]
        for clip, annotated in zip(record["relevant_clip_ids"], record["saliency_scores"], strict=True):
            scores[clip] = annotated
        saliency = {"scores": scores}
    return {
        "qid": str(record["qid"]),
        "query": record["query"],
        "moments": record["relevant_windows"],
        "saliency": saliency,
    }


@pytest.fixture(scope="module")
def read_case(shared_data):
    """Read predictions, references and the expected entry of a case."""
    folder = shared_data / "metrics"
    expected = read_json(folder / "expected.json")

    def read(case):
        entry = expected[case]
        references = [to_row(record) for record in read_lines(folder / entry["ground_truth"])]
        return read_lines(folder / entry["predictions"]), references, entry

    return read


def without_bins(scores):
    """The figures that the public evaluator reports too."""
    return {name: figures for name, figures in scores.items() if name != "by_query_length"}


def emptied(figures):
    return {name: emptied(some) if isinstance(some, dict) else None for name, some in figures.items()}


def test_every_stored_case_is_tested(shared_data):
    assert set(CASES) == set(read_json(shared_data / "metrics/expected.json"))


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_released_code(read_case, case):
    predictions, references, entry = read_case(case)
    if case in REFUSED:
        assert "error" in entry["r2_tuning"]
        with pytest.raises(ValueError, match=REFUSED[case]):
            compute_scores("qvhighlights", predictions, references, match_reference_code=True)
    else:
        scores = compute_scores("qvhighlights", predictions, references, match_reference_code=True)
        assert without_bins(scores) == entry["r2_tuning"]
        assert list(scores["brief"]) == list(entry["r2_tuning"]["brief"])


@pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED])
def test_default_mode_differs_only_in_empty_ranges(read_case, case):
    predictions, references, entry = read_case(case)
    want = copy.deepcopy(entry["r2_tuning"])
    lengths = [end - start for row in references for start, end in row["moments"]]
    for name, above, up_to in (("short", 0, 10), ("middle", 10, 30), ("long", 30, math.inf)):
        if name in want and not any(above < length <= up_to for length in lengths):
            assert want[name] == want["full"]
            want[name] = emptied(want[name])
            want["brief"] |= {f"MR-{name}-{figure}": None for figure in ("mAP", "mIoU")}
    scores = compute_scores("qvhighlights", predictions, references)
    if case == "first_query_lacks_saliency":  # the others are scored
        assert scores["HL-min-Fair"]["HL-Hit1"] > 50
        scores = {name: figures for name, figures in scores.items() if not name.startswith("HL")}
        scores["brief"] = {name: figure for name, figure in scores["brief"].items() if not name.startswith("HL")}
    assert without_bins(scores) == want


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("case", ["predictions_have_three_unknown_queries", "predictions_miss_four_queries"])
def test_only_shared_queries_are_scored(read_case, case, mode):
    predictions, references, entry = read_case(case)
    scores = compute_scores("qvhighlights", predictions, references, match_reference_code=mode, match_number=False)
    assert without_bins(scores) == entry["with match_number=False"]["r2_tuning"]


def test_query_lengths_of_the_validation_set(read_case):
    predictions, references, _ = read_case("sample_val_preds")
    bins = compute_scores("qvhighlights", predictions, references)["by_query_length"]
    words = [len(row["query"].split()) for row in references]
    assert {name: some["queries"] for name, some in bins.items()} == {
        "1-10": sum(count <= 10 for count in words),
        "11-20": sum(10 < count <= 20 for count in words),
        "21-30": sum(20 < count <= 30 for count in words),
        "31-40": sum(30 < count <= 40 for count in words),
        ">=41": sum(count > 40 for count in words),
    }
    some = [row for row in references if len(row["query"].split()) > 20]
    alone = compute_scores("qvhighlights", predictions, some, match_number=False)
    assert alone["by_query_length"]["21-30"] == bins["21-30"]
    assert alone["by_query_length"]["1-10"] == {"queries": 0, "MR-mAP": None}


@pytest.mark.parametrize(
    ("benchmark", "expected", "annotations", "key", "measure"),
    [
        ("youtube_highlights", "youtube", "youtube_anno", "match", youtube_average_precision),
        ("tvsum", "tvsum", "tvsum_anno", "anno", tvsum_average_precision),
    ],
)
def test_domains_equal_the_released_code(shared_data, benchmark, expected, annotations, key, measure):
    videos = read_json(shared_data / benchmark / f"{annotations}.json")
    for entry in read_json(shared_data / f"metrics/{expected}.json.gz"):
        truth = {video: videos[video][key] for video in entry["scores"]}
        mean = np.mean([measure(scores, truth[video]) for video, scores in entry["scores"].items()])
        assert mean == pytest.approx(entry["mAP"], abs=1e-5)
        predictions = [{"vid": video, "pred_saliency_scores": scores} for video, scores in entry["scores"].items()]
        rows = {video: some if key == "anno" else [[label] for label in some] for video, some in truth.items()}
        references = [
            {"qid": video, "domain": entry["domain"], "saliency": {"scores": scores}} for video, scores in rows.items()
        ]
        percent = pytest.approx(100 * mean, abs=0.0051)
        scores = compute_scores(benchmark, predictions, references)
        assert scores == {"brief": {f"mAP-{entry['domain']}": percent, "mAP-average": percent}}


def test_tiny_highlights_equal_the_released_code(shared_data):
    cases = read_json(shared_data / "metrics/tiny_highlights.json")
    for case in cases["youtube"]:
        assert youtube_average_precision(case["scores"], case["match"]) == pytest.approx(case["mAP"], abs=1e-5)
    for case in cases["tvsum"]:
        assert tvsum_average_precision(case["scores"], case["anno"]) == pytest.approx(case["mAP"], abs=1e-5)
