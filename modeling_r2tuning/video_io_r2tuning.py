"""Reading a video: pictures on a regular grid of times, and cutting a part of it out. PyAV decodes, no torch.

Which picture belongs to a grid time follows the `fps` filter of ffmpeg, with which the published features were made:
a picture counts for the grid time nearest to its own time, and the last picture that counts for a grid time or for one
before it is taken. With t the time of a picture since the first one, its grid index is t * fps rounded half away from
zero, so the picture taken for index i is the last one with t < (i + 1/2) / fps. The number of grid times is
duration * fps, rounded in the same way; unlike the filter, the answer is never empty. Times are compared as integers.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from .containers_r2tuning import MAX_PIXELS, VideoSource, import_av
from .files_r2tuning import check_replaceable, writing
from .video_source_r2tuning import VideoInput, make_source
from .video_timeline_r2tuning import DECODE, DROP, NO_TIME, REFERENCE, Timeline, decode, scan


__all__ = [
    "MAX_FRAMES",
    "VideoFrameIterator",
    "VideoFrames",
    "cut_clip",
    "iter_video_frames",
    "load_video_frames",
    "sample_frame_times",
]

logger = logging.getLogger(__name__)

MAX_FRAMES = 100_000  # 27 hours at one picture a second, an hour of every picture: more is asked for by name
MAX_DENOMINATOR = 1_000_000  # 0.1 means 1/10, not the binary number next to it
END_TOLERANCE_SEC = Fraction(1, 1000)  # `end_sec` may come from a rounded duration


@dataclass(frozen=True)
class VideoFrames:
    """Pictures of a video at regular times.

    Args:
        frames: `np.ndarray` of shape `(num_frames, height, width, 3)`, uint8 RGB, upright, with square pixels.
        frame_times_sec: `np.ndarray` of shape `(num_frames,)`, float64, the grid times start + i / fps in seconds.
        duration_sec: Length of the whole video stream in seconds, whatever range was asked for.
        fps: Grid times per second.
    """

    frames: np.ndarray
    frame_times_sec: np.ndarray
    duration_sec: float
    fps: float


class VideoFrameIterator(Iterator[np.ndarray]):
    """Yields arrays of shape `(at most chunk_size, height, width, 3)`, uint8; made by `iter_video_frames`.

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
    """The grid times start + i / fps that stand for a video or a part of it.

    Args:
        duration_sec: Length of the video in seconds.
        fps: Grid times per second.
        start_sec: Where the part begins, in seconds.
        end_sec: Where the part ends, in seconds; `None` = the end of the video.
        max_frames: Largest number of times.

    Returns:
        `np.ndarray` of shape `(num_frames,)`, float64: (end - start) * fps times, rounded half up, and at least one.
    """
    duration = _number("duration_sec", duration_sec)
    start, end = _check_range(start_sec, end_sec, duration)
    return _grid_times(_number("fps", fps), start, end, _count("max_frames", max_frames))


def load_video_frames(
    video: VideoInput,
    fps: float,
    *,
    size: int | None = None,
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
        size: Short side of the frames in pixels; the long side keeps the proportions. `None` = as in the video.
        start_sec: Start of the part to sample, in seconds.
        end_sec: End of the part to sample, in seconds; `None` = the end of the video.
        max_frames: Largest number of frames; a file of a few hundred bytes can claim to last for years.
        max_pixels: Largest number of pixels of a frame.
        progress: Called with the number of frames read so far and the total number of frames.

    Returns:
        `VideoFrames`: frames of shape `(num_frames, height, width, 3)`, their times and the length of the video.

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
    size: int | None = None,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    max_frames: int = MAX_FRAMES,
    max_pixels: int = MAX_PIXELS,
    chunk_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> VideoFrameIterator:
    """Pictures of a video on a regular grid of times, a chunk at a time.

    The file is opened, checked and its timestamps are read (8 bytes are kept for each) before this returns; pictures
    are decoded while the result is iterated.

    Args:
        video: Path of a file or a pipe, bytes of a file, binary file object or http(s) address.
        fps: Grid times per second. The module's docstring says which picture belongs to a grid time.
        size: Short side of the pictures in pixels, the long side follows (truncated); `None` = as in the video.
        start_sec: First grid time in seconds since the first picture.
        end_sec: Where to stop, in seconds; pictures after it are not used. `None` = the end of the video.
        max_frames: Largest number of grid times; a file of some hundred bytes can claim to last for years.
        max_pixels: Largest number of pixels of a picture, in the video and as returned.
        chunk_size: Largest number of pictures in an array.
        progress: Called with the number of pictures so far and the number to come in all.

    Returns:
        `VideoFrameIterator`: arrays, and `num_frames`, `frame_times_sec`, `duration_sec` and `fps`.

    Raises:
        FileNotFoundError: The path does not exist.
        ConnectionError: The address cannot be fetched.
        TypeError: An argument is of the wrong kind.
        ValueError: The file holds no readable video or too large pictures, or a number is out of range.
    """
    rate = _number("fps", fps)
    size = None if size is None else _count("size", size)
    chunk_size = _count("chunk_size", chunk_size)
    max_frames = _count("max_frames", max_frames)
    source = make_source(video, _count("max_pixels", max_pixels))
    timeline = scan(source)
    start, end = _check_range(start_sec, end_sec, timeline.duration)
    times = _grid_times(rate, start, end, max_frames, source.name)
    pictures = _pictures(source, timeline, _tick_limits(timeline.time_base, rate, start, end, len(times)), size)
    chunks = _gather(pictures, len(times), chunk_size, progress)
    return VideoFrameIterator(chunks, times, float(timeline.duration), float(fps))


def cut_clip(
    video: VideoInput,
    output_path: str | os.PathLike,
    start_sec: float,
    end_sec: float,
    *,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Write a part of a video as an mp4 file that players and browsers open: h264, upright, square pixels, no sound.

    The clip keeps the video's own frame times and begins with the picture that is on screen at `start_sec`.
    `output_path` appears when the clip is whole.

    Args:
        video: Path, bytes of a file, binary file object or http(s) address.
        output_path: File to write; an existing one is replaced.
        start_sec: Begin of the part, in seconds since the first picture.
        end_sec: End of the part, in seconds.
        max_pixels: Largest number of pixels of a picture.
    """
    check_replaceable(output_path, *([video] if isinstance(video, str | os.PathLike) else []))
    source = make_source(video, _count("max_pixels", max_pixels))
    timeline = scan(source)
    start, end = (time / timeline.time_base for time in _check_range(start_sec, end_sec, timeline.duration))
    times = np.unique(timeline.times)
    first = max(np.searchsorted(times, float(start), side="right") - 1, 0)
    times = times[first : max(np.searchsorted(times, float(end)), first + 1)]
    pictures = _pictures(source, timeline, times + 1, None)
    with writing(output_path) as partial:
        _encode(partial, pictures, np.maximum(times - math.floor(start), 0), timeline)


def _number(name: str, value: float, least: float | None = None) -> Fraction:
    """A finite number as a fraction; `least` is the smallest one allowed, `None` = any positive one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}.")
    if not math.isfinite(value) or not (value > 0 if least is None else value >= least):
        allowed = "positive" if least is None else f"at least {least:g}"
        raise ValueError(f"`{name}` must be finite and {allowed}, got {value}.")
    return Fraction(float(value)).limit_denominator(MAX_DENOMINATOR) or Fraction(float(value))


def _count(name: str, value: int) -> int:
    """A number of things, at least one."""
    if not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an integer, got {type(value).__name__}.")
    return int(_number(name, value, least=1))


def _check_range(start_sec: float, end_sec: float | None, duration: Fraction) -> tuple[Fraction, Fraction]:
    """Start and end of the part to use, in seconds."""
    start = _number("start_sec", start_sec, least=0)
    end = duration if end_sec is None else _number("end_sec", end_sec)
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
    """For every grid time the first timestamp that is too late for it: ceil((start + (i + 1/2) / fps) / time_base)."""
    first = (start + 1 / (2 * fps)) / time_base
    step = 1 / (fps * time_base)
    scale = first.denominator * step.denominator
    first, step = int(first * scale), int(step * scale)
    last = math.ceil(end / time_base)
    return np.array([min(-(-(first + index * step) // scale), last) for index in range(num_frames)], dtype=np.int64)


def _allocate(num_frames: int, shape: tuple[int, ...]) -> np.ndarray:
    """Room for all pictures, which is taken as they come; more than the machine has is refused at once."""
    try:
        return np.empty((num_frames, *shape), dtype=np.uint8)
    except MemoryError as error:
        size = f"{num_frames:,} pictures of {shape[1]} x {shape[0]} take {num_frames * math.prod(shape) / 1e9:,.0f} GB"
        advice = "pass a smaller `size` or `fps`, or read them in chunks with `iter_video_frames`"
        raise ValueError(f"{size}, more than there is; {advice}.") from error


def _gather(
    pictures: Iterator[tuple[np.ndarray, int]],
    num_frames: int,
    chunk_size: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[np.ndarray]:
    """Arrays of up to `chunk_size` pictures, from pictures with the number of grid times that each serves."""
    singles = (picture for picture, count in pictures for _ in range(count))
    for index, picture in enumerate(singles):
        place = index % chunk_size
        if place == 0:
            chunk = np.empty((min(chunk_size, num_frames - index), *picture.shape), dtype=np.uint8)
        chunk[place] = picture
        if progress is not None:
            progress(index + 1, num_frames)
        if place == len(chunk) - 1:
            yield chunk


def _pictures(
    source: VideoSource, timeline: Timeline, limits: np.ndarray, size: int | None
) -> Iterator[tuple[np.ndarray, int]]:
    """For each of the ascending limits the last picture before it: `(height, width, 3)` and how many limits it serves.

    Where the sparse way meets anything unexpected, every packet is decoded instead.
    """
    render = _Renderer(source, timeline.sample_aspect_ratio, size)
    served = 0
    if timeline.can_skip:
        for frame, count in _sparse_frames(source, timeline, limits):
            yield render(frame), count
            served += count
    if served < len(limits):
        for frame, count in _dense_frames(source, timeline, limits[served:]):
            yield render(frame), count


def _sparse_frames(source: VideoSource, timeline: Timeline, limits: np.ndarray) -> Iterator[tuple[Any, int]]:
    """The frame of each limit, decoding little else; ends at the first sign that a frame is not the planned one."""
    positions = np.flatnonzero(timeline.is_shown)
    positions = positions[np.argsort(timeline.pts[positions])]  # in the order of presentation
    chosen, counts = np.unique(np.maximum(np.searchsorted(timeline.times, limits) - 1, 0), return_counts=True)
    actions = _plan_packets(timeline, positions[chosen])
    entries = set(np.flatnonzero((actions[1:] != DROP) & (actions[:-1] == DROP)) + 1)
    expected = list(zip(positions[chosen].tolist(), counts.tolist(), strict=True))[::-1]
    for frame in decode(source, actions):
        if frame is None or frame.is_corrupt or frame.pts is None:
            return
        if timeline.pts[frame.pts] > timeline.pts[expected[-1][0]] or (frame.pts in entries and not frame.key_frame):
            return
        if frame.pts == expected[-1][0]:
            yield frame, expected.pop()[1]
        if not expected:
            return


def _plan_packets(timeline: Timeline, chosen: np.ndarray) -> np.ndarray:
    """DROP, REFERENCE or DECODE for each packet, such that the pictures of the packets `chosen` come out unchanged.

    In a group of pictures (an entry and what follows it in the file) nothing is needed after the last chosen one.
    A picture stored after an entry but shown before it may also be predicted from the group before.
    """
    group = np.cumsum(timeline.is_entry)
    position = np.arange(len(group))
    last_needed = np.full(group[-1] + 1, -1)
    np.maximum.at(last_needed, group[chosen], chosen)
    entry_times = np.concatenate([[NO_TIME], timeline.pts[timeline.is_entry]])
    is_leading = timeline.pts[chosen] < entry_times[group[chosen]]
    last_needed[group[chosen[is_leading]] - 1] = len(group)
    actions = np.where(position <= last_needed[group], REFERENCE, DROP)
    actions[chosen] = DECODE
    return actions


def _dense_frames(source: VideoSource, timeline: Timeline, limits: np.ndarray) -> Iterator[tuple[Any, int]]:
    """The frame of each limit, decoding everything; for damaged pictures the last good one stands in."""
    held, num_good, served = None, 0, 0
    num_expected = len(timeline.times)
    for time, frame in _timed_frames(source, timeline):
        passed = int(np.searchsorted(limits, time, side="right"))
        if held is not None and passed > served:
            yield held, passed - served
            served = passed
        if served == len(limits):
            num_expected = int(np.searchsorted(timeline.times, time))
            break
        held, num_good = frame, num_good + 1
    if held is None:
        reason = f"it is damaged, or they are larger than `max_pixels` = {source.max_pixels:,}"
        raise ValueError(f"{source.name} has a video stream from which no picture can be decoded: {reason}.")
    if served < len(limits):
        yield held, len(limits) - served
    num_missing = 0 if timeline.clock_goes_back else max(num_expected - num_good, 0)  # many are not come to
    num_lost = num_missing + timeline.num_broken
    if num_lost > 0:
        text = (
            "%s is damaged: %d of the %d pictures read are lost, those before stand in; some others may show faults."
        )
        logger.warning(text, source.name, num_lost, num_expected + timeline.num_broken)


def _timed_frames(source: VideoSource, timeline: Timeline) -> Iterator[tuple[int, Any]]:
    """All undamaged frames with their times, in the order of presentation."""
    last, num_usable = len(timeline.times) - 1, 0
    for frame in decode(source, np.full(len(timeline.pts), DECODE)):
        if frame is None or frame.is_corrupt or (frame.pts is not None and not timeline.is_shown[frame.pts]):
            continue
        if not timeline.has_picture_times:
            yield int(timeline.times[min(num_usable, last)]), frame
        elif frame.pts is not None:
            yield int(timeline.pts[frame.pts]), frame
        num_usable += 1


class _Renderer:
    """Turns frames into upright pictures with square pixels. Scaling and colour conversion are one step of swscale."""

    def __init__(self, source: VideoSource, sample_aspect_ratio: Fraction, size: int | None):
        self.source = source
        self.sample_aspect_ratio = sample_aspect_ratio
        self.size = size
        self.av = import_av()
        self.reformatter = self.av.video.reformatter.VideoReformatter()
        self.matrix = None
        self.stored_size = None

    def __call__(self, frame: Any) -> np.ndarray:
        """`(height, width, 3)` uint8 RGB; all pictures get the size and the orientation of the first one."""
        if self.matrix is None:
            self.matrix = _display_matrix(frame)
            self.stored_size = self._scaled_size(frame.width, frame.height)
        width, height = self.stored_size
        try:
            scaled = self.reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
        except self.av.error.FFmpegError as error:
            raise ValueError(f"Pictures in the format {frame.format.name} cannot be converted to RGB.") from error
        return _turn_upright(scaled.to_ndarray(), self.matrix)

    def _scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """With square pixels, the short side `size` if given and the long one truncated, as CLIP does."""
        width = max(round(width * self.sample_aspect_ratio), 1)
        if self.size is not None:
            short = min(width, height)
            width, height = self.size * width // short, self.size * height // short
        if width * height > self.source.max_pixels:
            raise ValueError(
                f"{self.source.name} gives pictures of {width} x {height} pixels, more than `max_pixels` = "
                f"{self.source.max_pixels:,}; pass a larger `max_pixels` or a smaller `size`."
            )
        return width, height


def _display_matrix(frame: Any) -> np.ndarray:
    """The four numbers (a, b, c, d) that put stored pixel (x, y) at (ax + cy, bx + dy)."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 refuses to list side data of kinds that it does not know
        quarter_turns = round(frame.rotation / 90) % 4
        return np.array([(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)][quarter_turns])
    return np.array([1, 0, 0, 1]) if data is None else np.frombuffer(data, dtype=np.int32)[[0, 1, 3, 4]]


def _turn_upright(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies a rotation by quarters of a circle, mirrored or not."""
    x_from_x, y_from_x, x_from_y, y_from_y = matrix.tolist()
    if abs(x_from_x) < abs(y_from_x):
        picture = picture.transpose(1, 0, 2)
        x_from_x, y_from_y = x_from_y, y_from_x
    return np.ascontiguousarray(picture[:: -1 if y_from_y < 0 else 1, :: -1 if x_from_x < 0 else 1])


def _encode(path: Path, pictures: Iterator[tuple[np.ndarray, int]], times: np.ndarray, timeline: Timeline) -> None:
    """Write one picture per time, in the timeline's unit, as h264 in mp4."""
    av = import_av()
    if "libx264" not in av.codecs_available:
        raise ImportError("This build of PyAV cannot write h264; `pip install av` installs one that can.")
    singles = (picture for picture, count in pictures for _ in range(count))
    try:
        with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = None
            for time, picture in zip(times.tolist(), singles, strict=True):
                height, width = picture.shape[:2]
                picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                stream = _add_h264_stream(container, timeline, picture) if stream is None else stream
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = time, timeline.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _add_h264_stream(container: Any, timeline: Timeline, picture: np.ndarray) -> Any:
    rate = (1 / (timeline.gap * timeline.time_base)).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = timeline.time_base
    return stream
