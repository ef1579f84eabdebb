"""Locks of a library's tables: adding waits for its turn, maintenance is refused while another process does it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r2tuning.library.errors import LibraryBusyError


ADDING, MAINTENANCE = "adding.lock", "maintenance.lock"


@contextmanager
def adding(folder: Path) -> Iterator[None]:
    """Hold the right to commit to the tables until the block ends; waits while another process or thread holds it.

    The operating system releases the lock of a process that is killed.

    Raises:
        OSError: The lock file cannot be opened, for example on a read-only disk.
    """
    descriptor = _open(folder / ADDING)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def maintenance(folder: Path) -> Iterator[None]:
    """Hold the right to remove videos and to optimize until the block ends.

    Raises:
        LibraryBusyError: Another process or thread holds it.
        OSError: The lock file cannot be opened, for example on a read-only disk.
    """
    descriptor = _open(folder / MAINTENANCE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LibraryBusyError(
                f"Another process removes videos from the library at '{folder}' or optimizes it; "
                "run the command again when it has finished."
            ) from error
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    # A file, because network file systems share locks on files between machines, but not on folders. It stays: had
    # its last holder removed it, a waiting process would hold the lock of a file that nobody else can find.
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


__all__ = ["adding", "maintenance"]
