"""What tokens of CLIP's layers tell of the objects in a frame of Moving Shapes, by linear probes.

python benchmarks/probe.py DATA --features CACHE

A method that makes one vector of a frame can gain as much as other tokens tell more than the last layer's CLS token.
Printed is the mean average precision (AP, 0 to 100) over the frames of val, for what is told of each colour and shape:
that it is there, at which side, of which size.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from dataset_scripts.moving_shapes.queries import SIDES, observe
from dataset_scripts.moving_shapes.scenes import COMBINATIONS, FPS, make_scene
from r2tuning.features.files import load_features, video_path
from r2tuning.features.settings import read_settings


NAMES = [" ".join(combination) for combination in COMBINATIONS]
ASKED = {"presence": ("there",), "side": SIDES, "size": ("small", "large")}
COLUMNS = [word for words in ASKED.values() for word in words]
FEWEST_TRAIN, FEWEST_VAL = 20, 5  # frames of which something must be true to be asked
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 1500, 256, 3e-3, 1e-2
RARE, RARE_PATCH = -3.0, -7.0  # where the bias begins: a frame, or a patch, shows little of all that there is

# Of states (num_frames, num_layers, num_tokens, hidden), CLS first. A probe of several tokens is asked of the best.
READERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "last layer, CLS": lambda states: states[:, -1, :1],
    "all layers, CLS": lambda states: states[:, :, 0].flatten(1)[:, None],
    "last layer, mean of patches": lambda states: states[:, -1, 1:].float().mean(1, keepdim=True),
    "all layers, CLS and mean of patches": lambda states: torch.cat(
        [states[:, :, 0].float(), states[:, :, 1:].float().mean(2)], dim=2
    ).flatten(1)[:, None],
    "last layer, best of all tokens": lambda states: states[:, -1],
}


def main() -> None:
    """Probe every reader, print JSON."""
    args = make_parser().parse_args()
    seed = json.loads((args.data / "moving_shapes.json").read_text(encoding="utf-8"))["seed"]
    fps = read_settings(args.features)["fps"]
    sets = [
        load_frames(args.features, seed, split, count, fps)
        for split, count in (("train", args.videos_train), ("val", args.videos_val))
    ]
    found = {}
    for name, read in READERS.items():
        torch.manual_seed(args.seed)
        (train_tokens, train_truth), (val_tokens, val_truth) = ((read(states), truth) for states, truth in sets)
        probe = fit_probe(train_tokens, train_truth, name)
        found[name] = score(probe(val_tokens), train_truth, val_truth)
    document = {"command": shlex.join(["python", *sys.argv]), "videos": [args.videos_train, args.videos_val]}
    sys.stdout.write(json.dumps({**document, "average_precision": found}, indent=2) + "\n")


def load_frames(cache: Path, seed: int, split: str, num_videos: int, fps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """States `(num_frames, num_layers, num_tokens, hidden)` of many videos, and truth `(num_frames, names, columns)`."""
    states, truth = [], []
    for index in tqdm(range(num_videos), f"frames of {split}", leave=False):
        features, _ = load_features(video_path(cache, f"{split}_{index:05d}"))
        scene = make_scene(seed, split, index)
        numbers = (np.arange(len(features)) / fps * FPS).round().astype(int)
        states.append(features)
        truth.append(tell(scene, np.minimum(numbers, scene.num_frames - 1)))
    return torch.cat(states), torch.cat(truth)


def tell(scene, numbers: np.ndarray) -> torch.Tensor:
    """What is true of each colour and shape in some pictures of a scene, `(num_frames, names, columns)`, 0 or 1."""
    truth = torch.zeros(len(numbers), len(NAMES), len(COLUMNS))
    for facts in observe(scene):
        there = facts.visible.true
        told = [there] + [there & fact.true for fact in (*facts.sides.values(), *facts.sizes.values())]
        found = torch.from_numpy(np.stack(told, axis=1)[numbers]).float()
        name = NAMES.index(facts.name)
        truth[:, name] = torch.maximum(truth[:, name], found)
    return truth


def fit_probe(tokens: torch.Tensor, truth: torch.Tensor, name: str = "") -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear probe of standardised tokens `(num_frames, num_tokens, width)`; of several, it tells the highest, softly.

    Returns:
        From such tokens to logits `(num_frames, names * columns)`.
    """
    flat, target = tokens.float().flatten(0, 1), truth.flatten(1)
    mean, std = flat.mean(0), flat.std(0) + 1e-4
    linear = nn.Linear(tokens.shape[-1], target.shape[1])
    nn.init.constant_(linear.bias, RARE if tokens.shape[1] == 1 else RARE_PATCH)

    def probe(some: torch.Tensor) -> torch.Tensor:
        return linear((some.float() - mean) / std).logsumexp(dim=1)

    optimizer = torch.optim.AdamW(linear.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in tqdm(range(STEPS), name, leave=False):
        chosen = torch.randint(len(tokens), (BATCH,))
        losses = F.binary_cross_entropy_with_logits(probe(tokens[chosen]), target[chosen], reduction="none")
        optimizer.zero_grad()
        losses.sum(dim=1).mean().backward()
        optimizer.step()
        schedule.step()
    return lambda some: torch.cat([probe(part).detach() for part in some.split(BATCH)])


def score(logits: torch.Tensor, train_truth: torch.Tensor, val_truth: torch.Tensor) -> dict[str, float]:
    """Mean average precision of what is true often enough, by what is asked."""
    often = (train_truth.sum(0) >= FEWEST_TRAIN) & (val_truth.sum(0) >= FEWEST_VAL)
    logits = logits.unflatten(1, often.shape)
    found = {}
    for group, words in ASKED.items():
        columns = [COLUMNS.index(word) for word in words]
        pairs = [(name, column) for column in columns for name in often[:, column].nonzero().flatten().tolist()]
        values = [average_precision(logits[:, name, column], val_truth[:, name, column]) for name, column in pairs]
        found[group] = round(100 * float(np.mean(values)), 1)
    return found


def average_precision(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean precision at each true one, `(n,)` each, the highest score first."""
    ranked = truth[scores.argsort(descending=True, stable=True)]
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    return (precision * ranked).sum().item() / ranked.sum().item()


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="folder that `python -m dataset_scripts.moving_shapes` wrote"
    )
    parser.add_argument("--features", type=Path, required=True, metavar="CACHE", help="feature cache of a CLIP")
    parser.add_argument("--videos-train", type=int, default=400, help="videos to fit to (default: 400)")
    parser.add_argument("--videos-val", type=int, default=100, help="videos of val to score on (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the batches and first weights (default: 0)")
    return parser


if __name__ == "__main__":
    main()
