"""Checks of folders, model names and the device, made before work begins."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from dataset_scripts.benchmarks import HUB_PREFIX, OWN_DATA
from modeling_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.loading_r2tuning import CONFIG, is_repository_name, loading
from r2tuning_cli.defaults import DEFAULT_BACKBONE, PACKAGED


def check_folders(**folders: Path | str | None) -> None:
    """Refuse folders that do not exist; the keywords are the names of the options.

    Raises:
        FileNotFoundError: A folder does not exist.
    """
    for name, folder in folders.items():
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise FileNotFoundError(f"`{name}` must be a folder, but there is none at '{folder}'.")


def check_annotation_files(benchmark: str, **files: Path | str | None) -> None:
    """Refuse annotation files that do not exist; the keywords are the names of the options.

    Own data may also be a dataset folder or a dataset of the Hub.

    Raises:
        FileNotFoundError: A file does not exist.
    """
    for name, path in files.items():
        if path is None or Path(path).expanduser().is_file():
            continue
        if benchmark != OWN_DATA:
            raise FileNotFoundError(f"`{name}` must be a file, but there is none at '{path}'.")
        if not str(path).startswith(HUB_PREFIX) and not Path(path).expanduser().is_dir():
            raise FileNotFoundError(
                f"`{name}` must be a file, a dataset folder or {HUB_PREFIX}ORG/NAME, but there is no '{path}'."
            )


def check_distinct(outputs: Iterable[Path]) -> None:
    """Refuse outputs of which one would replace another.

    Raises:
        ValueError: Two have the same path.
    """
    taken = set()
    for path in outputs:
        place = os.path.realpath(path)
        if place in taken:
            raise ValueError(f"'{path}' is the path of two outputs; give each a path of its own.")
        taken.add(place)


def check_model_name(option: str, name: str) -> None:
    """Refuse a name that is neither a folder nor of the form of a Hub repository.

    Otherwise a missing folder would be looked for on the Hub.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not Path(name).is_dir() and not is_repository_name(name):
        raise FileNotFoundError(
            f"`{option}` must be a folder, or a name on the Hub such as '{DEFAULT_BACKBONE}'; there is no folder '{name}'."
        )


def locate_model(name: str) -> str:
    """The folder of the model that comes with the package for "packaged", unless there is a folder of that name."""
    return str(DEFAULT_MODEL) if name == PACKAGED and not Path(name).is_dir() else name


def check_model_type(name: str, expected: str) -> None:
    """Refuse a folder or Hub repository that holds another kind of model, which would load with random weights.

    Raises:
        OSError: There is no model of that name, or it cannot be fetched.
        ValueError: It is of another type, or its configuration is damaged.
    """
    with loading(name, (CONFIG,), "The model"):
        found = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if found != expected:
        holds = "no model" if found is None else f"a model of type '{found}'"
        raise ValueError(f"'{name}' holds {holds}, expected a model of type '{expected}'.")


def choose_device(name: str | None) -> torch.device:
    """The device of that name; by default a GPU if there is one, else the CPU.

    Raises:
        ValueError: PyTorch cannot use it.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type != "cuda":  # an allocation there would take memory on a GPU that other processes will use
            torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`device` '{name}' cannot be used: {reason}") from error
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ValueError(f"`device` '{name}' cannot be used: PyTorch finds {num_gpus or 'no'} GPUs here.")
    return device


__all__ = [
    "check_annotation_files",
    "check_distinct",
    "check_folders",
    "check_model_name",
    "check_model_type",
    "choose_device",
    "locate_model",
]
