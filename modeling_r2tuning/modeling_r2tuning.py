"""R2-Tuning (arXiv 2404.00801): frozen encoders and one small recurrent side block for video temporal grounding.

The batch size is the number of queries. Where consecutive queries ask about the same video, the video tensors may hold
it once.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .block_r2tuning import FeedForward, R2Block, R2BlockOutput, TemporalAttention
from .configuration_r2tuning import R2TuningConfig
from .files_r2tuning import make_readable
from .fingerprint_r2tuning import Fingerprint
from .grounding_mixin_r2tuning import GroundingMixin
from .heads_r2tuning import GroundingHead, VideoGroundingOutput
from .inputs_r2tuning import (
    CheckedBatch,
    check_labels,
    check_per_query,
    check_text,
    check_video,
    count_frames,
)
from .int8_r2tuning import check_int8, check_unmoved, quantize_linears, replace_int8
from .loading_r2tuning import (
    HUB_ARGUMENTS,
    MODEL_FILES,
    PLACE_ARGUMENTS,
    check_weights,
    loading,
    read_backbone_config,
)
from .losses_r2tuning import GroundingLabels, video_grounding_loss
from .method_lora_r2tuning import add_lora, load_lora, save_lora
from .methods_r2tuning import is_adapter, is_learned, make_method
from .precision_r2tuning import autocast_dtype, without_autocast
from .tower_specs_r2tuning import TOWER_SPECS
from .towers_r2tuning import (
    ENCODERS,
    FrozenCopies,
    copy_weights,
    freeze,
    load_backbone,
    make_encoders,
    read_text,
    read_video,
    vision_layers,
    with_weights,
)


logger = logging.get_logger(__name__)


class R2TuningPreTrainedModel(PreTrainedModel):
    """Base class: configuration, initialisation, and the class attributes that transformers uses."""

    config: R2TuningConfig
    config_class = R2TuningConfig
    base_model_prefix = "r2tuning"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video", "text"]  # noqa: RUF012 (class attribute of the base)
    _no_split_modules = [  # noqa: RUF012 (class attribute of the base)
        *itertools.chain.from_iterable(spec.layer_classes for spec in TOWER_SPECS.values()),
        *("R2Block", "GroundingHead"),
    ]
    # `dtype` sets the precision of the encoders alone.
    _keep_in_fp32_modules_strict = ["r2_block", "grounding_head", "method"]  # noqa: RUF012 (class attribute of the base)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise like the released code: attention xavier, feed-forward kaiming, all else with torch's defaults."""
        if isinstance(module, R2Block):
            init.constant_(module.scale, self.config.initial_pooling_scale)
            init.zeros_(module.gate)
            # Transformers calls this for the block after its parts. It skips modules of custom code that have no
            # parameters of their own, so the block initialises those.
            for part in module.modules():
                _init_temporal_part(part)
        elif isinstance(module, GroundingHead):
            init.ones_(module.level_scale)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def _init_temporal_part(part: nn.Module) -> None:
    if isinstance(part, TemporalAttention):
        for linear in (part.q_proj, part.k_proj, part.v_proj, part.out_proj):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)
    elif isinstance(part, FeedForward):
        for linear in (part.fc1, part.fc2):
            init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
            init.zeros_(linear.bias)


class R2TuningForVideoGrounding(GroundingMixin, R2TuningPreTrainedModel):  # type: ignore[misc]  # narrower `config`
    """Frozen encoders, R2 block and grounding heads.

    ```python
    inputs = processor(videos="talk.mp4", text="people laugh")
    outputs = model(**inputs)
    answer = processor.post_process_video_grounding(outputs)[0]["moments"][0]
    ```

    With another `config.method` it is a baseline of the paper's Table 9: the method's features replace R2-Tuning's;
    the rest is unchanged.

    The encoders stay in eval mode and, except for full tuning, frozen; parameters of theirs that are made trainable get
    gradients. `from_pretrained(..., dtype=torch.bfloat16)` loads the encoders in half precision; all other modules stay
    in float32. `dtype="int8"` is for inference on CPUs that do not compute in bfloat16, see `quantize_encoders`.
    """

    def __init__(self, config: R2TuningConfig):
        super().__init__(config)
        self.vision_model, self.text_model = make_encoders(config)
        self.method = make_method(config)
        self.method.watch(cast("nn.ModuleList", vision_layers(self.vision_model)[config.layers_read]))
        self._frozen_copies = FrozenCopies()  # of the image encoder
        self._fingerprint = Fingerprint()
        self.has_int8_encoders = False
        self.r2_block = R2Block(config)
        self.grounding_head = GroundingHead(config)
        self.post_init()
        if config.method_spec.uses_peft:
            add_lora(self)
        self._freeze_encoders()
        missing = {r"\.lora_"}  # loaded from files of their own
        if not config.save_backbone:
            missing |= {r"^vision_model\.", r"^text_model\."}
        self._keys_to_ignore_on_load_missing = missing | set(self._keys_to_ignore_on_load_missing or ())

    def reset_block_and_head(self) -> None:
        """Initialise the R2 block and the grounding head again, with new random numbers."""
        for part in (self.r2_block, self.grounding_head):
            # Children before their parents, as in transformers: a parent may overwrite its children's weights.
            for module in reversed(list(part.modules())):
                self._init_weights(module)

    # ---- training mode, loading and saving ---------------------------------------------------------------------

    def _freeze_encoders(self) -> None:
        freeze(self, lambda name: is_learned(name, self.config))
        self.vision_model.eval()
        self.text_model.eval()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        if self.has_int8_encoders:
            check_unmoved(fn)
            return self
        self._frozen_copies.clear()  # they would stay on the old device
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of the side block and heads; the encoders stay in eval mode.

        Raises:
            ValueError: The encoders are in int8.
        """
        if mode and self.has_int8_encoders:
            raise ValueError(
                "A model with int8 encoders is for inference: its features deviate from those of the encoders that it is "
                "saved with. Load it with `dtype` float32 or bfloat16 to train it."
            )
        super().train(mode)
        self.vision_model.eval()
        self.text_model.eval()
        return self

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the base class names all of its arguments
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> "R2TuningForVideoGrounding":
        """Load a checkpoint, and the encoders from `config.backbone_name_or_path` if the checkpoint lacks them.

        The arguments are those of `PreTrainedModel.from_pretrained`, and any field of the configuration, such as
        `backbone_name_or_path="/folder/with/clip"`. `dtype` may also be `"int8"` or `torch.int8`.

        Raises:
            OSError: The checkpoint or the backbone cannot be found or fetched.
            ValueError: The backbone does not fit the checkpoint, a file is damaged, or weights are missing, of other
                shapes or pickled. Or int8 cannot be used, see `quantize_encoders`.
            ImportError: A package is missing, such as torchao for int8.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        where = {name: kwargs[name] for name in PLACE_ARGUMENTS if name in kwargs}
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError("`use_safetensors` must be left out: weights are never loaded from a pickle.")
        if "backbone_name_or_path" in kwargs:
            kwargs.setdefault("backbone_revision", None)  # the checkpoint's revision belongs to its own backbone
            if kwargs["backbone_name_or_path"] is not None:
                read_backbone_config(kwargs["backbone_name_or_path"], revision=kwargs["backbone_revision"], **hub)
        reshape = kwargs.pop("ignore_mismatched_sizes", False)
        to_int8 = replace_int8(kwargs)
        with loading(pretrained_model_name_or_path, MODEL_FILES, **where, **hub):
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **kwargs,
            )
        model, info = cast("tuple[R2TuningForVideoGrounding, dict[str, Any]]", loaded)
        check_weights(pretrained_model_name_or_path, info, reshape)
        if model.config.method_spec.uses_peft:
            load_lora(model, pretrained_model_name_or_path, **where, **hub)
        if not model.config.save_backbone:
            model._load_backbone(pretrained_model_name_or_path, **hub)
        model._freeze_encoders()
        if to_int8:
            model.quantize_encoders()
        if output_loading_info:  # the annotation names the usual return type, as in transformers
            return cast("R2TuningForVideoGrounding", (model, info))
        return model

    def quantize_encoders(self) -> None:
        """Convert the linear layers of both encoders to int8, for inference on a CPU; needs torchao.

        They then compute 1.7 to 2 times as fast as in float32, and their hidden states deviate a little, see
        docs/performance.md. Such a model can neither be trained nor moved to another device, and it can be saved only
        if its checkpoint does not contain the encoders.

        Raises:
            ImportError: torchao is not installed.
            ValueError: The model is on a GPU, or its method has learned weights inside the encoders.
        """
        check_int8(self.device)
        if self.config.method_spec.place == "inside":
            raise ValueError(
                f"`dtype` must not be int8 for the method '{self.config.method}', which has learned weights inside the "
                "encoders. Use float32 or bfloat16."
            )
        for encoder in (self.vision_model, self.text_model):
            quantize_linears(encoder.float())
        self.has_int8_encoders = True
        self.config.dtype = torch.float32  # of what is saved
        self.eval()

    def copy_backbone(self, vision_model: nn.Module, text_model: nn.Module) -> None:
        """Fill both encoders with the weights of encoders of the same shapes, such as those of a `CLIPModel`."""
        copy_weights(vision_model, self.vision_model)
        copy_weights(text_model, self.text_model)

    def _load_backbone(self, checkpoint: str | os.PathLike, **hub: Any) -> None:
        """Fill both encoders with the weights of `config.backbone_name_or_path`."""
        self.copy_backbone(*load_backbone(self.config, checkpoint, **hub))

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the learned weights; also the encoders if `config.save_backbone` is set or any of them is trained.

        Raises:
            ValueError: The encoders would be saved but are in int8.
        """
        spec = self.config.method_spec
        adapters_only = getattr(self, "_hf_peft_config_loaded", False)
        if self._trains_encoder_weights() and not adapters_only and not self.config.save_backbone:
            logger.warning("The backbone is being trained, so it is saved with the checkpoint (`save_backbone=True`).")
            self.config.save_backbone = True
        if self.has_int8_encoders and self.config.save_backbone:
            raise ValueError(
                "The model's encoders are in int8 and cannot be saved, as the original weights are not kept. Load the model "
                "with another `dtype` to save it."
            )
        left_out = set()
        for name in self.state_dict():
            if is_adapter(name, spec) or (name.startswith(ENCODERS) and not self.config.save_backbone):
                left_out.add(name)
        self._keys_to_ignore_on_save = left_out
        if spec.uses_peft:
            if kwargs.get("push_to_hub"):
                raise ValueError("`push_to_hub` would leave peft's files out: call `model.push_to_hub(name)` instead.")
            save_lora(self, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        make_readable(save_directory)

    def _trains_encoder_weights(self) -> bool:
        """Whether any weight of the encoders is trainable; adapters of peft do not count."""
        for name, value in self.named_parameters():
            if name.startswith(ENCODERS) and value.requires_grad and not is_adapter(name, self.config.method_spec):
                return True
        return False

    # ---- frozen encoders ---------------------------------------------------------------------------------------

    def get_video_hidden_states(
        self,
        pixel_values_videos: torch.Tensor,
        chunk_size: int | None = 32,
        *,
        frame_mask: torch.Tensor | None = None,
        num_frames: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The last K hidden states of every frame; for other methods, those that `config.method_spec` names.

        Only real frames are encoded.

        Args:
            pixel_values_videos: `(batch, num_frames, 3, height, width)`, normalised pixels.
            chunk_size: Frames encoded at once; `None` = all. Methods that mix frames encode a whole video at once.
            frame_mask: `(batch, num_frames)`, `True` = real; default: all.
            num_frames: Number of real frames of each video instead of `frame_mask`, which is read from its device.

        Returns:
            `(batch, num_frames, num_layers, num_tokens, vision_hidden)`, last layer last; 0 where padded. In memory the
            layers are outermost, so that a single layer is contiguous.

        Raises:
            ValueError: `frame_mask` or `num_frames` does not fit the videos.
        """
        lengths = count_frames(pixel_values_videos, frame_mask, num_frames)
        pixels = pixel_values_videos.to(self.vision_model.dtype)
        layers = self._with_frozen_copies(vision_layers(self.vision_model), pixels.device.type)
        return read_video(self.vision_model, layers, pixels, lengths, chunk_size, self.config, self.method)

    def get_text_hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The last K hidden states of every token, `(batch, text_length, num_layers, text_hidden)`, last layer last.

        Args:
            input_ids: `(batch, text_length)`, padded as the processor pads: on the right, and to the longest possible text
                where the encoder was trained so.
            attention_mask: `(batch, text_length)`, `True` (or 1) = real; default: all. It has no effect where attention is
                causal or covers padding.

        Raises:
            ValueError: The text is not padded so, or is too long.
        """
        attention_mask = check_text(self.config, input_ids, None, attention_mask)
        return read_text(self.text_model, input_ids, attention_mask, self.config, self.method)

    def _with_frozen_copies(self, layers: nn.ModuleList, device_type: str) -> nn.ModuleList:
        """Layers with their frozen weights in autocast's precision, if autocast is on; int8 weights stay as they are."""
        dtype = autocast_dtype(device_type)
        if dtype is None or self.has_int8_encoders:
            return layers
        copies = self._frozen_copies.get(layers, dtype)
        return cast("nn.ModuleList", with_weights(layers, copies))

    def project_video(self, states: torch.Tensor, frame_mask: torch.Tensor) -> Iterator[torch.Tensor]:
        """Projected hidden states of a video for each recurrent step, see `R2Block.project_video`."""
        return self.r2_block.project_video(self.method.refine_video(states), frame_mask)

    def project_text(self, states: torch.Tensor) -> list[torch.Tensor]:
        """Projected hidden states of texts for each recurrent step, see `R2Block.project_text`."""
        return self.r2_block.project_text(self.method.refine_text(states))

    # ---- forward -----------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        video_hidden_states: torch.Tensor | None = None,
        text_hidden_states: torch.Tensor | None = None,
        moments: torch.Tensor | list[torch.Tensor] | None = None,
        moment_mask: torch.Tensor | None = None,
        saliency: torch.Tensor | None = None,
        positive_frame: torch.Tensor | None = None,
        fps: torch.Tensor | float | None = None,
        duration_sec: torch.Tensor | float | None = None,
        output_hidden_states: bool | None = None,
        video_index: torch.Tensor | None = None,
        checked: CheckedBatch | None = None,
    ) -> VideoGroundingOutput:
        """Ground a batch of queries; with labels, compute the loss.

        `batch` is the number of queries. The video tensors may hold one row for every `n` consecutive queries about
        the same video, or any rows of which `video_index` names one for each query. Frames are padded on the right; an
        example gives the same answer alone and in any batch.

        Args:
            pixel_values_videos: `(batch, num_frames, 3, height, width)`, normalised pixels.
            input_ids: `(batch, text_length)`, the tokenizer's ids from start to end of text.
            attention_mask: `(batch, text_length)`, `True` (or 1) = real; default: all.
            frame_mask: `(batch, num_frames)`, `True` (or 1) = real; default: all.
            video_hidden_states: `(batch, num_frames, num_layers, num_tokens, vision_hidden)`, hidden states from
                `get_video_hidden_states` or a feature cache, instead of pixels.
            text_hidden_states: `(batch, text_length, num_layers, text_hidden)` instead of token ids.
            moments: Labels: for each query `(num_moments, 2)`, start and end in seconds; or one padded tensor
                `(batch, num_moments, 2)` with `moment_mask`. A query without moments is absent: nothing matches it.
            moment_mask: `(batch, num_moments)`, `True` = real; only with one padded tensor.
            saliency: Labels: `(batch, num_frames)`, in [0, 1]; not used for absent queries.
            positive_frame: Labels: `(batch,)`, index of one positive frame, drawn by the data collator; not used for
                absent queries.
            fps: `(batch,)` or a number, frames per second; needed with `moments`.
            duration_sec: `(batch,)` or a number, length of the video; only post-processing uses it.
            output_hidden_states: Return the output of every recurrent step.
            video_index: `(batch,)`, index of each query's video in the video tensors; default: equal groups of
                consecutive queries.
            checked: From `check_batch`, which has checked the values of these tensors on the CPU. `forward` then checks
                only shapes, and never waits for an accelerator. By default it checks everything.

        Raises:
            ValueError: Inputs that are missing, contradict each other, have a wrong shape or values.
        """
        given = pixel_values_videos if video_hidden_states is None else video_hidden_states
        if checked is not None and (given is None or len(given) != len(checked.num_frames)):
            checked = None  # the batch was divided after the check, as by `torch.nn.DataParallel`
        text_mask = check_text(self.config, input_ids, text_hidden_states, attention_mask, checked)
        batch = len(text_mask)
        video_mask = check_video(
            self.config, pixel_values_videos, video_hidden_states, frame_mask, video_index, batch, checked
        )
        text = self._text_states(input_ids, text_hidden_states, text_mask)
        states = self._video_states(pixel_values_videos, video_hidden_states, video_mask, checked)
        if video_index is not None:
            states, video_mask = states.index_select(0, video_index), video_mask.index_select(0, video_index)
        video, words = self.project_video(states, video_mask), self.project_text(text)
        frame_mask = video_mask.repeat_interleave(batch // len(video_mask), dim=0)  # (batch, num_frames)
        outputs, block = self._predict(video, words, frame_mask, text_mask)
        outputs.fps = check_per_query("fps", fps, batch, text_mask.device, checked)
        outputs.duration_sec = check_per_query("duration_sec", duration_sec, batch, text_mask.device, checked)
        outputs.hidden_states = tuple(block.hidden_states) if output_hidden_states else None
        labels = check_labels(
            self.config, frame_mask, outputs.fps, moments, moment_mask, saliency, positive_frame, checked
        )
        if labels is not None:
            outputs.loss, outputs.loss_parts = self._compute_loss(outputs, block, text_mask, labels)
        return outputs

    def _text_states(
        self, input_ids: torch.Tensor | None, states: torch.Tensor | None, mask: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states of the texts, 0 where padded."""
        if states is None:
            states = read_text(self.text_model, cast("torch.Tensor", input_ids), mask, self.config, self.method)
        return states.masked_fill(~mask[..., None, None], 0.0)

    def _video_states(
        self,
        pixels: torch.Tensor | None,
        states: torch.Tensor | None,
        mask: torch.Tensor,
        checked: CheckedBatch | None,
    ) -> torch.Tensor:
        """Hidden states of the videos, 0 where padded."""
        num_frames = None if checked is None else checked.num_frames
        if states is None:
            frames = cast("torch.Tensor", pixels)
            return self.get_video_hidden_states(frames, frame_mask=mask, num_frames=num_frames)
        all_real = mask.all() if num_frames is None else min(num_frames) == mask.shape[1]
        if all_real:
            return states
        # Padding may hold any value, such as the infinities of the released caches.
        return states.masked_fill(~mask[..., None, None, None], 0.0)

    def _predict(
        self,
        video: Iterable[torch.Tensor],
        words: list[torch.Tensor],
        frame_mask: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> tuple[VideoGroundingOutput, R2BlockOutput]:
        """Run the block and the heads on projected states; the heads are in full precision."""
        block = self.r2_block(video, words, frame_mask, text_mask)
        dtype = self.grounding_head.level_scale.dtype
        with without_autocast(frame_mask.device.type):
            features, text_embeds = block.video_features.to(dtype), block.text_embeds[-1].to(dtype)
            outputs = self.grounding_head(features, text_embeds, frame_mask, text_mask)
        return outputs, block

    def _compute_loss(
        self, outputs: VideoGroundingOutput, block: R2BlockOutput, text_mask: torch.Tensor, labels: GroundingLabels
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and its parts, in full precision."""
        head = self.grounding_head
        dtype = head.level_scale.dtype
        with without_autocast(text_mask.device.type):
            texts = torch.stack([head.text_pooling(text.to(dtype), text_mask) for text in block.text_embeds])
            loss, parts = video_grounding_loss(outputs, torch.stack(block.frame_embeds), texts, labels, self.config)
        # Distributed training waits for a gradient of every parameter, so those without effect on the loss get 0.
        unused = self.r2_block.maybe_unused_parameters() + head.maybe_unused_parameters(labels.saliency.shape[1])
        return loss + 0.0 * sum(parameter.sum() for parameter in unused), parts


__all__ = [
    "R2TuningForVideoGrounding",
    "R2TuningPreTrainedModel",
]
