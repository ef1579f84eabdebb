"""Options of the commands, checked before work begins."""

from pathlib import Path

import torch
from transformers import PreTrainedConfig

from modeling_r2tuning.loading_r2tuning import CONFIG, is_repository_name, loading


DEFAULT_BACKBONE = "openai/clip-vit-base-patch32"  # of all published files


def check_folders(**folders: Path | str | None) -> None:
    """Refuse folders that do not exist; the names are those of the options.

    Raises:
        FileNotFoundError: One does not.
    """
    for name, folder in folders.items():
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise FileNotFoundError(f"`{name}` must be a folder, there is none at '{folder}'.")


def check_model_name(option: str, name: str) -> None:
    """Refuse a model that can be neither a folder nor on the Hub, where a missing folder would be looked for.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not Path(name).is_dir() and not is_repository_name(name):
        raise FileNotFoundError(
            f"`{option}` must be a folder, or a name on the Hub such as '{DEFAULT_BACKBONE}'; there is no folder '{name}'."
        )


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
        raise ValueError(f"'{name}' holds {holds}; needed is one of type '{expected}'.")


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: PyTorch cannot use it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"`device` '{name}' is none that PyTorch knows: {str(error).splitlines()[0]}") from error
    number = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= number:
        raise ValueError(f"`device` '{name}' cannot be used: PyTorch finds {number or 'no'} GPUs here.")


__all__ = ["DEFAULT_BACKBONE", "check_device", "check_folders", "check_model_name", "check_model_type"]
