"""Sample frames of a video at regular times, and cut a part of a video out. PyAV decodes; torch is not needed.

A *picture* is what the file stores; a *frame* is the picture that is sampled for one of the regular times, the grid.
Frames are those of ffmpeg's `fps` filter, with which the published features were made. With t the time of a picture
since the first one, the filter assigns the picture to the grid index round(t * fps), halves rounded away from zero;
the last picture assigned to an index, or to one before it if there is none, is its frame. In other words, the frame of
index i is the last picture with t < (i + 1/2) / fps. The number of grid times is round(duration * fps), halves rounded
up; unlike the filter, there is always at least one. Times are compared as integers, so that no rounding error decides.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from .containers_r2tuning import MAX_PIXELS, VideoSource
from .files_r2tuning import check_replaceable, writing
from .video_cutting_r2tuning import COPY_FORMATS, choose_copy_ending, copy_part, encode_part
from .video_rendering_r2tuning import INTERPOLATIONS
from .video_selection_r2tuning import repeat_pictures, select_pictures
from .video_source_r2tuning import VideoInput, make_source
from .video_timeline_r2tuning import Timeline, scan


__all__ = [
    "MAX_DENOMINATOR",
    "MAX_FRAMES",
    "CopiedPart",
    "ScannedVideo",
    "VideoFrameIterator",
    "VideoFrames",
    "copy_clip",
    "copy_ending",
    "cut_clip",
    "iter_video_frames",
    "load_video_frames",
    "sample_frame_times",
    "scan_video",
]

MAX_FRAMES = 100_000  # 27 hours at one frame a second, or an hour of every picture; a caller may allow more
MAX_DENOMINATOR = 1_000_000  # of frame rates: 0.1 means 1/10, not the binary number next to it
END_TOLERANCE_SEC = Fraction(1, 1000)  # `end_sec` may be a rounded duration


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video at regular times.

    Args:
        frames: `np.ndarray` of shape `(num_frames, height, width, 3)`, uint8 RGB, upright, with square pixels.
        frame_times_sec: `np.ndarray` of shape `(num_frames,)`, float64, the grid times start + i / fps in seconds.
        duration_sec: Length of the whole video stream in seconds, whatever range was sampled.
        fps: Grid times per second.
    """

    frames: np.ndarray
    frame_times_sec: np.ndarray
    duration_sec: float
    fps: float


class VideoFrameIterator(Iterator[np.ndarray]):
    """Iterator over arrays of shape `(at most chunk_size, height, width, 3)`, uint8; made by `iter_video_frames`.

    Args:
        chunks: The arrays.
        frame_times_sec: `np.ndarray` of shape `(num_frames,)`, the grid times in seconds.
        duration_sec: Length of the whole video stream in seconds.
        fps: Grid times per second.
    """

    def __init__(self, chunks: Iterator[np.ndarray], frame_times_sec: np.ndarray, duration_sec: float, fps: float):
        self._chunks = chunks
        self.frame_times_sec = frame_times_sec
        self.num_frames = len(frame_times_sec)
        self.duration_sec = duration_sec
        self.fps = fps

    def __next__(self) -> np.ndarray:
        return next(self._chunks)


def sample_frame_times(
    duration_sec: float,
    fps: float,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    *,
    max_frames: int = MAX_FRAMES,
) -> np.ndarray:
    """Return the grid times start + i / fps of a video or a part of it.

    Args:
        duration_sec: Length of the video in seconds.
        fps: Grid times per second.
        start_sec: Start of the part in seconds.
        end_sec: End of the part in seconds; `None` = the end of the video.
        max_frames: Largest number of times.

    Returns:
        `np.ndarray` of shape `(num_frames,)`, float64: round((end - start) * fps) times (halves up), at least one.

    Raises:
        TypeError: An argument is not a number.
        ValueError: A number is out of range, or there are more than `max_frames` times.
    """
    duration = _as_fraction("duration_sec", duration_sec)
    start, end = _check_range(start_sec, end_sec, duration)
    return _grid_times(_as_fraction("fps", fps), start, end, _as_count("max_frames", max_frames))


def load_video_frames(
    video: VideoInput,
    fps: float,
    *,
    size: int | tuple[int, int] | None = None,
    interpolation: str = "bicubic",
    start_sec: float = 0.0,
    end_sec: float | None = None,
    max_frames: int = MAX_FRAMES,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> VideoFrames:
    """Sample frames of a video at regular times and load them all into memory.

    Args:
        video: Path of a file or a pipe, bytes of a file, binary file object or http(s) address.
        fps: Frames to sample per second.
        size: Short side of the frames in pixels, where the long side keeps the proportions; or height and width. `None` =
            as in the video.
        interpolation: How frames are scaled, "bicubic" or "bilinear".
        start_sec: Start of the part to sample, in seconds.
        end_sec: End of the part to sample, in seconds; `None` = the end of the video.
        max_frames: Largest number of frames; a file of a few hundred bytes can claim to last for years.
        max_pixels: Largest number of pixels of a frame.
        progress: Called with the number of frames read so far and the total number of frames.

    Returns:
        `VideoFrames` with frames of shape `(num_frames, height, width, 3)`, their times and the length of the video.

    Raises:
        FileNotFoundError: The path does not exist.
        ConnectionError: The address cannot be fetched.
        TypeError: An argument is of the wrong kind.
        ValueError: The video cannot be read, or its pictures are too large, or a number is out of range.
    """
    chunks = iter_video_frames(
        video,
        fps,
        size=size,
        interpolation=interpolation,
        start_sec=start_sec,
        end_sec=end_sec,
        max_frames=max_frames,
        max_pixels=max_pixels,
        progress=progress,
    )
    chunk = next(chunks)
    frames = _allocate(chunks.num_frames, chunk.shape[1:])
    frames[: len(chunk)] = chunk
    filled = len(chunk)
    for chunk in chunks:
        frames[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return VideoFrames(frames, chunks.frame_times_sec, chunks.duration_sec, chunks.fps)


def iter_video_frames(
    video: VideoInput,
    fps: float,
    *,
    size: int | tuple[int, int] | None = None,
    interpolation: str = "bicubic",
    start_sec: float = 0.0,
    end_sec: float | None = None,
    max_frames: int = MAX_FRAMES,
    max_pixels: int = MAX_PIXELS,
    chunk_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> VideoFrameIterator:
    """Sample frames of a video at regular times, a chunk at a time.

    Before this returns, the file is opened and checked, and its timestamps are read (about 20 bytes are kept for each
    picture); pictures are decoded while the result is iterated.

    Args:
        video: Path of a file or a pipe, bytes of a file, binary file object or http(s) address.
        fps: Grid times per second. The module's docstring says which picture becomes the frame of a grid time.
        size: Short side of the frames in pixels, the long side follows (truncated); or height and width. `None` = as in
            the video.
        interpolation: How frames are scaled, "bicubic" or "bilinear".
        start_sec: First grid time, in seconds since the first picture.
        end_sec: End of the part to sample, in seconds; later pictures are not used. `None` = the end of the video.
        max_frames: Largest number of grid times; a file of a few hundred bytes can claim to last for years.
        max_pixels: Largest number of pixels of a picture, both as stored and as returned.
        chunk_size: Largest number of frames in an array.
        progress: Called with the number of frames read so far and the total number of frames.

    Returns:
        A `VideoFrameIterator` over the arrays, with `num_frames`, `frame_times_sec`, `duration_sec` and `fps`.

    Raises:
        FileNotFoundError: The path does not exist.
        ConnectionError: The address cannot be fetched.
        TypeError: An argument is of the wrong kind.
        ValueError: The file holds no readable video or too large pictures, or a number is out of range.
    """
    rate = _as_fraction("fps", fps)
    size = _as_size(size)
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}, got {interpolation!r}.")
    chunk_size = _as_count("chunk_size", chunk_size)
    max_frames = _as_count("max_frames", max_frames)
    source = make_source(video, _as_count("max_pixels", max_pixels))
    timeline = scan(source)
    start, end = _check_range(start_sec, end_sec, timeline.duration)
    times = _grid_times(rate, start, end, max_frames, source.name)
    limits = _tick_limits(timeline.time_base, rate, start, end, len(times))
    pictures = select_pictures(source, timeline, limits, size, interpolation)
    chunks = _gather(pictures, len(times), chunk_size, progress)
    return VideoFrameIterator(chunks, times, float(timeline.duration), float(fps))


@dataclass(frozen=True)
class ScannedVideo:
    """A video whose timestamps have been read, so that several parts can be cut out without reading them again.

    Args:
        source: The video.
        timeline: Its timestamps.
        path: Its path; `None` = it has none.
    """

    source: VideoSource
    timeline: Timeline
    path: str | os.PathLike | None


def scan_video(video: VideoInput, *, max_pixels: int = MAX_PIXELS) -> ScannedVideo:
    """Read the timestamps of a video, for `cut_clip`, `copy_clip` and `copy_ending`.

    Args:
        video: Path, bytes of a file, binary file object or http(s) address.
        max_pixels: Largest number of pixels of a picture.

    Raises:
        FileNotFoundError: The path does not exist.
        ImportError: PyAV is not installed.
        ValueError: The video cannot be read.
    """
    source = make_source(video, _as_count("max_pixels", max_pixels))
    return ScannedVideo(source, scan(source), _path_of(video))


def _path_of(video: VideoInput | ScannedVideo) -> str | os.PathLike | None:
    if isinstance(video, ScannedVideo):
        return video.path
    return video if isinstance(video, str | os.PathLike) else None


def _scan_for(
    output_path: str | os.PathLike, video: VideoInput | ScannedVideo, max_pixels: int
) -> tuple[VideoSource, Timeline]:
    """Source and timestamps of a video that is to be cut, unless the output would replace it."""
    path = _path_of(video)
    inputs = [] if path is None else [path]
    check_replaceable(output_path, *inputs)
    scanned = video if isinstance(video, ScannedVideo) else scan_video(video, max_pixels=max_pixels)
    return scanned.source, scanned.timeline


def cut_clip(
    video: VideoInput | ScannedVideo,
    output_path: str | os.PathLike,
    start_sec: float,
    end_sec: float,
    *,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Cut a part of a video out and write it as an mp4 file that every player and browser opens.

    The file is h264, upright and with square pixels. It keeps the times of the video's pictures and starts with the
    picture that is on screen at `start_sec`. The sound, if there is any, is AAC in mono or stereo and in time with the
    pictures; of several languages it is the default one. Where the clock of the file jumps, sound and pictures cannot be
    aligned, so the cut is silent, with a warning. The file appears at `output_path` only once it is complete.

    Args:
        video: Path, bytes of a file, binary file object or http(s) address; or, to cut several parts out, the result of
            `scan_video`.
        output_path: File to write; an existing one is replaced.
        start_sec: Start of the part, in seconds since the first picture.
        end_sec: End of the part, in seconds.
        max_pixels: Largest number of pixels of a picture; that of `scan_video` counts for its result.

    Raises:
        FileExistsError: `output_path` is `video` itself, or not a regular file.
        ImportError: PyAV is not installed, or cannot write h264.
        OSError: `output_path` cannot be written.
        ValueError: The video cannot be read, or the part does not lie within it.
    """
    source, timeline = _scan_for(output_path, video, max_pixels)
    start, end = _check_range(start_sec, end_sec, timeline.duration)
    with writing(output_path) as partial:
        encode_part(partial, source, timeline, start, end)


@dataclass(frozen=True)
class CopiedPart:
    """What `copy_clip` wrote.

    Args:
        start_sec: Its start, in seconds since the first picture of the video.
        end_sec: Its end.
    """

    start_sec: float
    end_sec: float


def copy_clip(
    video: VideoInput | ScannedVideo,
    output_path: str | os.PathLike,
    start_sec: float,
    end_sec: float,
    *,
    max_pixels: int = MAX_PIXELS,
) -> CopiedPart:
    """Cut a part of a video out without encoding it: from the key picture nearest to its start to that nearest to its end.

    This takes as long as reading the file and loses no quality. Key pictures may be many seconds apart; the result says
    which part was written. The sound is that of `cut_clip`, copied too.

    Args:
        video: Path, bytes of a file, binary file object or http(s) address; or, to cut several parts out, the result of
            `scan_video`.
        output_path: File to write, ending in .mp4, .mov or .mkv; an existing one is replaced. `copy_ending` names an
            ending that can hold the video.
        start_sec: Start of the part, in seconds since the first picture.
        end_sec: End of the part, in seconds.
        max_pixels: Largest number of pixels of a picture; that of `scan_video` counts for its result.

    Returns:
        The part that was written.

    Raises:
        FileExistsError: `output_path` is `video` itself, or not a regular file.
        ImportError: PyAV is not installed.
        OSError: `output_path` cannot be written.
        ValueError: The video cannot be read, the part does not lie within it, `output_path` has another ending or one
            that cannot hold the video, or the file of the video does not state when its pictures are shown or which are
            key pictures.
    """
    if Path(output_path).suffix.lower() not in COPY_FORMATS:
        raise ValueError(f"`output_path` must end in {', '.join(COPY_FORMATS)}, got '{output_path}'.")
    source, timeline = _scan_for(output_path, video, max_pixels)
    start, end = _check_range(start_sec, end_sec, timeline.duration)
    with writing(output_path) as partial:
        copied_start, copied_end = copy_part(partial, source, timeline, start, end)
    return CopiedPart(float(copied_start), float(copied_end))


def copy_ending(video: VideoInput | ScannedVideo) -> str:
    """Ending of a file that `copy_clip` can copy a video to.

    It is ".mp4" if players open the codecs in mp4, else ".mov" for a copy of a QuickTime file, else ".mkv".

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: The video cannot be read.
    """
    return choose_copy_ending(video.source if isinstance(video, ScannedVideo) else make_source(video))


# ---- arguments and times ----


def _as_fraction(name: str, value: float, least: float | None = None) -> Fraction:
    """Check a number and convert it to a fraction; `least` is the smallest allowed one, `None` = any positive one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}.")
    in_range = value > 0 if least is None else value >= least
    if not math.isfinite(value) or not in_range:
        allowed = "positive" if least is None else f"at least {least:g}"
        raise ValueError(f"`{name}` must be finite and {allowed}, got {value}.")
    exact = Fraction(float(value))
    return exact.limit_denominator(MAX_DENOMINATOR) or exact  # a number near zero must not become zero


def _as_count(name: str, value: int) -> int:
    """Check a number of frames or pixels, which must be at least one."""
    if not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an integer, got {type(value).__name__}.")
    return int(_as_fraction(name, value, least=1))


def _as_size(size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
    """Check a short side, or height and width, in pixels."""
    if size is None:
        return None
    if isinstance(size, tuple) and len(size) == 2:
        height, width = size
        return _as_count("size", height), _as_count("size", width)
    return _as_count("size", size)


def _check_range(start_sec: float, end_sec: float | None, duration: Fraction) -> tuple[Fraction, Fraction]:
    """Check the bounds of a part of the video and return them in seconds."""
    start = _as_fraction("start_sec", start_sec, least=0)
    end = duration if end_sec is None else _as_fraction("end_sec", end_sec)
    if not start < end <= duration + END_TOLERANCE_SEC:
        bounds = f"inside the video's {float(duration):g} seconds, got {start_sec} to {end_sec}"
        raise ValueError(f"`start_sec` must be before `end_sec` and both {bounds}.")
    return start, min(end, duration)


def _grid_times(fps: Fraction, start: Fraction, end: Fraction, max_frames: int, name: str = "The grid") -> np.ndarray:
    num_frames = max(math.floor((end - start) * fps + Fraction(1, 2)), 1)
    if num_frames > max_frames:
        raise ValueError(
            f"{name} lasts {float(end - start):,.0f} seconds, which is {num_frames:,} times at {float(fps):g} a second, "
            f"more than `max_frames` = {max_frames:,}; pass a larger `max_frames`, a lower `fps` or a shorter part."
        )
    return float(start) + np.arange(num_frames) / float(fps)


def _tick_limits(time_base: Fraction, fps: Fraction, start: Fraction, end: Fraction, num_frames: int) -> np.ndarray:
    """For each grid time, the first timestamp that is too late for it: ceil((start + (i + 1/2) / fps) / time_base)."""
    first = (start + 1 / (2 * fps)) / time_base
    step = 1 / (fps * time_base)
    # With a common denominator, all limits are exact integers: ceil((first_scaled + i * step_scaled) / scale).
    scale = first.denominator * step.denominator
    first_scaled, step_scaled = int(first * scale), int(step * scale)
    last = math.ceil(end / time_base)
    limits = np.empty(num_frames, dtype=np.int64)
    for index in range(num_frames):
        limit = -(-(first_scaled + index * step_scaled) // scale)
        limits[index] = min(limit, last)
    return limits


# ---- arrays of frames ----


def _allocate(num_frames: int, shape: tuple[int, ...]) -> np.ndarray:
    """Reserve memory for all frames, so that a lack of it is noticed immediately, not after minutes of decoding."""
    try:
        return np.empty((num_frames, *shape), dtype=np.uint8)
    except MemoryError as error:
        size = f"{num_frames * math.prod(shape) / 1e9:,.0f} GB"
        raise ValueError(
            f"{num_frames:,} frames of {shape[1]} x {shape[0]} pixels take {size}, more memory than there is; pass a "
            "smaller `size` or `fps`, or read them in chunks with `iter_video_frames`."
        ) from error


def _gather(
    pictures: Iterator[tuple[np.ndarray, int]],
    num_frames: int,
    chunk_size: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[np.ndarray]:
    """Collect frames in arrays of up to `chunk_size`, from pictures and for how many grid times each is used."""
    for index, picture in enumerate(repeat_pictures(pictures)):
        place = index % chunk_size
        if place == 0:
            chunk = np.empty((min(chunk_size, num_frames - index), *picture.shape), dtype=np.uint8)
        chunk[place] = picture
        if progress is not None:
            progress(index + 1, num_frames)
        if place == len(chunk) - 1:
            yield chunk
