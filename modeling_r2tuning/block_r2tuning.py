"""The R2 block: recurrent refinement of frame features over CLIP's last K layers.

Reading order: time codes, small layers, temporal layer, recurrent step, block. Dimensions are always in the order
batch, num_frames, num_layers, num_tokens (CLS first), hidden.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .configuration_r2tuning import R2TuningConfig


# When several threads make a process's first call of MKL's vector math together, exp, sin and cos can be wrong by 1e-4
# (torch 2.13: 3 of 200 processes under load, none of 200 after one call from a single thread).
torch.ones(1).exp()

FRAMES_AT_ONCE = 32  # on 2 cores, the block runs 1.4 to 1.7 times as fast on 300 frames as with one piece


@dataclass
class R2BlockOutput:
    """Output of `R2Block`; the lists have one entry for each recurrent step, in the order they are run.

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
    """Relative start and end of each frame (TEF), `(batch, length, 2)`; `num_frames (batch,)` is each video's own."""
    time = torch.arange(length, device=num_frames.device, dtype=torch.float32)
    return torch.stack([time, time + 1], dim=-1) / num_frames[:, None, None]


def time_code(num_frames: torch.Tensor, length: int, hidden: int) -> torch.Tensor:
    """Sine and cosine code of relative time, `(batch, length, hidden)`: one period of the lowest frequency a video."""
    time = torch.arange(1, length + 1, device=num_frames.device, dtype=torch.float32)
    angle = time / (num_frames[:, None] + 1e-6) * (2 * math.pi)
    exponent = torch.arange(0, hidden, 2, device=num_frames.device, dtype=torch.float32) / hidden
    angle = angle[..., None] / 10000**exponent  # (batch, length, hidden / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class DropPath(nn.Module):
    """Drop a residual branch for whole samples while training; kept ones are scaled up."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return hidden_states
        shape = (len(hidden_states), *[1] * (hidden_states.dim() - 1))
        kept = torch.rand(shape, device=hidden_states.device) >= self.rate
        return hidden_states * kept.to(hidden_states.dtype) / (1 - self.rate)


class Dropout(nn.Dropout):
    """`nn.Dropout` that draws 16 random bits an element on CPU, where the built-in one takes five times as long.

    The rate is exact to 1/65536.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0 or hidden_states.device.type != "cpu":
            return super().forward(hidden_states)
        return hidden_states * self.keep(hidden_states).div_(1 - self.p)

    def keep(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Random 0 and 1, unscaled, shaped like `hidden_states`."""
        if hidden_states.device.type != "cpu":
            return torch.empty_like(hidden_states).bernoulli_(1 - self.p)
        count = hidden_states.numel()
        bits = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),)).view(torch.int16)[:count]
        return (bits >= round(self.p * 2**16) - 2**15).view(hidden_states.shape).to(hidden_states.dtype)


def cast_for_linear(states: torch.Tensor) -> torch.Tensor:
    """Cast to autocast's precision, where it is on, as the next linear layer would; what comes before it costs less."""
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


class ZeroLinear(nn.Linear):
    """A linear layer that begins as zero: the way up of an adapter, which so changes nothing at first."""

    def reset_parameters(self) -> None:
        """All zero."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


class InputProjection(nn.Module):
    """From CLIP's width to the side block's: LayerNorm, Linear, ReLU, LayerNorm, Linear, dropout before each Linear."""

    def __init__(self, in_features: int, config: R2TuningConfig):
        super().__init__()
        self.input_norm = nn.LayerNorm(in_features)
        self.input_linear = nn.Linear(in_features, config.hidden_size)
        self.hidden_norm = nn.LayerNorm(config.hidden_size)
        self.output_linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From `(..., in_features)`, of any precision, to `(..., hidden)`."""
        features = features.to(self.input_norm.weight.dtype)
        return self._finish(self.input_linear(self.dropout(self.input_norm(features))))

    def _finish(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.output_linear(self.dropout(cast_for_linear(self.hidden_norm(hidden.relu_()))))


class VideoProjection(InputProjection):
    """`InputProjection` of `[features, endpoints]` that never builds that concatenation over all tokens.

    The two endpoint channels are the same for all tokens of a frame, so the statistics of the LayerNorm follow from
    those of the features, and the first Linear splits into a part for the features and one for the endpoints.
    """

    def __init__(self, in_features: int, config: R2TuningConfig):
        super().__init__(in_features + 2, config)

    def forward(self, features: torch.Tensor, endpoints: torch.Tensor) -> torch.Tensor:
        """Project one layer's states.

        Args:
            features: `(batch, num_frames, num_tokens, in_features)`.
            endpoints: `(batch, num_frames, 2)`.

        Returns:
            `torch.Tensor` of shape `(batch, num_frames, num_tokens, hidden)`.
        """
        width, count = features.shape[-1], features.shape[-1] + 2
        endpoints = endpoints[:, :, None]  # (batch, num_frames, 1, 2)
        total = features.sum(-1, keepdim=True, dtype=endpoints.dtype) + endpoints.sum(-1, keepdim=True)
        mean = total / count
        # Features cached in half precision are cast by this difference, without a copy of their own.
        centred = cast_for_linear((features - mean).to(mean.dtype))
        parts = [(centred, slice(width)), (endpoints - mean, slice(width, None))]
        norms = [torch.linalg.vector_norm(part, dim=-1, keepdim=True, dtype=mean.dtype) for part, _ in parts]
        rstd = ((norms[0].square() + norms[1].square()) / count + self.input_norm.eps).rsqrt()

        (hidden, shift), (ends, end_shift) = (self._project_part(part, channels) for part, channels in parts)
        hidden += ends
        return self._finish(torch.addcmul(shift + (end_shift + self.input_linear.bias), hidden, rstd))

    def _project_part(self, part: torch.Tensor, channels: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Products of one part: of its centred values with gains and weights, and of the norm's bias with weights.

        The gains are multiplied into the weights and the deviation is divided by after the product. So neither the
        normalised values nor a gradient of the features' size is ever computed; each token's dropped channels cost
        a second product instead.
        """
        weight = self.input_linear.weight[:, channels]
        gain, bias = self.input_norm.weight[channels], self.input_norm.bias[channels]
        if not self.training or self.dropout.p == 0:
            return F.linear(part, weight * gain), F.linear(bias, weight)
        keep, weight = self.dropout.keep(part), weight / (1 - self.dropout.p)
        return F.linear(part * keep, weight * gain), F.linear(keep, weight * bias)


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
        heads = [
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch, heads, length, head_dim)
            for projection, states in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        ]
        attended = self._attend(*heads, key_mask[:, None, None])
        return self.out_proj(attended.transpose(1, 2).flatten(-2))

    def _attend(self, query, key, value, mask):
        if query.device.type == "cpu" and query.element_size() == 2 and torch.is_grad_enabled():
            # In half precision torch's backward of it takes up to 20 times as long as in float32 (torch 2.13).
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
        """Refine `frames (batch, num_frames, hidden)` with `text (batch, text_length, hidden)`; `code` as `frames`."""
        if self.cross_first:
            frames = self._attend_text(frames, text, code, text_mask)
            frames = self._attend_frames(frames, code, frame_mask)
        else:
            frames = self._attend_frames(frames, code, frame_mask)
            frames = self._attend_text(frames, text, code, text_mask)
        return self.feed_forward_norm(frames + self.drop_path(self.feed_forward(frames)))

    def _attend_text(self, frames, text, code, text_mask):
        attended = self.cross_attention(frames + code, text, text, text_mask)
        return self.cross_attention_norm(frames + self.drop_path(attended))

    def _attend_frames(self, frames, code, frame_mask):
        coded = frames + code
        attended = self.self_attention(coded, coded, frames, frame_mask)
        return self.self_attention_norm(frames + self.drop_path(attended))


class RecurrentStep(nn.Module):
    """The modules of one recurrent step: projections, query-modulated spatial pooling, temporal layers."""

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        hidden = config.hidden_size
        video_projection = VideoProjection if config.use_temporal_endpoints else InputProjection
        self.video_projection = video_projection(config.vision_config.hidden_size, config)
        self.text_projection = InputProjection(config.text_config.hidden_size, config)
        if config.method == "r2_tuning":
            self.video_key = nn.Linear(hidden, hidden)
            self.text_query = nn.Linear(hidden, hidden)
        self.temporal_layers = nn.ModuleList(TemporalLayer(config) for _ in range(config.num_temporal_layers))

    def pool_patches(self, video: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        """Pool each frame's tokens under control of each word, then take the strongest word, Eq. 4-5.

        Args:
            video: `(num_videos, num_frames, num_tokens, hidden)`; each video serves `batch / num_videos`
                consecutive queries.
            text: `(batch, text_length, hidden)`.
            text_mask: `(batch, text_length)`, `True` = real.

        Returns:
            `torch.Tensor` of shape `(batch, num_frames, hidden)`.
        """
        per_video, text_length = len(text) // len(video), text.shape[1]
        pooled = torch.matmul(self.attend_patches(video, text).mT, video)  # (num_videos, num_frames, words, hidden)
        pooled = pooled.unflatten(2, (per_video, text_length))
        text = text.masked_fill(~text_mask[..., None], float("-inf")).unflatten(0, (len(video), 1, per_video))
        pooled = pooled + text
        # The index of the maximum is all that a backward pass needs; without one, amax is several times faster.
        strongest = pooled.max(dim=3).values if pooled.requires_grad else pooled.amax(dim=3)
        return strongest.transpose(1, 2).flatten(0, 1)  # (batch, num_frames, hidden)

    def attend_patches(self, video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """How much each word looks at each token of a frame, Eq. 4.

        Arguments are those of `pool_patches`.

        Returns:
            `torch.Tensor` of shape `(num_videos, num_frames, num_tokens, words)`, 1 in sum over the tokens; the words
            are those of the first query of a video, then those of the next.
        """
        num_videos, num_frames, num_tokens, hidden = video.shape
        # The key projection is folded into the query; its bias is the same for all tokens and drops out.
        query = F.linear(self.text_query(text) / math.sqrt(hidden), self.video_key.weight.T)
        query = query.reshape(num_videos, -1, hidden)
        scores = torch.matmul(video.flatten(1, 2), query.mT)  # (num_videos, num_frames * num_tokens, words)
        return scores.unflatten(1, (num_frames, num_tokens)).softmax(dim=2)


class R2Block(nn.Module):
    """Recurrent refinement over the last K layers of CLIP, Eq. 3-8; by default from the deepest to the shallowest.

    With `activation_checkpointing_enable()` of the model, projection and spatial pooling are computed a second time in the
    backward pass: of their work on patches only CLIP's states and the projected patches are kept.
    """

    gradient_checkpointing = False  # the name that transformers looks for
    _gradient_checkpointing_func = None

    def __init__(self, config: R2TuningConfig):
        super().__init__()
        self.config = config
        self.steps = nn.ModuleList(
            RecurrentStep(config) for _ in range(1 if config.shared_block else config.num_steps)
        )
        self.scale = nn.Parameter(torch.zeros(config.num_steps))  # of the spatial pooling, before tanh
        self.gate = nn.Parameter(torch.zeros(config.num_steps - 1))  # g_k in the paper, before the sigmoid

    @property
    def pools_patches(self) -> bool:
        """Whether a frame is more than its CLS token."""
        return self.config.method == "r2_tuning"

    @property
    def layer_order(self) -> list[int]:
        """Layers in the order they are visited; 0 is the shallowest."""
        layers = range(self.config.num_steps)
        return list(layers if self.config.layer_fusion == "forward" else reversed(layers))

    def _step(self, layer: int) -> RecurrentStep:
        return self.steps[0 if self.config.shared_block else layer]

    def _select_layers(self, hidden_states: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
        """Each step's CLIP states, in visiting order."""
        if self.config.layer_fusion == "single":
            return (hidden_states.select(dim, 0),)
        if self.config.layer_fusion == "mean":
            return (hidden_states.mean(dim),)
        return tuple(hidden_states.select(dim, layer) for layer in self.layer_order)

    def project_video(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor) -> Iterator[torch.Tensor]:
        """Project CLIP's states of each step, lazily: only one step's need be in memory.

        Args:
            hidden_states: `(batch, num_frames, num_layers, num_tokens, vision_hidden)`.
            frame_mask: `(batch, num_frames)`, `True` = real.

        Yields:
            `(batch, num_frames, num_tokens, hidden)`, in visiting order; one token where patches are not pooled.
        """
        if not self.pools_patches:
            hidden_states = hidden_states[:, :, :, :1]
        endpoints = temporal_endpoints(frame_mask.sum(dim=1), frame_mask.shape[1]).to(self.scale.dtype)
        for layer, states in zip(self.layer_order, self._select_layers(hidden_states, dim=2), strict=True):
            inputs = (states, endpoints) if self.config.use_temporal_endpoints else (states,)
            yield self._project_frames(self._step(layer).video_projection, *inputs)

    def _project_frames(self, project: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        """Project all frames; some at a time where nothing in between is kept for backward, it then stays in cache."""
        whole = torch.is_grad_enabled() and not self._recomputes
        if whole or inputs[0].shape[1] <= FRAMES_AT_ONCE:
            return self._run(project, *inputs)
        pieces = zip(*(each.split(FRAMES_AT_ONCE, dim=1) for each in inputs), strict=True)
        return torch.cat([self._run(project, *piece) for piece in pieces], dim=1)

    @property
    def _recomputes(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def _run(self, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """Call a function; in training with activation checkpointing keep nothing but its inputs for backward."""
        return self._gradient_checkpointing_func(function, *inputs) if self._recomputes else function(*inputs)

    def project_text(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Project text states `(batch, text_length, num_layers, text_hidden)` of each step, in visiting order."""
        layers = self._select_layers(hidden_states, dim=2)
        return [
            self._step(layer).text_projection(states) for layer, states in zip(self.layer_order, layers, strict=True)
        ]

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
        frames, frame_embeds, hidden_states, previous = None, [], [], None
        for layer, tokens, words in zip(self.layer_order, video, text, strict=True):
            step = self._step(layer)
            cls = tokens[:, :, 0].repeat_interleave(len(words) // len(tokens), dim=0)
            new = cls
            if self.pools_patches:
                pooled = self._run(step.pool_patches, tokens, words, text_mask)
                new = cls + self.scale[layer].tanh() * pooled  # Eq. 6
            if previous is not None:  # Eq. 7; the first step has no gate, as in the released code
                gate = self.gate[min(layer, previous)].sigmoid()
                new = gate * new + (1 - gate) * frames
            frames, previous = new, layer
            for temporal_layer in step.temporal_layers:  # Eq. 8
                frames = temporal_layer(frames, words, code, frame_mask, text_mask)
            frame_embeds.append(cls)
            hidden_states.append(frames)
        return R2BlockOutput(frames, frame_embeds, text, hidden_states)


__all__ = [
    "FeedForward",
    "R2Block",
    "R2BlockOutput",
    "TemporalAttention",
    "VideoProjection",
    "ZeroLinear",
    "temporal_endpoints",
    "time_code",
]
