"""Jobs, the store that makes a file from each, and their processing in one process with prefetched inputs."""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from modeling_r2tuning.read_ahead_r2tuning import ReadAhead


class Job(Protocol):
    """Names one file to make; hashable and picklable."""

    @property
    def kind(self) -> str:
        """What the file is made from: `"videos"`, or another plural noun."""

    @property
    def id(self) -> str:
        """Name for messages."""

    @property
    def num_frames(self) -> int:
        """Number of frames expected, for the progress bar."""


class Store(Protocol):
    """Makes one file from each job."""

    # Each store has its own type of jobs, hence `Any`.

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

        The file must appear at once and complete: the process may be killed at any time, and the job repeated.

        Raises:
            OSError: The file cannot be written; this stops all jobs.
            ValueError: The job cannot be processed; the others continue.
        """


# Makes the store of one of several processes from its rank and the number of processes; picklable.
StoreFactory = Callable[[int, int], Store]


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


def run_jobs(jobs: Iterable[Job], store: Store) -> Generator[JobUpdate, None, None]:
    """Process jobs one after the other while their next inputs are prefetched.

    Raises:
        OSError: A file cannot be written.
    """
    with ReadAhead(_read_all(jobs, store)) as items:
        for job, group in itertools.groupby(items, key=lambda item: item[0]):
            try:
                for num_frames in store.write(job, _inputs(group)):
                    yield JobUpdate(job, num_frames)
                yield JobUpdate(job, is_last=True)
            except ValueError as error:
                yield JobUpdate(job, is_last=True, error=str(error))


def run_job(job: Job, store: Store) -> JobUpdate:
    """Process one job; its pieces are prefetched.

    Raises:
        OSError: The file cannot be written.
    """
    num_frames = 0
    for update in run_jobs([job], store):
        num_frames += update.num_frames
    return JobUpdate(job, num_frames, is_last=True, error=update.error)


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


__all__ = ["Job", "JobUpdate", "Store", "StoreFactory", "run_job", "run_jobs"]
