"""Which files are read, whatever their names, compression and line breaks."""

import gzip
import json
import logging
import sys

import annotation_samples as samples
import pytest

from dataset_scripts import load_vtg_dataset
from dataset_scripts.loading import find_builder


LISTED = [(name, form) for name, forms in samples.FORMS.items() for form in forms if form != "folders"]


@pytest.fixture
def write(tmp_path):
    """Write a benchmark below the test's folder; returns the folder."""

    def write_form(name, form=None, **options):
        return samples.write_benchmark(name, tmp_path / f"{name}_{form}", form, **options)

    return write_form


def without_video(dataset):
    return [{key: value for key, value in row.items() if key != "video"} for row in dataset]


# ---- which file is read ----


@pytest.mark.parametrize(("name", "form"), LISTED)
def test_text_files_may_be_gzipped(write, name, form):
    folder = write(name, form)
    plain = load_vtg_dataset(name, data_dir=folder)
    for path in [path for path in folder.iterdir() if path.suffix != ".mat"]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load_vtg_dataset(name, data_dir=folder)
    assert {split: list(rows) for split, rows in packed.items()} == {s: list(rows) for s, rows in plain.items()}


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        ("qvhighlights", "release", "r2tuning"),
        ("charades_sta", "txt", "jsonl"),
        ("ego4d_nlq", "v1", "jsonl"),
        ("tacos", "2dtan", "jsonl"),
        ("tvsum", "mat", "anno"),
    ],
)
def test_the_authors_own_form_comes_first_and_the_file_is_named(tmp_path, caplog, name, own, other):
    caplog.set_level(logging.INFO)
    samples.write_benchmark(name, tmp_path, other)
    theirs = set(tmp_path.iterdir())
    samples.write_benchmark(name, tmp_path, own)
    load_vtg_dataset(name, split="train", data_dir=tmp_path)
    read = caplog.messages[-1].split(" read from ")[1].split(";")[0]
    assert read in {str(path) for path in set(tmp_path.iterdir()) - theirs}


@pytest.mark.parametrize(("name", "form"), [("charades_sta", "txt"), ("tacos", "2dtan"), ("ego4d_nlq", "v2")])
def test_the_form_is_told_by_content_not_by_name(write, tmp_path, name, form):
    """A release under the name of the other form, and the other way round."""
    kept = load_vtg_dataset(name, split="train", data_dir=write(name, form))
    own_name = find_builder(name).FILES["train"][0]
    jsonl_name = next(file for file in find_builder(name).FILES["train"] if file.endswith(".jsonl"))
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for path in write(name, form).iterdir():
        path.rename(swapped / (jsonl_name if path.name == own_name else path.name))
    assert list(load_vtg_dataset(name, split="train", data_dir=swapped)) == list(kept)
    lines = samples.write_json_lines(tmp_path / "lines" / own_name, samples.moment_records(name, "train"))
    renamed = load_vtg_dataset(name, split="train", data_dir=lines.parent)
    assert renamed["query"][:] == kept["query"][:]


@pytest.mark.parametrize("name", ["qvhighlights", "charades_sta", "ego4d_nlq", "tacos"])
def test_common_lines_are_read_by_every_moment_benchmark(tmp_path, name):
    rows = samples.moment_records("qvhighlights", "val")
    path = samples.write_json_lines(tmp_path / "lines [1].txt", rows)  # brackets, which are no pattern
    dataset = load_vtg_dataset(name, split="val" if name != "charades_sta" else "test", data_files=path)
    assert dataset["moments"][:] == [row["relevant_windows"] for row in rows]
    assert all(
        len(saliency["scores"]) == row["duration"] // 2
        for saliency, row in zip(dataset["saliency"], rows, strict=True)
    )


def test_data_files_by_split(write, tmp_path):
    folder = write("tacos")
    path = (folder / "val.json").rename(tmp_path / "other.name")
    loaded = load_vtg_dataset("tacos", data_files={"val": path})
    assert list(loaded) == ["val"]
    assert len(load_vtg_dataset("tacos", split="val", data_dir=folder, data_files={"val": path})) == 4


def test_splits_without_a_file_are_left_out_of_the_dictionary(tmp_path):
    folder = samples.write_tacos(tmp_path, splits=("val",))
    assert list(load_vtg_dataset("tacos", data_dir=folder)) == ["val"]


@pytest.mark.parametrize(("test", "annotated"), [("plain", False), ("annotated", True), ("both", True)])
@pytest.mark.parametrize("form", samples.FORMS["qvhighlights"])
def test_qvhighlights_test_has_ground_truth_where_a_file_has_it(write, form, test, annotated):
    dataset = load_vtg_dataset("qvhighlights", split="test", data_dir=write("qvhighlights", form, test=test))
    assert len(dataset) == 3
    assert [row["moments"] is not None for row in dataset] == [annotated] * 3
    assert [row["saliency"] is not None for row in dataset] == [annotated] * 3


def test_qvhighlights_test_with_ground_truth_wins_whatever_its_name(tmp_path):
    samples.write_qvhighlights(tmp_path, "release")
    samples.write_qvhighlights(tmp_path, "r2tuning", test="annotated")
    assert load_vtg_dataset("qvhighlights", split="test", data_dir=tmp_path)[0]["moments"] is not None


# ---- Charades-STA: durations ----


def test_durations_may_lie_in_the_folder_of_charades(write):
    folder = write("charades_sta")
    (folder / "Charades").mkdir()
    for path in folder.glob("Charades_v1_*.csv"):
        path.rename(folder / "Charades" / path.name)
    assert load_vtg_dataset("charades_sta", split="train", data_dir=folder)["duration_sec"][0] == 10.5


def test_without_durations_the_error_says_what_to_give(write):
    folder = write("charades_sta", durations=False)
    with pytest.raises(ValueError, match=r"line 1: .*'TRA00'; put Charades_v1_train.csv .* `video_dir`"):
        load_vtg_dataset("charades_sta", split="train", data_dir=folder)


# ---- traps of files ----


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n",
        lambda text: "\n\n" + text.replace("\n", "\n \n\t\n") + "\n\n",
    ],
    ids=["byte order mark", "carriage returns", "newline at the end", "blank lines"],
)
@pytest.mark.parametrize(
    ("name", "form"), [("qvhighlights", "release"), ("charades_sta", "txt"), ("tacos", "2dtan"), ("tvsum", "tsv")]
)
def test_harmless_differences_between_files(write, change, name, form):
    folder = write(name, form)
    rows = without_video(load_vtg_dataset(name, split="train", data_dir=folder))
    for path in folder.iterdir():
        if path.suffix != ".csv":  # that of the samples has all this already
            path.write_bytes(change(path.read_bytes().decode()).encode())
    changed = without_video(load_vtg_dataset(name, split="train", data_dir=folder))
    if form == "txt":  # query ids are numbers of lines
        rows, changed = ([{**row, "qid": None} for row in table] for table in (rows, changed))
    assert changed == rows


def test_line_separators_inside_a_text_are_no_lines(tmp_path):
    row = {**samples.moment_records("tacos", "val", 1)[0], "query": "one\u2028two\u2029three\x85four"}
    path = samples.write_text(tmp_path / "rows", json.dumps(row, ensure_ascii=False))
    assert load_vtg_dataset("tacos", split="val", data_files=path)["query"][0] == row["query"]


def test_ego4d_entries_without_a_query_are_counted(tmp_path, caplog):
    folder = samples.write_ego4d_nlq(tmp_path, "v2")
    document = json.loads((folder / "nlq_val.json").read_text())
    queries = document["videos"][0]["clips"][0]["annotations"][0]["language_queries"]
    queries[:] = [{}, {"query": None}, {"query": "Query Text: "}, {"query": ""}, queries[1]]
    samples.write_json(folder / "nlq_val.json", document)
    dataset = load_vtg_dataset("ego4d_nlq", split="val", data_dir=folder)
    assert len(dataset) == 3
    assert dataset["qid"][0].endswith("_4")
    assert "4 entries without a query left out" in caplog.messages[-1]


# ---- what is not there ----


@pytest.mark.parametrize("name", samples.FORMS)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_file_is_reported_with_the_names_looked_for(tmp_path, name, streaming):
    split = samples.SPLITS[name][-1]
    with pytest.raises(FileNotFoundError) as error:
        load_vtg_dataset(name, split=split, data_dir=tmp_path, streaming=streaming)
    assert str(tmp_path) in str(error.value)
    assert all(file in str(error.value) for file in find_builder(name).FILES[split])


def test_a_file_that_is_named_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`data_files` for val: '.*nowhere' is not a file"):
        load_vtg_dataset("tacos", split="val", data_files=tmp_path / "nowhere")


def test_tvsum_tables_need_each_other(write):
    folder = write("tvsum", "tsv")
    (folder / "ydata-tvsum50-info.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"put ydata-tvsum50-info\.tsv into the same folder"):
        load_vtg_dataset("tvsum", data_dir=folder)


def test_without_h5py_the_error_says_how_to_get_it(write, monkeypatch):
    folder = write("tvsum", "mat")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        load_vtg_dataset("tvsum", data_dir=folder)
