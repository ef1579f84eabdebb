"""Make a checkpoint of a training run the default model of the package, without the code that the package has itself.

python train/package_default_model.py RUN/best
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from modeling_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.files_r2tuning import writing
from r2tuning.hub.model_card import write_model_card
from r2tuning.json_files import read_json, write_text


FILES = (
    *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("preprocessor_config.json", "processor_config.json", "results.json"),
)
ABOUT_CODE = ("auto_map", "custom_pipelines")
LARGEST = 12 * 1024**2  # bytes, all files together


def package(checkpoint: Path, output: Path = DEFAULT_MODEL) -> None:
    """Copy what `from_pretrained` needs of a checkpoint that holds its CLIP.

    Raises:
        FileNotFoundError: The checkpoint lacks a file; results come with a run that was evaluated.
        ValueError: It holds no CLIP, or it is too large for a package.
    """
    config = read_json(checkpoint / "config.json")
    if not config.get("save_backbone"):
        raise ValueError(f"'{checkpoint}' holds no CLIP: train with --model '{{\"save_backbone\": true}}'.")
    size = sum((checkpoint / name).stat().st_size for name in FILES)
    if size > LARGEST:
        raise ValueError(f"'{checkpoint}' has {size:,} bytes; a package should hold at most {LARGEST:,}.")
    output.mkdir(exist_ok=True)
    for name in FILES:
        with writing(output / name) as partial:
            shutil.copyfile(checkpoint / name, partial)
    config = {name: value for name, value in config.items() if name not in ABOUT_CODE}
    write_text(output / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_model_card(output)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="RUN/best", help="checkpoint of a run of train/run.py")
    args = parser.parse_args(argv)
    try:
        package(args.checkpoint)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"package_default_model: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["package"]
