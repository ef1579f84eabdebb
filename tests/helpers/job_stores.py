"""A store that writes small files and fails in the ways that the names of its jobs say."""

import errno
import functools
import os
import signal
import time
from pathlib import Path

from r2tuning.features.jobs import VideoJob


class NamedStore:
    """Writes where and how each job was processed: process, working directory and visible GPUs, a line each."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def check(self, job):
        return None if (self.folder / job.id).exists() else "missing"

    def read(self, job):
        if job.id == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)  # as by a system whose memory ran out
        if job.id == "deadly once":
            self._die_once()
        if job.id == "endless":
            time.sleep(600)
        yield from range(2)
        if job.id == "bad":
            raise OSError("the video ends here")
        yield from range(2)

    def write(self, job, items):
        for _ in items:
            yield 10
            if job.id == "full":
                raise OSError(errno.ENOSPC, "the disk is full")
            if job.id == "bug":
                raise TypeError("a bug")
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        (self.folder / job.id).write_text(f"{os.getpid()}\n{os.getcwd()}\n{gpus}")

    def _die_once(self):
        marker = self.folder / "has died"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def make_jobs(*names):
    """Jobs of videos that are annotated with 30 frames each and have 40, 20 of the bad one."""
    return [VideoJob(name, f"{name}.mp4", 1.0, 30, False) for name in names]


def make_named_store(folder):
    """A picklable `make_store` for `extract`."""
    return functools.partial(_make_store, folder)


def make_no_store(rank, num_processes):
    """A `make_store` that fails."""
    raise ValueError(f"no weights for {num_processes} processes")


def _make_store(folder, rank, num_processes):
    if not 0 <= rank < num_processes:
        raise ValueError(f"rank {rank} of {num_processes}")
    return NamedStore(folder)
