"""`r2tuning demo`: grounds queries in a new video of Moving Shapes and compares the answers with the truth."""

import argparse
import functools
import logging
import secrets
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dataset_scripts.moving_shapes.generate import annotate_absent, annotate_video
from dataset_scripts.moving_shapes.render import write_video
from dataset_scripts.moving_shapes.scenes import make_scene
from modeling_r2tuning.decoding_r2tuning import temporal_iou
from modeling_r2tuning.files_r2tuning import check_replaceable
from modeling_r2tuning.video_io_r2tuning import iter_video_frames
from r2tuning.commands.shared import DONE, SOME_FAILED, check_model_options, cut_moments, load_pipeline
from r2tuning.terminal import report, write_line
from r2tuning.visualization.style import format_number, format_probability, format_time, import_figure
from r2tuning.visualization.timeline import format_absence, plot_grounding
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)

SPLIT = "test"  # its combinations of colour and shape were trained on; the seed was not
SEEDS = 10**6  # seeds are drawn from 1 on: the benchmark's is 0
FOUND_IOU = 0.5  # a prediction that overlaps a true moment this much counts as correct


class DemoQuery(NamedTuple):
    """A query with its truth.

    Attributes:
        text: The query.
        family: What kind of query it is, such as "place"; of an absent query with its kind, such as "place/easy".
        moments: Start and end of each true moment, in seconds; empty for an absent query.
    """

    text: str
    family: str
    moments: list[tuple[float, float]]


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_demo, args), prefix, option_names("demo"), (TypeError,))


def _demo(args: argparse.Namespace) -> int:
    check_model_options(args)
    import_figure()
    seed = 1 + secrets.randbelow(SEEDS) if args.seed is None else args.seed
    clips, timeline = args.output / "clips", args.output / "timeline.png"
    clips.mkdir(parents=True, exist_ok=True)
    check_replaceable(timeline)
    path, queries = make_demo(args.output, seed)
    video = str(path)
    pipe = load_pipeline(args)
    if pipe.model.config.use_existence_head:
        queries += find_absent_query(seed)
    answers = pipe(video, query=[query.text for query in queries])
    write_line(sys.stdout, f"{video} (--seed {seed} makes the same video again)")
    for query, answer in zip(queries, answers, strict=True):
        write_line(sys.stdout, "\n" + format_comparison(query, answer, args.top))
    write_line(sys.stdout, "\n" + format_summary(queries, answers))
    plot_grounding(answers, video, timeline, top=args.top, truths=[query.moments for query in queries])
    logger.info("wrote %s", timeline)
    num_failed = cut_moments(answers, video, iter_video_frames(video, 1.0).duration_sec, clips, top=1)
    return SOME_FAILED if num_failed else DONE


def make_demo(folder: Path, seed: int) -> tuple[Path, list[DemoQuery]]:
    """Render a video into a folder; returns its path and one query of each family that the video has.

    Args:
        folder: An existing folder.
        seed: Seed of the video, at least 0.
    """
    rows, _ = annotate_video(seed, SPLIT, 0)
    families: dict[str, list[DemoQuery]] = {}
    for row in rows:
        query = DemoQuery(row["query"], row["domain"], row["relevant_windows"])
        families.setdefault(query.family, []).append(query)
    queries: list[DemoQuery] = []
    for candidates in families.values():
        queries.append(_choose_query(candidates, queries))
    path = folder / "video.mp4"
    write_video(make_scene(seed, SPLIT, 0), path)
    return path, queries


def find_absent_query(seed: int) -> list[DemoQuery]:
    """The first query of the video that nothing in it matches, in a list; empty in the rare case that there is none.

    One about a colour or a shape that the video does not have ("easy") comes before others.
    """
    queries = []
    for row in annotate_absent(seed, SPLIT, 0):
        queries.append(DemoQuery(row["query"], row["domain"], []))
    queries.sort(key=lambda query: not query.family.endswith("/easy"))
    return queries[:1]


def _choose_query(candidates: list[DemoQuery], chosen: list[DemoQuery]) -> DemoQuery:
    """The first query whose moments differ from those of the chosen queries, else the first."""
    known = [query.moments for query in chosen]
    for query in candidates:
        if query.moments not in known:
            return query
    return candidates[0]


def best_iou(moment: dict[str, float], truth: list[tuple[float, float]]) -> float:
    """Highest intersection over union of a predicted moment with a true one; 0 if there is none."""
    if not truth:
        return 0.0
    predicted = torch.tensor([[moment["start"], moment["end"]]])
    return temporal_iou(predicted, torch.tensor(truth)).max().item()


def format_comparison(query: DemoQuery, answer: dict[str, Any], top: int) -> str:
    """A table of the true moments and the best predicted ones, with the probability if the model gives one."""
    lines = [f"Query ({query.family}): {query.text}", "                start        end  score  IoU"]
    lines += [f"  truth    {format_time(start):>10} {format_time(end):>10}" for start, end in query.moments]
    if not query.moments:
        lines.append("  truth    not there")
    absence = format_absence(answer)
    if absence is not None:
        lines.append(f"  found    {absence}")
    elif "probability" in answer:
        lines.append(f"  found    there ({format_probability(answer['probability'])})")
    for rank, moment in enumerate(answer["moments"][:top], 1):
        start, end = format_time(moment["start"]), format_time(moment["end"])
        iou = best_iou(moment, query.moments)
        lines.append(f"  found {rank:<2} {start:>10} {end:>10}  {format_number(moment['score'], 3)}  {iou:.2f}")
    if not answer["moments"] and absence is None:
        lines.append("  found    no moments")
    return "\n".join(lines)


def format_summary(queries: list[DemoQuery], answers: list[dict[str, Any]]) -> str:
    """How many present queries have a correct best moment, and whether an absent one was recognised."""
    num_present = num_correct = 0
    absent = ""
    for query, answer in zip(queries, answers, strict=True):
        if query.moments:
            num_present += 1
            best = answer["moments"][:1]
            num_correct += any(best_iou(moment, query.moments) >= FOUND_IOU for moment in best)
        else:
            recognised = "not recognised" if answer.get("found", True) else "recognised"
            absent += f" The query for what is not there was {recognised}."
    return f"The best moment overlaps a true one by {FOUND_IOU} or more for {num_correct} of {num_present} queries.{absent}"


__all__ = [
    "DemoQuery",
    "best_iou",
    "find_absent_query",
    "format_comparison",
    "format_summary",
    "make_demo",
    "run",
]
