"""Edit lists as XML: FCPXML, which Final Cut Pro and Resolve read, and Final Cut Pro 7's XML, which Premiere reads.

FCPXML: Apple, "FCPXML Reference", version 1.8, which all of today's readers accept. Final Cut Pro 7: Apple, "Final Cut Pro XML
Interchange Format", version 5.
"""

import xml.etree.ElementTree as ET
from fractions import Fraction

from r2tuning.editors.edit_lists import single_rate, title_of
from r2tuning.editors.media import EditedVideo
from r2tuning.editors.moments import ExportedMoment, PlacedMoment, place_moments
from r2tuning.editors.timecode import format_timecode, nominal_rate


FCPXML_VERSION = "1.8"
FINAL_CUT_7_VERSION = "5"


def _add(parent: ET.Element, tag: str, text: str | int | None = None, **attributes: str) -> ET.Element:
    """Add an element with text and attributes."""
    element = ET.SubElement(parent, tag, attributes)
    if text is not None:
        element.text = _legal(str(text))
    return element


def _legal(text: str) -> str:
    """Replace the characters that XML 1.0 does not allow."""
    return "".join(character if _is_legal(ord(character)) else "\ufffd" for character in text)


def _is_legal(code: int) -> bool:
    return code in (9, 10, 13) or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or code > 0xFFFF


def _document(root: ET.Element) -> str:
    ET.indent(root, "  ")
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE {root.tag}>\n{text}\n'


# ---- FCPXML --------------------------------------------------------------------------------------------------------


def format_fcpxml(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """A project of Final Cut Pro with a clip for each moment; query and score are its name and its marker.

    The timeline runs at the rate of the first video. All times are whole frames, written as fractions of a second.
    """
    root = ET.Element("fcpxml", version=FCPXML_VERSION)
    resources = _add(root, "resources")
    references = {}
    for number, video in enumerate(videos, 1):
        references[video] = _add_asset(resources, video, number)
    first = videos[0]
    placed = place_moments(moments, first.rate)
    event = _add(_add(root, "library"), "event", name="R2-Tuning")
    project = _add(event, "project", name=_legal(title_of(videos)))
    sequence = _add(
        project,
        "sequence",
        format=references[first][1],
        duration=_seconds(placed[-1].record_out if placed else 0, first.rate),
        tcStart="0s",
        tcFormat=_timecode_format(first),
    )
    spine = _add(sequence, "spine")
    for place in placed:
        asset, video_format = references[place.moment.video]
        _add_asset_clip(spine, place, asset, video_format, first.rate)
    return _document(root)


def _add_asset(resources: ET.Element, video: EditedVideo, number: int) -> tuple[str, str]:
    """Describe a video; returns the ids of the asset and of its format."""
    asset, video_format = f"asset{number}", f"format{number}"
    size = {}
    if video.width and video.height:
        size = {"width": str(video.width), "height": str(video.height)}
    _add(resources, "format", id=video_format, frameDuration=_seconds(1, video.rate), **size)
    sound = {}
    if video.num_channels:
        sound = {
            "hasAudio": "1",
            "audioSources": "1",
            "audioChannels": str(video.num_channels),
            "audioRate": str(video.sample_rate),
        }
    _add(
        resources,
        "asset",
        id=asset,
        name=_legal(video.name),
        src=video.url,
        start=_seconds(video.start_frame, video.rate),
        duration=_seconds(video.num_frames, video.rate),
        hasVideo="1",
        format=video_format,
        **sound,
    )
    return asset, video_format


def _add_asset_clip(spine: ET.Element, placed: PlacedMoment, asset: str, video_format: str, rate: Fraction) -> None:
    moment = placed.moment
    start = _seconds(moment.video.start_frame + placed.source_in, moment.video.rate)
    clip = _add(
        spine,
        "asset-clip",
        ref=asset,
        name=_legal(moment.label),
        offset=_seconds(placed.record_in, rate),
        start=start,
        duration=_seconds(placed.record_out - placed.record_in, rate),
        format=video_format,
        tcFormat=_timecode_format(moment.video),
    )
    _add(clip, "marker", start=start, duration=_seconds(1, moment.video.rate), value=_legal(moment.label))


def _seconds(frames: int, rate: Fraction) -> str:
    """Frames as a rational number of seconds, such as 1001/30000s."""
    seconds = frames / rate
    if seconds.denominator == 1:
        return f"{seconds.numerator}s"
    return f"{frames * rate.denominator}/{rate.numerator}s"


def _timecode_format(video: EditedVideo) -> str:
    return "DF" if video.drop_frame else "NDF"


# ---- Final Cut Pro 7 -----------------------------------------------------------------------------------------------


def format_final_cut_7(moments: list[ExportedMoment], videos: list[EditedVideo]) -> str:
    """A sequence of Final Cut Pro 7 with a clip for each moment; query and score are its marker.

    Source in and out count frames from the start of the file, whatever its timecode starts at.

    Raises:
        ValueError: The videos have different rates.
    """
    rate = single_rate(videos, ".xml")
    placed = place_moments(moments, rate)
    root = ET.Element("xmeml", version=FINAL_CUT_7_VERSION)
    sequence = _add(root, "sequence", id="sequence-1")
    _add(sequence, "name", title_of(videos))
    _add(sequence, "duration", placed[-1].record_out if placed else 0)
    _add_rate(sequence, rate)
    _add_timecode(sequence, 0, rate, drop_frame=videos[0].drop_frame)
    media = _add(sequence, "media")
    pictures = _add(media, "video")
    _add_picture_format(_add(pictures, "format"), videos[0])
    num_tracks = min(max(video.num_channels for video in videos), 2)
    tracks = [_add(pictures, "track")]
    sound = _add(media, "audio")
    tracks += [_add(sound, "track") for _ in range(num_tracks)]
    described: dict[EditedVideo, str] = {}
    for number, place in enumerate(placed, 1):
        used = tracks[: min(place.moment.video.num_channels, 2) + 1]
        places = [len(track) + 1 for track in used]
        for track_number, track in enumerate(used):
            item = _add_clip_item(track, place, number, track_number)
            _add_file(item, place.moment.video, described)
            if track_number == 0:
                _add_marker(item, place)
            else:
                source = _add(item, "sourcetrack")
                _add(source, "mediatype", "audio")
                _add(source, "trackindex", track_number)
            _add_links(item, number, places)
    return _document(root)


def _item_id(number: int, track_number: int) -> str:
    return f"clipitem-{number}-{track_number}"


def _add_rate(parent: ET.Element, rate: Fraction) -> None:
    element = _add(parent, "rate")
    _add(element, "timebase", nominal_rate(rate))
    _add(element, "ntsc", "FALSE" if rate.denominator == 1 else "TRUE")


def _add_timecode(parent: ET.Element, frame: int, rate: Fraction, *, drop_frame: bool) -> None:
    element = _add(parent, "timecode")
    _add_rate(element, rate)
    _add(element, "string", format_timecode(frame, rate, drop_frame=drop_frame))
    _add(element, "frame", frame)
    _add(element, "displayformat", "DF" if drop_frame else "NDF")


def _add_picture_format(parent: ET.Element, video: EditedVideo) -> None:
    characteristics = _add(parent, "samplecharacteristics")
    _add_rate(characteristics, video.rate)
    if video.width and video.height:
        _add(characteristics, "width", video.width)
        _add(characteristics, "height", video.height)
    _add(characteristics, "pixelaspectratio", "square")
    _add(characteristics, "fielddominance", "none")


def _add_clip_item(track: ET.Element, placed: PlacedMoment, number: int, track_number: int) -> ET.Element:
    moment = placed.moment
    item = _add(track, "clipitem", id=_item_id(number, track_number))
    _add(item, "name", moment.label)
    _add(item, "enabled", "TRUE")
    _add(item, "duration", moment.video.num_frames)
    _add_rate(item, moment.video.rate)
    _add(item, "start", placed.record_in)
    _add(item, "end", placed.record_out)
    _add(item, "in", placed.source_in)
    _add(item, "out", placed.source_out)
    return item


def _add_file(item: ET.Element, video: EditedVideo, described: dict[EditedVideo, str]) -> None:
    """Name the file of a clip; the first time with all that there is to say of it."""
    if video in described:
        _add(item, "file", id=described[video])
        return
    described[video] = f"file-{len(described) + 1}"
    file = _add(item, "file", id=described[video])
    _add(file, "name", video.name)
    _add(file, "pathurl", video.url)
    _add_rate(file, video.rate)
    _add(file, "duration", video.num_frames)
    _add_timecode(file, video.start_frame, video.rate, drop_frame=video.drop_frame)
    media = _add(file, "media")
    _add_picture_format(_add(media, "video"), video)
    if video.num_channels:
        sound = _add(media, "audio")
        characteristics = _add(sound, "samplecharacteristics")
        _add(characteristics, "samplerate", video.sample_rate)
        _add(sound, "channelcount", video.num_channels)


def _add_marker(item: ET.Element, placed: PlacedMoment) -> None:
    marker = _add(item, "marker")
    _add(marker, "name", placed.moment.query)
    _add(marker, "comment", f"score {placed.moment.score:.3f}, moment {placed.moment.rank}")
    _add(marker, "in", placed.source_in)
    _add(marker, "out", placed.source_out)


def _add_links(item: ET.Element, number: int, places: list[int]) -> None:
    """Bind the picture and the sound of a clip together; `places` are those within the tracks, from 1."""
    if len(places) == 1:
        return
    for track_number, place in enumerate(places):
        link = _add(item, "link")
        _add(link, "linkclipref", _item_id(number, track_number))
        _add(link, "mediatype", "audio" if track_number else "video")
        _add(link, "trackindex", max(track_number, 1))
        _add(link, "clipindex", place)


__all__ = ["format_fcpxml", "format_final_cut_7"]
