"""Training targets on the sampled frames of a video, in float32 as in the released code."""

from typing import Any

import numpy as np

from .benchmarks import UNIT_SEC, BenchmarkSpec


__all__ = ["frame_rate", "prepare_moments", "prepare_saliency", "units_per_second"]


def frame_rate(row: dict[str, Any], spec: BenchmarkSpec, fps: float) -> float:
    """Frames per second at which the video of a row is sampled.

    Args:
        row: An example in the schema of `features.py`.
        spec: The benchmark; if it has one frame per annotated unit, the rate follows from the row.
        fps: The rate for all other benchmarks.
    """
    if spec.saliency.frames == "one_per_unit":
        return units_per_second(row)
    return fps


def units_per_second(row: dict[str, Any]) -> float:
    """Frames per second at which a video has one frame per annotated unit."""
    return len(row["saliency"]["scores"]) / row["duration_sec"]


def prepare_moments(moments: list[list[float]], num_frames: int, fps: float) -> np.ndarray:
    """Moments clipped to the sampled video (num_frames / fps), with ends in order, and at least one frame long.

    Args:
        moments: [start, end] pairs in seconds; none for an absent query.
        num_frames: Frames that were sampled from the video.
        fps: Frames per second at which they were sampled.

    Returns:
        `np.ndarray` of shape `(num_moments, 2)`, float32 seconds, in the order given.
    """
    longest, half = np.float32(num_frames / fps), np.float32(0.5 / fps)
    boundary = np.clip(np.asarray(moments, np.float32).reshape(-1, 2), 0, longest)
    boundary.sort(axis=1)
    short = boundary[:, 1] - boundary[:, 0] < np.float32(1 / fps)
    center = np.clip(boundary[short].sum(axis=1) / 2, half, np.float32(num_frames / fps - 0.5 / fps))
    boundary[short] = np.stack([center - half, center + half], axis=1)
    return boundary


def prepare_saliency(row: dict[str, Any], num_frames: int, fps: float, spec: BenchmarkSpec) -> np.ndarray:
    """Saliency of each sampled frame, from 0 to 1, as in the training of the released code.

    A unit's saliency is the mean of its annotators' scores, rescaled so that the lowest score is 0 and the highest 1;
    `spec.saliency.frames` says which unit a frame belongs to. Where saliency is not annotated, it is 1 for frames inside
    a moment and 0 elsewhere. For an absent query, whose `moments` are `[]`, it is 0 everywhere.

    Args:
        row: An example in the schema of `features.py`.
        num_frames: Frames that were sampled from the video.
        fps: Frames per second at which they were sampled.
        spec: The benchmark.

    Returns:
        `np.ndarray` of shape `(num_frames,)`, float32. With "in_order" it is cut to the annotated units.

    Raises:
        ValueError: The row has no annotation, or there must be one frame per unit and the numbers differ.
    """
    if row["saliency"] is None or row["moments"] == []:
        return _inside_moments(row, num_frames, fps)
    scores = np.asarray(row["saliency"]["scores"], np.float32)  # (num_units, num_annotators)
    num_units, num_annotators = scores.shape
    lowest, highest = spec.saliency.lowest, spec.saliency.highest
    # (sum - A * lowest) / (A * (highest - lowest)) for A annotators: bit for bit as in the released code, which sums
    # before it divides.
    values = (scores.sum(axis=1) - lowest * num_annotators) / ((highest - lowest) * num_annotators)
    if spec.saliency.frames == "in_order":
        return values[:num_frames]
    if spec.saliency.frames == "by_time":
        units = (np.arange(num_frames) / fps // UNIT_SEC).astype(int)
        return np.where(units < num_units, values[np.minimum(units, num_units - 1)], np.float32(0))
    if num_units != num_frames:
        raise ValueError(
            f"{row['video_id']}: {spec.name} takes one frame for each of its {num_units} annotated units, got "
            f"`num_frames` {num_frames}; sample at num_units / duration frames per second."
        )
    return values


def _inside_moments(row: dict[str, Any], num_frames: int, fps: float) -> np.ndarray:
    if row["moments"] is None:
        raise ValueError(
            f"qid {row['qid']}: neither `moments` nor `saliency` is annotated, so there is nothing to train on."
        )
    saliency = np.zeros(num_frames, np.float32)
    moments = prepare_moments(row["moments"], num_frames, fps)
    for start, end in np.ceil(moments * np.float32(fps)).astype(int):
        first = min(start, end - 1)  # rounding up a start just above 0 would leave a one-frame moment without a frame
        saliency[first:end] = 1
    return saliency
