"""Points: the positions in time where the heads predict, and their training targets.

A set of points is a tensor of shape `(num_points, 4)` with the columns position, lower, upper, stride, all in frames:
a point at `position` is responsible for moments whose farther end is between `lower` and `upper` frames away.
"""

from collections.abc import Sequence

import torch


CENTER_RADIUS = 1.5  # a positive point is at most this many strides away from the centre of its moment


def level_lengths(num_frames: int, strides: Sequence[int]) -> list[int]:
    """Number of points on each pyramid level; a level whose stride exceeds `num_frames` is dropped (length 0)."""
    return [num_frames // stride for stride in strides]


def make_points(num_frames: int, strides: list[int], device: torch.device | str | None = None) -> torch.Tensor:
    """Points of all levels, in order of stride.

    Level s has the positions 0, s, 2s, ... and the range [s, next stride]; the first range starts at 0 and the last one
    has no upper limit. Levels that are dropped do not change the ranges of the others.

    Args:
        num_frames: Length of the (padded) video in frames.
        strides: Temporal strides of the levels.
        device: Device of the points.

    Returns:
        `torch.Tensor` of shape `(num_points, 4)`, float32.
    """
    lowers = [0, *strides[1:]]
    uppers = [*strides[1:], float("inf")]
    lengths = level_lengths(num_frames, strides)
    levels = []
    for length, lower, upper, stride in zip(lengths, lowers, uppers, strides, strict=True):
        level = torch.empty(length, 4, device=device)
        level[:, 0] = torch.arange(length, device=device) * stride
        level[:, 1] = lower
        level[:, 2] = upper
        level[:, 3] = stride
        levels.append(level)
    return torch.cat(levels)  # (num_points, 4)


def make_point_mask(points: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Mask of the points that lie in each video: the first `floor(num_frames / stride)` of every level.

    Args:
        points: `(num_points, 4)`.
        num_frames: `(batch,)`, each video's own length in frames.

    Returns:
        Boolean `torch.Tensor` of shape `(batch, num_points)`, `True` = real.
    """
    position, stride = points[:, 0], points[:, 3]
    return position + stride <= num_frames[:, None]


def assign_targets(
    points: torch.Tensor, point_mask: torch.Tensor, moments: torch.Tensor, moment_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Assign moments to points, and compute the distances from each positive point to the ends of its moment.

    A point is positive for a moment if it lies inside it, at most 1.5 strides from its centre, and the distance to the
    farther end is within the point's range. If several moments qualify, the shortest is assigned.

    Args:
        points: `(num_points, 4)`.
        point_mask: `(batch, num_points)`, `True` = real.
        moments: `(batch, num_moments, 2)`, start and end in frames.
        moment_mask: `(batch, num_moments)`, `True` = real.

    Returns:
        `positive`, boolean `(batch, num_points)`, and `offsets`, `(batch, num_points, 2)`: distances to start and end
        in strides, 0 where not `positive`.
    """
    if moments.shape[1] == 0:
        return torch.zeros_like(point_mask), points.new_zeros(*point_mask.shape, 2)
    position, lower, upper, stride = points[:, :, None].unbind(1)  # each (num_points, 1)
    start, end = moments[:, None].unbind(-1)  # each (batch, 1, num_moments)
    to_start, to_end = position - start, end - position  # (batch, num_points, num_moments)
    farther = torch.maximum(to_start, to_end)
    inside = (to_start >= 0) & (to_end >= 0)
    central = (position - (start + end) / 2).abs() <= CENTER_RADIUS * stride
    qualifies = inside & central & (lower <= farther) & (farther <= upper)
    qualifies &= moment_mask[:, None] & point_mask[..., None]

    length = (end - start).expand_as(qualifies).masked_fill(~qualifies, float("inf"))
    shortest = length.argmin(dim=-1, keepdim=True)  # (batch, num_points, 1)
    distances = torch.cat([to_start.gather(-1, shortest), to_end.gather(-1, shortest)], dim=-1)
    offsets = distances / stride  # (batch, num_points, 2)
    positive = qualifies.any(dim=-1)  # (batch, num_points)
    return positive, offsets.masked_fill(~positive[..., None], 0.0)


def offsets_to_moments(points: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Moments in frames, `(..., num_points, 2)`, from offsets in strides of the same shape."""
    position, stride = points[:, 0], points[:, 3]
    return torch.stack([position - stride * offsets[..., 0], position + stride * offsets[..., 1]], dim=-1)


__all__ = [
    "CENTER_RADIUS",
    "assign_targets",
    "level_lengths",
    "make_point_mask",
    "make_points",
    "offsets_to_moments",
]
