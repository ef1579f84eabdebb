"""When the pictures of a video are shown, read off its packets, and decoding them packet by packet."""

import logging
from array import array
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from .containers_r2tuning import VideoSource, open_stream
from .mp4_tables_r2tuning import count_declared_samples
from .video_entries_r2tuning import COMPLETE_ENTRY, NO_ENTRY, holds_several_pictures, make_entry_test


__all__ = ["DECODE", "DROP", "NO_TIME", "REFERENCE", "Timeline", "decode", "scan"]

logger = logging.getLogger(__name__)

NO_TIME = np.iinfo(np.int64).min  # a packet without a timestamp
DROP, REFERENCE, DECODE = range(3)  # fates of a packet; REFERENCE: decode it only if other pictures build on it
MISSING_TOLERANCE_SEC = 1.0  # a video may end this much before its declared end
MAX_PACKETS = 5_000_000  # 23 hours at 60 pictures a second; an edit list can repeat a few bytes any number of times
MAX_SAMPLES = 2 * MAX_PACKETS  # in the tables of an mp4 file
MAX_TICKS = 2**60  # beyond, differences of timestamps would not fit into 64 bits
# FFmpeg's rule: where clocks may be set anew, a jump of more than this, or one back, is no pause
JUMP_SEC, BACK_SEC = 10, Fraction(1, 10)
FORMATS_THAT_RESTART = 0x200  # AVFMT_TS_DISCONT
NEW_PARAMETERS = ("new_extradata", "param_change", "palette")  # what a packet hands to the decoder for later ones


@dataclass(frozen=True)
class Timeline:
    """When the pictures of a video are shown: integers in units of `time_base` since the first picture."""

    time_base: Fraction  # seconds
    pts: np.ndarray  # (num_packets,) time of each packet, in the order of the file
    is_entry: np.ndarray  # (num_packets,) True = decoding can begin here
    is_shown: np.ndarray  # (num_packets,) False = hidden by an edit list, broken, or before the first picture
    times: np.ndarray  # (num_pictures,) ascending
    gap: int  # usual time between two pictures
    duration: Fraction  # seconds from the first picture to the end of the last one
    has_picture_times: bool  # decoded pictures carry their times; if not, the n-th picture has the n-th time
    can_skip: bool  # what decodes from an entry on is known from the packets
    clock_goes_back: bool  # in the order of the file
    num_broken: int  # packets marked as broken, without the last one, at which a file may have been cut
    sample_aspect_ratio: Fraction  # width of a pixel divided by its height


@dataclass(frozen=True)
class _PacketTable:
    """What the packets of a video say, in the order of the file."""

    pts: np.ndarray
    dts: np.ndarray
    durations: np.ndarray
    entries: np.ndarray  # as a container flags them and `make_entry_test` finds them
    is_key: np.ndarray  # as a container flags them
    is_hidden: np.ndarray  # by an edit list
    is_broken: np.ndarray
    is_packed: bool  # some packets hold several pictures
    has_new_parameters: bool
    has_jumps: bool = False  # of the clock


def scan(source: VideoSource) -> Timeline:
    """Read all timestamps; nothing is decoded, but for a file that begins with pictures that cannot be."""
    _check_declared_samples(source)
    with open_stream(source) as (av, container, stream):
        table = _read_packets(source.name, _packets(av, container, stream), stream.codec_context)
        if (table.is_hidden | table.is_broken).all():
            raise ValueError(f"{source.name} has a video stream without any picture; is it complete?")
        return _make_timeline(source, table, container, stream)


def _check_declared_samples(source: VideoSource) -> None:
    is_path = isinstance(source.target, str)
    with open(source.target.removeprefix("file:"), "rb") if is_path else nullcontext(source.target) as file:
        num_samples = count_declared_samples(file)
    if num_samples > MAX_SAMPLES:
        raise ValueError(
            f"{source.name} declares {num_samples:,} samples, repeats by its edit list included; allowed are up to "
            f"{MAX_SAMPLES:,}. Cut it into parts, or remux it without the edit list."
        )


def _packets(av: Any, container: Any, stream: Any) -> Iterator[Any]:
    """The packets up to the first unreadable place; `scan` warns about what is missing then."""
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:  # PyAV ends with an empty packet, and an empty one in between would stop the decoder
                yield packet


def _read_packets(name: str, packets: Iterator[Any], codec_context: Any) -> _PacketTable:
    entry_test = make_entry_test(codec_context)
    times, marks = array("q"), array("b")
    is_packed = has_new_parameters = False
    for number, packet in enumerate(packets):
        if number == MAX_PACKETS:
            raise ValueError(f"{name} holds more than {MAX_PACKETS:,} pictures, too many to read; cut it into parts.")
        times.extend(NO_TIME if time is None else time for time in (packet.pts, packet.dts, packet.duration or 0))
        entry = entry_test(memoryview(packet)) if entry_test is not None and packet.is_keyframe else NO_ENTRY
        marks.extend((entry, packet.is_keyframe, packet.is_discard, packet.is_corrupt))
        is_packed = is_packed or holds_several_pictures(codec_context, packet)
        has_new_parameters = has_new_parameters or any(map(packet.has_sidedata, NEW_PARAMETERS))
    pts, dts, durations = np.frombuffer(times, dtype=np.int64).reshape(-1, 3).T
    entries, is_key, is_hidden, is_broken = np.frombuffer(marks, dtype=np.int8).reshape(-1, 4).T
    for ticks in (pts, dts, durations):
        if (np.abs(ticks[ticks != NO_TIME]) > MAX_TICKS).any():
            raise ValueError(f"{name} has timestamps that no clock shows ({MAX_TICKS:,} or more); it is damaged.")
    flags = (is_key == 1, is_hidden == 1, is_broken == 1)
    return _PacketTable(pts, dts, durations, entries, *flags, is_packed, has_new_parameters)


def _make_timeline(source: VideoSource, table: _PacketTable, container: Any, stream: Any) -> Timeline:
    time_base = _ratio(stream.time_base)
    fallback_gap = max(round(1 / (_ratio(stream.average_rate, default=25) * time_base)), 1)
    fallback_gap = min(fallback_gap, MAX_TICKS // len(table.pts))
    may_restart = bool(container.format.flags & FORMATS_THAT_RESTART)
    table = _continue_clock(source, table, may_restart, time_base, fallback_gap)
    pts = table.pts
    has_times = bool((pts != NO_TIME).all()) and not table.is_packed and not _is_mistimed_avi(container, stream, pts)
    if (pts == NO_TIME).any():
        pts = _fill_gaps(table.dts, fallback_gap)
    is_shown = _find_shown(source, table, pts, may_restart)
    origin = int(pts[is_shown].min())
    times = np.sort(pts[is_shown]) - origin
    gaps = np.diff(times)
    gap = int(np.median(gaps[gaps > 0])) if (gaps > 0).any() else fallback_gap
    last_duration = int(table.durations[is_shown][pts[is_shown].argmax()])
    num_broken = int(table.is_broken[:-1].sum())
    timeline = Timeline(
        time_base=time_base,
        pts=pts - origin,
        is_entry=_find_entries(table.entries),
        is_shown=is_shown,
        times=times,
        gap=gap,
        duration=(int(times[-1]) + (last_duration if last_duration > 0 else gap)) * time_base,
        has_picture_times=has_times,
        can_skip=has_times and num_broken == 0 and not table.has_new_parameters and _is_orderly(table, is_shown),
        clock_goes_back=table.has_jumps and not may_restart,
        num_broken=num_broken,
        sample_aspect_ratio=_ratio(stream.sample_aspect_ratio, default=1),
    )
    if not may_restart and not table.has_jumps:  # else the end is not declared, but guessed from the last timestamps
        _warn_if_short(source.name, container, stream, timeline.duration)
    return timeline


def _ratio(value: Any, default: int = 0) -> Fraction:
    """PyAV's rational number, which is `None` or 0 if unknown, as a fraction."""
    return Fraction(value.numerator, value.denominator) if value else Fraction(default)


def _is_mistimed_avi(container: Any, stream: Any, pts: np.ndarray) -> bool:
    """AVI keeps no presentation times; FFmpeg's guess is wrong if it ascends although pictures are reordered."""
    return container.format.name == "avi" and stream.codec_context.has_b_frames and bool((np.diff(pts) > 0).all())


def _fill_gaps(times: np.ndarray, usual_gap: int) -> np.ndarray:
    """The times with those that are missing put one gap after the one before, though not behind the next.

    Of several equal ones in a row the last is kept: parsers give a time to the picture before it, too.
    """
    known = np.flatnonzero(times != NO_TIME)
    known = known[np.diff(times[known], append=NO_TIME) != 0]
    position = np.arange(len(times))
    if len(known) == 0:
        return position * usual_gap
    steps = np.diff(times[known]) // np.diff(known)
    if (steps > 0).any():
        usual_gap = min(int(np.quantile(steps[steps > 0], 0.5, method="lower")), MAX_TICKS // len(times))
    place = np.searchsorted(known, position, side="right")
    before = known[np.maximum(place - 1, 0)]
    after = times[known[np.minimum(place, len(known) - 1)]]
    filled = times[before] + (position - before) * usual_gap
    return np.where(place < len(known), np.minimum(filled, after), filled)


def _continue_clock(
    source: VideoSource, table: _PacketTable, may_restart: bool, time_base: Fraction, usual_gap: int
) -> _PacketTable:
    """The table with one clock for all recordings that were joined; a clock that is set anew is told."""
    longest = int(JUMP_SEC / time_base)
    if may_restart:  # a picture at a joint may have the time of another recording
        is_wrong = (table.dts != NO_TIME) & (table.pts != NO_TIME) & (np.abs(table.pts - table.dts) > longest)
        table = replace(table, pts=np.where(is_wrong, NO_TIME, table.pts))
    lengths = np.where((table.durations > 0) & (table.durations <= longest), table.durations, usual_gap)
    planned = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    known = np.flatnonzero(table.dts != NO_TIME)
    steps = np.diff(table.dts[known])
    excess = steps - np.diff(planned[known])
    is_jump = steps < -int(BACK_SEC / time_base)
    if may_restart:
        is_jump |= np.abs(excess) > longest
    if not is_jump.any():
        return table
    places = known[1:][is_jump]
    logger.warning(
        "The clock of %s jumps %d times, first by %+.1f seconds after %.1f seconds. %s",
        source.name,
        len(places),
        excess[is_jump][0] * time_base,
        planned[places[0]] * time_base,
        "What follows a jump is taken to continue what came before, as ffmpeg does."
        if may_restart
        else "Pictures after a jump back are left out until the clock has caught up, as ffmpeg does; remux the file.",
    )
    if not may_restart:
        return replace(table, has_jumps=True)
    shifts = np.zeros(len(table.pts), dtype=np.int64)
    shifts[places] = excess[is_jump]
    shifts = np.cumsum(shifts)
    is_broken = table.is_broken.copy()
    for before in (1, 2):  # marked for a counter that restarts, not for a loss
        is_broken[np.maximum(places - before, 0)] = False
    pts, dts = (np.where(times == NO_TIME, NO_TIME, times - shifts) for times in (table.pts, table.dts))
    return replace(table, pts=pts, dts=dts, is_broken=is_broken, has_jumps=True)


def _find_shown(source: VideoSource, table: _PacketTable, pts: np.ndarray, may_be_cut: bool) -> np.ndarray:
    """Whether a packet's picture is shown: not if it is hidden, broken, or one before the first that can be decoded.

    A recording may begin in the middle of a group of pictures, or with pictures that are predicted from one before.
    """
    is_shown = ~(table.is_hidden | table.is_broken)
    keys = np.flatnonzero(table.is_key)
    key, key_time = (keys[0], pts[keys[0]]) if len(keys) else (len(pts), MAX_TICKS)
    position = np.arange(len(pts))
    is_headless = is_shown & np.where(position < key, may_be_cut, pts < key_time)
    if not is_headless.any():
        return is_shown
    frames = (frame for frame in decode(source, np.full(len(pts), DECODE)) if frame is not None)
    places = (frame.pts for frame in frames if frame.pts is not None and not frame.is_corrupt)
    first = next((pts[place] for place in places if is_shown[place]), key_time)
    return is_shown & (pts >= min(first, key_time))


def _find_entries(entries: np.ndarray) -> np.ndarray:
    """Where decoding can begin; where parameters are sent again, what lacks them may need those of a skipped packet."""
    is_entry = entries != NO_ENTRY
    is_complete = entries == COMPLETE_ENTRY
    is_later = np.cumsum(is_entry) > 1
    return is_complete if (is_complete & is_later).any() else is_entry


def _is_orderly(table: _PacketTable, is_shown: np.ndarray) -> bool:
    """Whether each picture has a time of its own and the packets are in the order of decoding."""
    dts = table.dts[table.dts != NO_TIME]
    return len(np.unique(table.pts[is_shown])) == is_shown.sum() and bool((np.diff(dts) >= 0).all())


def _warn_if_short(name: str, container: Any, stream: Any, end: Fraction) -> None:
    """One warning for a file that stops before its declared end."""
    declared = Fraction(container.duration or 0, 1_000_000)
    if stream.duration is not None:
        declared = stream.duration * _ratio(stream.time_base)
    if container.format.name == "avi":  # FFmpeg corrects the duration of a truncated one, but not the frame count
        declared = stream.frames / _ratio(stream.average_rate, default=25)
    missing = float(declared - end)
    if missing > MISSING_TOLERANCE_SEC:
        text = "%s ends after %.1f seconds, %.1f seconds before its declared end; it may be truncated."
        logger.warning(text, name, end, missing)


def decode(source: VideoSource, actions: np.ndarray) -> Iterator[Any]:
    """Frames in the order of presentation, `None` for a packet that cannot be decoded.

    `frame.pts` is the position of the frame's packet in the file: unlike times, positions are never missing or equal.
    """
    with open_stream(source) as (av, container, stream):
        decoder = stream.codec_context
        decoder.open(strict=False)  # before `skip_frame` is set: dav1d would keep the first value for good
        for packet, action in _planned_packets(_packets(av, container, stream), actions):
            decoder.skip_frame = "NONREF" if action == REFERENCE else "DEFAULT"
            try:
                frames = decoder.decode(packet)
            except av.error.FFmpegError:
                frames = [None]
            yield from frames
            if packet is None:
                decoder.flush_buffers()


def _planned_packets(packets: Iterator, actions: np.ndarray) -> Iterator[tuple[Any, int]]:
    """Packets to decode with their actions, and `None` where the decoder must hand out all that it holds."""
    is_fed = False
    num_packets = int(np.flatnonzero(actions)[-1]) + 1
    for position, (action, packet) in enumerate(zip(actions[:num_packets].tolist(), packets, strict=False)):
        if action != DROP:
            packet.pts = position
            yield packet, action
        elif is_fed:
            yield None, DECODE
        is_fed = action != DROP
    yield None, DECODE
