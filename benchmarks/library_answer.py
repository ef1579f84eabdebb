"""Time of the second stage of a search: windows are read from encoded copies and grounded.

python -m benchmarks.library_answer [--windows 10 30] [--threads 2]

A model of random weights has the sizes of CLIP ViT-B/32; each window has 76 frames and is in a video of its own. "Reading" is
from files that the system has in memory, checksums included.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.long_video import FPS, WORDS, make_model
from benchmarks.measurement import print_report
from r2tuning.library.entries import copy_path
from r2tuning.library.moments import WindowReader


FRAMES = 76  # a window of 150 seconds
REPEATS = 5


def measure(folder: Path, num_windows: int) -> dict[str, float]:
    """Seconds of reading and of grounding so many windows."""
    model: Any = make_model()
    (folder / "features").mkdir(exist_ok=True)
    size = model.config.vision_config
    tokens = 1 + (size.image_size // size.patch_size) ** 2
    states = torch.randn(FRAMES, model.config.num_recurrent_steps, tokens, size.hidden_size)
    video = model.encode_video(video_hidden_states=states, fps=FPS, dtype=torch.float16)
    for entry in range(num_windows):
        video.save(copy_path(folder, entry))
    reader = WindowReader(folder, SimpleNamespace(keep_features=True), model, None)  # type: ignore[arg-type]
    text = model.encode_text(torch.randint(1, 49000, (1, WORDS)))
    reading, grounding = [], []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        videos: list[Any] = reader.read({entry: [0] for entry in range(num_windows)}, {})
        read = time.perf_counter()
        model.ground(videos, text)
        reading.append(read - started)
        grounding.append(time.perf_counter() - read)
    return {
        "reading": round(statistics.median(reading[1:]), 3),
        "grounding": round(statistics.median(grounding[1:]), 3),
        "MB of a copy": round(copy_path(folder, 0).stat().st_size / 1e6, 2),
    }


def main() -> None:
    """Measure each number of windows, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=[10, 30], help="windows (default: 10 30)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in args.windows:
            report[f"{count} windows"] = measure(Path(folder), count)
    print_report({**report, "settings": vars(args)})


if __name__ == "__main__":
    main()
