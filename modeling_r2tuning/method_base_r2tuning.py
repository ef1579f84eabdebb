"""The places where a transfer method may act, filled by what happens without one."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


class TransferMethod(nn.Module):
    """A method without parameters that changes nothing; other methods override the places where they act.

    Methods inside the encoders run each layer (`run_vision_layer`, `run_text_layer`), so they can act before it and
    after it. Methods alongside the encoders reduce the hidden states that were read to a single one (`refine_video`,
    `refine_text`); they may also read the branches of a layer (`watch`, `reading_branches`).
    """

    def run_vision_layer(
        self, index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """Run a layer of the image encoder.

        Args:
            index: Number of the layer, from the first.
            layer: The layer.
            tokens: `(num_frames, num_tokens, vision_hidden)`.
            mask: Attention mask: added to the scores, or boolean with `True` = visible.
            options: Further arguments of the layer.

        Returns:
            `torch.Tensor` of the shape of `tokens`.
        """
        return layer(tokens, mask, **options)

    def run_text_layer(
        self, index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """Run a layer of the text encoder, as `run_vision_layer` does, on `(batch, text_length, text_hidden)`."""
        return layer(tokens, mask, **options)

    def watch(self, layers: nn.ModuleList) -> None:
        """Prepare layers of the image encoder for `reading_branches`, once for all calls."""

    def reading_branches(self, read: Callable[[torch.Tensor], None]) -> AbstractContextManager[None]:
        """Context in which `read` receives the outputs of the branches of the watched layers."""
        return nullcontext()

    def refine_video(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_frames, num_layers, num_tokens, vision_hidden)` to the states that the block receives."""
        return hidden_states

    def refine_text(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, num_layers, text_hidden)` to the states that the block receives."""
        return hidden_states


__all__ = ["TransferMethod"]
