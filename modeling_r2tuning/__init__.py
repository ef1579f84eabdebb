"""R2-Tuning for video temporal grounding, as transformers classes. Importing this package registers them."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_r2tuning import R2TuningConfig
from .encoding_r2tuning import EncodedVideo
from .heads_r2tuning import VideoGroundingOutput
from .modeling_r2tuning import R2TuningForVideoGrounding
from .pipeline_r2tuning import DEFAULT_MODEL, VideoGroundingPipeline, save_checkpoint
from .processing_r2tuning import R2TuningProcessor
from .video_io_r2tuning import load_video_frames


__version__ = "0.1.0.dev0"

AutoConfig.register("r2tuning", R2TuningConfig)
AutoModel.register(R2TuningConfig, R2TuningForVideoGrounding)
AutoProcessor.register(R2TuningConfig, R2TuningProcessor)
R2TuningConfig.register_for_auto_class()
R2TuningForVideoGrounding.register_for_auto_class("AutoModel")
R2TuningProcessor.register_for_auto_class()
TASK = "video-grounding"
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=VideoGroundingPipeline, pt_model=AutoModel, type="multimodal")
# Behind the copy, of which every checkpoint that is saved keeps a record: the path is this machine's.
VideoGroundingPipeline._registered_impl = {TASK: PIPELINE_REGISTRY.supported_tasks[TASK].copy()}
PIPELINE_REGISTRY.supported_tasks[TASK]["default"] = {"model": (str(DEFAULT_MODEL), "main")}

__all__ = [
    "DEFAULT_MODEL",
    "EncodedVideo",
    "R2TuningConfig",
    "R2TuningForVideoGrounding",
    "R2TuningProcessor",
    "VideoGroundingOutput",
    "VideoGroundingPipeline",
    "load_video_frames",
    "save_checkpoint",
]
