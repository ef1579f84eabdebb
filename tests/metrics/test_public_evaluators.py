"""The metrics of Soccer-GMR, QV-M2, TVR and VUE-TR give what the public evaluators print."""

import gzip
import json

import pytest

from dataset_scripts.metrics.corpus import score_corpus
from dataset_scripts.metrics.generalized import score_generalized
from dataset_scripts.metrics.interval_sets import score_interval_sets
from dataset_scripts.metrics.multi_moment import score_multi_moment
from dataset_scripts.metrics.submissions import read_submission


def read_lines(path):
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def read_json(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return json.load(file)


def to_tvr_row(record):
    moments = record["ts"] if isinstance(record["ts"][0], list) else [record["ts"]]
    row = {"qid": str(record["desc_id"]), "video_id": record["vid_name"], "moments": moments}
    return {**row, "domain": record.get("type")}


def to_vue_row(record):
    parts = [record.get(key) for key in ("duration_category", "query_format", "query_modality")]
    domain = None if None in parts else "/".join(parts)
    return {"qid": str(record["query_id"]), "moments": record["gt"], "domain": domain}


def to_row(record):
    """A record of a QVHighlights-like release as a row of the dataset."""
    return {"qid": str(record["qid"]), "duration_sec": record["duration"], "moments": record["relevant_windows"]}


def check(score, predictions, references, expected):
    """The public figures, or an error where the public code raises."""
    if "error" in expected:
        with pytest.raises(ValueError, match="`"):
            score(predictions, references, match_reference_code=True)
    else:
        scores = score(predictions, references, match_reference_code=True)
        if "brief" not in expected:
            scores.pop("brief")
        assert text_nan(scores) == expected


def text_nan(value):
    """NaN as the stored files spell it."""
    if isinstance(value, dict):
        return {key: text_nan(inner) for key, inner in value.items()}
    return "nan" if value != value else value


def test_soccer_gmr(shared_data):
    references = [to_row(record) for record in read_lines(shared_data / "soccer_gmr/val.jsonl.gz")]
    folder = shared_data / "metrics/gmr"
    cases = read_json(folder / "expected.json")
    assert len(cases) == 8
    for case, expected in cases.items():
        check(score_generalized, read_lines(folder / f"{case}.jsonl.gz"), references, expected)


def test_soccer_gmr_tiny(shared_data):
    cases = read_json(shared_data / "metrics/gmr/tiny.json")
    assert len(cases) == 16
    for case in cases.values():
        references = [to_row(record) for record in case["ground_truth"]]
        check(score_generalized, case["predictions"], references, case["expected"])


def test_qv_m2(shared_data):
    rows = [to_row(record) for record in read_lines(shared_data / "qv_m2/val.jsonl.gz")]
    folder = shared_data / "metrics/qv_m2"
    cases = read_json(folder / "expected.json")
    assert len(cases) == 8
    for case, expected in cases.items():
        predictions = read_lines(folder / f"{case}.jsonl.gz")
        qids = {str(record["qid"]) for record in predictions}
        check(score_multi_moment, predictions, [row for row in rows if row["qid"] in qids], expected)


def test_qv_m2_tiny(shared_data):
    cases = read_json(shared_data / "metrics/qv_m2/tiny.json")
    assert len(cases) == 13
    for case in cases.values():
        references = [to_row(record) for record in case["ground_truth"]]
        check(score_multi_moment, case["predictions"], references, case["expected"])


def test_tvr(shared_data):
    """All in one test, since reading the annotations takes most of the time."""
    rows = [to_tvr_row(record) for record in read_lines(shared_data / "tvr/tvr_val_release.jsonl.gz")]
    videos = read_json(shared_data / "tvr/tvr_video2dur_idx.json.gz")["val"]
    folder = shared_data / "metrics/tvr"
    cases = read_json(folder / "expected.json")
    assert len(cases) == 7
    for case, expected in cases.items():
        document = read_json(folder / f"{case}.json.gz")
        document["video2idx"] = {name: index for name, (_, index) in videos.items()}
        predictions = read_submission(document)
        qids = {record["qid"] for record in predictions}
        check(score_corpus, predictions, [row for row in rows if row["qid"] in qids], expected)


def test_tvr_tiny(shared_data):
    cases = read_json(shared_data / "metrics/tvr/tiny.json")
    assert len(cases) == 13
    for case in cases.values():
        references = [to_tvr_row(record) for record in case["ground_truth"]]
        check(score_corpus, read_submission(case["predictions"]), references, case["expected"])


def test_vue_tr(shared_data):
    references = list(map(to_vue_row, read_json(shared_data / "vue_tr/VUE-TR_ground_truth.json.gz")))
    folder = shared_data / "metrics/vue_tr"
    cases = read_json(folder / "expected.json")
    assert len(cases) == 5
    for case, expected in cases.items():
        predictions = read_submission(read_json(folder / f"{case}.json.gz"))
        check(score_interval_sets, predictions, references, expected)


def test_vue_tr_tiny(shared_data):
    cases = read_json(shared_data / "metrics/vue_tr/tiny.json")
    assert len(cases) == 10
    for case in cases.values():
        assert case["expected"]["v1"] == case["expected"]["v2"]
        references = list(map(to_vue_row, case["ground_truth"]))
        check(score_interval_sets, read_submission(case["predictions"]), references, case["expected"]["v1"])
