"""The paper's Table 9: every way to put CLIP to use by learnable parameters, memory, time of a step and accuracy.

python benchmarks/table9.py --output table9 [--batch 32 --frames 75] [--data-dir shapes --video-dir shapes --clip shapes_clip]

Memory and time are those of a step with a ViT-B/32 of random weights: pixels in, frozen or tuned CLIP, forward, backward,
optimizer. On a GPU memory is the allocator's peak, on a CPU what the process grows by. Each method runs in a process of
its own. With `--data-dir` every method is also trained on a benchmark, all with the same number of steps.
"""

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's root, for `benchmarks`

from benchmarks.variants import Budget, mean_and_spread, run_variant  # noqa: E402 (behind the line above)


MEGA = 1024**2  # the paper's "M"
WORDS = 20
MOMENT_SEC = (4.0, 12.0)


class Paper(NamedTuple):
    """A row of Table 9: QVHighlights val, ViT-B/32, 224 x 224, batch 32, fp16."""

    title: str
    parameters: float  # M
    memory: float  # GB
    r1_05: float
    r1_07: float
    mAP: float  # noqa: N815 (its name)


PAPER = {
    "none": Paper("w/o tuning", 2.7, 4.3, 64.19, 45.03, 42.22),
    "full": Paper("full tuning", 147.0, 58.5, 64.69, 45.86, 42.41),
    "lora": Paper("LoRA", 4.4, 55.4, 63.70, 44.93, 41.29),
    "vpt": Paper("VPT", 2.8, 42.9, 64.55, 45.97, 42.36),
    "vop": Paper("VoP", 14.5, 45.2, 65.23, 46.01, 42.45),
    "st_adapter": Paper("ST-Adapter", 12.2, 44.3, 65.19, 48.58, 44.27),
    "e3va": Paper("E³VA", 3.3, 10.8, 65.10, 48.38, 45.06),
    "losa": Paper("LoSA", 4.8, 10.9, 65.06, 48.43, 44.97),
    "lst": Paper("LST", 7.4, 10.8, 65.26, 48.42, 45.03),
    "r2_tuning": Paper("R²-Tuning", 2.7, 10.6, 68.71, 52.06, 47.59),
}
