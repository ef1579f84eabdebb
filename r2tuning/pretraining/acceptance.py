"""Whether a backbone can ground Moving Shapes, measured on pictures that it was not trained on.

- 64-way retrieval: each picture finds its caption among 64, and each caption its picture.
- Linear probes on the frozen patch tokens: place, size, colour and shape of an object from the token at its centre.
- Separability of words in the frozen text encoder: cosine between different words in the same sentence.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from dataset_scripts.moving_shapes.frames import ShownObject
from dataset_scripts.moving_shapes.queries import vocabulary
from dataset_scripts.moving_shapes.scenes import COLORS, SHAPES
from r2tuning.pretraining.kinds import Backbone, Kind, read_layers


ACCEPTANCE_FILE = "acceptance.json"  # stored with the backbone
WAYS = 64  # of the retrieval
CHUNK_SIZE = 256  # pictures or captions encoded at once
TRAINING_SHARE = 2 / 3  # of the objects, to fit the probes
RIDGE = 1.0  # weight of the squared coefficients
SENTENCE = "the red circle {word}"
WORD_TOKEN = 4  # index of the word's token: start of text and three words precede it


@torch.no_grad()
def accept_backbone(
    kind: Kind,
    model: Backbone,
    tokenizer: CLIPTokenizer,
    pixels: torch.Tensor,
    captions: list[tuple[str, ...]],
    objects: list[tuple[ShownObject, ...]],
) -> dict[str, Any]:
    """All three measurements.

    Args:
        kind: Kind of the model.
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        pixels: `(num_pictures, 3, size, size)`, normalised; each picture is followed by its variant.
        captions: Wordings of each picture; the first is used.
        objects: What each picture shows.

    Returns:
        "retrieval_64": shares from 0 to 1; "probes": for each layer of the image encoder, see `probe_tokens`; "words":
        see `measure_words`.
    """
    layers = _encode_pictures(kind, model, pixels)
    return {
        "retrieval_64": measure_retrieval(kind, model, tokenizer, layers[-1][:, 0], captions),
        "probes": [probe_tokens(layer, objects) for layer in layers[1:]],
        "words": measure_words(kind, model, tokenizer),
    }


def _encode_pictures(kind: Kind, model: Backbone, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of the embeddings and of every layer, each `(num_pictures, 1 + num_patches, hidden)`."""
    chunks = [read_layers(kind, model, chunk) for chunk in pixels.split(CHUNK_SIZE)]
    return [torch.cat(layer) for layer in zip(*chunks, strict=True)]


def measure_retrieval(
    kind: Kind, model: Backbone, tokenizer: CLIPTokenizer, pooled: torch.Tensor, captions: list[tuple[str, ...]]
) -> dict[str, float]:
    """Share of pictures and of captions that find each other among 64, without variants.

    Args:
        kind: Kind of the model.
        model: The model.
        tokenizer: Its tokenizer.
        pooled: `(num_pictures, hidden)`, last hidden states of the tokens that represent the pictures; each picture is
            followed by its variant.
        captions: Wordings of each picture; the first is used.
    """
    images = F.normalize(kind.project_pooled(model, pooled[::2]), dim=-1)
    texts = _embed_captions(kind, model, tokenizer, [wordings[0] for wordings in captions[::2]])
    similarity = images @ texts.T
    num_grouped = len(images) // WAYS * WAYS
    groups = []
    for start in range(0, num_grouped, WAYS):
        end = start + WAYS
        groups.append(similarity[start:end, start:end])
    similarity = torch.stack(groups)  # (num_groups, pictures, captions)
    matches = torch.arange(WAYS)
    return {
        "picture_to_caption": (similarity.argmax(dim=2) == matches).float().mean().item(),
        "caption_to_picture": (similarity.argmax(dim=1) == matches).float().mean().item(),
    }


def _embed_captions(kind: Kind, model: Backbone, tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Unit vectors of shape `(num_captions, projection_dim)`."""
    chunks = []
    for start in range(0, len(captions), CHUNK_SIZE):
        texts = kind.tokenize(tokenizer, captions[start : start + CHUNK_SIZE])
        chunks.append(kind.embed_texts(model, texts))
    return torch.cat(chunks)


def probe_tokens(states: torch.Tensor, objects: list[tuple[ShownObject, ...]]) -> dict[str, float]:
    """Ridge regression of an object's properties on the token at its centre.

    Args:
        states: `(num_pictures, num_tokens, hidden)`, of one layer.
        objects: What each picture shows.

    Returns:
        On the objects that the probes were not fitted to: R² of "x", "y" and "radius", accuracy of "color" and "shape".
    """
    shown: list[ShownObject] = []
    pictures: list[int] = []
    for picture, items in enumerate(objects):
        shown += items
        pictures += [picture] * len(items)
    side = round((states.shape[1] - 1) ** 0.5)
    features = _standardize(states[pictures, object_cells(shown, side)])  # (num_objects, hidden + 1)
    numbers = torch.tensor([[item.x, item.y, item.radius] for item in shown], dtype=torch.float64)
    colors = torch.tensor([list(COLORS).index(item.color) for item in shown])
    shapes = torch.tensor([list(SHAPES).index(item.shape) for item in shown])
    targets = torch.cat([numbers, F.one_hot(colors, len(COLORS)), F.one_hot(shapes, len(SHAPES))], dim=1)
    count = int(len(features) * TRAINING_SHARE)
    # (X^T X + ridge) W = X^T Y
    gram = features[:count].T @ features[:count] + RIDGE * torch.eye(features.shape[1])
    weights = torch.linalg.solve(gram, features[:count].T @ targets[:count])
    found = features[count:] @ weights
    numbers, colors, shapes = numbers[count:], colors[count:], shapes[count:]
    found_numbers, found_colors, found_shapes = found.split([3, len(COLORS), len(SHAPES)], dim=1)
    errors = (found_numbers - numbers).square().sum(dim=0) / (numbers - numbers.mean(dim=0)).square().sum(dim=0)
    x, y, radius = (1 - errors).tolist()
    return {
        "x": x,
        "y": y,
        "radius": radius,
        "color": (found_colors.argmax(dim=1) == colors).float().mean().item(),
        "shape": (found_shapes.argmax(dim=1) == shapes).float().mean().item(),
    }


def _standardize(features: torch.Tensor) -> torch.Tensor:
    """Features with mean 0 and deviation 1 in float64, and a column of ones for the intercept."""
    features = features.double()
    features = (features - features.mean(dim=0)) / (features.std(dim=0) + 1e-6)
    return torch.cat([features, torch.ones(len(features), 1)], dim=1)


def object_cells(objects: Sequence[ShownObject], side: int) -> torch.Tensor:
    """Index of the token at each object's centre, `(num_objects,)`, after the token of the whole picture."""
    rows = [min(int(item.y * side), side - 1) for item in objects]
    columns = [min(int(item.x * side), side - 1) for item in objects]
    return 1 + side * torch.tensor(rows) + torch.tensor(columns)


def measure_words(kind: Kind, model: Backbone, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """Mean and highest cosine between different words of the queries at the same place of the same sentence."""
    sentences = [SENTENCE.format(word=word) for word in vocabulary()]
    inputs = kind.tokenize(tokenizer, sentences)
    states = model.text_model(inputs["input_ids"], output_hidden_states=True).hidden_states[-1]
    words = F.normalize(states[:, WORD_TOKEN], dim=-1)
    cosines = (words @ words.T)[~torch.eye(len(words), dtype=torch.bool)]
    return {"mean_cosine": cosines.mean().item(), "highest_cosine": cosines.max().item()}


__all__ = [
    "ACCEPTANCE_FILE",
    "WAYS",
    "accept_backbone",
    "measure_retrieval",
    "measure_words",
    "object_cells",
    "probe_tokens",
]
