"""Faults of a library's tables: damage, interrupted and concurrent processes, full and read-only disks."""

import errno
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest


pytest.importorskip("lancedb", reason="needs the extra `library`")

from library_tables import DIM, add_video, expected_hits, frames_of, make_record, make_vectors  # noqa: E402 (after the check)

from r2tuning.library import lance  # noqa: E402
from r2tuning.library import tables as tables_module  # noqa: E402
from r2tuning.library.errors import DamagedLibraryError, LibraryBusyError, damaged  # noqa: E402
from r2tuning.library.locks import adding, maintenance  # noqa: E402
from r2tuning.library.tables import LibraryTables  # noqa: E402


QUERY = make_vectors(1, seed=1_000_000).astype(np.float32)


@pytest.fixture
def tables(tmp_path):
    tables = LibraryTables.create(tmp_path / "tables", DIM)
    add_video(tables, "/video", 1)
    return tables


def check(tables, lengths):
    """Check that tables hold certain entries and find their frames."""
    assert sorted(record.entry for record in tables.videos()) == sorted(lengths)
    (hits,) = tables.search(QUERY, limit=50)
    assert frames_of(hits) == expected_hits(lengths, QUERY[0], limit=50)[0]


def test_interrupted_add_keeps_the_old_version(tables, monkeypatch):
    def interrupt(record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables_module, "to_row", interrupt)
        with pytest.raises(KeyboardInterrupt):
            add_video(tables, "/video", 2)
    assert tables.statistics().num_stale == 20
    check(tables, {1: 20})
    assert tables.optimize().deleted_rows == 20
    check(tables, {1: 20})
    add_video(tables, "/video", 3)
    check(tables, {3: 20})


def break_files(tables, pattern, damage):
    for path in tables.folder.glob(pattern):
        data = path.read_bytes()
        path.write_bytes({"truncated": data[: len(data) // 2], "zeroed": bytes(len(data)), "empty": b""}[damage])


@pytest.mark.parametrize("pattern", ["videos.lance/_versions/*", "videos.lance/data/*", "frames.lance/*/*"])
@pytest.mark.parametrize("damage", ["truncated", "zeroed", "empty"])
def test_damaged_files_are_reported(tables, pattern, damage):
    break_files(tables, pattern, damage)
    with pytest.raises(DamagedLibraryError, match=r"tables at '.*' are damaged: .*run `r2tuning index` again"):
        LibraryTables.open(tables.folder).search(QUERY, limit=5)


def test_panics_of_lancedb_are_reported(tables):
    """A wrong length in the newest list of files; the last bytes tell where the length is."""
    path = min((tables.folder / "videos.lance/_versions").glob("*.manifest"))
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[-16:-8], "little")
    data[start : start + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    with pytest.raises(DamagedLibraryError, match="panicked"):
        LibraryTables.open(tables.folder)


@pytest.mark.parametrize("part", ["videos.lance", "frames.lance", "frames.lance/data", "videos.lance/_versions"])
def test_missing_files_are_reported(tables, part):
    shutil.rmtree(tables.folder / part)
    with pytest.raises(DamagedLibraryError, match="are damaged"):
        LibraryTables.open(tables.folder).search(QUERY, limit=5)


def test_tables_with_other_columns_are_reported(tables):
    shutil.rmtree(tables.folder / "videos.lance")
    shutil.copytree(tables.folder / "frames.lance", tables.folder / "videos.lance")
    with pytest.raises(DamagedLibraryError, match="columns"):
        LibraryTables.open(tables.folder)


@pytest.mark.parametrize("error", [damaged(Path("lib"), "too short"), LibraryBusyError("busy")])
def test_errors_pass_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))


@pytest.fixture
def small_files():
    """No file may grow beyond 128 KiB, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_failed_write_is_an_os_error_and_loses_nothing(tables, small_files):
    with pytest.raises(OSError, match="tables") as caught:
        add_video(tables, "/large", 2, num_frames=10_000)
    assert caught.value.errno == errno.EFBIG
    check(tables, {1: 20})
    add_video(tables, "/small", 3)
    check(tables, {1: 20, 3: 20})


def test_failed_optimize_is_an_os_error_and_loses_nothing(tables, request):
    lengths = {1: 20} | dict.fromkeys(range(2, 6), 2000)
    for entry in range(2, 6):
        add_video(tables, f"/{entry}", entry, num_frames=2000)
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match="tables"):
        tables.optimize()
    check(tables, lengths)


def test_one_maintainer_at_a_time(tables):
    with maintenance(tables.folder):
        with pytest.raises(LibraryBusyError, match="Another process removes videos"):
            tables.optimize()
        with pytest.raises(LibraryBusyError):
            tables.remove([record.id for record in tables.videos()])
        add_video(tables, "/other", 2)
    tables.optimize()
    check(tables, {1: 20, 2: 20})


def test_add_waits_for_another_add(tables):
    with adding(tables.folder):
        thread = threading.Thread(target=add_video, args=(tables, "/other", 2))
        thread.start()
        thread.join(timeout=0.2)
        assert thread.is_alive()
        check(tables, {1: 20})  # a search does not wait
    thread.join()
    check(tables, {1: 20, 2: 20})


def test_conflict_of_lancedb_is_a_busy_library(tables):
    message = "lance error: Retryable commit conflict for version 3: preempted by concurrent transaction Delete"
    with pytest.raises(LibraryBusyError, match="try again"), lance.translating(tables.folder):
        raise RuntimeError(message)


def test_read_starts_again_when_a_version_has_been_removed(tables):
    errors = [RuntimeError("lance error: Not found: data/1.lance")] * 2

    def count():
        if errors:
            raise errors.pop()
        return 5

    assert lance.read(tables.folder, count) == 5


@pytest.mark.integration
def test_threads_search_while_videos_are_replaced_and_removed(tables, monkeypatch):
    """No search fails, and each gives as many frames as it wants."""
    monkeypatch.setattr(tables_module, "MAX_VERSIONS", 5)
    for entry in range(2, 6):
        add_video(tables, f"/{entry}", entry)
    stop, failures, searches = threading.Event(), [], []

    def search(seed):
        query = make_vectors(1, seed).astype(np.float32)
        while not stop.is_set():
            try:
                (hits,) = tables.search(query, limit=20)
                searches.append(len(hits.entry))
            except Exception as error:  # noqa: BLE001 (the test shows it)
                failures.append(error)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for entry in range(6, 26):
        add_video(tables, f"/{entry % 4}", entry)
        if entry % 5 == 0:
            tables.optimize()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(searches) == {20}
    check(tables, dict.fromkeys([1, 4, 5, 22, 23, 24, 25], 20))


WRITER = """
import sys
from pathlib import Path
from library_tables import add_video
from r2tuning.library import tables as tables_module
from r2tuning.library.tables import LibraryTables

tables_module.MAX_VERSIONS = 20
folder, kind, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tables = LibraryTables.open(folder)
print("started", flush=True)
if kind == "add":
    for entry in range(first, first + 60):
        add_video(tables, f"/{entry}", entry)
        print(entry, flush=True)
while kind == "optimize":
    tables.optimize()
"""


def start_writer(folder, kind, first=0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(folder), kind, str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.integration
def test_two_processes_add_while_a_third_optimizes(tables):
    adders = [start_writer(tables.folder, "add", first) for first in (100, 200)]
    optimizer = start_writer(tables.folder, "optimize")
    outputs = [process.communicate()[0].split() for process in adders]
    assert [process.returncode for process in adders] == [0, 0]
    assert optimizer.poll() is None
    optimizer.kill()
    optimizer.communicate()
    assert [len(output) for output in outputs] == [60, 60]
    check(tables, {1: 20} | dict.fromkeys([*range(100, 160), *range(200, 260)], 20))
    tables.optimize()
    assert tables.statistics().num_frames == 121 * 20


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["add", "optimize"])
def test_killed_process_loses_nothing(tables, kind):
    """What it reported as added stays, its locks are released, and its leftovers go with the next optimization."""
    added = {1: 20}
    generator = random.Random(0)
    for attempt in range(1, 4):
        first = 1000 * attempt
        for entry in range(first, first + 5):
            add_video(tables, f"/{entry}", entry)
            added[entry] = 20
        process = start_writer(tables.folder, kind, first + 10)
        time.sleep(generator.uniform(0.02, 0.3))
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.communicate()[0].split()]
        assert process.returncode == -signal.SIGKILL
        added |= dict.fromkeys(reported, 20)
        with suppress(StopIteration):  # the video that it was adding may be complete
            last = next(record.entry for record in tables.videos() if record.entry not in added)
            added[last] = 20
        check(tables, added)
        tables.optimize()
        check(tables, added)
        assert tables.statistics().num_frames == 20 * len(added)
        assert len(list((tables.folder / "frames.lance/data").iterdir())) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.integration
def test_full_disk_loses_nothing(small_disk):
    """Adding and optimizing fail until there is space again."""
    tables = LibraryTables.create(small_disk / "tables", DIM)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2 * 2**20))
    added = {}
    error = None
    while error is None:
        entry = len(added) + 1
        try:
            add_video(tables, f"/{entry}", entry, num_frames=5000)
            added[entry] = 5000
        except OSError as caught:
            error = caught
    assert error.errno == errno.ENOSPC
    assert str(tables.folder) in str(error)
    check(tables, added)
    with pytest.raises(OSError, match="No space left"):
        tables.optimize()
    check(tables, added)
    filler.unlink()
    tables.remove([tables.videos()[0].id])
    tables.optimize()
    assert len(tables.videos()) == len(added) - 1
    add_video(tables, "/1", 100)


@pytest.mark.integration
def test_read_only_disk_is_enough_to_search(small_disk):
    add_video(LibraryTables.create(small_disk / "tables", DIM), "/video", 1)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    tables = LibraryTables.open(small_disk / "tables")
    check(tables, {1: 20})
    assert tables.statistics().num_frames == 20
    for change in (lambda: add_video(tables, "/other", 2), tables.optimize, lambda: tables.remove(["x"])):
        with pytest.raises(OSError, match="Read-only file system") as caught:
            change()
        assert caught.value.errno == errno.EROFS
    check(tables, {1: 20})


def test_a_bit_that_flips_inside_a_vector_is_found(tables):
    """A search would take it for the frame's own."""
    add_video(tables, "/other", 2)
    assert tables.find_damaged() == []
    wanted = tables.find(make_record("/other", 20, 2).id)
    [batch] = tables._frames.search().where(f"entry = {wanted.entry}").limit(1).select(["vector"]).to_batches()
    stored = batch["vector"].flatten().to_numpy().tobytes()
    damaged = bytes([stored[0] ^ 1]) + stored[1:]
    for path in (tables.folder / "frames.lance/data").iterdir():
        path.write_bytes(path.read_bytes().replace(stored, damaged))
    again = LibraryTables.open(tables.folder)
    assert again.find_damaged() == [wanted]
