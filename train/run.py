"""Train R2-Tuning on a benchmark; `--help` explains every option."""

import sys

from r2tuning.training.run import main


if __name__ == "__main__":
    sys.exit(main())
