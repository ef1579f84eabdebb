"""Locks of a library's tables: adding waits for its turn, maintenance is refused while another process does it.

The operating system releases the locks of a process that is killed.
"""

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

    Raises:
        OSError: The lock file cannot be opened, for example on a read-only disk.
    """
    with _open(folder / ADDING) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def maintenance(folder: Path) -> Iterator[None]:
    """Hold the right to remove videos and to optimize until the block ends.

    Raises:
        LibraryBusyError: Another process or thread holds it.
        OSError: The lock file cannot be opened, for example on a read-only disk.
    """
    with _open(folder / MAINTENANCE) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LibraryBusyError(
                f"Another process removes videos from the library at '{folder}' or optimizes it; "
                "run the command again when it has finished."
            ) from error
        yield


@contextmanager
def _open(path: Path) -> Iterator[int]:
    # Files, because network file systems share locks on files between machines, but not on folders. They stay: a
    # process that waits for a removed file would get a lock that others do not see.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


__all__ = ["adding", "maintenance"]
