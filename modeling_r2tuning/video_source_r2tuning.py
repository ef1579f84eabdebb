"""Turn what a user passes as a video into something that PyAV opens.

A video is a path, bytes, a binary file object, or an http(s) address. Addresses, pipes and other streams can be read
only once, but a video is read several times (its timestamps first), so they are copied to a temporary file.
"""

import base64
import errno
import http.client
import io
import os
import re
import stat
import string
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import PurePath, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit, urlunsplit

from .containers_r2tuning import MAX_PIXELS, VideoSource


__all__ = ["MAX_DOWNLOAD_BYTES", "LocalCopy", "VideoInput", "display_name", "file_stem", "local_copy", "make_source"]

VideoInput = str | os.PathLike | bytes | BinaryIO

MAX_DOWNLOAD_BYTES = 20 * 10**9
TIMEOUT_SEC = 30.0  # for an answer of the server
MIN_BYTES_PER_SEC = (
    1000  # average speed after the first `TIMEOUT_SEC`, so that a server cannot keep us waiting forever
)
MAX_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)  # HTTP status codes
CHUNK_BYTES = 2**20
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # at least two letters, so that "C:" is no scheme
HOST = re.compile(r"(\[[^]]*\]|[^:/?#]+)(:\d*)?([/?#]|$)")
# Values of query parameters that may grant access, such as those of signed addresses.
SECRET = re.compile(
    r"([?&][^=&#]*(?:token|key|sig|pass|pwd|auth|secret|cred|jwt|hash|hmac|md5|policy)[^=&#]*=)[^&#]*", re.IGNORECASE
)


class LocalCopy(io.BufferedRandom):
    """Copy of a video that can be read only once, in a temporary file that is deleted when it is closed.

    Args:
        origin: Where the copy comes from, in a form that may be shown.
    """

    def __init__(self, origin: str):
        super().__init__(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 (closed with this object)
        self.origin = origin

    def __repr__(self) -> str:
        return repr(self.origin)


def make_source(video: VideoInput, max_pixels: int = MAX_PIXELS) -> VideoSource:
    """Check a video and return what PyAV opens; a video that can be read only once is copied.

    Raises:
        FileNotFoundError: The path does not exist.
        ConnectionError: The address cannot be fetched.
        TypeError: `video` is of the wrong kind.
        ValueError: The video is empty, too large, a folder or a device.
    """
    video = _copy_if_needed(video, MAX_DOWNLOAD_BYTES, None)
    name = f"`video` {video!r}"
    target: str | BinaryIO
    if isinstance(video, str | os.PathLike):
        path = os.fsdecode(video)
        name, size = f"`video` {path!r}", os.path.getsize(path)
        target = f"file:{path}"  # without "file:", FFmpeg would take the "a" of "a:b.mp4" for a protocol
    elif isinstance(video, bytes | bytearray | memoryview):
        name, size, target = f"`video` ({len(video)} bytes)", len(video), io.BytesIO(video)
    else:
        size, target = video.seek(0, os.SEEK_END), video
    if size == 0:
        raise ValueError(f"{name} is empty (0 bytes).")
    return VideoSource(name, target, max_pixels)


def local_copy(
    video: VideoInput,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> AbstractContextManager[VideoInput]:
    """Make a video readable several times, for as long as the `with` block lasts.

    ```python
    with local_copy("https://example.org/talk.mp4", max_bytes=10**9) as video:
        frames = load_video_frames(video, fps=1)
    ```

    Args:
        video: Path, bytes, binary file object or http(s) address.
        max_bytes: Largest size of a copy.
        progress: Called with the number of bytes copied so far and the total number, 0 if that is unknown.

    Returns:
        Context manager that yields `video` itself or, for an address, a pipe or another stream, a copy.

    Raises:
        FileNotFoundError: The path does not exist.
        ConnectionError: The address cannot be fetched.
        TypeError: `video` is of the wrong kind.
        ValueError: The video has more than `max_bytes`, or is a folder or a device.
    """
    copied = _copy_if_needed(video, max_bytes, progress)
    if isinstance(copied, LocalCopy) and copied is not video:
        return copied
    return nullcontext(copied)


def display_name(video: str | os.PathLike | LocalCopy) -> str:
    """Return the name of a video for display: without the passwords and keys of an address, and valid Unicode."""
    name = video.origin if isinstance(video, LocalCopy) else str(video)
    if ADDRESS.match(name):
        scheme, _, rest = name.partition("://")
        rest = re.sub(r"^[^/?#]*@", "", rest)
        if not HOST.match(rest):
            rest = rest.rpartition("@")[2]  # a password that is not quoted may contain a slash
        name = SECRET.sub(r"\1...", f"{scheme}://{rest}")
    return re.sub("[\ud800-\udfff]", "\ufffd", name)  # surrogates stand for bytes of a name that is not UTF-8


def file_stem(video: str | os.PathLike | LocalCopy) -> str:
    """Return the start of the names of files that are derived from a video."""
    name = display_name(video)
    if ADDRESS.match(name):
        name = PurePosixPath(unquote(re.split("[?#]", name)[0])).name
    return re.sub(r"[\x00-\x1f\x7f\\]", "_", PurePath(name).stem) or "video"


def _copy_if_needed(
    video: VideoInput, max_bytes: int, progress: Callable[[int, int], None] | None
) -> VideoInput | LocalCopy:
    """Check a video; return it, or a copy if it can be read only once."""
    if isinstance(video, str) and ADDRESS.match(video) and not os.path.exists(video):
        return _write_copy(_fetch(video), display_name(video), max_bytes, progress)
    if isinstance(video, str | os.PathLike):
        path = os.fsdecode(video)
        if not _is_pipe(path):
            return video
        with open(path, "rb", buffering=0) as pipe:
            return _write_copy(_read_all(pipe), path, max_bytes, progress)
    if isinstance(video, bytes | bytearray | memoryview):
        return video
    if not hasattr(video, "read"):
        kinds = "a path, bytes, a binary file object or an http(s) address"
        raise TypeError(f"`video` must be {kinds}, got {type(video).__name__}.")
    if isinstance(video.read(0), str):
        raise TypeError("`video` is a text file object; open it in binary mode, with `open(path, 'rb')`.")
    if hasattr(video, "seekable") and video.seekable():
        return video
    return _write_copy(_read_all(video), repr(video), max_bytes, progress)


def _is_pipe(path: str) -> bool:
    """Return whether a path is a pipe rather than a file; refuse everything else."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"`video` {path!r} does not exist; pass the path of a video file.")
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        kind = "directory" if stat.S_ISDIR(mode) else "device"
        raise ValueError(f"`video` {path!r} is a {kind}; pass the path of a video file.")
    return stat.S_ISFIFO(mode)


def _read_all(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk, 0


def _write_copy(
    chunks: Iterator[tuple[bytes, int]],
    origin: str,
    max_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> LocalCopy:
    """Copy a stream to a temporary file.

    Args:
        chunks: Pieces of the stream, each with the size of the whole, 0 if that is unknown.
        origin: Where the stream comes from.
        max_bytes: Largest size.
        progress: As for `local_copy`.
    """
    copy = LocalCopy(origin)
    try:
        done = 0
        for chunk, total in chunks:
            done += len(chunk)
            if max(done, total) > max_bytes:
                limit = "raise the limit (`--max-download` of the command, `max_bytes` of `local_copy`)"
                raise ValueError(f"`video` {copy!r} has more than {max_bytes:,} bytes; {limit} to read it.")
            copy.write(chunk)
            if progress is not None:
                progress(done, total)
        copy.seek(0)
    except BaseException as error:  # an interrupt too must not leave the temporary file open
        with suppress(OSError):
            copy.close()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
        raise
    return copy


def _fetch(address: str) -> Iterator[tuple[bytes, int]]:
    """Download an address piece by piece, each with the size of the whole, 0 if that is unknown."""
    try:
        with _request(address) as response:
            total, received, start = response.length or 0, 0, time.monotonic()
            while chunk := response.read1(CHUNK_BYTES):
                yield chunk, total
                received += len(chunk)
                if received < MIN_BYTES_PER_SEC * (time.monotonic() - start - TIMEOUT_SEC):
                    raise TimeoutError(f"fewer than {MIN_BYTES_PER_SEC:,} bytes a second")
            if received < total:
                raise ConnectionError(f"the connection broke after {received:,} of {total:,} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = _reason(error)
        raise ConnectionError(
            f"`video` {display_name(address)!r} could not be fetched ({reason}); check the address."
        ) from error


def _request(address: str) -> Any:
    """Request an address and return the open response.

    Redirects are followed only to http and https, and a password is sent only to the server that it was given for.
    """
    # Not `build_opener`: its handlers also open file:, ftp: and data: addresses.
    opener = urllib.request.OpenerDirector()
    for handler in ("ProxyHandler", "HTTPHandler", "HTTPSHandler", "HTTPErrorProcessor", "HTTPDefaultErrorHandler"):
        opener.add_handler(getattr(urllib.request, handler)())
    for _ in range(MAX_REDIRECTS):
        try:
            return opener.open(_make_request(address), timeout=TIMEOUT_SEC)
        except HTTPError as error:
            location = error.headers.get("Location")
            if error.code not in REDIRECTS or location is None:
                raise
            error.close()
            old = urlsplit(address)
            new = urlsplit(urljoin(address, quote(location, string.punctuation, "latin-1")))
            if (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port):
                new = new._replace(netloc=old.netloc)  # which may hold a user name and password
            address = urlunsplit(new)
    raise ConnectionError(f"more than {MAX_REDIRECTS} redirects")


def _make_request(address: str) -> urllib.request.Request:
    """Make the request for an address: quote what an address may not contain, move the password to a header."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        raise ConnectionError(f"only http and https are supported, not {parts.scheme}")
    host = (parts.hostname or "").encode("idna").decode()
    if ":" in host:  # IPv6
        host = f"[{host}]"
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    path = quote(parts.path, string.punctuation, errors="surrogateescape")
    query = quote(parts.query, string.punctuation, errors="surrogateescape")
    url = urlunsplit((parts.scheme, netloc, path, query, ""))
    request = urllib.request.Request(url, headers={"User-Agent": "r2tuning"})  # some servers refuse Python's own
    if parts.username is not None:
        login = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
        request.add_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
    return request


def _reason(error: Exception) -> str:
    """Describe an error without any part of the address and without any text that a server chose."""
    if isinstance(error, HTTPError):
        return f"HTTP Error {error.code}: {http.client.responses.get(error.code, 'unknown')}"
    if isinstance(error, http.client.HTTPException):
        return f"invalid answer: {type(error).__name__}"
    if isinstance(error, ValueError):
        return "the address is not valid"
    cause = error.reason if isinstance(error, URLError) else error
    return str(cause) or type(error).__name__
