"""Seconds from a video file to an answer, for videos from a minute to hours, with a ViT-B/32-sized model of random weights.

python -m benchmarks.latency VIDEO [--minutes 1 10 60 180] [--threads 2] [--device cpu]

The video is repeated, without encoding it again, to each length. Decoding is timed alone and together with encoding, which
overlap; a query about the encoded video is the fastest of three.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import torch

from benchmarks.grounding import WORDS, make_processor
from benchmarks.measurement import print_report
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.video_io_r2tuning import cut_clip


FPS = 0.5
CLIP_SECONDS = 10.0


def repeat_video(source: str, seconds: float, path: Path) -> None:
    """Write the pictures of a video again and again, without encoding them again, until it has a length."""
    with av.open(str(path), "w") as output:
        stream, shift, end = None, 0, 0
        while stream is None or shift * float(stream.time_base) < seconds:
            with av.open(source) as container:
                video = container.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video)
                    stream.time_base = video.time_base
                for packet in container.demux(video):
                    if packet.dts is None:
                        continue
                    end = max(end, shift + packet.pts + packet.duration)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    output.mux(packet)
            shift = end


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


@torch.no_grad()
def measure(model: R2TuningForVideoGrounding, path: Path) -> dict[str, float]:
    """Seconds of each part."""
    processor = make_processor(FPS)
    ids = torch.randint(1, 49000, (1, WORDS), device=model.device)
    decode, stream = timed(lambda: sum(len(piece) for piece in processor.stream_video(path)))
    encode, encoded = timed(lambda: model.encode_video(processor.stream_video(path), fps=FPS))
    queries = [timed(lambda: model.ground(encoded, input_ids=ids).logits.sum().item())[0] for _ in range(3)]
    middle = encoded.duration_sec / 2
    clip, _ = timed(lambda: cut_clip(path, path.with_name("clip.mp4"), middle, middle + CLIP_SECONDS))
    return {
        "frames": stream,
        "decode": decode,
        "decode and encode": encode,
        "query": min(queries),
        f"clip of {CLIP_SECONDS:g} s": clip,
    }


def main() -> None:
    """Measure each length and print."""
    args = make_parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = R2TuningForVideoGrounding(R2TuningConfig()).eval().to(args.device)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video{Path(args.video).suffix}"
        repeat_video(args.video, 60, path)
        measure(model, path)  # warm-up
        for minutes in args.minutes:
            repeat_video(args.video, 60 * minutes, path)
            report[f"{minutes:g} minutes"] = measure(model, path)
    print_report({**report, "settings": vars(args)})


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="video file that is repeated")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[1, 10, 60, 180], help="lengths (default: 1 10 60 180)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    return parser


if __name__ == "__main__":
    main()
