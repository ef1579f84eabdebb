"""`r2tuning check-data`: checks a user's own table and videos before training."""

import argparse
import functools
import sys

from dataset_scripts.benchmarks import OWN_DATA
from dataset_scripts.custom import OwnData, find_sources, read_own_data
from dataset_scripts.custom_findings import KINDS
from dataset_scripts.custom_report import describe_data, format_report
from dataset_scripts.custom_tables import name_sources
from modeling_r2tuning.files_r2tuning import check_replaceable
from r2tuning.checks import check_annotation_files, check_folders
from r2tuning.json_files import write_json
from r2tuning.terminal import report, write_line
from r2tuning_cli.data_arguments import annotation_files
from r2tuning_cli.programs import option_names
from r2tuning_cli.spelling import spell_options


CLEAN, FOUND, UNUSABLE = 0, 1, 2


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status, which its help text explains."""
    return report(functools.partial(_check, args), prefix, option_names("check-data"))


def _check(args: argparse.Namespace) -> int:
    check_folders(data_dir=args.data_dir, video_dir=args.video_dir)
    check_annotation_files(OWN_DATA, data_file=args.data_file, val_file=args.val_file)
    if args.json is not None:
        check_replaceable(args.json)
    files = annotation_files(args, OWN_DATA)
    sources = find_sources(args.data_dir) if files is None else name_sources(files)
    data = read_own_data(sources, video_dir=args.video_dir)
    names = option_names("check-data")
    for line in format_report(data).splitlines():
        write_line(sys.stdout, spell_options(line, names) if "`" in line and not line.startswith(" ") else line)
    if args.json is not None:
        write_json(args.json, describe_data(data))
    return exit_status(data)


def exit_status(data: OwnData) -> int:
    """0 if nothing was found that needs attention, 2 if some split has nothing that can be used, else 1."""
    if not all(data.examples.values()):
        return UNUSABLE
    kinds = data.findings.by_kind()
    return FOUND if any(KINDS[kind].effect != "information" for kind in kinds) else CLEAN


__all__ = ["exit_status", "run"]
