"""Writers of small test videos whose pictures say which one they are, and readers of what they say.

A numbered picture shows its number as ten vertical bars, white for a 1 and black for a 0, the highest bit at the left.
"""

import os
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np


NUM_BITS = 10
WIDTH, HEIGHT = 80, 48
OPEN_GOP = "open-gop=1:keyint=27:min-keyint=27:bframes=3:b-adapt=0:scenecut=0"
INTRA_REFRESH = "intra-refresh=1:keyint=25:bframes=0"


def numbered_picture(number, width=WIDTH, height=HEIGHT):
    """`(height, width, 3)` uint8 that shows `number`."""
    bits = number >> np.arange(NUM_BITS)[::-1] & 1
    columns = bits[np.arange(width) * NUM_BITS // width] * 255
    return np.broadcast_to(columns[None, :, None], (height, width, 3)).astype(np.uint8)


def read_number(picture):
    """The number that a picture shows, at any size."""
    centers = ((np.arange(NUM_BITS) + 0.5) * picture.shape[1] / NUM_BITS).astype(int)
    bits = picture[picture.shape[0] // 2, centers].mean(axis=-1) > 127
    return int(bits @ (1 << np.arange(NUM_BITS)[::-1]))


def read_numbers(pictures):
    return [read_number(picture) for picture in pictures]


def textured_pictures(count, width=96, height=64):
    """Pictures that move and brighten, so that a decoder cannot do without the pictures they are predicted from."""
    blocks = np.random.default_rng(3).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    base = np.kron(blocks, np.ones((8, 8, 1), dtype=np.uint8))
    for number in range(count):
        picture = np.roll(base, 2 * number, axis=1)
        picture[:16, :16] = number * 3 % 256
        yield picture


def noisy_numbered_pictures(count):
    """Numbered pictures that take some hundred bytes each even when they are predicted from the one before."""
    random = np.random.default_rng(0)
    shape = (HEIGHT, WIDTH, 3)
    still = random.integers(0, 50, shape, dtype=np.uint8)
    for number in range(count):
        yield numbered_picture(number) // 2 + still + random.integers(0, 30, shape, dtype=np.uint8)


def corner_picture(width=64, height=48):
    """Red, green, blue and white quarters, in reading order."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2, 0] = 255
    picture[: height // 2, width // 2 :, 1] = 255
    picture[height // 2 :, : width // 2, 2] = 255
    picture[height // 2 :, width // 2 :] = 255
    return picture


def corner_colors(picture):
    """Colour letters of the four quarters, in reading order."""
    height, width = picture.shape[:2]
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    letters = {(True, False, False): "r", (False, True, False): "g", (False, False, True): "b", (True,) * 3: "w"}
    return "".join(letters.get(tuple(bool(channel) for channel in picture[point] > 127), "?") for point in points)


def write_video(
    path,
    pictures=None,
    *,
    count=None,
    codec="libx264",
    rate=25,
    times=None,
    gop=25,
    max_b_frames=None,
    options=None,
    container_options=None,
    container_format=None,
    pix_fmt="yuv420p",
    configure=None,
    audio_sec=0.0,
    extra_streams=(),
):
    """Write `pictures`, or `count` numbered ones, and return the path.

    Args:
        path: File to write; its ending gives the container.
        pictures: Iterable of `(height, width, 3)` uint8.
        count: Number of numbered pictures, if `pictures` is not given.
        codec: Encoder.
        rate: Pictures per second.
        times: One timestamp per picture in units of 1 / rate; ascending, need not begin at 0.
        gop: Pictures from one key picture to the next.
        max_b_frames: Largest number of reordered pictures in a row; `None` = the encoder's own.
        options: Options of the encoder.
        container_options: Options of the container.
        container_format: Container, if the ending does not give it.
        pix_fmt: Pixel format.
        configure: Called with the video stream before the first picture is encoded.
        audio_sec: Seconds of silence to add.
        extra_streams: Pictures of further video streams, one each; (picture, disposition) pairs.
    """
    pictures = iter(pictures if pictures is not None else map(numbered_picture, range(count)))
    first = next(pictures)
    with av.open(os.fspath(path), "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1  # several encode differently from run to run
        stream.codec_context.gop_size = gop
        if max_b_frames is not None:
            stream.codec_context.max_b_frames = max_b_frames
        if configure is not None:
            configure(stream)
        extras = [_add_extra_stream(container, *extra) for extra in extra_streams]
        audio = container.add_stream("aac", rate=16000, layout="mono") if audio_sec else None
        for number, picture in enumerate(chain([first], pictures)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for extra, picture in zip(extras, extra_streams, strict=True):
            container.mux(extra.encode(av.VideoFrame.from_ndarray(picture[0], "rgb24")))
            container.mux(extra.encode(None))
        if audio is not None:
            _write_silence(container, audio, audio_sec)
    return path


def _add_extra_stream(container, picture, disposition):
    stream = container.add_stream("mjpeg" if disposition else "libx264", rate=25)
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = "yuvj420p" if disposition else "yuv420p"
    if disposition:
        stream.disposition = disposition
    return stream


def _write_silence(container, stream, duration_sec):
    for start in range(0, int(duration_sec * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_audio(path, duration_sec=1.0):
    with av.open(os.fspath(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=16000, layout="mono"), duration_sec)
    return path


def truncate(path, kept):
    """Keep only the share `kept` of a file."""
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * kept)])
    return path


def damage_packets(path, positions):
    """Overwrite the video packets at `positions` (in the order of the file)."""
    with av.open(os.fspath(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = Path(path).read_bytes()
    for position in positions:
        data = data.replace(packets[position], b"\xff" * len(packets[position]))
    Path(path).write_bytes(data)
    return path


def decode_everything(path):
    """Times in seconds since the first picture, and RGB pictures, by plain PyAV."""
    with av.open(os.fspath(path)) as container:
        frames = list(container.decode(video=0))
        times = [(frame.pts - frames[0].pts) * frame.time_base for frame in frames]
        return times, [frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray() for frame in frames]


def expected_indices(times, fps, num_frames, start=0, end=None):
    """The rule, written plainly: the last picture before start + (i + 1/2) / fps, and none at or after the end."""
    usable = [index for index, time in enumerate(times) if end is None or time < Fraction(str(end))]
    step = 1 / Fraction(str(fps))
    limits = [Fraction(str(start)) + (index + Fraction(1, 2)) * step for index in range(num_frames)]
    return [max(index for index in usable if times[index] < limit) for limit in limits]


def pack_b_frames(path, packed_path):
    """Rewrite MPEG-4 as old encoders did for AVI: a B picture shares the packet of the one it is decoded after.

    An empty picture follows, with whose time the decoder hands the B picture out.
    """
    with av.open(os.fspath(path)) as container, av.open(os.fspath(packed_path), "w") as output:
        stream = container.streams.video[0]
        target = output.add_stream_from_template(stream)
        pictures = [(bytes(packet), packet.is_keyframe) for packet in container.demux(stream) if packet.size]
        packed = []
        for data, is_key in pictures:
            if data[data.index(b"\0\0\1\xb6") + 4] >> 6 == 2:
                packed[-1] = (packed[-1][0] + data, packed[-1][1])
                packed.append((b"\0\0\1\xb6\x5f\x0b\x7f", False))
            else:
                packed.append((b"\0\0\1\xb2DivX503b1393p" * is_key + data, is_key))
        for number, (data, is_key) in enumerate(packed):
            packet = av.Packet(data)
            packet.stream, packet.is_keyframe = target, is_key
            packet.pts = packet.dts = number
            packet.time_base = 1 / stream.average_rate
            output.mux(packet)
    return packed_path


def concatenate(path, *parts):
    """What `cat` makes of files."""
    Path(path).write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    return path


def cut_before_packet(path, position):
    """Drop all that a transport stream holds before a packet, but for the tables in front of it."""
    with av.open(os.fspath(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][position]
    Path(path).write_bytes(Path(path).read_bytes()[place - 2 * 188 :])
    return path


def patch_box(path, kind, patch):
    """Replace the content of the only box of a kind in an mp4 file whose index comes last by `patch(content)`."""
    data = bytearray(Path(path).read_bytes())
    place = data.index(kind) - 4
    size = int.from_bytes(data[place : place + 4], "big")
    content = patch(bytes(data[place + 8 : place + size]))
    growth = len(content) + 8 - size
    data[place + 8 : place + size] = content
    for parent in (kind, b"edts", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        start = data.rfind(parent, 0, place + 8) - 4
        if start >= 0 and (end := start + int.from_bytes(data[start : start + 4], "big")) > place:
            data[start : start + 4] = (end - start + growth).to_bytes(4, "big")
    Path(path).write_bytes(data)
    return path


def filter_with_ffmpeg(path, fps):
    """Pictures, as RGB arrays, that FFmpeg's own fps filter makes of a video: the reference for our rule."""
    graph = av.filter.Graph()
    pictures = []
    with av.open(os.fspath(path)) as container:
        stream = container.streams.video[0]
        source = graph.add_buffer(template=stream)
        graph.link_nodes(source, graph.add("fps", f"fps={fps}"), graph.add("buffersink")).configure()
        first = None
        for frame in [*container.decode(stream), None]:
            if frame is not None:
                first = frame.pts if first is None else first
                frame.pts -= first
            graph.vpush(frame)
            pictures.extend(_pull_all(graph))
    return pictures


def _pull_all(graph):
    while True:
        try:
            yield graph.vpull().reformat(format="rgb24", interpolation="BICUBIC").to_ndarray()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def shared_data_dir():
    """Folder of real test material: `VTG_SHARED_DATA`, else `../shared/data` beside the repository; it may be absent."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("VTG_SHARED_DATA", default))
