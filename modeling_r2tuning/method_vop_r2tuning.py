"""Text-video co-operative prompts (VoP, arXiv 2211.12764): learned and context-dependent tokens in both encoders.

Every layer of both encoders has prompts of its own, eight as in the paper. In each layer of the image encoder a frame
has further prompts, computed from the CLS tokens of all frames (the "frame context" variant) by a bidirectional LSTM
over time, shared by all layers, and a linear layer. So frames see each other inside the encoder.

The R2-Tuning paper does not say which variant of VoP it uses. The LSTM makes up most of the parameters that its Table 9
lists; with the encoder's width in each direction, two context prompts for each frame come nearest to that number.
"""

from typing import Any

import torch
from torch import nn

from .configuration_r2tuning import R2TuningConfig
from .method_base_r2tuning import TransferMethod
from .method_vpt_r2tuning import LayerPrompts, run_with_prompts
from .precision_r2tuning import cpu_has_bfloat16


NUM_PROMPTS = 8
NUM_CONTEXT_PROMPTS = 2


class ContextPrompts(nn.Module):
    """Prompts for each frame of one video, computed from all of its frames."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(width, width, bidirectional=True)
        self.output_linear = nn.Linear(2 * width, NUM_CONTEXT_PROMPTS * width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """From CLS tokens `(num_frames, width)` to `(num_frames, num_prompts, width)`."""
        kind = frames.device.type
        # torch has no LSTM in bfloat16 for CPUs that do not compute in it natively.
        supported = kind != "cpu" or cpu_has_bfloat16()
        with torch.autocast(kind, enabled=supported and torch.is_autocast_enabled(kind)):
            context, _ = self.lstm(frames.to(self.output_linear.weight.dtype))  # (num_frames, 2 * width)
        prompts = self.output_linear(context)  # (num_frames, num_prompts * width)
        return prompts.unflatten(-1, (NUM_CONTEXT_PROMPTS, -1))  # (num_frames, num_prompts, width)


class CooperativePrompts(TransferMethod):
    """Prompts for both encoders, and context prompts for the image encoder, which sees one video at a time."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.vision_prompts = LayerPrompts(config.vision_config, NUM_PROMPTS)
        self.text_prompts = LayerPrompts(config.text_config, NUM_PROMPTS)
        self.context = ContextPrompts(config.vision_config.hidden_size)

    def run_vision_layer(
        self, index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """Run a layer of the image encoder with its own prompts and the context prompts of each frame."""
        own = self.vision_prompts.prompts[index].to(tokens.dtype).expand(len(tokens), -1, -1)
        context = self.context(tokens[:, 0]).to(tokens.dtype)
        prompts = torch.cat([own, context], dim=1)  # (num_frames, num_prompts, width)
        return run_with_prompts(layer, prompts, tokens, mask, **options)

    def run_text_layer(
        self, index: int, layer: nn.Module, tokens: torch.Tensor, mask: torch.Tensor | None, **options: Any
    ) -> torch.Tensor:
        """Run a layer of the text encoder with its prompts."""
        return run_with_prompts(layer, self.text_prompts.prompts[index], tokens, mask, **options)


__all__ = ["ContextPrompts", "CooperativePrompts"]
