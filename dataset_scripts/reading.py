"""Reading annotation and prediction files that may be broken: every error names the file, the line or record, and the field.

Formats are detected from a file's contents: gzip by its first bytes, JSON lines by the first line. Nothing is unpickled.
Sizes are checked before memory is allocated for them.
"""

import gzip
import io
import json
import math
import os
import re
import reprlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


__all__ = [
    "AnnotationError",
    "Record",
    "find_files",
    "is_json_lines",
    "parse_json",
    "parse_number",
    "read_bytes",
    "read_decompressed",
    "read_json",
    "read_lines",
    "read_text",
]

NEWLINE = b"\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# `float` alone would also accept "1_000", "nan" and digits of other scripts.
NUMBER = re.compile(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")
RECORD_KEYS = {"qid", "query", "vid", "duration", "relevant_windows"}
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # by byte order mark
# Limits well above every known file: the largest release has some 100 MB, the longest video some hours, TVSum has 20
# annotators, QVHighlights up to 25 moments per query.
MAX_BYTES = 2**30  # of a decompressed file
PIECE_BYTES = 2**20
LONGEST_SEC = 24 * 60 * 60
MAX_ANNOTATORS = 100
MAX_INTERVALS = 10_000


class AnnotationError(ValueError):
    """A malformed annotation or prediction file. The message says where, what was found and what was expected."""


def find_files(folder: str | os.PathLike, names: tuple[str, ...]) -> list[str]:
    """Paths of the files below `folder` that have one of `names`, with or without `.gz`, in the order of `names`."""
    found = []
    for name in names:
        for extension in ("", ".gz"):
            path = Path(folder) / f"{name}{extension}"
            if path.is_file():
                found.append(str(path))
    return found


def read_bytes(path: str | os.PathLike) -> bytes:
    """Contents of a file without a byte order mark, decompressed if it is gzip.

    Raises:
        AnnotationError: The file is blank, too large, not in UTF-8 or a broken gzip file.
    """
    data = read_decompressed(path)
    if data[:2] in OTHER_ENCODINGS:
        raise AnnotationError(f"{path}, line 1: found text in {OTHER_ENCODINGS[data[:2]]}, expected text in UTF-8")
    data = data.removeprefix(BYTE_ORDER_MARK)
    if not data.strip():
        raise AnnotationError(f"{path}: found an empty file, expected annotations or predictions")
    return data


def read_decompressed(path: str | os.PathLike) -> bytes:
    """Contents of a file of any format, decompressed if it is gzip.

    Raises:
        AnnotationError: The file is too large or a broken gzip file.
    """
    with open(path, "rb") as file:
        is_gzip = file.peek(2).startswith(b"\x1f\x8b")
        return _read_limited(gzip.GzipFile(fileobj=file) if is_gzip else file, path)


def _read_limited(file: io.BufferedReader | gzip.GzipFile, path: str | os.PathLike) -> bytes:
    """All of a file up to the limit: a small gzip file can expand without end, and a device may never end."""
    data = bytearray()
    try:
        while piece := file.read1(PIECE_BYTES):
            data += piece
            if len(data) > MAX_BYTES:
                raise AnnotationError(f"{path}: found more than {MAX_BYTES:,} bytes, decompressed; expected no more")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        line = data.count(NEWLINE) + 1
        raise AnnotationError(
            f"{path}, line {line}: found a broken gzip file ({error}), expected a complete one"
        ) from error
    return bytes(data)


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line that is not blank. Decoding is left to the caller, line by line."""
    for number, line in enumerate(read_bytes(path).split(NEWLINE), 1):
        if line.strip():
            yield number, line.rstrip(b"\r")


def decode(data: bytes, place: str) -> str:
    """Decode UTF-8 bytes; the error names their origin, `place`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start : error.start + 1]!r} at position {error.start}"
        raise AnnotationError(f"{place}: found {found}, expected text in UTF-8") from error


def read_text(path: str | os.PathLike) -> str:
    """Contents of a text file."""
    data = read_bytes(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(NEWLINE, 0, error.start) + 1
        found = f"byte {data[error.start : error.start + 1]!r}"
        raise AnnotationError(f"{path}, line {line}: found {found}, expected text in UTF-8") from error


def parse_json(data: str | bytes, path: str | os.PathLike, line: int | None = None) -> object:
    """Parse a JSON text. A duplicate key in an object is an error, since its first value would be lost.

    Args:
        data: The text, or its UTF-8 bytes.
        path: The file it comes from, for the error.
        line: Its line in that file; `None` = the text is the whole file.
    """
    place = str(path) if line is None else f"{path}, line {line}"
    text = decode(data, place) if isinstance(data, bytes) else data
    try:
        return json.loads(text, object_pairs_hook=_object_of_pairs)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line or error.lineno}, column {error.colno}"
        raise AnnotationError(f"{where}: found broken JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # duplicate keys, thousands of digits, deep nesting
        raise AnnotationError(f"{place}: found JSON that cannot be used ({error})") from error


def _object_of_pairs(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {reprlib.repr(duplicate)} occurs more than once in an object")
    return fields


def read_json(path: str | os.PathLike) -> object:
    """Parse a file that is one JSON document."""
    return parse_json(read_text(path), path)


def is_json_lines(path: str | os.PathLike) -> bool:
    """Whether a file holds one annotation per line. Otherwise it is one JSON document, or broken."""
    lines = [line for _, line in read_lines(path)]
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        first = None
    if isinstance(first, dict) and RECORD_KEYS & first.keys():
        return True
    return sum(line.startswith(b'{"') for line in lines) > 1


def parse_number(text: object) -> float | None:
    """The finite number written in a text, or `None`."""
    if not isinstance(text, str) or not NUMBER.fullmatch(text):
        return None
    return float(text) if math.isfinite(float(text)) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; `True` and `False` are not."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


class Record:
    """One annotation as found in a file. Its methods return a field in the requested form or raise an `AnnotationError`.

    Args:
        fields: The annotation, as found.
        place: Where it was found, such as "FILE, line 7".
    """

    fields: dict[str, Any]

    def __init__(self, fields: object, place: str):
        self.place = place
        if not isinstance(fields, dict):
            raise AnnotationError(f"{place}: found {reprlib.repr(fields)}, expected an object with named fields")
        self.fields = fields

    def error(self, field: str, expected: str) -> AnnotationError:
        """An error that says that `field` is not what was expected."""
        known = field in self.fields
        found = f"is {reprlib.repr(self.fields[field])}" if known else "is missing"
        return AnnotationError(f"{self.place}: `{field}` {found}, expected {expected}")

    def has(self, field: str) -> bool:
        """Whether a field is present and not null."""
        return self.fields.get(field) is not None

    def text(self, field: str, expected: str = "a text", blank: bool = False) -> str:
        """A string; it must not be blank unless `blank`."""
        value = self.fields.get(field)
        if not isinstance(value, str) or not (blank or value.strip()):
            raise self.error(field, f"{expected} that is not empty")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:  # half of a surrogate pair: valid in JSON, but not in UTF-8
            raise self.error(field, f"{expected} of whole characters") from error
        return value

    def identifier(self, field: str) -> str:
        """A string or an integer, as a string."""
        value = self.fields.get(field)
        return str(value) if type(value) is int else self.text(field, "a whole number or a text")

    def number(self, field: str, above: float | None = None, spelled: bool = False) -> float:
        """A finite number, greater than `above`; with `spelled`, it may also be written as a string."""
        value: Any = self.fields.get(field)
        if spelled and isinstance(value, str):
            value = parse_number(value)
        if not is_number(value) or (above is not None and value <= above):
            raise self.error(field, "a number" if above is None else f"a number above {above:g}")
        return float(value)

    def duration(self, seconds: float) -> float:
        """The length of a video, checked."""
        if not 0 < seconds <= LONGEST_SEC:
            expected = f"more than 0 and at most {LONGEST_SEC:,} s, a day"
            raise AnnotationError(f"{self.place}: found a video of {seconds:g} s, expected {expected}")
        return seconds

    def items(self, field: str, expected: str = "a list") -> list:
        """A list."""
        value = self.fields.get(field)
        if not isinstance(value, list):
            raise self.error(field, expected)
        return value

    def numbers(self, field: str) -> list:
        """A list of finite numbers, unchanged."""
        values = self.items(field, "a list of numbers")
        for number, value in enumerate(values):
            if not is_number(value):
                raise self.item_error(field, number, "a number")
        return values

    def intervals(self, field: str, form: str = "[start, end] pair") -> list[list[float]]:
        """A list of [start, end] pairs, or of the tuples that `form` describes."""
        length = form.count(",") + 1
        intervals = self.items(field, f"a list of {form}s of numbers")
        if len(intervals) > MAX_INTERVALS:
            raise AnnotationError(
                f"{self.place}: `{field}` has {len(intervals):,} items, expected at most {MAX_INTERVALS:,}"
            )
        for number, interval in enumerate(intervals):
            if not (isinstance(interval, list) and len(interval) == length and all(map(is_number, interval))):
                raise self.item_error(field, number, f"a {form} of numbers")
        return [list(map(float, interval)) for interval in intervals]

    def scores(self, field: str, lowest: float, highest: float) -> list[list[float]]:
        """A list of rows of equal length, with numbers from `lowest` to `highest`."""
        rows = self.items(field, "a list of lists of scores")
        for number, row in enumerate(rows):
            if not (isinstance(row, list) and row and len(row) == len(rows[0])):
                raise self.item_error(field, number, "a list of scores, as long as the others")
            if len(row) > MAX_ANNOTATORS:
                raise self.item_error(field, number, f"scores of at most {MAX_ANNOTATORS} annotators")
            if not all(is_number(score) and lowest <= score <= highest for score in row):
                raise self.item_error(field, number, f"scores from {lowest:g} to {highest:g}")
        return [list(map(float, row)) for row in rows]

    def item_error(self, field: str, number: int, expected: str) -> AnnotationError:
        """An error that says that one item of the list `field` is not what was expected."""
        found = reprlib.repr(self.fields[field][number])
        return AnnotationError(f"{self.place}: `{field}[{number}]` is {found}, expected {expected}")
