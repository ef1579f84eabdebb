"""A picture of the answers about one video: frames, saliency curves and moments on one time axis."""

import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from .video_io_r2tuning import VideoInput, iter_video_frames, load_video_frames


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NUM_THUMBNAILS = 10
THUMBNAIL_SIZE = 160  # short side in pixels
DPI = 150

# Inches. Rows are placed one below the other from the figure's upper edge.
WIDTH = 11.0
LEFT, RIGHT = 0.6, 0.25
STRIP_HEIGHT = (0.5, 1.2)  # least and most, in between as the pictures need
TITLE_HEIGHT = 0.42
CURVE_HEIGHT = 1.0
LANE_HEIGHT = 0.2
BOTTOM = 0.5

CURVE_COLOR, MOMENT_COLOR, HIGHLIGHT_COLOR = "#35618f", "#d1495b", "#e09f1f"


def plot_grounding(
    answers: dict[str, Any] | list[dict[str, Any]],
    video: VideoInput,
    path: str | os.PathLike | None = None,
    *,
    top: int = 5,
) -> "Figure":
    """Draw what was found in a video: frames on top, then for each query its saliency curve and best moments.

    Moments are bars, the better the more opaque, labelled with rank and score; the best one is shaded in the curve,
    where dots mark the highlights.

    Args:
        answers: From the pipeline, one or several about the same video.
        video: The video that was asked: path, bytes, binary file object or http(s) address.
        path: File to write; its ending (.png, .pdf, .svg) tells the format. `None` = none.
        top: Moments drawn for each query.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no answers, or the video cannot be read.
    """
    answers = [answers] if isinstance(answers, dict) else list(answers)
    if not answers:
        raise ValueError("`answers` must hold at least one answer, got none.")
    figure_class = import_figure()
    frames, duration_sec = _read_thumbnails(video)
    moments = [answer["moments"][:top] for answer in answers]
    lanes = [assign_lanes(found) for found in moments]
    strip = _strip_height(frames)
    heights = [TITLE_HEIGHT + CURVE_HEIGHT + LANE_HEIGHT * _count(each) for each in lanes]
    figure = figure_class(figsize=(WIDTH, 0.1 + strip + sum(heights) + BOTTOM))
    _draw_thumbnails(_add_row(figure, 0.1, strip, duration_sec), frames, duration_sec)
    start = 0.1 + strip
    for answer, found, each, height in zip(answers, moments, lanes, heights, strict=True):
        curve = _add_row(figure, start + TITLE_HEIGHT, CURVE_HEIGHT, duration_sec)
        _draw_curve(curve, answer, found[:1], duration_sec)
        axes = _add_row(figure, start + TITLE_HEIGHT + CURVE_HEIGHT, LANE_HEIGHT * _count(each), duration_sec)
        _draw_moments(axes, found, each)
        start += height
    _label_time(axes)
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def import_figure() -> type["Figure"]:
    """matplotlib's `Figure`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: `pip install "r2tuning[plot]"`.') from error
    return Figure


def format_time(time_sec: float) -> str:
    """Minutes and seconds with one decimal, such as "1:02.5"; hours are minutes above 59."""
    tenths = round(time_sec * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def assign_lanes(moments: list[dict[str, float]]) -> list[int]:
    """Row of each moment, such that moments in one row do not overlap; better ones are placed first."""
    rows: list[list[dict[str, float]]] = []
    lanes = []
    for moment in moments:
        free = (
            lane
            for lane, row in enumerate(rows)
            if all(moment["start"] >= other["end"] or moment["end"] <= other["start"] for other in row)
        )
        lane = next(free, len(rows))
        if lane == len(rows):
            rows.append([])
        rows[lane].append(moment)
        lanes.append(lane)
    return lanes


def _count(lanes: list[int]) -> int:
    return max(lanes, default=0) + 1


def _read_thumbnails(video: VideoInput) -> tuple[np.ndarray, float]:
    """Pictures from the middle of equal parts of the video, and its length in seconds."""
    duration_sec = iter_video_frames(video, 1.0).duration_sec
    found = load_video_frames(video, NUM_THUMBNAILS / duration_sec, size=THUMBNAIL_SIZE)
    return found.frames, duration_sec


def _strip_height(frames: np.ndarray) -> float:
    _, height, width, _ = frames.shape
    natural = (WIDTH - LEFT - RIGHT) / len(frames) * height / width
    return min(max(natural, STRIP_HEIGHT[0]), STRIP_HEIGHT[1])


def _add_row(figure: "Figure", start: float, height: float, duration_sec: float) -> "Axes":
    """Axes over the whole width, `start` inches below the figure's upper edge, with seconds as x."""
    width, total = figure.get_size_inches()
    box = (LEFT / width, 1 - (start + height) / total, (width - LEFT - RIGHT) / width, height / total)
    axes = figure.add_axes(box)
    axes.set_xlim(0, duration_sec)
    axes.tick_params(bottom=False, labelbottom=False, labelsize=8, color="#999999", labelcolor="#555555")
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return axes


def _draw_thumbnails(axes: "Axes", frames: np.ndarray, duration_sec: float) -> None:
    """Pictures side by side, their borders cropped to fill the strip."""
    box = axes.get_window_extent()
    shape = box.width / len(frames) / box.height
    step = duration_sec / len(frames)
    for index, frame in enumerate(frames):
        extent = (index * step, (index + 1) * step, 0, 1)
        axes.imshow(_crop(frame, shape), extent=extent, aspect="auto", interpolation="antialiased")
    for index in range(1, len(frames)):
        axes.axvline(index * step, color="white", linewidth=1.5)
    axes.set(xlim=(0, duration_sec), ylim=(0, 1), yticks=[])


def _crop(frame: np.ndarray, shape: float) -> np.ndarray:
    """The middle of a picture, its width being `shape` times its height."""
    height, width, _ = frame.shape
    new_height, new_width = min(height, round(width / shape)), min(width, round(height * shape))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return frame[top : top + max(new_height, 1), left : left + max(new_width, 1)]


def _draw_curve(axes: "Axes", answer: dict[str, Any], best: list[dict[str, float]], duration_sec: float) -> None:
    times, saliency = np.array(answer["frame_times"]), np.array(answer["saliency"])
    low, high = float(saliency.min()), float(saliency.max())
    margin = 0.12 * (high - low) or 0.1
    for moment in best:
        axes.axvspan(moment["start"], moment["end"], color=MOMENT_COLOR, alpha=0.12, linewidth=0)
    axes.fill_between(times, saliency, low - margin, color=CURVE_COLOR, alpha=0.15, linewidth=0)
    axes.plot(times, saliency, color=CURVE_COLOR, linewidth=1.6)
    marks = np.array([(highlight["time"], highlight["score"]) for highlight in answer["highlights"]]).reshape(-1, 2)
    axes.scatter(*marks.T, s=28, color=HIGHLIGHT_COLOR, edgecolor="white", linewidth=0.8, zorder=3)
    ticks = sorted({low, high})
    axes.set(xlim=(0, duration_sec), ylim=(low - margin, high + margin))
    axes.set_yticks(ticks, [f"{tick:.2f}" for tick in ticks])
    title = textwrap.shorten(answer["query"], TITLE_LENGTH, placeholder=" ...")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=5, parse_math=False)


def _draw_moments(axes: "Axes", moments: list[dict[str, float]], lanes: list[int]) -> None:
    """One bar for each moment, its label inside if there is room, else beside it."""
    best = max((moment["score"] for moment in moments), default=0.0) or 1.0
    for rank, (moment, lane) in enumerate(zip(moments, lanes, strict=True), 1):
        share = max(moment["score"], 0.0) / best
        axes.barh(
            -lane,
            moment["end"] - moment["start"],
            left=moment["start"],
            height=0.8,
            color=MOMENT_COLOR,
            alpha=0.25 + 0.75 * share,
            linewidth=0,
        )
        _label_moment(axes, moment, -lane, f"{rank} · {moment['score']:.2f}", "white" if share > 0.4 else "#333333")
    axes.set(ylim=(-_count(lanes) + 0.5, 0.5), yticks=[])


def _label_time(axes: "Axes") -> None:
    """Minutes and seconds below the lowest axes."""
    axes.xaxis.set_major_formatter(lambda time_sec, _: format_time(time_sec).removesuffix(".0"))
    axes.tick_params(bottom=True, labelbottom=True)
    axes.spines["bottom"].set(visible=True, color="#999999")


__all__ = ["assign_lanes", "format_time", "import_figure", "plot_grounding"]
