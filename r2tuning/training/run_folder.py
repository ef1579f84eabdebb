"""The folder of a training run: names of its files, and which models it holds.

    training_config.json   settings of the run
    metrics.json           losses of every step and scores of every evaluation
    curves.png             the same as a plot (the names of both: `r2tuning.checkpoint_files`)
    logs/                  TensorBoard
    step_000452/           a checkpoint to resume from
    best/  final/          models alone: of the best evaluation, and of the last step

`r2tuning.training.checkpoints` writes the folders of models.
"""

import re
from pathlib import Path


SETTINGS_FILE = "training_config.json"
BEST, FINAL = "best", "final"
STEP_NAME = re.compile(r"step_(\d+)")


def step_folder(folder: Path, step: int) -> Path:
    """Path of the checkpoint that is written after `step` steps."""
    return folder / f"step_{step:06d}"


def step_of(checkpoint: Path) -> int | None:
    """Number of steps after which a checkpoint was written; `None` if the folder has another name."""
    match = STEP_NAME.fullmatch(checkpoint.name)
    return None if match is None else int(match[1])


def find_steps(folder: Path) -> list[Path]:
    """Checkpoints of a run, the oldest first."""
    found: dict[Path, int] = {}
    for path in folder.glob("step_*"):
        step = step_of(path)
        if step is not None:
            found[path] = step
    return sorted(found, key=lambda path: found[path])


def check_new_run(folder: Path) -> None:
    """Refuse a folder whose models a new run would replace.

    Raises:
        FileExistsError: The folder holds checkpoints or models.
    """
    steps = find_steps(folder)
    if steps:
        raise FileExistsError(
            f"'{folder}' holds the checkpoints of a run, the newest is {steps[-1].name}. Continue it with "
            "`--resume auto`, or name another `--output-dir`."
        )
    models = [name for name in (BEST, FINAL) if (folder / name).exists()]
    if models:
        raise FileExistsError(
            f"'{folder}' holds {' and '.join(models)} of a run, but no checkpoint to resume from. Name another "
            "`--output-dir`."
        )


__all__ = [
    "BEST",
    "FINAL",
    "SETTINGS_FILE",
    "check_new_run",
    "find_steps",
    "step_folder",
    "step_of",
]
