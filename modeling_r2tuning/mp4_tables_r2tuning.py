"""Count the samples that an mp4 file declares, before FFmpeg opens the file and allocates memory for all of them.

A file of one kilobyte can declare a billion samples, or repeat a few of them a million times with an edit list.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO


__all__ = ["count_declared_samples"]

NESTED_IN_TRACK = {b"mdia", b"minf", b"stbl", b"edts"}  # boxes of a track that hold boxes themselves
SOUND = int.from_bytes(b"soun", "big")


def count_declared_samples(file: BinaryIO) -> int:
    """Count the samples of all tracks and fragments, each as often as an edit list may play it.

    Returns:
        The number of samples; 0 for a file that is not mp4.
    """
    total = 0
    for kind, start, end in _boxes(file, 0, file.seek(0, os.SEEK_END)):
        if kind == b"moov":
            for inner, inner_start, inner_end in _boxes(file, start, end):
                if inner == b"trak":
                    total += _count_in_track(file, inner_start, inner_end)
        elif kind == b"moof":
            for inner, inner_start, inner_end in _boxes(file, start, end):
                if inner == b"traf":
                    total += _count_in_fragment(file, inner_start, inner_end)
    return total


def _count_in_track(file: BinaryIO, start: int, end: int) -> int:
    """Samples of a `trak` box."""
    num_samples, num_edits, is_sound, has_unit_durations = 0, 1, False, False
    for kind, place in _track_tables(file, start, end):
        if kind in (b"stsz", b"stz2"):
            num_samples = max(num_samples, _read_number(file, place + 8))
        elif kind == b"elst":
            num_edits = max(num_edits, _read_number(file, place + 4))
        elif kind == b"stts":
            # One entry says that every sample lasts one tick.
            has_unit_durations = _read_number(file, place + 4) == _read_number(file, place + 12) == 1
        elif kind == b"hdlr":
            is_sound |= _read_number(file, place + 8) == SOUND
    if is_sound and has_unit_durations:
        return 0  # uncompressed sound has a sample per tick, but FFmpeg reads it in large chunks
    return num_samples * num_edits


def _count_in_fragment(file: BinaryIO, start: int, end: int) -> int:
    """Samples of a `traf` box."""
    total = 0
    for kind, place, _ in _boxes(file, start, end):
        if kind == b"trun":
            total += _read_number(file, place + 4)
    return total


def _track_tables(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Kind of each innermost box of a track, and where its content starts."""
    places = [(start, end)]
    while places:
        for kind, inner_start, inner_end in _boxes(file, *places.pop()):
            if kind in NESTED_IN_TRACK:
                places.append((inner_start, inner_end))
            else:
                yield kind, inner_start


def _read_number(file: BinaryIO, place: int) -> int:
    file.seek(place)
    return int.from_bytes(file.read(4), "big")


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box between two places, and where its content starts and ends."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        size, header_size = int.from_bytes(head[:4], "big"), 8
        if size == 1:  # the size did not fit into 32 bits
            size, header_size = int.from_bytes(head[8:], "big"), 16
        elif size == 0:  # the box extends to the end
            size = end - start
        if size < header_size:
            return  # damaged
        yield head[4:8], start + header_size, min(start + size, end)
        start += size
