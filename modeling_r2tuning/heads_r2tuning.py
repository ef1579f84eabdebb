"""From the R2 block's features to predictions: feature pyramid, classification head, boundary head, pooled text."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .configuration_r2tuning import R2TuningConfig
from .points_r2tuning import level_lengths, make_point_mask, make_points


@dataclass
class VideoGroundingOutput(ModelOutput):
    """What `R2TuningForVideoGrounding` returns.

    Attributes:
        loss: Scalar, the sum of `loss_parts`; only with labels.
        loss_parts: Scalar losses by name, their weights included; only with labels.
        logits: `(batch, num_points)`, class logits of the points, level after level.
        boundary_offsets: `(batch, num_points, 2)`, distances to start and end in strides; `None` without moment head.
        saliency_scores: `(batch, num_frames)`, cosine of frame and text in [-1, 1]; 0 where padded.
        video_features: `(batch, num_frames, hidden)`, output of the R2 block; 0 where padded. `ground` returns it on
            request.
        text_features: `(batch, hidden)`, pooled text.
        points: `(num_points, 4)`, position, lower, upper and stride in frames.
        point_mask: `(batch, num_points)`, `True` = real.
        frame_mask: `(batch, num_frames)`, `True` = real.
        fps: `(batch,)`, frames per second, where given.
        duration_sec: `(batch,)`, length of the video in seconds, where given.
        query_index: `(batch,)`, for a windowed video: which query a row answers.
        window_starts: `(batch,)`, for a windowed video: the row's first frame.
        hidden_states: One `(batch, num_frames, hidden)` for each recurrent step, first step first; on request.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    boundary_offsets: torch.Tensor | None = None
    saliency_scores: torch.Tensor | None = None
    video_features: torch.Tensor | None = None
    text_features: torch.Tensor | None = None
    points: torch.Tensor | None = None
    point_mask: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    fps: torch.Tensor | None = None
    duration_sec: torch.Tensor | None = None
    query_index: torch.Tensor | None = None
    window_starts: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class Downsample(nn.Module):
    """Halve the number of frames: Conv1d of kernel and stride 2, LayerNorm, ReLU."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.conv = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From `(batch, length, hidden)` to `(batch, length // 2, hidden)`; an odd last frame is left out."""
        # Frames do not overlap, so the convolution is a linear layer over pairs of frames.
        pairs = features[:, : features.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(-2)
        weight = self.conv.weight.transpose(1, 2).flatten(1)  # (hidden, 2 * hidden)
        return self.norm(F.linear(pairs, weight, self.conv.bias)).relu()


class TemporalFeaturePyramid(nn.Module):
    """One sequence of features for each temporal stride, each from the frames by convolutions of its own."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        halvings = [int(math.log2(stride)) for stride in config.strides]
        self.levels = nn.ModuleList(nn.ModuleList(Downsample(config) for _ in range(count)) for count in halvings)

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Build the levels that have a point.

        Args:
            features: `(batch, num_frames, hidden)`.
            num_frames: `(batch,)`, each video's own length.

        Returns:
            For each level the features, `(batch, num_points_of_level, hidden)`, 0 where padded, and their mask.
        """
        levels = []
        for blocks in self.levels:
            if features.shape[1] >> len(blocks) == 0:
                continue
            level, length = features, num_frames
            level, mask = _zero_padding(level, length)
            for block in blocks:
                length = length // 2
                level, mask = _zero_padding(block(level), length)
            levels.append((level, mask))
        return levels


def _zero_padding(features: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(features.shape[1], device=features.device) < length[:, None]
    return features.masked_fill(~mask[..., None], 0.0), mask


class ConvHead(nn.Module):
    """Two convolutions of kernel 3 over the points of a level, shared by all levels."""

    def __init__(self, config: R2TuningConfig, num_outputs: int):
        super().__init__()
        self.conv1 = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.hidden_size, num_outputs, kernel_size=3, padding=1)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """From `(batch, hidden, length)`, 0 where `mask (batch, 1, length)` is `False`, to `(batch, length, outputs)`."""
        hidden = self.conv1(features).relu().masked_fill(~mask, 0.0)
        return self.conv2(hidden).transpose(1, 2)


class TextPooling(nn.Module):
    """Weighted mean of the text tokens with learned weights."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, hidden)` to `(batch, hidden)`."""
        scores = self.score(text).squeeze(-1).masked_fill(~text_mask, float("-inf"))
        return torch.einsum("bl,blc->bc", scores.softmax(dim=1), text)


class GroundingHead(nn.Module):
    """Feature pyramid, classification head, boundary head and pooled-text similarity; always in full precision."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.strides = list(config.strides)
        self.pyramid = TemporalFeaturePyramid(config)
        self.text_pooling = TextPooling(config)
        self.classification_head = ConvHead(config, 1)
        self.boundary_head = ConvHead(config, 2) if config.use_moment_head else None
        self.level_scale = nn.Parameter(torch.ones(len(config.strides)))

    def forward(
        self,
        video_features: torch.Tensor,
        text_embeds: torch.Tensor,
        frame_mask: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> VideoGroundingOutput:
        """Predict from the R2 block's `video_features` and its last step's `text_embeds`."""
        num_frames = frame_mask.sum(dim=1)
        frames = video_features.relu()
        text_features = self.text_pooling(text_embeds, text_mask)
        cosine = F.cosine_similarity(frames, text_features[:, None], dim=-1)
        levels, mask = self._join_levels(self.pyramid(frames, num_frames))
        points = make_points(frame_mask.shape[1], self.strides, frame_mask.device)
        kept = self._point_columns(frame_mask.shape[1], frame_mask.device)
        return VideoGroundingOutput(
            logits=self.classification_head(levels, mask)[:, kept, 0],
            boundary_offsets=self._boundary_offsets(levels, mask, kept, frame_mask.shape[1]),
            saliency_scores=cosine.masked_fill(~frame_mask, 0.0),
            video_features=video_features.masked_fill(~frame_mask[..., None], 0.0),
            text_features=text_features,
            points=points,
            point_mask=make_point_mask(points, num_frames),
            frame_mask=frame_mask,
        )

    def _join_levels(self, levels: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Put all levels behind each other with one zero between them: each convolution runs once, not per level."""
        features = torch.cat([F.pad(level, (0, 0, 0, 1)) for level, _ in levels], dim=1)
        mask = torch.cat([F.pad(mask, (0, 1)) for _, mask in levels], dim=1)
        return features.transpose(1, 2), mask[:, None]

    def _point_columns(self, num_frames: int, device: torch.device) -> torch.Tensor:
        """Where the points are among the joined levels."""
        lengths = [length for length in level_lengths(num_frames, self.strides) if length]
        gaps = torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(lengths, device=device))
        return torch.arange(sum(lengths), device=device) + gaps

    def _boundary_offsets(
        self, levels: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor, num_frames: int
    ) -> torch.Tensor | None:
        if self.boundary_head is None:
            return None
        lengths = torch.tensor(level_lengths(num_frames, self.strides), device=levels.device)
        scale = self.level_scale.repeat_interleave(lengths)
        return self.boundary_head(levels, mask)[:, kept].exp() * scale[:, None]


__all__ = ["GroundingHead", "TemporalFeaturePyramid", "VideoGroundingOutput"]
