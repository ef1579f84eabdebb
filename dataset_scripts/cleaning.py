"""Cleaning annotations as the released code does, and counting every change.

The released R2-Tuning code (yeliudev/R2-Tuning, datasets/grounding.py) repairs moments during training: it clips them to
the video, swaps reversed ones, and widens those shorter than a frame about their centre. It drops videos shorter than
five seconds. Here this is done once, when a dataset is loaded; `targets.py` puts the cleaned moments on the frames.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
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
    """Counts what was done to the annotations of one split, and reports it in one line at the end.

    Args:
        title: Benchmark and split, with which the line begins.
        on_error: "raise" an `AnnotationError`, or "skip" and count it.
    """

    def __init__(self, title: str, on_error: str = "raise"):
        self.title = title
        self.on_error = on_error
        self.changes: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.errors: list[AnnotationError] = []

    def change(self, what: str, number: int = 1) -> None:
        """Count something that was changed or left out."""
        self.changes[what] += number

    def note(self, what: str, number: int = 1) -> None:
        """Count something noteworthy that was left unchanged."""
        self.notes[what] += number

    @contextmanager
    def skip_errors(self) -> Iterator[None]:
        """Context for reading one record: with `on_error="skip"` a malformed record is counted and skipped."""
        try:
            yield
        except AnnotationError as error:
            if self.on_error == "raise":
                raise
            self.errors.append(error)

    def summary(self, num_examples: int, path: str) -> str:
        """The line: the number of examples, then changes, skipped records and notes."""
        parts = [f"{self.title}: {num_examples:,} examples read from {path}"]
        parts += [f"{number:,} {what}" for what, number in self.changes.items() if number]
        if self.errors:
            parts.append(f"{len(self.errors):,} malformed records skipped, the first: {self.errors[0]}")
        parts += [f"{number:,} {what}" for what, number in self.notes.items() if number]
        return "; ".join(parts)

    def log(self, num_examples: int, path: str) -> None:
        """Log the line, as a warning if anything was changed or skipped."""
        level = logging.WARNING if self.changes.total() or self.errors else logging.INFO
        logger.log(level, "%s", self.summary(num_examples, path))


# ---- rules for a moment (start, end) in a video of `duration_sec`; each returns the moment, changed or not ----


def swap_reversed(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """Swap an end before the start with it, as the released code does. Other code drops such moments."""
    return (end, start) if end < start else (start, end)


def raise_to_zero(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """Set times before the video to 0: the lower half of the released clamp."""
    return max(start, 0.0), max(end, 0.0)


def cut_end(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """Set an end after the video to the duration: the upper half of the released clamp."""
    return start, min(end, duration_sec)


def cut_start(start: float, end: float, duration_sec: float) -> tuple[float, float]:
    """Set a start after the video to the duration, by the same clamp: an empty moment at the end remains."""
    return min(start, duration_sec), end


def widen_to_frame(start: float, end: float, duration_sec: float, frame_sec: float) -> tuple[float, float]:
    """Widen a moment shorter than a frame to one frame about its centre, shifted to lie inside the video.

    For training only: in evaluation a short or empty moment stays as it is annotated.
    """
    if end - start >= frame_sec:
        return start, end
    center = min(max((start + end) / 2, frame_sec / 2), duration_sec - frame_sec / 2)
    return center - frame_sec / 2, center + frame_sec / 2


RULES: dict[Callable[[float, float, float], tuple[float, float]], str] = {
    swap_reversed: "moments with end before start swapped",
    raise_to_zero: "moments that begin before the video cut to its start",
    cut_end: "ends cut to the duration",
    cut_start: "starts after the video cut to the duration",
}


def clean_moments(
    moments: list[list[float]], duration_sec: float, report: Report, frame_sec: float | None = None
) -> list[list[float]]:
    """Apply every rule to the moments, and sort them.

    Args:
        moments: [start, end] pairs in seconds.
        duration_sec: Length of the video.
        report: Counts the applications of each rule.
        frame_sec: Shortest length of a moment, for training; `None` = short moments stay as they are.
    """
    cleaned = []
    for start, end in moments:
        for rule, what in RULES.items():
            old = start, end
            start, end = rule(start, end, duration_sec)
            report.change(what, (start, end) != old)
        if frame_sec is not None:
            old = start, end
            start, end = widen_to_frame(start, end, duration_sec, frame_sec)
            report.change(f"moments shorter than {frame_sec:g} s widened", (start, end) != old)
        cleaned.append([start, end])
    report.change("lists of moments sorted", sorted(cleaned) != cleaned)
    return sorted(cleaned)


# ---- rules for a whole annotation ----


def strip_query(query: str, report: Report) -> str:
    """Strip whitespace around a query, which the CLIP tokenizer of the released code drops too."""
    report.change("queries stripped of whitespace", query != query.strip())
    return query.strip()


def unquote_title(title: str, report: Report) -> str:
    """Remove the quotes that a CSV table put around a title with a comma, as `tvsum_anno.json` does."""
    if not (len(title) > 1 and title[0] == title[-1] == '"' and "," in title):
        return title
    report.change("titles stripped of CSV quotes")
    return title[1:-1].replace('""', '"')


def is_too_short_for_training(duration_sec: float, report: Report) -> bool:
    """Whether a video is below 5 s and so left out of training (`min_video_len=5` in the released configurations)."""
    too_short = duration_sec < MIN_TRAINING_SEC
    report.change(f"examples of videos below {MIN_TRAINING_SEC:g} s dropped", too_short)
    return too_short
