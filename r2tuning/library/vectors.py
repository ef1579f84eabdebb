"""The vectors of the first stage: one for each frame and one for each query, whose cosine is their similarity.

A backbone was trained to give matching images and texts similar vectors, so its own projections are the best for this.
Checkpoints do not hold them. They are loaded from the backbone; where that is not possible, because the checkpoint holds
its own backbone, or learned weights inside it, the vectors are the first ones that the R2 block computes: the frame's
global token and the pooled words, projected from the deepest layer. Training made those similar, too.
"""

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.encoding_r2tuning import EncodedText
from modeling_r2tuning.towers_r2tuning import load_whole_backbone


class BackboneProjection(nn.Module):
    """The parts of a backbone that map a frame's global token and a query to vectors of one space.

    Args:
        backbone: The whole backbone; its image encoder's layers are dropped.
        text_attention: How its text encoder was trained, see `TowerSpec`.

    Attributes:
        dim: Size of a vector.
    """

    def __init__(self, backbone: Any, text_attention: str):
        super().__init__()
        self.image_projection: nn.Module = nn.Identity()  # without CLS the global token is the final vector
        self.dim = backbone.config.vision_config.hidden_size
        if hasattr(backbone, "visual_projection"):
            self.dim = backbone.visual_projection.out_features
            self.image_projection = nn.Sequential(backbone.vision_model.post_layernorm, backbone.visual_projection)
        backbone.vision_model = nn.Identity()
        self.backbone = backbone
        self._masks_text = text_attention != "fixed_length"

    @torch.no_grad()
    def frames(self, tokens: torch.Tensor) -> torch.Tensor:
        """From global tokens of the last layer `(n, vision_hidden)` to vectors `(n, dim)`, normalised, on the CPU."""
        weight = next(self.image_projection.parameters(), tokens)
        return _normalise(self.image_projection(tokens.to(weight.dtype)))

    @torch.no_grad()
    def queries(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """From token ids `(num_queries, text_length)` to vectors `(num_queries, dim)`, normalised, on the CPU."""
        mask = attention_mask if self._masks_text else None
        found = self.backbone.get_text_features(input_ids=input_ids, attention_mask=mask)
        return _normalise(
            getattr(found, "pooler_output", found)
        )  # earlier versions of transformers return the vectors

    def digest(self) -> str:
        """A digest of its weights."""
        return weights_digest(self)


def load_projection(model: R2TuningForVideoGrounding) -> BackboneProjection | None:
    """The projections of a model's backbone, on its device; `None` if they are not to be had, or not to be used.

    Args:
        model: The model; its configuration names the backbone.

    Raises:
        OSError: The backbone cannot be found or fetched.
        ValueError: It is damaged, or of other sizes than the model's.
    """
    config = model.config
    name = config.backbone_name_or_path
    if name is None or config.save_backbone or config.method_spec.place == "inside" or config.method_spec.mixes_frames:
        return None
    whole, missing = load_whole_backbone(name, config, revision=config.backbone_revision)
    if any("projection" in key or "head" in key for key in missing):
        return None
    return BackboneProjection(whole, config.tower_spec.text_attention).to(model.device).eval()


def frame_vectors(embeds: torch.Tensor) -> torch.Tensor:
    """The block's vectors of the frames of a window.

    Args:
        embeds: Projected hidden states `(num_steps, num_frames, num_tokens, hidden)`, as in an encoded video.

    Returns:
        `(num_frames, hidden)`, normalised, on the CPU.
    """
    return _normalise(embeds[0, :, 0])


@torch.no_grad()
def query_vectors(model: R2TuningForVideoGrounding, text: EncodedText) -> torch.Tensor:
    """The block's vectors of queries: their words, pooled as for the calibration losses.

    Args:
        model: The model that encoded the queries.
        text: The queries.

    Returns:
        `(num_queries, hidden)`, normalised, on the CPU.
    """
    return _normalise(model.grounding_head.text_pooling(text.text_embeds[0], text.text_mask))


def weights_digest(module: nn.Module) -> str:
    """A digest of all weights; the same in float32 and in bfloat16."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        bits = value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)
        digest.update(name.encode())
        digest.update(bits.numpy())
    return digest.hexdigest()[:16]


def _normalise(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors.float(), dim=-1).cpu()


__all__ = ["BackboneProjection", "frame_vectors", "load_projection", "query_vectors", "weights_digest"]
