"""Predictions for retrieval from a corpus, made by searching a library."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.metrics.corpus import MAX_PREDICTIONS
from r2tuning.library import Library, Moment
from r2tuning.terminal import progress_bar


def search_library(
    folder: Path, rows: list[dict[str, Any]], benchmark: str, device: torch.device | str
) -> list[dict[str, Any]]:
    """Search a library for the query of each row.

    Args:
        folder: The library.
        rows: Examples of the benchmark, with the files of their videos, by which the library's videos get their ids.
        benchmark: Its name.
        device: Where to put the model.

    Returns:
        A record for each row: `qid`, `VCMR`, the best moments as `[video_id, start_sec, end_sec, score]`, and `VR`, the ids of
        their videos, best first.

    Raises:
        ValueError: The benchmark is not scored by retrieval, or none of its videos is in the library.
    """
    if BENCHMARKS[benchmark].metric != "corpus":
        corpora = [name for name, spec in BENCHMARKS.items() if spec.metric == "corpus"]
        raise ValueError(f"`library` is for benchmarks of retrieval ({', '.join(corpora)}), got '{benchmark}'.")
    library = Library.open(folder, device=device)
    names = {os.path.abspath(row["video"]["path"]): row["video_id"] for row in rows if row["video"] is not None}
    if not names.keys() & {record.path for record in library.videos()}:
        raise ValueError(f"The library '{folder}' holds none of the videos of '{benchmark}' that `video_dir` has.")
    with progress_bar("searching", " queries") as progress:
        answers = library.search([row["query"] for row in rows], top=MAX_PREDICTIONS, progress=progress)
    predictions = []
    for row, answer in zip(rows, answers, strict=True):
        predictions.append({"qid": row["qid"], **_as_lists(answer.moments, names)})
    return predictions


def _as_lists(moments: Iterable[Moment], names: dict[str, str]) -> dict[str, list[Any]]:
    """Moments and videos as the metrics read them; a video that the benchmark does not have is named by its path."""
    ranked = []
    for moment in moments:
        ranked.append([names.get(moment.path, moment.path), moment.start, moment.end, moment.score])
    return {"VCMR": ranked, "VR": list(dict.fromkeys(video for video, *_ in ranked))}


__all__ = ["search_library"]
