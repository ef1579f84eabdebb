"""LoRA (arXiv 2106.09685) with peft: low-rank updates of the attention projections in both encoders.

A projection W x becomes W x + (alpha / rank) B A x (its Equation 3); only A and B are learned, B is zero-initialised.

The R2-Tuning paper uses rank 16. All four projections of each attention layer (q, k, v, out) are adapted in both
encoders, which gives the number of parameters in its Table 9. alpha equals the rank, so the update is not scaled.
There is no dropout: the encoders stay in eval mode, where it would have no effect.

A checkpoint holds the adapters as peft writes them, in the folder `lora` next to the model's own files. At the top of
a repository transformers would take the whole repository for an adapter and look for a base model elsewhere.
"""

import os
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import cached_file

from .configuration_r2tuning import R2TuningConfig
from .files_r2tuning import writing
from .loading_r2tuning import loading
from .towers_r2tuning import ENCODERS


RANK = 16
PROJECTIONS = 4  # of each attention layer
FOLDER = "lora"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every weight in peft's files


def add_lora(model: nn.Module) -> None:
    """Insert new adapters into a model; this freezes all of its other parameters.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError('The method "lora" needs peft: pip install "peft>=0.21"') from error
    config = cast("R2TuningConfig", model.config)
    targets = config.tower_spec.attention_projections
    settings = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=targets)
    inject_adapter_in_model(settings, model)
    _check_targets(model, config)


def _check_targets(model: nn.Module, config: R2TuningConfig) -> None:
    """Refuse a pattern that misses layers; peft complains only if it matches nothing at all."""
    adapted = [name for name, _ in model.named_modules() if name.endswith(".lora_A")]
    for prefix, encoder in zip(ENCODERS, (config.vision_config, config.text_config), strict=True):
        found, wanted = sum(name.startswith(prefix) for name in adapted), PROJECTIONS * encoder.num_hidden_layers
        if found != wanted:
            raise RuntimeError(f"LoRA adapts {found} attention projections of {prefix[:-1]}, {wanted} are needed.")


def is_lora(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def save_lora(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write peft's two files into the folder `lora` of a checkpoint."""
    from peft import get_peft_model_state_dict

    target = Path(folder) / FOLDER
    weights = {}
    for name, value in get_peft_model_state_dict(model).items():
        weights[f"{PREFIX}{name}"] = value.detach().cpu().contiguous()
    settings = cast("dict[str, Any]", model.peft_config)
    settings["default"].save_pretrained(target)
    with writing(target / WEIGHTS) as partial:
        save_file(weights, partial, metadata={"format": "pt"})


def load_lora(model: nn.Module, checkpoint: str | os.PathLike, subfolder: str = "", **hub: Any) -> None:
    """Load the adapters from peft's file; they are in float32 whatever the precision of the encoders.

    Args:
        model: Has adapters.
        checkpoint: Folder, or repository on the Hub.
        subfolder: Folder of the checkpoint in there.
        hub: Hub arguments (`token`, `cache_dir`, ...).

    Raises:
        OSError: There is no such file.
        ValueError: It belongs to other adapters.
    """
    from peft import set_peft_model_state_dict

    subfolder = os.path.join(subfolder, FOLDER)
    with loading(checkpoint, (WEIGHTS,), "The LoRA adapters of", subfolder=subfolder, **hub):
        path = cast("str", cached_file(os.fspath(checkpoint), WEIGHTS, subfolder=subfolder, **hub))
        weights = {name.removeprefix(PREFIX): value for name, value in load_file(path).items()}
    for name, parameter in model.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
    result: Any = set_peft_model_state_dict(model, weights)
    lacking = [name for name in result.missing_keys if is_lora(name)]
    if lacking or result.unexpected_keys:
        raise ValueError(
            f"'{path}' belongs to other adapters: it lacks {sorted(lacking)[:3]} and has "
            f"{sorted(result.unexpected_keys)[:3]}."
        )


__all__ = ["add_lora", "is_lora", "load_lora", "save_lora"]
