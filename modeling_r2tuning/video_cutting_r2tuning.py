"""Write a part of a video as a file: encoded as h264 and AAC, or copied between key pictures without encoding.

A key picture is one at which decoding can start.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .containers_r2tuning import VideoSource, import_av, open_stream
from .video_selection_r2tuning import repeat_pictures, select_pictures
from .video_sound_r2tuning import SAMPLE_FORMAT, SoundFormat, choose_sound, find_sound, read_sound
from .video_timeline_r2tuning import Timeline


__all__ = ["COPY_FORMATS", "choose_copy_ending", "copy_part", "encode_part"]

logger = logging.getLogger(__name__)

AUDIO_BITS = 96_000  # per second and channel
# The tables come before the pictures, so that browsers can play the file while it loads.
MP4_OPTIONS = {"movflags": "+faststart"}
# What players open in an mp4 file. Everything else is copied to Matroska, which takes almost any codec.
MP4_VIDEO = ("h264", "hevc", "av1", "mpeg4")
MP4_SOUND = ("aac", "mp3", "ac3", "eac3", "alac")
COPY_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # FFmpeg's names by ending
MP4_FORMATS = ("mp4", "mov")
QUICKTIME_BRANDS = ("qt  ", None)  # old files state none


def encode_part(path: Path, source: VideoSource, timeline: Timeline, start: Fraction, end: Fraction) -> None:
    """Encode a part of a video as h264 and AAC in mp4.

    Args:
        path: File to write.
        source: The video.
        timeline: Its timeline.
        start: Start of the part in seconds since the first picture; the picture on screen then is the first one.
        end: End of the part in seconds.

    Raises:
        ImportError: This build of PyAV cannot write h264.
        OSError: The file cannot be written.
        ValueError: The video cannot be decoded.
    """
    av = import_av()
    if "libx264" not in av.codecs_available:
        raise ImportError("This build of PyAV cannot write h264; `pip install av` installs one that can.")
    first_tick, end_tick = start / timeline.time_base, end / timeline.time_base
    times = np.unique(timeline.times)
    first = max(int(np.searchsorted(times, float(first_tick), side="right")) - 1, 0)
    last = max(int(np.searchsorted(times, float(end_tick))), first + 1)
    times = times[first:last]
    origin = math.floor(first_tick)  # time 0 of the cut
    shown = np.maximum(times - origin, 0)
    end_shown = max(math.ceil(end_tick) - origin, int(shown[-1]) + 1)
    # A limit one tick after each time selects every picture of the part.
    pictures = select_pictures(source, timeline, times + 1, None)
    sound = find_sound(source)
    if sound is not None and timeline.clock_start is None:
        logger.warning("The clock of %s jumps, so its sound cannot be aligned; the cut is silent.", source.name)
        sound = None
    try:
        with av.open(f"file:{path}", "w", format="mp4", options=MP4_OPTIONS) as container:
            stream = _add_h264_stream(container, timeline, np.append(shown, end_shown))
            packets: list[Any] = []
            if sound is not None and timeline.clock_start is not None:
                sound_start = timeline.clock_start + origin * timeline.time_base
                samples = read_sound(source, sound, sound_start, timeline.clock_start + end)
                # The sound is encoded first: a file object cannot be read at two places at a time.
                packets = _encode_sound(container, samples, sound)
            _mux(container, _encode_pictures(stream, pictures, shown, timeline, end_shown), packets)
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _add_h264_stream(container: Any, timeline: Timeline, times: np.ndarray) -> Any:
    """Add a stream for pictures shown at all but the last of some times, where the last picture ends."""
    rate = (1 / (timeline.gap * timeline.time_base)).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = timeline.time_base
    if np.diff(times).max() >= 2 * timeline.gap:
        # A picture is held, in a recording of a screen perhaps for minutes. mp4 states how long it takes from decoding a
        # picture to decoding the next, which is how long it is shown only if pictures are not reordered.
        stream.codec_context.max_b_frames = 0
    return stream


def _encode_pictures(
    stream: Any,
    pictures: Iterator[tuple[np.ndarray, int]],
    times: np.ndarray,
    timeline: Timeline,
    end: int,
) -> Iterator[Any]:
    """Packets of one picture per time; times and the end of the last picture are in the timeline's unit."""
    av = import_av()
    last_duration = end - int(times[-1])
    for number, (time, picture) in enumerate(zip(times.tolist(), repeat_pictures(pictures), strict=True)):
        height, width = picture.shape[:2]
        # The chroma planes of yuv420p need even sides.
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if number == 0:
            stream.height, stream.width = picture.shape[:2]
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts, frame.time_base = time, timeline.time_base
        yield from _set_duration(stream.encode(frame), last_duration)
    yield from _set_duration(stream.encode(None), last_duration)


def _set_duration(packets: list[Any], duration: int) -> Iterator[Any]:
    """Set the duration of packets; it counts for the last one only, which would last no time without it."""
    for packet in packets:
        packet.duration = duration
        yield packet


def _encode_sound(container: Any, samples: Iterator[np.ndarray], sound: SoundFormat) -> list[Any]:
    """Packets of AAC."""
    av = import_av()
    stream = container.add_stream("aac", rate=sound.sample_rate, layout=sound.layout)
    stream.bit_rate = AUDIO_BITS * sound.num_channels
    packets, position = [], 0
    for block in samples:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), SAMPLE_FORMAT, sound.layout)
        frame.sample_rate = sound.sample_rate
        frame.pts, frame.time_base = position, Fraction(1, sound.sample_rate)
        packets.extend(stream.encode(frame))
        position += block.shape[1]
    packets.extend(stream.encode(None))
    return packets


def _mux(container: Any, pictures: Iterator[Any], sound: list[Any]) -> None:
    """Write packets of pictures and sound in order of time."""
    written = 0
    for packet in pictures:
        while written < len(sound) and _time(sound[written]) <= _time(packet):
            container.mux(sound[written])
            written += 1
        container.mux(packet)
    for packet in sound[written:]:
        container.mux(packet)


def _time(packet: Any) -> Fraction:
    return packet.dts * packet.time_base


# ---- copies --------------------------------------------------------------------------------------------------------


def choose_copy_ending(source: VideoSource) -> str:
    """Ending of a file that can take a copy of the video's pictures and sound.

    It is ".mp4" if players open the codecs in mp4, else ".mov" for a copy of a QuickTime file, else ".mkv".
    """
    with open_stream(source) as (_, container, stream):
        sound = choose_sound(container)
        takes_sound = sound is None or sound.codec_context.name in MP4_SOUND
        if stream.codec_context.codec.canonical_name in MP4_VIDEO and takes_sound:
            return ".mp4"
        is_quicktime = (
            container.format.name.startswith("mov") and container.metadata.get("major_brand") in QUICKTIME_BRANDS
        )
    return ".mov" if is_quicktime else ".mkv"


def copy_part(
    path: Path, source: VideoSource, timeline: Timeline, start: Fraction, end: Fraction
) -> tuple[Fraction, Fraction]:
    """Copy a part of a video, from the key picture nearest to its start to the one nearest to its end.

    Args:
        path: File to write; its ending is one of `COPY_FORMATS`.
        source: The video.
        timeline: Its timeline.
        start: Start of the part in seconds since the first picture.
        end: End of the part in seconds.

    Returns:
        Start and end of what was copied, in seconds since the first picture.

    Raises:
        OSError: The file cannot be written.
        ValueError: Its format cannot hold the video; or the file of the video states no times of its pictures or no key
            pictures, or its clock jumps.
    """
    clock_start = _check_copyable(source, timeline)
    first, last = _nearest_keys(source, timeline, start / timeline.time_base, end / timeline.time_base)
    is_copied = _plan_copy(timeline, first, last)
    copied = timeline.pts[is_copied]
    copied_start = int(copied.min()) * timeline.time_base
    later = timeline.times[timeline.times > copied.max()]
    copied_end = int(later[0]) * timeline.time_base if len(later) else timeline.duration
    with open_stream(source) as (av, container, pictures):
        sound = choose_sound(container)
        streams = [pictures] if sound is None else [pictures, sound]
        zero = clock_start + copied_start  # time 0 of the copy on the clock of the file
        last_shown = int(np.where(is_copied, timeline.pts, -1).argmax())
        packets = _packets_to_copy(av, container, streams, is_copied, last_shown, zero, copied_end - copied_start)
        form = COPY_FORMATS[path.suffix.lower()]
        options = MP4_OPTIONS if form in MP4_FORMATS else {}
        try:
            with av.open(f"file:{path}", "w", format=form, options=options) as output:
                outputs = {stream.index: _add_copy(output, stream, source, path) for stream in streams}
                for packet in packets:
                    packet.stream = outputs[packet.stream.index]
                    output.mux(packet)
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
    return copied_start, copied_end


def _check_copyable(source: VideoSource, timeline: Timeline) -> Fraction:
    """Refuse a file that does not state what a copy needs; returns the time of its first picture on its clock."""
    if not timeline.has_picture_times or timeline.clock_start is None:
        raise ValueError(
            f"{source.name} does not state when each picture is shown, so that nothing can be copied from it; cut it "
            "without `copy`."
        )
    if not (timeline.is_entry & timeline.is_shown).any():
        raise ValueError(
            f"{source.name} does not state which pictures are key pictures, so that nothing can be copied from it; cut it "
            "without `copy`."
        )
    return timeline.clock_start


def _add_copy(output: Any, stream: Any, source: VideoSource, path: Path) -> Any:
    """Add a stream that takes packets of another one."""
    try:
        # "opaque": without looking for an encoder of that name.
        copy = output.add_stream_from_template(stream, opaque=True)
    except ValueError as error:
        codec = stream.codec_context.codec.canonical_name
        advice = "cut it without `copy`" if path.suffix.lower() == ".mkv" else "pass one that ends in .mkv"
        raise ValueError(
            f"`output_path` {path.name!r} cannot hold {codec}, the codec of {source.name}; {advice}."
        ) from error
    if output.format.name in MP4_FORMATS and stream.codec_context.codec.canonical_name == "hevc":
        # Apple's players refuse FFmpeg's own choice, hev1.
        copy.codec_context.codec_tag = "hvc1"
    return copy


def _nearest_keys(source: VideoSource, timeline: Timeline, start: Fraction, end: Fraction) -> tuple[int, int]:
    """Positions of the packets at which a copy starts and before which it ends; times are in the timeline's unit."""
    keys = np.flatnonzero(timeline.is_entry & timeline.is_shown)
    first = min(keys.tolist(), key=lambda key: abs(int(timeline.pts[key]) - start))
    if timeline.pts[first] >= end:
        # The part lies between two key pictures, and a copy from the second would hold none of it.
        before = keys[timeline.pts[keys] <= start]
        if not len(before):
            raise ValueError(
                f"{source.name} has no key picture before the end of the part, so that it cannot be copied; cut it without "
                "`copy`."
            )
        first = int(before[-1])
    last, miss = len(timeline.pts), abs(timeline.duration / timeline.time_base - end)
    for key in keys[keys > first].tolist():
        distance = abs(int(timeline.pts[key]) - end)
        if distance < miss:
            last, miss = key, distance
    return first, last


def _plan_copy(timeline: Timeline, first: int, last: int) -> np.ndarray:
    """Which packets are copied `(num_packets,)`.

    A picture that is stored after the first key picture but shown before it refers to pictures that are not copied. What
    an edit list hides at the end stays out, too.
    """
    position = np.arange(len(timeline.pts))
    is_between = (position >= first) & (position < last)
    return is_between & (timeline.pts >= timeline.pts[first]) & (timeline.pts <= timeline.times[-1])


def _packets_to_copy(
    av: Any,
    container: Any,
    streams: list[Any],
    is_copied: np.ndarray,
    last_shown: int,
    start: Fraction,
    length: Fraction,
) -> Iterator[Any]:
    """The packets of a copy, with times from its start, up to one that cannot be read.

    Args:
        av: PyAV.
        container: The video.
        streams: Its pictures and, if there is any, its sound.
        is_copied: `(num_packets,)` of the pictures.
        last_shown: Position of the picture that is shown last; it stays until the end.
        start: Start of the copy in seconds on the clock of the file.
        length: Length of the copy in seconds.
    """
    position, num_left = -1, int(is_copied.sum())
    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            if not packet.size or packet.pts is None:
                continue
            if packet.stream == streams[0]:
                position += 1
                is_wanted = bool(is_copied[position])
                num_left -= is_wanted
            else:
                time = packet.pts * packet.time_base - start
                is_wanted = 0 <= time < length
                if num_left == 0 and time >= length:
                    break
            if is_wanted:
                packet = _shift(packet, start)
                if packet.stream == streams[0] and position == last_shown:
                    packet.duration = round(length / packet.time_base) - packet.pts
                yield packet
            if num_left == 0 and len(streams) == 1:
                break


def _shift(packet: Any, start: Fraction) -> Any:
    ticks = round(start / packet.time_base)
    packet.pts -= ticks
    if packet.dts is not None:
        packet.dts -= ticks
    return packet
