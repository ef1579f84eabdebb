"""A run that is killed anywhere and resumed ends with the same weights as an uninterrupted one."""

import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from fresh_python import FreshPython
from safetensors.torch import load_file
from training_samples import as_arguments, reset_accelerate, write_benchmark

from modeling_r2tuning.files_r2tuning import claiming
from r2tuning.training import checkpoints, folders, loop, run, validation
from r2tuning.training.checkpoints import CheckpointFolder
from r2tuning.training.checksums import find_damage, measure_files
from r2tuning.training.data import GroundingData
from r2tuning.training.run import DONE, USAGE, main


ROOT = Path(__file__).parents[2]


def by_default(cases, count):
    """The cases of a test; only the first of them run outside the integration tests."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    late = [pytest.param(*case, marks=pytest.mark.integration) for case in cases[count:]]
    return [pytest.param(*case) for case in cases[:count]] + late


@pytest.fixture(autouse=True)
def _fresh_accelerate(monkeypatch):
    """Each run starts as in a process of its own; it draws no curves, which would take the longest here."""
    reset_accelerate()
    monkeypatch.setattr(run, "draw_curves", lambda *arguments: None)


@pytest.fixture(scope="module")
def options(tiny_clip, tmp_path_factory):
    """Three epochs of three steps, each of two parts, with dropout; checkpoints between evaluations too."""
    options = write_benchmark(tmp_path_factory.mktemp("benchmark"), tiny_clip)
    parts = {"gradient-accumulation": 2, "queries-per-video": 2}
    return {**options, **parts, "epochs": 3, "save-steps": 2, "resume": "auto"}


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """Folder of an uninterrupted run."""
    reset_accelerate()
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(as_arguments(options, output_dir=folder)) == DONE
    return folder


def steps(folder):
    return sorted(path.name for path in folder.glob("step_*"))


def assert_same_run(folder, whole):
    """The same weights to the last bit, the same best model, the same measurements."""
    for name in ("final", "best"):
        got, want = (load_file(each / name / "model.safetensors") for each in (folder, whole))
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert torch.equal(got[key], value), f"{name} {key}"
    got, want = (json.loads((each / "metrics.json").read_text()) for each in (folder, whole))
    for metrics in (got, want):
        del metrics["steps"]["seconds"]
    assert got == want
    assert steps(folder) == steps(whole)
    assert not list(folder.glob(".*"))


def run_in_child(patch, arguments):
    """Exit code of a copy of this process that runs `main` after `patch()`."""

    def body():
        patch()
        os._exit(main(arguments))

    child = multiprocessing.get_context("fork").Process(target=body)
    child.start()
    child.join(timeout=120)
    return child.exitcode


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


# ---- killed ------------------------------------------------------------------------------------------------------


def kill_between_the_parts_of_a_step():
    backward, calls = Accelerator.backward, []

    def counting(self, loss):
        calls.append(None)
        if len(calls) == 8:  # the second part of the fourth step
            kill()
        backward(self, loss)

    Accelerator.backward = counting


def kill_in_an_evaluation():
    predict, calls = validation.predict, []

    def counting(*arguments, **options):
        for prediction in predict(*arguments, **options):
            calls.append(None)
            if len(calls) == 11:  # of eight in each evaluation
                kill()
            yield prediction

    validation.predict = counting


def kill_while_a_checkpoint_is_written():
    save_checkpoint, calls = checkpoints.save_checkpoint, []

    def counting(model, processor, folder):
        save_checkpoint(model, processor, folder)
        calls.append(None)
        if len(calls) == 3:
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:1000])
            kill()

    checkpoints.save_checkpoint = counting


def kill_between_best_and_checkpoint():
    put_in_place = folders._put_in_place

    def counting(new):
        if new.name == ".step_000003.new" and (new.parent / "best").exists():
            kill()
        put_in_place(new)

    folders._put_in_place = counting


def kill_between_two_renames():
    hide = folders._hide

    def halfway(path):
        hide(path)
        if path.name == "step_000003":
            kill()

    folders._hide = halfway


def kill_while_an_old_checkpoint_is_removed():
    rmtree = folders.shutil.rmtree

    def halfway(path, **options):
        if Path(path).name == ".step_000002.old" and path.exists():
            (path / "model.safetensors").unlink()
            kill()
        rmtree(path, **options)

    folders.shutil.rmtree = halfway


KILLS = {
    kill_between_the_parts_of_a_step: ["step_000002", "step_000003"],
    kill_in_an_evaluation: ["step_000004", "step_000006"],
    kill_while_a_checkpoint_is_written: ["step_000002", "step_000003"],
    kill_between_best_and_checkpoint: ["step_000002", "step_000003"],
    kill_between_two_renames: ["step_000002"],
    kill_while_an_old_checkpoint_is_removed: ["step_000003", "step_000004"],
}


@pytest.mark.parametrize("kill_somewhere", by_default(KILLS, 2))
def test_a_killed_run_resumes_exactly(options, whole, tmp_path, kill_somewhere):
    arguments = as_arguments(options, output_dir=tmp_path)
    assert run_in_child(kill_somewhere, arguments) == -signal.SIGKILL
    assert steps(tmp_path) == KILLS[kill_somewhere]
    assert main(arguments) == DONE
    assert_same_run(tmp_path, whole)


@pytest.mark.integration
def test_a_command_killed_from_outside_resumes_exactly(options, whole, tmp_path):
    """At any time after the first checkpoint; it is then finished with a loader process."""
    process = FreshPython([ROOT / "train/run.py", *as_arguments(options, output_dir=tmp_path)])
    while not steps(tmp_path) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.output()
    assert main(as_arguments(options, output_dir=tmp_path, num_workers=1)) == DONE
    assert_same_run(tmp_path, whole)


# ---- stopped -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), by_default([(signal.SIGTERM, 143), (signal.SIGINT, 130)], 1))
def test_a_stopped_run_finishes_its_step_and_resumes_exactly(
    options, whole, tmp_path, monkeypatch, capsys, number, status
):
    learning_rate, handlers = loop.learning_rate, [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    with monkeypatch.context() as patch:

        def interrupting(step, *arguments):
            if step == 4:
                os.kill(os.getpid(), number)
            return learning_rate(step, *arguments)

        patch.setattr(loop, "learning_rate", interrupting)
        assert main(as_arguments(options, output_dir=tmp_path)) == status
    assert "after step 5; `--resume auto` resumes" in capsys.readouterr().err
    assert steps(tmp_path)[-1] == "step_000005"
    assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == handlers
    assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("evaluation", by_default([3, 1], 1))
def test_a_run_stopped_in_an_evaluation_repeats_it(options, whole, tmp_path, monkeypatch, evaluation):
    """In the first, or in the last, when no step is left."""
    predict, evaluations, count = validation.predict, [], []
    with monkeypatch.context() as patch:

        def interrupting(*arguments, **options):
            evaluations.append(None)
            for prediction in predict(*arguments, **options):
                if len(evaluations) == evaluation:
                    count.append(None)
                    os.kill(os.getpid(), signal.SIGTERM)
                yield prediction

        patch.setattr(validation, "predict", interrupting)
        assert main(as_arguments(options, output_dir=tmp_path)) == 143
    assert len(count) == 1
    assert steps(tmp_path)[-1] == f"step_{3 * evaluation:06d}"
    assert len(json.loads((tmp_path / "metrics.json").read_text())["evaluations"]) == evaluation - 1
    assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    assert_same_run(tmp_path, whole)


def stop_all_processes_at_once():
    """As a cluster's scheduler does; `setsid` protects the processes of the tests."""
    os.setsid()
    learning_rate = loop.learning_rate

    def interrupting(step, *arguments):
        if step == 4:
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.2)
        return learning_rate(step, *arguments)

    loop.learning_rate = interrupting


@pytest.mark.integration
def test_a_signal_to_the_loader_processes_too_is_harmless(options, whole, tmp_path):
    arguments = as_arguments(options, output_dir=tmp_path, num_workers=2)
    assert run_in_child(stop_all_processes_at_once, arguments) == 143
    assert steps(tmp_path)[-1] == "step_000005"
    assert main(arguments) == DONE
    assert_same_run(tmp_path, whole)


STUCK = """
import os, signal, sys, time
from r2tuning.training import loop, run
from r2tuning.training.data import GroundingData

read, learning_rate, calls = GroundingData.__getitems__, loop.learning_rate, []

def stuck(self, draws):
    calls.append(draws)
    time.sleep(1000 * (len(calls) > 3))
    return read(self, draws)

def interrupting(step, *arguments):
    if step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return learning_rate(step, *arguments)

GroundingData.__getitems__, loop.learning_rate = stuck, interrupting
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.integration
def test_a_stopped_command_ends_even_if_its_loader_process_is_stuck(options, tmp_path):
    arguments = as_arguments({**options, "gradient-accumulation": 1}, output_dir=tmp_path, num_workers=1)
    process = FreshPython(["-c", STUCK, *arguments])
    try:
        assert process.wait(timeout=60) == 143, process.output()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill_group()
    assert steps(tmp_path)[-1] == "step_000002"


# ---- full disks --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(limit=32 * 1024):
    """No file may grow beyond `limit` bytes, which the weights need; writing more fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing(options, whole, tmp_path, monkeypatch, capsys):
    """The run continues without checkpoints, reports it, and can be resumed from the last one that was written."""
    learning_rate = loop.learning_rate
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:

        def filling(step, *arguments):
            if step == 4:
                stack.enter_context(full_disk())
            return learning_rate(step, *arguments)

        patch.setattr(loop, "learning_rate", filling)
        assert main(as_arguments(options, output_dir=tmp_path)) == USAGE
    assert "checkpoint of step 9 could not be written" in capsys.readouterr().err
    assert steps(tmp_path) == ["step_000003", "step_000004"]
    assert not list(tmp_path.glob(".*"))
    assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    assert_same_run(tmp_path, whole)


def test_checkpoints_are_written_again_once_the_disk_has_space(options, whole, tmp_path, monkeypatch):
    """The model of the second epoch, which could not be saved, is not recorded as the best."""
    learning_rate = loop.learning_rate
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:

        def filling(step, *arguments):
            if step == 4:
                stack.enter_context(full_disk())
            if step == 7:
                stack.close()
            return learning_rate(step, *arguments)

        patch.setattr(loop, "learning_rate", filling)
        assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    got, want = (load_file(each / "final/model.safetensors") for each in (tmp_path, whole))
    assert all(torch.equal(got[key], value) for key, value in want.items())
    assert steps(tmp_path) == steps(whole)
    progress = json.loads((tmp_path / "step_000009/training_state/progress.json").read_text())
    assert progress["best_step"] in (3, 9)


# ---- folders -----------------------------------------------------------------------------------------------------


def test_an_unfinished_replacement_of_a_folder_is_completed(tmp_path):
    """The process was killed between two renames, or while it wrote or removed."""
    for name in (".best.new", ".best.old", "final", ".step_000004.old", ".r2tuning-abc.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    CheckpointFolder(tmp_path, Accelerator(cpu=True), model=None, processor=None, keep=1).prepare()
    assert {path.name: (path / "name").read_text() for path in tmp_path.iterdir()} == {
        "best": ".best.new",
        "final": "final",
    }


def test_the_newest_checkpoints_are_kept(whole, options, tmp_path):
    assert steps(whole) == ["step_000008", "step_000009"]
    assert main(as_arguments(options, output_dir=tmp_path, keep_checkpoints=1, epochs=1)) == DONE
    assert steps(tmp_path) == ["step_000003"]


def test_a_finished_run_does_nothing_more(whole, options):
    before = {path: path.stat().st_mtime for path in whole.glob("step_*")}
    assert main(as_arguments(options, output_dir=whole)) == DONE
    assert {path: path.stat().st_mtime for path in whole.glob("step_*")} == before


def test_a_new_run_does_not_overwrite_another(whole, options, capsys):
    assert main(as_arguments(options, output_dir=whole, resume="never")) == USAGE
    assert "`--resume auto`" in capsys.readouterr().err


def test_a_run_does_not_resume_with_other_settings(whole, options, capsys):
    assert main(as_arguments(options, output_dir=whole, learning_rate=1e-3, num_workers=1)) == USAGE
    message = capsys.readouterr().err
    assert "`--learning-rate` was 0.005, now is 0.001" in message
    assert "num-workers" not in message


# ---- lengthened --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_early", by_default([True, False], 1))
def test_a_lengthened_run_equals_one_of_that_length(options, whole, tmp_path, monkeypatch, caplog, stop_early):
    """A finished run and a stopped one: the same weights, best model and measurements, and one line about the rate."""
    learning_rate = loop.learning_rate
    with monkeypatch.context() as patch, caplog.at_level("INFO"):

        def interrupting(step, *arguments):
            if stop_early and step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return learning_rate(step, *arguments)

        patch.setattr(loop, "learning_rate", interrupting)
        assert main(as_arguments(options, output_dir=tmp_path, epochs=2)) == (143 if stop_early else DONE)
        step = 4 if stop_early else 6
        assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    assert_same_run(tmp_path, whole)
    (message,) = (message for message in caplog.messages if "run is lengthened" in message)
    assert message.endswith(
        "the run is lengthened from 2 to 3 epochs; the learning rate is 0.005 in the next step; its drops stay at epochs "
        "[20]"
    )
    progress = json.loads((tmp_path / "step_000009/training_state/progress.json").read_text())
    assert progress["lengthened"] == [{"step": step, "epochs": 2}]


def test_a_lengthened_cosine_follows_that_of_the_new_length(options, tmp_path, caplog):
    """The rate rises where the run goes on, which the log says in numbers."""
    options = {**options, "schedule": "cosine", "output-dir": tmp_path, "eval-split": "none"}
    assert main(as_arguments(options, epochs=1)) == DONE
    with caplog.at_level("INFO"):
        assert main(as_arguments(options, epochs=2)) == DONE
    rates = json.loads((tmp_path / "metrics.json").read_text())["steps"]["learning_rate"]
    # Two steps of warm-up, then 0.005 * (1 + cos(pi * t)) / 2 at t = 0 of 1 step; of 4 steps at t = 1/4, 2/4, 3/4.
    assert rates[2:] == pytest.approx([5e-3, 5e-3 * 0.853553, 5e-3 * 0.5, 5e-3 * 0.146447], rel=1e-5)
    (message,) = (message for message in caplog.messages if "run is lengthened" in message)
    assert "follows the half cosine of 2 epochs: it goes from 0.005 in the last step to 0.00427 in the next" in message


def test_a_run_is_not_shortened(options, whole, capsys):
    assert main(as_arguments(options, output_dir=whole, epochs=2)) == USAGE
    message = capsys.readouterr().err
    assert f"`--epochs` of the run in '{whole}' was 3, now is 2: a run can be given more epochs, but not" in message


# ---- damage ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(whole, tmp_path):
    """Folder of a finished run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_every_damaged_file_of_a_checkpoint_is_found(copy):
    checkpoint = copy / "step_000009"
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    names = {path.name for path in paths}
    assert {"model.safetensors", "optimizer.bin", "random_states_0.pkl", "progress.json", "metrics.json"} <= names
    assert {"training_config.json", "checksums.json"} <= names
    for path in paths:
        content = path.read_bytes()
        for damage in (cut, flip, Path.unlink):
            damage(path)
            found = find_damage(checkpoint)
            assert found is not None, path
            assert path.name in found or path.name == "checksums.json"
            path.write_bytes(content)
    assert find_damage(checkpoint) is None
    assert find_damage(copy / "best") is None


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("model.safetensors", cut, "bytes instead of"),
        ("training_state/random_states_0.pkl", flip, "do not match its checksum"),
    ],
)
def test_a_run_falls_back_to_the_checkpoint_before(options, whole, copy, caplog, name, damage, reason):
    damage(copy / "step_000009" / name)
    assert main(as_arguments(options, output_dir=copy)) == DONE
    assert_same_run(copy, whole)
    assert (copy / "damaged_step_000009").is_dir()
    (message,) = (message for message in caplog.messages if reason in message)
    assert str(copy / "step_000009" / name) in message
    assert f"Resuming from '{copy / 'step_000008'}'" in message


def test_damaged_files_beside_the_checkpoints_are_restored(options, whole, copy, caplog):
    for name in ("metrics.json", "training_config.json"):
        cut(copy / name)
    assert main(as_arguments(options, output_dir=copy)) == DONE
    assert_same_run(copy, whole)
    assert json.loads((copy / "training_config.json").read_text())["output_dir"] == str(copy)
    for name in ("metrics.json", "training_config.json"):
        assert f"'{copy / name}' was damaged" in caplog.text


def test_a_run_without_an_intact_checkpoint_is_not_restarted(options, copy, capsys):
    for checkpoint in copy.glob("step_*"):
        cut(checkpoint / "model.safetensors")
    assert main(as_arguments(options, output_dir=copy)) == USAGE
    message = capsys.readouterr().err
    assert f"No checkpoint in '{copy}' is intact" in message
    assert str(copy / "step_000008/model.safetensors") in message
    assert steps(copy) == ["step_000008", "step_000009"]
    for checkpoint in copy.glob("step_*"):
        shutil.rmtree(checkpoint)
    assert main(as_arguments(options, output_dir=copy)) == USAGE
    assert "holds best and final of a run, but no checkpoint to resume from" in capsys.readouterr().err


def test_a_damaged_best_model_is_not_published(options, copy, capsys, caplog):
    flip(copy / "best/model.safetensors")
    assert main(as_arguments(options, output_dir=copy)) == USAGE
    assert f"'{copy / 'best/model.safetensors'}' is damaged" in capsys.readouterr().err
    shutil.rmtree(copy / "best")
    assert main(as_arguments(options, output_dir=copy)) == DONE
    assert f"'{copy / 'best'}' is missing" in caplog.text


def rewrite_progress(checkpoint, **changes):
    path = checkpoint / "training_state/progress.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (checkpoint / "checksums.json").unlink()
    (checkpoint / "checksums.json").write_text(json.dumps(measure_files(checkpoint)))


def test_a_run_resumes_inexactly_only_on_request(options, copy, capsys, caplog, monkeypatch):
    """With another number of processes, or if accelerate silently failed to restore the random state."""
    rewrite_progress(copy / "step_000009", num_processes=2)
    assert main(as_arguments(options, output_dir=copy)) == USAGE
    assert "was written by 2 processes, now there are 1: the final weights would differ" in capsys.readouterr().err
    assert main(as_arguments(options, output_dir=copy, resume="inexact")) == DONE
    assert "the run resumes, but not exactly" in caplog.text
    rewrite_progress(copy / "step_000009", num_processes=1)

    def fail(state):
        raise RuntimeError("of another version")

    monkeypatch.setattr(torch, "set_rng_state", fail)
    assert main(as_arguments(options, output_dir=copy)) == USAGE
    message = capsys.readouterr().err
    assert f"not be restored from '{copy / 'step_000009/training_state/random_states_0.pkl'}'" in message
    assert "pass `--resume inexact`" in message


# ---- two runs in one folder --------------------------------------------------------------------------------------


def test_a_second_run_in_a_folder_is_refused(options, copy, capsys):
    before = sorted(path.name for path in copy.iterdir())
    with claiming(copy):
        assert main(as_arguments(options, output_dir=copy)) == USAGE
    assert f"Another run is writing to '{copy}'" in capsys.readouterr().err
    assert sorted(path.name for path in copy.iterdir()) == before
    assert main(as_arguments(options, output_dir=copy)) == DONE


def kill_with_stuck_loader_processes():
    read, learning_rate, calls = GroundingData.__getitems__, loop.learning_rate, []

    def stuck(self, draws):
        calls.append(draws)
        time.sleep(1000 * (len(calls) > 4))
        return read(self, draws)

    def killing(step, *arguments):
        if step == 2:
            kill()
        return learning_rate(step, *arguments)

    GroundingData.__getitems__, loop.learning_rate = stuck, killing


@pytest.mark.integration
def test_a_killed_run_leaves_no_loader_process_that_holds_its_folder(options, whole, tmp_path):
    arguments = as_arguments(options, output_dir=tmp_path, num_workers=1)
    assert run_in_child(kill_with_stuck_loader_processes, arguments) == -signal.SIGKILL
    assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    assert_same_run(tmp_path, whole)


# ---- failing evaluations -----------------------------------------------------------------------------------------


def test_a_failing_evaluation_does_not_lose_the_epoch(options, whole, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise ValueError("'val0.npy' holds numbers that are not finite.")

    with monkeypatch.context() as patch:
        patch.setattr(validation, "predict", fail)
        assert main(as_arguments(options, output_dir=tmp_path)) == USAGE
    assert "The evaluation failed: 'val0.npy' holds" in capsys.readouterr().err
    assert steps(tmp_path) == ["step_000002", "step_000003"]
    assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    assert_same_run(tmp_path, whole)
