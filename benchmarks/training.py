"""Samples per second of training from a feature cache, against the same steps on batches in memory.

python -m benchmarks.training [--size vit-b-32] [--batch 8] [--videos 24] [--workers 1] [--repeats 3]

The cache and the CLIP are random and written to a temporary folder; only times mean anything. Epochs of the loader and
from memory take turns, so that a slow minute hits both; the loader's first epoch starts with nothing prefetched.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from benchmarks.measurement import print_report
from modeling_r2tuning.processing_r2tuning import make_image_processor
from r2tuning.training.config import TrainingConfig, read_preset
from r2tuning.training.loop import train_step
from r2tuning.training.preparation import prepare_run
from r2tuning.training.training_run import TrainingRun


SMALL_ENCODER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
# A cache holds four layers, so the encoders have no more.
SIZES: dict[str, dict[str, Any]] = {
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
            "vision_config": {**SMALL_ENCODER, "image_size": 64, "patch_size": 8},
            "text_config": {**SMALL_ENCODER, "vocab_size": 512},
        },
        "preset": "moving_shapes",
        "frames": 48,
    },
}
WORDS = 12


def write_data(folder: Path, size: dict[str, Any], num_videos: int, queries_per_video: int) -> None:
    """Write CLIP, annotations, and a cache in the published form."""
    clip = CLIPModel(CLIPConfig(**size["clip"]))
    write_clip(folder / "clip", clip)
    write_features(folder, clip, size["frames"], num_videos, queries_per_video)
    write_annotations(folder, 2 * size["frames"], num_videos, queries_per_video)


def write_clip(folder: Path, clip: CLIPModel) -> None:
    """A CLIP with a tokenizer whose words are numbers."""
    tokens = {f"{number}</w>": number for number in range(510)}
    tokens |= {"<|startoftext|>": 510, "<|endoftext|>": 511}
    for part in (clip, CLIPTokenizer(tokens, []), make_image_processor()):
        part.save_pretrained(folder)


def write_features(folder: Path, clip: CLIPModel, num_frames: int, num_videos: int, queries_per_video: int) -> None:
    """Random hidden states of every video and query."""
    vision, text = clip.config.vision_config, clip.config.text_config
    num_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    generator = np.random.default_rng(0)
    states = generator.standard_normal((num_frames, 4, num_tokens, vision.hidden_size)).astype(np.float16)
    words = generator.standard_normal((WORDS, 4, text.hidden_size)).astype(np.float16)
    video_folder, text_folder = folder / "clip_b32_vid_k4", folder / "clip_b32_txt_k4"
    video_folder.mkdir()
    text_folder.mkdir()
    for video in range(num_videos):
        np.save(video_folder / f"{video}.npy", np.roll(states, video, axis=0))
    for qid in range(num_videos * queries_per_video):
        np.save(text_folder / f"{qid}.npy", words)


def write_annotations(folder: Path, duration: int, num_videos: int, queries_per_video: int) -> None:
    """Annotations in the form of QVHighlights."""
    lines = []
    for qid in range(num_videos * queries_per_video):
        video, query = divmod(qid, queries_per_video)
        line = {"qid": qid, "query": f"{qid}", "vid": f"{video}", "duration": duration}
        line["relevant_windows"] = [[2 * query, duration // 2]]
        lines.append(json.dumps(line) + "\n")
    (folder / "highlight_train_release.jsonl").write_text("".join(lines))


class WaitTimer:
    """An iterator that adds up the seconds until each item arrives."""

    def __init__(self, batches: Iterable[dict[str, Any]]):
        self.batches = iter(batches)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        start = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - start
        return batch


def time_epoch(run: TrainingRun, batches: WaitTimer) -> tuple[float, float]:
    """Seconds of one epoch, and the share of them that was spent waiting for batches."""
    start, waited = time.perf_counter(), batches.seconds
    for _ in range(run.plan.steps_per_epoch):
        train_step(run, batches)
    seconds = time.perf_counter() - start
    return seconds, (batches.seconds - waited) / seconds


def measure(run: TrainingRun, repeats: int) -> dict[str, Any]:
    """Medians of an epoch from memory, of the loader's first epoch and of its second."""
    in_memory = list(itertools.islice(run.batches(), run.plan.steps_per_epoch))
    epochs: dict[str, list[tuple[float, float]]] = {
        "memory": [],
        "loader, first epoch": [],
        "loader, second epoch": [],
    }
    time_epoch(run, WaitTimer(in_memory))  # warm-up
    for _ in range(repeats):
        batches = WaitTimer(run.batches())
        epochs["loader, first epoch"].append(time_epoch(run, batches))
        epochs["loader, second epoch"].append(time_epoch(run, batches))
        epochs["memory"].append(time_epoch(run, WaitTimer(in_memory)))
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


def main() -> None:
    """Write the data, measure and print."""
    args = make_parser().parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    size = SIZES[args.size]
    settings = {
        **read_preset(size["preset"]),
        "benchmark": "qvhighlights",
        "epochs": 3 * args.repeats + 1,
        "repeat_factor": 1,
        "batch_size": args.batch,
        "num_workers": args.workers,
        "eval_split": None,
        "cpu": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), size, args.videos, settings.get("queries_per_video", 1))
        run = prepare_run(
            TrainingConfig(
                **settings, data_dir=folder, features=folder, backbone=f"{folder}/clip", output_dir=f"{folder}/run"
            )
        )
        report = measure(run, args.repeats)
    print_report(report)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="vit-b-32", help="features and preset (default: vit-b-32)")
    parser.add_argument("--videos", type=int, default=24, help="videos of the training set (default: 24)")
    parser.add_argument("--batch", type=int, default=8, help="queries of a step (default: 8)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default: 1)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions (default: 3)")
    return parser


if __name__ == "__main__":
    main()
