"""Errors of a library's tables."""

from pathlib import Path


class LibraryBusyError(RuntimeError):
    """Another process or thread maintains the library."""


class DamagedLibraryError(ValueError):
    """Tables of a library cannot be read."""


def damaged(folder: Path, detail: str) -> DamagedLibraryError:
    """The error for tables that cannot be read.

    Args:
        folder: Folder of the tables.
        detail: What is wrong with them.
    """
    return DamagedLibraryError(
        f"The library's tables at '{folder}' are damaged: {detail}. "
        "Delete the library and run `r2tuning index` again, or restore its folder from a copy."
    )


__all__ = ["DamagedLibraryError", "LibraryBusyError", "damaged"]
