"""Loaders of Soccer-GMR, QV-M2, TVR, VUE-TR, ActivityNet Captions and TimeLens-Bench, on generated files."""

import json
import logging

import pytest
import retrieval_samples as samples
from annotation_samples import write_json, write_json_lines

from dataset_scripts import FEATURES, AnnotationError, load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS


BOTH_TASKS = ["moment_retrieval", "highlight_detection"]


@pytest.fixture
def load(tmp_path):
    """Write a benchmark and load it."""

    def load_written(name, **options):
        folder = samples.write_benchmark(name, tmp_path / name)
        return load_vtg_dataset(name, data_dir=folder, **options)

    return load_written


def without_saliency(row):
    return {name: value for name, value in row.items() if name != "saliency"}


# ---- what is loaded ----


@pytest.mark.parametrize("name", samples.WRITERS)
def test_every_split_is_loaded_in_the_one_schema(load, caplog, name):
    caplog.set_level(logging.INFO)
    loaded = load(name)
    assert tuple(loaded) == samples.SPLITS[name]
    for split, dataset in loaded.items():
        assert dataset.features == FEATURES
        assert list(load(name, split=split, streaming=True)) == list(dataset)
    assert {record.levelname for record in caplog.records} == {"INFO"}, "nothing needs cleaning"


def test_soccer_gmr_keeps_queries_that_nothing_matches(load):
    rows = load("soccer_gmr", split="train")
    assert rows["moments"][:] == list(samples.MOMENTS) * 2
    assert without_saliency(rows[1]) == {
        "qid": "1",
        "query": "Locate action 1 in train.",
        "video_id": "WC2022_train_0",
        "video": None,
        "duration_sec": 20.0,
        "moments": [[2.0, 8.0]],
        "domain": "foul committed",
        "task": ["moment_retrieval"],
    }


def test_soccer_gmr_has_standard_and_full_labels(load, caplog):
    standard, full = load("soccer_gmr", split="val", domain="standard"), load("soccer_gmr", split="val", domain="full")
    assert list(standard) == list(load("soccer_gmr", split="val"))
    assert (len(standard), len(full)) == (6, 9)
    assert list(full)[:6] == list(standard)
    assert "soccer_gmr full val: 9 examples" in caplog.text
    assert "9 file extensions removed from names of videos" in caplog.text


def test_standard_labels_of_soccer_gmr_are_not_taken_for_full_ones(tmp_path):
    write_json_lines(tmp_path / "val.jsonl", samples.soccer_rows("val"))
    assert len(load_vtg_dataset("soccer_gmr", split="val", data_dir=tmp_path)) == 6
    with pytest.raises(FileNotFoundError, match=r"val: Full/val\.jsonl, full_val\.jsonl"):
        load_vtg_dataset("soccer_gmr", split="val", domain="full", data_dir=tmp_path)


def test_names_of_soccer_videos_lose_only_extensions_of_videos(tmp_path):
    names = {"a.mp4": "a", "a.MKV": "a", "v1.5": "v1.5", "b": "b", ".mp4": ".mp4"}
    rows = [{**samples.soccer_rows("val")[0], "qid": number, "vid": name} for number, name in enumerate(names)]
    path = write_json_lines(tmp_path / "rows", rows)
    assert load_vtg_dataset("soccer_gmr", split="val", data_files=path)["video_id"][:] == list(names.values())


def test_qv_m2_has_rows_with_and_without_scores(load):
    scored, new = load("qv_m2", split="val")
    assert (scored["task"], new["task"]) == (BOTH_TASKS, ["moment_retrieval"])
    assert scored["saliency"]["scores"][:4] == [[0.0] * 3, [1.0, 2.0, 3.0], [4.0] * 3, [0.0] * 3]
    assert new["saliency"] is None
    assert new["moments"] == [[0.0, 2.0], [8.0, 12.0]]


def test_tvr_is_loaded_by_type(load):
    rows = load("tvr", split="val")
    assert rows["domain"][:] == ["v", "t", "vt"] * 2
    assert without_saliency(rows[4]) == {
        "qid": "104",
        "query": "Ross opens door 4 in val.",
        "video_id": "friends_val_1",
        "video": None,
        "duration_sec": 61.5,
        "moments": [[4.0, 12.5]],
        "domain": "t",
        "task": ["moment_retrieval"],
    }


def test_the_test_split_of_tvr_names_no_video(tmp_path):
    """Not even one that would be missing in a folder of videos."""
    folder = samples.write_benchmark("tvr", tmp_path / "tvr")
    rows = load_vtg_dataset("tvr", split="test", data_dir=folder, video_dir=folder)
    assert len(rows) == 6
    for row in rows:
        assert (row["video_id"], row["video"], row["duration_sec"], row["moments"]) == (None, None, None, None)
    with pytest.raises(FileNotFoundError, match="2 annotated videos have no file"):
        load_vtg_dataset("tvr", split="val", data_dir=folder, video_dir=folder)


def test_vue_tr_joins_its_categories(load):
    rows = load("vue_tr", split="test")
    assert rows["domain"][:] == ["ultra-short/phrase/vision", "ultra-long/keyword/vision+audio"]
    assert rows["moments"][:] == [[[0.0, 32.0]], [[0.0, 32.0], [35.0, 40.5]]]
    assert (rows["qid"][:], rows["duration_sec"][1]) == (["0", "1"], 5000.25)


def test_forms_of_activitynet_captions_differ_in_the_ids_alone(tmp_path):
    loaded = []
    for form in ("2dtan", "lines"):
        folder = samples.write_benchmark("activitynet_captions", tmp_path / form, form=form)
        loaded.append(load_vtg_dataset("activitynet_captions", data_dir=folder))
    assert loaded[0]["val"]["qid"][:] == ["v_val-0_0", "v_val-0_1", "v_val-1_0", "v_val-1_1"]
    for split in ("train", "val", "test"):
        release, lines = (datasets[split].remove_columns("qid") for datasets in loaded)
        assert list(release) == list(lines)


@pytest.mark.parametrize(("split", "other_name"), [("val", "val_1.json"), ("test", "val_2.json")])
def test_both_annotations_of_activitynet_captions_have_a_split(tmp_path, split, other_name):
    folder = samples.write_benchmark("activitynet_captions", tmp_path)
    (folder / f"{split}.json").rename(folder / other_name)
    rows = load_vtg_dataset("activitynet_captions", data_dir=folder)[split]
    assert rows["query"][0] == f"Person 0 runs in {split}."


def test_activitynet_captions_are_cleaned_and_counted(tmp_path, caplog):
    video = {
        "duration": 30.0,
        "timestamps": [[10, 5], [20, 20], [3, 30.01]],
        "sentences": ["He turns.", " He stops.", "He runs. "],
    }
    path = write_json(tmp_path / "train.json", {"v_a": video})
    rows = load_vtg_dataset("activitynet_captions", split="train", data_dir=tmp_path)
    assert rows["moments"][:] == [[[5.0, 10.0]], [[19.0, 21.0]], [[3.0, 30.0]]]
    assert rows["query"][:] == ["He turns.", "He stops.", "He runs."]
    assert caplog.messages[-1].split("; ")[1:] == [
        "2 queries stripped of whitespace",
        "1 moments with end before start swapped",
        "1 ends cut to the duration",
        "1 moments shorter than 2 s widened",
    ]
    test = load_vtg_dataset("activitynet_captions", split="test", data_files=path)
    assert test["moments"][1] == [[20.0, 20.0]], "evaluated as annotated"


def test_timelens_bench_is_loaded_by_source(load):
    rows = load("timelens_bench", split="test")
    assert rows["domain"][:] == ["charades"] * 4 + ["activitynet"] * 4 + ["qvhighlights"] * 4
    assert without_saliency(rows[3]) == {
        "qid": "charades-1_1",
        "query": "person 1 of charades stands up",
        "video_id": "charades-1",
        "video": None,
        "duration_sec": 21.0,
        "moments": [[4.0, 20.0]],
        "domain": "charades",
        "task": ["moment_retrieval"],
    }
    for source in ("charades", "activitynet", "qvhighlights"):
        assert set(load("timelens_bench", split="test", domain=source)["domain"]) == {source}


def test_one_source_of_timelens_bench_is_enough(tmp_path):
    folder = samples.write_benchmark("timelens_bench", tmp_path, sources=["activitynet"])
    assert set(load_vtg_dataset("timelens_bench", split="test", data_dir=folder)["domain"]) == {"activitynet"}
    with pytest.raises(FileNotFoundError, match=r"test: charades-timelens\.json \(also"):
        load_vtg_dataset("timelens_bench", split="test", domain="charades", data_dir=folder)
    path = folder / "activitynet-timelens.json"
    [named] = set(load_vtg_dataset("timelens_bench", split="test", data_files=path)["domain"])
    [chosen] = set(load_vtg_dataset("timelens_bench", split="test", data_files=path, domain="charades")["domain"])
    [unknown] = set(
        load_vtg_dataset("timelens_bench", split="test", data_files=path.rename(folder / "mine"))["domain"]
    )
    assert (named, chosen, unknown) == ("activitynet", "charades", None)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a  man\n waves.", "a man waves"),
        (" . a man. waves ... ", "a man. waves"),
        ("a man waves", "a man waves"),
        ("\u4eba\u304c\u624b\u3092\u632f\u308b.", "\u4eba\u304c\u624b\u3092\u632f\u308b"),
    ],
)
def test_queries_of_timelens_bench_are_tidied(tmp_path, caplog, query, expected):
    caplog.set_level(logging.INFO)
    path = write_json(tmp_path / "a", {"v": {"duration": 9, "spans": [[1, 2]], "queries": [query]}})
    assert load_vtg_dataset("timelens_bench", split="test", data_files=path)["query"][:] == [expected]
    assert ("1 queries stripped of repeated blanks" in caplog.text) == (query != expected)


def test_windows_are_as_long_as_the_longest_training_video():
    lengths = {name: BENCHMARKS[name].window_sec for name in samples.WRITERS}
    assert (lengths["soccer_gmr"], lengths["tvr"], lengths["activitynet_captions"]) == (150, 275, 760)
    for name in samples.WRITERS:
        assert not BENCHMARKS[name].released_checkpoints


# ---- malformed files ----


VUE_ROW = samples.vue_rows()[0]
TVR_ROW = samples.tvr_rows("val")[0]
SOCCER_ROW = samples.soccer_rows("val")[0]
VIDEO = {"duration": 9, "spans": [[1, 2]], "queries": ["q"], "timestamps": [[1, 2]], "sentences": ["q"]}
MALFORMED = [
    ("soccer_gmr", {**SOCCER_ROW, "action_type": None}, "line 2: `action_type` is None, expected a kind of action"),
    ("soccer_gmr", {**SOCCER_ROW, "relevant_windows": None}, r"line 2: `relevant_windows` is None, expected a list"),
    (
        "qv_m2",
        {**samples.qv_m2_rows("val")[1], "relevant_windows": [[1]]},
        r"line 2: `relevant_windows\[0\]` is \[1\]",
    ),
    ("qv_m2", {**samples.qv_m2_rows("val")[0], "saliency_scores": [[1]]}, "line 2: `saliency_scores` .* 2 rows"),
    ("tvr", {**TVR_ROW, "ts": [1.0]}, r"line 2: `ts` is \[1.0\], expected a \[start, end\] pair"),
    ("tvr", {**TVR_ROW, "ts": [1.0, "2"]}, r"line 2: `ts\[1\]` is '2', expected a number"),
    ("tvr", {**TVR_ROW, "ts": None}, "line 2: `ts` is None, expected a list of numbers"),
    ("tvr", {**TVR_ROW, "type": "tv"}, "line 2: `type` is 'tv', expected one of v, t, vt"),
    ("tvr", {**TVR_ROW, "type": ["v"]}, r"line 2: `type` is \['v'\], expected one of"),
    ("tvr", {**TVR_ROW, "vid_name": ""}, "line 2: `vid_name` is '', expected a text"),
    ("tvr", {**TVR_ROW, "duration": "61"}, "line 2: `duration` is '61', expected a number above 0"),
    ("tvr", {"desc": "a", "desc_id": 1}, "line 2: `ts` is missing"),
    ("tvr", {**TVR_ROW, "desc": " "}, "line 2: `desc` is ' ', expected a sentence"),
    ("vue_tr", {**VUE_ROW, "task": "vqa"}, "query 1: `task` is 'vqa', expected 'temporal_retrieval'"),
    (
        "vue_tr",
        {**VUE_ROW, "query_format": "word"},
        "query 1: `query_format` is 'word', expected one of keyword, phrase",
    ),
    ("vue_tr", {**VUE_ROW, "query_modality": {}}, r"query 1: `query_modality` is \{\}, expected one of vision"),
    ("vue_tr", {**VUE_ROW, "gt": [[0]]}, r"query 1: `gt\[0\]` is \[0\], expected a \[start, end\] pair"),
    ("vue_tr", {**VUE_ROW, "duration": 1e6}, r"query 1: found a video of 1e\+06 s"),
    ("vue_tr", [], r"query 1: found \[\], expected an object"),
    ("activitynet_captions", {**VIDEO, "sentences": []}, "video 'b': found 1 `timestamps` and 0 `sentences`"),
    ("activitynet_captions", {**VIDEO, "timestamps": [[1]]}, r"video 'b', sentence 0: `timestamps\[0\]` is \[1\]"),
    ("activitynet_captions", {**VIDEO, "sentences": [" "]}, "video 'b', sentence 0: `sentence` is ' '"),
    ("activitynet_captions", {**VIDEO, "duration": 0}, "video 'b': `duration` is 0, expected a number above 0"),
    ("activitynet_captions", "x", "video 'b': found 'x', expected an object"),
    ("timelens_bench", {**VIDEO, "queries": ["q", "r"]}, "video 'b': found 1 `spans` and 2 `queries`"),
    (
        "timelens_bench",
        {**VIDEO, "queries": [" .. "]},
        "sentence 0: `sentence` is ' .. ', expected a query of more than",
    ),
    ("timelens_bench", {**VIDEO, "queries": [7]}, "video 'b', sentence 0: `sentence` is 7, expected a query"),
    ("timelens_bench", {**VIDEO, "spans": None}, "video 'b': `spans` is None, expected a list"),
]


def write_malformed(name, folder, record):
    """A good record, one that is not, and another good one with an id of its own."""
    if name in ("activitynet_captions", "timelens_bench"):
        return write_json(folder / "file", {"a": VIDEO, "b": record, "c": VIDEO})
    field = {"tvr": "desc_id", "vue_tr": "query_id"}.get(name, "qid")
    rows = {"soccer_gmr": SOCCER_ROW, "qv_m2": samples.qv_m2_rows("val")[0], "tvr": TVR_ROW, "vue_tr": VUE_ROW}
    records = [{**rows[name], field: "first"}, record, {**rows[name], field: "last"}]
    return (write_json if name == "vue_tr" else write_json_lines)(folder / "file", records)


@pytest.mark.parametrize(("name", "record", "message"), MALFORMED)
def test_a_malformed_record_is_named_or_counted(tmp_path, caplog, name, record, message):
    path = write_malformed(name, tmp_path, record)
    split = samples.SPLITS[name][-1] if name in ("vue_tr", "timelens_bench") else "val"
    with pytest.raises(AnnotationError, match=message) as error:
        load_vtg_dataset(name, split=split, data_files=path)
    assert str(error.value).startswith(str(path))
    rows = load_vtg_dataset(name, split=split, data_files=path, on_error="skip")
    assert len(rows) == 2
    assert "1 malformed records skipped, the first: " in caplog.messages[-1]


@pytest.mark.parametrize("document", [{}, {"a": 1}, "text", None])
def test_a_document_of_another_form_is_no_vue_tr(tmp_path, document):
    path = write_json(tmp_path / "file", document)
    with pytest.raises(AnnotationError, match="found a JSON document of another form, expected a list of queries"):
        load_vtg_dataset("vue_tr", split="test", data_files=path)


def test_a_line_of_the_hidden_split_of_tvr_is_hidden_wholly(tmp_path):
    path = write_json_lines(tmp_path / "file", [{"desc": "a", "desc_id": 1, "vid_name": "v"}])
    with pytest.raises(AnnotationError, match="`ts` is missing"):
        load_vtg_dataset("tvr", split="test", data_files=path)


@pytest.mark.parametrize("name", samples.WRITERS)
def test_an_id_occurs_once(tmp_path, name):
    if name in ("activitynet_captions", "timelens_bench"):
        path = write_json(tmp_path / "file", {"a.mp4": VIDEO, "a": VIDEO})
    else:
        rows = {"soccer_gmr": SOCCER_ROW, "qv_m2": samples.qv_m2_rows("val")[0], "tvr": TVR_ROW, "vue_tr": VUE_ROW}
        text = json.dumps(rows[name])
        path = tmp_path / "file"
        path.write_text(f"[{text}, {text}]" if name == "vue_tr" else f"{text}\n{text}")
    with pytest.raises(AnnotationError, match=r"found qid '.*' again, expected it only once"):
        load_vtg_dataset(name, split=samples.SPLITS[name][-1], data_files=path)
