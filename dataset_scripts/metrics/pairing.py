"""Greedy one-to-one pairing of predicted with annotated moments, as in Soccer-GMR and QV-M2.

In the order of the list each prediction takes, of the moments that are still free, the one with the highest IoU, if that
reaches the threshold; of equal IoUs the first. A prediction may thus take a moment that a later one fits better. With a
threshold of 0 or below, a pair without any overlap is a pair too and uses the moment up.
"""

import numpy as np

from .moments import MomentArrays


def first_ious(arrays: MomentArrays, wanted: np.ndarray, number: int) -> np.ndarray:
    """IoU of the first predictions in each query's last record with the wanted moments.

    Args:
        arrays: The queries.
        wanted: Mask `(num_queries, num_moments)` of the moments to pair.
        number: How many predictions.

    Returns:
        Array `(num_queries, number, num_moments)`; -inf where there is no prediction, no wanted moment or no IoU (0 / 0).
    """
    num_queries, num_predictions, num_moments = arrays.iou.shape
    place = np.where(arrays.place < 0, num_predictions, arrays.place)
    order = np.argsort(place, axis=1, kind="stable")[:, :number]  # (num_queries, up to number)
    is_real = np.take_along_axis(arrays.place, order, axis=1) >= 0
    iou = np.take_along_axis(arrays.iou, order[:, :, None], axis=1)
    usable = is_real[:, :, None] & wanted[:, None] & ~np.isnan(iou)
    first = np.full((num_queries, number, num_moments), -np.inf)
    first[:, : order.shape[1]] = np.where(usable, iou, -np.inf)
    return first


def pair_greedily(iou: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Pair predictions with moments by the rule above.

    Args:
        iou: Array `(num_queries, num_predictions, num_moments)`, predictions in list order; -inf = cannot be paired.
        thresholds: Array `(num_thresholds,)` of lowest IoUs.

    Returns:
        Array `(num_queries, num_predictions, num_thresholds)`, the IoU of each prediction with the moment that it takes;
        NaN where it takes none.
    """
    num_queries, num_predictions, num_moments = iou.shape
    paired = np.full((num_queries, num_predictions, len(thresholds)), np.nan)
    free = np.ones((num_queries, len(thresholds), num_moments), dtype=bool)
    for index in range(num_predictions):
        candidates = np.where(free, iou[:, index, None], -np.inf)  # (num_queries, num_thresholds, num_moments)
        best = candidates.argmax(axis=2, keepdims=True)
        best_iou = np.take_along_axis(candidates, best, axis=2)[..., 0]
        takes = best_iou >= thresholds
        paired[:, index] = np.where(takes, best_iou, np.nan)
        np.put_along_axis(free, best, np.take_along_axis(free, best, axis=2) & ~takes[..., None], axis=2)
    return paired


__all__ = ["first_ious", "pair_greedily"]
