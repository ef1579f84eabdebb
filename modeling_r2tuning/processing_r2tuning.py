"""Processor of R2-Tuning: videos and texts to tensors, predictions to moments, highlights and a summary."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin
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
    BACKBONE_PROCESSOR_FILES,
    CONFIG,
    HUB_ARGUMENTS,
    PLACE_ARGUMENTS,
    PROCESSOR,
    PROCESSOR_FILES,
    check_tokenizer,
    loading,
    read_backbone_config,
)
from .options_r2tuning import check_options
from .tower_specs_r2tuning import backbone_spec
from .user_inputs_r2tuning import as_frames, as_text_list, as_video_list, check_order, is_file, unpack_row
from .video_io_r2tuning import MAX_FRAMES, iter_video_frames


logger = logging.get_logger(__name__)

BILINEAR = 2  # `resample` of image processors, which numbers interpolations as Pillow does

DO_PAD, DO_NOT_PAD = (True, "longest", "max_length"), (False, "do_not_pad")
DO_TRUNCATE, DO_NOT_TRUNCATE = (True, "longest_first", "only_first"), (False, "do_not_truncate")


def make_image_processor(size: int = 224) -> Any:
    """Make CLIP's image processor, a `CLIPImageProcessor`, for frames of `size` x `size` pixels."""
    from transformers import CLIPImageProcessor  # this import warns if torchvision is missing

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def frame_size(image_processor: Any) -> int | tuple[int, int]:
    """The size to which an image processor scales frames: the short side, or height and width."""
    size = image_processor.size
    return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])


def frame_interpolation(image_processor: Any) -> str:
    """The interpolation with which an image processor scales frames; anything but bilinear is replaced by bicubic."""
    return "bilinear" if getattr(image_processor, "resample", None) == BILINEAR else "bicubic"


@dataclass
class FrameStream:
    """Normalised frames of one video in pieces, so that a long video is never in memory as a whole.

    Attributes:
        pieces: Generator of tensors `(num_frames_of_piece, 3, height, width)`; closing it closes the video.
        num_frames: Total number of frames.
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
    """The backbone's image processor and tokenizer, the frame rate, and the settings of the post-processing.

    Args:
        image_processor (`BaseImageProcessor`): Resizes, crops and normalises frames.
        tokenizer (`PreTrainedTokenizerBase`): Tokenizer of the same backbone.
        fps (`float`, defaults to 0.5): Frames sampled per second of video.
        nms (`"hard"`, `"linear"`, `"gaussian"` or `None`, defaults to `"hard"`): Default method of suppression.
        nms_threshold (`float`, defaults to 0.7): Default IoU from which hard suppression removes a moment.
        round_to (`float`, *optional*): Default unit in seconds to which moments are rounded.
        existence_scale (`float`, defaults to 1.0): Factor of the existence head's logits, see `existence_bias`.
        existence_bias (`float`, defaults to 0.0): The probability that any moment matches a query is
            sigmoid(existence_scale * logit + existence_bias). Training fits both numbers on the evaluation split.
        max_text_length (`int`, defaults to 77): Largest number of tokens of a text that the backbone takes.
        pad_to_max_text_length (`bool`, defaults to `False`): Whether every text is padded to that number, as backbones need
            whose attention covers padding.
        lowercase_text (`bool`, defaults to `False`): Whether texts are converted to lower case, which some backbones were
            trained on.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        fps: float = 0.5,
        nms: str | None = "hard",
        nms_threshold: float = 0.7,
        round_to: float | None = None,
        existence_scale: float = 1.0,
        existence_bias: float = 0.0,
        max_text_length: int = 77,
        pad_to_max_text_length: bool = False,
        lowercase_text: bool = False,
        **kwargs: Any,
    ):
        check_options(
            fps=fps,
            nms=nms,
            nms_threshold=nms_threshold,
            round_to=round_to,
            existence_scale=existence_scale,
            existence_bias=existence_bias,
        )
        self.fps = fps
        self.nms = nms
        self.nms_threshold = nms_threshold
        self.round_to = round_to
        self.existence_scale = existence_scale
        self.existence_bias = existence_bias
        self.max_text_length = max_text_length
        self.pad_to_max_text_length = pad_to_max_text_length
        self.lowercase_text = lowercase_text
        super().__init__(image_processor, tokenizer, **kwargs)
        # A tokenizer may have been saved with these settings, but `_tokenize` itself truncates and pads.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> "R2TuningProcessor":
        """Load a processor; the arguments are those of `ProcessorMixin.from_pretrained`.

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
    def from_backbone(cls, backbone_name_or_path: str | os.PathLike, **settings: Any) -> "R2TuningProcessor":
        """Make a processor from the image processor and the tokenizer of a backbone.

        Args:
            backbone_name_or_path: Folder of the backbone, or its name on the Hub.
            settings: Frame rate and settings of the post-processing.

        Raises:
            OSError: A file cannot be found or fetched.
            ValueError: A file is damaged.
        """
        from transformers import AutoImageProcessor  # this import warns if torchvision is missing

        name = os.fspath(backbone_name_or_path)
        config = read_backbone_config(name)
        spec = backbone_spec(name, config.model_type)
        with loading(name, (CONFIG, *BACKBONE_PROCESSOR_FILES), "The processor of the backbone"):
            image_processor = AutoImageProcessor.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
            check_tokenizer(tokenizer, name)
        text: dict[str, Any] = {
            "max_text_length": spec.max_text_length(config.text_config),
            "pad_to_max_text_length": spec.text_attention == "fixed_length",
            "lowercase_text": spec.lowercases,
        }
        return cls(image_processor, tokenizer, **text, **settings)

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `processor_config.json`; without the file, the base class would silently use defaults."""
        settings, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if not settings:
            raise OSError(f"'{pretrained_model_name_or_path}' has no {PROCESSOR}: it holds no processor.")
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
            videos: One video or a list of videos. A video is a path, URL, bytes or binary file object; a dict
                `{"path", "bytes"}` of `datasets.Video(decode=False)`; or frames sampled at `fps`, as a NumPy array, a
                tensor or a list of images, uint8 or floating point in [0, 1], of shape
                `(num_frames, height, width, 3)` or `(num_frames, 3, height, width)`.
            text: One query or a list of queries: one for each video, or any number for a single video.
            images: Not allowed: frames are passed as `videos`.
            fps: Frames per second; default: the processor's.
            max_frames: Largest number of frames sampled from a video file, which may claim to last for years.
            max_pixels: Largest number of pixels of a frame in a video file.
            progress: Called for each video with the number of frames read so far and the total number, in the thread that
                reads the video (`encode_video` and the pipeline read in a thread of their own).
            padding: Padding of texts: to the longest (`True` or `"longest"`), to `max_length` (`"max_length"`), or
                none (`False` or `"do_not_pad"`). Videos are padded to the longest.
            truncation: Whether texts of more than `max_length` tokens are truncated, with a warning, or refused.
            max_length: Largest number of tokens of a text; default: the processor's `max_text_length`.
            return_tensors: `"pt"` for tensors, `"np"` for arrays, `None` for lists.

        Returns:
            `BatchFeature` with `pixel_values_videos (batch, num_frames, 3, height, width)`, `frame_mask`, `fps` and
            `duration_sec` for videos, `input_ids (batch, text_length)` and `attention_mask` for texts.

        Raises:
            ValueError: Nothing is given, video and text are swapped, their numbers do not match, a query is empty,
                frames are missing, not finite or of a wrong shape, or a setting is not allowed.
            TypeError: A video or query is of an unknown kind, or `images` is given.
        """
        if images is not None:
            raise TypeError("`images` cannot be grounded: pass a video, or its frames with `fps`, as `videos`.")
        if videos is None and text is None:
            raise ValueError("Pass `videos`, `text` or both, got neither.")
        check_order(videos, text)
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"`return_tensors` must be 'pt', 'np' or None, got {return_tensors!r}.")
        video_list = [] if videos is None else as_video_list(videos)
        tokens = {} if text is None else self._tokenize(as_text_list(text), padding, truncation, max_length)
        if videos is not None and tokens and len(video_list) not in (1, len(tokens["input_ids"])):
            raise ValueError(
                "`text` must hold one query for each video, or any number for one video, got "
                f"{len(tokens['input_ids'])} for {len(video_list)} videos."
            )
        streams = [
            self.stream_video(video, fps=fps, max_frames=max_frames, max_pixels=max_pixels, progress=progress)
            for video in video_list
        ]
        tensors = _pad_videos(streams) if streams else {}
        data = {}
        for name, tensor in tensors.items():
            data[name] = _convert_tensor(tensor, return_tensors)
        for name, rows in tokens.items():
            data[name] = _convert_rows(name, rows, return_tensors)
        return BatchFeature(data)

    def stream_video(
        self,
        video: Any,
        *,
        fps: float | None = None,
        start_sec: float = 0.0,
        end_sec: float | None = None,
        max_frames: int = MAX_FRAMES,
        max_pixels: int = MAX_PIXELS,
        chunk_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ) -> FrameStream:
        """Read one video in pieces.

        Args:
            video: As for `__call__`.
            fps: As for `__call__`.
            start_sec: Start of the part to read, in seconds; only of a file, in which it is looked up.
            end_sec: End of that part; `None` = the end of the video.
            max_frames: As for `__call__`.
            max_pixels: As for `__call__`.
            chunk_size: Largest number of frames of a piece.
            progress: As for `__call__`.

        Returns:
            The frames; `duration_sec` is that of the whole video.
        """
        check_options(fps=fps, max_frames=max_frames, max_pixels=max_pixels, chunk_size=chunk_size, progress=progress)
        fps = self.fps if fps is None else fps
        video = unpack_row(video)
        if is_file(video):
            # Frames are scaled while decoding: at full size, they may take a hundred times as much memory.
            source = iter_video_frames(
                video,
                fps,
                size=frame_size(self.image_processor),
                interpolation=frame_interpolation(self.image_processor),
                start_sec=start_sec,
                end_sec=end_sec,
                max_frames=max_frames,
                max_pixels=max_pixels,
                chunk_size=chunk_size,
                progress=progress,
            )
            pixels = (self._pixels(chunk) for chunk in source)
            return FrameStream(pixels, source.num_frames, float(fps), source.duration_sec)
        if (start_sec, end_sec) != (0.0, None):
            raise ValueError(
                "`start_sec` and `end_sec` select a part of a file; pass a slice of these frames instead."
            )
        frames = as_frames(video)
        starts = range(0, len(frames), chunk_size)
        pixels = (self._pixels(frames[start : start + chunk_size]) for start in starts)
        return FrameStream(pixels, len(frames), float(fps), len(frames) / fps)

    def _pixels(self, frames: np.ndarray) -> torch.Tensor:
        """Convert frames `(num_frames, height, width, 3)`, uint8, to normalised `(num_frames, 3, height, width)`."""
        processed = self.image_processor(list(frames), return_tensors="pt", input_data_format="channels_last")
        return processed["pixel_values"]

    @property
    def longest_text(self) -> int:
        """Largest number of tokens of a text, from which it is truncated."""
        return min(self.tokenizer.model_max_length, self.max_text_length)

    def count_tokens(self, texts: Iterable[str]) -> list[int]:
        """Number of tokens of each text before it is truncated or padded."""
        return [len(row) for row in self._token_ids(list(texts))]

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, of any number."""
        if self.lowercase_text:
            texts = [text.lower() for text in texts]
        return self.tokenizer(texts, verbose=False)["input_ids"]

    def _tokenize(
        self, texts: list[str], padding: bool | str, truncation: bool | str, max_length: int | None
    ) -> dict[str, list[list]]:
        """Tokenize queries, and truncate and pad them on the right.

        The tokenizer is not asked to truncate or pad: it would store that as a setting of its own, which would affect
        calls in other threads.

        Returns:
            Rows of `input_ids` and `attention_mask`.
        """
        longest = self.longest_text
        _check_lengths(padding, truncation, max_length, longest)
        limit = longest if max_length is None else max_length
        rows = self._token_ids(texts)
        num_too_long = sum(len(row) > limit for row in rows)
        if num_too_long and truncation in DO_NOT_TRUNCATE:
            raise ValueError(
                f"{num_too_long} of {len(texts)} queries exceed {limit} tokens: shorten or truncate them."
            )
        if num_too_long:
            logger.warning(f"{num_too_long} of {len(texts)} queries exceed {limit} tokens and are truncated.")
            marks = self.tokenizer.all_special_ids
            for row in rows:
                if len(row) <= limit:
                    continue
                if row[-1] in marks:  # the end of the text, from which CLIP takes its features
                    del row[limit - 1 : -1]
                else:
                    del row[limit:]
        if padding in DO_NOT_PAD:
            return {"input_ids": rows, "attention_mask": [[True] * len(row) for row in rows]}
        width = limit if padding == "max_length" else max(map(len, rows))
        if self.pad_to_max_text_length:
            width = self.max_text_length
        fill = self.tokenizer.pad_token_id or 0  # any token will do where padding is masked
        ids, mask = [], []
        for row in rows:
            num_padding = width - len(row)
            ids.append(row + [fill] * num_padding)
            mask.append([True] * len(row) + [False] * num_padding)
        return {"input_ids": ids, "attention_mask": mask}

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
        min_probability: float | None = None,
    ) -> list[dict[str, Any]]:
        """Convert the model's outputs to one answer for each query, following the steps of the released evaluation.

        The best `max_moments` points are decoded to moments, clamped to the video, rounded, suppressed and sorted. The
        windows of a long video are merged: each contributes the part of the video that its centre is nearest to. The
        probability of a query is that of its most probable window.

        The processor of transformers' TVP has a method of the same name that takes `(logits, video_durations)` and
        returns one moment. This one takes the whole output, which includes the durations, and returns all moments.

        Args:
            outputs: `VideoGroundingOutput` of `forward` or `ground`.
            fps: Frames per second, one number or one for each query; default: as passed to the model, else the
                processor's.
            duration_sec: Length of the video, likewise; default: as passed to the model, else frames / fps.
            nms: Method of suppression; `None` = none, `"default"` = the processor's.
            nms_threshold: IoU from which hard suppression removes a moment; default: the processor's.
            round_to: Unit in seconds to round moments to; `None` = no rounding, `"default"` = the processor's.
            max_moments: Number of moments kept for each query.
            score_threshold: Drop moments with a lower score and those removed by suppression, whose score is 0; default:
                keep all, as the released evaluation does.
            num_highlights: Number of frames listed as highlights.
            summary_share: Share of the video that the summary covers.
            min_probability: Probability, from 0 to 1, from which a query counts as found in the video; `None` = do not
                decide. Without effect on a model without existence head.

        Returns:
            For each query a dict of plain Python values: `moments`, a list of `{"start", "end", "score"}` in seconds,
            best first (empty for a model without moment head); `saliency`, a score for each of `frame_times`;
            `highlights`, a list of `{"time", "score"}`; `summary`, a list of `{"start", "end"}` in temporal order. With
            an existence head also `probability`, that any moment matches the query, and with `min_probability` `found`;
            where that is `False`, `moments`, `highlights` and `summary` are empty.

        Raises:
            TypeError: `outputs` is not the whole output but, for example, the logits.
            ValueError: A setting is not allowed, or the predictions are not finite.
        """
        check_options(
            nms=nms,
            nms_threshold=nms_threshold,
            round_to=round_to,
            max_moments=max_moments,
            score_threshold=score_threshold,
            num_highlights=num_highlights,
            summary_share=summary_share,
            min_probability=min_probability,
        )
        _check_outputs(outputs)
        method = self.nms if nms == "default" else nms
        unit = self.round_to if round_to == "default" else round_to
        overlap = self.nms_threshold if nms_threshold is None else nms_threshold
        decoded = decode_outputs(outputs)
        fps = _per_query(fps, outputs.get("fps"), self.fps, decoded)
        duration_sec = _per_query(duration_sec, outputs.get("duration_sec"), decoded.num_frames / fps, decoded)
        moments, scores = sort_by_score(decoded.moments / fps[:, None, None], decoded.scores, max_moments)
        moments, scores = refine_moments(moments, scores, duration_sec, method, overlap, unit)
        answers = []
        for query, num_frames in enumerate(decoded.num_frames.tolist()):
            saliency = decoded.saliency[query, :num_frames]
            listed = _list_moments(moments[query], scores[query], score_threshold)
            rate, duration = fps[query].item(), duration_sec[query].item()
            described = _describe_saliency(saliency, rate, duration, num_highlights, summary_share)
            answers.append({"moments": listed, **described})
        if decoded.existence is not None:
            self._add_probabilities(answers, decoded.existence, min_probability)
        return answers

    def _add_probabilities(
        self, answers: list[dict[str, Any]], logits: torch.Tensor, min_probability: float | None
    ) -> None:
        """Add `probability` and `found` to the answers; `logits` is `(num_queries,)`. Empty the answers not found."""
        # In float64, so that high probabilities stay distinct.
        probabilities = (self.existence_scale * logits.cpu().double() + self.existence_bias).sigmoid()
        for answer, probability in zip(answers, probabilities.tolist(), strict=True):
            answer["probability"] = probability
            if min_probability is None:
                continue
            answer["found"] = bool(probability >= min_probability)  # also of a threshold in NumPy
            if not answer["found"]:
                answer.update(moments=[], highlights=[], summary=[])


def _check_lengths(padding: bool | str, truncation: bool | str, max_length: int | None, longest: int) -> None:
    """Check the options of `__call__` about the length of texts."""
    for name, value, allowed in (
        ("padding", padding, DO_PAD + DO_NOT_PAD),
        ("truncation", truncation, DO_TRUNCATE + DO_NOT_TRUNCATE),
    ):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")
    if max_length is not None and (not isinstance(max_length, int) or not 2 <= max_length <= longest):
        raise ValueError(f"`max_length` must be a whole number from 2 to {longest}, got {max_length!r}.")


def _convert_tensor(tensor: torch.Tensor, return_tensors: str | None) -> Any:
    """Convert a tensor to an array or a list; a list of pixels holds one array for each video."""
    if return_tensors == "pt":
        return tensor
    if return_tensors == "np":
        return tensor.numpy()
    has_pixels = tensor.is_floating_point() and tensor.ndim > 1
    return list(tensor.numpy()) if has_pixels else tensor.tolist()


def _convert_rows(name: str, rows: list[list], return_tensors: str | None) -> Any:
    """Convert rows of numbers to a tensor or an array."""
    if return_tensors is None:
        return rows
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"`{name}` has rows of unequal lengths: set `padding`, or `return_tensors=None`.")
    return _convert_tensor(torch.tensor(rows), return_tensors)


def _pad_videos(streams: list[FrameStream]) -> dict[str, torch.Tensor]:
    """Read videos and pad them to the longest."""
    videos = [torch.cat(list(stream)) for stream in streams]
    pixels = pad_sequence(videos, batch_first=True)
    lengths = torch.tensor([len(video) for video in videos])
    rates = [stream.fps for stream in streams]
    durations = [stream.duration_sec for stream in streams]
    return {
        "pixel_values_videos": pixels,
        "frame_mask": torch.arange(pixels.shape[1]) < lengths[:, None],
        "fps": torch.tensor(rates),
        "duration_sec": torch.tensor(durations),
    }


def _per_query(given: Any, stored: torch.Tensor | None, default: Any, decoded: DecodedVideos) -> torch.Tensor:
    """Return a float32 value for each query.

    Args:
        given: Value passed to the post-processing, a number or one for each query or video.
        stored: Value passed to the model, which repeats it for each window.
        default: Value if neither is given.
        decoded: The queries' predictions.
    """
    value = default
    if given is not None:
        value = given
    elif stored is not None:
        value = stored
    value = torch.as_tensor(value, dtype=torch.float32, device=decoded.num_frames.device)
    if given is not None and not ((value > 0) & value.isfinite()).all():
        raise ValueError(f"`fps` and `duration_sec` must be positive and finite, got {value.tolist()}.")
    count = len(decoded.num_frames)
    if value.dim() == 0:
        return value.expand(count)
    is_multiple = value.dim() == 1 and (len(value) % count == 0 or count % len(value) == 0)
    if not is_multiple:
        raise ValueError(
            f"`fps` and `duration_sec` must be a number or one for each of {count} queries, got {len(value)}."
        )
    if len(value) >= count:  # one for each window: those of a query are equal
        return value[:: len(value) // count]
    return value.repeat_interleave(count // len(value))  # one for each video: its queries share it


def _list_moments(moments: torch.Tensor, scores: torch.Tensor, threshold: float | None) -> list[dict[str, float]]:
    """Moments `(max_moments, 2)` of one query as dicts."""
    answers = []
    for (start, end), score in zip(moments.tolist(), scores.tolist(), strict=True):
        # Padding has a negative score. With a threshold, moments that suppression removed (score 0) are dropped too.
        is_kept = score >= 0 if threshold is None else score >= threshold and score > 0
        if is_kept:
            answers.append({"start": start, "end": end, "score": score})
    return answers


def _describe_saliency(
    saliency: torch.Tensor, fps: float, duration_sec: float, num_highlights: int, summary_share: float
) -> dict[str, Any]:
    """Saliency `(num_frames,)` of one query as a list, and the highlights and the summary chosen by it."""
    highlights = []
    for frame in select_highlights(saliency, num_highlights):
        highlights.append({"time": frame / fps, "score": saliency[frame].item()})
    summary = []
    for start, end in select_summary(saliency, fps, duration_sec, summary_share):
        summary.append({"start": start, "end": end})
    return {
        "saliency": saliency.tolist(),
        "frame_times": [frame / fps for frame in range(len(saliency))],
        "highlights": highlights,
        "summary": summary,
    }


def _check_outputs(outputs: Any) -> None:
    if not isinstance(outputs, Mapping):
        raise TypeError(f"`outputs` must be the model's whole output, got {type(outputs).__name__}.")
    offsets = outputs.get("boundary_offsets")
    existence = outputs.get("existence_logits")
    is_finite = outputs["logits"].isfinite().all() and outputs["saliency_scores"].isfinite().all()
    is_finite = is_finite and (existence is None or existence.isfinite().all())
    # Offsets may be infinite: moments are clamped to the video.
    if not is_finite or (offsets is not None and offsets.isnan().any()):
        raise ValueError("The predictions are not finite: the video's pixels or the model's weights hold NaN.")


__all__ = ["FrameStream", "R2TuningProcessor", "frame_interpolation", "frame_size", "make_image_processor"]
