"""Find out when each picture of a video is shown, from its packets, and decode it packet by packet.

The timestamps of real files are often incomplete or wrong. What is repaired here, and for which files:

- missing presentation times: AVI and raw streams (`_fill_gaps`);
- presentation times that are decoding times: AVI with reordered pictures (`_is_mistimed_avi`);
- clocks that restart: recordings joined by `cat`, transport streams (`_join_clocks`);
- pictures that cannot be decoded: recordings that start within a group of pictures (`_find_shown`);
- pictures that players hide: edit lists of mp4 and mov files;
- truncated and damaged files, which are reported in one warning.
"""

import logging
from array import array
from collections.abc import Iterator
from contextlib import suppress
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
# What `decode` does with a packet. REFERENCE: decode it only if other pictures refer to it.
DROP, REFERENCE, DECODE = range(3)
MISSING_TOLERANCE_SEC = 1.0  # a video may end this much before its declared end
MAX_PACKETS = 5_000_000  # 23 hours at 60 pictures a second; an edit list can repeat a few bytes any number of times
MAX_SAMPLES = 2 * MAX_PACKETS  # in the tables of an mp4 file
MAX_TICKS = 2**60  # differences of larger timestamps would not fit into 64 bits
# FFmpeg's rule: in formats whose clock may restart, a longer jump forwards, or one backwards, is not a pause.
JUMP_SEC, BACK_SEC = 10, Fraction(1, 10)
FORMATS_THAT_RESTART = 0x200  # AVFMT_TS_DISCONT
NEW_PARAMETERS = ("new_extradata", "param_change", "palette")  # side data that changes how later packets are decoded


@dataclass(frozen=True)
class Timeline:
    """When the pictures of a video are shown: integers in units of `time_base`, counted from the first picture."""

    time_base: Fraction  # seconds
    pts: np.ndarray  # (num_packets,) time of each packet, in file order
    is_entry: np.ndarray  # (num_packets,) True = decoding can start here
    is_shown: np.ndarray  # (num_packets,) False = hidden by an edit list, broken, or before the first picture
    times: np.ndarray  # (num_pictures,) ascending
    gap: int  # usual time between two pictures
    duration: Fraction  # seconds from the first picture to the end of the last one
    has_picture_times: bool  # decoded pictures carry their times; if not, the n-th picture has the n-th time
    can_skip: bool  # the packets show which pictures decoding from an entry yields
    clock_goes_back: bool  # in file order
    num_broken: int  # packets marked as broken, except the last one, at which a file may have been cut
    sample_aspect_ratio: Fraction  # width of a pixel divided by its height
    clock_start: Fraction | None  # time of the first picture on the file's clock in seconds; None = the clock jumps


@dataclass(frozen=True)
class _PacketTable:
    """The fields of a video's packets, in file order; each array has the shape (num_packets,)."""

    pts: np.ndarray
    dts: np.ndarray
    durations: np.ndarray
    entries: np.ndarray  # result of the entry test for packets that the container flags as keyframes
    is_key: np.ndarray  # as the container flags them
    is_hidden: np.ndarray  # by an edit list
    is_broken: np.ndarray
    is_packed: bool  # some packets hold several pictures
    has_new_parameters: bool
    has_jumps: bool = False  # of the clock


def scan(source: VideoSource) -> Timeline:
    """Read the timestamps of a video.

    Nothing is decoded, except in a file that starts with pictures that cannot be decoded.

    Raises:
        ValueError: The file declares too many samples, holds too many packets or no picture, or its timestamps are
            out of range.
    """
    _check_declared_samples(source)
    with open_stream(source) as (av, container, stream):
        table = _read_packets(source.name, _packets(av, container, stream), stream.codec_context)
        if (table.is_hidden | table.is_broken).all():
            raise ValueError(f"{source.name} has a video stream without any picture; is it complete?")
        return _make_timeline(source, table, container, stream)


def _check_declared_samples(source: VideoSource) -> None:
    if isinstance(source.target, str):
        with open(source.target.removeprefix("file:"), "rb") as file:
            num_samples = count_declared_samples(file)
    else:
        num_samples = count_declared_samples(source.target)
    if num_samples > MAX_SAMPLES:
        raise ValueError(
            f"{source.name} declares {num_samples:,} samples, counting the repeats of its edit list; at most "
            f"{MAX_SAMPLES:,} are allowed. Cut it into parts, or remux it without the edit list."
        )


def _packets(av: Any, container: Any, stream: Any) -> Iterator[Any]:
    """The packets up to the first one that cannot be read; `scan` then warns about what is missing."""
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            # PyAV ends with an empty packet, and an empty one elsewhere would make the decoder stop.
            if packet.size:
                yield packet


def _read_packets(name: str, packets: Iterator[Any], codec_context: Any) -> _PacketTable:
    entry_test = make_entry_test(codec_context)
    # Compact arrays: as Python objects, the numbers of a long video would take gigabytes.
    times, marks = array("q"), array("b")
    is_packed = has_new_parameters = False
    for number, packet in enumerate(packets):
        if number == MAX_PACKETS:
            raise ValueError(f"{name} holds more than {MAX_PACKETS:,} pictures, too many to read; cut it into parts.")
        for time in (packet.pts, packet.dts, packet.duration or 0):
            times.append(NO_TIME if time is None else time)
        entry = NO_ENTRY
        if entry_test is not None and packet.is_keyframe:
            entry = entry_test(memoryview(packet))
        marks.extend((entry, packet.is_keyframe, packet.is_discard, packet.is_corrupt))
        is_packed = is_packed or holds_several_pictures(codec_context, packet)
        has_new_parameters = has_new_parameters or any(map(packet.has_sidedata, NEW_PARAMETERS))
    pts, dts, durations = np.frombuffer(times, dtype=np.int64).reshape(-1, 3).T
    entries, is_key, is_hidden, is_broken = np.frombuffer(marks, dtype=np.int8).reshape(-1, 4).T
    for ticks in (pts, dts, durations):
        if (np.abs(ticks[ticks != NO_TIME]) > MAX_TICKS).any():
            raise ValueError(f"{name} has timestamps that no clock shows ({MAX_TICKS:,} or more); it is damaged.")
    return _PacketTable(
        pts=pts,
        dts=dts,
        durations=durations,
        entries=entries,
        is_key=is_key == 1,
        is_hidden=is_hidden == 1,
        is_broken=is_broken == 1,
        is_packed=is_packed,
        has_new_parameters=has_new_parameters,
    )


def _make_timeline(source: VideoSource, table: _PacketTable, container: Any, stream: Any) -> Timeline:
    time_base = _ratio(stream.time_base)
    usual_gap = max(round(1 / (_ratio(stream.average_rate, default=25) * time_base)), 1)
    usual_gap = min(usual_gap, MAX_TICKS // len(table.pts))
    may_restart = bool(container.format.flags & FORMATS_THAT_RESTART)
    table = _join_clocks(source, table, may_restart, time_base, usual_gap)
    pts = table.pts
    has_all_times = bool((pts != NO_TIME).all())
    has_picture_times = has_all_times and not table.is_packed and not _is_mistimed_avi(container, stream, pts)
    if not has_all_times:
        pts = _fill_gaps(table.dts, usual_gap)
    is_shown = _find_shown(source, table, pts, may_restart)
    origin = int(pts[is_shown].min())
    times = np.sort(pts[is_shown]) - origin
    gaps = np.diff(times)
    if (gaps > 0).any():
        usual_gap = int(np.median(gaps[gaps > 0]))
    last_duration = int(table.durations[is_shown][pts[is_shown].argmax()])
    if last_duration <= 0:
        last_duration = usual_gap
    num_broken = int(table.is_broken[:-1].sum())
    is_regular = num_broken == 0 and _is_orderly(table, is_shown)
    timeline = Timeline(
        time_base=time_base,
        pts=pts - origin,
        is_entry=_find_entries(table.entries),
        is_shown=is_shown,
        times=times,
        gap=usual_gap,
        duration=(int(times[-1]) + last_duration) * time_base,
        has_picture_times=has_picture_times,
        can_skip=has_picture_times and is_regular and not table.has_new_parameters,
        clock_goes_back=table.has_jumps and not may_restart,
        num_broken=num_broken,
        sample_aspect_ratio=_ratio(stream.sample_aspect_ratio, default=1),
        clock_start=_clock_start(table, is_shown, origin, time_base, has_picture_times=has_picture_times),
    )
    # Where clocks restart, FFmpeg guesses the end from the last timestamps instead of reading a declared one.
    if not may_restart and not table.has_jumps:
        _warn_if_short(source.name, container, stream, timeline)
    return timeline


def _clock_start(
    table: _PacketTable, is_shown: np.ndarray, origin: int, time_base: Fraction, *, has_picture_times: bool
) -> Fraction | None:
    """Time of the first picture on the clock that the sound of the file has, too; `None` = the clock jumps."""
    if table.has_jumps:
        return None
    if not has_picture_times:
        # AVI gives times to packets alone. Its writers mean the first picture to be shown at the time of the first
        # packet; FFmpeg takes it to be shown later by the reordering.
        times = table.dts[is_shown & (table.dts != NO_TIME)]
        origin = int(times.min()) if len(times) else origin
    return origin * time_base


def _ratio(value: Any, default: int = 0) -> Fraction:
    """Convert PyAV's rational number to a fraction; it is `None` or 0 if unknown."""
    if not value:
        return Fraction(default)
    return Fraction(value.numerator, value.denominator)


def _is_mistimed_avi(container: Any, stream: Any, pts: np.ndarray) -> bool:
    """Return whether FFmpeg's presentation times of an AVI file are wrong.

    AVI stores no presentation times. FFmpeg's guess is wrong if it ascends although the pictures are reordered.
    """
    return container.format.name == "avi" and stream.codec_context.has_b_frames and bool((np.diff(pts) > 0).all())


def _fill_gaps(times: np.ndarray, usual_gap: int) -> np.ndarray:
    """Replace missing times: each is one gap after the time before it, but not later than the next known time.

    Args:
        times: `(num_packets,)`, `NO_TIME` = missing. Of several equal times in a row only the last one is kept, as
            parsers of raw streams give the time of a picture to the picture before it, too.
        usual_gap: Gap if no two known times differ.
    """
    position = np.arange(len(times))
    known = np.flatnonzero(times != NO_TIME)
    is_last_of_equals = np.diff(times[known], append=NO_TIME) != 0
    known = known[is_last_of_equals]
    if len(known) == 0:
        return position * usual_gap
    steps = np.diff(times[known]) // np.diff(known)
    if (steps > 0).any():
        median = int(np.quantile(steps[steps > 0], 0.5, method="lower"))
        usual_gap = min(median, MAX_TICKS // len(times))
    place = np.searchsorted(known, position, side="right")  # number of known times up to each position
    before = known[np.maximum(place - 1, 0)]
    after = known[np.minimum(place, len(known) - 1)]
    filled = times[before] + (position - before) * usual_gap
    has_next = place < len(known)
    return np.where(has_next, np.minimum(filled, times[after]), filled)


def _join_clocks(
    source: VideoSource, table: _PacketTable, may_restart: bool, time_base: Fraction, usual_gap: int
) -> _PacketTable:
    """Put recordings that were joined into one file on a single clock, and warn where the clock jumps.

    Files joined by `cat`, or transport streams with a discontinuity, hold several clocks. As in ffmpeg, what
    follows a jump continues what came before. In formats whose clock must not restart the times are left as they are.
    """
    longest = int(JUMP_SEC / time_base)
    if may_restart:
        table = _drop_foreign_times(table, longest)
    has_usual_length = (table.durations > 0) & (table.durations <= longest)
    lengths = np.where(has_usual_length, table.durations, usual_gap)
    planned = np.concatenate([[0], np.cumsum(lengths)[:-1]])  # decoding times without pauses and jumps
    known = np.flatnonzero(table.dts != NO_TIME)
    steps = np.diff(table.dts[known])
    excess = steps - np.diff(planned[known])
    is_jump = steps < -int(BACK_SEC / time_base)
    if may_restart:
        is_jump |= np.abs(excess) > longest
    if not is_jump.any():
        return table
    places = known[1:][is_jump]
    advice = "Pictures after a jump back are left out until the clock has caught up, as ffmpeg does; remux the file."
    if may_restart:
        advice = "What follows a jump is taken to continue what came before, as ffmpeg does."
    logger.warning(
        "The clock of %s jumps %d times, first by %+.1f seconds after %.1f seconds. %s",
        source.name,
        len(places),
        excess[is_jump][0] * time_base,
        planned[places[0]] * time_base,
        advice,
    )
    if not may_restart:
        return replace(table, has_jumps=True)
    return _shift_times(table, places, excess[is_jump])


def _drop_foreign_times(table: _PacketTable, longest: int) -> _PacketTable:
    """Discard presentation times far from the decoding time, which at a joint may belong to the other recording."""
    has_both = (table.dts != NO_TIME) & (table.pts != NO_TIME)
    is_foreign = has_both & (np.abs(table.pts - table.dts) > longest)
    return replace(table, pts=np.where(is_foreign, NO_TIME, table.pts))


def _shift_times(table: _PacketTable, places: np.ndarray, jumps: np.ndarray) -> _PacketTable:
    """Undo the jumps of the clock at some packets, for these and all later packets."""
    shifts = np.zeros(len(table.pts), dtype=np.int64)
    shifts[places] = jumps
    shifts = np.cumsum(shifts)
    # FFmpeg marks the packets before a joint as broken because their counter restarts, though nothing was lost.
    is_broken = table.is_broken.copy()
    is_broken[np.maximum(places - 1, 0)] = False
    is_broken[np.maximum(places - 2, 0)] = False
    return replace(
        table,
        pts=np.where(table.pts == NO_TIME, NO_TIME, table.pts - shifts),
        dts=np.where(table.dts == NO_TIME, NO_TIME, table.dts - shifts),
        is_broken=is_broken,
        has_jumps=True,
    )


def _find_shown(source: VideoSource, table: _PacketTable, pts: np.ndarray, may_be_cut: bool) -> np.ndarray:
    """Return which packets hold a picture that is shown.

    Not shown are pictures that are hidden or broken, and those before the first one that can be decoded: a recording
    may start within a group of pictures, or with pictures that refer to one before the start.

    Args:
        source: The video.
        table: Its packets.
        pts: `(num_packets,)`, complete presentation times.
        may_be_cut: The format allows a recording to start anywhere.
    """
    is_shown = ~(table.is_hidden | table.is_broken)
    key, key_time = len(pts), MAX_TICKS
    if table.is_key.any():
        key = int(table.is_key.argmax())  # the first keyframe
        key_time = pts[key]
    # Before the first keyframe in the file, or after it in the file but before it in time.
    position = np.arange(len(pts))
    may_lack_reference = np.where(position < key, may_be_cut, pts < key_time)
    if not (is_shown & may_lack_reference).any():
        return is_shown
    first = min(_first_decoded_time(source, pts, is_shown, key_time), key_time)
    return is_shown & (pts >= first)


def _first_decoded_time(source: VideoSource, pts: np.ndarray, is_shown: np.ndarray, default: int) -> int:
    """Time of the first shown picture that can be decoded."""
    for frame in decode(source, np.full(len(pts), DECODE)):
        if frame is None or frame.pts is None or frame.is_corrupt:
            continue
        if is_shown[frame.pts]:
            return pts[frame.pts]
    return default


def _find_entries(entries: np.ndarray) -> np.ndarray:
    """Return at which packets decoding can start.

    In a stream that repeats its parameters they may change, so an entry without them could need those of a skipped
    packet; only complete entries count there.
    """
    is_entry = entries != NO_ENTRY
    is_complete = entries == COMPLETE_ENTRY
    is_later = np.cumsum(is_entry) > 1
    return is_complete if (is_complete & is_later).any() else is_entry


def _is_orderly(table: _PacketTable, is_shown: np.ndarray) -> bool:
    """Return whether every picture has a time of its own and the packets are in decoding order."""
    dts = table.dts[table.dts != NO_TIME]
    has_unique_times = len(np.unique(table.pts[is_shown])) == is_shown.sum()
    return bool(has_unique_times and (np.diff(dts) >= 0).all())


def _warn_if_short(name: str, container: Any, stream: Any, timeline: Timeline) -> None:
    """Warn of a file that ends before its declared end."""
    end = timeline.duration
    declared = Fraction(container.duration or 0, 1_000_000)
    if timeline.clock_start is not None and container.start_time is not None:
        # The container counts from the start of its sound, if that comes before the first picture.
        declared -= max(timeline.clock_start - Fraction(container.start_time, 1_000_000), Fraction(0))
    if stream.duration is not None:
        declared = stream.duration * _ratio(stream.time_base)
    if container.format.name == "avi":  # FFmpeg corrects the duration of a truncated AVI, but not its picture count
        declared = stream.frames / _ratio(stream.average_rate, default=25)
    missing = float(declared - end)
    if missing > MISSING_TOLERANCE_SEC:
        text = "%s ends after %.1f seconds, %.1f seconds before its declared end; it may be truncated."
        logger.warning(text, name, end, missing)


def decode(source: VideoSource, actions: np.ndarray) -> Iterator[Any]:
    """Decode the packets of a video.

    Args:
        source: The video.
        actions: `(num_packets,)`, `DROP`, `REFERENCE` or `DECODE` for each packet; at least one is not `DROP`.

    Yields:
        PyAV's frames in presentation order, and `None` for each packet that cannot be decoded. `frame.pts` is the
        position of the frame's packet in the file: unlike times, positions are never missing or equal.
    """
    with open_stream(source) as (av, container, stream):
        decoder = stream.codec_context
        # Opened before `skip_frame` is set for the first time: dav1d would keep that value for all packets.
        decoder.open(strict=False)
        for packet, action in _planned_packets(_packets(av, container, stream), actions):
            decoder.skip_frame = "NONREF" if action == REFERENCE else "DEFAULT"
            try:
                frames = decoder.decode(packet)
            except av.error.FFmpegError:
                frames = [None]
            yield from frames
            if packet is None:
                decoder.flush_buffers()


def _planned_packets(packets: Iterator[Any], actions: np.ndarray) -> Iterator[tuple[Any, int]]:
    """Packets to decode with their actions, and `None` where the decoder must return all pictures it holds back."""
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
