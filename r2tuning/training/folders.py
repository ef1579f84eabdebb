"""Folders that are replaced or removed atomically, also if the process is killed in between.

A folder cannot be renamed onto another one, so replacing `best` takes three renames through two hidden folders:
`.best.new` is complete but does not have its name yet, `.best.old` is no longer needed. `finish_replacing` completes
what a killed process left at either stage.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from modeling_r2tuning.files_r2tuning import writing_folder


NEW, OLD = ".new", ".old"


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Write a folder that appears under its name as a whole and replaces an existing one.

    Args:
        path: Folder to write.

    Yields:
        Path of an empty folder to fill.
    """
    finish_replacing(path.parent)
    new = path.with_name(f".{path.name}{NEW}")
    with writing_folder(new) as partial:
        yield partial
    _put_in_place(new)


def finish_replacing(folder: Path) -> None:
    """Complete the replacements inside `folder` that a killed process left between two renames."""
    for new in folder.glob(f".*{NEW}"):
        _put_in_place(new)
    for old in folder.glob(f".*{OLD}"):
        shutil.rmtree(old, ignore_errors=True)


def discard_folder(path: Path) -> None:
    """Remove a folder; it loses its name first, so that half of it is never found."""
    _hide(path)
    shutil.rmtree(_hidden(path))


def _put_in_place(new: Path) -> None:
    path = new.with_name(new.name[1:].removesuffix(NEW))
    if path.exists():
        _hide(path)
    new.rename(path)
    shutil.rmtree(_hidden(path), ignore_errors=True)


def _hide(path: Path) -> None:
    shutil.rmtree(_hidden(path), ignore_errors=True)
    path.rename(_hidden(path))


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}{OLD}")


__all__ = ["discard_folder", "finish_replacing", "replacing_folder"]
