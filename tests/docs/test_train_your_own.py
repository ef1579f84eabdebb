"""The page about own data runs as written, on five generated videos and against the loopback Hub."""

import json
import re
import shlex
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from training_samples import reset_accelerate
from transformers import AutoModel

from dataset_scripts.moving_shapes import generate
from modeling_r2tuning import DEFAULT_MODEL
from r2tuning_cli.main import main


PAGE = Path(__file__).parents[2] / "docs/train_your_own.md"
# A run of one epoch is lengthened to two.
SMALL = {"--epochs 60": "--epochs 2", "r2tuning train": "r2tuning train --epochs 1 --num-workers 0 --cpu"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def make_small(command):
    """The command with settings that a test has time for; an option that the command sets itself wins."""
    for words, replacement in SMALL.items():
        command = command.replace(words, replacement, 1)
    return command


@pytest.fixture(scope="module")
def commands():
    """Commands of the page by the name of the program or sub-command, in order."""
    lines = "".join(blocks("bash")).splitlines()
    return [shlex.split(make_small(line)) for line in lines]


@pytest.fixture(scope="module")
def ran(commands, tmp_path_factory):
    """Where all commands ran, what they printed, and the files of the repository that was published."""
    folder = tmp_path_factory.mktemp("own")
    [table] = blocks("csv")
    (folder / "my.csv").write_text(table)
    with pytest.MonkeyPatch.context() as patch, LoopbackHub() as hub:
        hub.connect(patch, folder / "home")
        patch.chdir(folder)
        for program, *arguments in commands:
            reset_accelerate()
            if program == "python":
                generate.main(arguments[2:])
            else:
                assert main(arguments) == 0, arguments
        return folder, hub.files("org/r2tuning-shapes")


def test_the_page_shows_every_step(commands):
    names = [words[1] for words in commands]
    assert names == ["-m", "check-data", "extract", "train", "train", "evaluate", "ground", "push"]


@pytest.mark.integration
def test_the_table_is_true_to_the_videos(ran):
    """Its moments are those that the generator wrote, and its query without a moment has none."""
    folder, _ = ran
    truth = {}
    for line in (folder / "clips/moving_shapes_train.jsonl").read_text().splitlines():
        row = json.loads(line)
        truth[f"{row['vid']}.mp4", row["query"]] = row["relevant_windows"]
    found = {}
    for line in (folder / "my.csv").read_text().splitlines()[1:]:
        video, query, start, end = line.split(",")
        found.setdefault((video, query), []).extend([[float(start), float(end)]] if start else [])
    assert found.pop(("train_00002.mp4", "a red square")) == []
    assert found == {key: truth[key] for key in found}


@pytest.mark.integration
def test_the_model_is_trained_from_the_packaged_one_and_lengthened(ran):
    folder, _ = ran
    model, start = AutoModel.from_pretrained(folder / "my_run/best"), AutoModel.from_pretrained(DEFAULT_MODEL)
    assert model.config.hidden_size == start.config.hidden_size
    metrics = json.loads((folder / "my_run/metrics.json").read_text())
    assert [evaluation["epoch"] for evaluation in metrics["evaluations"]] == [1, 2]


@pytest.mark.integration
def test_the_published_card_says_what_the_model_was_trained_on(ran):
    _, files = ran
    card = files["README.md"].decode()
    for words in (
        "license: cc0-1.0\n",
        "# R²-Tuning on Five videos of shapes\n",
        "starting from the model in the package `r2tuning`.",
        "Generated videos of coloured shapes.",
        "| train | 4 | 8 | 9 | 1 |\n| val | 1 | 2 | 4 | 0 |\n",
        "--init-from packaged",
    ):
        assert words in card
    assert {"model.safetensors", "results.json", "metrics.json"} <= files.keys()
