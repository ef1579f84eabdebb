"""What `r2tuning demo` shows: a new video of Moving Shapes, a query of each family, and what is found beside the truth."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from modeling_r2tuning.decoding_r2tuning import temporal_iou
from r2tuning.visualization.timeline import format_time


SPLIT = "test"  # its combinations of colour and shape are those trained on; the seed is not
FOUND_IOU = 0.5  # a moment that overlaps the truth by so much counts as found


class DemoQuery(NamedTuple):
    """A query with its truth.

    Attributes:
        text: The query.
        family: What kind of query it is, such as "place".
        moments: Start and end of each true moment, in seconds.
    """

    text: str
    family: str
    moments: list[tuple[float, float]]


def make_demo(folder: Path, seed: int) -> tuple[Path, list[DemoQuery]]:
    """Render a video into a folder; returns its path and a query of each family that it has.

    Args:
        folder: An existing folder.
        seed: Of the video, at least 0.
    """
    # The benchmark's package, which needs `datasets`: seconds to import, and needed by the demo only.
    from dataset_scripts.moving_shapes.generate import annotate_video
    from dataset_scripts.moving_shapes.render import write_video
    from dataset_scripts.moving_shapes.scenes import make_scene

    rows, _ = annotate_video(seed, SPLIT, 0)
    queries = []
    for family in dict.fromkeys(row["domain"] for row in rows):
        some = [DemoQuery(row["query"], family, row["relevant_windows"]) for row in rows if row["domain"] == family]
        asked = [query.moments for query in queries]
        queries.append(next((query for query in some if query.moments not in asked), some[0]))  # not the same again
    path = folder / "video.mp4"
    write_video(make_scene(seed, SPLIT, 0), path)
    return path, queries


def best_iou(moment: dict[str, float], truth: list[tuple[float, float]]) -> float:
    """Highest intersection over union of a found moment with a true one."""
    found = torch.tensor([[moment["start"], moment["end"]]])
    return temporal_iou(found, torch.tensor(truth)).max().item()


def format_comparison(query: DemoQuery, answer: dict[str, Any], top: int) -> str:
    """A table of the true moments and of the best found ones."""
    lines = [f"Query ({query.family}): {query.text}", "                start        end  score  IoU"]
    lines += [f"  truth    {format_time(start):>10} {format_time(end):>10}" for start, end in query.moments]
    for rank, moment in enumerate(answer["moments"][:top], 1):
        start, end = format_time(moment["start"]), format_time(moment["end"])
        iou = best_iou(moment, query.moments)
        lines.append(f"  found {rank:<2} {start:>10} {end:>10}  {moment['score']:.3f}  {iou:.2f}")
    if not answer["moments"]:
        lines.append("  found    no moments")
    return "\n".join(lines)


def format_summary(queries: list[DemoQuery], answers: list[dict[str, Any]]) -> str:
    """How many queries were answered rightly by their best moment."""
    found = sum(
        best_iou(moment, query.moments) >= FOUND_IOU
        for query, answer in zip(queries, answers, strict=True)
        for moment in answer["moments"][:1]
    )
    return f"The best moment overlaps a true one by {FOUND_IOU} or more for {found} of {len(queries)} queries."


__all__ = ["DemoQuery", "best_iou", "format_comparison", "format_summary", "make_demo"]
