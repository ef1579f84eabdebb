"""Runs commands and Python of the documentation in the current folder, in one process, as importing torch takes longer
than most of them.

Standard input holds a JSON list of steps: `{"words": [...]}`, a command, or `{"code": ..., "name": ...}`. A line of
standard error names each step, so that the last one is the one that failed.
"""

import json
import runpy
import sys
import types
from pathlib import Path


ROOT = Path(__file__).parents[2]


def run_command(words):
    """Run `r2tuning ...`, `python -m MODULE ...` or `python SCRIPT ...`; the script is one of the checkout."""
    if words[0] == "r2tuning":
        run_module("r2tuning_cli.main", words[1:])
    elif words[1] == "-m":
        run_module(words[2], words[3:])
    else:
        run_script(ROOT / words[1], words[2:])


def run_script(path, arguments):
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    check_status(lambda: runpy.run_path(str(path), run_name="__main__"))
    sys.path.pop(0)


def run_module(name, arguments):
    sys.argv = [name, *arguments]
    check_status(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def check_status(function):
    try:
        function()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"exit status {stop.code}") from stop


def run_code(code, name):
    """Run a page's Python in a module of its own."""
    exec(compile(code, name, "exec"), types.ModuleType(name).__dict__)


def main():
    for step in json.load(sys.stdin):
        sys.stderr.write(f"---- {step.get('words') or step['name']}\n")
        if "words" in step:
            run_command(step["words"])
        else:
            run_code(step["code"], step["name"])


if __name__ == "__main__":
    main()
