"""Sums and rows of a batch that is divided among processes, so that every process computes the loss of the whole batch.

Values from other processes carry no gradient: each process differentiates the loss of the whole batch with respect to
its own rows, and the sum over processes is the gradient. Distributed training averages gradients instead of summing
them; `undo_averaging` compensates for that. In a single process, or without gradients, these functions change nothing.
"""

import torch
import torch.distributed as dist


def num_processes() -> int:
    """Number of processes that share the batch; 1 without gradients, because each process then has its own batch."""
    if torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor, of equal shape in all processes, over them; only this process's own value has a gradient."""
    if num_processes() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total + (value - value.detach())


def gather_rows(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Concatenate the rows of all processes, in order of rank; a process's own rows keep their gradient.

    Args:
        tensors: `(batch, ...)`; all sizes may differ between processes, and the batch may be empty in some or all of
            them. Sizes other than the batch are padded to the largest with zeros (`False`).
    """
    if num_processes() == 1:
        return tensors
    gathered = []
    for tensor, shapes in zip(tensors, _exchange_shapes(tensors), strict=True):
        gathered.append(_gather(tensor, shapes))
    return tuple(gathered)


def _exchange_shapes(tensors: tuple[torch.Tensor, ...]) -> list[list[list[int]]]:
    """Shapes of each tensor in all processes; the only values that are read from the device, all at once."""
    sizes = [torch.tensor(tensor.shape) for tensor in tensors]
    own = torch.cat(sizes).to(tensors[0].device, non_blocking=True)
    of_all = [torch.empty_like(own) for _ in range(num_processes())]
    dist.all_gather(of_all, own)
    table = torch.stack(of_all).cpu()  # (num_processes, axes of all tensors)
    return [part.tolist() for part in table.split([tensor.dim() for tensor in tensors], dim=1)]


def _gather(own: torch.Tensor, shapes: list[list[int]]) -> torch.Tensor:
    # All processes must send tensors of equal shape: pad to the largest, then keep each process's number of rows.
    padded = own.new_zeros([max(sizes) for sizes in zip(*shapes, strict=True)])
    padded[tuple(slice(size) for size in own.shape)] = own
    if padded.numel() == 0:  # no process has a row: there is nothing to send
        return padded
    pieces = [torch.empty_like(padded, requires_grad=False) for _ in shapes]
    dist.all_gather(pieces, padded.detach())
    pieces[dist.get_rank()] = padded
    rows = []
    for piece, shape in zip(pieces, shapes, strict=True):
        rows.append(piece[: shape[0]])
    return torch.cat(rows)


def undo_averaging(loss: torch.Tensor) -> torch.Tensor:
    """The same value with its gradient multiplied by the number of processes, over which it will be averaged."""
    count = num_processes()
    if count == 1:
        return loss
    return loss.detach() + count * (loss - loss.detach())


__all__ = ["gather_rows", "num_processes", "sum_over_processes", "undo_averaging"]
