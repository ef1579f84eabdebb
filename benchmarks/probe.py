"""What the tokens of CLIP's layers reveal about the objects in a frame of Moving Shapes, by linear probes.

python -m benchmarks.probe DATA --features CACHE

A method that makes one vector of a frame can gain only what other tokens reveal beyond the last layer's CLS token.
Prints the mean average precision (AP, 0 to 100) over the validation frames for each colour and shape: whether it is
visible, at which side, and of which size.
"""

import argparse
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from benchmarks.measurement import print_report
from dataset_scripts.moving_shapes.generate import SETTINGS_FILE
from dataset_scripts.moving_shapes.queries import SIDES, observe
from dataset_scripts.moving_shapes.scenes import COMBINATIONS, FPS, Scene, make_scene
from r2tuning.features.files import load_features, video_path
from r2tuning.features.settings import read_settings


NAMES = [" ".join(combination) for combination in COMBINATIONS]
ASKED = {"presence": ("there",), "side": SIDES, "size": ("small", "large")}
COLUMNS = list(chain.from_iterable(ASKED.values()))
FEWEST_TRAIN, FEWEST_VAL = 20, 5  # frames for which something must be true to be asked
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 1500, 256, 3e-3, 1e-2
RARE, RARE_PATCH = -3.0, -7.0  # initial bias: a frame, and still more a patch, shows few of all objects


# ---- tokens, from states (num_frames, num_layers, num_tokens, hidden), CLS first -----------------------------------


def last_cls(states: torch.Tensor) -> torch.Tensor:
    """CLS of the last layer, `(num_frames, 1, hidden)`."""
    return states[:, -1, :1]


def all_cls(states: torch.Tensor) -> torch.Tensor:
    """CLS of all layers in one vector, `(num_frames, 1, num_layers * hidden)`."""
    return states[:, :, 0].flatten(1)[:, None]


def mean_of_patches(states: torch.Tensor) -> torch.Tensor:
    """Mean patch of the last layer, `(num_frames, 1, hidden)`."""
    return states[:, -1, 1:].float().mean(1, keepdim=True)


def all_cls_and_means(states: torch.Tensor) -> torch.Tensor:
    """CLS and mean patch of all layers in one vector, `(num_frames, 1, num_layers * 2 * hidden)`."""
    both = torch.cat([states[:, :, 0].float(), states[:, :, 1:].float().mean(2)], dim=2)
    return both.flatten(1)[:, None]


def all_tokens(states: torch.Tensor) -> torch.Tensor:
    """Every token of the last layer, `(num_frames, num_tokens, hidden)`; the best one answers."""
    return states[:, -1]


READERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "last layer, CLS": last_cls,
    "all layers, CLS": all_cls,
    "last layer, mean of patches": mean_of_patches,
    "all layers, CLS and mean of patches": all_cls_and_means,
    "last layer, best of all tokens": all_tokens,
}


# ---- probes --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Probe every reader, print JSON."""
    args = make_parser().parse_args()
    seed = json.loads((args.data / SETTINGS_FILE).read_text(encoding="utf-8"))["seed"]
    fps = read_settings(args.features)["fps"]
    train_states, train_truth = load_frames(args.features, seed, "train", args.videos_train, fps)
    val_states, val_truth = load_frames(args.features, seed, "val", args.videos_val, fps)
    found = {}
    for name, read in READERS.items():
        torch.manual_seed(args.seed)
        probe = fit_probe(read(train_states), train_truth, name)
        found[name] = score(probe(read(val_states)), train_truth, val_truth)
    print_report({"videos": [args.videos_train, args.videos_val], "average_precision": found})


def load_frames(cache: Path, seed: int, split: str, num_videos: int, fps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """States `(num_frames, num_layers, num_tokens, hidden)` of many videos, and truth `(num_frames, names, columns)`."""
    states, truth = [], []
    for index in tqdm(range(num_videos), f"frames of {split}", leave=False):
        features, _ = load_features(video_path(cache, f"{split}_{index:05d}"))
        scene = make_scene(seed, split, index)
        numbers = (np.arange(len(features)) / fps * FPS).round().astype(int)
        states.append(features)
        truth.append(describe(scene, np.minimum(numbers, scene.num_frames - 1)))
    return torch.cat(states), torch.cat(truth)


def describe(scene: Scene, numbers: np.ndarray) -> torch.Tensor:
    """What is true of each colour and shape in some frames of a scene, `(num_frames, names, columns)`, 0 or 1."""
    truth = torch.zeros(len(numbers), len(NAMES), len(COLUMNS))
    for facts in observe(scene):
        there = facts.visible.true
        columns = [there]
        for fact in (*facts.sides.values(), *facts.sizes.values()):
            columns.append(there & fact.true)
        found = torch.from_numpy(np.stack(columns, axis=1)[numbers]).float()
        name = NAMES.index(facts.name)
        truth[:, name] = torch.maximum(truth[:, name], found)
    return truth


def fit_probe(tokens: torch.Tensor, truth: torch.Tensor, name: str = "") -> Callable[[torch.Tensor], torch.Tensor]:
    """Train a linear probe of standardised tokens `(num_frames, num_tokens, width)`; several share a soft maximum.

    Returns:
        A function from such tokens to logits `(num_frames, names * columns)`.
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
    """Mean average precision for each question, over the answers that are true often enough."""
    often = (train_truth.sum(0) >= FEWEST_TRAIN) & (val_truth.sum(0) >= FEWEST_VAL)
    logits = logits.unflatten(1, often.shape)
    found = {}
    for group, words in ASKED.items():
        values = []
        for word in words:
            column = COLUMNS.index(word)
            for name in often[:, column].nonzero().flatten().tolist():
                values.append(average_precision(logits[:, name, column], val_truth[:, name, column]))
        found[group] = round(100 * float(np.mean(values)), 1)
    return found


def average_precision(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean precision at each true element, in descending order of score; `(n,)` each."""
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
    parser.add_argument("--videos-train", type=int, default=400, help="videos to train on (default: 400)")
    parser.add_argument("--videos-val", type=int, default=100, help="validation videos (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the batches and initial weights (default: 0)")
    return parser


if __name__ == "__main__":
    main()
