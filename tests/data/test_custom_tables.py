"""Every form of a user's own table gives the same rows: formats, delimiters, encodings, compression."""

import gzip
import io
import json

import datasets
import pytest

from dataset_scripts import AnnotationError
from dataset_scripts.custom_findings import Findings, RowError
from dataset_scripts.custom_rows import KNOWN_COLUMNS, read_rows
from dataset_scripts.custom_tables import read_dataset, read_table
from dataset_scripts.custom_values import clean_video_name, parse_time, video_id_of


ROWS = [
    {"video": "é.mp4", "query": "a man, running; fast", "start": 1.5, "end": 3.0},
    {"video": "b.mp4", "query": 'she says "no"', "start": None, "end": None},
    {"video": "c.mp4", "query": "two\nlines", "start": 0.25, "end": 65.0},
]


def write_csv(delimiter=",", decimal=".", end="\r\n"):
    """The rows as CSV, with quotes where they are needed, blank lines, and empty rows as Excel leaves them."""
    lines = ["", delimiter.join(["Video", " Query", "START", "end "])]
    for row in ROWS:
        cells = []
        for value in row.values():
            text = "" if value is None else str(value).replace(".", decimal) if isinstance(value, float) else value
            quote = any(mark in text for mark in (delimiter, '"', "\n"))
            cells.append('"' + text.replace('"', '""') + '"' if quote else text)
        lines += [delimiter.join(cells), "", delimiter * 3]
    return end.join(lines)


def parquet():
    buffer = io.BytesIO()
    datasets.Dataset.from_list(ROWS).to_parquet(buffer)
    return buffer.getvalue()


JSON_LINES = "\n".join(json.dumps(row) for row in ROWS)
FORMS = {
    "csv": write_csv().encode(),
    "csv with unix line ends": write_csv(end="\n").encode(),
    "csv with line ends of old Macs": write_csv(end="\r").replace("\n", "\r").encode(),
    "a hint for Excel with line ends of old Macs": b"sep=;\r" + write_csv(";", end="\r").replace("\n", "\r").encode(),
    "semicolons and decimal commas": write_csv(";", ",").encode(),
    "tabs": write_csv("\t").encode(),
    "tabs and decimal commas": write_csv("\t", ",").encode(),
    "bars": write_csv("|").encode(),
    "a hint for Excel": b"sep=;\r\n" + write_csv(";", ",").encode(),
    "byte order mark": write_csv().encode("utf-8-sig"),
    "UTF-16": write_csv("\t").encode("utf-16"),
    "UTF-16 without a mark": write_csv("\t").encode("utf-16-le"),
    "Latin-1": write_csv(";").encode("latin-1"),
    "json lines": JSON_LINES.encode(),
    "json lines, escaped less": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(),
    "json list": json.dumps(ROWS).encode(),
    "json list over lines": json.dumps(ROWS, indent=2).encode(),
    "json under a key": json.dumps({"version": 1, "data": ROWS}).encode(),
    "json under a key over lines": json.dumps({"data": ROWS}, indent=1).encode(),
    "parquet": parquet(),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(tmp_path, form, compressed):
    path = tmp_path / "table"  # the name says nothing
    path.write_bytes(gzip.compress(FORMS[form]) if compressed else FORMS[form])
    table = read_table(path, "table", KNOWN_COLUMNS)
    assert table.columns == list(ROWS[0])
    assert (table.legacy_encoding == "Windows-1252") == (form == "Latin-1")
    assert len(table.rows) == len(ROWS)
    for row, expected in zip(table.rows, ROWS, strict=True):
        assert row.problem is None
        for column, value in expected.items():
            found = row.fields[column]
            if isinstance(value, float):
                found = parse_time(found, column, table.decimal_comma)
            assert (found.replace("\r", "") if isinstance(found, str) else found) == value


def places(tmp_path, data):
    path = tmp_path / "table"
    path.write_bytes(data)
    return {row.place: row.problem for row in read_table(path, "my.csv", KNOWN_COLUMNS).rows}


def test_rows_are_named_by_their_lines(tmp_path):
    assert list(places(tmp_path, FORMS["csv with unix line ends"])) == [f"my.csv, line {line}" for line in (3, 6, 9)]
    assert list(places(tmp_path, b"sep=;\nvideo;query;start;end\na;b;1;2\n")) == ["my.csv, line 3"]
    assert list(places(tmp_path, JSON_LINES.replace("\n", "\n\n").encode())) == [
        f"my.csv, line {line}" for line in (1, 3, 5)
    ]
    assert list(places(tmp_path, FORMS["json list"])) == [f"my.csv, row {row}" for row in (1, 2, 3)]
    assert list(places(tmp_path, FORMS["parquet"])) == [f"my.csv, row {row}" for row in (1, 2, 3)]


def test_a_row_with_the_wrong_number_of_cells_is_named(tmp_path):
    found = places(tmp_path, b"video,query,start,end\na,a man, running,1,2\nb,x,1,2\nc,x\n")
    assert found["my.csv, line 2"].startswith("found 5 cells, but the header has 4")
    assert found["my.csv, line 3"] is None
    assert found["my.csv, line 4"].startswith("found 2 cells"), "not taken for a query that nothing matches"


BROKEN = {
    b"": "empty",
    b" \n": "empty",
    b"{}": None,
    b"[": "broken JSON",
    b'{"rows": []': "broken JSON",
    b'"text"': None,
    b'{\n"rows": []\n}': "without rows",
    b"PAR1 and nothing": "broken Parquet",
    b"\x1f\x8b broken": "broken gzip",
    b"video,video,query\n": "more than once",
    b'video,query,start,end\n"a,b,1,2\n': "broken CSV",
    b"\xff\xfea": "broken UTF-16",
    b"PK\x03\x04...": "save the sheet as CSV",
    b";;;\n": None,
}


@pytest.mark.parametrize("data", BROKEN)
def test_what_is_no_table_is_refused(tmp_path, data):
    path = tmp_path / "table"
    path.write_bytes(data)
    if BROKEN[data] is None:
        assert not any({"video", "query"} <= row.fields.keys() for row in read_table(path, "t", KNOWN_COLUMNS).rows)
    else:
        with pytest.raises(AnnotationError, match=f"^(t|{path}).*{BROKEN[data]}"):
            read_table(path, "t", KNOWN_COLUMNS)


@pytest.mark.parametrize("start", ['video,query,start,end\n"', '"video,query,start,end\n'])
def test_a_cell_that_is_too_long_is_named(tmp_path, start):
    path = tmp_path / "table"
    path.write_text(start + "a,b,1,2\n" * 2**15)
    with pytest.raises(AnnotationError, match="^t, line [12]: found a cell of more than 131,072 characters"):
        read_table(path, "t", KNOWN_COLUMNS)


NO_ROWS = {
    "json": b"[]",
    "objects without keys": b"[{}]",
    "numbers": b"[1, 2]",
}


@pytest.mark.parametrize("form", NO_ROWS)
def test_json_without_rows_is_refused(tmp_path, form):
    path = tmp_path / "table"
    path.write_bytes(NO_ROWS[form])
    with pytest.raises(AnnotationError, match="my.json: found no rows with named values, expected `video`, `query`,"):
        read_rows(read_table(path, "my.json", KNOWN_COLUMNS), Findings())


def test_columns_are_known_without_rows(tmp_path):
    empty = datasets.Dataset.from_list(ROWS).select([])
    path = tmp_path / "test.parquet"
    empty.to_parquet(path)
    assert read_table(path, "t", KNOWN_COLUMNS).columns == list(ROWS[0])
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "train.parquet")
    tables = read_dataset(str(tmp_path), "d")
    assert {split: (len(table.rows), table.columns) for split, table in tables.items()} == {
        "train": (3, list(ROWS[0])),
        "test": (0, list(ROWS[0])),
    }


TIMES = {
    "75.5": 75.5,
    " 75 ": 75,
    "1:15.5": 75.5,
    "01:15": 75,
    "90:00": 5400,
    "0:01:15.5": 75.5,
    "00:01:15,500": 75.5,
    "1:00:00": 3600,
    75: 75,
    75.5: 75.5,
    ".5": 0.5,
    "1e1": 10,
}


@pytest.mark.parametrize("value", TIMES)
def test_times(value):
    assert parse_time(value, "start") == TIMES[value]


def test_decimal_commas_only_where_the_comma_separates_nothing():
    assert parse_time("12,5", "start", decimal_comma=True) == 12.5
    for value, decimal_comma in (("12,5", False), ("1.234,5", True), ("1,2,3", True)):
        with pytest.raises(RowError, match="`start` is '1"):
            parse_time(value, "start", decimal_comma=decimal_comma)
    for value in (None, True, [1], float("nan"), "1:60", "1:60:00", "", ":5", "5:"):
        with pytest.raises(RowError):
            parse_time(value, "start")


IDS = {
    "a.mp4": "a",
    "a": "a",
    "./x/a.MP4": "x/a",
    "x\\a.mkv": "x/a",
    "/home/me/a.mp4": "a",
    "C:\\me\\a.mp4": "a",
    "talk 1.5": "talk 1.5",
    "e\u0301.mp4": "\u00e9",
    17: "17",
}


@pytest.mark.parametrize("name", IDS)
def test_ids_of_videos(name):
    assert video_id_of(clean_video_name(name, "video")) == IDS[name]
