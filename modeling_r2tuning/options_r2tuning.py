"""What the options of a call may be: one rule for each, for the processor, the pipeline and the command."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple


NMS_METHODS = ("hard", "linear", "gaussian", None)
SMALLEST, LARGEST = 1e-6, 1e6  # of rates and seconds, so that every time that follows is finite in float32


class Rule(NamedTuple):
    """What an option may be.

    Attributes:
        words: What is allowed, as a message says it; "None" is in it where `None` is a choice of its own.
        allows: Whether a value is allowed.
        kind: Makes a value of the command line's text.
        defaults: What stands for the default and is always allowed.
    """

    words: str
    allows: Callable[[Any], bool]
    kind: type = float
    defaults: tuple[str | None, ...] = ()


def check_options(**options: Any) -> None:
    """Refuse values that are not allowed.

    Raises:
        ValueError: The message names the option, the value and what is allowed.
    """
    for name, value in options.items():
        rule = RULES[name]
        if isinstance(value, str | None) and value in rule.defaults:
            continue
        if not rule.allows(value):
            raise ValueError(f"`{name}` must be {rule.words}, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and SMALLEST <= value <= LARGEST


def _is_positive_or_none(value: Any) -> bool:
    return value is None or _is_positive(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


def _is_score_or_none(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_nms_method(value: Any) -> bool:
    return isinstance(value, str | None) and value in NMS_METHODS


POSITIVE = f"a positive number ({SMALLEST:g} to {LARGEST:g})"
COUNT = "a whole number of at least 1"
SHARE = "a number above 0 and at most 1"
RULES = {
    "fps": Rule(POSITIVE, _is_positive, defaults=(None,)),
    "max_frames": Rule(COUNT, _is_count, int),
    "max_pixels": Rule(COUNT, _is_count, int),
    "progress": Rule("a function of the frames read and to read", callable, defaults=(None,)),
    "window_sec": Rule(f"{POSITIVE} or None", _is_positive_or_none, defaults=("config",)),
    "chunk_size": Rule(COUNT, _is_count, int),
    "batch_size": Rule(COUNT, _is_count, int, (None,)),
    # Another process could not hand over a video that is read piece by piece.
    "num_workers": Rule("0 (videos are read while they are encoded)", lambda value: value == 0, int, (None,)),
    "nms": Rule(f"one of {', '.join(map(str, NMS_METHODS))}", _is_nms_method, str, ("default",)),
    "nms_threshold": Rule(SHARE, _is_share, defaults=(None,)),
    "round_to": Rule(f"{POSITIVE} or None", _is_positive_or_none, defaults=("default",)),
    "max_moments": Rule(COUNT, _is_count, int),
    "score_threshold": Rule("a number from 0 to 1 or None", _is_score_or_none),
    "num_highlights": Rule("a whole number of at least 0", _is_whole, int),
    "summary_share": Rule(SHARE, _is_share),
}


__all__ = ["NMS_METHODS", "RULES", "Rule", "check_options"]
