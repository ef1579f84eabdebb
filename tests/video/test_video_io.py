"""Sampling frames of a video at regular times, and cutting a part of it out."""

import builtins
import functools
import http.server
import io
import json
import logging
import os
import threading
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import video_samples as samples
from video_samples import decode_everything, expected_indices

from modeling_r2tuning import video_rendering_r2tuning as video_rendering
from modeling_r2tuning import video_selection_r2tuning as video_selection
from modeling_r2tuning import video_timeline_r2tuning as video_timeline
from modeling_r2tuning.video_io_r2tuning import cut_clip, iter_video_frames, load_video_frames, sample_frame_times
from modeling_r2tuning.video_rendering_r2tuning import display_matrix, turn_upright
from modeling_r2tuning.video_source_r2tuning import make_source


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Ten seconds at 25 pictures a second, a keyframe every second."""
    return samples.write_video(tmp_path_factory.mktemp("videos") / "numbered.mp4", count=250)


@pytest.fixture
def no_fallback(monkeypatch):
    """Make decoding every packet an error, so that only sparse decoding can succeed."""
    monkeypatch.setattr(video_selection, "_dense_frames", None)


# ---- which picture becomes the frame of a time ----


@pytest.mark.parametrize(
    ("duration_sec", "fps", "count"),
    [(13.0, 0.5, 7), (12.99, 0.5, 6), (460460 / 15000, 0.5, 15), (5.0, 0.5, 3), (3.3, 5, 17), (0.1, 1, 1), (1, 2, 2)],
)
def test_number_of_times_is_rounded_half_up_and_never_zero(duration_sec, fps, count):
    times = sample_frame_times(duration_sec, fps)
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, np.arange(count) / fps)


def test_times_of_a_range_count_from_its_start():
    np.testing.assert_allclose(sample_frame_times(60.0, 2, 10.25, 12.25), [10.25, 10.75, 11.25, 11.75])
    np.testing.assert_allclose(sample_frame_times(60.0, 0.5, start_sec=57.0), [57.0, 59.0])


def test_frame_of_a_time_is_the_last_picture_nearest_to_it(numbered):
    video = load_video_frames(numbered, 1)
    assert samples.read_numbers(video.frames) == [12, 37, 62, 87, 112, 137, 162, 187, 212, 237]
    np.testing.assert_allclose(video.frame_times_sec, np.arange(10))
    assert (video.duration_sec, video.fps) == (10.0, 1.0)
    assert video.frames.dtype == np.uint8


def test_picture_exactly_between_two_times_belongs_to_the_later_one(numbered):
    assert samples.read_numbers(load_video_frames(numbered, 0.5).frames) == [24, 74, 124, 174, 224]


@pytest.mark.parametrize("rate", ["25", "30000/1001", "15000/1001"])
@pytest.mark.parametrize("fps", [0.5, 1, 2.5, 7.3, 40])
def test_frames_are_those_of_the_fps_filter_of_ffmpeg(tmp_path, rate, fps):
    path = samples.write_video(tmp_path / "video.mp4", count=100, rate=Fraction(rate))
    expected = samples.read_numbers(samples.filter_with_ffmpeg(path, fps))
    video = load_video_frames(path, fps)
    assert samples.read_numbers(video.frames) == expected
    np.testing.assert_array_equal(video.frame_times_sec, sample_frame_times(video.duration_sec, fps))


@pytest.mark.parametrize("fps", [0.5, 1, 3])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_variable_rate_is_sampled_by_time_as_in_ffmpeg(tmp_path, fps, ending):
    times = [*range(50), *range(50, 150, 4), *range(150, 400, 31)]
    path = samples.write_video(tmp_path / f"video.{ending}", count=len(times), times=times)
    expected = samples.read_numbers(samples.filter_with_ffmpeg(path, fps))
    assert samples.read_numbers(load_video_frames(path, fps).frames) == expected


def test_times_count_from_the_first_picture(tmp_path):
    path = samples.write_video(tmp_path / "late.mp4", count=50, times=range(13, 63))
    video = load_video_frames(path, 2)
    assert video.duration_sec == 2.0
    assert samples.read_numbers(video.frames) == [6, 18, 31, 43]


def test_pictures_hidden_by_an_edit_list_do_not_count(tmp_path):
    path = samples.write_video(tmp_path / "trimmed.mp4", count=60, times=range(-10, 50))
    video = load_video_frames(path, 5)
    assert video.duration_sec == 2.0
    assert samples.read_numbers(video.frames)[:3] == [12, 17, 22]


def test_range_uses_only_pictures_before_its_end(numbered):
    video = load_video_frames(numbered, 0.5, start_sec=4.0, end_sec=4.4)
    assert samples.read_numbers(video.frames) == [109]
    assert video.frame_times_sec.tolist() == [4.0]
    video = load_video_frames(numbered, 2, start_sec=3.1, end_sec=5.1)
    assert samples.read_numbers(video.frames) == [83, 96, 108, 121]
    assert video.duration_sec == 10.0


def test_more_times_than_pictures_repeat_pictures(tmp_path):
    path = samples.write_video(tmp_path / "slow.mp4", count=4, rate=2)
    assert samples.read_numbers(load_video_frames(path, 4).frames) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("count", [1, 3])
def test_shortest_videos_give_one_frame(tmp_path, count):
    path = samples.write_video(tmp_path / "short.mp4", count=count, rate=30)
    video = load_video_frames(path, 1)
    assert samples.read_numbers(video.frames) == [count - 1]
    assert video.duration_sec == pytest.approx(count / 30)


# ---- decoding only what is needed ----

CODECS = {
    "h264.mp4": {"codec": "libx264", "options": {"bf": "3"}},
    "h264_open_groups.mp4": {"codec": "libx264", "options": {"x264-params": samples.OPEN_GOP}},
    "h264_open_groups.ts": {"codec": "libx264", "options": {"x264-params": samples.OPEN_GOP}},
    "mpeg4.mp4": {"codec": "mpeg4", "max_b_frames": 2},
    "mpeg4.avi": {"codec": "mpeg4", "max_b_frames": 2},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "13"}},
}


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("name", CODECS)
def test_sparse_decoding_changes_no_bit(tmp_path, name):
    settings = CODECS[name]
    if settings["codec"] not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {settings['codec']}")
    path = samples.write_video(tmp_path / name, samples.textured_pictures(150), **settings)
    times, pictures = decode_everything(path)
    for fps, start, end in [(0.5, 0, None), (0.9, 0, None), (3, 0, None), (7, 2.3, 4.1), (1, 5, 5.2)]:
        video = load_video_frames(path, fps, start_sec=start, end_sec=end)
        indices = expected_indices(times, fps, len(video.frames), start, end)
        np.testing.assert_array_equal(video.frames, np.stack([pictures[index] for index in indices]))


def test_groups_without_a_chosen_picture_are_not_decoded(numbered):
    timeline = video_timeline.scan(make_source(numbered))
    actions = video_selection._plan_packets(timeline, np.array([130]))
    decoded = np.flatnonzero(actions != video_timeline.DROP)
    assert 125 <= decoded.min() <= decoded.max() < 150
    assert (actions == video_timeline.DECODE).sum() == 1


def test_picture_shown_before_its_keyframe_needs_the_group_before(tmp_path):
    options = {"x264-params": samples.OPEN_GOP}
    path = samples.write_video(tmp_path / "open.mp4", samples.textured_pictures(60), options=options)
    timeline = video_timeline.scan(make_source(path))
    key = np.flatnonzero(timeline.is_entry)[1]
    assert timeline.pts[key + 1] < timeline.pts[key]
    assert (video_selection._plan_packets(timeline, np.array([key + 1])) != video_timeline.DROP).argmax() == 0


def test_keyframes_at_which_decoding_cannot_start_are_noticed(tmp_path):
    """With intra refresh a decoder needs a second to recover: everything is decoded instead, without a warning."""
    options = {"x264-params": samples.INTRA_REFRESH}
    path = samples.write_video(tmp_path / "refresh.mp4", samples.textured_pictures(150), options=options)
    times, pictures = decode_everything(path)
    video = load_video_frames(path, 0.5)
    indices = expected_indices(times, 0.5, len(video.frames))
    np.testing.assert_array_equal(video.frames, np.stack([pictures[index] for index in indices]))


@pytest.mark.parametrize("name", ["reordered.avi", "raw.h264"])
def test_files_without_presentation_times_are_read_in_order(tmp_path, caplog, name):
    path = samples.write_video(tmp_path / name, count=50, options={"bf": "2"})
    video = load_video_frames(path, 5)
    assert samples.read_numbers(video.frames) == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]
    assert video.duration_sec == 2.0
    assert not caplog.records


# ---- geometry and colour ----


@pytest.mark.parametrize(
    ("rotation", "mirrored", "colors"),
    [(0, False, "rgbw"), (90, False, "gwrb"), (180, False, "wbgr"), (-90, False, "brwg")]
    + [(0, True, "grwb"), (90, True, "wgbr"), (180, True, "bwrg")],
)
def test_pictures_are_upright(tmp_path, rotation, mirrored, colors):
    path = samples.write_video(
        tmp_path / "rotated.mp4",
        [samples.corner_picture()] * 3,
        configure=lambda stream: stream.set_display_rotation(rotation, hflip=mirrored),
    )
    frames = load_video_frames(path, 1, size=24).frames
    assert samples.corner_colors(frames[0]) == colors
    assert frames.shape[1:] == ((24, 32, 3) if rotation in (0, 180) else (32, 24, 3))
    if not mirrored:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        assert samples.corner_colors(turned) == colors


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_read_even_if_side_data_cannot_be_listed(rotation):
    class Frame:
        @property
        def side_data(self):
            raise ValueError("39 is not a valid Type")

    frame = Frame()
    frame.rotation = rotation
    turned = turn_upright(samples.corner_picture(), display_matrix(frame))
    np.testing.assert_array_equal(turned, np.rot90(samples.corner_picture(), rotation // 90))


def test_pixels_become_square(tmp_path):
    def configure(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    path = samples.write_video(tmp_path / "wide.mp4", [samples.corner_picture(88, 72)] * 2, configure=configure)
    assert load_video_frames(path, 1).frames.shape[1:] == (72, 128, 3)
    assert load_video_frames(path, 1, size=36).frames.shape[1:] == (36, 64, 3)


@pytest.mark.parametrize(("width", "height"), [(320, 180), (100, 74), (74, 100), (64, 64)])
def test_short_side_gets_the_size_and_the_long_side_is_truncated_as_in_clip(tmp_path, width, height):
    path = samples.write_video(tmp_path / "video.mp4", [samples.corner_picture(width, height)])
    short, long = sorted((width, height))
    shape = load_video_frames(path, 1, size=56).frames.shape[1:3]
    assert sorted(shape) == [56, int(56 * long / short)]
    assert (shape[0] < shape[1]) == (height < width)


@pytest.mark.parametrize(
    ("pix_fmt", "colorspace", "color_range"),
    [("yuv420p", 1, 1), ("yuv420p", 6, 1), ("yuv420p", 2, 0), ("yuvj420p", 6, 2), ("yuv444p", 1, 2)],
)
def test_colors_survive_every_matrix_and_range(tmp_path, pix_fmt, colorspace, color_range):
    colors = np.array([(200, 60, 30), (30, 180, 90), (20, 40, 220), (128, 128, 128), (0, 0, 0), (255, 255, 255)])
    picture = np.repeat(np.repeat(colors[None], 16, axis=1), 32, axis=0).astype(np.uint8)
    matrix = {1: "ITU709", 2: "ITU601", 6: "ITU601"}[colorspace]
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
    scale = {0: "MPEG", 1: "MPEG", 2: "JPEG"}[color_range]
    frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=scale)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    with av.open(str(tmp_path / "colors.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = load_video_frames(tmp_path / "colors.mp4", 1).frames[0, 16, 8::16].astype(int)
    np.testing.assert_allclose(read, colors, atol=4)


def test_huge_pictures_are_scaled_while_decoding(tmp_path):
    pictures = [samples.numbered_picture(number, 3840, 2160) for number in range(4)]
    path = samples.write_video(tmp_path / "huge.mp4", pictures, rate=1, options={"preset": "ultrafast"})
    tracemalloc.start()
    video = load_video_frames(path, 1, size=224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.frames.shape == (4, 224, 398, 3)
    assert samples.read_numbers(video.frames) == [0, 1, 2, 3]
    assert peak < 3840 * 2160 * 3


def test_pictures_of_a_changed_size_are_scaled_to_the_first(tmp_path):
    data = b""
    for number, width in enumerate((80, 160)):
        pictures = [samples.numbered_picture(5 + number, width, width // 2)] * 25
        data += samples.write_video(tmp_path / f"{width}.h264", pictures).read_bytes()
    video = load_video_frames(data, 1)
    assert video.frames.shape == (2, 40, 80, 3)
    assert samples.read_numbers(video.frames) == [5, 6]


# ---- chunks and progress ----


def test_chunks_together_are_the_loaded_frames(numbered):
    chunks = iter_video_frames(numbered, 2.3, chunk_size=5)
    assert (chunks.num_frames, chunks.duration_sec, chunks.fps) == (23, 10.0, 2.3)
    pieces = list(chunks)
    assert [len(piece) for piece in pieces] == [5, 5, 5, 5, 3]
    video = load_video_frames(numbered, 2.3)
    np.testing.assert_array_equal(np.concatenate(pieces), video.frames)
    np.testing.assert_array_equal(chunks.frame_times_sec, video.frame_times_sec)


def test_memory_does_not_grow_with_the_number_of_frames(numbered):
    def peak_memory(fps):
        tracemalloc.start()
        for _ in iter_video_frames(numbered, fps, chunk_size=4):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_memory(1)
    assert peak_memory(25) < peak_memory(1) + 10 * samples.WIDTH * samples.HEIGHT * 3


def test_progress_counts_frames(numbered):
    calls = []
    load_video_frames(numbered, 0.5, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


# ---- kinds of videos ----


class OneWay(io.RawIOBase):
    """A binary stream that cannot seek."""

    def __init__(self, data):
        self.inner = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.inner.readinto(buffer)


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "memory", "file", "one way", "address"])
def test_every_kind_of_input_gives_the_same_frames(numbered, serve, kind):
    data = numbered.read_bytes()
    with open(numbered, "rb") as file:
        file.seek(100)
        video = {
            "str": str(numbered),
            "path": numbered,
            "bytes": data,
            "memory": io.BytesIO(data),
            "file": file,
            "one way": OneWay(data),
            "address": f"{serve(numbered.parent)}/{numbered.name}",
        }[kind]
        loaded = load_video_frames(video, 1)
        assert not file.closed
    np.testing.assert_array_equal(loaded.frames, load_video_frames(numbered, 1).frames)


@pytest.fixture
def serve():
    """Function that serves a folder over http and returns its address."""
    servers = []

    class QuietHandler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path != "/broken_off.mp4":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")

    def start(folder):
        handler = functools.partial(QuietHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_address_that_cannot_be_fetched_is_named(serve, tmp_path):
    server = serve(tmp_path)
    with pytest.raises(ConnectionError, match="absent.mp4.*404.*check the address"):
        load_video_frames(f"{server}/absent.mp4", 1)
    for address in (f"{server}/broken_off.mp4", "http://127.0.0.1:1/video.mp4", "http://127.0.0.1/\u00e9.mp4"):
        with pytest.raises(ConnectionError, match="could not be fetched"):
            load_video_frames(address, 1)


def test_file_names_may_look_like_addresses_or_patterns(numbered, tmp_path):
    for name in ("12:30.mp4", "a%03d.mp4", "concat:x|y.mp4"):
        path = tmp_path / name
        path.write_bytes(numbered.read_bytes())
        assert len(load_video_frames(path, 1).frames) == 10


@pytest.mark.parametrize("ending", ["mkv", "ts", "mp4"])
@pytest.mark.parametrize("audio_sec", [0.5, 4.0])
def test_duration_is_that_of_the_pictures_not_of_the_sound(tmp_path, caplog, ending, audio_sec):
    path = samples.write_video(tmp_path / f"video.{ending}", count=75, audio_sec=audio_sec)
    video = load_video_frames(path, 1)
    assert video.duration_sec == pytest.approx(3.0, abs=0.002)
    assert samples.read_numbers(video.frames) == [12, 37, 62]
    assert len(caplog.records) <= 1


def test_first_video_stream_is_used_and_covers_are_not(tmp_path):
    other = samples.numbered_picture(1023)
    cover = int(av.stream.Disposition.attached_pic)
    path = samples.write_video(tmp_path / "two.mp4", count=50, extra_streams=[(other, 0), (other, cover)])
    assert samples.read_numbers(load_video_frames(path, 1).frames) == [12, 37]


def test_title_that_is_not_utf8_is_harmless(tmp_path):
    def configure(stream):
        stream.container.metadata["title"] = "ABCDEFGHIJ"

    path = samples.write_video(tmp_path / "title.mp4", count=25, configure=configure)
    data = path.read_bytes()
    assert b"ABCDEFGHIJ" in data
    assert len(load_video_frames(data.replace(b"ABCDEFGHIJ", b"\xff" * 10), 1).frames) == 1


# ---- videos that cannot be read ----


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.mp4' does not exist"):
        load_video_frames(tmp_path / "absent.mp4", 1)


def test_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a directory"):
        load_video_frames(tmp_path, 1)


@pytest.mark.parametrize("data", [b"", b"this is not a video\n" * 50, os.urandom(5000)])
def test_files_that_are_not_videos_are_refused(tmp_path, data):
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    for video in (path, data):
        with pytest.raises(ValueError, match="`video` .*(empty|cannot be read as a video|no video stream)"):
            load_video_frames(video, 1)


def test_mp4_without_its_index_is_refused(numbered, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(numbered.read_bytes())
    with pytest.raises(ValueError, match="cut.mp4' cannot be read as a video .*is it complete"):
        load_video_frames(samples.truncate(path, 0.5), 1)


def test_sound_without_video_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sound.m4a' has no video stream"):
        load_video_frames(samples.write_audio(tmp_path / "sound.m4a"), 1)


def test_video_without_a_decodable_picture_is_refused(tmp_path):
    path = samples.write_video(tmp_path / "blank.mp4", count=20)
    with pytest.raises(ValueError, match="no picture can be decoded"):
        load_video_frames(samples.damage_packets(path, range(20)), 1)


@pytest.mark.parametrize(
    ("name", "settings", "kept"),
    [
        ("video.mkv", {}, 0.6),
        ("video.mp4", {"container_options": {"movflags": "+faststart"}}, 0.6),
        ("video.avi", {"codec": "mpeg4"}, 0.6),
    ],
)
def test_truncated_file_is_read_up_to_its_end_with_one_warning(tmp_path, caplog, name, settings, kept):
    path = samples.write_video(tmp_path / name, samples.noisy_numbered_pictures(250), **settings)
    samples.truncate(path, kept)
    video = load_video_frames(path, 1)
    assert 2 < video.duration_sec < 8
    assert len(video.frames) == round(video.duration_sec)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{10 - video.duration_sec:.1f} seconds before its declared end" in caplog.text


def test_a_file_whose_pictures_start_late_is_not_short(tmp_path, caplog):
    """Matroska declares the length of the file, which starts with its sound."""
    times = range(50, 100)
    path = samples.write_video(tmp_path / "video.mkv", count=50, times=times, max_b_frames=0, audio_sec=4.0)
    assert load_video_frames(path, 1).duration_sec == 2
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "codec"), [("video.mp4", "libx264"), ("video.mp4", "mpeg4"), ("v.webm", "libvpx-vp9")]
)
def test_damaged_picture_is_replaced_by_the_one_before_with_one_warning(tmp_path, caplog, name, codec):
    path = samples.write_video(tmp_path / name, samples.noisy_numbered_pictures(75), codec=codec, max_b_frames=0)
    samples.damage_packets(path, [37])
    video = load_video_frames(path, 1)
    assert samples.read_numbers(video.frames) == [12, 36, 62]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "1 of the 63 pictures read are lost" in caplog.text


def test_damage_to_a_reference_picture_is_warned_of(tmp_path, caplog):
    path = samples.write_video(tmp_path / "video.mp4", samples.noisy_numbered_pictures(75), max_b_frames=0)
    samples.damage_packets(path, [30])
    first, *rest = samples.read_numbers(load_video_frames(path, 1).frames)  # how the rest looks is up to the decoder
    assert (first, len(rest)) == (12, 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "some others may show artefacts" in caplog.text


def test_damage_to_a_picture_that_no_frame_depends_on_is_ignored(tmp_path, caplog):
    path = samples.write_video(tmp_path / "video.mp4", samples.noisy_numbered_pictures(75), max_b_frames=0)
    samples.damage_packets(path, [40])
    assert samples.read_numbers(load_video_frames(path, 1).frames) == [12, 37, 62]
    assert not caplog.records


def test_gap_in_a_transport_stream_is_warned_of(tmp_path, caplog):
    path = samples.write_video(tmp_path / "video.ts", samples.noisy_numbered_pictures(75), max_b_frames=0)
    data = path.read_bytes()
    middle = len(data) // 2 // 188 * 188
    path.write_bytes(data[:middle] + data[middle + 188 * 3 :])
    assert len(load_video_frames(path, 1).frames) == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "is damaged" in caplog.text


def test_damage_at_the_start_is_replaced_by_the_first_good_picture(tmp_path, caplog):
    options = {"x264-params": "scenecut=0:bframes=0"}
    path = samples.write_video(tmp_path / "video.mp4", samples.noisy_numbered_pictures(75), options=options)
    samples.damage_packets(path, [0])
    assert samples.read_numbers(load_video_frames(path, 1).frames) == [25, 37, 62]
    assert "25 of the 63 pictures read are lost" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fps": 0}, ValueError, "`fps` must be finite and positive, got 0"),
        ({"fps": -1.0}, ValueError, "`fps` .*got -1"),
        ({"fps": float("nan")}, ValueError, "`fps` .*got nan"),
        ({"fps": float("inf")}, ValueError, "`fps` .*got inf"),
        ({"fps": "1"}, TypeError, "`fps` must be a number, got str"),
        ({"fps": True}, TypeError, "`fps` must be a number, got bool"),
        ({"size": 0}, ValueError, "`size` .*at least 1, got 0"),
        ({"size": 22.4}, TypeError, "`size` must be an integer, got float"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` .*at least 1, got 0"),
        ({"start_sec": -1}, ValueError, "`start_sec` .*at least 0, got -1"),
        ({"start_sec": 10}, ValueError, "inside the video's 10 seconds, got 10 to None"),
        ({"end_sec": 10.5}, ValueError, "inside the video's 10 seconds, got 0.0 to 10.5"),
        ({"start_sec": 3, "end_sec": 2}, ValueError, "`start_sec` must be before `end_sec`"),
        ({"end_sec": float("nan")}, ValueError, "`end_sec` .*got nan"),
        ({"video": 5}, TypeError, "`video` must be a path, bytes.*got int"),
        ({"video": None}, TypeError, "`video` must be a path, bytes.*got NoneType"),
        ({"video": io.StringIO("text")}, TypeError, "open it in binary mode"),
    ],
)
def test_wrong_arguments_are_named_before_decoding(numbered, arguments, error, message):
    with pytest.raises(error, match=message):
        iter_video_frames(**{"video": numbered, "fps": 1, **arguments})


def test_end_may_be_the_rounded_duration(numbered):
    assert len(load_video_frames(numbered, 1, end_sec=10.0004).frames) == 10


def test_missing_pyav_is_named_with_its_pip_line(numbered, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "av":
            raise ImportError("No module named 'av'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install av"):
        load_video_frames(numbered, 1)


# ---- cuts ----


def test_cut_holds_the_pictures_of_its_range(numbered, tmp_path):
    output = tmp_path / "clip.mp4"
    cut_clip(numbered, output, 3.1, 5.0)
    times, pictures = decode_everything(output)
    assert samples.read_numbers(pictures) == [77, *range(78, 125)]
    np.testing.assert_allclose(np.array(times, dtype=float)[1:], np.arange(78, 125) / 25 - 3.1, atol=1e-3)
    assert load_video_frames(output, 1).duration_sec == pytest.approx(1.9, abs=0.05)
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_cut_plays_in_browsers(tmp_path):
    """h264, yuv420p, even sides, upright, square pixels, AAC, index before the pictures."""

    def configure(stream):
        stream.set_display_rotation(90)
        stream.codec_context.sample_aspect_ratio = Fraction(9, 8)

    picture = samples.corner_picture(72, 50)
    path = samples.write_video(tmp_path / "video.mp4", [picture] * 25, configure=configure, audio_sec=1.0)
    cut_clip(path, tmp_path / "clip.mp4", 0.2, 0.6)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (frame.width, frame.height, frame.rotation) == (50, 82, 0)
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    read = load_video_frames(tmp_path / "clip.mp4", 1).frames[0]
    assert samples.corner_colors(read) == "gwrb"
    original = load_video_frames(path, 1).frames[0]
    assert np.median(np.abs(read[: len(original)].astype(int) - original)) < 3


def test_cut_keeps_variable_times_and_starts_with_the_picture_on_screen(tmp_path):
    path = samples.write_video(tmp_path / "video.mp4", count=5, times=[0, 10, 35, 80, 100])
    cut_clip(path, tmp_path / "clip.mp4", 1.0, 3.5)
    times, pictures = decode_everything(tmp_path / "clip.mp4")
    assert samples.read_numbers(pictures) == [1, 2, 3]
    np.testing.assert_allclose(np.array(times, dtype=float), [0, 0.4, 2.2], atol=1e-3)


def test_failed_cut_keeps_the_old_file(numbered, tmp_path, monkeypatch):
    output = tmp_path / "clip.mp4"
    output.write_bytes(b"old")
    with pytest.raises(ValueError, match="both inside the video's 10 seconds"):
        cut_clip(numbered, output, 9, 12)
    monkeypatch.setattr(video_rendering, "turn_upright", None)
    with pytest.raises(TypeError):
        cut_clip(numbered, output, 1, 2)
    assert output.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["clip.mp4"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        cut_clip(numbered, tmp_path / "absent" / "clip.mp4", 1, 2)


# ---- real videos ----


def center_grid(frames):
    """Mean RGB of a 4 x 4 grid over the 224-pixel centre crop: `(num_frames, 4, 4, 3)`."""
    _, height, width, _ = frames.shape
    top, left = (height - 224) // 2, (width - 224) // 2
    crop = frames[:, top : top + 224, left : left + 224].astype(float)
    return crop.reshape(len(frames), 4, 56, 4, 56, 3).mean(axis=(2, 4))


@pytest.mark.parametrize("fps", ["0.5", "1", "2"])
def test_frames_of_real_videos_are_those_of_ffmpeg(fps):
    folder = samples.shared_data_dir() / "videos"
    if not (folder / "frames.json").is_file():
        pytest.skip("no shared test data; set VTG_SHARED_DATA to the folder that holds it")
    for name, entry in json.loads((folder / "frames.json").read_text()).items():
        expected = entry[f"fps={fps}"]
        video = load_video_frames(folder / name, float(fps), size=224)
        assert len(video.frames) == max(expected["frames"], 1), name
        if "mean_rgb_4x4" in expected:
            # the recorded frames were scaled by Pillow or similar, ours by swscale
            np.testing.assert_allclose(center_grid(video.frames), expected["mean_rgb_4x4"], atol=1.0, err_msg=name)
