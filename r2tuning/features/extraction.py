"""Extraction driver: selects unfinished jobs, gives them to an executor, and counts what was done.

What a job produces is decided by a `Store`: `FeatureStore` writes the backbone's features, `FrameStore` small videos.
"""

import logging
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

from r2tuning.execution.jobs import Job, JobUpdate, Store, StoreFactory, run_jobs
from r2tuning.execution.processes import run_in_processes
from r2tuning.execution.ray_cluster import run_on_ray
from r2tuning.terminal import long_progress_bar


logger = logging.getLogger(__name__)

PARALLEL_CHECKS = 8  # threads that check which jobs are finished


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
        if update.job.kind == "videos":
            self.num_frames += update.num_frames
        if update.error is not None:
            self.failed[update.job] = update.error
        elif update.is_last:
            self.done[update.job.kind] += 1


def extract(
    jobs: Sequence[Job],
    store: Store,
    make_store: StoreFactory,
    *,
    executor: Literal["local", "ray"] = "local",
    num_processes: int = 1,
    ray_address: str | None = None,
    device: str | None = None,
) -> Summary:
    """Process all unfinished jobs, with a progress bar.

    Args:
        jobs: All jobs, finished or not.
        store: Checks which jobs are finished; with the local executor and one process it also processes the others.
        make_store: Makes the store of a process or actor from its rank and their number; picklable. Not called with the
            local executor and one process.
        executor: `"local"` for processes of this machine, `"ray"` for actors of a Ray cluster.
        num_processes: Processes or actors that share the work.
        ray_address: `"HOST:PORT"` of a running cluster; `None` starts one on this machine, which ends with the work.
            Ignored if this process is connected to a cluster already.
        device: Device that `make_store` puts the model on. `"ray"` reserves GPUs unless it is `"cpu"`.

    Raises:
        OSError: A file cannot be written, or no cluster answers.
        RuntimeError: A local process crashed.
        ValueError: A store cannot be made, or the cluster is too small.
    """
    if executor not in ("local", "ray"):
        raise ValueError(f"`executor` must be 'local' or 'ray', got '{executor}'.")
    summary = Summary()
    unfinished = _select_unfinished(jobs, store, summary)
    if not unfinished:
        return summary
    updates: Generator[JobUpdate, None, None]
    if executor == "ray":
        updates = run_on_ray(unfinished, store, make_store, num_processes, ray_address, device)
    elif num_processes == 1:
        updates = run_jobs(unfinished, store)
    else:
        updates = run_in_processes(unfinished, make_store, num_processes)
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


__all__ = ["Store", "Summary", "extract"]
