"""Write files and folders atomically, and lock folders that only one process at a time may write to.

An unfinished file is written to a hidden folder next to its destination, with a random name, and renamed once it is
complete and on the disk. A process that is killed leaves its hidden folder behind, but the operating system releases
its lock, so the next process that writes there knows that it can remove the folder.

This file travels with every checkpoint and `dataset_scripts/files.py` is an equal copy of it, so it uses only the
standard library.
"""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows has no such locks: leftovers are not removed and concurrent runs not refused
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".r2tuning-", ".partial"  # of hidden folders
# A file, because network file systems share locks on files between machines, but not on folders.
LOCK = ".r2tuning-lock"
RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers report an error number


@contextmanager
def writing(path: str | os.PathLike, *, temporary_in: str | os.PathLike | None = None) -> Iterator[Path]:
    """Write a file that appears at its path only when the block ends without an error.

    ```python
    with writing("answers.json") as partial:
        partial.write_text(text, encoding="utf-8")
    ```

    Args:
        path: File to write; an existing regular file is replaced.
        temporary_in: Folder on the same file system for the unfinished file; default: the folder of `path`.

    Yields:
        Path of an empty file with the same name.

    Raises:
        FileExistsError: `path` is not a regular file, but a folder, link, pipe or device.
        FileNotFoundError: The folder of `path` does not exist.
        PermissionError: The folder of `path` is not writable.
    """
    path = Path(path)
    check_replaceable(path)
    with _naming(path), _hidden_folder(path.parent if temporary_in is None else Path(temporary_in)) as hidden:
        partial = hidden / path.name
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)  # follows the umask
        yield partial
        partial.chmod(mode)  # the block may have replaced the file, see `make_readable`
        _flush(partial)
        check_replaceable(path)
        os.replace(partial, path)
    _flush_folder(path.parent)


@contextmanager
def writing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Write a folder that appears at its path only when the block ends without an error.

    Args:
        path: Folder to write; it must not exist or must be empty.

    Yields:
        Path of an empty folder with the same name.

    Raises:
        FileExistsError: `path` is a file, a link or a folder that is not empty.
        FileNotFoundError: The parent folder does not exist.
        PermissionError: The parent folder is not writable.
    """
    path = Path(path).absolute()
    check_new_folder(path)
    _check_parent(path)
    with _naming(path), _hidden_folder(path.parent) as hidden:
        partial = hidden / path.name
        partial.mkdir()
        mode = stat.S_IMODE(partial.stat().st_mode) & 0o666  # mode of a new file under this umask
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                Path(folder, name).chmod(mode)
                _flush(Path(folder, name))
            _flush_folder(Path(folder))
        check_new_folder(path)
        os.replace(partial, path)
    _flush_folder(path.parent)


def check_replaceable(path: str | os.PathLike, *inputs: str | os.PathLike) -> None:
    """Refuse a file that `writing` cannot or must not write.

    Args:
        path: File to write.
        inputs: Files that are still needed and must not be replaced.

    Raises:
        FileExistsError: `path` is not a regular file, or is one of `inputs`.
        FileNotFoundError: Its folder does not exist.
        PermissionError: Its folder is not writable.
    """
    path = Path(path)
    _check_parent(path)
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileExistsError(f"'{path}' cannot be written: it exists and is not a regular file; choose another name.")
    for needed in inputs:
        if path.exists() and os.path.exists(needed) and os.path.samefile(path, needed):
            raise FileExistsError(f"'{path}' cannot be written: it is an input of this command; choose another name.")


def check_new_folder(path: str | os.PathLike) -> None:
    """Refuse a folder that `writing_folder` must not write.

    Raises:
        FileExistsError: `path` is a file, a link or a folder that is not empty.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(f"'{path}' is a file or a link; choose a new folder.")
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"The folder '{path}' is not empty; choose a new one or empty it.")


def make_readable(folder: str | os.PathLike) -> None:
    """Give the safetensors files of a folder the mode of any new file; the library makes them readable for their owner."""
    with _hidden_folder(Path(folder)) as hidden:
        mode = stat.S_IMODE((hidden / LOCK).stat().st_mode)
        for weights in Path(folder).glob("*.safetensors"):
            weights.chmod(mode)


@contextmanager
def claiming(folder: str | os.PathLike) -> Iterator[None]:
    """Claim an existing folder until the block ends; meanwhile other claims of it fail.

    Raises:
        FileExistsError: Another process has claimed the folder.
    """
    path = Path(folder) / LOCK
    try:
        held = [_take_lock(path)]
    except BlockingIOError as error:
        raise FileExistsError(
            f"Another run is writing to '{folder}'; wait until it ends or choose another folder."
        ) from error
    # A forked worker inherits the lock. If the run is killed, a worker that lives on must not hold the claim.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _close(held))
    try:
        yield
    finally:
        if held:
            with suppress(OSError):  # Windows cannot remove an open file
                path.unlink()
            _close(held)


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the hidden folders that killed processes left in a folder; `writing` calls this, too."""
    if fcntl is None:
        return
    for hidden in Path(folder).glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError):  # in use, already removed, or on a file system without locks
            found = hidden.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                lock = _take_lock(hidden / LOCK, required=True)
                shutil.rmtree(hidden, ignore_errors=True)
                os.close(lock)
                hidden.rmdir()  # network file systems keep a removed file, and its folder, until it is closed


@contextmanager
def _hidden_folder(beside: Path) -> Iterator[Path]:
    """Make a locked hidden folder in the folder `beside` and remove it when the block ends."""
    remove_leftovers(beside)
    hidden, lock = _make_hidden_folder(beside)
    try:
        yield hidden
    finally:
        os.close(lock)
        shutil.rmtree(hidden, ignore_errors=True)


def _make_hidden_folder(beside: Path) -> tuple[Path, int]:
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=beside))
        try:
            return hidden, _take_lock(hidden / LOCK)
        except (BlockingIOError, FileNotFoundError):
            continue  # before it was locked, another process took it for a leftover
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise


def _take_lock(path: Path, *, required: bool = False) -> int:
    """Open a file, create it if it does not exist, and lock it until it is closed.

    Args:
        path: The file.
        required: Raise an error on file systems without locks; otherwise the file is opened without a lock there.

    Returns:
        Descriptor of the file.

    Raises:
        BlockingIOError: Another process holds the lock.
        FileNotFoundError: The folder does not exist.
        OSError: The file system has no locks, if `required`.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is None:
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if required or isinstance(error, BlockingIOError):
                os.close(descriptor)
                raise
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the last holder removed the file before we got the lock; create it again


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make errors about the unfinished file name `path` instead."""
    try:
        yield
    except OSError as error:
        name = _public_name(error.filename, path)
        if error.errno is None or name is None:
            raise
        raise OSError(error.errno, error.strerror, name) from error
    except Exception as error:
        found = RUST_ERROR.search(str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def _public_name(name: str | bytes | int | None, path: Path) -> str | None:
    """Final name of a file in the hidden folder of `path`; `None` for a file elsewhere."""
    if name is None:
        return str(path)
    parts = Path(name).parts if isinstance(name, str) else ()
    hidden = [index for index, part in enumerate(parts) if part.startswith(PREFIX) and part.endswith(SUFFIX)]
    if not hidden:
        return None
    inside = parts[hidden[-1] + 1 :]
    if inside[:1] != (path.name,):  # the lock or a helper file of a library
        return str(path)
    return str(path.parent.joinpath(*inside))


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"'{path}' cannot be written: there is no folder '{path.parent}'.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"'{path}' cannot be written: you may not write to the folder '{path.parent}'.")


def _flush(path: Path) -> None:
    """Wait until a file is on the disk, so that a power cut cannot leave half of it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system supports that."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = [
    "check_new_folder",
    "check_replaceable",
    "claiming",
    "make_readable",
    "remove_leftovers",
    "writing",
    "writing_folder",
]
