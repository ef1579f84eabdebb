"""Tables of a library in LanceDB: its videos, and a vector for each of their frames.

A row of `videos` names the version of its video, an *entry*; rows of `frames` belong to an entry. Adding a video appends
its frames first and then writes its row of `videos`, which commits both. Rows of `frames` whose entry no row of
`videos` names are *stale*: their adding was interrupted, or their video has been replaced or removed. A search drops
them and `optimize` deletes them.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from modeling_r2tuning.files_r2tuning import writing_folder
from r2tuning.library.errors import DamagedLibraryError, LibraryBusyError, translating
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


try:
    import lancedb
    from lancedb.index import IvfRq
    from lancedb.table import LanceTable
except ImportError as error:
    raise ImportError('A library of videos needs LanceDB: `pip install "r2tuning[library]"`.') from error


INDEX_FROM_ROWS = 1_000_000  # up to here an exact search is fast enough
INDEX_CACHE_BYTES, METADATA_CACHE_BYTES = 256 * 2**20, 64 * 2**20
NORM_TOLERANCE = 0.01  # half precision leaves about 0.0005


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

    def __init__(self, folder: Path, frames: LanceTable, videos: LanceTable, dim: int):
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
        folder = _check_path(folder)
        with writing_folder(folder) as partial, translating(folder):
            database = _connect(partial)
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
        folder = _check_path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"There are no tables of a library at '{folder}'. Run `r2tuning index` first.")
        with translating(folder):
            database = _connect(folder)
            frames, videos = database.open_table("frames"), database.open_table("videos")
            schemas = frames.schema, videos.schema
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
        with adding(self.folder), translating(self.folder):
            self._frames.add(to_frames(record.entry, windows, vectors))
            # The row of `videos` is the commit marker, so it is written last.
            merge = self._videos.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
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
                    self._videos.delete(f"id IN ({', '.join(map(_quote, wanted))})")

    def videos(self) -> list[VideoRecord]:
        """All videos, sorted by path; kept in memory until a process changes the table.

        Raises:
            ValueError: The table is damaged.
        """
        return list(self._load_videos().records)

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
        similarities are those of the stored vectors.

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
        return [self._search_one(query, limit, live, chosen, exact) for query in queries]

    def optimize(self) -> OptimizeSummary:
        """Delete stale rows, merge small files, give space back, and index the frames of a large library.

        Searches and adds of other processes continue meanwhile.

        Raises:
            LibraryBusyError: Another process removes or optimizes.
            OSError: The tables cannot be written.
            ValueError: The tables are damaged.
        """
        before = self._size_bytes()
        with maintenance(self.folder), translating(self.folder):
            deleted = self._delete_stale()
            self._frames.optimize()
            if not self._frames.list_indices() and self._frames.count_rows() > INDEX_FROM_ROWS:
                self._frames.create_index("vector", config=IvfRq(distance_type="dot"))
            # LanceDB would take files that another process has written but not yet committed for leftovers.
            with adding(self.folder):
                _drop_old_versions(self._frames)
                _drop_old_versions(self._videos)
            indexed = bool(self._frames.list_indices())
        return OptimizeSummary(deleted, before - self._size_bytes(), indexed)

    def statistics(self) -> TableStatistics:
        """Count rows and bytes.

        Raises:
            ValueError: The tables are damaged.
        """
        entries = self._load_videos().entries
        with translating(self.folder):
            found, counts = self._count_entries()
            indexed = bool(self._frames.list_indices())
        stale = ~np.isin(found, entries)
        return TableStatistics(
            num_videos=len(entries),
            num_frames=int(counts.sum()),
            num_stale=int(counts[stale].sum()),
            size_bytes=self._size_bytes(),
            indexed=indexed,
        )

    def _delete_stale(self) -> int:
        """Delete stale rows of `frames` and return their number."""
        with adding(self.folder):  # an add between its two commits would look interrupted
            live = self._load_videos().entries
            found, counts = self._count_entries()
        stale = ~np.isin(found, live)
        # No add names these entries later: their numbers are random and their adds have ended.
        if stale.any():
            self._frames.delete(f"entry IN ({', '.join(map(str, found[stale]))})")
        return int(counts[stale].sum())

    def _count_entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries of `frames`, sorted, and their numbers of rows."""
        counter: Counter[int] = Counter()
        for batch in self._frames.search().select(["entry"]).to_batches():
            found, counts = np.unique(batch["entry"].to_numpy(), return_counts=True)
            counter.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        entries = sorted(counter)
        return np.array(entries, np.int64), np.array([counter[entry] for entry in entries], np.int64)

    def _size_bytes(self) -> int:
        size = 0
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # another process removed it
                size += path.lstat().st_size
        return size

    def _load_videos(self) -> _Videos:
        with translating(self.folder):
            version = self._videos.version
            loaded = self._loaded
            if loaded is None or loaded.version != version:
                rows = self._videos.to_arrow().to_pylist()
                records = sorted((from_row(row) for row in rows), key=lambda record: record.path)
                entries = np.array(sorted(record.entry for record in records), np.int64)
                loaded = self._loaded = _Videos(version, records, entries)
        return loaded

    def _search_one(
        self, query: np.ndarray, limit: int, live: np.ndarray, chosen: np.ndarray, exact: bool
    ) -> FrameHits:
        """Hits of one query: `limit` of them if the chosen entries have so many frames.

        Args:
            query: Vector of shape `(dim,)`.
            limit: Number of hits.
            live: Entries that `videos` names, sorted.
            chosen: The entries of `live` to search, sorted.
            exact: Do not use the index.
        """
        if not len(chosen):
            return _to_hits(pa.table({name: [] for name in HIT_COLUMNS}, schema=HITS_SCHEMA), chosen, limit)
        where = None if len(chosen) == len(live) else f"entry IN ({', '.join(map(str, chosen))})"
        fetched = limit
        while True:
            rows = self._query(query, fetched, where, exact)
            hits = _to_hits(rows, chosen, limit)
            if len(hits.entry) == limit or rows.num_rows < fetched:
                return hits
            fetched *= 2

    def _query(self, query: np.ndarray, limit: int, where: str | None, exact: bool) -> pa.Table:
        builder = self._frames.search(query).distance_type("dot").limit(limit).select(HIT_COLUMNS)
        if where is not None:
            builder = builder.where(where)
        if exact:
            builder = builder.bypass_vector_index()
        with translating(self.folder):
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


HIT_COLUMNS = ["entry", "frame", "window", "_distance"]
HITS_SCHEMA = pa.schema(
    [("entry", pa.int64()), ("frame", pa.int32()), ("window", pa.int32()), ("_distance", pa.float32())]
)


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


def _check_path(folder: Path) -> Path:
    """The absolute path of a folder, if LanceDB can use it."""
    folder = Path(folder).absolute()
    text = str(folder)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The path of a library must be valid UTF-8, got {text!r}.") from error
    if any(ord(character) < 32 for character in text):
        raise ValueError(f"The path of a library must not hold control characters, got {text!r}.")
    return folder


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
        raise DamagedLibraryError(folder, "their columns are not those of a library")
    return dim


def _connect(folder: Path) -> Any:
    session = lancedb.Session(index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)
    # An interval of zero: every call sees what other processes have committed.
    return lancedb.connect(folder, read_consistency_interval=timedelta(0), session=session)


def _drop_old_versions(table: LanceTable) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # readers that still need such a version start again
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


def _quote(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


__all__ = [
    "DamagedLibraryError",
    "FrameHits",
    "LibraryBusyError",
    "LibraryTables",
    "OptimizeSummary",
    "TableStatistics",
    "VideoRecord",
]
