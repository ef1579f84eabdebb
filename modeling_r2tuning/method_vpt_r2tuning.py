"""Visual prompt tuning (VPT, arXiv 2203.12119): learned tokens at the input of every layer of the image encoder.

This is the deep variant of its Figure 2, VPT-Deep: each layer gets prompts P of its own, and what it makes of them is
thrown away: [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}]) with the CLS token x and the patches E. The R2-Tuning
paper does not say how many there are; ten a layer are within what VPT tries and fit the number of parameters in its
Table 9. Prompts have no dropout, as CLIP is in eval mode throughout. The text encoder is left as it is.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle
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

    def attach(self, layers: nn.ModuleList) -> list[RemovableHandle]:
        """Put its prompts before the tokens of each layer until the handles are removed."""
        handles = []
        for layer, prompts in zip(layers, self.prompts, strict=True):
            handles += insert_prompts(layer, lambda tokens, prompts=prompts: prompts.expand(len(tokens), -1, -1))
        return handles


def insert_prompts(layer: nn.Module, make_prompts: Callable[[torch.Tensor], torch.Tensor]) -> list[RemovableHandle]:
    """Have a layer of CLIP see prompts before its tokens, and give back the tokens alone.

    Where attention is causal all tokens see all prompts. What the prompts see does not matter, as it is thrown away.

    Args:
        layer: A `CLIPEncoderLayer`.
        make_prompts: From the tokens `(batch, num_tokens, width)` to prompts `(batch, num_prompts, width)`.
    """
    counts = []

    def insert(_, arguments):
        tokens, mask, *others = arguments
        prompts = make_prompts(tokens).to(tokens.dtype)
        counts.append(prompts.shape[1])
        if mask is not None:  # added to the scores, or True = seen
            mask = F.pad(mask, (counts[-1], 0, counts[-1], 0), value=mask.dtype == torch.bool)
        return torch.cat([prompts, tokens], dim=1), mask, *others

    def remove(_, arguments, output):
        return output[:, counts.pop() :]

    return [layer.register_forward_pre_hook(insert), layer.register_forward_hook(remove)]


class VisualPrompts(nn.Module):
    """VPT-Deep."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.vision_prompts = LayerPrompts(config.vision_config, NUM_PROMPTS)

    def attach(self, vision_model: nn.Module, text_model: nn.Module) -> list[RemovableHandle]:
        """Change what the encoders compute until the handles are removed."""
        return self.vision_prompts.attach(vision_model.encoder.layers)


__all__ = ["LayerPrompts", "VisualPrompts", "insert_prompts"]
