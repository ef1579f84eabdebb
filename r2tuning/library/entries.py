"""Adding a video to a library: the jobs of indexing, and the store that does them."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from dataset_scripts.videos import probe_video, strip_extension, walk_files
from modeling_r2tuning import EncodedVideo, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.decoding_r2tuning import owned_frames
from modeling_r2tuning.windows_r2tuning import plan_windows, window_size
from r2tuning.features.files import replacing
from r2tuning.library.schemas import VideoRecord
from r2tuning.library.settings import LibrarySettings
from r2tuning.library.tables import LibraryTables
from r2tuning.library.vectors import BackboneProjection, frame_vectors


FEATURES = "features"  # folder of the encoded copies
CHUNK_SIZE = 32  # frames encoded at once
ABANDONED_SEC = 3600.0  # a copy is written some seconds before its video is added


@dataclass(frozen=True)
class IndexJob:
    """A video to index.

    Attributes:
        id: Id of its path, see `video_id`.
        source: Absolute path of its file.
        num_frames: Number of frames expected, for the progress bar.
    """

    kind: ClassVar[str] = "videos"
    id: str
    source: str
    num_frames: int


@dataclass(frozen=True)
class FileState:
    """What tells whether a file has changed.

    Attributes:
        size_bytes: Its size.
        modified_ns: When it was last modified.
    """

    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: str) -> "FileState":
        """The state of a file now.

        Raises:
            OSError: There is no such file.
        """
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns)


class IndexStore:
    """Adds videos to a library; its methods are those of `r2tuning.execution.jobs.Store`.

    Args:
        folder: The library.
        settings: Its settings.
        tables: Its tables.
        model: The model.
        processor: Its processor.
        projection: The projections of its backbone, if the vectors are those.
    """

    def __init__(
        self,
        folder: Path,
        settings: LibrarySettings,
        tables: LibraryTables,
        model: R2TuningForVideoGrounding,
        processor: R2TuningProcessor,
        projection: BackboneProjection | None,
    ):
        self.folder = folder
        self.settings = settings
        self.tables = tables
        self.model = model
        self.processor = processor
        self.projection = projection

    def check(self, job: IndexJob) -> str | None:
        """`None` if the video is in the library as it is on the disk; otherwise `"missing"`, or what has changed.

        A file of the recorded size and time is taken for unchanged; otherwise its digest decides, and the new time of a
        file that was only touched is recorded.
        """
        record = self.tables.find(job.id)
        if record is None:
            return "missing"
        if self.settings.keep_features and not copy_path(self.folder, record.entry).is_file():
            return f"the encoded copy of '{job.source}' is missing"
        try:
            state = FileState.of(job.source)
            if state == FileState(record.size_bytes, record.modified_ns):
                return None
            has_changed = file_digest(job.source) != record.digest
        except OSError as error:
            return str(error)
        if has_changed:
            return f"'{job.source}' has changed"
        self.tables.update(replace(record, size_bytes=state.size_bytes, modified_ns=state.modified_ns))
        return None

    def read(self, job: IndexJob) -> Iterator[Any]:
        """Yield state and digest of the file, then the stream of its frames, then its pixels piece by piece."""
        state = FileState.of(job.source)
        yield state, file_digest(job.source)
        stream = self.processor.stream_video(job.source, fps=self.settings.fps, chunk_size=CHUNK_SIZE)
        yield stream
        yield from stream
        if FileState.of(job.source) != state:
            raise ValueError("the file changed while it was read; index it again")

    def write(self, job: IndexJob, items: Iterator[Any]) -> Iterator[int]:
        """Encode the frames, write the encoded copy if it is kept, and add the video; yields numbers of encoded frames.

        Raises:
            OSError: The library cannot be written.
            ValueError: The features are not finite, or exceed half precision.
        """
        state, digest = next(items)
        stream = next(items)
        vectors: list[torch.Tensor] = []  # of each window, or of each piece if they are the backbone's
        windows: list[torch.Tensor] = []
        num_frames = 0
        for start, embeds in self._encode(items, vectors):
            if self.projection is None:
                vectors.append(frame_vectors(embeds))
            if self.settings.keep_features:
                windows.append(to_half(embeds).cpu())
            yield start + embeds.shape[1] - num_frames
            num_frames = start + embeds.shape[1]
        fps = self.settings.fps
        starts, mask = plan_windows(num_frames, window_size(self.settings.window_sec, fps))
        entry = secrets.randbelow(2**63 - 1) + 1
        if self.settings.keep_features:
            windows[-1] = F.pad(windows[-1], (0, 0, 0, 0, 0, mask.shape[1] - windows[-1].shape[1]))
            fingerprint = self.model.get_fingerprint()
            copy = EncodedVideo(windows, mask, starts, fps, stream.duration_sec, fingerprint)
            with replacing(self.folder, copy_path(self.folder, entry)) as partial:
                copy.save(partial)
        record = VideoRecord(
            id=job.id,
            path=job.source,
            digest=digest,
            size_bytes=state.size_bytes,
            modified_ns=state.modified_ns,
            duration_sec=stream.duration_sec,
            fps=fps,
            num_frames=num_frames,
            entry=entry,
            added=datetime.now(UTC),
        )
        if self.projection is None:
            numbers, owned = select_owned(vectors, starts, mask)
        else:
            numbers, owned = owning_windows(starts, mask), torch.cat(vectors)
        replaced = self.tables.find(job.id)
        self.tables.add(record, numbers, owned.to(torch.float16).numpy())
        if replaced is not None:
            copy_path(self.folder, replaced.entry).unlink(missing_ok=True)

    def _encode(
        self, pieces: Iterator[torch.Tensor], vectors: list[torch.Tensor]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Encoded windows of a video; the backbone's vectors of its frames, if they are used, are appended to `vectors`."""
        options: dict[str, Any] = {
            "fps": self.settings.fps,
            "window_sec": self.settings.window_sec,
            "chunk_size": CHUNK_SIZE,
        }
        projection = self.projection
        if projection is None:
            return self.model.stream_encoded_windows(pieces, **options)

        def states() -> Iterator[torch.Tensor]:
            for piece in pieces:
                found = self.model.get_video_hidden_states(piece[None].to(self.model.device), CHUNK_SIZE)[0]
                vectors.append(projection.frames(found[:, -1, 0]))
                yield found

        return self.model.stream_encoded_windows(video_hidden_states=states(), **options)


def owning_windows(starts: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """The window that each frame of a video belongs to; overlapping windows meet in the middle.

    Args:
        starts: `(num_windows,)`, first frame of each window.
        mask: `(num_windows, window_frames)`, `True` = real.

    Returns:
        `(num_frames,)`, int32.
    """
    first, end = owned_frames(mask, starts).unbind(1)
    return np.repeat(np.arange(len(starts), dtype=np.int32), (end - first).numpy())


def select_owned(
    vectors: list[torch.Tensor], starts: torch.Tensor, mask: torch.Tensor
) -> tuple[np.ndarray, torch.Tensor]:
    """The window that each frame of a video belongs to, and the frame's vector there.

    Args:
        vectors: For each window, those of its frames.
        starts: As for `owning_windows`.
        mask: Likewise.

    Returns:
        Windows `(num_frames,)`, int32, and vectors `(num_frames, dim)`.
    """
    owned = []
    for index, (first, end) in enumerate(owned_frames(mask, starts).tolist()):
        owned.append(vectors[index][first:end])
    return owning_windows(starts, mask), torch.cat(owned)


def to_half(embeds: torch.Tensor) -> torch.Tensor:
    """Features in half precision.

    Raises:
        ValueError: They are too large for it, or not finite.
    """
    half = embeds.to(torch.float16)
    if not half.isfinite().all():
        raise ValueError("its features are too large for half precision, or not finite")
    return half


# ---- files ---------------------------------------------------------------------------------------------------------


def find_videos(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Absolute paths of video files: of files that are named, and of those in folders that are named.

    In folders, files with the extensions of videos are taken.

    Raises:
        FileNotFoundError: Something named does not exist.
    """
    found: dict[str, None] = {}
    for path in map(os.path.abspath, paths):
        if os.path.isfile(path):
            found[path] = None
        elif os.path.isdir(path):
            found |= dict.fromkeys(sorted(file for file in walk_files(path) if strip_extension(file) != file))
        else:
            raise FileNotFoundError(f"There is no file or folder '{path}'.")
    return list(found)


def expect_frames(path: str, fps: float) -> int:
    """Number of frames that will be sampled, by the video's header; 1 if that cannot be read."""
    with suppress(ValueError, OSError):  # indexing will say why
        return max(round(probe_video(path).duration_sec * fps), 1)
    return 1


def video_id(path: str) -> str:
    """A stable id of a video in a library, from its absolute path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def file_digest(path: str) -> str:
    """Digest of a file's contents.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_abandoned_copies(folder: Path, records: Iterable[VideoRecord]) -> None:
    """Remove encoded copies that belong to no video, because a process was killed before it had added its video."""
    known = {copy_path(folder, record.entry) for record in records}
    for path in (folder / FEATURES).iterdir():
        if path not in known and time.time() - path.stat().st_mtime > ABANDONED_SEC:
            path.unlink(missing_ok=True)


def copy_path(folder: Path, entry: int) -> Path:
    """File of the encoded copy of an entry."""
    return folder / FEATURES / f"{entry:016x}.safetensors"


__all__ = [
    "FileState",
    "IndexJob",
    "IndexStore",
    "copy_path",
    "expect_frames",
    "file_digest",
    "find_videos",
    "remove_abandoned_copies",
    "video_id",
]
