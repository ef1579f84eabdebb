"""The projection of hidden states in training, forward and backward, with few passes over the tokens.

The hidden states of a training batch are several times larger than all else that a step computes. Autograd would keep
copies of them in full precision, and masks of dropout. `project` keeps its inputs, the output of the first linear layer,
and the seed from which the backward pass draws the masks again.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .precision_r2tuning import autocast_dtype, without_autocast


# Tokens projected at once: on a CPU so few that they and their copies stay in the cache (twice or a quarter as many take
# up to a tenth longer); on an accelerator so many that they occupy it.
ROWS_ON_CPU = 1024
ROWS_ON_ACCELERATOR = 32768


class ProjectionWeights(NamedTuple):
    """Parameters of LayerNorm, Linear, ReLU, LayerNorm, Linear."""

    input_gain: torch.Tensor  # (in_features,)
    input_bias: torch.Tensor  # (in_features,)
    input_weight: torch.Tensor  # (hidden, in_features)
    input_shift: torch.Tensor  # (hidden,)
    hidden_gain: torch.Tensor  # (hidden,)
    hidden_bias: torch.Tensor  # (hidden,)
    output_weight: torch.Tensor  # (hidden, hidden)
    output_shift: torch.Tensor  # (hidden,)


class ProjectionOptions(NamedTuple):
    """Numbers of a projection.

    Attributes:
        rate: Dropout before each Linear, exact to 1/65536; 0 outside of training.
        input_eps: Epsilon of the first LayerNorm.
        hidden_eps: Epsilon of the second one.
    """

    rate: float
    input_eps: float
    hidden_eps: float


def project(
    features: torch.Tensor, endpoints: torch.Tensor | None, weights: ProjectionWeights, options: ProjectionOptions
) -> torch.Tensor:
    """LayerNorm, Linear, ReLU, LayerNorm, Linear of `[features, endpoints]`, with dropout before each Linear.

    Args:
        features: `(..., num_tokens, in_features)`, of any precision.
        endpoints: `(..., 2)`, two channels that all tokens of a frame share, without gradient; `None` = no such
            channels. `weights` have as many more input features.
        weights: Parameters.
        options: Numbers.

    Returns:
        `torch.Tensor` of shape `(..., num_tokens, hidden)`, in autocast's precision if it is on.
    """
    device_type = features.device.type
    dtype = autocast_dtype(device_type) or weights.output_weight.dtype
    seed = None
    if options.rate > 0:
        seed = int(torch.randint(2**62, (), device="cpu"))
    with without_autocast(device_type):
        return _Projection.apply(features, endpoints, options, dtype, seed, *weights)


def dropout_factors(
    shape: tuple[int, ...],
    rate: float,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Random factors of dropout: 0 with probability `rate`, which is exact to 1/65536, otherwise 1 / (1 - rate).

    A rate of 1/2 takes one random bit for each element, any other rate 16 bits.
    """
    count = torch.Size(shape).numel()
    if rate == 0.5:
        # In every floating-point format the number 2 has only the second-highest bit set. So each lower bit of a random
        # word, and that bit itself, becomes a factor when it is moved to that place and the others are cleared.
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        width = 8 * dtype.itemsize
        words = _random_words(count, 64 // width * (width - 1), device, generator).view(kind)
        shifts = torch.arange(width - 1, device=device, dtype=kind)[:, None]
        factors = torch.bitwise_left_shift(words, shifts).bitwise_and_(1 << (width - 2)).view(dtype)
        return factors.flatten()[:count].view(shape)
    bits = _random_words(count, 4, device, generator).view(torch.int16)[:count]
    kept = bits >= round(rate * 2**16) - 2**15
    return kept.view(shape).to(dtype).div_(1 - rate)


def _random_words(count: int, per_word: int, device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """Words of 64 random bits for `count` elements, of which each word serves `per_word`."""
    words = torch.empty(-(-count // per_word), dtype=torch.int64, device=device)
    return words.random_(-(2**63), None, generator=generator)


class _Piece(NamedTuple):
    """Some rows of the input, and the factors of dropout for them; `None` = no dropout."""

    rows: slice
    joined: torch.Tensor  # (rows, in_features)
    input_factors: torch.Tensor | None  # (rows, in_features)
    hidden_factors: torch.Tensor | None  # (rows, hidden)


def _pieces(
    features: torch.Tensor,
    endpoints: torch.Tensor | None,
    weights: ProjectionWeights,
    rate: float,
    dtype: torch.dtype,
    seed: int | None,
) -> Iterator[_Piece]:
    """Divide the input into pieces; for the same seed they have the same factors."""
    device, hidden = features.device, len(weights.input_weight)
    features = features.flatten(0, -3)  # (num_frames, num_tokens, features)
    if endpoints is not None:
        endpoints = endpoints.flatten(0, -2)  # (num_frames, 2)
    generator = None
    if seed is not None and device.type != "meta":
        generator = torch.Generator(device).manual_seed(seed)
    num_tokens = features.shape[1]
    at_once = max((ROWS_ON_CPU if device.type == "cpu" else ROWS_ON_ACCELERATOR) // num_tokens, 1)
    for start in range(0, len(features), at_once):
        frames = slice(start, start + at_once)
        joined = _join(features[frames], None if endpoints is None else endpoints[frames], weights.input_gain.dtype)
        rows = slice(start * num_tokens, start * num_tokens + len(joined))
        factors: list[torch.Tensor | None] = [None, None]
        if rate > 0:
            for index, width in enumerate((joined.shape[1], hidden)):
                factors[index] = dropout_factors((len(joined), width), rate, dtype, device, generator)
        yield _Piece(rows, joined, *factors)


def _join(features: torch.Tensor, endpoints: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Rows `[features, endpoints of their frame]`, `(num_frames * num_tokens, in_features)`."""
    if endpoints is None:
        return features.to(dtype).flatten(0, 1)
    num_frames, num_tokens, width = features.shape
    joined = torch.empty(num_frames, num_tokens, width + 2, dtype=dtype, device=features.device)
    joined[..., :width] = features
    joined[..., width:] = endpoints[:, None]
    return joined.flatten(0, 1)


class _Projection(torch.autograd.Function):
    """`project` and its gradient, some rows at a time."""

    # With the normalised input n, gain g and bias b of LayerNorm, factors d of dropout, and weight W and shift c of Linear,
    # the first Linear computes
    #     y = W ((g n + b) d) + c
    # Let e be the gradient of y, and A = e' (n d) and B = e' d sums over all rows, of the shape of W. Then the gradients are
    #     of W: A g + B b,   of g: column sums of A W,   of b: column sums of B W,   of c: the sum of e
    # where A W and B W are products element by element. So no gradient of the size of the input is computed, unless the
    # features need one. Without dropout all d are 1, and every column of B is the sum of e.
    #
    # Keeping a bias in the norm costs dropout the second product, B; the forward pass needs one product in any case.

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        endpoints: torch.Tensor | None,
        options: ProjectionOptions,
        dtype: torch.dtype,
        seed: int | None,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        weights = ProjectionWeights(*parameters)
        cast_weights = _cast_linear(weights, dtype)
        shape = (*features.shape[:-1], len(weights.output_weight))
        hidden = torch.empty(shape, dtype=dtype, device=features.device)
        output = torch.empty_like(hidden)
        hidden_rows, output_rows = hidden.flatten(0, -2), output.flatten(0, -2)
        for piece in _pieces(features, endpoints, weights, options.rate, dtype, seed):
            hidden_piece = hidden_rows[piece.rows]
            normed = _norm(piece.joined, weights.input_gain, weights.input_bias, options.input_eps)[0].to(dtype)
            _drop(normed, piece.input_factors)
            torch.addmm(cast_weights.input_shift, normed, cast_weights.input_weight.T, out=hidden_piece)
            positive = hidden_piece.relu().to(weights.hidden_gain.dtype)
            normed = _norm(positive, weights.hidden_gain, weights.hidden_bias, options.hidden_eps)[0].to(dtype)
            _drop(normed, piece.hidden_factors)
            torch.addmm(cast_weights.output_shift, normed, cast_weights.output_weight.T, out=output_rows[piece.rows])
        ctx.save_for_backward(features, endpoints, hidden, *parameters)
        ctx.options, ctx.dtype, ctx.seed = options, dtype, seed
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, endpoints, hidden, *parameters = ctx.saved_tensors
        weights, options, dtype = ProjectionWeights(*parameters), ctx.options, ctx.dtype
        cast_weights = _cast_linear(weights, dtype)
        sums = _GradientSums(weights, options, dtype)
        hidden_rows, gradient_rows = hidden.flatten(0, -2), gradient.flatten(0, -2)
        of_features = None
        if ctx.needs_input_grad[0]:
            of_features = torch.empty(features.shape, dtype=features.dtype, device=features.device)
        for piece in _pieces(features, endpoints, weights, options.rate, dtype, ctx.seed):
            of_hidden = sums.add_output_layer(piece, hidden_rows[piece.rows], gradient_rows[piece.rows], cast_weights)
            sums.add_input_layer(piece, of_hidden)
            if of_features is not None:
                of_joined = _gradient_of_input(piece, of_hidden, weights, cast_weights, options)
                of_features.flatten(0, -2)[piece.rows] = of_joined[:, : features.shape[-1]]
        return of_features, None, None, None, None, *sums.gradients()


class _GradientSums:
    """Gradients of the parameters, summed over the pieces."""

    def __init__(self, weights: ProjectionWeights, options: ProjectionOptions, dtype: torch.dtype):
        self.weights, self.options, self.dtype = weights, options, dtype
        self.normed = torch.zeros_like(weights.input_weight)  # A
        self.kept = torch.zeros_like(weights.input_weight) if options.rate > 0 else None  # B
        self.input_shift = torch.zeros_like(weights.input_shift)
        self.hidden_gain = torch.zeros_like(weights.hidden_gain)
        self.hidden_bias = torch.zeros_like(weights.hidden_bias)
        self.output_weight = torch.zeros_like(weights.output_weight)
        self.output_shift = torch.zeros_like(weights.output_shift)

    def add_output_layer(
        self, piece: _Piece, hidden: torch.Tensor, gradient: torch.Tensor, cast_weights: ProjectionWeights
    ) -> torch.Tensor:
        """Add a piece to the sums of the layers after the first Linear, whose gradient `(rows, hidden)` is returned."""
        weights = self.weights
        positive = hidden.relu().to(weights.hidden_gain.dtype)
        normed, mean, rstd = _norm(positive, weights.hidden_gain, weights.hidden_bias, self.options.hidden_eps)
        gradient = gradient.to(self.dtype)
        _add_product(self.output_weight, gradient.T, _drop(normed.to(self.dtype), piece.hidden_factors))
        self.output_shift += gradient.sum(0, dtype=self.output_shift.dtype)
        of_normed = _drop(gradient @ cast_weights.output_weight, piece.hidden_factors).to(positive.dtype)
        of_positive, of_gain, of_bias = _norm_backward(
            of_normed, positive, mean, rstd, weights.hidden_gain, weights.hidden_bias, (True, True, True)
        )
        self.hidden_gain += of_gain
        self.hidden_bias += of_bias
        of_hidden = torch.ops.aten.threshold_backward(of_positive, positive, 0)
        self.input_shift += of_hidden.sum(0)
        return of_hidden.to(self.dtype)

    def add_input_layer(self, piece: _Piece, of_hidden: torch.Tensor) -> None:
        """Add a piece to the sums A and B of the first LayerNorm and Linear."""
        normed = _norm(piece.joined, None, None, self.options.input_eps)[0].to(self.dtype)
        _add_product(self.normed, of_hidden.T, _drop(normed, piece.input_factors))
        if self.kept is not None and piece.input_factors is not None:
            _add_product(self.kept, of_hidden.T, piece.input_factors)

    def gradients(self) -> ProjectionWeights:
        """Gradients of all parameters."""
        weights = self.weights
        kept = self.kept
        if kept is None:
            kept = self.input_shift[:, None].expand_as(self.normed)
        return ProjectionWeights(
            input_gain=(self.normed * weights.input_weight).sum(0),
            input_bias=(kept * weights.input_weight).sum(0),
            input_weight=torch.addcmul(self.normed * weights.input_gain, kept, weights.input_bias),
            input_shift=self.input_shift,
            hidden_gain=self.hidden_gain,
            hidden_bias=self.hidden_bias,
            output_weight=self.output_weight,
            output_shift=self.output_shift,
        )


def _gradient_of_input(
    piece: _Piece,
    of_hidden: torch.Tensor,
    weights: ProjectionWeights,
    cast_weights: ProjectionWeights,
    options: ProjectionOptions,
) -> torch.Tensor:
    """Gradient of the rows `[features, endpoints]`, `(rows, in_features)`."""
    _, mean, rstd = _norm(piece.joined, None, None, options.input_eps)
    of_normed = _drop(of_hidden @ cast_weights.input_weight, piece.input_factors).to(piece.joined.dtype)
    only_input = (True, False, False)
    return _norm_backward(of_normed, piece.joined, mean, rstd, weights.input_gain, weights.input_bias, only_input)[0]


def _cast_linear(weights: ProjectionWeights, dtype: torch.dtype) -> ProjectionWeights:
    """The same parameters, those of the linear layers in the precision of the products."""
    return weights._replace(
        input_weight=weights.input_weight.to(dtype),
        input_shift=weights.input_shift.to(dtype),
        output_weight=weights.output_weight.to(dtype),
        output_shift=weights.output_shift.to(dtype),
    )


def _norm(
    rows: torch.Tensor, gain: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LayerNorm of rows, and their mean and reciprocal standard deviation."""
    return torch.native_layer_norm(rows, [rows.shape[-1]], gain, bias, eps)


def _norm_backward(
    gradient: torch.Tensor,
    rows: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    gain: torch.Tensor,
    bias: torch.Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the rows, the gain and the bias of a LayerNorm."""
    size = [rows.shape[-1]]
    return torch.ops.aten.native_layer_norm_backward(gradient, rows, size, mean, rstd, gain, bias, wanted)


def _drop(values: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    """Multiply by the factors of dropout, in place."""
    return values if factors is None else values.mul_(factors)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a matrix product to a total, which may be of higher precision."""
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, out=total)
    else:
        total += left @ right


__all__ = ["ProjectionOptions", "ProjectionWeights", "dropout_factors", "project"]
