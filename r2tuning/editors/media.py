"""What an edit list says of a video: its file, frame rate, timecode and sound."""

import logging
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from modeling_r2tuning.containers_r2tuning import open_stream
from modeling_r2tuning.video_selection_r2tuning import select_pictures
from modeling_r2tuning.video_sound_r2tuning import choose_sound
from modeling_r2tuning.video_source_r2tuning import ADDRESS, LocalCopy, display_name, make_source
from modeling_r2tuning.video_timeline_r2tuning import Timeline, scan
from r2tuning.editors.timecode import (
    DROP_FRAME_RATES,
    RATE_TOLERANCE,
    format_timecode,
    parse_timecode,
    timecode_rate,
    to_frame,
)


logger = logging.getLogger(__name__)

MIN_DELAY_SEC = Fraction(1, 10_000)


@dataclass(frozen=True)
class EditedVideo:
    """A video that moments were found in.

    Attributes:
        path: Path or address, as it may be shown.
        url: Where editors find the file.
        duration_sec: Length in seconds, from the start of the file to the end of the last picture.
        rate: Frames per second of the timecode, see `timecode_rate`.
        start_frame: Frame of the timecode that the video starts at; 0 if the file states none.
        drop_frame: Whether its timecode is drop-frame: as in the file; if it states none, at 29.97 and 59.94.
        width: Of the upright picture with square pixels.
        height: Likewise.
        num_channels: Of the sound; 0 = there is none.
        sample_rate: Of the sound, samples per second.
        first_picture_sec: When the first picture is shown, in seconds from the start of the file. Players and editors
            count from there, the model from the first picture; they differ where the sound starts earlier.
    """

    path: str
    url: str
    duration_sec: float
    rate: Fraction
    start_frame: int = 0
    drop_frame: bool = False
    width: int = 0
    height: int = 0
    num_channels: int = 0
    sample_rate: int = 0
    first_picture_sec: float = 0.0

    @property
    def name(self) -> str:
        """Name of the file."""
        return Path(self.path).name or self.path

    @property
    def num_frames(self) -> int:
        """Length in frames of the timecode, at least one."""
        return max(to_frame(self.duration_sec, self.rate), 1)

    def timecode(self, frame: int) -> str:
        """Label of a frame, counted from the start of the file."""
        return format_timecode(self.start_frame + frame, self.rate, drop_frame=self.drop_frame)


def read_edited_video(video: str | os.PathLike | LocalCopy) -> EditedVideo:
    """Read what an edit list says of a video.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: The video cannot be read.
    """
    source = make_source(video)
    timeline = scan(source)
    picture, _ = next(select_pictures(source, timeline, np.array([1]), None))
    height, width, _ = picture.shape
    with open_stream(source) as (_, container, stream):
        # FFmpeg's guess is right where the average is not: in a file whose last picture lasts longer or shorter.
        own_rate = Fraction(stream.guessed_rate or stream.average_rate or 0)
        label = _find_timecode(container, stream)
        sound = choose_sound(container)
        first_picture = _first_picture(timeline, container.start_time)
        num_channels, sample_rate = (0, 0) if sound is None else (sound.channels, sound.sample_rate)
    name = display_name(video)
    rate = timecode_rate(own_rate)
    start_frame, drop_frame = _start(name, own_rate, rate, label)
    return EditedVideo(
        path=name,
        url=_url(video),
        duration_sec=float(first_picture + timeline.duration),
        rate=rate,
        start_frame=start_frame,
        drop_frame=drop_frame,
        width=width,
        height=height,
        num_channels=num_channels,
        sample_rate=sample_rate,
        first_picture_sec=float(first_picture),
    )


def _first_picture(timeline: Timeline, start_time: int | None) -> Fraction:
    """When the first picture is shown, in seconds from the start of the file; 0 where the clock of the file jumps.

    Args:
        timeline: The timeline of the video.
        start_time: Start of the file on its clock in microseconds; `None` = the file states none.
    """
    if timeline.clock_start is None or start_time is None:
        return Fraction(0)
    start = Fraction(start_time, 1_000_000)
    # What an encoder of sound puts before time 0 is not played.
    start = max(start, min(timeline.clock_start, Fraction(0)))
    delay = timeline.clock_start - start
    # A smaller delay is a rounding of `start_time`; a negative one occurs in AVI, which states no times of pictures.
    return delay if delay > MIN_DELAY_SEC else Fraction(0)


def _find_timecode(container: Any, stream: Any) -> str | None:
    """The first timecode that the file states: of the picture, of a timecode track, or of the file."""
    for holder in (stream, *container.streams, container):
        label = holder.metadata.get("timecode")
        if label is not None:
            return label
    return None


def _start(name: str, own_rate: Fraction, rate: Fraction, label: str | None) -> tuple[int, bool]:
    """The frame at which the timecode of a video starts, and whether it is drop-frame."""
    if abs(own_rate - rate) > RATE_TOLERANCE * rate:
        # No label fits such a rate, whatever the file states.
        logger.info("'%s' has %.3f frames per second; its timecode counts %.3f, from 0", name, own_rate, rate)
        return 0, rate in DROP_FRAME_RATES
    if label is None:
        return 0, rate in DROP_FRAME_RATES
    try:
        return parse_timecode(label, rate)
    except ValueError as error:
        logger.warning("the timecode of '%s' is ignored, so that it starts at 0: %s", name, error)
        return 0, rate in DROP_FRAME_RATES


def _url(video: str | os.PathLike | LocalCopy) -> str:
    """The address of a video that was fetched, and of a file its file: address."""
    name = display_name(video)
    if isinstance(video, LocalCopy):
        return name if ADDRESS.match(name) else Path(name).absolute().as_uri()
    return Path(video).absolute().as_uri()


__all__ = ["EditedVideo", "read_edited_video"]
