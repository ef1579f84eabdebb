"""`r2tuning library`: lists, verifies, optimizes or removes the videos of a library."""

import argparse
import functools
import logging
import os
import sys
from dataclasses import asdict
from typing import Any

from modeling_r2tuning.files_r2tuning import check_replaceable
from modeling_r2tuning.video_source_r2tuning import display_name
from r2tuning.commands.shared import STANDARD_OUTPUT, write_document
from r2tuning.library.contents import LibraryContents
from r2tuning.terminal import progress_bar, report, write_line
from r2tuning.visualization.style import format_time
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)

DONE, SOME_CHANGED = 0, 1


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status: 1 if `verify` found files missing or changed."""
    actions = {"list": _list, "verify": _verify, "optimize": _optimize, "remove": _remove}
    work = functools.partial(_run, actions[args.action], args)
    return report(work, prefix, option_names("library"), (RuntimeError,))


def _run(action: Any, args: argparse.Namespace) -> int:
    if args.json not in (None, STANDARD_OUTPUT):
        check_replaceable(args.json)
    status, document, lines = action(LibraryContents.open(args.library), args)
    for line in lines:
        write_line(sys.stderr if args.json == STANDARD_OUTPUT else sys.stdout, line)
    if args.json is not None:
        write_document(document, args.json)
    return status


Outcome = tuple[int, dict[str, Any], list[str]]


def _list(library: LibraryContents, args: argparse.Namespace) -> Outcome:
    statistics = library.tables.statistics()
    videos, lines = [], []
    for record in library.videos():
        videos.append({**asdict(record), "added": record.added.isoformat()})
        lines.append(
            f"{format_time(record.duration_sec):>10}  {record.num_frames:>7,} frames  {display_name(record.path)}"
        )
    copies = library.size_of_copies()
    lines.append(
        f"{len(videos):,} videos, {statistics.num_frames:,} frames; vectors {statistics.size_bytes / 1e6:,.1f} MB"
        f"{' (indexed)' if statistics.indexed else ''}, encoded copies {copies / 1e6:,.1f} MB; model {library.settings.model}"
    )
    if statistics.num_stale:
        lines.append(
            f"{statistics.num_stale:,} frames are of removed or replaced videos; `optimize` gives their space back"
        )
    document = {"settings": asdict(library.settings), "tables": asdict(statistics), "videos": videos}
    return DONE, {**document, "bytes_of_copies": copies}, lines


def _verify(library: LibraryContents, args: argparse.Namespace) -> Outcome:
    with progress_bar("verifying", " videos") as progress:
        found = asdict(library.verify(progress))
    lines = []
    for kind, paths in found.items():
        lines += [f"{kind.replace('_', ' ')}: {display_name(path)}" for path in paths]
    num_videos = len(library.videos())
    num_wrong = len(set().union(*found.values()))
    lines.append(f"{num_videos - num_wrong:,} of {num_videos:,} videos are as they were indexed")
    return SOME_CHANGED if num_wrong else DONE, found, lines


def _optimize(library: LibraryContents, args: argparse.Namespace) -> Outcome:
    done = library.optimize()
    lines = [
        f"{done.deleted_rows:,} frames of removed or replaced videos deleted, {done.freed_bytes / 1e6:,.1f} MB freed; the "
        f"vectors are {'indexed' if done.indexed else 'searched exactly'}"
    ]
    return DONE, asdict(done), lines


def _remove(library: LibraryContents, args: argparse.Namespace) -> Outcome:
    records = {record.path: record for record in library.videos()}
    if args.missing:
        paths = [path for path in records if not os.path.isfile(path)]
    else:
        paths = [os.path.abspath(path) for path in args.videos]
        unknown = [path for path in paths if path not in records]
        if unknown:
            raise ValueError(f"The library has no video '{unknown[0]}'; nothing was removed.")
    library.remove([records[path].id for path in paths])
    lines = [f"removed: {display_name(path)}" for path in paths]
    return DONE, {"removed": paths}, [*lines, f"{len(paths):,} videos removed"]


__all__ = ["run"]
