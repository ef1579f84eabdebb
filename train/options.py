"""Options of the commands: checked before work begins, and spelt in messages as the user has typed them."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from modeling_r2tuning.checkpoints_r2tuning import DEFAULT_CLIP


NAME_ON_HUB = re.compile(r"\w[\w.-]*/[\w.-]+")
ARGUMENT = re.compile(r"`(\w+)(?:=[\"']?([^`\"']*)[\"']?)?`")  # `name`, or `name="value"`


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
    if not Path(name).is_dir() and not NAME_ON_HUB.fullmatch(name):
        raise FileNotFoundError(
            f"`{option}` must be a folder, or a name on the Hub such as '{DEFAULT_CLIP}'; there is no folder '{name}'."
        )


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


def spell_options(message: str, names: Iterable[str], **others: str) -> str:
    """A message with options in the place of arguments: `--data-dir` for `data_dir`.

    Args:
        message: Names arguments in backticks, with or without a value.
        names: Those that are options, as Python spells them.
        others: Arguments that have an option of another name.
    """
    options = {name: f"--{name.replace('_', '-')}" for name in names} | others

    def spell(match: re.Match) -> str:
        name, value = match.groups()
        if name not in options:
            return match[0]
        return f"`{options[name]}`" if value is None else f"`{options[name]} {value}`"

    return ARGUMENT.sub(spell, message)


__all__ = ["check_device", "check_folders", "check_model_name", "spell_options"]
