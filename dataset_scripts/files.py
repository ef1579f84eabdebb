"""Files and folders that appear whole or not at all, and folders that one process at a time may write.

What is written grows in a hidden folder beside its place, under a name that nobody can guess, and is renamed once it is
complete and on the disk. A process that is killed leaves its hidden folder behind, but not the lock on it: whoever
writes there next removes it. Only the standard library is used, as this file is part of every checkpoint's code, and
`dataset_scripts/files.py` is a copy of it.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows: folders cannot be locked, so nothing is cleaned up and nothing is refused there
    fcntl = None

PREFIX, SUFFIX = ".r2tuning-", ".partial"  # of hidden folders


@contextmanager
def writing(path: str | os.PathLike, *, temporary_in: str | os.PathLike | None = None) -> Iterator[Path]:
    """Write a file that appears under its name only when the block ends without an error.

    ```python
    with writing("answers.json") as partial:
        partial.write_text(text, encoding="utf-8")
    ```

    Args:
        path: File to write; a regular file of that name is replaced.
        temporary_in: Folder on the same file system for the unfinished file; default: the folder of `path`.

    Yields:
        Path of an empty file with the ending of `path`.

    Raises:
        FileExistsError: `path` is something else than a regular file: a folder, link, pipe or device.
        FileNotFoundError: The folder of `path` does not exist.
    """
    path = Path(path)
    check_replaceable(path)
    with _hidden_folder(path.parent if temporary_in is None else Path(temporary_in)) as hidden:
        partial = hidden / f"file{path.suffix}"
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)  # as the umask says
        with _naming(path, partial):
            yield partial
            partial.chmod(mode)  # safetensors makes files that only their owner can read
            _flush(partial)
            check_replaceable(path)
            os.replace(partial, path)
    _flush(path.parent)


@contextmanager
def writing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Write a folder that appears under its name only when the block ends without an error.

    Args:
        path: Folder to write; it must not exist, or be empty.

    Yields:
        Path of an empty folder.

    Raises:
        FileExistsError: `path` is a file, a link or a folder that is not empty.
        FileNotFoundError: The folder that is to hold `path` does not exist.
    """
    path = Path(path)
    _check_new_folder(path)
    with _hidden_folder(path.parent) as hidden:
        partial = hidden / "folder"
        partial.mkdir()
        with _naming(path, partial):
            yield partial
            for written in partial.rglob("*"):
                _flush(written)
            _check_new_folder(path)
            os.replace(partial, path)
    _flush(path.parent)


def check_replaceable(path: str | os.PathLike, *inputs: str | os.PathLike) -> None:
    """Refuse a file that `writing` could not or must not write.

    Args:
        path: File to write.
        inputs: Files that are still needed.

    Raises:
        FileExistsError: `path` is something else than a regular file, or one of `inputs`.
        FileNotFoundError: Its folder does not exist.
    """
    path = Path(path)
    _check_parent(path)
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileExistsError(f"'{path}' cannot be written: it exists and is not a regular file; name another file.")
    for needed in inputs:
        if path.exists() and os.path.exists(needed) and os.path.samefile(path, needed):
            raise FileExistsError(f"'{path}' cannot be written: it is an input of this command; name another file.")


@contextmanager
def claiming(folder: str | os.PathLike) -> Iterator[None]:
    """Keep other processes that ask for it out of an existing folder until the block ends.

    Raises:
        FileExistsError: Another process has claimed the folder.
    """
    lock = _try_lock(Path(folder))
    if lock is None and fcntl is not None:
        raise FileExistsError(f"Another run is writing to '{folder}'; wait for its end or name another folder.")
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove from a folder what killed processes left unfinished; `writing` does so by itself."""
    for hidden in Path(folder).glob(f"{PREFIX}*{SUFFIX}"):
        lock = _try_lock(hidden)
        if lock is not None:
            shutil.rmtree(hidden, ignore_errors=True)
            os.close(lock)


@contextmanager
def _hidden_folder(beside: Path) -> Iterator[Path]:
    remove_leftovers(beside)
    hidden = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=beside))
    lock = _try_lock(hidden)
    if lock is None and fcntl is not None:  # another process took it for a leftover, between the two lines above
        with _hidden_folder(beside) as hidden:
            yield hidden
        return
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """Descriptor that holds the lock of a folder; `None` if another one does, or the folder is gone."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _naming(path: Path, partial: Path) -> Iterator[None]:
    """Errors about the unfinished file name the file that was asked for."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"'{path}' cannot be written: there is no folder '{path.parent}'.")


def _check_new_folder(path: Path) -> None:
    _check_parent(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(f"'{path}' is a file or a link; name a new folder.")
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"The folder '{path}' is not empty; name a new one or empty it.")


def _flush(path: Path) -> None:
    """Have a file or folder written to the disk, so that a power cut cannot undo or halve it."""
    with suppress(PermissionError):  # Windows cannot flush a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["check_replaceable", "claiming", "remove_leftovers", "writing", "writing_folder"]
