"""A picture of the answers about one video: frames, saliency curves and moments on one time axis."""

import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.video_io_r2tuning import iter_video_frames, load_video_frames
from modeling_r2tuning.video_source_r2tuning import VideoInput, local_copy


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NUM_THUMBNAILS = 10
THUMBNAIL_SIZE = 160  # short side in pixels
TITLE_LENGTH = 120  # characters of a query
TICK_STEPS_SEC = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
MAX_TICKS = 12
DPI = 150

# Inches. Rows are placed one below the other from the figure's upper edge.
WIDTH = 11.0
TOP, LEFT, RIGHT = 0.1, 0.85, 0.3
STRIP_HEIGHT = (0.5, 1.2)  # least and most; in between as the pictures need
TITLE_HEIGHT = 0.42
CURVE_HEIGHT = 1.0
LANE_HEIGHT = 0.2
BOTTOM = 0.5
LABEL_WIDTH = 0.62  # of a moment's rank and score
PLOT_WIDTH = WIDTH - LEFT - RIGHT

CURVE_COLOR, MOMENT_COLOR, HIGHLIGHT_COLOR = "#35618f", "#d1495b", "#e09f1f"
TRUTH_COLOR = "#3a7d44"
TEXT_COLOR, RULE_COLOR = "#555555", "#999999"


def plot_grounding(
    answers: dict[str, Any] | list[dict[str, Any]],
    video: VideoInput,
    path: str | os.PathLike | None = None,
    *,
    top: int = 5,
    truths: list[list[tuple[float, float]]] | None = None,
) -> "Figure":
    """Draw what was found in a video: frames on top, then for each query its saliency curve and best moments (Figure 6).

    Moments are bars, the better the more opaque, labelled with rank and score; the best one is shaded in the curve,
    where dots mark the highlights.

    Args:
        answers: From the pipeline, one or several about the same video.
        video: The video that was asked: path, bytes, binary file object or http(s) address.
        path: File to write; its ending (.png, .pdf, .svg) tells the format, without one it is PNG. `None` = none.
        top: Moments drawn for each query.
        truths: For each answer the true moments, start and end in seconds; drawn as a line above what was found.

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
    answers = [{**answer, "moments": answer["moments"][:top]} for answer in answers]
    lanes = [assign_lanes(answer["moments"], duration_sec) for answer in answers]
    lane_heights = [LANE_HEIGHT * (max(each, default=0) + 1) for each in lanes]
    strip_height = _strip_height(frames)
    rows = len(answers) * (TITLE_HEIGHT + CURVE_HEIGHT) + sum(lane_heights)
    figure = figure_class(figsize=(WIDTH, TOP + strip_height + rows + BOTTOM))
    _draw_thumbnails(_add_row(figure, TOP, strip_height, duration_sec), frames)
    y = TOP + strip_height
    truths = [[]] * len(answers) if truths is None else truths
    for answer, truth, each, lane_height in zip(answers, truths, lanes, lane_heights, strict=True):
        y += TITLE_HEIGHT
        curve = _add_row(figure, y, CURVE_HEIGHT, duration_sec)
        _draw_curve(curve, answer)
        _draw_truth(curve, truth)
        y += CURVE_HEIGHT
        axes = _add_row(figure, y, lane_height, duration_sec)
        _draw_moments(axes, answer["moments"], each)
        y += lane_height
    _label_time(axes)
    if path is not None:
        with writing(path) as partial:
            figure.savefig(partial, dpi=DPI, format=partial.suffix[1:] or "png")
    return figure


def import_figure() -> type["Figure"]:
    """The class `Figure` of matplotlib.

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


def assign_lanes(moments: list[dict[str, float]], duration_sec: float) -> list[int]:
    """Row of each moment, such that neither bars nor labels in one row overlap; better moments are placed first."""
    rows: list[list[tuple[float, float]]] = []
    lanes = []
    for moment in moments:
        start = _label_start(moment, duration_sec)
        end = max(moment["end"], start + _label_sec(duration_sec))
        free = (lane for lane, row in enumerate(rows) if all(end <= begin or stop <= start for begin, stop in row))
        lane = next(free, len(rows))
        if lane == len(rows):
            rows.append([])
        rows[lane].append((start, end))
        lanes.append(lane)
    return lanes


def _label_sec(duration_sec: float) -> float:
    return LABEL_WIDTH / PLOT_WIDTH * duration_sec


def _label_start(moment: dict[str, float], duration_sec: float) -> float:
    """A label begins with its moment, unless it would not end inside the plot."""
    return max(0.0, min(moment["start"], duration_sec - _label_sec(duration_sec)))


def _read_thumbnails(video: VideoInput) -> tuple[np.ndarray, float]:
    """Pictures from the middle of equal parts of the video, and its length in seconds."""
    with local_copy(video) as video:
        duration_sec = iter_video_frames(video, 1.0).duration_sec
        found = load_video_frames(video, NUM_THUMBNAILS / duration_sec, size=THUMBNAIL_SIZE)
    return found.frames, duration_sec


def _strip_height(frames: np.ndarray) -> float:
    _, height, width, _ = frames.shape
    return min(max(PLOT_WIDTH / len(frames) * height / width, STRIP_HEIGHT[0]), STRIP_HEIGHT[1])


def _add_row(figure: "Figure", y: float, height: float, duration_sec: float) -> "Axes":
    """Bare axes over the whole width, `y` inches below the figure's upper edge, with seconds as x."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes((LEFT / width, 1 - (y + height) / total, PLOT_WIDTH / width, height / total))
    axes.set_xlim(0, duration_sec)
    axes.tick_params(bottom=False, labelbottom=False, labelsize=8, color=RULE_COLOR, labelcolor=TEXT_COLOR)
    axes.spines[:].set_visible(False)
    return axes


def _draw_thumbnails(axes: "Axes", frames: np.ndarray) -> None:
    """Pictures side by side, cropped to fill the strip."""
    limits = axes.get_xlim()
    height = axes.get_position().height * axes.figure.get_size_inches()[1]
    edges = np.linspace(*limits, len(frames) + 1)
    for frame, start, end in zip(frames, edges, edges[1:], strict=False):
        picture = _crop(frame, PLOT_WIDTH / len(frames) / height)
        axes.imshow(picture, extent=(start, end, 0, 1), aspect="auto", interpolation="antialiased")
    axes.vlines(edges[1:-1], 0, 1, color="white", linewidth=1.5)
    axes.set(xlim=limits, ylim=(0, 1), yticks=[])


def _crop(frame: np.ndarray, ratio: float) -> np.ndarray:
    """The middle of a picture, `ratio` times as wide as it is high."""
    height, width, _ = frame.shape
    new_height, new_width = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return frame[top : top + new_height, left : left + new_width]


def _draw_curve(axes: "Axes", answer: dict[str, Any]) -> None:
    """Saliency over time, its highlights as dots, the best moment shaded."""
    times = [*answer["frame_times"], axes.get_xlim()[1]]  # the last frame stands for the rest
    saliency = np.array([*answer["saliency"], answer["saliency"][-1]])
    low, high = float(saliency.min()), float(saliency.max())
    margin = 0.12 * (high - low) or 0.1
    for moment in answer["moments"][:1]:
        axes.axvspan(moment["start"], moment["end"], color=MOMENT_COLOR, alpha=0.12, linewidth=0)
    axes.fill_between(times, saliency, low - margin, color=CURVE_COLOR, alpha=0.15, linewidth=0)
    axes.plot(times, saliency, color=CURVE_COLOR, linewidth=1.6)
    marks = np.array([(highlight["time"], highlight["score"]) for highlight in answer["highlights"]]).reshape(-1, 2)
    axes.scatter(*marks.T, s=28, color=HIGHLIGHT_COLOR, edgecolor="white", linewidth=0.8, zorder=3)
    axes.set_ylim(low - margin, high + margin)
    ticks = sorted({low, high})
    axes.set_yticks(ticks, [f"{tick:.2f}" for tick in ticks])
    _label_row(axes, "saliency", 0.5)
    title = textwrap.shorten(answer["query"], TITLE_LENGTH, placeholder=" ...")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=5, parse_math=False)


def _draw_truth(axes: "Axes", truth: list[tuple[float, float]]) -> None:
    """Lines along the upper edge of a curve."""
    if truth:
        edge = axes.get_xaxis_transform()  # x in seconds, y as a share of the height
        axes.hlines([1.0] * len(truth), *zip(*truth, strict=True), color=TRUTH_COLOR, linewidth=5, transform=edge)
        axes.set_xlim(*axes.get_xlim())
        _label_row(axes, "truth", 1.0, TRUTH_COLOR)


def _draw_moments(axes: "Axes", moments: list[dict[str, float]], lanes: list[int]) -> None:
    """Bars labelled with rank and score."""
    duration_sec = axes.get_xlim()[1]
    best = max((moment["score"] for moment in moments), default=0.0) or 1.0
    for rank, (moment, lane) in enumerate(zip(moments, lanes, strict=True), 1):
        alpha = 0.1 + 0.6 * max(moment["score"], 0.0) / best
        width = moment["end"] - moment["start"]
        axes.barh(-lane, width, 0.8, moment["start"], color=MOMENT_COLOR, alpha=alpha, linewidth=0)
        place = (_label_start(moment, duration_sec), -lane)
        label = f"{rank}: {moment['score']:.2f}"
        axes.annotate(label, place, (3, 0), textcoords="offset points", va="center_baseline", fontsize=8)
    axes.set(xlim=(0, duration_sec), ylim=(-max(lanes, default=0) - 0.5, 0.5), yticks=[])
    _label_row(axes, "moments" if moments else "no moments", 0.5)


def _label_row(axes: "Axes", text: str, height: float, color: str = TEXT_COLOR) -> None:
    axes.annotate(
        text,
        (0, height),
        (-6, 0),
        "axes fraction",
        "offset points",
        ha="right",
        va="center",
        fontsize=8,
        color=color,
    )


def _label_time(axes: "Axes") -> None:
    """Minutes and seconds below the lowest row."""
    duration_sec = axes.get_xlim()[1]
    step = next((step for step in TICK_STEPS_SEC if duration_sec / step <= MAX_TICKS), duration_sec / MAX_TICKS)
    ticks = np.arange(0, duration_sec + step / 100, step)
    axes.set_xticks(ticks, [format_time(tick).removesuffix(".0") for tick in ticks])
    axes.set_xlim(0, duration_sec)
    axes.tick_params(bottom=True, labelbottom=True)
    axes.spines["bottom"].set(visible=True, color=RULE_COLOR)


__all__ = ["assign_lanes", "format_time", "import_figure", "plot_grounding"]
