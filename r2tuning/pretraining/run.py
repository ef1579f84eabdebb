"""Train a small CLIP or SigLIP from scratch on single pictures of Moving Shapes, to be frozen and used as a backbone.

python train/pretrain_backbone.py OUT

Training contrasts whole pictures with captions, and regions with clauses of captions, as RegionCLIP does: by cross
entropy over the batch for CLIP, by a sigmoid of each pair for SigLIP. OUT then holds the model with tokenizer and image
processor, `acceptance.json` with measurements on pictures that it was not trained on, and a model card.
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData

from dataset_scripts.moving_shapes.scenes import COLORS, COMBINATIONS, SEEN, SHAPES
from modeling_r2tuning.files_r2tuning import LOCK, claiming, writing_folder
from modeling_r2tuning.tower_specs_r2tuning import TOWER_SPECS
from r2tuning.checkpoint_files import CARD
from r2tuning.hub.card_text import CARDS
from r2tuning.json_files import write_json, write_text
from r2tuning.pretraining.acceptance import ACCEPTANCE_FILE, WAYS, accept_backbone
from r2tuning.pretraining.kinds import KINDS
from r2tuning.pretraining.pictures import PICTURE_SETTINGS, draw_pictures, normalize
from r2tuning.pretraining.trainer import Trainer
from r2tuning.terminal import report, write_line


WHITENED_PICTURES = 2000  # from which the whitening of patches is computed
SMALLEST_BATCH = 16  # with fewer pictures, all of them may be pairs, which have no clauses
AVERAGED_LOSSES = 10  # last steps whose mean loss is reported


def pretrain(
    output: Path,
    *,
    kind: str,
    layers: int,
    steps: int,
    pictures: int,
    held_out: int,
    combinations: tuple[tuple[str, str], ...],
    batch_size: int,
    learning_rate: float,
    seed: int,
    processes: int,
) -> dict[str, Any]:
    """Draw pictures, train, save and measure.

    Args:
        output: New or empty folder for model, tokenizer and image processor.
        kind: "clip" or "siglip".
        layers: Layers of each encoder.
        steps: Training steps.
        pictures: Training pictures, each with a variant.
        held_out: Pictures for the measurements, each with a variant.
        combinations: Colours and shapes to train on.
        batch_size: Pictures per step, half of them variants of the others.
        learning_rate: The highest learning rate.
        seed: Seed of pictures, weights and batches.
        processes: Processes that draw pictures.

    Returns:
        Contents of `acceptance.json`.

    Raises:
        FileExistsError: `output` is a file or a folder that is not empty, or another run writes there.
        ValueError: The kind is unknown, a number is out of range, or there are too few combinations.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {list(KINDS)}, got {kind!r}.")
    sizes: dict[str, Any] = {"layers": layers, "steps": steps, "pictures": pictures, "held_out": held_out}
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "learning_rate": learning_rate}
    check_options(**sizes, **options, processes=processes)
    settings = replace(PICTURE_SETTINGS, combinations=tuple(combinations))
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    with claiming(output):
        _check_empty(output)
        drawn = draw_pictures(seed, pictures + held_out, processes, settings)
        seen, unseen = drawn.select(slice(2 * pictures)), drawn.select(slice(2 * pictures, None))
        backbone_kind = KINDS[kind]
        tokenizer = backbone_kind.make_tokenizer()
        image_processor = backbone_kind.make_image_processor()
        whitened = normalize(seen.images[: 2 * WHITENED_PICTURES : 2], image_processor)
        model = backbone_kind.make_model(tokenizer, whitened, layers)
        losses = Trainer(backbone_kind, model, tokenizer, image_processor, seen, **options).run(steps)
    with writing_folder(output) as folder:
        for part in (model, tokenizer, image_processor):
            part.save_pretrained(folder)
    pixels = normalize(unseen.images, image_processor)
    measured = accept_backbone(backbone_kind, model.eval(), tokenizer, pixels, unseen.captions, unseen.objects)
    names = [" ".join(combination) for combination in combinations]
    loss = float(np.mean(losses[-AVERAGED_LOSSES:]))
    document = {"kind": kind, **sizes, "combinations": names, **options, "loss": loss, **measured}
    write_json(output / ACCEPTANCE_FILE, document)
    write_text(output / CARD, make_card(output.name, document))
    return document


def _check_empty(output: Path) -> None:
    """Refuse a folder that holds more than the lock of `claiming`."""
    if any(path.name != LOCK for path in output.iterdir()):
        raise FileExistsError(f"`output` '{output}' is not empty; name a new folder or empty it.")


def check_options(*, batch_size: int, learning_rate: float, held_out: int, pictures: int, **counts: int) -> None:
    """Refuse numbers with which training or the measurements would fail.

    Raises:
        ValueError: A number is out of range; the message names it.
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
        raise ValueError(
            f"`held_out` must be at least {WAYS}, the number of captions that a picture is compared with, got {held_out}."
        )
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate` must be positive, got {learning_rate}.")


def make_card(name: str, measured: dict[str, Any]) -> str:
    """The model card, filled from the contents of `acceptance.json`."""
    kind = measured["kind"]
    spec = TOWER_SPECS[kind]
    data = ModelCardData(
        language="en", library_name="transformers", pipeline_tag="zero-shot-image-classification", tags=[kind]
    )
    card = ModelCard.from_template(
        data,
        template_path=str(CARDS / "small_backbone_card.md"),
        name=name,
        title=spec.title,
        model_class=spec.model_class,
        measured=measured,
    )
    return str(card)


def parse_combination(text: str) -> tuple[str, str]:
    """A colour and a shape of the benchmark."""
    color, _, shape = text.partition(" ")
    if (color, shape) not in COMBINATIONS:
        allowed = "a color (" + ", ".join(COLORS) + ") and a shape (" + ", ".join(SHAPES) + ")"
        raise argparse.ArgumentTypeError(f"expected {allowed}, such as 'red circle', got {text!r}")
    return color, shape


def main(argv: list[str] | None = None) -> int:
    """Run the script `train/pretrain_backbone.py`; returns its exit status."""
    args = make_parser().parse_args(argv)
    names = {name: f"--{name.replace('_', '-')}" for name in vars(args)}
    return report(partial(_pretrain, args), "pretrain_backbone", {**names, "output": "OUT"})


def _pretrain(args: argparse.Namespace) -> int:
    document = pretrain(**vars(args))
    write_line(sys.stdout, json.dumps(document, indent=2))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The script's options; `pretrain` checks their values."""
    parser = argparse.ArgumentParser(
        prog="pretrain_backbone.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="output folder for model, tokenizer and image processor, new or empty"
    )
    parser.add_argument("--kind", choices=list(KINDS), default="clip", help="kind of the model (default: clip)")
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
