"""Queries that nothing matches: `moments` is an empty list, which stays apart from null, not annotated."""

import json

import annotation_samples as samples
import pytest

from dataset_scripts import AnnotationError, load_vtg_dataset


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
