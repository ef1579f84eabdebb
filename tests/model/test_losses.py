import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from modeling_r2tuning.heads_r2tuning import VideoGroundingOutput
from modeling_r2tuning.losses_r2tuning import (
    GroundingLabels,
    boundary_loss,
    calibration_loss,
    existence_loss,
    focal_loss,
    masked_mean,
    pad_moments,
    pool_positive_frames,
    positive_frame_mask,
    saliency_loss,
    video_grounding_loss,
)
from modeling_r2tuning.points_r2tuning import assign_targets, make_point_mask, make_points


LN2 = math.log(2)


def bools(*values):
    return torch.tensor(values).bool()


# ---- means and points --------------------------------------------------------------------------------------------


def test_masked_mean_of_nothing_is_zero_with_a_zero_gradient():
    values = torch.tensor([1.0, 2.0, float("nan")], requires_grad=True)
    assert masked_mean(values, bools(1, 1, 0)) == 1.5
    nothing = masked_mean(values, bools(0, 0, 0))
    nothing.backward()
    assert nothing == 0
    assert values.grad.tolist() == [0, 0, 0]


def test_focal_loss_of_three_points():
    """Probability 1/2 everywhere: ln 2 times (1/2)^2 each; the masked point does not count."""
    logits, targets, mask = torch.zeros(1, 4), bools([1, 0, 0, 1]), bools([1, 1, 1, 0])
    assert focal_loss(logits, targets, mask).item() == pytest.approx(LN2 / 4)
    weights = 0.9 + 0.1 + 0.1
    assert focal_loss(logits, targets, mask, alpha=0.9).item() == pytest.approx(weights / 3 * LN2 / 4)


def test_focal_loss_discounts_what_is_nearly_right():
    """Probability of the truth 4/5: -ln 0.8 times 0.2^2; of a miss 1/5: -ln 0.2 times 0.8^2."""
    logit = math.log(4)
    right = focal_loss(torch.tensor([[logit, -logit]]), bools([1, 0]), bools([1, 1]))
    assert right.item() == pytest.approx(-math.log(0.8) * 0.04, rel=1e-5)
    wrong = focal_loss(torch.tensor([[-logit, logit]]), bools([1, 0]), bools([1, 1]))
    assert wrong.item() == pytest.approx(-math.log(0.2) * 0.64, rel=1e-5)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_focal_loss_and_its_gradient_are_finite_for_huge_logits(logit):
    logits = torch.full((1, 2), logit, requires_grad=True)
    loss = focal_loss(logits, bools([1, 0]), bools([1, 1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_focal_loss_of_a_perfect_prediction_is_zero():
    assert focal_loss(torch.tensor([[100.0, -100.0]]), bools([1, 0]), bools([1, 1])) == 0


def test_boundary_loss_averages_both_ends_of_the_positive_points():
    """Errors 1 and 2 at one positive point, 0 and 3 at the other; the negative point does not count."""
    offsets = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]])
    targets = torch.tensor([[[2.0, 3.0], [2.0, 5.0], [0.0, 0.0]]])
    assert boundary_loss(offsets, targets, bools([1, 1, 0])).item() == pytest.approx(6 / 4)
    assert boundary_loss(offsets, offsets, bools([1, 1, 0])) == 0


def test_boundary_loss_without_positive_points_is_zero_with_a_zero_gradient():
    offsets = torch.ones(1, 3, 2, requires_grad=True)
    loss = boundary_loss(offsets, torch.zeros(1, 3, 2), bools([0, 0, 0]))
    loss.backward()
    assert loss == 0
    assert not offsets.grad.any()


# ---- existence ---------------------------------------------------------------------------------------------------


def test_existence_loss_weighs_both_kinds_of_queries_equally():
    """Probability 4/5 of one present query; 1/2 and 1/5 of two absent ones."""
    logits = torch.tensor([0.0, math.log(4), -math.log(4)])
    present, absent = -math.log(0.8), (-math.log(0.5) - math.log(0.8)) / 2
    assert existence_loss(logits, bools(0, 1, 0)).item() == pytest.approx((present + absent) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", [True, False])
def test_existence_loss_of_one_kind_is_half_its_mean(kind):
    logits = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = existence_loss(logits, torch.full((2,), kind))
    loss.backward()
    errors = [-math.log(p if kind else 1 - p) for p in logits.sigmoid().tolist()]
    assert loss.item() == pytest.approx(sum(errors) / 4, rel=1e-6)
    assert logits.grad.isfinite().all()


# ---- contrastive losses ------------------------------------------------------------------------------------------


def log_share(chosen, others):
    """-log of the softmax of one similarity among itself and others, at temperature 0.07."""
    powers = [math.exp(value / 0.07) for value in (chosen, *others)]
    return -math.log(powers[0] / sum(powers))


def saliency_slowly(similarity, saliency, lengths, positive, strict, over_batch):
    """Eq. 15 frame by frame."""
    rows, columns = [], []
    for b, p in enumerate(positive):
        frames = [t for t in range(lengths[b]) if t != p]
        lower = [
            t for t in frames if saliency[b][t] < saliency[b][p] or (not strict and saliency[b][t] == saliency[b][p])
        ]
        rows.append(log_share(similarity[b][p], [similarity[b][t] for t in lower]))
        # The frame of another video at the same index, unless it is missing or more salient than its positive frame.
        others = [c for c in range(len(positive)) if c != b and p < lengths[c]]
        others = [c for c in others if p == positive[c] or saliency[c][p] <= saliency[c][positive[c]]]
        columns.append(log_share(similarity[b][p], [similarity[c][p] for c in others]))
    return sum(rows) / len(rows) + (sum(columns) / len(columns) if over_batch else 0)


def test_saliency_loss_by_hand():
    """Of frames 0-3 the positive one is 1; 0 is less salient, 2 equally, 3 more: released counts 0 and 2, paper 0."""
    similarity, saliency = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    arguments = similarity, saliency, bools([1, 1, 1, 1]), torch.tensor([1])
    released = saliency_loss(*arguments, strict_negatives=False, over_batch=False)
    assert released.item() == pytest.approx(log_share(0.2, [0.1, 0.3]), rel=1e-5)
    paper = saliency_loss(*arguments, strict_negatives=True, over_batch=False)
    assert paper.item() == pytest.approx(log_share(0.2, [0.1]), rel=1e-5)


@pytest.mark.parametrize(("strict", "over_batch"), [(False, True), (False, False), (True, False)])
@pytest.mark.parametrize("seed", range(3))
def test_saliency_loss_equals_a_slow_version(strict, over_batch, seed):
    """Videos of different lengths; the second one has no frame 6, so it is not in the first one's column."""
    generator = torch.Generator().manual_seed(seed)
    lengths, positive = [8, 5, 7, 1], torch.tensor([6, 2, 4, 0])
    similarity = torch.rand(4, 8, generator=generator) * 2 - 1
    saliency = (torch.rand(4, 8, generator=generator) * 4).round() / 4
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    got = saliency_loss(similarity, saliency, mask, positive, strict, over_batch)
    want = saliency_slowly(similarity.tolist(), saliency.tolist(), lengths, positive.tolist(), strict, over_batch)
    assert got.item() == pytest.approx(want, rel=1e-4)


def test_saliency_loss_ignores_padded_frames():
    similarity, saliency = torch.tensor([[0.1, 0.2, 0.9]]), torch.tensor([[0.0, 0.5, 0.0]])
    loss = saliency_loss(similarity, saliency, bools([1, 1, 0]), torch.tensor([1]), False, True)
    assert loss.item() == pytest.approx(log_share(0.2, [0.1]), rel=1e-5)


def test_saliency_gradients_are_finite_where_an_index_is_masked_in_every_video():
    """The released form, a softmax over all columns, gives NaN here."""
    similarity = torch.zeros(2, 3, requires_grad=True)
    saliency = torch.tensor([[0.5, 1.0, 0.0], [0.5, 1.0, 0.0]])
    loss = saliency_loss(similarity, saliency, torch.ones(2, 3).bool(), torch.tensor([0, 0]), False, True)
    loss.backward()
    assert similarity.grad.isfinite().all()
    assert not similarity.grad[:, 1].any()


def test_calibration_loss_by_hand():
    """Two pairs: similarity 1 to their own text, 0 to the other text; the same for rows and columns."""
    video = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert calibration_loss(video, video).item() == pytest.approx(log_share(1, [0]), abs=1e-7)  # float32 near 1
    swapped = calibration_loss(video, video.flip(1))
    assert swapped.item() == pytest.approx(log_share(0, [1]), rel=1e-5)


def test_calibration_loss_equals_a_slow_version():
    torch.manual_seed(0)
    video, text = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    cosines = torch.nn.functional.cosine_similarity(video[:, :, None], text[:, None], dim=-1).tolist()
    terms = []
    for group in cosines:
        for own in range(4):
            others = [other for other in range(4) if other != own]
            terms.append(log_share(group[own][own], [group[own][other] for other in others]))
            terms.append(log_share(group[own][own], [group[other][own] for other in others]))
    assert calibration_loss(video, text).item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_calibration_loss_depends_on_directions_only():
    torch.manual_seed(0)
    video, text = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    want = calibration_loss(video, text)
    torch.testing.assert_close(calibration_loss(5 * video, 0.1 * text), want)
    torch.testing.assert_close(calibration_loss(text, video), want)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(calibration_loss(video[:, order], text[:, order]), want)


def test_calibration_of_a_single_pair_is_zero():
    assert calibration_loss(torch.randn(3, 1, 8), torch.randn(3, 1, 8)) == 0


def test_contrastive_losses_of_no_rows_are_zero_with_a_gradient():
    """Distributed training waits for a gradient of every parameter."""
    similarity, frames, texts = torch.zeros(2, 4), torch.zeros(2, 3, 8), torch.zeros(2, 3, 8)
    for tensor in (similarity, frames, texts):
        tensor.requires_grad_(True)
    nothing = torch.zeros(0, 4)
    losses = [
        saliency_loss(similarity[:0], nothing, nothing.bool(), torch.zeros(0).long(), False, over_batch=True),
        calibration_loss(frames[:0], texts[:0]),
        calibration_loss(frames[:, :0], texts[:, :0]),
    ]
    assert losses == [0, 0, 0]
    sum(losses).backward()
    for tensor in (similarity, frames, texts):
        assert tensor.grad is not None
        assert not tensor.grad.any()


# ---- positive frames ---------------------------------------------------------------------------------------------


def make_labels(saliency, positive_frame, moments=None):
    moments, mask = (None, None) if moments is None else pad_moments(moments, None, torch.device("cpu"))
    return GroundingLabels(torch.tensor(saliency), torch.tensor(positive_frame), moments, mask)


def test_positive_frames_of_a_moment_exclude_its_end():
    labels = make_labels([[0.0] * 6, [0.0] * 6], [2, 0], [[[1.0, 3.0], [4.5, 6.0]], [[0.0, 6.0]]])
    mask = bools([1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    positive = positive_frame_mask(labels, mask, "above_median")
    assert positive.int().tolist() == [[0, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]]


def test_positive_frames_are_above_the_lower_median_of_the_valid_ones():
    """Of 1, 2, 3, 4 the lower median is 2; of 1, 2 it is 1: padding does not count."""
    labels = make_labels([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.9, 0.9]], [2, 1])
    positive = positive_frame_mask(labels, bools([1, 1, 1, 1], [1, 1, 0, 0]), "above_median")
    assert positive.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]


def test_positive_frames_are_above_a_half():
    labels = make_labels([[0.0, 0.5, 0.51, 1.0]], [3])
    positive = positive_frame_mask(labels, bools([1, 1, 1, 0]), "above_half")
    assert positive.int().tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize(("moments", "rule"), [(None, "above_median"), (None, "above_half"), ([[[1.1, 1.9]]], "")])
def test_the_drawn_frame_is_positive_if_no_other_is(moments, rule):
    labels = make_labels([[0.5, 0.5, 0.5]], [1], moments)
    assert positive_frame_mask(labels, bools([1, 1, 1]), rule).int().tolist() == [[0, 1, 0]]


def test_pooling_is_the_mean_of_the_positive_frames():
    torch.manual_seed(0)
    frames = torch.randn(2, 3, 4, 5)
    positive = bools([1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1])
    pooled = pool_positive_frames(frames, positive)
    assert pooled.shape == (2, 3, 5)
    for row, chosen in enumerate(positive):
        torch.testing.assert_close(pooled[:, row], frames[:, row, chosen].mean(dim=1))


# ---- moments -----------------------------------------------------------------------------------------------------


def test_moments_are_padded_from_lists():
    moments, mask = pad_moments([[[1, 2], [3, 4]], [], torch.tensor([[5.0, 6.0]])], None, torch.device("cpu"))
    assert moments.tolist() == [[[1, 2], [3, 4]], [[0, 0], [0, 0]], [[5, 6], [0, 0]]]
    assert mask.tolist() == [[True, True], [False, False], [True, False]]


def test_a_batch_without_moments_has_one_padded_moment():
    moments, mask = pad_moments([[], []], None, torch.device("cpu"))
    assert moments.shape == (2, 1, 2)
    assert not mask.any()


def test_values_of_padded_moments_are_set_to_zero():
    """Infinite padding would make NaN of differences."""
    given = torch.tensor([[[1.0, 2.0], [math.inf, math.inf]]])
    moments, mask = pad_moments(given, torch.tensor([[1, 0]]), torch.device("cpu"))
    assert moments.tolist() == [[[1, 2], [0, 0]]]
    assert mask.dtype == torch.bool
    assert given.isinf().any()


# ---- all together ------------------------------------------------------------------------------------------------


def make_case(config_fields=None, moments=((2.0, 5.0),), num_frames=8):
    """Outputs, embeddings, labels and configuration of a batch of two."""
    torch.manual_seed(0)
    fields = {
        "loss_recipe": "released",
        "saliency_loss_weight": 0.01,
        "use_moment_head": moments is not None,
        "use_existence_head": False,
        "existence_loss_weight": 0.3,
        "use_video_calibration": True,
        "use_layer_calibration": True,
        "positive_saliency": "above_half",
    }
    config = SimpleNamespace(**{**fields, **(config_fields or {})})
    points = make_points(num_frames, [1, 2] if config.use_moment_head else [1])
    lengths = torch.tensor([num_frames, num_frames - 3])
    outputs = VideoGroundingOutput(
        logits=torch.randn(2, len(points)),
        boundary_offsets=torch.rand(2, len(points), 2) if config.use_moment_head else None,
        saliency_scores=torch.rand(2, num_frames),
        points=points,
        point_mask=make_point_mask(points, lengths),
        frame_mask=torch.arange(num_frames) < lengths[:, None],
    )
    saliency = torch.rand(2, num_frames).tolist()
    labels = make_labels(saliency, [3, 0], None if moments is None else [list(moments)] * 2)
    return outputs, torch.randn(3, 2, num_frames, 16), torch.randn(3, 2, 16), labels, config


def test_parts_by_configuration():
    both = {"video_calibration", "layer_calibration"}
    assert video_grounding_loss(*make_case())[1].keys() == {"classification", "boundary", "saliency", *both}
    assert video_grounding_loss(*make_case(moments=None))[1].keys() == {"classification", "saliency", *both}
    for name in both:
        parts = video_grounding_loss(*make_case({f"use_{name}": False}))[1]
        assert both - parts.keys() == {name}


@pytest.mark.parametrize(("recipe", "weight"), [("released", 0.01), ("paper", 0.1)])
def test_weights_of_the_recipes(recipe, weight):
    """Saliency: the configuration's or 0.1. Calibration: 0.1, over one positive frame or over all of them."""
    outputs, frames, texts, labels, config = make_case({"loss_recipe": recipe})
    loss, parts = video_grounding_loss(outputs, frames, texts, labels, config)
    torch.testing.assert_close(loss, sum(parts.values()))
    paper = recipe == "paper"
    saliency = saliency_loss(
        outputs.saliency_scores, labels.saliency, outputs.frame_mask, labels.positive_frame, paper, not paper
    )
    torch.testing.assert_close(parts["saliency"], weight * saliency)
    positive_frames = torch.stack([frames[:, 0, 3], frames[:, 1, 0]], dim=1)
    if paper:  # moment [2, 5): frames 2, 3 and 4, all of them valid in both videos
        positive_frames = frames[:, :, 2:5].mean(dim=2)
    torch.testing.assert_close(parts["video_calibration"], 0.1 * calibration_loss(positive_frames, texts))
    layers = calibration_loss(positive_frames.transpose(0, 1), texts.transpose(0, 1))
    torch.testing.assert_close(parts["layer_calibration"], 0.1 * layers)


@pytest.mark.parametrize(("recipe", "alpha", "weight"), [("released", None, 0.2), ("paper", 0.9, 0.1)])
def test_point_losses_of_the_recipes(recipe, alpha, weight):
    """Videos of four frames and of one, with the moment [0, 1]; every point predicts the offsets (0.5, 3)."""
    outputs, frames, texts, labels, config = make_case({"loss_recipe": recipe}, moments=[(0.0, 1.0)], num_frames=4)
    outputs.boundary_offsets = torch.tensor([[0.5, 3.0]]).expand(2, len(outputs.points), 2)
    positive = bools([1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0])  # positions 0 and 1 on level 1, if the video has them
    _, parts = video_grounding_loss(outputs, frames, texts, labels, config)
    torch.testing.assert_close(
        parts["classification"], focal_loss(outputs.logits, positive, outputs.point_mask, alpha)
    )
    # Their targets are (0, 1) and (1, 0), and (0, 1) again.
    errors = [0.5 + 2.0, 0.5 + 3.0, 0.5 + 2.0]
    assert parts["boundary"].item() == pytest.approx(weight * sum(errors) / 6)


def test_without_moments_frames_are_classified_by_their_saliency():
    """Binary cross-entropy over the valid frames, no focal weights, no contrast over the batch."""
    outputs, frames, texts, labels, config = make_case(moments=None)
    _, parts = video_grounding_loss(outputs, frames, texts, labels, config)
    terms = [
        -(s * math.log(p) + (1 - s) * math.log(1 - p))
        for row, length in enumerate((8, 5))
        for p, s in zip(outputs.logits[row, :length].sigmoid().tolist(), labels.saliency[row].tolist(), strict=False)
    ]
    assert parts["classification"].item() == pytest.approx(sum(terms) / 13, rel=1e-5)
    rows = saliency_loss(
        outputs.saliency_scores, labels.saliency, outputs.frame_mask, labels.positive_frame, False, False
    )
    torch.testing.assert_close(parts["saliency"], 0.01 * rows)


@pytest.mark.parametrize("recipe", ["released", "paper"])
def test_values_at_padded_places_do_not_matter(recipe):
    """Those of outputs, labels and embeddings."""
    outputs, frames, texts, labels, config = make_case({"loss_recipe": recipe})
    want = video_grounding_loss(outputs, frames, texts, labels, config)[1]
    outputs.logits[~outputs.point_mask] = 50.0
    outputs.boundary_offsets[~outputs.point_mask] = -9.0
    outputs.saliency_scores[~outputs.frame_mask] = 1.0
    labels.saliency[~outputs.frame_mask] = 0.25
    frames[:, ~outputs.frame_mask] = 100.0
    got = video_grounding_loss(outputs, frames, texts, labels, config)[1]
    for name, part in want.items():
        torch.testing.assert_close(got[name], part, msg=name)


# ---- absent queries ----------------------------------------------------------------------------------------------

LENGTHS = [100, 61, 90, 37, 75]  # in frames
MIXED_MOMENTS = [[[20.0, 50.0]], [], [[1.0, 4.0], [50.0, 87.0]], [], [[10.0, 33.0]]]
PRESENT = torch.tensor([0, 2, 4])


def make_mixed_case(recipe="released"):
    """A batch of five queries: outputs and embeddings that require gradients, labels, and the configuration."""
    generator = torch.Generator().manual_seed(0)
    points = make_points(100, [1, 2, 4, 8])
    lengths = torch.tensor(LENGTHS)
    tensors = {
        "logits": torch.randn(5, len(points), generator=generator),
        "boundary_offsets": torch.rand(5, len(points), 2, generator=generator),
        "saliency_scores": torch.rand(5, 100, generator=generator),
        "existence_logits": torch.randn(5, generator=generator),
        "frames": torch.randn(3, 5, 100, 16, generator=generator),
        "texts": torch.randn(3, 5, 16, generator=generator),
    }
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    masks = {
        "point_mask": make_point_mask(points, lengths),
        "frame_mask": torch.arange(100) < lengths[:, None],
    }
    labels = make_labels(torch.rand(5, 100, generator=generator).tolist(), [30, 10, 60, 20, 12], MIXED_MOMENTS)
    config = make_case({"loss_recipe": recipe, "use_existence_head": True})[-1]
    return tensors, masks, points, labels, config


def loss_of(tensors, masks, points, labels, config, rows=None):
    """`video_grounding_loss` of some rows of a batch; default: all."""
    rows = torch.arange(len(LENGTHS)) if rows is None else rows
    outputs = {name: tensors[name][rows] for name in tensors if name not in ("frames", "texts")}
    outputs |= {name: mask[rows] for name, mask in masks.items()}
    chosen = GroundingLabels(
        labels.saliency[rows], labels.positive_frame[rows], labels.moments[rows], labels.moment_mask[rows]
    )
    frames, texts = tensors["frames"].index_select(1, rows), tensors["texts"].index_select(1, rows)
    return video_grounding_loss({**outputs, "points": points}, frames, texts, chosen, config)


def gradients_of(parts, tensors):
    for tensor in tensors.values():
        tensor.grad = None
    sum(parts).backward()
    return {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}


@pytest.mark.parametrize("recipe", ["released", "paper"])
def test_absent_queries_change_classification_and_existence_alone(recipe):
    """All other parts equal those of the batch of present queries to the last bit, and so do their gradients."""
    case = make_mixed_case(recipe)
    mixed, present = loss_of(*case)[1], loss_of(*case, rows=PRESENT)[1]
    others = present.keys() - {"classification", "existence"}
    assert others == {"boundary", "saliency", "video_calibration", "layer_calibration"}
    for name in others:
        assert mixed[name] > 0
        assert mixed[name].item() == present[name].item(), name
    got = gradients_of([mixed[name] for name in sorted(others)], case[0])
    want = gradients_of([present[name] for name in sorted(others)], case[0])
    assert got.keys() == {"boundary_offsets", "saliency_scores", "frames", "texts"} == want.keys()
    for name, gradient in want.items():
        assert torch.equal(got[name], gradient), name


@pytest.mark.parametrize(("recipe", "alpha"), [("released", None), ("paper", 0.9)])
def test_all_points_of_absent_queries_are_negative(recipe, alpha):
    """Classification is averaged over the points of all queries."""
    tensors, masks, points, labels, config = make_mixed_case(recipe)
    _, parts = loss_of(tensors, masks, points, labels, config)
    positive, _ = assign_targets(points, masks["point_mask"], labels.moments, labels.moment_mask)
    assert positive.any(dim=1).tolist() == [True, False, True, False, True]
    want = focal_loss(tensors["logits"], positive, masks["point_mask"], alpha)
    assert parts["classification"].item() == want.item()


def test_the_existence_loss_counts_every_query():
    tensors, masks, points, labels, config = make_mixed_case()
    loss, parts = loss_of(tensors, masks, points, labels, config)
    want = 0.3 * existence_loss(tensors["existence_logits"], bools(1, 0, 1, 0, 1))
    assert parts["existence"].item() == pytest.approx(want.item(), rel=1e-6)
    torch.testing.assert_close(loss, sum(parts.values()))
    assert gradients_of([parts["existence"]], tensors)["existence_logits"].all()


@pytest.mark.parametrize("recipe", ["released", "paper"])
def test_saliency_and_positive_frame_of_absent_queries_do_not_matter(recipe):
    tensors, masks, points, labels, config = make_mixed_case(recipe)
    want = loss_of(tensors, masks, points, labels, config)
    want_gradients = gradients_of([want[0]], tensors)
    changed = replace(labels, saliency=labels.saliency.clone(), positive_frame=labels.positive_frame.clone())
    absent = torch.tensor([1, 3])
    changed.saliency[absent] = 0.9
    changed.positive_frame[absent] = 0
    got = loss_of(tensors, masks, points, changed, config)
    assert got[0].item() == want[0].item()
    got_gradients = gradients_of([got[0]], tensors)
    for name, gradient in want_gradients.items():
        assert torch.equal(got_gradients[name], gradient), name


@pytest.mark.parametrize("recipe", ["released", "paper"])
def test_a_batch_of_absent_queries_trains_classification_and_existence(recipe):
    case = make_mixed_case(recipe)
    loss, parts = loss_of(*case, rows=torch.tensor([1, 3]))
    assert {name for name, part in parts.items() if part != 0} == {"classification", "existence"}
    gradients = gradients_of([loss], case[0])
    assert gradients.keys() == case[0].keys()
    assert {name for name, gradient in gradients.items() if gradient.any()} == {"logits", "existence_logits"}
