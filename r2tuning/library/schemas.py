"""Rows of a library's tables as Arrow has them, and the types that the rest of the package sees."""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa


VERSION = "2"  # of the columns below
VERSION_KEY = b"r2tuning_library"


@dataclass(frozen=True)
class VideoRecord:
    """A version of a video file in a library.

    Attributes:
        id: Stable name of the path: the first 16 hexadecimal digits of the SHA-256 of its bytes.
        path: Absolute path; it may hold any character, and undecodable bytes as `os.fsdecode` gives them.
        digest: Digest of the file's contents.
        size_bytes: Size of the file.
        modified_ns: When the file was last modified, in nanoseconds since 1970.
        duration_sec: Length of the video.
        fps: Sampled frames per second.
        num_frames: Number of sampled frames.
        entry: Number of this version in the table of frames: random, positive, and another for every attempt to add it.
        added: When this version was added, with a time zone.
    """

    id: str
    path: str
    digest: str
    size_bytes: int
    modified_ns: int
    duration_sec: float
    fps: float
    num_frames: int
    entry: int
    added: datetime


VIDEOS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64(), nullable=False),
        pa.field("duration_sec", pa.float64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("entry", pa.int64(), nullable=False),
        pa.field("added", pa.timestamp("us", tz="UTC"), nullable=False),
    ],
    metadata={VERSION_KEY: VERSION},
)


def frames_schema(dim: int) -> pa.Schema:
    """Columns of the table of frames.

    Args:
        dim: Size of a frame's vector.
    """
    return pa.schema(
        [
            pa.field("entry", pa.int64(), nullable=False),
            pa.field("frame", pa.int32(), nullable=False),
            pa.field("window", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(pa.float16(), dim), nullable=False),
            pa.field("checksum", pa.uint32(), nullable=False),
        ],
        metadata={VERSION_KEY: VERSION},
    )


def checksums(entries: np.ndarray, frames: np.ndarray, windows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """CRC-32 of each row of the table of frames, uint32 of shape `(num_rows,)`; LanceDB's own files have none.

    Args:
        entries: Int64 of shape `(num_rows,)`.
        frames: Int32 of shape `(num_rows,)`.
        windows: Int32 of shape `(num_rows,)`.
        vectors: Float16 of shape `(num_rows, dim)`.
    """
    found = np.empty(len(entries), np.uint32)
    for row, (entry, frame, window, vector) in enumerate(zip(entries, frames, windows, vectors, strict=True)):
        found[row] = zlib.crc32(vector.tobytes(), zlib.crc32(f"{entry} {frame} {window}".encode()))
    return found


def to_row(record: VideoRecord) -> pa.Table:
    """A record as a table of one row."""
    row = {**vars(record), "path": os.fsencode(record.path)}
    return pa.Table.from_pylist([row], schema=VIDEOS_SCHEMA)


def from_row(row: Mapping[str, Any]) -> VideoRecord:
    """The record of a row."""
    return VideoRecord(**{**row, "path": os.fsdecode(row["path"])})


def to_frames(entry: int, windows: np.ndarray, vectors: np.ndarray) -> pa.RecordBatch:
    """Frames of a video as rows.

    Args:
        entry: Number of the video's version.
        windows: Window of each frame, int32 of shape `(num_frames,)`.
        vectors: Normalised vectors, float16 of shape `(num_frames, dim)`.
    """
    num_frames, dim = vectors.shape
    entries, frames = np.full(num_frames, entry, np.int64), np.arange(num_frames, dtype=np.int32)
    columns = [
        pa.array(entries),
        pa.array(frames),
        pa.array(windows),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim),
        pa.array(checksums(entries, frames, windows, vectors)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=frames_schema(dim))


__all__ = [
    "VERSION",
    "VERSION_KEY",
    "VIDEOS_SCHEMA",
    "VideoRecord",
    "checksums",
    "frames_schema",
    "from_row",
    "to_frames",
    "to_row",
]
