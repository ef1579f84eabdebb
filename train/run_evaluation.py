"""Score a prediction file or a checkpoint; `--help` explains every option."""

import sys

from r2tuning.evaluation.run import main


if __name__ == "__main__":
    sys.exit(main())
