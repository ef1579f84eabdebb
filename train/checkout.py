"""Starts a program of `r2tuning` for the scripts in this folder, which lies in the import path when they are launched."""

import importlib
import importlib.util
import sys
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
USAGE_STATUS = 2


def run_main(module: str) -> int:
    """Run `main` of a module of `r2tuning`, which must be installed from this checkout; returns the exit status."""
    problem = find_problem()
    if problem is not None:
        script = Path(sys.argv[0]).stem
        sys.stderr.write(f"{script}: error: {problem}; run `pip install -e .` in '{CHECKOUT}'\n")
        return USAGE_STATUS
    return importlib.import_module(module).main()


def find_problem() -> str | None:
    """Why the scripts cannot work with the `r2tuning` that Python finds, without importing it; `None` if they can."""
    spec = importlib.util.find_spec("r2tuning")
    if spec is None or spec.origin is None:
        return "r2tuning is not installed"
    found = Path(spec.origin).resolve().parents[1]
    if found != CHECKOUT:
        return f"r2tuning is installed from '{found}', not from this checkout"
    return None
