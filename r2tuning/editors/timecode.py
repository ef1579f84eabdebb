"""SMPTE timecode: frame numbers, their labels, and the frame rates that have labels.

A label HH:MM:SS:FF counts frames at the nominal rate, the frame rate rounded to a whole number. At 29.97 frames per
second these labels fall behind the clock by 3.6 seconds an hour. Drop-frame timecode, written with a semicolon, makes
up for that by leaving out labels, no frames: the first two of every minute that is not a multiple of ten (the first four
at 59.94). SMPTE ST 12-1 defines it for these two rates only.
"""

import math
import re
from fractions import Fraction


TIMECODE_RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(48000, 1001),
    Fraction(48),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
)
DROP_FRAME_RATES = (Fraction(30000, 1001), Fraction(60000, 1001))
FALLBACK_RATE = Fraction(30)
RATE_TOLERANCE = Fraction(1, 5000)  # of measured rates; 24 and 23.976 differ by 1/1000
TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")


def timecode_rate(rate: Fraction) -> Fraction:
    """The rate at which timecode counts the frames of a video.

    Args:
        rate: Frames per second, as stated by the file or measured.

    Returns:
        One of `TIMECODE_RATES`: the rate itself; else the lowest multiple of it, so that every frame of the video lies
        on a label; else the highest rate that it is a multiple of, as for slow motion; else 30.
    """
    for standard in TIMECODE_RATES:
        if abs(rate - standard) <= RATE_TOLERANCE * standard:
            return standard
    for standard in TIMECODE_RATES:
        if rate > 0 and (standard / rate).denominator == 1:
            return standard
    for standard in reversed(TIMECODE_RATES):
        multiple = standard * max(round(rate / standard), 1)
        if abs(rate - multiple) <= RATE_TOLERANCE * rate:
            return standard
    return FALLBACK_RATE


def nominal_rate(rate: Fraction) -> int:
    """Labels per second of timecode: 30 for 29.97."""
    return round(rate)


def to_frame(time_sec: float | Fraction, rate: Fraction) -> int:
    """The frame boundary nearest to a time; halves are rounded up."""
    return math.floor(Fraction(time_sec) * rate + Fraction(1, 2))


def format_timecode(frame: int, rate: Fraction, *, drop_frame: bool) -> str:
    """Label of a frame.

    Args:
        frame: Number of the frame from 00:00:00:00, at least 0; labels repeat after 24 hours.
        rate: Frames per second, one of `TIMECODE_RATES`.
        drop_frame: Whether labels are left out; only for `DROP_FRAME_RATES`.
    """
    nominal = nominal_rate(rate)
    if drop_frame:
        frame += _labels_dropped_before(frame, nominal)
    seconds, frames = divmod(frame, nominal)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    mark = ";" if drop_frame else ":"
    return f"{hours % 24:02}:{minutes:02}:{seconds:02}{mark}{frames:02}"


def _labels_dropped_before(frame: int, nominal: int) -> int:
    dropped = nominal // 15  # in a minute that drops any: 2 at 29.97, 4 at 59.94
    per_ten_minutes = 600 * nominal - 9 * dropped
    blocks, rest = divmod(frame, per_ten_minutes)
    minutes = 0  # of this block of ten minutes that have dropped labels
    if rest >= 60 * nominal:  # the first minute of a block drops none
        minutes = 1 + (rest - 60 * nominal) // (60 * nominal - dropped)
    return dropped * (9 * blocks + minutes)


def parse_timecode(label: str, rate: Fraction) -> tuple[int, bool]:
    """The frame that a label names, and whether the label is drop-frame.

    Raises:
        ValueError: It is no label of this rate.
    """
    match = TIMECODE.fullmatch(label)
    if match is None:
        raise ValueError(f"'{label}' is no timecode HH:MM:SS:FF.")
    hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
    drop_frame = match[4] != ":"
    nominal = nominal_rate(rate)
    dropped = nominal // 15 if drop_frame else 0
    is_dropped = seconds == 0 and minutes % 10 != 0 and frames < dropped
    if minutes > 59 or seconds > 59 or frames >= nominal or is_dropped:
        raise ValueError(f"'{label}' is no label of timecode at {float(rate):.3f} frames per second.")
    if drop_frame and rate not in DROP_FRAME_RATES:
        raise ValueError(f"'{label}' is drop-frame, which does not exist at {float(rate):.3f} frames per second.")
    all_minutes = 60 * hours + minutes
    frame = (60 * all_minutes + seconds) * nominal + frames
    return frame - dropped * (all_minutes - all_minutes // 10), drop_frame


__all__ = [
    "DROP_FRAME_RATES",
    "RATE_TOLERANCE",
    "TIMECODE_RATES",
    "format_timecode",
    "nominal_rate",
    "parse_timecode",
    "timecode_rate",
    "to_frame",
]
