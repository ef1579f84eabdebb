"""Makes the features of videos and queries: CLIP's last K states, in the files of `feature_cache`."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.features.cache import (
    FORMAT,
    fingerprint,
    load_features,
    query_path,
    save_features,
    settings_digest,
    video_path,
)
from r2tuning.features.extraction import Job, QueryJob, VideoJob


SAMPLING = "fps filter of FFmpeg, scaled by swscale"  # as the processor reads videos
CHUNK_SIZE = 32  # frames encoded at once
CLASS_NAMES = ("image_processor_type", "processor_class")  # they depend on what is installed


class FeatureStore:
    """Writes features; see `r2tuning.features.extraction` for the methods.

    Queries are encoded one by one: in a batch their last bits would depend on each other, so that a run that was
    interrupted would end with other files than one that was not.

    Args:
        folder: The cache.
        model: CLIP inside, its encoders on the device and in the precision of the work.
        processor: The model's.
        settings: Of the cache, from `feature_settings`.
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
        """`None` if the job's file is there and sound, else `"missing"` or what is wrong with it."""
        path = self._path(job)
        try:
            _, record = load_features(path)
        except FileNotFoundError:
            return "missing"
        except ValueError as error:
            return str(error)
        differing = [name for name, value in self._record(job).items() if record.get(name) != value]
        return f"'{path}' was made from something else: {differing} changed." if differing else None

    def read(self, job: Job) -> Iterator[Any]:
        """Token ids of a query; of a video its stream and then its pixels, piece by piece."""
        if isinstance(job, QueryJob):
            yield self.processor(text=job.text)["input_ids"]
            return
        stream = self.processor.stream_video(job.source, fps=job.fps, chunk_size=CHUNK_SIZE)
        if job.exact:
            stream.pieces, stream.num_frames = fit_length(stream.pieces, job.num_frames), job.num_frames
        yield stream
        yield from stream

    def write(self, job: Job, items: Iterator[Any]) -> Iterator[int]:
        """Encode what `read` yields and write the file; a long video never lies in memory but for its features."""
        record = self._record(job)
        if isinstance(job, QueryJob):
            states = self._half(self.model.get_text_hidden_states(next(items).to(self.model.device)))
            yield 1
        else:
            stream = next(items)
            record["duration_sec"] = stream.duration_sec
            states, start = None, 0
            for piece in items:
                part = self._half(self.model.get_video_hidden_states(piece[None].to(self.model.device), CHUNK_SIZE))
                states = part.new_empty(stream.num_frames, *part.shape[1:]) if states is None else states
                states[start : start + len(part)] = part
                start += len(part)
                yield len(part)
            if start != stream.num_frames:
                raise ValueError(f"only {start} of its {stream.num_frames} frames could be read")
        save_features(self.folder, self._path(job), states, record)

    def _half(self, states: torch.Tensor) -> torch.Tensor:
        """The only row of a batch, in half precision on the CPU."""
        states = states[0].to(torch.float16)
        if not states.isfinite().all():
            raise ValueError("its features are too large for half precision, or not finite")
        return states.cpu().contiguous()

    def _path(self, job: Job) -> Path:
        if isinstance(job, QueryJob):
            return query_path(self.folder, job.id, job.text)
        return video_path(self.folder, job.id)

    def _record(self, job: Job) -> dict[str, Any]:
        """What the job's file must say of itself."""
        if isinstance(job, QueryJob):
            return {"id": job.id, "text": job.text, "settings": self._digest}
        return {"settings": self._digest, **video_record(job)}


def video_record(job: VideoJob) -> dict[str, Any]:
    """What tells whether a video was sampled as is wanted now; its size tells whether it was replaced."""
    size = os.path.getsize(job.source) if os.path.isfile(job.source) else None
    return {"id": job.id, "fps": job.fps, "num_frames": job.num_frames if job.exact else None, "source_bytes": size}


def fit_length(pieces: Iterable[torch.Tensor | np.ndarray], num_frames: int) -> Iterator[torch.Tensor | np.ndarray]:
    """Exactly so many frames: those too many are left out, the last one stands for those that are missing."""
    for piece in pieces:
        piece = piece[:num_frames]
        num_frames -= len(piece)
        yield piece
        if num_frames == 0:
            return
    for start in range(0, num_frames, CHUNK_SIZE):
        yield piece[[-1] * min(CHUNK_SIZE, num_frames - start)]


def feature_settings(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    benchmark: str,
    fps: float | str,
    dtype: str,
    clip: str,
) -> dict[str, Any]:
    """All that features depend on, besides the videos and the annotations.

    Args:
        model: Its encoders still in float32.
        processor: Its processor.
        benchmark: Name.
        fps: Frames per second, or `ONE_PER_CLIP`.
        dtype: Precision in which the encoders work.
        clip: What the model's CLIP is called; only told, as its weights are compared.
    """
    return {
        "format": FORMAT,
        "store": "features",
        "benchmark": benchmark,
        "fps": fps,
        "sampling": SAMPLING,
        "clip": clip,
        "clip_weights": fingerprint(model),
        "num_layers": model.config.num_recurrent_steps,
        "dtype": dtype,
        **image_settings(processor),
    }


def image_settings(processor: R2TuningProcessor) -> dict[str, Any]:
    """What becomes of a picture before CLIP sees it."""
    settings = json.loads(processor.image_processor.to_json_string())
    return {f"image.{name}": value for name, value in settings.items() if name not in CLASS_NAMES}


__all__ = [
    "FeatureStore",
    "feature_settings",
    "fit_length",
    "image_settings",
    "video_record",
]
