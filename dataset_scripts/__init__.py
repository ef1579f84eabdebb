"""Annotations of public benchmarks of video temporal grounding, and of a generated one, in one schema.

    from dataset_scripts import load_vtg_dataset
    dataset = load_vtg_dataset("qvhighlights", split="val", data_dir="qvhighlights/")

`features.py` describes the schema, `benchmarks.py` the settings of each benchmark; each has a builder of its own. The
public names are imported on first use, as `datasets` takes a second to import.
"""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .features import FEATURES
    from .loading import load_vtg_dataset
    from .reading import AnnotationError

__all__ = ["FEATURES", "AnnotationError", "load_vtg_dataset"]

MODULES = {"FEATURES": "features", "AnnotationError": "reading", "load_vtg_dataset": "loading"}


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
