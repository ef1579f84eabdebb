"""E3VA (arXiv 2306.09729): adapters on a highway alongside CLIP, so that no gradient passes through it.

Each layer of the frozen image encoder has two adapters (its Figure 2): one reads the output of the attention branch,
one that of the MLP branch. The adapters are parallel, not stacked: the highway is the sum of their outputs, and it
joins the encoder's last output through a learned norm. An adapter is a bottleneck whose two matrices have a low rank
themselves (the paper's dual low-rank structure).

The R2-Tuning paper uses rank 16. The bottleneck of 64 and a text encoder without a highway are chosen here; they fit
the number of parameters in its Table 9. A frame is represented by its CLS token and adapters work on single tokens, so
the highway carries CLS alone. The up-projections are zero-initialised, so a frame starts as its normalised CLS token.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from .block_r2tuning import ZeroLinear
from .configuration_r2tuning import R2TuningConfig
from .method_base_r2tuning import TransferMethod
from .towers_r2tuning import branches_of


RANK = 16
BOTTLENECK = 64


class _Reader(threading.local):
    """Receives the outputs of the branches. Each thread has a value of its own, so concurrent calls do not interfere.

    A `ContextVar` would do the same, but torch.compile cannot follow it.
    """

    read: Callable[[torch.Tensor], None] | None = None


_reader = _Reader()


def _pass_to_reader(_: nn.Module, arguments: tuple, output: torch.Tensor | tuple) -> None:
    read = _reader.read
    if read is not None:
        read(output[0] if isinstance(output, tuple) else output)


class LowRankAdapter(nn.Module):
    """Down-projection to the bottleneck, GELU and up-projection, each factored into two matrices of low rank."""

    def __init__(self, width: int):
        super().__init__()
        self.down = nn.Sequential(nn.Linear(width, RANK, bias=False), nn.Linear(RANK, BOTTLENECK))
        self.up = nn.Sequential(nn.Linear(BOTTLENECK, RANK, bias=False), ZeroLinear(RANK, width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """From `(..., width)` to the same."""
        return self.up(F.gelu(self.down(states)))


class AdapterHighway(TransferMethod):
    """E3VA for the image encoder."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.adapters = nn.ModuleList(LowRankAdapter(width) for _ in range(2 * config.num_recurrent_steps))
        self.norm = nn.LayerNorm(width)

    def watch(self, layers: nn.ModuleList) -> None:
        """Hook both branches of the layers, once for all calls; the hooks do nothing outside `reading_branches`."""
        for layer in layers:
            for branch in branches_of(layer):
                branch.register_forward_hook(_pass_to_reader)

    @contextmanager
    def reading_branches(self, read: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Call `read` with the output of each branch, `(num_frames, num_tokens, width)`, in this thread only."""
        before = _reader.read
        _reader.read = read
        try:
            yield
        finally:
            _reader.read = before

    def refine_video(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, num_frames, num_states, num_tokens, width)` to the same with one state."""
        # norm(h_L + sum_i adapter_i(branch_i)), two branches i of each layer, h_L the output of the last one
        *branches, last = hidden_states.to(self.norm.weight.dtype).unbind(dim=2)
        highway: torch.Tensor | int = 0
        for adapter, branch in zip(self.adapters, branches, strict=True):
            highway = highway + adapter(branch)
        return self.norm(last + highway)[:, :, None]

    def refine_text(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, num_states, width)` to the last state."""
        return hidden_states[:, :, -1:]


__all__ = ["AdapterHighway", "LowRankAdapter"]
