"""The transfer methods of the paper's Table 9 by their names.

Some work in CLIP: `run_vision_layer` and `run_text_layer` take the place of `run_layer`, gradients pass through the
encoders. Others work beside it: `refine_video` and `refine_text` make one state of those that were read, so nothing of
CLIP is kept for backward.
LoRA is peft's work, and neither full tuning nor the lack of any tuning adds a module.
"""

from torch import nn

from .configuration_r2tuning import R2TuningConfig
from .method_e3va_r2tuning import AdapterHighway
from .method_losa_r2tuning import LowRankSideNetwork
from .method_lst_r2tuning import LadderSideNetworks
from .method_st_adapter_r2tuning import SpatioTemporalAdapters
from .method_vop_r2tuning import CooperativePrompts
from .method_vpt_r2tuning import VisualPrompts


MODULES = {
    "vpt": VisualPrompts,
    "vop": CooperativePrompts,
    "st_adapter": SpatioTemporalAdapters,
    "e3va": AdapterHighway,
    "losa": LowRankSideNetwork,
    "lst": LadderSideNetworks,
}


def make_method(config: R2TuningConfig) -> nn.Module | None:
    """The module of `config.method`; `None` = the method has none."""
    return MODULES[config.method](config) if config.method in MODULES else None


__all__ = ["make_method"]
