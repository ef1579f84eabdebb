"""`r2tuning export-dataset`: writes a benchmark as Parquet and publishes it."""

import argparse
import functools
import sys

from r2tuning.checks import check_annotation_files, check_folders
from r2tuning.hub.dataset_export import check_licence, export_dataset, push_dataset
from r2tuning.terminal import report, write_line
from r2tuning_cli.data_arguments import annotation_files
from r2tuning_cli.programs import option_names


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    work = functools.partial(_export, args)
    return report(work, prefix, option_names("export-dataset"), (RuntimeError,))


def _export(args: argparse.Namespace) -> int:
    if args.push:
        check_licence(args.name, args.push, args.private or args.publish_anyway)
    check_folders(data_dir=args.data_dir, video_dir=args.video_dir)
    check_annotation_files(args.name, data_file=args.data_file, val_file=args.val_file)
    folder = export_dataset(
        args.name,
        args.output,
        data_dir=args.data_dir,
        data_files=annotation_files(args, args.name),
        video_dir=args.video_dir,
        on_error=args.on_error,
        repo_id=args.push,
    )
    write_line(sys.stdout, str(folder))
    if args.push:
        address = push_dataset(args.name, folder, args.push, private=args.private, publish_anyway=args.publish_anyway)
        write_line(sys.stdout, address)
    return 0


__all__ = ["run"]
