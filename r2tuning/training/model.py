"""A new model on frozen encoders, and its processor, with the settings of a benchmark."""

import os
from typing import Any, cast

from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from dataset_scripts.benchmarks import BENCHMARKS
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.loading_r2tuning import MODEL_FILES, check_weights, loading, read_backbone_config, safe_weights
from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS, Method
from r2tuning.training.config import TrainingConfig


def make_model(config: TrainingConfig) -> R2TuningForVideoGrounding:
    """Make a model with a new side block and the encoders of `config.backbone`.

    Raises:
        OSError: The backbone is not found or cannot be fetched.
        ValueError: It is damaged or another kind of model, or `config.model` has an unknown field.
    """
    backbone_config = read_backbone_config(config.backbone)
    fields = model_fields(config, backbone_config)
    unknown = sorted(fields.keys() - vars(R2TuningConfig()).keys())
    if unknown:
        raise ValueError(f"`model` has fields that R2TuningConfig does not know: {unknown}.")
    fields |= {"vision_config": backbone_config.vision_config, "text_config": backbone_config.text_config}
    model = R2TuningForVideoGrounding(R2TuningConfig(**fields))
    with loading(config.backbone, MODEL_FILES, "CLIP"):
        loaded = CLIPModel.from_pretrained(
            config.backbone, output_loading_info=True, **safe_weights(config.backbone, {})
        )
        backbone, info = cast("tuple[CLIPModel, dict[str, Any]]", loaded)
    info["unexpected_keys"] = ()  # old checkpoints also hold buffers
    check_weights(config.backbone, info, reshape=False)
    model.copy_backbone(backbone.vision_model, backbone.text_model)
    return model


def model_fields(config: TrainingConfig, backbone_config: CLIPConfig) -> dict[str, Any]:
    """Fields of `R2TuningConfig`: those of the benchmark, overridden by those of the run."""
    fields: dict[str, Any] = {
        "backbone_name_or_path": _backbone_name(config),
        "loss_recipe": config.loss_recipe,
        "method": config.method,
        **layers_read(config.method, backbone_config),
    }
    spec = BENCHMARKS[config.benchmark]
    for name in ("fps", "dropout", "window_sec", "saliency_loss_weight"):
        fields[name] = getattr(spec, name)
    if spec.positive_saliency is not None:  # no moments: the points are the frames, whose times are not an input
        fields |= {"use_moment_head": False, "use_temporal_endpoints": False, "strides": [1]}
        fields["positive_saliency"] = spec.positive_saliency
    return fields | config.model


def layers_read(method: Method, backbone_config: CLIPConfig) -> dict[str, int]:
    """Number of layers that a method reads by default: R2-Tuning its own default, side networks all, others the last."""
    spec = METHOD_SPECS[method]
    if spec.place == "recurrence":
        return {}
    if spec.reads_last_layer_only:
        return {"num_recurrent_steps": 1}
    vision = cast("CLIPVisionConfig", backbone_config.vision_config)
    text = cast("CLIPTextConfig", backbone_config.text_config)
    return {"num_recurrent_steps": min(vision.num_hidden_layers, text.num_hidden_layers)}


def make_processor(config: TrainingConfig, fps: float) -> R2TuningProcessor:
    """Make the processor: pre-processing of the backbone, and post-processing of the benchmark."""
    spec = BENCHMARKS[config.benchmark]
    fields: dict[str, Any] = {"fps": fps, "nms": spec.nms, "round_to": spec.round_to}
    return R2TuningProcessor.from_backbone(config.backbone, **{**fields, **config.post_processing})


def _backbone_name(config: TrainingConfig) -> str | None:
    """Name on the Hub, or the absolute path of a folder; `None` if the checkpoint holds the encoders itself."""
    if config.model.get("save_backbone"):
        return None
    return os.path.abspath(config.backbone) if os.path.isdir(config.backbone) else config.backbone


__all__ = ["layers_read", "make_model", "make_processor", "model_fields"]
