"""The store of features: the last K hidden states of every video and query, in the files of a cache."""

import json
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.features.files import load_features, query_path, save_features, video_path
from r2tuning.features.jobs import Job, QueryJob, VideoJob
from r2tuning.features.settings import FORMAT, fingerprint, settings_digest


SAMPLING = "fps filter of FFmpeg, scaled by swscale"  # how the processor samples videos
CHUNK_SIZE = 32  # frames encoded at once
CLASS_NAMES = ("image_processor_type", "processor_class")  # they depend on the installed libraries

Frames = TypeVar("Frames", torch.Tensor, np.ndarray)


class FeatureStore:
    """Writes features; its methods are those of `r2tuning.execution.jobs.Store`.

    Queries are encoded one by one: the last bits of a state depend on the rest of its batch, so that an interrupted
    extraction would give different files than an uninterrupted one.

    Args:
        folder: The cache.
        model: Model whose encoders are on the device and in the precision to use.
        processor: Its processor.
        settings: Settings of the cache, from `feature_settings`.
    """

    def __init__(
        self,
        folder: Path,
        model: R2TuningForVideoGrounding,
        processor: R2TuningProcessor,
        settings: dict[str, Any],
    ):
        self.folder = folder
        self.model = model
        self.processor = processor
        self.settings = settings
        self._digest = settings_digest(settings)

    def check(self, job: Job) -> str | None:
        """`None` if the job's file is complete and intact; otherwise `"missing"`, or what is wrong with it."""
        path = self._path(job)
        try:
            _, record = load_features(path)
        except FileNotFoundError:
            return "missing"
        except ValueError as error:
            return str(error)
        return compare_records(path, self._record(job), record)

    def read(self, job: Job) -> Iterator[Any]:
        """Yield the tokens of a query; or the stream of a video, then its pixels piece by piece."""
        if isinstance(job, QueryJob):
            yield self.processor(text=job.text)
            return
        stream = self.processor.stream_video(job.source, fps=job.fps, chunk_size=CHUNK_SIZE)
        if job.exact:
            stream.pieces = fit_length(stream.pieces, job.num_frames)
            stream.num_frames = job.num_frames
        yield stream
        yield from stream

    def write(self, job: Job, items: Iterator[Any]) -> Iterator[int]:
        """Encode the inputs that `read` yields and write the file; yields numbers of encoded frames.

        Raises:
            OSError: The file cannot be written.
            ValueError: Features exceed half precision, or frames are missing.
        """
        record = self._record(job)
        if isinstance(job, QueryJob):
            tokens = next(items).to(self.model.device)
            states = self._to_half(self.model.get_text_hidden_states(**tokens))
            states = states[tokens["attention_mask"][0].cpu()]
            yield 1
        else:
            stream = next(items)
            record["duration_sec"] = stream.duration_sec
            states = yield from self._encode_video(stream.num_frames, items)
        save_features(self.folder, self._path(job), states, record)

    def _encode_video(self, num_frames: int, pieces: Iterator[torch.Tensor]) -> Generator[int, None, torch.Tensor]:
        """Encode a video piece by piece, so that its pixels are never in memory as a whole.

        Yields numbers of encoded frames; returns the features `(num_frames, num_layers, num_tokens, hidden)`.
        """
        states, start = torch.empty(0), 0
        for piece in pieces:
            pixels = piece[None].to(self.model.device)  # (1, n, 3, height, width)
            part = self._to_half(self.model.get_video_hidden_states(pixels, CHUNK_SIZE))
            if start == 0:
                states = part.new_empty(num_frames, *part.shape[1:])
            states[start : start + len(part)] = part
            start += len(part)
            yield len(part)
        if start != num_frames:
            raise ValueError(f"only {start} of its {num_frames} frames could be read")
        return states

    def _to_half(self, states: torch.Tensor) -> torch.Tensor:
        """The single example of a batch, in half precision on the CPU."""
        states = states[0].to(torch.float16)
        if not states.isfinite().all():
            raise ValueError("its features are too large for half precision, or not finite")
        return states.cpu().contiguous()

    def _path(self, job: Job) -> Path:
        if isinstance(job, QueryJob):
            return query_path(self.folder, job.id, job.text)
        return video_path(self.folder, job.id)

    def _record(self, job: Job) -> dict[str, Any]:
        """What the job's file must record about its source."""
        if isinstance(job, QueryJob):
            return {"id": job.id, "text": job.text, "settings": self._digest}
        return {"settings": self._digest, **video_record(job)}


def video_record(job: VideoJob) -> dict[str, Any]:
    """How a video was sampled, and its size in bytes, which changes when the file is replaced."""
    size = os.path.getsize(job.source) if os.path.isfile(job.source) else None
    num_frames = job.num_frames if job.exact else None
    return {"id": job.id, "fps": job.fps, "num_frames": num_frames, "source_bytes": size}


def compare_records(path: Path, wanted: dict[str, Any], found: dict[str, Any]) -> str | None:
    """What differs between the record of a file and the wanted one, `None` if nothing does."""
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    return f"'{path}' was made from something else: {differing} changed." if differing else None


def fit_length(pieces: Iterable[Frames], num_frames: int) -> Iterator[Frames]:
    """Exactly `num_frames` frames: surplus ones are dropped, missing ones are copies of the last one.

    Args:
        pieces: Pieces of a video, each `(n, ...)`; at least one.
        num_frames: At least 1.
    """
    for piece in pieces:
        piece = piece[:num_frames]
        num_frames -= len(piece)
        yield piece
        if num_frames == 0:
            return
    for start in range(0, num_frames, CHUNK_SIZE):
        count = min(CHUNK_SIZE, num_frames - start)
        yield piece[[-1] * count]


def feature_settings(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    benchmark: str,
    fps: float | str,
    dtype: str,
    clip: str,
) -> dict[str, Any]:
    """Everything that features depend on, besides videos and annotations.

    Args:
        model: The model, its encoders still in float32.
        processor: Its processor.
        benchmark: Name of the benchmark.
        fps: Frames per second, or `ONE_PER_UNIT`.
        dtype: Precision of the encoders.
        clip: Name of the model's backbone, for messages; its weights are compared, not its name.
    """
    return {
        "format": FORMAT,
        "store": "features",
        "benchmark": benchmark,
        "fps": fps,
        "sampling": SAMPLING,
        "tower": model.config.vision_config.model_type,
        "clip": clip,
        "clip_weights": fingerprint(model),
        "num_layers": model.config.num_recurrent_steps,
        "dtype": dtype,
        **image_settings(processor),
    }


def image_settings(processor: R2TuningProcessor) -> dict[str, Any]:
    """Preprocessing of each frame, by names that start with "image."."""
    settings = json.loads(processor.image_processor.to_json_string())
    return {f"image.{name}": value for name, value in settings.items() if name not in CLASS_NAMES}


__all__ = [
    "FeatureStore",
    "compare_records",
    "feature_settings",
    "fit_length",
    "image_settings",
    "video_record",
]
