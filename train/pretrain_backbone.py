"""Train a small CLIP or SigLIP on generated pictures; `--help` explains every option."""

import sys

from checkout import run_main


if __name__ == "__main__":
    sys.exit(run_main("r2tuning.pretraining.run"))
