"""Arguments of `r2tuning index`, `search` and `library`, and their help texts."""

import argparse
from pathlib import Path

from .argument_types import local_date, positive_integer, score_or_none
from .execution_arguments import add_execution_arguments, check_execution
from .grounding_arguments import (
    PLOT_ENDINGS,
    add_export_arguments,
    add_model_arguments,
    benchmark_table,
    check_exports,
)


LIBRARY_PRECISIONS = ("float32", "bfloat16")
ACTIONS = ("list", "verify", "optimize", "remove")
INDEX_DESCRIPTION = """\
Add videos to a library, which `r2tuning search` searches by sentences. Folders are searched for video files. Videos that are
in the library are left alone unless their files have changed, so the same command continues an interrupted run and
updates a library. Exit status: 0 if all videos are in the library, 1 if some could not be read, 2 after an error.
"""
INDEX_EPILOG = f"""\
{benchmark_table()}

examples:
  r2tuning index ~/videos --library lib
  r2tuning index talk.mp4 --library lib --keep-features
"""
SEARCH_DESCRIPTION = """\
Find the moments of all videos of a library that sentences describe. The windows whose frames are most similar to a query
are looked up first, then the model grounds the query in them. Times are minutes:seconds. Scores are between 0 and 1 and
can be compared between the videos of a library. Exit status: 0, 1 if clips could not be cut, 2 after any other error.
"""
SEARCH_EPILOG = """\
example:
  r2tuning search lib "a man opens the door" "people laugh" --top 10 --clips found/ --plot found.png
"""
LIBRARY_DESCRIPTION = """\
list      print the videos of a library and its size
verify    read every video file, encoded copy and vector and say which are missing, changed or damaged; exit status 1 if
          any is. Remove damaged videos and index them again
optimize  give back the space of removed and replaced videos, and index the vectors of a large library
remove    remove the videos that are named, or with --missing those whose files are missing
"""
LIBRARY_EPILOG = """\
examples:
  r2tuning library verify lib
  r2tuning library remove lib old.mp4 && r2tuning library optimize lib
"""


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning index`."""
    parser.add_argument("videos", metavar="VIDEO", nargs="+", type=Path, help="video files, or folders of them")
    parser.add_argument(
        "--library", metavar="LIB", type=Path, required=True, help="folder of the library; made if it does not exist"
    )
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="keep an encoded copy of each video, so that a search decodes none: with CLIP ViT-B/32 102 kB a frame (184 MB "
        "an hour at 0.5 frames per second), twice that in videos longer than a window. For a new library",
    )
    add_model_arguments(parser)
    add_execution_arguments(parser.add_argument_group("execution"))


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning search`."""
    _add_library(parser)
    parser.add_argument(
        "queries", metavar="QUERY", nargs="+", help="what to find: one sentence in quotes, or several, each in quotes"
    )
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda if there is a GPU, else cpu)"
    )
    group = parser.add_argument_group("how to search")
    group.add_argument(
        "--windows",
        type=positive_integer,
        default=30,
        metavar="N",
        help="windows that the model grounds for each query: more find more and take longer (default: 30)",
    )
    group.add_argument(
        "--path", metavar="PATTERN", help="search only videos whose path matches, such as '*/holiday/*'"
    )
    group.add_argument(
        "--after", type=local_date, metavar="DATE", help="search only files modified then or later, such as 2026-11-29"
    )
    group.add_argument("--before", type=local_date, metavar="DATE", help="search only files modified earlier")
    group.add_argument(
        "--min-probability",
        type=score_or_none,
        metavar="P",
        help="leave out videos that are less likely to hold anything that matches, 0 to 1 (default: leave out none). Only "
        "for models with an existence head",
    )
    group = parser.add_argument_group("results")
    group.add_argument(
        "--top",
        type=positive_integer,
        default=10,
        metavar="N",
        help="moments of each query, also in exports and clips (default: 10)",
    )
    group.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the answers; times in seconds. With - they go to standard output, and the table to standard error",
    )
    group.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw frames of each moment, and its place in its video (.png, .pdf or .svg; needs matplotlib)",
    )
    add_export_arguments(group, "the moments")


def add_library_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning library`."""
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    _add_library(parser)
    parser.add_argument("videos", metavar="VIDEO", nargs="*", type=Path, help="videos to remove")
    parser.add_argument("--missing", action="store_true", help="remove the videos whose files are missing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found; with - to standard output")


def _add_library(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("library", metavar="LIB", type=Path, help="folder of the library, made by `r2tuning index`")


def check_index(args: argparse.Namespace) -> None:
    """Refuse arguments of `r2tuning index` that do not go together."""
    check_execution(args)
    if args.dtype not in LIBRARY_PRECISIONS:
        raise ValueError(f"`dtype` must be {' or '.join(LIBRARY_PRECISIONS)} for a library, got {args.dtype}.")


def check_search(args: argparse.Namespace) -> None:
    """Refuse arguments of `r2tuning search` that cannot be meant."""
    check_exports(args, is_one_video=False)
    if args.plot is not None and args.plot.suffix.lower() not in PLOT_ENDINGS:
        raise ValueError(f"`plot` must end in {', '.join(PLOT_ENDINGS)}, got '{args.plot}'")


def check_library(args: argparse.Namespace) -> None:
    """Refuse arguments of `r2tuning library` that do not go together."""
    if args.action != "remove" and (args.videos or args.missing):
        raise ValueError(f"`{args.action}` takes no videos and no --missing; they belong to `remove`")
    if args.action == "remove" and bool(args.videos) == args.missing:
        raise ValueError("`remove` needs the videos to remove, or --missing")


__all__ = [
    "INDEX_DESCRIPTION",
    "INDEX_EPILOG",
    "LIBRARY_DESCRIPTION",
    "LIBRARY_EPILOG",
    "LIBRARY_PRECISIONS",
    "SEARCH_DESCRIPTION",
    "SEARCH_EPILOG",
    "add_index_arguments",
    "add_library_arguments",
    "add_search_arguments",
    "check_index",
    "check_library",
    "check_search",
]
