"""`train/package_default_model.py`: makes a checkpoint of a training run the default model of the package."""

import argparse
import functools
import shutil
from pathlib import Path

from modeling_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.loading_r2tuning import CONFIG, PROCESSOR_FILES, SENTENCEPIECE, WEIGHTS
from r2tuning.checkpoint_files import RESULTS
from r2tuning.hub.model_card import write_model_card
from r2tuning.json_files import read_json, write_json
from r2tuning.terminal import report


# The packaged model must load without the extra `siglip`.
FILES = (WEIGHTS, *(name for name in PROCESSOR_FILES if name != SENTENCEPIECE), RESULTS)
CODE_FIELDS = ("auto_map", "custom_pipelines")  # of config.json; the package has the code itself
MAX_BYTES = 12 * 1024**2  # of all files together


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="package_default_model.py",
        description="Make a checkpoint of a training run the default model of the package. Its code is not copied.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="RUN/best", help="checkpoint of a training run")
    args = parser.parse_args(argv)
    return report(functools.partial(_package, args.checkpoint), "package_default_model", {})


def _package(checkpoint: Path) -> int:
    package(checkpoint)
    return 0


def package(checkpoint: Path, output: Path = DEFAULT_MODEL) -> None:
    """Copy the files that `from_pretrained` needs from a checkpoint that holds its backbone.

    Raises:
        FileNotFoundError: The checkpoint lacks a file; results are written by a run with an evaluation.
        ValueError: It holds no backbone, or it is too large for a package.
    """
    config = read_json(checkpoint / CONFIG)
    if not config.get("save_backbone"):
        raise ValueError(f"'{checkpoint}' holds no backbone: train with --model '{{\"save_backbone\": true}}'.")
    size = sum((checkpoint / name).stat().st_size for name in FILES)
    if size > MAX_BYTES:
        raise ValueError(f"'{checkpoint}' has {size:,} bytes; a package should hold at most {MAX_BYTES:,}.")
    output.mkdir(exist_ok=True)
    for name in FILES:
        with writing(output / name) as partial:
            shutil.copyfile(checkpoint / name, partial)
    config = {name: value for name, value in config.items() if name not in CODE_FIELDS}
    write_json(output / CONFIG, config, sort_keys=True)
    write_model_card(output)


__all__ = ["MAX_BYTES", "main", "package"]
