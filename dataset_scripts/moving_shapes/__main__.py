"""Entry point of `python -m dataset_scripts.moving_shapes`."""

import sys

from .generate import main


if __name__ == "__main__":
    sys.exit(main())
