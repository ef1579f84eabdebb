"""The videos of a user's own table: which file a name stands for, and how long the video really is."""

import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from .containers import VideoSource, open_stream
from .custom_findings import RowError
from .custom_values import is_absolute
from .videos import safe_name, stream_duration, strip_extension, walk_files


__all__ = ["OwnVideos", "VideoLength", "measure_video", "measure_videos"]

NUM_THREADS = 8  # waiting for a disk or a network file system takes longer than reading the headers


class OwnVideos:
    """The videos in a folder and its subfolders.

    Args:
        folder: The folder; `None` = no video is looked for.
        lengths: Lengths in seconds by video id, for videos that are not here, such as those of a feature cache.
    """

    def __init__(self, folder: str | os.PathLike | None, lengths: Mapping[str, float] | None = None):
        self.folder = None if folder is None else os.path.abspath(os.path.expanduser(folder))
        self.lengths = lengths
        self._used: set[str] = set()
        # Relative paths, in composed Unicode as in the table, since macOS stores names in decomposed form.
        self._by_path: dict[str, str] = {}  # the real path
        self._by_name: dict[str, list[str]] = {}  # all relative paths with this file name
        self._by_stem: dict[str, list[str]] = {}  # all with this path without extension
        self._by_name_stem: dict[str, list[str]] = {}  # all with this file name without extension
        if self.folder is not None:
            self._index(self.folder)

    def _index(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"`video_dir` '{folder}' is not a folder.")
        for path in walk_files(folder):
            relative = unicodedata.normalize("NFC", Path(path).relative_to(folder).as_posix())
            name = relative.rpartition("/")[2]
            self._by_path[relative] = path
            self._by_name.setdefault(name, []).append(relative)
            if strip_extension(name) != name:
                self._by_stem.setdefault(strip_extension(relative), []).append(relative)
                self._by_name_stem.setdefault(strip_extension(name), []).append(relative)

    def find(self, name: str) -> str:
        """The file that a cleaned name stands for.

        Args:
            name: A path relative to the folder, or the file's name alone if it lies in a subfolder; the extension may be
                missing or that of another container. An absolute path is taken as it is; if there is no such file, its
                name is looked for in the folder.

        Raises:
            RowError: There is no such file, or there are several.
        """
        path = name if is_absolute(name) and os.path.isfile(name) else self._look_up(name)
        self._used.add(path)
        return path

    def _look_up(self, name: str) -> str:
        if is_absolute(name):
            name = name.rpartition("/")[2]
        if name in self._by_path:
            return self._by_path[name]
        stem = strip_extension(name)
        places = (
            self._by_name.get(name),
            self._by_stem.get(stem),
            self._by_name_stem.get(stem),
            self._by_stem.get(safe_name(stem)),  # the videos of `r2tuning extract --store frames` have escaped names
        )
        candidates = next(filter(None, places), [])
        if not candidates:
            advice = "; names are relative to the folder of the videos" if "/" in name else ""
            raise RowError("missing_video", f"there is no such file{advice}")
        if len(candidates) > 1:
            raise RowError("ambiguous_video", f"it may be {' or '.join(sorted(candidates)[:3])}")
        return self._by_path[candidates[0]]

    def unused(self) -> list[str]:
        """Relative paths of the videos that `find` has not returned."""
        unused = []
        for relative, path in self._by_path.items():
            if path not in self._used and strip_extension(relative) != relative:
                unused.append(relative)
        return sorted(unused)


@dataclass(frozen=True)
class VideoLength:
    """How long a video is.

    Attributes:
        real_sec: Length of what the file holds, in seconds.
        declared_sec: Length in the header; `None` = the header has none for the video stream alone.
        frame_sec: Usual time from one frame to the next.
    """

    real_sec: float
    declared_sec: float | None = None
    frame_sec: float = 0.0


def measure_videos(paths: Iterable[str]) -> dict[str, VideoLength | ValueError]:
    """The length of each file, or the error of `measure_video`; with a progress bar on a terminal."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        results = pool.map(_measure, unique)
        bar = datasets.utils.tqdm(
            results,
            desc="reading lengths",
            total=len(unique),
            unit=" videos",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        return dict(zip(unique, bar, strict=True))


def _measure(path: str) -> VideoLength | ValueError:
    try:
        return measure_video(path)
    except ValueError as error:
        return error


def measure_video(path: str) -> VideoLength:
    """The length of a video.

    The header of a damaged file may declare more than the file holds, so its last packets are read, too. Where the index
    leads to a part that is missing, or where a format has no index, all packets are read. Nothing is decoded.

    Raises:
        ValueError: The file is not a readable video.
    """
    source = VideoSource("it", f"file:{path}")
    with open_stream(source) as (av, container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        start_sec = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
        declared_sec = _declared_length(container, stream)
        end_sec, _ = _read_to_end(av, container, stream, seek_to=start_sec + stream_duration(container, stream))
    if end_sec is None:
        with open_stream(source) as (av, container, stream):
            end_sec, num_packets = _read_to_end(av, container, stream)
        if end_sec is None and rate:  # a raw stream without any times
            end_sec = start_sec + num_packets / rate
    if end_sec is None or end_sec <= start_sec:
        raise ValueError("it holds no picture")
    return VideoLength(end_sec - start_sec, declared_sec, 1 / rate if rate else 0.0)


def _declared_length(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    is_alone = len(container.streams) == 1  # with sound, the container's length may be that of the sound
    return container.duration / 1e6 if container.duration and is_alone else None


def _read_to_end(av: Any, container: Any, stream: Any, seek_to: float | None = None) -> tuple[float | None, int]:
    """End in seconds of the last picture, `None` if none has a time; and the number of packets that were read."""
    end_sec: float | None = None
    num_packets = 0
    # Of a damaged file the packets before the damage count.
    with suppress(av.error.FFmpegError):
        if seek_to is not None:
            container.seek(int(seek_to / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            num_packets += 1
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                packet_end = float((time + (packet.duration or 0)) * stream.time_base)
                end_sec = packet_end if end_sec is None else max(end_sec, packet_end)
    return end_sec, num_packets
