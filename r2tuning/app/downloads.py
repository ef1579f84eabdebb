"""Answers as files to download."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from r2tuning.app.sessions import OpenVideo
from r2tuning.editors.clips import Cut, list_cuts, safe_stem, write_clips
from r2tuning.editors.document import make_document, save_document
from r2tuning.editors.export import write_moments
from r2tuning.editors.media import read_edited_video
from r2tuning.editors.moments import list_moments
from r2tuning.visualization.timeline import plot_grounding
from r2tuning_cli.defaults import EXPORT_ENDINGS, ONE_VIDEO_ENDINGS


Clock = Callable[[int, int], None]  # takes the number of parts that are done and their total number

MAX_STEM_BYTES = 200  # so that an ending fits
CLIPS, JSON, PICTURE = "clips (.zip)", ".json", ".png"
EDIT_LISTS = {
    ".csv": "spreadsheet",
    ".srt": "subtitles",
    ".vtt": "subtitles of web pages",
    ".chapters.txt": "YouTube chapters",
    ".llc": "LosslessCut",
    ".otio": "OpenTimelineIO",
    ".edl": "CMX 3600: Resolve, Avid",
    ".fcpxml": "Final Cut Pro, Resolve",
    ".xml": "Final Cut Pro 7, Premiere",
}


def list_formats(*, is_one_video: bool) -> list[tuple[str, str]]:
    """What can be downloaded, as labels and names."""
    formats = [("clips of the moments (.zip)", CLIPS), ("everything as JSON (.json)", JSON)]
    if is_one_video:
        formats.append(("picture of the timeline (.png)", PICTURE))
    for ending in EXPORT_ENDINGS:
        if is_one_video or ending not in ONE_VIDEO_ENDINGS:
            formats.append((f"{EDIT_LISTS[ending]} ({ending})", ending))
    return formats


def write_answers(
    kind: str,
    folder: Path,
    answers: list[dict[str, Any]],
    video: OpenVideo,
    *,
    num_moments: int,
    fps: float,
    model: str,
    progress: Clock,
) -> Path:
    """Write the answers about the video of a page.

    Args:
        kind: One of `list_formats`.
        folder: Folder for the file.
        answers: One for each query.
        video: The video.
        num_moments: Largest number of moments of each query.
        fps: Frames sampled per second.
        model: Name of the checkpoint.
        progress: Told how many clips are cut.

    Raises:
        ImportError: The format needs a package that is not installed.
        ValueError: There are no moments, or `kind` is unknown.
    """
    stem = safe_stem(video.name).encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    output = folder / f"{stem}{'_clips.zip' if kind == CLIPS else kind}"
    if kind == JSON:
        document = make_document(video.name, video.duration_sec, fps, model, answers)
        save_document(document, output)
    elif kind == PICTURE:
        plot_grounding(answers, str(video.path), output, top=num_moments)
    elif kind == CLIPS:
        cuts = list_cuts(answers, str(video.path), video.duration_sec, num_moments, stem)
        write_zip(cuts, output, progress)
    else:
        edited = read_edited_video(video.path)
        # The file lies elsewhere on the user's machine: editors look for it beside the list.
        edited = replace(edited, path=video.name, url=quote(video.name))
        write_moments(output, list_moments(answers, edited, num_moments), [edited])
    return output


def write_zip(cuts: list[Cut], output: Path, progress: Clock) -> None:
    """Cut moments out and put the files into an archive."""
    if not cuts:
        raise ValueError("There are no moments to cut out.")
    paths = write_clips(cuts, output.parent, progress=progress)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:  # videos are compressed already
        for path in paths:
            archive.write(path, path.name)
            path.unlink()


__all__ = ["CLIPS", "JSON", "Clock", "list_formats", "write_answers", "write_zip"]
