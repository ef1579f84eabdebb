"""The look of every picture: colours by role, line styles, sizes of letters, text for numbers and times, writing of files.

matplotlib is optional, so it is imported only when something is drawn. The colours are those of Okabe and Ito ("Color
Universal Design", 2008), which people with any kind of colour vision can tell apart; where colours meet in one picture,
shape, hatching or dashes differ as well.
"""

import os
import unicodedata
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from modeling_r2tuning.files_r2tuning import writing


if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text


BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

CURVE_COLOR = BLUE
MOMENT_COLOR = VERMILLION
HIGHLIGHT_COLOR = YELLOW  # with a dark edge
TRUTH_COLOR = GREEN  # hatched
ABSENT_COLOR = "#BBBBBB"  # the saliency curve of a query that nothing matches
TEXT_COLOR, RULE_COLOR = "#444444", "#999999"
TRUTH_HATCH = "////"
BAR_OPACITY = (0.15, 0.75)  # of the moment with the lowest score and of the best one

SERIES_COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY_BLUE, BLACK)  # yellow is too pale for a line
# As many as have no common divisor with the number of colours: all pairs of a colour and dashes come up in turn.
SERIES_DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# Sizes of letters in points.
TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 10, 9, 8
DPI = 150  # of pictures made of pixels
TIME_LABEL = "time, min:s"
SHORTENED = " ..."  # ends a text that did not fit
MOST_CHARACTERS = 400  # of a text that is measured
TICK_STEPS_SEC = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
MAX_TICKS = 12
MAX_DIGITS = 4  # after the point, of the lowest and highest value of an axis


class SeriesStyle(NamedTuple):
    """How one of several lines in a picture is drawn; fields are arguments of matplotlib's `plot`."""

    color: str
    linestyle: Any
    marker: str


def series_styles(count: int) -> list[SeriesStyle]:
    """Styles of the lines of one panel; the first 35 differ from each other in colour, dashes or both.

    Args:
        count: Number of lines.
    """
    styles = zip(cycle(SERIES_COLORS), cycle(SERIES_DASHES), cycle(SERIES_MARKERS), strict=False)
    return [SeriesStyle(*style) for style in islice(styles, count)]


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


def save_figure(figure: "Figure", path: str | os.PathLike) -> None:
    """Write a figure to a file, whose ending (.png, .pdf, .svg) sets the format; PNG if it has none."""
    with writing(path) as partial:
        figure.savefig(partial, dpi=DPI, format=partial.suffix[1:] or "png")


def remove_frame(axes: "Axes") -> None:
    """Leave only the left and lower edge of a diagram, and draw its numbers and names in the sizes of the style."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE_COLOR)
    axes.tick_params(labelsize=SMALL_SIZE, color=RULE_COLOR, labelcolor=TEXT_COLOR)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set(fontsize=LABEL_SIZE, color=TEXT_COLOR)


def label_time(axes: "Axes", duration_sec: float) -> None:
    """Label the x axis of a diagram, which is in seconds, with minutes and seconds and with their unit."""
    ticks = time_ticks(duration_sec)
    axes.set_xticks([time for time, _ in ticks], [label for _, label in ticks])
    axes.set_xlim(0, duration_sec)
    axes.tick_params(axis="x", bottom=True, labelbottom=True, labelsize=SMALL_SIZE)
    axes.set_xlabel(TIME_LABEL, fontsize=SMALL_SIZE, color=TEXT_COLOR)


def time_ticks(duration_sec: float, most: int = MAX_TICKS) -> list[tuple[float, str]]:
    """Ticks of a time axis: round times in seconds with their labels, minutes and seconds.

    Args:
        duration_sec: Length of the axis in seconds.
        most: Largest number of steps between ticks.
    """
    step_sec = next((step for step in TICK_STEPS_SEC if duration_sec / step <= most), duration_sec / most)
    ticks: list[tuple[float, str]] = []
    while len(ticks) * step_sec <= duration_sec + step_sec / 100:  # the last one may lie at the very end
        time_sec = len(ticks) * step_sec
        ticks.append((time_sec, format_time(time_sec).removesuffix(".0")))
    return ticks


def score_opacities(scores: list[float]) -> list[float]:
    """Opacity of the bar of each moment: proportional to the score, or to its distance from the lowest, negative one."""
    lowest, highest = BAR_OPACITY
    base = min([0.0, *scores])
    best = max([base, *scores]) - base
    if best == 0:  # no scores, or all are 0
        return [highest] * len(scores)
    return [lowest + (highest - lowest) * (score - base) / best for score in scores]


def draw_legend(figure: "Figure", handles: "Sequence[Artist]", x: float, y: float, **options: Any) -> None:
    """Draw a legend without a frame on one line.

    Args:
        figure: The figure.
        handles: What it explains, with labels.
        x: Its left edge, in inches from that of the figure.
        y: Its place, in inches from the upper edge of the figure.
        options: More arguments of matplotlib's `legend`.
    """
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        bbox_to_anchor=(x / width, 1 - y / height),
        ncols=len(handles),
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        fontsize=SMALL_SIZE,
        labelcolor=TEXT_COLOR,
        **options,
    )


def label_range(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks at the lowest and the highest value of an axis, with as many digits as tell the two apart, at least two.

    Returns:
        The values with their labels; only the middle of the two where `MAX_DIGITS` digits do not tell them apart.
    """
    for digits in range(2, MAX_DIGITS + 1):
        labels = (format_number(low, digits), format_number(high, digits))
        if labels[0] != labels[1]:
            return [(low, labels[0]), (high, labels[1])]
    middle = (low + high) / 2
    return [(middle, format_number(middle))]


def format_number(value: float, digits: int = 2) -> str:
    """Format a number with a fixed number of digits after the point; what rounds to zero has no sign."""
    return f"{value:z.{digits}f}"


def format_time(time_sec: float) -> str:
    """Format a time as minutes and seconds with one decimal: "1:02.5"; an hour is 60 minutes."""
    tenths = round(time_sec * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def format_probability(probability: float) -> str:
    """Format a probability in percent, rounded to whole numbers: "12 %"."""
    return f"{100 * probability:.0f} %"


def fit_text(text: "Text", width: float, *, num_last: int = 0) -> None:
    """Shorten a text that is wider than there is room; it is cut between words where that keeps most of it.

    Args:
        text: A text of one line, in a figure, with its font set.
        width: The room in inches.
        num_last: Number of characters at the end that are kept, such as those of the ending of a file name.
    """
    whole = text.get_text()
    if len(whole) <= MOST_CHARACTERS and _text_width(text) <= width:
        return
    ending = SHORTENED + whole[len(whole) - num_last :]
    low, high = 0, min(len(whole), MOST_CHARACTERS)  # the longest beginning that fits has `low` to `high` characters
    while low < high:
        middle = (low + high + 1) // 2
        text.set_text(whole[:middle] + ending)
        if _text_width(text) <= width:
            low = middle
        else:
            high = middle - 1
    text.set_text(_cut(whole, low) + ending)


def _cut(whole: str, length: int) -> str:
    """At most `length` characters from the beginning of a text, complete words if they are most of it."""
    while length and unicodedata.category(whole[length]).startswith("M"):
        length -= 1  # an accent or a vowel sign stays with its letter
    complete_words = whole[: length + 1].rpartition(" ")[0]
    if len(complete_words) > length / 2:
        return complete_words.rstrip()
    return whole[:length].rstrip()


def _text_width(text: "Text") -> float:
    """Width of a text in inches."""
    figure = cast("Figure", text.figure)  # not a `SubFigure`
    return text.get_window_extent().width / figure.dpi


__all__ = [
    "ABSENT_COLOR",
    "BAR_OPACITY",
    "BLACK",
    "BLUE",
    "CURVE_COLOR",
    "DPI",
    "GREEN",
    "HIGHLIGHT_COLOR",
    "LABEL_SIZE",
    "MOMENT_COLOR",
    "ORANGE",
    "PURPLE",
    "RULE_COLOR",
    "SERIES_COLORS",
    "SERIES_DASHES",
    "SERIES_MARKERS",
    "SKY_BLUE",
    "SMALL_SIZE",
    "TEXT_COLOR",
    "TIME_LABEL",
    "TITLE_SIZE",
    "TRUTH_COLOR",
    "TRUTH_HATCH",
    "VERMILLION",
    "YELLOW",
    "SeriesStyle",
    "draw_legend",
    "fit_text",
    "format_number",
    "format_probability",
    "format_time",
    "import_figure",
    "label_range",
    "label_time",
    "remove_frame",
    "save_figure",
    "score_opacities",
    "series_styles",
    "time_ticks",
]
