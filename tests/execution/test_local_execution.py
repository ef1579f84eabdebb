"""Jobs in one process, whose inputs are prefetched, and in several processes of this machine."""

import multiprocessing
import os
import threading

import pytest
from fresh_python import quick_spawn
from job_stores import NamedStore, make_jobs, make_named_store, make_no_store

from r2tuning.features import extraction
from r2tuning.features.extraction import extract


class WaitingStore:
    """Writes the first job only after it has read the second one."""

    def __init__(self):
        self.second_is_read = threading.Event()

    def check(self, job):
        return "missing"

    def read(self, job):
        if job.id == "second":
            self.second_is_read.set()
        yield job.id

    def write(self, job, items):
        assert next(items) == job.id
        assert self.second_is_read.wait(timeout=10)
        yield 1


def test_the_next_job_is_prefetched_while_one_is_written():
    summary = extract(make_jobs("first", "second", "third"), WaitingStore(), None)
    assert summary.done == {"videos": 3}
    assert not summary.failed


@pytest.fixture
def forked(monkeypatch):
    """Workers that are forked from this process, which is faster than new ones that import torch."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_progress_bar_ends_full(num_processes, tmp_path, monkeypatch, forked):
    bars = []
    make_bar = extraction.long_progress_bar
    monkeypatch.setattr(extraction, "long_progress_bar", lambda *args: bars.append(make_bar(*args)) or bars[-1])
    jobs = make_jobs("good", "bad", "another")
    summary = extract(jobs, NamedStore(tmp_path), make_named_store(tmp_path), num_processes=num_processes)
    assert summary.failed == {jobs[1]: "the video ends here"}
    assert summary.done == {"videos": 2}
    assert summary.num_frames == 100
    assert (bars[-1].n, bars[-1].total) == (100, 100)


def test_a_full_disk_stops_the_extraction(tmp_path):
    with pytest.raises(OSError, match="the disk is full"):
        extract(make_jobs("good", "full", "another"), NamedStore(tmp_path), None)
    assert os.listdir(tmp_path) == ["good"]


@pytest.mark.parametrize(
    ("name", "make_store", "kind", "message"),
    [
        ("full", None, OSError, "the disk is full"),
        ("bug", None, TypeError, "a bug"),
        ("deadly", None, RuntimeError, "was killed, usually because memory ran out"),
        ("good", make_no_store, ValueError, "no weights for 2 processes"),
    ],
)
def test_an_error_in_one_of_several_processes_stops_all(name, make_store, kind, message, tmp_path, forked):
    make_store = make_store or make_named_store(tmp_path)
    with pytest.raises(kind, match=message):
        extract(make_jobs(name, "another"), NamedStore(tmp_path), make_store, num_processes=2)
    assert not multiprocessing.active_children()


@pytest.mark.integration
def test_an_interrupted_run_ends_its_processes_at_once(tmp_path, monkeypatch):
    """Ctrl-C reaches the parent while the others work on long videos."""
    summary_add = extraction.Summary.add

    def interrupt(summary, update):
        summary_add(summary, update)
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction.Summary, "add", interrupt)
    jobs = make_jobs("good", "endless")
    with quick_spawn(), pytest.raises(KeyboardInterrupt):
        extract(jobs, NamedStore(tmp_path), make_named_store(tmp_path), num_processes=2)
    assert not multiprocessing.active_children()
    assert os.listdir(tmp_path) == ["good"]
