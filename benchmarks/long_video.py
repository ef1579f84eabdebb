"""Memory, query time and deviation of the forms in which an encoded video can be kept.

python -m benchmarks.long_video [--hours 3]

A model of random weights encodes random frames. It has the sizes of CLIP ViT-B/32 but only the four layers that are read,
which makes no difference to the memory of an encoded video. It arrives in pieces of 32 frames, as it is decoded, or in smaller
ones. Each form is measured in a process of its own. Memory is the peak of the process above what it held with the model loaded.
Deviations from float32 are those of the packaged model on a generated video, and of the random model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.measurement import print_report
from benchmarks.memory import read_peak, start_peak
from modeling_r2tuning import EncodedVideo, R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.commands.demo import make_demo
from r2tuning.hub.default_model import DEFAULT_MODEL


FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"dtype": torch.float16},
    "compact": {"compact": True},
    "compact float16": {"dtype": torch.float16, "compact": True},
    "float16, 8 frames at once": {"dtype": torch.float16, "chunk_size": 8},
    "compact float16, 8 frames at once": {"dtype": torch.float16, "compact": True, "chunk_size": 8},
}
FPS = 0.5
WORDS = 12


def make_model() -> R2TuningForVideoGrounding:
    """A model with random weights."""
    torch.manual_seed(0)
    encoder = {"num_hidden_layers": 4}
    return R2TuningForVideoGrounding(R2TuningConfig(vision_config=encoder, text_config=encoder)).eval()


def random_pieces(num_frames: int, size: int, chunk_size: int = 32) -> Iterator[torch.Tensor]:
    """Random frames, a piece at a time."""
    generator = torch.Generator().manual_seed(0)
    for first in range(0, num_frames, chunk_size):
        yield torch.randn(min(chunk_size, num_frames - first), 3, size, size, generator=generator)


def size_of(video: EncodedVideo) -> int:
    """Bytes of the features."""
    return sum(part.nbytes for part in [*video.video_embeds, *(video.token_statistics or [])])


def measure_form(form: str, hours: float) -> dict[str, float]:
    """Encode a video and ask one query, in this process."""
    model, options = make_model(), FORMS[form]
    size, chunk_size = model.config.vision_config.image_size, options.get("chunk_size", 32)
    ids = torch.randint(1, 49000, (1, WORDS))
    model.ground(model.encode_video(random_pieces(chunk_size, size, chunk_size), fps=FPS, **options), input_ids=ids)
    device = torch.device("cpu")
    before = start_peak(device)
    started = time.perf_counter()
    pieces = random_pieces(round(hours * 3600 * FPS), size, chunk_size)
    video = model.encode_video(pieces, fps=FPS, **options)
    encoding = time.perf_counter() - started
    encoded = read_peak(device)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        model.ground(video, input_ids=ids)
        times.append(time.perf_counter() - started)
    return {
        "peak MB while encoding": (encoded - before) / 1e6,
        "peak MB with a query": (read_peak(device) - before) / 1e6,
        "MB of the features": size_of(video) / 1e6,
        "seconds to encode": encoding,
        "seconds of a query": min(times),
    }


def deviations(
    model: R2TuningForVideoGrounding, texts: dict[str, torch.Tensor], pixels: torch.Tensor, fps: float
) -> dict[str, Any]:
    """Largest differences from float32 of saliency, and of the probabilities of points."""
    outputs = {}
    for form, options in FORMS.items():
        outputs[form] = model.ground(model.encode_video(pixels, fps=fps, window_sec=20, **options), **texts)
    reference = outputs.pop("float32")
    report = {}
    for form, output in outputs.items():
        probability = (output.logits.sigmoid() - reference.logits.sigmoid()).abs()
        report[form] = {
            "saliency": (output.saliency_scores - reference.saliency_scores).abs().max().item(),
            "probability of a point": probability.max().item(),
        }
    return report


def measure_deviations() -> dict[str, Any]:
    """Deviations of the packaged model and of the random one."""
    model = R2TuningForVideoGrounding.from_pretrained(DEFAULT_MODEL).eval()
    processor = R2TuningProcessor.from_pretrained(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        path, queries = make_demo(Path(folder), seed=0)
        stream = processor.stream_video(path)
        pixels = torch.cat(list(stream))
    texts = dict(processor(text=[query.text for query in queries]))
    random = make_model()
    ids = {"input_ids": torch.randint(1, 49000, (4, WORDS))}
    pieces = torch.cat(list(random_pieces(48, random.config.vision_config.image_size)))
    return {
        "packaged model": deviations(model, texts, pixels, stream.fps),
        "random model": deviations(random, ids, pieces, fps=1.0),
    }


def main() -> None:
    """Measure each form in a process of its own, and print."""
    args = make_parser().parse_args()
    if args.form is not None:
        sys.stdout.write(json.dumps(measure_form(args.form, args.hours)))
        return
    report: dict[str, Any] = {}
    for form in FORMS:
        command = [sys.executable, "-m", "benchmarks.long_video", "--hours", str(args.hours), "--form", form]
        report[form] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print_report({**report, "deviations": measure_deviations(), "settings": vars(args)})


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3, help="length of the video (default: 3)")
    parser.add_argument("--form", choices=FORMS, help="measure only this form, in this process")
    return parser


if __name__ == "__main__":
    main()
