"""Entries, at which decoding can start: sparse decoding returns exactly the pictures of decoding everything."""

import dataclasses

import av
import numpy as np
import pytest
import video_samples as samples
from video_samples import decode_everything, expected_indices

from modeling_r2tuning import video_selection_r2tuning as video_selection
from modeling_r2tuning import video_timeline_r2tuning as video_timeline
from modeling_r2tuning.video_entries_r2tuning import COMPLETE_ENTRY, ENTRY, NO_ENTRY, make_entry_test
from modeling_r2tuning.video_io_r2tuning import load_video_frames
from modeling_r2tuning.video_source_r2tuning import make_source


COUNT, GROUP = 90, 15  # pictures in a file, and at most from one keyframe to the next
X264, X265 = "scenecut=0:keyint=15:min-keyint=15", "log-level=none:scenecut=0:keyint=15:min-keyint=15:pools=1"
VPX = {"cpu-used": "8", "deadline": "good", "lag-in-frames": "10", "auto-alt-ref": "1"}
# Whether packets of the codec show that they are entries, and the settings of the encoder.
FILES = {
    "h264.flv": (True, {"options": {"x264-params": X264}}),
    "h264_open.mkv": (True, {"options": {"x264-params": f"{X264}:open-gop=1:bframes=3:b-adapt=0"}}),
    "hevc.mp4": (True, {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"{X265}:open-gop=0"}}),
    "hevc_open.ts": (
        True,
        {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"{X265}:open-gop=1:bframes=3"}},
    ),
    "mpeg1.mpg": (True, {"codec": "mpeg1video", "max_b_frames": 2}),
    "mpeg2.vob": (True, {"codec": "mpeg2video", "max_b_frames": 2}),
    "mpeg2.ts": (True, {"codec": "mpeg2video", "max_b_frames": 2}),
    "mpeg4.ts": (True, {"codec": "mpeg4", "max_b_frames": 2}),
    "vp8.webm": (True, {"codec": "libvpx", "options": VPX}),
    "vp9.mp4": (True, {"codec": "libvpx-vp9", "options": VPX}),
    "av1.mp4": (True, {"codec": "libsvtav1", "options": {"preset": "13"}}),
    "mjpeg.avi": (True, {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "msmpeg4.avi": (False, {"codec": "msmpeg4"}),
    "wmv2.asf": (False, {"codec": "wmv2"}),
    "h263.flv": (False, {"codec": "flv"}),
}
REFRESH = "intra-refresh=1:keyint=12:bframes=0:ref=4"


def write(folder, name, **settings):
    if settings.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {settings['codec']}")
    return samples.write_video(folder / name, samples.textured_pictures(COUNT), gop=GROUP, **settings)


def count_keys(path):
    with av.open(str(path)) as container:
        return sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def count_entries(path):
    return video_timeline.scan(make_source(path)).is_entry.sum()


def assert_pictures_of_decoding_everything(path, caplog):
    """Compare frames at several rates, and of parts that start anywhere, with those of decoding everything."""
    times, pictures = decode_everything(path)
    parts = [(1, 0, None), (3, 0, None), (7, 1.3, 2.1)] + [(25, number / 25, None) for number in (33, 56, 77)]
    for fps, start, end in parts:
        end = end or (start and round(start + 0.04, 2)) or None
        video = load_video_frames(path, fps, start_sec=start, end_sec=end)
        indices = expected_indices(times, fps, len(video.frames), start, end)
        np.testing.assert_array_equal(video.frames, np.stack([pictures[index] for index in indices]))
    assert not caplog.records


@pytest.mark.parametrize("name", FILES)
def test_sparse_decoding_equals_full_decoding_for_every_codec(tmp_path, monkeypatch, caplog, name):
    is_proven, settings = FILES[name]
    path = write(tmp_path, name, **settings)
    monkeypatch.setattr(video_selection, "_dense_frames", None)
    num_keys = count_keys(path)
    assert num_keys >= COUNT / GROUP
    assert count_entries(path) == (num_keys if is_proven else 0)
    assert_pictures_of_decoding_everything(path, caplog)


@pytest.mark.parametrize("ending", ["mp4", "ts", "mkv"])
def test_intra_refresh_is_decoded_from_its_only_entry(tmp_path, caplog, ending):
    path = write(tmp_path, f"refresh.{ending}", options={"x264-params": REFRESH})
    assert count_keys(path) > 5
    assert count_entries(path) == 1
    assert_pictures_of_decoding_everything(path, caplog)


@pytest.mark.parametrize("ending", ["avi", "mp4"])
def test_packed_b_frames_are_decoded_in_order(tmp_path, caplog, ending):
    plain = write(tmp_path, "plain.mp4", codec="mpeg4", max_b_frames=1)
    path = samples.pack_b_frames(plain, tmp_path / f"packed.{ending}")
    _, pictures = decode_everything(path)
    assert len(pictures) == COUNT
    video = load_video_frames(path, 5)
    places = np.arange(2, COUNT, 5)
    np.testing.assert_array_equal(video.frames[: len(places)], np.stack([pictures[place] for place in places]))
    assert video.duration_sec == pytest.approx(COUNT / 25, abs=0.1)
    assert not caplog.records


def test_parameters_in_a_packet_that_would_be_skipped_are_used(tmp_path):
    """In an flv file whose encoder restarted: the parameters of later pictures come in a packet of their own."""
    first = samples.write_video(tmp_path / "1.flv", samples.textured_pictures(50), gop=10)
    options = {"x264-params": "cabac=0:ref=1:bframes=0:8x8dct=0"}
    later = {"times": range(50, 100), "gop": 10, "options": options}
    second = samples.write_video(tmp_path / "2.flv", samples.textured_pictures(50), **later)
    path = tmp_path / "both.flv"
    path.write_bytes(first.read_bytes() + second.read_bytes()[13:])  # without its header
    times, pictures = decode_everything(path)
    assert len(pictures) == 100
    assert not video_timeline.scan(make_source(path)).can_skip
    video = load_video_frames(path, 25, start_sec=3.4, end_sec=3.44)
    np.testing.assert_array_equal(video.frames[0], pictures[expected_indices(times, 25, 1, 3.4, 3.44)[0]])


def test_pictures_with_equal_times_are_not_orderly(tmp_path):
    path = write(tmp_path, "video.mkv", options={"x264-params": X264})
    timeline = video_timeline.scan(make_source(path))
    table = video_timeline._PacketTable(timeline.pts, timeline.pts, *[timeline.is_shown] * 5, False, False)
    assert not video_timeline._is_orderly(table, timeline.is_shown)  # decoding is not in the order of presentation
    twice = np.repeat(np.sort(timeline.pts), 2)
    table = dataclasses.replace(table, pts=twice, dts=twice)
    assert not video_timeline._is_orderly(table, np.full(2 * COUNT, True))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([COMPLETE_ENTRY, ENTRY, NO_ENTRY, ENTRY], [0, 1, 3]),
        ([ENTRY, NO_ENTRY, ENTRY, ENTRY], [0, 2, 3]),
        ([COMPLETE_ENTRY, ENTRY, COMPLETE_ENTRY, ENTRY], [0, 2]),
        ([NO_ENTRY, COMPLETE_ENTRY, ENTRY], [1, 2]),
    ],
)
def test_entries_without_parameters_count_only_if_parameters_are_not_repeated(entries, expected):
    assert np.flatnonzero(video_timeline._find_entries(np.array(entries))).tolist() == expected


SEI = "06 06 01"  # a recovery point of one byte
CRAFTED = {
    "idr picture": ("h264", "000001 65 88", ENTRY),
    "idr picture with parameters": ("h264", "000001 67 42 000001 68 ce 000001 65 88", COMPLETE_ENTRY),
    "recovery point": ("h264", f"000001 {SEI} c4 80 000001 41 b0 00", ENTRY),  # slice type 2
    "recovery point of another slice": ("h264", f"000001 {SEI} c4 80 000001 41 e0 00", NO_ENTRY),  # slice type 0
    "recovery later": ("h264", f"000001 {SEI} 48 80 000001 41 b0 00", NO_ENTRY),
    "inexact recovery": ("h264", f"000001 {SEI} 84 80 000001 41 b0 00", NO_ENTRY),
    "recovery after other information": ("h264", f"000001 06 05 02 aa bb {SEI[3:]} c4 80 000001 41 b0 00", ENTRY),
    "no recovery point": ("h264", "000001 41 b0 00", NO_ENTRY),
    "cut off": ("h264", "000001 06 06", NO_ENTRY),
    "cut off within a long number": ("h264", "000001 06 ff ff ff", NO_ENTRY),
    "random access": ("hevc", "000001 2a 01 af", ENTRY),
    "broken link with parameters": ("hevc", "000001 42 01 01 000001 20 01 af", COMPLETE_ENTRY),
    "trailing picture": ("hevc", "000001 02 01 d0", NO_ENTRY),
    "intra picture": ("mpeg2video", "000001 b3 00 000001 b8 00 000001 00 00 08", COMPLETE_ENTRY),
    "predicted picture": ("mpeg2video", "000001 b3 00 000001 00 00 10", NO_ENTRY),
    "intra vop": ("mpeg4", "000001 b6 10", ENTRY),
    "predicted vop": ("mpeg4", "000001 b2 44 000001 b6 50", NO_ENTRY),
    "key picture": ("vp9", "82 49 83", COMPLETE_ENTRY),
    "shown again": ("vp9", "88", NO_ENTRY),
    "only intra": ("vp9", "86 00", NO_ENTRY),
    "key picture of profile 3": ("vp9", "b0 49", COMPLETE_ENTRY),
    "predicted picture of profile 3": ("vp9", "b2 49", NO_ENTRY),
    "key picture that is shown": ("av1", "12 00 0a 01 00 32 02 10 00", COMPLETE_ENTRY),
    "key picture for later": ("av1", "12 00 0a 01 00 32 02 00 00", NO_ENTRY),
    "picture of av1 shown again": ("av1", "12 00 1a 01 98", NO_ENTRY),
    "key picture of vp8": ("vp8", "10 02", COMPLETE_ENTRY),
    "predicted picture of vp8": ("vp8", "11 02", NO_ENTRY),
    "key picture of theora": ("theora", "20 00", COMPLETE_ENTRY),
    "predicted picture of theora": ("theora", "60 00", NO_ENTRY),
    "picture of mjpeg": ("mjpeg", "ff d8", COMPLETE_ENTRY),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_entries_are_recognised_from_the_bytes_of_a_packet(name):
    codec, data, expected = CRAFTED[name]
    entry_test = make_entry_test(av.CodecContext.create(codec, "r"))
    assert entry_test(memoryview(bytes.fromhex(data))) == expected
    for length in range(1, len(bytes.fromhex(data))):
        entry_test(memoryview(bytes.fromhex(data)[:length]))  # a packet may be cut off anywhere


@pytest.mark.parametrize("codec", ["wmv2", "msmpeg4", "ffv1", "gif"])
def test_packets_of_other_codecs_show_no_entries(codec):
    assert make_entry_test(av.CodecContext.create(codec, "r")) is None
