"""Jobs in the actors of a Ray cluster.

Each actor is a process with a store of its own, which holds the model. Only jobs and their updates travel between
machines: an actor reads the source, encodes it and writes the file itself. A job whose actor dies is given to another.
"""

import contextlib
import importlib.util
import io
import logging
import math
import os
import pickle
import socket
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from r2tuning.execution.jobs import Job, JobUpdate, Store, StoreFactory, run_job


ATTEMPTS = 3  # how many actors may die while they work on the same job
OBJECT_STORE_BYTES = 100 * 2**20  # the local cluster's; it holds nothing but jobs and updates
CONNECT_SEC = 10.0
# How long a file that another machine wrote may take to appear: NFS remembers for up to a minute that there was none.
APPEAR_SEC = 90.0
DIED = f"{ATTEMPTS} processes that worked on it were killed or crashed, usually because memory ran out"
ALL_DIE = (
    "All processes of the Ray cluster die: {} videos or queries in a row were given up. Usually memory runs out; lower "
    "`num_processes`. Finished files are kept; run the command again to continue."
)


def run_on_ray(
    jobs: Sequence[Job],
    store: Store,
    make_store: StoreFactory,
    num_processes: int,
    address: str | None,
    device: str | None,
) -> Generator[JobUpdate, None, None]:
    """Process jobs in several actors; yields one update for each job.

    All machines of the cluster must see the files under the same paths; relative paths start from the working directory
    of this process.

    Args:
        jobs: The jobs.
        store: Checks the first file that each machine writes.
        make_store: Makes the store of an actor. Its rank is always 0: Ray shows each actor only the GPU reserved for it.
        num_processes: Number of actors.
        address: `"HOST:PORT"` of a running cluster; `None` starts one on this machine, which ends with the work.
        device: Device that `make_store` puts the model on; GPUs are reserved unless it is `"cpu"`.

    Raises:
        ImportError: Ray is not installed, or a machine of the cluster lacks a module.
        OSError: No cluster answers at the address, a file cannot be written, or it does not appear on this machine.
        RuntimeError: All actors die.
        ValueError: A store cannot be made, or the cluster has too few CPUs or no GPU.
    """
    num_processes = min(num_processes, len(jobs))
    with _connected(address, num_processes) as ray:
        actors = _Actors(ray, make_store, num_processes, device)
        machines: set[str] = set()
        for machine, update in actors.run(jobs):
            if machine not in machines and update.error is None:
                _check_appears(store, update.job)
                machines.add(machine)
            yield update


# ---- the cluster ---------------------------------------------------------------------------------------------------


def check_cluster(address: str | None) -> None:
    """Refuse what `run_on_ray` cannot use, before the work begins.

    Args:
        address: `"HOST:PORT"` of a running cluster; `None` = one is to be started.

    Raises:
        ConnectionError: Nothing answers at the address; Ray itself would wait for minutes.
        ImportError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError('`executor` ray needs Ray: `pip install "r2tuning[ray]"`.')
    if address is None:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SEC).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ConnectionError(
            f"No Ray cluster answers at `ray_address` '{address}' ({error}). It must be the HOST:PORT that `ray start "
            "--head` printed."
        ) from error


@contextlib.contextmanager
def _connected(address: str | None, num_processes: int) -> Iterator[Any]:
    """The module `ray`, connected to a cluster; a connection that this process already has is used."""
    check_cluster(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        num_cpus = max(num_processes, torch.get_num_threads())
        options |= {"address": "local", "num_cpus": num_cpus, "object_store_memory": OBJECT_STORE_BYTES}
        options["include_dashboard"] = False
    # When a machine or process dies, Ray prints its address and a dump of its state to stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            ray.init(**options)
        except ConnectionError as error:
            raise ConnectionError(
                f"The Ray cluster at `ray_address` '{address}' refuses the connection ({error}). If it asks for a token, "
                "set RAY_AUTH_MODE=token here and on all machines."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_appears(store: Store, job: Job) -> None:
    """Wait until a file that another machine wrote is complete on this one."""
    deadline = time.monotonic() + APPEAR_SEC
    while (problem := store.check(job)) is not None:
        if time.monotonic() > deadline:
            raise OSError(
                f"A machine of the cluster wrote the file of '{job.id}', which is not complete here ({problem}). All "
                "machines must see the output folder, the videos and the model under the same paths."
            )
        time.sleep(1.0)


# ---- actors --------------------------------------------------------------------------------------------------------


class _Actors:
    """Actors that share jobs.

    Args:
        ray: The module, connected to a cluster.
        make_store: Makes the store of an actor.
        count: Number of actors.
        device: Device of their models.
    """

    def __init__(self, ray: Any, make_store: StoreFactory, count: int, device: str | None):
        self._ray = ray
        self._count = count
        self._waiting: deque[Job] = deque()
        self._running: dict[Any, tuple[Any, Job]] = {}  # actors and their jobs, by the reference to the result
        self._deaths: Counter[Job] = Counter()
        self._given_up = 0  # jobs since one was finished
        resources = ray.cluster_resources()
        num_cpus = int(resources.get("CPU", 0))
        if count > num_cpus:
            raise ValueError(f"`num_processes` must not exceed the number of CPUs of the Ray cluster, {num_cpus}.")
        num_gpus = _share_of_gpu(resources.get("GPU", 0), count, device)
        # An actor that dies is replaced here, since Ray would repeat a job that always kills its actor for ever.
        options = {"num_cpus": 1, "num_gpus": num_gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._class = ray.remote(**options)(_Actor)
        # As bytes, so that a module that a machine lacks is an error of the first job and not a crash of the actor.
        self._arguments = (ray.cloudpickle.dumps(make_store), count, num_cpus // count, os.getcwd())

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[str, JobUpdate]]:
        """Process jobs; yields the machine that worked on each, and the update."""
        self._waiting.extend(jobs)
        try:
            for _ in range(self._count):
                self._give_job(self._class.remote(*self._arguments))
            while self._running:
                [result], _ = self._ray.wait(list(self._running))
                finished = self._finish(result)
                if finished is not None:
                    yield finished
        finally:
            for actor, _ in self._running.values():
                self._ray.kill(actor)

    def _give_job(self, actor: Any) -> None:
        """Start an actor's next job; without one the actor ends, since another may wait for its place."""
        if not self._waiting:
            self._ray.kill(actor)
            return
        job = self._waiting.popleft()
        self._running[actor.run.remote(job)] = actor, job

    def _finish(self, result: Any) -> tuple[str, JobUpdate] | None:
        """The result of a job, or `None` if its actor died and another is to repeat it."""
        actor, job = self._running[result]
        finished: tuple[str, JobUpdate] | None
        try:
            finished = self._ray.get(result)
            self._given_up = 0
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            finished = self._count_death(job, error)
            self._ray.kill(actor)  # it may be alive on a machine that does not answer
            actor = self._class.remote(*self._arguments)
        del self._running[result]
        self._give_job(actor)
        return finished

    def _count_death(self, job: Job, error: Exception) -> tuple[str, JobUpdate] | None:
        """Put a job back whose actor died, or report that it is given up; an error if no job is ever finished."""
        self._deaths[job] += 1
        if self._deaths[job] < ATTEMPTS:
            self._waiting.append(job)
            return None
        self._given_up += 1
        if self._given_up == max(self._count, ATTEMPTS):
            raise RuntimeError(ALL_DIE.format(self._given_up)) from error
        return "", JobUpdate(job, is_last=True, error=DIED)


def _share_of_gpu(num_gpus: float, num_actors: int, device: str | None) -> float:
    """The part of a GPU that each actor reserves."""
    if device == "cpu" or (device is None and not num_gpus):
        return 0.0
    if not num_gpus:
        raise ValueError(f"`device` '{device}' cannot be used: the Ray cluster has no GPUs.")
    return 1.0 / math.ceil(num_actors / num_gpus)


class _Actor:
    """Body of an actor.

    Args:
        make_store: The pickled function that makes its store.
        num_actors: Number of all actors.
        num_threads: Threads of PyTorch.
        folder: Working directory.
    """

    def __init__(self, make_store: bytes, num_actors: int, num_threads: int, folder: str):
        self._make_store, self._num_actors = make_store, num_actors
        self._num_threads, self._folder = num_threads, folder
        self._store: Store | None = None

    def run(self, job: Job) -> tuple[str, JobUpdate]:
        """Process a job; returns the id of this machine, and the update."""
        if self._store is None:  # made here, as Ray would report an error of the constructor as a crash
            self._store = self._prepare()
        return self._machine, run_job(job, self._store)

    def _prepare(self) -> Store:
        import ray

        self._machine = ray.get_runtime_context().get_node_id()
        torch.set_num_threads(self._num_threads)
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise OSError(
                f"A machine of the cluster has no folder '{self._folder}', in which this command was started. Start it "
                "in a folder that all machines see under the same path."
            ) from error
        return pickle.loads(self._make_store)(0, self._num_actors)


__all__ = ["check_cluster", "run_on_ray"]
