"""The kinds of frozen image-text backbones: what each needs from the code around it.

This is a description alone: `towers_r2tuning.py` works by it, and no other file distinguishes kinds. A further kind is one
more entry, if its frames do not see each other and its text encoder is a stack of layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import (
    AltCLIPConfig,
    ChineseCLIPConfig,
    CLIPConfig,
    MetaClip2Config,
    PreTrainedConfig,
    SiglipConfig,
)


VISION_PROJECTIONS = r"encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"
BERT_PROJECTIONS = r"attention\.(self\.(query|key|value)|output\.dense)"


@dataclass(frozen=True)
class TowerSpec:
    """Properties of the image and the text encoder of one kind of backbone.

    Attributes:
        title: Its name for people.
        config_class: Configuration of the whole backbone.
        model_class: Name of its class in transformers; its encoders are `vision_model` and `text_model`.
        encoder_classes: Names of the classes of the image and the text encoder.
        layer_classes: Names of the classes of their layers.
        has_cls: The image encoder has a CLS token, the first one, which represents the frame. Otherwise the encoder's
            own pooling head does, applied to the normalised output of a layer.
        image_norm: The image encoder's norm before its first layer, if it has one.
        text_arguments: Arguments with which the backbone makes its text encoder.
        text_body: The module of the text encoder that holds its embeddings; "" = the text encoder itself.
        text_layers: The layers in this module.
        text_projections: The attention projections in this module, as a regular expression.
        text_attention: How text is encoded. `"causal"`: a token sees those before it, so padding on the right has no
            effect. `"fixed_length"`: every token sees all others, padding included; texts are padded to
            `max_text_length`, as in the backbone's training. `"masked"`: every token sees all others but padding.
        reserved_positions: Positions of the text encoder that no token takes.
        lowercases: It was trained on lower-case text.
        unused: Beginnings of the names of parameters without effect on the hidden states that are read.
    """

    title: str
    config_class: type[PreTrainedConfig]
    model_class: str
    encoder_classes: tuple[str, str]
    layer_classes: tuple[str, ...]
    has_cls: bool = True
    image_norm: str | None = "pre_layrnorm"
    text_arguments: Mapping[str, Any] = field(default_factory=dict)
    text_body: str = ""
    text_layers: str = "encoder.layers"
    text_projections: str = VISION_PROJECTIONS
    text_attention: Literal["causal", "fixed_length", "masked"] = "causal"
    reserved_positions: int = 0
    lowercases: bool = False
    unused: tuple[str, ...] = ("vision_model.post_layernorm.", "text_model.final_layer_norm.")

    @property
    def encoder_configs(self) -> tuple[type[PreTrainedConfig], type[PreTrainedConfig]]:
        """Classes of the configurations of the image and the text encoder."""
        parts = self.config_class.sub_configs
        return parts["vision_config"], parts["text_config"]

    @property
    def attention_projections(self) -> str:
        """The attention projections of both encoders, by their names in the model, as a regular expression."""
        body = rf"{self.text_body}\." if self.text_body else ""
        return rf"(vision_model\.{VISION_PROJECTIONS}|text_model\.{body}{self.text_projections})"

    def max_text_length(self, text_config: PreTrainedConfig) -> int:
        """Largest number of tokens of a text."""
        return text_config.max_position_embeddings - self.reserved_positions


TOWER_SPECS: dict[str, TowerSpec] = {
    "clip": TowerSpec(
        title="CLIP",
        config_class=CLIPConfig,
        model_class="CLIPModel",
        encoder_classes=("CLIPVisionModel", "CLIPTextModel"),
        layer_classes=("CLIPEncoderLayer",),
    ),
    "metaclip_2": TowerSpec(
        title="MetaCLIP 2",
        config_class=MetaClip2Config,
        model_class="MetaClip2Model",
        encoder_classes=("MetaClip2VisionModel", "MetaClip2TextModel"),
        layer_classes=("MetaClip2EncoderLayer",),
    ),
    "siglip": TowerSpec(
        title="SigLIP",
        config_class=SiglipConfig,
        model_class="SiglipModel",
        encoder_classes=("SiglipVisionModel", "SiglipTextModel"),
        layer_classes=("SiglipEncoderLayer",),
        has_cls=False,
        image_norm=None,
        text_attention="fixed_length",
        lowercases=True,
        unused=("text_model.final_layer_norm.", "text_model.head."),
    ),
    "altclip": TowerSpec(
        title="AltCLIP",
        config_class=AltCLIPConfig,
        model_class="AltCLIPModel",
        encoder_classes=("AltCLIPVisionModel", "AltCLIPTextModel"),
        layer_classes=("AltCLIPEncoderLayer", "AltRobertaLayer"),
        text_body="roberta",
        text_projections=rf"encoder\.layers\.\d+\.{BERT_PROJECTIONS}",
        text_attention="masked",
        reserved_positions=2,  # RoBERTa counts from the position after that of padding
        unused=("vision_model.post_layernorm.", "text_model.pre_LN.", "text_model.transformation."),
    ),
    "chinese_clip": TowerSpec(
        title="Chinese-CLIP",
        config_class=ChineseCLIPConfig,
        model_class="ChineseCLIPModel",
        encoder_classes=("ChineseCLIPVisionModel", "ChineseCLIPTextModel"),
        layer_classes=("ChineseCLIPVisionLayer", "ChineseCLIPTextLayer"),
        text_arguments={"add_pooling_layer": False},
        text_layers="encoder.layer",
        text_projections=rf"encoder\.layer\.\d+\.{BERT_PROJECTIONS}",
        text_attention="masked",
        unused=("vision_model.post_layernorm.",),
    ),
}

# Kinds that a user may well try, and why they cannot be used.
REFUSED = {
    "siglip2": (
        "its images have different numbers of patches (NaFlex); the SigLIP 2 checkpoints of a fixed resolution, such as "
        "google/siglip2-base-patch16-256, are of the type 'siglip' and can be used"
    ),
    "xclip": "its frames see each other, and it takes a fixed number of them",
    "videoprism": "its frames see each other",
    "pe_video": "its image encoder (PE) comes from timm, which needs torchvision",
    "clip_vision_model": "it has no text encoder",
    "siglip_vision_model": "it has no text encoder",
    "dinov2": "it has no text encoder",
    "dinov3_vit": "it has no text encoder",
}


def backbone_spec(name: str, model_type: Any) -> TowerSpec:
    """Properties of the backbone of a model type.

    Args:
        name: The backbone, for the message.
        model_type: `model_type` in its configuration.

    Raises:
        ValueError: It cannot be used; the message lists what can.
    """
    if model_type in TOWER_SPECS:
        return TOWER_SPECS[model_type]
    reason = f", which cannot be used: {REFUSED[model_type]}" if model_type in REFUSED else ""
    raise ValueError(
        f"'{name}' is not a supported backbone: its `model_type` is {model_type!r}{reason}. Supported are "
        f"{list(TOWER_SPECS)}."
    )


def encoder_spec(model_type: str) -> TowerSpec:
    """Properties of the backbone whose image or text encoder has this `model_type`.

    Raises:
        ValueError: There is none.
    """
    return _find_encoder(model_type)[0]


def encoder_config_class(model_type: str) -> type[PreTrainedConfig]:
    """Class of the configuration of an encoder.

    Raises:
        ValueError: The `model_type` is that of no encoder.
    """
    return _find_encoder(model_type)[1]


def _find_encoder(model_type: str) -> tuple[TowerSpec, type[PreTrainedConfig]]:
    if model_type not in ENCODER_KINDS:
        raise ValueError(f"`model_type` of an encoder must be one of {list(ENCODER_KINDS)}, got {model_type!r}.")
    return ENCODER_KINDS[model_type]


def _list_encoders() -> dict[str, tuple[TowerSpec, type[PreTrainedConfig]]]:
    kinds = {}
    for spec in TOWER_SPECS.values():
        for config_class in spec.encoder_configs:
            kinds[config_class.model_type] = (spec, config_class)
    return kinds


# The backbone and the configuration's class for each `model_type` of an encoder: torch.compile can follow a look-up in
# this table, but not the search for them.
ENCODER_KINDS = _list_encoders()


__all__ = ["ENCODER_KINDS", "TOWER_SPECS", "TowerSpec", "backbone_spec", "encoder_config_class", "encoder_spec"]
