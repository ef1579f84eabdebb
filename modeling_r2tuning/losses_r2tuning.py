"""Losses of R2-Tuning: pure functions of tensors, computed in float32.

There are two recipes: "released" reproduces the authors' code, which trained the published checkpoints, and "paper"
follows the printed formulas (arXiv 2404.00801, Eq. 9-15). `RECIPES` holds everything in which they differ.

A query is present if it has at least one moment, otherwise absent: nothing in its video matches it. Absent queries take
part in two losses only: all of their points are negative in the classification, and they are the negatives of the
existence loss. Without moment head all queries are present.

In distributed training each process computes `video_grounding_loss` of the batch of all processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .configuration_r2tuning import R2TuningConfig
from .distributed_r2tuning import gather_rows, sum_over_processes, undo_averaging
from .points_r2tuning import assign_targets


TEMPERATURE = 0.07  # tau of all contrastive losses; fixed in the released code


@dataclass(frozen=True)
class LossRecipe:
    """Differences between the released code and the paper.

    Attributes:
        focal_alpha: Weight of positive points, with 1 - alpha for negative ones; `None` = no weights.
        boundary_weight: Weight of the boundary loss.
        saliency_weight: Weight of the saliency loss; `None` = `config.saliency_loss_weight`.
        average_positives: Calibrate the mean of all positive frames instead of a single one.
        strict_negatives: The only negatives are less salient frames of the same video, as in Eq. 15.
    """

    focal_alpha: float | None
    boundary_weight: float
    saliency_weight: float | None
    average_positives: bool
    strict_negatives: bool


RECIPES = {
    "released": LossRecipe(
        focal_alpha=None, boundary_weight=0.2, saliency_weight=None, average_positives=False, strict_negatives=False
    ),
    "paper": LossRecipe(
        focal_alpha=0.9, boundary_weight=0.1, saliency_weight=0.1, average_positives=True, strict_negatives=True
    ),
}
CALIBRATION_WEIGHT = 0.1


@dataclass(frozen=True)
class GroundingLabels:
    """Labels of a batch.

    Attributes:
        saliency: `(batch, num_frames)`, annotated saliency in [0, 1].
        positive_frame: `(batch,)`, index of one positive frame; any valid index for an absent query.
        moments: `(batch, num_moments, 2)`, start and end in frames; `None` for a model without moment head.
        moment_mask: `(batch, num_moments)`, `True` = real; an absent query has no `True`.
        present_rows: Indices of the present queries, if they are known without waiting for the device of
            `moment_mask`.
    """

    saliency: torch.Tensor
    positive_frame: torch.Tensor
    moments: torch.Tensor | None = None
    moment_mask: torch.Tensor | None = None
    present_rows: tuple[int, ...] | None = None

    @property
    def present(self) -> torch.Tensor:
        """Whether each query has a moment, `(batch,)`; all `True` for a model without moment head."""
        if self.moment_mask is None:
            return torch.ones_like(self.positive_frame, dtype=torch.bool)
        return self.moment_mask.any(dim=1)

    def select_present(self) -> torch.Tensor | None:
        """Indices of the present queries, `(num_present,)`; `None` = all."""
        if self.moment_mask is None:
            return None
        if self.present_rows is None:
            present = self.present
            return None if present.all() else present.nonzero().flatten()
        if len(self.present_rows) == len(self.moment_mask):
            return None
        rows = torch.tensor(self.present_rows, dtype=torch.long)
        return rows.to(self.moment_mask.device, non_blocking=True)


def pad_moments(
    moments: torch.Tensor | list, mask: torch.Tensor | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad the moments of a batch to equal numbers, or check moments that are padded already.

    Args:
        moments: For each query `(n, 2)`, or one padded tensor `(batch, num_moments, 2)`; no moments for absent queries.
        mask: `(batch, num_moments)`, `True` = real; only with one padded tensor.
        device: Device of the result.

    Returns:
        Moments `(batch, num_moments, 2)`, 0 where padded, and their mask `(batch, num_moments)`.

    Raises:
        ValueError: A wrong shape, or a mask with a list.
    """
    if not isinstance(moments, torch.Tensor):
        if mask is not None:
            raise ValueError("`moment_mask` belongs to one padded tensor of `moments`, got a list.")
        moments, mask = _pad_list(moments, device)
    elif mask is None:
        mask = torch.ones(moments.shape[:2], dtype=torch.bool)
    if moments.dim() != 3 or moments.shape[2] != 2:
        raise ValueError(f"`moments` must have the shape (batch, num_moments, 2), got {tuple(moments.shape)}.")
    if mask.shape != moments.shape[:2]:
        raise ValueError(f"`moment_mask` must have the shape {tuple(moments.shape[:2])}, got {tuple(mask.shape)}.")
    if moments.shape[1] == 0:  # all queries are absent
        moments, mask = moments.new_zeros(len(moments), 1, 2), mask.new_zeros(len(moments), 1)
    mask = mask.to(device, torch.bool)
    return moments.to(device, torch.float32).masked_fill(~mask[..., None], 0.0), mask


def _pad_list(moments: list, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [torch.as_tensor(row, dtype=torch.float32, device=device) for row in moments]
    for row in rows:
        if row.numel() and row.shape[1:] != (2,):
            raise ValueError(f"`moments` must hold tensors (n, 2), got {[tuple(row.shape) for row in rows]}.")
    longest = max([1, *map(len, rows)])  # at least 1, also if all queries are absent
    padded = torch.zeros(len(rows), longest, 2, device=device)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row.reshape(-1, 2)
        mask[index, : len(row)] = True
    return padded, mask


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is `True`, over all processes; 0, with a zero gradient, if it is `True` nowhere."""
    sums = torch.stack([values.masked_fill(~mask, 0.0).sum(), mask.sum().to(values.dtype)])
    total, count = sum_over_processes(sums)
    return total / count.clamp(min=1)


def focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, alpha: float | None = None, gamma: float = 2.0
) -> torch.Tensor:
    """Focal loss, Eq. 12, averaged over the valid points.

    Args:
        logits: `(batch, num_points)`.
        targets: `(batch, num_points)`, boolean, `True` = positive.
        mask: `(batch, num_points)`, `True` = real.
        alpha: Weight of positive points, with `1 - alpha` for negative ones; `None` = no weights.
        gamma: Exponent of the modulating factor.
    """
    # -alpha (1 - p)^gamma log(p) at positive points, -(1 - alpha) p^gamma log(1 - p) at negative ones
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    probability = logits.sigmoid()
    wrong = torch.where(targets, 1 - probability, probability)
    loss = cross_entropy * wrong**gamma
    if alpha is not None:
        loss = loss * torch.where(targets, alpha, 1 - alpha)
    return masked_mean(loss, mask)


def boundary_loss(offsets: torch.Tensor, target_offsets: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """L1 distance of the boundary offsets at positive points, Eq. 13; 0 without positive points.

    Args:
        offsets: `(batch, num_points, 2)`, in strides.
        target_offsets: `(batch, num_points, 2)`, in strides.
        positive: `(batch, num_points)`, boolean.
    """
    return masked_mean((offsets - target_offsets).abs(), positive[..., None].expand_as(offsets))


def saliency_loss(
    similarity: torch.Tensor,
    saliency: torch.Tensor,
    frame_mask: torch.Tensor,
    positive_frame: torch.Tensor,
    strict_negatives: bool,
    over_batch: bool,
) -> torch.Tensor:
    """Contrast one positive frame of each video with the less salient frames of the video, Eq. 15.

    For the similarity s of frames and text, the positive frame i and the negative frames j of the same video it is
    -log(exp(s_i / tau) / (exp(s_i / tau) + sum_j exp(s_j / tau))), averaged over the videos; 0, with a zero gradient,
    if there are none.

    Args:
        similarity: `(batch, num_frames)`, cosine of frame and text.
        saliency: `(batch, num_frames)`, annotated saliency.
        frame_mask: `(batch, num_frames)`, `True` = real.
        positive_frame: `(batch,)`, index of the positive frame.
        strict_negatives: Exclude frames of equal saliency, as the paper does.
        over_batch: Add the contrast with the frames of the other videos at the same index, each compared with its own
            text.
    """
    logits = similarity / TEMPERATURE
    if len(logits) == 0:
        return logits.sum()
    here = positive_frame[:, None]  # (batch, 1)
    positive_saliency = saliency.gather(1, here)
    kept = saliency < positive_saliency if strict_negatives else saliency <= positive_saliency
    logits = logits.masked_fill(~(kept & frame_mask).scatter(1, here, True), float("-inf"))
    loss = -logits.log_softmax(dim=1).gather(1, here).mean()
    if over_batch:
        # Select columns before the softmax over the batch: each has a finite entry, that of its own video.
        columns = logits[:, positive_frame]  # (batch, batch), column i at the positive frame of video i
        loss = loss - columns.log_softmax(dim=0).diagonal().mean()
    return loss


def calibration_loss(video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Symmetric contrastive loss within each group, Eq. 9-11.

    With the cosine c_ij of frame i and text j it is the mean over i of
    -(log softmax_j(c_ij / tau) + log softmax_j(c_ji / tau)) / 2 at j = i; 0, with a zero gradient, if there are no
    pairs.

    Args:
        video: `(groups, n, hidden)`, frame embeddings.
        text: `(groups, n, hidden)`, text embeddings; pair i of a group belongs to frame embedding i.
    """
    video, text = F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1)
    logits = video @ text.mT / TEMPERATURE  # (groups, n, n)
    if logits.numel() == 0:
        return logits.sum()
    rows, columns = logits.log_softmax(dim=2), logits.log_softmax(dim=1)
    return -(rows + columns).diagonal(dim1=1, dim2=2).mean() / 2


def existence_loss(logits: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the existence head, balanced: half the mean over present plus half that over absent queries.

    For the logit x of a query it is -log sigmoid(x) if the query is present and -log(1 - sigmoid(x)) if it is absent.
    The mean over no query is 0.

    Args:
        logits: `(batch,)`.
        present: `(batch,)`, boolean.
    """
    errors = F.binary_cross_entropy_with_logits(logits, present.to(logits.dtype), reduction="none")
    return (masked_mean(errors, present) + masked_mean(errors, ~present)) / 2


def positive_frame_mask(labels: GroundingLabels, frame_mask: torch.Tensor, rule: str) -> torch.Tensor:
    """All positive frames of each video, boolean `(batch, num_frames)`; if there are none, its `positive_frame`.

    With a moment head, a frame t is positive if start <= t < end for any moment. Without, `rule` decides:
    `"above_median"` (of the real frames; of an even number of them, the lower median) or `"above_half"`.
    """
    saliency = labels.saliency
    if labels.moments is not None and labels.moment_mask is not None:
        time = torch.arange(saliency.shape[1], device=saliency.device)[:, None]  # (num_frames, 1)
        start, end = labels.moments[:, None].unbind(-1)  # each (batch, 1, num_moments)
        positive = ((start <= time) & (time < end) & labels.moment_mask[:, None]).any(dim=-1)
    elif rule == "above_median":
        median = saliency.masked_fill(~frame_mask, float("nan")).nanmedian(dim=1, keepdim=True).values
        positive = saliency > median
    else:
        positive = saliency > 0.5
    positive = positive & frame_mask
    fallback = torch.zeros_like(positive).scatter(1, labels.positive_frame[:, None], True)
    return torch.where(positive.any(dim=1, keepdim=True), positive, fallback)


def pool_positive_frames(frame_embeds: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Mean embedding of the positive frames.

    Args:
        frame_embeds: `(num_steps, batch, num_frames, hidden)`.
        positive: `(batch, num_frames)`, boolean, at least one `True` a row.

    Returns:
        `torch.Tensor` of shape `(num_steps, batch, hidden)`.
    """
    weights = positive / positive.sum(dim=1, keepdim=True)
    return torch.einsum("bt,sbtc->sbc", weights, frame_embeds.float())


def video_grounding_loss(
    outputs: Mapping[str, torch.Tensor],
    frame_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    labels: GroundingLabels,
    config: R2TuningConfig,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Sum of all losses, and its weighted parts by name.

    Args:
        outputs: The model's output: predictions, `points` and masks.
        frame_embeds: `(num_steps, batch, num_frames, hidden)`, projected CLS tokens of each recurrent step.
        text_embeds: `(num_steps, batch, hidden)`, pooled text of each recurrent step.
        labels: Labels.
        config: Configuration.

    Returns:
        `loss`, a scalar, and `parts`, a dict of scalars: "classification", "boundary", "saliency",
        "video_calibration", "layer_calibration", "existence", those that the configuration enables.
    """
    # loss = classification + w_b boundary + w_s saliency + w_c (video calibration + layer calibration) + w_e existence
    rows = labels.select_present()
    parts = {
        **_point_losses(outputs, labels, rows, config),
        **_contrastive_losses(outputs, frame_embeds, text_embeds, labels, rows, config),
    }
    if config.use_existence_head:
        parts["existence"] = config.existence_loss_weight * existence_loss(outputs["existence_logits"], labels.present)
    return undo_averaging(sum(parts.values(), start=torch.zeros_like(parts["saliency"]))), parts


def _point_losses(
    outputs: Mapping[str, torch.Tensor], labels: GroundingLabels, rows: torch.Tensor | None, config: R2TuningConfig
) -> dict[str, torch.Tensor]:
    """Classification and boundary loss of the points; without moment head, classification of the frames.

    Args:
        outputs: As for `video_grounding_loss`.
        labels: Labels of all queries.
        rows: Indices of the present queries, the only ones with positive points; `None` = all.
        config: Configuration.
    """
    logits = outputs["logits"]
    if labels.moments is None or labels.moment_mask is None:
        errors = F.binary_cross_entropy_with_logits(logits, labels.saliency, reduction="none")
        return {"classification": masked_mean(errors, outputs["frame_mask"])}
    recipe = RECIPES[config.loss_recipe]
    point_mask = outputs["point_mask"]
    positive, offsets = assign_targets(outputs["points"], point_mask, labels.moments, labels.moment_mask)
    # Absent queries would add only zeros to the boundary loss, but these may change how its sum is rounded.
    boundary = boundary_loss(
        _select(outputs["boundary_offsets"], rows), _select(offsets, rows), _select(positive, rows)
    )
    return {
        "classification": focal_loss(logits, positive, point_mask, alpha=recipe.focal_alpha),
        "boundary": recipe.boundary_weight * boundary,
    }


def _contrastive_losses(
    outputs: Mapping[str, torch.Tensor],
    frame_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    labels: GroundingLabels,
    rows: torch.Tensor | None,
    config: R2TuningConfig,
) -> dict[str, torch.Tensor]:
    """Saliency and calibration losses of the present queries; arguments as for `_point_losses`."""
    recipe = RECIPES[config.loss_recipe]
    # Select present queries before the rows of all processes are gathered; a process may then have none.
    labels = _select_labels(labels, rows)
    frame_mask = _select(outputs["frame_mask"], rows)
    similarity, saliency, mask, positive_frame = gather_rows(
        _select(outputs["saliency_scores"], rows), labels.saliency, frame_mask, labels.positive_frame
    )
    weight = config.saliency_loss_weight if recipe.saliency_weight is None else recipe.saliency_weight
    parts = {}
    parts["saliency"] = weight * saliency_loss(
        similarity,
        saliency,
        mask,
        positive_frame,
        strict_negatives=recipe.strict_negatives,
        over_batch=config.use_moment_head and not recipe.strict_negatives,
    )
    if recipe.average_positives:
        positive = positive_frame_mask(labels, frame_mask, config.positive_saliency)
    else:
        positive = F.one_hot(labels.positive_frame, frame_mask.shape[1]).bool()  # (num_present, num_frames)
    pooled = pool_positive_frames(_select(frame_embeds, rows, dim=1), positive)  # (num_steps, num_present, hidden)
    # The rows of all processes, batch first as `gather_rows` expects: each (num_present, num_steps, hidden).
    frames, texts = gather_rows(pooled.transpose(0, 1), _select(text_embeds, rows, dim=1).transpose(0, 1))
    if config.use_video_calibration:  # a group is a recurrent step: the videos of a batch are contrasted
        contrast = calibration_loss(frames.transpose(0, 1), texts.transpose(0, 1))
        parts["video_calibration"] = CALIBRATION_WEIGHT * contrast
    if config.use_layer_calibration:  # a group is a video: its recurrent steps are contrasted
        parts["layer_calibration"] = CALIBRATION_WEIGHT * calibration_loss(frames, texts)
    return parts


def _select(tensor: torch.Tensor, rows: torch.Tensor | None, dim: int = 0) -> torch.Tensor:
    """Contiguous copy of some rows of a tensor; `None` = the tensor itself."""
    return tensor if rows is None else tensor.index_select(dim, rows)


def _select_labels(labels: GroundingLabels, rows: torch.Tensor | None) -> GroundingLabels:
    if rows is None or labels.moments is None or labels.moment_mask is None:
        return labels
    return replace(
        labels,
        saliency=_select(labels.saliency, rows),
        positive_frame=_select(labels.positive_frame, rows),
        moments=_select(labels.moments, rows),
        moment_mask=_select(labels.moment_mask, rows),
    )


__all__ = [
    "CALIBRATION_WEIGHT",
    "RECIPES",
    "TEMPERATURE",
    "GroundingLabels",
    "LossRecipe",
    "boundary_loss",
    "calibration_loss",
    "existence_loss",
    "focal_loss",
    "masked_mean",
    "pad_moments",
    "pool_positive_frames",
    "positive_frame_mask",
    "saliency_loss",
    "video_grounding_loss",
]
