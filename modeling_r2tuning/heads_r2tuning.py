"""From the R2 block's features to predictions: feature pyramid, pooled text, and heads.

The heads classify points, regress the boundaries of moments and predict whether any moment matches the query.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .configuration_r2tuning import R2TuningConfig
from .points_r2tuning import level_lengths, make_point_mask, make_points


@dataclass
class VideoGroundingOutput(ModelOutput):
    """Output of `R2TuningForVideoGrounding`.

    Attributes:
        loss: Scalar, the sum of `loss_parts`; only with labels.
        loss_parts: Scalar losses by name, weighted; only with labels.
        logits: `(batch, num_points)`, class logits of the points, level after level.
        boundary_offsets: `(batch, num_points, 2)`, distances to start and end in strides; `None` without moment head.
        saliency_scores: `(batch, num_frames)`, cosine of frame and text in [-1, 1]; 0 where padded.
        existence_logits: `(batch,)`, logit of the event that any moment matches the query, not calibrated (the
            processor does that); `None` without existence head.
        video_features: `(batch, num_frames, hidden)`, output of the R2 block; 0 where padded. `ground` returns it on
            request.
        text_features: `(batch, hidden)`, pooled text.
        points: `(num_points, 4)`, position, lower, upper and stride in frames.
        point_mask: `(batch, num_points)`, `True` = real.
        frame_mask: `(batch, num_frames)`, `True` = real.
        fps: `(batch,)`, frames per second, if given.
        duration_sec: `(batch,)`, length of the video in seconds, if given.
        query_index: `(batch,)`, from `ground`: index of the query that a row answers.
        window_starts: `(batch,)`, from `ground`: first frame of the row's window.
        hidden_states: `(batch, num_frames, hidden)` for each recurrent step, in order; on request.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    boundary_offsets: torch.Tensor | None = None
    saliency_scores: torch.Tensor | None = None
    existence_logits: torch.Tensor | None = None
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
        """From `(batch, length, hidden)` to `(batch, length // 2, hidden)`; an odd last frame is dropped."""
        # Kernels do not overlap, so the convolution is a linear layer over pairs of frames.
        even = features[:, : features.shape[1] // 2 * 2]
        pairs = even.unflatten(1, (-1, 2)).mT.flatten(-2)  # (batch, length // 2, hidden * 2)
        return self.norm(F.linear(pairs, self.conv.weight.flatten(1), self.conv.bias)).relu()


class TemporalFeaturePyramid(nn.Module):
    """One level of features for each temporal stride, computed from the frames by convolutions of its own."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.levels = nn.ModuleList()
        for stride in config.strides:
            num_halvings = int(math.log2(stride))
            self.levels.append(nn.ModuleList(Downsample(config) for _ in range(num_halvings)))

    def forward(self, features: torch.Tensor, num_frames: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Build the levels that have at least one point.

        Args:
            features: `(batch, num_frames, hidden)`.
            num_frames: `(batch,)`, length of each video without padding.

        Returns:
            For each level the features `(batch, num_points_of_level, hidden)`, 0 where padded, and their mask
            `(batch, num_points_of_level)`.
        """
        levels = []
        for module in self.levels:
            blocks = cast("nn.ModuleList", module)
            if features.shape[1] >> len(blocks) == 0:  # the video is shorter than the stride
                continue
            length = num_frames
            level, mask = _zero_padding(features, length)
            for block in blocks:
                length = length // 2
                level, mask = _zero_padding(block(level), length)  # (batch, half the points, hidden)
            levels.append((level, mask))
        return levels


def _zero_padding(features: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features `(batch, length, hidden)` with zeros beyond the length `(batch,)` of each video, and their mask."""
    mask = torch.arange(features.shape[1], device=features.device) < length[:, None]
    return features.masked_fill(~mask[..., None], 0.0), mask


class ConvHead(nn.Module):
    """Two convolutions of kernel 3 over the points of a level; all levels share them."""

    def __init__(self, config: R2TuningConfig, num_outputs: int):
        super().__init__()
        self.conv1 = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.hidden_size, num_outputs, kernel_size=3, padding=1)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """From `(batch, length, hidden)`, 0 where `mask (batch, length, 1)` is `False`, to `(batch, length, outputs)`."""
        hidden = _convolve(self.conv1, features).relu().masked_fill(~mask, 0.0)
        return _convolve(self.conv2, hidden)


def _convolve(conv: nn.Conv1d, features: torch.Tensor) -> torch.Tensor:
    """A convolution of kernel 3 with padding 1 from `(batch, length, hidden)` to `(batch, length, outputs)`.

    As one product of unfolded rows, because some CPUs take several times as long for `conv` itself.
    """
    padded = F.pad(features, (0, 0, 1, 1))
    rows = padded.unfold(1, 3, 1)  # (batch, length, hidden, 3)
    return F.linear(rows.flatten(-2), conv.weight.flatten(1), conv.bias)


class TextPooling(nn.Module):
    """Weighted mean of the text tokens with learned weights."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """From `(batch, text_length, hidden)` to `(batch, hidden)`."""
        # sum_l softmax(w . text_l) text_l, over the real tokens l
        scores = self.score(text).squeeze(-1).masked_fill(~text_mask, float("-inf"))  # (batch, text_length)
        return torch.einsum("bl,blc->bc", scores.softmax(dim=1), text)  # (batch, hidden)


class ExistenceHead(nn.Module):
    """Two layers that predict from a summary of text, frames and class logits whether any moment matches the query."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.norm = nn.LayerNorm(3 * config.hidden_size)
        self.linear1 = nn.Linear(3 * config.hidden_size + 1, config.hidden_size)
        self.linear2 = nn.Linear(config.hidden_size, 1)

    def forward(
        self,
        text_features: torch.Tensor,
        frames: torch.Tensor,
        frame_mask: torch.Tensor,
        logits: torch.Tensor,
        point_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Logits `(batch,)`.

        Args:
            text_features: `(batch, hidden)`, pooled text.
            frames: `(batch, num_frames, hidden)`, non-negative features of the frames.
            frame_mask: `(batch, num_frames)`, `True` = real.
            logits: `(batch, num_points)`, class logits.
            point_mask: `(batch, num_points)`, `True` = real.
        """
        # W2 relu(W1 [LayerNorm([text, max_t frame_t, mean_t frame_t]), max_i logit_i]), over real frames and points
        padding = ~frame_mask[..., None]
        highest = frames.masked_fill(padding, float("-inf")).amax(dim=1)  # (batch, hidden)
        mean = frames.masked_fill(padding, 0.0).sum(dim=1) / frame_mask.sum(dim=1, keepdim=True)  # (batch, hidden)
        summary = self.norm(torch.cat([text_features, highest, mean], dim=-1))  # (batch, 3 * hidden)
        best_logit = logits.masked_fill(~point_mask, float("-inf")).amax(dim=1, keepdim=True)  # (batch, 1)
        hidden = self.linear1(torch.cat([summary, best_logit], dim=-1)).relu()  # (batch, hidden)
        return self.linear2(hidden).squeeze(-1)


class GroundingHead(nn.Module):
    """Feature pyramid, pooled-text similarity and all heads; always in full precision."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.strides = list(config.strides)
        self.pyramid = TemporalFeaturePyramid(config)
        self.text_pooling = TextPooling(config)
        self.classification_head = ConvHead(config, 1)
        self.boundary_head = ConvHead(config, 2) if config.use_moment_head else None
        self.level_scale = nn.Parameter(torch.ones(len(config.strides)))
        self.existence_head: ExistenceHead | None = None
        if config.use_existence_head:
            # Created last and with a forked generator, so that with or without it all other modules draw the same
            # initial weights: the model initialises its modules again in this order.
            with torch.random.fork_rng(devices=[]):
                self.existence_head = ExistenceHead(config)

    def forward(
        self,
        video_features: torch.Tensor,
        text_embeds: torch.Tensor,
        frame_mask: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> VideoGroundingOutput:
        """Predict from the R2 block's `video_features` and its last step's `text_embeds`."""
        num_frames, longest = frame_mask.sum(dim=1), frame_mask.shape[1]
        frames = video_features.relu()
        text_features = self.text_pooling(text_embeds, text_mask)
        cosine = F.cosine_similarity(frames, text_features[:, None], dim=-1)  # (batch, num_frames)
        levels, mask = self._join_levels(self.pyramid(frames, num_frames))
        points = make_points(longest, self.strides, frame_mask.device)
        point_mask = make_point_mask(points, num_frames)
        logits = self._split_points(self.classification_head(levels, mask), longest)[..., 0]
        existence_logits = None
        if self.existence_head is not None:
            existence_logits = self.existence_head(text_features, frames, frame_mask, logits, point_mask)
        return VideoGroundingOutput(
            logits=logits,
            boundary_offsets=self._boundary_offsets(levels, mask, longest),
            saliency_scores=cosine.masked_fill(~frame_mask, 0.0),
            existence_logits=existence_logits,
            video_features=video_features.masked_fill(~frame_mask[..., None], 0.0),
            text_features=text_features,
            points=points,
            point_mask=point_mask,
            frame_mask=frame_mask,
        )

    def _join_levels(self, levels: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Concatenate all levels, so that each convolution of the heads runs once and not once for each level.

        A zero after each level keeps the convolutions, whose kernel is 3, from mixing neighbouring levels.

        Returns:
            Features `(batch, length, hidden)` and their mask `(batch, length, 1)`; the length includes the zeros.
        """
        features = torch.cat([F.pad(level, (0, 0, 0, 1)) for level, _ in levels], dim=1)  # (batch, length, hidden)
        mask = torch.cat([F.pad(mask, (0, 1)) for _, mask in levels], dim=1)  # (batch, length)
        return features, mask[..., None]

    def _split_points(self, joined: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Leave the zeros between levels out of `(batch, length, outputs)`: `(batch, num_points, outputs)`."""
        sizes = [length + 1 for length in level_lengths(num_frames, self.strides) if length]
        return torch.cat([level[:, :-1] for level in joined.split(sizes, dim=1)], dim=1)

    def _boundary_offsets(self, levels: torch.Tensor, mask: torch.Tensor, num_frames: int) -> torch.Tensor | None:
        """Distances from each point to start and end in strides, `(batch, num_points, 2)`.

        They are exp(head output) times a learned scale of the level.
        """
        if self.boundary_head is None:
            return None
        lengths = level_lengths(num_frames, self.strides)
        scales = [scale.expand(length) for scale, length in zip(self.level_scale, lengths, strict=True)]
        offsets = self._split_points(self.boundary_head(levels, mask), num_frames).exp()
        return offsets * torch.cat(scales)[:, None]  # (batch, num_points, 2)

    def maybe_unused_parameters(self, num_frames: int) -> list[nn.Parameter]:
        """Parameters that the loss of videos of `num_frames` frames may not depend on."""
        unused = [self.level_scale]
        for stride, level in zip(self.strides, self.pyramid.levels, strict=True):
            if stride > num_frames:
                unused += level.parameters()
        return unused


__all__ = ["ExistenceHead", "GroundingHead", "TemporalFeaturePyramid", "VideoGroundingOutput"]
