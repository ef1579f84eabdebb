"""The frozen encoders in int8, for inference on a CPU.

torchao computes the product of a linear layer, W x + b, in whole numbers from -128 to 127. With s_i the largest magnitude in
row i of W, and t that of the token x, each divided by 127.5,

    y_i = s_i t (round(W_i / s_i) . round(x / t)) + b_i

A token has a scale of its own, so its result does not depend on the others of its batch, but for the last bits of the
float32 parts, which may turn a value to be rounded up into one to be rounded down. Convolutions, norms and the products of
attention stay in float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def is_int8(dtype: Any) -> bool:
    """Whether a `dtype` of `from_pretrained` is int8."""
    return isinstance(dtype, str | torch.dtype) and dtype in ("int8", torch.int8)


def replace_int8(arguments: dict[str, Any]) -> bool:
    """Replace int8 by float32 in arguments of `from_pretrained`, as encoders are converted after loading.

    Returns:
        Whether int8 was asked for.
    """
    found = False
    for name in ("dtype", "torch_dtype"):
        if is_int8(arguments.get(name)):
            arguments[name] = torch.float32
            found = True
    return found


def check_int8(device: torch.device) -> None:
    """Refuse int8 where it is not available.

    Args:
        device: Where the encoders are.

    Raises:
        ImportError: torchao is not installed.
        ValueError: The device is not a CPU.
    """
    if device.type != "cpu":
        raise ValueError(f"`dtype` int8 needs `device` cpu, got {device}. On a GPU, use bfloat16 or float16.")
    _import_torchao()


def quantize_linears(encoder: nn.Module) -> None:
    """Convert the weights of an encoder's linear layers to int8, in place."""
    torchao = _import_torchao()
    # A CPU without VNNI adds products of 8 bits in 16, which would overflow at the full range.
    reduce_range = torchao.utils.should_reduce_range(torch.device("cpu"))
    config = torchao.quantization.Int8DynamicActivationInt8WeightConfig(
        set_inductor_config=False, reduce_range=reduce_range
    )
    # A subclass may read its weight by other means, as the attention of SigLIP's head does.
    torchao.quantization.quantize_(encoder, config, filter_fn=lambda module, name: type(module) is nn.Linear)
    for module in encoder.modules():
        module.__dict__.pop("extra_repr", None)  # torchao's own description of a layer, which cannot be pickled


def check_unmoved(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Refuse to move int8 weights to another device or precision.

    Args:
        function: What is to be applied to each weight, as in `nn.Module._apply`.

    Raises:
        ValueError: The function changes device or precision.
    """
    moved = function(torch.zeros(1))
    if moved.device.type != "cpu" or moved.dtype != torch.float32:
        raise ValueError(
            f"The model's encoders are in int8, which is for the CPU alone: they cannot be converted to {moved.dtype} on "
            f"{moved.device.type}. Load the model again, with another `dtype`."
        )


def _import_torchao() -> Any:
    """Import torchao.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import torchao
        import torchao.quantization
        import torchao.utils
    except ImportError as error:
        raise ImportError('`dtype` int8 needs torchao: `pip install "r2tuning[int8]"`, or `torchao>=0.18`.') from error
    return torchao


__all__ = ["check_int8", "check_unmoved", "is_int8", "quantize_linears", "replace_int8"]
