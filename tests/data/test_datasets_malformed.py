"""Malformed annotations: the error names file, place, field, what was found and what is expected; or they are counted."""

import gc
import gzip
import json

import annotation_samples as samples
import h5py
import pytest

from dataset_scripts import AnnotationError, load_vtg_dataset
from dataset_scripts.tvsum_release import read_mat


BAD_LINE = 3  # of the files below, counted from 1
GOOD = {"qid": 9, "query": "a door opens", "duration": 20, "vid": "v", "relevant_windows": [[0, 4]]}
SCORED = {**GOOD, "relevant_clip_ids": [0, 1], "saliency_scores": [[1, 2, 3], [4, 0, 0]]}


def changed(record, **fields):
    return json.dumps({**record, **fields})


def without(record, field):
    return json.dumps({key: value for key, value in record.items() if key != field})


BAD_LINES = {
    "broken JSON": (json.dumps(GOOD)[:-9], "column .*: found broken JSON"),
    "no JSON": ("qid 9", "column 1: found broken JSON"),
    "two objects": (json.dumps(GOOD) * 2, "column .*: found broken JSON .Extra data"),
    "a list": ("[1, 2]", r"found \[1, 2\], expected an object"),
    "a duplicate key": (json.dumps(GOOD)[:-1] + ', "vid": "w"}', "the key 'vid' occurs more than once"),
    "not UTF-8": (json.dumps(GOOD).encode().replace(b"door", b"d\xf6or"), r"found byte b'\\xf6' at position \d+"),
    "endless nesting": ("[" * 100_000, "found JSON that cannot be used"),
    "an endless number": (json.dumps(GOOD).replace("20", "1" * 5000), "found JSON that cannot be used"),
    "no qid": (without(GOOD, "qid"), "`qid` is missing, expected a whole number or a text"),
    "null qid": (changed(GOOD, qid=None), "`qid` is None"),
    "fractional qid": (changed(GOOD, qid=1.5), "`qid` is 1.5"),
    "boolean qid": (changed(GOOD, qid=True), "`qid` is True"),
    "qid twice": (changed(GOOD, qid=0), "found qid '0' again"),
    "qid twice, as a text": (changed(GOOD, qid="1"), "found qid '1' again"),
    "no query": (without(GOOD, "query"), "`query` is missing, expected a sentence that is not empty"),
    "empty query": (changed(GOOD, query=""), "`query` is '', expected a sentence that is not empty"),
    "blank query": (changed(GOOD, query=" \t"), r"`query` is ' \\t'"),
    "query of another type": (changed(GOOD, query=["a"]), r"`query` is \['a'\]"),
    "half a character": (changed(GOOD, query="a \ud83d b"), "`query` is .*, expected a sentence of whole characters"),
    "no vid": (without(GOOD, "vid"), "`vid` is missing, expected a text"),
    "vid of another type": (changed(GOOD, vid=5), "`vid` is 5, expected a text"),
    "no duration": (without(GOOD, "duration"), "`duration` is missing, expected a number above 0"),
    "duration as text": (changed(GOOD, duration="20"), "`duration` is '20', expected a number above 0"),
    "negative duration": (changed(GOOD, duration=-20), "`duration` is -20, expected a number above 0"),
    "no length": (changed(GOOD, duration=0), "`duration` is 0"),
    "NaN": (changed(GOOD, duration=float("nan")), "`duration` is nan"),
    "infinity": (changed(GOOD, duration=float("inf")), "`duration` is inf"),
    "overflow": (json.dumps(GOOD).replace("20", "1e999"), "`duration` is inf"),
    "a huge integer": (changed(GOOD, duration=10**400), "`duration` is 1000"),
    "more than a day": (
        changed(GOOD, duration=1e7),
        r"found a video of 1e\+07 s, expected .* at most 86,400 s, a day",
    ),
    "scores of a day": (changed(SCORED, duration=86_400), "`duration` is 86400, expected at most 21,600, six hours"),
    "a crowd of annotators": (
        changed(SCORED, saliency_scores=[[1] * 101] * 2),
        r"`saliency_scores\[0\]` is .*, expected scores of at most 100 annotators",
    ),
    "endless windows": (
        changed(GOOD, relevant_windows=[[0, 4]] * 10_001),
        "`relevant_windows` has 10,001 items, expected at most 10,000",
    ),
    "a clip far away": (changed(SCORED, relevant_clip_ids=[0, 10**9]), r"`relevant_clip_ids\[1\]` is 1000000000"),
    "boolean duration": (changed(GOOD, duration=True), "`duration` is True"),
    "no windows": (
        without(GOOD, "relevant_windows"),
        r"`relevant_windows` is missing, expected a list of \[start, end\]",
    ),
    "one window": (changed(GOOD, relevant_windows=[0, 4]), r"`relevant_windows\[0\]` is 0, expected a \[start, end\]"),
    "windows of three": (
        changed(GOOD, relevant_windows=[[0, 1], [0, 1, 2]]),
        r"`relevant_windows\[1\]` is \[0, 1, 2\]",
    ),
    "text in a window": (changed(GOOD, relevant_windows=[["0", 1]]), r"`relevant_windows\[0\]` is \['0', 1\]"),
    "NaN in a window": (changed(GOOD, relevant_windows=[[float("nan"), 1]]), r"`relevant_windows\[0\]` is \[nan, 1\]"),
    "windows as an object": (changed(GOOD, relevant_windows={}), r"`relevant_windows` is \{\}"),
    "no scores": (without(SCORED, "saliency_scores"), "`saliency_scores` is missing"),
    "no clips": (without(SCORED, "relevant_clip_ids"), "`relevant_clip_ids` is missing"),
    "rows of scores missing": (changed(SCORED, saliency_scores=[[1, 2, 3]]), "expected 2 rows, one for each"),
    "uneven scores": (changed(SCORED, saliency_scores=[[1, 2, 3], [1, 2]]), r"`saliency_scores\[1\]` is \[1, 2\]"),
    "empty scores": (changed(SCORED, saliency_scores=[[], []]), r"`saliency_scores\[0\]` is \[\]"),
    "scores off the scale": (changed(SCORED, saliency_scores=[[1, 2, 3], [5, 0, 0]]), "expected scores from 0 to 4"),
    "NaN scores": (changed(SCORED, saliency_scores=[[float("nan")], [0]]), r"`saliency_scores\[0\]` is \[nan\]"),
    "clip after the video": (changed(SCORED, relevant_clip_ids=[0, 10]), r"`relevant_clip_ids\[1\]` is 10.* 0 to 9"),
    "clip before the video": (changed(SCORED, relevant_clip_ids=[-1, 1]), r"`relevant_clip_ids\[0\]` is -1"),
    "fractional clip": (changed(SCORED, relevant_clip_ids=[0, 1.0]), r"`relevant_clip_ids\[1\]` is 1.0"),
    "clip twice": (
        changed(SCORED, relevant_clip_ids=[1, 1]),
        r"`relevant_clip_ids` is \[1, 1\], expected each unit only once",
    ),
}


def write_lines(path, bad):
    rows = [json.dumps({**GOOD, "qid": number}).encode() for number in range(4)]
    rows.insert(BAD_LINE - 1, bad if isinstance(bad, bytes) else bad.encode())
    return samples.write_text(path, b"\n".join(rows))


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_line_is_named(tmp_path, case):
    line, message = BAD_LINES[case]
    path = write_lines(tmp_path / "rows.jsonl", line)
    with pytest.raises(AnnotationError, match=message) as error:
        load_vtg_dataset("qvhighlights", split="val", data_files=path)
    assert str(error.value).startswith(f"{path}, line {BAD_LINE}")


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_line_is_skipped_and_counted(tmp_path, caplog, case):
    line, message = BAD_LINES[case]
    path = write_lines(tmp_path / "rows.jsonl", line)
    dataset = load_vtg_dataset("qvhighlights", split="val", data_files=path, on_error="skip")
    assert dataset["qid"][:] == ["0", "1", "2", "3"]
    assert f"; 1 malformed records skipped, the first: {path}, line {BAD_LINE}" in caplog.messages[-1]
    assert caplog.records[-1].levelname == "WARNING"


@pytest.mark.parametrize("streaming", [False, True])
def test_the_error_is_the_same_while_streaming(tmp_path, streaming):
    path = write_lines(tmp_path / "rows.jsonl", changed(GOOD, duration=-1))
    with pytest.raises(AnnotationError, match=f"line {BAD_LINE}: `duration`"):
        list(load_vtg_dataset("qvhighlights", split="val", data_files=path, streaming=streaming))


def test_a_test_split_is_annotated_completely_or_not_at_all(tmp_path):
    hidden = json.loads(without(GOOD, "relevant_windows"))
    for first, second, message in (
        (hidden, GOOD, r"line 2: `relevant_windows` is \[\[0, 4\]\], expected no such field"),
        (GOOD, hidden, "line 2: `relevant_windows` is missing"),
    ):
        path = samples.write_json_lines(tmp_path / "rows", [{**first, "qid": 1}, {**second, "qid": 2}])
        with pytest.raises(AnnotationError, match=message):
            load_vtg_dataset("qvhighlights", split="test", data_files=path)


# ---- whole files ----


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
@pytest.mark.parametrize("name", samples.FORMS)
def test_empty_file(tmp_path, name, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match="file: found an empty file, expected annotations"):
        load_vtg_dataset(name, split=samples.SPLITS[name][-1], data_files=path, on_error="skip")


@pytest.mark.parametrize("name", samples.FORMS)
def test_broken_gzip(tmp_path, name):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(b"some text " * 100)[:-20])
    with pytest.raises(AnnotationError, match="file, line 1: found a broken gzip file"):
        load_vtg_dataset(name, split=samples.SPLITS[name][-1], data_files=path)


@pytest.mark.parametrize("name", samples.FORMS)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, name, encoding):
    """PowerShell's `>` writes it."""
    path = tmp_path / "file"
    path.write_bytes("\ufeff{}".encode(encoding))
    with pytest.raises(AnnotationError, match="file, line 1: found text in UTF-16, expected text in UTF-8"):
        load_vtg_dataset(name, split=samples.SPLITS[name][-1], data_files=path)


def test_files_that_expand_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_scripts.reading.MAX_BYTES", 10_000)
    path = samples.write_text(tmp_path / "bomb", b" " * 10_001, compress=True)
    assert path.stat().st_size < 100
    with pytest.raises(
        AnnotationError, match=r"bomb\.gz: found more than 10,000 bytes, decompressed; expected no more"
    ):
        load_vtg_dataset("tacos", split="val", data_files=path)


def test_the_error_names_the_line_at_which_gzip_ends(tmp_path):
    """The last half of the file is missing."""
    rows = [{**GOOD, "qid": number, "query": f"{number**9:x}"} for number in range(4000)]
    packed = gzip.compress(b"\n".join(json.dumps(row).encode() for row in rows))
    path = tmp_path / "rows.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(AnnotationError, match=r"rows\.gz, line (1[5-9]|2[0-5])\d\d: found a broken gzip file"):
        load_vtg_dataset("tacos", split="val", data_files=path)


def test_the_longest_video_takes_little_memory(tmp_path):
    row = {**SCORED, "duration": 21_600}
    path = samples.write_json_lines(tmp_path / "rows", [row])
    [row] = (dataset := load_vtg_dataset("qvhighlights", split="val", data_files=path))
    assert len(row["saliency"]["scores"]) == 10_800
    assert dataset.data.nbytes < 2**20


@pytest.mark.parametrize("name", samples.FORMS)
@pytest.mark.parametrize(
    "content",
    [b"\x80\x04\x95.", b"not annotations at all", b"[]", b"{", b"\xff\xfe{\x00", b"\x89HDF\r\n\x1a\n", b"{}", b"3"],
)
def test_other_file_types_are_refused(tmp_path, name, content):
    """In particular, a pickle is not unpickled."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match="file"):
        load_vtg_dataset(name, split=samples.SPLITS[name][-1], data_files=path)


def test_a_file_without_a_valid_record_is_an_error(tmp_path):
    path = samples.write_json_lines(tmp_path / "rows", [{"qid": 1}, {"qid": 2}])
    with pytest.raises(
        AnnotationError, match="2 malformed records skipped, the first: .*, line 1: `duration` is missing"
    ):
        load_vtg_dataset("tacos", split="val", data_files=path, on_error="skip")


# ---- Charades-STA ----


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("TES00 1.0 2.0 a sentence", "found 'TES00 1.0 2.0 a sentence', expected `VIDEO start end##sentence`"),
        ("TES00 1.0##a sentence", "found 'TES00 1.0##a sentence', expected `VIDEO start end##sentence`"),
        ("TES00 one 2.0##a sentence", "`start` is 'one', expected a number"),
        ("TES00 1.0 nan##a sentence", "`end` is 'nan', expected a number"),
        ("TES00 1.0 1e999##a sentence", "`end` is '1e999', expected a number"),
        ("TES00 1.0 1_0##a sentence", "`end` is '1_0', expected a number"),
        ("TES00 1.0 2.0##  ", "`sentence` is '  ', expected a sentence"),
        ("OTHER 1.0 2.0##a sentence", "found no duration for video 'OTHER'"),
        ("TES00 1.0 2.0##a s\u00f6ntence".encode("latin-1"), r"found byte b'\\xf6'"),
    ],
)
def test_bad_line_of_charades(tmp_path, caplog, line, message):
    folder = samples.write_charades_sta(tmp_path)
    path = folder / "charades_sta_test.txt"
    lines = path.read_bytes().splitlines()
    lines.insert(BAD_LINE - 1, line if isinstance(line, bytes) else line.encode())
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(AnnotationError, match=f"charades_sta_test.txt, line {BAD_LINE}: {message}"):
        load_vtg_dataset("charades_sta", split="test", data_dir=folder)
    dataset = load_vtg_dataset("charades_sta", split="test", data_dir=folder, on_error="skip")
    assert dataset["qid"][:] == ["0", "1", "3"]  # numbers of lines, the bad one too
    assert "1 malformed records skipped" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,length\nTES00,abc\n", "Charades_v1_test.csv, line 2: `length` is 'abc', expected a number above 0"),
        ("id,length\nTES00,90000\n", "line 2: found a video of 90000 s, expected"),
        ("id,length\nTES00,-3\n", "line 2: `length` is '-3', expected a number above 0"),
        ("id,length\nTES00\n", "line 2: `length` is None"),
        ("id,duration\nTES00,3\n", r"found the columns \['id', 'duration'\], expected `id` and `length`"),
        ("id,length\nTES00,3\nW,\xff".encode("latin-1"), r"line 3: found byte b'\\xff'"),
    ],
)
def test_bad_table_of_durations(tmp_path, table, message):
    folder = samples.write_charades_sta(tmp_path)
    samples.write_text(folder / "Charades_v1_test.csv", table)
    with pytest.raises(AnnotationError, match=message):
        load_vtg_dataset("charades_sta", split="test", data_dir=folder)


# ---- documents: TACoS, Ego4D, YouTube Highlights, TVSum ----


def change_document(path, change):
    document = json.loads(path.read_text())
    change(document)
    samples.write_json(path, document)


@pytest.mark.parametrize(
    ("change", "message", "left"),
    [
        (lambda video: video.pop("fps"), "video 's10-val.avi': `fps` is missing", 2),
        (lambda video: video.update(fps=0), "video 's10-val.avi': `fps` is 0, expected a number above 0", 2),
        (lambda video: video.update(fps=1e-300), "video 's10-val.avi': found a video of 3e\\+302 s, expected", 2),
        (lambda video: video.update(num_frames="9"), "`num_frames` is '9'", 2),
        (lambda video: video.update(sentences="x"), "`sentences` is 'x', expected a list", 2),
        (lambda video: video["sentences"].pop(), "found 2 `timestamps` and 1 `sentences`", 2),
        (lambda video: video["timestamps"].__setitem__(1, [1]), r"sentence 1: `timestamps\[0\]` is \[1\]", 3),
        (lambda video: video["sentences"].__setitem__(1, " "), "sentence 1: `sentence` is ' '", 3),
    ],
)
def test_bad_video_of_tacos(tmp_path, caplog, change, message, left):
    folder = samples.write_tacos(tmp_path)
    change_document(folder / "val.json", lambda document: change(document["s10-val.avi"]))
    with pytest.raises(AnnotationError, match=f"val.json, video 's10-val.avi'.*{message.split(': ')[-1]}") as error:
        load_vtg_dataset("tacos", split="val", data_dir=folder)
    assert message.split(":")[0].split(",")[-1] in str(error.value)
    assert len(load_vtg_dataset("tacos", split="val", data_dir=folder, on_error="skip")) == left
    assert "1 malformed records skipped" in caplog.messages[-1]


def test_duplicate_video_of_tacos(tmp_path):
    folder = samples.write_tacos(tmp_path)
    text = (folder / "val.json").read_text()
    (folder / "val.json").write_text(f'{text[:-1]}, "s10-val.avi": {{}}}}')
    with pytest.raises(AnnotationError, match="val.json: .*the key 's10-val.avi' occurs more than once"):
        load_vtg_dataset("tacos", split="val", data_dir=folder, on_error="skip")
    (folder / "val.json").write_text(f'{text[:-1]}, "s10-val": {text[text.index("{", 1) : text.index("}") + 1]}}}')
    with pytest.raises(AnnotationError, match="video 's10-val', sentence 0: found qid 's10-val_0' again"):
        load_vtg_dataset("tacos", split="val", data_dir=folder)


def query_of(document, number=1):
    return document["videos"][0]["clips"][0]["annotations"][0]["language_queries"][number]


@pytest.mark.parametrize(
    ("change", "place", "message", "left"),
    [
        (lambda document: document.update(videos={}), "", r"`videos` is \{\}, expected a list", 0),
        (lambda document: document["videos"][0].pop("clips"), r"videos\[0\]", "`clips` is missing", 2),
        (
            lambda document: document["videos"][0]["clips"].insert(0, 5),
            r"clips\[0\]",
            "found 5, expected an object",
            4,
        ),
        (
            lambda document: document["videos"][0]["clips"][0].pop("clip_uid"),
            r"clips\[0\]",
            "`clip_uid` is missing",
            2,
        ),
        (lambda document: document["videos"][0]["clips"][0].update(clip_end_sec=0), "", "expected an end after", 2),
        (
            lambda document: document["videos"][0]["clips"][0].update(clip_end_sec=1e6),
            "",
            "found a video of 1e\\+06 s",
            2,
        ),
        (lambda document: query_of(document).update(query=7), r"language_queries\[1\]", "`query` is 7", 3),
        (lambda document: query_of(document).pop("clip_end_sec"), "", "`clip_end_sec` is missing", 3),
        (lambda document: query_of(document).update(clip_start_sec="1"), "", "`clip_start_sec` is '1'", 3),
    ],
)
def test_bad_record_of_ego4d(tmp_path, change, place, message, left):
    folder = samples.write_ego4d_nlq(tmp_path)
    change_document(folder / "nlq_val.json", change)
    with pytest.raises(AnnotationError, match=f"nlq_val.json.*{place}.*{message}"):
        load_vtg_dataset("ego4d_nlq", split="val", data_dir=folder)
    if left:
        assert len(load_vtg_dataset("ego4d_nlq", split="val", data_dir=folder, on_error="skip")) == left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda video: video.pop("fps"), "`fps` is missing"),
        (lambda video: video.update(frames="many"), "`frames` is 'many', expected a number above 0"),
        (lambda video: video.update(frames=None), "`frames` is None"),
        (lambda video: video.update(frames=1e300), "found a video of 4e\\+298 s, expected"),
        (lambda video: video.update(domain="surfing"), "`domain` is 'surfing', expected 'dog', as in the split"),
        (lambda video: video.update(info=["a"] * 5), "`info` is .*, expected a list with the title at index 5"),
        (lambda video: video["match"].pop(), "`match` is .*, expected one label for each of the 9 items of `clip`"),
        (lambda video: video["match"].__setitem__(2, 2), r"`match\[2\]` is 2, expected -1, 0 or 1"),
        (lambda video: video["clip"].__setitem__(2, [9, 3]), r"`clip\[2\]` is \[9, 3\], expected \[start, end\] in"),
        (lambda video: video["clip"].__setitem__(8, [900, 950]), r"`clip\[8\]` is \[900, 950\], .* 0 to 250"),
    ],
)
def test_bad_video_of_youtube_highlights(tmp_path, change, message):
    folder = samples.write_youtube_highlights(tmp_path)
    change_document(folder / "youtube_anno.json", lambda document: change(document["dog-clip1"]))
    with pytest.raises(AnnotationError, match=f"youtube_anno.json, video 'dog-clip1': {message}"):
        load_vtg_dataset("youtube_highlights", split="val", data_dir=folder)
    rest = load_vtg_dataset("youtube_highlights", split="val", data_dir=folder, on_error="skip")
    assert rest["qid"][:] == ["surfing-clip1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda video: video.update(fps=-1), "`fps` is -1"),
        (lambda video: video.update(fps=1e-320), "found a video of inf s, expected"),
        (lambda video: video.update(title=5), "`title` is 5"),
        (lambda video: video.update(domain="VU"), "`domain` is 'VU', expected 'BK'"),
        (lambda video: video["anno"].append([1] * 19), r"`anno\[6\]` is .*, expected a list of scores, as long as"),
        (
            lambda video: video.update(anno=[[1] * 19] * 6),
            "`anno` is .*, expected 20 scores for each of at most 7 shots",
        ),
        (
            lambda video: video.update(anno=[[1] * 20] * 8),
            "`anno` is .*, expected 20 scores for each of at most 7 shots",
        ),
        (lambda video: video.update(anno=[]), r"`anno` is \[\], expected 20 scores for each"),
        (lambda video: video["anno"][3].__setitem__(4, 6), r"`anno\[3\]` is .*, expected scores from 1 to 5"),
    ],
)
def test_bad_video_of_tvsum(tmp_path, change, message):
    folder = samples.write_tvsum(tmp_path)
    change_document(folder / "tvsum_anno.json", lambda document: change(document["BK_video-1"]))
    with pytest.raises(AnnotationError, match=f"tvsum_anno.json, video 'BK_video-1': {message}"):
        load_vtg_dataset("tvsum", split="val", data_dir=folder)
    rest = load_vtg_dataset("tvsum", split="val", data_dir=folder, on_error="skip")
    assert rest["qid"][:] == ["VU_video-1"]


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        (
            "info",
            "\t0:09\n",
            "\tnine\n",
            "info.tsv, line 2: found .*, expected category, video_id, title, url, length",
        ),
        ("info", "BK\t", "", "info.tsv, line 2: found .*, expected category, video_id"),
        (
            "anno",
            "\tBK\t",
            " BK ",
            "anno.tsv, line 1: found .*, expected a video id, its category and comma-separated scores",
        ),
        (
            "anno",
            "\t1,",
            "\tx,",
            "anno.tsv, line 1: found .*, expected a video id, its category and comma-separated scores",
        ),
        ("anno", "\t1,1,", "\t1,", "anno.tsv, line 2: found 225 scores, expected 224"),
        ("anno", "\t1,1,", "\t9,9,", r"`anno\[0\]`|"),
    ],
)
def test_bad_table_of_tvsum(tmp_path, table, old, new, message):
    folder = samples.write_tvsum(tmp_path, "tsv")
    path = folder / f"ydata-tvsum50-{table}.tsv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if message.endswith("|"):  # a score that no shot's middle meets does no harm
        assert len(load_vtg_dataset("tvsum", split="train", data_dir=folder)) == 2
        return
    with pytest.raises(AnnotationError, match=message):
        load_vtg_dataset("tvsum", split="train", data_dir=folder)
    rest = load_vtg_dataset("tvsum", split="train", data_dir=folder, on_error="skip")
    assert rest["qid"][:] == ["VU_video-0"]


@pytest.mark.parametrize("cut", [600, 4000])
def test_broken_mat_file(tmp_path, cut):
    path = samples.write_tvsum(tmp_path, "mat") / "ydata-tvsum50.mat"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AnnotationError, match="ydata-tvsum50.mat: .*expected `tvsum50` of MATLAB version 7.3"):
        load_vtg_dataset("tvsum", data_dir=tmp_path)


def test_mat_file_that_declares_more_values_than_it_stores(tmp_path):
    path = samples.write_tvsum(tmp_path, "mat") / "ydata-tvsum50.mat"
    with h5py.File(path, "r+") as file:
        file["#refs#"].create_dataset("endless", shape=(20, 10**12), chunks=(20, 1000), dtype=float)
        file["tvsum50"]["user_anno"][0, 0] = file["#refs#"]["endless"].ref
    with pytest.raises(AnnotationError, match="ydata-tvsum50.mat: .*20,000,000,000,000 values in one field"):
        load_vtg_dataset("tvsum", data_dir=tmp_path)


def test_an_error_in_a_mat_file_leaves_no_objects_of_h5py(tmp_path):
    """Freed by the garbage collector in another thread, they may wait for h5py's lock for ever."""
    path = samples.write_tvsum(tmp_path, "mat") / "ydata-tvsum50.mat"
    with h5py.File(path, "r+") as file:
        del file["tvsum50"]["user_anno"]
    del file
    gc.collect()
    with pytest.raises(AnnotationError) as found:
        read_mat(str(path))
    assert not [item for item in gc.get_objects() if issubclass(type(item), h5py.HLObject)]
    assert found.value.__cause__ is not None


def test_older_mat_file(tmp_path):
    (tmp_path / "ydata-tvsum50.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(600))
    with pytest.raises(AnnotationError, match="expected `tvsum50` of MATLAB version 7.3"):
        load_vtg_dataset("tvsum", data_dir=tmp_path)
