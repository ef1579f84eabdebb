"""Score a prediction file or a checkpoint; `--help` explains every option."""

import sys

from checkout import run_main


if __name__ == "__main__":
    sys.exit(run_main("r2tuning.evaluation.run"))
