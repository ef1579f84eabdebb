"""`r2tuning search`: finds moments in all videos of a library; prints, writes, draws and cuts them."""

import argparse
import functools
import logging
import sys
import time
from dataclasses import asdict

from modeling_r2tuning.user_inputs_r2tuning import as_text_list
from modeling_r2tuning.video_source_r2tuning import display_name
from r2tuning.checks import choose_device
from r2tuning.commands.shared import (
    DONE,
    SOME_FAILED,
    STANDARD_OUTPUT,
    check_outputs,
    cut_clips,
    write_document,
    write_exports,
)
from r2tuning.library.contact_sheet import plot_search
from r2tuning.library.edits import list_cuts, list_exports
from r2tuning.library.library import Library, SearchAnswer
from r2tuning.terminal import progress_bar, report, write_line
from r2tuning.visualization.style import format_number, format_probability, format_time
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status: 0, or 1 if some clips could not be cut."""
    return report(functools.partial(_search, args), prefix, option_names("search"))


def _search(args: argparse.Namespace) -> int:
    as_text_list(args.queries, "QUERY")  # refuses empty ones
    check_outputs(args, [args.json])
    library = Library.open(args.library, device=choose_device(args.device))
    started = time.perf_counter()
    with progress_bar("searching", " queries") as progress:
        answers = library.search(
            args.queries,
            args.top,
            num_windows=args.windows,
            path=args.path,
            after=args.after,
            before=args.before,
            min_probability=args.min_probability,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    table = sys.stderr if args.json == STANDARD_OUTPUT else sys.stdout
    for answer in answers:
        write_line(table, format_answer(answer) + "\n")
    write_line(table, f"searched {len(library.videos()):,} videos in {seconds:.2f} s")
    _report_skipped(answers)
    if args.json is not None:
        document = {
            "library": display_name(library.folder),
            "model": library.settings.model,
            "seconds": seconds,
            "answers": [asdict(answer) for answer in answers],
        }
        write_document(document, args.json)
    return _write_edits(args, answers)


def _write_edits(args: argparse.Namespace, answers: list[SearchAnswer]) -> int:
    """Write exports, picture and clips, the quickest first; returns the exit status."""
    export_error = None
    if args.export:
        try:
            write_exports(args.export, *list_exports(answers))
        except (OSError, ValueError) as error:  # raised once the rest is written
            export_error = error
    if args.plot is not None:
        plot_search(answers, args.plot)
        logger.info("wrote %s", args.plot)
    num_failed = 0
    if args.clips is not None:
        num_failed = cut_clips(list_cuts(answers), args.clips, copy=args.copy)
    if export_error is not None:
        raise export_error
    return SOME_FAILED if num_failed else DONE


def format_answer(answer: SearchAnswer) -> str:
    """A table of the moments found for a query."""
    lines = [f"Query: {' '.join(answer.query.split())}"]
    if not answer.moments:
        return f"{lines[0]}\n  nothing found"
    has_probability = answer.moments[0].probability is not None
    lines.append(f"  rank  score{'  there' if has_probability else ''}      start        end  video")
    for rank, moment in enumerate(answer.moments, 1):
        there = "" if moment.probability is None else f"{format_probability(moment.probability):>7}"
        start, end = format_time(moment.start), format_time(moment.end)
        name = display_name(moment.path)
        missing = " (the file is missing)" if moment.path in answer.missing else ""
        lines.append(f"  {rank:>4}  {format_number(moment.score, 3)}{there} {start:>10} {end:>10}  {name}{missing}")
    return "\n".join(lines)


def _report_skipped(answers: list[SearchAnswer]) -> None:
    """Log the videos that could not be searched, each once."""
    skipped: dict[str, str] = {}
    for answer in answers:
        skipped |= answer.skipped
    for path, reason in skipped.items():
        logger.warning("'%s' was not searched: %s", display_name(path), reason)


__all__ = ["format_answer", "run"]
