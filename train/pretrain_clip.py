"""Train a small CLIP on generated frames; `--help` explains every option."""

import sys

from r2tuning.pretraining.run import main


if __name__ == "__main__":
    sys.exit(main())
