"""What a run measured, put beside its model for the model card, and the model published with it."""

import json
import shlex
import shutil
import subprocess
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import PartialState
from accelerate.logging import get_logger

import modeling_r2tuning
from modeling_r2tuning.files_r2tuning import writing
from r2tuning.hub.model_card import Results, write_model_card
from r2tuning.hub.push import check_destination, push_checkpoint
from r2tuning.json_files import read_json
from r2tuning.training.checkpoints import PROGRESS, find_steps
from r2tuning.training.config import TrainingConfig


logger = get_logger(__name__)

ROOT = Path(__file__).parents[2]
# Paths of this machine, which nobody else has: in what is published their names stand for them.
PATHS = ("output_dir", "data_dir", "features", "video_dir", "backbone")
# Settings that change nothing in the result.
NO_MATTER = {"resume", "log_with", "push_to", "num_workers", "save_steps", "keep_checkpoints", "dry_run"}


def check_push(config: TrainingConfig) -> None:
    """Refuse at the start of a run what could not be published at its end, if it is to be.

    Raises:
        PermissionError: There is no token for the Hub.
        ValueError: `config.push_to` has no organisation, or the model would refer to a CLIP that nobody else has.
    """
    if config.push_to is None:
        return
    check_destination(config.push_to)
    if Path(config.backbone).is_dir() and not (config.model.get("save_backbone") or config.method == "full"):
        raise ValueError(
            f"A model that refers to CLIP in the folder '{config.backbone}' cannot be published: give `backbone` a name on the "
            """Hub, or keep CLIP in the checkpoint, --model '{"save_backbone": true, ...}'."""
        )


def push_run(folder: Path, repo_id: str) -> bool:
    """Publish a model of a run with its results; a failure is logged, with the command to finish.

    Args:
        folder: "best", "final" or a checkpoint, in the run's folder.
        repo_id: `organisation/name` on the Hub.

    Returns:
        Whether it was published.
    """
    try:
        record_results(folder)
        logger.info(f"published at {push_checkpoint(folder, repo_id)}")
    except (OSError, ValueError) as error:
        logger.error(str(error))
        return False
    return True


def record_results(folder: Path) -> None:
    """Write `results.json`, the history with its curves and a model card beside a model of a run.

    Args:
        folder: "best", "final" or a checkpoint, in the run's folder.
    """
    run = folder.parent
    config = TrainingConfig(**read_json(run / "training_config.json"))
    history = read_json(run / "metrics.json")
    evaluation = _evaluation_at(_step_of(folder), history)
    Results(
        benchmark=config.benchmark,
        domain=config.domain,
        split=config.eval_split,
        scores=evaluation["scores"],
        left_out=evaluation.get("left_out", 0),
        training={
            "command": command_line(config),
            "commit": _git_commit(),
            "epoch": evaluation["epoch"],
            "step": evaluation["step"],
            "seconds": round(sum(history["steps"]["seconds"]), 1),
            "device": _device(config),
            "versions": {
                "r2tuning": modeling_r2tuning.__version__,
                **{package.__name__: package.__version__ for package in (torch, transformers, accelerate)},
            },
            "settings": _public_settings(config),
        },
    ).save(folder)
    for name in ("metrics.json", "curves.png"):
        if (run / name).exists():
            with writing(folder / name) as partial:
                shutil.copyfile(run / name, partial)
    write_model_card(folder)


def command_line(config: TrainingConfig) -> str:
    """The command that trains with these settings; a preset is spelt out, as it may change."""
    processes = PartialState().num_processes
    words = ["python"] if processes == 1 else ["torchrun", "--nproc_per_node", str(processes)]
    words.append("train/run.py")
    settings = _public_settings(config)
    for entry in fields(config):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if entry.name in settings and settings[entry.name] != default:
            words += _option(entry.name.replace("_", "-"), settings[entry.name])
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    return [f"--{name}", "none" if value is None else str(value)]


def _public_settings(config: TrainingConfig) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(config).items() if name not in NO_MATTER}
    for name in PATHS:
        if settings[name] is not None and (name != "backbone" or Path(settings[name]).is_dir()):
            settings[name] = name.upper()
    return settings


def _step_of(folder: Path) -> int:
    """After which step a run saved this model."""
    if folder.name not in ("best", "final"):
        return int(folder.name.removeprefix("step_"))
    return read_json(find_steps(folder.parent)[-1] / PROGRESS)["best_step" if folder.name == "best" else "step"]


def _evaluation_at(step: int, history: dict[str, Any]) -> dict[str, Any]:
    """Step, epoch and scores, which are empty if the model was not evaluated then."""
    for evaluation in history["evaluations"]:
        if evaluation["step"] == step:
            return evaluation
    return {"step": step, "epoch": history["steps"]["epoch"][step - 1], "scores": {}}


def _git_commit() -> str | None:
    """Commit of the checkout, marked if files differ from it; `None` outside of git."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changes else commit


def _device(config: TrainingConfig) -> str:
    count = PartialState().num_processes
    name = torch.cuda.get_device_name() if torch.cuda.is_available() and not config.cpu else "CPU"
    return name if count == 1 else f"{count} x {name}"


__all__ = ["check_push", "command_line", "push_run", "record_results"]
