"""Text and JSON files: written atomically, and read with the path in every error."""

import json
import os
from pathlib import Path
from typing import Any

from modeling_r2tuning.files_r2tuning import writing


def write_text(path: str | os.PathLike, text: str, *, temporary_in: str | os.PathLike | None = None) -> None:
    """Write a text file in UTF-8; it appears complete or not at all.

    Args:
        path: File to write; an existing one is replaced.
        text: Its contents.
        temporary_in: Folder for the unfinished file, on the same file system; default: the folder of `path`.
    """
    with writing(path, temporary_in=temporary_in) as partial:
        partial.write_bytes(text.encode("utf-8"))


def write_json(
    path: str | os.PathLike,
    document: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    temporary_in: str | os.PathLike | None = None,
) -> None:
    """Write a JSON file that ends with a newline; arguments as for `json.dumps` and `write_text`."""
    text = json.dumps(document, indent=indent, sort_keys=sort_keys)
    write_text(path, f"{text}\n", temporary_in=temporary_in)


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is damaged: {error}") from error


__all__ = ["read_json", "write_json", "write_text"]
