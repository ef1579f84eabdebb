"""Processes forked from the tests' server are as new ones: they have their own environment and import path."""

import json
import os

from fresh_python import ROOT, run_fresh


CODE = """
import json, os, sys
before = [name for name in sys.modules if "." not in name]
import huggingface_hub.constants
import torch
print(json.dumps({
    "modules": before,
    "path": sys.path,
    "environment": dict(os.environ),
    "hub": [huggingface_hub.constants.HF_HOME, huggingface_hub.constants.HF_HUB_OFFLINE],
    "threads": torch.get_num_threads(),
}))
"""
# They read their settings from the environment when they are imported.
READ_SETTINGS = {"accelerate", "datasets", "evaluate", "huggingface_hub", "peft", "transformers"}
OURS = {"dataset_scripts", "modeling_r2tuning", "r2tuning", "r2tuning_cli"}


def test_a_fresh_process_is_as_a_new_interpreter(tmp_path):
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(tmp_path / "packages"),
        "PATH": os.environ["PATH"],
    }
    result = run_fresh(["-c", CODE], environment, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert not (READ_SETTINGS | OURS) & set(found["modules"])
    assert found["hub"] == [environment["HF_HOME"], True]
    assert found["environment"].items() >= environment.items()
    assert not {"PYTEST_CURRENT_TEST", "VTG_SHARED_DATA"} & found["environment"].keys()
    assert found["path"][:2] == ["", environment["PYTHONPATH"]]
    assert not {str(ROOT), str(ROOT / "tests/helpers")} & set(found["path"]), "pytest added them"
    assert found["threads"] == 1


def test_a_fresh_process_ends_as_a_new_interpreter(tmp_path):
    """With the exit status, output and arguments of a script, which does not see the working directory's modules."""
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts/script.py"
    script.write_text("import sys\nprint(sys.argv[1], sys.path[0], '' in sys.path)\nsys.exit('failed')\n")
    result = run_fresh([script, "word"], cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, f"word {script.parent} False\n")
    assert result.stderr == "failed\n"
    assert run_fresh(["-c", "import missing"], cwd=tmp_path).returncode == 1
    assert run_fresh(["-c", "import sys; sys.exit(3)"]).returncode == 3
