"""Draw the answers about one video: frames, saliency curves and moments on one time axis."""

import os
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from modeling_r2tuning.video_io_r2tuning import iter_video_frames, load_video_frames
from modeling_r2tuning.video_source_r2tuning import VideoInput, local_copy
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.style import (
    ABSENT_COLOR,
    BAR_OPACITY,
    BLACK,
    CURVE_COLOR,
    HIGHLIGHT_COLOR,
    MOMENT_COLOR,
    RULE_COLOR,
    SMALL_SIZE,
    TEXT_COLOR,
    TITLE_SIZE,
    TRUTH_COLOR,
    TRUTH_HATCH,
    draw_legend,
    fit_text,
    format_number,
    format_probability,
    import_figure,
    label_range,
    label_time,
    save_figure,
    score_opacities,
)


if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NUM_FRAMES = 10
FRAME_SIZE = 160  # short side in pixels
SHADE = 0.12  # opacity of the best moment behind a curve
FILL = 0.15  # opacity of the area below a curve

# All in inches. Rows are placed one below the other from the upper edge of the figure.
WIDTH = 11.0
TOP, LEFT, RIGHT = 0.32, 0.85, 0.3  # the legend is above the frames
STRIP_HEIGHT = (0.5, 1.2)  # smallest and largest; in between, as the proportions of the frames require
TITLE_HEIGHT = 0.42
CURVE_HEIGHT = 1.0
TITLE_MIDDLE = 1.12  # of the query above a curve, as a share of the curve's height
LANE_HEIGHT = 0.2  # of a row of bars
BOTTOM = 0.55
LABEL_WIDTH = 0.68  # of the rank and score of a moment
MIN_BAR_WIDTH = 0.05  # a bar that is to scale may be too thin to be seen
PLOT_WIDTH = WIDTH - LEFT - RIGHT


class BarPlace(NamedTuple):
    """Where the label of a moment stands, in seconds on the time axis.

    Attributes:
        label: The edge of the label that is next to the bar's start or end.
        align: "left" or "right": the edge of the text that is meant.
        start: Start of bar and label together.
        end: End of bar and label together.
    """

    label: float
    align: str
    start: float
    end: float


def plot_grounding(
    answers: dict[str, Any] | list[dict[str, Any]],
    video: VideoInput,
    path: str | os.PathLike | None = None,
    *,
    top: int = 5,
    truths: list[list[tuple[float, float]]] | None = None,
) -> "Figure":
    """Draw answers on the time axis of the video: frames, then a saliency curve and moments for each query (Figure 6).

    Moments are bars labelled with rank and score; the better the moment, the more opaque its bar. In the curve, the best
    moment is shaded and dots mark the highlights. The probability that anything matches a query stands to its left;
    where an answer has `found=False`, the curve is grey and "not there" is written across it. Annotated moments are
    hatched bars above the predicted ones. A legend explains what is drawn. Queries may be in any language for which a
    font is installed; one that is wider than the picture is shortened.

    Args:
        answers: One answer of the pipeline, or several about the same video.
        video: The video: path, bytes, binary file object or http(s) address.
        path: File to write; its ending (.png, .pdf, .svg) sets the format, PNG if it has none. `None` = no file.
        top: Number of moments drawn for each query.
        truths: Annotated moments of each answer, start and end in seconds.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no answers, `truths` has another length, or the video cannot be read.
    """
    answers = [answers] if isinstance(answers, dict) else list(answers)
    if not answers:
        raise ValueError("`answers` must hold at least one answer, got none.")
    truths = [[]] * len(answers) if truths is None else truths
    if len(truths) != len(answers):
        raise ValueError(f"`truths` must have an entry for each of the {len(answers)} answers, got {len(truths)}.")
    figure_class = import_figure()
    frames, duration_sec = _read_frames(video)
    answers = [{**answer, "moments": answer["moments"][:top]} for answer in answers]
    lanes = [assign_lanes(answer["moments"], duration_sec) for answer in answers]
    style = text_style((answer["query"] for answer in answers), weight="bold")
    strip_height = _strip_height(frames)
    rows_height = sum(map(_row_height, lanes, truths))
    figure = figure_class(figsize=(WIDTH, TOP + strip_height + rows_height + BOTTOM))
    _draw_frames(_add_row(figure, TOP, strip_height, duration_sec), frames)
    y = TOP + strip_height
    for answer, truth, answer_lanes in zip(answers, truths, lanes, strict=True):
        _draw_answer(figure, y, answer, truth, answer_lanes, duration_sec, style)
        y += _row_height(answer_lanes, truth)
    _draw_time_axis(figure.axes[-1], duration_sec)
    _draw_legend(figure, answers, truths)
    if path is not None:
        save_figure(figure, path)
    return figure


def format_absence(answer: dict[str, Any]) -> str | None:
    """Say that nothing in the video matches a query, with the probability: "not there (12 %)"; else `None`."""
    if answer.get("found", True):
        return None
    return f"not there ({format_probability(answer['probability'])})"


# ---- places --------------------------------------------------------------------------------------------------------


def assign_lanes(moments: list[dict[str, float]], duration_sec: float) -> list[int]:
    """Assign each moment to a lane (row of bars) so that neither bars nor labels overlap within a lane.

    Args:
        moments: With "start" and "end" in seconds, best first; each takes the first lane with room.
        duration_sec: Length of the time axis in seconds.
    """
    occupied: list[list[BarPlace]] = []  # by lane
    lanes = []
    for moment in moments:
        place = _place_bar(moment, duration_sec)
        lane = 0
        while lane < len(occupied) and _overlaps(occupied[lane], place):
            lane += 1
        if lane == len(occupied):
            occupied.append([])
        occupied[lane].append(place)
        lanes.append(lane)
    return lanes


def _overlaps(others: list[BarPlace], place: BarPlace) -> bool:
    return any(place.start < other.end and other.start < place.end for other in others)


def _place_bar(moment: dict[str, float], duration_sec: float) -> BarPlace:
    """Put the label of a moment into its bar, or beside a bar that is too short: behind it, or at the end before it."""
    start = moment["start"]
    end = start + _shown_length(start, moment["end"], duration_sec)
    label_sec = _to_seconds(LABEL_WIDTH, duration_sec)
    if end - start >= label_sec:
        return BarPlace(start, "left", start, end)
    if end + label_sec <= duration_sec:
        return BarPlace(end, "left", start, end + label_sec)
    return BarPlace(start, "right", start - label_sec, end)


def _shown_length(start: float, end: float, duration_sec: float) -> float:
    """Length of a bar in seconds."""
    return max(end - start, _to_seconds(MIN_BAR_WIDTH, duration_sec))


def _to_seconds(inches: float, duration_sec: float) -> float:
    """Convert a width in the picture to seconds on the time axis."""
    return inches / PLOT_WIDTH * duration_sec


def _row_height(lanes: list[int], truth: list[tuple[float, float]]) -> float:
    """Height of a query with its curve and bars."""
    return TITLE_HEIGHT + CURVE_HEIGHT + (LANE_HEIGHT if truth else 0.0) + _lanes_height(lanes)


def _lanes_height(lanes: list[int]) -> float:
    num_lanes = max(lanes, default=0) + 1  # without moments, one empty lane
    return LANE_HEIGHT * num_lanes


def _add_row(figure: "Figure", y: float, height: float, duration_sec: float) -> "Axes":
    """Add bare axes over the whole width, `y` inches below the upper edge of the figure, with seconds as x."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes((LEFT / width, 1 - (y + height) / total, PLOT_WIDTH / width, height / total))
    axes.set_xlim(0, duration_sec)
    axes.tick_params(bottom=False, labelbottom=False, labelsize=SMALL_SIZE, color=RULE_COLOR, labelcolor=TEXT_COLOR)
    axes.spines[:].set_visible(False)
    return axes


# ---- frames --------------------------------------------------------------------------------------------------------


def _read_frames(video: VideoInput) -> tuple[np.ndarray, float]:
    """Read the frames in the middle of equal parts of the video, and its length in seconds."""
    with local_copy(video) as local_video:
        duration_sec = iter_video_frames(local_video, 1.0).duration_sec
        found = load_video_frames(local_video, NUM_FRAMES / duration_sec, size=FRAME_SIZE)
    return found.frames, duration_sec


def _strip_height(frames: np.ndarray) -> float:
    """Height at which the frames fill the width of the plot side by side, within limits."""
    num_frames, height, width, _ = frames.shape
    wanted = PLOT_WIDTH / num_frames * height / width
    smallest, largest = STRIP_HEIGHT
    return min(max(wanted, smallest), largest)


def _draw_frames(axes: "Axes", frames: np.ndarray) -> None:
    """Draw frames side by side, cropped to fill the strip."""
    limits = axes.get_xlim()
    figure = cast("Figure", axes.figure)  # not a `SubFigure`
    height = axes.get_position().height * figure.get_size_inches()[1]
    ratio = PLOT_WIDTH / len(frames) / height
    edges = np.linspace(*limits, len(frames) + 1)
    for frame, start, end in zip(frames, edges, edges[1:], strict=False):
        cropped = _crop(frame, ratio)
        axes.imshow(cropped, extent=(start, end, 0, 1), aspect="auto", interpolation="antialiased")
    axes.vlines(edges[1:-1], 0, 1, color="white", linewidth=1.5)
    axes.set(xlim=limits, ylim=(0, 1), yticks=[])


def _crop(frame: np.ndarray, ratio: float) -> np.ndarray:
    """Crop the middle of a frame that is `ratio` times as wide as it is high."""
    height, width, _ = frame.shape
    new_height = min(height, max(1, round(width / ratio)))
    new_width = min(width, max(1, round(height * ratio)))
    top = (height - new_height) // 2
    left = (width - new_width) // 2
    return frame[top : top + new_height, left : left + new_width]


# ---- a query -------------------------------------------------------------------------------------------------------


def _draw_answer(
    figure: "Figure",
    y: float,
    answer: dict[str, Any],
    truth: list[tuple[float, float]],
    lanes: list[int],
    duration_sec: float,
    style: dict[str, Any],
) -> None:
    """Draw a query, its curve, its annotated moments if there are any, and the moments found.

    Args:
        figure: The figure.
        y: Where the row begins, in inches below the upper edge of the figure.
        answer: The pipeline's answer.
        truth: Start and end of each annotated moment, in seconds.
        lanes: Of the moments, from `assign_lanes`.
        duration_sec: Length of the time axis in seconds.
        style: Properties of the query's text.
    """
    y += TITLE_HEIGHT
    _draw_curve(_add_row(figure, y, CURVE_HEIGHT, duration_sec), answer, style)
    y += CURVE_HEIGHT
    if truth:
        _draw_truth(_add_row(figure, y, LANE_HEIGHT, duration_sec), truth)
        y += LANE_HEIGHT
    _draw_moments(_add_row(figure, y, _lanes_height(lanes), duration_sec), answer["moments"], lanes)


def _draw_curve(axes: "Axes", answer: dict[str, Any], style: dict[str, Any]) -> None:
    """Draw saliency over time, with highlights as dots and the best moment shaded; `style` is that of the query."""
    # The last frame's saliency is drawn up to the end of the video.
    times = [*answer["frame_times"], axes.get_xlim()[1]]
    saliency = np.array([*answer["saliency"], answer["saliency"][-1]])
    low, high = float(saliency.min()), float(saliency.max())
    margin = 0.12 * (high - low) or 0.1  # a flat curve needs room too
    absence = format_absence(answer)
    color = CURVE_COLOR if absence is None else ABSENT_COLOR
    for moment in answer["moments"][:1]:
        axes.axvspan(moment["start"], moment["end"], color=MOMENT_COLOR, alpha=SHADE, linewidth=0)
    axes.fill_between(times, saliency, low - margin, color=color, alpha=FILL, linewidth=0)
    axes.plot(times, saliency, color=color, linewidth=1.6)
    highlight_times = [highlight["time"] for highlight in answer["highlights"]]
    highlight_scores = [highlight["score"] for highlight in answer["highlights"]]
    # On top of the curve, and whole at the ends of the video too.
    axes.scatter(highlight_times, highlight_scores, **_highlight_style(), zorder=3, clip_on=False)
    axes.set_ylim(low - margin, high + margin)
    ticks = label_range(low, high)
    axes.set_yticks([value for value, _ in ticks], [label for _, label in ticks])
    # A flat curve has its one tick in the middle.
    _label_row(axes, "saliency", 0.5 if len(ticks) > 1 else 0.8)
    query = " ".join(answer["query"].split())
    title = axes.set_title(query, loc="left", fontsize=TITLE_SIZE, pad=5, parse_math=False, **style)
    fit_text(title, PLOT_WIDTH)
    if absence is not None:
        _draw_absence(axes, absence)
    elif "probability" in answer:
        _label_row(axes, f"there: {format_probability(answer['probability'])}", TITLE_MIDDLE)


def _highlight_style() -> dict[str, Any]:
    return {"s": 28, "facecolor": HIGHLIGHT_COLOR, "edgecolor": BLACK, "linewidth": 0.8}


def _draw_absence(axes: "Axes", text: str) -> None:
    """Write across a curve that the query is not there; on white, so that no line runs through the letters."""
    ground = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": RULE_COLOR}
    axes.annotate(
        text,
        (0.5, 0.5),
        xycoords="axes fraction",
        ha="center",
        va="center",
        fontsize=12,
        fontweight="bold",
        bbox=ground,
    )


def _truth_style() -> dict[str, Any]:
    return {"facecolor": "white", "edgecolor": TRUTH_COLOR, "hatch": TRUTH_HATCH, "linewidth": 1.2}


def _draw_truth(axes: "Axes", truth: list[tuple[float, float]]) -> None:
    """Draw annotated moments as hatched bars."""
    duration_sec = axes.get_xlim()[1]
    for start, end in truth:
        axes.barh(0, _shown_length(start, end, duration_sec), 0.6, start, **_truth_style())
    axes.set(xlim=(0, duration_sec), ylim=(-0.5, 0.5), yticks=[])
    _label_row(axes, "truth", 0.5)


def _draw_moments(axes: "Axes", moments: list[dict[str, float]], lanes: list[int]) -> None:
    """Draw moments as bars labelled with rank and score."""
    duration_sec = axes.get_xlim()[1]
    opacities = score_opacities([moment["score"] for moment in moments])
    for rank, (moment, lane, opacity) in enumerate(zip(moments, lanes, opacities, strict=True), 1):
        length = _shown_length(moment["start"], moment["end"], duration_sec)
        # The white edge parts bars that follow each other.
        look: dict[str, Any] = {"facecolor": MOMENT_COLOR, "edgecolor": "white", "linewidth": 0.8, "alpha": opacity}
        axes.barh(-lane, length, 0.8, moment["start"], **look)
        place = _place_bar(moment, duration_sec)
        axes.annotate(
            f"{rank}: {format_number(moment['score'])}",
            (place.label, -lane),
            (3 if place.align == "left" else -3, 0),
            textcoords="offset points",
            ha=place.align,
            va="center_baseline",
            fontsize=SMALL_SIZE,
        )
    axes.set(xlim=(0, duration_sec), ylim=(-max(lanes, default=0) - 0.5, 0.5), yticks=[])
    _label_row(axes, "moments" if moments else "no moments", 0.5)


def _label_row(axes: "Axes", text: str, height: float) -> None:
    """Write a label to the left of a row, at a share of its height."""
    axes.annotate(
        text,
        (0, height),
        (-6, 0),
        "axes fraction",
        "offset points",
        ha="right",
        va="center",
        fontsize=SMALL_SIZE,
        color=TEXT_COLOR,
    )


# ---- legend and time axis ------------------------------------------------------------------------------------------


def _draw_time_axis(lowest: "Axes", duration_sec: float) -> None:
    """Draw the time axis below the lowest row."""
    label_time(lowest, duration_sec)
    lowest.spines["bottom"].set(visible=True, color=RULE_COLOR)


def _draw_legend(figure: "Figure", answers: list[dict[str, Any]], truths: list[list[tuple[float, float]]]) -> None:
    """Explain above the frames what is drawn, and only that."""
    handles = _legend_handles(answers, truths)
    draw_legend(figure, handles, LEFT, 0.06, loc="upper left", handlelength=1.8, columnspacing=2.0)


def _legend_handles(answers: list[dict[str, Any]], truths: list[list[tuple[float, float]]]) -> "list[Artist]":
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = []
    absences = [format_absence(answer) for answer in answers]
    if None in absences:
        handles.append(Line2D([], [], color=CURVE_COLOR, linewidth=1.6, label="saliency"))
    if any(absences):
        handles.append(
            Line2D([], [], color=ABSENT_COLOR, linewidth=1.6, label="saliency of a query that is not there")
        )
    if any(answer["highlights"] for answer in answers):
        dot = Line2D([], [], marker="o", markersize=5.3, linestyle="none", label="highlight")
        dot.set(markerfacecolor=HIGHLIGHT_COLOR, markeredgecolor=BLACK, markeredgewidth=0.8)
        handles.append(dot)
    if any(answer["moments"] for answer in answers):
        handles.append(Patch(color=MOMENT_COLOR, alpha=BAR_OPACITY[1], linewidth=0, label="moment, rank: score"))
        handles.append(Patch(color=MOMENT_COLOR, alpha=SHADE, linewidth=0, label="best moment"))
    if any(truths):
        handles.append(Patch(**_truth_style(), label="annotated moment"))
    return handles


__all__ = ["assign_lanes", "format_absence", "plot_grounding"]
