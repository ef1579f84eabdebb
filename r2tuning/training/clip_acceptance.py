"""What a CLIP must see to ground Moving Shapes, measured on pictures it was not trained on.

- 64-way retrieval: a picture finds its caption among 64, and the reverse.
- Linear probes on the frozen patch tokens: place, size, colour and shape of an object from the token at its centre.
- Separability of words in the frozen text tower: cosine between different words in the same sentence.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from dataset_scripts.moving_shapes.frames import ShownObject
from dataset_scripts.moving_shapes.queries import vocabulary
from dataset_scripts.moving_shapes.scenes import COLORS, SHAPES


WAYS = 64
CHUNK = 256
TRAINING_SHARE = 2 / 3  # of the objects, for the probes
RIDGE = 1.0
SENTENCE = "the red circle {word}"
WORD_TOKEN = 4  # its place in the sentence, behind the start and three words


@torch.no_grad()
def accept_clip(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    pixels: torch.Tensor,
    captions: list[tuple[str, ...]],
    objects: list[tuple[ShownObject, ...]],
) -> dict:
    """All three measurements.

    Args:
        clip: In eval mode.
        tokenizer: Its tokenizer.
        pixels: `(num_pictures, 3, size, size)`, normalised; each picture is followed by its variant.
        captions: Wordings of each picture; the first is taken.
        objects: What each picture shows.
    """
    parts = [clip.vision_model(part, output_hidden_states=True).hidden_states for part in pixels.split(CHUNK)]
    layers = [torch.cat(layer) for layer in zip(*parts, strict=True)]  # each (num_pictures, num_tokens, hidden)
    return {
        "retrieval_64": measure_retrieval(clip, tokenizer, layers[-1][:, 0], captions),
        "probes": [probe_tokens(layer, objects) for layer in layers[1:]],
        "words": measure_words(clip, tokenizer),
    }


def measure_retrieval(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pooled: torch.Tensor, captions: list[tuple[str, ...]]
) -> dict[str, float]:
    """Share of pictures and of captions that find each other among 64; variants are apart from each other."""
    images = F.normalize(clip.visual_projection(clip.vision_model.post_layernorm(pooled[::2])), dim=-1)
    texts = []
    for start in range(0, len(images), CHUNK):
        some = [caption[0] for caption in captions[2 * start : 2 * (start + CHUNK) : 2]]
        inputs = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
        states = clip.text_model(inputs["input_ids"]).last_hidden_state
        last = states[torch.arange(len(states)), inputs["attention_mask"].sum(dim=1) - 1]
        texts.append(F.normalize(clip.text_projection(last), dim=-1))
    similarity = images @ torch.cat(texts).T
    whole = len(images) // WAYS * WAYS
    groups = torch.stack([similarity[i : i + WAYS, i : i + WAYS] for i in range(0, whole, WAYS)])
    right = torch.arange(WAYS)
    return {
        "picture_to_caption": (groups.argmax(dim=2) == right).float().mean().item(),
        "caption_to_picture": (groups.argmax(dim=1) == right).float().mean().item(),
    }


def probe_tokens(states: torch.Tensor, objects: list[tuple[ShownObject, ...]]) -> dict[str, float]:
    """R² of place and radius, accuracy of colour and shape, of a ridge regression on the token at an object's centre.

    Args:
        states: `(num_pictures, num_tokens, hidden)`, of one layer.
        objects: What each picture shows.
    """
    shown = [(picture, item) for picture, items in enumerate(objects) for item in items]
    cells = object_cells([item for _, item in shown], round((states.shape[1] - 1) ** 0.5))
    features = states[[picture for picture, _ in shown], cells].double()
    features = (features - features.mean(dim=0)) / (features.std(dim=0) + 1e-6)
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    numbers = torch.tensor([[item.x, item.y, item.radius] for _, item in shown], dtype=torch.float64)
    colors = torch.tensor([list(COLORS).index(item.color) for _, item in shown])
    shapes = torch.tensor([list(SHAPES).index(item.shape) for _, item in shown])
    targets = torch.cat([numbers, F.one_hot(colors, len(COLORS)), F.one_hot(shapes, len(SHAPES))], dim=1)
    count = int(len(features) * TRAINING_SHARE)
    gram = features[:count].T @ features[:count] + RIDGE * torch.eye(features.shape[1])
    found = features[count:] @ torch.linalg.solve(gram, features[:count].T @ targets[:count])
    numbers, colors, shapes = numbers[count:], colors[count:], shapes[count:]
    errors = (found[:, :3] - numbers).square().sum(dim=0) / (numbers - numbers.mean(dim=0)).square().sum(dim=0)
    x, y, radius = (1 - errors).tolist()
    return {
        "x": x,
        "y": y,
        "radius": radius,
        "color": (found[:, 3 : 3 + len(COLORS)].argmax(dim=1) == colors).float().mean().item(),
        "shape": (found[:, 3 + len(COLORS) :].argmax(dim=1) == shapes).float().mean().item(),
    }


def object_cells(objects: Sequence[ShownObject], side: int) -> torch.Tensor:
    """`(num_objects,)`, the token of the patch at each object's centre, of `1 + side * side` tokens, CLS first."""
    rows, columns = ([min(int(getattr(item, axis) * side), side - 1) for item in objects] for axis in ("y", "x"))
    return 1 + side * torch.tensor(rows) + torch.tensor(columns)


def measure_words(clip: CLIPModel, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """Mean and highest cosine between different query words at the same place of the same sentence."""
    inputs = tokenizer([SENTENCE.format(word=word) for word in vocabulary()], return_tensors="pt")
    states = clip.text_model(inputs["input_ids"], output_hidden_states=True).hidden_states[-1][:, WORD_TOKEN]
    states = F.normalize(states, dim=-1)
    cosines = (states @ states.T)[~torch.eye(len(states), dtype=torch.bool)]
    return {"mean_cosine": cosines.mean().item(), "highest_cosine": cosines.max().item()}


__all__ = ["accept_clip", "measure_retrieval", "measure_words", "object_cells", "probe_tokens"]
