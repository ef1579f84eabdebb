"""Tables of a library: records, search with stale rows and filters, the index, and upkeep."""

import os
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest


pytest.importorskip("lancedb", reason="needs the extra `library`")

from library_tables import DIM, add_video, expected_hits, frames_of, make_record, make_vectors  # noqa: E402

from r2tuning.library import tables as tables_module  # noqa: E402 (after the check)
from r2tuning.library import upkeep  # noqa: E402
from r2tuning.library.tables import LibraryTables  # noqa: E402


QUERY = make_vectors(1, seed=1_000_000).astype(np.float32)
PATHS = ["/videos/b.mp4", "/videos/a\nb.mp4", "/videos/\udc80.mp4", "/videos/日本 'x';--.mp4"]


@pytest.fixture
def tables(tmp_path):
    return LibraryTables.create(tmp_path / "tables", DIM)


@pytest.fixture
def indexed(tables, monkeypatch):
    """Forty videos of twenty frames and their index."""
    monkeypatch.setattr(upkeep, "INDEX_FROM_ROWS", 700)
    for entry in range(1, 41):
        add_video(tables, f"/{entry}", entry)
    assert tables.optimize().indexed
    return tables


def search_one(tables, limit, **options):
    (hits,) = tables.search(QUERY, limit, **options)
    return hits


def test_records_are_stored_with_any_path(tables):
    records = [add_video(tables, path, entry) for entry, path in enumerate(PATHS, 1)]
    assert tables.videos() == sorted(records, key=lambda record: record.path)
    assert LibraryTables.open(tables.folder).videos() == tables.videos()


@pytest.mark.parametrize("name", ["a b%20#?", "日本", "~", "s3:x"])
def test_folder_may_have_any_name_and_move(tmp_path, name):
    add_video(LibraryTables.create(tmp_path / name, DIM), "/video", 1)
    assert (tmp_path / name / "frames.lance").is_dir()
    (tmp_path / name).rename(tmp_path / "moved")
    assert len(search_one(LibraryTables.open(tmp_path / "moved"), limit=100).frame) == 20


def test_folder_may_be_reached_by_links_and_dots(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    add_video(LibraryTables.create(tmp_path / "link/x/../tables", DIM), "/video", 1)
    assert len(LibraryTables.open(tmp_path / "tables").videos()) == 1


@pytest.mark.parametrize("name", ["new\nline", "undecodable \udc80"])
def test_folder_that_lancedb_cannot_use_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="UTF-8 without control characters"):
        LibraryTables.create(tmp_path / name, DIM)


def test_create_keeps_what_exists(tables):
    add_video(tables, "/video", 1)
    with pytest.raises(FileExistsError, match="not empty"):
        LibraryTables.create(tables.folder, DIM)
    assert len(tables.videos()) == 1


def test_open_creates_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="r2tuning index"):
        LibraryTables.open(tmp_path / "missing")
    assert os.listdir(tmp_path) == []


def test_tables_of_another_version_are_refused(tmp_path, monkeypatch):
    schema = tables_module.VIDEOS_SCHEMA.with_metadata({tables_module.VERSION_KEY: "3"})
    monkeypatch.setattr(tables_module, "VIDEOS_SCHEMA", schema)
    with pytest.raises(ValueError, match="version 3, but this version of r2tuning reads version 2"):
        LibraryTables.create(tmp_path / "tables", DIM)


def test_hits_are_those_of_a_plain_product(tables):
    lengths = {5: 30, 7: 50, 2**63 - 1: 20}
    for entry, num_frames in lengths.items():
        add_video(tables, f"/{entry}", entry, num_frames)
    queries = make_vectors(3, seed=100).astype(np.float32)
    for query, hits in zip(queries, tables.search(queries, limit=12), strict=True):
        frames, similarities = expected_hits(lengths, query, limit=12)
        assert frames_of(hits) == frames
        np.testing.assert_allclose(hits.similarity, similarities, atol=1e-6)
        assert hits.window.tolist() == [frame // 10 for _, frame in frames]
        assert [values.dtype for values in vars(hits).values()] == [np.int64, np.int32, np.int32, np.float32]


def test_queries_do_not_depend_on_each_other(tables):
    for entry in range(1, 6):
        add_video(tables, f"/{entry}", entry)
    queries = make_vectors(4, seed=100).astype(np.float32)
    for query, together in zip(queries, tables.search(queries, limit=30), strict=True):
        (alone,) = tables.search(query[None], limit=30)
        for name, values in vars(together).items():
            assert np.array_equal(values, getattr(alone, name)), name


def test_equal_similarities_are_sorted_by_entry_and_frame(tables):
    vectors = np.tile(make_vectors(1, seed=1), (3, 1))
    for entry in (9, 4, 6):
        tables.add(make_record(f"/{entry}", 3, entry), np.zeros(3, np.int32), vectors)
    expected = [(entry, frame) for entry in (4, 6, 9) for frame in range(3)]
    assert frames_of(search_one(tables, limit=9)) == expected
    assert frames_of(search_one(tables, limit=20)) == expected


def test_limit_may_exceed_the_frames(tables):
    assert len(search_one(tables, limit=5).entry) == 0
    add_video(tables, "/video", 1)
    assert len(search_one(tables, limit=100).entry) == 20


@pytest.mark.parametrize("limit", [1, 5, 20])
def test_stale_rows_cost_no_hits(tables, limit):
    """A video that was replaced eight times: eight of nine rows are stale."""
    for entry in range(1, 10):
        add_video(tables, "/video", entry)
    assert tables.statistics().num_stale == 160
    frames, _ = expected_hits({9: 20}, QUERY[0], limit)
    assert frames_of(search_one(tables, limit)) == frames


@pytest.mark.parametrize("chosen", [[], [3], [1, 2, 4, 5, 6, 7], list(range(1, 8))])
def test_entries_restrict_the_search(tables, chosen):
    for entry in range(1, 8):
        add_video(tables, f"/{entry}", entry)
    add_video(tables, "/7", 8)  # 7 is stale now
    for wanted in (chosen, {*chosen, 7, 99}):
        live = [entry for entry in chosen if entry != 7]
        frames, _ = expected_hits(dict.fromkeys(live, 20), QUERY[0], limit=25)
        assert frames_of(search_one(tables, limit=25, entries=wanted)) == frames


def test_removed_videos_are_not_found(tables):
    removed = add_video(tables, "/first", 1)
    kept = add_video(tables, "/second", 2)
    tables.remove([removed.id])
    assert tables.videos() == [kept]
    assert set(search_one(tables, limit=100).entry.tolist()) == {2}
    with pytest.raises(ValueError, match=f"no videos with the ids {[removed.id]}".replace("[", r"\[")):
        tables.remove([removed.id, kept.id])
    assert tables.videos() == [kept]


def test_update_changes_the_record_of_an_entry(tables):
    record = add_video(tables, "/video", 1)
    touched = replace(record, modified_ns=5)
    tables.update(touched)
    assert tables.videos() == [touched]
    assert len(search_one(tables, limit=100).entry) == 20


def test_update_brings_no_older_entry_back(tables):
    """Another process has replaced or removed the video."""
    record = add_video(tables, "/video", 1)
    newer = add_video(tables, "/video", 2)
    tables.update(replace(record, modified_ns=5))
    assert tables.videos() == [newer]
    tables.remove([newer.id])
    tables.update(newer)
    assert tables.videos() == []


def test_other_objects_see_every_change(tables):
    other = LibraryTables.open(tables.folder)
    assert other.videos() == []
    record = add_video(tables, "/video", 1)
    assert other.videos() == [record]
    assert len(search_one(other, limit=100).entry) == 20
    tables.remove([record.id])
    tables.optimize()
    assert other.videos() == []
    assert len(search_one(other, limit=100).entry) == 0
    add_video(other, "/video", 2)
    assert [record.entry for record in tables.videos()] == [2]


def test_videos_are_read_once_for_each_version(tables, monkeypatch):
    add_video(tables, "/video", 1)
    tables.videos()
    calls = []
    read_all = tables._videos.to_arrow
    monkeypatch.setattr(tables._videos, "to_arrow", lambda: calls.append(1) or read_all())
    tables.videos().clear()
    search_one(tables, limit=5)
    assert len(tables.videos()) == 1
    assert calls == []
    add_video(tables, "/other", 2)
    assert len(tables.videos()) == 2
    assert calls == [1]


def test_optimize_deletes_stale_rows_and_gives_space_back(tables):
    for entry in range(1, 11):
        add_video(tables, "/video", entry, num_frames=2000)
    before = tables.statistics()
    expected = frames_of(search_one(tables, limit=50))
    summary = tables.optimize()
    after = tables.statistics()
    assert (before.num_videos, before.num_frames, before.num_stale) == (1, 20_000, 18_000)
    assert (after.num_videos, after.num_frames, after.num_stale) == (1, 2000, 0)
    assert summary.deleted_rows == 18_000
    assert summary.freed_bytes == before.size_bytes - after.size_bytes
    assert after.size_bytes < before.size_bytes / 5
    assert not summary.indexed
    assert frames_of(search_one(tables, limit=50)) == expected
    assert tables.optimize().deleted_rows == 0


def test_adding_drops_old_versions_now_and_then(tables, monkeypatch):
    monkeypatch.setattr(tables_module, "MAX_VERSIONS", 10)
    for entry in range(1, 41):
        add_video(tables, f"/{entry}", entry)
        assert len(os.listdir(tables.folder / "frames.lance/_versions")) <= 12
    assert tables.statistics().num_frames == 800
    assert len(os.listdir(tables.folder / "frames.lance/data")) <= 12
    frames, _ = expected_hits(dict.fromkeys(range(1, 41), 20), QUERY[0], limit=30)
    assert frames_of(search_one(tables, limit=30)) == frames
    record = tables.videos()[0]
    for modified_ns in range(30):
        tables.update(replace(record, modified_ns=modified_ns))
        assert len(os.listdir(tables.folder / "videos.lance/_versions")) <= 12
    assert tables.videos()[0].modified_ns == 29


def test_index_gives_exact_similarities(indexed):
    exact, hits = search_one(indexed, limit=50, exact=True), search_one(indexed, limit=50)
    assert frames_of(exact) == expected_hits(dict.fromkeys(range(1, 41), 20), QUERY[0], limit=50)[0]
    similarities = dict(zip(frames_of(exact), exact.similarity, strict=True))
    found = [frame for frame in frames_of(hits) if frame in similarities]
    assert len(found) > 40  # of 50; the index is approximate
    for frame, similarity in zip(frames_of(hits), hits.similarity, strict=True):
        assert abs(similarities.get(frame, similarity) - similarity) < 1e-6


def test_index_finds_new_rows_and_leaves_out_stale_ones(indexed):
    for entry in range(101, 136):
        add_video(indexed, f"/{entry - 100}", entry)  # 35 of 40 videos are replaced
    live = [*range(36, 41), *range(101, 136)]
    hits = search_one(indexed, limit=800)
    assert sorted(frames_of(hits)) == [(entry, frame) for entry in live for frame in range(20)]
    assert set(search_one(indexed, limit=10).entry.tolist()) <= set(live)
    assert set(search_one(indexed, limit=100, entries=[36, 101]).entry.tolist()) == {36, 101}
    assert len(search_one(indexed, limit=40, entries=[36, 101]).entry) == 40


def test_index_is_written_once(tables, monkeypatch):
    """LanceDB divides partitions that it thinks too large, which would write the whole index again."""
    monkeypatch.setattr(upkeep, "INDEX_FROM_ROWS", 700)
    add_video(tables, "/long", 1, num_frames=40_000)
    tables.optimize()
    (written,) = (tables.folder / "frames.lance/_indices").iterdir()
    tables.optimize()
    assert list((tables.folder / "frames.lance/_indices").iterdir()) == [written]


def test_index_is_trained_again_when_the_library_has_grown(indexed):
    (first,) = indexed._frames.list_indices()
    for entry in range(101, 111):
        add_video(indexed, f"/{entry}", entry)
    indexed.optimize()
    (index,) = indexed._frames.list_indices()
    assert (index.name, index.num_indexed_rows, index.num_segments) == (first.name, 1000, 2)
    for entry in range(201, 241):
        add_video(indexed, f"/{entry}", entry)
    indexed.optimize()
    (index,) = indexed._frames.list_indices()
    assert (index.name, index.num_indexed_rows, index.num_segments) == ("vectors_1800", 1800, 1)


def test_vectors_that_cannot_be_indexed_are_searched_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "INDEX_FROM_ROWS", 10)
    tables = LibraryTables.create(tmp_path / "tables", 3)
    tables.add(make_record("/video", 50, 1), np.zeros(50, np.int32), np.tile(np.eye(3, dtype=np.float16)[:1], (50, 1)))
    assert not tables.optimize().indexed
    assert len(tables.search(np.eye(3), limit=5)) == 3


@pytest.mark.parametrize(
    ("changes", "windows", "vectors", "message"),
    [
        ({}, np.zeros(20, np.int32), np.zeros((20, DIM), np.float32), r"float16 of shape \(20, 16\)"),
        ({}, np.zeros(20, np.int32), make_vectors(19, seed=1), r"float16 of shape \(20, 16\)"),
        ({}, np.zeros(20, np.int64), make_vectors(20, seed=1), r"int32 of shape \(20,\).*got int64"),
        ({}, np.zeros(20, np.int32), np.zeros((20, DIM), np.float16), "position 0 has the length 0"),
        ({}, np.zeros(20, np.int32), np.full((20, DIM), np.nan, np.float16), "position 0 has the length nan"),
        ({"num_frames": 0}, np.zeros(0, np.int32), np.zeros((0, DIM), np.float16), "at least one frame"),
        ({"entry": 0}, np.zeros(20, np.int32), make_vectors(20, seed=1), "`entry` must be positive"),
        ({"added": datetime(2026, 1, 1)}, np.zeros(20, np.int32), make_vectors(20, seed=1), "time zone"),
    ],
)
def test_unfit_videos_are_refused(tables, changes, windows, vectors, message):
    with pytest.raises(ValueError, match=message):
        tables.add(replace(make_record("/video", 20, 1), **changes), windows, vectors)
    assert tables.statistics().num_frames == 0


@pytest.mark.parametrize(
    ("vectors", "limit", "message"),
    [
        (np.eye(3), 5, r"\(num_queries, 16\), got \(3, 3\)"),
        (np.eye(DIM)[0], 5, r"got \(16,\)"),
        (2 * np.eye(DIM), 5, "length 2"),
        (np.eye(DIM), 0, "`limit` must be at least 1, got 0"),
    ],
)
def test_unfit_queries_are_refused(tables, vectors, limit, message):
    with pytest.raises(ValueError, match=message):
        tables.search(vectors, limit)


def test_dim_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`dim` must be at least 1, got 0"):
        LibraryTables.create(tmp_path / "tables", 0)
