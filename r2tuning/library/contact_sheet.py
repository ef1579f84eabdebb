"""Draw what a search of a library found: frames of each moment, and the moment's place in its video."""

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_r2tuning.video_io_r2tuning import iter_video_frames
from modeling_r2tuning.video_source_r2tuning import display_name
from r2tuning.library.library import SearchAnswer
from r2tuning.library.moments import Moment
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.style import (
    LABEL_SIZE,
    MOMENT_COLOR,
    RULE_COLOR,
    SMALL_SIZE,
    TEXT_COLOR,
    TITLE_SIZE,
    draw_legend,
    fit_text,
    format_number,
    format_probability,
    format_time,
    import_figure,
    save_figure,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_FRAMES = 6  # of each moment
FRAME_SIZE = 160  # short side in pixels
LAST_OF_NAME = 9  # characters at the end of a long file name that are drawn
VIDEO_STYLE: dict[str, Any] = {"color": RULE_COLOR, "alpha": 0.35, "linewidth": 0}
MOMENT_STYLE: dict[str, Any] = {"color": MOMENT_COLOR, "linewidth": 0}

# All in inches. Rows are placed one below the other from the upper edge of the figure.
WIDTH, LABEL_WIDTH, MARGIN = 11.0, 2.9, 0.15
LEGEND_HEIGHT, TITLE_HEIGHT, STRIP_HEIGHT, BAR_HEIGHT, GAP = 0.25, 0.4, 0.95, 0.1, 0.28
NOTE_HEIGHT = 0.45  # of the line below a query for which nothing was found
FRAME_GAP = 0.06
TIME_WIDTH = 0.75  # of the length of the video beside its bar
PLACE_WIDTH = WIDTH - LABEL_WIDTH - MARGIN - TIME_WIDTH
MIN_BAR_WIDTH = 0.04  # a bar that is to scale may be too thin to be seen


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
    height = MARGIN + LEGEND_HEIGHT + sum(map(_answer_height, shown))
    sheet = _Sheet(figure_class(figsize=(WIDTH, height)), WIDTH, height)
    sheet.draw_legend()
    titles = [" ".join(answer.query.split()) for answer in answers]
    names = [_name(moment) for moments in shown for moment in moments]
    title_style = text_style([*titles, *names], weight="bold")
    name_style = {**title_style, "fontweight": "normal"}
    y = MARGIN + LEGEND_HEIGHT
    for title, moments in zip(titles, shown, strict=True):
        sheet.write(MARGIN, y + 0.18, title, WIDTH - 2 * MARGIN, fontsize=TITLE_SIZE, parse_math=False, **title_style)
        if not moments:
            sheet.write(MARGIN, y + TITLE_HEIGHT + 0.08, "nothing found", fontsize=LABEL_SIZE, color=TEXT_COLOR)
        row = y + TITLE_HEIGHT
        for rank, moment in enumerate(moments, 1):
            sheet.draw_moment(row, rank, moment, name_style)
            row += STRIP_HEIGHT + BAR_HEIGHT + GAP
        y += _answer_height(moments)
    if path is not None:
        save_figure(sheet.figure, path)
    return sheet.figure


def _answer_height(moments: list[Moment]) -> float:
    """Height of a query and its moments."""
    if not moments:
        return TITLE_HEIGHT + NOTE_HEIGHT
    return TITLE_HEIGHT + len(moments) * (STRIP_HEIGHT + BAR_HEIGHT + GAP)


def _name(moment: Moment) -> str:
    """Name of the video's file without its folder."""
    return PurePath(display_name(moment.path)).name


class _Sheet:
    """A figure on which places are given in inches from its upper left corner."""

    def __init__(self, figure: "Figure", width: float, height: float):
        self.figure = figure
        self.width = width
        self.height = height

    def write(
        self,
        x: float,
        y: float,
        text: str,
        room: float = LABEL_WIDTH - 2 * MARGIN,
        *,
        num_last: int = 0,
        **style: Any,
    ) -> None:
        """Write a line of text whose middle is at a height, shortened to `room` inches; see `fit_text`."""
        written = self.figure.text(x / self.width, 1 - y / self.height, text, va="center", **style)
        fit_text(written, room, num_last=num_last)

    def draw_legend(self) -> None:
        """Explain the bars and the times, above the queries."""
        from matplotlib.patches import Patch

        self.write(MARGIN, MARGIN, "rank: score; times in min:s", fontsize=SMALL_SIZE, color=TEXT_COLOR)
        handles = [Patch(**VIDEO_STYLE, label="length of the video"), Patch(**MOMENT_STYLE, label="moment")]
        draw_legend(self.figure, handles, LABEL_WIDTH, MARGIN, loc="center left")

    def draw_moment(self, y: float, rank: int, moment: Moment, name_style: dict[str, Any]) -> None:
        """Draw a row: rank, score, times and name; frames; and the place in the video."""
        score = f"{rank}: {format_number(moment.score)}"
        if moment.probability is not None:
            score += f"   there: {format_probability(moment.probability)}"
        times = f"{format_time(moment.start)} - {format_time(moment.end)}"
        self.write(MARGIN, y + 0.15, score, fontsize=TITLE_SIZE)
        self.write(MARGIN, y + 0.4, times, fontsize=LABEL_SIZE)
        name_style = {**name_style, "fontsize": SMALL_SIZE, "color": TEXT_COLOR}
        self.write(MARGIN, y + 0.65, _name(moment), num_last=LAST_OF_NAME, parse_math=False, **name_style)
        try:
            frames, duration_sec = _read_frames(moment)
        except (OSError, ValueError):
            missing = "the file is missing or cannot be read"
            self.write(LABEL_WIDTH, y + 0.4, missing, self.width, fontsize=LABEL_SIZE, color=TEXT_COLOR)
            return
        self._draw_strip(y, frames)
        self._draw_place(y + STRIP_HEIGHT + 0.05, moment, duration_sec)

    def _draw_strip(self, y: float, frames: np.ndarray) -> None:
        """Draw frames side by side, as high as there is room in the row and in the width."""
        _, height, width, _ = frames.shape
        room = (self.width - LABEL_WIDTH - MARGIN) / NUM_FRAMES
        shown_width = min(room - FRAME_GAP, STRIP_HEIGHT * width / height)
        shown_height = shown_width * height / width
        for index, frame in enumerate(frames):
            axes = self.figure.add_axes(
                (
                    (LABEL_WIDTH + index * (shown_width + FRAME_GAP)) / self.width,
                    # On the bar, where frames are lower than the row.
                    1 - (y + STRIP_HEIGHT) / self.height,
                    shown_width / self.width,
                    shown_height / self.height,
                )
            )
            axes.imshow(frame, aspect="auto", interpolation="antialiased")
            axes.set_axis_off()

    def _draw_place(self, y: float, moment: Moment, duration_sec: float) -> None:
        """Draw the length of the video as a bar, and the moment in it; the length stands to the right."""
        axes = self.figure.add_axes(
            (
                LABEL_WIDTH / self.width,
                1 - (y + BAR_HEIGHT) / self.height,
                PLACE_WIDTH / self.width,
                BAR_HEIGHT / self.height,
            )
        )
        axes.barh(0, duration_sec, 1.0, 0, **VIDEO_STYLE)
        length = max(moment.end - moment.start, MIN_BAR_WIDTH / PLACE_WIDTH * duration_sec)
        axes.barh(0, length, 1.0, moment.start, **MOMENT_STYLE)
        axes.set(xlim=(0, duration_sec), ylim=(-0.5, 0.5))
        axes.set_axis_off()
        self.write(
            LABEL_WIDTH + PLACE_WIDTH + 0.06,
            y + BAR_HEIGHT / 2,
            format_time(duration_sec),
            TIME_WIDTH,
            fontsize=SMALL_SIZE,
            color=TEXT_COLOR,
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
