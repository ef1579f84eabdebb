"""Processor of R2-Tuning: videos and texts to tensors, predictions to moments, highlights and a summary."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import logging

from .decoding_r2tuning import (
    DecodedVideos,
    decode_outputs,
    refine_moments,
    select_highlights,
    select_summary,
    sort_by_score,
)
from .video_io_r2tuning import MAX_FRAMES, iter_video_frames


logger = logging.get_logger(__name__)

NMS_METHODS = ("hard", "linear", "gaussian", None)
MAX_TEXT_LENGTH = 77  # of CLIP, where a tokenizer does not know it


@dataclass
class FrameStream:
    """Normalised pixels of one video, piece by piece, so that a long one never lies in memory.

    Attributes:
        pieces: `(n, 3, height, width)` each.
        num_frames: Frames to come.
        fps: Frames per second.
        duration_sec: Length of the video in seconds.
    """

    pieces: Iterator[torch.Tensor]
    num_frames: int
    fps: float
    duration_sec: float

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.pieces)


class R2TuningProcessor(ProcessorMixin):
    """CLIP's image processor and tokenizer, the frame rate, and how predictions are post-processed.

    Args:
        image_processor (`CLIPImageProcessor`): Resize, crop and normalisation.
        tokenizer (`CLIPTokenizer`): Tokenizer of the same CLIP.
        fps (`float`, defaults to 0.5): Frames per second that videos are sampled at.
        nms (`"hard"`, `"linear"`, `"gaussian"` or `None`, defaults to `"hard"`): Default of the post-processing.
        nms_threshold (`float`, defaults to 0.7): Default overlap from which hard suppression acts.
        round_to (`float`, *optional*): Default unit in seconds that moments are rounded to.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        fps: float = 0.5,
        nms: str | None = "hard",
        nms_threshold: float = 0.7,
        round_to: float | None = None,
        **kwargs,
    ):
        self.fps = fps
        self.nms = nms
        self.nms_threshold = nms_threshold
        self.round_to = round_to
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Read `processor_config.json`, without which the base class would take defaults in silence."""
        settings, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if not settings:
            raise OSError(f"'{pretrained_model_name_or_path}' has no processor_config.json: it holds no processor.")
        return settings, kwargs

    def __call__(
        self,
        videos: Any = None,
        text: str | list[str] | None = None,
        *,
        fps: float | None = None,
        max_frames: int = MAX_FRAMES,
        progress: Callable[[int, int], None] | None = None,
    ) -> BatchFeature:
        """Make the model's inputs.

        Args:
            videos: One video or a list: a path, URL, bytes or binary file object; or frames already sampled at `fps`,
                `(num_frames, height, width, 3)` or `(num_frames, 3, height, width)`, as a NumPy array, tensor or list
                of pictures, uint8 or floating point in [0, 1].
            text: One query or a list: as many as videos, or any number about one video.
            fps: Frames per second; default the processor's.
            max_frames: Largest number of frames of a video file, which may claim to last for years.
            progress: Called with the number of frames read and to read of each video.

        Returns:
            `BatchFeature` with `pixel_values_videos (batch, num_frames, 3, height, width)`, `frame_mask`, `fps` and
            `duration_sec` for videos, `input_ids (batch, text_length)` and `attention_mask` for texts.

        Raises:
            ValueError: Nothing given, unequal lists, an empty query, no frames, wrong shapes, or pixels that are not
                finite.
            TypeError: A video or query of an unknown kind.
        """
        if videos is None and text is None:
            raise ValueError("Pass `videos`, `text` or both, got neither.")
        data = {}
        if videos is not None:
            videos = as_video_list(videos)
            streams = [self.stream_video(video, fps=fps, max_frames=max_frames, progress=progress) for video in videos]
            data.update(_pad_videos(streams))
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if videos is not None and len(videos) not in (1, len(texts)):
                raise ValueError(
                    f"`text` must hold one query for each video, or any number for one video, got {len(texts)} for "
                    f"{len(videos)} videos."
                )
            data.update(self._tokenize(texts))
        return BatchFeature(data)

    def stream_video(
        self,
        video: Any,
        *,
        fps: float | None = None,
        max_frames: int = MAX_FRAMES,
        chunk_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ) -> FrameStream:
        """Read one video piece by piece; arguments as for `__call__`, `chunk_size` in frames."""
        fps = self.fps if fps is None else fps
        if not isinstance(fps, (int, float)) or not 0 < fps < float("inf"):
            raise ValueError(f"`fps` must be a positive number, got {fps!r}.")
        if isinstance(video, (str, bytes, os.PathLike)) or hasattr(video, "read"):
            size = self.image_processor.size["shortest_edge"]
            source = iter_video_frames(
                video, fps, size=size, max_frames=max_frames, chunk_size=chunk_size, progress=progress
            )
            return FrameStream(map(self._pixels, source), source.num_frames, float(fps), source.duration_sec)
        frames = as_frames(video)
        pieces = (frames[start : start + chunk_size] for start in range(0, len(frames), chunk_size))
        return FrameStream(map(self._pixels, pieces), len(frames), float(fps), len(frames) / fps)

    def _pixels(self, frames: np.ndarray) -> torch.Tensor:
        """From `(n, height, width, 3)` uint8 to normalised `(n, 3, height, width)`."""
        pictures = self.image_processor(list(frames), return_tensors="pt", input_data_format="channels_last")
        return pictures["pixel_values"]

    def _tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        if not texts:
            raise ValueError("`text` must hold at least one query, got an empty list.")
        for query in texts:
            if not isinstance(query, str):
                raise TypeError(f"`text` must be a string or a list of strings, got {type(query).__name__}.")
            if not query.strip():
                raise ValueError("`text` must not hold an empty query.")
        longest = min(self.tokenizer.model_max_length, MAX_TEXT_LENGTH)
        lengths = [len(ids) for ids in self.tokenizer(texts, truncation=True, max_length=longest + 1)["input_ids"]]
        too_long = sum(length > longest for length in lengths)
        if too_long:
            logger.warning(f"{too_long} of {len(texts)} queries exceed {longest} tokens and are cut there.")
        tokens = self.tokenizer(texts, truncation=True, max_length=longest, padding=True, return_tensors="pt")
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"].bool()}

    def post_process_video_grounding(
        self,
        outputs: Any,
        *,
        fps: torch.Tensor | float | None = None,
        duration_sec: torch.Tensor | float | None = None,
        nms: Literal["hard", "linear", "gaussian", "default"] | None = "default",
        nms_threshold: float | None = None,
        round_to: float | Literal["default"] | None = "default",
        max_moments: int = 50,
        score_threshold: float | None = None,
        num_highlights: int = 5,
        summary_share: float = 0.15,
    ) -> list[dict[str, Any]]:
        """Turn the model's outputs into answers, one for each query, in the steps of the released evaluation.

        The best `max_moments` points are decoded, clamped to the video, rounded, suppressed and sorted. Windows of a
        long video are merged: each answers for the part of the video that it is nearest to.

        Args:
            outputs: `VideoGroundingOutput` of `forward` or `ground`.
            fps: Frames per second, a number or one for each query; default as given to the model, else the
                processor's.
            duration_sec: Length of the video likewise; default as given to the model, else frames / fps.
            nms: Suppression; `None` = none, `"default"` = the processor's.
            nms_threshold: Overlap from which hard suppression acts; default the processor's.
            round_to: Unit in seconds; `None` = no rounding, `"default"` = the processor's.
            max_moments: Moments kept for each query.
            score_threshold: Drop moments of a lower score; default: keep all, also those suppressed to 0.
            num_highlights: Frames listed as highlights.
            summary_share: Share of the video that the summary fills.

        Returns:
            For each query a dict of plain Python values: `moments`, a list of `{"start", "end", "score"}` in seconds,
            best first (empty for a model without moment head); `saliency`, a score for each of `frame_times`;
            `highlights`, a list of `{"time", "score"}`; `summary`, a list of `{"start", "end"}` in order of time.

        Raises:
            ValueError: An unknown method, a number out of range, or predictions that are not finite.
        """
        nms = self.nms if nms == "default" else nms
        round_to = self.round_to if round_to == "default" else round_to
        nms_threshold = self.nms_threshold if nms_threshold is None else nms_threshold
        _check_settings(nms, nms_threshold, round_to, max_moments, summary_share)
        if not outputs["logits"].isfinite().all() or not outputs["saliency_scores"].isfinite().all():
            raise ValueError("The predictions are not finite: the video's pixels or the model's weights hold NaN.")
        decoded = decode_outputs(outputs)
        fps = _per_query(fps, outputs.get("fps"), self.fps, decoded)
        duration_sec = _per_query(duration_sec, outputs.get("duration_sec"), decoded.num_frames / fps, decoded)
        moments, scores = sort_by_score(decoded.moments / fps[:, None, None], decoded.scores, max_moments)
        moments, scores = refine_moments(moments, scores, duration_sec, nms, nms_threshold, round_to)
        least = max(0.0, score_threshold or 0.0)  # padding has a negative score
        answers = []
        for query, num_frames in enumerate(decoded.num_frames.tolist()):
            curve = decoded.saliency[query, :num_frames]
            rate, duration = fps[query].item(), duration_sec[query].item()
            found = zip(moments[query].tolist(), scores[query].tolist(), strict=True)
            best = select_highlights(curve, num_highlights)
            summary = select_summary(curve, rate, duration, summary_share)
            answers.append(
                {
                    "moments": [{"start": a, "end": b, "score": score} for (a, b), score in found if score >= least],
                    "saliency": curve.tolist(),
                    "frame_times": [frame / rate for frame in range(num_frames)],
                    "highlights": [{"time": frame / rate, "score": curve[frame].item()} for frame in best],
                    "summary": [{"start": start, "end": end} for start, end in summary],
                }
            )
        return answers


def as_video_list(videos: Any) -> list[Any]:
    """A list of videos from one video or several."""
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return list(videos) if videos.ndim == 5 else [videos]
    if isinstance(videos, (list, tuple)):
        if not videos:
            raise ValueError("`videos` must hold at least one video, got an empty list.")
        pictures = not hasattr(videos[0], "read") and getattr(videos[0], "ndim", None) in (None, 3)
        pictures = pictures and not isinstance(videos[0], (str, bytes, dict, os.PathLike, list, tuple))
        return [videos] if pictures else list(videos)
    return [videos]


def as_frames(video: Any) -> np.ndarray:
    """Frames `(num_frames, height, width, 3)`, uint8, from an array, a tensor or a list of pictures."""
    if isinstance(video, (list, tuple)):
        if not video:
            raise ValueError("A video has no frames: got an empty list.")
        video = np.stack([np.asarray(picture) for picture in video])
    elif isinstance(video, torch.Tensor):
        video = video.detach().cpu().numpy()
    if not isinstance(video, np.ndarray):
        raise TypeError(
            "A video must be a path, URL, bytes, binary file object, array, tensor or list of pictures, got "
            f"{type(video).__name__}."
        )
    if video.ndim == 4 and video.shape[1] == 3 and video.shape[3] != 3:
        video = video.transpose(0, 2, 3, 1)
    if video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise ValueError(
            "Frames must have the shape (num_frames, height, width, 3) or (num_frames, 3, height, width) and not be "
            f"empty, got {video.shape}."
        )
    if np.issubdtype(video.dtype, np.floating):
        if not (np.isfinite(video).all() and video.min() >= 0 and video.max() <= 1):
            raise ValueError("Floating-point frames must be finite and in [0, 1].")
        video = np.round(video * 255).astype(np.uint8)
    if video.dtype != np.uint8:
        raise ValueError(f"Frames must be uint8, or floating point in [0, 1], got {video.dtype}.")
    return video


def _pad_videos(streams: list[FrameStream]) -> dict[str, torch.Tensor]:
    videos = [torch.cat(list(stream)) for stream in streams]
    pixels = pad_sequence(videos, batch_first=True)
    lengths = torch.tensor([len(video) for video in videos])
    return {
        "pixel_values_videos": pixels,
        "frame_mask": torch.arange(pixels.shape[1]) < lengths[:, None],
        "fps": torch.tensor([stream.fps for stream in streams]),
        "duration_sec": torch.tensor([stream.duration_sec for stream in streams]),
    }


def _per_query(given: Any, stored: torch.Tensor | None, default: Any, decoded: DecodedVideos) -> torch.Tensor:
    """A float32 value for each query: as given, else as the model was given it, else the default."""
    value = given if given is not None else stored if stored is not None else default
    value = torch.as_tensor(value, dtype=torch.float32, device=decoded.num_frames.device)
    count = len(decoded.num_frames)
    if value.dim() == 0:
        return value.expand(count)
    if value.dim() != 1 or len(value) % count and count % len(value):
        raise ValueError(
            f"`fps` and `duration_sec` must be a number or one for each of {count} queries, got {len(value)}."
        )
    if len(value) >= count:  # the model repeats it for each window
        return value[:: len(value) // count]
    return value.repeat_interleave(count // len(value))


def _check_settings(
    nms: str | None, nms_threshold: float, round_to: float | None, max_moments: int, summary_share: float
):
    if nms not in NMS_METHODS:
        raise ValueError(f"`nms` must be one of {NMS_METHODS}, got {nms!r}.")
    if not 0 < nms_threshold <= 1:
        raise ValueError(f"`nms_threshold` must be in (0, 1], got {nms_threshold}.")
    if round_to is not None and round_to <= 0:
        raise ValueError(f"`round_to` must be positive or None, got {round_to}.")
    if max_moments < 1:
        raise ValueError(f"`max_moments` must be at least 1, got {max_moments}.")
    if not 0 < summary_share <= 1:
        raise ValueError(f"`summary_share` must be in (0, 1], got {summary_share}.")


__all__ = ["FrameStream", "R2TuningProcessor", "as_frames", "as_video_list"]
