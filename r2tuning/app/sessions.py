"""What the app keeps for each open page: its video, the encoded video and the last answers."""

import os
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modeling_r2tuning.encoding_r2tuning import EncodedVideo
from modeling_r2tuning.heads_r2tuning import VideoGroundingOutput


if TYPE_CHECKING:
    from r2tuning.library.library import SearchAnswer


MAX_ENCODED_BYTES = 2 * 1024**3  # of all pages together
GRACE_SEC = 600.0
MAX_IDLE_SEC = 24 * 3600.0


class Abandoned(Exception):
    """Work is no longer wanted: its page was closed, or has got another video."""


@dataclass(frozen=True)
class Predictions:
    """What a model said about a video, from which answers are decoded.

    Attributes:
        queries: The sentences.
        outputs: Of `ground`.
    """

    queries: list[str]
    outputs: VideoGroundingOutput


@dataclass(eq=False)
class OpenVideo:
    """A video that was given to a page.

    Attributes:
        path: The file, in a folder of its own.
        name: Its name on the user's machine.
        duration_sec: Its length in seconds.
        thumbnails: Frames in the middle of equal parts of the video, as data addresses.
        played: The file that the browser plays: `path`, or a copy of it in a format that browsers know.
        encoded: The encoded video, once there is one and while there is memory for it.
        predictions: For the queries that were asked last.
    """

    path: Path
    name: str
    duration_sec: float
    thumbnails: tuple[str, ...]
    played: Path
    encoded: EncodedVideo | None = None
    predictions: Predictions | None = None


class Session:
    """An open page.

    Attributes:
        folder: For its files; removed when the page is closed.
        video: The video that it shows.
        found: What the last search of a library found.
        is_closed: Whether the page is closed.
        is_away: Whether the connection to the page has ended and the page has not been used since.
        was_away: Whether it has ever ended: browsers do not open it again, so its end cannot be seen any more.
        used_at: Time of the last use, of `time.monotonic`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.video: OpenVideo | None = None
        self.found: list[SearchAnswer] = []
        self.is_closed = self.is_away = self.was_away = False
        self.used_at = time.monotonic()
        self._latest = object()  # the latest attempt to show a video, or none
        self._lock = threading.Lock()

    def make_folder(self, name: str | None = None) -> Path:
        """A new folder for files of this page.

        Args:
            name: Its name; a folder of this name is emptied. Default: one that is not taken.

        Raises:
            Abandoned: The page is closed.
        """
        folder = self.folder / (secrets.token_urlsafe(8) if name is None else name)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()
        except FileNotFoundError as error:
            raise Abandoned from error
        return folder

    def begin(self) -> object:
        """Begin to show another video; what `show` is called with later."""
        self._latest = attempt = object()
        return attempt

    def show(self, attempt: object, video: OpenVideo | None) -> None:
        """Replace the video.

        Args:
            attempt: From `begin`.
            video: The video; `None` = none.

        Raises:
            Abandoned: The page is closed, or another attempt was begun later.
        """
        with self._lock:
            if self.is_closed or attempt is not self._latest:
                raise Abandoned
            former, self.video = self.video, video
        if former is not None:
            shutil.rmtree(former.path.parent, ignore_errors=True)

    def check_wanted(self, video: OpenVideo | None = None) -> None:
        """Stop work that nobody waits for.

        Args:
            video: The video that the work is about.

        Raises:
            Abandoned: The page is closed or away, or shows another video.
        """
        if self.is_closed or self.is_away or (video is not None and self.video is not video):
            raise Abandoned

    def close(self) -> None:
        """Remove the files; what still runs for the page is abandoned."""
        with self._lock:
            self.is_closed = True
            self.video = None
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """The open pages. Several threads may use one object.

    Args:
        folder: For the files of all pages.
        max_encoded_bytes: Memory for encoded videos. Beyond it, those that were used the longest ago are dropped; they
            are encoded again when they are needed.
        grace_sec: How long a page is kept after its connection has ended: a telephone ends it when it shows something else.
        max_idle_sec: How long a page is kept that is not used.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        max_encoded_bytes: int = MAX_ENCODED_BYTES,
        grace_sec: float = GRACE_SEC,
        max_idle_sec: float = MAX_IDLE_SEC,
    ):
        self.folder = Path(folder)
        self.max_encoded_bytes = max_encoded_bytes
        self.grace_sec = grace_sec
        self.max_idle_sec = max_idle_sec
        self._sessions: dict[str, Session] = {}  # the one used last comes last
        self._lock = threading.Lock()

    def get(self, key: str | None) -> Session:
        """The session of a page; a new one if there is none.

        Raises:
            ValueError: `key` is `None`, as for a call that comes from no page.
        """
        if key is None:
            raise ValueError("Open the page to use it.")
        with self._lock:
            session = self._sessions.pop(key, None)
            if session is None:
                folder = self.folder / secrets.token_urlsafe(16)  # not to be guessed by another page
                folder.mkdir()
                session = Session(folder)
            self._sessions[key] = session
            session.used_at = time.monotonic()
            session.is_away = False
            return session

    def leave(self, key: str | None) -> None:
        """Note that the connection to a page has ended."""
        with self._lock:
            session = self._sessions.get(key or "")
            if session is not None:
                session.is_away = session.was_away = True
                session.used_at = time.monotonic()

    def close_unused(self) -> None:
        """Close the pages that have not been used for too long; to be called now and then."""
        now = time.monotonic()
        with self._lock:
            unused = []
            for key, session in self._sessions.items():
                limit = self.grace_sec if session.was_away else self.max_idle_sec
                if now - session.used_at >= limit:
                    unused.append(key)
        for key in unused:
            self.close(key)

    def close(self, key: str) -> None:
        """Forget a page and remove its files."""
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def keep(self, video: OpenVideo, encoded: EncodedVideo) -> None:
        """Keep an encoded video, and drop others if there are too many."""
        with self._lock:
            video.encoded = encoded
            total = _size(encoded)
            for session in reversed(self._sessions.values()):
                other = session.video
                if other is None or other is video or other.encoded is None:
                    continue
                total += _size(other.encoded)
                if total > self.max_encoded_bytes:
                    other.encoded = None


def _size(encoded: EncodedVideo) -> int:
    """Memory of an encoded video in bytes."""
    tensors = [*encoded.video_embeds, *(encoded.token_statistics or [])]
    return sum(tensor.nbytes for tensor in tensors)


__all__ = ["Abandoned", "OpenVideo", "Predictions", "Session", "Sessions"]
