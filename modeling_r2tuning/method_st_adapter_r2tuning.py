"""ST-Adapter (arXiv 2206.13559): bottlenecks inside the image encoder that convolve over time.

At the input of each layer, X + f(DWConv(X W_down)) W_up replaces the patches X: a down-projection to half the width, a
convolution of each channel over three frames, and an up-projection. The depth-wise convolution has the paper's default
size, 3 x 1 x 1: it covers the same patch of neighbouring frames. CLS passes unchanged and takes part through attention;
without CLS all tokens are patches. So frames see each other inside the encoder.

The R2-Tuning paper does not say whether the text encoder is adapted. The number of parameters in its Table 9 is that
of both, so the text encoder has the same bottlenecks without a convolution, for all tokens. The up-projections are
zero-initialised, so that the adapters start as the identity.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .block_r2tuning import ZeroLinear
from .configuration_r2tuning import R2TuningConfig
from .method_base_r2tuning import TransferMethod


REDUCTION = 2  # 768 to 384 in the paper
KERNEL_SIZE = 3


class Bottleneck(nn.Module):
    """Down-projection, GELU and up-projection with a residual connection."""

    def __init__(self, width: int):
        super().__init__()
        self.down = nn.Linear(width, width // REDUCTION)
        self.up = ZeroLinear(width // REDUCTION, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_tokens, width)`, of any precision, to the same."""
        hidden = self.mix(self.down(tokens.to(self.down.weight.dtype)))
        return tokens + self.up(F.gelu(hidden)).to(tokens.dtype)

    def mix(self, hidden: torch.Tensor) -> torch.Tensor:
        """Mix the hidden features over time; here the identity."""
        return hidden


class SpatioTemporalAdapter(Bottleneck):
    """A bottleneck that convolves each channel of one video's patches over time."""

    def __init__(self, width: int, num_prefix_tokens: int):
        super().__init__(width)
        self.num_prefix_tokens = num_prefix_tokens
        hidden = width // REDUCTION
        self.conv = nn.Conv1d(hidden, hidden, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `(num_frames, num_tokens, width)` to the same; CLS, the first token, is unchanged if there is one."""
        cls, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
        return torch.cat([cls, super().forward(patches)], dim=1)

    def mix(self, hidden: torch.Tensor) -> torch.Tensor:
        """Convolve `(num_frames, num_patches, hidden)` over time."""
        over_time = self.conv(hidden.permute(1, 2, 0))  # (num_patches, hidden, num_frames)
        return over_time.permute(2, 0, 1)  # (num_frames, num_patches, hidden)


class SpatioTemporalAdapters(TransferMethod):
    """One adapter before the attention of every layer; the image encoder sees one video at a time."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        vision, text = config.vision_config, config.text_config
        num_prefix_tokens = int(config.tower_spec.has_cls)
        self.vision = nn.ModuleList(
            SpatioTemporalAdapter(vision.hidden_size, num_prefix_tokens) for _ in range(vision.num_hidden_layers)
        )
        self.text = nn.ModuleList(Bottleneck(text.hidden_size) for _ in range(text.num_hidden_layers))

    def run_vision_layer(
        self, index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """Apply the adapter, then the layer of the image encoder."""
        return layer(self.vision[index](tokens), mask, **options)

    def run_text_layer(
        self, index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """Apply the adapter, then the layer of the text encoder."""
        return layer(self.text[index](tokens), mask, **options)


__all__ = ["Bottleneck", "SpatioTemporalAdapter", "SpatioTemporalAdapters"]
