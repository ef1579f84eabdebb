"""The allowed values of each option, in one place for the processor, the pipeline and the command line."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple


NMS_METHODS = ("hard", "linear", "gaussian", None)
SMALLEST, LARGEST = 1e-6, 1e6  # for rates and seconds, so that every time derived from them is finite in float32


class Rule(NamedTuple):
    """Allowed values of an option.

    Attributes:
        words: The allowed values, as an error message names them; includes "None" if `None` has a meaning of its own.
        allows: Returns whether a value is allowed.
        defaults: Values that stand for the default and are always allowed.
    """

    words: str
    allows: Callable[[Any], bool]
    defaults: tuple[str | None, ...] = ()


def check_options(**options: Any) -> None:
    """Check the values of options.

    Raises:
        ValueError: A value is not allowed.
    """
    for name, value in options.items():
        rule = RULES[name]
        if isinstance(value, str | None) and value in rule.defaults:
            continue
        if not rule.allows(value):
            raise ValueError(f"`{name}` must be {rule.words}, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_finite_and_positive(value: Any) -> bool:
    return _is_finite(value) and value > 0


def _is_positive(value: Any) -> bool:
    return _is_number(value) and SMALLEST <= value <= LARGEST


def _is_positive_or_none(value: Any) -> bool:
    return value is None or _is_positive(value)


def _is_at_least(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_whole(value: Any) -> bool:
    return _is_at_least(value, 0)


def _is_count(value: Any) -> bool:
    return _is_at_least(value, 1)


def _is_zero(value: Any) -> bool:
    return value == 0


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
    "max_frames": Rule(COUNT, _is_count),
    "max_pixels": Rule(COUNT, _is_count),
    "progress": Rule("a function of the number of frames read and the number to read", callable, defaults=(None,)),
    "window_sec": Rule(f"{POSITIVE} or None", _is_positive_or_none, defaults=("config",)),
    "chunk_size": Rule(COUNT, _is_count),
    "batch_size": Rule(COUNT, _is_count, defaults=(None,)),
    # Videos are decoded lazily while the model encodes them; such a generator cannot come from another process.
    "num_workers": Rule("0 (videos are read while they are encoded)", _is_zero, defaults=(None,)),
    "nms": Rule(f"one of {', '.join(map(str, NMS_METHODS))}", _is_nms_method, defaults=("default",)),
    "nms_threshold": Rule(SHARE, _is_share, defaults=(None,)),
    "round_to": Rule(f"{POSITIVE} or None", _is_positive_or_none, defaults=("default",)),
    "max_moments": Rule(COUNT, _is_count),
    "score_threshold": Rule("a number from 0 to 1 or None", _is_score_or_none),
    "min_probability": Rule("a number from 0 to 1 or None", _is_score_or_none),
    "existence_scale": Rule("a finite number above 0", _is_finite_and_positive),
    "existence_bias": Rule("a finite number", _is_finite),
    "num_highlights": Rule("a whole number of at least 0", _is_whole),
    "summary_share": Rule(SHARE, _is_share),
}


__all__ = ["NMS_METHODS", "RULES", "Rule", "check_options"]
