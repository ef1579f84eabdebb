"""Speed of feature extraction against a plain loop, ViT-B/32-sized, as ratios within one run.

python -m benchmarks.extraction VIDEO [VIDEO ...] [--fps 0.5]

The plain loop decodes every frame with PyAV, keeps every n-th, runs transformers' image processor and vision model on
all of them with `output_hidden_states=True`, and saves the last four states with NumPy.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from transformers import BaseImageProcessor, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from benchmarks.measurement import Function, print_report, time_in_turn
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.processing_r2tuning import make_image_processor
from r2tuning.features.extraction import extract
from r2tuning.features.jobs import VideoJob
from r2tuning.features.settings import prepare_folder
from r2tuning.features.store import FeatureStore, feature_settings


@torch.no_grad()
def plain_loop(
    model: R2TuningForVideoGrounding, image_processor: BaseImageProcessor, videos: list[str], fps: float, folder: Path
) -> None:
    """Compute the features of all videos in the most obvious way."""
    for index, video in enumerate(videos):
        frames: list[np.ndarray] = []
        with av.open(video) as container:
            step = float(container.streams.video[0].average_rate) / fps
            for number, frame in enumerate(container.decode(video=0)):
                if number >= len(frames) * step:
                    frames.append(frame.to_ndarray(format="rgb24"))
        pixels = image_processor(frames, return_tensors="pt")["pixel_values"]
        states = model.vision_model(pixels, output_hidden_states=True).hidden_states[-4:]
        np.save(folder / f"{index}.npy", torch.stack(states, dim=1).half().numpy())


def our_extraction(store: FeatureStore, videos: list[str], fps: float) -> int:
    """The same by `extract`, into an empty folder; returns the number of frames."""
    for path in store.folder.glob("videos/*"):
        path.unlink()
    jobs = [VideoJob(str(index), video, fps, 1, False) for index, video in enumerate(videos)]
    return extract(jobs, store, None).num_frames


def read_only(store: FeatureStore, videos: list[str], fps: float) -> None:
    """Read as `extract` does, without encoding."""
    for index, video in enumerate(videos):
        for _ in store.read(VideoJob(str(index), video, fps, 1, False)):
            pass


def measure(functions: dict[str, Function], num_frames: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median speeds of each function by wall-clock and by processor time."""
    rates = {}
    for name, seconds in time_in_turn(functions, repeats).items():
        rates[name] = {
            "frames per second": num_frames / seconds.wall,
            "frames per processor second": num_frames / seconds.processor,
        }
    return rates


def make_store(folder: Path, dtype: str, fps: float) -> FeatureStore:
    """A store with random weights."""
    torch.manual_seed(0)
    model = R2TuningForVideoGrounding(R2TuningConfig()).eval()
    tokenizer = CLIPTokenizer({"<|startoftext|>": 0, "<|endoftext|>": 1}, [])
    processor = R2TuningProcessor(make_image_processor(), tokenizer, fps=fps)
    settings = feature_settings(model, processor, "qvhighlights", fps, dtype, "random")
    prepare_folder(folder, settings)
    model.vision_model.to(getattr(torch, dtype))
    return FeatureStore(folder, model, processor, settings)


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    transformers_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact = make_store(folder / "float32", "float32", args.fps)
        fast = make_store(folder / "bfloat16", "bfloat16", args.fps)
        image_processor = exact.processor.image_processor
        functions: dict[str, Function] = {
            "plain loop": partial(plain_loop, exact.model, image_processor, args.videos, args.fps, folder),
            "ours": partial(our_extraction, exact, args.videos, args.fps),
            "ours, bfloat16": partial(our_extraction, fast, args.videos, args.fps),
            "ours, reading only": partial(read_only, exact, args.videos, args.fps),
        }
        num_frames = our_extraction(exact, args.videos, args.fps)
        rates = measure(functions, num_frames, args.repeats)
    ratios = {name: ratios_to(rates["plain loop"], row) for name, row in rates.items()}
    print_report({**rates, "ratios to the plain loop": ratios, "threads": torch.get_num_threads()})


def ratios_to(reference: dict[str, float], row: dict[str, float]) -> dict[str, float]:
    """Each speed divided by that of the reference."""
    return {unit: value / reference[unit] for unit, value in row.items()}


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    parser.add_argument("--fps", type=float, default=0.5, help="frames per second (default: 0.5)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions (default: 3)")
    return parser


if __name__ == "__main__":
    main()
