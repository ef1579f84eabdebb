"""Train a small CLIP on generated frames; `--help` explains every option."""

import sys

from r2tuning.training.pretrain_clip import main


if __name__ == "__main__":
    sys.exit(main())
