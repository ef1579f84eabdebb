"""Training runs that differ in a few settings, each scored on the same splits; complete runs are not repeated.

A variant is the options of `train/run.py` that set it apart. `Budget` holds what all variants share.
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

from benchmarks.measurement import write_text
from r2tuning.checkpoint_files import METRICS
from r2tuning.training.run_folder import BEST, FINAL


ROOT = Path(__file__).parents[1]
RESULT = "result.json"
SMALL_BUDGET = {"epochs": 2, "eval-epochs": 2, "queries-per-video": 12, "model": {"fps": 0.5}}
BUDGET_HELP = (
    "options of train/run.py that all runs share, the rest is the preset's "
    f"(default: '{json.dumps(SMALL_BUDGET)}', small enough for two CPU cores)"
)


@dataclass(frozen=True)
class Budget:
    """What all runs share.

    Args:
        preset: A preset of `train/run.py`.
        data: Options that say where annotations, features or videos and CLIP are, by name.
        splits: Splits to score the best checkpoint on.
        options: Further options of `train/run.py`, such as `{"epochs": 2}`.
    """

    preset: str
    data: dict[str, str]
    splits: tuple[str, ...]
    options: dict[str, Any]


def run_variant(folder: Path, options: dict[str, Any], seed: int, budget: Budget) -> dict[str, Any]:
    """Train and score one variant, or resume an interrupted run.

    Args:
        folder: Folder of all runs.
        options: Options of `train/run.py`; fields of "model", a dict, are added to those of the budget.
        seed: Seed of the run.
        budget: What all variants share.

    Returns:
        "options", "seed", "seconds" of training and, by split, "scores" and "parts" as `train/run_evaluation.py` writes
        them.

    Raises:
        RuntimeError: A run failed; the message holds the end of its error output.
    """
    run = folder / run_name(options, seed, budget)
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
    run_script("train/run.py", {"preset": budget.preset, **training})
    result = {"options": options, "seed": seed, **_measure(run, budget)}
    write_text(run / RESULT, json.dumps(result, indent=2) + "\n")
    for checkpoint in (*run.glob("step_*"), run / FINAL, run / "logs"):
        shutil.rmtree(checkpoint)
    return result


def run_name(options: dict[str, Any], seed: int, budget: Budget) -> str:
    """Folder of a run: what sets it apart in words, and a digest of all settings."""
    settings = {"options": options, "seed": seed, **asdict(budget)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    changes = {**options, **options.get("model", {})}
    words = [f"{name}_{value}" for name, value in changes.items() if name != "model"]
    return "-".join([*words, f"seed_{seed}", digest])


def _measure(run: Path, budget: Budget) -> dict[str, Any]:
    """Scores of a complete run on each split, and its seconds of training."""
    places = {name: path for name, path in budget.data.items() if name in ("data-dir", "features", "video-dir")}
    found = {}
    for split in budget.splits:
        output = run / f"{split}.json"
        options = {"model": str(run / BEST), "benchmark": budget.preset, "split": split, "output": str(output)}
        run_script("train/run_evaluation.py", {**options, **places})
        document = json.loads(output.read_text(encoding="utf-8"))
        found[split] = {name: document[name] for name in ("scores", "parts") if name in document}
    history = json.loads((run / METRICS).read_text(encoding="utf-8"))
    return {"seconds": sum(history["steps"]["seconds"]), **found}


def run_script(script: str, options: dict[str, Any]) -> None:
    """Run a script of the checkout; a dict is passed as JSON."""
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
    """A number for a table; "-" where there is none."""
    return "-" if value is None else f"{value:.2f}"


__all__ = [
    "BUDGET_HELP",
    "SMALL_BUDGET",
    "Budget",
    "mean_and_spread",
    "run_name",
    "run_script",
    "run_variant",
    "two_digits",
]
