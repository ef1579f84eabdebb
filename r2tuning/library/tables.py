"""Tables of a library in LanceDB: its videos, and a vector for each of their frames.

A row of `videos` names the version of its video, an *entry*; rows of `frames` belong to an entry. Adding a video appends
its frames first and then writes its row of `videos`, which commits both. Rows of `frames` whose entry no row of
`videos` names are *stale*: their adding was interrupted, or their video has been replaced or removed. A search drops
them and `optimize` deletes them.
"""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from modeling_r2tuning.files_r2tuning import writing_folder
from r2tuning.library.errors import DamagedLibraryError, LibraryBusyError, damaged
from r2tuning.library.lance import Table, check_path, connect, one_of, read, translating, vector_search
from r2tuning.library.locks import adding, maintenance
from r2tuning.library.schemas import (
    VERSION,
    VERSION_KEY,
    VIDEOS_SCHEMA,
    VideoRecord,
    frames_schema,
    from_row,
    to_frames,
    to_row,
)
from r2tuning.library.upkeep import count_entries, count_intact, drop_old_versions, merge_files, train_index


REFINE_FACTOR = 3  # candidates of the index for each wanted frame; their stored vectors decide
MAX_VERSIONS = 500  # of a table; each has a list of all its files, so adding has to drop them now and then
NORM_TOLERANCE = 0.01  # half precision leaves about 0.0005
HIT_COLUMNS = ["entry", "frame", "window", "_distance"]
NO_HITS = pa.table([pa.array([], kind) for kind in ("int64", "int32", "int32", "float32")], HIT_COLUMNS)


@dataclass(frozen=True)
class FrameHits:
    """Frames that are most similar to a query, the best first.

    Attributes:
        entry: Versions of their videos, int64 of shape `(num_hits,)`.
        frame: Their numbers in their videos, int32 of shape `(num_hits,)`.
        window: Their windows, int32 of shape `(num_hits,)`.
        similarity: Cosine similarities, float32 of shape `(num_hits,)`.
    """

    entry: np.ndarray
    frame: np.ndarray
    window: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class OptimizeSummary:
    """What `LibraryTables.optimize` did.

    Attributes:
        deleted_rows: Stale rows of `frames` that it deleted.
        freed_bytes: How much smaller the tables are; negative if a new index takes more than was freed.
        indexed: Whether the frames have an index now.
    """

    deleted_rows: int
    freed_bytes: int
    indexed: bool


@dataclass(frozen=True)
class TableStatistics:
    """Size of a library's tables.

    Attributes:
        num_videos: Rows of `videos`.
        num_frames: Rows of `frames`, with the stale ones.
        num_stale: Rows of `frames` that belong to no video.
        size_bytes: Size of all files.
        indexed: Whether the frames have an index; otherwise every search is exact.
    """

    num_videos: int
    num_frames: int
    num_stale: int
    size_bytes: int
    indexed: bool


@dataclass(frozen=True)
class _Videos:
    """Contents of `videos` at one version of the table; `entries` are sorted."""

    version: int
    records: list[VideoRecord]
    by_id: dict[str, VideoRecord]
    entries: np.ndarray


class LibraryTables:
    """Videos of a library and the vectors of their frames.

    Several threads may use one object, and several processes objects of their own. What another process has committed
    is seen by the next call.

    Args:
        folder: Folder of the tables. Use `create` or `open`.
        frames: Its table of frames.
        videos: Its table of videos.
        dim: Size of a frame's vector.
    """

    def __init__(self, folder: Path, frames: Table, videos: Table, dim: int):
        self.folder = folder
        self.dim = dim
        self._frames = frames
        self._videos = videos
        self._loaded: _Videos | None = None

    @classmethod
    def create(cls, folder: Path, dim: int) -> Self:
        """Make empty tables.

        Args:
            folder: Folder to create; it may exist if it is empty.
            dim: Size of a frame's vector.

        Raises:
            FileExistsError: The folder is not empty, or is a file or a link.
            FileNotFoundError: Its parent does not exist.
            OSError: It cannot be written.
            ValueError: `dim` is not positive, or LanceDB cannot use the path.
        """
        if dim < 1:
            raise ValueError(f"`dim` must be at least 1, got {dim}.")
        folder = check_path(folder)
        with writing_folder(folder) as unfinished, translating(folder):
            database = connect(unfinished)
            database.create_table("frames", schema=frames_schema(dim))
            database.create_table("videos", schema=VIDEOS_SCHEMA)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open existing tables; a read-only disk is enough to search.

        Raises:
            FileNotFoundError: There are no tables.
            ValueError: The tables are damaged, or another version of this package made them.
        """
        folder = check_path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"There are no tables of a library at '{folder}'. Run `r2tuning index` first.")
        database = connect(folder)
        frames = read(folder, lambda: database.open_table("frames"))
        videos = read(folder, lambda: database.open_table("videos"))
        schemas = read(folder, lambda: (frames.schema, videos.schema))
        return cls(folder, frames, videos, _check_schemas(folder, *schemas))

    def add(self, record: VideoRecord, windows: np.ndarray, vectors: np.ndarray) -> None:
        """Add a video, or replace the one with the same id.

        A process that is killed here leaves at most stale rows; the replaced version stays. Waits while another
        process or thread adds.

        Args:
            record: The video.
            windows: Window of each frame, int32 of shape `(num_frames,)`.
            vectors: Normalised vectors of the frames, float16 of shape `(num_frames, dim)`.

        Raises:
            OSError: The tables cannot be written.
            ValueError: Arguments do not fit, or the tables are damaged.
        """
        self._check_video(record, windows, vectors)
        self._limit_versions()
        with adding(self.folder), translating(self.folder):
            self._frames.add(to_frames(record.entry, windows, vectors))
            # The row of `videos` is the commit marker, so it is written last.
            merge = self._videos.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(to_row(record))

    def update(self, record: VideoRecord) -> None:
        """Write what is known about the file of a video whose frames stay as they are, such as its new time.

        Does nothing if another process has replaced or removed the video.

        Args:
            record: The video, with the entry that it has.

        Raises:
            OSError: The table cannot be written.
            ValueError: The table is damaged.
        """
        self._limit_versions()
        with adding(self.folder), translating(self.folder):
            # An older entry must not come back: its frames are stale.
            merge = self._videos.merge_insert("id").when_matched_update_all(where="target.entry = source.entry")
            merge.execute(to_row(record))

    def remove(self, ids: Iterable[str]) -> None:
        """Remove videos; `optimize` reclaims their space.

        Args:
            ids: Ids of videos in the library.

        Raises:
            LibraryBusyError: Another process removes or optimizes.
            OSError: The tables cannot be written.
            ValueError: An id is not in the library, or the tables are damaged.
        """
        wanted = sorted(set(ids))
        with maintenance(self.folder), adding(self.folder):
            known = {record.id for record in self.videos()}
            unknown = [video_id for video_id in wanted if video_id not in known]
            if unknown:
                raise ValueError(f"The library has no videos with the ids {unknown}; nothing was removed.")
            if wanted:
                with translating(self.folder):
                    self._videos.delete(one_of("id", wanted))

    def videos(self) -> list[VideoRecord]:
        """All videos, sorted by path; kept in memory until a process changes the table.

        Raises:
            ValueError: The table is damaged.
        """
        return list(self._load_videos().records)

    def find(self, video_id: str) -> VideoRecord | None:
        """The video of an id; `None` if it is not in the library.

        Raises:
            ValueError: The table is damaged.
        """
        return self._load_videos().by_id.get(video_id)

    def search(
        self,
        vectors: np.ndarray,
        limit: int,
        entries: Collection[int] | None = None,
        *,
        exact: bool = False,
    ) -> list[FrameHits]:
        """Find the frames that are most similar to each query.

        Without an index, or with `exact`, all frames are compared. With an index the hits are approximate, but their
        similarities are those of the stored vectors. Queries are rounded to half precision, as the vectors are.

        Args:
            vectors: Normalised vectors of the queries, of shape `(num_queries, dim)`.
            limit: Frames of each query; fewer only where the library has fewer.
            entries: Search only these versions of videos.
            exact: Do not use the index.

        Returns:
            Hits of each query.

        Raises:
            ValueError: Arguments do not fit, or the tables are damaged.
        """
        queries = self._check_queries(vectors)
        if limit < 1:
            raise ValueError(f"`limit` must be at least 1, got {limit}.")
        live = self._load_videos().entries
        chosen = live
        if entries is not None:
            chosen = np.intersect1d(live, np.fromiter(entries, np.int64, len(entries)))
        if not len(chosen):
            return [_to_hits(NO_HITS, chosen, limit) for _ in queries]
        return [self._search_one(query, limit, live, chosen, exact) for query in queries]

    def optimize(self) -> OptimizeSummary:
        """Delete stale rows, merge small files, give space back, and index the frames of a large library.

        Searches and adds of other processes continue meanwhile. Files are merged by copying them, so it needs free
        space for a copy of what has been added since the last time.

        Raises:
            LibraryBusyError: Another process removes or optimizes.
            OSError: The tables cannot be written.
            ValueError: The tables are damaged.
        """
        before = self._size_bytes()
        with maintenance(self.folder), translating(self.folder):
            deleted = self._delete_stale()
            merge_files(self._frames)
            train_index(self._frames, self.dim)
            self._drop_old_versions()
            indexed = self._is_indexed()
        return OptimizeSummary(deleted, before - self._size_bytes(), indexed)

    def find_damaged(self) -> list[VideoRecord]:
        """Read all vectors; the videos that lack some, or of which some are not as they were written.

        Raises:
            ValueError: The tables cannot be read.
        """
        records = self._load_videos().records
        intact = read(self.folder, lambda: count_intact(self._frames))
        return [record for record in records if intact[record.entry] != record.num_frames]

    def statistics(self) -> TableStatistics:
        """Count rows and bytes.

        Raises:
            ValueError: The tables are damaged.
        """
        live = self._load_videos().entries
        entries, counts = read(self.folder, lambda: count_entries(self._frames))
        return TableStatistics(
            num_videos=len(live),
            num_frames=int(counts.sum()),
            num_stale=int(counts[~np.isin(entries, live)].sum()),
            size_bytes=self._size_bytes(),
            indexed=read(self.folder, self._is_indexed),
        )

    def _limit_versions(self) -> None:
        """Merge the files of many commits, unless another process maintains the tables."""
        versions = [len(os.listdir(self.folder / f"{name}.lance/_versions")) for name in ("frames", "videos")]
        if max(versions) <= MAX_VERSIONS:
            return
        with suppress(LibraryBusyError), maintenance(self.folder), translating(self.folder):
            merge_files(self._frames)
            self._drop_old_versions()

    def _drop_old_versions(self) -> None:
        with adding(self.folder):
            drop_old_versions(self._frames)
            drop_old_versions(self._videos)

    def _delete_stale(self) -> int:
        """Delete stale rows of `frames` and return their number."""
        with adding(self.folder):  # between its two commits an add would look interrupted
            live = self._load_videos().entries
            entries, counts = count_entries(self._frames)
        stale = ~np.isin(entries, live)
        # No add commits these entries later: those that wrote them have ended, and every add has an entry of its own.
        if stale.any():
            self._frames.delete(one_of("entry", entries[stale].tolist()))
        return int(counts[stale].sum())

    def _is_indexed(self) -> bool:
        return len(list(self._frames.list_indices())) > 0

    def _size_bytes(self) -> int:
        size = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(FileNotFoundError):  # another process removed it
                    size += os.lstat(os.path.join(folder, name)).st_size
        return size

    def _load_videos(self) -> _Videos:
        version = read(self.folder, lambda: self._videos.version)
        loaded = self._loaded
        if loaded is None or loaded.version != version:
            # If another process commits in between, these are newer than their version says, and read again next time.
            rows = read(self.folder, self._videos.to_arrow).to_pylist()
            records = sorted(map(from_row, rows), key=lambda record: record.path)
            entries = np.array(sorted(record.entry for record in records), np.int64)
            loaded = self._loaded = _Videos(version, records, {record.id: record for record in records}, entries)
        return loaded

    def _search_one(
        self, query: np.ndarray, limit: int, live: np.ndarray, chosen: np.ndarray, exact: bool
    ) -> FrameHits:
        """Hits of one query: as many as `limit`, if the chosen entries have so many frames.

        Args:
            query: Vector of shape `(dim,)`.
            limit: Number of hits.
            live: Entries that are not stale, sorted.
            chosen: The ones to search, sorted.
            exact: Do not use the index.
        """
        condition = _choose_condition(live, chosen)
        num_rows = limit
        while True:
            rows = read(self.folder, partial(self._query, query, num_rows, condition, exact))
            hits = _to_hits(rows, chosen, limit)
            if len(hits.entry) == limit or len(rows) < num_rows:
                return hits
            num_rows *= 2  # stale rows took the place of others

    def _query(self, query: np.ndarray, num_rows: int, condition: str | None, exact: bool) -> pa.Table:
        builder = vector_search(self._frames, query).distance_type("dot").limit(num_rows).select(HIT_COLUMNS)
        if condition is not None:
            builder = builder.where(condition)  # before the search, so that other rows take no places
        if exact:
            builder = builder.bypass_vector_index()
        else:
            # Reads all partitions: texts point elsewhere than frames, so the partitions nearest to a text do not hold
            # the frames nearest to it. Ten of 27 had two thirds of them.
            builder = builder.minimum_nprobes(1).maximum_nprobes(0).refine_factor(REFINE_FACTOR)
        return builder.to_arrow()

    def _check_video(self, record: VideoRecord, windows: np.ndarray, vectors: np.ndarray) -> None:
        expected = (record.num_frames, self.dim)
        if vectors.dtype != np.float16 or vectors.shape != expected:
            raise ValueError(
                f"`vectors` must be float16 of shape {expected} (num_frames, dim), "
                f"got {vectors.dtype} of shape {vectors.shape}."
            )
        if windows.dtype != np.int32 or windows.shape != expected[:1]:
            raise ValueError(
                f"`windows` must be int32 of shape {expected[:1]} (num_frames,), "
                f"got {windows.dtype} of shape {windows.shape}."
            )
        if record.num_frames < 1:
            raise ValueError(f"A video needs at least one frame, got {record.num_frames} for '{record.path}'.")
        if not 0 < record.entry < 2**63:
            raise ValueError(f"`entry` must be positive and below 2**63, got {record.entry}.")
        if record.added.tzinfo is None:
            raise ValueError("`added` must have a time zone.")
        _check_norms("vectors", vectors)

    def _check_queries(self, vectors: np.ndarray) -> np.ndarray:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(
                f"`vectors` must have the shape (num_queries, {self.dim}), got {vectors.shape}: "
                "is the library made with another checkpoint?"
            )
        queries = np.ascontiguousarray(vectors, np.float32)
        _check_norms("vectors", queries)
        return queries


def _choose_condition(live: np.ndarray, chosen: np.ndarray) -> str | None:
    """The shorter SQL condition of rows whose entries are chosen, or `None` for all; stale rows may meet it."""
    if len(chosen) == len(live):
        return None
    if 2 * len(chosen) <= len(live):
        return one_of("entry", chosen.tolist())
    return f"NOT ({one_of('entry', np.setdiff1d(live, chosen).tolist())})"


def _to_hits(rows: pa.Table, chosen: np.ndarray, limit: int) -> FrameHits:
    """The best rows whose entries are chosen; equal similarities are sorted by entry and frame."""
    entry, frame, window, distance = (rows[name].to_numpy() for name in HIT_COLUMNS)
    order = np.lexsort((frame, entry, distance))
    order = order[np.isin(entry[order], chosen)][:limit]
    # LanceDB's distance of the kind "dot" is one minus the product.
    return FrameHits(entry[order], frame[order], window[order], 1 - distance[order])


def _check_norms(name: str, vectors: np.ndarray) -> None:
    norms = np.linalg.norm(vectors.astype(np.float32), axis=-1)
    wrong = np.flatnonzero(~(np.abs(norms - 1) < NORM_TOLERANCE))  # NaN is wrong, too
    if len(wrong):
        raise ValueError(
            f"`{name}` must be normalised; the one at position {wrong[0]} has the length {norms[wrong[0]]:.4g}."
        )


def _check_schemas(folder: Path, frames: pa.Schema, videos: pa.Schema) -> int:
    """Size of a frame's vector, if the tables have the columns that this version of the package writes."""
    version = (videos.metadata or {}).get(VERSION_KEY, b"").decode()
    if version and version != VERSION:
        raise ValueError(
            f"The library's tables at '{folder}' have the version {version}, but this version of r2tuning reads "
            f"version {VERSION}. Index the videos again into a new library."
        )
    vector = frames.field("vector").type if "vector" in frames.names else None
    dim = getattr(vector, "list_size", 0)
    if not (videos.equals(VIDEOS_SCHEMA) and frames.equals(frames_schema(dim))):
        raise damaged(folder, "their columns are not those of a library")
    return dim


__all__ = [
    "DamagedLibraryError",
    "FrameHits",
    "LibraryBusyError",
    "LibraryTables",
    "OptimizeSummary",
    "TableStatistics",
    "VideoRecord",
]
