"""The transformers pipeline `"video-grounding"`: videos and queries in, moments in seconds out."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline, PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging

from .loading_r2tuning import check_vocabulary
from .options_r2tuning import check_options
from .processing_r2tuning import FrameStream, as_text_list, as_video_list, is_file, is_row


logger = logging.get_logger(__name__)

DEFAULT_MODEL = Path(__file__).with_name("default_model")  # comes with the package, not with the code of a checkpoint
DEFAULT_MODEL_LIMITS = (
    "This is the small model that comes with the package: it knows Moving Shapes only, generated videos of coloured "
    "shapes. For real video name a model: one of the Hub, such as one trained with train/run.py, or the authors' "
    "yeliudev/R2-Tuning, which `r2tuning convert` turns into a folder that `model=` takes."
)

# Options of a call and the parameters they become.
PREPROCESS = {name: name for name in ("fps", "max_frames", "max_pixels", "progress")}
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
OPTIONS = {**PREPROCESS, **FORWARD, **POSTPROCESS}


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
    `R2TuningProcessor.post_process_video_grounding`, whose options may be given in the call too. Moments that
    suppression set to the score 0 are left out, unless `score_threshold=None`.

    A dataset is answered while it is read, as by other pipelines: `for answer in pipe(dataset)`. Its rows have the
    columns `video` and `query`, others are ignored; or it is a `KeyDataset` or column of videos, all asked `query=`.
    Columns of videos must be `datasets.Video(decode=False)`, as `load_vtg_dataset` gives them.

    Videos are read piece by piece and encoded once, whatever the number of queries; those longer than the model's
    window are grounded in overlapping windows. `batch_size` counts queries answered at once and `chunk_size` frames
    encoded at once; neither changes results.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_options(batch_size=self._batch_size, num_workers=self._num_workers)
        check_vocabulary(self.processor.tokenizer, self.model)
        if os.path.abspath(self.model.name_or_path) == str(DEFAULT_MODEL.absolute()):
            logger.warning_once(DEFAULT_MODEL_LIMITS)

    def __call__(self, videos: Any, query: str | Iterable[str] | None = None, **kwargs) -> Any:
        """Ground one video or many.

        Args:
            videos: A video (path, URL, bytes, file object, frames, `{"path", "bytes"}`), a dict `{"video", "query"}`,
                a list, a dataset or an iterator of either.
            query: What to look for, a string or a list of strings; applies to every video that brings none.
            kwargs: `fps`, `max_frames`, `max_pixels`, `batch_size`, `chunk_size`, `window_sec`, `progress`, and the options of
                post-processing.

        Returns:
            One answer for one video, a list for a list, an iterator for a dataset or an iterator.

        Raises:
            ValueError: No query, an option that is not allowed, or what reading a video or post-processing refuses.
            TypeError: An unknown option, or a video or query of an unknown kind.
        """
        # A batch is one video with its queries: what the base class calls a batch would join different videos.
        batch_size = kwargs.pop("batch_size", self._batch_size)
        num_workers = kwargs.pop("num_workers", self._num_workers)
        check_options(batch_size=batch_size, num_workers=num_workers)
        query = None if query is None else _as_query(query)
        options = {"batch_size": 1, "num_workers": 0, **kwargs}
        if batch_size is not None:
            options["query_batch_size"] = batch_size
        return super().__call__(_as_items(videos, query), **options)

    def _sanitize_parameters(self, **kwargs):
        check_options(**{OPTIONS[name]: value for name, value in kwargs.items() if name in OPTIONS})
        sorted_out = []
        for names in (PREPROCESS, FORWARD, POSTPROCESS):
            sorted_out.append({names[name]: kwargs.pop(name) for name in list(kwargs) if name in names})
        if kwargs:
            allowed = sorted({"batch_size", *OPTIONS} - {"query_batch_size"})
            raise TypeError(
                f"Unknown options of the video-grounding pipeline: {sorted(kwargs)}; allowed are {allowed}."
            )
        return sorted_out

    def preprocess(self, item: dict[str, Any], **options) -> dict[str, Any]:
        """Tokenize the queries and open the video."""
        text = dict(self.processor(text=item["query"]))
        video = self.processor.stream_video(item["video"], **options)
        if options.get("fps") is None and not is_file(item["video"]) and not is_row(item["video"]):
            self._check_rate(video)
        return {"video": video, "text": text, "queries": item["query"]}

    def _check_rate(self, video: FrameStream) -> None:
        """Warn of frames without `fps` that make a longer video than the model looks at in one pass."""
        longest = self.model.config.window_sec
        if longest is not None and video.duration_sec > longest:
            logger.warning(
                f"{video.num_frames} frames without `fps` are taken as {video.fps:g} a second, a video of "
                f"{video.duration_sec:.0f} seconds, longer than the {longest:g} that the model was made for. Pass `fps=`, "
                "the rate at which they were sampled."
            )

    def _forward(self, inputs: dict[str, Any], batch_size: int = 32, **options) -> dict[str, Any]:
        video = inputs["video"]
        encoded = self.model.encode_video(video, fps=video.fps, duration_sec=video.duration_sec, **options)
        outputs = self.model.ground(encoded, **inputs["text"], batch_size=batch_size)
        return {"outputs": outputs, "queries": inputs["queries"]}

    def postprocess(
        self, model_outputs: dict[str, Any], score_threshold: float | None = 0.0, **post
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Decode the predictions; with the least threshold suppressed moments alone are left out."""
        queries = model_outputs["queries"]
        answers = self.processor.post_process_video_grounding(
            model_outputs["outputs"], score_threshold=score_threshold, **post
        )
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


class _Items(Dataset):
    """The items of a dataset of rows or videos."""

    def __init__(self, videos: Any, query: Any):
        self.videos = videos
        self.query = query

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _as_item(self.videos[index], self.query)


def _as_items(videos: Any, query: str | list[str] | None) -> Any:
    """One item of one video, a list of a list; those of a dataset or an iterator are made as it is read."""
    if is_file(videos) or isinstance(videos, dict):
        return _as_item(videos, query)
    if isinstance(videos, (list, tuple, np.ndarray, torch.Tensor)):
        items = [_as_item(video, query) for video in as_video_list(videos)]
        one = len(items) == 1 and not (isinstance(videos, (list, tuple)) and items[0]["video"] is not videos)
        return items[0] if one else items
    if hasattr(videos, "__len__") and hasattr(videos, "__getitem__") and not isinstance(videos, IterableDataset):
        return _Items(videos, query)
    if hasattr(videos, "__iter__"):
        return (_as_item(video, query) for video in videos)
    return _as_item(videos, query)


def _as_item(video: Any, query: str | list[str] | None) -> dict[str, Any]:
    """The dict `{"video", "query"}` of a video or of a row that may have more columns."""
    row = video if isinstance(video, dict) and not is_row(video) else {"video": video}
    query = query if row.get("query") is None else _as_query(row["query"])
    if "video" not in row or (query is None and row is video):
        raise ValueError(f"A video's dict must have the keys 'video' and 'query', got {sorted(row)}.")
    if query is None:
        raise ValueError("Pass `query=`, a sentence or a list of them, or dicts with 'video' and 'query'.")
    if row["video"] is None:
        raise ValueError("A row has no video (None); `load_vtg_dataset` gives videos if it is told `video_dir`.")
    options = sorted(row.keys() & OPTIONS.keys())
    if options:
        raise ValueError(f"Options are passed in the call, not in a video's dict: {options}.")
    return {"video": row["video"], "query": query}


def _as_query(query: Any) -> str | list[str]:
    texts = as_text_list(query, "query")
    return query if isinstance(query, str) else texts


__all__ = ["DEFAULT_MODEL", "VideoGroundingPipeline", "save_checkpoint"]
