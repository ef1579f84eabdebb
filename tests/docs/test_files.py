"""Atomic writing: a file is complete or absent, whatever happens."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modeling_r2tuning import files_r2tuning as files


ROOT = Path(__file__).parents[2]


def test_both_copies_are_equal():
    copy = (ROOT / "dataset_scripts/files.py").read_text()
    assert copy == (ROOT / "modeling_r2tuning/files_r2tuning.py").read_text()


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "answer.json"
    with files.writing(path) as partial:
        partial.write_text("old")
        assert partial.name == "answer.json"
        assert not path.exists()
    with files.writing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["answer.json"]


def test_error_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "answer.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.writing(path):
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["answer.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_mode_is_that_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        with files.writing(tmp_path / "file") as partial:
            partial.chmod(0o600)
        with files.writing_folder(tmp_path / "folder") as folder:
            (folder / "file").touch(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "folder/file").stat().st_mode) == 0o666 & ~umask


def test_longest_name(tmp_path):
    name = "n" * 250 + ".json"
    with files.writing(tmp_path / name) as partial:
        partial.write_text("1")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("kind", ["fifo", "link", "broken link", "folder", "device"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    path, target = tmp_path / "path", tmp_path / "target"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path(os.devnull)
    else:
        if kind == "link":
            target.write_text("kept")
        path.symlink_to(target)
    before = os.lstat(path)
    with pytest.raises(FileExistsError, match="regular file"), files.writing(path):
        pass
    assert os.lstat(path).st_mode == before.st_mode
    assert kind != "link" or target.read_text() == "kept"


def test_input_is_never_replaced(tmp_path):
    video, twin = tmp_path / "video.mp4", tmp_path / "twin.mp4"
    video.write_text("film")
    os.link(video, twin)
    with pytest.raises(FileExistsError, match="input"):
        files.check_replaceable(twin, video)
    files.check_replaceable(tmp_path / "new.mp4", video)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"), files.writing(tmp_path / "nowhere/file"):
        pass


def test_read_only_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"you may not write"):
        files.check_replaceable(tmp_path / "file")


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device", *arguments)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / "answer.json"
    path.write_text("old")
    monkeypatch.setattr(os, call, lambda *arguments: full_disk())
    with pytest.raises(OSError, match=r"No space left on device: '.*answer\.json'"), files.writing(path):
        pass
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["answer.json"]


def test_full_disk_when_the_hidden_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_take_lock", lambda path, required=False: full_disk(str(path)))
    with (
        pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/answer"),
        files.writing(tmp_path / "answer"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_errors_name_the_destination_and_not_the_hidden_folder(tmp_path):
    with pytest.raises(OSError, match=f"device: '{tmp_path}/answer'"), files.writing(tmp_path / "answer") as partial:
        full_disk(str(partial))
    with pytest.raises(OSError, match=f"device: '{tmp_path}/run/a'"), files.writing_folder(tmp_path / "run") as folder:
        full_disk(str(folder / "a"))
    with pytest.raises(FileNotFoundError, match="'/nowhere'"), files.writing(tmp_path / "answer"):
        os.stat("/nowhere")
    with pytest.raises(OSError, match=f"left on device: '{tmp_path}/answer'"), files.writing(tmp_path / "answer"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert os.listdir(tmp_path) == []


KILLED = """
import sys, time
from dataset_scripts.files import writing  # without torch
with writing(sys.argv[1]) as partial:
    partial.write_text("half")
    (partial.parent / "of a library").write_text("half")
    print(flush=True)
    time.sleep(60)
"""


def test_leftovers_of_killed_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    path = tmp_path / "answer.json"
    command = [sys.executable, "-c", KILLED, str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    for process in processes:
        process.stdout.readline()
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    with files.writing(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert len(os.listdir(tmp_path)) == 2  # the living process's folder is there
    processes[1].kill()
    processes[1].wait()
    files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["answer.json"]
    for process in processes:
        process.stdout.close()


def test_leftovers_of_other_users_are_kept(tmp_path, monkeypatch):
    """The folder of another user, and a link that looks like a leftover."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / f"{files.PREFIX}link{files.SUFFIX}").symlink_to(tmp_path / "kept")
    others = tmp_path / f"{files.PREFIX}others{files.SUFFIX}"
    others.mkdir()
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    files.remove_leftovers(tmp_path)
    assert others.exists()
    monkeypatch.setattr(os, "getuid", lambda: user)
    files.remove_leftovers(tmp_path)
    assert not others.exists()
    assert os.listdir(tmp_path / "kept") == ["file"]


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """Files are written, claims always succeed, and leftovers are kept, because nobody knows whose they are."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    leftover = tmp_path / f"{files.PREFIX}left{files.SUFFIX}"
    leftover.mkdir()
    with files.claiming(tmp_path), files.claiming(tmp_path), files.writing(tmp_path / "file") as partial:
        partial.write_text("1")
    assert sorted(os.listdir(tmp_path)) == [leftover.name, "file"]


def test_threads_write_concurrently(tmp_path):
    def write(number):
        for _ in range(20):
            with files.writing(tmp_path / "file") as partial:
                partial.write_text(str(number) * 1000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set((tmp_path / "file").read_text())) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_folder_appears_when_the_block_ends(tmp_path):
    with files.writing_folder(tmp_path / "run") as folder:
        (folder / "weights").write_text("1")
        assert not (tmp_path / "run").exists()
    assert (tmp_path / "run/weights").read_text() == "1"
    with pytest.raises(FileExistsError, match="not empty"), files.writing_folder(tmp_path / "run"):
        pass
    (tmp_path / "empty").mkdir()
    with files.writing_folder(tmp_path / "empty") as folder:
        (folder / "weights").write_text("2")
    assert sorted(os.listdir(tmp_path)) == ["empty", "run"]


def test_folder_is_claimed_by_one_process(tmp_path):
    with files.claiming(tmp_path), pytest.raises(FileExistsError, match="Another run"), files.claiming(tmp_path):
        pass
    with files.claiming(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


CLAIMED = """
import os, sys, time
from dataset_scripts.files import claiming
with claiming(sys.argv[1]):
    if os.fork() == 0:
        if os.fork() == 0:
            sys.exit()  # leaves the block, but not the claim
        os.wait()
        print(flush=True)
    time.sleep(60)
"""


def test_claim_ends_with_its_process_though_workers_live_on(tmp_path):
    command = [sys.executable, "-c", CLAIMED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True)
    process.stdout.readline()
    with pytest.raises(FileExistsError, match="Another run"), files.claiming(tmp_path):
        pass
    process.kill()
    process.wait()
    with files.claiming(tmp_path):
        os.killpg(process.pid, 0)  # the worker is still alive
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
