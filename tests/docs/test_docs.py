"""The README's and the examples' code runs as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


# What makes a command of the README small enough for a test; without the file endings of its words.
SMALL = {
    "dataset_scripts.moving_shapes": ["--videos-train", "3", "--videos-val", "2", "--videos-test", "2"]
    + ["--videos-unseen", "0", "--processes", "1"],
    "train/pretrain_clip.py": ["--steps", "2", "--pictures", "64", "--held-out", "64", "--batch-size", "16"]
    + ["--processes", "1"],
    "train/run_feature_extraction.py": [],
    "train/run.py": ["--epochs", "1", "--num-workers", "0"],
    "train/run_evaluation.py": [],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's commands were run: the demo, then Moving Shapes from nothing."""
    folder = tmp_path_factory.mktemp("readme")
    run(folder, ["-m", "r2tuning_cli.main", *main_command()[1:], "--seed", "1"])
    for line in block_with("python train/pretrain_clip.py").splitlines():
        words = shlex.split(line)
        script = next((word for word in words if word in SMALL), None)
        if script is not None:  # the others change the package or need the Hub
            command = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
            run(folder, [*command, *words[words.index(script) + 1 :], *SMALL[script]])
    return folder


def run(folder, arguments):
    """Run Python as a user would; returns what was printed."""
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment(), check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def block_with(command):
    [block] = [block for block in blocks("bash") if command in block]
    return block


def main_command():
    """The part of the README's first command that follows the installation."""
    command = blocks("bash")[0]
    assert "pip install" in command
    words = shlex.split(command.strip().split("&&")[-1])
    assert words[0] == "r2tuning"
    return words


def test_main_command_shows_itself(folder):
    assert main_command() == ["r2tuning", "demo"]
    assert (folder / "demo/timeline.png").exists()


def test_moving_shapes_from_nothing(folder):
    """The chain of commands ends in a checkpoint whose card tells its scores on the test split."""
    assert "On the `test` split" in (folder / "shapes_run/best/README.md").read_text()


def test_python_blocks_run_in_order(folder):
    code = "\n".join(blocks("python"))
    assert code.count("import") >= 6
    run(folder, ["-c", code])


def test_export_command(folder):
    words = shlex.split(block_with("r2tuning export-dataset"))
    run(folder, ["-m", "r2tuning_cli.main", *words[1:]])
    assert (folder / "exported/README.md").exists()


def test_ci_runs_the_test_command():
    command = blocks("bash")[2]
    ci = (ROOT / ".ci/run").read_text()
    for part in ("pip install torch==2.13.0", "ruff check .", "python -m pytest"):
        assert part in command
        assert part.replace("pip install", "pip install --quiet") in ci
