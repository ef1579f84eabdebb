"""Constants that help texts quote and the library uses."""

DEFAULT_BACKBONE = "openai/clip-vit-base-patch32"  # the frozen encoders of all published checkpoints
DEFAULT_NUM_LAYERS = 4  # K of the paper
# Endings of files that `--export` writes, and those of formats that describe a single video.
EXPORT_ENDINGS = (".csv", ".srt", ".vtt", ".chapters.txt", ".llc", ".otio", ".edl", ".fcpxml", ".xml")
ONE_VIDEO_ENDINGS = (".srt", ".vtt", ".chapters.txt", ".llc")
MAX_MOMENTS = 50  # in the JSON file of `r2tuning ground`
PACKAGED = "packaged"  # name of the model that comes with the package, where a checkpoint is asked for
SUBMISSION_SPLITS = ("val", "test")  # of QVHighlights, to be scored by its server


__all__ = [
    "DEFAULT_BACKBONE",
    "DEFAULT_NUM_LAYERS",
    "EXPORT_ENDINGS",
    "MAX_MOMENTS",
    "ONE_VIDEO_ENDINGS",
    "PACKAGED",
    "SUBMISSION_SPLITS",
]
