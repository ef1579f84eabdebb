"""Extraction driver: selects unfinished jobs, prefetches their inputs, and distributes them over processes.

What a job produces is decided by a `Store`: `FeatureStore` writes the backbone's features, `FrameStore` small videos.
"""

import itertools
import logging
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from modeling_r2tuning import R2TuningProcessor
from modeling_r2tuning.read_ahead_r2tuning import ReadAhead
from r2tuning.features.jobs import Job, VideoJob
from r2tuning.terminal import long_progress_bar


logger = logging.getLogger(__name__)

PARALLEL_CHECKS = 8  # threads that check which jobs are finished


class Store(Protocol):
    """Makes one file of a cache from each job.

    Attributes:
        settings: What the files depend on besides videos and annotations.
        processor: Preprocesses frames and queries.
    """

    settings: dict[str, Any]
    processor: R2TuningProcessor

    # A store for videos alone takes `VideoJob`, hence `Any`.

    def check(self, job: Any) -> str | None:
        """`None` if the job's file is complete; otherwise `"missing"`, or what is wrong with the file."""

    def read(self, job: Any) -> Iterator[Any]:
        """Yield the job's inputs piece by piece; runs in a thread of its own.

        Raises:
            OSError: The source cannot be read.
            ValueError: The source cannot be used.
        """

    def write(self, job: Any, items: Iterator[Any]) -> Iterator[int]:
        """Make the file from the `items` that `read` yields; yields numbers of processed frames.

        Raises:
            OSError: The file cannot be written; this stops the extraction.
            ValueError: The job cannot be processed; the others continue.
        """


@dataclass(frozen=True)
class JobUpdate:
    """Progress of a job, sent from the process that works on it.

    Attributes:
        job: The job.
        num_frames: Frames processed since the last update.
        is_last: Whether the job is finished or has failed.
        error: Why it failed.
    """

    job: Job
    num_frames: int = 0
    is_last: bool = False
    error: str | None = None


@dataclass
class Summary:
    """Outcome of an extraction.

    Attributes:
        complete: Number of jobs that were finished before, by kind.
        outdated: What was wrong with existing files, by job.
        done: Number of jobs that were finished now, by kind.
        num_frames: Frames of videos that were processed now.
        failed: Why jobs failed.
    """

    complete: Counter[str] = field(default_factory=Counter)
    outdated: dict[Job, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    num_frames: int = 0
    failed: dict[Job, str] = field(default_factory=dict)

    def add(self, update: JobUpdate) -> None:
        """Count an update."""
        if isinstance(update.job, VideoJob):
            self.num_frames += update.num_frames
        if update.error is not None:
            self.failed[update.job] = update.error
        elif update.is_last:
            self.done[update.job.kind] += 1


def extract(
    jobs: Sequence[Job], store: Store, make_store: Callable[[int, int], Store], *, num_processes: int = 1
) -> Summary:
    """Process all unfinished jobs, with a progress bar.

    Args:
        jobs: All jobs, finished or not.
        store: Checks which jobs are finished; with one process it also processes the others.
        make_store: Makes the store of one of several processes from its number and the number of processes; picklable.
        num_processes: Processes that share the work.

    Raises:
        OSError: A file cannot be written.
        RuntimeError: A process crashed.
    """
    summary = Summary()
    unfinished = _select_unfinished(jobs, store, summary)
    if not unfinished:
        return summary
    if num_processes == 1:
        updates = _work(unfinished, store)
    else:
        updates = _work_in_processes(unfinished, make_store, num_processes)
    total = sum(job.num_frames for job in jobs)
    remaining = sum(job.num_frames for job in unfinished)
    with closing(updates), long_progress_bar("extracting", "frames", total, total - remaining) as bar:
        processed: Counter[Job] = Counter()
        for update in updates:
            summary.add(update)
            processed[update.job] += update.num_frames
            bar.update(update.num_frames)
            if update.is_last:  # a video may be longer or shorter than annotated
                total += processed.pop(update.job) - update.job.num_frames
                bar.total = total
    return summary


def _select_unfinished(jobs: Sequence[Job], store: Store, summary: Summary) -> list[Job]:
    unfinished = []
    with ThreadPoolExecutor(PARALLEL_CHECKS) as pool, long_progress_bar("checking", "files", len(jobs)) as bar:
        for job, problem in zip(jobs, pool.map(store.check, jobs), strict=True):
            bar.update()
            if problem is None:
                summary.complete[job.kind] += 1
                continue
            unfinished.append(job)
            if problem != "missing":
                summary.outdated[job] = problem
                logger.warning("extracted again: %s", problem)
    return unfinished


# ---- one process ---------------------------------------------------------------------------------------------------


def _work(jobs: Iterable[Job], store: Store) -> Generator[JobUpdate, None, None]:
    """Process jobs one after the other while their next inputs are prefetched."""
    with ReadAhead(_read_all(jobs, store)) as items:
        for job, group in itertools.groupby(items, key=lambda item: item[0]):
            try:
                for num_frames in store.write(job, _inputs(group)):
                    yield JobUpdate(job, num_frames)
                yield JobUpdate(job, is_last=True)
            except ValueError as error:
                yield JobUpdate(job, is_last=True, error=str(error))


def _read_all(jobs: Iterable[Job], store: Store) -> Iterator[tuple[Job, Any]]:
    """The inputs of each job, and last the error that ended them, if any."""
    for job in jobs:
        try:
            for item in store.read(job):
                yield job, item
        except (OSError, ValueError) as error:
            yield job, error


def _inputs(group: Iterable[tuple[Job, Any]]) -> Iterator[Any]:
    """The inputs of one job; raises the error that `_read_all` caught."""
    for _, item in group:
        if isinstance(item, Exception):
            raise ValueError(str(item)) from item  # an OSError would mean that writing failed
        yield item


# ---- several processes ---------------------------------------------------------------------------------------------


def _work_in_processes(
    jobs: list[Job], make_store: Callable[[int, int], Store], num_processes: int
) -> Generator[JobUpdate, None, None]:
    """Process jobs in several processes; each takes the next job from a shared counter, and has its share of threads."""
    context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
    next_job = context.Value("q", 0)
    processes: dict[Connection, BaseProcess] = {}
    try:
        for rank in range(min(num_processes, len(jobs))):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (jobs, make_store, rank, num_processes, next_job, sender)
            processes[receiver] = context.Process(target=_serve, args=arguments, daemon=True)
            processes[receiver].start()
            sender.close()
        while processes:
            ready: Any  # `wait` is typed for sockets too
            for ready in wait(list(processes)):
                try:
                    message = ready.recv()
                except EOFError:
                    _check_exit(processes.pop(ready))
                    continue
                if isinstance(message, Exception):
                    raise message
                yield message
    finally:
        for process in processes.values():
            process.terminate()


def _check_exit(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(
            f"A process crashed with exit code {process.exitcode} (-9: killed, usually out of memory). Finished files "
            "are kept; run the command again to continue."
        )


def _serve(
    jobs: list[Job],
    make_store: Callable[[int, int], Store],
    rank: int,
    num_processes: int,
    next_job: Any,
    connection: Connection,
) -> None:
    """Body of a process; it ends with its parent, since sending to a closed connection fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    torch.set_num_threads(max(torch.get_num_threads() // num_processes, 1))
    try:
        with closing(_work(_take(jobs, next_job), make_store(rank, num_processes))) as updates:
            for update in updates:
                connection.send(update)
    except BrokenPipeError:
        return
    except (OSError, ValueError) as error:
        connection.send(error)


def _take(jobs: list[Job], next_job: Any) -> Iterator[Job]:
    """Jobs that no other process has taken; `next_job` is a shared `multiprocessing.Value`."""
    while True:
        with next_job.get_lock():
            index = next_job.value
            next_job.value += 1
        if index >= len(jobs):
            return
        yield jobs[index]


__all__ = ["JobUpdate", "Store", "Summary", "extract"]
