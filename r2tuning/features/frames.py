"""Makes a small video of each video: the frames that the model would see, in CLIP's size, without any loss.

    settings.json               what the frames depend on
    videos/<video id>.mp4       h264 in RGB, lossless, as many pictures a second as the frame rate
    records/<video id>.json     what the video was made from, with a checksum
    partial/                    files that are being written

`videos` serves as `video_dir` of a dataset: at the same frame rate the processor finds the very same frames there, so
the model computes the same as on the original videos. With CLIP ViT-B/32 at 0.5 frames a second a video of 150 s takes
about 5 MB, its features 23 MB.
"""

import json
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from modeling_r2tuning import R2TuningProcessor
from modeling_r2tuning.video_io_r2tuning import MAX_DENOMINATOR, iter_video_frames
from r2tuning.features.cache import FORMAT, replacing, settings_digest, video_path, write_json
from r2tuning.features.extraction import VideoJob
from r2tuning.features.store import CHUNK_SIZE, SAMPLING, fit_length, image_settings, video_record


# Of the lossless presets the largest by a seventh, but read in a third of the time, each epoch anew.
ENCODER = {"qp": "0", "preset": "ultrafast"}
PIXELS_ONLY = ("image.do_rescale", "image.rescale_factor", "image.do_normalize", "image.image_mean", "image.image_std")


class FrameStore:
    """Writes small videos; see `r2tuning.features.extraction` for the methods.

    Args:
        folder: The cache.
        processor: Of the CLIP that is to see the frames.
        settings: Of the cache, from `frame_settings`.
    """

    def __init__(self, folder: Path, processor: R2TuningProcessor, settings: dict[str, Any]):
        self.folder = folder
        self.processor = processor
        self.settings = settings
        self._digest = settings_digest(settings)

    def check(self, job: VideoJob) -> str | None:
        """`None` if the job's file is there and sound, else `"missing"` or what is wrong with it."""
        path = self._path(job)
        if not path.exists():
            return "missing"
        try:
            record = json.loads(self._record_path(job).read_text(encoding="utf-8"))
            checksum = record.pop("checksum")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"'{path}' is corrupt: it has no record of what it was made from."
        if zlib.crc32(path.read_bytes()) != checksum:
            return f"'{path}' is corrupt: its content does not fit its checksum."
        differing = [name for name, value in self._record(job).items() if record.get(name) != value]
        return f"'{path}' was made from something else: {differing} changed." if differing else None

    def read(self, job: VideoJob) -> Iterator[np.ndarray]:
        """Pictures `(n, size, size, 3)`, uint8: scaled and cropped as for CLIP."""
        image_processor = self.processor.image_processor
        size = image_processor.size["shortest_edge"]
        pieces = iter_video_frames(job.source, job.fps, size=size, chunk_size=CHUNK_SIZE)
        for piece in fit_length(pieces, job.num_frames) if job.exact else pieces:
            pictures = image_processor(
                list(piece),
                do_rescale=False,
                do_normalize=False,
                input_data_format="channels_last",
                return_tensors="np",
            )["pixel_values"]
            yield np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))

    def write(self, job: VideoJob, items: Iterator[np.ndarray]) -> Iterator[int]:
        """Write the video and its record."""
        path = self._path(job)
        with replacing(self.folder, path) as partial:
            try:
                yield from _encode(partial, items, Fraction(job.fps).limit_denominator(MAX_DENOMINATOR))
            except av.error.FFmpegError as error:
                raise OSError(f"'{path}' could not be written ({error.strerror}).") from error
            record = {**self._record(job), "checksum": zlib.crc32(partial.read_bytes())}
            write_json(self.folder, self._record_path(job), record)  # before the video: that is done when it is there

    def _path(self, job: VideoJob) -> Path:
        return video_path(self.folder, job.id, "mp4")

    def _record_path(self, job: VideoJob) -> Path:
        return self.folder / "records" / f"{self._path(job).stem}.json"

    def _record(self, job: VideoJob) -> dict[str, Any]:
        return {"settings": self._digest, **video_record(job)}


def _encode(path: Path, pieces: Iterator[np.ndarray], fps: Fraction) -> Iterator[int]:
    with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264rgb", rate=fps, options=ENCODER)
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1  # several encode differently from run to run
        count = 0
        for piece in pieces:
            if count == 0:
                stream.height, stream.width = piece.shape[1:3]
            for picture in piece:
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = count, 1 / fps
                container.mux(stream.encode(frame))
                count += 1
            yield len(piece)
        container.mux(stream.encode(None))


def frame_settings(processor: R2TuningProcessor, benchmark: str, fps: float | str) -> dict[str, Any]:
    """All that the frames depend on, besides the videos and the annotations; arguments as for `feature_settings`."""
    image = {name: value for name, value in image_settings(processor).items() if name not in PIXELS_ONLY}
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
