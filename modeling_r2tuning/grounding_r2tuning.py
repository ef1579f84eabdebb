"""Ground queries in encoded videos: batches of windows, and the answers of each video."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .encoding_r2tuning import EncodedText, EncodedVideo
from .heads_r2tuning import VideoGroundingOutput
from .points_r2tuning import level_lengths


# More are no faster on a CPU, and their features are copied: 4 MB for each window and step with CLIP ViT-B/32.
WINDOWS_AT_ONCE = 8
PER_POINT = ("logits", "boundary_offsets", "point_mask")
PER_FRAME = ("saliency_scores", "video_features", "frame_mask")


# From a recurrent step and the features of a window to projected hidden states, see `R2Block.complete_projection`
CompleteProjection = Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]
# From projected hidden states of videos and texts and their masks to predictions
Predict = Callable[[Iterator[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor], VideoGroundingOutput]


@dataclass(frozen=True)
class Window:
    """A window of one of several videos.

    Attributes:
        video: The video.
        index: Number of the window in its video.
        answers: List of the video's windows, to which the answer is added.
    """

    video: EncodedVideo
    index: int
    answers: list[VideoGroundingOutput]

    @property
    def size(self) -> int:
        """Number of frames, with padding."""
        return self.video.frame_mask.shape[1]


def ground_windows(
    videos: list[EncodedVideo],
    text: EncodedText,
    batch_size: int,
    complete: CompleteProjection,
    predict: Predict,
    strides: Sequence[int],
) -> list[VideoGroundingOutput]:
    """Ground all queries in all windows of all videos.

    Args:
        videos: The videos.
        text: The queries.
        batch_size: Largest number of pairs of a query and a window that are answered at once.
        complete: From the features of a window to projected hidden states.
        predict: From projected hidden states of videos and texts and their masks to predictions.
        strides: Strides of the levels of points.

    Returns:
        One output for each video, ordered by query and then by window.
    """
    answers: list[list[VideoGroundingOutput]] = [[] for _ in videos]
    windows = []
    for video, rows in zip(videos, answers, strict=True):
        windows += [Window(video, index, rows) for index in range(video.num_windows)]
    windows.sort(key=lambda window: window.size)  # windows of one size need no padding
    count = max(1, min(WINDOWS_AT_ONCE, batch_size // text.num_queries))
    for first in range(0, len(windows), count):
        for queries in torch.arange(text.num_queries, device=text.text_mask.device).split(batch_size):
            _ground_batch(windows[first : first + count], text, queries, complete, predict, strides)
    return [_join(rows, video) for rows, video in zip(answers, videos, strict=True)]


def _ground_batch(
    windows: list[Window],
    text: EncodedText,
    queries: torch.Tensor,
    complete: CompleteProjection,
    predict: Predict,
    strides: Sequence[int],
) -> None:
    """Ground some queries in some windows, and add the outputs of each window to its `answers`."""
    size, device = windows[-1].size, text.text_embeds.device
    masks = [F.pad(window.video.frame_mask[window.index].to(device), (0, size - window.size)) for window in windows]
    words = text.text_embeds[:, queries].repeat(1, len(windows), 1, 1)  # (num_steps, rows, text_length, hidden)
    outputs = predict(
        (_stack(windows, step, complete) for step in range(len(words))),
        list(words),
        torch.stack(masks).repeat_interleave(len(queries), dim=0),
        text.text_mask[queries].repeat(len(windows), 1),
    )
    for index, window in enumerate(windows):
        rows = slice(index * len(queries), (index + 1) * len(queries))
        answer = _cut(outputs, rows, size, window.size, strides)
        answer.query_index = queries
        answer.window_starts = window.video.window_starts[window.index].to(device).expand(len(queries))
        window.answers.append(answer)


def _stack(windows: list[Window], recurrent_step: int, complete: CompleteProjection) -> torch.Tensor:
    """Projected hidden states of several windows for one step, `(num_windows, num_frames, num_tokens, hidden)`."""
    stacked = []
    for window in windows:
        embeds = complete(recurrent_step, *window.video.window_features(window.index, recurrent_step))
        missing = windows[-1].size - len(embeds)
        stacked.append(F.pad(embeds, (0, 0, 0, 0, 0, missing)) if missing else embeds)
    return stacked[0][None] if len(stacked) == 1 else torch.stack(stacked)


def _cut(
    outputs: VideoGroundingOutput, rows: slice, size: int, wanted: int, strides: Sequence[int]
) -> VideoGroundingOutput:
    """Some rows of the outputs of windows of `size` frames, without the padding beyond the `wanted` frames."""
    cut = VideoGroundingOutput(points=outputs.points)
    for name, value in outputs.items():
        if name != "points":
            setattr(cut, name, value[rows])
    if size == wanted:
        return cut
    sizes, kept = level_lengths(size, strides), level_lengths(wanted, strides)

    def cut_points(values: torch.Tensor, dim: int) -> torch.Tensor:
        levels = values.split(sizes, dim=dim)
        return torch.cat([level.narrow(dim, 0, count) for level, count in zip(levels, kept, strict=True)], dim=dim)

    cut.points = cut_points(outputs["points"], dim=0)
    for name in PER_POINT:
        if name in cut:
            setattr(cut, name, cut_points(cut[name], dim=1))
    for name in PER_FRAME:
        if name in cut:
            setattr(cut, name, cut[name][:, :wanted])
    return cut


def _join(rows: list[VideoGroundingOutput], video: EncodedVideo) -> VideoGroundingOutput:
    """Concatenate the outputs of the windows of a video, ordered by query and then by window."""
    query_index = torch.cat([row["query_index"] for row in rows])  # (num_queries * num_windows,)
    order = query_index.argsort(stable=True)
    joined = VideoGroundingOutput(points=rows[0].points)
    for name in rows[0]:
        if name != "points":  # all windows have the same points
            setattr(joined, name, torch.cat([row[name] for row in rows])[order])
    joined.fps = torch.full_like(query_index, video.fps, dtype=torch.float32)
    joined.duration_sec = torch.full_like(query_index, video.duration_sec, dtype=torch.float32)
    return joined


__all__ = ["ground_windows"]
