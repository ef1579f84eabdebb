"""Jobs in several processes of this machine."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.connection import Connection
from typing import Any

import torch

from r2tuning.execution.jobs import Job, JobUpdate, Store, StoreFactory, run_job


_own_store: Callable[[], Store]  # of a worker process; made when it is called for the first time


def run_in_processes(
    jobs: Sequence[Job], make_store: StoreFactory, num_processes: int
) -> Generator[JobUpdate, None, None]:
    """Process jobs in several processes, each with a store of its own; yields one update for each job.

    Args:
        jobs: The jobs.
        make_store: Makes the store of a process.
        num_processes: Number of processes; they share the processor's cores.

    Raises:
        OSError: A file cannot be written.
        RuntimeError: A process crashed.
        ValueError: A store cannot be made.
    """
    num_processes = min(num_processes, len(jobs))
    context: Any = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
    ranks = context.SimpleQueue()
    for rank in range(num_processes):
        ranks.put(rank)
    alive, parent = context.Pipe(duplex=False)
    arguments = (make_store, ranks, num_processes, alive)
    with (
        closing(alive),
        closing(parent),
        ProcessPoolExecutor(num_processes, context, initializer=_start_worker, initargs=arguments) as pool,
    ):
        try:
            futures = [pool.submit(_run_job, job) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        except BaseException as error:
            parent.close()  # the processes exit at once, instead of finishing their jobs
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError(
                    "A process crashed or was killed, usually because memory ran out. Finished files are kept; run "
                    "the command again to continue."
                ) from error
            raise


def _start_worker(make_store: StoreFactory, ranks: Any, num_processes: int, alive: Connection) -> None:
    """Prepare a worker process. Its first job makes the store, so that an error of that reaches the parent."""
    global _own_store
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_exit_with_parent, args=(alive,), daemon=True).start()
    torch.set_num_threads(max(torch.get_num_threads() // num_processes, 1))
    _own_store = functools.cache(functools.partial(make_store, ranks.get(), num_processes))


def _exit_with_parent(alive: Connection) -> None:
    """End this process when the parent closes its end of the pipe or is killed."""
    alive.poll(None)
    os._exit(1)


def _run_job(job: Job) -> JobUpdate:
    return run_job(job, _own_store())


__all__ = ["run_in_processes"]
