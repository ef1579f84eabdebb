import hashlib
import os
from datetime import UTC, datetime

import numpy as np
import pytest


pytest.importorskip("lancedb", reason="needs the extra `library`")

from r2tuning.library.tables import FrameHits, LibraryTables, VideoRecord  # noqa: E402 (after the check)


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


def make_vectors(num_frames, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((num_frames, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def add(tables, path, entry, vectors):
    record = make_record(path, len(vectors), entry)
    tables.add(record, np.arange(len(vectors), dtype=np.int32) // 10, vectors)
    return record


@pytest.fixture
def tables(tmp_path):
    return LibraryTables.create(tmp_path / "tables", DIM)


def test_records_come_back_sorted_by_path(tables):
    names = ["/videos/b.mp4", "/videos/a\nb.mp4", "/videos/\udc80.mp4", "/videos/日本 'x'.mp4"]
    records = [add(tables, name, 10 + number, make_vectors(3)) for number, name in enumerate(names)]
    assert tables.videos() == sorted(records, key=lambda record: record.path)


def test_search_gives_the_cosine_similarities_of_all_frames(tables):
    first, second = make_vectors(30, seed=1), make_vectors(50, seed=2)
    add(tables, "/first", 5, first)
    add(tables, "/second", 7, second)
    queries = make_vectors(3, seed=3).astype(np.float64)
    for query, hits in zip(queries, tables.search(queries, limit=8), strict=True):
        similarities = np.concatenate([first, second]).astype(np.float64) @ query
        best = np.argsort(-similarities)[:8]
        assert hits.entry.tolist() == np.where(best < 30, 5, 7).tolist()
        assert hits.frame.tolist() == np.where(best < 30, best, best - 30).tolist()
        assert hits.window.tolist() == (hits.frame // 10).tolist()
        np.testing.assert_allclose(hits.similarity, similarities[best], atol=1e-4)


def test_a_replaced_video_gives_only_its_new_frames(tables):
    old, new = make_vectors(30, seed=1), make_vectors(20, seed=2)
    add(tables, "/video", 5, old)
    replaced = add(tables, "/video", 6, new)
    assert tables.videos() == [replaced]
    (hits,) = tables.search(old[:1].astype(np.float32), limit=20)
    assert set(hits.entry.tolist()) == {6}
    assert len(hits.frame) == 20
    assert isinstance(hits, FrameHits)
