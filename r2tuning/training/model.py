"""The model of a run and its processor, with the settings of a benchmark: new, or started from a checkpoint."""

import logging
import os
from typing import Any, cast

from transformers import PreTrainedConfig

from dataset_scripts.benchmarks import BENCHMARKS, OWN_DATA
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.loading_r2tuning import read_backbone_config
from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS, Method
from modeling_r2tuning.towers_r2tuning import load_encoders
from r2tuning.training.config import TrainingConfig
from r2tuning.training.init_from import (
    copy_weights,
    find_checkpoint,
    load_checkpoint,
    read_model_config,
    start_fields,
)


logger = logging.getLogger(__name__)

SET_ELSEWHERE = ("backbone_name_or_path", "backbone_revision", "method", "text_config", "vision_config")


def make_model(config: TrainingConfig) -> R2TuningForVideoGrounding:
    """Make the model before its first step.

    Without `config.init_from` it has a new side block and the encoders of `config.backbone`. Otherwise it has the
    weights and the structure of that checkpoint; dropout, losses, frame rate and window are those of the run, except that
    on own data the last two are the checkpoint's, too, unless `config.model` sets them.

    Raises:
        OSError: The backbone or the checkpoint is not found or cannot be fetched.
        ValueError: It is damaged or another kind of model, `config.model` has an unknown field, or the checkpoint does
            not fit the settings.
    """
    return _new_model(config) if config.init_from is None else _model_of_checkpoint(config)


def _new_model(config: TrainingConfig) -> R2TuningForVideoGrounding:
    name = cast("str", config.backbone)
    backbone_config = read_backbone_config(name)
    _check_names(config.model)
    fields = model_fields(config, backbone_config)
    fields |= {"vision_config": backbone_config.vision_config, "text_config": backbone_config.text_config}
    model = R2TuningForVideoGrounding(R2TuningConfig(**fields))
    model.copy_backbone(*load_encoders(name, model.config))
    return model


def _model_of_checkpoint(config: TrainingConfig) -> R2TuningForVideoGrounding:
    name = find_checkpoint(config)
    start = read_model_config(name)
    _check_names(config.model)
    fields = _run_fields(config)
    if config.benchmark == OWN_DATA:  # which prescribes neither frame rate nor window
        fields |= {"fps": start.fps, "window_sec": start.window_sec, **config.model}
    if config.method is not None:
        fields["method"] = config.method
    # The default of the configuration counts as set here: a benchmark with moments needs the head.
    fields.setdefault("use_moment_head", True)
    fields = start_fields(config, start, fields)
    model = R2TuningForVideoGrounding(R2TuningConfig(**fields))
    copy_weights(model, load_checkpoint(config, name), name)
    logger.info(f"starting from the weights of '{config.init_from}'")
    return model


def _check_names(fields: dict[str, Any]) -> None:
    unknown = sorted(fields.keys() - vars(R2TuningConfig()).keys())
    if unknown:
        raise ValueError(f"`model` has fields that R2TuningConfig does not know: {unknown}.")
    taken = [name for name in SET_ELSEWHERE if name in fields]
    if taken:
        raise ValueError(f"`model` must not set {taken}: `backbone` and `method` decide them.")


def model_fields(config: TrainingConfig, backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Fields of `R2TuningConfig` for a new model: those of the benchmark, overridden by those of the run."""
    method = cast("Method", config.method)
    fields = {
        "backbone_name_or_path": _backbone_name(config),
        "method": method,
        **layers_read(method, backbone_config),
    }
    return fields | _run_fields(config)


def has_existence_head(config: TrainingConfig) -> bool:
    """Whether the model of a run has an existence head; of a checkpoint to start from only the configuration is read."""
    if config.init_from is None or "use_existence_head" in config.model:
        return bool(config.model.get("use_existence_head"))
    return read_model_config(find_checkpoint(config)).use_existence_head


def _run_fields(config: TrainingConfig) -> dict[str, Any]:
    """Fields that the benchmark and the run set."""
    spec = BENCHMARKS[config.benchmark]
    fields: dict[str, Any] = {"loss_recipe": config.loss_recipe}
    for name in ("fps", "dropout", "window_sec", "saliency_loss_weight"):
        fields[name] = getattr(spec, name)
    if spec.positive_saliency is not None:  # no moments: the points are the frames, whose times are not an input
        fields |= {"use_moment_head": False, "use_temporal_endpoints": False, "strides": [1]}
        fields["positive_saliency"] = spec.positive_saliency
    return fields | config.model


def layers_read(method: Method, backbone_config: PreTrainedConfig) -> dict[str, int]:
    """Number of layers that a method reads by default: R2-Tuning its own default, side networks all, others the last."""
    spec = METHOD_SPECS[method]
    if spec.place == "recurrence":
        return {}
    if spec.reads_last_layer_only:
        return {"num_recurrent_steps": 1}
    depths = [getattr(backbone_config, part).num_hidden_layers for part in ("vision_config", "text_config")]
    return {"num_recurrent_steps": min(depths)}


def make_processor(config: TrainingConfig, model_config: R2TuningConfig) -> R2TuningProcessor:
    """Make the processor: pre-processing of the backbone or the checkpoint, post-processing of the benchmark."""
    spec = BENCHMARKS[config.benchmark]
    fields: dict[str, Any] = {"fps": model_config.fps, "nms": spec.nms, "round_to": spec.round_to}
    fields |= config.post_processing
    if config.init_from is None:
        return R2TuningProcessor.from_backbone(cast("str", config.backbone), **fields)
    name = find_checkpoint(config)
    start = R2TuningProcessor.from_pretrained(name)
    for setting in ("max_text_length", "pad_to_max_text_length", "lowercase_text"):  # facts of its backbone
        fields[setting] = getattr(start, setting)
    if model_config.use_existence_head and read_model_config(name).use_existence_head:
        # A calibration belongs to the head that it was fitted to.
        fields |= {"existence_scale": start.existence_scale, "existence_bias": start.existence_bias}
    return R2TuningProcessor(start.image_processor, start.tokenizer, **fields)


def _backbone_name(config: TrainingConfig) -> str | None:
    """Name on the Hub, or the absolute path of a folder; `None` if the checkpoint holds the encoders itself."""
    if config.model.get("save_backbone"):
        return None
    name = cast("str", config.backbone)
    return os.path.abspath(name) if os.path.isdir(name) else name


__all__ = ["has_existence_head", "layers_read", "make_model", "make_processor", "model_fields"]
