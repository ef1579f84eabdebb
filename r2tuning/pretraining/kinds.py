"""The kinds of backbones that can be trained: how each embeds pictures, regions and texts, and its contrastive loss.

A region is one token of the image encoder. Hidden states of pictures always start with the token that represents the
whole picture, as R²-Tuning reads them.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer, SiglipModel

from modeling_r2tuning.processing_r2tuning import make_image_processor
from modeling_r2tuning.tower_specs_r2tuning import TOWER_SPECS
from modeling_r2tuning.towers_r2tuning import add_frame_token
from r2tuning.pretraining.model import SIGLIP_TEXT_LENGTH, make_clip, make_siglip, make_tokenizer
from r2tuning.pretraining.pictures import IMAGE_SIZE


if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, SiglipImageProcessor


Backbone = CLIPModel | SiglipModel
HIGHEST_SCALE = 100  # of the logits


class Kind(ABC):
    """What the training and the measurements need to know of a kind of backbone.

    Attributes:
        name: Its name on the command line, the `model_type` of its configuration.
        padding: How texts are padded, an argument of the tokenizer.
    """

    name: str
    padding: bool | str

    @abstractmethod
    def make_tokenizer(self) -> CLIPTokenizer:
        """Its tokenizer."""

    @abstractmethod
    def make_image_processor(self) -> "CLIPImageProcessor | SiglipImageProcessor":
        """Its image processor, for pictures of `IMAGE_SIZE`."""

    @abstractmethod
    def make_model(self, tokenizer: CLIPTokenizer, pixels: torch.Tensor, layers: int) -> Any:
        """A model before training; see `make_clip`."""

    @abstractmethod
    def embed_pictures(
        self, model: Any, pixels: torch.Tensor, pictures: torch.Tensor, cells: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of pictures and of regions of them.

        Args:
            model: The model.
            pixels: `(num_pictures, 3, size, size)`, normalised.
            pictures: `(num_regions,)`, index of the picture of a region.
            cells: `(num_regions,)`, index of its token, after the token of the whole picture.

        Returns:
            `(num_pictures, projection_dim)` and `(num_regions, projection_dim)`.
        """

    @abstractmethod
    def project_pooled(self, model: Any, pooled: torch.Tensor) -> torch.Tensor:
        """Embeddings of pictures from the last hidden states of their first tokens, `(num_pictures, hidden)`."""

    @abstractmethod
    def embed_texts(self, model: Any, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Unit vectors of shape `(num_texts, projection_dim)` from `input_ids` and `attention_mask`."""

    @abstractmethod
    def loss(
        self, model: Any, images: torch.Tensor, texts: torch.Tensor, others: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Contrastive loss of unit vectors.

        Args:
            model: The model.
            images: `(n, projection_dim)`, of pictures or regions.
            texts: `(n, projection_dim)`; each matches the picture or region of the same index.
            others: `(n, n)`, further matches of the picture or region of a row; `None` = there are none.
        """

    def tokenize(self, tokenizer: CLIPTokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, padded as in training."""
        return tokenizer(texts, padding=self.padding, truncation=True, return_tensors="pt")


class ClipKind(Kind):
    """CLIP: a CLS token, a causal text encoder read at the end-of-text token, cross entropy over the batch."""

    name = "clip"
    padding = True

    def make_tokenizer(self) -> CLIPTokenizer:
        """A tokenizer for texts of at most CLIP's length."""
        return make_tokenizer()

    def make_image_processor(self) -> "CLIPImageProcessor | SiglipImageProcessor":
        """CLIP's image processor."""
        return make_image_processor(IMAGE_SIZE)

    def make_model(self, tokenizer: CLIPTokenizer, pixels: torch.Tensor, layers: int) -> CLIPModel:
        """A small CLIP."""
        return make_clip(tokenizer, pixels, layers)

    def embed_pictures(
        self, model: CLIPModel, pixels: torch.Tensor, pictures: torch.Tensor, cells: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All tokens are projected as CLS is."""
        states = model.vision_model(pixels).last_hidden_state
        tokens = F.normalize(self.project_pooled(model, states).float(), dim=-1)
        return tokens[:, 0], tokens[pictures, cells]

    def project_pooled(self, model: CLIPModel, pooled: torch.Tensor) -> torch.Tensor:
        """Norm and projection of CLS tokens."""
        return model.visual_projection(model.vision_model.post_layernorm(pooled))

    def embed_texts(self, model: CLIPModel, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Projections of the end-of-text tokens."""
        states = model.text_model(texts["input_ids"]).last_hidden_state
        last = texts["attention_mask"].sum(dim=1) - 1
        pooled = states[torch.arange(len(states)), last]
        return F.normalize(model.text_projection(pooled).float(), dim=-1)

    def loss(
        self, model: CLIPModel, images: torch.Tensor, texts: torch.Tensor, others: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Symmetric cross entropy; further matches are no negatives."""
        logits = model.logit_scale.exp().clamp(max=HIGHEST_SCALE) * images @ texts.T
        if others is not None:
            logits = logits.masked_fill(others, float("-inf"))
        return contrastive_loss(logits)


class SiglipKind(Kind):
    """SigLIP: attention pooling of patches, a bidirectional text encoder read at the last position, sigmoid loss."""

    name = "siglip"
    padding = "max_length"

    def make_tokenizer(self) -> CLIPTokenizer:
        """A tokenizer that pads texts to a fixed length."""
        return make_tokenizer(SIGLIP_TEXT_LENGTH)

    def make_image_processor(self) -> "CLIPImageProcessor | SiglipImageProcessor":
        """SigLIP's image processor."""
        from transformers import SiglipImageProcessor  # this import warns if torchvision is missing

        return SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})

    def make_model(self, tokenizer: CLIPTokenizer, pixels: torch.Tensor, layers: int) -> SiglipModel:
        """A small SigLIP."""
        return make_siglip(tokenizer, pixels, layers)

    def embed_pictures(
        self, model: SiglipModel, pixels: torch.Tensor, pictures: torch.Tensor, cells: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The pooling head pools all patches of a picture, and the single patch of a region."""
        found = model.vision_model(pixels)  # its last hidden states are after the norm
        patches = found.last_hidden_state[pictures, cells - 1]
        regions = model.vision_model.head(patches[:, None])
        return F.normalize(found.pooler_output.float(), dim=-1), F.normalize(regions.float(), dim=-1)

    def project_pooled(self, model: SiglipModel, pooled: torch.Tensor) -> torch.Tensor:
        """The token of the picture is its embedding already."""
        return pooled

    def embed_texts(self, model: SiglipModel, texts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Projections of the last positions; padding is read like any other token."""
        return F.normalize(model.text_model(texts["input_ids"]).pooler_output.float(), dim=-1)

    def loss(
        self, model: SiglipModel, images: torch.Tensor, texts: torch.Tensor, others: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Binary cross entropy of each pair; further matches are positives."""
        logits = model.logit_scale.exp().clamp(max=HIGHEST_SCALE) * images @ texts.T + model.logit_bias
        matches = torch.eye(len(logits), dtype=torch.bool)
        if others is not None:
            matches = matches | others
        return sigmoid_loss(logits, matches)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (ClipKind(), SiglipKind())}


def contrastive_loss(similarity: torch.Tensor) -> torch.Tensor:
    """Symmetric cross entropy of logits `(n, n)` whose diagonal holds the matches."""
    matches = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, matches) + F.cross_entropy(similarity.T, matches)) / 2


def sigmoid_loss(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of logits `(n, n)`, summed over all pairs and divided by n (arXiv 2303.15343, algorithm 1)."""
    return F.binary_cross_entropy_with_logits(logits, matches.to(logits.dtype), reduction="sum") / len(logits)


def read_layers(kind: Kind, model: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of the embeddings and of every layer, each `(num_pictures, 1 + num_patches, hidden)`."""
    states = model.vision_model(pixels, output_hidden_states=True).hidden_states
    return [add_frame_token(model.vision_model, layer, TOWER_SPECS[kind.name]) for layer in states]


__all__ = ["KINDS", "Backbone", "Kind", "contrastive_loss", "read_layers", "sigmoid_loss"]
