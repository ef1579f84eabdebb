"""The code of the README and of the documentation runs as written."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from fresh_python import run_fresh

from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS
from modeling_r2tuning.tower_specs_r2tuning import REFUSED, TOWER_SPECS


ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = r"<!-- not run: (?P<reason>[^\n]+) -->\n"
BLOCK = re.compile(rf"(?:{NOT_RUN})?^```(?P<language>bash|python)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = ["-m", "r2tuning_cli.main"]  # arguments of Python

# What makes a command of the README small enough for a test, by the words it begins with.
SMALL = {
    "python -m dataset_scripts.moving_shapes": "--videos-train 3 --videos-val 2 --videos-test 2 --videos-unseen 0 "
    "--processes 1",
    "python train/pretrain_backbone.py": "--steps 2 --pictures 64 --held-out 64 --batch-size 16 --processes 1",
    "r2tuning extract": "",
    "r2tuning train": "--epochs 1 --num-workers 0",
    "r2tuning evaluate": "",
    "r2tuning export-dataset": "",
    "r2tuning ground": "",
    "r2tuning index": "",
    "r2tuning search": "",
}
OWN_TESTS = ("train_your_own.md", "export.md")  # pages that tests of their own run
# Commands that install, change the package or publish.
LEFT_OUT = ("pip", "python3 -m venv", "python train/package_default_model.py", "r2tuning push")


# Runs each page's Python in a namespace of its own.
RUN_PAGES = """
import json, sys
for name, code in json.loads(sys.stdin.read()).items():
    exec(compile(code, name, "exec"), {"__name__": name})
"""


def blocks(page, language):
    """Code of a page's blocks that are to run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == language and match["reason"] is None]


def blocks_not_run(page):
    """Code of a page's shell blocks that are marked as not to run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == "bash" and match["reason"] is not None]


def commands(code):
    """Commands of a shell block, one a line; a backslash joins lines."""
    lines = code.replace("\\\n", " ").splitlines()
    return [command.strip() for line in lines for command in line.split("&&")]


def run(folder, arguments, stdin=""):
    """Run Python as a user would; returns what it printed."""
    result = run_fresh(arguments, {**os.environ, "OMP_NUM_THREADS": "1"}, folder, stdin)
    assert result.returncode == 0, f"{shlex.join(arguments)}\n{result.stderr}"
    return result.stdout


def run_block(folder, code):
    """Run the commands of a block on little data; those that install or publish are left out."""
    for command in commands(code):
        if command.startswith(LEFT_OUT):
            continue
        start = next((start for start in SMALL if command.startswith(start)), None)
        assert start is not None, f"neither run nor marked as not to run: {command}"
        program, *arguments = [*shlex.split(command), *shlex.split(SMALL[start])]
        if program == "r2tuning":
            arguments = [*COMMAND, *arguments]
        elif arguments[0] != "-m":
            arguments[0] = str(ROOT / arguments[0])
        run(folder, arguments)


def first_command():
    """The README's command for a fresh machine, without the installation."""
    *installation, command = commands(blocks(README, "bash")[0])
    assert any(step.startswith("pip install") for step in installation)
    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where everything ran: the demo, Moving Shapes from nothing, the commands and the Python of all pages."""
    folder = tmp_path_factory.mktemp("documentation")
    run(folder, [*COMMAND, *shlex.split(first_command())[1:], "--seed", "1"])
    for code in blocks(README, "bash")[2:]:
        run_block(folder, code)
    pages = [page for page in PAGES[1:] if page.name not in OWN_TESTS]
    for page in pages:
        for code in blocks(page, "bash"):
            run_block(folder, code)
    code = {page.name: "\n".join(blocks(page, "python")) for page in [README, *pages]}
    run(folder, ["-c", RUN_PAGES], json.dumps(code))
    return folder


@pytest.mark.integration
def test_the_first_command_is_the_demo(folder):
    assert first_command() == "r2tuning demo"
    assert (folder / "demo/timeline.png").exists()


@pytest.mark.integration
def test_training_from_nothing_ends_in_a_card_with_scores(folder):
    assert "on the `test` split" in (folder / "shapes_run/best/README.md").read_text()


@pytest.mark.integration
def test_commands_of_the_pages_write_their_files(folder):
    for name in ("exported/README.md", "demo/answers.json", "demo/found"):
        assert (folder / name).exists(), name


@pytest.mark.integration
def test_python_of_the_pages_writes_its_files(folder):
    for name in ("demo/answer.png", "demo/moment.mp4", "demo/video.safetensors"):
        assert (folder / name).exists(), name


def test_no_block_is_lost():
    """Every block of Python or shell is run, or says why not."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(BLOCK.findall(text)) == len(re.findall(r"^```(?:bash|python)$", text, re.MULTILINE)), page.name


def test_options_of_commands_that_do_not_run(tmp_path):
    """They need downloads or other people's videos; their options are at least those of `--help`."""
    options = {}
    for page in PAGES:
        for command in commands("\n".join(blocks_not_run(page))):
            found = re.search(r"r2tuning (\w[\w-]*)|(?:-m r2tuning\.training\.run|train/run\.py)", command)
            if found is not None:
                options.setdefault(found[1] or "train", set()).update(re.findall(r" (--[\w-]+)", command))
    assert {"ground", "train", "extract", "evaluate", "push"} <= options.keys()
    for name, used in options.items():
        help_text = run(tmp_path, [*COMMAND, name, "--help"])
        assert used <= set(re.findall(r"--[\w-]+", help_text)), name


def test_ci_runs_the_test_command():
    steps = commands(blocks(README, "bash")[1])
    ci = (ROOT / ".ci/run").read_text()
    assert steps[-1] == "python -m pytest -n 2"
    for step in ("pip install torch==2.13.0", "ruff check .", "python -m pytest -n 2"):
        assert step in steps
        assert step.replace("pip install", "pip install --quiet") in ci


def table_of(page, head):
    """Cells of the table whose head begins with these words."""
    text = page.read_text(encoding="utf-8")
    start = text.index(f"| {head} |")
    lines = text[start : text.index("\n\n", start)].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


BACKBONES = ROOT / "docs/backbones.md"


def test_the_page_of_backbones_lists_every_kind():
    rows = table_of(BACKBONES, "model type | backbones")[1:]
    assert [row[0] for row in rows] == [f"`{kind}`" for kind in TOWER_SPECS]
    for (_, titles, _, frame, text), spec in zip(rows, TOWER_SPECS.values(), strict=True):
        assert spec.title in titles
        assert frame.startswith("CLS token" if spec.has_cls else "pooling head")
        assert text.startswith("causal" if spec.text_attention == "causal" else "bidirectional")
        assert ("padded" in text) == (spec.text_attention == "fixed_length")
    refused = " ".join(row[0] for row in table_of(BACKBONES, "model type | reason")[1:])
    assert set(re.findall(r"`([\w]+)`", refused)) == REFUSED.keys()


def test_the_page_of_backbones_says_which_method_works_where():
    head, *rows = table_of(BACKBONES, "method | `clip`")
    assert head == ["method", *(f"`{kind}`" for kind in TOWER_SPECS)]
    assert [row[0] for row in rows] == [f"`{method}`" for method in METHOD_SPECS]
    for (_, *cells), method in zip(rows, METHOD_SPECS.values(), strict=True):
        for cell, tower in zip(cells, TOWER_SPECS.values(), strict=True):
            assert cell == ("refused" if method.needs_cls and not tower.has_cls else "yes")


def test_the_page_of_backbones_has_the_measured_table():
    assert (ROOT / "benchmarks/results/towers.md").read_text(encoding="utf-8") in BACKBONES.read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f": {page.name}\n" in navigation
