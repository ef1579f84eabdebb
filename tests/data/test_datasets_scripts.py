"""The builders as loading scripts, which datasets below 4 copies and runs outside of this package."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import annotation_samples as samples
import pytest


SCRIPTS = Path(__file__).parents[2] / "dataset_scripts"
THIRD_PARTY = {"numpy", "datasets"}


def imports(name):
    """Modules that a file imports at its top, as (number of dots, module)."""
    for node in ast.parse((SCRIPTS / f"{name}.py").read_text()).body:
        if isinstance(node, ast.Import):
            assert len(node.names) == 1  # datasets takes the comma for a part of the name
            yield 0, node.names[0].name
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module


def siblings(name):
    return {module for level, module in imports(name) if level}


def scanned(name):
    """Siblings that datasets 3 finds: a line that begins with `from .module import`."""
    return set(re.findall(r"^from \.(\w+) import ", (SCRIPTS / f"{name}.py").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("name", samples.SPLITS)
def test_a_builder_imports_all_siblings_that_it_needs_itself(name):
    needed, new = set(), siblings(name)
    while new:
        needed |= new
        new = set().union(*map(siblings, new)) - needed
    assert scanned(name) == siblings(name) == needed


@pytest.mark.parametrize("name", sorted({module for name in samples.SPLITS for module in [name, *siblings(name)]}))
def test_loading_needs_numpy_and_datasets_alone(name):
    for level, module in imports(name):
        root = module.split(".")[0]
        assert level == 1 or root in THIRD_PARTY | set(sys.stdlib_module_names)


RUN = """
import importlib, sys
for name in sys.argv[1:]:
    script = importlib.import_module(f"{name}_carried.{name}")
    [builder] = [value for value in vars(script).values() if getattr(value, "__module__", None) == script.__name__
                 and isinstance(value, type)]
    splits = builder(data_dir=f"{name}_data").as_streaming_dataset()
    print(name, *(len(list(dataset)) for dataset in splits.values()))
"""


def test_builders_work_where_only_their_siblings_are(tmp_path):
    """As datasets 3 runs them: copied with the siblings that the file names, in a package of another name."""
    expected = []
    for name in samples.SPLITS:
        package = tmp_path / f"{name}_carried"
        package.mkdir()
        for module in [name, *scanned(name)]:
            (package / f"{module}.py").write_text((SCRIPTS / f"{module}.py").read_text())
        samples.write_benchmark(name, tmp_path / f"{name}_data")
        highlights = name in ("youtube_highlights", "tvsum")
        sizes = [2 if highlights else samples.QUERIES_PER_SPLIT[split] for split in samples.SPLITS[name]]
        expected.append(" ".join(map(str, [name, *sizes])))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN, *samples.SPLITS]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (run.stdout.splitlines(), run.returncode) == (expected, 0), run.stderr
