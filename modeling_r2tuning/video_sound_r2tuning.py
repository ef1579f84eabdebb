"""The sound of a part of a video, on the clock of its pictures."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .containers_r2tuning import VideoSource, import_av, open_stream


__all__ = ["SAMPLE_FORMAT", "SoundFormat", "choose_sound", "find_sound", "read_sound"]

logger = logging.getLogger(__name__)

SAMPLE_FORMAT = "fltp"  # float32, a plane for each channel: what FFmpeg's AAC encoder takes
# Sample rates of AAC (ISO/IEC 14496-3, table 1.18).
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
DEFAULT_RATE = 48000
PREROLL_SEC = 1  # decoders need some packets before the first one that they decode exactly
MAX_DRIFT_SEC = Fraction(1, 100)  # containers round timestamps; a larger deviation is a gap or an overlap


@dataclass(frozen=True)
class SoundFormat:
    """Format of decoded sound.

    Attributes:
        sample_rate: Samples per second and channel.
        layout: "mono" or "stereo".
    """

    sample_rate: int
    layout: str

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return 1 if self.layout == "mono" else 2


def choose_sound(container: Any) -> Any | None:
    """The audio stream that players choose: the first one marked as default, else the first; `None` = there is none.

    Streams without a decoder do not count.
    """
    default = import_av().stream.Disposition.default
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    for stream in streams:
        if stream.disposition & default:
            return stream
    return streams[0] if streams else None


def find_sound(source: VideoSource) -> SoundFormat | None:
    """The format in which the sound of a video is read; `None` = it has none that can be decoded, which is logged."""
    with open_stream(source) as (_, container, _):
        stream = choose_sound(container)
        if stream is not None and stream.sample_rate and stream.channels:
            sample_rate = stream.sample_rate if stream.sample_rate in AAC_RATES else DEFAULT_RATE
            return SoundFormat(sample_rate, "mono" if stream.channels == 1 else "stereo")
        if container.streams.audio:
            logger.warning("%s has sound that cannot be decoded; the cut is silent.", source.name)
    return None


def read_sound(source: VideoSource, sound: SoundFormat, start: Fraction, end: Fraction) -> Iterator[np.ndarray]:
    """Read the sound between two times; there is silence where the video has no sound.

    Args:
        source: The video.
        sound: Its format, see `find_sound`.
        start: In seconds on the clock of the file.
        end: Likewise.

    Yields:
        Arrays `(num_channels, num_samples)`, float32; together they last from `start` to `end` to the sample.
    """
    written, total = 0, round((end - start) * sound.sample_rate)
    for position, samples in _place_samples(source, sound, start, end):
        first = max(written - position, 0)  # drops what comes before the start, and overlaps
        last = min(samples.shape[1], total - position)
        if last <= first:
            continue
        yield from _silence(sound, position + first - written)
        yield samples[:, first:last]
        written = position + last
    yield from _silence(sound, total - written)


def _silence(sound: SoundFormat, num_samples: int) -> Iterator[np.ndarray]:
    """Silence, a second at a time."""
    while num_samples > 0:
        count = min(num_samples, sound.sample_rate)
        yield np.zeros((sound.num_channels, count), dtype=np.float32)
        num_samples -= count


def _place_samples(
    source: VideoSource, sound: SoundFormat, start: Fraction, end: Fraction
) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded samples and the position of the first one, counted from `start`."""
    position: int | None = None  # where the next samples belong if there is neither a gap nor an overlap
    for frame in _resample(source, sound, start - PREROLL_SEC, end):
        samples = frame.to_ndarray()
        if frame.pts is not None:
            stated = round((frame.pts * frame.time_base - start) * sound.sample_rate)
            if position is None or abs(stated - position) > MAX_DRIFT_SEC * sound.sample_rate:
                position = stated
        if position is None:
            continue
        yield position, samples
        position += samples.shape[1]


def _resample(source: VideoSource, sound: SoundFormat, start: Fraction, end: Fraction) -> Iterator[Any]:
    """PyAV's audio frames between two times, converted to one format."""
    resampler: Any = None
    converted: tuple[str, str, int] | None = None
    for frame in _decode(source, start, end):
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != converted:
            if resampler is not None:
                yield from resampler.resample(None)
            resampler = import_av().AudioResampler(SAMPLE_FORMAT, sound.layout, sound.sample_rate)
            converted = form
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _decode(source: VideoSource, start: Fraction, end: Fraction) -> Iterator[Any]:
    """Decode the packets of the sound between two times; a damaged one is left out and counted."""
    num_damaged = 0
    with open_stream(source) as (av, container, _):
        stream: Any = choose_sound(container)  # there is one, or `sound` would not have been found
        for packet in _packets(av, container, stream, start, end):
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                num_damaged += 1
                continue
            yield from frames
    if num_damaged:
        logger.warning("%d packets of the sound of %s are damaged and were left out.", num_damaged, source.name)


def _packets(av: Any, container: Any, stream: Any, start: Fraction, end: Fraction) -> Iterator[Any]:
    """The packets of a stream between two times, up to one that cannot be read; `None` last, to empty the decoder."""
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            time = packet.dts if packet.pts is None else packet.pts
            if time is None or not packet.size:
                continue
            if time * packet.time_base >= end:
                break
            if time * packet.time_base >= start:
                yield packet
    yield None
