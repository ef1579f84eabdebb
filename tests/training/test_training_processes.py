"""Two processes with gloo, started as by torchrun, compared with one."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_python import FreshPython
from safetensors.torch import load_file
from training_samples import MODEL, as_arguments, reset_accelerate, write_benchmark
from two_processes import CASES

from r2tuning.training.run import DONE, main


pytestmark = pytest.mark.integration

HELPERS = Path(__file__).parents[1] / "helpers"
PARTS = {"classification", "boundary", "saliency", "video_calibration", "layer_calibration", "existence"}


def torchrun_environments(number):
    """The variables that torchrun gives to each of its processes on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for rank in range(number):
        yield {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}


@pytest.fixture(scope="module")
def both(tiny_clip, tmp_path_factory):
    """What `two_processes.py` reports, and the folders of the same run in two processes and in one."""
    folder = tmp_path_factory.mktemp("processes")
    # With this seed no ReLU has an input so close to 0 that rounding decides whether its gradient passes.
    options = write_benchmark(folder, tiny_clip, num_train=8, seed=1, absent=True)
    options["gradient-accumulation"] = 2
    model = {**MODEL, "use_existence_head": True}
    options["model"] = json.dumps({**model, "dropout": 0.0, "drop_path": 0.0})  # each process has its own
    arguments = [
        HELPERS / "two_processes.py",
        folder / "report.json",
        *as_arguments(options, output_dir=folder / "two"),
    ]
    processes = [FreshPython(arguments, {**os.environ, **environment}) for environment in torchrun_environments(2)]
    try:
        for process in processes:
            assert process.wait() == 0, process.output()[1][-3000:]
    finally:
        for process in processes:
            process.kill()  # one may still wait for the other
    reset_accelerate()
    assert main(as_arguments(options, output_dir=folder / "one")) == DONE
    return json.loads((folder / "report.json").read_text()), folder / "two", folder / "one"


def test_there_were_two_processes(both):
    report, two, _ = both
    assert report["processes"] == 2
    checkpoint = two / "step_000006/training_state"
    assert json.loads((checkpoint / "progress.json").read_text())["num_processes"] == 2
    first, second = (torch.load(checkpoint / f"random_states_{rank}.pkl", weights_only=False) for rank in range(2))
    assert not torch.equal(first["torch_manual_seed"], second["torch_manual_seed"])  # dropout differs


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_those_of_the_whole_batch(both, case):
    """On each process, with shares of unequal size and length; gradients relative to their largest entry."""
    for found in both[0][case]:
        assert found["losses"] <= 1e-5
        assert found["gradients"] <= 1e-5, found["at"]


def test_a_run_in_two_processes_measures_the_same_as_in_one(both):
    _, two, one = both
    got, want = (json.loads((folder / "metrics.json").read_text()) for folder in (two, one))
    for found, expected in zip(got["evaluations"], want["evaluations"], strict=True):
        # Unlike ranks, mean IoU and calibration error follow the last bits of the weights, and are rounded.
        expected["scores"] = pytest.approx(expected["scores"], abs=0.011)
        assert found == expected
    assert got["steps"]["step"] == want["steps"]["step"] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "grad_norm", "learning_rate", *PARTS):
        np.testing.assert_allclose(got["steps"][name], want["steps"][name], rtol=1e-4, err_msg=name)


def test_two_processes_end_with_the_weights_of_one(both):
    """Except weights whose gradient is rounding noise, which Adam scales to full steps."""
    got, want = (load_file(folder / "final/model.safetensors") for folder in both[1:])
    for key, value in want.items():
        if not key.endswith(("video_key.bias", "k_proj.bias")):
            torch.testing.assert_close(got[key], value, atol=1e-3, rtol=1e-3, msg=key)


def test_the_probability_is_calibrated_on_the_predictions_of_both_processes(both):
    _, two, one = both
    for name in ("best", "final"):
        got, want = (json.loads((folder / name / "processor_config.json").read_text()) for folder in (two, one))
        for number in ("existence_scale", "existence_bias"):
            assert got[number] == pytest.approx(want[number], rel=1e-3)
        assert want["existence_bias"] != 0
