"""Numbers and other values that the command line accepts, and options that were renamed."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any


# Bounds of rates and durations, those of `modeling_r2tuning.options_r2tuning`: every time stays finite in float32.
SMALLEST, LARGEST = 1e-6, 1e6
NMS_METHODS = ("hard", "linear", "gaussian", "none")
SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
POSITIVE = f"a positive number ({SMALLEST:g} to {LARGEST:g})"


def positive_number(text: str) -> float:
    """A rate or a duration."""
    return _number(text, float, POSITIVE, lambda value: SMALLEST <= value <= LARGEST)


def positive_number_or_none(text: str) -> float | None:
    """A duration, or `none` for no limit."""
    if text == "none":
        return None
    return _number(text, float, f"{POSITIVE} or none", lambda value: SMALLEST <= value <= LARGEST)


def score_or_none(text: str) -> float | None:
    """A score from 0 to 1, or `none` for no threshold."""
    if text == "none":
        return None
    return _number(text, float, "a number from 0 to 1 or none", lambda value: 0 <= value <= 1)


def positive_integer(text: str) -> int:
    """A count of at least one."""
    return _number(text, int, "a whole number of at least 1", lambda value: value >= 1)


def non_negative_integer(text: str) -> int:
    """A seed or a count that may be zero."""
    return _number(text, int, "a whole number of at least 0", lambda value: value >= 0)


def port_number(text: str) -> int:
    """A port to listen on."""
    return _number(text, int, "a whole number from 1 to 65535", lambda value: 1 <= value <= 65535)


def local_date(text: str) -> datetime:
    """A date, or a date and a time, of the local time zone unless it names another."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"must be a date such as 2026-11-29 or 2026-11-29T18:30, got '{text}'"
        ) from error


def nms_method(text: str) -> str | None:
    """A method of non-maximum suppression, or `none`."""
    if text not in NMS_METHODS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(NMS_METHODS)}, got '{text}'")
    return None if text == "none" else text


def byte_size(text: str) -> int:
    """Bytes, from a number with or without a decimal unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([kmgt]?)B)?", text, re.IGNORECASE)
    size = 0
    if match is not None:
        size = int(float(match[1]) * SIZE_UNITS[(match[2] or "").lower()])
    if size < 1:
        raise argparse.ArgumentTypeError(f"must be a size such as 500MB or 20GB, got '{text}'")
    return size


def repository_name(text: str) -> str:
    """A name on the Hub with its organisation."""
    if text.count("/") != 1:
        raise argparse.ArgumentTypeError(f"must be 'organisation/name', got '{text}'")
    return text


def _number(text: str, kind: type, expected: str, allows: Callable[[Any], bool]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan  # which no rule allows
    if not allows(value):
        raise argparse.ArgumentTypeError(f"must be {expected}, got '{text}'")
    return value


class RenamedOption(argparse.Action):
    """An option of an earlier version; using it is an error that names the new one."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, new_name: str):
        super().__init__(option_strings, dest, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.new_name = new_name

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Refuse the option."""
        parser.error(f"{option_string} is now called {self.new_name}")


def add_renamed_clip_option(parser: argparse.ArgumentParser) -> None:
    """Answer `--clip`, which named the frozen encoders, with the option's new name."""
    parser.add_argument("--clip", action=RenamedOption, new_name="--backbone")


__all__ = [
    "NMS_METHODS",
    "RenamedOption",
    "add_renamed_clip_option",
    "byte_size",
    "local_date",
    "nms_method",
    "non_negative_integer",
    "port_number",
    "positive_integer",
    "positive_number",
    "positive_number_or_none",
    "repository_name",
    "score_or_none",
]
