"""Upkeep of a library's tables: merging small files, dropping old versions, and the index of the frames."""

import warnings
from collections import Counter
from datetime import timedelta

import numpy as np

from r2tuning.library.lance import IvfRq, Table
from r2tuning.library.schemas import checksums


INDEX_FROM_ROWS = 1_000_000  # up to here an exact search is fast enough
NUM_BITS = 3  # of each dimension; with 1 the index loses frames that no refinement finds again
PARTITION_SIZE = 65_536  # in rows; training takes longer with smaller ones, and a search reads all of them anyway
INDEXABLE = 8  # LanceDB's index needs vectors whose size is a multiple of it
MAX_GROWTH = 2  # of the table since its index was trained
MAX_SEGMENTS = 32  # of an index, one for each time that rows were added to it; a search reads them all


def count_entries(frames: Table) -> tuple[np.ndarray, np.ndarray]:
    """Entries in the table of frames.

    Returns:
        The entries, sorted, int64 of shape `(num_entries,)`, and the number of rows of each.
    """
    counter: Counter[int] = Counter()
    for batch in frames.search().select(["entry"]).to_batches():
        _count(batch["entry"].to_numpy(), counter)
    entries = np.array(sorted(counter), np.int64)
    return entries, np.array([counter[entry] for entry in entries.tolist()], np.int64)


def count_intact(frames: Table) -> Counter[int]:
    """Number of rows of each entry that are as they were written; reads all vectors."""
    counter: Counter[int] = Counter()
    for batch in frames.search().select(["entry", "frame", "window", "vector", "checksum"]).to_batches():
        entries = batch["entry"].to_numpy()
        vectors = batch["vector"].flatten().to_numpy().reshape(len(entries), -1)
        found = checksums(entries, batch["frame"].to_numpy(), batch["window"].to_numpy(), vectors)
        right = found == batch["checksum"].to_numpy()
        _count(entries[right], counter)
    return counter


def _count(entries: np.ndarray, counter: Counter[int]) -> None:
    found, counts = np.unique(entries, return_counts=True)
    for entry, count in zip(found.tolist(), counts.tolist(), strict=True):
        counter[entry] += count


def merge_files(table: Table) -> None:
    """Merge small files and add new rows to the index; other processes may append rows meanwhile."""
    table.optimize()


def drop_old_versions(table: Table) -> None:
    """Remove the files that the newest version of a table does not need.

    No other process may write to the table meanwhile: files that it has not committed yet would be removed, too.
    """
    with warnings.catch_warnings():
        # The warning says that readers of an older version fail; `read` makes them start again.
        warnings.simplefilter("ignore", UserWarning)
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


def train_index(frames: Table, dim: int) -> None:
    """Train the index of a large table that has none or has outgrown it.

    Args:
        frames: Table of frames.
        dim: Size of a frame's vector.
    """
    num_rows = frames.count_rows()
    if num_rows <= INDEX_FROM_ROWS or dim % INDEXABLE:
        return
    indices = frames.list_indices()
    for index in indices:
        trained_on = int(index.name.rpartition("_")[2])
        if num_rows <= MAX_GROWTH * trained_on and (index.num_segments or 1) <= MAX_SEGMENTS:
            return
    name = f"vectors_{num_rows}"  # tells later how many rows it was trained on
    # With a number of partitions in place of their size, LanceDB divides them and writes the index again each time.
    config = IvfRq(distance_type="dot", num_bits=NUM_BITS, target_partition_size=PARTITION_SIZE)
    frames.create_index("vector", config=config, name=name)
    merge_files(frames)  # divides partitions that became too large, now rather than while adds have to wait
    for index in indices:
        if index.name != name:
            frames.drop_index(index.name)


__all__ = ["count_entries", "drop_old_versions", "merge_files", "train_index"]
