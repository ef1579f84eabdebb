"""Contrastive training of the small backbones.

Pictures come with variants that differ in one attribute, and captions that differ in one word, so that recognising the
objects alone does not solve the task. Two contrastive losses are added: between pictures and captions, and between
regions and clauses, as in RegionCLIP (arXiv 2112.09106): a region is the patch at the centre of an object, a
clause is what the caption says of it. R²-Tuning relies on patches, which the first loss hardly trains.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from dataset_scripts.moving_shapes.frames import Clause, ShownObject
from modeling_r2tuning.precision_r2tuning import cpu_has_bfloat16
from r2tuning.pretraining.acceptance import object_cells
from r2tuning.pretraining.kinds import Backbone, Kind
from r2tuning.pretraining.model import PATCH_SIZE
from r2tuning.pretraining.pictures import IMAGE_SIZE, PICTURE_SETTINGS, Pictures, normalize


if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, SiglipImageProcessor  # this import warns if torchvision is missing


MAX_GRADIENT_NORM = 1.0
WARMUP_STEPS = 100
LOWEST_RATE = 0.02  # of the highest learning rate


class Batch(NamedTuple):
    """Inputs of a step.

    Attributes:
        pixels: `(num_pictures, 3, size, size)`, normalised.
        captions: `input_ids` and `attention_mask` of the captions, one for each picture.
        clauses: `input_ids` and `attention_mask` of the clauses.
        pictures: `(num_clauses,)`, index of the picture that a clause is about.
        cells: `(num_clauses,)`, index of the token at the centre of the object that a clause is about.
        true: `(num_clauses, num_clauses)`, whether the clause of a column is true of the object of a row.
    """

    pixels: torch.Tensor
    captions: dict[str, torch.Tensor]
    clauses: dict[str, torch.Tensor]
    pictures: torch.Tensor
    cells: torch.Tensor
    true: torch.Tensor


def batch_loss(kind: Kind, model: Backbone, batch: Batch) -> torch.Tensor:
    """Contrastive loss of pictures and captions plus that of regions and clauses.

    A clause that happens to be true of another region is not a negative for it.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        pictures, regions = kind.embed_pictures(model, batch.pixels, batch.pictures, batch.cells)
        captions = kind.embed_texts(model, batch.captions)
        clauses = kind.embed_texts(model, batch.clauses)
    others = batch.true & ~torch.eye(len(batch.true), dtype=torch.bool)
    return kind.loss(model, pictures, captions) + kind.loss(model, regions, clauses, others)


def match_clauses(clauses: Sequence[Clause], objects: Sequence[ShownObject]) -> torch.Tensor:
    """Whether each clause is true of each object, `(num_objects, num_clauses)`: the object has all of its facts."""
    names: set[str] = set()
    for clause in clauses:
        names |= clause.facts
    for item in objects:
        names |= item.facts
    columns = {name: column for column, name in enumerate(sorted(names))}
    claimed = _encode_facts(columns, [clause.facts for clause in clauses])
    present = _encode_facts(columns, [item.facts for item in objects])
    return present @ claimed.T == claimed.sum(dim=1)


def _encode_facts(columns: dict[str, int], items: list[frozenset[str]]) -> torch.Tensor:
    """`(num_items, num_facts)`, 1 where an item has a fact."""
    encoded = torch.zeros(len(items), len(columns))
    for row, facts in enumerate(items):
        for fact in facts:
            encoded[row, columns[fact]] = 1
    return encoded


class Trainer:
    """Trains a model; after a short warm-up the learning rate falls along a cosine.

    Args:
        kind: Kind of the model.
        model: The model.
        tokenizer: Its tokenizer.
        image_processor: Its image processor, for the normalisation of pixels.
        pictures: Pictures to train on.
        seed: Seed of the batches.
        batch_size: Pictures per batch, half of them variants of the others.
        learning_rate: The highest learning rate.
    """

    def __init__(
        self,
        kind: Kind,
        model: Backbone,
        tokenizer: CLIPTokenizer,
        image_processor: "CLIPImageProcessor | SiglipImageProcessor",
        pictures: Pictures,
        *,
        seed: int,
        batch_size: int,
        learning_rate: float,
    ):
        self.kind = kind
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.pictures = pictures
        self.random = np.random.default_rng(seed)
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, betas=(0.9, 0.98))

    def draw_batch(self) -> Batch:
        """Random pictures, their variants, and one wording of each."""
        num_scenes = len(self.pictures.images) // 2
        first = 2 * self.random.choice(num_scenes, self.batch_size // 2, replace=False)
        wording = self.random.integers(PICTURE_SETTINGS.num_captions, size=len(first))
        # Variants follow the pictures and have the same wording.
        indices = np.concatenate([first, first + 1])
        wordings = np.concatenate([wording, wording])
        captions: list[str] = []
        clauses: list[Clause] = []
        objects: list[ShownObject] = []
        picture_of_clause: list[int] = []
        for position, (index, number) in enumerate(zip(indices, wordings, strict=True)):
            captions.append(self.pictures.captions[index][number])
            for clause in self.pictures.clauses[index][number]:
                clauses.append(clause)
                objects.append(self.pictures.objects[index][clause.index])
                picture_of_clause.append(position)
        return Batch(
            pixels=normalize(self.pictures.images[indices], self.image_processor),
            captions=self.kind.tokenize(self.tokenizer, captions),
            clauses=self.kind.tokenize(self.tokenizer, [clause.text for clause in clauses]),
            pictures=torch.tensor(picture_of_clause),
            cells=object_cells(objects, IMAGE_SIZE // PATCH_SIZE),
            true=match_clauses(clauses, objects),
        )

    def step(self) -> float:
        """One optimiser step; returns the loss."""
        loss = batch_loss(self.kind, self.model, self.draw_batch())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return loss.item()

    def run(self, steps: int) -> list[float]:
        """Train; returns the loss of each step."""
        losses = []
        with tqdm(range(steps), desc="training", unit=" steps") as bar:
            for number in bar:
                for group in self.optimizer.param_groups:
                    group["lr"] = self._learning_rate(number, steps)
                losses.append(self.step())
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
        return losses

    def _learning_rate(self, number: int, steps: int) -> float:
        warm_up = min(1.0, (number + 1) / WARMUP_STEPS)
        cosine = 0.5 * (1 + math.cos(math.pi * number / steps))
        return self.learning_rate * warm_up * (LOWEST_RATE + (1 - LOWEST_RATE) * cosine)


__all__ = ["Batch", "Trainer", "batch_loss", "match_clauses"]
