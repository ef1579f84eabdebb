"""Video temporal grounding with R2-Tuning: find the moments of a video that a sentence describes.

Importing this package registers the model with transformers, so that `AutoModel`, `AutoProcessor` and
`pipeline("video-grounding")` load it without `trust_remote_code`:

    import r2tuning
    from transformers import pipeline

    grounder = pipeline("video-grounding")
    answer = grounder("video.mp4", query="the red circle is at the left")

The public names:

- Model: `R2TuningForVideoGrounding`, its configuration `R2TuningConfig`, its output `VideoGroundingOutput`, and
  `EncodedVideo` and `EncodedText`, a video or queries encoded once
- Pre- and post-processing: `R2TuningProcessor`, `VideoGroundingPipeline`
- Videos: `load_video_frames` samples frames, `cut_clip` cuts out a moment
- Checkpoints: `save_checkpoint` writes one, `convert_original_checkpoint` converts one of the authors'
- Figures: `plot_grounding` draws answers on the time axis of the video

The rest of the package is imported by its full name: `r2tuning.training`, `r2tuning.evaluation`, `r2tuning.features`
(extraction and cache), `r2tuning.hub` (publishing), `r2tuning.released` (the authors' checkpoints), `r2tuning.editors`
(exports), `r2tuning.visualization` and `r2tuning.commands` (the command line).
"""

import logging


# transformers imports torchao where it is installed, which then warns about its kernels for GPUs.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

from modeling_r2tuning import (  # noqa: E402 (after the line above)
    EncodedText,
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
from modeling_r2tuning.video_io_r2tuning import cut_clip  # noqa: E402
from r2tuning.released.convert import convert_original_checkpoint  # noqa: E402
from r2tuning.visualization.timeline import plot_grounding  # noqa: E402


__all__ = [
    "EncodedText",
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
