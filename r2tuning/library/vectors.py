"""The vectors of the first stage: one for each frame and one for each query, whose cosine is their similarity."""

import numpy as np
import torch

from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.encoding_r2tuning import EncodedText


def frame_vectors(embeds: torch.Tensor) -> torch.Tensor:
    """Vectors of the frames of a window: their global tokens, projected from the deepest layer.

    Args:
        embeds: Projected hidden states `(num_steps, num_frames, num_tokens, hidden)`, as in an encoded video.

    Returns:
        `(num_frames, hidden)`, normalised, float32 on the CPU.
    """
    return _normalise(embeds[0, :, 0])


@torch.no_grad()
def query_vectors(model: R2TuningForVideoGrounding, text: EncodedText) -> np.ndarray:
    """Vectors of queries: their words, pooled as for the losses of calibration.

    Args:
        model: The model that encoded the queries.
        text: The queries.

    Returns:
        `(num_queries, hidden)`, normalised, float32.
    """
    return _normalise(model.grounding_head.text_pooling(text.text_embeds[0], text.text_mask)).numpy()


def _normalise(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


__all__ = ["frame_vectors", "query_vectors"]
