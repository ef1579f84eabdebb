"""Low-rank side adaptation (LoSA, arXiv 2402.02887): a side network that refines what the frozen CLIP computes.

After its Figure 3: beside layer i, with CLIP's output b_i, the side network computes y_i = y_{i-1} + g_i(b_i +
y_{i-1}) from y_0 = 0, and b + y of the last layer is the result. g_i is a low-rank mixer: an MLP with a narrow hidden
layer over the tokens of each channel, then one over the channels of each token. No gradient passes through CLIP.

The R2-Tuning paper tells the rank, 16. The mixer needs a fixed number of tokens, which words do not have, so the text
encoder has no side network. At that rank the mixers of ViT-B/32 have 0.3 M parameters, as few as LoSA's paper is
about. Table 9 has 2.1 M more than without tuning: as many as such mixers of rank 64 beside both encoders would have
(2.08 M with 77 words). The ways up begin as zero: at first a frame is what it was.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .block_r2tuning import ZeroLinear
from .configuration_r2tuning import R2TuningConfig


RANK = 16


class LowRankMLP(nn.Module):
    """Two linear layers with a GELU and few channels between them."""

    def __init__(self, width: int):
        super().__init__()
        self.down = nn.Linear(width, RANK)
        self.up = ZeroLinear(RANK, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From `(..., width)` to the same."""
        return self.up(F.gelu(self.down(states)))


class LowRankMixer(nn.Module):
    """The change that two low-rank MLPs make, one over tokens and one over channels."""

    def __init__(self, num_tokens: int, width: int):
        super().__init__()
        self.tokens = LowRankMLP(num_tokens)
        self.channels = LowRankMLP(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From `(..., num_tokens, width)` to the same."""
        change = self.tokens(states.mT).mT
        return change + self.channels(states + change)


class LowRankSideNetwork(nn.Module):
    """LoSA for the image encoder."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        vision = config.vision_config
        num_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        self.mixers = nn.ModuleList(
            LowRankMixer(num_tokens, vision.hidden_size) for _ in range(config.num_recurrent_steps)
        )

    def refine_video(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_frames, num_states, num_tokens, width)` to the same with one state."""
        refined = 0.0
        for mixer, states in zip(self.mixers, hidden_states.unbind(dim=2), strict=True):
            states = states.to(mixer.channels.up.weight.dtype)
            refined = refined + mixer(states + refined)
        return (states + refined)[:, :, None]

    def refine_text(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, num_states, width)` to the last state alone."""
        return hidden_states[:, :, -1:]


__all__ = ["LowRankMLP", "LowRankMixer", "LowRankSideNetwork"]
