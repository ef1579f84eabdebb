"""A user's own table and videos: what is loaded, what is refused or counted, and how videos are found and measured."""

import json
import logging
import textwrap
import unicodedata

import datasets
import pytest
from loopback_hub import LoopbackHub, constants, run_python
from video_samples import textured_pictures, write_video

from dataset_scripts import FEATURES, AnnotationError, load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.custom import count_missing_queries, read_own_data
from dataset_scripts.custom_report import describe_data, suggest_settings
from dataset_scripts.custom_videos import measure_video
from dataset_scripts.targets import prepare_saliency
from modeling_r2tuning.containers_r2tuning import VideoSource
from modeling_r2tuning.video_timeline_r2tuning import scan


VIDEO_SEC = 10
NAMES = ["a", "b", "sub/c", "日本語 #1", "😀 & co"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of ten seconds with names of every kind."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "sub").mkdir()
    for name in NAMES:
        write_video(folder / f"{name}.mp4", count=5 * VIDEO_SEC, rate=5)
    return folder


@pytest.fixture
def load(tmp_path, clips):
    """Write a table and load it; arguments are those of `load_vtg_dataset`."""

    def write_and_load(text, name="my.csv", **options):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_vtg_dataset("custom", **{"data_files": path, "split": "train", "video_dir": clips, **options})

    return write_and_load


def find(text, tmp_path, clips, name="my.csv", split=None):
    """What is found in a table, as {kind: [lines of the table]}."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    data = read_own_data({"train": str(path)}, video_dir=clips if clips is None else str(clips), split=split)
    found = {}
    for kind, findings in data.findings.by_kind().items():
        if kind != "unused_video":
            found[kind] = [finding.place.removeprefix(f"{name}, line ") for finding in findings]
    return found, data


def table(*rows, header="video,query,start,end"):
    return "\n".join([header, *rows]) + "\n"


GOOD = ["b.mp4,another,1,2", "sub/c,another,1,2"]  # so that a video can be held out


# ---- what is loaded ----


def test_rows_of_a_query_become_one_example(load, clips):
    rows = load(table("a.mp4,a dog,5,0:06.5", "a.mp4,a dog,0:01,3"))
    assert rows.features == FEATURES
    [dog] = rows
    assert dog["moments"] == [[1.0, 3.0], [5.0, 6.5]]
    assert (dog["video_id"], dog["duration_sec"]) == ("a", VIDEO_SEC)
    assert dog["video"]["path"] == str(clips / "a.mp4")
    assert (dog["saliency"], dog["domain"], dog["task"]) == (None, None, ["moment_retrieval"])


def test_a_query_without_a_moment_is_legal(load):
    data = load(table("a.mp4,a dog,1,2", "b.mp4,no dog,,"), split=None)
    moments = {row["query"]: row["moments"] for split in data.values() for row in split}
    assert moments == {"a dog": [[1.0, 2.0]], "no dog": []}


def test_ids_stay_when_rows_are_added(load):
    rows = ["a.mp4,a dog,1,2", "b.mp4,a cat,1,2"]
    before = {row["query"]: row["qid"] for row in load(table(*rows))}
    more = load(table("sub/c.mp4,new,1,2", *reversed(rows)), split=None)
    after = {row["query"]: row["qid"] for split in more.values() for row in split}
    assert before.items() <= after.items()
    assert len(set(after.values())) == len(after)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")])
def test_names_of_every_kind_are_found(load, clips, name, form, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / f"{form}.mp4").symlink_to(clips / "a.mp4")
    for written in (name, f"{name}.mp4", f"./{name}.mp4", f"{name}.avi", str(clips / f"{name}.mp4")):
        [row] = load(table(f"{written},a dog,1,2"))
        assert row["video"]["path"] == str(clips / f"{name}.mp4")
        assert row["video_id"] == (name if not written.startswith("/") else name.rpartition("/")[2])
    [row] = load(table("é.mp4,a dog,1,2"), video_dir=folder)
    assert (row["video_id"], row["video"]["path"]) == ("é", str(folder / f"{form}.mp4"))


def test_the_name_of_a_file_in_a_subfolder_is_enough_unless_there_are_several(load, tmp_path, clips):
    assert load(table("c.mp4,a dog,1,2"))["video"][0]["path"] == str(clips / "sub/c.mp4")
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "v.mp4").symlink_to(clips / "a.mp4")
    with pytest.raises(AnnotationError, match="line 2: 'v.mp4': it may be x/v.mp4 or y/v.mp4"):
        load(table("v.mp4,a dog,1,2"), video_dir=tmp_path)
    assert load(table("y/v.mp4,a dog,1,2"), video_dir=tmp_path)["video_id"] == ["y/v"]


def test_two_files_with_one_id_are_refused_in_any_split(load, tmp_path, clips):
    """A feature cache has one entry for each id: one video would be trained on with the features of the other."""
    for name in ("x/v.mp4", "y/v.mp4", "x/w.mp4", "x/w.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(clips / "a.mp4")
    rows = [f"{tmp_path}/x/v.mp4,one,1,2,train", f"{tmp_path}/y/v.mp4,two,1,2,val"]
    rows += ["x/w.mp4,one,1,2,train", "x/w.mkv,two,1,2,val", "y/v.mp4,other id,1,2,train"]
    text = table(*rows, header="video,query,start,end,split")
    found, data = find(text, tmp_path, tmp_path)
    assert found.pop("ambiguous_video") == ["2", "3", "4", "5"]
    assert [row["query"] for row in data.examples["train"]] == ["other id"]
    with pytest.raises(AnnotationError, match="line 3.*its id 'v' stands for .*x/v.mp4 and .*y/v.mp4"):
        load(text, split="val", video_dir=tmp_path)
    rows = [f"{tmp_path}/{name}/v.mp4,one,1,2" for name in "xy"]
    found, _ = find(table(*rows, *GOOD), tmp_path, tmp_path, split="train")
    assert found["ambiguous_video"] == ["2"], "the rows would be one query of one of the files"


def test_a_name_without_a_file_does_not_take_others_with_it(tmp_path, clips):
    for name in ("v.mp4", "v.mkv"):
        (tmp_path / name).symlink_to(clips / "a.mp4")
    text = table("v,one,1,2,train", "v.mp4,two,1,2,train", header="video,query,start,end,split")
    found, data = find(text, tmp_path, tmp_path)
    assert found == {"ambiguous_video": ["2"]}
    assert [row["query"] for row in data.examples["train"]] == ["two"]


def test_nothing_outside_of_the_folder_is_opened(load, tmp_path):
    with pytest.raises(AnnotationError, match="expected a file inside `video_dir`"):
        load(table("../clips0/a.mp4,a dog,1,2"))
    with pytest.raises(AnnotationError, match="is the address"):
        load(table("https://example.org/a.mp4,a dog,1,2"))


def test_form_of_qvhighlights(load):
    line = {
        "qid": 7,
        "query": "a dog",
        "vid": "a",
        "duration": 10,
        "relevant_windows": [[2, 6]],
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[4, 3], [2, 0]],
    }
    [row] = load(json.dumps(line) + "\n", name="my.jsonl")
    assert (row["qid"], row["moments"]) == ("7", [[2.0, 6.0]])
    assert row["saliency"]["scores"] == [[0, 0], [4, 3], [2, 0], [0, 0], [0, 0]]
    assert row["saliency"]["times_sec"][-1] == [8.0, 10.0]
    assert row["task"] == ["moment_retrieval", "highlight_detection"]


def test_the_last_unit_may_be_cut_by_the_end_of_the_video(load):
    line = {"vid": "a", "query": "a dog", "relevant_windows": [[8, 10]], "relevant_clip_ids": [4], "duration": 10}
    text = json.dumps({**line, "saliency_scores": [[1, 2, 3]]}) + "\n"
    [row] = load(text, name="my.jsonl", video_dir=None, lengths={"a": 9.977})
    assert row["saliency"]["scores"] == [[0, 0, 0]] * 4 + [[1, 2, 3]]
    assert row["saliency"]["times_sec"][-1] == [8.0, 9.977]
    with pytest.raises(AnnotationError, match="unit 4, from 0, begins after the video's 8.00 s"):
        load(text.replace("10]", "8]").replace("[8,", "[7,"), name="my.jsonl", video_dir=None, lengths={"a": 8.0})


def test_rows_without_saliency_are_trained_on_by_their_moments(load):
    rows = load(
        table('a.mp4,a dog,2,4,"[0, 4, 2, 0, 0]"', "a.mp4,a cat,2,4,", header="video,query,start,end,saliency")
    )
    spec = BENCHMARKS["custom"]
    values = {row["query"]: prepare_saliency(row, 10, 1.0, spec).tolist() for row in rows}
    assert values["a dog"] == [0, 0, 1, 1, 0.5, 0.5, 0, 0, 0, 0]
    assert values["a cat"] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]


# ---- splits ----


def write_many(tmp_path, count, extra=""):
    rows = [f"video{number},query,1,2,60{extra}" for number in range(count)]
    path = tmp_path / "many.csv"
    path.write_text(table(*rows, header="video,query,start,end,duration" + (",split" if extra else "")))
    return path


def test_a_tenth_of_the_videos_is_held_out_by_name_alone(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = load_vtg_dataset("custom", data_files=write_many(tmp_path, 30))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 27, "val": 3}
    # A fixed hash: the same on every machine and in every process.
    assert sorted(data["val"]["video_id"]) == ["video12", "video20", "video8"]
    assert "custom train: 27 queries of 27 videos read from many.csv; videos held out for val" in caplog.text
    assert not set(data["train"]["video_id"]) & set(data["val"]["video_id"])
    again = load_vtg_dataset("custom", data_files={"train": tmp_path / "many.csv"}, split="val")
    assert again["video_id"] == data["val"]["video_id"]


def test_all_queries_of_a_video_are_on_one_side(load):
    rows = [f"{name},query {number},1,2" for name in ("a", "b") for number in range(4)]
    data = load(table(*rows), split=None)
    assert sorted(map(len, data.values())) == [4, 4]
    assert not set(data["train"]["video_id"]) & set(data["val"]["video_id"])


def test_a_held_out_video_has_a_moment(load):
    for absent, present in (("a", "b"), ("b", "a")):
        data = load(table(f"{absent},nothing,,", f"{present},a dog,1,2"), split=None)
        assert data["val"]["video_id"] == [present]


def test_a_single_video_is_not_held_out(load):
    text = table("a,a dog,1,2", "a,a cat,3,4")
    assert len(load(text)) == 2
    assert {split: len(rows) for split, rows in load(text, split=None).items()} == {"train": 2}
    with pytest.raises(AnnotationError, match="my.csv: found a single video. No video can be held out for val: pass"):
        load(text, split="val")


def test_the_column_split_decides(load):
    header = "video,query,start,end,split"
    rows = ["a,one,1,2,train", "b,two,1,2,Validation", "sub/c,three,1,2,test"]
    data = load(table(*rows, header=header), split=None)
    assert {split: list(each["query"]) for split, each in data.items()} == {
        "train": ["one"],
        "val": ["two"],
        "test": ["three"],
    }
    with pytest.raises(AnnotationError, match="line 5: `split` is 'dev2', expected train, val or test"):
        load(table(*rows, "a,four,1,2,dev2", header=header))
    with pytest.raises(AnnotationError, match="line 5: `split` is empty"):
        load(table(*rows, "a,four,1,2,", header=header))
    with pytest.raises(AnnotationError, match="found no queries of the split 'test', but of: train"):
        load(table(*rows[:1], header=header), split="test")


def test_a_file_for_each_split_holds_nothing_out(tmp_path, clips):
    for split, video in (("train", "a"), ("val", "b")):
        (tmp_path / f"{split}.csv").write_text(table(f"{video},a dog,1,2"))
    files = {split: tmp_path / f"{split}.csv" for split in ("train", "val")}
    for options in ({"data_files": files}, {"data_dir": tmp_path}):
        data = load_vtg_dataset("custom", video_dir=clips, **options)
        assert {split: list(rows["video_id"]) for split, rows in data.items()} == {"train": ["a"], "val": ["b"]}
    (tmp_path / "val.csv").write_text(table("b,a dog,1,2,train", header="video,query,start,end,split"))
    with pytest.raises(AnnotationError, match="val.csv, line 2: `split` is train, but the file was given for val"):
        load_vtg_dataset("custom", video_dir=clips, data_files=files)


# ---- what is refused or counted ----

FINDINGS = {
    "empty_query": ["a, ,1,2"],
    "bad_time": ["a,x,one,2"],
    "negative_time": ["a,x,-1,2"],
    "reversed_moment": ["a,x,4,2"],
    "empty_moment": ["a,x,2,2"],
    "beyond_end": ["a,x,9,11.5"],
    "contradiction": ["a,x,1,2", "a,x,,"],
    "missing_video": ["nowhere.mp4,x,1,2"],
    "cut_end": ["a,x,9,11"],
    "repeated_moment": ["a,x,1,2", "a,x,1,2"],
    "repeated_moment of an absent query": ["a,x,,", "a,x,,"],
}


@pytest.mark.parametrize("kind", FINDINGS)
def test_each_kind_is_counted_and_named_by_its_line(tmp_path, clips, kind):
    rows = FINDINGS[kind]
    found, _ = find(table(*GOOD, *rows), tmp_path, clips)
    assert found == {kind.partition(" ")[0]: [str(3 + len(rows))]}


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "1_0", "None", "1:75", "1:70:00", "5 s", "0x10", "--1"])
@pytest.mark.parametrize("column", [0, 1])
def test_what_is_no_time_is_refused(tmp_path, clips, value, column):
    times = ["1", "2"]
    times[column] = value
    found, _ = find(table(*GOOD, f"a,x,{','.join(times)}"), tmp_path, clips)
    assert found == {"bad_time": ["4"]}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ('{"video": "a", "query": "x", "moments": null}', "bad_time"),
        ('{"video": "a", "query": "x"}', "bad_time"),
        ('{"video": "a", "query": "x", "moments": [1, 2]}', "bad_time"),
        ('{"video": "a", "query": "x", "moments": [[1, NaN]]}', "bad_time"),
        ('{"video": "a", "query": "x", "moments": "none"}', "bad_time"),
        ('{"video": "a", "query": 5, "moments": []}', "unreadable_row"),
        ('{"video": null, "query": "x", "moments": []}', "unreadable_row"),
        ('{"video": "a", "query": "x", "moments": []', "unreadable_row"),
        ("[1, 2]", "unreadable_row"),
        (r'{"video": "\ud800", "query": "x", "moments": []}', "unreadable_row"),
        (r'{"video": "a", "query": "\ud800", "moments": []}', "unreadable_row"),
        ('{"video": "a", "vid": "b", "query": "x", "moments": []}', "unreadable_row"),
        ('{"video": "a", "query": "x", "moments": [], "qid": [1]}', "unreadable_row"),
        ('{"video": "a", "query": "x", "moments": [], "saliency": [5, 0, 0, 0, 0]}', "bad_saliency"),
        ('{"video": "a", "query": "x", "moments": [], "saliency": [3, 0]}', "bad_saliency"),
        ('{"video": "a", "query": "x", "moments": [], "saliency": [[1, 0], [1], [0], [0], [0]]}', "bad_saliency"),
        ('{"video": "a", "query": "x", "moments": [], "qid": 1}', "duplicate_id"),
    ],
)
def test_broken_lines_are_counted_and_named(tmp_path, clips, row, kind):
    good = [
        '{"video": "b", "query": "good", "moments": [[1, 2]], "qid": 1}',
        '{"video": "sub/c", "query": "good", "moments": [["0:01", "2"]]}',
    ]
    found, _ = find("\n".join([*good, row]) + "\n", tmp_path, clips, name="my.jsonl")
    assert found == {kind: ["3"]}


def test_a_broken_row_takes_its_query_with_it(load, tmp_path, clips):
    """With a moment missing, the query would be trained on wrongly; with none left, it would be taken for an absent one."""
    text = table("a,x,1,2", "a,x,5,five", "a,y,1,2", "b,z,1,2")
    with pytest.raises(AnnotationError, match="a time that cannot be read: 1 .my.csv, line 3: `end` is 'five'"):
        load(text)
    data = load(text, on_error="skip", split=None)
    assert sorted(row["query"] for split in data.values() for row in split) == ["y", "z"]


def test_a_query_in_two_splits_is_left_out(load):
    text = table("a,x,1,2,train", "a,x,5,6,val", "a,y,1,2,train", header="video,query,start,end,split")
    with pytest.raises(AnnotationError, match="line 3: 'x' is in val here, but in train at my.csv, line 2"):
        load(text)
    assert list(load(text, on_error="skip")["query"]) == ["y"]


def test_several_qids_of_a_sentence_are_noted(tmp_path, clips):
    rows = ["1,a,a dog,1,5", "2,a,a dog,,", "3,b,a dog,1,2", "3,b,a dog,4,5"]
    found, _ = find(table(*rows, header="qid,video,query,start,end"), tmp_path, clips)
    assert found == {"several_qids": ["3"]}


def test_a_broken_row_takes_no_query_of_another_file_with_it(tmp_path, clips):
    header = "qid,video,query,start,end"
    (tmp_path / "train.csv").write_text(table("0,a,a dog,1,x", "1,b,a dog,1,5", header=header))
    (tmp_path / "val.csv").write_text(table("0,sub/c,a cat,1,5", header=header))
    data = load_vtg_dataset("custom", data_dir=tmp_path, video_dir=clips, on_error="skip")
    assert {split: list(rows["query"]) for split, rows in data.items()} == {"train": ["a dog"], "val": ["a cat"]}


@pytest.mark.parametrize("duration", ["1e12", "0", "86401"])
def test_impossible_lengths_are_refused(tmp_path, duration):
    text = table(f"a,x,1,2,{duration}", "b,y,1,2,9", header="video,query,start,end,duration")
    found, _ = find(text, tmp_path, None)
    assert found == {"unreadable_row": ["2"]}


def test_empty_cells_of_pandas(load):
    absent = '{"video": "a", "query": "x", "start": NaN, "end": NaN, "split": "train"}'
    present = '{"video": "b", "query": "y", "start": 1, "end": 2, "split": "train"}'
    rows = load(f"{absent}\n{present}\n", "my.jsonl")
    assert [row["moments"] for row in rows] == [[], [[1.0, 2.0]]]


def test_messages_say_what_was_found(load):
    with pytest.raises(AnnotationError, match="`video` is {'0': 'a', '1': 'b'}, expected the name of a video file"):
        load('{"video": {"0": "a", "1": "b"}, "query": {}, "start": {}, "end": {}}', "my.json")
    with pytest.raises(FileNotFoundError, match="there is no such file; names are relative to the folder of"):
        load(table("clips/a.mp4,x,1,2", *GOOD))
    for files in (["a.csv"], {"train": ["a.csv"]}):
        for name in ("custom", "tacos"):
            with pytest.raises(ValueError, match="`data_files` has .*expected one path for each split"):
                load_vtg_dataset(name, data_files=files)


def test_one_message_holds_every_kind(load):
    with pytest.raises(AnnotationError) as error:
        load(table("a,,1,2", "a,x,5,four", "a,y,9,20", "a,z,3,2", "a,z2,8,7", "a,z3,8,7", "a,z4,8,7"))
    message = str(error.value)
    assert "rows without a query: 1 (my.csv, line 2" in message
    assert "beyond the end of the video: 1 (my.csv, line 4: [9, 20] in 'a' of 10.00 s)" in message
    assert "ends before it starts: 4 (my.csv, line 5" in message
    assert message.count("line 8") == 0, "only the first three are named"
    assert '`on_error="skip"`' in message


@pytest.mark.parametrize("split", ["train", None])
def test_nothing_left_is_an_error(load, split):
    with pytest.raises(AnnotationError, match="no query of train is left: .*beyond the end of the video: 1 "):
        load(table("a,y,9,20"), on_error="skip", split=split)
    with pytest.raises(AnnotationError, match="no query of train is left: rows without a query: 1 "):
        load(table("a,,1,2"), on_error="skip", split=split)
    with pytest.raises(AnnotationError, match="no query of train is left: the table has no rows"):
        load(table(), on_error="skip", split=split)


def test_a_split_whose_rows_are_all_broken_is_not_left_out(load):
    header = "video,query,start,end,split"
    rows = ["a,x,1,2,train", "b,y,one,2,val", "a,z,1,2,other"]
    with pytest.raises(AnnotationError, match="no query of val is left: .*a time that cannot be read"):
        load(table(*rows, header=header), on_error="skip", split=None)
    data = load(table("b,w,1,2,val", *rows[1:], header=header), on_error="skip", split=None)
    assert {split: list(rows["query"]) for split, rows in data.items()} == {"val": ["w"]}


def test_missing_and_unreadable_videos(load, tmp_path, clips):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").symlink_to(clips / "a.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    header = "video,query,start,end,split"
    text = table("a,x,1,2,train", "a,x,1,2,train", "gone,y,1,2,val", "broken,z,1,2,val", "a,v,1,2,val", header=header)
    with pytest.raises(FileNotFoundError, match="missing videos: 1 .my.csv, line 4: 'gone'.*unreadable videos: 1"):
        load(text, split="val", video_dir=folder)
    assert list(load(text, split="val", video_dir=folder, missing_videos="skip")["query"]) == ["v"]
    assert count_missing_queries("val", data_files=tmp_path / "my.csv", video_dir=str(folder)) == 2
    assert len(load(text, split="train", video_dir=folder)) == 1, "other splits' videos are not opened"


def test_without_videos_the_table_gives_the_lengths(load):
    text = table("a,x,1,2,0:20", "b,y,1,2,20", header="video,query,start,end,duration")
    [row] = load(text, video_dir=None)
    assert (row["video"], row["duration_sec"]) == (None, 20.0)
    with pytest.raises(AnnotationError, match="of unknown length: 1 .*`video_dir`, or add a column `duration`"):
        load(table("a,x,1,2"), video_dir=None)
    [row] = load(table("a,x,1,2"), video_dir=None, lengths={"a": 12.5})
    assert row["duration_sec"] == 12.5
    with pytest.raises(FileNotFoundError, match="'a' is not in the feature cache.. Run `r2tuning extract` again"):
        load(table("a,x,1,2"), video_dir=None, lengths={})
    with pytest.raises(ValueError, match="`lengths` is for own data"):
        load_vtg_dataset("tacos", data_dir=".", lengths={})


def test_the_file_wins_over_the_table(tmp_path, clips):
    text = table("a,x,1,2,20", "a,y,15,18,20", "b,z,1,2,10", header="video,query,start,end,duration")
    found, data = find(text, tmp_path, clips)
    assert found == {"beyond_end": ["3"], "duration_differs": ["'a'"]}
    lengths = [row["duration_sec"] for rows in data.examples.values() for row in rows]
    assert lengths == [VIDEO_SEC, VIDEO_SEC]


def test_lengths_that_contradict_each_other_are_noted_without_videos(tmp_path):
    text = table("a,x,1,2,100", "a,y,5,6,10", "b,z,1,2,10", header="video,query,start,end,duration")
    found, data = find(text, tmp_path, None)
    assert found == {"duration_differs": ["'a'"]}
    [finding] = data.findings.by_kind()["duration_differs"]
    assert finding.detail == "10 s in the table, 100.00 s used"


def test_other_things_worth_knowing(tmp_path, clips):
    header = "video,query,start,end,split,note,saliency"
    rows = ['a,x,1,2,train,n,"[1, 0, 0, 0, 0]"', "a,y,1,2,val,n,", "a.mp4,z,1,2,val,n,", "./sub/c.mp4,z,1,2,val,n,"]
    found, data = find(table(*rows, "c,z,1,2,val,n,", header=header), tmp_path, clips)
    assert found == {
        "two_names": ["'sub/c'"],
        "two_splits": ["'a'"],
        "saliency_scale": ["my.csv"],
        "ignored_column": ["my.csv"],
    }
    unused = [finding.place for finding in data.findings.by_kind()["unused_video"]]
    assert unused == [f"'{name}.mp4'" for name in sorted(NAMES[3:] + ["b"])]


def test_short_training_videos_are_counted(tmp_path, clips):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "short.mp4", count=20, rate=5)
    (folder / "a.mp4").symlink_to(clips / "a.mp4")
    header = "video,query,start,end,split"
    text = table("a,x,1,2,train", "short,y,1,2,train", "short,z,1,2,val", header=header)
    found, data = find(text, tmp_path, folder)
    assert found == {"two_splits": ["'short'"], "short_video": ["3"]}
    assert {split: len(rows) for split, rows in data.examples.items()} == {"train": 1, "val": 1}


# ---- lengths of videos ----


FILES = {
    "frames.mp4": {"count": 50, "rate": 5, "max_b_frames": 2},
    "sound.mkv": {"count": 50, "rate": 5, "audio_sec": 14.0},
    "stream.ts": {"count": 50, "rate": 5},
    "later.mp4": {"count": 50, "rate": 5, "times": range(50, 100)},
    "irregular.mkv": {"count": 40, "rate": 10, "times": [*range(20), *range(20, 120, 5)]},
    "raw.h264": {"count": 50, "rate": 25, "container_format": "h264"},
}


@pytest.mark.parametrize("name", FILES)
def test_lengths_are_those_of_the_frames(tmp_path, name):
    path = write_video(tmp_path / name, **FILES[name])
    length = measure_video(str(path))
    exact = float(scan(VideoSource("it", f"file:{path}")).duration)
    assert length.real_sec == pytest.approx(exact, abs=2 * length.frame_sec)
    assert length.declared_sec is None or length.declared_sec == pytest.approx(exact, abs=2 * length.frame_sec)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_file_that_was_cut_has_the_length_of_what_is_left(tmp_path, name, caplog):
    path = tmp_path / name
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    write_video(path, textured_pictures(250), rate=25, container_options=options)
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    length = measure_video(str(path))
    exact = float(scan(VideoSource("it", f"file:{path}")).duration)
    assert length.declared_sec == pytest.approx(10.0, abs=0.1)
    assert length.real_sec == pytest.approx(exact, abs=0.1)
    found, _ = find(
        table("cut,x,1,2,train", "cut,y,1,9,train", header="video,query,start,end,split"), tmp_path, tmp_path
    )
    assert found == {"beyond_end": ["3"], "damaged_video": ["'cut'"]}


# ---- datasets ----


def test_exported_data_load_back(load, tmp_path, clips):
    from r2tuning.hub.dataset_export import export_dataset

    text = table("日本語 #1,犬,1,2", "b,no dog,,", "a,x,3,4", "a,x,7,8")
    before = load(text, split=None)
    folder = export_dataset("custom", tmp_path / "out", data_files=tmp_path / "my.csv", video_dir=clips)
    assert str(tmp_path) not in (folder / "README.md").read_text()
    for options in ({"data_dir": folder}, {"data_files": folder}):
        after = load_vtg_dataset("custom", video_dir=clips, **options)
        for split, rows in before.items():
            assert list(after[split]) == list(rows)
    plain = datasets.load_dataset(str(folder), cache_dir=tmp_path / "cache")
    assert plain["val"].features == FEATURES
    assert plain["train"]["video"][:] == [None] * len(plain["train"])


def test_a_dataset_of_the_hub(tmp_path, clips):
    rows = [
        {"file_name": "a.mp4", "sentence": "a dog", "moments": [[1.0, 2.0]]},
        {"file_name": "b.mp4", "sentence": "no dog", "moments": []},
    ]
    code = """
    from dataset_scripts import load_vtg_dataset
    data = load_vtg_dataset("custom", data_files="hf://datasets/org/mine", video_dir=VIDEOS)
    print({split: [(row["video_id"], row["query"], row["moments"]) for row in data[split]] for split in data})
    try:
        load_vtg_dataset("custom", data_files="hf://datasets/org/none", video_dir=VIDEOS)
    except ValueError as error:
        print("refused:", error)
    """
    with LoopbackHub() as hub:
        for split in ("train", "validation"):
            datasets.Dataset.from_list(rows[split != "train" :][:1]).to_parquet(tmp_path / f"{split}.parquet")
        files = {f"data/{path.name}": path.read_bytes() for path in tmp_path.glob("*.parquet")}
        hub.add_repo("org/mine", files, repo_type="dataset")
        output = run_python(constants(VIDEOS=str(clips)) + textwrap.dedent(code), hub.env(tmp_path / "home"))
    assert "{'train': [('a', 'a dog', [[1.0, 2.0]])], 'val': [('b', 'no dog', [])]}" in output.stdout, output.stderr
    assert "refused: 'hf://datasets/org/none' cannot be loaded with `datasets`" in output.stdout, output.stderr


# ---- the report ----


def test_report_and_suggestions(tmp_path, clips):
    rows = ["a,x,0,1,train", "a,x,4,8,train", "sub/c,no,,,train", "b,y,1,2.5,val"]
    _, data = find(table(*rows, header="video,query,start,end,split"), tmp_path, clips)
    report = describe_data(data)
    train = report["splits"]["train"]
    assert (train["videos"], train["queries"], train["absent_queries"], train["moments"]) == (2, 2, 1, 2)
    assert (train["moments_below_two_units"], train["moment_sec"]["longest"]) == (1, 4.0)
    # A tenth of the moments is shorter than 1.3 s, and should have two frames.
    assert report["suggested"] == {"fps": 2.0, "window_sec": 10.0}
    assert suggest_settings([]) == {}
    assert json.loads(json.dumps(report)) == report
