"""A new model on a frozen CLIP, and its processor, with the settings of a benchmark."""

import os
from typing import Any

from transformers import CLIPConfig, CLIPModel

from dataset_scripts.benchmarks import BENCHMARKS
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.configuration_r2tuning import BESIDE_CLIP
from modeling_r2tuning.loading_r2tuning import MODEL_FILES, check_weights, loading, read_backbone_config, safe_weights
from r2tuning.training.config import TrainingConfig


def make_model(config: TrainingConfig) -> R2TuningForVideoGrounding:
    """A model whose side block is new and whose encoders are those of `config.backbone`.

    Raises:
        OSError: CLIP is not found, or it cannot be fetched.
        ValueError: It is damaged or another kind of model, or `config.model` has an unknown field.
    """
    backbone_config = read_backbone_config(config.backbone)
    fields = model_fields(config, backbone_config)
    unknown = sorted(fields.keys() - vars(R2TuningConfig()).keys())
    if unknown:
        raise ValueError(f"`model` has fields that R2TuningConfig does not know: {unknown}.")
    model = R2TuningForVideoGrounding(
        R2TuningConfig(vision_config=backbone_config.vision_config, text_config=backbone_config.text_config, **fields)
    )
    with loading(config.backbone, MODEL_FILES, "CLIP"):
        backbone, info = CLIPModel.from_pretrained(
            config.backbone, output_loading_info=True, **safe_weights(config.backbone, {})
        )
    check_weights(config.backbone, {**info, "unexpected_keys": ()}, reshape=False)  # old ones hold buffers as well
    model.copy_backbone(backbone.vision_model, backbone.text_model)
    return model


def model_fields(config: TrainingConfig, backbone_config: CLIPConfig) -> dict[str, Any]:
    """Fields of `R2TuningConfig`: those of the benchmark, then those of the run."""
    fields = {"backbone_name_or_path": _backbone_name(config), "loss_recipe": config.loss_recipe}
    fields |= {"method": config.method} | layers_read(config.method, backbone_config)
    spec = BENCHMARKS[config.benchmark]
    for name in ("fps", "dropout", "window_sec", "saliency_loss_weight"):
        fields[name] = getattr(spec, name)
    if spec.positive_saliency is not None:  # no moments: the points are the frames, whose times are not an input
        fields |= {"use_moment_head": False, "use_temporal_endpoints": False, "strides": [1]}
        fields["positive_saliency"] = spec.positive_saliency
    return fields | config.model


def layers_read(method: str, backbone_config: CLIPConfig) -> dict[str, int]:
    """How many layers a method reads: R2-Tuning as many as its default, side networks all, the others the last."""
    if method == "r2_tuning":
        return {}
    towers = (backbone_config.vision_config, backbone_config.text_config)
    depth = min(tower.num_hidden_layers for tower in towers)
    return {"num_recurrent_steps": depth if method in BESIDE_CLIP else 1}


def make_processor(config: TrainingConfig, fps: float) -> R2TuningProcessor:
    """CLIP's pictures and words, and the post-processing of the benchmark."""
    spec = BENCHMARKS[config.benchmark]
    fields = {"fps": fps, "nms": spec.nms, "round_to": spec.round_to}
    return R2TuningProcessor.from_backbone(config.backbone, **{**fields, **config.post_processing})


def _backbone_name(config: TrainingConfig) -> str | None:
    """Name on the Hub, or the absolute path of a folder; none where the checkpoint holds CLIP itself."""
    if config.model.get("save_backbone"):
        return None
    return os.path.abspath(config.backbone) if os.path.isdir(config.backbone) else config.backbone


__all__ = ["layers_read", "make_model", "make_processor", "model_fields"]
