"""The videos and queries of a benchmark as jobs of the extraction."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from dataset_scripts.targets import units_per_second


@dataclass(frozen=True)
class VideoJob:
    """A video to process.

    Attributes:
        id: Id of the video in the dataset.
        source: Its file.
        fps: Frames per second.
        num_frames: Number of frames expected from the annotated duration.
        exact: Whether it must have exactly that many.
    """

    kind: ClassVar[str] = "videos"
    id: str
    source: str
    fps: float
    num_frames: int
    exact: bool


@dataclass(frozen=True)
class QueryJob:
    """A query to process; the progress bar counts it as one frame.

    Attributes:
        id: The qid in the dataset.
        text: The query.
    """

    kind: ClassVar[str] = "queries"
    num_frames: ClassVar[int] = 1
    id: str
    text: str


Job = VideoJob | QueryJob


def plan_jobs(rows: Iterable[dict[str, Any]], fps: float | str, with_queries: bool) -> list[Job]:
    """One job for each query and each video of a dataset, queries first.

    A query of a hidden split may name no video: then it has only a job of its own.

    Args:
        rows: Examples in the schema of `dataset_scripts.features`.
        fps: Frames per second, or `r2tuning.features.settings.ONE_PER_UNIT`.
        with_queries: Whether to include queries.

    Raises:
        ValueError: `fps` is `ONE_PER_UNIT`, and two rows annotate different units of the same video.
    """
    queries: dict[tuple[str, str], QueryJob] = {}
    videos: dict[str, VideoJob] = {}
    for row in rows:
        if with_queries:
            queries[row["qid"], row["query"]] = QueryJob(row["qid"], row["query"])
        if row["video_id"] is None:
            continue
        job = _plan_video(row, fps)
        if videos.setdefault(job.id, job) != job and job.exact:
            raise ValueError(
                f"The video '{job.id}' is annotated twice, with different units. Extract one domain at a time."
            )
    return [*queries.values(), *videos.values()]


def _plan_video(row: dict[str, Any], fps: float | str) -> VideoJob:
    if isinstance(fps, str):  # `ONE_PER_UNIT`
        rate, exact = units_per_second(row), True
    else:
        rate, exact = fps, False
    num_frames = max(round(rate * row["duration_sec"]), 1)
    return VideoJob(row["video_id"], row["video"]["path"], rate, num_frames, exact)


__all__ = ["Job", "QueryJob", "VideoJob", "plan_jobs"]
