"""Configuration of R2-Tuning for video temporal grounding."""

from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

from .method_specs_r2tuning import METHOD_SPECS, Method, MethodSpec
from .tower_specs_r2tuning import TowerSpec, encoder_config_class, encoder_spec


# Former names of fields, which the config.json of older checkpoints may still contain.
RENAMED_FIELDS = {"clip_model_name_or_path": "backbone_name_or_path", "clip_revision": "backbone_revision"}


@strict
class R2TuningConfig(PreTrainedConfig):
    r"""Configuration of an R2-Tuning model; the defaults are those of the paper's QVHighlights model.

    Training settings (learning rate, batch size, epochs) are not part of it. Brackets name the table or figure of the
    paper (arXiv 2404.00801) whose rows the field reproduces.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            Frozen image encoder of one of the backbones in `tower_specs_r2tuning.py`, by its `model_type`. Default: CLIP
            ViT-B/32.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Frozen text encoder of the same backbone.
        backbone_name_or_path (`str`, *optional*, defaults to `"openai/clip-vit-base-patch32"`):
            Folder or Hub repository from which the encoders are loaded if the checkpoint does not hold them.
        backbone_revision (`str`, *optional*):
            Branch, tag or commit of `backbone_name_or_path`.
        save_backbone (`bool`, defaults to `False`):
            Store the encoders in the checkpoint too. Otherwise it holds only the learned weights (about 11 MB).
            Always `True` with full tuning, which trains the encoders.
        method (`str`, defaults to `"r2_tuning"`):
            Transfer method [Table 9]. `"r2_tuning"`: recurrent refinement. `"none"`: no tuning; a frame is represented
            by the CLS token of the last layer (the pooled output where there is none), and only its projection, one
            temporal layer, pyramid and heads are learned. `"full"`, `"lora"`, `"vpt"`, `"vop"`, `"st_adapter"`,
            `"e3va"`, `"losa"` or `"lst"`: as `"none"`, but the method computes that token; see
            `method_specs_r2tuning.py` and `method_*_r2tuning.py`.
        hidden_size (`int`, defaults to 256):
            Width C of the side block.
        num_attention_heads (`int`, defaults to 8):
            Attention heads of the temporal layers; must divide `hidden_size`.
        num_recurrent_steps (`int`, defaults to 4):
            Number of last layers of each encoder that are used, K in the paper [Figure 7]. Side networks use it too;
            all layers work best there.
        num_temporal_layers (`int`, defaults to 1):
            Transformer layers in each recurrent step [Table 12].
        attention_order (`"cross_self"` or `"self_cross"`, defaults to `"cross_self"`):
            Order of cross- and self-attention in a temporal layer [Table 10].
        shared_block (`bool`, defaults to `True`):
            Whether all steps share one block [Table 11].
        layer_fusion (`"reversed"`, `"forward"`, `"single"` or `"mean"`, defaults to `"reversed"`):
            Refinement from the deepest layer to the shallowest, refinement in the opposite order, the K-th layer from
            the end alone, or the mean of the last K layers [Figure 7].
        initial_pooling_scale (`float`, defaults to 0.0):
            Initial scale of the spatial pooling, before its tanh; 0 starts with pooling off.
        strides (`list[int]`, defaults to `(1, 2, 4, 8)`):
            Temporal strides of the feature pyramid in frames: increasing powers of two.
        use_temporal_endpoints (`bool`, defaults to `True`):
            Append each frame's relative start and end (TEF) to its features.
        use_moment_head (`bool`, defaults to `True`):
            Predict moments. Without it (YouTube Highlights, TVSum) the class scores serve as saliency.
        use_existence_head (`bool`, defaults to `False`):
            Predict whether the video holds any moment that matches the query; needs `use_moment_head`.
        dropout (`float`, defaults to 0.5):
            Dropout of the two input projections.
        drop_path (`float`, defaults to 0.1):
            Stochastic depth of the temporal layers' branches.
        use_video_calibration (`bool`, defaults to `True`):
            Contrast videos within each layer, Eq. 9 [Table 5].
        use_layer_calibration (`bool`, defaults to `True`):
            Contrast layers within each video, Eq. 10 [Table 5].
        loss_recipe (`"released"` or `"paper"`, defaults to `"released"`):
            Losses of the released code, which trained the published checkpoints, or the formulas of the paper.
        saliency_loss_weight (`float`, defaults to 0.1):
            Weight of the saliency loss in the released recipe; in the paper's it is 0.1.
        existence_loss_weight (`float`, defaults to 0.3):
            Weight of the existence head's loss.
        positive_saliency (`"above_median"` or `"above_half"`, defaults to `"above_median"`):
            Positive frames of the contrastive losses without a moment head: those whose saliency is above the (lower)
            median of the video (TVSum) or above 0.5 (YouTube Highlights). With a moment head they are the frames
            inside a moment.
        fps (`float`, defaults to 0.5):
            Frames per second of the training videos.
        window_sec (`float`, *optional*, defaults to 150.0):
            Longest video grounded in one pass, in seconds; longer videos are grounded in overlapping windows. `None`
            grounds every video in one pass.

    Raises:
        StrictDataclassError: A field has a wrong type or value; the message names it.
    """

    model_type = "r2tuning"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (class attribute of the base)

    if TYPE_CHECKING:  # the types after construction; the constructor itself takes dicts and `None`, too
        vision_config: PreTrainedConfig
        text_config: PreTrainedConfig

        def __init__(self, **fields: Any) -> None: ...

    else:
        vision_config: dict | PreTrainedConfig | None = None
        text_config: dict | PreTrainedConfig | None = None
    backbone_name_or_path: str | None = "openai/clip-vit-base-patch32"
    backbone_revision: str | None = None
    save_backbone: bool = False
    method: Method = "r2_tuning"
    hidden_size: int = 256
    num_attention_heads: int = 8
    num_recurrent_steps: int = 4
    num_temporal_layers: int = 1
    attention_order: Literal["cross_self", "self_cross"] = "cross_self"
    shared_block: bool = True
    layer_fusion: Literal["reversed", "forward", "single", "mean"] = "reversed"
    initial_pooling_scale: float | int = 0.0
    strides: list[int] | tuple[int, ...] = (1, 2, 4, 8)
    use_temporal_endpoints: bool = True
    use_moment_head: bool = True
    use_existence_head: bool = False
    dropout: float | int = 0.5
    drop_path: float | int = 0.1
    use_video_calibration: bool = True
    use_layer_calibration: bool = True
    loss_recipe: Literal["released", "paper"] = "released"
    saliency_loss_weight: float | int = 0.1
    existence_loss_weight: float | int = 0.3
    positive_saliency: Literal["above_median", "above_half"] = "above_median"
    fps: float | int = 0.5
    window_sec: float | int | None = 150.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _encoder_config(self.vision_config, CLIPVisionConfig)
        self.text_config = _encoder_config(self.text_config, CLIPTextConfig)
        self.strides = list(self.strides)  # JSON has no tuples
        self.save_backbone = self.save_backbone or self.method_spec.trains_encoders
        if not __name__.startswith("transformers_modules."):
            # With the package installed the task is registered: the Hub's copy of the pipeline is not needed.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "R2TuningConfig":
        """Create a configuration from the contents of a `config.json`, which may be one of an earlier version."""
        renamed = {RENAMED_FIELDS.get(name, name): value for name, value in config_dict.items()}
        return super().from_dict(renamed, **kwargs)

    @property
    def method_spec(self) -> MethodSpec:
        """Properties of the transfer method."""
        return METHOD_SPECS[self.method]

    @property
    def tower_spec(self) -> TowerSpec:
        """Properties of the frozen encoders."""
        return encoder_spec(self.vision_config.model_type)

    @property
    def max_text_length(self) -> int:
        """Largest number of tokens of a text."""
        return self.tower_spec.max_text_length(self.text_config)

    @property
    def num_steps(self) -> int:
        """Number of recurrent steps: K, or 1 where the block receives a single state of the encoders."""
        recurrent = self.method_spec.place == "recurrence" and self.layer_fusion in ("reversed", "forward")
        return self.num_recurrent_steps if recurrent else 1

    @property
    def layers_read(self) -> slice:
        """Layers of each encoder whose hidden states are used."""
        return self.method_spec.layers_read(self.num_recurrent_steps)

    @property
    def num_text_states(self) -> int:
        """Number of hidden states of a token of text."""
        return self.method_spec.num_text_states(self.num_recurrent_steps)

    @property
    def num_video_states(self) -> int:
        """Number of hidden states of each token of a frame."""
        return self.method_spec.num_video_states(self.num_recurrent_steps)

    def validate_sizes(self) -> None:
        """Counts are positive, the heads divide the width evenly, and both encoders have K layers."""
        for name in ("hidden_size", "num_attention_heads", "num_recurrent_steps", "num_temporal_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"`hidden_size` must be even and a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        depth = min(self.vision_config.num_hidden_layers, self.text_config.num_hidden_layers)
        if self.num_recurrent_steps > depth:
            raise ValueError(
                f"`num_recurrent_steps` must not exceed the number of layers of either encoder ({depth}), "
                f"got {self.num_recurrent_steps}."
            )

    def validate_encoders(self) -> None:
        """Both encoders belong to one backbone, frames are square, and a frame has a token that represents it."""
        kinds = [config.model_type for config in (self.vision_config, self.text_config)]
        if kinds != [config.model_type for config in self.tower_spec.encoder_configs]:
            raise ValueError(f"`vision_config` and `text_config` must be of one backbone, got {kinds}.")
        for name in ("image_size", "patch_size"):
            size = getattr(self.vision_config, name)
            if not isinstance(size, int):
                raise ValueError(f"`{name}` of `vision_config` must be one number, as frames are square, got {size}.")
        if not (self.tower_spec.has_cls or self.vision_config.vision_use_head):
            raise ValueError(
                "`vision_use_head` of `vision_config` must be true: there is no CLS token, so the pooling head represents a "
                "frame."
            )

    def validate_method(self) -> None:
        """Methods without recurrence or side network use the last layer only; some need a CLS token."""
        if self.method_spec.needs_cls and not self.tower_spec.has_cls:
            raise ValueError(
                f"`method` '{self.method}' uses the CLS token inside the image encoder, and {self.tower_spec.title} has "
                "none: choose another method or backbone."
            )
        if self.method_spec.reads_last_layer_only and self.num_recurrent_steps != 1:
            raise ValueError(
                f"`num_recurrent_steps` must be 1 with `method` '{self.method}', which uses the last layer only, got "
                f"{self.num_recurrent_steps}."
            )

    def validate_strides(self) -> None:
        """Strides are increasing powers of two that start with 1; without moment head there is only stride 1."""
        strides = list(self.strides)
        powers = all(stride > 0 and stride & (stride - 1) == 0 for stride in strides)
        if not strides or strides[0] != 1 or not powers or strides != sorted(set(strides)):
            raise ValueError(f"`strides` must be increasing powers of two that start with 1, got {strides}.")
        if not self.use_moment_head and strides != [1]:
            raise ValueError(f"`strides` must be [1] without moment head, as points are frames, got {strides}.")

    def validate_existence_head(self) -> None:
        """An existence head needs a moment head: only annotated moments tell present queries from absent ones."""
        if self.use_existence_head and not self.use_moment_head:
            raise ValueError("`use_existence_head` needs `use_moment_head`, got `use_moment_head=False`.")

    def validate_rates(self) -> None:
        """Dropout rates are in [0, 1), loss weights are not negative, and times are positive."""
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        for name in ("saliency_loss_weight", "existence_loss_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must not be negative or infinite, got {getattr(self, name)}.")
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"`fps` must be positive and finite, got {self.fps}.")
        if self.window_sec is not None and not 0 < self.window_sec < float("inf"):
            raise ValueError(f"`window_sec` must be positive and finite, or None, got {self.window_sec}.")


def _encoder_config(value: dict | PreTrainedConfig | None, default: type[PreTrainedConfig]) -> PreTrainedConfig:
    """The configuration of an encoder from an object, from a dict of its fields, or of the default kind."""
    if isinstance(value, PreTrainedConfig):
        return value
    fields = {} if value is None else value
    return encoder_config_class(fields.get("model_type", default.model_type))(**fields)


__all__ = ["R2TuningConfig"]
