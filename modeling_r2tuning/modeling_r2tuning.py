"""R2-Tuning (arXiv 2404.00801): a frozen CLIP and one small recurrent side block for video temporal grounding.

A batch counts queries; where several consecutive queries ask about the same video, the video's tensors may hold it
once.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .block_r2tuning import FeedForward, R2Block, R2BlockOutput, TemporalAttention
from .configuration_r2tuning import BESIDE_CLIP, IN_CLIP, R2TuningConfig
from .encoding_r2tuning import EncodedVideo, encode_windows, stream_windows, window_size
from .files_r2tuning import make_readable
from .heads_r2tuning import GroundingHead, VideoGroundingOutput
from .loading_r2tuning import (
    BACKBONE_ADVICE,
    HUB_ARGUMENTS,
    MODEL_FILES,
    PLACE_ARGUMENTS,
    check_weights,
    loading,
    loading_backbone,
    read_backbone_config,
    safe_weights,
)
from .losses_r2tuning import GroundingLabels, pad_moments, video_grounding_loss
from .method_lora_r2tuning import add_lora, is_lora, load_lora, save_lora
from .methods_r2tuning import make_method
from .towers_r2tuning import FrozenCopies, embed_frames, embed_text, run_layer, with_weights


logger = logging.get_logger(__name__)

ENCODERS = ("vision_model.", "text_model.")
UNUSED_NORMS = ("vision_model.post_layernorm.", "text_model.final_layer_norm.")  # come after all that is read
FINGERPRINT_VALUES = 64  # of a weight of the method: a step of training changes all its values


class R2TuningPreTrainedModel(PreTrainedModel):
    """Base class: configuration, initialisation, and what transformers needs to know."""

    config: R2TuningConfig
    config_class = R2TuningConfig
    base_model_prefix = "r2tuning"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "text")
    _no_split_modules = ("CLIPEncoderLayer", "R2Block", "GroundingHead")
    # `dtype` chooses the precision of the encoders, not of what is put into or beside them
    _keep_in_fp32_modules_strict = ("r2_block", "grounding_head", "method")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Attention xavier uniform, feed-forward kaiming normal, the rest torch's defaults (the released code's)."""
        if isinstance(module, R2Block):
            init.constant_(module.scale, self.config.initial_pooling_scale)
            init.zeros_(module.gate)
            # Visited after its parts; those without parameters of their own are never visited in custom code.
            for part in module.modules():
                _init_temporal_part(part)
        elif isinstance(module, GroundingHead):
            init.ones_(module.level_scale)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _init_temporal_part(part: nn.Module):
    if isinstance(part, TemporalAttention):
        for linear in (part.q_proj, part.k_proj, part.v_proj, part.out_proj):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)
    elif isinstance(part, FeedForward):
        for linear in (part.fc1, part.fc2):
            init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
            init.zeros_(linear.bias)


class R2TuningForVideoGrounding(R2TuningPreTrainedModel):
    """Frozen CLIP, R2 block and grounding heads.

    ```python
    inputs = processor(videos="talk.mp4", text="people laugh")
    outputs = model(**inputs)
    answer = processor.post_process_video_grounding(outputs)[0]["moments"][0]
    ```

    With another `config.method` it is a baseline of the paper's Table 9: frames and words that this method makes with
    CLIP take the place of those that R2-Tuning reads, the rest is the same.

    The encoders stay in eval mode and, but for full tuning, frozen; parameters of theirs that are made trainable get
    gradients. `from_pretrained(..., dtype=torch.bfloat16)` holds the encoders in half precision; what is learned
    besides stays in float32.
    """

    def __init__(self, config: R2TuningConfig):
        super().__init__(config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.method = make_method(config)
        if config.method == "e3va":
            self.method.watch(self.vision_model.encoder.layers[config.layers_read])
        self._frozen_copies = FrozenCopies()  # of the image encoder
        self.r2_block = R2Block(config)
        self.grounding_head = GroundingHead(config)
        self.post_init()
        if config.method == "lora":
            add_lora(self)
        self._freeze_encoders()
        if not config.save_backbone:
            self._keys_to_ignore_on_load_missing = {r"^vision_model\.", r"^text_model\."}
        self._keys_to_ignore_on_load_missing = {*self._keys_to_ignore_on_load_missing, r"\.lora_"}

    def _freeze_encoders(self):
        """Freeze what is not learned, above all CLIP."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._is_learned(name))
        self.vision_model.eval()
        self.text_model.eval()

    def _is_learned(self, name: str) -> bool:
        if self.config.method == "full":
            return not name.startswith(UNUSED_NORMS)
        return not name.startswith(ENCODERS) or self._is_adapter(name)

    def _is_adapter(self, name: str) -> bool:
        """Whether a weight belongs to the adapters of the method LoRA, which have files of their own."""
        return self.config.method == "lora" and is_lora(name)

    def _apply(self, *args, **kwargs):
        self._frozen_copies.clear()  # they would stay on the old device
        return super()._apply(*args, **kwargs)

    def train(self, mode: bool = True):
        """Set the training mode of the side block and heads; CLIP stays in eval mode."""
        super().train(mode)
        self.vision_model.eval()
        self.text_model.eval()
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """Load a checkpoint, and CLIP from `config.backbone_name_or_path` if the checkpoint does not hold it.

        Arguments are those of `PreTrainedModel.from_pretrained`; any field of the configuration may be given too,
        such as `backbone_name_or_path="/folder/with/clip"`.

        Raises:
            OSError: The checkpoint or CLIP cannot be found or fetched.
            ValueError: CLIP does not fit the checkpoint, a file is damaged, or weights are missing, of other shapes or
                pickled.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        where = {name: kwargs[name] for name in PLACE_ARGUMENTS if name in kwargs}
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError("`use_safetensors` must be left out: weights are never loaded from a pickle.")
        if "backbone_name_or_path" in kwargs:
            kwargs.setdefault("backbone_revision", None)  # the checkpoint's belongs to its own CLIP
            if kwargs["backbone_name_or_path"] is not None:
                read_backbone_config(kwargs["backbone_name_or_path"], revision=kwargs["backbone_revision"], **hub)
        reshape = kwargs.pop("ignore_mismatched_sizes", False)
        with loading(pretrained_model_name_or_path, MODEL_FILES, **where, **hub):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **kwargs,
            )
        check_weights(pretrained_model_name_or_path, info, reshape)
        if model.config.method == "lora":
            load_lora(model, pretrained_model_name_or_path, **where, **hub)
        if not model.config.save_backbone:
            model._load_backbone(pretrained_model_name_or_path, **hub)
        model._freeze_encoders()
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def copy_backbone(self, vision_model: nn.Module, text_model: nn.Module) -> None:
        """Fill both encoders with the weights of others of the same shapes, such as those of a `CLIPModel`."""
        _copy_weights(vision_model, self.vision_model)
        _copy_weights(text_model, self.text_model)

    def _load_backbone(self, checkpoint: str, **hub):
        """Fill both encoders with the weights of `config.backbone_name_or_path`."""
        name = self.config.backbone_name_or_path
        if name is None:
            raise ValueError(
                f"The checkpoint '{checkpoint}' holds no CLIP and its configuration names none. {BACKBONE_ADVICE}"
            )
        hub["revision"] = self.config.backbone_revision
        found = self._check_backbone(name, hub)
        with loading_backbone(name, **hub):
            clip, info = CLIPModel.from_pretrained(
                name, config=found, output_loading_info=True, **safe_weights(name, hub)
            )
        missing = sorted(key for key in info["missing_keys"] if key.startswith(ENCODERS))
        if missing:
            raise ValueError(f"CLIP '{name}' is incomplete: it lacks {len(missing)} weights, such as {missing[:3]}.")
        self.copy_backbone(clip.vision_model, clip.text_model)

    def _check_backbone(self, name: str, hub: dict) -> CLIPConfig:
        """The configuration of a CLIP that has the sizes of this model's."""
        found = read_backbone_config(name, **hub)
        for part in ("vision_config", "text_config"):
            ours, theirs = getattr(self.config, part), getattr(found, part)
            fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
            vision = part == "vision_config"
            fields += (
                ("patch_size", "image_size", "num_channels") if vision else ("vocab_size", "max_position_embeddings")
            )
            wrong = [f for f in fields if getattr(ours, f) != getattr(theirs, f)]
            if wrong:
                raise ValueError(
                    f"CLIP '{name}' does not fit this checkpoint: its {part} has "
                    + ", ".join(f"{f}={getattr(theirs, f)} where {getattr(ours, f)} is needed" for f in wrong)
                    + "."
                )
        return found

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save what is learned, and CLIP too if `config.save_backbone` is set or anything in CLIP is trainable."""
        trained = any(
            value.requires_grad and not self._is_adapter(name)
            for name, value in self.named_parameters()
            if name.startswith(ENCODERS)
        )
        adapters_only = getattr(self, "_hf_peft_config_loaded", False)
        if trained and not adapters_only and not self.config.save_backbone:
            logger.warning("CLIP is being trained, so it is saved with the checkpoint (`save_backbone=True`).")
            self.config.save_backbone = True
        self._keys_to_ignore_on_save = {
            name
            for name in self.state_dict()
            if self._is_adapter(name) or (name.startswith(ENCODERS) and not self.config.save_backbone)
        }
        if self.config.method == "lora":
            if kwargs.get("push_to_hub"):
                raise ValueError("`push_to_hub` would leave peft's files out: call `model.push_to_hub(name)` instead.")
            save_lora(self, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        make_readable(save_directory)

    # ---- frozen encoders ---------------------------------------------------------------------------------------

    def get_video_hidden_states(
        self,
        pixel_values_videos: torch.Tensor,
        chunk_size: int | None = 32,
        *,
        frame_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What is read of each frame in CLIP: its last K states, with other methods than R2-Tuning see `config`.

        Args:
            pixel_values_videos: `(batch, num_frames, 3, height, width)`, normalised pixels.
            chunk_size: Frames encoded at once; `None` = all. Methods that mix frames encode a video at once.
            frame_mask: `(batch, num_frames)`, `True` = real; default: all. Only where frames are mixed it matters.

        Returns:
            `(batch, num_frames, num_layers, num_tokens, vision_hidden)`, last layer last. In memory the layers are
            outermost, so that a single layer is contiguous.
        """
        pixels = pixel_values_videos.to(self.vision_model.dtype)
        if self.config.mixes_frames:
            chunks, missing = _whole_videos(pixels, frame_mask)
        else:
            chunks = pixels.flatten(0, 1).split(chunk_size or pixels.shape[:2].numel())
            missing = [0] * len(chunks)
        layers = self._with_frozen_copies(self.vision_model.encoder.layers, pixels.device.type)
        states = [
            torch.stack([_pad_frames(layer, count) for layer in self._states("vision", layers, chunk)])
            for chunk, count in zip(chunks, missing, strict=True)
        ]
        states = torch.cat(states, dim=1) if len(states) > 1 else states[0]
        return states.unflatten(1, pixels.shape[:2]).movedim(0, 2)

    def get_text_hidden_states(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What is read of each token in CLIP, `(batch, text_length, num_layers, text_hidden)`, last layer last.

        Attention is causal, so tokens padded on the right do not matter here.
        """
        return torch.stack(self._states("text", self.text_model.encoder.layers, input_ids), dim=2)

    def _with_frozen_copies(self, layers: nn.ModuleList, device_type: str) -> nn.ModuleList:
        """Layers with their frozen weights in autocast's precision, if autocast is on."""
        if not torch.is_autocast_enabled(device_type):
            return layers
        return with_weights(layers, self._frozen_copies.get(layers, torch.get_autocast_dtype(device_type)))

    def _states(
        self, tower: Literal["vision", "text"], layers: nn.ModuleList, inputs: torch.Tensor
    ) -> list[torch.Tensor]:
        """Outputs of the layers that are read, before any final norm.

        If nothing in CLIP is trained, nothing is kept for backward, and under autocast states are of its precision.
        """
        encoder, embed = (self.vision_model, embed_frames) if tower == "vision" else (self.text_model, embed_text)
        tokens_read = self.config.tokens_read if tower == "vision" else slice(None)
        layers_read = range(len(layers))[self.config.layers_read]
        learned = self.config.method in IN_CLIP or any(parameter.requires_grad for parameter in encoder.parameters())
        device_type = inputs.device.type
        halved = torch.is_autocast_enabled(device_type) and not learned
        run = getattr(self.method, f"run_{tower}_layer", run_layer)
        states = []

        def read(output: torch.Tensor) -> None:
            dtype = torch.get_autocast_dtype(device_type) if halved else output.dtype
            # a copy, not a view, so that tokens that are not read are freed
            states.append(output[:, tokens_read].to(dtype, copy=tokens_read != slice(None)))

        reads_branches = self.config.method == "e3va" and tower == "vision"
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and learned),
            self.method.reading_branches(read) if reads_branches else nullcontext(),
        ):
            tokens, mask, options = embed(encoder, inputs)
            for index, layer in enumerate(layers):
                tokens = run(index, layer, tokens, mask, **options)
                if index in (layers_read[-1:] if reads_branches else layers_read):
                    read(tokens)
        return states

    # ---- from CLIP's states to the block -----------------------------------------------------------------------

    def _project_video(self, states: torch.Tensor, frame_mask: torch.Tensor) -> Iterator[torch.Tensor]:
        """Projected states of each step, see `R2Block.project_video`."""
        if self.config.method in BESIDE_CLIP:
            states = self.method.refine_video(states)
        return self.r2_block.project_video(states, frame_mask)

    def _project_text(self, states: torch.Tensor) -> list[torch.Tensor]:
        """Projected text states of each step, see `R2Block.project_text`."""
        if self.config.method in BESIDE_CLIP:
            states = self.method.refine_text(states)
        return self.r2_block.project_text(states)

    # ---- encode once, ask many ---------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_video(
        self,
        pixel_values_videos: torch.Tensor | Iterable[torch.Tensor] | None = None,
        *,
        video_hidden_states: torch.Tensor | None = None,
        fps: float | None = None,
        duration_sec: float | None = None,
        window_sec: float | str | None = "config",
        chunk_size: int = 32,
    ) -> EncodedVideo:
        """Encode one video of any length, to be asked many queries with `ground`.

        A video longer than `window_sec` is cut into windows that overlap by half. One long pass (`window_sec=None`)
        sees moments longer than half a window whole and compares all of the video at once, but its positions are
        stretched beyond what was trained and its attention grows with the square of the length; windows keep to the
        trained length and are the better choice when moments are short against the video.

        Args:
            pixel_values_videos: `(num_frames, 3, height, width)`, with or without a batch axis of one, or an iterable
                of such pieces, so that no more than a window of frames need be in memory.
            video_hidden_states: Cached states `(num_frames, num_layers, num_tokens, vision_hidden)` instead.
            fps: Frames per second; default `config.fps`.
            duration_sec: Length of the video in seconds; default `num_frames / fps`.
            window_sec: Longest window in seconds; default `config.window_sec`, `None` = one pass.
            chunk_size: Frames that go through CLIP at once.

        Returns:
            `EncodedVideo`.

        Raises:
            ValueError: No frames, both kinds of input or none, or no frame rate.
        """
        if (pixel_values_videos is None) == (video_hidden_states is None):
            raise ValueError("Pass either `pixel_values_videos` or `video_hidden_states`, got both or none.")
        fps = fps if fps is not None else self.config.fps
        if not 0 < fps < float("inf"):
            raise ValueError(f"`fps` must be positive and finite, got {fps}.")
        window_sec = self.config.window_sec if window_sec == "config" else window_sec
        if window_sec is not None and not window_sec > 0:
            raise ValueError(f"`window_sec` must be positive or None, got {window_sec}.")
        if video_hidden_states is not None:
            _check_shape("video_hidden_states", video_hidden_states, self._state_shape[1:])
            pieces = iter([video_hidden_states.to(self.device)])
        else:
            pieces = self._pixel_pieces(pixel_values_videos, chunk_size)
            if not self.config.mixes_frames:  # then a frame's states are the same in all windows
                pieces = (self.get_video_hidden_states(piece[None], chunk_size)[0] for piece in pieces)
        windows = stream_windows(pieces, window_size(window_sec, fps))
        if video_hidden_states is None and self.config.mixes_frames:
            windows = ((start, self.get_video_hidden_states(frames[None])[0]) for start, frames in windows)
        return encode_windows(windows, self._project_window, fps, duration_sec, self._fingerprint())

    def _pixel_pieces(self, pixel_values_videos: torch.Tensor | Iterable[torch.Tensor], chunk_size: int):
        """One piece of video after the other, `(n, 3, height, width)` each, on the model's device."""
        if isinstance(pixel_values_videos, torch.Tensor):
            if pixel_values_videos.dim() == 5 and len(pixel_values_videos) == 1:
                pixel_values_videos = pixel_values_videos[0]
            pixel_values_videos = pixel_values_videos.split(chunk_size) if len(pixel_values_videos) else ()
        for piece in pixel_values_videos:
            if len(piece) == 0:
                continue
            if piece.dim() != 4:
                raise ValueError(
                    "`pixel_values_videos` must be one video, `(num_frames, 3, height, width)`, or an iterable of "
                    f"such pieces, got the shape {tuple(piece.shape)}."
                )
            yield piece.to(self.device)

    def _project_window(self, states: torch.Tensor) -> torch.Tensor:
        """Projected states of one window, `(num_steps, window_frames, num_tokens, hidden)`."""
        frame_mask = torch.ones(1, len(states), dtype=torch.bool, device=states.device)
        return torch.cat(list(self._project_video(states[None], frame_mask)))

    def _fingerprint(self) -> str:
        """Identifies the weights that an encoded video depends on, frozen CLIP's excepted."""
        digest = hashlib.sha256(f"{self.config.layer_fusion} {self.config.num_recurrent_steps}".encode())
        weights = [value for step in self.r2_block.steps for value in step.video_projection.state_dict().values()]
        for name, value in self.named_parameters():
            if name.startswith(("vision_model.", "method.")) and self._is_learned(name):
                weights.append(value.flatten()[:FINGERPRINT_VALUES])
        for value in weights:
            digest.update(value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def ground(
        self,
        encoded_video: EncodedVideo,
        *,
        input_ids: torch.Tensor | None = None,
        text_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        batch_size: int = 32,
        output_video_features: bool = False,
    ) -> VideoGroundingOutput:
        """Ask an encoded video any number of queries.

        Args:
            encoded_video: From `encode_video` of this model.
            input_ids: `(num_queries, text_length)`.
            text_hidden_states: `(num_queries, text_length, num_layers, text_hidden)` instead.
            attention_mask: `(num_queries, text_length)`, `True` = real; default: all.
            batch_size: Queries answered at once.
            output_video_features: Also return `video_features`, which make up nine tenths of the output.

        Returns:
            `VideoGroundingOutput` with one row for each query and window: all windows of the first query first.
            `query_index` and `window_starts` tell them apart; post-processing merges them.

        Raises:
            ValueError: The video was encoded by other weights, or the text is missing or malformed.
        """
        if encoded_video.fingerprint != self._fingerprint():
            raise ValueError("`encoded_video` was made by other weights than this model's. Encode the video again.")
        text, text_mask = self._text_inputs(input_ids, text_hidden_states, attention_mask)
        words = self._project_text(text)
        starts, frame_masks = encoded_video.window_starts.to(self.device), encoded_video.frame_mask.to(self.device)
        rows = []
        for start, mask, embeds in zip(starts, frame_masks, encoded_video.video_embeds, strict=True):
            video = embeds.to(self.device, self.r2_block.scale.dtype)[:, None]  # for each step a batch of one
            for queries in torch.arange(len(text_mask), device=self.device).split(batch_size):
                some_words = [step[queries] for step in words]
                output, _ = self._predict(video, some_words, mask.expand(len(queries), -1), text_mask[queries])
                kept = {} if output_video_features else {"video_features": None}
                rows.append(replace(output, query_index=queries, window_starts=start.expand(len(queries)), **kept))
        return _join_rows(rows, encoded_video)

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
    ) -> VideoGroundingOutput:
        """Ground a batch of queries; with labels, compute the loss.

        A batch counts queries. The video tensors may hold one row for every `n` consecutive queries about the same
        video. Padding is on the right of the frames; an example gives the same answer alone and in any batch.

        Args:
            pixel_values_videos: `(batch, num_frames, 3, height, width)`, normalised pixels.
            input_ids: `(batch, text_length)`, CLIP's token ids from start to end of text.
            attention_mask: `(batch, text_length)`, `True` (or 1) = real; default: all.
            frame_mask: `(batch, num_frames)`, `True` (or 1) = real; default: all.
            video_hidden_states: `(batch, num_frames, num_layers, num_tokens, vision_hidden)`, CLIP's last K states,
                last layer last, instead of pixels.
            text_hidden_states: `(batch, text_length, num_layers, text_hidden)` instead of token ids.
            moments: Labels: for each query `(num_moments, 2)`, start and end in seconds; or one padded tensor
                `(batch, num_moments, 2)` with `moment_mask`.
            moment_mask: `(batch, num_moments)`, `True` = real; only with one padded tensor.
            saliency: Labels: `(batch, num_frames)`, in [0, 1].
            positive_frame: Labels: `(batch,)`, index of one positive frame, drawn by the data collator.
            fps: `(batch,)` or a number, frames per second; needed with `moments`.
            duration_sec: `(batch,)` or a number, length of the video; only passed on to post-processing.
            output_hidden_states: Return the output of every recurrent step.

        Raises:
            ValueError: Inputs that are missing, contradict each other or have a wrong shape.
        """
        text, text_mask = self._text_inputs(input_ids, text_hidden_states, attention_mask)
        states, frame_mask = self._video_inputs(pixel_values_videos, video_hidden_states, frame_mask, len(text_mask))
        video = self._project_video(states, frame_mask[:: len(text_mask) // len(states)])
        outputs, block = self._predict(video, self._project_text(text), frame_mask, text_mask)
        outputs.fps = _per_query("fps", fps, text_mask)
        outputs.duration_sec = _per_query("duration_sec", duration_sec, text_mask)
        outputs.hidden_states = tuple(block.hidden_states) if output_hidden_states else None
        labels = self._labels(outputs, moments, moment_mask, saliency, positive_frame)
        if labels is not None:
            outputs.loss, outputs.loss_parts = self._compute_loss(outputs, block, text_mask, labels)
        return outputs

    def _predict(
        self,
        video: Iterable[torch.Tensor],
        words: list[torch.Tensor],
        frame_mask: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> tuple[VideoGroundingOutput, R2BlockOutput]:
        block = self.r2_block(video, words, frame_mask, text_mask)
        dtype = self.grounding_head.level_scale.dtype
        with torch.autocast(frame_mask.device.type, enabled=False):
            outputs = self.grounding_head(
                block.video_features.to(dtype), block.text_embeds[-1].to(dtype), frame_mask, text_mask
            )
        return outputs, block

    def _compute_loss(
        self, outputs: VideoGroundingOutput, block: R2BlockOutput, text_mask: torch.Tensor, labels: GroundingLabels
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        dtype = self.grounding_head.level_scale.dtype
        with torch.autocast(text_mask.device.type, enabled=False):
            texts = torch.stack(
                [self.grounding_head.text_pooling(text.to(dtype), text_mask) for text in block.text_embeds]
            )
            loss, parts = video_grounding_loss(outputs, torch.stack(block.frame_embeds), texts, labels, self.config)
        return loss + 0.0 * sum(parameter.sum() for parameter in self._unused_parameters(outputs)), parts

    def _unused_parameters(self, outputs: VideoGroundingOutput) -> list[nn.Parameter]:
        """Parameters that may have had no part in `outputs`: distributed training asks for a gradient of each."""
        head, num_frames = self.grounding_head, outputs.frame_mask.shape[1]
        unused = [self.r2_block.scale, self.r2_block.gate, head.level_scale]
        if self.r2_block.pools_patches:
            unused += [step.video_key.bias for step in self.r2_block.steps]
        for stride, level in zip(self.config.strides, head.pyramid.levels, strict=True):
            if stride > num_frames:
                unused += level.parameters()
        return unused

    # ---- checks at the door ------------------------------------------------------------------------------------

    @property
    def _state_shape(self) -> tuple[int | None, ...]:
        """Shape of `video_hidden_states`; `None` = any size."""
        return None, None, self.config.num_video_states, None, self.config.vision_config.hidden_size

    def _text_inputs(
        self,
        input_ids: torch.Tensor | None,
        text_hidden_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """CLIP's text states `(batch, text_length, num_layers, text_hidden)` and their mask."""
        if (input_ids is None) == (text_hidden_states is None):
            raise ValueError("Pass either `input_ids` or `text_hidden_states`, got both or none.")
        if input_ids is not None:
            _check_shape("input_ids", input_ids, (None, None))
            longest = self.config.text_config.max_position_embeddings
            if input_ids.shape[1] > longest:
                raise ValueError(f"`input_ids` must not be longer than {longest} tokens, got {input_ids.shape[1]}.")
        else:
            sizes = (None, None, self.config.num_text_states, self.config.text_config.hidden_size)
            _check_shape("text_hidden_states", text_hidden_states, sizes)
        given = input_ids if input_ids is not None else text_hidden_states
        mask = _check_mask("attention_mask", attention_mask, given)
        states = self.get_text_hidden_states(input_ids) if input_ids is not None else text_hidden_states
        return states.masked_fill(~mask[..., None, None], 0.0), mask

    def _video_inputs(
        self,
        pixel_values_videos: torch.Tensor | None,
        video_hidden_states: torch.Tensor | None,
        frame_mask: torch.Tensor | None,
        batch: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """CLIP's video states, one row a video, and the mask of the frames, one row a query."""
        if (pixel_values_videos is None) == (video_hidden_states is None):
            raise ValueError("Pass either `pixel_values_videos` or `video_hidden_states`, got both or none.")
        if pixel_values_videos is not None:
            size = self.config.vision_config.image_size
            sizes = (None, None, self.config.vision_config.num_channels, size, size)
            _check_shape("pixel_values_videos", pixel_values_videos, sizes)
        else:
            _check_shape("video_hidden_states", video_hidden_states, self._state_shape)
        given = pixel_values_videos if pixel_values_videos is not None else video_hidden_states
        if batch % len(given):
            raise ValueError(f"{batch} queries cannot be shared out evenly among {len(given)} videos.")
        per_video = batch // len(given)
        if frame_mask is not None and len(frame_mask) == batch:
            frame_mask = frame_mask[::per_video]
        mask = _check_mask("frame_mask", frame_mask, given)
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError("`frame_mask` must be padded on the right: no `True` may follow a `False`.")
        states = given
        if pixel_values_videos is not None:
            states = self.get_video_hidden_states(pixel_values_videos, frame_mask=mask)
        if not mask.all():  # padding may hold anything, such as the infinities of the released caches
            states = states.masked_fill(~mask[..., None, None, None], 0.0)
        return states, mask.repeat_interleave(per_video, dim=0)

    def _labels(
        self,
        outputs: VideoGroundingOutput,
        moments: torch.Tensor | list[torch.Tensor] | None,
        moment_mask: torch.Tensor | None,
        saliency: torch.Tensor | None,
        positive_frame: torch.Tensor | None,
    ) -> GroundingLabels | None:
        """Labels in frames, or `None` if none are given."""
        needed = {"saliency": saliency, "positive_frame": positive_frame}
        if self.config.use_moment_head:
            needed["moments"] = moments
        if all(label is None for label in needed.values()):
            return None
        if self.config.use_moment_head:
            needed["fps"] = outputs.fps
        missing = sorted(name for name, label in needed.items() if label is None)
        if missing:
            raise ValueError(f"Labels are incomplete: {missing} missing, needed are {sorted(needed)}.")
        _check_shape("saliency", saliency, tuple(outputs.frame_mask.shape))
        _check_shape("positive_frame", positive_frame, (len(saliency),))
        num_frames = outputs.frame_mask.sum(dim=1)
        if not ((positive_frame >= 0) & (positive_frame < num_frames)).all():
            raise ValueError(f"`positive_frame` must be a valid frame of its video, got {positive_frame.tolist()}.")
        saliency = saliency.float().masked_fill(~outputs.frame_mask, 0.0)
        if not self.config.use_moment_head:
            return GroundingLabels(saliency, positive_frame)
        moments, moment_mask = pad_moments(moments, moment_mask, saliency.device)
        _check_shape("moments", moments, (len(saliency), None, 2))
        return GroundingLabels(saliency, positive_frame, moments * outputs.fps[:, None, None], moment_mask)


def _check_shape(name: str, tensor: torch.Tensor, sizes: tuple[int | None, ...]):
    fits = tensor.dim() == len(sizes) and all(
        size is None or size == found for size, found in zip(sizes, tensor.shape, strict=True)
    )
    if not fits or 0 in tensor.shape[:2]:
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"`{name}` must have the shape ({wanted}) and not be empty, got {tuple(tensor.shape)}.")


def _check_mask(name: str, mask: torch.Tensor | None, masked: torch.Tensor) -> torch.Tensor:
    """Boolean mask `(batch, length)` of the first two axes of `masked`."""
    if mask is None:
        return torch.ones(masked.shape[:2], dtype=torch.bool, device=masked.device)
    _check_shape(name, mask, tuple(masked.shape[:2]))
    mask = mask.to(masked.device, torch.bool)
    if not mask.any(dim=1).all():
        raise ValueError(f"`{name}` must have a `True` in every row.")
    return mask


def _whole_videos(pixels: torch.Tensor, frame_mask: torch.Tensor | None) -> tuple[list[torch.Tensor], list[int]]:
    """Each video without its padding, and how many frames of padding that is."""
    num_frames = pixels.shape[1]
    lengths = [num_frames] * len(pixels) if frame_mask is None else frame_mask.sum(dim=1).tolist()
    videos = [video[:length] for video, length in zip(pixels, lengths, strict=True)]
    return videos, [num_frames - length for length in lengths]


def _pad_frames(states: torch.Tensor, count: int) -> torch.Tensor:
    """States `(num_frames, num_tokens, hidden)` with `count` more frames of zeros."""
    return F.pad(states, (0, 0, 0, 0, 0, count)) if count else states


def _per_query(name: str, value: torch.Tensor | float | None, text_mask: torch.Tensor) -> torch.Tensor | None:
    """A number for each query, `(batch,)`, float32."""
    if value is None:
        return None
    value = torch.as_tensor(value, dtype=torch.float32, device=text_mask.device)
    if value.dim() > 1 or value.numel() == 0 or (value.dim() == 1 and len(text_mask) % len(value)):
        raise ValueError(f"`{name}` must be a number or one for each query, got the shape {tuple(value.shape)}.")
    if not ((value > 0) & value.isfinite()).all():
        raise ValueError(f"`{name}` must be positive and finite, got {value.tolist()}.")
    return value.expand(len(text_mask)) if value.dim() == 0 else value.repeat_interleave(len(text_mask) // len(value))


def _join_rows(rows: list[VideoGroundingOutput], video: EncodedVideo) -> VideoGroundingOutput:
    """One output of all rows, ordered by query and then by window."""
    query_index = torch.cat([row.query_index for row in rows])
    order = query_index.argsort(stable=True)
    joined = VideoGroundingOutput(points=rows[0].points)
    for name in rows[0]:
        if name != "points":
            setattr(joined, name, torch.cat([row[name] for row in rows])[order])
    joined.fps = torch.full_like(query_index, video.fps, dtype=torch.float32)
    joined.duration_sec = torch.full_like(query_index, video.duration_sec, dtype=torch.float32)
    return joined


def _copy_weights(source: nn.Module, encoder: nn.Module):
    ours = {
        key.replace(".base_layer.", "."): value for key, value in encoder.state_dict().items()
    }  # as peft names them
    for key, value in source.state_dict().items():
        ours[key].copy_(value)


__all__ = [
    "R2TuningForVideoGrounding",
    "R2TuningPreTrainedModel",
]
