"""Constants that help texts quote and the library uses."""

DEFAULT_BACKBONE = "openai/clip-vit-base-patch32"  # the frozen encoders of all published checkpoints
DEFAULT_NUM_LAYERS = 4  # K of the paper
MAX_MOMENTS = 50  # in the JSON file of `r2tuning ground`
PACKAGED = "packaged"  # name of the model that comes with the package, where a checkpoint is asked for
SUBMISSION_SPLITS = ("val", "test")  # of QVHighlights, to be scored by its server


__all__ = ["DEFAULT_BACKBONE", "DEFAULT_NUM_LAYERS", "MAX_MOMENTS", "PACKAGED", "SUBMISSION_SPLITS"]
