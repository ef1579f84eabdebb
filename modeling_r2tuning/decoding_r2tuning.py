"""Decode raw predictions to moments, saliency, highlights and a summary: tensors in, tensors or numbers out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .points_r2tuning import offsets_to_moments


def temporal_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each moment of `first (..., n, 2)` with each of `second (..., m, 2)`.

    Returns:
        `torch.Tensor` of shape `(..., n, m)` in [0, 1]; 0 where both moments are empty.
    """
    # IoU = overlap / union, with overlap = max(0, min(ends) - max(starts)) and union = both lengths - overlap
    first, second = first[..., :, None, :], second[..., None, :, :]  # (..., n, 1, 2) and (..., 1, m, 2)
    overlap = torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])
    overlap = overlap.clamp(min=0)  # (..., n, m)
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - overlap
    return torch.where(union > 0, overlap / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def temporal_nms(
    moments: torch.Tensor, scores: torch.Tensor, method: str, threshold: float = 0.7, sigma: float = 0.5
) -> torch.Tensor:
    """Lower the scores of moments that overlap better ones; no moment is removed.

    The best remaining moment is taken repeatedly, and the scores of the moments that then remain are multiplied by 0 if
    the overlap reaches `threshold` (`"hard"`), by `1 - IoU` (`"linear"`), or by `exp(-IoU^2 / sigma)` (`"gaussian"`).

    Args:
        moments: `(batch, num_moments, 2)`, start and end.
        scores: `(batch, num_moments)` in [0, 1]; a negative score marks padding, which has no effect.
        method: `"hard"`, `"linear"` or `"gaussian"`.
        threshold: IoU of `"hard"`.
        sigma: Width of `"gaussian"`.

    Returns:
        New scores `(batch, num_moments)`, in the same order.
    """
    # while moments remain:  best = argmax of their scores; remove it from those that remain;
    #                        score_j = score_j * factor(IoU(best, j)) for each j that remains
    # The batch takes as many rounds as its longest video; a video without remaining moments does not change.
    iou = temporal_iou(moments, moments)  # (batch, num_moments, num_moments)
    if method == "hard":
        factors = (iou < threshold).to(scores.dtype)
    elif method == "linear":
        factors = 1 - iou
    else:
        factors = torch.exp(-iou.square() / sigma)
    remaining = scores >= 0
    for _ in range(scores.shape[1]):
        best = scores.masked_fill(~remaining, -1.0).argmax(dim=1, keepdim=True)  # (batch, 1)
        remaining = remaining.scatter(1, best, False)
        factor = factors.take_along_dim(best[..., None], dim=1).squeeze(1)  # (batch, num_moments)
        scores = torch.where(remaining, scores * factor, scores)
    return scores


def sort_by_score(
    moments: torch.Tensor, scores: torch.Tensor, count: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best `count` moments (default all) and their scores, best first; equal scores keep their order."""
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
    """Clamp, round, suppress and sort moments, in the order of the released evaluation.

    Only moments that end before the video does are rounded, half to even. Without suppression they are not sorted.

    Args:
        moments: `(batch, num_moments, 2)`, in seconds.
        scores: `(batch, num_moments)`, negative where padded.
        duration_sec: `(batch,)`, length of each video.
        nms: Method of `temporal_nms`; `None` = no suppression.
        nms_threshold: Threshold of `temporal_nms`.
        round_to: Unit in seconds; `None` = no rounding.

    Returns:
        Moments `(batch, num_moments, 2)` in seconds, and scores `(batch, num_moments)`.
    """
    longest = duration_sec[:, None, None]  # (batch, 1, 1)
    ends_early = moments[..., 1:] < longest  # (batch, num_moments, 1)
    moments = torch.minimum(moments.clamp(min=0), longest)
    if round_to is not None:
        rounded = (moments / round_to).round() * round_to
        moments = torch.where(ends_early, rounded, moments)
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
    """Saliency of each frame: its highest class score over the levels, times the cosine with the text if `merge`.

    A level of n points repeats each score `T // n` times and fills the remaining frames up to T with the last one, where
    T is the number of frames of the video without padding.

    Args:
        logits: `(batch, num_points)`.
        similarity: `(batch, num_frames)`, cosine of frame and text.
        points: `(num_points, 4)`.
        point_mask: `(batch, num_points)`, `True` = real.
        frame_mask: `(batch, num_frames)`, `True` = real.
        merge: Multiply by `similarity`, as for models with a moment head.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames)`; 0 where padded.
    """
    # In a video of T frames, on a level of n points with scores p, frame t takes the score of point
    #     i(t) = min(t // (T // n), n - 1)
    # and its saliency is (max of p[i(t)] over the levels) * cosine[t].
    scores = logits.sigmoid()
    num_frames = frame_mask.sum(dim=1, keepdim=True)  # (batch, 1)
    time = torch.arange(frame_mask.shape[1], device=logits.device)  # (num_frames,)
    best = torch.full_like(similarity, float("-inf"))
    for stride in points[:, 3].unique():
        on_level = points[:, 3] == stride  # (num_points,)
        count = point_mask[:, on_level].sum(dim=1, keepdim=True)  # (batch, 1), 0 if the video is too short
        repeat = num_frames // count.clamp(min=1)
        nearest = torch.minimum(time // repeat, (count - 1).clamp(min=0))  # (batch, num_frames)
        level = scores[:, on_level].gather(1, nearest)  # (batch, num_frames)
        best = torch.maximum(best, level.masked_fill(count == 0, float("-inf")))
    saliency = best * similarity if merge else best
    return saliency.masked_fill(~frame_mask, 0.0)


def owned_frames(frame_mask: torch.Tensor, window_starts: torch.Tensor) -> torch.Tensor:
    """Assign each frame of a video to one window: two overlapping windows meet in the middle of their overlap.

    Between windows that do not overlap, since others are left out, there are frames that no window owns.

    Args:
        frame_mask: `(num_windows, window_frames)`, `True` = real.
        window_starts: `(num_windows,)`, first frame of each window, rising.

    Returns:
        `(num_windows, 2)`, first frame that a window owns and end (exclusive), counted from the window's start.
    """
    ends = window_starts + frame_mask.sum(dim=1)  # (num_windows,)
    borders = (window_starts[1:] + ends[:-1]) // 2  # (num_windows - 1,)
    first = torch.cat([window_starts[:1], torch.maximum(borders, window_starts[1:])])
    last = torch.cat([torch.minimum(borders, ends[:-1]), ends[-1:]])
    return torch.stack([first, last], dim=1) - window_starts[:, None]


@dataclass
class DecodedVideos:
    """Predictions for each query over its whole video.

    Attributes:
        moments: `(num_queries, num_points, 2)`, in frames, not clamped; no points if there is no moment head.
        scores: `(num_queries, num_points)`, in [0, 1]; -1 marks padding.
        saliency: `(num_queries, num_frames)`; 0 where padded.
        num_frames: `(num_queries,)`, length of each video without padding.
        existence: `(num_queries,)`, logit of the event that any moment matches the query; of a windowed video, the
            highest of its windows. `None` without existence head.
    """

    moments: torch.Tensor
    scores: torch.Tensor
    saliency: torch.Tensor
    num_frames: torch.Tensor
    existence: torch.Tensor | None = None


def decode_outputs(outputs: Mapping[str, torch.Tensor]) -> DecodedVideos:
    """Decode the points and frames of a `VideoGroundingOutput`; merge the windows of a long video."""
    logits, similarity = outputs["logits"].float(), outputs["saliency_scores"].float()
    points, point_mask, frame_mask = outputs["points"], outputs["point_mask"], outputs["frame_mask"]
    offsets = outputs.get("boundary_offsets")
    saliency = decode_saliency(logits, similarity, points, point_mask, frame_mask, merge=offsets is not None)
    if offsets is not None:
        moments = offsets_to_moments(points, offsets.float())  # (batch, num_points, 2)
        scores = logits.sigmoid().masked_fill(~point_mask, -1.0)  # (batch, num_points)
    else:
        points = points[:0]
        moments = outputs["logits"].new_zeros(len(logits), 0, 2)
        scores = outputs["logits"].new_zeros(len(logits), 0)
    existence = outputs.get("existence_logits")
    existence = None if existence is None else existence.float()
    decoded = DecodedVideos(moments, scores, saliency, frame_mask.sum(dim=1), existence)
    starts = outputs.get("window_starts")
    if starts is None:
        return decoded
    return _merge_windows(decoded, points, frame_mask, starts, num_queries=int(outputs["query_index"].max()) + 1)


def _merge_windows(
    decoded: DecodedVideos, points: torch.Tensor, frame_mask: torch.Tensor, starts: torch.Tensor, num_queries: int
) -> DecodedVideos:
    """Merge the windows of a video: each window contributes the points and frames that it owns.

    Args:
        decoded: One row for each query and window, all windows of the first query first.
        points: `(num_points, 4)`, those of a window.
        frame_mask: `(num_queries * num_windows, window_frames)`, `True` = real.
        starts: `(num_queries * num_windows,)`, first frame of each window.
        num_queries: Number of queries.
    """
    num_windows = len(starts) // num_queries
    owned = owned_frames(frame_mask[:num_windows], starts[:num_windows])  # (num_windows, 2)
    position = points[:, 0]
    owns = (owned[:, :1] <= position) & (position < owned[:, 1:])  # (num_windows, num_points)
    moments = decoded.moments + starts[:, None, None]  # in frames of the video
    scores = decoded.scores.masked_fill(~owns.repeat(num_queries, 1), -1.0)
    curves = decoded.saliency.unflatten(0, (num_queries, num_windows))  # (num_queries, num_windows, window_frames)
    pieces = []
    for window, (first, end) in enumerate(owned.tolist()):
        pieces.append(curves[:, window, first:end])
    saliency = torch.cat(pieces, dim=1)  # (num_queries, num_frames)
    existence = decoded.existence
    if existence is not None:  # a query is present in the video if it is in any window
        existence = existence.unflatten(0, (num_queries, num_windows)).amax(dim=1)  # (num_queries,)
    return DecodedVideos(
        moments=moments.reshape(num_queries, -1, 2),  # (num_queries, num_windows * num_points, 2)
        scores=scores.reshape(num_queries, -1),  # (num_queries, num_windows * num_points)
        saliency=saliency,
        num_frames=torch.full_like(starts[:num_queries], saliency.shape[1]),
        existence=existence,
    )


def select_highlights(saliency: torch.Tensor, count: int) -> list[int]:
    """Indices of the `count` most salient frames of `saliency (num_frames,)`, best first."""
    return saliency.argsort(descending=True, stable=True)[:count].tolist()


def select_summary(
    saliency: torch.Tensor, fps: float, duration_sec: float, share: float = 0.15, unit_sec: float = 2.0
) -> list[tuple[float, float]]:
    """Select the most salient units that together fill about a share of the video.

    Args:
        saliency: `(num_frames,)`.
        fps: Frames per second.
        duration_sec: Length of the video.
        share: Share of the video to fill, in (0, 1]; at least one unit is selected.
        unit_sec: Length of a unit; a unit has at least one frame.

    Returns:
        Spans (start, end) in seconds, in order of time; adjacent units are joined.
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
