"""The transformers pipeline `"video-grounding"`: videos and queries in, moments in seconds out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import Pipeline, PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging

from .processing_r2tuning import as_video_list


logger = logging.get_logger(__name__)

DEFAULT_MODEL = Path(__file__).with_name("default_model")  # comes with the package, not with the code of a checkpoint
DEFAULT_MODEL_LIMITS = (
    "This is the small model that comes with the package: it knows Moving Shapes only, generated videos of coloured "
    "shapes. For real video name a model: one of the Hub, such as one trained with train/run.py, or the authors' "
    "yeliudev/R2-Tuning, which `r2tuning convert` turns into a folder that `model=` takes."
)

# Options of a call and the parameters they become.
PREPROCESS = {"fps": "fps", "max_frames": "max_frames", "progress": "progress"}
FORWARD = {"window_sec": "window_sec", "chunk_size": "chunk_size", "query_batch_size": "batch_size"}
POSTPROCESS = {
    name: name
    for name in (
        "nms",
        "nms_threshold",
        "round_to",
        "max_moments",
        "score_threshold",
        "num_highlights",
        "summary_share",
    )
}


class VideoGroundingPipeline(Pipeline):
    """Find the moments of a video that a sentence describes.

    ```python
    pipe = pipeline("video-grounding", model="org/r2tuning-qvhl")  # without a model: one that knows Moving Shapes only
    pipe("talk.mp4", query="people laugh")
    pipe("talk.mp4", query=["people laugh", "a man opens the door"])
    pipe([{"video": "a.mp4", "query": "people laugh"}, {"video": "b.mp4", "query": "a dog barks"}])
    ```

    A query given as a string is answered by one dict, a list of queries by a list of dicts, several videos by a list
    of these. A dict has `query`, `moments`, `saliency` with `frame_times`, `highlights` and `summary`, see
    `R2TuningProcessor.post_process_video_grounding`, whose options may be given in the call too.

    Videos are read piece by piece and encoded once, whatever the number of queries; those longer than the model's
    window are grounded in overlapping windows. `batch_size` counts queries answered at once and `chunk_size` frames
    encoded at once; neither changes results.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if os.path.abspath(self.model.name_or_path) == str(DEFAULT_MODEL.absolute()):
            logger.warning_once(DEFAULT_MODEL_LIMITS)

    def __call__(self, videos: Any, query: str | list[str] | None = None, **kwargs) -> Any:
        """Ground one video or many.

        Args:
            videos: A video (path, URL, bytes, file object, frames), a dict `{"video", "query"}`, a list or an iterator
                of either.
            query: What to look for, a string or a list of strings; applies to every video that brings none.
            kwargs: `fps`, `max_frames`, `batch_size`, `chunk_size`, `window_sec`, `progress`, and the options of
                post-processing.

        Returns:
            One answer for one video, a list for a list, an iterator for an iterator.
        """
        # A batch is one video with its queries: what the base class calls a batch would join different videos.
        batch_size = kwargs.pop("batch_size", self._batch_size)
        options = {"batch_size": 1, "num_workers": 0, **kwargs}
        if batch_size is not None:
            options["query_batch_size"] = batch_size
        if isinstance(videos, dict):
            return super().__call__(_as_item(videos, query), **options)
        if isinstance(videos, Iterator) and not hasattr(videos, "read"):
            return super().__call__((_as_item(video, query) for video in videos), **options)
        items = [_as_item(video, query) for video in as_video_list(videos)]
        one = len(items) == 1 and not (isinstance(videos, list) and items[0]["video"] is not videos)
        return super().__call__(items[0] if one else items, **options)

    def _sanitize_parameters(self, **kwargs):
        sorted_out = []
        for names in (PREPROCESS, FORWARD, POSTPROCESS):
            sorted_out.append({names[name]: kwargs.pop(name) for name in list(kwargs) if name in names})
        if kwargs:
            allowed = sorted({"batch_size", *PREPROCESS, *FORWARD, *POSTPROCESS} - {"query_batch_size"})
            raise TypeError(
                f"Unknown options of the video-grounding pipeline: {sorted(kwargs)}; allowed are {allowed}."
            )
        return sorted_out

    def preprocess(self, item: dict[str, Any], **options) -> dict[str, Any]:
        """Tokenize the queries and open the video."""
        text = dict(self.processor(text=item["query"]))
        video = self.processor.stream_video(item["video"], **options)
        return {"video": video, "text": text, "queries": item["query"]}

    def _forward(self, inputs: dict[str, Any], batch_size: int = 32, **options) -> dict[str, Any]:
        video = inputs["video"]
        encoded = self.model.encode_video(video, fps=video.fps, duration_sec=video.duration_sec, **options)
        outputs = self.model.ground(encoded, **inputs["text"], batch_size=batch_size)
        return {"outputs": outputs, "queries": inputs["queries"]}

    def postprocess(self, model_outputs: dict[str, Any], **post) -> dict[str, Any] | list[dict[str, Any]]:
        """Decode the predictions."""
        queries = model_outputs["queries"]
        answers = self.processor.post_process_video_grounding(model_outputs["outputs"], **post)
        if isinstance(queries, str):
            return {"query": queries, **answers[0]}
        return [{"query": query, **answer} for query, answer in zip(queries, answers, strict=True)]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Save model, processor and code; the base class leaves the processor out, and its own code if it is a copy."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)
        custom_object_save(self, save_directory)


def save_checkpoint(model: PreTrainedModel, processor: ProcessorMixin, save_directory: str | os.PathLike):
    """Save all that `AutoModel`, `AutoProcessor` and `pipeline` need, code included for those without the package.

    Args:
        model: `R2TuningForVideoGrounding`.
        processor: `R2TuningProcessor`.
        save_directory: Folder to write to; made if it does not exist.
    """
    VideoGroundingPipeline(model=model, processor=processor).save_pretrained(save_directory)


def _as_item(video: Any, query: str | list[str] | None) -> dict[str, Any]:
    """The dict `{"video", "query"}` of one video."""
    item = {"query": query, **video} if isinstance(video, dict) else {"video": video, "query": query}
    if set(item) != {"video", "query"}:
        raise ValueError(f"A video's dict must have the keys 'video' and 'query', got {sorted(video)}.")
    if item["query"] is None:
        raise ValueError("Pass `query=`, a sentence or a list of them, or dicts with 'video' and 'query'.")
    return item


__all__ = ["DEFAULT_MODEL", "VideoGroundingPipeline", "save_checkpoint"]
