"""The files of a cache: their names, and how they are written, verified and read."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dataset_scripts.videos import safe_name
from modeling_r2tuning.files_r2tuning import writing


PARTIAL = "partial"  # folder of unfinished files
EXTRACT_AGAIN = "Run `r2tuning extract` again to replace the file."


def video_path(folder: Path, video_id: str, extension: str = "safetensors") -> Path:
    """File of a video."""
    return folder / "videos" / f"{safe_name(video_id)}.{extension}"


def query_path(folder: Path, qid: str, text: str) -> Path:
    """File of a query; two texts with the same qid have two files."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return folder / "queries" / f"{safe_name(qid)}-{digest}.safetensors"


def save_features(folder: Path, path: Path, states: torch.Tensor, record: dict[str, Any]) -> None:
    """Write hidden states to a file of a cache.

    Args:
        folder: The cache.
        path: The file.
        states: Contiguous tensor in half precision.
        record: What the file was made from, as plain values.
    """
    text = json.dumps({**record, "checksum": _checksum(states, record)}, sort_keys=True)
    with replacing(folder, path) as partial:
        save_file({"hidden_states": states}, partial, metadata={"record": text})


def load_features(path: Path, *, check: bool = True) -> tuple[torch.Tensor, dict[str, Any]]:
    """Hidden states of a file, mapped into memory, and its record.

    Args:
        path: The file.
        check: Read the whole file and compare its checksum.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is corrupt.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There are no features at '{path}'. Run `r2tuning extract` first.")
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
            states = file.get_tensor("hidden_states")
        checksum = record.pop("checksum")
        if check and _checksum(states, record) != checksum:
            raise ValueError("its contents do not match its checksum")
    except Exception as error:  # noqa: BLE001 (safetensors raises several types, all meaning an unusable file)
        raise ValueError(f"'{path}' is corrupt: {error or type(error).__name__}. {EXTRACT_AGAIN}") from error
    return states, record


@contextmanager
def replacing(folder: Path, path: Path) -> Iterator[Path]:
    """Write a file of a cache atomically; it grows in the cache's folder of unfinished files.

    Args:
        folder: The cache.
        path: The file; its folder is created.

    Yields:
        Path of an empty file to fill.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, temporary_in=folder / PARTIAL) as partial:
        yield partial


def _checksum(states: torch.Tensor, record: dict[str, Any]) -> int:
    header = json.dumps([record, list(states.shape), str(states.dtype)], sort_keys=True)
    return zlib.crc32(states.numpy().data, zlib.crc32(header.encode()))


__all__ = ["PARTIAL", "load_features", "query_path", "replacing", "safe_name", "save_features", "video_path"]
