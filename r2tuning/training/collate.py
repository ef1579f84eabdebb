"""From examples to the model's arguments: padding, masks, and one positive frame drawn for each query."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from modeling_r2tuning.losses_r2tuning import pad_moments


VIDEO_NAMES = ("video_hidden_states", "pixel_values_videos")
TEXT_NAMES = ("text_hidden_states", "input_ids")


@dataclass(frozen=True)
class GroundingCollator:
    """Makes a batch of examples; what it returns are arguments of the model's `forward`.

    An example holds

    - `draw`: a number that its positive frame follows from
    - `video_id`: queries of the same video behind each other share one copy of it
    - `video_hidden_states (num_frames, num_layers, num_tokens, width)` or `pixel_values_videos (num_frames, 3, height,
      width)`
    - `text_hidden_states (text_length, num_layers, width)` or `input_ids (text_length,)`
    - `saliency (num_frames,)`, `fps`, `duration_sec`, and `moments (num_moments, 2)` in seconds if the model finds them

    Args:
        seed: Of the positive frames.
        positive_saliency: Which frames are positive where there are no moments, see `R2TuningConfig`; with moments,
            those of a saliency above 0. Where no frame is, the most salient one serves.
    """

    seed: int
    positive_saliency: Literal["above_median", "above_half"] = "above_median"

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Arguments of `forward`; the values of padding are 0."""
        runs = [len(list(run)) for _, run in itertools.groupby(examples, key=lambda example: example["video_id"])]
        videos = examples[:: math.gcd(*runs)]  # the model takes a video for as many queries as there are to each
        batch = {
            **_pad(videos, VIDEO_NAMES, "frame_mask"),
            **_pad(examples, TEXT_NAMES, "attention_mask"),
            "saliency": pad_sequence([example["saliency"] for example in examples], batch_first=True),
            "positive_frame": torch.tensor([self.draw_positive_frame(example) for example in examples]),
            "fps": torch.tensor([example["fps"] for example in examples], dtype=torch.float32),
            "duration_sec": torch.tensor([example["duration_sec"] for example in examples], dtype=torch.float32),
        }
        if "moments" in examples[0]:
            moments = [example["moments"] for example in examples]
            batch["moments"], batch["moment_mask"] = pad_moments(moments, None, torch.device("cpu"))
        return batch

    def draw_positive_frame(self, example: dict[str, Any]) -> int:
        """Index of one positive frame; the same for the same seed and draw."""
        saliency = example["saliency"]
        if "moments" in example:
            positive = saliency > 0
        elif self.positive_saliency == "above_median":
            positive = saliency > saliency.median()  # the lower one
        else:
            positive = saliency > 0.5
        candidates = positive.nonzero().flatten()
        if len(candidates) == 0:
            return int(saliency.argmax())
        return int(candidates[np.random.default_rng([self.seed, example["draw"]]).integers(len(candidates))])


def _pad(examples: list[dict[str, Any]], names: tuple[str, ...], mask_name: str) -> dict[str, torch.Tensor]:
    """The one of the tensors that examples have, padded at the end, and its mask."""
    name = next(name for name in names if name in examples[0])
    tensors = [example[name] for example in examples]
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    padded = pad_sequence(tensors, batch_first=True)
    return {name: padded, mask_name: torch.arange(padded.shape[1]) < lengths[:, None]}


__all__ = ["GroundingCollator"]
