"""What half precision is good for on the processor at hand."""

import torch


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; torch's way around takes some 30 times float32's time for a matrix product."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # torch 2.13 has no public question that ARM answers, too


__all__ = ["cpu_has_bfloat16"]
