"""Errors of a library's tables."""

from pathlib import Path


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


__all__ = ["DamagedLibraryError", "LibraryBusyError"]
