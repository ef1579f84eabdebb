"""Write moments as video files of their own."""

import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from modeling_r2tuning.video_io_r2tuning import ScannedVideo, copy_clip, copy_ending, cut_clip, scan_video
from modeling_r2tuning.video_source_r2tuning import LocalCopy, file_stem


logger = logging.getLogger(__name__)

MAX_SCANNED_VIDEOS = 16  # whose timestamps are kept: some megabytes an hour
MAX_NAME_BYTES = 255
MAX_STEM_BYTES = 150  # of each of several videos, so that no name is shortened further
FORBIDDEN = re.compile(r'[<>:"/|?*]')  # in names on Windows, besides what `file_stem` replaces


class Cut(NamedTuple):
    """A part of a video to be written as a file.

    Attributes:
        video: The video.
        query: Number of the query, from 1.
        rank: Rank of the moment, from 1.
        start: In seconds.
        end: In seconds.
        stem: What the file's name says of the video, see `distinct_stems`.
    """

    video: str | LocalCopy
    query: int
    rank: int
    start: float
    end: float
    stem: str


def list_cuts(
    answers: list[dict[str, Any]], video: str | LocalCopy, duration_sec: float, top: int, stem: str | None = None
) -> list[Cut]:
    """The best moments of the pipeline's answers about a video.

    Args:
        answers: One for each query.
        video: The video.
        duration_sec: Its length.
        top: Largest number of moments of each query.
        stem: What the names say of the video; by default its own name.
    """
    stem = safe_stem(video) if stem is None else stem
    cuts = []
    for query, answer in enumerate(answers, 1):
        for rank, moment in enumerate(answer["moments"][:top], 1):
            cuts.append(Cut(video, query, rank, moment["start"], min(moment["end"], duration_sec), stem))
    return cuts


def write_clips(
    cuts: list[Cut],
    folder: Path,
    *,
    copy: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_error: Callable[[Cut, OSError | ValueError], None] | None = None,
) -> list[Path]:
    """Write parts of videos as files, named so that they sort by query and rank.

    Args:
        cuts: The parts; those that are empty are skipped with a warning.
        folder: Folder for the files.
        copy: Whether they are copied between key pictures instead of encoded; each miss is logged.
        progress: Called with the number of parts done and their total number.
        on_error: Called with a part that cannot be cut, and the reason; the other parts are cut all the same. By default
            the error is raised.

    Returns:
        The files.

    Raises:
        OSError: A file cannot be written, without `on_error`.
        ValueError: A video cannot be read or copied, without `on_error`.
    """
    largest = max((max(cut.query, cut.rank) for cut in cuts), default=1)
    digits = max(2, len(str(largest)))
    scan = functools.lru_cache(MAX_SCANNED_VIDEOS)(scan_video)  # the parts of a video need not follow each other
    paths = []
    for count, cut in enumerate(cuts, 1):
        if cut.start < cut.end:
            beginning = f"query{cut.query:0{digits}}_moment{cut.rank:0{digits}}_"
            try:
                paths.append(_write_clip(cut, scan(cut.video), folder, beginning, copy=copy))
            except (OSError, ValueError) as error:
                if on_error is None:
                    raise
                on_error(cut, error)
        else:
            logger.warning("moment %d of query %d is empty and was not cut", cut.rank, cut.query)
        if progress is not None:
            progress(count, len(cuts))
    return paths


def _write_clip(cut: Cut, video: ScannedVideo, folder: Path, beginning: str, *, copy: bool) -> Path:
    ending = f"_{cut.start:.1f}-{cut.end:.1f}s"
    if not copy:
        path = folder / _clip_name(beginning, cut.stem, f"{ending}.mp4")
        cut_clip(video, path, cut.start, cut.end)
        return path
    path = folder / _clip_name(beginning, cut.stem, ending + copy_ending(video))
    part = copy_clip(video, path, cut.start, cut.end)
    logger.info(
        "%s starts %+.2f s and ends %+.2f s from the moment",
        path.name,
        part.start_sec - cut.start,
        part.end_sec - cut.end,
    )
    return path


def safe_stem(video: str | LocalCopy) -> str:
    """The name of a video without its ending and without the characters that some file system refuses."""
    return FORBIDDEN.sub("_", file_stem(video))


def distinct_stems(videos: list[str]) -> dict[str, str]:
    """A different stem for each video, also where file systems ignore case; numbered where names are equal."""
    stems: dict[str, str] = {}
    used: set[str] = set()
    for video in videos:
        base = safe_stem(video)
        if len(videos) > 1:
            base = _shorten(base, MAX_STEM_BYTES)
        stem, number = base, 2
        while stem.casefold() in used:
            stem = f"{base}-{number}"
            number += 1
        used.add(stem.casefold())
        stems[video] = stem
    return stems


def _clip_name(beginning: str, stem: str, ending: str) -> str:
    """A name that holds the video's, cut to what file systems allow."""
    return beginning + _shorten(stem, MAX_NAME_BYTES - len(beginning) - len(ending)) + ending


def _shorten(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")


__all__ = ["Cut", "distinct_stems", "list_cuts", "safe_stem", "write_clips"]
