"""Ladder side-tuning (LST, arXiv 2206.06522): a small transformer that climbs beside the frozen CLIP.

A side layer is a CLIP layer of a quarter of the width. Its input is mu * W h + (1 - mu) * s, where h is CLIP's output
at that height, W a linear "ladder" down to the side's width, s the output of the side layer below, and mu the sigmoid
of a learned scalar, zero at first. The last side layer's output, brought back to CLIP's width, is the result. No
gradient passes through CLIP.

As LST may drop side layers at equal distances, every second one is left out. The R2-Tuning paper tells neither the
reduction nor what is dropped nor whether the text encoder has a ladder; with a quarter, a half and both encoders the
number of parameters is near that of its Table 9. The side network begins with the first ladder, not with CLIP's
embeddings, and from random weights, not from CLIP's pruned ones.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from .configuration_r2tuning import R2TuningConfig


REDUCTION = 4


class Ladder(nn.Module):
    """A side network of one encoder.

    Args:
        encoder_config: Of the encoder, `CLIPVisionConfig` or `CLIPTextConfig`.
        num_layers: Side layers, one for each state that is read.
    """

    def __init__(self, encoder_config: PreTrainedConfig, num_layers: int):
        super().__init__()
        sizes = {name: getattr(encoder_config, name) // REDUCTION for name in ("hidden_size", "intermediate_size")}
        side_config = type(encoder_config)(**{**encoder_config.to_dict(), **sizes}, attn_implementation="sdpa")
        self.encoder_config, self.side_config = encoder_config, side_config
        self.ladders = nn.ModuleList(
            nn.Linear(encoder_config.hidden_size, side_config.hidden_size) for _ in range(num_layers)
        )
        self.layers = nn.ModuleList(CLIPEncoderLayer(side_config) for _ in range(num_layers))
        self.output_linear = nn.Linear(side_config.hidden_size, encoder_config.hidden_size)
        self.gate = nn.Parameter(torch.empty(num_layers))  # before the sigmoid
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ladder and layer below count the same."""
        init.zeros_(self.gate)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """From `(batch, num_states, num_tokens, width)` to `(batch, num_tokens, width)`; `mask` is added to the scores."""
        if self.encoder_config._attn_implementation == "eager":
            self.side_config._attn_implementation = "eager"
        side = 0.0  # there is nothing below the first layer
        for index, (ladder, layer) in enumerate(zip(self.ladders, self.layers, strict=True)):
            gate = self.gate[index].sigmoid()
            step = ladder(states[:, index].to(ladder.weight.dtype))
            side = layer(gate * step + (1 - gate) * side, mask)
        return self.output_linear(side)


class LadderSideNetworks(nn.Module):
    """LST for both encoders."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.vision = Ladder(config.vision_config, config.num_video_states)
        self.text = Ladder(config.text_config, config.num_text_states)

    def refine_video(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_frames, num_states, num_tokens, width)` to the same with one state."""
        refined = self.vision(hidden_states.flatten(0, 1))
        return refined.unflatten(0, hidden_states.shape[:2])[:, :, None]

    def refine_text(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, num_states, width)` to the same with one state; a word sees those before it."""
        length = hidden_states.shape[1]
        mask = torch.full((length, length), float("-inf"), device=hidden_states.device).triu(1)
        return self.text(hidden_states.transpose(1, 2), mask[None, None])[:, :, None]


__all__ = ["Ladder", "LadderSideNetworks"]
