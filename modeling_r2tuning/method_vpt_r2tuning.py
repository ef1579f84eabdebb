"""Visual prompt tuning (VPT, arXiv 2203.12119): learned tokens at the input of every layer of the image encoder.

This is the deep variant of its Figure 2, VPT-Deep: each layer has prompts P of its own, and its outputs for them are
discarded: [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}]) with the CLS token x and the patches E. The R2-Tuning
paper does not give their number; ten for each layer are in the range that VPT tries and fit the number of parameters
in its Table 9. Prompts have no dropout, as the encoders stay in eval mode. The text encoder is unchanged.
Without a CLS token the encoder's pooling head reads the patches alone, after the last layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from .configuration_r2tuning import R2TuningConfig
from .method_base_r2tuning import TransferMethod


NUM_PROMPTS = 10


class LayerPrompts(nn.Module):
    """Learned prompts for every layer of an encoder.

    Args:
        encoder_config: Configuration of the encoder.
        num_prompts: Number of prompts of each layer.
    """

    def __init__(self, encoder_config: PreTrainedConfig, num_prompts: int):
        super().__init__()
        shape = (encoder_config.num_hidden_layers, num_prompts, encoder_config.hidden_size)
        self.prompts = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The distribution of CLIP's embeddings, whatever the backbone."""
        init.normal_(self.prompts, std=0.02)


def run_with_prompts(
    layer: nn.Module, prompts: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
) -> torch.Tensor:
    """Run a layer with prompts before its tokens; only the outputs for the tokens are returned.

    With causal attention all tokens still see all prompts. What the prompts see does not matter, as their outputs are
    discarded.

    Args:
        layer: Layer of an encoder.
        prompts: `(num_prompts, width)`, or `(batch, num_prompts, width)`.
        tokens: `(batch, num_tokens, width)`.
        mask: Attention mask `(batch, 1, num_tokens, num_tokens)`: added to the scores, or boolean with `True` = visible;
            with flash attention `(batch, num_tokens)`, where 1 = visible.
        options: Further arguments of the layer.
    """
    count = prompts.shape[-2]
    prompts = prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    if mask is not None:
        mask = _lengthen(mask, count)
    return layer(torch.cat([prompts, tokens], dim=1), mask, **options)[:, count:]


def _lengthen(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Prepend `count` visible prompts to a mask."""
    if mask.dim() == 2:
        return F.pad(mask, (count, 0), value=True)
    return F.pad(mask, (count, 0, count, 0), value=mask.dtype == torch.bool)


class VisualPrompts(TransferMethod):
    """VPT-Deep."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.vision_prompts = LayerPrompts(config.vision_config, NUM_PROMPTS)

    def run_vision_layer(
        self, index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """Run a layer of the image encoder with its prompts."""
        return run_with_prompts(layer, self.vision_prompts.prompts[index], tokens, mask, **options)


__all__ = ["LayerPrompts", "VisualPrompts", "run_with_prompts"]
