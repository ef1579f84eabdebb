"""Low-rank side adaptation (LoSA, arXiv 2402.02887): a side network that refines the frozen encoder's hidden states.

Alongside layer i with output b_i the side network computes y_i = y_{i-1} + g_i(b_i + y_{i-1}), where y_0 = 0 (its
Figure 3); the result is b + y of the last layer. g_i is a low-rank mixer: an MLP with a narrow hidden layer over the
tokens of each channel, then one over the channels of each token. No gradient passes through the encoder.

The R2-Tuning paper uses rank 16. The mixer needs a fixed number of tokens, which texts do not have, so the text
encoder has no side network. At that rank the mixers of ViT-B/32 have 0.3 M parameters, which agrees with LoSA's own
paper. Table 9 lists 2.1 M more than without tuning, the size of mixers of rank 64 alongside both encoders (2.08 M with 77
tokens of text). The up-projections are zero-initialised, so a frame starts with the encoder's own output.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .block_r2tuning import ZeroLinear
from .configuration_r2tuning import R2TuningConfig
from .method_base_r2tuning import TransferMethod


RANK = 16


class LowRankMLP(nn.Module):
    """Down-projection to a few channels, GELU and up-projection."""

    def __init__(self, width: int):
        super().__init__()
        self.down = nn.Linear(width, RANK)
        self.up = ZeroLinear(RANK, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From `(..., width)` to the same."""
        return self.up(F.gelu(self.down(states)))


class LowRankMixer(nn.Module):
    """Sum of the outputs of two low-rank MLPs: over tokens, and then over channels."""

    def __init__(self, num_tokens: int, width: int):
        super().__init__()
        self.tokens = LowRankMLP(num_tokens)
        self.channels = LowRankMLP(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From `(..., num_tokens, width)` to the same."""
        change = self.tokens(states.mT).mT
        return change + self.channels(states + change)


class LowRankSideNetwork(TransferMethod):
    """LoSA for the image encoder."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        vision = config.vision_config
        side = cast("int", vision.image_size) // cast("int", vision.patch_size)
        num_tokens = side**2 + 1  # patches and the token that represents the frame
        self.mixers = nn.ModuleList(
            LowRankMixer(num_tokens, vision.hidden_size) for _ in range(config.num_recurrent_steps)
        )

    def refine_video(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_frames, num_states, num_tokens, width)` to the same with one state."""
        refined: torch.Tensor | float = 0.0
        for module, states in zip(self.mixers, hidden_states.unbind(dim=2), strict=True):
            mixer = cast("LowRankMixer", module)
            states = states.to(mixer.channels.up.weight.dtype)
            refined = refined + mixer(states + refined)  # y_i = y_{i-1} + g_i(b_i + y_{i-1})
        return (states + refined)[:, :, None]

    def refine_text(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, num_states, width)` to the last state."""
        return hidden_states[:, :, -1:]


__all__ = ["LowRankMLP", "LowRankMixer", "LowRankSideNetwork"]
