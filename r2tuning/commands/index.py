"""`r2tuning index`: adds videos to a library."""

import argparse
import functools
import logging
import sys
from pathlib import Path

import torch

from r2tuning.checks import choose_device
from r2tuning.commands.shared import check_model_options, load_pipeline
from r2tuning.execution.jobs import Job
from r2tuning.execution.ray_cluster import check_cluster
from r2tuning.features.extraction import Summary
from r2tuning.library.library import Library
from r2tuning.library.settings import SETTINGS_FILE, LibrarySettings
from r2tuning.terminal import report, write_line
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)

DONE, SOME_FAILED = 0, 1


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status: 0 if all videos are in the library, 1 if some could not be read."""
    return report(functools.partial(_index, args), prefix, option_names("index"), (RuntimeError,))


def _index(args: argparse.Namespace) -> int:
    check_model_options(args)
    if args.executor == "ray":
        check_cluster(args.ray_address)
    library = open_or_create(args)
    try:
        summary = library.add(
            args.videos, num_processes=args.num_processes, executor=args.executor, ray_address=args.ray_address
        )
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("run the same command again to continue") from interrupt
    for line in format_summary(summary, library):
        write_line(sys.stdout, line)
    return SOME_FAILED if summary.failed else DONE


def open_or_create(args: argparse.Namespace) -> Library:
    """The library that the arguments name; a new one for the model that they name."""
    if (args.library / SETTINGS_FILE).is_file():
        settings = LibrarySettings.load(args.library)
        if args.keep_features and not settings.keep_features:
            raise ValueError(
                f"`keep_features` cannot be set for '{args.library}', which was made without encoded copies; make a new library."
            )
        if args.model is None and args.backbone is None:
            dtype = getattr(torch, args.dtype)
            return Library.open(args.library, device=choose_device(args.device), dtype=dtype)
        args.model = args.model or settings.model
        pipe = load_pipeline(args)
        return Library.open(args.library, pipe.model, pipe.processor)
    pipe = load_pipeline(args)
    return Library.create(args.library, pipe.model, pipe.processor, keep_features=args.keep_features)


def format_summary(summary: Summary, library: Library) -> list[str]:
    """What was done, as printed lines."""
    records = library.videos()
    hours = sum(record.duration_sec for record in records) / 3600
    lines = [
        f"{summary.done['videos']:,} videos indexed ({summary.num_frames:,} frames), {summary.complete['videos']:,} were in "
        f"the library, {len(summary.failed):,} failed",
        f"the library '{library.folder}' holds {len(records):,} videos of {hours:.1f} hours",
    ]
    missing = sum(not Path(record.path).is_file() for record in records)
    if missing:
        lines.append(
            f"the files of {missing:,} of them are missing; `r2tuning library remove {library.folder} --missing` removes them"
        )
    lines += [f"failed: {_name(job)}: {reason}" for job, reason in summary.failed.items()]
    return lines


def _name(job: Job) -> str:
    return getattr(job, "source", job.id)


__all__ = ["format_summary", "open_or_create", "run"]
