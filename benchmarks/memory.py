"""Memory of a training step: by the allocator, by the operating system, or counted tensor by tensor."""

import re
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def start_peak(device: torch.device) -> int:
    """Forget earlier peaks; returns the bytes to subtract from the next one.

    On a GPU that is 0: weights and pixels count. On a CPU it is what the process holds already.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0
    Path("/proc/self/clear_refs").write_text("5")  # Linux
    return read_peak(device)


def read_peak(device: torch.device) -> int:
    """Highest number of bytes in use since `start_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    kilobytes = re.search(r"VmHWM:\s+(\d+)", status)[1]
    return int(kilobytes) * 1024


class KeptForBackward:
    """Counts the bytes that autograd keeps, each piece of memory once, without weights and inputs."""

    def __init__(self, model: nn.Module, batch: dict[str, Any]):
        inputs = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        others = [*model.parameters(), *model.buffers(), *inputs]
        self.others = {tensor.untyped_storage().data_ptr() for tensor in others}
        self.sizes: dict[int, int] = {}
        self.kept: list[torch.Tensor] = []  # kept alive, so that no address is used twice
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.others:
            self.sizes[storage.data_ptr()] = storage.nbytes()
            self.kept.append(tensor)
        return tensor

    @property
    def bytes(self) -> int:
        """Bytes kept."""
        return sum(self.sizes.values())

    def __enter__(self) -> Self:
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)
        self.kept.clear()


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive and their peak, as a GPU's allocator would on any device.

    Memory that a kernel allocates for itself is not counted.

    Args:
        tensors: Already alive, such as weights.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]):
        super().__init__()
        self.bytes = self.peak = 0
        self.known: dict[int, int] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory from now on until it is freed."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known[storage._cdata] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, storage: int) -> None:
        self.bytes -= self.known.pop(storage)

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result


def extrapolate_peak(
    step: Callable[[dict[str, Any]], None],
    make: Callable[[int], dict[str, Any]],
    held: Iterable[torch.Tensor],
    batch: int,
) -> float:
    """Peak of a step's tensors in bytes at a batch that does not fit: it grows by the same amount with each query.

    Args:
        step: A whole training step on a batch.
        make: Makes a batch of a number of queries.
        held: Alive between steps: weights and the optimiser's state.
        batch: Number of queries to extrapolate to.
    """
    peaks = []
    with LiveTensors(held) as live:
        for queries in (2, 3):
            step(make(queries))
            peaks.append(live.peak)
            live.peak = live.bytes
    return peaks[0] + (batch - 2) * (peaks[1] - peaks[0])


__all__ = ["KeptForBackward", "LiveTensors", "extrapolate_peak", "read_peak", "start_peak"]
