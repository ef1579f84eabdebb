"""Collate examples to the model's arguments: padding, masks, and one positive frame for each query."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from modeling_r2tuning.inputs_r2tuning import check_batch
from modeling_r2tuning.losses_r2tuning import pad_moments


VIDEO_NAMES = ("video_hidden_states", "pixel_values_videos")
TEXT_NAMES = ("text_hidden_states", "input_ids")


@dataclass(frozen=True)
class GroundingCollator:
    """Collates examples to a batch: the arguments of the model's `forward`.

    An example holds

    - `draw`: the number from which its positive frame is drawn
    - `video_id`: equal groups of consecutive queries about the same video share one copy of it; pixels of a video are
      never repeated
    - `video_hidden_states (num_frames, num_layers, num_tokens, hidden)` or `pixel_values_videos (num_frames, 3, height,
      width)`
    - `text_hidden_states (text_length, num_layers, hidden)`, or `input_ids (text_length,)` with `attention_mask`
    - `saliency (num_frames,)` from 0 to 1, `fps`, `duration_sec`, and if the model predicts moments
      `moments (num_moments, 2)` in seconds; an absent query has none

    Args:
        seed: Seed of the positive frames.
        positive_saliency: Rule for positive frames if the model predicts no moments, see `R2TuningConfig`. Otherwise
            frames with a saliency above 0 are positive. If no frame is positive, the most salient one is used.
    """

    seed: int
    positive_saliency: Literal["above_median", "above_half"] = "above_median"

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Arguments of `forward`, padded with 0; their values are checked here, on the CPU, and no longer in `forward`.

        Raises:
            ValueError: A value that `forward` would refuse.
        """
        saliency = [example["saliency"] for example in examples]
        positive_frames = [self.draw_positive_frame(example) for example in examples]
        fps = [example["fps"] for example in examples]
        durations = [example["duration_sec"] for example in examples]
        videos, video_index = _distinct_videos(examples)
        batch: dict[str, Any] = {
            **_pad(videos, VIDEO_NAMES, "frame_mask"),
            **_pad(examples, TEXT_NAMES, "attention_mask"),
            "saliency": pad_sequence(saliency, batch_first=True),
            "positive_frame": torch.tensor(positive_frames),
            "fps": torch.tensor(fps, dtype=torch.float32),
            "duration_sec": torch.tensor(durations, dtype=torch.float32),
        }
        if "moments" in examples[0]:
            moments = [example["moments"] for example in examples]
            batch["moments"], batch["moment_mask"] = pad_moments(moments, None, torch.device("cpu"))
        if video_index is not None:
            batch["video_index"] = video_index
        return {**batch, "checked": check_batch(batch)}

    def draw_positive_frame(self, example: dict[str, Any]) -> int:
        """Index of a random positive frame, the same for the same seed and draw; 0 for an absent query."""
        saliency = example["saliency"]
        if "moments" in example and len(example["moments"]) == 0:
            return 0
        if "moments" in example:
            positive = saliency > 0
        elif self.positive_saliency == "above_median":
            positive = saliency > saliency.median()  # of an even number of frames, the lower median
        else:
            positive = saliency > 0.5
        candidates = positive.nonzero().flatten()
        if len(candidates) == 0:
            return int(saliency.argmax())
        generator = np.random.default_rng([self.seed, example["draw"]])
        return int(candidates[generator.integers(len(candidates))])


def _distinct_videos(examples: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
    """Examples that hold the videos of a batch, and which of them each query is about.

    These are every n-th example, for the largest n such that each group of n consecutive queries is about one video; the
    model then repeats each video n times and needs no index. Encoding pixels is expensive, so if a video of pixels would
    appear twice, each video is taken once, with an index.
    """
    runs = itertools.groupby(examples, key=lambda example: example["video_id"])
    run_lengths = [len(list(run)) for _, run in runs]
    shared = examples[:: math.gcd(*run_lengths)]
    distinct: dict[str, dict[str, Any]] = {}
    for example in examples:
        distinct.setdefault(example["video_id"], example)
    if "pixel_values_videos" not in examples[0] or len(distinct) == len(shared):
        return shared, None
    positions = {video_id: position for position, video_id in enumerate(distinct)}
    video_index = [positions[example["video_id"]] for example in examples]
    return list(distinct.values()), torch.tensor(video_index)


def _pad(examples: list[dict[str, Any]], names: tuple[str, ...], mask_name: str) -> dict[str, torch.Tensor]:
    """Tensors of the examples, padded at the end, and their mask.

    Args:
        examples: Examples that all hold the same one of `names`.
        names: Names that the tensors may have.
        mask_name: Name of the mask `(batch, length)`, `True` where a value is real.
    """
    name = next(name for name in names if name in examples[0])
    tensors = [example[name] for example in examples]
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    padded = pad_sequence(tensors, batch_first=True)
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    if mask_name in examples[0]:  # the tensors themselves are padded
        mask = pad_sequence([example[mask_name] for example in examples], batch_first=True)
    return {name: padded, mask_name: mask}


__all__ = ["GroundingCollator"]
