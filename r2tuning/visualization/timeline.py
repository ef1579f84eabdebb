"""Draw the answers about one video: frames, saliency curves and moments on one time axis."""

import os
import textwrap
import unicodedata
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.video_io_r2tuning import iter_video_frames, load_video_frames
from modeling_r2tuning.video_source_r2tuning import VideoInput, local_copy
from r2tuning.visualization.fonts import text_style


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NUM_FRAMES = 10
FRAME_SIZE = 160  # short side in pixels
TITLE_LENGTH = 120  # Latin characters of a query
TITLE_END = " ..."  # of a query that is longer
TICK_STEPS_SEC = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
MAX_TICKS = 12
DPI = 150

# All in inches. Rows are placed one below the other from the upper edge of the figure.
WIDTH = 11.0
TOP, LEFT, RIGHT = 0.1, 0.85, 0.3
STRIP_HEIGHT = (0.5, 1.2)  # smallest and largest; in between, as the proportions of the frames require
TITLE_HEIGHT = 0.42
CURVE_HEIGHT = 1.0
TITLE_MIDDLE = 1.12  # of the query above a curve, as a share of the curve's height
LANE_HEIGHT = 0.2  # of a row of bars
BOTTOM = 0.5
LABEL_WIDTH = 0.62  # of the rank and score of a moment
PLOT_WIDTH = WIDTH - LEFT - RIGHT

CURVE_COLOR, MOMENT_COLOR, HIGHLIGHT_COLOR = "#35618f", "#d1495b", "#e09f1f"
TRUTH_COLOR = "#3a7d44"
ABSENT_COLOR = "#aaaaaa"  # the saliency curve of a query that nothing matches
TEXT_COLOR, RULE_COLOR = "#555555", "#999999"


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
    where an answer has `found=False`, the curve is grey and "not there" is written across it. Queries may be in any
    language for which a font is installed.

    Args:
        answers: One answer of the pipeline, or several about the same video.
        video: The video: path, bytes, binary file object or http(s) address.
        path: File to write; its ending (.png, .pdf, .svg) sets the format, PNG if it has none. `None` = no file.
        top: Number of moments drawn for each query.
        truths: Annotated moments of each answer, start and end in seconds; drawn as lines above the curve.

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
    frames, duration_sec = _read_frames(video)
    answers = [{**answer, "moments": answer["moments"][:top]} for answer in answers]
    truths = [[]] * len(answers) if truths is None else truths
    lanes = [assign_lanes(answer["moments"], duration_sec) for answer in answers]
    style = text_style((_title(answer) for answer in answers), weight="bold")
    strip_height = _strip_height(frames)
    rows_height = len(answers) * (TITLE_HEIGHT + CURVE_HEIGHT) + sum(_lanes_height(each) for each in lanes)
    figure = figure_class(figsize=(WIDTH, TOP + strip_height + rows_height + BOTTOM))
    _draw_frames(_add_row(figure, TOP, strip_height, duration_sec), frames)
    y = TOP + strip_height
    for answer, truth, answer_lanes in zip(answers, truths, lanes, strict=True):
        y += TITLE_HEIGHT
        curve = _add_row(figure, y, CURVE_HEIGHT, duration_sec)
        _draw_curve(curve, answer, style)
        _draw_truth(curve, truth)
        y += CURVE_HEIGHT
        lowest = _add_row(figure, y, _lanes_height(answer_lanes), duration_sec)
        _draw_moments(lowest, answer["moments"], answer_lanes)
        y += _lanes_height(answer_lanes)
    _label_time(lowest)
    if path is not None:
        with writing(path) as partial:
            figure.savefig(partial, dpi=DPI, format=partial.suffix[1:] or "png")
    return figure


def import_figure() -> type["Figure"]:
    """Import matplotlib's class `Figure`, which draws without the global state of pyplot.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: `pip install "r2tuning[plot]"`.') from error
    return Figure


def format_time(time_sec: float) -> str:
    """Format a time as minutes and seconds with one decimal: "1:02.5"; an hour is 60 minutes."""
    tenths = round(time_sec * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def format_probability(probability: float) -> str:
    """Format a probability in percent, rounded to whole numbers: "12 %"."""
    return f"{100 * probability:.0f} %"


def format_absence(answer: dict[str, Any]) -> str | None:
    """Say that nothing in the video matches a query, with the probability: "not there (12 %)"; else `None`."""
    if answer.get("found", True):
        return None
    return f"not there ({format_probability(answer['probability'])})"


def assign_lanes(moments: list[dict[str, float]], duration_sec: float) -> list[int]:
    """Assign each moment to a lane (row of bars) so that neither bars nor labels overlap within a lane.

    Args:
        moments: With "start" and "end" in seconds, best first; each takes the first lane with room.
        duration_sec: Length of the time axis in seconds.
    """
    occupied: list[list[tuple[float, float]]] = []  # by lane, start and end in seconds
    lanes = []
    for moment in moments:
        start = _label_start(moment, duration_sec)
        end = max(moment["end"], start + _label_sec(duration_sec))
        lane = 0
        while lane < len(occupied) and _overlaps(occupied[lane], start, end):
            lane += 1
        if lane == len(occupied):
            occupied.append([])
        occupied[lane].append((start, end))
        lanes.append(lane)
    return lanes


def _overlaps(spans: list[tuple[float, float]], start: float, end: float) -> bool:
    return any(start < other_end and other_start < end for other_start, other_end in spans)


def _label_sec(duration_sec: float) -> float:
    """Convert the width of a label to seconds on the time axis."""
    return LABEL_WIDTH / PLOT_WIDTH * duration_sec


def _label_start(moment: dict[str, float], duration_sec: float) -> float:
    """Start of a label in seconds: that of its moment, or earlier where the label would leave the plot."""
    return max(0.0, min(moment["start"], duration_sec - _label_sec(duration_sec)))


def _lanes_height(lanes: list[int]) -> float:
    num_lanes = max(lanes, default=0) + 1  # without moments, one empty lane
    return LANE_HEIGHT * num_lanes


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


def _add_row(figure: "Figure", y: float, height: float, duration_sec: float) -> "Axes":
    """Add bare axes over the whole width, `y` inches below the upper edge of the figure, with seconds as x."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes((LEFT / width, 1 - (y + height) / total, PLOT_WIDTH / width, height / total))
    axes.set_xlim(0, duration_sec)
    axes.tick_params(bottom=False, labelbottom=False, labelsize=8, color=RULE_COLOR, labelcolor=TEXT_COLOR)
    axes.spines[:].set_visible(False)
    return axes


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


def _title(answer: dict[str, Any]) -> str:
    """The query, shortened to one line; between words, where there are spaces between them."""
    query = " ".join(answer["query"].split())
    if _text_width(query) <= TITLE_LENGTH:
        return query
    shortened = textwrap.shorten(query, TITLE_LENGTH, placeholder=TITLE_END)
    if shortened != TITLE_END.strip() and _text_width(shortened) <= TITLE_LENGTH:
        return shortened
    while _text_width(query) > TITLE_LENGTH - len(TITLE_END):
        query = query[:-1]
    return f"{query}{TITLE_END}"


def _text_width(text: str) -> int:
    """Width in Latin characters; a Chinese, Japanese or Korean one is twice as wide."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide


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
        axes.axvspan(moment["start"], moment["end"], color=MOMENT_COLOR, alpha=0.12, linewidth=0)
    axes.fill_between(times, saliency, low - margin, color=color, alpha=0.15, linewidth=0)
    axes.plot(times, saliency, color=color, linewidth=1.6)
    highlight_times = [highlight["time"] for highlight in answer["highlights"]]
    highlight_scores = [highlight["score"] for highlight in answer["highlights"]]
    axes.scatter(
        highlight_times,
        highlight_scores,
        s=28,
        color=HIGHLIGHT_COLOR,
        edgecolor="white",
        linewidth=0.8,
        zorder=3,  # on top of the curve
    )
    axes.set_ylim(low - margin, high + margin)
    ticks = sorted({low, high})
    axes.set_yticks(ticks, [f"{tick:.2f}" for tick in ticks])
    # A flat curve has its one tick in the middle.
    _label_row(axes, "saliency", 0.5 if low < high else 0.8)
    axes.set_title(_title(answer), loc="left", fontsize=10, pad=5, parse_math=False, **style)
    if absence is not None:
        _draw_absence(axes, absence)
    elif "probability" in answer:
        _label_row(axes, f"there: {format_probability(answer['probability'])}", TITLE_MIDDLE)


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


def _draw_truth(axes: "Axes", truth: list[tuple[float, float]]) -> None:
    """Draw annotated moments as lines along the upper edge of a curve."""
    if not truth:
        return
    starts = [start for start, _ in truth]
    ends = [end for _, end in truth]
    upper_edge = axes.get_xaxis_transform()  # x in seconds, y as a share of the height
    axes.hlines([1.0] * len(truth), starts, ends, color=TRUTH_COLOR, linewidth=5, transform=upper_edge)
    _label_row(axes, "truth", 1.0, TRUTH_COLOR)


def _draw_moments(axes: "Axes", moments: list[dict[str, float]], lanes: list[int]) -> None:
    """Draw moments as bars labelled with rank and score."""
    duration_sec = axes.get_xlim()[1]
    best = max((moment["score"] for moment in moments), default=0.0) or 1.0  # scores may all be 0
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
    """Write a label to the left of a row, at a share of its height."""
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
    """Label the time axis below the lowest row with minutes and seconds."""
    duration_sec = axes.get_xlim()[1]
    step_sec = _tick_step(duration_sec)
    ticks = np.arange(0, duration_sec + step_sec / 100, step_sec)  # the last tick may lie at the very end
    axes.set_xticks(ticks, [format_time(tick).removesuffix(".0") for tick in ticks])
    axes.set_xlim(0, duration_sec)
    axes.tick_params(bottom=True, labelbottom=True)
    axes.spines["bottom"].set(visible=True, color=RULE_COLOR)


def _tick_step(duration_sec: float) -> float:
    """Find the smallest round step in seconds that gives at most `MAX_TICKS` ticks."""
    for step_sec in TICK_STEPS_SEC:
        if duration_sec / step_sec <= MAX_TICKS:
            return step_sec
    return duration_sec / MAX_TICKS


__all__ = [
    "assign_lanes",
    "format_absence",
    "format_probability",
    "format_time",
    "import_figure",
    "plot_grounding",
]
