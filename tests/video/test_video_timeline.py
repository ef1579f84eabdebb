"""Clocks that jump, files that start with undecodable pictures, and files that declare more than they hold."""

import io
import re
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import video_samples as samples

from modeling_r2tuning import video_io_r2tuning as video_io
from modeling_r2tuning import video_timeline_r2tuning as video_timeline
from modeling_r2tuning.mp4_tables_r2tuning import count_declared_samples
from modeling_r2tuning.video_io_r2tuning import cut_clip, iter_video_frames, load_video_frames, sample_frame_times


HOUR = 3600 * 25  # in pictures
WRAP = round(2**33 / 90000 * 25)  # the clock of transport and program streams restarts at this picture
STREAMS = {
    "ts": {"options": {"x264-params": "bframes=2"}},
    "mpg": {"options": {"x264-params": "bframes=2"}},
    "vob": {"codec": "mpeg2video", "max_b_frames": 2},
}


def numbers_at_every_picture(path):
    return samples.read_numbers(load_video_frames(path, 25).frames)


# ---- clocks ----


@pytest.mark.parametrize("ending", STREAMS)
@pytest.mark.parametrize("begin", [0, 40, HOUR])
def test_recordings_joined_by_cat_play_one_after_the_other(tmp_path, caplog, ending, begin):
    """The clock of the second starts as that of the first, in the middle of it, or an hour later."""
    first = samples.write_video(tmp_path / f"1.{ending}", count=124, **STREAMS[ending])
    times = range(begin, begin + 53)
    second = samples.write_video(tmp_path / f"2.{ending}", count=53, times=times, **STREAMS[ending])
    path = samples.concatenate(tmp_path / f"both.{ending}", first, second)
    assert numbers_at_every_picture(path) == [*range(124), *range(53)]
    assert load_video_frames(path, 1).duration_sec == pytest.approx(177 / 25, abs=1e-3)
    video = load_video_frames(path, 1, start_sec=124 / 25)
    assert samples.read_numbers(video.frames) == [12, 37]
    (message,) = {record.getMessage() for record in caplog.records}
    jump = re.search(r"jumps 1 times, first by (\S+) seconds after 5.0 seconds", message)[1]
    assert float(jump) == pytest.approx((begin - 124) / 25, abs=1)  # muxers begin some time after zero


def test_cut_across_a_joint_holds_both_sides(tmp_path):
    part = samples.write_video(tmp_path / "part.ts", count=50)
    path = samples.concatenate(tmp_path / "both.ts", part, part)
    cut_clip(path, tmp_path / "clip.mp4", 1.6, 2.4)
    assert numbers_at_every_picture(tmp_path / "clip.mp4") == [*range(40, 50), *range(10)]


@pytest.mark.parametrize("ending", STREAMS)
def test_clock_that_wraps_continues(tmp_path, caplog, ending):
    times = range(WRAP - 50, WRAP + 75)
    path = samples.write_video(tmp_path / f"wrap.{ending}", count=125, times=times, **STREAMS[ending])
    assert numbers_at_every_picture(path) == list(range(125))
    assert load_video_frames(path, 1).duration_sec == pytest.approx(5.0, abs=1e-3)
    assert not caplog.records


def test_pause_of_some_seconds_is_kept(tmp_path, caplog):
    path = samples.write_video(tmp_path / "pause.ts", count=50, times=[*range(25), *range(200, 225)])
    assert load_video_frames(path, 1).duration_sec == pytest.approx(9.0, abs=1e-3)
    assert not caplog.records


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("flv", "flv")])
def test_pause_of_an_hour_is_kept_where_clocks_do_not_restart(tmp_path, caplog, ending, codec):
    times = [*range(25), *range(HOUR, HOUR + 25)]
    path = samples.write_video(tmp_path / f"pause.{ending}", count=50, codec=codec, times=times)
    video = load_video_frames(path, 1, start_sec=3598)
    assert video.duration_sec == pytest.approx(3601.0, abs=0.1)
    assert samples.read_numbers(video.frames) == [24, 24, 37]
    assert not caplog.records


def test_clock_that_goes_back_in_other_formats_is_warned_of(tmp_path, caplog):
    part = samples.write_video(tmp_path / "part.flv", count=50, codec="flv").read_bytes()
    path = tmp_path / "both.flv"
    path.write_bytes(part + part[13:])  # without its header
    video = load_video_frames(path, 5)
    assert samples.read_numbers(video.frames) == samples.read_numbers(samples.filter_with_ffmpeg(path, 5))
    assert "The clock of" in caplog.text
    assert "Pictures after a jump back are left out" in caplog.text
    assert "damaged" not in caplog.text


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([None, None, None], [0, 7, 14]),
        ([10, None, None, 22, 26], [10, 14, 18, 22, 26]),
        ([10, 14, None, None, 1000], [10, 14, 18, 22, 1000]),
        ([10, 14, None, None, 16], [10, 14, 16, 16, 16]),
        ([None, 10, 14, None], [6, 10, 14, 18]),
        ([10, 14, None, 26, 26, 30, 34], [10, 14, 18, 22, 26, 30, 34]),
    ],
)
def test_missing_times_are_filled_in(times, expected):
    known = np.array([video_timeline.NO_TIME if value is None else value for value in times])
    assert video_timeline._fill_gaps(known, usual_gap=7).tolist() == expected


# ---- files that start with undecodable pictures ----


@pytest.mark.parametrize("fps", [1, 3, 25])
@pytest.mark.parametrize(("codec", "position"), [("libx264", 30), ("mpeg2video", 12), ("mpeg2video", 17)])
def test_recording_cut_within_a_group_starts_with_its_first_decodable_picture(tmp_path, caplog, codec, position, fps):
    """The cut is within a group, or before pictures that refer to the group before; as in ffmpeg's fps filter."""
    options = {"x264-params": samples.OPEN_GOP} if codec == "libx264" else {}
    path = tmp_path / "cut.ts"
    samples.write_video(path, count=100, codec=codec, gop=12, max_b_frames=2, options=options)
    samples.cut_before_packet(path, position)
    expected = samples.read_numbers(samples.filter_with_ffmpeg(path, fps))
    video = load_video_frames(path, fps)
    assert samples.read_numbers(video.frames) == expected
    assert expected[0] > position - 3
    np.testing.assert_array_equal(load_video_frames(path.read_bytes(), fps).frames, video.frames)
    assert not caplog.records


def test_decodable_pictures_before_the_first_keyframe_are_shown(tmp_path, caplog):
    path = samples.write_video(tmp_path / "open.mp4", count=60, codec="mpeg2video", gop=12, max_b_frames=2)
    assert numbers_at_every_picture(path) == list(range(60))
    assert not caplog.records


# ---- files that declare more than they hold ----


def far_video(folder, ending):
    """Two pictures, the second of which is weeks later."""
    codec, weeks = {"webm": ("libvpx", 40), "flv": ("flv", 3)}[ending]
    return samples.write_video(folder / f"far.{ending}", count=2, codec=codec, times=[0, weeks * 7 * 24 * HOUR])


@pytest.mark.parametrize("ending", ["webm", "flv"])
def test_far_timestamp_is_refused_before_memory_is_allocated(tmp_path, ending):
    path = far_video(tmp_path, ending)
    assert path.stat().st_size < 1000
    tracemalloc.start()
    for read in (iter_video_frames, load_video_frames):
        with pytest.raises(ValueError, match=r"far.* seconds, which is .* at 1 a second, more than `max_frames`"):
            read(path, 1)
    cut_clip(path, tmp_path / "clip.mp4", 0, 10)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_longer_grids_are_read_on_request(tmp_path):
    path = samples.write_video(tmp_path / "long.flv", count=3, codec="flv", times=[0, 25, 30 * HOUR])
    assert iter_video_frames(path, 1, max_frames=200_000).num_frames > 30 * 3600
    assert len(load_video_frames(path, 1, start_sec=50, end_sec=60, max_frames=10).frames) == 10
    with pytest.raises(ValueError, match="`max_frames` must be .*at least 1, got 0"):
        iter_video_frames(path, 1, max_frames=0)


def test_number_of_times_is_limited():
    with pytest.raises(ValueError, match="more than `max_frames` = 100,000; pass a larger `max_frames`"):
        sample_frame_times(1e12, 30)
    assert len(sample_frame_times(200_000, 1, max_frames=200_000)) == 200_000


def test_rates_near_zero_give_one_frame(tmp_path):
    path = samples.write_video(tmp_path / "video.mp4", count=25)
    assert samples.read_numbers(load_video_frames(path, 1e-300).frames) == [24]


def test_more_frames_than_memory_holds_are_refused_with_advice():
    with pytest.raises(ValueError, match="1,000,000 frames of 100000 x 100000 pixels take .* GB.*`iter_video_frames`"):
        video_io._allocate(10**6, (10**5, 10**5, 3))


def test_edit_list_of_many_repeats_is_refused_at_once(tmp_path):
    def repeat(content):
        return content[:4] + struct.pack(">I", 10**6) + content[-12:] * 10**6

    path = samples.patch_box(samples.write_video(tmp_path / "repeats.mp4", count=25), b"elst", repeat)
    start = time.process_time()
    for video in (path, Path(path).read_bytes()):
        with pytest.raises(ValueError, match=r"declares 25,000,000 samples.*Cut it into parts"):
            load_video_frames(video, 1)
    assert time.process_time() - start < 1


def test_edit_list_of_some_repeats_is_played(tmp_path):
    def repeat(content):
        return content[:4] + struct.pack(">I", 3) + content[-12:] * 3

    path = samples.patch_box(samples.write_video(tmp_path / "repeats.mp4", count=25), b"elst", repeat)
    assert samples.read_numbers(load_video_frames(path, 1).frames) == [12, 12, 12]


@pytest.mark.parametrize("options", [{}, {"movflags": "frag_keyframe+empty_moov"}])
def test_declared_samples_are_counted(tmp_path, options):
    path = samples.write_video(tmp_path / "video.mp4", count=50, container_options=options)
    with open(path, "rb") as file:
        assert count_declared_samples(file) == 50
    kind, place = (b"trun", 4) if options else (b"stsz", 8)
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(kind) + 4 + place, 10**9)
    with pytest.raises(ValueError, match=r"declares 1,000,000,0\d\d samples"):
        load_video_frames(bytes(data), 1)


def test_samples_of_raw_sound_do_not_count(tmp_path):
    assert _count_track(b"soun", 1) == 0
    assert _count_track(b"soun", 1024) == _count_track(b"vide", 1) == 7


def _count_track(handler, duration):
    def box(kind, content):
        return struct.pack(">I4s", len(content) + 8, kind) + content

    tables = box(b"stts", struct.pack(">4I", 0, 1, 7, duration)) + box(b"stsz", struct.pack(">3I", 0, 2, 7))
    media = box(b"hdlr", bytes(8) + handler) + box(b"minf", box(b"stbl", tables))

    return count_declared_samples(io.BytesIO(box(b"moov", box(b"trak", box(b"mdia", media)))))


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\1moov", b"\0\0\0\0moov\0\0\0\0trak", b"\0\0\0\7moov" * 9])
def test_broken_boxes_count_as_no_samples(tmp_path, data):
    path = tmp_path / "broken.mp4"
    path.write_bytes(data)
    with open(path, "rb") as file:
        assert count_declared_samples(file) == 0


def test_too_many_packets_are_refused(tmp_path, monkeypatch):
    path = samples.write_video(tmp_path / "video.mp4", count=25)
    monkeypatch.setattr(video_timeline, "MAX_PACKETS", 25)
    assert len(load_video_frames(path, 1).frames) == 1
    monkeypatch.setattr(video_timeline, "MAX_PACKETS", 24)
    with pytest.raises(ValueError, match="holds more than 24 pictures"):
        load_video_frames(path, 1)


def test_timestamps_beyond_every_clock_are_refused(tmp_path, monkeypatch):
    path = samples.write_video(tmp_path / "video.mp4", count=25)
    monkeypatch.setattr(video_timeline, "MAX_TICKS", 1000)
    with pytest.raises(ValueError, match="has timestamps that no clock shows"):
        load_video_frames(path, 1)


@pytest.mark.parametrize("begin", [-(10**6), 10**9])
def test_start_of_the_clock_does_not_matter(tmp_path, begin):
    path = samples.write_video(tmp_path / "video.nut", count=50, codec="mpeg4", times=range(begin, begin + 50))
    video = load_video_frames(path, 5)
    np.testing.assert_allclose(video.frame_times_sec, np.arange(10) / 5)
    assert samples.read_numbers(video.frames) == list(range(2, 50, 5))
