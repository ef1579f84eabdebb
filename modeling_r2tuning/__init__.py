"""R2-Tuning for video temporal grounding, as transformers classes.

Importing this package registers them, so that `AutoModel`, `AutoProcessor` and `pipeline` know them.
"""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_r2tuning import R2TuningConfig
from .encoding_r2tuning import EncodedText, EncodedVideo
from .heads_r2tuning import VideoGroundingOutput
from .modeling_r2tuning import R2TuningForVideoGrounding
from .pipeline_r2tuning import TASK, VideoGroundingPipeline, save_checkpoint
from .processing_r2tuning import R2TuningProcessor
from .video_io_r2tuning import load_video_frames


__version__ = "0.1.0.dev0"

# The checkpoint that comes with the package. It is not among the files that are saved with other checkpoints.
DEFAULT_MODEL = Path(__file__).absolute().with_name("default_model")

AutoConfig.register("r2tuning", R2TuningConfig)
AutoModel.register(R2TuningConfig, R2TuningForVideoGrounding)
AutoProcessor.register(R2TuningConfig, R2TuningProcessor)
R2TuningConfig.register_for_auto_class()
R2TuningForVideoGrounding.register_for_auto_class("AutoModel")
R2TuningProcessor.register_for_auto_class()
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=VideoGroundingPipeline, pt_model=AutoModel, type="multimodal")
# `_registered_impl` is written into every checkpoint that is saved. It gets a copy, so that the default model, a path
# of this machine, is only known to the registry.
VideoGroundingPipeline._registered_impl = {  # type: ignore[attr-defined]
    TASK: PIPELINE_REGISTRY.supported_tasks[TASK].copy()
}
PIPELINE_REGISTRY.supported_tasks[TASK]["default"] = {"model": (str(DEFAULT_MODEL), "main")}

__all__ = [
    "DEFAULT_MODEL",
    "EncodedText",
    "EncodedVideo",
    "R2TuningConfig",
    "R2TuningForVideoGrounding",
    "R2TuningProcessor",
    "VideoGroundingOutput",
    "VideoGroundingPipeline",
    "load_video_frames",
    "save_checkpoint",
]
