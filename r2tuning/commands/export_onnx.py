"""`r2tuning export-onnx`: writes a checkpoint as a folder that runs without torch."""

import argparse
import functools
import sys

from r2tuning.export.folder import export_checkpoint
from r2tuning.terminal import report, write_line
from r2tuning_cli.programs import option_names


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_export, args), prefix, option_names("export-onnx"))


def _export(args: argparse.Namespace) -> int:
    export_checkpoint(args.checkpoint, args.output, int8_text=args.int8_text)
    write_line(sys.stdout, str(args.output))
    return 0


__all__ = ["run"]
