"""Speed of feature extraction against a plain loop, ViT-B/32-sized, as ratios within one run.

python benchmarks/extraction.py VIDEO [VIDEO ...] [--fps 0.5]

The plain loop decodes every frame with PyAV, keeps every n-th, runs transformers' image processor and vision model on
all of them with `output_hidden_states=True`, and saves the last four states with NumPy.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from transformers import CLIPImageProcessor, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.features.extraction import extract
from r2tuning.features.jobs import VideoJob
from r2tuning.features.settings import prepare_folder
from r2tuning.features.store import FeatureStore, feature_settings


@torch.no_grad()
def plain_loop(model: R2TuningForVideoGrounding, image_processor, videos: list[str], fps: float, folder: Path) -> int:
    """Features of all videos as one would write it down first; returns the number of frames."""
    count = 0
    for index, video in enumerate(videos):
        frames = []
        with av.open(video) as container:
            step = float(container.streams.video[0].average_rate) / fps
            for number, frame in enumerate(container.decode(video=0)):
                if number >= len(frames) * step:
                    frames.append(frame.to_ndarray(format="rgb24"))
        pixels = image_processor(frames, return_tensors="pt")["pixel_values"]
        states = model.vision_model(pixels, output_hidden_states=True).hidden_states[-4:]
        np.save(folder / f"{index}.npy", torch.stack(states, dim=1).half().numpy())
        count += len(frames)
    return count


def our_extraction(store: FeatureStore, videos: list[str], fps: float) -> int:
    """The same by `extract`, all files anew; returns the number of frames."""
    for path in store.folder.glob("videos/*"):
        path.unlink()
    jobs = [VideoJob(str(index), video, fps, 1, False) for index, video in enumerate(videos)]
    return extract(jobs, store, None).num_frames


def read_only(store: FeatureStore, videos: list[str], fps: float) -> int:
    """Our reading without encoding; returns the number of frames."""
    count = 0
    for index, video in enumerate(videos):
        stream, *pieces = store.read(VideoJob(str(index), video, fps, 1, False))
        count += sum(map(len, pieces))
    return count


def measure(functions: dict, repeats: int) -> dict[str, dict[str, float]]:
    """Median speeds of each function, run in turn so that a slow minute hits all alike."""
    wall, processor = ({name: [] for name in functions} for _ in range(2))
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start, processor_start = time.perf_counter(), time.process_time()
            count = function()
            wall[name].append((time.perf_counter() - start) / count)
            processor[name].append((time.process_time() - processor_start) / count)
    return {
        name: {
            "frames per second": 1 / statistics.median(wall[name][1:]),
            "frames per processor second": 1 / statistics.median(processor[name][1:]),
        }
        for name in functions
    }


def make_store(folder: Path, dtype: str, fps: float) -> FeatureStore:
    """A store with random weights."""
    torch.manual_seed(0)
    model = R2TuningForVideoGrounding(R2TuningConfig()).eval()
    tokenizer = CLIPTokenizer({"<|startoftext|>": 0, "<|endoftext|>": 1}, [])
    processor = R2TuningProcessor(CLIPImageProcessor(), tokenizer, fps=fps)
    settings = feature_settings(model, processor, "qvhighlights", fps, dtype, "random")
    prepare_folder(folder, settings)
    model.vision_model.to(getattr(torch, dtype))
    return FeatureStore(folder, model, processor, settings)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    parser.add_argument("--fps", type=float, default=0.5, help="frames per second (default: 0.5)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions (default: 3)")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        exact, fast = (make_store(folder / dtype, dtype, args.fps) for dtype in ("float32", "bfloat16"))
        image_processor = exact.processor.image_processor
        functions = {
            "plain loop": lambda: plain_loop(exact.model, image_processor, args.videos, args.fps, folder),
            "ours": lambda: our_extraction(exact, args.videos, args.fps),
            "ours, bfloat16": lambda: our_extraction(fast, args.videos, args.fps),
            "ours, reading only": lambda: read_only(exact, args.videos, args.fps),
        }
        rates = measure(functions, args.repeats)
    report = {
        "command": " ".join(["benchmarks/extraction.py", *sys.argv[1:]]),
        **rates,
        "ratios to the plain loop": {
            name: {unit: value / rates["plain loop"][unit] for unit, value in row.items()}
            for name, row in rates.items()
        },
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(report, indent=2))  # noqa: T201 (a script's result)


if __name__ == "__main__":
    main()
