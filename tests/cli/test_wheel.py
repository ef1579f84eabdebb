"""The built wheel, installed and used in an empty folder: every command works without the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_checkpoints import save_clip
from training_samples import MODEL


ROOT = Path(__file__).parents[2]
PACKAGES = {"dataset_scripts", "modeling_r2tuning", "r2tuning", "r2tuning_cli"}
DATA = ["--benchmark", "moving_shapes", "--data-dir", "shapes"]
TRAIN = ["--preset", "moving_shapes", "--data-dir", "shapes", "--features", "features", "--backbone", "clip"]
TRAIN += ["--model", json.dumps(MODEL), "--epochs", "1", "--batch-size", "12", "--num-workers", "0", "--cpu"]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, since building writes beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "hub_cards"):
        shutil.copytree(ROOT / name, folder / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "sources")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "sources")
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def place(wheel, tiny_clip, tmp_path_factory):
    """A folder that holds CLIP and a small benchmark; the wheel is installed elsewhere."""
    site = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--target", site, wheel)
    folder = tmp_path_factory.mktemp("empty")
    place = Place(folder, site)
    save_clip(tiny_clip, folder / "clip")
    sizes = ["--videos-train", "3", "--videos-val", "2", "--videos-test", "1", "--videos-unseen", "0"]
    place.python("-m", "dataset_scripts.moving_shapes", "shapes", *sizes, "--processes", "1")
    place.r2tuning(
        "extract", *DATA, "--video-dir", "shapes", *["--backbone", "clip", "--num-layers", "3", "--output", "features"]
    )
    place.r2tuning("train", *TRAIN, "--output-dir", "run")
    return place


class Place:
    """Runs commands of the installed wheel in a folder."""

    def __init__(self, folder, site):
        self.folder, self.site = folder, site

    def r2tuning(self, *words):
        return self.run(self.site / "bin/r2tuning", *words)

    def python(self, *words):
        return self.run(sys.executable, *words)

    def run(self, *words):
        env = {**os.environ, "PYTHONPATH": str(self.site), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [str(word) for word in words]
        finished = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout


def pip(*words):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr


def test_top_level_names_are_ours(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == PACKAGES


def test_data_files_are_in_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("hub_cards", "r2tuning/training/presets", "modeling_r2tuning/default_model"):
        inside = "r2tuning/hub_cards" if folder == "hub_cards" else folder
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert f"{inside}/{path.relative_to(ROOT / folder)}" in names


def test_the_wheel_is_what_runs(place):
    found = place.python("-c", "import r2tuning, r2tuning_cli; print(r2tuning.__file__, r2tuning_cli.__file__)")
    assert all(path.startswith(f"{place.site}/") for path in found.split())


def test_an_installed_wheel_packs_itself_for_a_space(place, wheel):
    place.r2tuning("push", "--space", "org/find-moments", "--output", "space")
    [packed] = (place.folder / "space").glob("*.whl")
    assert packed.name == wheel.name
    with zipfile.ZipFile(packed) as ours, zipfile.ZipFile(wheel) as built:
        assert sorted(ours.namelist()) == sorted(built.namelist())
        for name in built.namelist():
            if not name.endswith(("/RECORD", "/WHEEL")):
                assert ours.read(name) == built.read(name), name


def test_help(place):
    assert "export-dataset" in place.r2tuning("--help")
    assert re.fullmatch(r"r2tuning \d+\.\d+\.\S+\n", place.r2tuning("--version"))


def test_demo(place):
    assert "The best moment overlaps a true one" in place.r2tuning("demo", "shown", "--seed", "1")
    assert (place.folder / "shown/timeline.png").exists()


def test_ground(place):
    words = ["--min-probability", "0", "--json", "answer.json"]
    out = place.r2tuning("ground", "shapes/videos/val_00000.mp4", "a red circle", *words)
    assert "Query: a red circle" in out
    assert json.loads((place.folder / "answer.json").read_text())["answers"][0]["moments"]


def test_train(place):
    steps = json.loads((place.folder / "run/metrics.json").read_text())["steps"]["step"]
    assert len(steps) >= 2
    assert "r2tuning" in (place.folder / "run/best/README.md").read_text()


def test_accelerate_launches_the_module(place):
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "r2tuning.training.run"]
    assert "steps of" in place.python(*launch, *TRAIN, "--output-dir", "dry", "--dry-run")
    assert not (place.folder / "dry").exists()


def test_evaluate(place):
    out = place.r2tuning("evaluate", "--model", "run/best", *DATA, "--features", "features", "--output", "scores.json")
    assert "moving_shapes val" in out
    assert "scores" in json.loads((place.folder / "scores.json").read_text())


def test_export(place):
    place.r2tuning("export-dataset", "moving_shapes", "exported", "--data-dir", "shapes")
    assert (place.folder / "exported/README.md").exists()
    assert list((place.folder / "exported").rglob("val.parquet"))
