"""Videos with made-up vectors for the tests of a library's tables."""

import hashlib
import os
from datetime import UTC, datetime

import numpy as np

from r2tuning.library.schemas import VideoRecord


DIM = 16


def make_record(path, num_frames, entry):
    return VideoRecord(
        id=hashlib.sha256(os.fsencode(path)).hexdigest()[:16],
        path=path,
        digest=f"digest of {entry}",
        size_bytes=1000,
        modified_ns=1_700_000_000_123_456_789,
        duration_sec=2.0 * num_frames,
        fps=0.5,
        num_frames=num_frames,
        entry=entry,
        added=datetime(2026, 11, 29, 12, 30, 15, 123456, tzinfo=UTC),
    )


def make_vectors(num_vectors, seed):
    vectors = np.random.default_rng(seed).standard_normal((num_vectors, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def add_video(tables, path, entry, num_frames=20):
    """Add a video whose vectors follow from its entry; its windows have ten frames."""
    record = make_record(path, num_frames, entry)
    tables.add(record, np.arange(num_frames, dtype=np.int32) // 10, make_vectors(num_frames, seed=entry))
    return record


def expected_hits(lengths, query, limit):
    """The best frames by a plain product, as (entry, frame) and similarities.

    Args:
        lengths: Number of frames of each entry.
        query: Vector.
        limit: Number of frames.
    """
    found = []
    for entry, num_frames in lengths.items():
        similarities = make_vectors(num_frames, seed=entry).astype(np.float64) @ query
        found += [(similarity, entry, frame) for frame, similarity in enumerate(similarities)]
    found.sort(reverse=True)
    best = found[:limit]
    return [(entry, frame) for _, entry, frame in best], [similarity for similarity, _, _ in best]


def frames_of(hits):
    return list(zip(hits.entry.tolist(), hits.frame.tolist(), strict=True))
