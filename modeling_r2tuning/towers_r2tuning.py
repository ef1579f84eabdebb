"""The frozen encoders: loading, freezing, and reading the hidden states of their layers.

Threads share the encoders, so a call changes nothing in them: it neither registers hooks nor swaps weights.

What distinguishes one kind of encoder from another is in `tower_specs_r2tuning.py`.
"""

import copy
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from .configuration_r2tuning import R2TuningConfig
from .fingerprint_r2tuning import Stamp
from .loading_r2tuning import BACKBONE_ADVICE, loading_backbone, read_backbone_config, safe_weights
from .method_base_r2tuning import TransferMethod
from .precision_r2tuning import autocast_dtype
from .tower_specs_r2tuning import TowerSpec, backbone_spec


ENCODERS = ("vision_model.", "text_model.")  # prefixes of the encoders' parameters in the model

SIZES = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
VISION_SIZES = (*SIZES, "patch_size", "image_size", "num_channels")
TEXT_SIZES = (*SIZES, "vocab_size", "max_position_embeddings")

# ---- parts of the encoders -----------------------------------------------------------------------------------------


def make_encoders(config: R2TuningConfig) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Image and text encoder with random weights."""
    spec = config.tower_spec
    vision_class, text_class = (getattr(transformers, name) for name in spec.encoder_classes)
    vision_model = vision_class._from_config(config.vision_config)
    return vision_model, text_class._from_config(config.text_config, **spec.text_arguments)


def vision_layers(vision_model: nn.Module) -> nn.ModuleList:
    """The layers of the image encoder, the first one first."""
    return cast("nn.ModuleList", vision_model.get_submodule("encoder.layers"))


def branches_of(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two modules of a layer of the image encoder whose outputs are added to the residual stream: attention and MLP."""
    return cast("nn.Module", layer.self_attn), cast("nn.Module", layer.mlp)


def embed_frames(vision_model: nn.Module, pixels: torch.Tensor, spec: TowerSpec) -> torch.Tensor:
    """Input of the first layer, `(num_frames, num_tokens, vision_hidden)`, from `(num_frames, 3, height, width)`."""
    tokens = cast("nn.Module", vision_model.embeddings)(pixels)
    return tokens if spec.image_norm is None else vision_model.get_submodule(spec.image_norm)(tokens)


def add_frame_token(vision_model: nn.Module, tokens: torch.Tensor, spec: TowerSpec) -> torch.Tensor:
    """Put the token that represents the frame first.

    That is CLS, which is first already. Without CLS it is head(norm(h)), the encoder's own pooling of the hidden states h;
    of the last layer this is its `pooler_output`.

    Args:
        vision_model: Image encoder.
        tokens: Output of one of its layers, `(num_frames, num_tokens, vision_hidden)`.
        spec: Properties of the encoders.

    Returns:
        `(num_frames, 1 + num_patches, vision_hidden)`.
    """
    if spec.has_cls:
        return tokens
    pooled = cast("nn.Module", vision_model.head)(cast("nn.Module", vision_model.post_layernorm)(tokens))
    return torch.cat([pooled[:, None].to(tokens.dtype), tokens], dim=1)


def embed_text(
    body: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, spec: TowerSpec
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Input of the first layer, `(batch, text_length, text_hidden)`, and the mask of attention.

    Args:
        body: The part of the text encoder that holds its embeddings and layers.
        input_ids: `(batch, text_length)`.
        attention_mask: `(batch, text_length)`, boolean, `True` = real.
        spec: Properties of the encoders.
    """
    tokens = cast("nn.Module", body.embeddings)(input_ids=input_ids)
    visible = attention_mask if spec.text_attention == "masked" else None
    arguments = {"config": body.config, "inputs_embeds": tokens, "attention_mask": visible}
    if spec.text_attention == "causal":
        mask = create_causal_mask(**arguments, past_key_values=None)
    else:
        mask = create_bidirectional_mask(**arguments)
    return tokens, cast("torch.Tensor | None", mask)


# ---- loading and freezing ------------------------------------------------------------------------------------------


def load_backbone(config: R2TuningConfig, checkpoint: str | os.PathLike, **hub: Any) -> tuple[nn.Module, nn.Module]:
    """Load the image and the text encoder of the backbone named by `config.backbone_name_or_path`.

    Args:
        config: Configuration of the checkpoint.
        checkpoint: Name of the checkpoint, for messages.
        hub: Hub arguments (`token`, `cache_dir`, ...).

    Raises:
        OSError: They cannot be found or fetched.
        ValueError: The configuration names none, or they are damaged, incomplete or of other sizes.
    """
    name = config.backbone_name_or_path
    if name is None:
        raise ValueError(
            f"The checkpoint '{checkpoint}' holds no backbone and its configuration names none. {BACKBONE_ADVICE}"
        )
    return load_encoders(name, config, **hub, revision=config.backbone_revision)


def load_encoders(name: str, config: R2TuningConfig, **hub: Any) -> tuple[nn.Module, nn.Module]:
    """Load the image and the text encoder of a backbone, which must be those that a configuration describes.

    Args:
        name: Folder of the backbone, or its name on the Hub.
        config: Configuration of the model that they are for.
        hub: Hub arguments (`token`, `revision`, ...).

    Raises:
        OSError: It cannot be found or fetched.
        ValueError: It is damaged, incomplete, of another kind or of other sizes.
    """
    backbone, missing = load_whole_backbone(name, config, **hub)
    missing = [key for key in missing if key.startswith(ENCODERS)]
    if missing:
        raise ValueError(
            f"The backbone '{name}' is incomplete: it lacks {len(missing)} weights, such as {missing[:3]}."
        )
    return backbone.vision_model, backbone.text_model


def load_whole_backbone(name: str, config: R2TuningConfig, **hub: Any) -> tuple[Any, list[str]]:
    """Load a backbone with its heads. Returns the model and the names of weights that the checkpoint lacks, sorted.

    Arguments and errors are those of `load_encoders`.
    """
    found = read_backbone_config(name, **hub)
    _check_sizes(name, config, found)
    model_class = getattr(transformers, backbone_spec(name, found.model_type).model_class)
    with loading_backbone(name, **hub):
        loaded = model_class.from_pretrained(name, config=found, output_loading_info=True, **safe_weights(name, hub))
        backbone, info = cast("tuple[Any, dict[str, Any]]", loaded)
    return backbone, sorted(info["missing_keys"])


def _check_sizes(name: str, config: R2TuningConfig, found: PreTrainedConfig) -> None:
    """Refuse encoders of another kind or of other sizes than those of the checkpoint."""
    for part, fields in (("vision_config", VISION_SIZES), ("text_config", TEXT_SIZES)):
        wrong = []
        for field in fields:
            needed, got = getattr(getattr(config, part), field), getattr(getattr(found, part), field)
            if needed != got:
                wrong.append(f"{field}={got} where {needed} is needed")
        if wrong:
            raise ValueError(f"The backbone '{name}' does not fit this checkpoint: its {part} has {', '.join(wrong)}.")


@torch.no_grad()
def copy_weights(source: nn.Module, encoder: nn.Module) -> None:
    """Fill an encoder with the weights of another one of the same shapes."""
    ours = {}
    for name, value in encoder.state_dict().items():
        ours[name.replace(".base_layer.", ".")] = value  # peft renames the layers that it adapts
    for name, value in source.state_dict().items():
        ours[name].copy_(value)


def freeze(model: nn.Module, is_learned: Callable[[str], bool]) -> None:
    """Freeze all parameters of a model but those that are learned, by name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_learned(name))


# ---- hidden states -------------------------------------------------------------------------------------------------


def read_video(
    vision_model: nn.Module,
    layers: nn.ModuleList,
    pixels: torch.Tensor,
    lengths: Sequence[int] | None,
    chunk_size: int | None,
    config: R2TuningConfig,
    method: TransferMethod,
) -> torch.Tensor:
    """Hidden states of a batch of videos; padded frames are not encoded, and their states are 0.

    Args:
        vision_model: Image encoder.
        layers: Its layers, possibly with other weights.
        pixels: `(batch, num_frames, 3, height, width)`.
        lengths: Number of real frames of each video, which come before the padded ones; `None` = all are real.
        chunk_size: Frames that are encoded at once; `None` = all. Where frames are mixed it is a whole video.
        config: Configuration.
        method: Module of the transfer method.

    Returns:
        `(batch, num_frames, num_layers, num_tokens, vision_hidden)`, last layer last. In memory the layers are
        outermost, so that a single layer is contiguous.
    """
    if config.method_spec.mixes_frames:
        chunks = [[video] for video in _whole_videos(pixels, lengths)]
    else:
        chunks = _chunks(pixels, lengths, chunk_size)
    pieces = []
    for chunk in chunks:
        frames = chunk[0].frames if len(chunk) == 1 else torch.cat([run.frames for run in chunk])
        states = torch.stack(_read_frames(vision_model, layers, frames, config, method))
        sizes = [run.frames.shape[0] for run in chunk]
        for run, part in zip(chunk, states.split(sizes, dim=1), strict=True):
            pieces.append(part)  # (num_layers, frames of the run, num_tokens, hidden)
            if run.padding:
                zero = part.new_zeros(1, 1, 1, 1)
                pieces.append(zero.expand(len(part), run.padding, *part.shape[2:]))
    joined = torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]  # (num_layers, all frames, num_tokens, hidden)
    return joined.unflatten(1, pixels.shape[:2]).movedim(0, 2)  # (batch, num_frames, num_layers, num_tokens, hidden)


def read_text(
    text_model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    config: R2TuningConfig,
    method: TransferMethod,
) -> torch.Tensor:
    """Hidden states of a batch of texts, `(batch, text_length, num_layers, text_hidden)`, last layer last."""
    spec = config.tower_spec
    body = text_model.get_submodule(spec.text_body)
    layers = cast("nn.ModuleList", body.get_submodule(spec.text_layers))
    layers_read = range(len(layers))[config.layers_read]
    options = {"is_causal": True} if spec.text_attention == "causal" else {}
    learned = _is_trained(text_model, config)
    states = _States(slice(None), input_ids.device.type, learned)
    with torch.set_grad_enabled(torch.is_grad_enabled() and learned):
        tokens, mask = embed_text(body, input_ids, attention_mask, spec)
        for index, layer in enumerate(layers):
            tokens = method.run_text_layer(index, layer, tokens, mask, **options)
            if index in layers_read:
                states.read(tokens)
    return torch.stack(states.kept, dim=2)


def _read_frames(
    vision_model: nn.Module,
    layers: nn.ModuleList,
    pixels: torch.Tensor,
    config: R2TuningConfig,
    method: TransferMethod,
) -> list[torch.Tensor]:
    """Hidden states of `pixels (num_frames, 3, height, width)`, each `(num_frames, num_tokens, vision_hidden)`."""
    layers_read = range(len(layers))[config.layers_read]
    learned = _is_trained(vision_model, config)
    states = _States(config.method_spec.tokens_read, pixels.device.type, learned)
    branches: AbstractContextManager[None] = nullcontext()
    if config.method_spec.reads_branches:
        branches, layers_read = method.reading_branches(states.read), layers_read[-1:]
    with torch.set_grad_enabled(torch.is_grad_enabled() and learned), branches:
        tokens = embed_frames(vision_model, pixels, config.tower_spec)
        for index, layer in enumerate(layers):
            tokens = method.run_vision_layer(index, layer, tokens, None)
            if index in layers_read:
                states.read(add_frame_token(vision_model, tokens, config.tower_spec))
    return states.kept


def _is_trained(encoder: nn.Module, config: R2TuningConfig) -> bool:
    """Whether gradients pass through an encoder; otherwise nothing in it is kept for the backward pass."""
    if config.method_spec.place == "inside":
        return True
    return any(parameter.requires_grad for parameter in encoder.parameters())


class _States:
    """Collects hidden states, before any final norm; those of a frozen encoder are in autocast's precision.

    Args:
        tokens: Tokens to keep.
        device_type: Where the states are.
        learned: Whether gradients pass through the encoder.
    """

    def __init__(self, tokens: slice, device_type: str, learned: bool):
        self.kept: list[torch.Tensor] = []
        self._tokens = tokens
        self._dtype = None if learned else autocast_dtype(device_type)

    def read(self, output: torch.Tensor) -> None:
        """Keep the output of a layer or branch, `(batch, num_tokens, hidden)`."""
        # A copy instead of a view, so that the tokens that are not kept are freed.
        partial = self._tokens != slice(None)
        self.kept.append(output[:, self._tokens].to(self._dtype or output.dtype, copy=partial))


class _Run(NamedTuple):
    """Consecutive real frames of one video, `(frames, 3, height, width)`, and the number of padded frames after them."""

    frames: torch.Tensor
    padding: int


def _whole_videos(pixels: torch.Tensor, lengths: Sequence[int] | None) -> list[_Run]:
    """Each video without its padding."""
    if lengths is None:
        lengths = [pixels.shape[1]] * len(pixels)
    runs = []
    for video, length in zip(pixels, lengths, strict=True):
        runs.append(_Run(video[:length], len(video) - length))
    return runs


def _chunks(pixels: torch.Tensor, lengths: Sequence[int] | None, size: int | None) -> list[list[_Run]]:
    """Divide videos into chunks of `size` real frames (`None` = all); a chunk may hold frames of several videos."""
    if lengths is None or min(lengths) == pixels.shape[1]:  # slices of the whole batch need no copy
        every = pixels.flatten(0, 1)
        parts = [every] if size is None else every.split(size)
        return [[_Run(frames, 0)] for frames in parts]
    size = size or sum(lengths)
    chunks: list[list[_Run]] = [[]]
    room = size
    for frames, padding in _whole_videos(pixels, lengths):
        start = 0
        while start < len(frames):
            if room == 0:
                chunks.append([])
                room = size
            part = frames[start : start + room]
            start += len(part)
            room -= len(part)
            chunks[-1].append(_Run(part, padding if start == len(frames) else 0))
    return chunks


# ---- frozen weights in autocast's precision ------------------------------------------------------------------------


class FrozenCopies:
    """Copies of an encoder's frozen weights in autocast's precision.

    Autocast caches its copies of learned weights only. It would copy frozen weights again for each chunk of frames and,
    where gradients pass through the encoders, keep every copy for the backward pass. Without gradients the copies are
    kept from call to call. In training they are freed before the side block runs, where a step's memory peaks.
    """

    def __init__(self) -> None:
        self._kept: tuple[Stamp, dict[str, torch.Tensor]] | None = None

    def get(self, layers: nn.ModuleList, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Copies of the frozen float32 weights of linear layers, by name; made again when a weight has changed."""
        weights: dict[str, torch.Tensor] = {}
        for name, part in layers.named_modules():
            if type(part) is nn.Linear and _is_frozen_float32(part.weight):
                weights[f"{name}.weight"] = part.weight
        if not weights:
            return {}
        stamp = Stamp.of(weights, dtype)
        kept = self._kept  # read once, as another thread may replace it
        if kept is None or not kept[0].equals(stamp):
            kept = stamp, _copy(weights, dtype)
        self._kept = None if torch.is_grad_enabled() else kept
        return kept[1]

    def clear(self) -> None:
        """Forget the copies."""
        self._kept = None

    def __reduce__(self) -> tuple[type["FrozenCopies"], tuple[()]]:
        return FrozenCopies, ()  # a copy of the model, also one in another process, makes its own


def _copy(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies in one buffer for each device: scattered over many, they made a chunk a tenth slower on a CPU."""
    copies = {}
    for device in {weight.device for weight in weights.values()}:
        here = {name: weight for name, weight in weights.items() if weight.device == device}
        sizes = [weight.numel() for weight in here.values()]
        pieces = torch.empty(sum(sizes), dtype=dtype, device=device).split(sizes)
        for (name, weight), piece in zip(here.items(), pieces, strict=True):
            copies[name] = piece.view(weight.shape).copy_(weight.detach())
    return copies


def _is_frozen_float32(weight: torch.Tensor) -> bool:
    """Weights that accelerate has offloaded are excluded: they are empty between calls."""
    return weight.dtype == torch.float32 and not weight.requires_grad and not weight.is_meta


def with_weights(module: nn.Module, weights: dict[str, torch.Tensor], prefix: str = "") -> nn.Module:
    """A copy of `module` that has the given weights, by name, and shares everything else.

    `torch.func.functional_call` would put them into `module` itself, where other threads see them.
    """
    if not any(name.startswith(prefix) for name in weights):
        return module
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters)
    for name in module._parameters:
        if f"{prefix}{name}" in weights:
            twin._parameters[name] = cast("nn.Parameter", weights[f"{prefix}{name}"])
    twin._modules = {}
    for name, part in module._modules.items():
        twin._modules[name] = None if part is None else with_weights(part, weights, f"{prefix}{name}.")
    return twin


__all__ = [
    "ENCODERS",
    "FrozenCopies",
    "add_frame_token",
    "branches_of",
    "copy_weights",
    "freeze",
    "load_backbone",
    "load_encoders",
    "make_encoders",
    "read_text",
    "read_video",
    "vision_layers",
    "with_weights",
]
