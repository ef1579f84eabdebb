"""E3VA (arXiv 2306.09729): adapters on a highway beside CLIP, so that no gradient passes through it.

After its Figure 2: each layer of the frozen image encoder has two adapters, one reads what attention adds to the
residual stream there, one what the MLP adds. Adapters are parallel, not stacked: their outputs are summed up along the
highway, and its sum joins the encoder's last output through a learned norm. An adapter is a bottleneck whose two
matrices have a low rank themselves (the paper's dual low-rank structure).

The R2-Tuning paper tells the rank, 16; the bottleneck of 64 and that the text encoder has no highway are chosen here,
and fit the number of parameters in its Table 9. A frame is its CLS token and adapters look at single tokens, so CLS is
all that the highway carries. The way up begins as zero: at first a frame is what it was, normalised.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import nn

from .block_r2tuning import ZeroLinear
from .configuration_r2tuning import R2TuningConfig


RANK = 16
BOTTLENECK = 64


# Receives the outputs of the branches. Each thread has its own value, so calls do not see each other's.
_reader: ContextVar[Callable[[torch.Tensor], None] | None] = ContextVar("reader", default=None)


def _show(_: nn.Module, arguments: tuple, output: torch.Tensor | tuple) -> None:
    read = _reader.get()
    if read is not None:
        read(output[0] if isinstance(output, tuple) else output)


class LowRankAdapter(nn.Module):
    """Down to the bottleneck, GELU, and up, each by two matrices of low rank."""

    def __init__(self, width: int):
        super().__init__()
        self.down = nn.Sequential(nn.Linear(width, RANK, bias=False), nn.Linear(RANK, BOTTLENECK))
        self.up = nn.Sequential(nn.Linear(BOTTLENECK, RANK, bias=False), ZeroLinear(RANK, width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From `(..., width)` to the same."""
        return self.up(F.gelu(self.down(states)))


class AdapterHighway(nn.Module):
    """E3VA for the image encoder."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.adapters = nn.ModuleList(LowRankAdapter(width) for _ in range(2 * config.num_recurrent_steps))
        self.norm = nn.LayerNorm(width)

    @staticmethod
    def watch(layers: nn.ModuleList) -> None:
        """Hook both branches of layers, once for all calls; the hooks do nothing outside of `reading_branches`."""
        for layer in layers:
            layer.self_attn.register_forward_hook(_show)
            layer.mlp.register_forward_hook(_show)

    @staticmethod
    @contextmanager
    def reading_branches(read: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Call `read` with what each branch adds, `(num_frames, num_tokens, width)`, in this thread only."""
        token = _reader.set(read)
        try:
            yield
        finally:
            _reader.reset(token)

    def refine_video(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_frames, num_states, num_tokens, width)` to the same with one state."""
        *branches, last = hidden_states.to(self.norm.weight.dtype).unbind(dim=2)
        highway = sum(adapter(branch) for adapter, branch in zip(self.adapters, branches, strict=True))
        return self.norm(last + highway)[:, :, None]

    def refine_text(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, num_states, width)` to the last state alone."""
        return hidden_states[:, :, -1:]


__all__ = ["AdapterHighway", "LowRankAdapter"]
