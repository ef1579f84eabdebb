"""The results of a run, stored with its models for their cards; and publishing on the Hub."""

import json
import shlex
import shutil
import subprocess
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any, cast

import accelerate
import torch
import transformers
from accelerate import PartialState
from accelerate.logging import get_logger

import modeling_r2tuning
from dataset_scripts.benchmarks import HUB_PREFIX, ORIGINAL_REPOSITORY, OWN_DATA
from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.loading_r2tuning import is_repository_name
from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS, Method
from r2tuning.checkpoint_files import CURVES, METRICS
from r2tuning.hub.model_card import Results, discard_generated_card, write_model_card
from r2tuning.hub.push import check_destination, push_checkpoint
from r2tuning.json_files import read_json
from r2tuning.released.resolve import released_checkpoint
from r2tuning.training.checkpoints import PROGRESS_FILE
from r2tuning.training.config import TrainingConfig
from r2tuning.training.init_from import find_checkpoint, read_model_config
from r2tuning.training.notes import chooses_as_published, chooses_on_test
from r2tuning.training.run_folder import BEST, SETTINGS_FILE, find_steps, step_of
from r2tuning_cli.defaults import PACKAGED
from r2tuning_cli.training_options import OWN_DATA_FACTS


logger = get_logger(__name__)

ROOT = Path(__file__).parents[2]
# Paths mean nothing on another machine: published settings hold the names of these fields, in capitals, instead.
PATH_FIELDS = ("output_dir", "data_dir", "data_file", "val_file", "features", "video_dir", "backbone", "init_from")
MODEL_FIELDS = ("backbone", "init_from")  # may also be names, which others know
RESULT_INVARIANT_FIELDS = frozenset(
    {"resume", "log_with", "push_to", "num_workers", "save_steps", "keep_checkpoints", "dry_run", *OWN_DATA_FACTS}
)


def check_push(config: TrainingConfig) -> None:
    """Refuse at the start of a run what could not be published at its end; nothing if `config.push_to` is not set.

    Raises:
        PermissionError: There is no token for the Hub.
        ValueError: `config.push_to` has no organisation, or the model would refer to a backbone that nobody else has.
    """
    if config.push_to is None:
        return
    check_destination(config.push_to)
    backbone = _backbone_reference(config)
    if backbone is not None and Path(backbone).is_dir():
        raise ValueError(
            f"A model that refers to a backbone in the folder '{backbone}' cannot be published: give `backbone` a name on the "
            """Hub, or keep it in the checkpoint, --model '{"save_backbone": true, ...}'."""
        )


def _backbone_reference(config: TrainingConfig) -> str | None:
    """Name or folder of the backbone that the model of a run refers to; `None` if the model holds it."""
    method, backbone = config.method, config.backbone
    holds_backbone = bool(config.model.get("save_backbone"))
    if config.init_from is not None:
        start = read_model_config(find_checkpoint(config))
        method, backbone = start.method, backbone or start.backbone_name_or_path
        holds_backbone = holds_backbone or start.save_backbone
    if holds_backbone or METHOD_SPECS[cast("Method", method)].trains_encoders:
        return None
    return backbone


def push_run(folder: Path, repo_id: str) -> bool:
    """Publish a model of a run with its results; a failure is logged with the command that publishes it later.

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
    """Write `results.json`, history, curves and a model card into the folder of a model.

    Args:
        folder: "best", "final" or a checkpoint, in the run's folder.
    """
    run = folder.parent
    config = TrainingConfig(**read_json(run / SETTINGS_FILE))
    history = read_json(run / METRICS)
    evaluation = _evaluation_at(_step_of_model(folder), history)
    discard_generated_card(folder)
    Results(
        benchmark=config.benchmark,
        domain=config.domain,
        split=config.eval_split,
        scores=evaluation["scores"],
        left_out=evaluation.get("left_out", 0),
        training=_describe_training(folder, config, history, evaluation),
        data=_describe_data(config, history),
    ).save(folder)
    for name in (METRICS, CURVES):
        if (run / name).exists():
            with writing(folder / name) as partial:
                shutil.copyfile(run / name, partial)
    write_model_card(folder)


def _describe_data(config: TrainingConfig, history: dict[str, Any]) -> dict[str, Any] | None:
    """What a model was trained on, in the form of `Results.data`; `None` for a benchmark, which has its own card."""
    if config.benchmark != OWN_DATA:
        return None
    return {
        "name": config.data_name,
        "licence": config.data_licence,
        "description": config.data_description,
        "splits": history.get("data", {}),
    }


def _describe_training(
    folder: Path, config: TrainingConfig, history: dict[str, Any], evaluation: dict[str, Any]
) -> dict[str, Any]:
    """How the model in a folder was trained, in the form of `Results.training`."""
    progress = read_json(find_steps(folder.parent)[-1] / PROGRESS_FILE)
    versions = {"r2tuning": modeling_r2tuning.__version__}
    for package in (torch, transformers, accelerate):
        versions[package.__name__] = package.__version__
    return {
        "command": command_line(config),
        "commit": _git_commit(),
        "epoch": evaluation["epoch"],
        "step": evaluation["step"],
        "seconds": round(sum(history["steps"]["seconds"]), 1),
        "device": _device(config),
        "versions": versions,
        "settings": _public_settings(config),
        "start": None if config.init_from is None else _describe_start(config.init_from),
        "lengthened": progress.get("lengthened", []),
        "chosen_on_test": folder.name == BEST and chooses_on_test(config.eval_split),
        "chosen_as_published": chooses_as_published(config),
    }


def _describe_start(init_from: str) -> dict[str, str | None]:
    """The checkpoint that a run started from: a "text" for readers, and the "repository" on the Hub that holds it."""
    if not _is_public_model(init_from):
        return {"text": _describe_local(Path(init_from)), "repository": None}
    if init_from == PACKAGED:
        return {"text": "the model in the package `r2tuning`", "repository": None}
    released = released_checkpoint(init_from)
    if released is None:
        return {"text": f"`{init_from}`", "repository": init_from}
    benchmark, domain = released
    part = "" if domain is None else f", domain `{domain}`"
    return {"text": f"the authors' checkpoint for `{benchmark}`{part}", "repository": ORIGINAL_REPOSITORY}


def _describe_local(folder: Path) -> str:
    """A checkpoint on this machine, without its path."""
    try:
        results = Results.load(folder)
    except ValueError:  # damaged, which must not cost this run its card
        results = None
    trained_on = "" if results is None else f" and was trained on {results.title}"
    return f"a checkpoint that is not published{trained_on}"


def _is_public_model(name: str) -> bool:
    """Whether the name of a model means the same on other machines; that of a folder does not."""
    is_name = name == PACKAGED or released_checkpoint(name) is not None or is_repository_name(name)
    return is_name and not Path(name).is_dir()


def command_line(config: TrainingConfig) -> str:
    """The command that trains with these settings, without a preset, as presets may change."""
    processes = PartialState().num_processes
    if processes == 1:
        words = ["r2tuning", "train"]
    else:
        words = ["torchrun", "--nproc_per_node", str(processes), "-m", "r2tuning.training.run"]
    settings = _public_settings(config)
    for entry in fields(config):
        if entry.name in settings and settings[entry.name] != _default(entry):
            words += _option(entry.name.replace("_", "-"), settings[entry.name])
    return shlex.join(words)


def _default(entry: Field) -> Any:
    """Default of a field, `MISSING` if it has none."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _option(name: str, value: Any) -> list[str]:
    """Words of the command line that set an option."""
    if value is None:
        return [f"--{name}", "none"]
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    return [f"--{name}", str(value)]


def _public_settings(config: TrainingConfig) -> dict[str, Any]:
    """Settings that affect the result, without paths of this machine."""
    settings = {name: value for name, value in asdict(config).items() if name not in RESULT_INVARIANT_FIELDS}
    for name in PATH_FIELDS:
        value = settings[name]
        if value is not None and not _is_public(name, value):
            settings[name] = name.upper()
    return settings


def _is_public(name: str, value: str) -> bool:
    """Whether the value of one of `PATH_FIELDS` means the same on other machines."""
    return value.startswith(HUB_PREFIX) or (name in MODEL_FIELDS and _is_public_model(value))


def _step_of_model(folder: Path) -> int:
    """Number of steps after which a run saved a model."""
    step = step_of(folder)
    if step is not None:
        return step
    progress = read_json(find_steps(folder.parent)[-1] / PROGRESS_FILE)
    return progress["best_step" if folder.name == BEST else "step"]


def _evaluation_at(step: int, history: dict[str, Any]) -> dict[str, Any]:
    """Step, epoch and scores; the scores are empty if the model was not evaluated after that step."""
    for evaluation in history["evaluations"]:
        if evaluation["step"] == step:
            return evaluation
    return {"step": step, "epoch": history["steps"]["epoch"][step - 1], "scores": {}}


def _git_commit() -> str | None:
    """Commit of the checkout, marked if tracked files differ from it; `None` outside of git."""
    try:
        commit = _run_git("rev-parse", "HEAD")
        changes = _run_git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changes else commit


def _run_git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _device(config: TrainingConfig) -> str:
    count = PartialState().num_processes
    name = torch.cuda.get_device_name() if torch.cuda.is_available() and not config.cpu else "CPU"
    return name if count == 1 else f"{count} x {name}"


__all__ = ["check_push", "command_line", "push_run", "record_results"]
