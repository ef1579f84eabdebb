"""The command `r2tuning`. A sub-command's module, and with it PyTorch, is imported only when it is run."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dataset_scripts.benchmarks import ORIGINAL_REPOSITORY

from .programs import PROGRAMS, make_script_parser, option_names, parser_settings
from .spelling import spell_options


USAGE_STATUS, INTERRUPTED_STATUS = 2, 130
DESCRIPTION = "Find the moments of a video that a sentence describes (R2-Tuning, arXiv 2404.00801)."
EPILOG = f"""\
examples:
  r2tuning demo
  r2tuning ground talk.mp4 "people laugh" --model {ORIGINAL_REPOSITORY} --benchmark qvhighlights
  r2tuning ground talk.mp4 "a man opens the door" "people laugh" --model my_model --plot talk.png --clips found/
  r2tuning index videos/ --library lib && r2tuning search lib "people laugh"
  r2tuning train --preset qvhighlights --data-dir ANNOTATIONS --features CACHE --output-dir RUN
  r2tuning convert r2_tuning_tacos.pth my_model --benchmark tacos
  r2tuning push my_model org/my_model

`r2tuning COMMAND --help` explains every option.
"""


class UsageError(Exception):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage: an error is one line."""
        raise UsageError(f"{message} (see `{self.prog} --help`)")


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Print the version of the installed package."""
        from importlib import metadata  # takes a while, and is needed here only

        try:
            version = metadata.version("r2tuning")
        except metadata.PackageNotFoundError:
            version = "of a source checkout"
        sys.stdout.write(f"r2tuning {version}\n")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command; `command` names the sub-command."""
    parser = _Parser(
        prog="r2tuning",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, program in PROGRAMS.items():
        program.add_arguments(commands.add_parser(name, help=program.summary, **parser_settings(name)))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; default those of the process.

    Returns:
        Exit status: 0, 2 after an error, 130 after Ctrl-C; `train` and `extract` have further ones, which their help
        texts list.
    """
    try:
        args = make_parser().parse_args(argv)
        name = vars(args).pop("command")
        return run_checked(name, args, "r2tuning")
    except UsageError as error:
        sys.stderr.write(f"r2tuning: error: {error}\n")
        return USAGE_STATUS
    except KeyboardInterrupt:  # while a module is imported; `run` has an answer of its own
        sys.stderr.write("r2tuning: interrupted\n")
        return INTERRUPTED_STATUS


def run_script(name: str, script: str, run: Callable[..., int], argv: list[str] | None = None) -> int:
    """Run a script that does the same as a sub-command; its messages begin with its own name.

    Args:
        name: The sub-command.
        script: Name of the script's file.
        run: Does the work.
        argv: Arguments; default those of the process.

    Returns:
        Exit status, as of the sub-command.
    """
    args = make_script_parser(name, script).parse_args(argv)
    return run_checked(name, args, script.removesuffix(".py"), run)


def run_checked(name: str, args: argparse.Namespace, prefix: str, run: Callable[..., int] | None = None) -> int:
    """Check the arguments of a sub-command and run it, by default as its module does; messages begin with `prefix`."""
    program = PROGRAMS[name]
    try:
        program.check(args)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{prefix}: error: {spell_options(error, option_names(name))}\n")
        return USAGE_STATUS
    if run is None:
        try:
            run = importlib.import_module(program.module).run
        except ModuleNotFoundError as error:
            if program.extra is None:
                raise
            sys.stderr.write(f'{prefix}: error: {error}; run `pip install "r2tuning[{program.extra}]"`\n')
            return USAGE_STATUS
    return run(args, prefix)


__all__ = ["main", "make_parser", "run_script"]


if __name__ == "__main__":
    sys.exit(main())
