"""ST-Adapter (arXiv 2206.13559): bottlenecks inside CLIP that convolve over time.

At the input of each layer, X + f(DWConv(X W_down)) W_up is put for the patches X: down to half the width, each channel
convolved over three frames, up again. The depth-wise convolution of the paper's default, 3 x 1 x 1, looks at one patch
of neighbouring frames; CLS passes unchanged and takes part through attention. So frames see each other inside CLIP.

The R2-Tuning paper does not say whether the text encoder is adapted; the number of parameters in its Table 9 is that
of both, so the text encoder gets the same bottlenecks without a convolution, for all tokens. The way up begins as
zero: at first CLIP is what it was.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .block_r2tuning import ZeroLinear
from .configuration_r2tuning import R2TuningConfig


REDUCTION = 2  # 768 to 384 in the paper
KERNEL_SIZE = 3


class Bottleneck(nn.Module):
    """Two linear layers with a GELU between them, beside an identity."""

    def __init__(self, width: int):
        super().__init__()
        self.down = nn.Linear(width, width // REDUCTION)
        self.up = ZeroLinear(width // REDUCTION, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_tokens, width)`, of any precision, to the same."""
        hidden = self.mix(self.down(tokens.to(self.down.weight.dtype)))
        return tokens + self.up(F.gelu(hidden)).to(tokens.dtype)

    def mix(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is done in between; here nothing."""
        return hidden


class SpatioTemporalAdapter(Bottleneck):
    """A bottleneck for the patches of one video that convolves each channel over time."""

    def __init__(self, width: int):
        super().__init__(width)
        hidden = width // REDUCTION
        self.conv = nn.Conv1d(hidden, hidden, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From `(num_frames, num_tokens, width)` to the same; CLS, the first token, stays as it is."""
        return torch.cat([tokens[:, :1], super().forward(tokens[:, 1:])], dim=1)

    def mix(self, hidden: torch.Tensor) -> torch.Tensor:
        """Convolve `(num_frames, num_patches, hidden)` over time."""
        return self.conv(hidden.permute(1, 2, 0)).permute(2, 0, 1)


class SpatioTemporalAdapters(nn.Module):
    """One adapter before the attention of every layer; the image encoder sees one video at a time."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        vision, text = config.vision_config, config.text_config
        self.vision = nn.ModuleList(SpatioTemporalAdapter(vision.hidden_size) for _ in range(vision.num_hidden_layers))
        self.text = nn.ModuleList(Bottleneck(text.hidden_size) for _ in range(text.num_hidden_layers))

    def run_vision_layer(self, index: int, layer: nn.Module, tokens: torch.Tensor, *arguments, **options):
        """A layer of the image encoder behind its adapter."""
        return layer(self.vision[index](tokens), *arguments, **options)

    def run_text_layer(self, index: int, layer: nn.Module, tokens: torch.Tensor, *arguments, **options):
        """A layer of the text encoder behind its adapter."""
        return layer(self.text[index](tokens), *arguments, **options)


__all__ = ["Bottleneck", "SpatioTemporalAdapter", "SpatioTemporalAdapters"]
