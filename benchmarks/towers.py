"""Size, speed and cache of every kind of backbone, with random weights; speeds are ratios to CLIP ViT-B/32.

python -m benchmarks.towers [--output benchmarks/results/towers.json]

Sizes are the defaults of transformers for each kind, and those of checkpoints. `ORIGINS` says where the latter come from.
One backbone at a time takes turns with CLIP ViT-B/32, so that a slow minute of the machine affects both. The largest
word embedding, of 901,629 tokens, takes 1.8 GB, and the process 4.4 GB. The time is that of the processor, so that it
means most on one core (`OMP_NUM_THREADS=1`).
"""

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.measurement import Function, format_report, time_in_turn, write_text
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.encoding_r2tuning import EncodedVideo
from modeling_r2tuning.tower_specs_r2tuning import TOWER_SPECS


REFERENCE = "clip"
FRAMES = 8  # encoded at once
VIDEO_FRAMES = 75  # of the video that is queried, 150 seconds as in QVHighlights
WORDS = 12  # tokens of the query
MEGA = 1e6
BYTES = 2  # of a number in the cache, which is in half precision

ORIGINS = {
    "default": "defaults of transformers",
    "checkpoint": "the checkpoint, whose number of parameters was reproduced",
    "unverified": "unverified: a port's defaults, the checkpoint's own configuration was not at hand",
}


@dataclass(frozen=True)
class Backbone:
    """A backbone to measure.

    Args:
        model_type: Its kind.
        vision: Sizes of the image encoder that differ from transformers' defaults.
        text: Sizes of the text encoder that differ from transformers' defaults.
        origin: Where the sizes come from, a key of `ORIGINS`.
    """

    model_type: str
    vision: dict[str, int] = field(default_factory=dict)
    text: dict[str, int] = field(default_factory=dict)
    origin: str = "default"

    def make_config(self) -> R2TuningConfig:
        """R2-Tuning with its default settings on this backbone."""
        vision_class, text_class = TOWER_SPECS[self.model_type].encoder_configs
        return R2TuningConfig(vision_config=vision_class(**self.vision), text_config=text_class(**self.text))


BACKBONES = {
    **{model_type: Backbone(model_type) for model_type in TOWER_SPECS},
    "google/siglip2-base-patch16-256": Backbone(
        "siglip", {"image_size": 256}, {"vocab_size": 256_000}, origin="checkpoint"
    ),
    "facebook/metaclip-2-worldwide-b32": Backbone("metaclip_2", {}, {"vocab_size": 901_629}, origin="unverified"),
}


# ---- one backbone ----------------------------------------------------------------------------------------------------


class Subject:
    """A model of random weights, and the two calls that are timed."""

    def __init__(self, backbone: Backbone):
        torch.manual_seed(0)
        self.config = backbone.make_config()
        self.model = R2TuningForVideoGrounding(self.config).eval()
        size = self.config.vision_config.image_size
        self.pixels = torch.randn(1, FRAMES, 3, size, size)
        self.video = self._encode_random_states()
        self.text = self._make_query()

    def _encode_random_states(self) -> EncodedVideo:
        """An encoded video of random hidden states, which take no time to encode."""
        shape = (VIDEO_FRAMES, *self.encode()[0, :1].shape[1:])
        return self.model.encode_video(video_hidden_states=torch.randn(shape))

    def _make_query(self) -> dict[str, torch.Tensor]:
        """Random tokens, padded as the processor pads."""
        fixed = self.config.tower_spec.text_attention == "fixed_length"
        length = self.config.max_text_length if fixed else WORDS
        ids = torch.randint(3, self.config.text_config.vocab_size, (1, length))
        return {"input_ids": ids, "attention_mask": torch.arange(length)[None] < WORDS}

    @torch.no_grad()
    def encode(self) -> torch.Tensor:
        """Hidden states of the frames."""
        return self.model.get_video_hidden_states(self.pixels)

    @torch.no_grad()
    def query(self) -> Any:
        """One query of the encoded video, its text encoded too."""
        return self.model.ground(self.video, **self.text)

    def sizes(self) -> dict[str, float]:
        """Numbers of parameters and tokens, and bytes in the cache."""
        states = self.encode()
        counts = {True: 0, False: 0}
        for parameter in self.model.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        return {
            "learned parameters": counts[True],
            "frozen parameters": counts[False],
            "tokens per frame": states.shape[3],
            "cache, bytes per frame": states[0, 0].numel() * BYTES,
        }


def measure(name: str, reference: Subject, repeats: int) -> dict[str, Any]:
    """Sizes of a backbone, and its speeds in absolute terms and as ratios to the reference."""
    backbone = BACKBONES[name]
    subject = Subject(backbone)
    functions: dict[str, Function] = {
        "encode": subject.encode,
        "query": subject.query,
        "reference encode": reference.encode,
        "reference query": reference.query,
    }
    seconds = {key: value.processor for key, value in time_in_turn(functions, repeats).items()}
    vision = subject.config.vision_config
    return {
        "kind": backbone.model_type,
        "origin": backbone.origin,
        "image size": vision.image_size,
        "patch size": vision.patch_size,
        **subject.sizes(),
        "frames per processor second": FRAMES / seconds["encode"],
        "frames per second, ratio to CLIP ViT-B/32": seconds["reference encode"] / seconds["encode"],
        "processor seconds of a query": seconds["query"],
        "seconds of a query, ratio to CLIP ViT-B/32": seconds["query"] / seconds["reference query"],
    }


# ---- all backbones ---------------------------------------------------------------------------------------------------

# Head of a column and the text of its cell.
COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "kind": lambda row: f"`{row['kind']}`",
    "image / patch": lambda row: f"{row['image size']} / {row['patch size']}",
    "tokens per frame": lambda row: str(row["tokens per frame"]),
    "backbone, M parameters": lambda row: f"{row['frozen parameters'] / MEGA:.1f}",
    "learned, M parameters": lambda row: f"{row['learned parameters'] / MEGA:.2f}",
    "frames per second, × CLIP": lambda row: f"{row['frames per second, ratio to CLIP ViT-B/32']:.2f}",
    "cache, kB per frame": lambda row: f"{row['cache, bytes per frame'] / 1000:.0f}",
    "time of a query, × CLIP": lambda row: f"{row['seconds of a query, ratio to CLIP ViT-B/32']:.2f}",
}


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [f"| backbone | {' | '.join(COLUMNS)} |", f"|{'---|' * (1 + len(COLUMNS))}"]
    for name, row in rows.items():
        title = f"{TOWER_SPECS[name].title}, defaults" if row["origin"] == "default" else f"`{name}`"
        if row["origin"] == "unverified":
            title += " (sizes unverified)"
        cells = [title, *(make_cell(row) for make_cell in COLUMNS.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print or write the table."""
    args = make_parser().parse_args()
    transformers_logging.set_verbosity_error()
    reference = Subject(BACKBONES[REFERENCE])
    rows = {}
    for name in BACKBONES:
        sys.stderr.write(f"{name}\n")
        rows[name] = measure(name, reference, args.repeats)
        gc.collect()  # one backbone is in memory at a time, beside the reference
    report = {"threads": torch.get_num_threads(), "frames": FRAMES, "words": WORDS, "origins": ORIGINS, "rows": rows}
    table = format_table(rows)
    sys.stdout.write(table)
    if args.output is not None:
        write_text(args.output, format_report(report))
        write_text(args.output.with_suffix(".md"), table)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write; the table stands beside it, as .md")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions (default: 3)")
    return parser


if __name__ == "__main__":
    main()
