"""Time from a video file to an answer with a ViT-B/32-sized model of random weights, part by part, against its floor.

python -m benchmarks.grounding [--threads 1] [--video FILE] [--repeats 9]

The floor of a row counts its matrix products alone, at the rate of a large product in the same run. "plain" computes a
query from the hidden states as the equations of the R2 block read, without what an encoded video saves.
"""

import argparse
import time
from typing import Any

import torch
from transformers import CLIPTokenizer

from benchmarks.measurement import Seconds, count_gigaflop, measure_against_floor, print_report, time_in_turn
from benchmarks.r2_block import plain_r2_block
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor, load_video_frames
from modeling_r2tuning.processing_r2tuning import make_image_processor


WORDS = 12
ROWS = {"one query, 75 frames": (75, 1), "ten queries, 75 frames": (75, 10), "one query, 600 frames": (600, 1)}


def make_states(model: R2TuningForVideoGrounding, num_frames: int) -> torch.Tensor:
    """Random hidden states of a video, `(num_frames, num_layers, num_tokens, vision_hidden)`, as cached."""
    vision = model.config.vision_config
    num_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    return torch.randn(num_frames, model.config.num_recurrent_steps, num_tokens, vision.hidden_size).half()


@torch.no_grad()
def time_queries(model: R2TuningForVideoGrounding, num_frames: int, queries: int, repeats: int) -> dict[str, float]:
    """Queries about an encoded video in one pass, from the hidden states of their words."""
    states = make_states(model, num_frames)
    words = torch.randn(queries, WORDS, model.config.num_recurrent_steps, model.config.text_config.hidden_size)
    encoded = model.encode_video(video_hidden_states=states, fps=0.5, window_sec=None)

    def ours() -> None:
        model.ground(encoded, text_hidden_states=words)

    def plain() -> None:
        for query in words:
            plain_r2_block(model.r2_block, states[None], query[None])

    return measure_against_floor({"plain": plain, "ours": ours}, count_gigaflop(ours), repeats)


@torch.no_grad()
def time_encoder(model: R2TuningForVideoGrounding, num_frames: int, repeats: int) -> dict[str, float]:
    """The image encoder on the frames of a video; "plain" is its own forward of all frames at once."""
    size = model.config.vision_config.image_size
    pixels = torch.randn(num_frames, 3, size, size)

    def ours() -> None:
        model.get_video_hidden_states(pixels[None])

    def plain() -> None:
        model.vision_model(pixels, output_hidden_states=True)

    return measure_against_floor({"plain": plain, "ours": ours}, count_gigaflop(ours), repeats)


@torch.no_grad()
def time_file(model: R2TuningForVideoGrounding, video: str, fps: float, repeats: int) -> dict[str, Any]:
    """A query about a file as a whole, and its parts one by one."""
    processor = make_processor(fps)
    frames = load_video_frames(video, fps, size=model.config.vision_config.image_size).frames
    pieces = list(processor.stream_video(frames))
    ids = torch.randint(1, 49000, (1, WORDS))
    encoded = model.encode_video(iter(pieces), fps=fps)

    def decode() -> None:
        for _ in processor.stream_video(video):
            pass

    def answer() -> None:
        model.ground(model.encode_video(processor.stream_video(video), fps=fps), input_ids=ids)

    parts = {
        "decode": decode,
        "encode": lambda: model.encode_video(iter(pieces), fps=fps),
        "query": lambda: model.ground(encoded, input_ids=ids),
    }
    times = time_in_turn({**parts, "file to answer": answer}, repeats)
    whole = times["file to answer"]
    least = sum(times[name].processor for name in parts) / torch.get_num_threads()
    return {
        "frames": len(frames),
        **{name: _as_dict(value) for name, value in times.items()},
        "file to answer / core-seconds of the parts by threads": whole.wall / least,
    }


def _as_dict(seconds: Seconds) -> dict[str, float]:
    return {"seconds": seconds.wall, "core-seconds": seconds.processor}


def make_processor(fps: float) -> R2TuningProcessor:
    """A processor whose queries are token ids."""
    tokenizer = CLIPTokenizer({"<|startoftext|>": 0, "<|endoftext|>": 1}, [])
    return R2TuningProcessor(make_image_processor(), tokenizer, fps=fps)


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = R2TuningForVideoGrounding(R2TuningConfig()).eval()
    started = time.perf_counter()
    report: dict[str, Any] = {}
    for name, (num_frames, queries) in ROWS.items():
        report[name] = time_queries(model, num_frames, queries, args.repeats)
    report["encoder, 75 frames"] = time_encoder(model, 75, max(args.repeats // 3, 1))
    if args.video is not None:
        report["file"] = time_file(model, args.video, args.fps, max(args.repeats // 3, 1))
    print_report({**report, "settings": vars(args), "seconds in all": time.perf_counter() - started})


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="video file to answer a query about (default: none)")
    parser.add_argument("--fps", type=float, default=0.5, help="frames per second (default: 0.5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default: 1)")
    parser.add_argument("--repeats", type=int, default=9, help="timed repetitions (default: 9)")
    return parser


if __name__ == "__main__":
    main()
