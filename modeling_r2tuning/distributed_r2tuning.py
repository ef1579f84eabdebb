"""One batch spread over processes: sums and rows of all of them, so that losses are those of the whole batch.

What comes from other processes carries no gradient: each process differentiates the loss of the whole batch by its own
rows, and the sum over processes is the gradient. Distributed training averages instead, which `undo_averaging` makes
up for. All of it does nothing in a single process, and where no gradient is wanted.
"""

import torch
import torch.distributed as dist


def num_processes() -> int:
    """Processes that share the batch; 1 where no gradient is wanted, as processes then work on their own."""
    if torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor of the same shape over all processes; the gradient is that of the own one."""
    if num_processes() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total + (value - value.detach())


def gather_rows(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows of all processes behind each other, in the order of processes; the own ones keep their gradient.

    Args:
        tensors: `(batch, ...)`; any size may differ between processes. Other sizes than the batch are padded to the
            largest with zeros (`False`).
    """
    if num_processes() == 1:
        return tensors
    return tuple(_gather(tensor) for tensor in tensors)


def _gather(own: torch.Tensor) -> torch.Tensor:
    shape = torch.tensor(own.shape, device=own.device)
    shapes = [torch.empty_like(shape) for _ in range(num_processes())]
    dist.all_gather(shapes, shape)
    padded = own.new_zeros(torch.stack(shapes).amax(dim=0).tolist())
    padded[tuple(slice(size) for size in own.shape)] = own
    pieces = [torch.empty_like(padded, requires_grad=False) for _ in shapes]
    dist.all_gather(pieces, padded.detach())
    pieces[dist.get_rank()] = padded
    return torch.cat([piece[: int(shape[0])] for piece, shape in zip(pieces, shapes, strict=True)])


def undo_averaging(loss: torch.Tensor) -> torch.Tensor:
    """The same value, its gradient multiplied by the number of processes that will average it."""
    count = num_processes()
    return loss if count == 1 else loss.detach() + count * (loss - loss.detach())


__all__ = ["gather_rows", "num_processes", "sum_over_processes", "undo_averaging"]
