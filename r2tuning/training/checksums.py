"""Checksums of a folder's files, so that a checkpoint is verified before a run resumes from it."""

import hashlib
from pathlib import Path
from typing import Any

from r2tuning.json_files import read_json, write_json


CHECKSUMS_FILE = "checksums.json"
BLOCK_BYTES = 1 << 20  # read at once


def write_checksums(folder: Path) -> None:
    """Record size and checksum of every file in `folder`, in `checksums.json`."""
    write_json(folder / CHECKSUMS_FILE, measure_files(folder), indent=None)


def copy_checksums(source: Path, target: Path, *, without: str) -> None:
    """Record in a copy of a folder what was measured in the original, so that errors in copying are found.

    Args:
        source: The original, with its `checksums.json`.
        target: The copy.
        without: Name of a folder of `source` that was not copied.
    """
    copied = {}
    for name, facts in read_json(source / CHECKSUMS_FILE).items():
        if not name.startswith(f"{without}/"):
            copied[name] = facts
    write_json(target / CHECKSUMS_FILE, copied, indent=None)


def measure_files(folder: Path) -> dict[str, dict[str, Any]]:
    """`{"size": bytes, "sha256": hex digits}` of every file, by its path relative to `folder`."""
    measured = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            measured[name] = {"size": path.stat().st_size, "sha256": _checksum(path)}
    return measured


def find_damage(folder: Path) -> str | None:
    """Compare the files of `folder` with `checksums.json`.

    Returns:
        What is wrong with the first file that differs, or `None` if all are intact.
    """
    try:
        for name, facts in read_json(folder / CHECKSUMS_FILE).items():
            damage = _find_file_damage(folder / name, facts)
            if damage is not None:
                return damage
    except FileNotFoundError as error:
        return f"'{error.filename}' is missing"
    except OSError as error:
        return str(error)
    except (AttributeError, KeyError, TypeError, ValueError):  # no JSON, or of another form
        return f"'{folder / CHECKSUMS_FILE}' is damaged"
    return None


def _find_file_damage(path: Path, facts: dict[str, Any]) -> str | None:
    size = path.stat().st_size
    if size != facts["size"]:
        return f"'{path}' is damaged: it has {size:,} bytes instead of {facts['size']:,}"
    if _checksum(path) != facts["sha256"]:
        return f"'{path}' is damaged: its contents do not match its checksum"
    return None


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["copy_checksums", "find_damage", "measure_files", "write_checksums"]
