"""Write moments as a file of an editor, a player or a spreadsheet; the ending of its name sets the format."""

import os
from collections.abc import Callable
from typing import Any

from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.video_source_r2tuning import LocalCopy
from r2tuning.editors.edit_lists import format_edl, format_otio, import_otio
from r2tuning.editors.final_cut import format_fcpxml, format_final_cut_7
from r2tuning.editors.media import EditedVideo, read_edited_video
from r2tuning.editors.moments import ExportedMoment, list_moments
from r2tuning.editors.text_formats import format_chapters, format_csv, format_llc, format_srt, format_vtt
from r2tuning_cli.defaults import ONE_VIDEO_ENDINGS, export_ending


Writer = Callable[[list[ExportedMoment], list[EditedVideo]], str]

# By the ending of the file.
WRITERS: dict[str, Writer] = {
    ".csv": format_csv,
    ".srt": format_srt,
    ".vtt": format_vtt,
    ".chapters.txt": format_chapters,
    ".llc": format_llc,
    ".otio": format_otio,
    ".edl": format_edl,
    ".fcpxml": format_fcpxml,
    ".xml": format_final_cut_7,
}
ENCODINGS = {".csv": "utf-8-sig"}  # others: UTF-8. Excel reads UTF-8 only with this mark.


def write_export(
    path: str | os.PathLike,
    answers: dict[str, Any] | list[dict[str, Any]],
    video: str | os.PathLike | LocalCopy,
    *,
    top: int = 5,
) -> None:
    """Write the moments of answers about one video.

    Args:
        path: File to write; its ending, one of `WRITERS`, sets the format. An existing file is replaced.
        answers: One answer of the pipeline, or several about the same video.
        video: The video.
        top: Largest number of moments of each query.

    Raises:
        FileNotFoundError: The video does not exist.
        ImportError: The format needs OpenTimelineIO, which is not installed.
        OSError: `path` cannot be written.
        ValueError: The ending of `path` is unknown, or the video cannot be read.
    """
    export_ending(path)
    answers = [answers] if isinstance(answers, dict) else list(answers)
    edited = read_edited_video(video)
    write_moments(path, list_moments(answers, edited, top), [edited])


def write_moments(path: str | os.PathLike, moments: list[ExportedMoment], videos: list[EditedVideo]) -> None:
    """Write moments of one or several videos.

    Args:
        path: File to write; its ending, one of `WRITERS`, sets the format. An existing file is replaced.
        moments: The moments, in the order of a timeline.
        videos: The videos that were searched, at least one. Edit lists name those that have moments.

    Raises:
        ImportError: The format needs OpenTimelineIO, which is not installed.
        OSError: `path` cannot be written.
        ValueError: The ending of `path` is unknown, or its format cannot hold these videos.
    """
    ending = export_ending(path)
    if not videos:
        raise ValueError(f"`export` '{path}' needs at least one video, got none.")
    if len(videos) > 1 and ending in ONE_VIDEO_ENDINGS:
        raise ValueError(f"`export` '{path}' can hold moments of one video, got {len(videos)}; write .csv instead.")
    # A video without moments is no part of the timeline, so its frame rate does not count.
    used = {moment.video for moment in moments}
    named = [video for video in videos if video in used]
    text = WRITERS[ending](moments, named or videos[:1])
    with writing(path) as partial:
        partial.write_text(text, encoding=ENCODINGS.get(ending, "utf-8"))


def check_export(path: str | os.PathLike) -> None:
    """Refuse at the start a format that could not be written at the end.

    Raises:
        ImportError: The format needs OpenTimelineIO, which is not installed.
        ValueError: The ending is unknown.
    """
    if export_ending(path) == ".otio":
        import_otio()


__all__ = ["WRITERS", "check_export", "write_export", "write_moments"]
