"""Extract features or small frames of a benchmark; `--help` explains every option."""

import sys

from r2tuning.features.run import main


if __name__ == "__main__":
    sys.exit(main())
