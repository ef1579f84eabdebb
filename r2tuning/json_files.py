"""Text and JSON files: read with errors that name the file, and written atomically."""

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
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not valid JSON ({error}); write the file again.") from error


def write_json(
    path: Path,
    document: Any,
    *,
    indent: int | None = 2,
    sort_keys: bool = False,
    temporary_in: Path | None = None,
) -> None:
    """Write a JSON file atomically: it appears complete or not at all.

    Args:
        path: File to write; an existing one is replaced.
        document: Anything that JSON can hold.
        indent: Spaces for each level; `None` writes one line.
        sort_keys: Write the keys of all objects in alphabetical order.
        temporary_in: Folder for the unfinished file, on the same file system; default: the folder of `path`.
    """
    text = json.dumps(document, indent=indent, sort_keys=sort_keys)
    write_text(path, f"{text}\n", temporary_in=temporary_in)


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


def write_text(path: Path, text: str, *, temporary_in: Path | None = None) -> None:
    """Write a text file atomically, in UTF-8 and with its line endings as given.

    Args:
        path: File to write; an existing one is replaced.
        text: Its content.
        temporary_in: Folder for the unfinished file, on the same file system; default: the folder of `path`.
    """
    with writing(path, temporary_in=temporary_in) as partial:
        partial.write_bytes(text.encode())


__all__ = ["read_json", "read_text", "write_json", "write_text"]
