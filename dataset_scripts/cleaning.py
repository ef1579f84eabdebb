"""Cleaning annotations as the released code does, and counting every change.

The released R2-Tuning code (yeliudev/R2-Tuning, datasets/grounding.py) repairs moments during training: it clips them to
the video, swaps reversed ones, and widens those shorter than a frame about their centre. It drops videos shorter than
five seconds. Here this is done once, when a dataset is loaded; `targets.py` puts the cleaned moments on the frames.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .reading import AnnotationError


__all__ = [
    "Report",
    "clean_moments",
    "cut_end",
    "cut_start",
    "is_too_short_for_training",
    "raise_to_zero",
    "strip_query",
    "swap_reversed",
    "unquote_title",
    "widen_to_frame",
]

logger = logging.getLogger(__name__)

MIN_TRAINING_SEC = 5.0


class Report:
    """Counts what was done to the annotations of one split, and says it in one line at the end.

    Args:
        title: Benchmark and split, the beginning of the line.
        on_error: "raise" lets an `AnnotationError` pass, "skip" counts it.
    """

    def __init__(self, title: str, on_error: str = "raise"):
        self.title = title
        self.on_error = on_error
        self.changes = Counter()
        self.notes = Counter()
        self.errors = []

    def change(self, what: str, number: int = 1) -> None:
        """Count something that was altered or left out."""
        self.changes[what] += number

    def note(self, what: str, number: int = 1) -> None:
        """Count something worth knowing that was left as it is."""
        self.notes[what] += number

    @contextmanager
    def skip_errors(self) -> Iterator[None]:
        """Around the reading of one record: with `on_error="skip"` a malformed one is counted and passed over."""
        try:
            yield
        except AnnotationError as error:
            if self.on_error == "raise":
                raise
            self.errors.append(error)

    def summary(self, num_examples: int, path: str) -> str:
        """The line: the examples, what was altered or left out, what is worth knowing."""
        parts = [f"{self.title}: {num_examples:,} examples read from {path}"]
        parts += [f"{number:,} {what}" for what, number in self.changes.items() if number]
        if self.errors:
            parts.append(f"{len(self.errors):,} malformed records skipped, the first: {self.errors[0]}")
        return "; ".join(parts + [f"{number:,} {what}" for what, number in self.notes.items() if number])

    def log(self, num_examples: int, path: str) -> None:
        """Show the line, as a warning if anything was altered or left out."""
        level = logging.WARNING if self.changes.total() or self.errors else logging.INFO
        logger.log(level, "%s", self.summary(num_examples, path))


# ---- rules for one moment (start, end) in a video of `duration_sec`; they return the moment, changed or not ----


def swap_reversed(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """An end before the start: the two are swapped, as the released code does. Others drop such moments."""
    return (end, start) if end < start else (start, end)


def raise_to_zero(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """Times before the video are set to 0: the lower half of the released clamp."""
    return max(start, 0.0), max(end, 0.0)


def cut_end(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """An end after the video is set to the duration: the upper half of the released clamp."""
    return start, min(end, duration_sec)


def cut_start(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """A start after the video is set to the duration, by the same clamp: a moment of no length at the end is left."""
    return min(start, duration_sec), end


def widen_to_frame(start: float, end: float, duration_sec: float, frame_sec: float) -> tuple[float, float]:
    """A moment shorter than a frame becomes one frame long about its centre, moved to lie inside the video.

    For training only: in evaluation a short or empty moment is a ground truth as it stands.
    """
    if end - start >= frame_sec:
        return start, end
    center = min(max((start + end) / 2, frame_sec / 2), duration_sec - frame_sec / 2)
    return center - frame_sec / 2, center + frame_sec / 2


RULES = {
    swap_reversed: "moments with end before start swapped",
    raise_to_zero: "moments that begin before the video cut to its start",
    cut_end: "ends cut to the duration",
    cut_start: "starts after the video cut to the duration",
}


def clean_moments(
    moments: list[list[float]], duration_sec: float, report: Report, frame_sec: float | None = None
) -> list[list[float]]:
    """Moments after every rule, in rising order.

    Args:
        moments: [start, end] pairs in seconds.
        duration_sec: Length of the video.
        report: Counts the applications of each rule.
        frame_sec: Shortest length of a moment, for training; `None` = short ones stay as they are.
    """
    cleaned = []
    for moment in moments:
        new = tuple(moment)
        for rule, what in RULES.items():
            old, new = new, rule(*new, duration_sec)
            report.change(what, new != old)
        if frame_sec is not None:
            old, new = new, widen_to_frame(*new, duration_sec, frame_sec)
            report.change(f"moments shorter than {frame_sec:g} s widened", new != old)
        cleaned.append(list(new))
    report.change("lists of moments put in order", sorted(cleaned) != cleaned)
    return sorted(cleaned)


# ---- rules for a whole annotation ----


def strip_query(query: str, report: Report) -> str:
    """Blanks around a query are removed; the tokenizer of CLIP, which the released code calls, drops them too."""
    report.change("queries with blanks around them stripped", query != query.strip())
    return query.strip()


def unquote_title(title: str, report: Report) -> str:
    """Quotes that a table put around a title because it has a comma are removed, as in `tvsum_anno.json`."""
    if not (len(title) > 1 and title[0] == title[-1] == '"' and "," in title):
        return title
    report.change("titles freed from the quotes of a table")
    return title[1:-1].replace('""', '"')


def is_too_short_for_training(duration_sec: float, report: Report) -> bool:
    """Videos below 5 s are left out of training (`min_video_len=5` in the released configurations)."""
    too_short = duration_sec < MIN_TRAINING_SEC
    report.change(f"examples of videos below {MIN_TRAINING_SEC:g} s dropped", too_short)
    return too_short
