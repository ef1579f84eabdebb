"""Opening the container of a video: which formats are read, what else may be opened, which stream is the film.

Only the standard library and PyAV are used, as this file is part of every checkpoint's code, and
`dataset_scripts/containers.py` is a copy of it.
"""

import errno
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO


__all__ = ["MAX_PIXELS", "VideoSource", "import_av", "open_stream"]

# FFmpeg's names of the formats that hold their pictures themselves. All others are refused: playlists, patterns of file
# names, devices and subtitles make FFmpeg open further files and addresses, and a few (mlv, image2) pictures do so too.
FORMATS = (
    "apng,asf,avi,dv,flv,gif,gxf,ivf,jpegxl_anim,kux,matroska,mov,mpeg,mpegts,mxf,nsv,nut,nuv,ogg,swf,ty,wtv,yuv4mpegpipe,"
    "cine,dhav,hxvs,ifv,ingenient,lmlm4,luodat,mpjpeg,mxg,pva,ser,simbiosis_imx,"  # of cameras and recorders
    "bink,flic,ivr,rm,roq,smjpeg,smk,vivo,"  # of old archives
    "apv,av1,avs2,avs3,cavsvideo,dirac,dnxhd,evc,h261,h263,h264,hevc,m4v,mjpeg,mjpeg_2000,mpegvideo,obu,vc1,vc1test,vvc"
)
MAX_PIXELS = 2**26  # 8192 x 8192, twice what the levels of h264, hevc and av1 allow
MAX_MARGIN = 2**23  # 128 columns of 65536 pixels
MAX_PIXEL_ASPECT = 100  # real ones are between 1:3 and 3:1
HEAD_SIZE = 4096
TEXT = bytes({*range(32, 256), *b"\t\n\f\r"})
# What a file that is no video is, by how it begins.
TEXT_KINDS = {
    "an HTML page": rb"<!doctype html|<html|<head|<body",
    "a playlist, which names other files": rb"#EXTM3U|ffconcat|\[playlist\]|\[reference\]|<(asx|smil|MPD|playlist)\b",
    "text": rb"",
}
PICTURE = re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|BM|GIF8|II\*\0|MM\0\*", re.DOTALL)


@dataclass(frozen=True)
class VideoSource:
    """What PyAV opens.

    Args:
        name: How to call it in a message.
        target: `"file:"` and a path, or a seekable file object.
        max_pixels: Pictures of more pixels are refused.
    """

    name: str
    target: str | BinaryIO
    max_pixels: int = MAX_PIXELS


def import_av() -> Any:
    """PyAV, which only those who read or cut videos need."""
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading and cutting videos needs PyAV: `pip install av`.") from error
    return av


@contextmanager
def open_stream(source: VideoSource) -> Iterator[tuple]:
    """PyAV, container and video stream of a source. Errors of FFmpeg while it is open become a ValueError."""
    av = import_av()
    try:
        with ExitStack() as stack:
            container = stack.enter_context(_open(av, source))
            streams = _films(av, container, source.name)
            if len(streams) > 1:
                index = _choose_film(av, container, streams)
                container.close()
                container = stack.enter_context(_open(av, source))  # anew, as packets were read
                streams = [container.streams[index]]
            yield av, container, _checked(streams[0], source)
    except av.error.FFmpegError as error:
        raise ValueError(f"{source.name} cannot be read as a video{_explain(source, error)}") from error


def _open(av: Any, source: VideoSource) -> Any:
    is_path = isinstance(source.target, str)
    if not is_path:
        source.target.seek(0)
    # a title that is not UTF-8 must not stop us; PyAV 19 accepts any and has no such argument
    tolerant = {"metadata_errors": "replace"} if hasattr(av.container.Container, "metadata_errors") else {}
    return av.open(
        source.target,
        mode="r",
        options=_decoder_options(source),  # of the decoders that look into the streams
        container_options={
            "format_whitelist": FORMATS,
            "protocol_whitelist": "file" if is_path else "",  # a file object is read by us: nothing is left to open
        },
        **tolerant,
    )


def _films(av: Any, container: Any, name: str) -> list:
    """The video streams without cover pictures."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise ValueError(f"{name} has no video stream (a cover picture is not one).")
    return streams


def _choose_film(av: Any, container: Any, streams: list) -> int:
    """Index of the first stream if it has two pictures, else of FFmpeg's best one that has, else of the longest."""
    first, best = streams[0], container.streams.best("video")
    counts, ends = Counter(), Counter()
    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            index = packet.stream.index
            counts[index] += bool(packet.size)
            if counts[first.index] > 1:
                return first.index
            time = packet.dts if packet.pts is None else packet.pts
            ends[index] = max(ends[index], (time or 0) * packet.stream.time_base)
    return max(streams, key=lambda stream: (counts[stream.index] > 1, stream == best, ends[stream.index])).index


def _checked(stream: Any, source: VideoSource) -> Any:
    """The stream, if its pictures can be decoded and are not too large; its decoder refuses larger ones than declared."""
    decoder = stream.codec_context
    if decoder is None:
        raise ValueError(f"{source.name} is in a format for which this FFmpeg has no decoder; convert it to h264.")
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if max(aspect, 1 / aspect) > MAX_PIXEL_ASPECT:
        raise ValueError(
            f"{source.name} declares pixels with the aspect ratio {aspect.numerator}:{aspect.denominator}, allowed is "
            f"up to {MAX_PIXEL_ASPECT}:1 or 1:{MAX_PIXEL_ASPECT}; set the right one with `ffmpeg -aspect`."
        )
    if decoder.width * decoder.height * max(aspect, 1) > source.max_pixels:
        raise ValueError(
            f"{source.name} declares pictures of {decoder.width} x {decoder.height} pixels with the aspect ratio "
            f"{float(aspect):g}, more than `max_pixels` = {source.max_pixels:,}; pass a larger `max_pixels` to read it."
        )
    decoder.options = _decoder_options(source)
    return stream


def _decoder_options(source: VideoSource) -> dict[str, str]:
    """A decoder allocates no larger pictures, whatever the container says; it counts with the margins that it needs."""
    return {"max_pixels": str(source.max_pixels + MAX_MARGIN)}


def _explain(source: VideoSource, error: Exception) -> str:
    """The end of the message about a file that FFmpeg cannot read, as far as its beginning tells what it is."""
    head = _read_head(source.target)
    kind = None
    if head and not head.translate(None, TEXT):
        kind = next(kind for kind, pattern in TEXT_KINDS.items() if re.search(pattern, head, re.IGNORECASE))
    elif error.errno == errno.EINVAL and PICTURE.match(head):
        kind = "a still picture"
    if kind is not None:
        return f": it is {kind}; pass the video file itself."
    if error.errno == errno.EINVAL:
        return ": it is in none of the formats that are read, such as mp4, mkv, avi or ts; convert it to one of them."
    return f" ({error.strerror or type(error).__name__}); is it complete?"


def _read_head(target: str | BinaryIO) -> bytes:
    with suppress(OSError):
        if isinstance(target, str):
            with open(target.removeprefix("file:"), "rb") as file:
                return file.read(HEAD_SIZE)
        target.seek(0)
        return target.read(HEAD_SIZE)
    return b""
