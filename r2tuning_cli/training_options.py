"""Settings of a training run, and an option of `r2tuning train` for each of them."""

import argparse
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dataset_scripts.benchmarks import OWN_DATA

from .argument_types import add_renamed_clip_option
from .defaults import DEFAULT_BACKBONE


TRAIN_DESCRIPTION = """\
Train R2-Tuning on a benchmark. Settings come from the defaults, then from the preset, then from the command line.
"""
TRAIN_EPILOG = """\
examples:
  r2tuning train --preset qvhighlights --data-dir ANNOTATIONS --features CACHE --output-dir RUN
  r2tuning train --preset tvsum --data-dir ANNOTATIONS --video-dir VIDEOS --output-dir RUN --resume auto
  r2tuning train --preset custom --data-file my.csv --video-dir VIDEOS --init-from org/r2tuning-qvhl --output-dir RUN
  r2tuning train --preset custom --data-file my.csv --video-dir VIDEOS --init-from org/r2tuning-qvhl --output-dir RUN \\
      --resume auto --epochs 60
  accelerate launch -m r2tuning.training.run --preset qvhighlights --data-dir ANNOTATIONS --features CACHE \\
      --output-dir RUN

The exit status is 0 when the run is complete, 2 after an error of usage or in a file, 3 when a loss was NaN or infinite,
4 when all but the upload succeeded, and 143 (SIGTERM) or 130 (Ctrl-C) when the run was stopped: it has then saved a
checkpoint, from which `--resume auto` resumes.
"""
PRESETS = Path(__file__).parents[1] / "r2tuning" / "training" / "presets"
# Those of `modeling_r2tuning.configuration_r2tuning`, which needs transformers.
Method = Literal["r2_tuning", "none", "full", "lora", "vpt", "vop", "st_adapter", "e3va", "losa", "lst"]
COUNTS = (
    "epochs",
    "repeat_factor",
    "batch_size",
    "queries_per_video",
    "gradient_accumulation",
    "eval_epochs",
    "keep_checkpoints",
    "save_steps",
)
NOT_NEGATIVE = ("warmup_steps", "warmup_epochs", "warmup_ratio", "weight_decay", "num_workers", "seed")
POSITIVE = ("learning_rate", "max_grad_norm")
OWN_DATA_FACTS = ("data_name", "data_licence", "data_description")  # on the card of a model trained on own data
POST_PROCESSING = {"nms", "nms_threshold", "round_to"}


def option(help_text: str, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field of `TrainingConfig` with its line in `--help`."""
    return field(default=default, default_factory=factory, metadata={"help": help_text})


@dataclass
class TrainingConfig:
    """Everything that decides how a model is trained; the help texts say what each field means.

    What the benchmark itself determines (frame rate, dropout, suppression, rounding) is not here; `model` and
    `post_processing` replace single values of it.
    """

    # The model, and what it is trained on.
    benchmark: str = option("the benchmark to train on, by its name in load_vtg_dataset")
    output_dir: str = option("folder of the run: checkpoints, best and final model, metrics.json, curves.png, logs")
    data_dir: str | None = option("folder of the annotation files; either this or data_file is required", None)
    data_file: str | None = option(
        "file of the annotations to train on; for the benchmark 'custom' your own table, a dataset folder or "
        "hf://datasets/ORG/NAME, of which a tenth of the videos is held out for evaluation unless it has a column 'split'",
        None,
    )
    val_file: str | None = option("file of the annotations to evaluate on, beside data_file", None)
    data_name: str | None = option("name of your own data, for the model card; a name on the Hub becomes a link", None)
    data_licence: str | None = option(
        "licence of your own data, for the model card, best by its identifier on the Hub: cc-by-4.0, mit, other ...",
        None,
    )
    data_description: str | None = option("a sentence about your own data, for the model card", None)
    domain: str | None = option(
        "one domain of YouTube Highlights or TVSum, or 'all' to train one model for each in turn", None
    )
    features: str | None = option("feature cache to train on; either this or video_dir is required", None)
    video_dir: str | None = option(
        "folder of videos, or of the small videos of a frame store; the backbone runs during training", None
    )
    missing_videos: Literal["error", "skip"] = option(
        "videos that are missing from video_dir or features, and unreadable videos of the evaluation split: stop, or "
        "leave their queries out and count them",
        "error",
    )
    on_error: Literal["raise", "skip"] = option(
        "malformed annotations: stop, or leave them out and count them", "raise"
    )
    train_split: str = option("split to train on", "train")
    eval_split: str | None = option("split to evaluate on; none = no evaluation", "val")
    init_from: str | None = option(
        "checkpoint whose weights the run starts from: a folder, a name on the Hub, 'packaged' for the model that comes "
        "with r2tuning, or 'yeliudev/R2-Tuning/BENCHMARK[/DOMAIN]' for one of the authors'; the structure of the model is "
        "the checkpoint's, the optimizer is new; an existence head stays unless model sets use_existence_head to false "
        "(default: new weights)",
        None,
    )
    backbone: str | None = option(
        "the frozen backbone, such as CLIP or SigLIP, a folder or a name on the Hub (default: that of init_from, else "
        f"{DEFAULT_BACKBONE})",
        None,
    )
    method: Method | None = option(
        "what is trained [Table 9]: the R2 block, or the pyramid and heads with another transfer method or none "
        "(default: that of init_from, else r2_tuning)",
        None,
    )
    model: dict = option(
        "fields of R2TuningConfig that differ from those of the benchmark and the preset", factory=dict
    )
    post_processing: dict = option(
        "fields of the processor that differ from the benchmark's: nms, nms_threshold, round_to", factory=dict
    )
    loss_recipe: Literal["released", "paper"] = option(
        "losses of the released code, or as printed in the paper", "released"
    )

    # Optimisation.
    epochs: int = option(
        "number of epochs, each of repeat_factor passes over the training split; more of them lengthen a run that is "
        "resumed",
        30,
    )
    repeat_factor: int = option("passes over the training split that count as one epoch", 1)
    batch_size: int = option("queries per step, over all processes and accumulated parts", 32)
    queries_per_video: int = option("queries of a video that share one copy of it in a batch", 1)
    group_by_length: bool = option(
        "put videos of similar length into a batch, which reduces padding; batches are then not random samples", False
    )
    gradient_accumulation: int = option("parts of a batch that are computed one after the other", 1)
    learning_rate: float = option("learning rate after the warm-up", 5e-4)
    schedule: Literal["step", "cosine"] = option(
        "after the warm-up: drop at drop_epochs, or follow a half cosine to 0", "step"
    )
    drop_epochs: list[int] = option("epochs, counted from 0, at which the rate is multiplied by 0.1", factory=list)
    warmup_steps: int = option("steps of the linear warm-up", 500)
    warmup_epochs: float | None = option(
        "longest warm-up in epochs, which shortens warmup_steps where an epoch has few steps", None
    )
    warmup_ratio: float = option("fraction of the learning rate at which the warm-up starts", 0.001)
    weight_decay: float = option("weight decay of every parameter, including norms and biases", 1e-4)
    max_grad_norm: float = option("L2 norm to which the gradient is clipped", 35.0)
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "precision of matrix products; fp16 takes effect on GPUs only, bf16 not on CPUs without native support", "fp16"
    )
    seed: int = option("seed of weights, order, positive frames and dropout", 0)
    activation_checkpointing: bool = option(
        "recompute the projections and the spatial pooling of R2-Tuning in the backward pass: less memory, more time",
        False,
    )
    num_workers: int = option("data loader processes for each training process", 4)
    cpu: bool = option("train on the CPU even if there is a GPU", False)

    # Evaluation, checkpoints, publishing.
    eval_epochs: int = option("epochs from one evaluation to the next", 1)
    best_metric: str = option("score that selects the best checkpoint; the highest value wins", "MR-full-mAP")
    save_steps: int | None = option(
        "steps from one checkpoint to the next (default: an epoch); a new best model is always saved", None
    )
    keep_checkpoints: int = option("number of latest checkpoints to keep, in addition to the best model", 2)
    resume: Literal["auto", "inexact", "never"] = option(
        "resume from the latest complete checkpoint in output_dir, if there is one; 'inexact' also if the run would end "
        "with different weights, for example with another number of processes; 'never' starts a new run in an empty "
        "folder",
        "never",
    )
    log_with: list[str] = option(
        "trackers in addition to TensorBoard, by accelerate's names (wandb, trackio, ...)", factory=list
    )
    push_to: str | None = option("repository on the Hub to push the best model to, org/name", None)
    dry_run: bool = option("run two steps, report the expected memory and time, and write nothing", False)

    def __post_init__(self) -> None:
        if self.init_from is None:
            self.backbone = self.backbone or DEFAULT_BACKBONE
            self.method = self.method or "r2_tuning"
        for name, hint in typing.get_type_hints(TrainingConfig).items():
            _check_type(name, getattr(self, name), hint)
        self._check_numbers()
        unknown = sorted(self.post_processing.keys() - POST_PROCESSING)
        if unknown:
            raise ValueError(f"`post_processing` has unknown fields: {unknown}.")
        if (self.data_dir is None) == (self.data_file is None):
            raise ValueError(
                "Pass either `data_dir`, the folder of the annotation files, or `data_file`, a single one, got both or none."
            )
        if self.val_file is not None and self.data_file is None:
            raise ValueError("`val_file` goes with `data_file`; leave it out with `data_dir`.")
        for name in OWN_DATA_FACTS:
            if getattr(self, name) is not None and self.benchmark != OWN_DATA:
                raise ValueError(
                    f"`{name}` describes your own data, the benchmark '{OWN_DATA}'; leave it out with '{self.benchmark}'."
                )
        if (self.features is None) == (self.video_dir is None):
            raise ValueError("Pass either `features`, a feature cache, or `video_dir`, got both or none.")

    def _check_numbers(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.batch_size % self.queries_per_video:
            raise ValueError(
                f"`batch_size` must be a multiple of `queries_per_video`, got {self.batch_size} and "
                f"{self.queries_per_video}."
            )


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def read_preset(name: str) -> dict[str, Any]:
    """Fields of a preset by its name, or of a JSON file by its path.

    Raises:
        FileNotFoundError: There is no such preset.
        ValueError: It is not a JSON object, or has unknown fields.
    """
    path = Path(name) if name.endswith(".json") else PRESETS / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"`preset` must be one of {preset_names()} or a JSON file, '{path}' does not exist.")
    try:
        values = _json_object(path.read_text(encoding="utf-8"))
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ValueError(f"'{path}' is not a preset: {error}") from error
    unknown = sorted(values.keys() - {entry.name for entry in fields(TrainingConfig)})
    if unknown:
        raise ValueError(f"'{path}' has unknown fields: {unknown}.")
    return values


def make_config(options: dict[str, Any]) -> TrainingConfig:
    """Settings of a run, from the options that were given on the command line.

    Raises:
        FileNotFoundError: There is no such preset.
        ValueError: The preset has an unknown field, a required option is missing, or a value is out of range.
    """
    given = {name: value for name, value in options.items() if name != "preset"}
    preset = read_preset(options["preset"]) if "preset" in options else {}
    values = preset | given
    for name in ("model", "post_processing"):  # single fields replace those of the preset
        values[name] = {**preset.get(name, {}), **given.get(name, {})}
    missing = []
    for entry in fields(TrainingConfig):
        if _is_required(entry) and entry.name not in values:
            missing.append(f"`{_flag(entry.name)}`")
    if missing:
        preset_hint = "" if preset else ", or a `--preset` that sets them"
        raise ValueError(f"Pass {', '.join(missing)}{preset_hint}.")
    return TrainingConfig(**values)


def check_train(args: argparse.Namespace) -> None:
    """Refuse settings with which no run can start."""
    make_config(vars(args))


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """An option for each field; those that are left out keep the value of the preset."""
    parser.add_argument(
        "--preset",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help=f"settings to start from: {', '.join(preset_names())}, or a JSON file",
    )
    hints = typing.get_type_hints(TrainingConfig)
    for entry in fields(TrainingConfig):
        help_text = entry.metadata["help"]
        if _is_required(entry):
            help_text += " (required, here or in the preset)"
        elif "(default:" not in help_text:
            help_text += f" (default: {_format_default(entry)})"
        parser.add_argument(
            _flag(entry.name),
            default=argparse.SUPPRESS,
            help=help_text.replace("%", "%%"),
            **_argument(hints[entry.name]),
        )
    add_renamed_clip_option(parser)


def _is_required(entry: Field) -> bool:
    """Whether a field has no default."""
    return entry.default is MISSING and entry.default_factory is MISSING


def _flag(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def _format_default(entry: Field) -> str:
    if entry.default is MISSING or entry.default is None:
        return "none"
    if isinstance(entry.default, bool):
        return "yes" if entry.default else "no"
    return str(entry.default)


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
    if typing.get_origin(arguments[0] if arguments else None) is Literal:  # or none, by leaving the option out
        return _argument(arguments[0])
    if origin is types.UnionType:
        return {"type": _or_none(arguments[0]), "metavar": "VALUE"}
    return {"type": hint, "metavar": "VALUE"}


def _or_none(kind: type) -> Callable[[str], Any]:
    """Reads a value of a type, or "none"."""

    def read(text: str) -> Any:
        return None if text == "none" else kind(text)

    read.__name__ = kind.__name__  # which argparse's message shows
    return read


def _json_object(text: str) -> dict[str, Any]:
    """Reads a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}): {text[:60]!r}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"""must be a JSON object such as '{{"name": 1}}', got {text[:60]!r}""")
    return value


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Refuse a value of another type, which a preset may hold."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"`{name}` must be one of {list(arguments)}, got {value!r}.")
    elif origin is list:
        _check_type(name, value, list)
        for each in value:
            _check_type(name, each, arguments[0])
    elif origin in (types.UnionType, typing.Union):  # with a Literal it is the latter
        if value is not None:
            _check_type(name, value, arguments[0])
    elif not _is_of_type(value, hint):
        raise ValueError(f"`{name}` must be of the type {hint.__name__}, got {value!r}.")


def _is_of_type(value: Any, hint: type) -> bool:
    if isinstance(value, bool):  # in Python a bool is an int, too
        return hint is bool
    if hint is float:
        return isinstance(value, float | int)
    return isinstance(value, hint)


__all__ = [
    "OWN_DATA_FACTS",
    "PRESETS",
    "TRAIN_DESCRIPTION",
    "TRAIN_EPILOG",
    "Method",
    "TrainingConfig",
    "add_train_arguments",
    "check_train",
    "make_config",
    "option",
    "preset_names",
    "read_preset",
]
