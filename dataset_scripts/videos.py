"""Finding the video file of an id, and reading a video's length without decoding it."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .containers import VideoSource, open_stream
from .reading import AnnotationError


__all__ = ["CONTAINERS", "VideoFacts", "VideoFolder", "index_videos", "probe_video", "strip_extension"]

# Where an id has several files, the container that comes first here is used.
CONTAINERS = ("mp4", "mkv", "webm", "avi", "mov", "m4v", "flv", "wmv", "mpg", "mpeg", "ts", "3gp")
NUM_EXAMPLES = 3  # missing videos that the error names


@dataclass(frozen=True)
class VideoFacts:
    """Length and frame rate of a video file.

    Attributes:
        duration_sec: Length of the video stream.
        fps: Mean number of frames per second.
        num_frames: Number of frames.
    """

    duration_sec: float
    fps: float
    num_frames: int


def index_videos(folder: str | os.PathLike) -> dict[str, str]:
    """Paths of all videos in a folder and its subfolders, by file name without extension.

    Of two files with the same name, the container earlier in `CONTAINERS` is taken, then the path with fewer folders,
    then the first in alphabetical order. Extensions may be in capitals. Links to folders are followed, and each folder
    is visited once.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"`video_dir` '{folder}' is not a folder.")
    found, visited = [], set()
    for root, folders, files in os.walk(os.fspath(folder), followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for file in files:
            stem, _, extension = file.rpartition(".")
            if stem and extension.lower() in CONTAINERS:
                path = os.path.join(root, file)
                found.append((CONTAINERS.index(extension.lower()), path.count(os.sep), path, stem))
    index: dict[str, str] = {}
    for _, _, path, stem in sorted(found):
        index.setdefault(stem, path)
    return index


def strip_extension(name: str) -> str:
    """The name of a video file without its extension; a name with any other ending stays as it is."""
    stem, _, extension = name.rpartition(".")
    return stem if stem and extension.lower() in CONTAINERS else name


class VideoFolder:
    """The videos of one benchmark.

    Args:
        folder: Folder of the videos; `None` = no video is looked for.
        suffix: Part of a file name between the id and the extension; a file without it is found too.
    """

    def __init__(self, folder: str | os.PathLike | None, suffix: str = ""):
        self.folder = None if folder is None else os.path.abspath(folder)
        self.suffix = suffix
        self.missing: Counter[str] = Counter()  # number of examples for each video id without a file
        self._index: dict[str, str] | None = None
        self._facts: dict[str, VideoFacts] = {}

    def find(self, video_id: str) -> str | None:
        """Absolute path of a video; `None` without a folder, or if the file is missing, which is counted."""
        if self.folder is None:
            return None
        if self._index is None:
            self._index = index_videos(self.folder)
        path = self._index.get(f"{video_id}{self.suffix}") or self._index.get(video_id)
        if path is None:
            self.missing[video_id] += 1
        return path

    def facts(self, video_id: str) -> VideoFacts | None:
        """Length and frame rate of a video, read once; `None` as for `find`."""
        path = self.find(video_id)
        if path is None:
            return None
        if path not in self._facts:
            self._facts[path] = probe_video(path)
        return self._facts[path]

    def missing_error(self) -> FileNotFoundError:
        """An error that says how many videos are missing, and names some."""
        examples = ", ".join(f"'{video_id}{self.suffix}'" for video_id in list(self.missing)[:NUM_EXAMPLES])
        return FileNotFoundError(
            f"{len(self.missing):,} annotated videos have no file in '{self.folder}', such as {examples}; looked for "
            f'{", ".join(CONTAINERS)}. Add them, or pass `missing_videos="skip"` to leave their examples out.'
        )


def probe_video(path: str) -> VideoFacts:
    """Length, frame rate and number of frames of a video, from its headers, or else from its timestamps."""
    if not os.path.isfile(path):
        raise AnnotationError(f"{path}: found no file, expected a video")
    try:
        with open_stream(VideoSource("a file that", f"file:{path}")) as (_, container, stream):
            duration = _stream_duration(container, stream)
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            num_frames = stream.frames or round(duration * fps)
    except ValueError as error:
        raise AnnotationError(f"{path}: found {error}") from error
    if not (duration > 0 and fps > 0):
        raise AnnotationError(f"{path}: found {duration} s at {fps} frames per second, expected more than 0 of both")
    return VideoFacts(duration, fps, num_frames)


def _stream_duration(container: Any, stream: Any) -> float:
    """The stream's own length, or the container's, or the time from the first to the last packet."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / 1e6  # the container counts in microseconds
    starts, ends = [], []
    for packet in container.demux(stream):
        if packet.pts is not None:
            starts.append(packet.pts)
            ends.append(packet.pts + (packet.duration or 0))
    return float((max(ends, default=0) - min(starts, default=0)) * stream.time_base)
