"""The transformers pipeline `"video-grounding"`: from videos and queries to moments in seconds."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline, PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .loading_r2tuning import check_vocabulary
from .options_r2tuning import check_options
from .processing_r2tuning import FrameStream, R2TuningProcessor
from .user_inputs_r2tuning import as_text_list, as_video_list, is_file, is_row


logger = logging.get_logger(__name__)

TASK = "video-grounding"
DEFAULT_MODEL_LIMITS = (
    "This is the small model that comes with the package. It knows only Moving Shapes, generated videos of coloured "
    "shapes. For real videos pass another `model`: a folder or a name on the Hub, such as one trained with `r2tuning "
    "train`, or the folder that `r2tuning convert` makes from one of the authors' checkpoints."
)
NO_EXISTENCE_HEAD = (
    "`min_probability` has no effect: this model has no existence head, so its answers name moments whether or not anything "
    "matches the query."
)
MIN_PROBABILITY = 0.5  # default of the pipeline: a query is there if that is the likelier case

# Options of a call, by the step that they belong to.
PREPROCESS = ("fps", "max_frames", "max_pixels", "progress")
FORWARD = ("window_sec", "chunk_size", "batch_size")
POSTPROCESS = (
    "nms",
    "nms_threshold",
    "round_to",
    "max_moments",
    "score_threshold",
    "num_highlights",
    "summary_share",
    "min_probability",
)
OPTIONS = (*PREPROCESS, *FORWARD, *POSTPROCESS)


class VideoGroundingPipeline(Pipeline):
    """Find the moments of a video that a sentence describes.

    ```python
    pipe = pipeline("video-grounding", model="org/r2tuning-qvhl")  # default: a small model for generated videos
    pipe("talk.mp4", query="people laugh")
    pipe("talk.mp4", query=["people laugh", "a man opens the door"])
    pipe([{"video": "a.mp4", "query": "people laugh"}, {"video": "b.mp4", "query": "a dog barks"}])
    ```

    The answer to a query is a dict, to a list of queries a list of dicts, to several videos a list of these. A dict
    has `query`, `moments`, `saliency` with `frame_times`, `highlights` and `summary`; see
    `R2TuningProcessor.post_process_video_grounding`, whose options a call takes as well. Moments whose score was set
    to 0 by suppression are left out, unless `score_threshold=None`.

    If the model has an existence head (`config.use_existence_head`), the dict also has `probability`, that anything in the
    video matches the query, and `found`, whether it is at least `min_probability` (default 0.5). Where it is not, the
    query is "not there": `moments`, `highlights` and `summary` are empty. `min_probability=None` or 0 keeps them.

    As in other pipelines, a dataset is answered while it is read: `for answer in pipe(dataset)`. Its rows have the
    columns `video` and `query`, other columns are ignored; alternatively it is a `KeyDataset` or a column of videos,
    to all of which `query=` applies. Columns of videos must be `datasets.Video(decode=False)`, as `load_vtg_dataset`
    returns them.

    Videos are read piece by piece and encoded once, whatever the number of queries; those longer than the model's
    window are grounded in overlapping windows. `batch_size` is the number of queries answered at once and `chunk_size`
    the number of frames encoded at once; neither changes results.
    """

    model: Any  # R2TuningForVideoGrounding, whose file the pipeline does not need
    processor: R2TuningProcessor

    # The processor holds the tokenizer and the image processor, so the base class must not load them as well.
    _load_processor = True  # type: ignore[assignment]
    _load_tokenizer = _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = _load_feature_extractor = False  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        check_options(batch_size=self._batch_size, num_workers=self._num_workers)
        check_vocabulary(self.processor.tokenizer, self.model)
        if self._has_default_model():
            logger.warning_once(DEFAULT_MODEL_LIMITS)

    def _has_default_model(self) -> bool:
        """Return whether the model is the default one, which comes with the package and is registered by its import."""
        default = PIPELINE_REGISTRY.supported_tasks.get(TASK, {}).get("default")
        return default is not None and os.path.abspath(self.model.name_or_path) == default["model"][0]

    def __call__(  # type: ignore[override]
        self, videos: Any, query: str | Iterable[str] | None = None, **kwargs: Any
    ) -> Any:
        """Ground one video or many.

        Args:
            videos: A video (path, URL, bytes, file object, frames, `{"path", "bytes"}`), a dict `{"video", "query"}`,
                or a list, a dataset or an iterator of either.
            query: What to look for, a string or a list of strings, in every video without a query of its own.
            kwargs: `fps`, `max_frames`, `max_pixels`, `batch_size`, `chunk_size`, `window_sec`, `progress`, and the
                options of the post-processing.

        Returns:
            One answer for one video, a list for a list, an iterator for a dataset or an iterator.

        Raises:
            ValueError: A query is missing, an option is not allowed, or a video cannot be read.
            TypeError: An option is unknown, or a video or query is of an unknown kind.
        """
        # Here a batch is one video with several queries. The base class would put different videos into a batch, so it
        # gets the size 1, and the user's size goes to `_forward` under another name.
        batch_size = kwargs.pop("batch_size", self._batch_size)
        num_workers = kwargs.pop("num_workers", self._num_workers)
        check_options(batch_size=batch_size, num_workers=num_workers)
        query = None if query is None else _as_query(query)
        options = {"batch_size": 1, "num_workers": 0, **kwargs}
        if batch_size is not None:
            options["query_batch_size"] = batch_size
        return super().__call__(_as_items(videos, query), **options)

    def _sanitize_parameters(
        self, query_batch_size: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Check the options of a call and sort them by the step that they belong to."""
        if query_batch_size is not None:
            kwargs["batch_size"] = query_batch_size
        known = {name: value for name, value in kwargs.items() if name in OPTIONS}
        check_options(**known)
        unknown = sorted(kwargs.keys() - known.keys())
        if unknown:
            raise TypeError(
                f"Unknown options of the video-grounding pipeline: {unknown}; allowed are {sorted(OPTIONS)}."
            )
        if known.get("min_probability") and not self.model.config.use_existence_head:
            logger.warning_once(NO_EXISTENCE_HEAD)
        preprocess = {name: value for name, value in known.items() if name in PREPROCESS}
        forward = {name: value for name, value in known.items() if name in FORWARD}
        postprocess = {name: value for name, value in known.items() if name in POSTPROCESS}
        return preprocess, forward, postprocess

    def preprocess(self, item: dict[str, Any], **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Tokenize the queries and open the video."""
        text = dict(self.processor(text=item["query"]))
        video = self.processor.stream_video(item["video"], **options)
        if options.get("fps") is None and not is_file(item["video"]) and not is_row(item["video"]):
            self._check_rate(video)
        return {"video": video, "text": text, "queries": item["query"]}

    def _check_rate(self, video: FrameStream) -> None:
        """Warn if frames passed without `fps` exceed the model's window: the default rate is probably wrong."""
        longest = self.model.config.window_sec
        if longest is not None and video.duration_sec > longest:
            logger.warning(
                f"{video.num_frames} frames without `fps` are taken as {video.fps:g} a second, a video of "
                f"{video.duration_sec:.0f} seconds, which is longer than the {longest:g} that the model was trained for. "
                "Pass `fps=`, the rate at which they were sampled."
            )

    def _forward(  # type: ignore[override]
        self, inputs: dict[str, Any], batch_size: int = 32, **options: Any
    ) -> dict[str, Any]:
        video = inputs["video"]
        outputs = self.model.encode_and_ground(
            video, **inputs["text"], fps=video.fps, duration_sec=video.duration_sec, batch_size=batch_size, **options
        )
        return {"outputs": outputs, "queries": inputs["queries"]}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, Any],
        score_threshold: float | None = 0.0,
        min_probability: float | None = MIN_PROBABILITY,
        **options: Any,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Decode the predictions; the threshold 0 leaves out only suppressed moments."""
        queries = model_outputs["queries"]
        answers = self.processor.post_process_video_grounding(
            model_outputs["outputs"], score_threshold=score_threshold, min_probability=min_probability, **options
        )
        if isinstance(queries, str):
            return {"query": queries, **answers[0]}
        return [{"query": query, **answer} for query, answer in zip(queries, answers, strict=True)]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model, the processor and their code.

        The base class saves no processor, and no code of a pipeline that itself comes from a checkpoint's code.
        """
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)
        custom_object_save(self, save_directory)


def save_checkpoint(model: PreTrainedModel, processor: ProcessorMixin, save_directory: str | os.PathLike) -> None:
    """Save all that `AutoModel`, `AutoProcessor` and `pipeline` need, with the code for users without the package.

    Args:
        model: `R2TuningForVideoGrounding`.
        processor: `R2TuningProcessor`.
        save_directory: Folder to write to; created if it does not exist.
    """
    VideoGroundingPipeline(model=model, processor=processor).save_pretrained(save_directory)


class _Items(Dataset):
    """Converts the rows or videos of a dataset to items when they are read."""

    def __init__(self, videos: Any, query: str | list[str] | None):
        self.videos = videos
        self.query = query

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _as_item(self.videos[index], self.query)


def _as_items(videos: Any, query: str | list[str] | None) -> Any:
    """Convert a video to an item, a list to a list of items; datasets and iterators are converted while they are read."""
    if is_file(videos) or isinstance(videos, dict):
        return _as_item(videos, query)
    if isinstance(videos, (list, tuple, np.ndarray, torch.Tensor)):
        items = [_as_item(video, query) for video in as_video_list(videos)]
        # A list of images is one video; a list that holds one video is still a list.
        is_list = isinstance(videos, (list, tuple)) and items[0]["video"] is not videos
        return items if is_list or len(items) != 1 else items[0]
    if hasattr(videos, "__len__") and hasattr(videos, "__getitem__") and not isinstance(videos, IterableDataset):
        return _Items(videos, query)
    if hasattr(videos, "__iter__"):
        return (_as_item(video, query) for video in videos)
    return _as_item(videos, query)


def _as_item(video: Any, query: str | list[str] | None) -> dict[str, Any]:
    """Make the dict `{"video", "query"}` from a video, or from a row that may have more columns."""
    is_item = isinstance(video, dict) and not is_row(video)
    row = video if is_item else {"video": video}
    if row.get("query") is not None:
        query = _as_query(row["query"])
    if "video" not in row or (query is None and is_item):
        raise ValueError(f"A video's dict must have the keys 'video' and 'query', got {sorted(row)}.")
    if query is None:
        raise ValueError("Pass `query=`, a sentence or a list of them, or dicts with 'video' and 'query'.")
    if row["video"] is None:
        raise ValueError("A row has no video (None); pass `video_dir` to `load_vtg_dataset` to load the videos.")
    options = sorted(row.keys() & set(OPTIONS))
    if options:
        raise ValueError(f"Options are passed in the call, not in a video's dict: {options}.")
    return {"video": row["video"], "query": query}


def _as_query(query: Any) -> str | list[str]:
    """Check a query or several; a string stays a string, as its answer is a dict and not a list."""
    texts = as_text_list(query, "query")
    return query if isinstance(query, str) else texts


__all__ = ["TASK", "VideoGroundingPipeline", "save_checkpoint"]
