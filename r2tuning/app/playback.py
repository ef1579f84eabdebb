"""Video files that browsers play."""

from pathlib import Path
from typing import Any

from modeling_r2tuning.containers_r2tuning import open_stream
from modeling_r2tuning.video_io_r2tuning import cut_clip
from modeling_r2tuning.video_sound_r2tuning import choose_sound
from modeling_r2tuning.video_source_r2tuning import make_source


WEBM = "matroska,webm"
# What all current browsers play: codecs of pictures and of sound, by FFmpeg's name of the container.
PLAYED = {
    "mov,mp4,m4a,3gp,3g2,mj2": ({"h264"}, {"aac", "mp3"}),
    WEBM: ({"vp8", "vp9"}, {"opus", "vorbis"}),
}
PIXEL_FORMATS = {"yuv420p", "yuvj420p"}  # 8 bits
CLOCK_TOLERANCE = 0.05  # seconds


def is_playable(path: Path) -> bool:
    """Whether browsers play a video file.

    Raises:
        ValueError: It cannot be read.
    """
    with open_stream(make_source(path)) as (av, container, stream):
        videos, sounds = PLAYED.get(container.format.name, (set(), set()))
        is_named = container.format.name != WEBM or path.suffix.lower() == ".webm"
        sound = choose_sound(container)
        return (
            is_named
            and stream.codec_context.name in videos
            and stream.codec_context.pix_fmt in PIXEL_FORMATS
            and (sound is None or sound.codec_context.name in sounds)
            and _starts_with_pictures(container, stream, av.time_base)
        )


def _starts_with_pictures(container: Any, stream: Any, time_base: int) -> bool:
    """Whether a browser's clock is that of the pictures: it starts with the stream that starts first."""
    start = (stream.start_time or 0) * stream.time_base
    return abs(start - (container.start_time or 0) / time_base) < CLOCK_TOLERANCE


def make_playable(path: Path, output: Path, duration_sec: float) -> None:
    """Write a copy of a video as h264 and AAC.

    Raises:
        ImportError: PyAV cannot write h264.
        OSError: `output` cannot be written.
        ValueError: The video cannot be read.
    """
    cut_clip(path, output, 0.0, duration_sec)


__all__ = ["is_playable", "make_playable"]
