"""Find the packets at which decoding can start, from the bytes of the packets themselves.

The keyframe flag of a container is not enough: some files also flag pictures at which a decoder cannot start, such as
the middle of H.264 with intra refresh, or XviD packets that hold two pictures. An *entry* is a packet whose bytes
prove that no picture shown from that point on refers to an earlier one. The tests read only the few header bits that say
so; their comments name the fields as the codecs' specifications do.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any


__all__ = ["COMPLETE_ENTRY", "ENTRY", "NO_ENTRY", "holds_several_pictures", "make_entry_test"]

# COMPLETE_ENTRY: with the parameters (size, matrices) that decoding needs; ENTRY: they are stored elsewhere
NO_ENTRY, ENTRY, COMPLETE_ENTRY = range(3)

EntryTest = Callable[[memoryview], int]


def make_entry_test(codec_context: Any) -> EntryTest | None:
    """Make the function that classifies the packets of a stream.

    Returns:
        Function from the bytes of a packet to `NO_ENTRY`, `ENTRY` or `COMPLETE_ENTRY`; `None` for a codec whose
        packets do not show where decoding can start.
    """
    codec = codec_context.codec
    if codec.intra_only:
        return lambda data: COMPLETE_ENTRY
    extradata = bytes(codec_context.extradata or b"")
    match codec.canonical_name:
        case "h264":
            length_size = _length_size(extradata, place=4)  # of the avcC box
            return lambda data: _test_h264(_units(data, length_size))
        case "hevc":
            length_size = _length_size(extradata, place=21)  # of the hvcC box
            return lambda data: _test_hevc(_units(data, length_size))
        case name:
            return _TESTS.get(name)


def holds_several_pictures(codec_context: Any, packet: Any) -> bool:
    """Return whether a packet is an MPEG-4 "packed bitstream".

    A decoder returns the pictures of such packets with the times of other packets. XviD and DivX write them into AVI.
    """
    return codec_context.codec.canonical_name == "mpeg4" and bytes(packet).count(b"\0\0\1\xb6") > 1


def _length_size(extradata: bytes, place: int) -> int:
    """Bytes of the length before each unit, as in mp4 and mkv; 0 = start codes instead, as in transport streams."""
    if extradata[:1] != b"\1" or len(extradata) <= place:
        return 0
    return (extradata[place] & 3) + 1


def _units(data: memoryview, length_size: int) -> Iterator[memoryview]:
    """The units (NAL units) of H.264 or HEVC in a packet; with start codes, each extends to the end of the packet."""
    if length_size == 0:
        for match in re.finditer(rb"\x00\x00\x01(?=.)", data, re.DOTALL):
            yield data[match.end() :]
        return
    place = 0
    while place + length_size < len(data):
        end = place + length_size + int.from_bytes(data[place : place + length_size], "big")
        if end > place + length_size:
            yield data[place + length_size : end]
        place = end


def _test_h264(units: Iterator[memoryview]) -> int:
    """An entry is an IDR picture, or an intra picture marked as a recovery point from which all pictures are exact."""
    found, is_recovery_point = ENTRY, False
    for unit in units:
        kind = unit[0] & 31  # nal_unit_type
        if kind == 7:  # sequence parameter set
            found = COMPLETE_ENTRY
        elif kind == 6:  # supplemental enhancement information (SEI)
            is_recovery_point |= _recovers_at_once(unit)
        elif kind in (1, 2, 5):  # the first slice of the picture; 5: of an IDR picture
            is_entry = kind == 5 or (is_recovery_point and _is_intra_slice(unit))
            return found if is_entry else NO_ENTRY
    return NO_ENTRY


def _recovers_at_once(unit: memoryview) -> bool:
    """Return whether an SEI unit of H.264 holds a recovery point that is exact from this very picture on."""
    place = 1
    while place + 2 < len(unit) and unit[place] != 0x80:  # 0x80: the trailing bits of the unit
        kind, place = _read_sei_number(unit, place)
        size, place = _read_sei_number(unit, place)
        if kind == 6 and place < len(unit):
            return unit[place] >> 6 == 0b11  # recovery_frame_cnt is 0 (one bit, exp-Golomb), exact_match_flag is set
        place += size
    return False


def _read_sei_number(unit: memoryview, place: int) -> tuple[int, int]:
    """A payload type or size, which is the sum of bytes up to the first that is not 255; and where it ends."""
    value = 0
    while place < len(unit) - 1 and unit[place] == 255:
        value, place = value + 255, place + 1
    if place == len(unit):  # the packet was cut off
        return value, place
    return value + unit[place], place + 1


def _is_intra_slice(unit: memoryview) -> bool:
    """Return whether the first slice of an H.264 picture is intra.

    Its header starts with two exp-Golomb numbers: first_mb_in_slice, which is 0 (the single bit 1), and slice_type.
    """
    bits = "".join(f"{byte:08b}" for byte in unit[1:4])
    code = re.match("1(0*)1", bits)
    if code is None:
        return False
    num_bits = len(code[1])
    slice_type = int("1" + bits[code.end() :][:num_bits], 2) - 1
    return slice_type in (2, 4, 7, 9)  # I and SI, 7 and 9 if all slices of the picture are


def _test_hevc(units: Iterator[memoryview]) -> int:
    """An entry is a random access picture (IRAP); pictures shown before it may be wrong."""
    found = ENTRY
    for unit in units:
        kind = unit[0] >> 1 & 63  # nal_unit_type
        if kind == 33:  # sequence parameter set
            found = COMPLETE_ENTRY
        elif kind < 32:  # a slice
            return found if 16 <= kind <= 21 else NO_ENTRY
    return NO_ENTRY


def _test_mpeg12(data: memoryview) -> int:
    """An entry is an intra picture (I-picture)."""
    found = ENTRY
    for match in re.finditer(rb"\x00\x00\x01([\x00\xb3])", data):
        if match[1] == b"\xb3":  # sequence header
            found = COMPLETE_ENTRY
        else:  # picture header: temporal_reference (10 bits), picture_coding_type (3 bits)
            is_intra = len(data) > match.end() + 1 and data[match.end() + 1] >> 3 & 7 == 1
            return found if is_intra else NO_ENTRY
    return NO_ENTRY


def _test_mpeg4(data: memoryview) -> int:
    """An entry is an intra picture (I-VOP)."""
    found = ENTRY
    for match in re.finditer(rb"\x00\x00\x01([\x20-\x2f\xb6])", data):
        if match[1] != b"\xb6":  # video object layer
            found = COMPLETE_ENTRY
        else:  # video object plane, which starts with vop_coding_type (2 bits)
            is_intra = len(data) > match.end() and data[match.end()] >> 6 == 0
            return found if is_intra else NO_ENTRY
    return NO_ENTRY


def _test_vp8(data: memoryview) -> int:
    """An entry is a keyframe, whose lowest bit is 0."""
    return NO_ENTRY if data[0] & 1 else COMPLETE_ENTRY


def _test_vp9(data: memoryview) -> int:
    """An entry is a keyframe, which also resets the probabilities; a frame that is merely intra-only does not."""
    has_reserved_bit = data[0] & 0b0011_0000 == 0b0011_0000  # profile 3
    header = data[0] << 1 if has_reserved_bit else data[0]
    return NO_ENTRY if header & 0b0000_1100 else COMPLETE_ENTRY  # show_existing_frame and frame_type are 0


def _test_av1(data: memoryview) -> int:
    """An entry is a keyframe that is shown when it is decoded."""
    found, place = ENTRY, 0
    while place < len(data):
        header = data[place]
        place += 1 + (header >> 2 & 1)  # obu_extension_flag
        size = len(data) - place
        if header >> 1 & 1:  # obu_has_size_field
            size, place = _read_leb128(data, place)
        kind = header >> 3 & 15  # obu_type
        if kind == 1:  # sequence header
            found = COMPLETE_ENTRY
        elif kind in (3, 6) and place < len(data):  # frame header or frame
            # show_existing_frame 0, frame_type 0 (keyframe, 2 bits), show_frame 1
            return found if data[place] >> 4 == 1 else NO_ENTRY
        place += size
    return NO_ENTRY


def _read_leb128(data: memoryview, place: int) -> tuple[int, int]:
    """A number stored with seven bits in each byte, the lowest first; and where it ends."""
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
    """An entry is an intra frame; the bits say "video data" and "intra"."""
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
