"""The files that let an Inference Endpoint serve a checkpoint; they go with every checkpoint that is pushed."""

from pathlib import Path
from typing import Any

from modeling_r2tuning.loading_r2tuning import SENTENCEPIECE
from r2tuning.checkpoint_files import HANDLER, REQUIREMENTS
from r2tuning.hub.card_text import CARDS


TEMPLATES = CARDS / "endpoint"
# What only some checkpoints need, with the lower bounds of the package's optional dependencies.
LORA_REQUIREMENTS = ("peft>=0.21",)
SENTENCEPIECE_REQUIREMENTS = ("protobuf>=4.25", "sentencepiece>=0.2")


def endpoint_files(folder: Path, config: dict[str, Any]) -> dict[str, bytes]:
    """Make the handler and the list of its requirements.

    Args:
        folder: The checkpoint.
        config: Content of its `config.json`.

    Returns:
        Content of each file, by name.
    """
    requirements = (TEMPLATES / REQUIREMENTS).read_text(encoding="utf-8").split()
    if config.get("method") == "lora":
        requirements += LORA_REQUIREMENTS
    if (folder / SENTENCEPIECE).exists():
        requirements += SENTENCEPIECE_REQUIREMENTS
    return {
        HANDLER: (TEMPLATES / HANDLER).read_bytes(),
        REQUIREMENTS: "".join(f"{line}\n" for line in requirements).encode(),
    }


__all__ = ["endpoint_files"]
