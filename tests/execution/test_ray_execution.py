"""Jobs in the actors of a Ray cluster: processes that die, errors, GPUs, paths."""

import os
import re
import socket
import sys
import time
import types

import job_stores
import pytest
from job_stores import NamedStore, make_jobs, make_named_store, make_no_store

from r2tuning.execution import ray_cluster
from r2tuning.features.extraction import extract


NAMES = [f"video {number}" for number in range(6)]


@pytest.mark.parametrize("address", ["nowhere", "host:port", "ray://127.0.0.1:10001", "127.0.0.1:99999"])
def test_a_bad_address_is_refused(address, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(ConnectionError, match=f"No Ray cluster answers at `ray_address` '{address}'"):
        ray_cluster.check_cluster(address)


def test_an_address_where_nothing_answers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ray_cluster.check_cluster(address)
    with pytest.raises(ConnectionError, match="`ray start --head` printed"):
        extract(make_jobs("good"), NamedStore(tmp_path), None, executor="ray", ray_address=address)


def test_a_missing_ray_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape('pip install "r2tuning[ray]"')):
        ray_cluster.check_cluster(None)


def test_an_unknown_executor_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`executor` must be 'local' or 'ray', got 'slurm'"):
        extract(make_jobs("good"), NamedStore(tmp_path), None, executor="slurm")


@pytest.fixture(scope="module")
def connected():
    """A connection to a cluster on this machine, which claims to have two GPUs."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.path.dirname(job_stores.__file__))
        ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.fixture
def run(connected, tmp_path):
    """Process jobs of these names in two actors."""

    def run(*names, make_store=None, store=None, num_processes=2, device="cpu"):
        return extract(
            make_jobs(*names),
            store or NamedStore(tmp_path),
            make_store or make_named_store(tmp_path),
            executor="ray",
            num_processes=num_processes,
            device=device,
        )

    return run


def written(folder):
    """Process, working directory and visible GPUs of each job."""
    return [(folder / name).read_text().split("\n") for name in NAMES]


@pytest.mark.integration
def test_a_job_whose_process_dies_is_repeated_and_one_that_always_kills_fails(run, tmp_path):
    summary = run(*NAMES[:2], "deadly once", "bad", "deadly", *NAMES[2:])
    [bad, deadly] = make_jobs("bad", "deadly")
    assert summary.failed[bad] == "the video ends here"
    assert summary.failed[deadly].startswith("3 processes that worked on it were killed")
    assert len(summary.failed) == 2
    assert summary.done == {"videos": 7}
    assert summary.num_frames == 300
    assert {folder for _, folder, _ in written(tmp_path)} == {os.getcwd()}
    assert run(*NAMES, "deadly once").complete == {"videos": 7}


only_here = types.ModuleType("only_here")
exec("def unknown_on_the_cluster(rank, num_processes): pass", only_here.__dict__)
unknown_on_the_cluster = only_here.unknown_on_the_cluster


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "make_store", "kind", "message"),
    [
        ("full", None, OSError, "the disk is full"),
        ("bug", None, TypeError, "a bug"),
        ("good", make_no_store, ValueError, "no weights for 1 processes"),
        ("good", unknown_on_the_cluster, ImportError, "No module named 'only_here'"),
        ("deadly", None, RuntimeError, "All processes of the Ray cluster die: 1 videos or queries in a row"),
    ],
)
def test_an_error_stops_all(run, name, make_store, kind, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    monkeypatch.setattr(ray_cluster, "ATTEMPTS", 1)
    with pytest.raises(kind, match=message) as raised:
        run(name, "another", make_store=make_store, num_processes=1)
    assert str(raised.value).count("\n") == 0, "not Ray's error, which quotes the traceback and the machine's address"


@pytest.mark.integration
def test_an_error_ends_the_other_actors_in_the_middle_of_a_job(run, connected):
    with pytest.raises(OSError, match="the disk is full"):
        run("endless", "full")
    deadline = time.monotonic() + 60
    while connected.available_resources()["CPU"] < 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.integration
def test_files_that_do_not_appear_here_are_an_error(run, tmp_path, monkeypatch):
    """As when the output folder is on the disk of each machine."""
    monkeypatch.setattr(ray_cluster, "APPEAR_SEC", 0.5)
    (tmp_path / "here").mkdir()
    with pytest.raises(OSError, match=r"wrote the file of '.+', which is not complete here \(missing\)"):
        run("good", store=NamedStore(tmp_path / "here"))


@pytest.mark.integration
def test_a_working_directory_that_a_machine_lacks_is_an_error(run, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path / "home"))
    with pytest.raises(OSError, match="has no folder '.*home', in which this command was started"):
        run("good")


@pytest.mark.integration
def test_each_actor_sees_the_gpu_reserved_for_it(run, tmp_path):
    run(*NAMES, num_processes=4, device=None)
    gpus = {process: visible for process, _, visible in written(tmp_path)}
    assert len(gpus) > 1
    assert set(gpus.values()) <= {"0", "1"}


@pytest.mark.parametrize(
    ("num_gpus", "num_actors", "device", "share"),
    [(0, 3, None, 0), (2, 3, "cpu", 0), (4, 2, None, 1), (4, 4, "cuda", 1), (4, 6, None, 1 / 2), (1, 3, None, 1 / 3)],
)
def test_gpus_are_shared_evenly(num_gpus, num_actors, device, share):
    assert ray_cluster._share_of_gpu(num_gpus, num_actors, device) == share


def test_a_cluster_without_gpus_cannot_use_one():
    with pytest.raises(ValueError, match="`device` 'cuda' cannot be used: the Ray cluster has no GPUs"):
        ray_cluster._share_of_gpu(0, 1, "cuda")


@pytest.mark.integration
def test_more_processes_than_cpus_are_refused(run):
    with pytest.raises(ValueError, match="`num_processes` must not exceed the number of CPUs of the Ray cluster, 4"):
        run(*NAMES, num_processes=5)
