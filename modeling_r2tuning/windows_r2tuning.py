"""Long videos: divide them into windows, and encode each window."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F


# Windows that are kept in one piece of memory. Small pieces that outlive larger ones around them would leave gaps in the
# memory of a process; a large one is given back to the system as a whole.
WINDOWS_OF_A_BLOCK = 5


def window_size(window_sec: float | None, fps: float) -> int | None:
    """Number of frames of a window; `None` = the whole video.

    It is one more than `window_sec` holds, so that rounding never splits a video of that length.
    """
    if window_sec is None:
        return None
    return max(2, math.ceil(window_sec * fps) + 1)


def stream_windows(pieces: Iterable[torch.Tensor], window: int | None) -> Iterator[tuple[int, torch.Tensor]]:
    """Divide a stream of frames into windows that overlap by half; only one window and one piece are in memory.

    Args:
        pieces: Consecutive parts of a tensor whose first axis is time.
        window: Number of frames of a window; `None` = a single window.

    Yields:
        Index of the window's first frame, and the window itself. The last window may be shorter than the others, but is
        longer than the overlap.

    Raises:
        ValueError: There are no frames.
    """
    start = count = 0
    held: list[torch.Tensor] = []
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        while window is not None and count > window:
            held = [torch.cat(held)]
            yield start, held[0][:window]
            start, count = start + window // 2, count - window // 2
            held = [held[0][window // 2 :].clone()]  # a view would keep the whole window
    if count == 0:
        raise ValueError("The video has no frames.")
    yield start, torch.cat(held) if len(held) > 1 else held[0]


def plan_windows(num_frames: int, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows of `stream_windows`: first frames `(num_windows,)` and masks of real frames `(num_windows, size)`."""
    size = num_frames if window is None else min(window, num_frames)
    stride = max(size // 2, 1)
    starts = torch.arange(0, num_frames - size + stride, stride)  # up to the first one whose window ends the video
    return starts, torch.arange(size) < num_frames - starts[:, None]


def encode_windows(
    windows: Iterable[tuple[int, torch.Tensor]], project: Callable[[torch.Tensor], torch.Tensor], window: int | None
) -> dict[str, Any]:
    """Project each window; the last window is padded.

    Args:
        windows: From `stream_windows`.
        project: From a window to `(num_steps, window_frames, num_tokens, hidden)`.
        window: Number of frames of a window; `None` = a single window.

    Returns:
        The features and the plan of the windows: arguments of `EncodedVideo`.
    """
    embeds: list[torch.Tensor] = []
    latest: list[torch.Tensor] = []
    num_frames = size = 0
    for start, frames in windows:
        latest.append(project(frames))
        num_frames = start + len(frames)
        size = max(size, len(frames))
        if len(frames) < size:
            latest[-1] = F.pad(latest[-1], (0, 0, 0, 0, 0, size - len(frames)))
        if len(latest) == WINDOWS_OF_A_BLOCK:
            embeds += torch.stack(latest).unbind()
            latest.clear()
    embeds += latest
    return {"video_embeds": embeds, **_plan(num_frames, window, embeds[0].device)}


def encode_compact(
    pieces: Iterable[torch.Tensor],
    split: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    window: int | None,
) -> dict[str, Any]:
    """Keep each frame once for all windows.

    Args:
        pieces: Consecutive parts of the video, whose projection has begun.
        split: From a piece to its features and their statistics.
        window: Number of frames of a window; `None` = a single window.

    Returns:
        The features, their statistics, and the plan of the windows: arguments of `EncodedVideo`.

    Raises:
        ValueError: There are no frames.
    """
    embeds, statistics = [], []
    for piece in pieces:
        some_embeds, some_statistics = split(piece)
        embeds.append(some_embeds)
        statistics.append(some_statistics)
    if not embeds:
        raise ValueError("The video has no frames.")
    num_frames = sum(part.shape[1] for part in embeds)
    return {
        "video_embeds": embeds,
        "token_statistics": statistics,
        **_plan(num_frames, window, embeds[0].device),
    }


def _plan(num_frames: int, window: int | None, device: torch.device) -> dict[str, torch.Tensor]:
    starts, mask = plan_windows(num_frames, window)
    return {"window_starts": starts.to(device), "frame_mask": mask.to(device)}


def stream_pixels(
    pixel_values_videos: torch.Tensor | Iterable[torch.Tensor], chunk_size: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Yield one video in pieces `(n, 3, height, width)` on a device, without empty pieces.

    Raises:
        ValueError: A piece does not have four axes.
    """
    pieces = pixel_values_videos
    if isinstance(pieces, torch.Tensor):
        if pieces.dim() == 5 and len(pieces) == 1:
            pieces = pieces[0]
        pieces = pieces.split(chunk_size) if len(pieces) else ()
    for piece in pieces:
        if len(piece) == 0:
            continue
        if piece.dim() != 4:
            raise ValueError(
                "`pixel_values_videos` must be one video, `(num_frames, 3, height, width)`, or an iterable of "
                f"such pieces, got the shape {tuple(piece.shape)}."
            )
        yield piece.to(device)


__all__ = ["encode_compact", "encode_windows", "plan_windows", "stream_pixels", "stream_windows", "window_size"]
