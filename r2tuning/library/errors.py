"""Errors of a library's tables, and LanceDB's errors turned into them."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust reports an error number
CONFLICT = re.compile(r"commit conflict|concurrent writers", re.IGNORECASE)


class LibraryBusyError(RuntimeError):
    """Another process or thread maintains the library."""


class DamagedLibraryError(ValueError):
    """Tables of a library cannot be read.

    Args:
        folder: Folder of the tables.
        detail: What is wrong with them.
    """

    def __init__(self, folder: Path, detail: str):
        super().__init__(
            f"The library's tables at '{folder}' are damaged: {detail}. "
            "Delete the library and run `r2tuning index` again, or restore its folder from a copy."
        )


@contextmanager
def translating(folder: Path) -> Iterator[None]:
    """Turn LanceDB's errors, which are `RuntimeError` or `ValueError` for any cause, into precise ones.

    Args:
        folder: Folder of the tables, to name in messages.

    Raises:
        DamagedLibraryError: The tables cannot be read.
        LibraryBusyError: Another process changed the same rows at the same time.
        OSError: The operating system refused, for example because the disk is full or read-only.
    """
    try:
        yield
    except (DamagedLibraryError, LibraryBusyError):
        raise
    except (RuntimeError, ValueError) as error:
        raise _translate(folder, str(error)) from error


def _translate(folder: Path, text: str) -> Exception:
    found = OS_ERROR.search(text)
    if found is not None and int(found[1]) != errno.ENOENT:  # a missing file is damage
        return OSError(int(found[1]), os.strerror(int(found[1])), str(folder))
    if CONFLICT.search(text):
        return LibraryBusyError(f"Another process changed the library at '{folder}' at the same time; try again.")
    return DamagedLibraryError(folder, text.split(", /")[0])  # without the line of Rust's sources


__all__ = ["DamagedLibraryError", "LibraryBusyError", "translating"]
