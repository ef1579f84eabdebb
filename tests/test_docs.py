"""The README's and the examples' code runs as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with `demo/`, made by the example script as the README calls it."""
    folder = tmp_path_factory.mktemp("readme")
    arguments = [sys.executable, str(ROOT / "examples/random_model.py"), "demo"]
    result = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=environment())
    assert "RANDOM" in result.stdout, result.stderr
    return folder


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_python_blocks_run_in_order(demo):
    code = "\n".join(blocks("python"))
    assert code.count("import") >= 6
    subprocess.run([sys.executable, "-c", code], cwd=demo, check=True, env=environment(), capture_output=True)


def test_main_command_grounds_a_video(demo):
    command = blocks("bash")[0]
    assert "pip install" in command
    words = shlex.split(command.strip().split("&&")[-1])
    assert words[0] == "r2tuning"
    arguments = [sys.executable, "-m", "modeling_r2tuning.cli_r2tuning", *words[1:]]
    result = subprocess.run(arguments, cwd=demo, capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    assert "people laugh" in result.stdout


@pytest.mark.parametrize(
    ("beginning", "made"),
    [
        ("python train/run_evaluation.py --model", "scores.json"),
        ("python train/run_feature_extraction.py", "features/settings.json"),
        ("python -m dataset_scripts.export", "exported/README.md"),
    ],
)
def test_benchmark_commands_run_on_the_demo(demo, beginning, made):
    [command] = [block.strip() for block in blocks("bash") if block.startswith(beginning)]
    words = [str(ROOT / word) if word.startswith("train/") else word for word in shlex.split(command)[1:]]
    result = subprocess.run([sys.executable, *words], cwd=demo, capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    assert (demo / made).exists()


def test_ci_runs_the_test_command():
    command = blocks("bash")[2]
    ci = (ROOT / ".ci/run").read_text()
    for part in ("pip install torch==2.13.0", "ruff check .", "python -m pytest"):
        assert part in command
        assert part.replace("pip install", "pip install --quiet") in ci
