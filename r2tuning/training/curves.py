"""What a run measured, step by step and evaluation by evaluation, and its curves."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modeling_r2tuning.files_r2tuning import writing
from r2tuning.training.checkpoints import write_json


NO_LOSSES = {"step", "epoch", "grad_norm", "learning_rate", "seconds"}


@dataclass
class History:
    """Content of `metrics.json`.

    Attributes:
        steps: Columns by name, a value for each step: "step" and "epoch" (both from 1), "loss", the parts of the loss,
            "grad_norm" before clipping (`None` where fp16 overflowed), "learning_rate", "seconds".
        evaluations: For each evaluation "step", "epoch" and "scores", and "left_out": queries that were not scored
            because their videos are missing or cannot be read.
    """

    steps: dict[str, list[float | None]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read what a resumed run has measured so far."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def add_step(self, **values: float | None) -> None:
        """Append a step; values are rounded to seven digits, as float32 has no more."""
        for name, value in values.items():
            rounded = float(f"{value:.7g}") if isinstance(value, float) else value
            self.steps.setdefault(name, []).append(rounded)

    def save(self, path: Path) -> None:
        """Write the file."""
        write_json(path, asdict(self))


def draw_curves(history: History, path: Path, best_metric: str) -> None:
    """Draw loss, learning rate and scores over the steps as a picture; `best_metric` stands out."""
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    figure = Figure(figsize=(11, 10), layout="constrained")
    loss, rate, score = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 3))
    steps = history.steps["step"]
    for name, values in history.steps.items():
        if name not in NO_LOSSES:
            loss.plot(steps, values, label=name.replace("_", " "), linewidth=2 if name == "loss" else 0.8)
    loss.set(ylabel="loss and its parts", yscale="log")
    rate.plot(steps, history.steps["learning_rate"])
    rate.set(ylabel="learning rate")
    evaluated = [entry["step"] for entry in history.evaluations]
    for name in sorted(set().union(*(entry["scores"] for entry in history.evaluations))):
        scores = [entry["scores"].get(name) for entry in history.evaluations]
        score.plot(evaluated, scores, label=name, marker=".", linewidth=3 if name == best_metric else 0.8)
    score.set(ylabel="score", xlabel="step")
    for axes in (loss, score) if evaluated else (loss,):
        axes.legend(fontsize="xx-small", loc="upper left", bbox_to_anchor=(1, 1))
    with writing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


__all__ = ["History", "draw_curves"]
