"""Draw what a search of a library found: frames of each moment, and the moment's place in its video."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.video_io_r2tuning import iter_video_frames
from modeling_r2tuning.video_source_r2tuning import display_name
from r2tuning.library.library import SearchAnswer
from r2tuning.library.moments import Moment
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.timeline import (
    DPI,
    MOMENT_COLOR,
    RULE_COLOR,
    TEXT_COLOR,
    format_probability,
    format_time,
    import_figure,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_FRAMES = 6  # of each moment
FRAME_SIZE = 160  # short side in pixels
NAME_LENGTH = 34

# All in inches. Rows are placed one below the other from the upper edge of the figure.
WIDTH, LABEL_WIDTH, MARGIN = 11.0, 2.9, 0.15
TITLE_HEIGHT, STRIP_HEIGHT, BAR_HEIGHT, GAP = 0.45, 0.95, 0.1, 0.28


def plot_search(
    answers: Sequence[SearchAnswer], path: str | os.PathLike | None = None, *, top: int | None = None
) -> "Figure":
    """Draw the moments that a search found: for each its frames, and a bar with its place in the video.

    Args:
        answers: From `Library.search`.
        path: File to write; its ending (.png, .pdf, .svg) sets the format, PNG if it has none. `None` = no file.
        top: Largest number of moments drawn for each query; default: all.

    Returns:
        The figure. A moment whose video is missing or cannot be read is drawn without frames.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no answers.
    """
    if not answers:
        raise ValueError("`answers` must hold at least one answer, got none.")
    figure_class = import_figure()
    shown = [answer.moments[:top] for answer in answers]
    row_height = STRIP_HEIGHT + BAR_HEIGHT + GAP
    num_rows = sum(max(len(moments), 1) for moments in shown)
    height = MARGIN + len(answers) * TITLE_HEIGHT + num_rows * row_height
    sheet = _Sheet(figure_class(figsize=(WIDTH, height)), WIDTH, height)
    titles = [" ".join(answer.query.split()) for answer in answers]
    names = [PurePath(display_name(moment.path)).name for moments in shown for moment in moments]
    title_style, name_style = text_style(titles, weight="bold"), text_style(names)
    y = MARGIN
    for title, moments in zip(titles, shown, strict=True):
        shortened = textwrap.shorten(title, 110, placeholder=" ...") or title
        sheet.write(MARGIN, y + 0.18, shortened, fontsize=11, parse_math=False, **title_style)
        y += TITLE_HEIGHT
        if not moments:
            sheet.write(MARGIN, y + 0.2, "nothing found", fontsize=9, color=TEXT_COLOR)
            y += row_height
        for rank, moment in enumerate(moments, 1):
            sheet.draw_moment(y, rank, moment, name_style)
            y += row_height
    if path is not None:
        with writing(path) as partial:
            sheet.figure.savefig(partial, dpi=DPI, format=partial.suffix[1:] or "png")
    return sheet.figure


class _Sheet:
    """A figure on which places are given in inches from its upper left corner."""

    def __init__(self, figure: "Figure", width: float, height: float):
        self.figure = figure
        self.width = width
        self.height = height

    def write(self, x: float, y: float, text: str, **style: object) -> None:
        """Write a line of text whose middle is at a height."""
        self.figure.text(x / self.width, 1 - y / self.height, text, va="center", **style)  # type: ignore[arg-type]

    def draw_moment(self, y: float, rank: int, moment: Moment, name_style: dict[str, object]) -> None:
        """Draw a row: rank, score, times and name; frames; and the place in the video."""
        name = PurePath(display_name(moment.path)).name
        if len(name) > NAME_LENGTH:
            name = f"{name[: NAME_LENGTH - 12]}...{name[-9:]}"
        score = f"{rank}:  {moment.score:.2f}"
        if moment.probability is not None:
            score += f"   there: {format_probability(moment.probability)}"
        self.write(MARGIN, y + 0.15, score, fontsize=10)
        self.write(MARGIN, y + 0.4, f"{format_time(moment.start)} - {format_time(moment.end)}", fontsize=9)
        self.write(MARGIN, y + 0.65, name, fontsize=8, color=TEXT_COLOR, parse_math=False, **name_style)
        try:
            frames, duration_sec = _read_frames(moment)
        except (OSError, ValueError):
            self.write(LABEL_WIDTH, y + 0.4, "the file is missing or cannot be read", fontsize=9, color=TEXT_COLOR)
            return
        self._draw_strip(y, frames)
        self._draw_place(y + STRIP_HEIGHT + 0.05, moment, duration_sec)

    def _draw_strip(self, y: float, frames: np.ndarray) -> None:
        _, height, width, _ = frames.shape
        room = (self.width - LABEL_WIDTH - MARGIN) / NUM_FRAMES
        shown_width = min(room - 0.06, STRIP_HEIGHT * width / height)
        shown_height = shown_width * height / width
        for index, frame in enumerate(frames):
            axes = self.figure.add_axes(
                (
                    (LABEL_WIDTH + index * room) / self.width,
                    1 - (y + shown_height) / self.height,
                    shown_width / self.width,
                    shown_height / self.height,
                )
            )
            axes.imshow(frame, aspect="auto", interpolation="antialiased")
            axes.set_axis_off()

    def _draw_place(self, y: float, moment: Moment, duration_sec: float) -> None:
        width = self.width - LABEL_WIDTH - MARGIN - 0.75  # the length stands to the right of the bar
        axes = self.figure.add_axes(
            (
                LABEL_WIDTH / self.width,
                1 - (y + BAR_HEIGHT) / self.height,
                width / self.width,
                BAR_HEIGHT / self.height,
            )
        )
        axes.barh(0, duration_sec, 1.0, 0, color=RULE_COLOR, alpha=0.35, linewidth=0)
        shortest = duration_sec / 200  # a shorter one would be invisible
        axes.barh(0, max(moment.end - moment.start, shortest), 1.0, moment.start, color=MOMENT_COLOR, linewidth=0)
        axes.set(xlim=(0, duration_sec), ylim=(-0.5, 0.5))
        axes.set_axis_off()
        self.write(
            LABEL_WIDTH + width + 0.06, y + BAR_HEIGHT / 2, format_time(duration_sec), fontsize=8, color=TEXT_COLOR
        )


def _read_frames(moment: Moment) -> tuple[np.ndarray, float]:
    """Frames in the middle of equal parts of a moment, and the length of its video in seconds."""
    end = max(moment.end, moment.start + 0.1)
    stream = iter_video_frames(moment.path, 1.0)
    duration_sec = stream.duration_sec
    end = min(end, duration_sec)
    start = min(moment.start, end - 0.05)
    found = iter_video_frames(
        moment.path, NUM_FRAMES / (end - start), size=FRAME_SIZE, start_sec=max(start, 0.0), end_sec=end
    )
    return np.concatenate(list(found))[:NUM_FRAMES], duration_sec


__all__ = ["plot_search"]
