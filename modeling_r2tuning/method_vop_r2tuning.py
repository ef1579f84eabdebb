"""Text-video co-operative prompts (VoP, arXiv 2211.12764): learned tokens for both encoders, some made of the context.

Every layer of both encoders gets prompts of its own, eight as in the paper. A frame of a video gets further ones in
each layer of the image encoder, made of what the CLS tokens of all frames say there (its "frame context" variant): a
bidirectional LSTM over time, shared by all layers, and a linear layer. So frames see each other inside CLIP.

The R2-Tuning paper does not say which variant of VoP it means; of the number of parameters in its Table 9 the LSTM is
the greatest part. Its width is CLIP's in each direction, and two context prompts a frame come nearest to that number.
"""

import torch
from torch import nn

from .configuration_r2tuning import R2TuningConfig
from .method_vpt_r2tuning import LayerPrompts, run_with_prompts
from .precision_r2tuning import cpu_has_bfloat16


NUM_PROMPTS = 8
NUM_CONTEXT_PROMPTS = 2


class ContextPrompts(nn.Module):
    """Prompts for each frame of one video, made of all its frames."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(width, width, bidirectional=True)
        self.output_linear = nn.Linear(2 * width, NUM_CONTEXT_PROMPTS * width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """From CLS tokens `(num_frames, width)` to `(num_frames, num_prompts, width)`."""
        kind = frames.device.type
        halved = torch.is_autocast_enabled(kind) and (
            kind != "cpu" or cpu_has_bfloat16()
        )  # else torch has no such LSTM
        with torch.autocast(kind, enabled=halved):
            context, _ = self.lstm(frames.to(self.output_linear.weight.dtype))  # (num_frames, 2 * width)
        return self.output_linear(context).unflatten(-1, (NUM_CONTEXT_PROMPTS, -1))


class CooperativePrompts(nn.Module):
    """VoP: prompts of both encoders, and context prompts of the image encoder, which sees one video at a time."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.vision_prompts = LayerPrompts(config.vision_config, NUM_PROMPTS)
        self.text_prompts = LayerPrompts(config.text_config, NUM_PROMPTS)
        self.context = ContextPrompts(config.vision_config.hidden_size)

    def run_vision_layer(self, index: int, layer: nn.Module, tokens: torch.Tensor, *arguments, **options):
        """A layer of the image encoder with its prompts and those of the frames' CLS tokens."""
        own = self.vision_prompts.prompts[index].to(tokens.dtype).expand(len(tokens), -1, -1)
        context = self.context(tokens[:, 0]).to(tokens.dtype)
        return run_with_prompts(layer, torch.cat([own, context], dim=1), tokens, *arguments, **options)

    def run_text_layer(self, index: int, layer: nn.Module, tokens: torch.Tensor, *arguments, **options):
        """A layer of the text encoder with its prompts."""
        return run_with_prompts(layer, self.text_prompts.prompts[index], tokens, *arguments, **options)


__all__ = ["ContextPrompts", "CooperativePrompts"]
