"""Train a small CLIP from scratch on single pictures of Moving Shapes, to be frozen and used as any CLIP.

python train/pretrain_clip.py OUT

Pictures come with variants that differ in one attribute, and captions that differ in one word: so identity alone does
not solve the task. Two contrastive losses are added: of whole pictures and captions, as in CLIP, and of regions and
clauses, as in RegionCLIP (arXiv 2112.09106): the patch at the centre of an object and what the caption says of it. It
is on patches that R²-Tuning relies.

Three choices of the first weights save most of the training that a vision transformer needs to see shape and place:
patches are whitened, positions are waves of the size of the content, and attention begins with what is alike and near.
"""

import argparse
import json
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelCardData
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from tqdm import tqdm
from transformers import BaseImageProcessor, CLIPConfig, CLIPModel, CLIPTokenizer

from dataset_scripts.moving_shapes.frames import Clause, FrameSettings, ShownObject, iter_captioned_frames
from dataset_scripts.moving_shapes.queries import vocabulary
from dataset_scripts.moving_shapes.scenes import COLORS, COMBINATIONS, SEEN, SHAPES
from modeling_r2tuning.files_r2tuning import LOCK, claiming, writing_folder
from modeling_r2tuning.precision_r2tuning import cpu_has_bfloat16
from modeling_r2tuning.processing_r2tuning import MAX_TEXT_LENGTH, make_image_processor
from r2tuning.hub.card_text import CARDS
from r2tuning.json_files import write_text
from r2tuning.terminal import report, write_line
from r2tuning.training.clip_acceptance import WAYS, accept_clip, object_cells


IMAGE_SIZE, PATCH_SIZE, NUM_HEADS = 64, 8, 4
VISION_WIDTH, TEXT_WIDTH = 128, 64
TOKEN_STD = 0.5  # of the word embeddings: large, so that words stay apart in the frozen tower
POSITION_SCALE = 2.0  # whitened patches have a variance of 1
ATTENTION_STD = 0.085  # of queries and keys: a token's own place begins with most of its attention
PIXEL_NOISE = 0.02  # variance below which whitening amplifies nothing
WHITENED_PICTURES = 2000
FRAMES = FrameSettings(size=IMAGE_SIZE, combinations=SEEN, pair_share=0.12, num_captions=4, variants=True)
FRAMES_AT_ONCE = 500
MAX_GRADIENT_NORM = 1.0
SMALLEST_BATCH = 16  # with fewer, all pictures of a batch may be pairs, of which there are no clauses
LOSSES = 10  # steps over which the final loss is averaged
WARMUP_STEPS, LOWEST_RATE = 100, 0.02  # the latter of the highest learning rate


class Pictures(NamedTuple):
    """Pictures, each followed by its variant.

    Attributes:
        images: `(num_pictures, size, size, 3)` uint8.
        captions: Several wordings of each; those of a variant differ in one word.
        clauses: What each wording says of each object; nothing for pairs of pictures.
        objects: What each shows; none for pairs of pictures.
    """

    images: np.ndarray
    captions: list[tuple[str, ...]]
    clauses: list[tuple[tuple[Clause, ...], ...]]
    objects: list[tuple[ShownObject, ...]]


def draw_pictures(seed: int, number: int, processes: int, settings: FrameSettings = FRAMES) -> Pictures:
    """Draw `number` pictures and as many variants; the result does not depend on the number of processes."""
    starts = range(0, number, FRAMES_AT_ONCE)
    draw = partial(_draw_some, settings, seed, number)
    if processes == 1:
        parts = [draw(start) for start in tqdm(starts, "drawing")]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            parts = list(tqdm(pool.map(draw, starts), "drawing", len(starts)))
    frames = [frame for part in parts for frame in part]
    return Pictures(
        np.stack([frame.image for frame in frames]),
        [frame.captions for frame in frames],
        [frame.clauses for frame in frames],
        [frame.objects for frame in frames],
    )


def _draw_some(settings: FrameSettings, seed: int, number: int, start: int) -> list:
    return list(iter_captioned_frames(seed, start, min(start + FRAMES_AT_ONCE, number), settings))


# ---- the model -----------------------------------------------------------------------------------------------------


def make_tokenizer() -> CLIPTokenizer:
    """A tokenizer in CLIP's format for which every word of the benchmark is one token; other words fall into parts."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator([" ".join(vocabulary())] * 2, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *dict.fromkeys("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        {token: index for index, token in enumerate(tokens)}, merges, model_max_length=MAX_TEXT_LENGTH
    )


def make_clip(tokenizer: CLIPTokenizer, pixels: torch.Tensor, layers: int) -> CLIPModel:
    """A small CLIP whose weights are random but for patches, positions and where attention begins.

    Args:
        tokenizer: Its tokenizer.
        pixels: `(num_pictures, 3, size, size)`, normalised, to whiten patches by.
        layers: Of each encoder.
    """
    sizes = {
        "num_hidden_layers": layers,
        "num_attention_heads": NUM_HEADS,
        "hidden_act": "gelu",  # quick_gelu is slow on a CPU
    }
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        vision_config={
            **sizes,
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 4 * VISION_WIDTH,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        text_config={
            **sizes,
            **ids,
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 4 * TEXT_WIDTH,
            "vocab_size": len(tokenizer),
        },
        projection_dim=VISION_WIDTH,
    )
    clip = CLIPModel._from_config(config, attn_implementation="eager")  # the fastest at this size on a CPU
    embeddings = clip.vision_model.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(whitening_filters(pixels))
        code = position_code(IMAGE_SIZE // PATCH_SIZE, VISION_WIDTH)
        embeddings.position_embedding.weight[1:] = POSITION_SCALE * code
        for layer in clip.vision_model.encoder.layers:
            layer.self_attn.q_proj.weight.normal_(0, ATTENTION_STD)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        clip.text_model.embeddings.token_embedding.weight.normal_(0, TOKEN_STD)
    return clip


def whitening_filters(pixels: torch.Tensor) -> torch.Tensor:
    """Filters `(VISION_WIDTH, 3, PATCH_SIZE, PATCH_SIZE)`: the strongest components of patches, at equal strength.

    With random filters the colour of a patch drowns its edges, by which shapes are told apart.
    """
    patches = F.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2).flatten(0, 1)
    patches = (patches - patches.mean(dim=0)).double()
    variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))  # in ascending order
    filters = (components / (variances + PIXEL_NOISE).sqrt()).T.flip(0)[:VISION_WIDTH]
    return filters.float().unflatten(1, (3, PATCH_SIZE, PATCH_SIZE))


def position_code(side: int, width: int) -> torch.Tensor:
    """`(side * side, width)`: sine and cosine of the row in one half, of the column in the other."""
    frequencies = torch.exp(torch.linspace(math.log(math.pi / 2), math.log(math.pi * side / 2), width // 4))
    angles = torch.linspace(0, 1, side)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def normalize(images: np.ndarray, image_processor: BaseImageProcessor) -> torch.Tensor:
    """From `(num_pictures, size, size, 3)` uint8 to `(num_pictures, 3, size, size)`, as the image processor does it."""
    mean, std = (
        torch.tensor(value)[:, None, None] for value in (image_processor.image_mean, image_processor.image_std)
    )
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


# ---- training ------------------------------------------------------------------------------------------------------


def contrast(similarity: torch.Tensor) -> torch.Tensor:
    """Symmetric cross entropy of `(n, n)` logits whose diagonal is right."""
    right = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, right) + F.cross_entropy(similarity.T, right)) / 2


class Batch(NamedTuple):
    """What a step sees.

    Attributes:
        pixels: `(num_pictures, 3, size, size)`, normalised.
        captions: `input_ids` and `attention_mask` of the pictures' captions.
        clauses: The same of their clauses.
        pictures: `(num_clauses,)`, which picture a clause is about.
        cells: `(num_clauses,)`, token of the patch at the centre of the object that it is about.
        true: `(num_clauses, num_clauses)`, whether a clause, by column, is true of the object that another, by row, is
            about.
    """

    pixels: torch.Tensor
    captions: dict[str, torch.Tensor]
    clauses: dict[str, torch.Tensor]
    pictures: torch.Tensor
    cells: torch.Tensor
    true: torch.Tensor


def clip_loss(clip: CLIPModel, batch: Batch) -> torch.Tensor:
    """Contrast of pictures with captions, and of regions with clauses.

    A clause that happens to be true of another region is no negative of it.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        states = clip.vision_model(batch.pixels).last_hidden_state
        tokens = F.normalize(clip.visual_projection(clip.vision_model.post_layernorm(states)).float(), dim=-1)
        captions, clauses = (embed_texts(clip, texts) for texts in (batch.captions, batch.clauses))
    scale = clip.logit_scale.exp().clamp(max=100)
    regions = scale * tokens[batch.pictures, batch.cells] @ clauses.T
    others = ~torch.eye(len(regions), dtype=torch.bool)
    return contrast(scale * tokens[:, 0] @ captions.T) + contrast(
        regions.masked_fill(batch.true & others, float("-inf"))
    )


def embed_texts(clip: CLIPModel, texts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Unit vectors `(num_texts, projection_dim)`."""
    states = clip.text_model(texts["input_ids"]).last_hidden_state
    last = texts["attention_mask"].sum(dim=1) - 1
    return F.normalize(clip.text_projection(states[torch.arange(len(states)), last]).float(), dim=-1)


def truth(clauses: list[Clause], objects: list[ShownObject]) -> torch.Tensor:
    """`(num_objects, num_clauses)`, whether each clause is true of each object."""
    names = sorted(set().union(*(item.facts for item in (*clauses, *objects))))
    said, seen = (
        torch.tensor([[name in item.facts for name in names] for item in items], dtype=torch.float32)
        for items in (clauses, objects)
    )
    return seen @ said.T == said.sum(dim=1)


class Trainer:
    """Trains; the learning rate falls along a cosine.

    Args:
        clip: The model.
        tokenizer: Its tokenizer.
        image_processor: Says how pixels are normalised.
        pictures: To train on.
        seed: Of the batches.
        batch_size: Pictures of a batch, half of them variants of the others.
        learning_rate: At its highest.
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        image_processor: BaseImageProcessor,
        pictures: Pictures,
        *,
        seed: int,
        batch_size: int,
        learning_rate: float,
    ):
        self.clip, self.tokenizer, self.image_processor, self.pictures = clip, tokenizer, image_processor, pictures
        self.random = np.random.default_rng(seed)
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.optimizer = torch.optim.AdamW(clip.parameters(), weight_decay=0.05, betas=(0.9, 0.98))

    def draw_batch(self) -> Batch:
        """Pictures drawn at random, their variants, and one wording of each."""
        first = 2 * self.random.choice(len(self.pictures.images) // 2, self.batch_size // 2, replace=False)
        wording = self.random.integers(FRAMES.num_captions, size=len(first))
        chosen = [(index + variant, w) for variant in (0, 1) for index, w in zip(first, wording, strict=True)]
        said = [
            (picture, clause, self.pictures.objects[index][clause.index])
            for picture, (index, w) in enumerate(chosen)
            for clause in self.pictures.clauses[index][w]
        ]
        pictures, clauses, objects = zip(*said, strict=True)
        return Batch(
            normalize(self.pictures.images[[index for index, _ in chosen]], self.image_processor),
            self.tokenize([self.pictures.captions[index][w] for index, w in chosen]),
            self.tokenize([clause.text for clause in clauses]),
            torch.tensor(pictures),
            object_cells(objects, IMAGE_SIZE // PATCH_SIZE),
            truth(clauses, objects),
        )

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, padded."""
        return self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")

    def step(self) -> float:
        """One step; returns the loss."""
        loss = clip_loss(self.clip, self.draw_batch())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.clip.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return loss.item()

    def run(self, steps: int) -> list[float]:
        """Train; returns the loss of each step."""
        losses = []
        with tqdm(range(steps), desc="training", unit=" steps") as bar:
            for number in bar:
                warm = min(1.0, (number + 1) / WARMUP_STEPS)
                for group in self.optimizer.param_groups:
                    falling = 0.5 * (1 + math.cos(math.pi * number / steps))
                    group["lr"] = self.learning_rate * warm * (LOWEST_RATE + (1 - LOWEST_RATE) * falling)
                losses.append(self.step())
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
        return losses


def pretrain(
    output: Path,
    *,
    layers: int,
    steps: int,
    pictures: int,
    held_out: int,
    combinations: tuple[tuple[str, str], ...],
    batch_size: int,
    learning_rate: float,
    seed: int,
    processes: int,
) -> dict:
    """Draw, train, write and measure; returns what `acceptance.json` holds.

    Args:
        output: Folder to write CLIP, tokenizer and image processor to, new or empty.
        layers: Of each encoder.
        steps: Steps of training.
        pictures: Pictures to train on, each with a variant.
        held_out: Pictures for the measurements, each with a variant.
        combinations: Colours and shapes that it sees.
        batch_size: Pictures of a step, half of them variants of the others.
        learning_rate: At its highest.
        seed: Of pictures, weights and batches.
        processes: Processes that draw.

    Raises:
        FileExistsError: `output` is a file, or a folder that is not empty; or another run is to write there.
        ValueError: A number is out of range, or there are too few combinations.
    """
    sizes = {"layers": layers, "steps": steps, "pictures": pictures, "held_out": held_out}
    options = {"seed": seed, "batch_size": batch_size, "learning_rate": learning_rate}
    check_options(**sizes, **options, processes=processes)
    settings = replace(FRAMES, combinations=tuple(combinations))
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    with claiming(output):
        if any(path.name != LOCK for path in output.iterdir()):
            raise FileExistsError(f"`output` '{output}' is not empty; name a new folder or empty it.")
        drawn = draw_pictures(seed, pictures + held_out, processes, settings)
        seen, unseen = (
            Pictures(*(part[some] for part in drawn)) for some in (slice(2 * pictures), slice(2 * pictures, None))
        )
        tokenizer = make_tokenizer()
        image_processor = make_image_processor(IMAGE_SIZE)
        clip = make_clip(tokenizer, normalize(seen.images[: 2 * WHITENED_PICTURES : 2], image_processor), layers)
        losses = Trainer(clip, tokenizer, image_processor, seen, **options).run(steps)
    with writing_folder(output) as folder:
        for part in (clip, tokenizer, image_processor):
            part.save_pretrained(folder)
    measured = accept_clip(
        clip.eval(), tokenizer, normalize(unseen.images, image_processor), unseen.captions, unseen.objects
    )
    shown = {"combinations": [" ".join(each) for each in combinations]}
    document = {**sizes, **shown, **options, "loss": float(np.mean(losses[-LOSSES:])), **measured}
    write_text(output / "acceptance.json", json.dumps(document, indent=2) + "\n")
    write_text(output / "README.md", make_card(output.name, document))
    return document


def check_options(*, batch_size: int, learning_rate: float, held_out: int, pictures: int, **counts: int) -> None:
    """Refuse numbers with which training or the measurements after it would fail.

    Raises:
        ValueError: The message names one.
    """
    for name, number in counts.items():
        least = 0 if name == "seed" else 1
        if number < least:
            raise ValueError(f"`{name}` must be at least {least}, got {number}.")
    if batch_size < SMALLEST_BATCH or batch_size % 2:
        raise ValueError(f"`batch_size` must be even and at least {SMALLEST_BATCH}, got {batch_size}.")
    if pictures < batch_size // 2:
        raise ValueError(f"`pictures` must be at least half of `batch_size`, {batch_size // 2}, got {pictures}.")
    if held_out < WAYS:
        raise ValueError(f"`held_out` must be at least {WAYS}, as many as a caption is sought among, got {held_out}.")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate` must be positive, got {learning_rate}.")


def make_card(name: str, measured: dict) -> str:
    """The model card, from what `acceptance.json` holds."""
    data = ModelCardData(
        language="en", library_name="transformers", pipeline_tag="zero-shot-image-classification", tags=["clip"]
    )
    template = str(CARDS / "clip_card.md")
    return str(ModelCard.from_template(data, template_path=template, name=name, measured=measured))


def parse_combination(text: str) -> tuple[str, str]:
    """A colour and a shape of the benchmark."""
    color, _, shape = text.partition(" ")
    if (color, shape) not in COMBINATIONS:
        allowed = "a color (" + ", ".join(COLORS) + ") and a shape (" + ", ".join(SHAPES) + ")"
        raise argparse.ArgumentTypeError(f"expected {allowed}, such as 'red circle', got {text!r}")
    return color, shape


def main(argv: list[str] | None = None) -> int:
    """Run the script `train/pretrain_clip.py`; returns its exit status."""
    args = make_parser().parse_args(argv)
    names = {name: f"--{name.replace('_', '-')}" for name in vars(args)}
    return report(partial(_pretrain, args), "pretrain_clip", {**names, "output": "OUT"})


def _pretrain(args: argparse.Namespace) -> int:
    document = pretrain(**vars(args))
    write_line(sys.stdout, json.dumps(document, indent=2))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The script's options; `pretrain` checks their values."""
    parser = argparse.ArgumentParser(
        prog="pretrain_clip.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="output folder for CLIP, tokenizer and image processor, new or empty"
    )
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="layers of each encoder (default: 4)")
    parser.add_argument("--steps", type=int, default=2000, metavar="N", help="training steps (default: 2000)")
    parser.add_argument(
        "--pictures",
        type=int,
        default=30_000,
        metavar="N",
        help="training pictures, each with a variant (default: 30000)",
    )
    parser.add_argument(
        "--held-out", type=int, default=1500, metavar="N", help="pictures for the measurements (default: 1500)"
    )
    parser.add_argument(
        "--combinations",
        type=parse_combination,
        nargs="+",
        default=SEEN,
        metavar='"COLOR SHAPE"',
        help='combinations to train on, such as "red circle" "blue ring" (default: all but those of test_unseen)',
    )
    parser.add_argument("--batch-size", type=int, default=96, metavar="N", help="pictures per step (default: 96)")
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="learning rate after the warm-up (default: 0.001)",
    )
    parser.add_argument(
        "--seed", type=int, default=7, metavar="N", help="seed of pictures, weights and batches (default: 7)"
    )
    parser.add_argument(
        "--processes", type=int, default=2, metavar="N", help="processes that draw pictures (default: 2)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
