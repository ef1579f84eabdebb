"""Where decoding can begin, told by the bytes of a packet.

Containers also flag pictures as keys at which a decoder cannot begin: the middle of H.264 with intra refresh, packets of
XviD that hold two pictures. An entry is a packet whose own bytes say that no picture shown from it on needs one before.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any


__all__ = ["COMPLETE_ENTRY", "ENTRY", "NO_ENTRY", "holds_several_pictures", "make_entry_test"]

# COMPLETE_ENTRY: with the parameters (size, matrices) that decoding needs; ENTRY: they are stored elsewhere
NO_ENTRY, ENTRY, COMPLETE_ENTRY = range(3)

EntryTest = Callable[[memoryview], int]


def make_entry_test(codec_context: Any) -> EntryTest | None:
    """Function that classifies a packet of this stream; `None` = packets of this codec tell nothing."""
    codec = codec_context.codec
    if codec.intra_only:
        return lambda data: COMPLETE_ENTRY
    extradata = bytes(codec_context.extradata or b"")
    is_framed = extradata[:1] == b"\1"  # each unit follows its length; else it follows a start code
    match codec.canonical_name:
        case "h264":
            length_size = (extradata[4] & 3) + 1 if is_framed and len(extradata) > 4 else 0
            return lambda data: _test_h264(_units(data, length_size))
        case "hevc":
            length_size = (extradata[21] & 3) + 1 if is_framed and len(extradata) > 21 else 0
            return lambda data: _test_hevc(_units(data, length_size))
        case name:
            return _TESTS.get(name)


def holds_several_pictures(codec_context: Any, packet: Any) -> bool:
    """Whether a packet is an MPEG-4 "packed bitstream": the decoder hands its pictures out with other packets' times."""
    return codec_context.codec.canonical_name == "mpeg4" and bytes(packet).count(b"\0\0\1\xb6") > 1


def _units(data: memoryview, length_size: int) -> Iterator[memoryview]:
    """The units of H.264 and HEVC in a packet; those after a start code have no end."""
    if length_size == 0:
        yield from (data[match.end() :] for match in re.finditer(rb"\x00\x00\x01(?=.)", data, re.DOTALL))
        return
    place = 0
    while place + length_size < len(data):
        end = place + length_size + int.from_bytes(data[place : place + length_size], "big")
        if end > place + length_size:
            yield data[place + length_size : end]
        place = end


def _test_h264(units: Iterator[memoryview]) -> int:
    """An IDR picture, or one of intra slices that says that all is right from it on."""
    found, is_recovery_point = ENTRY, False
    for unit in units:
        kind = unit[0] & 31
        if kind == 7:
            found = COMPLETE_ENTRY
        elif kind == 6:
            is_recovery_point |= _recovers_at_once(unit)
        elif kind in (1, 2, 5):
            is_entry = kind == 5 or (is_recovery_point and _is_intra_slice(unit))
            return found if is_entry else NO_ENTRY
    return NO_ENTRY


def _recovers_at_once(unit: memoryview) -> bool:
    """Whether supplemental information of H.264 holds a recovery point, exact and no picture later."""
    place = 1
    while place + 2 < len(unit) and unit[place] != 0x80:
        kind = size = 0
        while place < len(unit) - 1 and unit[place] == 255:
            kind, place = kind + 255, place + 1
        kind, place = kind + unit[place], place + 1
        while place < len(unit) - 1 and unit[place] == 255:
            size, place = size + 255, place + 1
        size, place = size + unit[place], place + 1
        if kind == 6 and place < len(unit):
            return unit[place] >> 6 == 0b11  # recovery_frame_cnt 0 as an exp-Golomb code, exact_match_flag
        place += size
    return False


def _is_intra_slice(unit: memoryview) -> bool:
    """Whether the first slice of an H.264 picture is intra: first_mb 0 is one bit, slice_type an exp-Golomb code."""
    bits = "".join(f"{byte:08b}" for byte in unit[1:4])
    code = re.match("1(0*)1", bits)
    return code is not None and int("1" + bits[code.end() :][: len(code[1])], 2) - 1 in (2, 4, 7, 9)


def _test_hevc(units: Iterator[memoryview]) -> int:
    """A picture of random access; those that are shown before it need not be right."""
    found = ENTRY
    for unit in units:
        kind = unit[0] >> 1 & 63
        if kind == 33:
            found = COMPLETE_ENTRY
        elif kind < 32:
            return found if 16 <= kind <= 21 else NO_ENTRY
    return NO_ENTRY


def _test_mpeg12(data: memoryview) -> int:
    found = ENTRY
    for match in re.finditer(rb"\x00\x00\x01([\x00\xb3])", data):
        if match[1] == b"\xb3":
            found = COMPLETE_ENTRY
        else:
            is_intra = len(data) > match.end() + 1 and data[match.end() + 1] >> 3 & 7 == 1
            return found if is_intra else NO_ENTRY
    return NO_ENTRY


def _test_mpeg4(data: memoryview) -> int:
    found = ENTRY
    for match in re.finditer(rb"\x00\x00\x01([\x20-\x2f\xb6])", data):
        if match[1] != b"\xb6":
            found = COMPLETE_ENTRY
        else:
            is_intra = len(data) > match.end() and data[match.end()] >> 6 == 0
            return found if is_intra else NO_ENTRY
    return NO_ENTRY


def _test_vp8(data: memoryview) -> int:
    return NO_ENTRY if data[0] & 1 else COMPLETE_ENTRY


def _test_vp9(data: memoryview) -> int:
    """A key picture, which also resets the probabilities; one that is only intra does not."""
    is_third_profile = data[0] & 0b0011_0000 == 0b0011_0000
    header = data[0] << 1 if is_third_profile else data[0]
    return NO_ENTRY if header & 0b0000_1100 else COMPLETE_ENTRY


def _test_av1(data: memoryview) -> int:
    """A key picture that is shown when it is decoded."""
    found, place = ENTRY, 0
    while place < len(data):
        header = data[place]
        place += 1 + (header >> 2 & 1)
        size = len(data) - place
        if header >> 1 & 1:
            size, place = _read_leb128(data, place)
        kind = header >> 3 & 15
        if kind == 1:
            found = COMPLETE_ENTRY
        elif kind in (3, 6) and place < len(data):
            return found if data[place] >> 4 == 1 else NO_ENTRY
        place += size
    return NO_ENTRY


def _read_leb128(data: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for index in range(8):
        if place >= len(data):
            break
        byte, place = data[place], place + 1
        value |= (byte & 127) << 7 * index
        if byte < 128:
            break
    return value, place


def _test_theora(data: memoryview) -> int:
    return NO_ENTRY if data[0] & 0b1100_0000 else COMPLETE_ENTRY


_TESTS: dict[str, EntryTest] = {
    "mpeg1video": _test_mpeg12,
    "mpeg2video": _test_mpeg12,
    "mpeg4": _test_mpeg4,
    "vp8": _test_vp8,
    "vp9": _test_vp9,
    "av1": _test_av1,
    "theora": _test_theora,
}
