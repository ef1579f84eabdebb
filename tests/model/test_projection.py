"""The projection of hidden states: values, gradients, dropout and what it keeps for the backward pass."""

import pytest
import torch
from torch import nn

from benchmarks.memory import KeptForBackward
from modeling_r2tuning import fused_projection_r2tuning
from modeling_r2tuning.block_r2tuning import R2Block, temporal_endpoints
from modeling_r2tuning.fused_projection_r2tuning import dropout_factors
from modeling_r2tuning.projection_r2tuning import InputProjection, VideoProjection


def projected_plainly(projection, features, endpoints, keep):
    """LayerNorm, dropout, Linear, ReLU, ... of the concatenation that `VideoProjection` never builds."""
    joined = torch.cat([features, endpoints[:, :, None].expand(-1, -1, features.shape[2], -1)], dim=-1)
    hidden = projection.input_linear(projection.input_norm(joined) * keep[0])
    return projection.output_linear(projection.hidden_norm(hidden.relu()) * keep[1])


@pytest.fixture
def projection(make_config):
    torch.manual_seed(0)
    projection = VideoProjection(64, make_config(dropout=0.5)).double()
    for parameter in projection.parameters():
        nn.init.normal_(parameter, std=0.5)
    return projection


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_video_projection_equals_that_of_the_concatenation(projection, offset):
    features, endpoints = torch.randn(2, 3, 5, 64).double() + offset, torch.rand(2, 3, 2).double()
    want = projected_plainly(projection.eval(), features, endpoints, (1, 1))
    torch.testing.assert_close(projection(features, endpoints), want)
    single = projection.float()(features.float(), endpoints.float())
    # For values of 1000 float32 itself has a precision of 6e-5.
    torch.testing.assert_close(single.double(), want, atol=1e-5 if offset == 0 else 1e-2, rtol=0)


@pytest.fixture
def drawn(monkeypatch):
    """The factors of dropout that `project` draws, in order."""
    factors = []

    def draw(*args):
        factors.append(dropout_factors(*args))
        return factors[-1].clone()

    monkeypatch.setattr(fused_projection_r2tuning, "dropout_factors", draw)
    return factors


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_video_projection_drops_what_dropout_of_the_concatenation_drops(projection, drawn, rate):
    """Outputs and all gradients agree if the same channels are dropped; they differ between tokens."""
    projection.dropout.p = rate
    features, endpoints = torch.randn(2, 3, 5, 64).double(), torch.rand(2, 3, 2).double()
    got = projection.train()(features.requires_grad_(), endpoints)
    masks = [mask.view(2, 3, 5, -1) for mask in drawn]
    want = projected_plainly(projection, features, endpoints, masks)
    torch.testing.assert_close(got, want)
    check_gradients(got, want, [features, *projection.parameters()])
    assert len(drawn) == 4  # the backward pass draws the same factors again
    torch.testing.assert_close(drawn[2:], drawn[:2], rtol=0, atol=0)


def check_gradients(got, want, inputs):
    probe = torch.randn_like(want)
    gradients = [torch.autograd.grad((out * probe).sum(), inputs) for out in (got, want)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_gradients_of_the_projection_are_those_of_the_concatenation(projection, monkeypatch, frozen, rows):
    """For any number of tokens at once, and also towards the features where they need it."""
    monkeypatch.setattr(fused_projection_r2tuning, "ROWS_ON_CPU", rows)
    features, endpoints = torch.randn(2, 3, 5, 64).double(), torch.rand(2, 3, 2).double()
    features.requires_grad_(not frozen)
    got = projection.eval()(features, endpoints)
    want = projected_plainly(projection, features, endpoints, (1, 1))
    torch.testing.assert_close(got, want)
    check_gradients(got, want, [*projection.parameters(), *([] if frozen else [features])])


def test_the_projection_without_endpoints_is_that_of_the_features(make_config):
    projection, text = InputProjection(64, make_config(dropout=0.0)).double(), torch.randn(2, 6, 64).double()
    want = projection.output_linear(
        projection.hidden_norm(projection.input_linear(projection.input_norm(text)).relu())
    )
    got = projection(text)
    torch.testing.assert_close(got, want)
    check_gradients(got, want, list(projection.parameters()))
    with torch.no_grad():
        torch.testing.assert_close(projection(text), want)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_projection_keeps_the_first_linear_layers_output_only(projection, rate):
    """Neither the features in full precision nor a mask of dropout is kept for the backward pass."""
    projection = projection.float().train()
    projection.dropout.p = rate
    features, endpoints = torch.randn(2, 3, 50, 64).half(), torch.rand(2, 3, 2)
    with KeptForBackward(projection, {"features": features, "endpoints": endpoints}) as kept:
        projection(features, endpoints)
    assert kept.bytes == 2 * 3 * 50 * projection.output_linear.out_features * 4


def test_the_projection_cannot_be_differentiated_twice(projection):
    output = projection(torch.randn(1, 2, 3, 64).double(), torch.rand(1, 2, 2).double())
    (gradient,) = torch.autograd.grad(output.square().sum(), [projection.input_linear.weight], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_the_projection_follows_autocast(projection, dtype, tolerance):
    """Products and output are in autocast's precision, gradients in that of the parameters."""
    projection = projection.float().eval()
    features, endpoints = torch.randn(2, 3, 5, 64), torch.rand(2, 3, 2)
    want = projected_plainly(projection, features, endpoints, (1, 1))
    with torch.autocast("cpu", dtype):
        got = projection(features.half(), endpoints)
        with torch.no_grad():
            assert got.dtype == projection(features, endpoints).dtype == dtype
    probe, inputs = torch.randn_like(want), list(projection.parameters())
    gradients, exact = (torch.autograd.grad((out * probe).sum(), inputs) for out in (got, want))
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < tolerance * theirs.norm()


def test_the_projection_is_compiled_in_its_plain_form(projection):
    """A compiler sees operations of torch alone, also with dropout."""
    projection.train()
    features, endpoints = torch.randn(2, 3, 5, 64).double(), torch.rand(2, 3, 2).double()
    compiled = torch.compile(projection, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    got = compiled(features, endpoints)
    torch.manual_seed(0)
    masks = [torch.nn.functional.dropout(torch.ones(2, 3, 5, width).double()) for width in (66, 32)]
    torch.testing.assert_close(got, projected_plainly(projection, features, endpoints, masks))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [0.1, 0.35, 0.5])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(rate, dtype):
    torch.manual_seed(0)
    factors = dropout_factors((1000, 301), rate, dtype, torch.device("cpu"))
    assert factors.shape == (1000, 301)
    assert factors.dtype == dtype
    assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-2)
    # Three standard deviations of a mean of 301,000 draws are below 0.003.
    assert (factors == 0).double().mean().item() == pytest.approx(rate, abs=0.003)
    assert (factors == 0).double().mean(0).sub(rate).abs().max() < 0.08  # 5 standard deviations of 1,000 draws


def test_the_same_seed_drops_the_same(projection):
    """From torch's generator: also after a forward pass without gradients, and again in the backward pass."""
    features, endpoints = torch.randn(2, 3, 5, 64).double(), torch.rand(2, 3, 2).double()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with torch.set_grad_enabled(len(outputs) == 0):
            outputs.append(projection.train()(features, endpoints))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_dropout_has_the_distribution_of_that_of_torch(make_config, rate):
    """Over 1,000 draws: mean, variance, and covariance of tokens, frames, samples and recurrent steps."""
    torch.manual_seed(0)
    block = R2Block(make_config(hidden_size=16, num_recurrent_steps=2, dropout=rate)).train()
    projection = block.steps[0].video_projection
    for parameter in projection.parameters():
        nn.init.normal_(parameter, std=0.5)
    states = torch.randn(2, 2, 2, 2, block.config.vision_config.hidden_size)  # samples, frames, layers, tokens, hidden
    frame_mask = torch.ones(2, 2, dtype=torch.bool)
    ours, theirs = [], []
    endpoints = temporal_endpoints(frame_mask.sum(dim=1), 2)
    for _ in range(1000):
        with torch.no_grad():
            ours.append(torch.stack(list(block.project_video(states, frame_mask))))
            plain = [projected_with_torch(projection, states[:, :, layer], endpoints) for layer in (1, 0)]
            theirs.append(torch.stack(plain))
    ours, theirs = (
        torch.stack(ours).double(),
        torch.stack(theirs).double(),
    )  # (draws, steps, samples, frames, tokens, hidden)
    assert_equal_means(ours, theirs)
    assert_equal_means((ours - ours.mean(0)).square(), (theirs - theirs.mean(0)).square())
    for axis in (1, 2, 3, 4):  # steps, samples, frames, tokens
        assert_equal_means(products(ours, axis), products(theirs, axis))


def projected_with_torch(projection, features, endpoints):
    """The concatenation's projection with torch's own dropout."""
    joined = torch.cat([features, endpoints[:, :, None].expand(-1, -1, features.shape[2], -1)], dim=-1)
    hidden = projection.input_linear(nn.functional.dropout(projection.input_norm(joined), projection.dropout.p))
    return projection.output_linear(nn.functional.dropout(projection.hidden_norm(hidden.relu()), projection.dropout.p))


def products(draws, axis):
    """Products of the deviations of two neighbours along an axis; their mean is the covariance."""
    first, second = (draws - draws.mean(0)).unbind(axis)
    return first * second


def assert_equal_means(ours, theirs):
    error = ((ours.var(0) + theirs.var(0)) / len(ours)).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4 * error + 1e-9).all()
