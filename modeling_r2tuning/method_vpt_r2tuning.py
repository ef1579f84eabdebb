"""Visual prompt tuning (VPT, arXiv 2203.12119): learned tokens at the input of every layer of the image encoder.

This is the deep variant of its Figure 2, VPT-Deep: each layer gets prompts P of its own, and what it makes of them is
thrown away: [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}]) with the CLS token x and the patches E. The R2-Tuning
paper does not say how many there are; ten a layer are within what VPT tries and fit the number of parameters in its
Table 9. Prompts have no dropout, as CLIP is in eval mode throughout. The text encoder is left as it is.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .configuration_r2tuning import R2TuningConfig


NUM_PROMPTS = 10


class LayerPrompts(nn.Module):
    """Learned prompts for every layer of an encoder.

    Args:
        encoder_config: Of the encoder, `CLIPVisionConfig` or `CLIPTextConfig`.
        num_prompts: For each layer.
    """

    def __init__(self, encoder_config: PreTrainedConfig, num_prompts: int):
        super().__init__()
        self.prompts = nn.Parameter(
            torch.empty(encoder_config.num_hidden_layers, num_prompts, encoder_config.hidden_size)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As CLIP's own embeddings are drawn."""
        init.normal_(self.prompts, std=0.02)


def run_with_prompts(
    layer: nn.Module, prompts: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None, **options
) -> torch.Tensor:
    """Have a layer of CLIP see prompts before its tokens, and give back the tokens alone.

    Where attention is causal all tokens see all prompts. What the prompts see does not matter, as it is thrown away.

    Args:
        layer: A `CLIPEncoderLayer`.
        prompts: `(num_prompts, width)`, or `(batch, num_prompts, width)`.
        tokens: `(batch, num_tokens, width)`.
        mask: Added to the scores, or `True` = seen.
        options: For attention.
    """
    count = prompts.shape[-2]
    prompts = prompts.to(tokens.dtype).expand(len(tokens), -1, -1)
    if mask is not None:
        mask = F.pad(mask, (count, 0, count, 0), value=mask.dtype == torch.bool)
    return layer(torch.cat([prompts, tokens], dim=1), mask, **options)[:, count:]


class VisualPrompts(nn.Module):
    """VPT-Deep."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.vision_prompts = LayerPrompts(config.vision_config, NUM_PROMPTS)

    def run_vision_layer(self, index: int, layer: nn.Module, tokens: torch.Tensor, *arguments, **options):
        """A layer of the image encoder with its prompts, see `run_with_prompts`."""
        return run_with_prompts(layer, self.vision_prompts.prompts[index], tokens, *arguments, **options)


__all__ = ["LayerPrompts", "VisualPrompts", "run_with_prompts"]
