"""The store of frames: a small lossless video of the frames that the backbone sees, in its input size, for each video.

    settings.json               what the frames depend on
    videos/<video id>.mp4       H.264 in RGB, lossless, at the frame rate of the cache
    records/<video id>.json     what the video was made from, with a checksum
    partial/                    unfinished files

`videos` serves as `video_dir` of a dataset: at the same frame rate the processor samples exactly the same frames, so
the model computes the same as on the original videos. With CLIP ViT-B/32 at 0.5 frames per second a video of 150 s
takes about 5 MB, its features 23 MB.
"""

import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from modeling_r2tuning import R2TuningProcessor
from modeling_r2tuning.processing_r2tuning import frame_interpolation, frame_size
from modeling_r2tuning.video_io_r2tuning import MAX_DENOMINATOR, iter_video_frames
from r2tuning.features.files import PARTIAL, replacing, video_path
from r2tuning.features.jobs import VideoJob
from r2tuning.features.settings import FORMAT, settings_digest
from r2tuning.features.store import (
    CHUNK_SIZE,
    SAMPLING,
    compare_records,
    fit_length,
    image_settings,
    video_record,
)
from r2tuning.json_files import read_json, write_json


# Of the lossless presets this one makes files a seventh larger, but they decode three times as fast in every epoch.
ENCODER = {"qp": "0", "preset": "ultrafast"}
# Settings of the image processor that apply after the frames were stored.
PIXEL_SETTINGS = (
    *("image.do_rescale", "image.rescale_factor"),
    *("image.do_normalize", "image.image_mean", "image.image_std"),
)


class FrameStore:
    """Writes small videos; its methods are those of `r2tuning.execution.jobs.Store`.

    Args:
        folder: The cache.
        processor: Processor of the backbone that will see the frames.
        settings: Settings of the cache, from `frame_settings`.
    """

    def __init__(self, folder: Path, processor: R2TuningProcessor, settings: dict[str, Any]):
        self.folder = folder
        self.processor = processor
        self.settings = settings
        self._digest = settings_digest(settings)

    def check(self, job: VideoJob) -> str | None:
        """`None` if the job's file is complete and intact; otherwise `"missing"`, or what is wrong with it."""
        path = self._path(job)
        if not path.exists():
            return "missing"
        try:
            record = read_json(self._record_path(job))
            checksum = record.pop("checksum")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"'{path}' is corrupt: there is no record of what it was made from."
        if zlib.crc32(path.read_bytes()) != checksum:
            return f"'{path}' is corrupt: its contents do not match its checksum."
        return compare_records(path, self._record(job), record)

    def read(self, job: VideoJob) -> Iterator[np.ndarray]:
        """Yield frames `(n, size, size, 3)`, uint8, resized and cropped for the backbone but not normalised."""
        image_processor = self.processor.image_processor
        pieces: Iterable[np.ndarray] = iter_video_frames(
            job.source,
            job.fps,
            size=frame_size(image_processor),
            interpolation=frame_interpolation(image_processor),
            chunk_size=CHUNK_SIZE,
        )
        if job.exact:
            pieces = fit_length(pieces, job.num_frames)
        for piece in pieces:
            cropped = image_processor(
                list(piece),
                do_rescale=False,
                do_normalize=False,
                input_data_format="channels_last",
                return_tensors="np",
            )["pixel_values"]  # (n, 3, size, size)
            yield np.ascontiguousarray(cropped.transpose(0, 2, 3, 1))

    def write(self, job: VideoJob, items: Iterator[np.ndarray]) -> Iterator[int]:
        """Write the video and its record; yields numbers of written frames.

        Raises:
            OSError: A file cannot be written.
        """
        path = self._path(job)
        with replacing(self.folder, path) as partial:
            try:
                yield from _encode(partial, items, Fraction(job.fps).limit_denominator(MAX_DENOMINATOR))
            except av.error.FFmpegError as error:
                raise OSError(f"'{path}' could not be written ({error.strerror}).") from error
            # The record comes before the video, as a job is finished once its video is there.
            self._write_record(job, zlib.crc32(partial.read_bytes()))

    def _write_record(self, job: VideoJob, checksum: int) -> None:
        path = self._record_path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {**self._record(job), "checksum": checksum}
        write_json(path, record, sort_keys=True, temporary_in=self.folder / PARTIAL)

    def _path(self, job: VideoJob) -> Path:
        return video_path(self.folder, job.id, "mp4")

    def _record_path(self, job: VideoJob) -> Path:
        return self.folder / "records" / f"{self._path(job).stem}.json"

    def _record(self, job: VideoJob) -> dict[str, Any]:
        return {"settings": self._digest, **video_record(job)}


def _encode(path: Path, pieces: Iterator[np.ndarray], fps: Fraction) -> Iterator[int]:
    """Encode frames `(n, height, width, 3)`, uint8; yields their numbers."""
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264rgb", rate=fps, options=ENCODER)
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1  # with several threads the file differs from run to run
        count = 0
        for piece in pieces:
            if count == 0:
                stream.height, stream.width = piece.shape[1:3]
            for pixels in piece:
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base = count, 1 / fps
                container.mux(stream.encode(frame))
                count += 1
            yield len(piece)
        container.mux(stream.encode(None))


def frame_settings(processor: R2TuningProcessor, benchmark: str, fps: float | str) -> dict[str, Any]:
    """Everything that the frames depend on, besides videos and annotations; arguments as for `feature_settings`."""
    image = {name: value for name, value in image_settings(processor).items() if name not in PIXEL_SETTINGS}
    return {
        "format": FORMAT,
        "store": "frames",
        "benchmark": benchmark,
        "fps": fps,
        "sampling": SAMPLING,
        "encoder": f"libx264rgb {ENCODER}",
        **image,
    }


__all__ = ["FrameStore", "frame_settings"]
