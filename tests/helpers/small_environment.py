"""A virtual environment that has some installed packages, what they need, and nothing else: a check without downloads."""

import re
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def make_environment(folder, requirements):
    """Make the environment in a folder, from links to the packages of this interpreter; return its `python`.

    Args:
        folder: A new folder.
        requirements: Lines of a requirements.txt: names with or without bounds.

    Raises:
        importlib.metadata.PackageNotFoundError: A package is not installed here.
    """
    venv.create(folder, with_pip=False)
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    for name in closure(requirements):
        for entry in _top_level(metadata.distribution(name)):
            link = site / entry.name
            if not link.exists():
                link.symlink_to(entry)
    return folder / "bin/python"


def closure(requirements):
    """Names of the distributions that `pip install` would install."""
    found, new = set(), [Requirement(line) for line in requirements]
    while new:
        requirement = new.pop()
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        if name not in found:
            found.add(name)
            needed = map(Requirement, metadata.requires(name) or ())
            new += [other for other in needed if other.marker is None or other.marker.evaluate({"extra": ""})]
    return found


def _top_level(distribution):
    """Files and folders of a distribution beside those of others."""
    names = {path.parts[0] for path in distribution.files if path.parts[0] not in ("..", "__pycache__")}
    return [Path(distribution.locate_file(name)) for name in names]
