"""Edit lists in which the moments follow each other, in the order in which they are listed: EDL and OpenTimelineIO.

EDL: CMX 3600, SMPTE 258M, with the comments that Avid, Premiere and Resolve write and read.
"""

import re
from fractions import Fraction
from typing import Any

from r2tuning.editors.media import EditedVideo
from r2tuning.editors.moments import ExportedMoment, PlacedMoment, place_moments
from r2tuning.editors.timecode import format_timecode


MAX_EVENTS = 999  # the number of an event has three digits
# Channels by the number of channels of the sound; more than two are two.
CHANNELS = {0: "V", 1: "B"}  # B: picture and the first channel
REEL_LENGTH = 8
DEFAULT_REEL = "AX"  # of a video whose name has no letter or digit of ASCII


def single_rate(videos: list[EditedVideo], ending: str) -> Fraction:
    """The rate that all videos have.

    Args:
        videos: At least one.
        ending: The format, for the message.

    Raises:
        ValueError: They have different rates.
    """
    rates = sorted({video.rate for video in videos})
    if len(rates) > 1:
        shown = ", ".join(f"{float(rate):.3f}" for rate in rates)
        raise ValueError(
            f"`export` cannot write {ending}, which has one frame rate, for videos of {shown} frames per second; write "
            ".fcpxml, .otio or .csv instead."
        )
    return rates[0]


# ---- EDL -----------------------------------------------------------------------------------------------------------


def format_edl(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """An EDL with an event for each moment; query and score are its marker.

    Raises:
        ValueError: There are too many moments, the videos have different rates, or some have drop-frame timecode and
            others not.
    """
    if len(moments) > MAX_EVENTS:
        raise ValueError(
            f"`export` cannot write .edl, which has at most {MAX_EVENTS} events, for {len(moments):,} moments; pass a lower "
            "`top`, or write .fcpxml, .otio or .csv instead."
        )
    rate = single_rate(videos, ".edl")
    if len({video.drop_frame for video in videos}) > 1:
        raise ValueError(
            "`export` cannot write .edl, which has one kind of timecode, for videos with drop-frame timecode and others "
            "without; write .fcpxml, .otio or .csv instead."
        )
    drop_frame = videos[0].drop_frame
    mode = "DROP FRAME" if drop_frame else "NON-DROP FRAME"
    lines = [f"TITLE: {_on_one_line(title_of(videos))}", f"FCM: {mode}"]
    reels = _name_reels(videos)
    for number, placed in enumerate(place_moments(moments, rate), 1):
        lines.append("")
        lines += _format_event(number, placed, reels[placed.moment.video], rate, drop_frame=drop_frame)
    return "\n".join(lines) + "\n"


def _format_event(number: int, placed: PlacedMoment, reel: str, rate: Fraction, *, drop_frame: bool) -> list[str]:
    moment = placed.moment
    record_in = format_timecode(placed.record_in, rate, drop_frame=drop_frame)
    record_out = format_timecode(placed.record_out, rate, drop_frame=drop_frame)
    source_in, source_out = moment.video.timecode(placed.source_in), moment.video.timecode(placed.source_out)
    channels = CHANNELS.get(moment.video.num_channels, "AA/V")
    return [
        f"{number:03}  {reel:8} {channels:5} C        {source_in} {source_out} {record_in} {record_out}",
        f"* FROM CLIP NAME: {_on_one_line(moment.video.name)}",
        f"* LOC: {record_in} RED     {moment.label}",
    ]


def _on_one_line(text: str) -> str:
    """Text without line breaks, which names of files may hold."""
    return " ".join(text.split())


def _name_reels(videos: list[EditedVideo]) -> dict[EditedVideo, str]:
    """A different name for each video: at most eight letters and digits of its own name."""
    reels: dict[EditedVideo, str] = {}
    for video in videos:
        stem = re.sub(r"\.\w+$", "", video.name)
        base = re.sub(r"[^A-Z0-9]", "", stem.upper())[:REEL_LENGTH] or DEFAULT_REEL
        reel, number = base, 2
        while reel in reels.values():
            reel = f"{base[: REEL_LENGTH - len(str(number))]}{number}"
            number += 1
        reels[video] = reel
    return reels


def title_of(videos: list[EditedVideo]) -> str:
    """Name of the timeline."""
    return videos[0].name if len(videos) == 1 else f"moments of {len(videos)} videos"


# ---- OpenTimelineIO ------------------------------------------------------------------------------------------------


def import_otio() -> Any:
    """Import OpenTimelineIO.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import opentimelineio
    except ImportError as error:
        raise ImportError('Writing .otio needs OpenTimelineIO: `pip install "r2tuning[editors]"`.') from error
    return opentimelineio


def format_otio(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """A timeline of OpenTimelineIO: a track of pictures and, if any video has sound, one of sound.

    Query, rank and score are in the marker of each clip, and in its metadata under "r2tuning".

    Raises:
        ImportError: OpenTimelineIO is not installed.
    """
    otio = import_otio()
    timeline = otio.schema.Timeline(title_of(videos))
    pictures = otio.schema.Track("Video", kind=otio.schema.TrackKind.Video)
    sound = otio.schema.Track("Audio", kind=otio.schema.TrackKind.Audio)
    for moment in moments:
        clip = _make_clip(otio, moment)
        pictures.append(clip)
        if moment.video.num_channels:
            heard = clip.deepcopy()
            del heard.markers[:]
            sound.append(heard)
        else:
            sound.append(otio.schema.Gap(source_range=clip.source_range))
    timeline.tracks.append(pictures)
    if any(video.num_channels for video in videos):
        timeline.tracks.append(sound)
    return otio.adapters.write_to_string(timeline, "otio_json") + "\n"


def _make_clip(otio: Any, moment: ExportedMoment) -> Any:
    video, rate = moment.video, float(moment.video.rate)

    def time_range(first: int, length: int) -> Any:
        start = otio.opentime.RationalTime(video.start_frame + first, rate)
        return otio.opentime.TimeRange(start, otio.opentime.RationalTime(length, rate))

    first, end = moment.frames
    media = otio.schema.ExternalReference(video.url, time_range(0, video.num_frames))
    media.name = video.name
    metadata = {
        "r2tuning": {
            "query": moment.query,
            "query_number": moment.query_number,
            "rank": moment.rank,
            "score": moment.score,
        }
    }
    clip = otio.schema.Clip(moment.label, media, time_range(first, end - first), metadata)
    marker = otio.schema.Marker(moment.label, time_range(first, end - first), metadata=metadata)
    clip.markers.append(marker)
    return clip


__all__ = ["format_edl", "format_otio", "import_otio", "single_rate", "title_of"]
