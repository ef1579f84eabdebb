"""`r2tuning convert`: converts one of the authors' checkpoints, or all of them."""

import argparse
import functools
import sys

from r2tuning.released.model_zoo import convert_all, released_models
from r2tuning.released.resolve import convert_to_directory
from r2tuning.terminal import report, write_line
from r2tuning_cli.programs import option_names


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    work = _convert if args.all is None else _convert_all
    return report(functools.partial(work, args), prefix, option_names("convert"), (TypeError,))


def _convert(args: argparse.Namespace) -> int:
    convert_to_directory(
        args.original, args.output, benchmark=args.benchmark, domain=args.domain, backbone=args.backbone
    )
    write_line(sys.stdout, str(args.output))
    return 0


def _convert_all(args: argparse.Namespace) -> int:
    failures = convert_all(
        args.all, source=args.source, backbone=args.backbone, push_to=args.push_to, private=args.private
    )
    models = [model.name for model in released_models()]
    for name in models:
        if name not in failures:
            write_line(sys.stdout, str(args.all / name))
    if failures:
        raise OSError(
            f"{len(failures)} of {len(models)} checkpoints failed: {', '.join(failures)}; run the command again to "
            "retry them"
        )
    return 0


__all__ = ["run"]
