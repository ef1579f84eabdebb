"""`r2tuning ground`: finds the moments of queries in a video; prints, writes, draws and cuts them."""

import argparse
import functools
import logging
import sys
from collections.abc import Iterable
from typing import Any

from modeling_r2tuning.files_r2tuning import check_replaceable
from modeling_r2tuning.processing_r2tuning import as_text_list
from modeling_r2tuning.video_io_r2tuning import iter_video_frames
from modeling_r2tuning.video_source_r2tuning import display_name
from r2tuning.commands.shared import (
    STANDARD_OUTPUT,
    check_model_options,
    cut_moments,
    load_pipeline,
    model_name,
    open_video,
    write_document,
)
from r2tuning.terminal import progress_bar, report, write_line
from r2tuning.visualization.timeline import (
    format_absence,
    format_probability,
    format_time,
    import_figure,
    plot_grounding,
)
from r2tuning_cli.defaults import MAX_MOMENTS
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)

PIPELINE_OPTIONS = ("fps", "min_probability", "nms", "round_to", "score_threshold", "window_sec")


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_ground, args), prefix, option_names("ground"), (TypeError,))


def _ground(args: argparse.Namespace) -> int:
    as_text_list(args.queries, "QUERY")  # refuses empty ones
    check_model_options(args)
    _check_outputs(args)
    table = sys.stderr if args.json == STANDARD_OUTPUT else sys.stdout
    with open_video(args) as video:
        duration_sec = iter_video_frames(video, 1.0).duration_sec  # refuses a bad video before the model is fetched
        pipe = load_pipeline(args)
        options = {name: value for name, value in vars(args).items() if name in PIPELINE_OPTIONS}
        with progress_bar("reading frames", " frames") as progress:
            answers = pipe(
                video, query=args.queries, max_moments=max(MAX_MOMENTS, args.top), progress=progress, **options
            )
        write_line(table, f"{display_name(args.video)} ({format_time(duration_sec)})")
        for answer in answers:
            write_line(table, "\n" + format_answer(answer, args.top))
        if args.json is not None:
            document = {
                "video": display_name(args.video),
                "duration_sec": duration_sec,
                "fps": options.get("fps", pipe.processor.fps),
                "model": display_name(model_name(args)),
                "answers": answers,
            }
            write_document(document, args.json)
        if args.plot is not None:
            plot_grounding(answers, video, args.plot, top=args.top)
            logger.info("wrote %s", args.plot)
        if args.clips is not None:
            cut_moments(answers, video, duration_sec, args.clips, args.top)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse at the start what could not be written at the end."""
    for path in (args.json, args.plot):
        if path not in (None, STANDARD_OUTPUT):
            check_replaceable(path, args.video)
    if args.plot is not None:
        import_figure()
    if args.clips is not None:
        args.clips.mkdir(parents=True, exist_ok=True)


def format_answer(answer: dict[str, Any], top: int) -> str:
    """A table of the best moments of a query, its highlights and its summary; one line if it is not there."""
    query = " ".join(answer["query"].split())
    absence = format_absence(answer)
    if absence is not None:
        return f"Query: {query}\n  {absence}"
    lines = [f"Query: {query}"]
    if "probability" in answer:
        lines.append(f"  probability: {format_probability(answer['probability'])}")
    lines.append("  rank      start        end  score" if answer["moments"] else "  no moments")
    for rank, moment in enumerate(answer["moments"][:top], 1):
        start, end = format_time(moment["start"]), format_time(moment["end"])
        lines.append(f"  {rank:>4} {start:>10} {end:>10}  {moment['score']:.3f}")
    highlights = (f"{format_time(frame['time'])} ({frame['score']:.2f})" for frame in answer["highlights"])
    lines.append(f"  highlights: {_join(highlights)}")
    summary = (f"{format_time(span['start'])}-{format_time(span['end'])}" for span in answer["summary"])
    lines.append(f"  summary: {_join(summary)}")
    return "\n".join(lines)


def _join(texts: Iterable[str]) -> str:
    return ", ".join(texts) or "none"


__all__ = ["format_answer", "run"]
