"""The scripts in `train/` run the package of their own checkout, or say in one line that it is not installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_output import only_line


ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "train").glob("*.py") if path.stem != "checkout")
CODE = ("benchmarks", "dataset_scripts", "examples", "modeling_r2tuning", "r2tuning", "r2tuning_cli", "train")


def refused(script, folder, *flags):
    """Run a script that finds no package it can use; return its message."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *flags, str(script), "--help"]
    finished = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert (finished.returncode, finished.stdout) == (2, "")
    return only_line(finished.stderr)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_without_the_package_says_how_to_install_it(script, tmp_path):
    message = refused(script, tmp_path, "-S")  # without installed packages
    assert message == f"{script.stem}: error: r2tuning is not installed; run `pip install -e .` in '{ROOT}'"


def test_a_script_refuses_the_package_of_another_checkout(tmp_path):
    shutil.copytree(ROOT / "train", tmp_path / "copy/train")
    packages = tmp_path / "packages/r2tuning"
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text("raise AssertionError('the other package was imported')")
    env = {**os.environ, "PYTHONPATH": str(packages.parent)}
    command = [sys.executable, "-S", str(tmp_path / "copy/train/run.py"), "--help"]
    finished = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 2
    assert only_line(finished.stderr) == (
        f"run: error: r2tuning is installed from '{packages.parent}', not from this checkout; run `pip install -e .` "
        f"in '{tmp_path / 'copy'}'"
    )


def test_a_folder_of_that_name_is_no_package(tmp_path):
    """Python would import it as a namespace package."""
    shutil.copytree(ROOT / "train", tmp_path / "train")
    (tmp_path / "train/r2tuning").mkdir()
    assert "r2tuning is not installed" in refused(tmp_path / "train/run.py", tmp_path, "-S")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_a_few_lines(script):
    assert len(script.read_text().splitlines()) <= 12


@pytest.mark.parametrize("folder", CODE)
def test_no_code_changes_the_import_path(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert "sys.path" not in path.read_text(), path
