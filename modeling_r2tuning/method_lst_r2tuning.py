"""Ladder side-tuning (LST, arXiv 2206.06522): a small transformer alongside each frozen encoder.

A side layer is a CLIP layer of a quarter of the width. Its input is mu * W h + (1 - mu) * s, where h is the encoder's
output at that depth, W a linear "ladder" down to the side network's width, s the output of the previous side layer,
and mu the sigmoid of a learned scalar, initially zero. The result is the last side layer's output, projected up to the
encoder's width. No gradient passes through the encoder.

LST may drop side layers at equal distances; here every second one is left out. The R2-Tuning paper gives neither the
reduction nor the dropped layers, nor does it say whether the text encoder has a ladder. A quarter of the width, half
of the layers and both encoders come near the number of parameters in its Table 9. The side network starts from the
first ladder, not from CLIP's embeddings, and with random weights, not with CLIP's pruned ones.
"""

from typing import cast

import torch
from torch import nn
from transformers import CLIPTextConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from .configuration_r2tuning import R2TuningConfig
from .method_base_r2tuning import TransferMethod


REDUCTION = 4


class Ladder(nn.Module):
    """A side network of one encoder.

    Args:
        encoder_config: Configuration of the encoder.
        num_layers: Number of side layers, one for each hidden state that is read.
    """

    def __init__(self, encoder_config: PreTrainedConfig, num_layers: int):
        super().__init__()
        side_config = CLIPTextConfig(
            hidden_size=encoder_config.hidden_size // REDUCTION,
            intermediate_size=encoder_config.intermediate_size // REDUCTION,
            num_attention_heads=encoder_config.num_attention_heads,
            hidden_act=encoder_config.hidden_act,
            layer_norm_eps=encoder_config.layer_norm_eps,
        )
        side_config._attn_implementation = "sdpa"
        self.encoder_config, self.side_config = encoder_config, side_config
        self.ladders = nn.ModuleList(
            nn.Linear(encoder_config.hidden_size, side_config.hidden_size) for _ in range(num_layers)
        )
        self.layers = nn.ModuleList(CLIPEncoderLayer(side_config) for _ in range(num_layers))
        self.output_linear = nn.Linear(side_config.hidden_size, encoder_config.hidden_size)
        self.gate = nn.Parameter(torch.empty(num_layers))  # before the sigmoid
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The ladder and the previous side layer have equal weights."""
        init.zeros_(self.gate)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """From `(batch, num_states, num_tokens, width)` to `(batch, num_tokens, width)`; `mask` is added to the scores."""
        if self.encoder_config._attn_implementation == "eager":
            self.side_config._attn_implementation = "eager"
        side: torch.Tensor | float = 0.0  # the first side layer has no previous one
        for index, layer in enumerate(self.layers):
            ladder = cast("nn.Linear", self.ladders[index])
            gate = self.gate[index].sigmoid()
            step = ladder(states[:, index].to(ladder.weight.dtype))
            side = layer(gate * step + (1 - gate) * side, mask)  # mu * W h + (1 - mu) * s
        return self.output_linear(side)


class LadderSideNetworks(TransferMethod):
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
        """From `(batch, text_length, num_states, width)` to the same with one state.

        The side layers' attention is causal whatever the encoder's is, so padding on the right has no effect.
        """
        length = hidden_states.shape[1]
        mask = torch.full((length, length), float("-inf"), device=hidden_states.device).triu(1)
        return self.text(hidden_states.transpose(1, 2), mask[None, None])[:, :, None]


__all__ = ["Ladder", "LadderSideNetworks"]
