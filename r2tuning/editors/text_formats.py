"""Tables, subtitles, chapters and LosslessCut projects. Each writer returns the contents of the file.

SubRip: the de facto format of .srt. WebVTT: W3C, "WebVTT: The Web Video Text Tracks Format". Chapters: YouTube's rules
for timestamps in descriptions. LosslessCut: version 1 of its project file, which is JSON5; JSON is a part of that.
"""

import csv
import io
import json
import logging
import math

from r2tuning.editors.media import EditedVideo
from r2tuning.editors.moments import ExportedMoment


logger = logging.getLogger(__name__)

CSV_COLUMNS = (
    "video",
    "query_number",
    "query",
    "rank",
    "start_sec",
    "end_sec",
    "start_timecode",
    "end_timecode",
    "score",
    "probability",
)
# YouTube shows no chapters at all unless the first one starts at 0:00, there are three, and each lasts ten seconds.
MIN_CHAPTERS, MIN_CHAPTER_SEC = 3, 10
OTHER_CHAPTER = "Other"  # between moments
FORMULA_STARTS = ("=", "+", "-", "@")  # of cells that spreadsheets take for a formula, whatever space is before them
# YouTube refuses these in descriptions.
ANGLE_BRACKETS = str.maketrans("<>", "\u2039\u203a")
# SubRip takes these for tags and has no way to escape them.
SUBRIP_TAGS = str.maketrans("<>{}", "\u2039\u203a()")


def format_csv(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """A table with a header; times in seconds and as timecode. Text that would be a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for moment in moments:
        first, end = moment.frames
        row = (
            _as_text(moment.video.path),
            moment.query_number,
            _as_text(moment.query),
            moment.rank,
            f"{moment.start_sec:.3f}",
            f"{moment.end_sec:.3f}",
            moment.video.timecode(first),
            moment.video.timecode(end),
            f"{moment.score:.6f}",
            "" if moment.probability is None else f"{moment.probability:.6f}",
        )
        writer.writerow(row)
    return text.getvalue()


def _as_text(cell: str) -> str:
    """A cell that is no formula, and has no carriage return, which `csv` does not quote."""
    cell = cell.replace("\r", " ")
    return f"'{cell}" if cell.lstrip().startswith(FORMULA_STARTS) else cell


def format_srt(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """SubRip subtitles: the query and the score while a moment lasts; characters of tags are replaced by similar ones."""
    cues = []
    for number, moment in enumerate(_by_time(moments), 1):
        start, end = _cue_times(moment, ",")
        cues.append(f"{number}\n{start} --> {end}\n{moment.label.translate(SUBRIP_TAGS)}\n")
    return "\n".join(cues)


def format_vtt(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """WebVTT subtitles, which browsers show: the query and the score while a moment lasts."""
    blocks = ["WEBVTT\n"]
    for moment in _by_time(moments):
        start, end = _cue_times(moment, ".")
        text = moment.label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"query {moment.query_number} moment {moment.rank}\n{start} --> {end}\n{text}\n")
    return "\n".join(blocks)


def format_llc(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """A project of LosslessCut with a segment for each moment."""
    segments = []
    for moment in moments:
        segment = {
            "start": round(moment.start_sec, 6),
            "end": round(moment.end_sec, 6),
            "name": moment.query,
            "tags": {"query": str(moment.query_number), "rank": str(moment.rank), "score": f"{moment.score:.6f}"},
        }
        segments.append(segment)
    project = {"version": 1, "mediaFileName": videos[0].name, "cutSegments": segments}
    return json.dumps(project, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _by_time(moments: list[ExportedMoment]) -> list[ExportedMoment]:
    return sorted(moments, key=lambda moment: (moment.start_sec, moment.end_sec))


def _cue_times(moment: ExportedMoment, decimal_mark: str) -> tuple[str, str]:
    """Start and end of a cue in milliseconds; a cue must not be empty."""
    start = round(moment.start_sec * 1000)
    end = max(round(moment.end_sec * 1000), start + 1)
    return _format_milliseconds(start, decimal_mark), _format_milliseconds(end, decimal_mark)


def _format_milliseconds(milliseconds: int, decimal_mark: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{decimal_mark}{milliseconds:03}"


# ---- chapters ----


def format_chapters(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """Chapters for the description of a video on YouTube: a line with start and title for each.

    The best moments become chapters, moved by less than ten seconds where the rules require it; a moment that overlaps a
    better one, or begins less than ten seconds from one, does not. What lies between them is called "Other", or belongs to
    the chapter before it if it is shorter than ten seconds.
    """
    length = math.floor(videos[0].duration_sec)
    chapters = _choose_chapters(moments, length)
    if len(chapters) < len(moments):
        num_left_out = len(moments) - len(chapters)
        logger.info(
            "moments that overlap better ones, or begin within ten seconds of them, and are not among the chapters: %d",
            num_left_out,
        )
    lines = []
    covered = 0  # seconds from the start that have a chapter
    for start, end, title in chapters:
        if start > covered:
            lines.append((covered, OTHER_CHAPTER))
        lines.append((start, title))
        covered = end
    if length - covered >= MIN_CHAPTER_SEC or not lines:
        lines.append((covered, OTHER_CHAPTER))
    if len(lines) < MIN_CHAPTERS:
        logger.warning("YouTube shows chapters only if there are at least %d, there are %d", MIN_CHAPTERS, len(lines))
    text = "".join(f"{_format_seconds(start)} {title}\n" for start, title in lines)
    return text.translate(ANGLE_BRACKETS)


def _choose_chapters(moments: list[ExportedMoment], length: int) -> list[tuple[int, int, str]]:
    """Start, end and title of chapters that do not overlap, in order of time; all in whole seconds."""
    chosen: list[ExportedMoment] = []
    chapters: list[tuple[int, int, str]] = []
    for moment in sorted(moments, key=lambda moment: -moment.score):
        start = min(math.floor(moment.start_sec), max(length - MIN_CHAPTER_SEC, 0))
        if start < MIN_CHAPTER_SEC:
            start = 0
        end = max(math.ceil(moment.end_sec), start + MIN_CHAPTER_SEC)
        if length - end < MIN_CHAPTER_SEC:
            end = length
        is_far = all(abs(start - other_start) >= MIN_CHAPTER_SEC for other_start, _, _ in chapters)
        if is_far and not any(_overlap(moment, other) for other in chosen):
            chosen.append(moment)
            chapters.append((start, end, moment.query))
    return _close_short_gaps(sorted(chapters))


def _overlap(moment: ExportedMoment, other: ExportedMoment) -> bool:
    # In seconds as predicted: rounded outwards to whole ones, moments that only touch each other would overlap.
    return moment.start_sec < other.end_sec and other.start_sec < moment.end_sec


def _close_short_gaps(chapters: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Let each chapter end where the next begins, if it overlaps that by rounding or the gap is shorter than a chapter."""
    closed = []
    for index, (start, end, title) in enumerate(chapters):
        if index + 1 < len(chapters):
            next_start = chapters[index + 1][0]
            if next_start - end < MIN_CHAPTER_SEC:
                end = next_start
        closed.append((start, end, title))
    return closed


def _format_seconds(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


__all__ = ["CSV_COLUMNS", "format_chapters", "format_csv", "format_llc", "format_srt", "format_vtt"]
