"""Make a checkpoint of a training run the packaged default model; `--help` explains every option."""

import sys

from checkout import run_main


if __name__ == "__main__":
    sys.exit(run_main("r2tuning.hub.default_model"))
