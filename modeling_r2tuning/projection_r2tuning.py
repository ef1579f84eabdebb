"""From the width of an encoder to that of the side block."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_r2tuning import R2TuningConfig
from .fused_projection_r2tuning import ProjectionOptions, ProjectionWeights, project
from .precision_r2tuning import autocast_dtype


class InputProjection(nn.Module):
    """From an encoder's width to the side block's: LayerNorm, Linear, ReLU, LayerNorm, Linear.

    Dropout precedes each Linear.
    """

    def __init__(self, in_features: int, config: R2TuningConfig):
        super().__init__()
        self.input_norm = nn.LayerNorm(in_features)
        self.input_linear = nn.Linear(in_features, config.hidden_size)
        self.hidden_norm = nn.LayerNorm(config.hidden_size)
        self.output_linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From `(..., num_tokens, in_features)`, of any precision, to `(..., num_tokens, hidden)`."""
        if self._is_fused:
            return self._project(features, None)
        return self._compose(features)

    @property
    def _is_fused(self) -> bool:
        """Whether `project` computes the projection: for gradients and dropout, unless a compiler takes the plain form."""
        drops = self.training and self.dropout.p > 0
        return (torch.is_grad_enabled() or drops) and not torch.compiler.is_compiling()

    def _project(self, features: torch.Tensor, endpoints: torch.Tensor | None) -> torch.Tensor:
        weights = ProjectionWeights(
            self.input_norm.weight,
            self.input_norm.bias,
            self.input_linear.weight,
            self.input_linear.bias,
            self.hidden_norm.weight,
            self.hidden_norm.bias,
            self.output_linear.weight,
            self.output_linear.bias,
        )
        rate = self.dropout.p if self.training else 0.0
        return project(
            features, endpoints, weights, ProjectionOptions(rate, self.input_norm.eps, self.hidden_norm.eps)
        )

    def _compose(self, features: torch.Tensor) -> torch.Tensor:
        features = features.to(self.input_norm.weight.dtype)
        return self._finish(self.input_linear(self.dropout(self.input_norm(features))))

    def begin(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of `forward` that does not depend on a frame's position, and what `complete` needs to know of it.

        Args:
            features: `(..., in_features)`.

        Returns:
            Features `(..., hidden)` and statistics `(..., n)`; here all of `forward` and none.
        """
        return self(features), features.new_zeros(*features.shape[:-1], 0, dtype=torch.float32)

    def complete(self, hidden: torch.Tensor, statistics: torch.Tensor, endpoints: torch.Tensor) -> torch.Tensor:
        """`forward` from the results of `begin` and the endpoints `(num_frames, 2)` of the frames."""
        return hidden

    def _finish(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.output_linear(self.dropout(cast_for_linear(self.hidden_norm(hidden.relu_()))))


class VideoProjection(InputProjection):
    """`InputProjection` of `[features, endpoints]` that never builds that concatenation over all tokens.

    With the same weights it computes (up to rounding)

        InputProjection.forward(cat([features, endpoints of the frame for each token], dim=-1))

    The two endpoint channels are the same for all tokens of a frame, so the statistics of the LayerNorm follow from
    those of the features, and the first Linear splits into a part for the features (`begin`) and one for the endpoints
    (`complete`).
    """

    def __init__(self, in_features: int, config: R2TuningConfig):
        super().__init__(in_features + 2, config)

    def forward(  # type: ignore[override]  # it needs the endpoints, too
        self, features: torch.Tensor, endpoints: torch.Tensor
    ) -> torch.Tensor:
        """Project the hidden states of one layer.

        Args:
            features: `(batch, num_frames, num_tokens, in_features)`.
            endpoints: `(batch, num_frames, 2)`.

        Returns:
            `torch.Tensor` of shape `(batch, num_frames, num_tokens, hidden)`.
        """
        if self._is_fused:
            return self._project(features, endpoints)
        if self.training and self.dropout.p > 0:
            shared = endpoints[:, :, None].expand(-1, -1, features.shape[2], -1)
            return self._compose(torch.cat([features, shared], dim=-1))
        return self.complete(*self.begin(features), endpoints)

    def begin(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of `forward` that does not depend on the endpoints; without dropout.

        Returns:
            W_x g_x (x - m) / s for the features x, their mean m and deviation s, and the weight W and gain g of their
            channels, `(..., hidden)`; m and s, `(..., 2)`.
        """
        weight, gain = self.input_linear.weight[:, :-2], self.input_norm.weight[:-2]
        mean = features.mean(-1, keepdim=True, dtype=gain.dtype)
        # This difference casts features cached in half precision, without a copy of their own.
        centred = cast_for_linear((features - mean).to(gain.dtype))
        norm = torch.linalg.vector_norm(centred, dim=-1, keepdim=True, dtype=gain.dtype)
        deviation = (norm.square() / len(gain) + self.input_norm.eps).sqrt()
        return F.linear(centred, weight * gain) / deviation, torch.cat([mean, deviation], dim=-1)

    def complete(self, hidden: torch.Tensor, statistics: torch.Tensor, endpoints: torch.Tensor) -> torch.Tensor:
        """`forward` from the results of `begin`; without dropout.

        Args:
            hidden: `(..., num_frames, num_tokens, hidden)`.
            statistics: `(..., num_frames, num_tokens, 2)`.
            endpoints: `(..., num_frames, 2)`.
        """
        # With the features x, the endpoints e, and the mean M and the deviation S of both together, the first Linear gives
        #     (s hidden + (m - M) W_x g_x 1 + W_e g_e (e - M)) / S + W b + c
        weight, gain, eps = self.input_linear.weight, self.input_norm.weight, self.input_norm.eps
        width, count = weight.shape[1] - 2, weight.shape[1]
        mean, deviation = statistics.split(1, dim=-1)  # each (..., num_frames, num_tokens, 1)
        endpoints = endpoints[..., None, :]  # (..., num_frames, 1, 2)
        joint_mean = (width * mean + endpoints.sum(-1, keepdim=True)) / count
        ends, shift = endpoints - joint_mean, mean - joint_mean  # (..., num_tokens, 2) and (..., num_tokens, 1)
        squares = width * (deviation.square() - eps + shift.square()) + ends.square().sum(-1, keepdim=True)
        rstd = (squares / count + eps).rsqrt()  # 1 / S
        weighted = weight * gain
        columns = torch.cat([weighted[:, :-2].sum(1, keepdim=True), weighted[:, -2:]], dim=1)  # (hidden, 3)
        constant = F.linear(self.input_norm.bias, weight, self.input_linear.bias)
        added = F.linear(torch.cat([shift, ends], dim=-1) * rstd, columns, constant)
        return self._finish(torch.addcmul(added, hidden, deviation * rstd))


def cast_for_linear(states: torch.Tensor) -> torch.Tensor:
    """Cast to autocast's precision, if it is on, as the next linear layer would; the operations in between cost less."""
    return states.to(autocast_dtype(states.device.type) or states.dtype)


__all__ = ["InputProjection", "VideoProjection"]
