"""Text and JSON files beside a checkpoint: read with errors that name the file, and written atomically."""

import json
from pathlib import Path
from typing import Any

from modeling_r2tuning.files_r2tuning import writing


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: File in UTF-8.

    Returns:
        Its content; a `dict` for the files of a checkpoint.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not UTF-8, or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not valid JSON ({error}); write the file again.") from error


def write_json(path: Path, document: Any, *, sort_keys: bool = False) -> None:
    """Write a JSON file atomically: it appears complete or not at all.

    Args:
        path: File to write; an existing one is replaced.
        document: Anything that JSON can hold.
        sort_keys: Write the keys of all objects in alphabetical order.
    """
    write_text(path, json.dumps(document, indent=2, sort_keys=sort_keys) + "\n")


def read_text(path: Path) -> str:
    """Read a text file and keep its line endings.

    Args:
        path: File in UTF-8.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not UTF-8.
    """
    # `Path.read_text` would turn "\r\n" into "\n", and a card that somebody edited would be rewritten as a whole.
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not UTF-8 text ({error}); save it as UTF-8.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 and with its line endings as given.

    Args:
        path: File to write; an existing one is replaced.
        text: Its content.
    """
    with writing(path) as partial:
        partial.write_bytes(text.encode())


__all__ = ["read_json", "read_text", "write_json", "write_text"]
