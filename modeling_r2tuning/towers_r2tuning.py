"""Running the frozen encoders layer by layer.

Threads share the encoders, so a call changes nothing in them: it neither registers hooks nor swaps weights.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel
from transformers.masking_utils import create_causal_mask


SAMPLES = 64  # values of a weight that are compared, as changes through `.data` bypass its version counter


Embedded = tuple[torch.Tensor, torch.Tensor | None, dict[str, Any]]  # tokens, mask and options for the layers


def embed_frames(vision_model: CLIPVisionModel, pixels: torch.Tensor) -> Embedded:
    """Input of the first layer, `(num_frames, num_tokens, vision_hidden)`, from `(num_frames, 3, height, width)`."""
    return vision_model.pre_layrnorm(vision_model.embeddings(pixels)), None, {}


def embed_text(text_model: CLIPTextModel, input_ids: torch.Tensor) -> Embedded:
    """Input of the first layer, `(batch, text_length, text_hidden)`, from `(batch, text_length)`; attention is causal."""
    tokens = text_model.embeddings(input_ids=input_ids)
    mask = create_causal_mask(
        config=text_model.config, inputs_embeds=tokens, attention_mask=None, past_key_values=None
    )
    return tokens, mask, {"is_causal": True}


def run_layer(
    index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options
) -> torch.Tensor:
    """Run a layer unchanged; transfer methods that work in CLIP replace this function.

    Args:
        index: Number of the layer, from the first.
        layer: A `CLIPEncoderLayer`.
        tokens: `(batch, num_tokens, width)`.
        mask: Added to the scores of attention, or `True` = seen.
        options: For attention.

    Returns:
        `(batch, num_tokens, width)`.
    """
    return layer(tokens, mask, **options)


class FrozenCopies:
    """Copies of an encoder's frozen weights in autocast's precision.

    Autocast caches its copies of learned weights only. It would copy frozen weights again for each chunk of frames and,
    where gradients pass through CLIP, keep every copy for the backward pass. Without gradients the copies are kept from
    call to call. In training they are freed before the side block runs, where a step's memory peaks.
    """

    def __init__(self):
        self._kept = None

    def get(self, layers: nn.ModuleList, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Copies of the frozen float32 weights of linear layers, by name; made again when a weight has changed."""
        weights = {
            f"{name}.weight": part.weight
            for name, part in layers.named_modules()
            if type(part) is nn.Linear and _is_frozen_float32(part.weight)
        }
        if not weights:
            return {}
        stamp = _Stamp.of(weights, dtype)
        kept = self._kept  # read once, as another thread may replace it
        if kept is None or not kept[0].equals(stamp):
            kept = stamp, _copy(weights, dtype)
        self._kept = None if torch.is_grad_enabled() else kept
        return kept[1]

    def clear(self) -> None:
        """Forget the copies."""
        self._kept = None

    def __reduce__(self):
        return FrozenCopies, ()  # a copy of the model, in another process or not, makes its own


@dataclass(frozen=True)
class _Stamp:
    """Identifies weights, to detect that they have changed since they were copied."""

    places: list[tuple]
    samples: torch.Tensor

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> "_Stamp":
        places = [
            (name, dtype, weight.device, weight.data_ptr(), None if weight.is_inference() else weight._version)
            for name, weight in weights.items()
        ]
        samples = [weight.detach().flatten()[:: max(weight.numel() // SAMPLES, 1)] for weight in weights.values()]
        return cls(places, torch.cat(samples))

    def equals(self, other: "_Stamp") -> bool:
        return self.places == other.places and torch.equal(self.samples, other.samples)


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
    own = {name: weights[f"{prefix}{name}"] for name in module._parameters if f"{prefix}{name}" in weights}
    twin._parameters = {**module._parameters, **own}
    twin._modules = {name: with_weights(part, weights, f"{prefix}{name}.") for name, part in module._modules.items()}
    return twin


__all__ = ["FrozenCopies", "embed_frames", "embed_text", "run_layer", "with_weights"]
