"""From raw predictions to moments, saliency, highlights and a summary: tensors in, tensors or plain numbers out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .points_r2tuning import offsets_to_moments


def temporal_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each moment of `first (..., n, 2)` with each of `second (..., m, 2)`.

    Returns:
        `torch.Tensor` of shape `(..., n, m)` in [0, 1]; 0 where both moments are empty.
    """
    first, second = first[..., :, None, :], second[..., None, :, :]
    overlap = torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])
    overlap = overlap.clamp(min=0)
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - overlap
    return torch.where(union > 0, overlap / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def temporal_nms(
    moments: torch.Tensor, scores: torch.Tensor, method: str, threshold: float = 0.7, sigma: float = 0.5
) -> torch.Tensor:
    """Lower the scores of moments that overlap better ones; nothing is removed.

    Moment after moment, the best remaining one is taken and the scores of those left are multiplied: by 0 where the
    overlap reaches `threshold` (`"hard"`), by `1 - IoU` (`"linear"`), or by `exp(-IoU^2 / sigma)` (`"gaussian"`).

    Args:
        moments: `(batch, num_moments, 2)`, start and end.
        scores: `(batch, num_moments)` in [0, 1]; a negative score marks padding, which has no effect.
        method: `"hard"`, `"linear"` or `"gaussian"`.
        threshold: For `"hard"`.
        sigma: For `"gaussian"`.

    Returns:
        New scores, in the same order.
    """
    iou = temporal_iou(moments, moments)
    if method == "hard":
        factors = (iou < threshold).to(scores.dtype)
    else:
        factors = 1 - iou if method == "linear" else torch.exp(-iou.square() / sigma)
    remaining = scores >= 0
    for _ in range(scores.shape[1]):
        best = scores.masked_fill(~remaining, -1.0).argmax(dim=1, keepdim=True)  # (batch, 1)
        remaining = remaining.scatter(1, best, False)
        factor = factors.take_along_dim(best[..., None], dim=1).squeeze(1)  # (batch, num_moments)
        scores = torch.where(remaining, scores * factor, scores)
    return scores


def sort_by_score(moments: torch.Tensor, scores: torch.Tensor, count: int | None = None):
    """The best `count` moments (default all), best first; equal scores keep their order."""
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return moments.take_along_dim(order[..., None], dim=1)[:, :count], scores[:, :count]


def refine_moments(
    moments: torch.Tensor,
    scores: torch.Tensor,
    duration_sec: torch.Tensor,
    nms: str | None = "hard",
    nms_threshold: float = 0.7,
    round_to: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The released evaluation's steps, in its order: clamp, round, suppress and sort.

    Only moments that ended before the video did are rounded, half to even. Without suppression the order is kept.

    Args:
        moments: `(batch, num_moments, 2)`, in seconds.
        scores: `(batch, num_moments)`, negative where padded.
        duration_sec: `(batch,)`.
        nms: Method of `temporal_nms`; `None` = none.
        nms_threshold: For hard suppression.
        round_to: Unit in seconds; `None` = no rounding.
    """
    longest = duration_sec[:, None, None]
    free = moments[..., 1:] < longest
    moments = torch.minimum(moments.clamp(min=0), longest)
    if round_to is not None:
        moments = torch.where(free, (moments / round_to).round() * round_to, moments)
    if nms is None:
        return moments, scores
    return sort_by_score(moments, temporal_nms(moments, scores, nms, nms_threshold))


def decode_saliency(
    logits: torch.Tensor,
    similarity: torch.Tensor,
    points: torch.Tensor,
    point_mask: torch.Tensor,
    frame_mask: torch.Tensor,
    merge: bool,
) -> torch.Tensor:
    """Saliency of each frame: the best level's class score, times the cosine with the text if `merge`.

    A level of n points repeats each score `T // n` times and fills up to T with the last one, T being the video's own
    number of frames.

    Args:
        logits: `(batch, num_points)`.
        similarity: `(batch, num_frames)`, cosine of frame and text.
        points: `(num_points, 4)`.
        point_mask: `(batch, num_points)`, `True` = real.
        frame_mask: `(batch, num_frames)`, `True` = real.
        merge: Multiply by `similarity`; models without moment head do not.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames)`; 0 where padded.
    """
    scores = logits.sigmoid()
    num_frames = frame_mask.sum(dim=1, keepdim=True)  # (batch, 1)
    time = torch.arange(frame_mask.shape[1], device=logits.device)
    best = torch.full_like(similarity, float("-inf"))
    for stride in points[:, 3].unique():
        on_level = points[:, 3] == stride
        count = point_mask[:, on_level].sum(dim=1, keepdim=True)
        repeat = num_frames // count.clamp(min=1)
        nearest = torch.minimum(time // repeat, (count - 1).clamp(min=0))  # (batch, num_frames)
        level = scores[:, on_level].gather(1, nearest)
        best = torch.maximum(best, level.masked_fill(count == 0, float("-inf")))
    saliency = best * similarity if merge else best
    return saliency.masked_fill(~frame_mask, 0.0)


def owned_frames(frame_mask: torch.Tensor, window_starts: torch.Tensor) -> torch.Tensor:
    """Which frames each window answers for: of two overlapping windows, each its side of the middle of the overlap.

    Together the windows own every frame of the video exactly once.

    Args:
        frame_mask: `(num_windows, window_frames)`, `True` = real.
        window_starts: `(num_windows,)`, first frame of each window, rising.

    Returns:
        `(num_windows, 2)`, first owned frame and first frame no longer owned, counted from the window's start.
    """
    ends = window_starts + frame_mask.sum(dim=1)
    borders = (window_starts[1:] + ends[:-1]) // 2
    first = torch.cat([window_starts[:1], borders])
    last = torch.cat([borders, ends[-1:]])
    return torch.stack([first, last], dim=1) - window_starts[:, None]


@dataclass
class DecodedVideos:
    """Predictions for each query over the whole of its video.

    Attributes:
        moments: `(num_queries, num_points, 2)`, in frames, not clamped; no points without a moment head.
        scores: `(num_queries, num_points)`, in [0, 1]; -1 marks padding.
        saliency: `(num_queries, num_frames)`; 0 where padded.
        num_frames: `(num_queries,)`, each video's own length.
    """

    moments: torch.Tensor
    scores: torch.Tensor
    saliency: torch.Tensor
    num_frames: torch.Tensor


def decode_outputs(outputs: Mapping[str, torch.Tensor]) -> DecodedVideos:
    """Decode the points and frames of a `VideoGroundingOutput`; merge the windows of a long video.

    Each window keeps the points and frames that it owns, so every one of them is answered for exactly once.
    """
    logits, points, frame_mask = outputs["logits"], outputs["points"], outputs["frame_mask"]
    offsets = outputs.get("boundary_offsets")
    merge = offsets is not None
    saliency = decode_saliency(
        logits.float(), outputs["saliency_scores"].float(), points, outputs["point_mask"], frame_mask, merge
    )
    if merge:
        moments = offsets_to_moments(points, offsets.float())
        scores = logits.float().sigmoid().masked_fill(~outputs["point_mask"], -1.0)
    else:
        points, moments, scores = points[:0], logits.new_zeros(len(logits), 0, 2), logits.new_zeros(len(logits), 0)
    starts = outputs.get("window_starts")
    if starts is None:
        return DecodedVideos(moments, scores, saliency, frame_mask.sum(dim=1))

    num_queries = int(outputs["query_index"].max()) + 1
    num_windows = len(starts) // num_queries
    owned = owned_frames(frame_mask[:num_windows], starts[:num_windows])
    position = points[:, 0]
    owns = (owned[:, :1] <= position) & (position < owned[:, 1:])  # (num_windows, num_points)
    moments = (moments + starts[:, None, None]).reshape(num_queries, -1, 2)
    scores = scores.masked_fill(~owns.repeat(num_queries, 1), -1.0).reshape(num_queries, -1)
    curves = saliency.unflatten(0, (num_queries, num_windows)).unbind(1)
    saliency = torch.cat([curve[:, a:b] for curve, (a, b) in zip(curves, owned.tolist(), strict=True)], dim=1)
    return DecodedVideos(
        moments, scores, saliency, torch.full_like(outputs["query_index"][:num_queries], saliency.shape[1])
    )


def select_highlights(saliency: torch.Tensor, count: int) -> list[int]:
    """Indices of the `count` most salient frames of `saliency (num_frames,)`, best first."""
    return saliency.argsort(descending=True, stable=True)[:count].tolist()


def select_summary(
    saliency: torch.Tensor, fps: float, duration_sec: float, share: float = 0.15, unit_sec: float = 2.0
) -> list[tuple[float, float]]:
    """Spans of the most salient units that together fill about a share of the video.

    Args:
        saliency: `(num_frames,)`.
        fps: Frames per second.
        duration_sec: Length of the video.
        share: Part of the video to fill, in (0, 1]; at least one unit is chosen.
        unit_sec: Length of a unit; never shorter than a frame.

    Returns:
        Start and end in seconds, in order of time; neighbouring units are joined.
    """
    frames_per_unit = max(1, round(unit_sec * fps))
    units = torch.stack([unit.mean() for unit in saliency.split(frames_per_unit)])
    count = max(1, int(share * duration_sec * fps / frames_per_unit))
    spans: list[tuple[float, float]] = []
    for unit in sorted(select_highlights(units, count)):
        start = unit * frames_per_unit / fps
        end = (unit + 1) * frames_per_unit / fps if unit + 1 < len(units) else max(duration_sec, start)
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, min(end, max(duration_sec, start))))
    return spans


__all__ = [
    "DecodedVideos",
    "decode_outputs",
    "decode_saliency",
    "owned_frames",
    "refine_moments",
    "select_highlights",
    "select_summary",
    "sort_by_score",
    "temporal_iou",
    "temporal_nms",
]
