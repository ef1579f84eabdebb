"""Constants that help texts quote and the library uses, and the formats of exports."""

import os
from pathlib import Path


DEFAULT_BACKBONE = "openai/clip-vit-base-patch32"  # the frozen encoders of all published checkpoints
DEFAULT_NUM_LAYERS = 4  # K of the paper
# Endings of files that `--export` writes, and those of formats that describe a single video.
EXPORT_ENDINGS = (".csv", ".srt", ".vtt", ".chapters.txt", ".llc", ".otio", ".edl", ".fcpxml", ".xml")
ONE_VIDEO_ENDINGS = (".srt", ".vtt", ".chapters.txt", ".llc")
MAX_MOMENTS = 50  # in the JSON file of `r2tuning ground`
PACKAGED = "packaged"  # name of the model that comes with the package, where a checkpoint is asked for
SUBMISSION_SPLITS = ("val", "test")  # of QVHighlights, to be scored by its server


def export_ending(path: str | os.PathLike) -> str:
    """The ending of a file's name that sets the format of an export, one of `EXPORT_ENDINGS`.

    Raises:
        ValueError: There is no such format.
    """
    name = Path(path).name.lower()
    for ending in EXPORT_ENDINGS:
        if name.endswith(ending) and name != ending:
            return ending
    raise ValueError(f"`export` must end in {', '.join(EXPORT_ENDINGS)}, got '{path}'.")


__all__ = [
    "DEFAULT_BACKBONE",
    "DEFAULT_NUM_LAYERS",
    "EXPORT_ENDINGS",
    "MAX_MOMENTS",
    "ONE_VIDEO_ENDINGS",
    "PACKAGED",
    "SUBMISSION_SPLITS",
    "export_ending",
]
