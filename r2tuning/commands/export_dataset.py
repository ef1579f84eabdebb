"""`r2tuning export-dataset`: writes a benchmark as Parquet and publishes it."""

import argparse
import functools
import sys

from r2tuning.hub.dataset_export import check_licence, export_dataset, push_dataset
from r2tuning.terminal import report, write_line
from r2tuning_cli.programs import option_names


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    work = functools.partial(_export, args)
    return report(work, prefix, option_names("export-dataset"), (RuntimeError,))


def _export(args: argparse.Namespace) -> int:
    if args.push:
        check_licence(args.name, args.push, args.private or args.publish_anyway)
    folder = export_dataset(args.name, args.output, data_dir=args.data_dir, on_error=args.on_error, repo_id=args.push)
    write_line(sys.stdout, str(folder))
    if args.push:
        address = push_dataset(args.name, folder, args.push, private=args.private, publish_anyway=args.publish_anyway)
        write_line(sys.stdout, address)
    return 0


__all__ = ["run"]
