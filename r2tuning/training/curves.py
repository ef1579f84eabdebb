"""Measurements of a run, step by step and evaluation by evaluation, and a plot of them."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2tuning.json_files import read_json, write_json
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.style import (
    BLUE,
    RULE_COLOR,
    SMALL_SIZE,
    TITLE_SIZE,
    import_figure,
    remove_frame,
    save_figure,
    series_styles,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes


NOT_LOSSES = frozenset({"step", "epoch", "grad_norm", "learning_rate", "seconds"})
FAMILIES = {"HL": "highlight detection", "EX": "existence", "mAP": "average precision by domain"}  # by first word
RECALL = re.compile(r"m?R\d+")
LOSS_WINDOWS = 100  # running means of the losses are over this part of the steps
THICK, MIDDLE, THIN = 2.6, 1.3, 0.5  # line widths
FIXED_PANELS = 2  # losses and learning rate
NUM_COLUMNS = 2
WIDTH, PANEL_HEIGHT = 16.0, 2.9  # inches; the height without legend
LEGEND_LINE_HEIGHT = 0.18


@dataclass
class History:
    """Contents of `metrics.json`.

    Attributes:
        steps: One list by name with a value for each step: "step" and "epoch" (both from 1), "loss", the parts of the
            loss, "grad_norm" before clipping (`None` if fp16 overflowed), "learning_rate", "seconds".
        evaluations: For each evaluation "step", "epoch", "scores" in percent, and "left_out": the number of queries
            that were not scored because their videos are missing or cannot be read.
        data: What the run is trained and evaluated on: for each split, its numbers by `count_labels`.
    """

    steps: dict[str, list[float | None]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read the history of a run that is resumed."""
        return cls(**read_json(path))

    def add_step(self, **values: float | None) -> None:
        """Append a step; values are rounded to seven digits, the precision of float32."""
        for name, value in values.items():
            rounded = float(f"{value:.7g}") if isinstance(value, float) else value
            self.steps.setdefault(name, []).append(rounded)

    def save(self, path: Path) -> None:
        """Write the file."""
        write_json(path, asdict(self), indent=None)  # one number a line would be unreadably long


def draw_curves(history: History, path: Path, best_metric: str) -> None:
    """Plot over the steps the losses, the learning rate, and each kind of score in a panel of its own.

    Losses are drawn as running means over a hundredth of the steps, on top of their values.

    Args:
        history: Measurements of at least one step.
        path: PNG file to write.
        best_metric: Name of the score to emphasise.
    """
    kinds = group_scores(history.evaluations)
    heights = _row_heights([len(history.steps) - len(NOT_LOSSES), 1, *map(len, kinds.values())])
    figure = import_figure()(figsize=(WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), NUM_COLUMNS, sharex=True, squeeze=False, height_ratios=heights)
    loss_axes, rate_axes, *score_axes = grid.flat
    _plot_losses(loss_axes, history.steps)
    steps = history.steps["step"]
    rate_axes.plot(steps, history.steps["learning_rate"], color=BLUE, marker=_marker(steps))
    _finish(rate_axes, "learning rate", "learning rate")
    for axes, (kind, names) in zip(score_axes, kinds.items(), strict=False):
        _plot_scores(axes, history.evaluations, names, best_metric)
        _finish(axes, kind, "score, %")
    for axes in score_axes[len(kinds) :]:
        axes.remove()
    for axes in grid.flat[FIXED_PANELS + len(kinds) - NUM_COLUMNS : FIXED_PANELS + len(kinds)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    loss_axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # shared by all panels
    save_figure(figure, path)


def _row_heights(num_lines: list[int]) -> list[float]:
    """Height of each row of panels in inches: that of its longest legend, from the number of lines in each panel."""
    heights = []
    for first in range(0, len(num_lines), NUM_COLUMNS):
        most_lines = max(num_lines[first : first + NUM_COLUMNS])
        heights.append(max(PANEL_HEIGHT, LEGEND_LINE_HEIGHT * (most_lines + 2)))
    return heights


def group_scores(evaluations: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Names of the scores that have a value in at least one evaluation, sorted, by kind."""
    names: set[str] = set()
    for entry in evaluations:
        names |= {name for name, score in entry["scores"].items() if score is not None}
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(score_kind(name), []).append(name)
    return kinds


def score_kind(name: str) -> str:
    """What a score measures, in words: scores of one kind can be compared.

    >>> score_kind("MR-full-R1@0.5"), score_kind("HL-min-Fair-Hit1")
    ('moment retrieval: recall', 'highlight detection')
    """
    family, _, rest = name.partition("-")
    if family != "MR":
        return FAMILIES.get(family, "other scores")
    measure = rest.rpartition("-")[2].partition("@")[0]  # "R1" of "full-R1@0.5"
    if RECALL.fullmatch(measure):
        measure = "recall"
    return f"moment retrieval: {measure}"


def _plot_losses(axes: "Axes", steps: dict[str, list[float | None]]) -> None:
    names = [name for name in steps if name not in NOT_LOSSES]
    step_numbers = np.array(steps["step"], dtype=float)
    for name, style in zip(names, series_styles(len(names)), strict=True):
        values = np.array(steps[name], dtype=float)
        window = max(1, len(values) // LOSS_WINDOWS)
        means = np.convolve(values, np.full(window, 1 / window), mode="valid")
        if window > 1:
            axes.plot(step_numbers, values, color=style.color, linewidth=THIN, alpha=0.25)
        axes.plot(
            step_numbers[window - 1 :],
            means,
            color=style.color,
            linestyle=style.linestyle,
            marker=_marker(steps["step"]),
            linewidth=THICK if name == "loss" else MIDDLE,
            label=name.replace("_", " "),
        )
    axes.set(yscale="log")
    _finish(axes, "loss and its terms", "loss")


def _marker(steps: list[float | None]) -> str:
    """A line needs two steps to be seen."""
    return "o" if len(steps) == 1 else ""


def _plot_scores(axes: "Axes", evaluations: list[dict[str, Any]], names: list[str], best_metric: str) -> None:
    steps = [entry["step"] for entry in evaluations]
    for name, style in zip(names, series_styles(len(names)), strict=True):
        scores = [entry["scores"].get(name) for entry in evaluations]
        is_best = name == best_metric
        label = f"{name} (chooses the best)" if is_best else name
        width = THICK if is_best else MIDDLE
        axes.plot(steps, scores, **style._asdict(), label=label, markersize=4, linewidth=width)


def _finish(axes: "Axes", title: str, quantity: str) -> None:
    """Name a panel and its axis, and put a legend of its lines beside it if they have names."""
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
    axes.set_ylabel(quantity)
    axes.grid(axis="y", color=RULE_COLOR, alpha=0.25, linewidth=0.6)
    remove_frame(axes)
    _, names = axes.get_legend_handles_labels()
    if not names:
        return
    style = text_style(names)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, handlelength=3.2)
    for text in legend.get_texts():
        text.set(parse_math=False, fontsize=SMALL_SIZE, **style)


__all__ = ["History", "draw_curves", "group_scores", "score_kind"]
