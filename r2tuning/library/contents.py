"""The videos of a library, without the model: listing, verifying, removing and giving space back."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from modeling_r2tuning import EncodedVideo
from r2tuning.library.entries import FEATURES, copy_path, file_digest, remove_abandoned_copies
from r2tuning.library.schemas import VideoRecord
from r2tuning.library.settings import LibrarySettings
from r2tuning.library.tables import LibraryTables, OptimizeSummary


TABLES = "tables"  # folder of the tables


@dataclass(frozen=True)
class Verification:
    """Videos whose files are not as they were when they were indexed, by path.

    Attributes:
        missing: Files that are not there.
        changed: Files with other contents.
        without_copy: Videos whose encoded copy is missing or damaged.
        damaged: Videos whose vectors are damaged.
    """

    missing: list[str]
    changed: list[str]
    without_copy: list[str]
    damaged: list[str]


class LibraryContents:
    """The videos of a library.

    Args:
        folder: The library's folder. Use `open`.
        settings: Its settings.
        tables: Its tables.
    """

    def __init__(self, folder: Path, settings: LibrarySettings, tables: LibraryTables):
        self.folder = folder
        self.settings = settings
        self.tables = tables

    @classmethod
    def open(cls, folder: str | os.PathLike) -> Self:
        """Open a library.

        Args:
            folder: Its folder; a read-only one can be listed and verified.

        Raises:
            FileNotFoundError: There is no library.
            ValueError: It is damaged.
        """
        folder = Path(folder).absolute()
        return cls(folder, LibrarySettings.load(folder), LibraryTables.open(folder / TABLES))

    def videos(self) -> list[VideoRecord]:
        """All videos, sorted by path."""
        return self.tables.videos()

    def remove(self, ids: Iterable[str]) -> None:
        """Remove videos with their encoded copies; `optimize` gives the space of their vectors back.

        Args:
            ids: Ids of videos, see `videos`.

        Raises:
            LibraryBusyError: Another process removes or optimizes.
            ValueError: There is no such video.
        """
        ids = set(ids)
        entries = [record.entry for record in self.videos() if record.id in ids]
        self.tables.remove(ids)
        for entry in entries:
            copy_path(self.folder, entry).unlink(missing_ok=True)

    def optimize(self) -> OptimizeSummary:
        """Give the space of removed and replaced videos back, and index the vectors of a large library.

        Raises:
            LibraryBusyError: Another process removes or optimizes.
        """
        summary = self.tables.optimize()
        remove_abandoned_copies(self.folder, self.videos())
        return summary

    def verify(self, progress: Callable[[int, int], None] | None = None) -> Verification:
        """Compare every file with what was indexed; all files, encoded copies and vectors are read.

        Args:
            progress: Called with the number of videos verified and their total number.
        """
        damaged = [record.path for record in self.tables.find_damaged()]
        found = Verification([], [], [], damaged)
        records = self.videos()
        for count, record in enumerate(records, 1):
            try:
                if file_digest(record.path) != record.digest:
                    found.changed.append(record.path)
            except OSError:
                found.missing.append(record.path)
            if self.settings.keep_features and not self._has_copy(record.entry):
                found.without_copy.append(record.path)
            if progress is not None:
                progress(count, len(records))
        return found

    def size_of_copies(self) -> int:
        """Bytes of the encoded copies."""
        return sum(path.stat().st_size for path in (self.folder / FEATURES).iterdir())

    def _has_copy(self, entry: int) -> bool:
        try:
            EncodedVideo.load(copy_path(self.folder, entry))
        except (OSError, ValueError):
            return False
        return True


__all__ = ["TABLES", "LibraryContents", "Verification"]
