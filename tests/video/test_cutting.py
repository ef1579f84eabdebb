"""Cuts with sound: in time with the pictures, from any source, in the default language."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import video_samples as samples

from modeling_r2tuning.video_cutting_r2tuning import copy_part
from modeling_r2tuning.video_io_r2tuning import copy_clip, copy_ending, cut_clip, load_video_frames
from modeling_r2tuning.video_source_r2tuning import make_source
from modeling_r2tuning.video_timeline_r2tuning import scan


RATE = 25
FLASHES = (20, 45, 70)  # numbers of the white pictures
TONES = {"eng": 1000, "deu": 3000}  # Hz


def flashing_pictures(count=100):
    for number in range(count):
        yield np.full((48, 80, 3), 235 if number in FLASHES else 16, dtype=np.uint8)


def beeps(sample_rate, seconds, tone=1000, delay=0.0):
    """A tone for as long as each white picture is shown; sound starts `delay` seconds after the pictures."""
    times = np.arange(int(seconds * sample_rate)) / sample_rate + delay
    is_on = np.zeros(len(times), dtype=bool)
    for number in FLASHES:
        is_on |= (times >= number / RATE) & (times < (number + 1) / RATE)
    return (np.sin(2 * np.pi * tone * times) * is_on * 0.8).astype(np.float32)


def write_beeping_video(
    path,
    *,
    video="libx264",
    audio="aac",
    sample_rate=48000,
    layout="stereo",
    languages=(),
    delay=0.0,
    rotation=0,
    pix_fmt="yuv420p",
    gop=25,
):
    """A video whose white pictures coincide with beeps; the last of several languages is the default one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video, rate=RATE, options={"sc_threshold": "0"} if video == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 80, 48, pix_fmt
        stream.codec_context.gop_size = gop
        if rotation:
            stream.set_display_rotation(rotation)
        sounds = []
        for language in languages or ("eng",):
            sound = container.add_stream(audio, rate=sample_rate, layout=layout)
            sound.metadata["language"] = language
            sounds.append((sound, TONES[language]))
        if languages:
            for sound, _ in sounds:
                sound.disposition = av.stream.Disposition(0)
            sounds[-1][0].disposition = av.stream.Disposition.default
        for picture in flashing_pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
        for sound, tone in sounds:
            mono = beeps(sample_rate, 4 - delay, tone, delay)
            data = np.stack([mono] * (1 if layout == "mono" else 2))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), "fltp", layout)
            frame.sample_rate, frame.pts = sample_rate, round(delay * sample_rate)
            frame.time_base = Fraction(1, sample_rate)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def read_flashes(path):
    """Times of the white pictures."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [float(frame.pts * frame.time_base) for frame in frames if frame.to_ndarray(format="gray").mean() > 128]


def read_samples(path):
    """Sample rate, and samples `(num_samples,)` of the first channel from time 0 on."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate = stream.sample_rate
        resampler = av.AudioResampler("fltp", "mono", rate)
        samples = np.zeros(rate * 10, dtype=np.float32)
        end = 0
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                first = round(piece.pts * piece.time_base * rate)
                data = piece.to_ndarray()[0]
                samples[first : first + len(data)] = data
                end = first + len(data)
        return rate, samples[:end]


def read_beeps(path):
    """Times at which the beeps begin."""
    rate, samples = read_samples(path)
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    is_first = np.diff(loud, prepend=-rate) > rate // 10
    return (loud[is_first] / rate).tolist()


def assert_beeps_with_flashes(path, start):
    """Both are where they were in the source, and within half a frame of 60 frames per second of each other."""
    expected = [number / RATE - start for number in FLASHES]
    flashes = read_flashes(path)
    np.testing.assert_allclose(flashes, expected, atol=0.5 / RATE + 1e-3)  # a clock may count nothing but frames
    np.testing.assert_allclose(read_beeps(path), flashes, atol=1 / 120)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stereo.mp4", {}),
        ("mono.mkv", {"layout": "mono", "sample_rate": 22050}),
        ("opus.mkv", {"audio": "libopus"}),
        ("reordered.avi", {"audio": "pcm_s16le", "sample_rate": 44100}),  # AVI states no times of pictures
        ("pcm.mov", {"audio": "pcm_s16le", "sample_rate": 44100}),
        ("late.mp4", {"delay": 0.5}),
        ("stream.ts", {"audio": "mp2"}),
        ("telephone.mkv", {"audio": "pcm_s16le", "sample_rate": 5000, "layout": "mono"}),
    ],
)
def test_sound_is_in_time_with_the_pictures(name, options, tmp_path):
    path = write_beeping_video(tmp_path / name, **options)
    cut_clip(path, tmp_path / "clip.mp4", 0.3, 3.7)
    assert_beeps_with_flashes(tmp_path / "clip.mp4", 0.3)
    rate, samples = read_samples(tmp_path / "clip.mp4")
    assert len(samples) / rate == pytest.approx(3.4, abs=2 * 1024 / rate)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
        assert container.streams.audio[0].channels == (1 if options.get("layout") == "mono" else 2)


def test_sound_of_a_file_object(tmp_path):
    """Which cannot be read at two places at a time."""
    path = write_beeping_video(tmp_path / "video.mp4")
    with open(path, "rb") as file:
        cut_clip(file, tmp_path / "clip.mp4", 0.3, 3.7)
    assert_beeps_with_flashes(tmp_path / "clip.mp4", 0.3)


def test_sound_of_a_rotated_video_with_10_bits(tmp_path):
    options = {"video": "libx265", "pix_fmt": "yuv420p10le", "rotation": 90}
    path = write_beeping_video(tmp_path / "video.mp4", **options)
    cut_clip(path, tmp_path / "clip.mp4", 0.3, 3.7)
    assert_beeps_with_flashes(tmp_path / "clip.mp4", 0.3)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation, frame.format.name) == (48, 80, 0, "yuv420p")


@pytest.mark.parametrize("languages", [("eng", "deu"), ("deu", "eng")])
def test_sound_is_in_the_default_language(languages, tmp_path):
    path = write_beeping_video(tmp_path / "video.mkv", languages=languages)
    cut_clip(path, tmp_path / "clip.mp4", 0.8, 0.84)
    rate, samples = read_samples(tmp_path / "clip.mp4")
    spectrum = np.abs(np.fft.rfft(samples))
    loudest = np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()]
    assert loudest == pytest.approx(TONES[languages[-1]], abs=50)


def test_silence_where_the_sound_has_ended(tmp_path):
    path = samples.write_video(tmp_path / "video.mp4", count=100, audio_sec=1.0)
    cut_clip(path, tmp_path / "clip.mp4", 2, 3)
    rate, sound = read_samples(tmp_path / "clip.mp4")
    assert len(sound) / rate == pytest.approx(1, abs=2 * 1024 / rate)
    assert not sound.any()


def test_cut_of_a_silent_video_has_no_sound(tmp_path):
    path = samples.write_video(tmp_path / "video.mp4", count=50)
    cut_clip(path, tmp_path / "clip.mp4", 0, 1)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert len(container.streams) == 1


def test_joined_recordings_are_cut_without_sound_and_with_a_warning(tmp_path, caplog):
    path = write_beeping_video(tmp_path / "one.ts", audio="mp2")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(path.read_bytes() * 2)
    cut_clip(joined, tmp_path / "clip.mp4", 0, 6)
    assert "so its sound cannot be aligned" in caplog.text
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert len(container.streams) == 1


def test_damaged_sound_costs_no_more_than_itself(tmp_path, caplog):
    path = write_beeping_video(tmp_path / "video.mkv", audio="flac")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    middle = packets[len(packets) // 2]
    place = data.index(bytes(middle))
    data[place : place + middle.size] = b"\xa5" * middle.size
    path.write_bytes(data)
    cut_clip(path, tmp_path / "clip.mp4", 0.3, 3.7)
    assert "1 packets of the sound" in caplog.text
    assert_beeps_with_flashes(tmp_path / "clip.mp4", 0.3)


def test_the_last_picture_lasts_as_long_as_the_others(tmp_path):
    path = samples.write_video(tmp_path / "video.mp4", count=100, rate=Fraction(30000, 1001))
    cut_clip(path, tmp_path / "clip.mp4", 0.5005, 2.002)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == 45
        assert float(stream.duration * stream.time_base) == pytest.approx(45 * 1001 / 30000, abs=1e-4)
        assert stream.average_rate == Fraction(30000, 1001)


@pytest.mark.parametrize("audio_sec", [0.0, 17.0])
@pytest.mark.parametrize(("start", "end", "num_pictures"), [(5, 13, 1), (0, 13, 20), (0.4, 16.02, 11)])
def test_a_held_picture_stays_until_the_end(start, end, num_pictures, audio_sec, tmp_path):
    """As in a recording of a screen: a picture is shown from 0.76 to 16 seconds."""
    times = [*range(20), *range(400, 425)]
    path = samples.write_video(tmp_path / "video.mp4", count=45, times=times, audio_sec=audio_sec)
    cut_clip(path, tmp_path / "clip.mp4", start, end)
    length = end - start
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == num_pictures
        assert float(stream.duration * stream.time_base) == pytest.approx(length, abs=1e-3)
        assert container.duration / 1e6 == pytest.approx(length, abs=0.1)
    assert load_video_frames(tmp_path / "clip.mp4", 1).duration_sec == pytest.approx(length, abs=1e-3)


# ---- copies --------------------------------------------------------------------------------------------------------


def packets_of(path, kind):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        (1.1, 2.9, 25, 75),  # key pictures are one second apart
        (0.9, 3.1, 25, 75),
        (0.2, 0.4, 0, 25),  # at least one group of pictures
        (3.2, 4.0, 75, 100),
        (0.0, 4.0, 0, 100),
    ],
)
def test_copy_lasts_from_key_picture_to_key_picture(start, end, first, last, tmp_path):
    path = samples.write_video(
        tmp_path / "video.mp4", count=100, gop=25, max_b_frames=2, options={"sc_threshold": "0"}
    )
    part = copy_clip(path, tmp_path / "copy.mp4", start, end)
    assert (part.start_sec, part.end_sec) == pytest.approx((first / 25, last / 25))
    clip = load_video_frames(tmp_path / "copy.mp4", 25)
    assert samples.read_numbers(clip.frames) == list(range(first, last))
    assert clip.duration_sec == pytest.approx((last - first) / 25, abs=1e-3)
    packets = packets_of(path, "video")
    assert packets_of(tmp_path / "copy.mp4", "video")[1:] == packets[first + 1 : last]


@pytest.mark.parametrize("name", ["video.mp4", "video.mov", "video.mkv", "video.ts"])
def test_copied_sound_is_in_time_with_the_pictures(name, tmp_path):
    path = write_beeping_video(tmp_path / name, gop=10, rotation=0 if name.endswith("ts") else 90)
    part = copy_clip(path, tmp_path / "copy.mp4", 0.4, 3.7)
    assert (part.start_sec, part.end_sec) == pytest.approx((0.4, 3.6), abs=1e-3)
    assert_beeps_with_flashes(tmp_path / "copy.mp4", 0.4)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == (0 if name.endswith("ts") else 90)
        assert len(container.streams) == 2


def test_copied_sound_is_in_the_default_language(tmp_path):
    path = write_beeping_video(tmp_path / "video.mkv", languages=("eng", "deu"))
    copy_clip(path, tmp_path / "copy.mkv", 0, 4)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=1) if packet.size]
    # The first packet holds what the encoder puts before time 0.
    assert packets_of(tmp_path / "copy.mkv", "audio") == packets[1:]


def test_copy_of_an_open_group_starts_with_its_key_picture(tmp_path):
    """Pictures stored after it but shown before it refer to the group before; they are left out at both ends."""
    options = {"x264-params": samples.OPEN_GOP}
    path = samples.write_video(tmp_path / "video.mkv", count=100, options=options)
    part = copy_clip(path, tmp_path / "copy.mkv", 1.0, 2.1)
    numbers = samples.read_numbers(load_video_frames(tmp_path / "copy.mkv", 25).frames)
    assert numbers[0] == round(part.start_sec * 25)
    assert numbers == list(range(numbers[0], round(part.end_sec * 25)))
    assert 20 < len(numbers) < 30


@pytest.mark.parametrize(
    ("name", "options", "ending"),
    [
        ("a.mp4", {}, ".mp4"),
        ("b.mkv", {"audio": "libopus"}, ".mkv"),
        ("c.webm", {"video": "libvpx-vp9", "audio": "libopus"}, ".mkv"),
        ("d.ts", {"audio": "mp2"}, ".mkv"),
        ("e.mov", {"audio": "pcm_s16le"}, ".mov"),
        ("f.mov", {"video": "mjpeg", "pix_fmt": "yuvj420p"}, ".mov"),
        ("g.mov", {}, ".mp4"),
    ],
)
def test_ending_of_a_copy(name, options, ending, tmp_path):
    path = write_beeping_video(tmp_path / name, **options)
    assert copy_ending(path) == ending
    copy_clip(path, tmp_path / f"copy{ending}", 0, 4)
    assert_beeps_with_flashes(tmp_path / f"copy{ending}", 0)


def test_copy_needs_no_encoder(shared_data, tmp_path):
    """The decoder of AV1 has another name than its encoders."""
    path = shared_data / "videos/av1_video.mkv"
    assert copy_ending(path) == ".mp4"
    copy_clip(path, tmp_path / "copy.mp4", 0, 5)
    assert load_video_frames(tmp_path / "copy.mp4", 1).duration_sec == pytest.approx(5, abs=0.05)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(0.6, 0.7, 0, 25), (1.7, 1.9, 25, 50), (3.7, 3.9, 75, 100), (0.6, 1.1, 25, 50)],
)
def test_copy_of_a_part_between_two_key_pictures_holds_it(start, end, first, last, tmp_path):
    """The key picture nearest to its start may come after its end."""
    path = samples.write_video(tmp_path / "video.mp4", count=100, gop=25, options={"sc_threshold": "0"})
    part = copy_clip(path, tmp_path / "copy.mp4", start, end)
    assert (part.start_sec, part.end_sec) == pytest.approx((first / 25, last / 25))


def test_a_part_before_all_key_pictures_is_not_copied(tmp_path):
    path = samples.write_video(tmp_path / "video.mp4", count=50, gop=25, options={"sc_threshold": "0"})
    source = make_source(path)
    timeline = scan(source)
    timeline = replace(timeline, is_entry=timeline.is_entry & (timeline.pts > 0))
    with pytest.raises(ValueError, match="no key picture before the end of the part"):
        copy_part(tmp_path / "copy.mp4", source, timeline, Fraction(1, 5), Fraction(2, 5))
    assert copy_part(tmp_path / "copy.mp4", source, timeline, Fraction(1, 5), Fraction(2)) == (1, 2)


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
def test_a_held_picture_stays_until_the_end_of_its_copy(name, tmp_path):
    """It is shown until the key picture at 16 seconds."""
    options = {"sc_threshold": "0"}
    times = [*range(20), *range(400, 420)]
    path = samples.write_video(tmp_path / name, count=40, times=times, gop=20, max_b_frames=0, options=options)
    part = copy_clip(path, tmp_path / "copy.mp4", 0, 15)
    assert (part.start_sec, part.end_sec) == pytest.approx((0, 16))
    assert load_video_frames(tmp_path / "copy.mp4", 1).duration_sec == pytest.approx(16, abs=1e-3)


@pytest.mark.parametrize("source", ["video.mp4", "video.ts"])
@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_copied_hevc_has_the_tag_that_apple_reads(source, ending, tmp_path):
    path = samples.write_video(tmp_path / source, count=10, codec="libx265")
    copy_clip(path, tmp_path / f"copy{ending}", 0, 0.4)
    with av.open(str(tmp_path / f"copy{ending}")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    assert samples.read_numbers(load_video_frames(tmp_path / f"copy{ending}", 25).frames) == list(range(10))


def test_copy_to_matroska_uses_no_options_of_mp4(tmp_path, caplog):
    path = samples.write_video(tmp_path / "video.mp4", count=10)
    copy_clip(path, tmp_path / "copy.mkv", 0, 0.4)
    assert caplog.text == ""


def test_what_cannot_be_copied(tmp_path):
    avi = samples.write_video(tmp_path / "video.avi", count=50, max_b_frames=2)
    with pytest.raises(ValueError, match="does not state when each picture is shown.*without `copy`"):
        copy_clip(avi, tmp_path / "copy.mp4", 0, 1)
    with pytest.raises(ValueError, match=r"`output_path` must end in \.mp4, \.mov, \.mkv, got"):
        copy_clip(avi, tmp_path / "copy.gif", 0, 1)
    flash = samples.write_video(tmp_path / "video.flv", count=50, codec="flv")
    with pytest.raises(ValueError, match="does not state which pictures are key pictures.*without `copy`"):
        copy_clip(flash, tmp_path / "copy.mp4", 0, 1)
    vp8 = samples.write_video(tmp_path / "video.webm", count=50, codec="libvpx")
    with pytest.raises(ValueError, match="`output_path` 'copy.mp4' cannot hold vp8.* ends in .mkv"):
        copy_clip(vp8, tmp_path / "copy.mp4", 0, 1)
    disc = write_beeping_video(tmp_path / "disc.m2ts", audio="pcm_bluray")
    with pytest.raises(ValueError, match="`output_path` 'copy.mkv' cannot hold pcm_bluray.*; cut it without `copy`"):
        copy_clip(disc, tmp_path / "copy.mkv", 0, 1)
    video = samples.write_video(tmp_path / "video.mp4", count=50)
    with pytest.raises(ValueError, match="both inside the video's 2 seconds"):
        copy_clip(video, tmp_path / "copy.mp4", 3, 4)
    with pytest.raises(FileExistsError, match="it is an input"):
        copy_clip(video, video, 0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "disc.m2ts",
        "video.avi",
        "video.flv",
        "video.mp4",
        "video.webm",
    ]
