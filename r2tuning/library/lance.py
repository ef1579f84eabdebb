"""LanceDB as the library uses it: connections, conditions, and errors; the only place that imports it."""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from r2tuning.library.errors import DamagedLibraryError, LibraryBusyError, damaged


# By default it prints warnings that users can do nothing about, and reads 2 GB ahead.
os.environ.setdefault("LANCEDB_LOG", "error")
os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(128 * 2**20))
try:
    import lancedb
    from lancedb.index import IvfRq
    from lancedb.query import LanceVectorQueryBuilder
    from lancedb.table import Table
except ImportError as error:
    raise ImportError('A library of videos needs LanceDB: `pip install "r2tuning[library]"`.') from error


# LanceDB's defaults, 6 GB and 1 GB, are too much for a process that also holds a model.
INDEX_CACHE_BYTES, METADATA_CACHE_BYTES = 256 * 2**20, 64 * 2**20
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust reports an error number
CONFLICT = re.compile(r"commit conflict|concurrent writers", re.IGNORECASE)
UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # surrogates stand for bytes that are not UTF-8
READ_ATTEMPTS = 5

Result = TypeVar("Result")


def connect(folder: Path) -> lancedb.DBConnection:
    """Open a database whose tables always show what other processes have committed.

    Args:
        folder: Its folder; it is created if it does not exist.
    """
    session = lancedb.Session(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES)
    return lancedb.connect(folder, read_consistency_interval=timedelta(0), session=session)


def check_path(folder: str | os.PathLike) -> Path:
    """The absolute path of a database, without links.

    Raises:
        ValueError: LanceDB cannot use the path.
    """
    path = os.path.realpath(folder)
    if UNUSABLE.search(path):
        raise ValueError(f"The path of a library must be UTF-8 without control characters, got {path!r}.")
    return Path(path)


def one_of(column: str, values: Iterable[int | str]) -> str:
    """SQL condition that a column has one of some values."""
    return f"{column} IN ({', '.join(map(_literal, values))})"


def _literal(value: int | str) -> str:
    if isinstance(value, str):
        escaped = value.replace("'", "''")
        return f"'{escaped}'"
    return str(value)


def vector_search(table: Table, vector: np.ndarray) -> LanceVectorQueryBuilder:
    """Begin a search for the rows whose vectors are nearest to one of shape `(dim,)`."""
    return cast(LanceVectorQueryBuilder, table.search(vector))


def read(folder: Path, function: Callable[[], Result]) -> Result:
    """Call a function that reads tables, again if another process removes the files of the version that it reads.

    Args:
        folder: Folder of the tables, to name in messages.
        function: Reads the newest version of tables.

    Raises:
        DamagedLibraryError: The tables cannot be read.
        OSError: The operating system refused.
    """
    attempts_left = READ_ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            with translating(folder):
                return function()
        except DamagedLibraryError as error:
            if not attempts_left or "not found" not in str(error).lower():
                raise


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
    except Exception as error:
        if not _is_of_lancedb(error):
            raise
        raise _translate(folder, str(error)) from error


def _is_of_lancedb(error: Exception) -> bool:
    # A panic, which some damaged files cause, has a type that cannot be imported.
    return isinstance(error, RuntimeError | ValueError) or type(error).__name__ == "RustPanic"


def _translate(folder: Path, text: str) -> Exception:
    found = OS_ERROR.search(text)
    if found is not None and int(found[1]) != errno.ENOENT:  # a missing file is damage
        return OSError(int(found[1]), os.strerror(int(found[1])), str(folder))
    if CONFLICT.search(text):
        return LibraryBusyError(f"Another process changed the library at '{folder}' at the same time; try again.")
    return damaged(folder, text.split(", /")[0])  # without the line of Rust's sources


__all__ = ["IvfRq", "Table", "check_path", "connect", "one_of", "read", "translating", "vector_search"]
