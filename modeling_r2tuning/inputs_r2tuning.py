"""Checks of the model's arguments; the code after them trusts its inputs.

Shapes are always checked. Values are checked by `forward`, which on an accelerator waits for the device, or before it on
the CPU by `check_batch`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from .configuration_r2tuning import R2TuningConfig
from .losses_r2tuning import GroundingLabels, pad_moments


@dataclass(frozen=True)
class CheckedBatch:
    """What `check_batch` found in a batch, for `forward`.

    Attributes:
        num_frames: Number of real frames of each video.
        present: Indices of the queries that have a moment; without labels of moments, of all queries.
    """

    num_frames: tuple[int, ...]
    present: tuple[int, ...]


def check_batch(batch: Mapping[str, torch.Tensor]) -> CheckedBatch:
    """Check the values of a batch, an argument of `forward` each, in place of `forward`.

    Args:
        batch: Arguments of `forward` on the CPU, where no check waits for a device, with `frame_mask` and
            `attention_mask`; moments, if any, as one padded tensor with `moment_mask`.

    Raises:
        ValueError: A value that `forward` would refuse.
    """
    frame_mask, attention_mask = batch["frame_mask"], batch["attention_mask"]
    num_queries = len(attention_mask)
    _check_rows("attention_mask", attention_mask)
    _check_rows("frame_mask", frame_mask)
    _check_right_padding(frame_mask)
    for name in ("fps", "duration_sec"):
        if name in batch:
            _check_positive(name, batch[name])
    num_frames = tuple(frame_mask.sum(dim=1).tolist())
    if "video_index" in batch:
        _check_video_index(batch["video_index"], len(frame_mask))
        frame_mask = frame_mask[batch["video_index"]]
    else:
        frame_mask = frame_mask.repeat_interleave(num_queries // len(frame_mask), dim=0)
    present = torch.ones(num_queries, dtype=torch.bool)
    if "moment_mask" in batch:
        present = batch["moment_mask"].any(dim=1)
    if "positive_frame" in batch:
        _check_positive_frame(batch["positive_frame"].masked_fill(~present, 0), frame_mask)
    return CheckedBatch(num_frames, tuple(present.nonzero().flatten().tolist()))


def check_text(
    config: R2TuningConfig,
    input_ids: torch.Tensor | None,
    text_hidden_states: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    checked: CheckedBatch | None = None,
) -> torch.Tensor:
    """Check token ids or hidden states of text; the values of their mask only if they are not `checked`.

    Returns:
        Their mask, boolean `(batch, text_length)`.
    """
    if input_ids is not None and text_hidden_states is None:
        check_shape("input_ids", input_ids, (None, None))
        longest, length = config.max_text_length, input_ids.shape[1]
        if length > longest:
            raise ValueError(f"`input_ids` must not be longer than {longest} tokens, got {length}.")
        if config.tower_spec.text_attention == "fixed_length" and length != longest:
            raise ValueError(
                f"`input_ids` must be padded to {longest} tokens, as the processor pads them: the text encoder was trained "
                f"so. Got {length} tokens."
            )
        return _check_mask("attention_mask", attention_mask, input_ids, checked)
    if text_hidden_states is not None and input_ids is None:
        sizes = (None, None, config.num_text_states, config.text_config.hidden_size)
        check_shape("text_hidden_states", text_hidden_states, sizes)
        return _check_mask("attention_mask", attention_mask, text_hidden_states, checked)
    raise ValueError("Pass either `input_ids` or `text_hidden_states`, got both or none.")


def check_video(
    config: R2TuningConfig,
    pixel_values_videos: torch.Tensor | None,
    video_hidden_states: torch.Tensor | None,
    frame_mask: torch.Tensor | None,
    video_index: torch.Tensor | None,
    num_queries: int,
    checked: CheckedBatch | None = None,
) -> torch.Tensor:
    """Check pixels or hidden states of a batch of videos, and which video each query is about.

    Without `video_index` the videos must divide the queries evenly. Values are checked only if they are not `checked`.

    Returns:
        Their mask, boolean `(num_videos, num_frames)`.
    """
    if pixel_values_videos is not None and video_hidden_states is None:
        size = cast("int", config.vision_config.image_size)
        sizes = (None, None, config.vision_config.num_channels, size, size)
        check_shape("pixel_values_videos", pixel_values_videos, sizes)
        video = pixel_values_videos
    elif video_hidden_states is not None and pixel_values_videos is None:
        check_shape("video_hidden_states", video_hidden_states, (None, *video_state_shape(config)))
        video = video_hidden_states
    else:
        raise ValueError("Pass either `pixel_values_videos` or `video_hidden_states`, got both or none.")
    num_videos = len(video)
    if video_index is not None:
        check_shape("video_index", video_index, (num_queries,))
        if checked is None:
            _check_video_index(video_index, num_videos)
    elif num_queries % num_videos:
        raise ValueError(f"{num_queries} queries cannot be divided evenly among {num_videos} videos.")
    elif frame_mask is not None and len(frame_mask) == num_queries:
        frame_mask = frame_mask[:: num_queries // num_videos]
    mask = _check_mask("frame_mask", frame_mask, video, checked)
    if checked is None:
        _check_right_padding(mask)
    return mask


def count_frames(
    pixels: torch.Tensor, frame_mask: torch.Tensor | None, num_frames: Sequence[int] | None
) -> Sequence[int] | None:
    """Check the mask or the lengths of a batch of videos.

    Returns:
        Number of real frames of each video; `None` = all, if neither is given.
    """
    longest = pixels.shape[1]
    if num_frames is None and frame_mask is None:
        return None
    if num_frames is None:
        mask = _check_mask("frame_mask", frame_mask, pixels, None)
        _check_right_padding(mask)
        return mask.sum(dim=1).tolist()
    if len(num_frames) != len(pixels) or not all(1 <= number <= longest for number in num_frames):
        raise ValueError(
            f"`num_frames` must have {len(pixels)} numbers from 1 to {longest}, one for each video, got {list(num_frames)}."
        )
    return num_frames


def _check_right_padding(mask: torch.Tensor) -> None:
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("`frame_mask` must be padded on the right: no `True` may follow a `False`.")


def _check_video_index(video_index: torch.Tensor, num_videos: int) -> None:
    if not ((video_index >= 0) & (video_index < num_videos)).all():
        raise ValueError(f"`video_index` must name videos from 0 to {num_videos - 1}, got {video_index.tolist()}.")


def video_state_shape(config: R2TuningConfig) -> tuple[int | None, ...]:
    """Shape of the hidden states of one video; `None` = any size."""
    return None, config.num_video_states, None, config.vision_config.hidden_size


def check_labels(
    config: R2TuningConfig,
    frame_mask: torch.Tensor,
    fps: torch.Tensor | None,
    moments: torch.Tensor | list[torch.Tensor] | None,
    moment_mask: torch.Tensor | None,
    saliency: torch.Tensor | None,
    positive_frame: torch.Tensor | None,
    checked: CheckedBatch | None = None,
) -> GroundingLabels | None:
    """Check the labels of a batch and convert their times to frames; `None` if there are no labels.

    Values are checked only if they are not `checked`. The positive frame of an absent query, one without a moment, means nothing: it is not checked and becomes 0.
    """
    given = {"saliency": saliency is not None, "positive_frame": positive_frame is not None}
    if config.use_moment_head:
        given["moments"] = moments is not None
    if not any(given.values()):
        return None
    if config.use_moment_head:
        given["fps"] = fps is not None
    if saliency is None or positive_frame is None or not all(given.values()):
        missing = sorted(name for name, present in given.items() if not present)
        raise ValueError(f"Labels are incomplete: {missing} are missing; pass all of {sorted(given)} or no labels.")
    check_shape("saliency", saliency, tuple(frame_mask.shape))
    check_shape("positive_frame", positive_frame, (len(saliency),))
    saliency = saliency.float().masked_fill(~frame_mask, 0.0)
    if moments is None or fps is None or not config.use_moment_head:
        if checked is None:
            _check_positive_frame(positive_frame, frame_mask)
        return GroundingLabels(saliency, positive_frame)
    moments, moment_mask = pad_moments(moments, moment_mask, saliency.device)
    check_shape("moments", moments, (len(saliency), None, 2))
    present = moment_mask.any(dim=1)
    positive_frame = positive_frame.masked_fill(~present, 0)
    if checked is None:
        _check_positive_frame(positive_frame, frame_mask)
    present_rows = None if checked is None else checked.present
    return GroundingLabels(saliency, positive_frame, moments * fps[:, None, None], moment_mask, present_rows)


def _check_positive_frame(positive_frame: torch.Tensor, frame_mask: torch.Tensor) -> None:
    num_frames = frame_mask.sum(dim=1)
    if not ((positive_frame >= 0) & (positive_frame < num_frames)).all():
        raise ValueError(f"`positive_frame` must be a valid frame of its video, got {positive_frame.tolist()}.")


def check_per_query(
    name: str,
    value: torch.Tensor | float | None,
    num_queries: int,
    device: torch.device,
    checked: CheckedBatch | None = None,
) -> torch.Tensor | None:
    """Check a positive number, or one for each query or video; its value only if it is not `checked`.

    Returns:
        One number for each query, float32 `(num_queries,)`; `None` if nothing is given.
    """
    if value is None:
        return None
    value = torch.as_tensor(value, dtype=torch.float32, device=device)
    if value.dim() > 1 or value.numel() == 0 or (value.dim() == 1 and num_queries % len(value)):
        raise ValueError(f"`{name}` must be a number or one for each query, got the shape {tuple(value.shape)}.")
    if checked is None:
        _check_positive(name, value)
    return value.expand(num_queries) if value.dim() == 0 else value.repeat_interleave(num_queries // len(value))


def _check_positive(name: str, value: torch.Tensor) -> None:
    if not ((value > 0) & value.isfinite()).all():
        raise ValueError(f"`{name}` must be positive and finite, got {value.tolist()}.")


def check_shape(name: str, tensor: torch.Tensor, sizes: tuple[int | None, ...]) -> None:
    """Refuse a tensor of other `sizes` (`None` = any), or one whose first two axes are not both at least 1."""
    fits = tensor.dim() == len(sizes)
    for size, found in zip(sizes, tensor.shape, strict=False):
        fits = fits and size in (None, found)
    if not fits or 0 in tensor.shape[:2]:
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"`{name}` must have the shape ({wanted}) and not be empty, got {tuple(tensor.shape)}.")


def _check_mask(
    name: str, mask: torch.Tensor | None, masked: torch.Tensor, checked: CheckedBatch | None
) -> torch.Tensor:
    """Check a mask of the first two axes of `masked` and convert it to boolean; without a mask everything is real."""
    if mask is None:
        return torch.ones(masked.shape[:2], dtype=torch.bool, device=masked.device)
    check_shape(name, mask, tuple(masked.shape[:2]))
    mask = mask.to(masked.device, torch.bool)
    if checked is None:
        _check_rows(name, mask)
    return mask


def _check_rows(name: str, mask: torch.Tensor) -> None:
    if not mask.any(dim=1).all():
        raise ValueError(f"`{name}` must have a `True` in every row.")


__all__ = [
    "CheckedBatch",
    "check_batch",
    "check_labels",
    "check_per_query",
    "check_shape",
    "check_text",
    "check_video",
    "count_frames",
    "video_state_shape",
]
