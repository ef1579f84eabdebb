"""The checkpoint that a run starts from, `--init-from`: its configuration and its weights."""

import logging
import os
from typing import Any

import torch

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.loading_r2tuning import CONFIG, loading
from r2tuning.checks import check_model_type
from r2tuning.released.resolve import resolve_name
from r2tuning.training.config import TrainingConfig


logger = logging.getLogger(__name__)

# Fields that decide which weights a model has, or what they mean. Dropout, frame rate, window and losses are not among
# them: a run sets these as if it started from new weights.
STRUCTURE = (
    "method",
    "hidden_size",
    "num_attention_heads",
    "num_recurrent_steps",
    "num_temporal_layers",
    "attention_order",
    "shared_block",
    "layer_fusion",
    "strides",
    "use_temporal_endpoints",
    "use_moment_head",
)
EXISTENCE_HEAD = "grounding_head.existence_head."  # begins the names of its weights
# Fields that a model takes over from the checkpoint unless the run sets them.
INHERITED = (
    "initial_pooling_scale",
    "save_backbone",
    "backbone_name_or_path",
    "backbone_revision",
    "use_existence_head",
)


def find_checkpoint(config: TrainingConfig) -> str:
    """The folder or the name on the Hub of the checkpoint that a run starts from.

    Raises:
        OSError: It cannot be found or fetched.
        ValueError: It is another kind of model, or damaged.
    """
    name = resolve_name(str(config.init_from), backbone=config.backbone)
    check_model_type(name, "r2tuning")
    return name


def read_model_config(name: str) -> R2TuningConfig:
    """Configuration of a checkpoint.

    Raises:
        OSError: It cannot be found or fetched.
        ValueError: It is damaged.
    """
    with loading(name, (CONFIG,)):
        return R2TuningConfig.from_pretrained(name)


def start_fields(config: TrainingConfig, checkpoint: R2TuningConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of `R2TuningConfig` for a model that starts from a checkpoint.

    Args:
        config: Settings of the run.
        checkpoint: Configuration of the checkpoint.
        fields: Fields that the run and its benchmark set explicitly.

    Raises:
        ValueError: They contradict the checkpoint's weights; the message lists the fields.
    """
    differing = []
    for name in STRUCTURE:
        there = getattr(checkpoint, name)
        if name in fields and fields[name] != there:
            differing.append(f"`{name}` is {there!r} there and {fields[name]!r} in this run")
    if differing:
        raise ValueError(
            f"`init_from` '{config.init_from}' does not fit the settings of this run: {'; '.join(differing)}. Leave "
            "out those that you set, or start from another checkpoint."
        )
    inherited = {name: getattr(checkpoint, name) for name in STRUCTURE + INHERITED}
    inherited |= {"vision_config": checkpoint.vision_config, "text_config": checkpoint.text_config}
    return inherited | fields | _backbone_fields(config, checkpoint)


def _backbone_fields(config: TrainingConfig, checkpoint: R2TuningConfig) -> dict[str, Any]:
    """What the new model records of its encoders, if it is not what the checkpoint records."""
    if checkpoint.save_backbone:
        if config.backbone is not None:
            raise ValueError(
                f"`init_from` '{config.init_from}' holds the backbone that it was trained on, but `backbone` names another "
                f"one, '{config.backbone}': leave `backbone` out."
            )
        if config.model.get("save_backbone") is False:
            raise ValueError(
                f"`model` sets `save_backbone` to false, but `init_from` '{config.init_from}' holds the backbone that it "
                "was trained on, and so must the new model: leave the field out."
            )
        return {}
    if config.model.get("save_backbone"):
        return {"backbone_name_or_path": None, "backbone_revision": None}
    if config.backbone is None:
        return {}
    name = os.path.abspath(config.backbone) if os.path.isdir(config.backbone) else config.backbone
    return {"backbone_name_or_path": name, "backbone_revision": None}


def load_checkpoint(config: TrainingConfig, name: str) -> R2TuningForVideoGrounding:
    """Load the checkpoint that a run starts from, with the encoders of `config.backbone` if that is set.

    Raises:
        OSError: A file cannot be found or fetched.
        ValueError: A file is damaged, or the encoders do not fit the checkpoint.
    """
    if config.backbone is None:
        return R2TuningForVideoGrounding.from_pretrained(name, dtype=torch.float32)
    recorded = read_model_config(name).backbone_name_or_path
    if recorded not in (config.backbone, os.path.abspath(config.backbone)):
        logger.warning(
            f"'{config.init_from}' was trained on the backbone '{recorded}' and is used with '{config.backbone}': their "
            "weights must be the same."
        )
    try:
        return R2TuningForVideoGrounding.from_pretrained(
            name, dtype=torch.float32, backbone_name_or_path=config.backbone
        )
    except ValueError as error:  # names the backbone, but not the checkpoint
        raise ValueError(f"`init_from` '{config.init_from}' and `backbone` do not fit together: {error}") from error


def copy_weights(model: R2TuningForVideoGrounding, checkpoint: R2TuningForVideoGrounding, name: str) -> None:
    """Fill a model with the weights of a checkpoint, those of the encoders included.

    An existence head may be new or left out; that is logged.

    Args:
        model: The model to fill.
        checkpoint: A model of the same structure.
        name: Name of the checkpoint, for messages.
    """
    names = model.load_state_dict(checkpoint.state_dict(), strict=False)
    different = names.missing_keys + names.unexpected_keys
    unexplained = [key for key in different if not key.startswith(EXISTENCE_HEAD)]
    if unexplained:  # excluded by `start_fields`
        raise ValueError(f"The weights of '{name}' do not fit the model: {unexplained[:3]}.")
    if names.missing_keys:
        logger.info(f"'{name}' has no existence head: the new model's starts from random weights.")
    if names.unexpected_keys:
        logger.info(f"The existence head of '{name}' is left out: this run sets `use_existence_head` to false.")


__all__ = [
    "copy_weights",
    "find_checkpoint",
    "load_checkpoint",
    "read_model_config",
    "start_fields",
]
