"""Time to decode, encode and query one video with a ViT-B/32-sized model of random weights.

python -m benchmarks.grounding video.mp4 [--fps 0.5] [--dtype float32] [--queries 10]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from transformers import CLIPTokenizer

from benchmarks.measurement import print_report
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor, load_video_frames
from modeling_r2tuning.processing_r2tuning import make_image_processor


Result = TypeVar("Result")


def time_repeatedly(function: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """Median seconds without the first run, and the result of the last."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), result


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    model = R2TuningForVideoGrounding(R2TuningConfig()).eval()
    model.vision_model.to(getattr(torch, args.dtype))
    model.text_model.to(getattr(torch, args.dtype))
    tokenizer = CLIPTokenizer({"<|startoftext|>": 0, "<|endoftext|>": 1}, [])  # queries are random tokens
    processor = R2TuningProcessor(make_image_processor(), tokenizer, fps=args.fps)
    tokens = torch.randint(1, 49000, (args.queries, 12))

    seconds = {}
    seconds["decode"], video = time_repeatedly(lambda: load_video_frames(args.video, args.fps, size=224), args.repeats)
    seconds["normalise"], pieces = time_repeatedly(lambda: list(processor.stream_video(video.frames)), args.repeats)
    seconds["encode"], encoded = time_repeatedly(lambda: model.encode_video(iter(pieces), fps=args.fps), args.repeats)
    seconds["one query"], _ = time_repeatedly(lambda: model.ground(encoded, input_ids=tokens[:1]), args.repeats)
    seconds[f"{args.queries} queries"], _ = time_repeatedly(
        lambda: model.ground(encoded, input_ids=tokens), args.repeats
    )
    print_report({"frames": len(video.frames), "seconds": seconds, **vars(args)})


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="video file")
    parser.add_argument("--fps", type=float, default=0.5, help="frames per second (default: 0.5)")
    parser.add_argument("--dtype", default="float32", help="precision of the frozen encoders (default: float32)")
    parser.add_argument("--queries", type=int, default=10, help="queries answered together (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions (default: 5)")
    return parser


if __name__ == "__main__":
    main()
