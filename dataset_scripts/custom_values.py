"""Reading the values of a user's own table: times, moments, saliency and names."""

import json
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from .benchmarks import BENCHMARKS, OWN_DATA
from .custom_findings import RowError
from .reading import MAX_ANNOTATORS, MAX_INTERVALS, is_number, parse_number
from .videos import strip_extension


__all__ = ["Moment", "clean_video_name", "is_absolute", "parse_moments", "parse_saliency", "parse_time", "video_id_of"]

Moment = tuple[float, float]  # start and end in seconds

SCALE = BENCHMARKS[OWN_DATA].saliency
# [h:]mm:ss[.fraction]; subtitles separate the fraction with a comma.
CLOCK = re.compile(r"(?:(?P<hours>[0-9]+):)?(?P<minutes>[0-9]+):(?P<seconds>[0-5]?[0-9](?:[.,][0-9]*)?)")
MINUTES_PER_HOUR, SEC_PER_MINUTE = 60, 60
DECIMAL_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+")
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:/")
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: valid in JSON, but not in UTF-8
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def parse_time(value: object, column: str, decimal_comma: bool = False) -> float:
    """A time in seconds.

    Args:
        value: A number of seconds, or a text: seconds, "mm:ss" or "h:mm:ss", each also with a fraction.
        column: Name of the column, for the error.
        decimal_comma: Accept "12,5" for 12.5.

    Raises:
        RowError: The value is none of these.
    """
    if is_number(value):
        return float(value)  # type: ignore[arg-type]  # checked just before
    if isinstance(value, str):
        text = value.strip()
        if decimal_comma and DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        seconds = parse_number(text)
        if seconds is None:
            seconds = _parse_clock(text)
        if seconds is not None:
            return seconds
    raise RowError("bad_time", f"`{column}` is {reprlib.repr(value)}")


def _parse_clock(text: str) -> float | None:
    """Seconds of "mm:ss" or "h:mm:ss"; `None` if the text is neither."""
    match = CLOCK.fullmatch(text)
    if match is None:
        return None
    minutes = int(match["minutes"])
    if match["hours"] is not None and minutes >= MINUTES_PER_HOUR:
        return None
    minutes += int(match["hours"] or 0) * MINUTES_PER_HOUR
    return minutes * SEC_PER_MINUTE + float(match["seconds"].replace(",", "."))


def parse_moments(value: object, column: str) -> list[Moment]:
    """The moments of a query; `[]` = nothing in the video matches it.

    Args:
        value: A list of [start, end] pairs, or the same as JSON text.
        column: Name of the column, for the error.

    Raises:
        RowError: The value is no such list, or a time cannot be read.
    """
    pairs = _parse_list(value, column, "[[start, end], ...], and [] where nothing matches", "bad_time")
    if len(pairs) > MAX_INTERVALS:
        raise RowError("unreadable_row", f"`{column}` has {len(pairs):,} moments, expected at most {MAX_INTERVALS:,}")
    moments = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("bad_time", f"`{column}` holds {reprlib.repr(pair)}, expected a pair [start, end]")
        moments.append((parse_time(pair[0], column), parse_time(pair[1], column)))
    return moments


def parse_saliency(value: object, column: str) -> list[list[float]]:
    """Scores of the units of a video, as a row for each unit with the score of each annotator.

    Args:
        value: A list with a score, or a list of the scores of all annotators, for each unit; or the same as JSON text.
        column: Name of the column, for the error.

    Raises:
        RowError: The value is no such list, or a score is outside the scale.
    """
    expected = "a list with a score for each unit"
    rows: list[list[float]] = []
    for item in _parse_list(value, column, expected, "bad_saliency"):
        row = item if isinstance(item, list) else [item]
        if not row or len(row) > MAX_ANNOTATORS or (rows and len(row) != len(rows[0])):
            found = reprlib.repr(item)
            raise RowError("bad_saliency", f"`{column}` holds {found}, expected as many scores for every unit")
        for score in row:
            if not is_number(score) or not SCALE.lowest <= score <= SCALE.highest:
                scale = f"{SCALE.lowest} to {SCALE.highest}"
                raise RowError("bad_saliency", f"`{column}` holds {reprlib.repr(score)}, expected scores from {scale}")
        rows.append([float(score) for score in row])
    if not rows:
        raise RowError("bad_saliency", f"`{column}` is empty, expected {expected}")
    return rows


def _parse_list(value: object, column: str, expected: str, kind: str) -> list[Any]:
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, list):
        raise RowError(kind, f"`{column}` is {reprlib.repr(value)}, expected {expected}")
    return found


def clean_video_name(value: object, column: str) -> str:
    """The name of a video as the table gives it, in Unicode's composed form and with forward slashes.

    Args:
        value: A text, a whole number, or what `datasets` reads from a column of videos, `{"path": ...}`.
        column: Name of the column, for the error.

    Raises:
        RowError: The value is no name of a file, or it leads out of the folder of the videos.
    """
    name = value
    if isinstance(value, Mapping):
        name = (value.get("path") or "").rpartition("/")[2]
    if type(value) is int:
        name = str(value)
    if not isinstance(name, str) or not name.strip() or SURROGATE.search(name):
        raise RowError("unreadable_row", f"`{column}` is {reprlib.repr(value)}, expected the name of a video file")
    if ADDRESS.match(name.strip()):
        raise RowError("unreadable_row", f"`{column}` is the address {reprlib.repr(value)}; download the video first")
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    if ".." in name.split("/") or not name.strip("/"):
        raise RowError("unreadable_row", f"`{column}` is {reprlib.repr(value)}, expected a file inside `video_dir`")
    return name


def is_absolute(name: str) -> bool:
    """Whether a cleaned name is an absolute path, of any operating system."""
    return name.startswith("/") or WINDOWS_DRIVE.match(name) is not None


def video_id_of(name: str) -> str:
    """The id of a video: its cleaned name without extension; of an absolute path only the file name, which is no secret."""
    if is_absolute(name):
        name = name.rpartition("/")[2]
    return strip_extension(name)
