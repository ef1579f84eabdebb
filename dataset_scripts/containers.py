"""Open a video container safely: the accepted formats, the limits, and the choice of the video stream.

This file travels with every checkpoint and `dataset_scripts/containers.py` is an equal copy of it, so it uses only the
standard library and PyAV.
"""

import errno
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO


__all__ = ["MAX_PIXELS", "VideoSource", "import_av", "open_stream"]

# FFmpeg's names of the formats that hold their pictures themselves. All others are refused: playlists, file name
# patterns, devices and subtitles make FFmpeg open further files and addresses; a few image formats (mlv, image2) too.
FORMATS = (
    "apng,asf,avi,dv,flv,gif,gxf,ivf,jpegxl_anim,kux,matroska,mov,mpeg,mpegts,mxf,nsv,nut,nuv,ogg,swf,ty,wtv,yuv4mpegpipe,"
    "cine,dhav,hxvs,ifv,ingenient,lmlm4,luodat,mpjpeg,mxg,pva,ser,simbiosis_imx,"  # from cameras and recorders
    "bink,flic,ivr,rm,roq,smjpeg,smk,vivo,"  # found in old archives
    "apv,av1,avs2,avs3,cavsvideo,dirac,dnxhd,evc,h261,h263,h264,hevc,m4v,mjpeg,mjpeg_2000,mpegvideo,obu,vc1,vc1test,vvc"
)
MAX_PIXELS = 2**26  # 8192 x 8192, twice what the levels of h264, hevc and av1 allow
MAX_MARGIN = 2**23  # 128 columns of 65536 pixels
MAX_PIXEL_ASPECT = 100  # real videos stay between 1:3 and 3:1
HEAD_SIZE = 4096
TEXT = bytes({*range(32, 256), *b"\t\n\f\r"})
# What a file is that contains only text, by its first bytes.
TEXT_KINDS = {
    "an HTML page": rb"<!doctype html|<html|<head|<body",
    "a playlist, which names other files": rb"#EXTM3U|ffconcat|\[playlist\]|\[reference\]|<(asx|smil|MPD|playlist)\b",
    "text": rb"",
}
STILL_PICTURE = re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|BM|GIF8|II\*\0|MM\0\*", re.DOTALL)


@dataclass(frozen=True)
class VideoSource:
    """A video in the form that PyAV opens.

    Args:
        name: Name of the video in messages.
        target: `"file:"` and a path, or a seekable file object.
        max_pixels: Largest number of pixels in a picture; larger ones are refused.
    """

    name: str
    target: str | BinaryIO
    max_pixels: int = MAX_PIXELS


def import_av() -> Any:
    """Import PyAV, which only reading and cutting videos needs.

    Raises:
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading and cutting videos needs PyAV: `pip install av`.") from error
    return av


@contextmanager
def open_stream(source: VideoSource) -> Iterator[tuple[Any, Any, Any]]:
    """Open a video and select its main video stream.

    Yields:
        PyAV, the container and the stream.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: The file cannot be read as a video, or FFmpeg fails while it is open.
    """
    av = import_av()
    try:
        with ExitStack() as stack:
            container = stack.enter_context(_open(av, source))
            streams = _video_streams(av, container, source.name)
            if len(streams) > 1:
                index = _choose_stream(av, container, streams)
                # Choosing consumed packets, so the file is opened a second time.
                container.close()
                container = stack.enter_context(_open(av, source))
                streams = [container.streams[index]]
            stream = streams[0]
            _check_stream(stream, source)
            # The decoder itself also refuses pictures that turn out larger than the container declares.
            stream.codec_context.options = _decoder_options(source)
            yield av, container, stream
    except av.error.FFmpegError as error:
        raise ValueError(f"{source.name} cannot be read as a video{_explain(source, error)}") from error


def _open(av: Any, source: VideoSource) -> Any:
    protocols = "file"
    if not isinstance(source.target, str):
        source.target.seek(0)
        protocols = ""  # PyAV reads from the file object, so FFmpeg has nothing to open itself
    # A title that is not UTF-8 must not stop us. PyAV 19 accepts any title and has no such argument.
    tolerant = {"metadata_errors": "replace"} if hasattr(av.container.Container, "metadata_errors") else {}
    return av.open(
        source.target,
        mode="r",
        options=_decoder_options(source),  # for the decoders with which FFmpeg probes the streams
        container_options={"format_whitelist": FORMATS, "protocol_whitelist": protocols},
        **tolerant,
    )


def _video_streams(av: Any, container: Any, name: str) -> list[Any]:
    """All video streams except cover pictures."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise ValueError(f"{name} has no video stream (a cover picture is not one).")
    return streams


def _choose_stream(av: Any, container: Any, streams: list[Any]) -> int:
    """Choose between several video streams; a stream with only one picture is a thumbnail.

    Returns:
        Index of the first stream if it has two pictures. Else, among the streams with two pictures (among all if there
        are none), that of FFmpeg's best stream, or of the one that ends last.
    """
    first, best = streams[0], container.streams.best("video")
    num_pictures: Counter[int] = Counter()
    ends: defaultdict[int, Fraction] = defaultdict(Fraction)
    # Packets of a damaged file are counted up to the first one that cannot be read.
    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            index = packet.stream.index
            num_pictures[index] += bool(packet.size)
            if num_pictures[first.index] > 1:
                return first.index
            time = packet.dts if packet.pts is None else packet.pts
            ends[index] = max(ends[index], (time or 0) * packet.stream.time_base)

    def rank(stream: Any) -> tuple[bool, bool, Fraction]:
        return num_pictures[stream.index] > 1, stream == best, ends[stream.index]

    return max(streams, key=rank).index


def _check_stream(stream: Any, source: VideoSource) -> None:
    """Refuse a stream without a decoder and one that declares too large pictures."""
    decoder = stream.codec_context
    if decoder is None:
        raise ValueError(f"{source.name} is in a format for which this FFmpeg has no decoder; convert it to h264.")
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if max(aspect, 1 / aspect) > MAX_PIXEL_ASPECT:
        raise ValueError(
            f"{source.name} declares pixels with the aspect ratio {aspect.numerator}:{aspect.denominator}, allowed is "
            f"up to {MAX_PIXEL_ASPECT}:1 or 1:{MAX_PIXEL_ASPECT}; set the right one with `ffmpeg -aspect`."
        )
    # Wide pixels are made square by widening the picture, so its final width counts.
    if decoder.width * decoder.height * max(aspect, 1) > source.max_pixels:
        raise ValueError(
            f"{source.name} declares pictures of {decoder.width} x {decoder.height} pixels with the aspect ratio "
            f"{float(aspect):g}, more than `max_pixels` = {source.max_pixels:,}; pass a larger `max_pixels` to read it."
        )


def _decoder_options(source: VideoSource) -> dict[str, str]:
    """Limit what a decoder allocates, whatever the container declares; decoders pad pictures, hence the margin."""
    return {"max_pixels": str(source.max_pixels + MAX_MARGIN)}


def _explain(source: VideoSource, error: Any) -> str:
    """End of the message about an `FFmpegError`, which says what the file is if its first bytes show that."""
    head = _read_head(source.target)
    kind = None
    is_text = bool(head) and not head.translate(None, TEXT)
    if is_text:
        kind = next(kind for kind, pattern in TEXT_KINDS.items() if re.search(pattern, head, re.IGNORECASE))
    elif error.errno == errno.EINVAL and STILL_PICTURE.match(head):
        kind = "a still picture"
    if kind is not None:
        return f": it is {kind}; pass the video file itself."
    if error.errno == errno.EINVAL:
        return ": its format is not supported; convert it to one that is, such as mp4, mkv, avi or ts."
    return f" ({error.strerror or type(error).__name__}); is it complete?"


def _read_head(target: str | BinaryIO) -> bytes:
    with suppress(OSError):
        if isinstance(target, str):
            with open(target.removeprefix("file:"), "rb") as file:
                return file.read(HEAD_SIZE)
        target.seek(0)
        return target.read(HEAD_SIZE)
    return b""
