"""What the page says about its model and its library."""

import logging
import os
from pathlib import Path

from transformers.utils import cached_file

from modeling_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from r2tuning.checkpoint_files import RESULTS
from r2tuning.hub.model_card import Results
from r2tuning_cli.defaults import PACKAGED


logger = logging.getLogger(__name__)


def model_title(name: str) -> str:
    """Name of a checkpoint, without the folders of this machine; one that was never saved has none."""
    if not name:
        return "without a name"
    if os.path.abspath(name) == str(DEFAULT_MODEL):
        return PACKAGED
    return Path(name).name if os.path.isdir(name) else name


def is_packaged(pipe: VideoGroundingPipeline) -> bool:
    """Whether a model is the one that comes with the package."""
    return model_title(pipe.model.name_or_path) == PACKAGED


def describe_model(pipe: VideoGroundingPipeline) -> str:
    """Markdown that says which model answers and what it knows."""
    if is_packaged(pipe):
        return (
            "Answers come from the **small model that comes with the package**. It knows only generated videos of moving "
            "coloured shapes, such as the example; for real videos start the app with another `--model`."
        )
    text = f"Answers come from the model **{model_title(pipe.model.name_or_path)}**"
    results = _find_results(pipe.model.name_or_path)
    if results is None:
        return f"{text}; its checkpoint does not say what it was trained on."
    description = results.facts.get("description")
    return f"{text}, trained on **{results.title}**. {description or ''}".strip()


def _find_results(name: str) -> Results | None:
    """Results of a checkpoint on this machine or on the Hub."""
    if not name:
        return None
    found = cached_file(
        name,
        RESULTS,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    try:
        return None if found is None else Results.load(Path(found).parent)
    except ValueError as error:
        logger.warning("the page does not say what the model was trained on: %s", error)
        return None


__all__ = ["describe_model", "is_packaged", "model_title"]
