"""The videos of a user's own table: which file a name stands for, and how long the video really is."""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets

from .containers import VideoSource, open_stream
from .custom_findings import RowError
from .custom_values import is_absolute
from .videos import CONTAINERS, stream_duration


__all__ = ["END_TOLERANCE_SEC", "OwnVideos", "measure_video"]

END_TOLERANCE_SEC = 1.0  # annotated times are often rounded to seconds, and headers are not exact
NUM_THREADS = 8  # waiting for a disk or a network file system takes longer than reading the headers


class OwnVideos:
    """The videos in a folder and its subfolders.

    Args:
        folder: The folder; `None` = no video is looked for.
        lengths: Lengths in seconds by video id, for videos that are not here, such as those of a feature cache.
    """

    def __init__(self, folder: str | os.PathLike | None, lengths: Mapping[str, float] | None = None):
        self.folder = None if folder is None else os.path.abspath(folder)
        self.lengths = lengths
        # Both in composed Unicode, as macOS stores names in decomposed form.
        self._by_path: dict[str, str] = {}  # by path relative to the folder
        self._by_stem: dict[str, list[str]] = {}  # relative paths, by path without extension and by name alone
        if self.folder is not None:
            self._index(self.folder)

    def _index(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"`video_dir` '{folder}' is not a folder.")
        visited = set()
        for root, folders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(root)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            for file in files:
                path = os.path.join(root, file)
                relative = unicodedata.normalize("NFC", Path(path).relative_to(folder).as_posix())
                self._by_path[relative] = path
                stem, _, extension = relative.rpartition(".")
                if stem and extension.lower() in CONTAINERS:
                    for key in {stem, stem.rpartition("/")[2]}:
                        self._by_stem.setdefault(key, []).append(relative)

    def find(self, name: str) -> str:
        """The file that a cleaned name stands for.

        Args:
            name: A path relative to the folder, or the file's name alone if it lies in a subfolder; the extension may be
                missing or that of another container. An absolute path is taken as it is; if there is no such file, its
                name is looked for in the folder.

        Raises:
            RowError: There is no such file, or there are several.
        """
        if is_absolute(name):
            if os.path.isfile(name):
                return name
            name = name.rpartition("/")[2]
        if name in self._by_path:
            return self._by_path[name]
        in_subfolders = [path for path in self._by_path if path.endswith(f"/{name}")]
        stem, _, extension = name.rpartition(".")
        if not (stem and extension.lower() in CONTAINERS):
            stem = name
        candidates = in_subfolders or self._by_stem.get(name) or self._by_stem.get(stem) or []
        if not candidates:
            raise RowError("missing_video", "there is no such file")
        if len(candidates) > 1:
            raise RowError("ambiguous_video", f"the name stands for {', '.join(sorted(candidates)[:3])}")
        return self._by_path[candidates[0]]

    def unused(self, used: Iterable[str]) -> list[str]:
        """Relative paths of the videos that are not among the paths `used`."""
        paths = set(used)
        videos = {relative for candidates in self._by_stem.values() for relative in candidates}
        return sorted(relative for relative in videos if self._by_path[relative] not in paths)


def measure_videos(paths: Iterable[str]) -> dict[str, tuple[float, float] | ValueError]:
    """What `measure_video` gives for each file, or its error; with a progress bar on a terminal."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        results = pool.map(_measure, unique)
        bar = datasets.utils.tqdm(
            results, desc="reading lengths", total=len(unique), unit=" videos", leave=False, disable=None
        )
        return dict(zip(unique, bar, strict=True))


def _measure(path: str) -> tuple[float, float] | ValueError:
    try:
        return measure_video(path)
    except ValueError as error:
        return error


def measure_video(path: str) -> tuple[float, float]:
    """The real length of a video in seconds, and the one in its header.

    The header of a damaged file may declare more than the file holds, so the packets at the declared end are read, too.

    Raises:
        ValueError: The file is not a readable video.
    """
    with open_stream(VideoSource("it", f"file:{path}")) as (av, container, stream):
        declared = stream_duration(container, stream)
        start = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
        try:
            container.seek(int((start + declared) / stream.time_base), stream=stream)
            end = _last_end(av, container, stream)
        except av.error.FFmpegError:
            end = None
    if end is None:
        # The index leads to a part that is missing, or the format has none: read all there is.
        with open_stream(VideoSource("it", f"file:{path}")) as (av, container, stream):
            end = _last_end(av, container, stream)
    if end is None or end <= start:
        raise ValueError("it holds no picture with a time")
    return end - start, declared


def _last_end(av: Any, container: Any, stream: Any) -> float | None:
    """End in seconds of the last picture from the current place on; `None` if there is no picture."""
    end = None
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.size and not packet.is_discard:
                packet_end = float((packet.pts + (packet.duration or 0)) * stream.time_base)
                end = packet_end if end is None else max(end, packet_end)
    except av.error.FFmpegError:
        pass  # the packets up to a damaged one count
    return end
