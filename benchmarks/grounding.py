"""Time to decode, encode and query one video with a ViT-B/32-sized model of random weights.

python benchmarks/grounding.py video.mp4 [--fps 0.5] [--dtype float32] [--queries 10]
"""

import argparse
import json
import statistics
import sys
import time

import torch
from transformers import CLIPTokenizer

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor, load_video_frames
from modeling_r2tuning.processing_r2tuning import make_image_processor


def timed(function, repeats: int) -> tuple[float, object]:
    """Median seconds and the last result, the first run left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), result


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="video file")
    parser.add_argument("--fps", type=float, default=0.5, help="frames per second (default: 0.5)")
    parser.add_argument("--dtype", default="float32", help="precision of the frozen encoders (default: float32)")
    parser.add_argument("--queries", type=int, default=10, help="queries asked at once (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions (default: 5)")
    args = parser.parse_args()
    model = R2TuningForVideoGrounding(R2TuningConfig()).eval()
    model.vision_model.to(getattr(torch, args.dtype))
    model.text_model.to(getattr(torch, args.dtype))
    tokenizer = CLIPTokenizer({"<|startoftext|>": 0, "<|endoftext|>": 1}, [])  # queries are random tokens
    processor = R2TuningProcessor(make_image_processor(), tokenizer, fps=args.fps)
    tokens = torch.randint(1, 49000, (args.queries, 12))

    seconds = {}
    seconds["decode"], frames = timed(lambda: load_video_frames(args.video, args.fps, size=224), args.repeats)
    seconds["normalise"], pieces = timed(lambda: list(processor.stream_video(frames.frames)), args.repeats)
    seconds["encode"], encoded = timed(lambda: model.encode_video(iter(pieces), fps=args.fps), args.repeats)
    seconds["one query"], _ = timed(lambda: model.ground(encoded, input_ids=tokens[:1]), args.repeats)
    seconds[f"{args.queries} queries"], _ = timed(lambda: model.ground(encoded, input_ids=tokens), args.repeats)
    report = {"command": " ".join(sys.argv), "frames": len(frames.frames), "seconds": seconds, **vars(args)}
    print(json.dumps(report, indent=2))  # noqa: T201 (a script's result)


if __name__ == "__main__":
    main()
