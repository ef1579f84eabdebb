"""Whether the CPU computes in bfloat16 natively."""

import torch


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; torch's emulation makes a matrix product some 30 times as slow as float32."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # torch 2.13 has no public API that covers ARM


__all__ = ["cpu_has_bfloat16"]
