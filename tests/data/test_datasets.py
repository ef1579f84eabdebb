"""Loading generated annotations of every benchmark in every form into the one schema."""

import logging
import pickle

import annotation_samples as samples
import datasets
import pytest

from dataset_scripts import FEATURES, load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS


ALL_FORMS = [(name, form) for name, forms in samples.FORMS.items() for form in forms]
LISTED = [(name, form) for name, form in ALL_FORMS if form != "folders"]  # forms that need no video


@pytest.fixture
def write(tmp_path):
    """Write a benchmark below the test's folder; returns the folder."""

    def write_form(name, form=None, **options):
        return samples.write_benchmark(name, tmp_path / f"{name}_{form}", form, **options)

    return write_form


# ---- what is loaded ----


@pytest.mark.parametrize(("name", "form"), LISTED)
def test_every_form_loads_all_splits_without_a_change(write, caplog, name, form):
    caplog.set_level(logging.INFO)
    loaded = load_vtg_dataset(name, data_dir=write(name, form))
    assert isinstance(loaded, datasets.DatasetDict)
    assert list(loaded) == list(samples.SPLITS[name])
    for split, dataset in loaded.items():
        assert dataset.features == FEATURES
        assert dataset.cache_files == []  # in memory: nothing that could grow stale
        expected = samples.QUERIES_PER_SPLIT[split] if name not in ("youtube_highlights", "tvsum") else 2
        assert len(dataset) == expected
        assert dataset["video"][:] == [None] * expected
    changes = {"v2": "labels of the annotation form removed from queries"}.get(form, "")
    for split, message in zip(loaded, caplog.messages, strict=True):
        assert message.startswith(name)
        assert f"{split}: {len(loaded[split])} examples read from" in message
        assert changes in message
        assert ("WARNING" in {record.levelname for record in caplog.records}) == bool(changes)


@pytest.mark.parametrize("name", samples.FORMS)
def test_all_forms_of_a_benchmark_give_the_same_examples(write, tmp_path, name):
    videos = samples.write_videos(name, tmp_path / "videos") if "folders" in samples.FORMS[name] else None
    first, *others = (
        load_vtg_dataset(name, data_dir=write(name, form), video_dir=videos) for form in samples.FORMS[name]
    )
    assert others
    for other in others:
        for split in samples.SPLITS[name]:
            rows, expected = list(other[split]), list(first[split])
            for row, wanted in zip(rows, expected, strict=True):
                assert row["moments"] == _approx(wanted["moments"])
                row["moments"] = wanted["moments"]
                assert row.pop("duration_sec") == pytest.approx(wanted.pop("duration_sec"))
            assert rows == expected


def _approx(moments):
    return None if moments is None else [pytest.approx(moment) for moment in moments]


@pytest.mark.parametrize("name", ["qvhighlights", "charades_sta", "ego4d_nlq", "tacos"])
def test_moments_are_reproduced(write, name):
    loaded = load_vtg_dataset(name, data_dir=write(name))
    for split in samples.SPLITS[name]:
        for row, record in zip(loaded[split], samples.moment_records(name, split), strict=True):
            assert (row["qid"], row["query"], row["video_id"]) == (str(record["qid"]), record["query"], record["vid"])
            assert row["duration_sec"] == pytest.approx(record["duration"])
            hidden = split == "test" and name in ("qvhighlights", "ego4d_nlq")
            assert row["moments"] == _approx(None if hidden else record["relevant_windows"])
            assert row["domain"] is None
            assert row["task"] == ["moment_retrieval", *(["highlight_detection"] if name == "qvhighlights" else [])]


def test_qvhighlights_scores_every_clip(write):
    row = load_vtg_dataset("qvhighlights", split="val", data_dir=write("qvhighlights"))[1]
    record = samples.moment_records("qvhighlights", "val")[1]
    assert record["relevant_clip_ids"] == [4, 5]
    assert row["saliency"]["times_sec"] == [[2.0 * clip, 2.0 * clip + 2] for clip in range(record["duration"] // 2)]
    expected = [[0.0] * 3 for _ in row["saliency"]["times_sec"]]
    expected[4:6] = record["saliency_scores"]
    assert row["saliency"]["scores"] == expected


def test_whole_numbers_become_floats_in_both_ways_of_reading(write):
    folder = write("qvhighlights")
    for streaming in (False, True):
        row = next(iter(load_vtg_dataset("qvhighlights", split="val", data_dir=folder, streaming=streaming)))
        values = [row["duration_sec"], *row["moments"][0], *row["saliency"]["scores"][0]]
        assert {type(value) for value in values} == {float}


def test_youtube_rows_are_its_overlapping_clips(write):
    row = load_vtg_dataset("youtube_highlights", split="val", data_dir=write("youtube_highlights"))[0]
    video = samples.youtube_annotations()["dog-clip1"]
    assert (row["qid"], row["video_id"], row["domain"]) == ("dog-clip1", "dog-clip1", "dog")
    assert row["query"] == video["info"][5]
    assert row["duration_sec"] == 10.0
    assert row["moments"] is None
    assert row["saliency"]["times_sec"][:2] == [[0.0, 2.0], [1.0, 3.0]]
    assert row["saliency"]["scores"] == [[label] for label in video["match"]]
    assert row["task"] == ["highlight_detection"]


def test_tvsum_rows_are_its_whole_shots(write):
    row = load_vtg_dataset("tvsum", split="val", data_dir=write("tvsum"))[0]
    video = samples.tvsum_annotations()["BK_video-1"]
    assert (row["qid"], row["query"], row["domain"]) == ("BK_video-1", video["title"], "BK")
    assert row["duration_sec"] == pytest.approx(13.0)
    assert row["saliency"]["times_sec"] == [[2.0 * shot, 2.0 * shot + 2] for shot in range(6)]
    assert row["saliency"]["scores"] == video["anno"]
    assert row["task"] == ["video_summarization"]


# ---- YouTube Highlights and TVSum: domains and splits ----


@pytest.mark.parametrize(("name", "domain"), [("youtube_highlights", "surfing"), ("tvsum", "VU")])
def test_a_domain_is_its_part_of_all(write, name, domain):
    folder = write(name)
    everything = load_vtg_dataset(name, data_dir=folder)
    part = load_vtg_dataset(name, data_dir=folder, domain=domain)
    for split in ("train", "val"):
        assert list(part[split]) == [row for row in everything[split] if row["domain"] == domain]
        assert len(part[split]) == 1


def test_splits_of_the_folder_replace_the_published_ones(write, caplog):
    caplog.set_level(logging.INFO)
    folder = write("tvsum")
    lists = {"BK": {"train": ["BK_video-1", "not annotated"], "val": []}, "VU": {"train": [], "val": ["VU_video-0"]}}
    samples.write_json(folder / "splits.json", lists)
    loaded = load_vtg_dataset("tvsum", data_dir=folder)
    assert {split: rows["qid"][:] for split, rows in loaded.items()} == {
        "train": ["BK_video-1"],
        "val": ["VU_video-0"],
    }
    assert "1 videos of the split are not annotated; 2 annotated videos are in no split" in caplog.messages[0]
    assert "are not annotated" not in caplog.messages[1]
    (folder / "splits.json").unlink()
    with pytest.raises(ValueError, match="40 videos of the split are not annotated; 4 annotated videos stand in no"):
        load_vtg_dataset("tvsum", split="train", data_dir=folder)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"XX": {"train": [], "val": []}}, "found the domain 'XX', expected one of"),
        ({"BK": {"train": []}}, "domain 'BK': `val` is missing"),
        ({"BK": {"train": [], "val": [], "test": []}}, "`test` is"),
        ({"BK": {"train": ["a"], "val": ["a"]}}, "found video 'a' more than once"),
        ({"BK": {"train": [1], "val": []}}, "expected lists of video ids"),
    ],
)
def test_bad_split_lists_are_named(write, lists, message):
    folder = write("tvsum")
    samples.write_json(folder / "splits.json", lists)
    with pytest.raises(ValueError, match=message):
        load_vtg_dataset("tvsum", data_dir=folder)


def test_shots_are_turned_into_seconds(tmp_path, caplog):
    """Some files in lighthouse's form tell how many shots a video has where others tell its seconds."""
    line = samples.tvsum_line("x", samples.tvsum_annotations()["BK_video-1"])
    rows = [line, {**line, "qid": "y", "vid": "y", "duration": 6}]
    path = samples.write_json_lines(tmp_path / "rows", rows)
    dataset = load_vtg_dataset("tvsum", split="val", data_files=path)
    assert dataset["duration_sec"][:] == [13.0, 12.0]
    assert len(dataset[1]["saliency"]["times_sec"]) == 6
    assert "1 durations converted from shots to seconds" in caplog.messages[-1]


@pytest.mark.parametrize("name", ["youtube_highlights", "tvsum"])
def test_a_file_of_lines_is_one_split(write, name):
    """Those that hold one document have all splits, which one path may name."""
    [document] = (path for path in write(name, "anno").iterdir() if path.name != "splits.json")
    loaded = load_vtg_dataset(name, data_dir=document.parent, data_files=document)
    assert list(loaded) == ["train", "val"]
    lines = next(write(name, "lines").glob("*val_release.jsonl"))
    assert len(load_vtg_dataset(name, split="val", data_files=lines)) == 2
    with pytest.raises(ValueError, match="Pass `split` with a single path"):
        load_vtg_dataset(name, data_files=lines)


@pytest.mark.parametrize("name", ["youtube_highlights", "tvsum"])
def test_a_line_of_an_unknown_domain_is_named(write, name):
    folder = write(name, "lines")
    path = next(folder.glob("*val_release.jsonl"))
    path.write_text(path.read_text().replace('"domain": "', '"domain": "../'))
    with pytest.raises(ValueError, match=r"val_release.jsonl, line 1: `domain` is '\.\./.*', expected one of"):
        load_vtg_dataset(name, split="val", data_dir=folder)


def test_the_authors_folders_of_youtube_highlights_come_with_a_warning(write, tmp_path, caplog):
    """They label more videos, so that scores on them are not those of papers."""
    videos = samples.write_videos("youtube_highlights", tmp_path / "videos")
    for form, warned in (("anno", False), ("lines", False), ("folders", True)):
        caplog.clear()
        load_vtg_dataset(
            "youtube_highlights", split="val", data_dir=write("youtube_highlights", form), video_dir=videos
        )
        assert ("label all 419 videos of the split, youtube_anno.json 392" in caplog.text) == warned


@pytest.mark.parametrize(
    ("stored", "title"),
    [
        ("\u0160KODA".encode().decode("latin-1"), "\u0160KODA"),  # bytes of UTF-8, as the published file has them
        ("Vi\u00f1a", "Vi\u00f1a"),  # code units, as MATLAB writes them
        ("\u72ac \ud83d\ude00", "\u72ac \U0001f600"),
    ],
)
def test_titles_of_the_mat_file_are_characters(tmp_path, stored, title):
    videos = samples.tvsum_annotations()
    videos["BK_video-1"]["title"] = stored
    samples.write_tvsum(tmp_path, "mat")
    samples.write_tvsum_mat(tmp_path / "ydata-tvsum50.mat", videos)
    dataset = load_vtg_dataset("tvsum", split="val", data_dir=tmp_path, domain="BK")
    assert dataset["query"][:] == [title]


# ---- ways of reading ----


@pytest.mark.parametrize(("name", "form"), LISTED)
def test_streaming_gives_the_same_rows_as_often_as_wanted(write, caplog, name, form):
    folder = write(name, form)
    loaded = load_vtg_dataset(name, data_dir=folder)
    streamed = load_vtg_dataset(name, data_dir=folder, streaming=True)
    caplog.clear()
    caplog.set_level(logging.INFO)
    assert list(streamed) == list(loaded)
    for split, dataset in streamed.items():
        assert isinstance(dataset, datasets.IterableDataset)
        for _ in range(2):
            assert list(dataset) == list(loaded[split])
        assert list(pickle.loads(pickle.dumps(dataset))) == list(loaded[split])
    assert len(caplog.messages) == 3 * len(loaded)


def test_a_changed_file_is_read_anew_and_reported_anew(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = samples.moment_records("tacos", "val")
    for count in (4, 3, 3):
        samples.write_json_lines(tmp_path / "val.jsonl", rows[:count])
        assert len(load_vtg_dataset("tacos", split="val", data_dir=tmp_path)) == count
        assert f"tacos val: {count} examples" in caplog.messages[-1]
    assert len(caplog.messages) == 3


def test_only_the_split_that_is_asked_for_is_read(write):
    folder = write("tacos")
    (folder / "train.json").write_text("broken")
    assert len(load_vtg_dataset("tacos", split="val", data_dir=folder)) == 4
    with pytest.raises(ValueError, match=r"train\.json, line 1, column 1"):
        load_vtg_dataset("tacos", data_dir=folder)


@pytest.mark.parametrize("name", ["charades_sta", "tacos", "ego4d_nlq", "qvhighlights"])
def test_training_rules_are_kept_out_of_evaluation(tmp_path, caplog, name):
    """Videos below five seconds and moments below a frame go or grow in train alone."""
    rows = samples.moment_records(name, "train", 2)
    rows = [{key: row[key] for key in ("qid", "query", "vid")} for row in rows]
    rows[0] |= {"duration": 4.9, "relevant_windows": [[1.0, 2.0]]}
    rows[1] |= {"duration": 20.0, "relevant_windows": [[15.0, 15.0], [3.0, 9.0], [7.25, 7.5]]}
    path = samples.write_json_lines(tmp_path / "rows", rows)
    fps = BENCHMARKS[name].fps
    assert fps == (1.0 if name == "charades_sta" else 0.5)
    [train] = load_vtg_dataset(name, split="train", data_files=path)
    half = 0.5 / fps
    assert train["moments"] == [[3.0, 9.0], [7.375 - half, 7.375 + half], [15 - half, 15 + half]]
    assert "1 examples of videos below 5 s dropped" in caplog.messages[-1]
    assert f"2 moments shorter than {1 / fps:g} s widened" in caplog.messages[-1]
    test = load_vtg_dataset(name, split="test", data_files=path)
    assert test["moments"][:] == [[[1.0, 2.0]], [[3.0, 9.0], [7.25, 7.5], [15.0, 15.0]]]


def test_repeated_and_empty_records_are_kept_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    row = samples.moment_records("tacos", "val", 1)[0]
    rows = [row, {**row, "qid": "again"}, {**row, "qid": "empty", "relevant_windows": []}]
    dataset = load_vtg_dataset("tacos", split="val", data_files=samples.write_json_lines(tmp_path / "rows", rows))
    assert dataset["qid"][:] == [row["qid"], "again", "empty"]
    assert dataset["moments"][2] == []
    assert caplog.messages[-1].endswith("; 1 examples say the same as an earlier one; 1 examples have no moment")
    assert caplog.records[-1].levelno == logging.INFO


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "activitynet"}, r"`name` must be one of \['qvhighlights', .*, got 'activitynet'"),
        ({"split": "validation"}, r"`split` of tacos must be one of \['train', 'val', 'test'\], got 'validation'"),
        ({"name": "charades_sta", "split": "val"}, r"must be one of \['train', 'test'\], got 'val'"),
        ({"domain": "BK"}, "tacos has no domains"),
        ({"name": "tvsum", "domain": "dog"}, r"`domain` of tvsum must be one of \['BK', .*, got 'dog'"),
        ({"name": "tvsum", "domain": "all"}, "got 'all'"),
        ({"missing_videos": "drop"}, r"`missing_videos` must be one of \['error', 'skip'\], got 'drop'"),
        ({"on_error": "ignore"}, r"`on_error` must be one of \['raise', 'skip'\], got 'ignore'"),
        ({"data_dir": None}, "Pass `data_dir`"),
        ({"data_files": __file__}, "Pass `split` with a single path"),
        ({"data_files": {"dev": __file__}}, r"has the splits \['train', 'val', 'test'\], got 'dev'"),
        ({"split": "val", "data_files": {"train": __file__}}, "must name a file for the split 'val'"),
    ],
)
def test_wrong_arguments_are_named_with_the_choices(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_vtg_dataset(**{"name": "tacos", "data_dir": tmp_path, **arguments})


def test_a_blank_title_is_replaced_by_the_domain(tmp_path, caplog):
    """YouTube Highlights has one; CLIP would be asked for nothing."""
    videos = samples.youtube_annotations()
    videos["dog-clip0"]["info"][5] = " "
    samples.write_youtube_highlights(tmp_path)
    samples.write_json(tmp_path / "youtube_anno.json", videos)
    dataset = load_vtg_dataset("youtube_highlights", split="train", data_dir=tmp_path, domain="dog")
    assert dataset["query"][:] == ["dog"]
    assert "1 blank titles replaced by the domain" in caplog.text
