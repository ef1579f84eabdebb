"""Working off the videos and queries of a benchmark: what is to be done, reading ahead, several processes, the result.

What is made of a video or a query is the matter of a store (`FeatureStore`, `FrameStore`), which has three methods:
`check(job)` tells whether the job is done, `read(job)` yields what belongs to it, in a thread of its own, and
`write(job, items)` makes a file of that.
"""

import itertools
import logging
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Protocol

import torch
from tqdm import tqdm

from dataset_scripts.targets import units_per_second
from r2tuning.features.cache import ONE_PER_CLIP


logger = logging.getLogger(__name__)

END = object()
CHECKS_AT_ONCE = 8


@dataclass(frozen=True)
class VideoJob:
    """A video to be worked off.

    Attributes:
        id: As in the dataset.
        source: The file.
        fps: Frames per second.
        num_frames: How many frames it should have, by its annotated duration.
        exact: Whether it must have so many.
    """

    id: str
    source: str
    fps: float
    num_frames: int
    exact: bool
    kind = "videos"


@dataclass(frozen=True)
class QueryJob:
    """A query to be worked off; in the progress bar it counts as one frame."""

    id: str
    text: str
    num_frames = 1
    kind = "queries"


Job = VideoJob | QueryJob


class Store(Protocol):
    """What is made of the jobs."""

    def check(self, job: Job) -> str | None:
        """`None` if the job is done, else why not: `"missing"`, or what is wrong with the file that is there."""

    def read(self, job: Job) -> Iterator[Any]:
        """What `write` needs, piece by piece; raises `OSError` or `ValueError` if the job cannot be done."""

    def write(self, job: Job, items: Iterator[Any]) -> Iterator[int]:
        """Make the file of what `read` yields; yields how many frames came to be done.

        Raises `ValueError` if the job cannot be done, `OSError` if nothing can be written any more.
        """


@dataclass(frozen=True)
class Step:
    """A message of a process: frames of a job are done, or the job is; `error` says why it failed."""

    job: Job
    num_frames: int = 0
    is_last: bool = False
    error: str | None = None


@dataclass
class Summary:
    """What became of the jobs.

    Attributes:
        complete: Jobs that were done before, by kind.
        outdated: What was wrong with files that were there, by job.
        done: Jobs that were done now, by kind.
        num_frames: Frames of videos that were done now.
        failed: Why jobs failed.
    """

    complete: Counter = field(default_factory=Counter)
    outdated: dict[Job, str] = field(default_factory=dict)
    done: Counter = field(default_factory=Counter)
    num_frames: int = 0
    failed: dict[Job, str] = field(default_factory=dict)

    def count(self, step: Step) -> None:
        """Take notice of a message."""
        self.num_frames += step.num_frames if isinstance(step.job, VideoJob) else 0
        if step.error is not None:
            self.failed[step.job] = step.error
        elif step.is_last:
            self.done[step.job.kind] += 1


def plan_jobs(rows: Iterable[dict[str, Any]], fps: float | str, with_queries: bool) -> list[Job]:
    """One job for each query and each video of a dataset, queries first.

    Args:
        rows: In the schema of `dataset_scripts.features`.
        fps: Frames per second, or `ONE_PER_CLIP`.
        with_queries: Whether queries are wanted, or only videos.

    Raises:
        ValueError: One frame is wanted for each clip, and a video has different clips in two places.
    """
    queries, videos = {}, {}
    for row in rows:
        if with_queries:
            queries[row["qid"], row["query"]] = QueryJob(row["qid"], row["query"])
        job = _plan_video(row, fps)
        if videos.setdefault(job.id, job) != job and job.exact:
            raise ValueError(
                f"The video '{job.id}' is annotated twice, with different clips. Extract one domain only."
            )
    return [*queries.values(), *videos.values()]


def _plan_video(row: dict[str, Any], fps: float | str) -> VideoJob:
    per_clip = fps == ONE_PER_CLIP
    rate = units_per_second(row) if per_clip else fps
    num_frames = max(round(rate * row["duration_sec"]), 1)
    return VideoJob(row["video_id"], row["video"]["path"], rate, num_frames, per_clip)


def extract(
    jobs: list[Job], store: Store, make_store: Callable[[int, int], Store], *, num_processes: int = 1
) -> Summary:
    """Do all jobs that are not done yet, with a progress bar.

    Args:
        jobs: What is to be done.
        store: What is made of them; it does the work itself if there is one process.
        make_store: Makes the store of one of several processes from its number and the number of processes; picklable.
        num_processes: Processes that share the work. If there are several, `store` only tells what is done.

    Raises:
        OSError: A file cannot be written.
        RuntimeError: A process came to a bad end.
    """
    summary = Summary()
    todo = _select_unfinished(jobs, store, summary)
    if not todo:
        return summary
    steps = _work(todo, store) if num_processes == 1 else _work_in_processes(todo, make_store, num_processes)
    total, done = sum(job.num_frames for job in jobs), sum(job.num_frames for job in todo)
    with closing(steps), _progress_bar("extracting", "frames", total, total - done) as bar:
        so_far = Counter()
        for step in steps:
            summary.count(step)
            so_far[step.job] += step.num_frames
            bar.update(step.num_frames)
            if step.is_last:  # a video may be longer or shorter than annotated
                bar.total += so_far.pop(step.job) - step.job.num_frames
    return summary


def _select_unfinished(jobs: list[Job], store: Store, summary: Summary) -> list[Job]:
    todo = []
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool, _progress_bar("checking", "files", len(jobs)) as bar:
        for job, problem in zip(jobs, pool.map(store.check, jobs), strict=True):
            bar.update()
            if problem is None:
                summary.complete[job.kind] += 1
                continue
            todo.append(job)
            if problem != "missing":
                summary.outdated[job] = problem
                logger.warning("made anew: %s", problem)
    return todo


def _progress_bar(label: str, unit: str, total: int, initial: int = 0) -> tqdm:
    bar = tqdm(desc=label, total=total, initial=initial, unit=f" {unit}", smoothing=0.05)
    if not bar.fp.isatty():
        bar.mininterval = 30.0  # a log file
    return bar


# ---- one process ---------------------------------------------------------------------------------------------------


def _work(jobs: Iterable[Job], store: Store) -> Iterator[Step]:
    """Do jobs one after the other, while the next pieces are read."""
    with closing(read_ahead(_read_all(jobs, store))) as items:
        for job, group in itertools.groupby(items, key=lambda item: item[0]):
            try:
                for num_frames in store.write(job, _contents(group)):
                    yield Step(job, num_frames)
                yield Step(job, is_last=True)
            except ValueError as error:
                yield Step(job, is_last=True, error=str(error))


def _read_all(jobs: Iterable[Job], store: Store) -> Iterator[tuple[Job, Any]]:
    """What belongs to each job, an error behind it if there is one."""
    for job in jobs:
        try:
            for item in store.read(job):
                yield job, item
        except (OSError, ValueError) as error:
            yield job, error


def _contents(group: Iterable[tuple[Job, Any]]) -> Iterator[Any]:
    for _, item in group:
        if isinstance(item, Exception):
            raise ValueError(str(item)) from item  # an OSError would mean that writing failed
        yield item


def read_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made in a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, END)
        while (item := coming.result()) is not END:
            coming = pool.submit(next, items, END)
            yield item


# ---- several processes ---------------------------------------------------------------------------------------------


def _work_in_processes(jobs: list[Job], make_store: Callable[[int, int], Store], num_processes: int) -> Iterator[Step]:
    """Each process takes the next job when it has done one, so no two do the same; each has its share of threads."""
    context = multiprocessing.get_context("spawn")  # a copy of this process could not use CUDA
    next_job = context.Value("q", 0)
    processes = {}
    try:
        for rank in range(min(num_processes, len(jobs))):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (jobs, make_store, rank, num_processes, next_job, sender)
            processes[receiver] = context.Process(target=_serve, args=arguments, daemon=True)
            processes[receiver].start()
            sender.close()
        while processes:
            for receiver in wait(processes):
                try:
                    message = receiver.recv()
                except EOFError:
                    _check_exit(processes.pop(receiver))
                    continue
                if isinstance(message, Exception):
                    raise message
                yield message
    finally:
        for process in processes.values():
            process.terminate()


def _check_exit(process: multiprocessing.Process) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(
            f"A process ended with exit code {process.exitcode} (-9: killed, mostly for want of memory). What is done "
            "is kept; run the command again to go on."
        )


def _serve(
    jobs: list[Job],
    make_store: Callable[[int, int], Store],
    rank: int,
    num_processes: int,
    next_job: Synchronized,
    connection: Connection,
) -> None:
    """Body of a process; it ends with the process that started it, as nobody receives its messages then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process sees to it
    torch.set_num_threads(max(torch.get_num_threads() // num_processes, 1))
    try:
        with closing(_work(_take(jobs, next_job), make_store(rank, num_processes))) as steps:
            for step in steps:
                connection.send(step)
    except BrokenPipeError:
        return
    except (OSError, ValueError) as error:
        connection.send(error)


def _take(jobs: list[Job], next_job: Synchronized) -> Iterator[Job]:
    while True:
        with next_job.get_lock():
            index = next_job.value
            next_job.value += 1
        if index >= len(jobs):
            return
        yield jobs[index]


__all__ = ["Job", "QueryJob", "Step", "Store", "Summary", "VideoJob", "extract", "plan_jobs", "read_ahead"]
