"""Any legal file loads and gives back its records; any illegal line is named by its number."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_scripts import AnnotationError, load_vtg_dataset


FEW = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # files are simply overwritten
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda text: text.strip())
NUMBER = st.floats(-20, 400, allow_nan=False) | st.integers(-20, 400)
QID = st.integers(-(10**6), 10**6) | TEXT


@st.composite
def records(draw, qid):
    """A record in the common format, with or without scores."""
    duration = draw(st.floats(2, 300) | st.integers(2, 300))
    windows = draw(st.lists(st.tuples(NUMBER, NUMBER).map(list), max_size=4))
    record = {
        "qid": qid,
        "query": draw(TEXT),
        "duration": duration,
        "vid": draw(TEXT),
        "relevant_windows": windows,
    }
    if draw(st.booleans()):
        most = 5 if windows else 0  # where nothing matches, no unit is relevant
        clips = draw(st.lists(st.integers(0, int(duration / 2) - 1), unique=True, max_size=most))
        record["relevant_clip_ids"] = clips
        record["saliency_scores"] = [draw(st.lists(st.integers(0, 4), min_size=3, max_size=3)) for _ in clips]
    return record


@st.composite
def files(draw):
    """Records with different qids, in a file with any valid line breaks, blank lines and escapes."""
    qids = draw(st.lists(QID, min_size=1, max_size=4, unique_by=str))
    rows = [draw(records(qid)) for qid in qids]
    breaks = [draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n  \n"])) for _ in rows]
    if draw(st.booleans()):
        breaks[-1] = ""
    ascii_only = draw(st.booleans())
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row, end in zip(rows, breaks, strict=True))
    return rows, draw(st.sampled_from(["", "\ufeff"])) + text


@FEW
@given(files())
@pytest.mark.parametrize("name", ["qvhighlights", "charades_sta", "ego4d_nlq", "tacos"])
def test_any_valid_file_is_reproduced(tmp_path, name, file):
    rows, text = file
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    loaded = load_vtg_dataset(name, split="test", data_files=path)
    assert len(loaded) == len(rows)
    for row, record in zip(loaded, rows, strict=True):
        duration = record["duration"]
        assert (row["qid"], row["query"], row["video_id"]) == (
            str(record["qid"]),
            record["query"].strip(),
            record["vid"],
        )
        assert row["duration_sec"] == duration
        inside = [sorted(min(max(time, 0), duration) for time in window) for window in record["relevant_windows"]]
        assert row["moments"] == sorted(inside)
        if "saliency_scores" not in record:
            assert row["saliency"] is None
            continue
        given_scores = dict(zip(record["relevant_clip_ids"], record["saliency_scores"], strict=True))
        expected = [given_scores.get(clip, [0, 0, 0]) for clip in range(int(duration / 2))]
        assert row["saliency"]["scores"] == expected


LINE_OF_CHARADES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), min_size=1, max_size=20
)


@FEW
@given(st.lists(st.tuples(NUMBER, NUMBER, LINE_OF_CHARADES.filter(str.strip)), min_size=1, max_size=5))
def test_any_valid_line_of_charades_is_reproduced(tmp_path, rows):
    lines = [f"VID {start} {end}##{sentence}" for start, end, sentence in rows]
    (tmp_path / "charades_sta_test.txt").write_bytes("\n".join(lines).encode())
    (tmp_path / "Charades_v1_test.csv").write_text("id,length\nVID,100.5\n")
    loaded = load_vtg_dataset("charades_sta", split="test", data_dir=tmp_path)
    assert loaded["query"][:] == [sentence.strip() for _, _, sentence in rows]
    for row, (start, end, _) in zip(loaded, rows, strict=True):
        assert row["moments"] == [sorted(min(max(float(time), 0), 100.5) for time in (start, end))]


WRONG_VALUES = {
    "qid": [None, 1.5, "", [], {}],
    "query": [None, "", "  ", 3, ["a"]],
    "vid": [None, "", 7, False],
    "duration": [None, 0, -1, "20", float("nan"), float("inf"), True],
    "relevant_windows": [None, 5, [5], [[1]], [[1, 2, 3]], [[1, "2"]], [[float("nan"), 2]], [[1, None]]],
    "saliency_scores": [5, [[1, 2], [3]], [[]], [[5]], [[float("nan")]]],
}


@FEW
@given(
    st.data(),
    st.integers(1, 5),
    st.sampled_from([(key, value) for key in WRONG_VALUES for value in WRONG_VALUES[key]]),
)
def test_any_invalid_line_is_named(tmp_path, data, num_rows, wrong):
    field, value = wrong
    rows = [data.draw(records(qid)) for qid in range(num_rows)]
    bad = data.draw(st.integers(0, num_rows - 1))
    rows[bad][field] = value
    path = tmp_path / "file"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(AnnotationError, match=f"line {bad + 1}: `({field}|relevant_clip_ids)") as error:
        load_vtg_dataset("tacos", split="val", data_files=path)
    assert str(path) in str(error.value)
    assert "expected" in str(error.value)
    if num_rows > 1:
        assert len(load_vtg_dataset("tacos", split="val", data_files=path, on_error="skip")) == num_rows - 1


@FEW
@given(st.binary(max_size=200))
@pytest.mark.parametrize("name", ["qvhighlights", "charades_sta", "ego4d_nlq", "tacos", "youtube_highlights", "tvsum"])
def test_any_bytes_give_an_error_that_names_the_file(tmp_path, name, content):
    """Random bytes are no benchmark, and must not fail in any other way."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises((AnnotationError, FileNotFoundError), match="file"):
        load_vtg_dataset(name, split="train", data_files=path)
