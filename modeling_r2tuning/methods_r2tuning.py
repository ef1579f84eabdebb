"""The modules of the transfer methods, and which parameters a method trains.

R2-Tuning itself is the R2 block, LoRA is the work of peft, and neither full tuning nor the lack of any tuning adds a
module; see `method_specs_r2tuning.py` for the properties of all methods.
"""

from .configuration_r2tuning import R2TuningConfig
from .method_base_r2tuning import TransferMethod
from .method_e3va_r2tuning import AdapterHighway
from .method_lora_r2tuning import is_lora
from .method_losa_r2tuning import LowRankSideNetwork
from .method_lst_r2tuning import LadderSideNetworks
from .method_specs_r2tuning import Method, MethodSpec
from .method_st_adapter_r2tuning import SpatioTemporalAdapters
from .method_vop_r2tuning import CooperativePrompts
from .method_vpt_r2tuning import VisualPrompts
from .towers_r2tuning import ENCODERS


MODULES: dict[Method, type[TransferMethod]] = {
    "vpt": VisualPrompts,
    "vop": CooperativePrompts,
    "st_adapter": SpatioTemporalAdapters,
    "e3va": AdapterHighway,
    "losa": LowRankSideNetwork,
    "lst": LadderSideNetworks,
}


def make_method(config: R2TuningConfig) -> TransferMethod:
    """The module of `config.method`; one that changes nothing for methods that need none."""
    if config.method in MODULES:
        return MODULES[config.method](config)
    return TransferMethod()


def is_adapter(name: str, spec: MethodSpec) -> bool:
    """Whether a parameter belongs to adapters of peft, which are saved in files of their own."""
    return spec.uses_peft and is_lora(name)


def is_learned(name: str, config: R2TuningConfig) -> bool:
    """Whether `config.method` trains the parameter of this name."""
    if config.method_spec.trains_encoders:
        return not name.startswith(config.tower_spec.unused)
    return not name.startswith(ENCODERS) or is_adapter(name, config.method_spec)


__all__ = ["is_adapter", "is_learned", "make_method"]
