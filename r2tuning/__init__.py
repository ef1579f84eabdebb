"""Video temporal grounding with R2-Tuning. Importing this package registers configuration, model, processor and task."""

from modeling_r2tuning import (
    EncodedVideo,
    R2TuningConfig,
    R2TuningForVideoGrounding,
    R2TuningProcessor,
    VideoGroundingOutput,
    VideoGroundingPipeline,
    __version__,
    load_video_frames,
    save_checkpoint,
)
from modeling_r2tuning.video_io_r2tuning import cut_clip

from .released.convert import convert_original_checkpoint
from .visualization.timeline import plot_grounding


__all__ = [
    "EncodedVideo",
    "R2TuningConfig",
    "R2TuningForVideoGrounding",
    "R2TuningProcessor",
    "VideoGroundingOutput",
    "VideoGroundingPipeline",
    "__version__",
    "convert_original_checkpoint",
    "cut_clip",
    "load_video_frames",
    "plot_grounding",
    "save_checkpoint",
]
