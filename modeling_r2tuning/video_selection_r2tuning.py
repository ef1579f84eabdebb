"""Select the pictures of a video that are on screen at given times, decoding as little as possible.

Where the packets of a video show which pictures are needed (`Timeline.can_skip`), only those and the pictures that
they refer to are decoded. If the decoder then returns anything unexpected, everything is decoded instead.
"""

import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from .containers_r2tuning import VideoSource
from .video_rendering_r2tuning import Renderer
from .video_timeline_r2tuning import DECODE, DROP, NO_TIME, REFERENCE, Timeline, decode


__all__ = ["repeat_pictures", "select_pictures"]

logger = logging.getLogger(__name__)


def select_pictures(
    source: VideoSource,
    timeline: Timeline,
    limits: np.ndarray,
    size: int | tuple[int, int] | None,
    interpolation: str = "bicubic",
) -> Iterator[tuple[np.ndarray, int]]:
    """Select the last picture before each limit.

    Args:
        source: The video.
        timeline: Its timeline.
        limits: `(num_limits,)` timestamps, ascending.
        size: Short side, or height and width, in pixels.
        interpolation: How pictures are scaled, one of `INTERPOLATIONS`.

    Yields:
        Pictures `(height, width, 3)` and for how many consecutive limits each is used.
    """
    render = Renderer(source, timeline.sample_aspect_ratio, size, interpolation)
    served = 0
    if timeline.can_skip:
        for frame, count in _sparse_frames(source, timeline, limits):
            yield render(frame), count
            served += count
    if served < len(limits):
        for frame, count in _dense_frames(source, timeline, limits[served:]):
            yield render(frame), count


def repeat_pictures(pictures: Iterator[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
    """Yield each picture as many times as its count says."""
    for picture, count in pictures:
        for _ in range(count):
            yield picture


def _sparse_frames(source: VideoSource, timeline: Timeline, limits: np.ndarray) -> Iterator[tuple[Any, int]]:
    """Decode little more than the frames that the limits select; stop at the first frame that is not as planned."""
    positions = np.flatnonzero(timeline.is_shown)
    positions = positions[np.argsort(timeline.pts[positions])]  # packets in presentation order
    pictures = np.maximum(np.searchsorted(timeline.times, limits) - 1, 0)  # that the limits select
    chosen, counts = np.unique(pictures, return_counts=True)
    chosen = positions[chosen]
    actions = _plan_packets(timeline, chosen)
    is_fed = actions != DROP
    restarts = set(np.flatnonzero(is_fed[1:] & ~is_fed[:-1]) + 1)  # packets at which decoding restarts after a gap
    expected = deque(zip(chosen.tolist(), counts.tolist(), strict=True))
    for frame in decode(source, actions):
        if frame is None or frame.is_corrupt or frame.pts is None:
            return
        position, count = expected[0]
        is_missed = timeline.pts[frame.pts] > timeline.pts[position]
        if is_missed or (frame.pts in restarts and not frame.key_frame):
            return
        if frame.pts == position:
            yield frame, count
            expected.popleft()
        if not expected:
            return


def _plan_packets(timeline: Timeline, chosen: np.ndarray) -> np.ndarray:
    """Decide which packets to decode so that the chosen pictures come out exactly as if all were decoded.

    Packets form groups, each an entry and the packets up to the next one. Within a group, nothing after the last
    chosen packet is needed. A picture stored after an entry but shown before it (a leading picture, in an open group)
    may also refer to the group before.

    Args:
        timeline: Timeline of the video.
        chosen: Positions of the packets whose pictures are wanted.

    Returns:
        `(num_packets,)`, `DROP`, `REFERENCE` or `DECODE` for each packet.
    """
    group = np.cumsum(timeline.is_entry)  # 0: packets before the first entry
    position = np.arange(len(group))
    last_needed = np.full(group[-1] + 1, -1)  # of each group
    np.maximum.at(last_needed, group[chosen], chosen)
    entry_times = np.concatenate([[NO_TIME], timeline.pts[timeline.is_entry]])
    is_leading = timeline.pts[chosen] < entry_times[group[chosen]]
    last_needed[group[chosen[is_leading]] - 1] = len(group)  # all packets of the group before
    actions = np.where(position <= last_needed[group], REFERENCE, DROP)
    actions[chosen] = DECODE
    return actions


def _dense_frames(source: VideoSource, timeline: Timeline, limits: np.ndarray) -> Iterator[tuple[Any, int]]:
    """Decode everything and yield the frame of each limit; a damaged picture is replaced by the last good one."""
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
    _warn_of_losses(source, timeline, num_expected - num_good, num_expected)


def _warn_of_losses(source: VideoSource, timeline: Timeline, num_missing: int, num_expected: int) -> None:
    # Where the clock goes back, many pictures are skipped on purpose.
    num_missing = 0 if timeline.clock_goes_back else max(num_missing, 0)
    num_lost = num_missing + timeline.num_broken
    if num_lost > 0:
        logger.warning(
            "%s is damaged: %d of the %d pictures read are lost and replaced by those before them; some others may "
            "show artefacts.",
            source.name,
            num_lost,
            num_expected + timeline.num_broken,
        )


def _timed_frames(source: VideoSource, timeline: Timeline) -> Iterator[tuple[int, Any]]:
    """All undamaged frames with their times, in presentation order."""
    last, num_usable = len(timeline.times) - 1, 0
    for frame in decode(source, np.full(len(timeline.pts), DECODE)):
        if frame is None or frame.is_corrupt or (frame.pts is not None and not timeline.is_shown[frame.pts]):
            continue
        if not timeline.has_picture_times:
            yield int(timeline.times[min(num_usable, last)]), frame
        elif frame.pts is not None:
            yield int(timeline.pts[frame.pts]), frame
        num_usable += 1
