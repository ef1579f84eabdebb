"""The settings of a cache: what its files depend on besides videos and annotations, in `settings.json`."""

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.files_r2tuning import remove_leftovers
from r2tuning.features.files import PARTIAL
from r2tuning.json_files import read_json, write_json


FORMAT = 1  # version of the layout
SETTINGS_FILE = "settings.json"
ONE_PER_UNIT = "one frame per annotated clip"  # instead of frames per second, on YouTube Highlights
# The same backbone has several names; its weights are compared instead, which no two kinds of backbones share.
NOT_COMPARED = ("clip", "tower")
STALE_SEC = 3600.0  # earlier versions wrote files into `partial` itself; none took that long


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Contents of `settings.json`, `None` if there is no such file.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / SETTINGS_FILE
    try:
        settings = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"The settings of a cache are corrupt. Extract the features into a new folder. {error}"
        ) from error
    if not isinstance(settings, dict):
        raise ValueError(f"'{path}' holds no settings. Extract the features into a new folder.")
    return settings


def prepare_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Create a cache, or check the settings of an existing one, and remove abandoned unfinished files.

    Args:
        folder: The cache.
        settings: From `feature_settings` or `frame_settings`.

    Raises:
        ValueError: The cache was made with other settings.
    """
    found = read_settings(folder)
    if found is not None:
        compare_settings(folder, found, settings)
    partial = folder / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    remove_leftovers(partial)
    for path in partial.iterdir():
        with suppress(FileNotFoundError):  # another process may remove it at the same time
            if not path.is_dir() and time.time() - path.stat().st_mtime > STALE_SEC:
                path.unlink()
    if found is None:
        write_json(folder / SETTINGS_FILE, settings, sort_keys=True, temporary_in=partial)


def compare_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a cache whose settings differ from those wanted.

    Raises:
        ValueError: The message lists what differs.
    """
    differing = []
    for name, value in wanted.items():
        if name not in NOT_COMPARED and found.get(name) != value:
            differing.append(f"`{name}` is {json.dumps(found.get(name))} there, {json.dumps(value)} is needed")
    if differing:
        raise ValueError(
            f"The cache '{folder}' was made with other settings: {'; '.join(differing)} (its backbone is "
            f"{json.dumps(found.get('clip'))}). Use the settings that it was made with, or another folder."
        )


def settings_digest(settings: dict[str, Any]) -> str:
    """A digest of settings, which every file of a cache records."""
    compared = {name: value for name, value in settings.items() if name not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(model: R2TuningForVideoGrounding) -> str:
    """A digest of a model's frozen encoders; the same in float32 and in bfloat16."""
    digest = hashlib.sha256()
    for encoder in (model.vision_model, model.text_model):
        for _, value in sorted(encoder.state_dict().items()):
            bits = value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)
            digest.update(bits.numpy())
    return digest.hexdigest()[:16]


__all__ = [
    "FORMAT",
    "ONE_PER_UNIT",
    "SETTINGS_FILE",
    "compare_settings",
    "fingerprint",
    "prepare_folder",
    "read_settings",
    "settings_digest",
]
