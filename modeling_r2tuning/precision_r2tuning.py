"""Precision: what the CPU computes natively, and autocast on devices of any kind."""

from contextlib import AbstractContextManager, nullcontext

import torch


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; torch's emulation makes a matrix product some 30 times as slow as float32."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # torch 2.13 has no public API that covers ARM


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Autocast's precision, if it is on for this kind of device; kinds such as "meta" have no autocast."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def without_autocast(device_type: str) -> AbstractContextManager:
    """Context in which autocast is off for this kind of device."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


__all__ = ["autocast_dtype", "cpu_has_bfloat16", "without_autocast"]
