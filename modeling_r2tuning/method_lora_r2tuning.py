"""LoRA (arXiv 2106.09685) through peft: low-rank changes of attention's projections in both encoders.

A projection W x becomes W x + (alpha / rank) B A x (its Equation 3), where only A and B are learned and B begins as 0.

The R2-Tuning paper tells the rank, 16. All four projections of each attention, q, k, v and out, are adapted in both
encoders: that is the choice whose number of parameters is the one in its Table 9. alpha equals the rank, so that the
change is not scaled; there is no dropout, as CLIP is in eval mode throughout, where it would never act.

A checkpoint holds the adapter as peft writes it, in the folder `lora` beside the model's own files: at the top of a
repository transformers would take the whole of it for an adapter, and look for a base model elsewhere.
"""

import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import cached_file

from .files_r2tuning import writing
from .loading_r2tuning import loading


RANK = 16
TARGETS = r"(vision_model|text_model)\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"
FOLDER = "lora"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every weight in peft's files


def add_lora(model: nn.Module) -> None:
    """Put new adapters into a model; all of its other parameters are frozen thereby.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError('The method "lora" needs peft: pip install "peft>=0.21"') from error
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=TARGETS), model)


def is_lora(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def save_lora(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write peft's two files into the folder `lora` of a checkpoint."""
    from peft import get_peft_model_state_dict

    target = Path(folder) / FOLDER
    weights = get_peft_model_state_dict(model)
    model.peft_config["default"].save_pretrained(target)
    weights = {f"{PREFIX}{name}": value.detach().cpu().contiguous() for name, value in weights.items()}
    with writing(target / WEIGHTS) as partial:
        save_file(weights, partial, metadata={"format": "pt"})


def load_lora(model: nn.Module, checkpoint: str | os.PathLike, subfolder: str = "", **hub) -> None:
    """Fill the adapters from peft's file; they are in float32, whatever CLIP is.

    Args:
        model: Has adapters.
        checkpoint: Folder, or repository on the Hub.
        subfolder: Where in there the checkpoint is.
        hub: What else `from_pretrained` was told about the Hub.

    Raises:
        OSError: There is no such file.
        ValueError: It belongs to other adapters.
    """
    from peft import set_peft_model_state_dict

    subfolder = os.path.join(subfolder, FOLDER)
    with loading(checkpoint, (WEIGHTS,), "The LoRA adapters of", subfolder=subfolder, **hub):
        path = cached_file(os.fspath(checkpoint), WEIGHTS, subfolder=subfolder, **hub)
        weights = {name.removeprefix(PREFIX): value for name, value in load_file(path).items()}
    for name, parameter in model.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
    result = set_peft_model_state_dict(model, weights)
    lacking = [name for name in result.missing_keys if is_lora(name)]
    if lacking or result.unexpected_keys:
        raise ValueError(
            f"'{path}' belongs to other adapters: it lacks {sorted(lacking)[:3]} and has "
            f"{sorted(result.unexpected_keys)[:3]}."
        )


__all__ = ["add_lora", "is_lora", "load_lora", "save_lora"]
