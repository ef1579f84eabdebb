"""The pictures that the small backbones are trained on: single pictures of Moving Shapes, each followed by a variant of it."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from dataset_scripts.moving_shapes.frames import Clause, FrameSettings, ShownObject, iter_captioned_frames
from dataset_scripts.moving_shapes.scenes import SEEN


if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, SiglipImageProcessor  # this import warns if torchvision is missing


IMAGE_SIZE = 64  # height and width in pixels
PICTURE_SETTINGS = FrameSettings(size=IMAGE_SIZE, combinations=SEEN, pair_share=0.12, num_captions=4, variants=True)
PICTURES_AT_ONCE = 500  # drawn by a process before it takes the next ones


class Pictures(NamedTuple):
    """Pictures at even positions, each followed by its variant, which differs in one attribute.

    Attributes:
        images: `np.ndarray` of shape `(num_pictures, size, size, 3)`, uint8.
        captions: Several wordings of each; those of a variant differ in one word.
        clauses: What each wording says of each object; empty for pairs of pictures.
        objects: What each picture shows; empty for pairs of pictures.
    """

    images: np.ndarray
    captions: list[tuple[str, ...]]
    clauses: list[tuple[tuple[Clause, ...], ...]]
    objects: list[tuple[ShownObject, ...]]

    def select(self, positions: slice) -> "Pictures":
        """Some of the pictures."""
        return Pictures(
            self.images[positions], self.captions[positions], self.clauses[positions], self.objects[positions]
        )


def draw_pictures(seed: int, number: int, processes: int, settings: FrameSettings = PICTURE_SETTINGS) -> Pictures:
    """Draw `number` pictures and as many variants; the result does not depend on the number of processes."""
    starts = range(0, number, PICTURES_AT_ONCE)
    draw = partial(_draw_some, settings, seed, number)
    if processes == 1:
        parts = [draw(start) for start in tqdm(starts, "drawing")]
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(tqdm(pool.map(draw, starts), "drawing", len(starts)))
    drawn = list(chain.from_iterable(parts))
    images = np.stack([picture.image for picture in drawn])
    captions = [picture.captions for picture in drawn]
    clauses = [picture.clauses for picture in drawn]
    objects = [picture.objects for picture in drawn]
    return Pictures(images, captions, clauses, objects)


def _draw_some(settings: FrameSettings, seed: int, number: int, start: int) -> list:
    end = min(start + PICTURES_AT_ONCE, number)
    return list(iter_captioned_frames(seed, start, end, settings))


def normalize(images: np.ndarray, image_processor: "CLIPImageProcessor | SiglipImageProcessor") -> torch.Tensor:
    """Normalise pixels with the mean and deviation of the image processor.

    Args:
        images: `(num_pictures, size, size, 3)`, uint8.
        image_processor: Image processor of the model.

    Returns:
        `torch.Tensor` of shape `(num_pictures, 3, size, size)`.
    """
    mean = torch.tensor(image_processor.image_mean)[:, None, None]
    std = torch.tensor(image_processor.image_std)[:, None, None]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255  # (num_pictures, 3, size, size)
    return (pixels - mean) / std


__all__ = ["IMAGE_SIZE", "PICTURE_SETTINGS", "Pictures", "draw_pictures", "normalize"]
