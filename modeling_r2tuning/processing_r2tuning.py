"""Processor of R2-Tuning: videos and texts to tensors, predictions to moments, highlights and a summary."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, CLIPTokenizer, ProcessorMixin
from transformers.utils import logging

from .containers_r2tuning import MAX_PIXELS
from .decoding_r2tuning import (
    DecodedVideos,
    decode_outputs,
    refine_moments,
    select_highlights,
    select_summary,
    sort_by_score,
)
from .loading_r2tuning import (
    CLIP_PROCESSOR_FILES,
    HUB_ARGUMENTS,
    PLACE_ARGUMENTS,
    PROCESSOR_FILES,
    check_tokenizer,
    loading,
)
from .options_r2tuning import check_options
from .video_io_r2tuning import MAX_FRAMES, iter_video_frames


logger = logging.get_logger(__name__)

MAX_TEXT_LENGTH = 77  # of CLIP, where a tokenizer does not know it
DO_PAD, DO_NOT_PAD = (True, "longest", "max_length"), (False, "do_not_pad")
DO_TRUNCATE, DO_NOT_TRUNCATE = (True, "longest_first", "only_first"), (False, "do_not_truncate")


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
        check_options(fps=fps, nms=nms, nms_threshold=nms_threshold, round_to=round_to)
        self.fps = fps
        self.nms = nms
        self.nms_threshold = nms_threshold
        self.round_to = round_to
        super().__init__(image_processor, tokenizer, **kwargs)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs):
        """Load a processor; arguments are those of `ProcessorMixin.from_pretrained`.

        Raises:
            OSError: A file cannot be found or fetched.
            ValueError: A file is damaged.
        """
        hub = {name: kwargs[name] for name in (*HUB_ARGUMENTS, *PLACE_ARGUMENTS) if name in kwargs}
        with loading(pretrained_model_name_or_path, PROCESSOR_FILES, "The processor of", **hub):
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            check_tokenizer(processor.tokenizer, pretrained_model_name_or_path)
        return processor

    @classmethod
    def from_backbone(cls, clip: str | os.PathLike, **settings) -> "R2TuningProcessor":
        """A processor with the image settings and the tokenizer of a CLIP.

        Args:
            clip: A folder, or a name on the Hub.
            settings: Frame rate and post-processing.

        Raises:
            OSError: A file cannot be found or fetched.
            ValueError: A file is damaged.
        """
        from transformers import CLIPImageProcessor  # warns where torchvision is missing

        with loading(clip, CLIP_PROCESSOR_FILES, "The processor of CLIP"):
            image_processor, tokenizer = CLIPImageProcessor.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
            check_tokenizer(tokenizer, clip)
        return cls(image_processor, tokenizer, **settings)

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
        text: str | Iterable[str] | None = None,
        *,
        images: None = None,
        fps: float | None = None,
        max_frames: int = MAX_FRAMES,
        max_pixels: int = MAX_PIXELS,
        progress: Callable[[int, int], None] | None = None,
        padding: bool | str = True,
        truncation: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Make the model's inputs.

        Args:
            videos: One video or a list: a path, URL, bytes or binary file object; a dict `{"path", "bytes"}`, as
                `datasets.Video(decode=False)` gives; or frames already sampled at `fps`,
                `(num_frames, height, width, 3)` or `(num_frames, 3, height, width)`, as a NumPy array, tensor or list
                of pictures, uint8 or floating point in [0, 1].
            text: One query or a list: as many as videos, or any number about one video.
            images: Refused: the frames of a video are passed as `videos`.
            fps: Frames per second; default the processor's.
            max_frames: Largest number of frames of a video file, which may claim to last for years.
            max_pixels: Largest number of pixels of a picture of a video file.
            progress: Called with the number of frames read and to read of each video.
            padding: Of texts: to the longest (`True` or `"longest"`), to `max_length` (`"max_length"`), or none
                (`False` or `"do_not_pad"`). Videos are padded to the longest.
            truncation: Whether texts of more than `max_length` tokens are cut, with a warning, or refused.
            max_length: Most tokens of a text; default what CLIP reads, 77.
            return_tensors: `"pt"` for tensors, `"np"` for arrays, `None` for lists.

        Returns:
            `BatchFeature` with `pixel_values_videos (batch, num_frames, 3, height, width)`, `frame_mask`, `fps` and
            `duration_sec` for videos, `input_ids (batch, text_length)` and `attention_mask` for texts.

        Raises:
            ValueError: Nothing given, video and text swapped, unequal lists, an empty query, no frames, wrong shapes,
                pixels that are not finite, or a setting that is not allowed.
            TypeError: A video or query of an unknown kind, or `images`.
        """
        if images is not None:
            raise TypeError("`images` cannot be grounded: pass a video, or its frames with `fps`, as `videos`.")
        if videos is None and text is None:
            raise ValueError("Pass `videos`, `text` or both, got neither.")
        _check_order(videos, text)
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"`return_tensors` must be 'pt', 'np' or None, got {return_tensors!r}.")
        videos = None if videos is None else as_video_list(videos)
        tokens = {} if text is None else self._tokenize(as_text_list(text), padding, truncation, max_length)
        if videos is not None and tokens and len(videos) not in (1, len(tokens["input_ids"])):
            raise ValueError(
                "`text` must hold one query for each video, or any number for one video, got "
                f"{len(tokens['input_ids'])} for {len(videos)} videos."
            )
        streams = [
            self.stream_video(video, fps=fps, max_frames=max_frames, max_pixels=max_pixels, progress=progress)
            for video in videos or ()
        ]
        data = {**(_pad_videos(streams) if streams else {}), **tokens}
        return BatchFeature({name: _convert(name, value, return_tensors) for name, value in data.items()})

    def stream_video(
        self,
        video: Any,
        *,
        fps: float | None = None,
        max_frames: int = MAX_FRAMES,
        max_pixels: int = MAX_PIXELS,
        chunk_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ) -> FrameStream:
        """Read one video piece by piece; arguments as for `__call__`, `chunk_size` in frames."""
        check_options(fps=fps, max_frames=max_frames, max_pixels=max_pixels, chunk_size=chunk_size, progress=progress)
        fps = self.fps if fps is None else fps
        video = _unpack(video)
        if is_file(video):
            size = self.image_processor.size["shortest_edge"]
            source = iter_video_frames(
                video,
                fps,
                size=size,
                max_frames=max_frames,
                max_pixels=max_pixels,
                chunk_size=chunk_size,
                progress=progress,
            )
            return FrameStream(map(self._pixels, source), source.num_frames, float(fps), source.duration_sec)
        frames = as_frames(video)
        pieces = (frames[start : start + chunk_size] for start in range(0, len(frames), chunk_size))
        return FrameStream(map(self._pixels, pieces), len(frames), float(fps), len(frames) / fps)

    def _pixels(self, frames: np.ndarray) -> torch.Tensor:
        """From `(n, height, width, 3)` uint8 to normalised `(n, 3, height, width)`."""
        pictures = self.image_processor(list(frames), return_tensors="pt", input_data_format="channels_last")
        return pictures["pixel_values"]

    def _tokenize(
        self, texts: list[str], padding: bool | str, truncation: bool | str, max_length: int | None
    ) -> dict[str, list[list]]:
        """Rows of token ids and of their mask, padded on the right.

        They are cut and padded here: told to do so, a tokenizer keeps that as its setting, which other threads' calls
        would see.
        """
        longest = min(self.tokenizer.model_max_length, MAX_TEXT_LENGTH)
        _check_lengths(padding, truncation, max_length, longest)
        limit = longest if max_length is None else max_length
        rows = self.tokenizer(texts, verbose=False)["input_ids"]
        too_long = sum(len(row) > limit for row in rows)
        if too_long and truncation in DO_NOT_TRUNCATE:
            raise ValueError(f"{too_long} of {len(texts)} queries exceed {limit} tokens: shorten or truncate them.")
        if too_long:
            logger.warning(f"{too_long} of {len(texts)} queries exceed {limit} tokens and are cut there.")
            # The last token, which ends a text, stays.
            rows = [row[: limit - 1] + row[-1:] if len(row) > limit else row for row in rows]
        if padding in DO_NOT_PAD:
            return {"input_ids": rows, "attention_mask": [[True] * len(row) for row in rows]}
        width = limit if padding == "max_length" else max(map(len, rows))
        fill = self.tokenizer.pad_token_id or 0  # masked, whatever it is
        return {
            "input_ids": [row + [fill] * (width - len(row)) for row in rows],
            "attention_mask": [[place < len(row) for place in range(width)] for row in rows],
        }

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

        TVP's processor has a method of this name, which is called as `(logits, video_durations)` and gives one start
        and end. This one takes the whole output, which knows the lengths, and gives all that was found.

        Args:
            outputs: `VideoGroundingOutput` of `forward` or `ground`.
            fps: Frames per second, a number or one for each query; default as given to the model, else the
                processor's.
            duration_sec: Length of the video likewise; default as given to the model, else frames / fps.
            nms: Suppression; `None` = none, `"default"` = the processor's.
            nms_threshold: Overlap from which hard suppression acts; default the processor's.
            round_to: Unit in seconds; `None` = no rounding, `"default"` = the processor's.
            max_moments: Moments kept for each query.
            score_threshold: Drop moments of a lower score, and those that suppression set to 0; default: keep all,
                as the released evaluation does.
            num_highlights: Frames listed as highlights.
            summary_share: Share of the video that the summary fills.

        Returns:
            For each query a dict of plain Python values: `moments`, a list of `{"start", "end", "score"}` in seconds,
            best first (empty for a model without moment head); `saliency`, a score for each of `frame_times`;
            `highlights`, a list of `{"time", "score"}`; `summary`, a list of `{"start", "end"}` in order of time.

        Raises:
            TypeError: `outputs` is something else, such as the logits alone.
            ValueError: A setting that is not allowed, or predictions that are not finite.
        """
        check_options(
            nms=nms,
            nms_threshold=nms_threshold,
            round_to=round_to,
            max_moments=max_moments,
            score_threshold=score_threshold,
            num_highlights=num_highlights,
            summary_share=summary_share,
        )
        _check_outputs(outputs)
        nms = self.nms if nms == "default" else nms
        round_to = self.round_to if round_to == "default" else round_to
        nms_threshold = self.nms_threshold if nms_threshold is None else nms_threshold
        decoded = decode_outputs(outputs)
        fps = _per_query(fps, outputs.get("fps"), self.fps, decoded)
        duration_sec = _per_query(duration_sec, outputs.get("duration_sec"), decoded.num_frames / fps, decoded)
        moments, scores = sort_by_score(decoded.moments / fps[:, None, None], decoded.scores, max_moments)
        moments, scores = refine_moments(moments, scores, duration_sec, nms, nms_threshold, round_to)
        answers = []
        for query, num_frames in enumerate(decoded.num_frames.tolist()):
            curve = decoded.saliency[query, :num_frames]
            rate, duration = fps[query].item(), duration_sec[query].item()
            best = select_highlights(curve, num_highlights)
            summary = select_summary(curve, rate, duration, summary_share)
            answers.append(
                {
                    "moments": _list_moments(moments[query], scores[query], score_threshold),
                    "saliency": curve.tolist(),
                    "frame_times": [frame / rate for frame in range(num_frames)],
                    "highlights": [{"time": frame / rate, "score": curve[frame].item()} for frame in best],
                    "summary": [{"start": start, "end": end} for start, end in summary],
                }
            )
        return answers


def is_file(video: Any) -> bool:
    """Whether a video comes as a file, not as frames."""
    return isinstance(video, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(video, "read")


def is_row(video: Any) -> bool:
    """Whether a video comes as `datasets.Video(decode=False)` gives it."""
    return isinstance(video, dict) and video.keys() == {"path", "bytes"}


def as_video_list(videos: Any) -> list[Any]:
    """A list of videos from one video or several."""
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return list(videos) if videos.ndim == 5 else [videos]
    if isinstance(videos, (list, tuple)):
        if not videos:
            raise ValueError("`videos` must hold at least one video, got an empty list.")
        first = videos[0]
        is_picture = not is_file(first) and not isinstance(first, (dict, list, tuple))
        return [videos] if is_picture and getattr(first, "ndim", 3) == 3 else list(videos)
    return [videos]


def as_text_list(text: Any, name: str = "text") -> list[str]:
    """A list of queries from one or several, which are an argument of that name.

    Raises:
        TypeError: A query is no string.
        ValueError: There is no query, or an empty one.
    """
    if not isinstance(text, Iterable) or isinstance(text, (bytes, bytearray, Mapping)):
        raise TypeError(f"`{name}` must be a string or a list of strings, got {text!r}.")
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError(f"`{name}` must hold at least one query, got an empty list.")
    for query in texts:
        if not isinstance(query, str):
            raise TypeError(f"`{name}` must be a string or a list of strings, got {type(query).__name__} in it.")
        if not query.strip():
            raise ValueError(f"`{name}` must not hold an empty query.")
        if not query.isascii():
            _check_unicode(query, name)
    return texts


def _check_unicode(query: str, name: str) -> None:
    """Bytes that are not UTF-8 become lone surrogates in an argument of a process; a tokenizer has no word for them."""
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"`{name}` must be valid Unicode, got {query!r}.") from error


def as_frames(video: Any) -> np.ndarray:
    """Frames `(num_frames, height, width, 3)`, uint8, from an array, a tensor or a list of pictures."""
    if isinstance(video, (list, tuple)):
        video = _stack_pictures(video)
    elif isinstance(video, torch.Tensor):
        video = video.detach().cpu().numpy()
    if not isinstance(video, np.ndarray):
        raise TypeError(
            "A video must be a path, URL, bytes, binary file object, array, tensor, list of pictures or row of "
            f"`datasets.Video(decode=False)`, got {type(video).__name__}."
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


def _unpack(video: Any) -> Any:
    """What a row of `datasets.Video(decode=False)` holds: the file itself or, without, its path."""
    if not is_row(video):
        return video
    found = video["path"] if video["bytes"] is None else video["bytes"]
    if found is None:
        raise ValueError("A video's row must have a 'path' or 'bytes', got None for both.")
    return found


def _check_order(videos: Any, text: Any) -> None:
    """Refuse a text in the place of the videos and a video in the place of the texts."""
    first, second = (each[0] if isinstance(each, (list, tuple)) and each else each for each in (videos, text))
    if isinstance(first, str) and not _is_video(first) and _is_video(second):
        raise ValueError(f"The order is (videos, text), got {first!r} as a video and a video as a text: swap them.")


def _is_video(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower().startswith(("http://", "https://")) or os.path.isfile(value)
    return is_file(value) or is_row(value) or getattr(value, "ndim", 0) >= 3


def _check_lengths(padding: bool | str, truncation: bool | str, max_length: int | None, longest: int) -> None:
    for name, value, allowed in (
        ("padding", padding, DO_PAD + DO_NOT_PAD),
        ("truncation", truncation, DO_TRUNCATE + DO_NOT_TRUNCATE),
    ):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")
    if max_length is not None and (not isinstance(max_length, int) or not 2 <= max_length <= longest):
        raise ValueError(f"`max_length` must be a whole number from 2 to {longest}, got {max_length!r}.")


def _convert(name: str, value: torch.Tensor | list[list], return_tensors: str | None) -> Any:
    """A tensor, an array or a list; pixels are a list of arrays, one for each video."""
    if isinstance(value, list) and return_tensors is not None:
        if len({len(row) for row in value}) > 1:
            raise ValueError(f"`{name}` has rows of unequal lengths: set `padding`, or `return_tensors=None`.")
        value = torch.tensor(value)
    if return_tensors == "np":
        return value.numpy()
    if return_tensors is None and isinstance(value, torch.Tensor):
        return list(value.numpy()) if value.is_floating_point() and value.ndim > 1 else value.tolist()
    return value


def _stack_pictures(pictures: list | tuple) -> np.ndarray:
    if not pictures:
        raise ValueError("A video has no frames: got an empty list.")
    if is_file(pictures[0]) or isinstance(pictures[0], dict):
        raise TypeError(f"A list as one video must hold its pictures, got {type(pictures[0]).__name__} in it.")
    return np.stack([np.asarray(picture) for picture in pictures])


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
    if given is not None and not ((value > 0) & value.isfinite()).all():
        raise ValueError(f"`fps` and `duration_sec` must be positive and finite, got {value.tolist()}.")
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


def _list_moments(moments: torch.Tensor, scores: torch.Tensor, threshold: float | None) -> list[dict[str, float]]:
    found = zip(moments.tolist(), scores.tolist(), strict=True)
    if threshold is None:
        found = (each for each in found if each[1] >= 0)  # padding has a negative score
    else:
        found = (each for each in found if each[1] >= threshold and each[1] > 0)  # suppression sets it to 0
    return [{"start": start, "end": end, "score": score} for (start, end), score in found]


def _check_outputs(outputs: Any) -> None:
    if not isinstance(outputs, Mapping):
        raise TypeError(f"`outputs` must be the model's whole output, got {type(outputs).__name__}.")
    offsets = outputs.get("boundary_offsets")
    is_sound = outputs["logits"].isfinite().all() and outputs["saliency_scores"].isfinite().all()
    if not is_sound or (offsets is not None and offsets.isnan().any()):
        raise ValueError("The predictions are not finite: the video's pixels or the model's weights hold NaN.")


__all__ = ["FrameStream", "R2TuningProcessor", "as_frames", "as_text_list", "as_video_list", "is_file", "is_row"]
