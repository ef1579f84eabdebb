"""Ground queries in the windows of videos: batches of windows, and the answers of each video."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .encoding_r2tuning import EncodedText
from .heads_r2tuning import VideoGroundingOutput
from .points_r2tuning import level_lengths


# Fastest on a CPU of 1 to 32: one at a time takes 1.2 times as long, 32 take 1.3 times. Their features are copied: 4 MB for each
# window and step with CLIP ViT-B/32.
WINDOWS_AT_ONCE = 4
PER_POINT = ("logits", "boundary_offsets", "point_mask")
PER_FRAME = ("saliency_scores", "video_features", "frame_mask")

# From projected hidden states of videos and texts and their masks to predictions.
Predict = Callable[[Iterator[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor], VideoGroundingOutput]


@dataclass(frozen=True)
class Window:
    """A window of a video.

    Attributes:
        features: From a recurrent step to projected hidden states `(n, num_tokens, hidden)`, with or without the padding.
        frame_mask: `(size,)`, boolean, `True` = real.
        start: Its first frame.
        answers: Outputs of the video's windows; that of this window is added.
    """

    features: Callable[[int], torch.Tensor]
    frame_mask: torch.Tensor
    start: int
    answers: list[VideoGroundingOutput]

    @property
    def size(self) -> int:
        """Number of frames, with padding."""
        return len(self.frame_mask)


def ground_windows(
    windows: Iterable[Window], text: EncodedText, batch_size: int, predict: Predict, strides: Sequence[int]
) -> None:
    """Ground all queries in windows, and add the outputs of each window to its `answers`.

    Args:
        windows: Windows of one or several videos; only `WINDOWS_AT_ONCE` of them are held.
        text: The queries.
        batch_size: Largest number of pairs of a query and a window that are answered at once.
        predict: From projected hidden states to predictions.
        strides: Strides of the levels of points.
    """
    count = max(1, min(WINDOWS_AT_ONCE, batch_size // text.num_queries))
    windows = iter(windows)
    batch = list(itertools.islice(windows, count))
    while batch:
        for queries in torch.arange(text.num_queries, device=text.text_mask.device).split(batch_size):
            _ground_batch(batch, text, queries, predict, strides)
        batch.clear()  # frees these windows before the next ones are encoded
        batch.extend(itertools.islice(windows, count))


def _ground_batch(
    windows: list[Window], text: EncodedText, queries: torch.Tensor, predict: Predict, strides: Sequence[int]
) -> None:
    """Ground some queries in some windows."""
    size = max(window.size for window in windows)
    masks = [F.pad(window.frame_mask, (0, size - window.size)) for window in windows]
    words = text.text_embeds[:, queries].repeat(1, len(windows), 1, 1)  # (num_steps, rows, text_length, hidden)
    outputs = predict(
        (_stack(windows, step, size) for step in range(len(words))),
        list(words),
        torch.stack(masks).repeat_interleave(len(queries), dim=0),
        text.text_mask[queries].repeat(len(windows), 1),
    )
    for index, window in enumerate(windows):
        rows = slice(index * len(queries), (index + 1) * len(queries))
        answer = _cut(outputs, rows, size, window.size, strides)
        answer.query_index = queries
        answer.window_starts = torch.full_like(queries, window.start)
        window.answers.append(answer)


def _stack(windows: list[Window], recurrent_step: int, size: int) -> torch.Tensor:
    """Projected hidden states of several windows for one step, `(num_windows, size, num_tokens, hidden)`."""
    stacked = []
    for window in windows:
        features = window.features(recurrent_step)
        missing = size - len(features)
        stacked.append(F.pad(features, (0, 0, 0, 0, 0, missing)) if missing else features)
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


def join_windows(rows: list[VideoGroundingOutput], fps: float, duration_sec: float) -> VideoGroundingOutput:
    """Concatenate the outputs of the windows of a video, ordered by query and then by window."""
    query_index = torch.cat([row["query_index"] for row in rows])  # (num_queries * num_windows,)
    order = query_index.argsort(stable=True)
    joined = VideoGroundingOutput(points=rows[0].points)
    for name in rows[0]:
        if name != "points":  # all windows have the same points
            setattr(joined, name, torch.cat([row[name] for row in rows])[order])
    joined.fps = torch.full_like(query_index, fps, dtype=torch.float32)
    joined.duration_sec = torch.full_like(query_index, duration_sec, dtype=torch.float32)
    return joined


__all__ = ["Window", "ground_windows", "join_windows"]
