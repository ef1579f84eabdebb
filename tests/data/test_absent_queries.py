"""Queries that nothing matches: `moments` is an empty list, which stays apart from null, not annotated."""

import json

import annotation_samples as samples
import pytest
from datasets import load_dataset

from dataset_scripts import AnnotationError, load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.targets import prepare_moments, prepare_saliency
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.evaluation.predictions import find_unreadable, predict
from r2tuning.features.jobs import QueryJob, VideoJob, plan_jobs
from r2tuning.hub.dataset_export import export_dataset


EMPTY_SCORES = {"relevant_clip_ids": [], "saliency_scores": []}
ZERO_RATINGS = [[0.0] * 3] * 5  # ten seconds, three annotators


def make_rows(*moments, **fields):
    """One record in the common format for each list of moments; `None` = a record without the field."""
    rows = []
    for number, windows in enumerate(moments):
        row = {"qid": number, "query": f"query {number}", "duration": 10, "vid": "v", **fields}
        if windows is not None:
            row["relevant_windows"] = windows
        rows.append(row)
    return rows


# ---- reading ----


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["qvhighlights", "charades_sta", "ego4d_nlq", "tacos"])
def test_a_query_without_a_moment_is_read_in_every_split(tmp_path, name, split, streaming):
    """In a test split it also counts as annotated where it comes first."""
    path = samples.write_json_lines(tmp_path / "rows", make_rows([], [[2, 4]], []))
    dataset = load_vtg_dataset(name, split=split, data_files=path, streaming=streaming)
    assert [row["moments"] for row in dataset] == [[], [[2.0, 4.0]], []]


def test_a_query_without_a_moment_and_a_hidden_one_differ(tmp_path):
    for name, moments in (("absent", []), ("hidden", None)):
        path = samples.write_json_lines(tmp_path / name, make_rows(moments))
        [row] = load_vtg_dataset("qvhighlights", split="test", data_files=path)
        assert row["moments"] == moments


def test_units_of_a_query_without_a_moment_are_rated_zero_or_not_at_all(tmp_path):
    rows = make_rows([], **EMPTY_SCORES) + [{**make_rows([])[0], "qid": "unrated"}]
    dataset = load_vtg_dataset(
        "qvhighlights", split="val", data_files=samples.write_json_lines(tmp_path / "rows", rows)
    )
    assert dataset[0]["saliency"]["scores"] == ZERO_RATINGS
    assert dataset[1]["saliency"] is None


def test_relevant_units_contradict_an_empty_list_of_moments(tmp_path):
    rows = make_rows([], relevant_clip_ids=[1], saliency_scores=[[1, 2, 3]])
    path = samples.write_json_lines(tmp_path / "rows", rows)
    message = r"line 1: `relevant_clip_ids` is \[1\], expected an empty list, as `relevant_windows` says that nothing"
    with pytest.raises(AnnotationError, match=message):
        load_vtg_dataset("qvhighlights", split="val", data_files=path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_null_is_not_an_empty_list(tmp_path, split):
    path = tmp_path / "rows"
    path.write_text(json.dumps({**make_rows([])[0], "relevant_windows": None}))
    with pytest.raises(AnnotationError, match="`relevant_windows` is None, expected a list"):
        load_vtg_dataset("qvhighlights", split=split, data_files=path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_moments_outside_the_video_are_not_removed(tmp_path, caplog, split):
    """Such a query would count as one that nothing matches."""
    path = samples.write_json_lines(tmp_path / "rows", make_rows([[12, 14]], [[-5, -2]], []))
    dataset = load_vtg_dataset("qvhighlights", split=split, data_files=path)
    assert list(map(len, dataset["moments"])) == [1, 1, 0]
    assert "1 starts after the video cut to the duration" in caplog.text
    assert "1 moments that begin before the video cut to its start" in caplog.text


# ---- everything after reading ----


def test_parquet_keeps_empty_apart_from_null(tmp_path):
    """Also in a split without any moment, from which no type could be inferred."""
    files = {"val": ([], [[2, 4]]), "train": ([], []), "test": (None, None)}
    for split, moments in files.items():
        samples.write_json_lines(tmp_path / f"data/highlight_{split}_release.jsonl", make_rows(*moments))
    folder = export_dataset("qvhighlights", tmp_path / "out", data_dir=tmp_path / "data")
    for split, moments in files.items():
        for streaming in (False, True):
            loaded = load_dataset(str(folder), split=split, streaming=streaming, cache_dir=tmp_path)
            assert [row["moments"] for row in loaded] == list(moments)
    card = (folder / "README.md").read_text()
    assert "| val | 2 | 1 | 1 | 10.0 | 1 |" in card
    assert "| test | 2 | 1 | - | 10.0 | 0 |" in card


def test_targets_of_a_query_without_a_moment_are_empty(tmp_path):
    rows = make_rows([], **EMPTY_SCORES) + [{**make_rows([])[0], "qid": "unrated"}]
    path = samples.write_json_lines(tmp_path / "rows", rows)
    for row in load_vtg_dataset("qvhighlights", split="train", data_files=path):
        assert prepare_moments(row["moments"], 5, 0.5).shape == (0, 2)
        assert prepare_saliency(row, 5, 0.5, BENCHMARKS["qvhighlights"]).tolist() == [0.0] * 5


def test_features_are_extracted_for_queries_without_a_moment_or_a_video():
    video = {"path": "v.mp4"}
    row = {"qid": "0", "query": "a", "video_id": "v", "video": video, "duration_sec": 10.0, "moments": []}
    hidden = {"qid": "1", "query": "b", "video_id": None, "video": None, "duration_sec": None, "moments": None}
    expected = [QueryJob("0", "a"), QueryJob("1", "b"), VideoJob("v", "v.mp4", 0.5, 5, False)]
    assert plan_jobs([row, hidden], 0.5, with_queries=True) == expected
    assert plan_jobs([hidden], 0.5, with_queries=False) == []


def test_a_query_without_a_video_cannot_be_predicted():
    hidden = {"qid": "1", "query": "b", "video_id": None, "video": None, "duration_sec": None, "moments": None}
    [reason] = find_unreadable([hidden]).values()
    assert reason == "query 1 names no video to ground it in"


def test_a_query_without_a_moment_is_predicted_like_any_other(tmp_path, checkpoint):
    model = R2TuningForVideoGrounding.from_pretrained(checkpoint).eval()
    processor = R2TuningProcessor.from_pretrained(checkpoint)
    answers = []
    for moments in ([], [[2, 4]]):
        path = samples.write_json_lines(tmp_path / "rows", make_rows(moments, vid="sample"))
        [row] = load_vtg_dataset("charades_sta", split="test", data_files=path, video_dir=checkpoint)
        answers.append(list(predict(model, processor, [row], benchmark="charades_sta")))
    assert answers[0] == answers[1]
    assert answers[0][0]["pred_relevant_windows"]
