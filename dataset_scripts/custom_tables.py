"""Reading a user's own table as rows: JSON lines, JSON, CSV with any usual delimiter, Parquet, or a dataset of the Hub.

The format is detected from the contents, so the ending of the name does not matter; any of them may be compressed by gzip.
"""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from .benchmarks import HUB_PREFIX
from .reading import AnnotationError, parse_json, read_decompressed


__all__ = ["DataFiles", "Table", "TableRow", "is_dataset", "name_sources", "read_dataset", "read_table"]

PARQUET, ZIP = b"PAR1", b"PK\x03\x04"  # first bytes
DELIMITERS = (",", ";", "\t", "|")
EXCEL_HINT = re.compile(r"sep=(.)\s*")  # first line of some CSV files, which Excel reads
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
LEGACY_ENCODING = "cp1252"  # Latin-1 with the printable characters that Windows adds
DATA_KEY = "data"  # of a JSON document that keeps its rows under a key
DATASET_ERRORS = (OSError, RuntimeError, TypeError, ValueError)  # of files that `datasets` cannot read
LIST_OF_ROWS = 'a list of objects, or {"data": [...]}'
DataFiles = str | os.PathLike | Mapping[str, str | os.PathLike]  # one for all splits, or by split


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        fields: Values by column; `None` = an empty cell.
        place: Where it was found, such as "my.csv, line 7".
        problem: Why it cannot be used; `None` if it can.
    """

    fields: dict[str, Any]
    place: str
    problem: str | None = None


@dataclass
class Table:
    """A table.

    Attributes:
        name: Its name in messages.
        rows: Its rows.
        columns: Names of its columns, cleaned by `clean_column`.
        decimal_comma: Whether numbers may have a comma instead of a point.
        legacy_encoding: The encoding, if it is not a form of Unicode.
    """

    name: str
    rows: list[TableRow] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    decimal_comma: bool = False
    legacy_encoding: str | None = None


def clean_column(name: object) -> str:
    """The name of a column in lower case, without spaces around it, and with "_" for spaces and hyphens inside."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def read_table(path: str | os.PathLike, name: str, known_columns: Sequence[str]) -> Table:
    """Read a file.

    Args:
        path: The file.
        name: Its name in messages.
        known_columns: Names that a header may hold; they show which delimiter a CSV file has.

    Raises:
        AnnotationError: The file is none of the formats.
    """
    data = read_decompressed(path)
    if data.startswith(PARQUET):
        return _read_parquet(name, data)
    if data.startswith(ZIP):
        raise AnnotationError(f"{name}: found a workbook of Excel or another zip file; save the sheet as CSV")
    text, legacy_encoding = _decode(name, data)
    if "\n" not in text:  # line ends of old programs for the Mac
        text = text.replace("\r", "\n")
    if not text.strip():
        raise AnnotationError(f"{name}: found an empty file, expected a table")
    is_json = text.lstrip()[0] in "{["
    table = _read_json(name, text) if is_json else _read_csv(name, text, known_columns)
    table.legacy_encoding = legacy_encoding
    return table


def _decode(name: str, data: bytes) -> tuple[str, str | None]:
    """The text of a file, and its encoding if that is not a form of Unicode."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding), None
            except UnicodeDecodeError as error:
                raise AnnotationError(f"{name}: found broken {encoding.upper()} ({error.reason})") from error
    if b"\0" in data[:2]:  # UTF-16 without a mark: the header is in ASCII, so every other byte is 0
        return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le", errors="replace"), None
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        pass
    try:
        return data.decode(LEGACY_ENCODING), "Windows-1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "Latin-1"


# ---- JSON ----------------------------------------------------------------------------------------------------------


def _read_json(name: str, text: str) -> Table:
    lines = _json_lines(text)
    if lines is not None:
        rows = [_parse_line(name, number, line) for number, line in lines]
    else:
        document = parse_json(text, name)
        if isinstance(document, dict):
            document = document.get(DATA_KEY)
        if not isinstance(document, list):
            raise AnnotationError(f"{name}: found a JSON document without rows, expected {LIST_OF_ROWS}")
        rows = [_json_row(item, f"{name}, row {number}") for number, item in enumerate(document, 1)]
    return _make_table(name, rows)


def _json_lines(text: str) -> list[tuple[int, str]] | None:
    """Number and text of each line of JSON lines; `None` if the text is one document."""
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            lines.append((number, line))
    try:
        first = json.loads(lines[0][1])
    except (ValueError, RecursionError):
        # A document over several lines, unless the other lines are objects of their own.
        starts = [line.lstrip().startswith("{") and line.rstrip().endswith("}") for _, line in lines]
        return lines if len(lines) > 1 and sum(starts) > len(lines) / 2 else None
    is_document = isinstance(first, list) or (len(lines) == 1 and isinstance(first.get(DATA_KEY), list))
    return None if is_document else lines


def _parse_line(name: str, number: int, line: str) -> TableRow:
    place = f"{name}, line {number}"
    try:
        return _json_row(parse_json(line, name, number), place)
    except AnnotationError as error:
        return TableRow({}, place, str(error).removeprefix(f"{place}: ").removeprefix(f"{place}, "))


def _json_row(item: object, place: str) -> TableRow:
    if not isinstance(item, dict):
        return TableRow({}, place, f"found {type(item).__name__}, expected an object with named values")
    fields = {}
    for key, value in item.items():
        is_empty = isinstance(value, float) and math.isnan(value)  # what pandas has in an empty cell
        fields[clean_column(key)] = None if is_empty else value
    problem = None if len(fields) == len(item) else f"the keys {list(item)} differ in spelling alone"
    return TableRow(fields, place, problem)


def _make_table(name: str, rows: list[TableRow], columns: Iterable[str] = ()) -> Table:
    """A table of these rows; `columns` are those that it has even without a row."""
    found = dict.fromkeys(map(clean_column, columns))
    for row in rows:
        found.update(dict.fromkeys(row.fields))
    return Table(name, rows, list(found))


# ---- CSV -----------------------------------------------------------------------------------------------------------


def _read_csv(name: str, text: str, known_columns: Sequence[str]) -> Table:
    first_line, _, rest = text.partition("\n")
    hint = EXCEL_HINT.fullmatch(first_line)
    if hint is None:
        delimiter = _find_delimiter(text, known_columns)
        records = _csv_records(name, text, delimiter)
    else:
        delimiter = hint[1]
        records = _csv_records(name, rest, delimiter, num_skipped=1)
    line, header = next(records, (1, []))
    columns = [clean_column(cell) for cell in header]
    repeated = sorted({column for column in columns if column and columns.count(column) > 1})
    if repeated:
        raise AnnotationError(f"{name}, line {line}: the header has the columns {repeated} more than once")
    rows = [_csv_row(f"{name}, line {line}", columns, cells) for line, cells in records]
    return Table(name, rows, [column for column in columns if column], decimal_comma=delimiter != ",")


def _find_delimiter(text: str, known_columns: Sequence[str]) -> str:
    """The delimiter with which the header has most known columns; the first of `DELIMITERS` if all have as many."""

    def count_known(delimiter: str) -> int:
        try:
            _, header = next(_csv_records("", text, delimiter), (1, []))
        except AnnotationError:  # if it is broken with every delimiter, reading the rows says why
            return 0
        return sum(clean_column(cell) in known_columns for cell in header)

    return max(DELIMITERS, key=count_known)


def _csv_records(name: str, text: str, delimiter: str, num_skipped: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and cells of each record that is not blank; a quoted cell may hold line breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1 + num_skipped
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problem = f"a broken CSV record ({error})"
            if "field limit" in str(error):
                problem = f"a cell of more than {csv.field_size_limit():,} characters; close its quote, or write JSON"
            raise AnnotationError(f"{name}, line {line}: found {problem}") from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _csv_row(place: str, columns: list[str], cells: list[str]) -> TableRow:
    if len(cells) != len(columns):
        return TableRow(
            {},
            place,
            f"found {len(cells)} cells, but the header has {len(columns)}; put quotes around a text that holds the delimiter",
        )
    fields: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=True):
        if column:
            fields[column] = cell if cell.strip() else None
    return TableRow(fields, place)


# ---- Parquet and datasets ------------------------------------------------------------------------------------------


def _read_parquet(name: str, data: bytes) -> Table:
    import pyarrow  # comes with `datasets`; reading the other formats needs none of it
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(io.BytesIO(data))
        items = content.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise AnnotationError(f"{name}: found a broken Parquet file ({error})") from error
    rows = [_json_row(item, f"{name}, row {number}") for number, item in enumerate(items, 1)]
    return _make_table(name, rows, content.schema.names)


def name_sources(data_files: DataFiles) -> dict[str, str]:
    """The sources of own data by split, with "~" expanded; a single one is that of "train".

    Raises:
        FileNotFoundError: There is no such file or folder.
    """
    if not isinstance(data_files, Mapping):
        data_files = {"train": data_files}
    sources = {}
    for split, path in data_files.items():
        source = str(path)
        if not source.startswith(HUB_PREFIX):
            source = str(Path(path).expanduser())
            if not Path(source).exists():
                raise FileNotFoundError(f"`data_files` for {split}: '{path}' is neither a file nor a folder.")
        sources[str(split)] = source
    return sources


def is_dataset(source: str) -> bool:
    """Whether a source is a dataset: a name on the Hub, "hf://datasets/ORG/NAME", or a folder."""
    return source.startswith(HUB_PREFIX) or Path(source).is_dir()


def read_dataset(source: str, name: str) -> dict[str, Table]:
    """The tables of a dataset by split, read with `datasets.load_dataset`, which runs none of its code.

    Args:
        source: A folder, or "hf://datasets/ORG/NAME", also with "@REVISION".
        name: Its name in messages.

    Raises:
        AnnotationError: `datasets` cannot load it.
    """
    path, revision = source, ""
    if source.startswith(HUB_PREFIX):
        path, _, revision = source.removeprefix(HUB_PREFIX).partition("@")
    tables = {}
    try:
        # Streamed, so that no copy stays in the cache of `datasets`.
        splits = datasets.load_dataset(path, revision=revision or None, streaming=True)
        for split, dataset in splits.items():
            rows = _dataset_rows(dataset, f"{name}, {split} row")
            tables[str(split)] = _make_table(name, rows, dataset.features or ())
    except (*DATASET_ERRORS, datasets.exceptions.DatasetGenerationError) as error:
        raise AnnotationError(f"'{source}' cannot be loaded with `datasets`: {error}") from error
    return tables


def _dataset_rows(dataset: datasets.IterableDataset, place: str) -> list[TableRow]:
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Video):
            dataset = dataset.cast_column(column, datasets.Video(decode=False))
    return [_json_row(item, f"{place} {number}") for number, item in enumerate(dataset, 1)]
