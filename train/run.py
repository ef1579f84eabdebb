"""Train R2-Tuning on a benchmark; `--help` explains every option."""

import sys

from checkout import run_main


if __name__ == "__main__":
    sys.exit(run_main("r2tuning.training.run"))
