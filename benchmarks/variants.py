"""Training runs that differ in few settings, each scored on the same splits. What is complete is kept and not run again.

A variant is the options of `train/run.py` that set it apart. Everything else is the same for all: `Budget` says what.
"""

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r2tuning.json_files import write_text


ROOT = Path(__file__).parents[1]
RESULT = "result.json"
SMALL_BUDGET = {"epochs": 2, "eval-epochs": 2, "queries-per-video": 12, "model": {"fps": 0.5}}
BUDGET_HELP = (
    "options of train/run.py that all runs share, the rest is the preset's "
    f"(default: '{json.dumps(SMALL_BUDGET)}', small enough for two CPU cores)"
)


@dataclass(frozen=True)
class Budget:
    """What all runs have in common.

    Args:
        preset: Of `train/run.py`.
        data: The options that say where annotations, features or videos and CLIP are, by name.
        splits: Splits to score the best checkpoint on.
        options: Further options of `train/run.py`, such as `{"epochs": 2}`.
    """

    preset: str
    data: dict[str, str]
    splits: tuple[str, ...]
    options: dict[str, Any]


def run_variant(folder: Path, options: dict[str, Any], seed: int, budget: Budget) -> dict[str, Any]:
    """Train and score one variant, or go on where an interrupted run stopped.

    Args:
        folder: Of all runs.
        options: Options of `train/run.py`; fields of "model", a dict, are added to those of the budget.
        seed: Of the run.
        budget: What all variants share.

    Returns:
        "options", "seed", "seconds" of training and, by split, "scores" and "parts" as `train/run_evaluation.py` has them.

    Raises:
        RuntimeError: A run failed; its last words are told.
    """
    settings = {"options": options, "seed": seed, **asdict(budget)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    changes = {**options, **options.get("model", {})}
    words = [f"{name}_{value}" for name, value in changes.items() if name != "model"]
    run = folder / "-".join([*words, f"seed_{seed}", digest])
    if (run / RESULT).exists():
        return json.loads((run / RESULT).read_text(encoding="utf-8"))
    model = {**budget.options.get("model", {}), **options.get("model", {})}
    training = {
        **budget.data,
        **budget.options,
        **options,
        "model": model,
        "seed": seed,
        "output-dir": str(run),
        "resume": "auto",
    }
    sys.stderr.write(f"{run.name}\n")
    _run("train/run.py", {"preset": budget.preset, **training})
    result = {"options": options, "seed": seed, **_measure(run, budget)}
    write_text(run / RESULT, json.dumps(result, indent=2) + "\n")
    for checkpoint in (*run.glob("step_*"), run / "final", run / "logs"):
        shutil.rmtree(checkpoint)
    return result


def _measure(run: Path, budget: Budget) -> dict[str, Any]:
    found = {}
    for split in budget.splits:
        output = run / f"{split}.json"
        places = {name: budget.data[name] for name in ("data-dir", "features", "video-dir") if name in budget.data}
        what = {"model": str(run / "best"), "benchmark": budget.preset, "split": split, "output": str(output)}
        _run("train/run_evaluation.py", {**what, **places})
        document = json.loads(output.read_text(encoding="utf-8"))
        found[split] = {name: document[name] for name in ("scores", "parts") if name in document}
    history = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {"seconds": sum(history["steps"]["seconds"]), **found}


def _run(script: str, options: dict[str, Any]) -> None:
    words = [sys.executable, str(ROOT / script)]
    for name, value in options.items():
        words += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    result = subprocess.run(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {result.stderr[-2000:]}")


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds, rounded; a single one has no spread."""
    spread = round(statistics.stdev(values), 2) if len(values) > 1 else None
    return round(statistics.mean(values), 2), spread


def two_digits(value: float | None) -> str:
    """For a table; "-" where there is no value."""
    return "-" if value is None else f"{value:.2f}"


__all__ = ["BUDGET_HELP", "SMALL_BUDGET", "Budget", "mean_and_spread", "run_variant", "two_digits"]
