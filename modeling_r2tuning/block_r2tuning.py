"""The R2 block: recurrent refinement of frame features over the last K layers of the frozen encoders.

Reading order: time codes, small layers, temporal layer, recurrent step, block. Dimensions are always in the order
batch, num_frames, num_layers, num_tokens (CLS first), hidden.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .configuration_r2tuning import R2TuningConfig
from .fused_pooling_r2tuning import pool_tokens
from .projection_r2tuning import InputProjection, VideoProjection


# If several threads make a process's first call of MKL's vector math at once, exp, sin and cos can be wrong by 1e-4
# (torch 2.13: 3 of 200 processes under load, none of 200 after one call from a single thread).
torch.ones(1).exp()

FRAMES_AT_ONCE = 32  # 1.4 to 1.7 times as fast on 300 frames and 2 cores as all frames at once


@dataclass
class R2BlockOutput:
    """Output of `R2Block`; the lists have one entry for each recurrent step, in the order in which they run.

    Attributes:
        video_features: `(batch, num_frames, hidden)`, output of the last step.
        frame_embeds: `(batch, num_frames, hidden)` each, projected CLS tokens.
        text_embeds: `(batch, text_length, hidden)` each, projected text tokens.
        hidden_states: `(batch, num_frames, hidden)` each, outputs of the steps.
    """

    video_features: torch.Tensor
    frame_embeds: list[torch.Tensor]
    text_embeds: list[torch.Tensor]
    hidden_states: list[torch.Tensor]


def temporal_endpoints(num_frames: torch.Tensor, length: int) -> torch.Tensor:
    """Relative start and end of each frame (TEF), `(batch, length, 2)`.

    Frame t of T has t / T and (t + 1) / T.

    Args:
        num_frames: `(batch,)`, each video's own number of frames T.
        length: Number of frames of the padded videos.
    """
    time = torch.arange(length, device=num_frames.device, dtype=torch.float32)
    return torch.stack([time, time + 1], dim=-1) / num_frames[:, None, None]


def time_code(num_frames: torch.Tensor, length: int, hidden: int) -> torch.Tensor:
    """Sine and cosine code of relative time, `(batch, length, hidden)`; its highest frequency has one period per video.

    Channels 2i and 2i + 1 of frame t of T are sin and cos of 2 pi (t + 1) / T / 10000^(2i / hidden).
    """
    time = torch.arange(1, length + 1, device=num_frames.device, dtype=torch.float32)
    angle = time / (num_frames[:, None] + 1e-6) * (2 * math.pi)  # (batch, length)
    exponent = torch.arange(0, hidden, 2, device=num_frames.device, dtype=torch.float32) / hidden
    angle = angle[..., None] / 10000**exponent  # (batch, length, hidden / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (batch, length, hidden)


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a residual branch for whole samples and scale up the others."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return hidden_states
        shape = [len(hidden_states)] + [1] * (hidden_states.dim() - 1)
        kept = torch.rand(shape, device=hidden_states.device) >= self.rate
        return hidden_states * kept.to(hidden_states.dtype) / (1 - self.rate)


class ZeroLinear(nn.Linear):
    """Zero-initialised up-projection, so that the adapter starts as the identity."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


class TemporalAttention(nn.Module):
    """Multi-head attention over time or over text tokens."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, key_mask: torch.Tensor
    ) -> torch.Tensor:
        """Attend from `query (batch, n, hidden)` to `key` and `value (batch, m, hidden)`; `key_mask (batch, m)`."""
        query = self._split_heads(self.q_proj(query))  # (batch, heads, n, head_dim)
        key = self._split_heads(self.k_proj(key))  # (batch, heads, m, head_dim)
        value = self._split_heads(self.v_proj(value))  # (batch, heads, m, head_dim)
        attended = self._attend(query, key, value, key_mask[:, None, None])  # (batch, heads, n, head_dim)
        return self.out_proj(attended.transpose(1, 2).flatten(-2))  # (batch, n, hidden)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if query.device.type == "cpu" and query.element_size() == 2 and torch.is_grad_enabled():
            # On a CPU the backward pass in half precision takes up to 20 times as long as in float32 (torch 2.13).
            with torch.autocast("cpu", enabled=False):
                return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask).to(value.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.fc2 = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """From `(..., hidden)` to `(..., hidden)`."""
        return self.fc2(self.fc1(hidden_states).relu())


class TemporalLayer(nn.Module):
    """Post-norm transformer layer: frames attend to the text and to each other."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.cross_first = config.attention_order == "cross_self"
        self.cross_attention = TemporalAttention(config)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size)
        self.self_attention = TemporalAttention(config)
        self.self_attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.drop_path = DropPath(config.drop_path)

    def forward(
        self,
        frames: torch.Tensor,
        text: torch.Tensor,
        code: torch.Tensor,
        frame_mask: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Refine the frames.

        Args:
            frames: `(batch, num_frames, hidden)`.
            text: `(batch, text_length, hidden)`.
            code: `(batch, num_frames, hidden)`, from `time_code`.
            frame_mask: `(batch, num_frames)`, `True` = real.
            text_mask: `(batch, text_length)`, `True` = real.
        """
        if self.cross_first:
            frames = self._attend_text(frames, text, code, text_mask)
            frames = self._attend_frames(frames, code, frame_mask)
        else:
            frames = self._attend_frames(frames, code, frame_mask)
            frames = self._attend_text(frames, text, code, text_mask)
        return self.feed_forward_norm(frames + self.drop_path(self.feed_forward(frames)))

    def _attend_text(
        self, frames: torch.Tensor, text: torch.Tensor, code: torch.Tensor, text_mask: torch.Tensor
    ) -> torch.Tensor:
        attended = self.cross_attention(frames + code, text, text, text_mask)
        return self.cross_attention_norm(frames + self.drop_path(attended))

    def _attend_frames(self, frames: torch.Tensor, code: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        coded = frames + code
        attended = self.self_attention(coded, coded, frames, frame_mask)
        return self.self_attention_norm(frames + self.drop_path(attended))


class RecurrentStep(nn.Module):
    """The modules of one recurrent step: projections, query-modulated spatial pooling, temporal layers."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        hidden = config.hidden_size
        self.video_projection: InputProjection
        if config.use_temporal_endpoints:
            self.video_projection = VideoProjection(config.vision_config.hidden_size, config)
        else:
            self.video_projection = InputProjection(config.vision_config.hidden_size, config)
        self.text_projection = InputProjection(config.text_config.hidden_size, config)
        if config.method_spec.place == "recurrence":
            self.video_key = nn.Linear(hidden, hidden)
            self.text_query = nn.Linear(hidden, hidden)
        self.temporal_layers = nn.ModuleList(TemporalLayer(config) for _ in range(config.num_temporal_layers))

    def read_frames(
        self, video: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """CLS tokens and pooled tokens of the frames; arguments as for `pool_patches`.

        Returns:
            Two tensors of shape `(batch, num_frames, hidden)`.
        """
        num_videos = video.shape[0]
        per_video = text.shape[0] // num_videos
        on_cpu = video.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_cpu and torch.is_grad_enabled() and video.requires_grad:
            words = self._mask_words(text, text_mask).unflatten(0, (num_videos, per_video))
            pooled, cls = pool_tokens(video, self._patch_query(text, num_videos), words)
        else:
            pooled, cls = self.pool_patches(video, text, text_mask), video[:, :, 0]
        return _repeat_videos(cls, text.shape[0]), pooled

    def pool_patches(self, video: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """Pool each frame's tokens with query-guided attention for each word, then take the strongest word, Eq. 4-5.

        Args:
            video: `(num_videos, num_frames, num_tokens, hidden)`; each video is shared by `batch / num_videos`
                consecutive queries.
            text: `(batch, text_length, hidden)`.
            text_mask: `(batch, text_length)`, `True` = real.

        Returns:
            `torch.Tensor` of shape `(batch, num_frames, hidden)`.
        """
        # For a frame with tokens V and a query with words w:
        #     max over w of (softmax(w W_q W_k' V' / sqrt(hidden)) V + w)
        # Sizes by `shape`: in a traced graph `len` would be the number of the example.
        num_videos, text_length = video.shape[0], text.shape[1]
        per_video = text.shape[0] // num_videos
        query = self._patch_query(text, num_videos)[:, None].expand(-1, video.shape[1], -1, -1)
        pooled = F.scaled_dot_product_attention(
            query, video, video, scale=1.0
        )  # (num_videos, num_frames, words, hidden)
        pooled = pooled.unflatten(2, (per_video, text_length))
        words = self._mask_words(text, text_mask).unflatten(0, (num_videos, 1, per_video))
        # `max` keeps the indices that a backward pass needs; without one, `amax` is several times faster.
        strongest = (pooled + words).max(dim=3).values if pooled.requires_grad else pooled.add_(words).amax(dim=3)
        return strongest.transpose(1, 2).flatten(0, 1)  # (batch, num_frames, hidden)

    def attend_patches(self, video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Attention of each word to each token of a frame, Eq. 4, that `pool_patches` applies; for figures.

        Arguments are those of `pool_patches`.

        Returns:
            `torch.Tensor` of shape `(num_videos, num_frames, words, num_tokens)`, which sums to 1 over the tokens; the
            words of a video's first query come first, then those of the next.
        """
        num_videos, num_frames, num_tokens, _ = video.shape
        query = self._patch_query(text, num_videos)
        scores = torch.matmul(query, video.flatten(1, 2).mT)  # (num_videos, words, num_frames * num_tokens)
        attention = scores.unflatten(2, (num_frames, num_tokens)).softmax(dim=-1)
        return attention.transpose(1, 2)  # (num_videos, num_frames, words, num_tokens)

    def _patch_query(self, text: torch.Tensor, num_videos: int) -> torch.Tensor:
        """Query of each word, `(num_videos, words, hidden)`, whose products with the tokens are the scores."""
        # The key projection is folded into the query; its bias is the same for all tokens and drops out.
        hidden = text.shape[-1]
        query = F.linear(self.text_query(text) / math.sqrt(hidden), self.video_key.weight.T)
        return query.reshape(num_videos, -1, hidden)

    @staticmethod
    def _mask_words(text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """Words whose padding is never the strongest."""
        return text.masked_fill(~text_mask[..., None], float("-inf"))


def _repeat_videos(features: torch.Tensor, batch: int) -> torch.Tensor:
    """From a row for each video, `(num_videos, num_frames, hidden)`, to one for each query, `(batch, num_frames, hidden)`."""
    # Not `repeat_interleave`: its ONNX form fails in a graph for any number of videos and queries.
    shared = features[:, None].expand(-1, batch // features.shape[0], -1, -1)
    return shared.flatten(0, 1)


class R2Block(nn.Module):
    """Recurrent refinement over the last K layers of the encoders, Eq. 3-8; by default from deep to shallow.

    With `activation_checkpointing_enable()` of the model, projection and spatial pooling are recomputed in the backward
    pass: of their activations for patches only the hidden states and the projected patches are kept.
    """

    gradient_checkpointing = False  # transformers sets both attributes by these names
    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.config = config
        num_blocks = 1 if config.shared_block else config.num_steps
        self.steps = nn.ModuleList(RecurrentStep(config) for _ in range(num_blocks))
        self.scale = nn.Parameter(torch.zeros(config.num_steps))  # of the spatial pooling, before tanh
        self.gate = nn.Parameter(torch.zeros(config.num_steps - 1))  # g_k in the paper, before the sigmoid

    @property
    def pools_patches(self) -> bool:
        """Whether patch tokens are used."""
        return self.config.method_spec.place == "recurrence"

    @property
    def layer_order(self) -> list[int]:
        """Layers in the order in which the steps visit them; 0 is the shallowest."""
        layers = range(self.config.num_steps)
        return list(layers if self.config.layer_fusion == "forward" else reversed(layers))

    def step_for(self, layer: int) -> RecurrentStep:
        """The module that reads a layer; one for all layers with `config.shared_block`."""
        return cast("RecurrentStep", self.steps[0 if self.config.shared_block else layer])

    def _select_layers(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Hidden states of each step, in visiting order; the layers are axis 2 of `hidden_states`."""
        if self.config.layer_fusion == "single":
            return [hidden_states.select(2, 0)]
        if self.config.layer_fusion == "mean":
            return [hidden_states.mean(2)]
        return [hidden_states.select(2, layer) for layer in self.layer_order]

    def project_video(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor) -> Iterator[torch.Tensor]:
        """Project the hidden states of each step lazily, so that only one step's need be in memory.

        Args:
            hidden_states: `(batch, num_frames, num_layers, num_tokens, vision_hidden)`.
            frame_mask: `(batch, num_frames)`, `True` = real.

        Yields:
            `(batch, num_frames, num_tokens, hidden)`, in visiting order; one token if patches are not pooled.
        """
        endpoints = temporal_endpoints(frame_mask.sum(dim=1), frame_mask.shape[1]).to(self.scale.dtype)
        yield from self.project_video_at(hidden_states, endpoints)

    def project_video_at(self, hidden_states: torch.Tensor, endpoints: torch.Tensor) -> Iterator[torch.Tensor]:
        """Do the same for given `endpoints (batch, num_frames, 2)`, such as those of single frames of a longer video."""
        if not self.pools_patches:
            hidden_states = hidden_states[:, :, :, :1]  # (batch, num_frames, num_layers, 1, vision_hidden)
        for layer, states in zip(self.layer_order, self._select_layers(hidden_states), strict=True):
            inputs = (states, endpoints) if self.config.use_temporal_endpoints else (states,)
            yield self._project_frames(self.step_for(layer).video_projection, *inputs)

    def begin_projection(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of `project_video` that does not depend on the frames' positions.

        Args:
            hidden_states: `(num_frames, num_layers, num_tokens, vision_hidden)`.

        Returns:
            Features `(num_steps, num_frames, num_tokens, hidden)` and statistics `(num_steps, num_frames, num_tokens,
            n)`, in visiting order; one token if patches are not pooled.
        """
        if not self.pools_patches:
            hidden_states = hidden_states[:, :, :1]
        embeds, statistics = [], []
        for layer, states in zip(self.layer_order, self._select_layers(hidden_states[None]), strict=True):
            some_embeds, some_statistics = self.step_for(layer).video_projection.begin(states[0])
            embeds.append(some_embeds)
            statistics.append(some_statistics)
        return torch.stack(embeds), torch.stack(statistics)

    def complete_projection(
        self, recurrent_step: int, embeds: torch.Tensor, statistics: torch.Tensor | None
    ) -> torch.Tensor:
        """Complete the projection of one window for one step, `(num_frames, num_tokens, hidden)`.

        Args:
            recurrent_step: Number of the step, in visiting order.
            embeds: `(num_frames, num_tokens, hidden)`, from `begin_projection`.
            statistics: `(num_frames, num_tokens, n)`; `None` if the projection is complete.
        """
        if statistics is None:
            return embeds
        num_frames = torch.tensor([len(embeds)], device=embeds.device)
        endpoints = temporal_endpoints(num_frames, len(embeds))[0].to(embeds.dtype)
        projection = self.step_for(self.layer_order[recurrent_step]).video_projection
        chunks = zip(*(each.split(FRAMES_AT_ONCE) for each in (embeds, statistics, endpoints)), strict=True)
        return torch.cat([projection.complete(*chunk) for chunk in chunks])

    def _project_frames(self, project: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        """Project all frames, in chunks when no activations are kept, to stay in the CPU's cache."""
        keeps_activations = torch.is_grad_enabled() and not self._recomputes
        # A traced graph is for any number of frames, so it cannot depend on whether they fit into one chunk.
        if torch.compiler.is_compiling() or keeps_activations or inputs[0].shape[1] <= FRAMES_AT_ONCE:
            return self._run(project, *inputs)
        chunks = [each.split(FRAMES_AT_ONCE, dim=1) for each in inputs]
        projected = [self._run(project, *chunk) for chunk in zip(*chunks, strict=True)]
        return torch.cat(projected, dim=1)  # (batch, num_frames, num_tokens, hidden)

    @property
    def _recomputes(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def _run(self, function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
        """Call a function; with activation checkpointing keep only its inputs for the backward pass."""
        if self._recomputes:
            return self._gradient_checkpointing_func(function, *inputs)
        return function(*inputs)

    def project_text(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Project the texts' hidden states for each step, in visiting order.

        Args:
            hidden_states: `(batch, text_length, num_layers, text_hidden)`.

        Returns:
            One `(batch, text_length, hidden)` for each step.
        """
        projected = []
        for layer, states in zip(self.layer_order, self._select_layers(hidden_states), strict=True):
            projected.append(self.step_for(layer).text_projection(states))
        return projected

    def forward(
        self,
        video: Iterable[torch.Tensor],
        text: list[torch.Tensor],
        frame_mask: torch.Tensor,
        text_mask: torch.Tensor,
    ) -> R2BlockOutput:
        """Run all steps.

        Args:
            video: For each step `(num_videos, num_frames, num_tokens, hidden)`, from `project_video`.
            text: For each step `(batch, text_length, hidden)`, from `project_text`.
            frame_mask: `(batch, num_frames)`, `True` = real.
            text_mask: `(batch, text_length)`, `True` = real.
        """
        code = time_code(frame_mask.sum(dim=1), frame_mask.shape[1], self.config.hidden_size).to(self.scale.dtype)
        frame_embeds: list[torch.Tensor] = []
        hidden_states: list[torch.Tensor] = []
        previous = self.layer_order[0]
        for layer, tokens, words in zip(self.layer_order, video, text, strict=True):
            step = self.step_for(layer)
            if self.pools_patches:
                cls, pooled = self._run(step.read_frames, tokens, words, text_mask)
                frames = cls + self.scale[layer].tanh() * pooled  # Eq. 6
            else:
                frames = cls = _repeat_videos(tokens[:, :, 0], words.shape[0])
            if hidden_states:  # Eq. 7; the first step has no gate, as in the released code
                gate = self.gate[min(layer, previous)].sigmoid()
                frames = gate * frames + (1 - gate) * hidden_states[-1]
            for temporal_layer in step.temporal_layers:  # Eq. 8
                frames = temporal_layer(frames, words, code, frame_mask, text_mask)
            frame_embeds.append(cls)
            hidden_states.append(frames)
            previous = layer
        return R2BlockOutput(hidden_states[-1], frame_embeds, text, hidden_states)

    def maybe_unused_parameters(self) -> list[nn.Parameter]:
        """Parameters that may have no part in a loss, such as the key's bias, which the softmax cancels."""
        unused = [self.scale, self.gate]
        if self.pools_patches:
            for step in self.steps:
                unused.append(cast("RecurrentStep", step).video_key.bias)
        return unused

    def projection_weights(self) -> dict[str, torch.Tensor]:
        """All weights of the video and text projections."""
        return {name: weight for name, weight in self.named_parameters() if "_projection." in name}


__all__ = [
    "FeedForward",
    "R2Block",
    "R2BlockOutput",
    "TemporalAttention",
    "ZeroLinear",
    "temporal_endpoints",
    "time_code",
]
