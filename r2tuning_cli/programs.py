"""The sub-commands of `r2tuning`, and the parsers made from them."""

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import app_arguments as app
from . import checkpoint_arguments as checkpoints
from . import data_arguments as data
from . import grounding_arguments as grounding
from . import library_arguments as library
from . import training_options as training


def _accept(args: argparse.Namespace) -> None:
    """Nothing to check."""


class Program(NamedTuple):
    """A sub-command of `r2tuning`.

    Attributes:
        module: Imported to run it; has a function `run`, which takes the parsed arguments and returns the exit status.
        summary: What it does, in a few words.
        add_arguments: Adds its arguments to a parser.
        description: What it does, for its help text.
        epilog: The end of its help text, with examples.
        check: Refuses, with a `ValueError` or `OSError`, arguments that do not go together.
        usage: Replaces the usage line made by argparse.
        other_names: Options for which the library's messages use another name.
        extra: Optional dependencies that it needs, as `pip install "r2tuning[EXTRA]"` has them.
    """

    module: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    description: str
    epilog: str
    check: Callable[[argparse.Namespace], None] = _accept
    usage: str | None = None
    other_names: Mapping[str, str] = {}
    extra: str | None = None


BACKBONE_NAMES = {"backbone_name_or_path": "--backbone"}
PROGRAMS = {
    "demo": Program(
        "r2tuning.commands.demo",
        "see it work on a generated video",
        grounding.add_demo_arguments,
        grounding.DEMO_DESCRIPTION,
        grounding.DEMO_EPILOG,
        other_names={"max_moments": "--top"},
    ),
    "ground": Program(
        "r2tuning.commands.ground",
        "find moments in videos",
        grounding.add_ground_arguments,
        grounding.GROUND_DESCRIPTION,
        grounding.GROUND_EPILOG,
        check=grounding.check_ground,
        usage=grounding.GROUND_USAGE,
        other_names={**BACKBONE_NAMES, "max_moments": "--top"},
    ),
    "app": Program(
        "r2tuning.commands.app",
        "find moments on a page for the browser",
        app.add_app_arguments,
        app.APP_DESCRIPTION,
        app.APP_EPILOG,
        check=app.check_app,
        other_names=BACKBONE_NAMES,
        extra="app",
    ),
    "explain": Program(
        "r2tuning.commands.explain",
        "show where each word attends and what each layer contributes",
        grounding.add_explain_arguments,
        grounding.EXPLAIN_DESCRIPTION,
        grounding.EXPLAIN_EPILOG,
        check=grounding.check_explain,
        other_names=BACKBONE_NAMES,
    ),
    "index": Program(
        "r2tuning.commands.index",
        "add videos to a library that is searched by sentences",
        library.add_index_arguments,
        library.INDEX_DESCRIPTION,
        library.INDEX_EPILOG,
        check=library.check_index,
        other_names=BACKBONE_NAMES,
        extra="library",
    ),
    "search": Program(
        "r2tuning.commands.search",
        "find moments in all videos of a library",
        library.add_search_arguments,
        library.SEARCH_DESCRIPTION,
        library.SEARCH_EPILOG,
        check=library.check_search,
        other_names={"num_windows": "--windows"},
        extra="library",
    ),
    "library": Program(
        "r2tuning.commands.library",
        "list, verify, optimize or remove the videos of a library",
        library.add_library_arguments,
        library.LIBRARY_DESCRIPTION,
        library.LIBRARY_EPILOG,
        check=library.check_library,
        extra="library",
    ),
    "check-data": Program(
        "r2tuning.commands.check_data",
        "check your own table and videos before training",
        data.add_check_arguments,
        data.CHECK_DESCRIPTION,
        data.CHECK_EPILOG,
        check=data.check_check,
        other_names={"data_files": "--data-file"},
    ),
    "train": Program(
        "r2tuning.training.run",
        "train on a benchmark",
        training.add_train_arguments,
        training.TRAIN_DESCRIPTION,
        training.TRAIN_EPILOG,
        check=training.check_train,
        other_names={"name": "--benchmark", "split": "--train-split` or `--eval-split", "repo_id": "--push-to"},
        extra="train",
    ),
    "evaluate": Program(
        "r2tuning.evaluation.run",
        "score predictions, a checkpoint or a library on a benchmark",
        data.add_evaluate_arguments,
        data.EVALUATE_DESCRIPTION,
        data.EVALUATE_EPILOG,
        check=data.check_evaluate,
        other_names={
            "name": "--benchmark",
            "data_files": "--data-file",
            "match_number=False": "--shared-queries-only",
            "match_reference_code=False": "no --match-reference-code",
        },
    ),
    "extract": Program(
        "r2tuning.features.run",
        "compute the features of a benchmark once",
        data.add_extract_arguments,
        data.EXTRACT_DESCRIPTION,
        data.EXTRACT_EPILOG,
        check=data.check_extract,
        other_names={"name": "--benchmark", "num_recurrent_steps": "--num-layers"},
    ),
    "export-dataset": Program(
        "r2tuning.commands.export_dataset",
        "write a benchmark as Parquet and publish it",
        data.add_export_arguments,
        data.EXPORT_DESCRIPTION,
        data.EXPORT_EPILOG,
        check=data.check_export,
        other_names={"repo_id": "--push"},
    ),
    "convert": Program(
        "r2tuning.commands.convert",
        "convert a checkpoint of the authors' code",
        checkpoints.add_convert_arguments,
        checkpoints.CONVERT_DESCRIPTION,
        checkpoints.CONVERT_EPILOG,
        check=checkpoints.check_convert,
        usage=checkpoints.CONVERT_USAGE,
        other_names=BACKBONE_NAMES,
    ),
    "export-onnx": Program(
        "r2tuning.commands.export_onnx",
        "export a checkpoint to ONNX, to run it without PyTorch",
        checkpoints.add_export_onnx_arguments,
        checkpoints.EXPORT_ONNX_DESCRIPTION,
        checkpoints.EXPORT_ONNX_EPILOG,
        extra="onnx",
    ),
    "push": Program(
        "r2tuning.commands.push",
        "publish a checkpoint or the web app on the Hugging Face Hub",
        checkpoints.add_push_arguments,
        checkpoints.PUSH_DESCRIPTION,
        checkpoints.PUSH_EPILOG,
        check=checkpoints.check_push,
        usage=checkpoints.PUSH_USAGE,
        other_names=BACKBONE_NAMES,
    ),
}


def parser_settings(name: str) -> dict[str, Any]:
    """Settings of the parser of a sub-command, without its arguments."""
    program = PROGRAMS[name]
    return {
        "usage": program.usage,
        "description": program.description,
        "epilog": program.epilog,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def make_script_parser(name: str, script: str) -> argparse.ArgumentParser:
    """The parser of a script that does the same as a sub-command."""
    parser = argparse.ArgumentParser(prog=script, **parser_settings(name))
    PROGRAMS[name].add_arguments(parser)
    return parser


@functools.cache
def option_names(name: str) -> dict[str, str]:
    """The options of a sub-command, by the names that the library's messages use for them."""
    names = {}
    for action in make_script_parser(name, name)._actions:
        if action.option_strings:
            names[action.dest] = action.option_strings[0]
    return {**names, **PROGRAMS[name].other_names}


__all__ = ["PROGRAMS", "Program", "make_script_parser", "option_names", "parser_settings"]
