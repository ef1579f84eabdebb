"""Train a small CLIP on generated frames; `--help` explains every option."""

import sys

from checkout import run_main


if __name__ == "__main__":
    sys.exit(run_main("r2tuning.training.pretrain_clip"))
