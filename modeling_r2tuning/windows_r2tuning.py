"""Long videos: divide them into windows, encode each window, and join the outputs."""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F

from .encoding_r2tuning import EncodedVideo
from .heads_r2tuning import VideoGroundingOutput


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
    start = 0
    held: torch.Tensor | None = None
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece])
        while window is not None and len(held) > window:
            yield start, held[:window]
            start, held = start + window // 2, held[window // 2 :]
    if held is None or len(held) == 0:
        raise ValueError("The video has no frames.")
    yield start, held


def encode_windows(
    windows: Iterable[tuple[int, torch.Tensor]],
    project: Callable[[torch.Tensor], torch.Tensor],
    fps: float,
    duration_sec: float | None,
    fingerprint: str,
) -> EncodedVideo:
    """Project the hidden states of each window; the last window is padded.

    Args:
        windows: Index of the first frame, and hidden states, of each window.
        project: From a window's hidden states to `(num_steps, window_frames, num_tokens, hidden)`.
        fps: Frames per second.
        duration_sec: Length of the video in seconds; `None` = number of frames / fps.
        fingerprint: Hash of the weights of `project`.
    """
    starts: list[int] = []
    embeds: list[torch.Tensor] = []
    for start, states in windows:
        starts.append(start)
        embeds.append(project(states))
    lengths = torch.tensor([embed.shape[1] for embed in embeds], device=embeds[0].device)
    num_frames = starts[-1] + int(lengths[-1])
    missing = embeds[0].shape[1] - embeds[-1].shape[1]
    if missing:
        embeds[-1] = F.pad(embeds[-1], (0, 0, 0, 0, 0, missing))
    return EncodedVideo(
        video_embeds=embeds,
        frame_mask=torch.arange(embeds[0].shape[1], device=lengths.device) < lengths[:, None],
        window_starts=torch.tensor(starts, device=lengths.device),
        fps=float(fps),
        duration_sec=float(num_frames / fps if duration_sec is None else duration_sec),
        fingerprint=fingerprint,
    )


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


def join_windows(rows: list[VideoGroundingOutput], video: EncodedVideo) -> VideoGroundingOutput:
    """Concatenate the outputs of single windows, ordered by query and then by window."""
    query_index = torch.cat([row["query_index"] for row in rows])  # (num_queries * num_windows,)
    order = query_index.argsort(stable=True)
    joined = VideoGroundingOutput(points=rows[0].points)
    for name in rows[0]:
        if name != "points":  # all windows have the same points
            setattr(joined, name, torch.cat([row[name] for row in rows])[order])
    joined.fps = torch.full_like(query_index, video.fps, dtype=torch.float32)
    joined.duration_sec = torch.full_like(query_index, video.duration_sec, dtype=torch.float32)
    return joined


__all__ = ["encode_windows", "join_windows", "stream_pixels", "stream_windows", "window_size"]
