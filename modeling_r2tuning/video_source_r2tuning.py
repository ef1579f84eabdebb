"""Opening a video: path, bytes, file object or address to PyAV's container and the stream that holds the film."""

import http.client
import io
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO


__all__ = ["VideoInput", "VideoSource", "import_av", "make_source", "open_stream"]

VideoInput = str | os.PathLike | bytes | BinaryIO

URL_TIMEOUT_SEC = 30.0


@dataclass(frozen=True)
class VideoSource:
    """What PyAV opens, and how to call it in a message."""

    name: str
    target: str | BinaryIO


def make_source(video: VideoInput) -> VideoSource:
    """Check a video as a user names it and say what to open; what is behind an address is fetched.

    Raises:
        FileNotFoundError: The path does not exist.
        ConnectionError: The address cannot be fetched.
        TypeError: `video` is of the wrong kind.
        ValueError: It is empty, or a folder.
    """
    if isinstance(video, str) and video.lower().startswith(("http://", "https://")):
        return _file_source(f"`video` {video!r}", _fetch(video))
    if isinstance(video, str | os.PathLike):
        return _path_source(os.fsdecode(video))
    if isinstance(video, bytes | bytearray | memoryview):
        return _file_source(f"`video` ({len(video)} bytes)", io.BytesIO(video))
    if not hasattr(video, "read"):
        kinds = "a path, bytes, a binary file object or an http(s) address"
        raise TypeError(f"`video` must be {kinds}, got {type(video).__name__}.")
    if isinstance(video.read(0), str):
        raise TypeError("`video` is a text file object; open it in binary mode, with `open(path, 'rb')`.")
    seekable = hasattr(video, "seekable") and video.seekable()
    return _file_source(f"`video` {video!r}", video if seekable else io.BytesIO(video.read()))


def _path_source(path: str) -> VideoSource:
    if not os.path.exists(path):
        raise FileNotFoundError(f"`video` {path!r} does not exist; pass the path of a video file.")
    if os.path.isdir(path):
        raise ValueError(f"`video` {path!r} is a directory; pass the path of a video file.")
    if os.path.getsize(path) == 0:
        raise ValueError(f"`video` {path!r} is empty (0 bytes).")
    return VideoSource(f"`video` {path!r}", f"file:{path}")  # without "file:", FFmpeg takes "a:b.mp4" for a protocol


def _file_source(name: str, file: BinaryIO) -> VideoSource:
    if file.seek(0, os.SEEK_END) == 0:
        raise ValueError(f"{name} is empty (0 bytes).")
    return VideoSource(name, file)


def _fetch(url: str) -> BinaryIO:
    """Copy of what is behind an address, in a temporary file: it is read twice."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller reads it
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SEC) as response:
            shutil.copyfileobj(response, file)
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        file.close()
        raise ConnectionError(f"`video` {url!r} could not be fetched ({error}); check the address.") from error
    return file


def import_av() -> Any:
    """PyAV, which only those who read or cut videos need."""
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading and cutting videos needs PyAV: `pip install av`.") from error
    return av


@contextmanager
def open_stream(source: VideoSource) -> Iterator[tuple]:
    """PyAV, container and first video stream of a source. Errors of FFmpeg while it is open become a ValueError."""
    av = import_av()
    if not isinstance(source.target, str):
        source.target.seek(0)
    # a title that is not UTF-8 must not stop us; PyAV 19 accepts any and has no such argument
    tolerant = {"metadata_errors": "replace"} if hasattr(av.container.Container, "metadata_errors") else {}
    try:
        with av.open(source.target, mode="r", **tolerant) as container:
            yield av, container, _first_video_stream(av, container, source.name)
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{source.name} cannot be read as a video ({reason}); is it complete?") from error


def _first_video_stream(av: Any, container: Any, name: str) -> Any:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise ValueError(f"{name} has no video stream (a cover picture is not one).")
    if streams[0].codec_context is None:
        raise ValueError(f"{name} is in a format for which this build of FFmpeg has no decoder; convert it to h264.")
    return streams[0]
