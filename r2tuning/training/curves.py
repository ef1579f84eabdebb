"""Measurements of a run, step by step and evaluation by evaluation, and a plot of them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modeling_r2tuning.files_r2tuning import writing
from r2tuning.json_files import read_json, write_json


NOT_LOSSES = frozenset({"step", "epoch", "grad_norm", "learning_rate", "seconds"})
THICK, THIN = 3.0, 0.8  # line widths


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
    """Plot losses, learning rate and scores over the steps.

    Args:
        history: Measurements of at least one step.
        path: PNG file to write.
        best_metric: Name of the score to emphasise.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and may open a window

    figure = Figure(figsize=(11, 10), layout="constrained")
    loss_axes, rate_axes, score_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 3))
    steps = history.steps["step"]
    for name, values in history.steps.items():
        if name not in NOT_LOSSES:
            width = 2.0 if name == "loss" else THIN
            loss_axes.plot(steps, values, label=name.replace("_", " "), linewidth=width)
    loss_axes.set(ylabel="loss and its parts", yscale="log")
    _add_legend(loss_axes)
    rate_axes.plot(steps, history.steps["learning_rate"])
    rate_axes.set(ylabel="learning rate")
    score_axes.set(ylabel="score", xlabel="step")
    if history.evaluations:
        _plot_scores(score_axes, history.evaluations, best_metric)
    with writing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _plot_scores(axes: Any, evaluations: list[dict[str, Any]], best_metric: str) -> None:
    steps = [entry["step"] for entry in evaluations]
    names: set[str] = set()
    for entry in evaluations:
        names |= entry["scores"].keys()
    for name in sorted(names):
        scores = [entry["scores"].get(name) for entry in evaluations]
        axes.plot(steps, scores, label=name, marker=".", linewidth=THICK if name == best_metric else THIN)
    _add_legend(axes)


def _add_legend(axes: Any) -> None:
    axes.legend(fontsize="xx-small", loc="upper left", bbox_to_anchor=(1, 1))


__all__ = ["History", "draw_curves"]
