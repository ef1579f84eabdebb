"""Opening a video: accepted formats, files that name others, choice of the stream, limits, addresses, pipes, names."""

import http.server
import io
import logging
import os
import struct
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import pytest
import video_samples as samples

from dataset_scripts import AnnotationError
from dataset_scripts.videos import probe_video
from modeling_r2tuning import containers_r2tuning as containers
from modeling_r2tuning import video_source_r2tuning as video_source
from modeling_r2tuning.video_io_r2tuning import cut_clip, load_video_frames
from modeling_r2tuning.video_source_r2tuning import display_name, file_stem, local_copy
from r2tuning.visualization.timeline import plot_grounding


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two seconds at 25 pictures a second; at one frame a second, pictures 12 and 37 are sampled."""
    return samples.write_video(tmp_path_factory.mktemp("source") / "numbered.mp4", count=50)


def read(video, fps=1, **options):
    return samples.read_numbers(load_video_frames(video, fps, **options).frames)


class Server(http.server.ThreadingHTTPServer):
    """Answers with `answers[path]`, a function of the request's handler; keeps paths and headers of all requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests = {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def serve(self, path, body=b"", code=200, **headers):
        """Answer requests for `path` and return its address; a header that is `None` is left out."""

        def answer(handler):
            handler.send_response(code)
            for name, value in {"Content-Length": len(body), **headers}.items():
                if value is not None:
                    handler.send_header(name, str(value))
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer
        return self.address + path


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        """Keep the requests out of stderr."""

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        answer = self.server.answers.get(self.path)
        self.send_error(404) if answer is None else answer(self)


@contextmanager
def running_server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server():
    with running_server() as server:
        yield server


@pytest.fixture
def other_server():
    with running_server() as server:
        yield server


# ---- formats ----

VP8 = {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}
AV1 = {"codec": "libsvtav1", "options": {"preset": "13"}}
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
READABLE = {
    **dict.fromkeys(["v.mp4", "v.mov", "v.m4v", "v.3gp", "v.mkv", "v.flv", "v.ts", "v.m2ts", "v.nut", "v.h264"], {}),
    **dict.fromkeys(["v.avi", "v.asf"], {"codec": "mpeg4"}),
    **dict.fromkeys(["v.mpg", "v.vob", "v.mxf", "v.wtv"], {"codec": "mpeg2video"}),
    **dict.fromkeys(["v.webm", "v.ivf", "v.ogg"], VP8),
    **dict.fromkeys(["v.avif", "v.obu"], AV1),
    "v.wmv": {"codec": "wmv2"},
    "v.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "v.apng": {"codec": "apng", "pix_fmt": "rgb24"},
    "v.swf": {"codec": "flv"},
    "v.y4m": {"codec": "wrapped_avframe", "container_format": "yuv4mpegpipe"},
    "v.m2v": {"codec": "mpeg2video", "container_format": "mpeg2video"},
    "v.cmp": {"codec": "mpeg4", "container_format": "m4v"},
    "v.mjpeg": MJPEG,
    "v.mjpg": {**MJPEG, "container_format": "mpjpeg"},
    "v.hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "v.rm": {"codec": "rv10", "size": (176, 144)},
    "v.dv": {"codec": "dvvideo", "size": (720, 576)},
}


@pytest.mark.parametrize("name", READABLE)
def test_files_that_hold_their_pictures_are_read(tmp_path, name):
    """The format is detected from the contents; only raw streams depend on the ending of the name."""
    settings = dict(READABLE[name])
    if settings.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {settings['codec']}")
    pictures = [samples.numbered_picture(number, *settings.pop("size", (80, 48))) for number in range(12)]
    path = samples.write_video(tmp_path / name, pictures, **settings)
    assert read(path, 5) == read(path.read_bytes(), 5) == [2, 7]


def test_both_copies_are_equal():
    copy = (ROOT / "dataset_scripts/containers.py").read_text()
    assert copy == (ROOT / "modeling_r2tuning/containers_r2tuning.py").read_text()


def test_formats_are_names_of_ffmpeg():
    known = {name for names in av.formats_available for name in names.split(",")}
    assert len(set(containers.FORMATS.split(",")) - known) <= 5  # other builds of FFmpeg lack the newest


# ---- files that open other files ----

PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile {video}\n",
    "ffconcat_http": "ffconcat version 1.0\nfile {address}\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{video}\n#EXT-X-ENDLIST\n",
    "m3u8_http": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{address}\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?>\n<MPD type="static"><Period><BaseURL>{address}</BaseURL></Period></MPD>',
    "pls": "[playlist]\nFile1={address}\nNumberOfEntries=1\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["video.mp4", "video.m3u8", "video.txt", "video.sdp"])
def test_playlists_are_refused_and_nothing_else_is_opened(tmp_path, video, server, kind, name):
    (tmp_path / "beside.mp4").write_bytes(video.read_bytes())
    address = server.serve("/film.mp4", video.read_bytes())
    text = PLAYLISTS[kind].format(video="beside.mp4", address=address)
    path = tmp_path / name
    path.write_text(text)
    served = server.serve(f"/list/{name}", text.encode())
    kind = "text" if kind == "sdp" else "a playlist, which names other files"
    with open(path, "rb") as file:
        for source in (path, text.encode(), file, served):
            with pytest.raises(ValueError, match=f"cannot be read as a video: it is {kind}; pass the video file"):
                load_video_frames(source, 1)
    with pytest.raises(AnnotationError, match=rf"{name}: found a file that cannot be read as a video: it is {kind}"):
        probe_video(str(path))
    assert [path for path, _ in server.requests] == [f"/list/{name}"]


def test_playlist_of_absolute_paths_is_refused(tmp_path, video):
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    with pytest.raises(ValueError, match="it is a playlist"):
        load_video_frames((tmp_path / "list.mp4").read_bytes(), 1)


def test_text_and_still_pictures_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("ideas\n" * 100)
    with pytest.raises(ValueError, match="notes.txt' cannot be read as a video: it is text"):
        load_video_frames(tmp_path / "notes.txt", 1)
    path = samples.write_video(tmp_path / "a.png", count=1, codec="png", pix_fmt="rgb24", container_format="image2")
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match="it is a still picture"):
            load_video_frames(source, 1)


def test_videos_with_misleading_names_are_read(tmp_path, video):
    for name in ("video.m3u8", "video.txt", "video.concat", "video%03d.jpg.mp4"):
        (tmp_path / name).write_bytes(video.read_bytes())
        assert read(tmp_path / name) == [12, 37]
        with open(tmp_path / name, "rb") as file:
            assert read(file) == [12, 37]


# ---- choice of the stream ----


def write_streams(path, *numbers, still_sec=1):
    """A stream of numbered pictures for each of `numbers`; the first is the default one."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in numbers]
        for index, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = samples.WIDTH, samples.HEIGHT, "yuv420p"
            stream.disposition = av.stream.Disposition(int(index == 0))
        for stream, pictures in zip(streams, numbers, strict=True):
            for time_, number in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(samples.numbered_picture(number), "rgb24")
                frame.pts, frame.time_base = time_, Fraction(1, 25)
                for packet in stream.encode(frame):
                    packet.duration = 1 if len(pictures) > 1 else still_sec * 25
                    container.mux(packet)
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("still_sec", [1, 60])
def test_video_is_chosen_if_the_first_stream_is_a_still_picture(tmp_path, ending, still_sec):
    path = write_streams(tmp_path / f"v.{ending}", [1023], range(50), still_sec=still_sec)
    assert read(path) == read(io.BytesIO(path.read_bytes())) == [12, 37]
    assert probe_video(str(path)).duration_sec == pytest.approx(2, abs=0.05) or ending in ("mkv", "ts")
    assert probe_video(str(path)).fps == pytest.approx(25)


def test_animated_avif_is_a_video(tmp_path):
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no encoder libsvtav1")
    path = samples.write_video(tmp_path / "v.avif", count=12, rate=2, **AV1)
    with av.open(str(path)) as container:
        assert [stream.frames for stream in container.streams.video] == [1, 12]
    assert read(path, 0.5) == [1, 5, 9]
    assert probe_video(str(path)).duration_sec == pytest.approx(6)


def test_first_of_two_videos_is_chosen(tmp_path):
    path = write_streams(tmp_path / "two.mkv", range(25), range(50))
    assert read(path) == [12]


def test_length_is_that_of_the_video_stream_whatever_the_encoding_of_the_title(tmp_path):
    def configure(stream):
        stream.container.metadata["title"] = "ABCDEFGHIJ"

    cover = (samples.numbered_picture(1023), int(av.stream.Disposition.attached_pic))
    path = samples.write_video(tmp_path / "v.mp4", count=50, configure=configure, extra_streams=[cover])
    path.write_bytes(path.read_bytes().replace(b"ABCDEFGHIJ", b"caf\xe9 \xff\xff\xff\xff\xff"))
    facts = probe_video(str(path))
    assert (facts.duration_sec, facts.fps, facts.num_frames) == (2.0, 25.0, 50)


def test_cover_picture_without_video_is_refused(tmp_path):
    path = samples.write_audio(tmp_path / "v.mp4")
    with pytest.raises(AnnotationError, match=r"v\.mp4: found a file that has no video stream"):
        probe_video(str(path))


def test_lengths_are_read_only_from_regular_files(tmp_path):
    os.mkfifo(tmp_path / "v.mp4")
    for name in ("v.mp4", "absent.mp4"):
        with pytest.raises(AnnotationError, match=rf"{name}: found no file"):
            probe_video(str(tmp_path / name))


# ---- sizes ----


@pytest.mark.parametrize("aspect", [(1, 2**31 - 1), (2**31 - 1, 1), (1, 101), (101, 1)])
def test_absurd_pixel_aspect_ratios_are_refused(tmp_path, aspect):
    def configure(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    path = samples.write_video(tmp_path / "v.mp4", count=5, codec="mpeg4", configure=configure)
    data = path.read_bytes()
    box = b"pasp" + struct.pack(">II", 3, 2)
    assert box in data
    path.write_bytes(data.replace(box, b"pasp" + struct.pack(">II", *aspect)))
    message = rf"pixels with the aspect ratio {aspect[0]}:{aspect[1]}, allowed is"
    for size in (None, 224):
        with pytest.raises(ValueError, match=message):
            load_video_frames(path, 1, size=size)
    with pytest.raises(ValueError, match=message):
        cut_clip(path, tmp_path / "clip.mp4", 0, 0.1)
    with pytest.raises(AnnotationError, match=message):
        probe_video(str(path))


@pytest.mark.parametrize("size", [(65535, 65535), (11000, 11000)])
def test_declared_pictures_are_not_allocated(size):
    """FFmpeg would allocate 1.5 GB for this file of 35 bytes."""
    header = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    data = header + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0;"
    with pytest.raises(ValueError, match="no picture can be decoded: .* larger than `max_pixels` = 67,108,864"):
        load_video_frames(data, 1)


def test_largest_picture_can_be_set(tmp_path, video):
    pixels = samples.WIDTH * samples.HEIGHT
    assert read(video, max_pixels=pixels) == [12, 37]
    with pytest.raises(
        ValueError, match=r"pictures of 80 x 48 pixels .* more than `max_pixels` = 3,839; pass a larger"
    ):
        load_video_frames(video, 1, max_pixels=pixels - 1)
    with pytest.raises(ValueError, match="gives pictures of 160 x 96 pixels, more than `max_pixels` = 3,840"):
        load_video_frames(video, 1, size=96, max_pixels=pixels)
    with pytest.raises(ValueError, match="`max_pixels` must be .* at least 1, got 0"):
        load_video_frames(video, 1, max_pixels=0)
    with pytest.raises(ValueError, match="more than `max_pixels` = 100"):
        cut_clip(video, tmp_path / "clip.mp4", 0, 1, max_pixels=100)


def test_pictures_that_grow_beyond_the_limit_are_refused(tmp_path):
    data = b""
    for number, size in enumerate([(80, 48), (4096, 2304)]):
        pictures, options = [samples.numbered_picture(number, *size)] * 2, {"preset": "ultrafast"}
        data += samples.write_video(tmp_path / "v.h264", pictures, options=options).read_bytes()
    assert read(data, 25) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="4096 x 2304 pixels .* more than `max_pixels` = 3,840"):
        load_video_frames(data, 25, max_pixels=80 * 48)


# ---- addresses ----


def test_addresses_of_any_characters_and_length_are_read(video, server):
    data = video.read_bytes()
    for path in (
        "/%E8%A7%86" * 30 + ".mp4",
        "/vid%C3%A9o.mp4",
        "/a%20b.mp4",
        "/caf%E9.mp4",
        "/v.mp4?q=%C3%BC&n=1%202",
    ):
        server.serve(path, data)
    name = "/".join([""] + ["\u89c6"] * 30)
    for path in (
        f"{name}.mp4",
        "/vid\u00e9o.mp4",
        "/a b.mp4",
        "/caf\udce9.mp4",
        "/v.mp4?q=\u00fc&n=1 2",
        "/vid%C3%A9o.mp4",
    ):
        assert read(server.address + path) == [12, 37]


def test_names_of_servers_may_have_any_characters():
    request = video_source._make_request("http://b\u00fccher.example:81/\u00e9")
    assert request.full_url == "http://xn--bcher-kva.example:81/%C3%A9"
    assert video_source._make_request("https://[::1]:81/v.mp4").full_url == "https://[::1]:81/v.mp4"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
        (b"<?xml version='1.0'?><html xmlns='x'>", "an HTML page"),
        (b"#EXTM3U\n#EXTINF:2,\nfilm.ts\n", "a playlist, which names other files"),
        (b'{"error": "quota"}', "text"),
    ],
)
def test_content_that_is_not_video_is_named_with_its_address(server, body, kind):
    address = server.serve("/watch", body)
    with pytest.raises(
        ValueError, match=f"`video` '{address}' cannot be read as a video: it is {kind}; pass the video"
    ):
        load_video_frames(address, 1)


def test_redirects_are_followed_only_to_http(video, server, other_server):
    film = other_server.serve("/film.mp4", video.read_bytes())
    server.serve("/moved.mp4", video.read_bytes())
    assert read(server.serve("/a", code=302, Location=film)) == [12, 37]
    assert read(server.serve("/b", code=307, Location="moved.mp4")) == [12, 37]
    for location in (f"file://{video}", f"ftp://127.0.0.1{video}", "data:video/mp4;base64,AAAA", f"FILE://{video}"):
        with pytest.raises(
            ConnectionError, match=r"/c' could not be fetched \(only http and https are supported, not"
        ):
            load_video_frames(server.serve("/c", code=301, Location=location), 1)
    with pytest.raises(ConnectionError, match="more than 10 redirects"):
        load_video_frames(server.serve("/d", code=302, Location="/d"), 1)


def test_other_protocols_are_refused(video):
    for address in ("rtsp://127.0.0.1:1/live", "ftp://127.0.0.1:1/v.mp4", f"file://{video}", "concat://a.mp4"):
        with pytest.raises(ConnectionError, match="could not be fetched .only http and https are supported"):
            load_video_frames(address, 1)


SECRET_ADDRESSES = [
    "http://ann:sesame@{host}/v.mp4",
    "http://ann:se/sesame@{host}/v.mp4",
    "http://sesame@{host}/v.mp4",
    "http://ann:sesame@{host}:port/v.mp4",
    "http://{host}/v.mp4?id=7&X-Amz-Signature=sesame&access_token=sesame",
    "rtsp://ann:sesame@{host}/live",
    "http://ann:sesame@[::1/v.mp4",
    "http://ann:se#sesame@{host}/v.mp4",
]


@pytest.mark.parametrize("address", SECRET_ADDRESSES)
def test_passwords_and_keys_are_never_shown(address, server, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    address = address.format(host=server.address.removeprefix("http://"))
    with pytest.raises(ConnectionError, match="could not be fetched") as caught:
        load_video_frames(address, 1)
    with pytest.raises(ConnectionError) as again:
        local_copy(address)
    for error in (caught.value, again.value):
        while error is not None:
            assert "sesame" not in str(error)
            error = error.__cause__
    assert "sesame" not in display_name(address) + file_stem(address) + caplog.text + "".join(capsys.readouterr())


def test_other_parts_of_an_address_are_shown():
    for address in ("https://host/@user/v.mp4?size=1", "http://[::1]:80/v.mp4", "http://host"):
        assert display_name(address) == address
    assert display_name("https://ann:x@host/v.mp4?sig=ab&id=1") == "https://host/v.mp4?sig=...&id=1"


def test_password_is_sent_only_to_its_own_server(video, server, other_server):
    server.serve("/film.mp4", video.read_bytes())
    server.serve("/near", code=302, Location="/film.mp4")
    server.serve("/far", code=302, Location=other_server.serve("/film.mp4", video.read_bytes()))
    for path in ("/near", "/far"):
        assert read(server.address.replace("//", "//ann:open%20sesame@") + path) == [12, 37]
    given = {path: headers.get("Authorization") for path, headers in server.requests}
    basic = "Basic YW5uOm9wZW4gc2VzYW1l"  # ann:open sesame
    assert given == {"/near": basic, "/film.mp4": basic, "/far": basic}
    assert [headers.get("Authorization") for _, headers in other_server.requests] == [None]
    assert {headers["User-Agent"] for _, headers in server.requests} == {"r2tuning"}


def test_silent_and_slow_servers_time_out(server, monkeypatch):
    monkeypatch.setattr(video_source, "TIMEOUT_SEC", 0.2)
    over = threading.Event()
    server.answers["/silent"] = lambda handler: over.wait(5)

    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.05):
            handler.wfile.write(b"x")

    server.answers["/slow"] = drip
    start = time.monotonic()
    for path, reason in (("/silent", "timed out"), ("/slow", "fewer than 1,000 bytes a second")):
        with pytest.raises(ConnectionError, match=f"{path}' could not be fetched .*{reason}"):
            load_video_frames(server.address + path, 1)
    over.set()
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("is_declared", [True, False])
def test_size_of_a_copy_is_limited(server, video, is_declared):
    data = video.read_bytes()
    address = server.serve("/v.mp4", data, **({} if is_declared else {"Content-Length": None}))
    steps = []
    with local_copy(address, len(data), lambda done, total: steps.append((done, total))) as copy:
        assert read(copy) == read(copy) == [12, 37]
        assert repr(copy) == repr(address)
    assert copy.closed
    assert steps[-1] == (len(data), len(data) if is_declared else 0)
    with pytest.raises(
        ValueError, match=rf"{address}' has more than {len(data) - 1:,} bytes; raise the limit \(`--max"
    ):
        local_copy(address, len(data) - 1)


def test_full_disk_names_the_folder(server, video, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    monkeypatch.setattr(video_source.tempfile, "TemporaryFile", lambda buffering: open("/dev/full", "r+b", 0))  # noqa: SIM115
    with pytest.raises(OSError, match=f"No space left on device: '{video_source.tempfile.gettempdir()}'"):
        local_copy(server.serve("/v.mp4", video.read_bytes()))


# ---- pipes ----


@pytest.fixture
def pipe(tmp_path, video):
    """A pipe into which the video is written once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(video.read_bytes()), daemon=True)
    writer.start()
    yield path
    writer.join(5)


def test_pipe_is_read_once(pipe):
    assert read(pipe) == [12, 37]


def test_pipe_can_be_copied_to_be_read_several_times(pipe):
    with local_copy(str(pipe)) as copy:
        assert read(copy, 2) == read(copy, 2) == [6, 18, 31, 43]
        assert (display_name(copy), file_stem(copy)) == (str(pipe), "pipe")


def test_pipe_is_copied_up_to_the_limit(pipe):
    with pytest.raises(ValueError, match="pipe' has more than 1,000 bytes"):
        local_copy(pipe, 1000)


def test_descriptor_of_a_pipe_is_a_path(video):
    descriptor, writer = os.pipe()
    thread = threading.Thread(target=lambda: [os.write(writer, video.read_bytes()), os.close(writer)], daemon=True)
    thread.start()
    assert read(f"/dev/fd/{descriptor}") == [12, 37]
    thread.join(5)
    os.close(descriptor)


def test_pipe_can_be_plotted(pipe):
    pytest.importorskip("matplotlib", reason="drawing needs the optional matplotlib")
    answer = {"query": "a", "moments": [], "saliency": [0.0, 1.0], "frame_times": [0.0, 1.0], "highlights": []}
    assert len(plot_grounding(answer, pipe).axes[0].images) == 10


def test_devices_are_refused():
    with pytest.raises(ValueError, match=f"'{os.devnull}' is a device"):
        load_video_frames(os.devnull, 1)


def test_seekable_videos_are_not_copied(video):
    data = video.read_bytes()
    for source in (video, str(video), data, io.BytesIO(data)):
        with local_copy(source) as copy:
            assert copy is source


# ---- names ----


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"n" * 251 + b".mp4", "\u89c6\u9891.mp4".encode()])
def test_files_of_any_name_are_read(tmp_path, video, name):
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as file:
        file.write(video.read_bytes())
    for source in (os.fsdecode(path), Path(os.fsdecode(path))):
        assert read(source) == [12, 37]
    assert probe_video(os.fsdecode(path)).duration_sec == 2
    with open(path, "rb") as file:
        assert read(file) == [12, 37]


@pytest.mark.parametrize(
    ("name", "shown", "stem"),
    [
        ("a/caf\udce9.mp4", "a/caf\ufffd.mp4", "caf\ufffd"),
        ("/dev/stdin", "/dev/stdin", "stdin"),
        ("http://host/a%2Fvid%C3%A9o%0A.mp4?x=1", "http://host/a%2Fvid%C3%A9o%0A.mp4?x=1", "vid\u00e9o_"),
        ("http://host/", "http://host/", "host"),
        ("http://host/caf%E9.mp4", "http://host/caf%E9.mp4", "caf\ufffd"),
    ],
)
def test_names_can_be_printed_and_written(name, shown, stem):
    assert (display_name(name), file_stem(name)) == (shown, stem)
