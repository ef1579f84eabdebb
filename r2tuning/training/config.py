"""Settings of a training run: defaults, then a preset, then the command line."""

import argparse
import json
import math
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from modeling_r2tuning.configuration_r2tuning import Method
from r2tuning.checks import DEFAULT_BACKBONE


PRESETS = Path(__file__).parent / "presets"
COUNTS = (
    *("epochs", "repeat_factor", "batch_size", "queries_per_video", "gradient_accumulation"),
    *("eval_epochs", "keep_checkpoints", "save_steps"),
)
POST_PROCESSING = {"nms", "nms_threshold", "round_to"}


def option(help_text: str, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field of `TrainingConfig` with its line in `--help`."""
    return field(default=default, default_factory=factory, metadata={"help": help_text})


@dataclass
class TrainingConfig:
    """Everything that decides how a model is trained; the help texts say what each field means.

    What the benchmark itself fixes (frame rate, dropout, suppression, rounding) is in `BENCHMARKS` of
    `dataset_scripts.benchmarks`; `model` and `post_processing` replace single values of it.
    """

    # What is trained, on what.
    benchmark: str = option("what to train on: a name that load_vtg_dataset knows")
    output_dir: str = option("folder of the run: checkpoints, best and final model, metrics.json, curves.png, logs")
    data_dir: str = option("folder of the annotation files")
    domain: str | None = option(
        "one domain of YouTube Highlights or TVSum, or 'all': one model for each in turn", None
    )
    features: str | None = option("feature cache to train from", None)
    video_dir: str | None = option(
        "folder of videos, or of the small ones of a frame store; CLIP runs on the fly", None
    )
    missing_videos: Literal["error", "skip"] = option(
        "videos that video_dir or features lack, and of the evaluation split also those that cannot be read: stop, or "
        "leave their queries out and count them",
        "error",
    )
    train_split: str = option("split to train on", "train")
    eval_split: str | None = option("split to evaluate on; none = no evaluation", "val")
    backbone: str = option("frozen CLIP, a folder or a name on the Hub", DEFAULT_BACKBONE)
    method: Method = option(
        "what is learned [Table 9]: the R2 block, or the pyramid and heads with another transfer method or none",
        "r2_tuning",
    )
    model: dict = option("fields of R2TuningConfig that differ from the benchmark's and the preset's", factory=dict)
    post_processing: dict = option("fields of the processor likewise: nms, nms_threshold, round_to", factory=dict)
    loss_recipe: Literal["released", "paper"] = option(
        "losses of the released code, or as the paper prints them", "released"
    )

    # Optimisation.
    epochs: int = option("epochs, each of repeat_factor passes over the training split", 30)
    repeat_factor: int = option("passes over the training split that count as one epoch", 1)
    batch_size: int = option("queries in a step, over all processes and accumulated parts", 32)
    queries_per_video: int = option("queries of a video that share one copy of it in a batch", 1)
    group_by_length: bool = option(
        "batches of videos of like length, so that little is padded; a batch is then no random sample", False
    )
    gradient_accumulation: int = option("parts of a batch that are computed one after the other", 1)
    learning_rate: float = option("learning rate after the warm-up", 5e-4)
    schedule: Literal["step", "cosine"] = option(
        "after the warm-up: drops at drop_epochs, or a half cosine to 0", "step"
    )
    drop_epochs: list[int] = option("epochs, counted from 0, at which the rate is multiplied by 0.1", factory=list)
    warmup_steps: int = option("steps of the linear warm-up", 500)
    warmup_ratio: float = option("share of the learning rate that the warm-up begins with", 0.001)
    weight_decay: float = option("weight decay of every parameter, norms and biases too", 1e-4)
    max_grad_norm: float = option("L2 norm to which the gradient is clipped", 35.0)
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "precision of matrix products; fp16 acts on GPUs only, bf16 not on CPUs that do not compute in it", "fp16"
    )
    seed: int = option("seed of weights, order, positive frames and dropout", 0)
    activation_checkpointing: bool = option(
        "compute the projections and the spatial pooling of R2-Tuning again in the backward pass: less memory, more time",
        False,
    )
    num_workers: int = option("processes of the data loader, for each training process", 4)
    cpu: bool = option("train on the CPU even where there is a GPU", False)

    # Evaluation, checkpoints, publishing.
    eval_epochs: int = option("epochs from one evaluation to the next", 1)
    best_metric: str = option("score by which the best checkpoint is chosen, the highest wins", "MR-full-mAP")
    save_steps: int | None = option(
        "steps from one checkpoint to the next (default: an epoch); a new best model is always saved", None
    )
    keep_checkpoints: int = option("newest checkpoints that are kept; the best model is kept besides", 2)
    resume: Literal["auto", "inexact", "never"] = option(
        "go on from the newest whole checkpoint in output_dir if there is one; 'inexact' also where the run would end with "
        "other weights, as with another number of processes; or begin anew in an empty one",
        "never",
    )
    log_with: list[str] = option(
        "trackers besides TensorBoard, by accelerate's names (wandb, trackio, ...)", factory=list
    )
    push_to: str | None = option("repository on the Hub that the best model goes to, org/name", None)
    dry_run: bool = option("two steps, then what memory and time to expect; nothing is written", False)

    def __post_init__(self):
        for name, hint in typing.get_type_hints(TrainingConfig).items():
            _check_type(name, getattr(self, name), hint)
        self._check_numbers()
        unknown = sorted(self.post_processing.keys() - POST_PROCESSING)
        if unknown:
            raise ValueError(f"`post_processing` has unknown fields: {unknown}.")
        if (self.features is None) == (self.video_dir is None):
            raise ValueError("Pass either `features`, a feature cache, or `video_dir`, got both or none.")

    def _check_numbers(self) -> None:
        for name in COUNTS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("warmup_steps", "warmup_ratio", "weight_decay", "num_workers", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.batch_size % self.queries_per_video:
            raise ValueError(
                f"`batch_size` must be a multiple of `queries_per_video`, got {self.batch_size} and "
                f"{self.queries_per_video}."
            )


def read_config(argv: list[str] | None = None) -> TrainingConfig:
    """Settings of the command line.

    Raises:
        ValueError: A preset has an unknown field, a required one is missing, or a value is out of range.
    """
    given = vars(make_parser().parse_args(argv))
    preset = read_preset(given.pop("preset")) if "preset" in given else {}
    values = preset | given
    for name in ("model", "post_processing"):
        values[name] = {**preset.get(name, {}), **given.get(name, {})}
    missing = [entry.name for entry in fields(TrainingConfig) if _is_required(entry) and entry.name not in values]
    if missing:
        raise ValueError(f"Pass --preset, or the options {', '.join(map(_flag, missing))}.")
    return TrainingConfig(**values)


def read_preset(name: str) -> dict[str, Any]:
    """Fields of a preset by its name, or of a JSON file by its path."""
    path = Path(name) if name.endswith(".json") else PRESETS / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"`preset` must be one of {preset_names()} or a JSON file, '{path}' does not exist.")
    try:
        values = _json_object(path.read_text(encoding="utf-8"))
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ValueError(f"'{path}' is no preset: {error}") from error
    unknown = sorted(values.keys() - {entry.name for entry in fields(TrainingConfig)})
    if unknown:
        raise ValueError(f"'{path}' has unknown fields: {unknown}.")
    return values


def preset_names() -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def make_parser() -> argparse.ArgumentParser:
    """One option for each field; those that are left out stay as the preset has them."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Train R2-Tuning. Start by python, torchrun or accelerate launch.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--preset", help=f"settings to start from: {', '.join(preset_names())}, or a JSON file")
    hints = typing.get_type_hints(TrainingConfig)
    for entry in fields(TrainingConfig):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        suffix = "" if default is MISSING else f" (default: {default})"
        help_text = f"{entry.metadata['help']}{suffix}".replace("%", "%%")
        parser.add_argument(_flag(entry.name), help=help_text, **_argument(hints[entry.name]))
    return parser


def _is_required(entry: Any) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _argument(hint: Any) -> dict[str, Any]:
    """How argparse reads a field of this type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if hint is dict:
        return {"type": _json_object, "metavar": "JSON"}
    if origin is Literal:
        return {"choices": arguments}
    if origin is list:
        return {"type": arguments[0], "nargs": "*", "metavar": "VALUE"}
    if origin is types.UnionType:
        kind = arguments[0]
        return {"type": lambda text: None if text == "none" else kind(text), "metavar": "VALUE"}
    return {"type": hint, "metavar": "VALUE"}


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}): {text[:60]!r}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"""must be a JSON object such as '{{"name": 1}}', got {text[:60]!r}""")
    return value


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Refuse a value of another type, as a preset in a file may have it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"`{name}` must be one of {list(arguments)}, got {value!r}.")
    elif origin is list:
        _check_type(name, value, list)
        for each in value:
            _check_type(name, each, arguments[0])
    elif origin is types.UnionType:
        if value is not None:
            _check_type(name, value, arguments[0])
    elif not isinstance(value, {float: (int, float)}.get(hint, hint)) or (
        isinstance(value, bool) and hint is not bool
    ):
        raise ValueError(f"`{name}` must be of the type {hint.__name__}, got {value!r}.")


__all__ = ["PRESETS", "TrainingConfig", "make_parser", "option", "preset_names", "read_config", "read_preset"]
