"""What the app keeps for each open page: its video, the encoded video and the last answers."""

import os
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modeling_r2tuning.encoding_r2tuning import EncodedVideo
from modeling_r2tuning.heads_r2tuning import VideoGroundingOutput


if TYPE_CHECKING:
    from r2tuning.library.library import SearchAnswer


MAX_ENCODED_BYTES = 2 * 1024**3  # of all pages together
GRACE_SEC = 600.0


class Abandoned(Exception):
    """Work is no longer wanted: its page was closed, or has got another video."""


@dataclass(frozen=True)
class OpenVideo:
    """A video that was given to a page.

    Attributes:
        path: The file, in the folder of the session.
        name: Its name on the user's machine.
        duration_sec: Its length in seconds.
        thumbnails: Frames in the middle of equal parts of the video, as data addresses.
        played: The file that the browser plays: `path`, or a copy of it in a format that browsers know.
    """

    path: Path
    name: str
    duration_sec: float
    thumbnails: tuple[str, ...]
    played: Path


@dataclass(frozen=True)
class Predictions:
    """What a model said about a video, from which answers are decoded.

    Attributes:
        queries: The sentences.
        outputs: Of `ground`.
    """

    queries: list[str]
    outputs: VideoGroundingOutput


class Session:
    """An open page.

    Attributes:
        folder: For its files; removed when the page is closed.
        video: The video that it shows.
        encoded: That video, once it is encoded and while there is memory for it.
        predictions: About that video.
        found: What the last search of a library found.
        is_closed: Whether the page is closed.
        num_uses: How often it has been used.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.video: OpenVideo | None = None
        self.encoded: EncodedVideo | None = None
        self.predictions: Predictions | None = None
        self.found: list[SearchAnswer] = []
        self.is_closed = False
        self.num_uses = 0

    def make_folder(self) -> Path:
        """A new folder for files of this page.

        Raises:
            Abandoned: The page is closed.
        """
        folder = self.folder / secrets.token_urlsafe(8)
        try:
            folder.mkdir()
        except FileNotFoundError as error:
            raise Abandoned from error
        return folder

    def show(self, video: OpenVideo | None) -> None:
        """Replace the video; what is known of the former one is forgotten."""
        former, self.video = self.video, video
        self.encoded = None
        self.predictions = None
        if former is not None:
            shutil.rmtree(former.path.parent, ignore_errors=True)

    def check_wanted(self, video: OpenVideo) -> None:
        """Stop work on a video that the page no longer shows.

        Raises:
            Abandoned: The page is closed or shows another video.
        """
        if self.is_closed or self.video is not video:
            raise Abandoned


class Sessions:
    """The open pages. Several threads may use one object.

    Args:
        folder: For the files of all pages.
        max_encoded_bytes: Memory for encoded videos. Beyond it, those that were used the longest ago are dropped; they
            are encoded again when they are needed.
        grace_sec: How long a page is kept after its connection has ended: a telephone ends it when it shows something else.
    """

    def __init__(
        self, folder: str | os.PathLike, max_encoded_bytes: int = MAX_ENCODED_BYTES, grace_sec: float = GRACE_SEC
    ):
        self.folder = Path(folder)
        self.max_encoded_bytes = max_encoded_bytes
        self.grace_sec = grace_sec
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
            session.num_uses += 1
            return session

    def leave(self, key: str | None) -> None:
        """Close a page soon, unless it is used again."""
        with self._lock:
            session = self._sessions.get(key or "")
        if session is not None:
            timer = threading.Timer(self.grace_sec, self._close_if_unused, (key, session.num_uses))
            timer.daemon = True
            timer.start()

    def _close_if_unused(self, key: str, num_uses: int) -> None:
        with self._lock:
            session = self._sessions.get(key)
        if session is not None and session.num_uses == num_uses:
            self.close(key)

    def close(self, key: str) -> None:
        """Forget a page and remove its files."""
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.is_closed = True
            session.show(None)
            shutil.rmtree(session.folder, ignore_errors=True)

    def keep(self, session: Session, encoded: EncodedVideo) -> None:
        """Keep an encoded video, and drop others if there are too many."""
        with self._lock:
            session.encoded = encoded
            total = _size(encoded)
            for other in reversed(self._sessions.values()):
                if other is session or other.encoded is None:
                    continue
                total += _size(other.encoded)
                if total > self.max_encoded_bytes:
                    other.encoded = None


def _size(encoded: EncodedVideo) -> int:
    """Memory of an encoded video in bytes."""
    tensors = [*encoded.video_embeds, *(encoded.token_statistics or [])]
    return sum(tensor.nbytes for tensor in tensors)


__all__ = ["Abandoned", "OpenVideo", "Predictions", "Session", "Sessions"]
