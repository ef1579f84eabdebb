"""Files and folders that appear whole or not at all, and folders that one process at a time may write.

What is written grows in a hidden folder beside its place, under a name that nobody can guess, and is renamed once it is
complete and on the disk. A process that is killed leaves its hidden folder behind, but not the lock on it: whoever
writes there next removes it. Only the standard library is used, as this file is part of every checkpoint's code, and
`dataset_scripts/files.py` is a copy of it.
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
except ImportError:  # Windows: folders cannot be locked, so nothing is cleaned up and nothing is refused there
    fcntl = None

PREFIX, SUFFIX = ".r2tuning-", ".partial"  # of hidden folders
LOCK = ".r2tuning-lock"  # a file, as network file systems share locks of files between machines, but not of folders
RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # all that safetensors and tokenizers tell of a full disk


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
        Path of an empty file of the same name.

    Raises:
        FileExistsError: `path` is something else than a regular file: a folder, link, pipe or device.
        FileNotFoundError: The folder of `path` does not exist.
        PermissionError: The folder of `path` may not be written.
    """
    path = Path(path)
    check_replaceable(path)
    with _naming(path), _hidden_folder(path.parent if temporary_in is None else Path(temporary_in)) as hidden:
        partial = hidden / path.name
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)  # as the umask says
        yield partial
        partial.chmod(mode)  # see `make_readable`
        _flush(partial)
        check_replaceable(path)
        os.replace(partial, path)
    _flush_folder(path.parent)


@contextmanager
def writing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Write a folder that appears under its name only when the block ends without an error.

    Args:
        path: Folder to write; it must not exist, or be empty.

    Yields:
        Path of an empty folder of the same name.

    Raises:
        FileExistsError: `path` is a file, a link or a folder that is not empty.
        FileNotFoundError: The folder that is to hold `path` does not exist.
        PermissionError: The folder that is to hold `path` may not be written.
    """
    path = Path(path).absolute()
    check_new_folder(path)
    _check_parent(path)
    with _naming(path), _hidden_folder(path.parent) as hidden:
        partial = hidden / path.name
        partial.mkdir()
        mode = stat.S_IMODE(partial.stat().st_mode) & 0o666  # as the umask says of files
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
    """Refuse a file that `writing` could not or must not write.

    Args:
        path: File to write.
        inputs: Files that are still needed.

    Raises:
        FileExistsError: `path` is something else than a regular file, or one of `inputs`.
        FileNotFoundError: Its folder does not exist.
        PermissionError: Its folder may not be written.
    """
    path = Path(path)
    _check_parent(path)
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileExistsError(f"'{path}' cannot be written: it exists and is not a regular file; name another file.")
    for needed in inputs:
        if path.exists() and os.path.exists(needed) and os.path.samefile(path, needed):
            raise FileExistsError(f"'{path}' cannot be written: it is an input of this command; name another file.")


def check_new_folder(path: str | os.PathLike) -> None:
    """Refuse a folder that `writing_folder` must not write.

    Raises:
        FileExistsError: `path` is a file, a link or a folder that is not empty.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(f"'{path}' is a file or a link; name a new folder.")
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"The folder '{path}' is not empty; name a new one or empty it.")


def make_readable(folder: str | os.PathLike) -> None:
    """Give the safetensors files of a folder the mode of any new file; the library lets only their owner read them."""
    with _hidden_folder(Path(folder)) as hidden:
        mode = stat.S_IMODE((hidden / LOCK).stat().st_mode)
        for weights in Path(folder).glob("*.safetensors"):
            weights.chmod(mode)


@contextmanager
def claiming(folder: str | os.PathLike) -> Iterator[None]:
    """Keep other processes that ask for it out of an existing folder until the block ends.

    Raises:
        FileExistsError: Another process has claimed the folder.
    """
    path = Path(folder) / LOCK
    try:
        held = [_take_lock(path)]
    except BlockingIOError as error:
        raise FileExistsError(
            f"Another run is writing to '{folder}'; wait for its end or name another folder."
        ) from error
    if hasattr(os, "register_at_fork"):  # a worker that outlives a killed run must not keep its claim
        os.register_at_fork(after_in_child=lambda: _close(held))
    try:
        yield
    finally:
        if held:
            with suppress(OSError):  # Windows removes no open file
                path.unlink()
            _close(held)


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove from a folder what killed processes left unfinished; `writing` does so by itself."""
    if fcntl is None:
        return
    for hidden in Path(folder).glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError):  # it is in use, gone, or on a file system without locks
            found = hidden.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                lock = _take_lock(hidden / LOCK, required=True)
                shutil.rmtree(hidden, ignore_errors=True)
                os.close(lock)
                hidden.rmdir()  # only a network file system, which keeps open files, has left it


@contextmanager
def _hidden_folder(beside: Path) -> Iterator[Path]:
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
            continue  # another process took it for a leftover in the meantime
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise


def _take_lock(path: Path, *, required: bool = False) -> int:
    """Descriptor of a file, made if need be, that is locked until it is closed.

    Args:
        path: The file.
        required: Refuse file systems without locks too.

    Raises:
        BlockingIOError: Another process holds the lock.
        FileNotFoundError: The folder is gone.
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
        os.close(descriptor)  # its last holder has just removed the file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about the unfinished file name the file that was asked for."""
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
    """What a file in the hidden folder of `path` will be called; `None` if it is another one."""
    if name is None:
        return str(path)
    parts = Path(name).parts if isinstance(name, str) else ()
    hidden = [index for index, part in enumerate(parts) if part.startswith(PREFIX) and part.endswith(SUFFIX)]
    if not hidden:
        return None
    inside = parts[hidden[-1] + 1 :]
    return str(path.parent.joinpath(*inside) if inside[:1] == (path.name,) else path)


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"'{path}' cannot be written: there is no folder '{path.parent}'.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"'{path}' cannot be written: the folder '{path.parent}' is read-only for you.")


def _flush(path: Path) -> None:
    """Have a file written to the disk, so that a power cut cannot halve it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    """Have the names in a folder written to the disk, where the system can do that."""
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
