"""Samples per second of training from a feature cache, against the same steps on batches that already lie in memory.

python benchmarks/training.py [--size vit-b-32] [--batch 8] [--videos 24] [--workers 1] [--repeats 3]

The cache and the CLIP are random and written to a temporary folder; only times mean anything. Epochs of the loader and
of memory take turns, so that a slow minute hits both; the loader's first epoch begins with nothing read ahead.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from r2tuning.training.config import TrainingConfig, read_preset
from r2tuning.training.loop import train_step
from r2tuning.training.preparation import prepare_run
from r2tuning.training.training_run import TrainingRun


# Only what decides the size of features: four layers of the encoders do.
SIZES = {
    "vit-b-32": {
        "clip": {
            "vision_config": {"num_hidden_layers": 4},
            "text_config": {"num_hidden_layers": 4, "vocab_size": 512},
        },
        "preset": "qvhighlights",
        "frames": 75,
    },
    "moving-shapes": {
        "clip": {
            "vision_config": {
                **{"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4},
                **{"image_size": 64, "patch_size": 8},
            },
            "text_config": {
                **{"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4},
                "vocab_size": 512,
            },
        },
        "preset": "moving_shapes",
        "frames": 48,
    },
}
WORDS = 12


def write_data(folder: Path, size: dict, num_videos: int, queries: int):
    """Write CLIP, annotations, and a cache in the form of the published ones."""
    clip = CLIPModel(CLIPConfig(**size["clip"]))
    tokens = {f"{number}</w>": number for number in range(510)} | {"<|startoftext|>": 510, "<|endoftext|>": 511}
    for part in (clip, CLIPTokenizer(tokens, []), CLIPImageProcessor()):
        part.save_pretrained(folder / "clip")
    vision, text = clip.config.vision_config, clip.config.text_config
    num_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    generator = np.random.default_rng(0)
    states = generator.standard_normal((size["frames"], 4, num_tokens, vision.hidden_size)).astype(np.float16)
    words = generator.standard_normal((WORDS, 4, text.hidden_size)).astype(np.float16)
    for name in ("clip_b32_vid_k4", "clip_b32_txt_k4"):
        (folder / name).mkdir()
    lines = []
    for video in range(num_videos):
        np.save(folder / f"clip_b32_vid_k4/{video}.npy", np.roll(states, video, axis=0))
        for query in range(queries):
            qid = video * queries + query
            np.save(folder / f"clip_b32_txt_k4/{qid}.npy", words)
            duration = 2 * size["frames"]
            line = {"qid": qid, "query": f"{qid}", "vid": f"{video}", "duration": duration}
            lines.append({**line, "relevant_windows": [[2 * query, duration // 2]]})
    (folder / "highlight_train_release.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class Waiting:
    """An iterator that adds up the seconds until each item comes."""

    def __init__(self, batches: Iterable):
        self.batches, self.seconds = iter(batches), 0.0

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - start
        return batch


def time_epoch(run: TrainingRun, batches: Waiting) -> tuple[float, float]:
    """Seconds of one epoch, and the share of them that was spent waiting for batches."""
    start, waited = time.perf_counter(), batches.seconds
    for _ in range(run.plan.steps_per_epoch):
        train_step(run, batches)
    seconds = time.perf_counter() - start
    return seconds, (batches.seconds - waited) / seconds


def measure(run: TrainingRun, repeats: int) -> dict:
    """Medians of an epoch from memory, of the loader's first epoch and of its second."""
    in_memory = list(itertools.islice(run.batches(), run.plan.steps_per_epoch))
    epochs = {"memory": [], "loader, first epoch": [], "loader, second epoch": []}
    time_epoch(run, Waiting(in_memory))  # warm-up
    for _ in range(repeats):
        batches = Waiting(run.batches())
        epochs["loader, first epoch"].append(time_epoch(run, batches))
        epochs["loader, second epoch"].append(time_epoch(run, batches))
        epochs["memory"].append(time_epoch(run, Waiting(in_memory)))
    rates, shares = {}, {}
    for name, times in epochs.items():
        rates[name] = len(run.data) / statistics.median(seconds for seconds, _ in times)
        shares[name] = statistics.median(share for _, share in times)
    return {
        "steps of an epoch": run.plan.steps_per_epoch,
        "samples per second": rates,
        "share of time spent waiting": shares,
        "loader / memory": rates["loader, second epoch"] / rates["memory"],
    }


def main():
    """Write the data, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="vit-b-32", help="features and preset (default: vit-b-32)")
    parser.add_argument("--videos", type=int, default=24, help="videos of the training set (default: 24)")
    parser.add_argument("--batch", type=int, default=8, help="queries of a step (default: 8)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default: 1)")
    parser.add_argument("--repeats", type=int, default=3, help="times that all is measured (default: 3)")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    size = SIZES[args.size]
    preset = {
        **read_preset(size["preset"]),
        "benchmark": "qvhighlights",
        "epochs": 3 * args.repeats + 1,
        "repeat_factor": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), size, args.videos, preset.get("queries_per_video", 1))
        places = {"data_dir": folder, "features": folder, "backbone": f"{folder}/clip", "output_dir": f"{folder}/run"}
        settings = {"batch_size": args.batch, "num_workers": args.workers, "eval_split": None, "cpu": True}
        run = prepare_run(TrainingConfig(**{**preset, **places, **settings}))
        report = {"command": " ".join(sys.argv), **measure(run, args.repeats)}
    print(json.dumps(report, indent=2))  # noqa: T201 (a script's result)


if __name__ == "__main__":
    main()
