"""How many samples an mp4 file declares: FFmpeg makes room for all of them when it opens the file.

A file of a kilobyte can declare a billion, or repeat a few a million times by an edit list.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO


__all__ = ["count_declared_samples"]

INSIDE_TRACK = {b"mdia", b"minf", b"stbl", b"edts"}


def count_declared_samples(file: BinaryIO) -> int:
    """Samples of all tracks and fragments, each as often as an edit list may play it; 0 for what is no mp4 file."""
    total = 0
    for kind, start, end in _boxes(file, 0, file.seek(0, os.SEEK_END)):
        if kind == b"moov":
            total += sum(_count_of_track(file, *place) for kind, *place in _boxes(file, start, end) if kind == b"trak")
        elif kind == b"moof":
            tracks = [place for kind, *place in _boxes(file, start, end) if kind == b"traf"]
            runs = (place for track in tracks for kind, *place in _boxes(file, *track) if kind == b"trun")
            total += sum(_read_number(file, start + 4) for start, _ in runs)
    return total


def _count_of_track(file: BinaryIO, start: int, end: int) -> int:
    num_samples, num_edits, is_sound, has_raw_times = 0, 1, False, False
    for kind, place in _track_tables(file, start, end):
        if kind in (b"stsz", b"stz2"):
            num_samples = max(num_samples, _read_number(file, place + 8))
        elif kind == b"elst":
            num_edits = max(num_edits, _read_number(file, place + 4))
        elif kind == b"stts":
            has_raw_times = _read_number(file, place + 4) == _read_number(file, place + 12) == 1
        elif kind == b"hdlr":
            is_sound |= _read_number(file, place + 8) == int.from_bytes(b"soun", "big")
    return 0 if is_sound and has_raw_times else num_samples * num_edits  # raw sound is read in chunks


def _track_tables(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Kind of each box in a track that holds no boxes itself, and where its content begins."""
    places = [(start, end)]
    while places:
        for kind, *place in _boxes(file, *places.pop()):
            if kind in INSIDE_TRACK:
                places.append(place)
            else:
                yield kind, place[0]


def _read_number(file: BinaryIO, place: int) -> int:
    file.seek(place)
    return int.from_bytes(file.read(4), "big")


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box between two places, and where its content begins and ends."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        size, header_size = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header_size = int.from_bytes(head[8:], "big"), 16
        elif size == 0:
            size = end - start
        if size < header_size:
            return
        yield head[4:8], start + header_size, min(start + size, end)
        start += size
