"""Exports, compared with times worked by hand and read back by readers that did not write them."""

import csv
import json
import logging
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from video_samples import write_video

from modeling_r2tuning.video_source_r2tuning import LocalCopy
from r2tuning.editors.export import WRITERS, write_export, write_moments
from r2tuning.editors.media import EditedVideo, read_edited_video
from r2tuning.editors.moments import ExportedMoment, list_moments
from r2tuning_cli.defaults import EXPORT_ENDINGS, ONE_VIDEO_ENDINGS


FILM, NTSC, NTSC_60 = Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)
QUERY = 'people "laugh" & <clap>'
# Two moments: 59.5 to 61 seconds, then 2 to 3.25 seconds. For each video, by hand: source in and out of both as frames from
# the start of the file, and all labels of the first (source in and out, record in and out) and of the second.
CASES = {
    "29.97 drop-frame": (
        {"rate": NTSC, "drop_frame": True},
        [(1783, 1828), (60, 97)],
        "00:00:59;13 00:01:01;00 00:00:00;00 00:00:01;15",
        "00:00:02;00 00:00:03;07 00:00:01;15 00:00:02;22",
    ),
    "59.94 drop-frame": (
        {"rate": NTSC_60, "drop_frame": True},
        [(3566, 3656), (120, 195)],
        "00:00:59;26 00:01:01;00 00:00:00;00 00:00:01;30",
        "00:00:02;00 00:00:03;15 00:00:01;30 00:00:02;45",
    ),
    "23.976": (
        {"rate": FILM},
        [(1427, 1463), (48, 78)],
        "00:00:59:11 00:01:00:23 00:00:00:00 00:00:01:12",
        "00:00:02:00 00:00:03:06 00:00:01:12 00:00:02:18",
    ),
    "25 from 10:00:00:00": (
        {"rate": Fraction(25), "start_frame": 900_000},
        [(1488, 1525), (50, 81)],
        "10:00:59:13 10:01:01:00 00:00:00:00 00:00:01:12",
        "10:00:02:00 10:00:03:06 00:00:01:12 00:00:02:18",
    ),
    "29.97 drop-frame from 01:00:00;00": (
        {"rate": NTSC, "drop_frame": True, "start_frame": 107_892},
        [(1783, 1828), (60, 97)],
        "01:00:59;13 01:01:01;00 00:00:00;00 00:00:01;15",
        "01:00:02;00 01:00:03;07 00:00:01;15 00:00:02;22",
    ),
    "29.97 without drop-frame": (
        {"rate": NTSC},
        [(1783, 1828), (60, 97)],
        "00:00:59:13 00:01:00:28 00:00:00:00 00:00:01:15",
        "00:00:02:00 00:00:03:07 00:00:01:15 00:00:02:22",
    ),
}


def make_video(name="talk 1.mp4", **changes):
    fields = {
        "path": f"/videos/{name}",
        "url": f"file:///videos/{name.replace(' ', '%20')}",
        "duration_sec": 100.1,
        "rate": Fraction(25),
        "width": 640,
        "height": 360,
        "num_channels": 2,
        "sample_rate": 48000,
    }
    return EditedVideo(**(fields | changes))


def make_moments(video):
    return [
        ExportedMoment(video, 1, QUERY, 1, 59.5, 61.0, 0.914),
        ExportedMoment(video, 2, "ein Mann öffnet die Tür", 1, 2.0, 3.25, 0.5),
    ]


@pytest.fixture(params=CASES)
def case(request):
    fields, frames, *labels = CASES[request.param]
    video = make_video(**fields)
    return video, make_moments(video), frames, [line.split() for line in labels]


def write(path, moments, *videos):
    write_moments(path, moments, list(videos))
    return path


def test_endings_are_those_of_the_command_line():
    assert tuple(WRITERS) == EXPORT_ENDINGS
    assert set(ONE_VIDEO_ENDINGS) < set(EXPORT_ENDINGS)


# ---- edit lists ----------------------------------------------------------------------------------------------------


def test_edl(case, tmp_path):
    video, moments, _, labels = case
    lines = write(tmp_path / "out.edl", moments, video).read_text(encoding="utf-8").splitlines()
    mode = "DROP FRAME" if video.drop_frame else "NON-DROP FRAME"
    assert lines[:2] == ["TITLE: talk 1.mp4", f"FCM: {mode}"]
    events = [line.split() for line in lines if line[:3].isdigit()]
    assert [event[:4] for event in events] == [["001", "TALK1", "AA/V", "C"], ["002", "TALK1", "AA/V", "C"]]
    assert [event[4:] for event in events] == labels
    assert f"* LOC: {labels[0][2]} RED     {QUERY} (0.91)" in lines
    assert f"* LOC: {labels[1][2]} RED     ein Mann öffnet die Tür (0.50)" in lines


@pytest.mark.parametrize("num_channels", [0, 1, 2, 6])
def test_edl_in_opentimelineio(num_channels, case, tmp_path):
    otio = pytest.importorskip("opentimelineio", reason="the extra `editors` is not installed")
    pytest.importorskip("otio_cmx3600_adapter", reason="its adapter for EDLs is not installed")
    video, moments, frames, _ = case
    # OpenTimelineIO takes labels without drop-frame at 29.97 for frames of 30 per second; the numbers are equal.
    rate = float(video.rate) if video.drop_frame or video.rate == FILM else round(video.rate)
    video = replace(video, num_channels=num_channels)
    moments = [replace(moment, video=video) for moment in moments]
    path = write(tmp_path / "out.edl", moments, video)
    timeline = otio.adapters.read_from_file(str(path), rate=rate)
    [track] = timeline.video_tracks()
    assert len(timeline.audio_tracks()) == min(num_channels, 2)
    read = []
    for clip in track:
        first = clip.source_range.start_time.value - video.start_frame
        read.append((first, first + clip.source_range.duration.value))
    assert read == frames


def read_seconds(text):
    return Fraction(text.removesuffix("s"))


def test_fcpxml(case, tmp_path):
    video, moments, frames, _ = case
    root = ET.parse(write(tmp_path / "out.fcpxml", moments, video)).getroot()
    assert root.attrib == {"version": "1.8"}
    frame = 1 / video.rate
    [video_format] = root.iter("format")
    [asset] = root.iter("asset")
    assert read_seconds(video_format.get("frameDuration")) == frame
    assert (asset.get("src"), asset.get("format")) == (video.url, video_format.get("id"))
    assert read_seconds(asset.get("start")) == video.start_frame * frame
    assert (asset.get("hasAudio"), asset.get("audioChannels"), asset.get("audioRate")) == ("1", "2", "48000")
    [sequence] = root.iter("sequence")
    assert sequence.get("tcFormat") == ("DF" if video.drop_frame else "NDF")
    clips = root.findall("library/event/project/sequence/spine/asset-clip")
    position = 0
    for clip, (first, end), moment in zip(clips, frames, moments, strict=True):
        assert clip.get("ref") == asset.get("id")
        assert read_seconds(clip.get("start")) == (video.start_frame + first) * frame
        assert read_seconds(clip.get("duration")) == (end - first) * frame
        assert read_seconds(clip.get("offset")) == position * frame
        position += end - first
        [marker] = clip
        assert marker.get("value") == clip.get("name") == f"{moment.query} ({moment.score:.2f})"
        assert marker.get("start") == clip.get("start")
    assert read_seconds(sequence.get("duration")) == position * frame


def test_final_cut_7(case, tmp_path):
    video, moments, frames, labels = case
    root = ET.parse(write(tmp_path / "out.xml", moments, video)).getroot()
    assert (root.tag, root.get("version")) == ("xmeml", "5")
    nominal = str(round(video.rate))
    for rate in root.iter("rate"):
        assert [rate.findtext("timebase"), rate.findtext("ntsc")] == [nominal, str(video.rate != 25).upper()]
    timecode = root.find("sequence/media/video/track/clipitem/file/timecode")
    assert int(timecode.findtext("frame")) == video.start_frame
    assert timecode.findtext("string")[:8] == labels[0][0][:2] + ":00:00"
    assert timecode.findtext("displayformat") == ("DF" if video.drop_frame else "NDF")
    tracks = root.findall("sequence/media/*/track")
    assert len(tracks) == 3
    for track in tracks:
        items = track.findall("clipitem")
        assert [(int(item.findtext("in")), int(item.findtext("out"))) for item in items] == frames
        lengths = [end - first for first, end in frames]
        assert [int(item.findtext("start")) for item in items] == [0, lengths[0]]
        assert [int(item.findtext("end")) for item in items] == [lengths[0], sum(lengths)]
    marker = tracks[0].find("clipitem/marker")
    assert (marker.findtext("name"), marker.findtext("comment")) == (QUERY, "score 0.914, moment 1")
    ids = {item.get("id") for item in root.iter("clipitem")}
    assert {link.findtext("linkclipref") for link in root.iter("link")} == ids
    [url] = root.iter("pathurl")
    assert url.text == video.url


def test_final_cut_7_in_opentimelineio(case, tmp_path):
    otio = pytest.importorskip("opentimelineio", reason="the extra `editors` is not installed")
    pytest.importorskip("otio_fcp_adapter", reason="its adapter for Final Cut Pro 7 is not installed")
    video, moments, frames, _ = case
    timeline = otio.adapters.read_from_file(str(write(tmp_path / "out.xml", moments, video)))
    for track in timeline.tracks:
        read = []
        for clip in track:
            first = clip.source_range.start_time - clip.media_reference.available_range.start_time
            assert first.rate == pytest.approx(float(video.rate))
            read.append((first.value, first.value + clip.source_range.duration.value))
        assert read == frames


def test_otio(case, tmp_path):
    otio = pytest.importorskip("opentimelineio", reason="the extra `editors` is not installed")
    video, moments, frames, labels = case
    path = write(tmp_path / "out.otio", moments, video)
    timeline = otio.adapters.read_from_file(str(path))
    assert [track.kind for track in timeline.tracks] == ["Video", "Audio"]
    for track in timeline.tracks:
        for clip, (first, end), moment in zip(track, frames, moments, strict=True):
            assert clip.source_range.start_time.value == video.start_frame + first
            assert clip.source_range.duration.value == end - first
            assert clip.source_range.start_time.rate == float(video.rate)
            assert clip.media_reference.target_url == video.url
            assert clip.media_reference.available_range.start_time.value == video.start_frame
            assert clip.metadata["r2tuning"]["query"] == moment.query
    if video.drop_frame or video.rate == 25:
        assert [otio.opentime.to_timecode(clip.source_range.start_time) for clip in timeline.tracks[0]] == [
            labels[0][0],
            labels[1][0],
        ]
    marker = timeline.tracks[0][0].markers[0]
    assert (marker.name, marker.metadata["r2tuning"]["score"]) == (f"{QUERY} (0.91)", 0.914)
    # Plain JSON, too: what LosslessCut reads.
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["tracks"]["children"][0]["children"][0]["source_range"]["duration"]["value"] == (
        frames[0][1] - frames[0][0]
    )


def test_videos_of_several_rates(tmp_path):
    videos = [make_video("a.mp4"), make_video("b.mp4", rate=NTSC, drop_frame=True, num_channels=0)]
    moments = [make_moments(videos[1])[0], make_moments(videos[0])[1]]
    root = ET.parse(write(tmp_path / "out.fcpxml", moments, *videos)).getroot()
    first, second = root.iter("asset-clip")
    assert first.get("tcFormat") == "DF"
    # 45 frames at 29.97 last 1.5015 seconds: 37.5 frames at 25, so 38.
    assert read_seconds(first.get("start")) == 1783 / NTSC
    assert read_seconds(first.get("duration")) == read_seconds(second.get("offset")) == Fraction(38, 25)
    for ending in (".edl", ".xml"):
        with pytest.raises(
            ValueError, match=f"{ending}, which has one frame rate, for videos of 25.000, 29.970 frames"
        ):
            write_moments(tmp_path / f"out{ending}", moments, videos)
    assert [path.name for path in tmp_path.iterdir()] == ["out.fcpxml"]


def test_edl_of_several_videos_names_their_reels(tmp_path):
    names = ["a long holiday.mp4", "a long holiday 2.mp4", "旅行.mp4"]
    videos = [make_video(name) for name in names]
    moments = [make_moments(video)[0] for video in videos]
    lines = write(tmp_path / "out.edl", moments, *videos).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "TITLE: moments of 3 videos"
    assert [line.split()[1] for line in lines if line[:3].isdigit()] == ["ALONGHOL", "ALONGHO2", "AX"]
    assert [line.removeprefix("* FROM CLIP NAME: ") for line in lines if "CLIP NAME" in line] == names
    videos[1] = make_video(rate=Fraction(25), drop_frame=True)
    moments = [make_moments(video)[0] for video in videos]
    with pytest.raises(ValueError, match="one kind of timecode"):
        write_moments(tmp_path / "mixed.edl", moments, videos)


@pytest.mark.parametrize("ending", [".edl", ".xml"])
def test_the_rate_of_a_video_without_moments_does_not_count(ending, tmp_path):
    videos = [make_video("a.mp4"), make_video("b.mp4", rate=NTSC, drop_frame=True)]
    write_moments(tmp_path / f"none{ending}", [], videos)
    write_moments(tmp_path / f"second{ending}", make_moments(videos[1]), videos)
    text = (tmp_path / f"second{ending}").read_text(encoding="utf-8")
    assert "b.mp4" in text
    assert "a.mp4" not in text


def test_edl_with_line_breaks_in_the_name_of_a_video(tmp_path):
    video = make_video("my\n* talk\r1.mp4")
    lines = write(tmp_path / "out.edl", make_moments(video), video).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "TITLE: my * talk 1.mp4"
    assert [line for line in lines if "CLIP NAME" in line] == ["* FROM CLIP NAME: my * talk 1.mp4"] * 2
    assert len(lines) == 10


def test_edl_holds_no_more_events_than_its_numbers_have_digits(tmp_path):
    video = make_video()
    moments = make_moments(video) * 500
    with pytest.raises(ValueError, match="at most 999 events, for 1,000 moments"):
        write_moments(tmp_path / "out.edl", moments, [video])
    lines = write(tmp_path / "out.edl", moments[:999], video).read_text(encoding="utf-8").splitlines()
    assert lines[-3].startswith("999  TALK1")


def test_silent_video_has_no_sound_in_edit_lists(tmp_path):
    video = make_video(num_channels=0, sample_rate=0)
    moments = make_moments(video)
    edl = write(tmp_path / "out.edl", moments, video).read_text(encoding="utf-8")
    assert [line.split()[2] for line in edl.splitlines() if line[:3].isdigit()] == ["V", "V"]
    assert not list(ET.parse(write(tmp_path / "out.xml", moments, video)).iter("link"))
    [asset] = ET.parse(write(tmp_path / "out.fcpxml", moments, video)).iter("asset")
    assert asset.get("hasAudio") is None


# ---- tables, subtitles, chapters -----------------------------------------------------------------------------------


def test_csv(case, tmp_path):
    video, moments, _, labels = case
    with open(write(tmp_path / "out.csv", moments, video), encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows] == [moment.query for moment in moments]
    assert [(row["start_sec"], row["end_sec"]) for row in rows] == [("59.500", "61.000"), ("2.000", "3.250")]
    assert [[row["start_timecode"], row["end_timecode"]] for row in rows] == [label[:2] for label in labels]
    assert (rows[0]["video"], rows[0]["score"], rows[0]["probability"]) == ("/videos/talk 1.mp4", "0.914000", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('=cmd|"/c calc"!A1', '\'=cmd|"/c calc"!A1'),
        ("+1.mp4", "'+1.mp4"),
        ("-1", "'-1"),
        ("@a", "'@a"),
        ("\t=a", "'\t=a"),
        ("\r=a\rb", "' =a b"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_of_a_csv_is_a_formula(text, expected, tmp_path):
    video = replace(make_video(), path=text)
    moment = ExportedMoment(video, 1, text, 1, 1.0, 2.0, 0.5)
    with open(write(tmp_path / "out.csv", [moment], video), encoding="utf-8-sig", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["query"], row["video"]) == (expected, expected)


def test_spreadsheets_recognise_the_encoding_of_a_csv(tmp_path):
    video = make_video()
    assert write(tmp_path / "out.csv", make_moments(video), video).read_bytes().startswith(b"\xef\xbb\xbfvideo,")


def test_no_query_is_a_tag_of_subtitles(tmp_path):
    video = make_video()
    moment = ExportedMoment(video, 1, "<i>a {\\an8}", 1, 1.0, 2.0, 0.5)
    assert write(tmp_path / "out.srt", [moment], video).read_text(encoding="utf-8").splitlines()[2] == (
        "\u2039i\u203aa (\\an8) (0.50)"
    )


def test_srt(tmp_path):
    pysrt = pytest.importorskip("pysrt", reason="the optional pysrt reads it back")
    video = make_video()
    subtitles = pysrt.open(str(write(tmp_path / "out.srt", make_moments(video), video)))
    assert [(cue.index, cue.start.ordinal, cue.end.ordinal) for cue in subtitles] == [
        (1, 2000, 3250),
        (2, 59500, 61000),
    ]
    assert subtitles[1].text == 'people "laugh" & \u2039clap\u203a (0.91)'


def test_vtt(tmp_path):
    webvtt = pytest.importorskip("webvtt", reason="the optional webvtt-py reads it back")
    video = make_video()
    path = write(tmp_path / "out.vtt", make_moments(video), video)
    cues = list(webvtt.read(str(path)))
    assert [(cue.identifier, cue.start, cue.end) for cue in cues] == [
        ("query 2 moment 1", "00:00:02.000", "00:00:03.250"),
        ("query 1 moment 1", "00:00:59.500", "00:01:01.000"),
    ]
    assert 'people "laugh" &amp; &lt;clap&gt; (0.91)' in path.read_text(encoding="utf-8")


def test_long_times_of_subtitles(tmp_path):
    video = make_video(duration_sec=20000.0)
    moment = ExportedMoment(video, 1, "a", 1, 3725.0006, 3725.0007, 0.5)
    text = write(tmp_path / "out.srt", [moment], video).read_text()
    assert "01:02:05,001 --> 01:02:05,002\n" in text


def test_llc(tmp_path):
    video = make_video()
    project = json.loads(write(tmp_path / "out.llc", make_moments(video), video).read_text(encoding="utf-8"))
    assert (project["version"], project["mediaFileName"]) == (1, "talk 1.mp4")
    assert [(segment["start"], segment["end"]) for segment in project["cutSegments"]] == [(59.5, 61.0), (2.0, 3.25)]
    assert project["cutSegments"][0]["name"] == QUERY
    assert project["cutSegments"][0]["tags"]["score"] == "0.914000"


def chapters(tmp_path, spans, duration_sec=100.0):
    """Lines of the chapters of moments, best first."""
    video = make_video(duration_sec=duration_sec)
    moments = []
    for rank, (start, end) in enumerate(spans, 1):
        moments.append(ExportedMoment(video, 1, f"query {rank}", rank, start, end, 1 / rank))
    return write(tmp_path / "out.chapters.txt", moments, video).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(40.5, 60.2)], ["0:00 Other", "0:40 query 1", "1:01 Other"]),
        ([(4, 20), (40, 60)], ["0:00 query 1", "0:20 Other", "0:40 query 2", "1:00 Other"]),
        # The second moment overlaps the first, the gap before the third is short, the last one ends with the video.
        (
            [(20, 40), (35, 50), (45, 60), (95, 100)],
            ["0:00 Other", "0:20 query 1", "0:45 query 3", "1:00 Other", "1:30 query 4"],
        ),
        ([(30, 32)], ["0:00 Other", "0:30 query 1", "0:40 Other"]),
        # They touch within a second; the better one first, and last.
        ([(12.7, 30.2), (30.2, 45.1)], ["0:00 Other", "0:12 query 1", "0:30 query 2", "0:46 Other"]),
        ([(30.2, 45.1), (12.7, 30.2)], ["0:00 Other", "0:12 query 2", "0:30 query 1", "0:46 Other"]),
        # The second one begins too early for a chapter of its own; the third only lies close to the end of the first.
        ([(30, 32), (35, 60), (40, 60)], ["0:00 Other", "0:30 query 1", "0:40 query 3", "1:00 Other"]),
    ],
)
def test_chapters(spans, expected, tmp_path):
    assert chapters(tmp_path, spans) == expected


def test_chapters_have_no_angle_brackets(tmp_path):
    """YouTube refuses a description with them."""
    video = make_video()
    moment = ExportedMoment(video, 1, "a < b > c", 1, 0.0, 100.0, 0.5)
    text = write(tmp_path / "out.chapters.txt", [moment], video).read_text(encoding="utf-8")
    assert text == "0:00 a \u2039 b \u203a c\n"


def test_too_few_chapters_are_reported(tmp_path, caplog):
    assert chapters(tmp_path, []) == ["0:00 Other"]
    assert chapters(tmp_path, [(2, 5)], 8.0) == ["0:00 query 1"]
    assert caplog.text.count("only if there are at least 3, there are 1") == 2


def test_moments_without_a_chapter_are_reported(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        chapters(tmp_path, [(12.7, 30.2), (30.2, 45.1)])
        assert "not among the chapters" not in caplog.text
        chapters(tmp_path, [(30, 32), (31, 40), (33, 50)])
    assert "or begin within ten seconds of them, and are not among the chapters: 2" in caplog.text


def test_chapters_keep_the_rules_of_youtube(tmp_path):
    """The first one at 0:00, ascending, ten seconds each, whatever the moments are."""
    random = np.random.default_rng(0)
    for _ in range(50):
        starts = random.uniform(0, 3700, 6)
        spans = [
            (start, min(start + length, 3700)) for start, length in zip(starts, random.exponential(60, 6), strict=True)
        ]
        lines = chapters(tmp_path, spans, 3700.0)
        times = []
        for line in lines:
            parts = [int(part) for part in line.split()[0].split(":")]
            times.append(sum(part * 60**place for place, part in enumerate(reversed(parts))))
        assert times[0] == 0
        assert min(np.diff([*times, 3700])) >= 10


# ---- from answers and files ----------------------------------------------------------------------------------------


ANSWERS = [
    {
        "query": "a  man\nin red",
        "moments": [
            {"start": 4.0, "end": 21.0, "score": 0.9},
            {"start": 3.0, "end": 3.0, "score": 0.5},
            {"start": 1.0, "end": 2.0, "score": 0.1},
        ],
        "probability": 0.75,
    }
]


def test_answers_become_moments(caplog):
    [moment] = list_moments(ANSWERS, make_video(duration_sec=20.0), top=2)
    assert (moment.query, moment.end_sec, moment.probability) == ("a man in red", 20.0, 0.75)
    assert "moment 2 of query 1 is empty and was not exported" in caplog.text


def test_a_moment_lasts_at_least_a_frame_and_ends_with_the_video():
    video = make_video(duration_sec=10.0)
    for start, end, frames in [(1.0, 1.001, (25, 26)), (9.999, 10.0, (249, 250)), (9.0, 12.0, (225, 250))]:
        assert ExportedMoment(video, 1, "a", 1, start, end, 0.5).frames == frames


def test_write_export_reads_the_video(tmp_path):
    path = write_video(tmp_path / "my talk.mp4", count=100, rate=5, audio_sec=20.0)
    write_export(tmp_path / "out.csv", ANSWERS, path, top=1)
    with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["start_timecode"], row["end_timecode"], row["end_sec"]) == ("00:00:04:00", "00:00:20:00", "20.000")
    video = read_edited_video(path)
    assert (video.url, video.rate) == ((tmp_path / "my talk.mp4").as_uri(), 25)
    assert (video.width, video.height, video.num_channels, video.sample_rate) == (80, 48, 1, 16000)


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
def test_times_count_from_the_start_of_the_file(name, tmp_path):
    """The first picture is shown 0.4 seconds after the sound begins."""
    path = write_video(tmp_path / name, count=100, times=range(10, 110), max_b_frames=0, audio_sec=4.4)
    video = read_edited_video(path)
    assert (video.first_picture_sec, video.duration_sec) == pytest.approx((0.4, 4.4), abs=1e-6)
    assert video.num_frames == 110
    write_export(tmp_path / "out.srt", ANSWERS, path)
    assert "00:00:01,400 --> 00:00:02,400" in (tmp_path / "out.srt").read_text()
    write_export(tmp_path / "out.edl", ANSWERS, path)
    assert "00:00:01:10 00:00:02:10 " in (tmp_path / "out.edl").read_text()
    [moment] = list_moments([{"query": "a", "moments": [{"start": 3, "end": 9, "score": 1.0}]}], video, top=1)
    assert (moment.start_sec, moment.end_sec, moment.frames) == (3.4, video.duration_sec, (85, 110))


def test_a_transport_stream_starts_with_its_sound(tmp_path):
    """Whose encoder adds 64 ms before it, which count there."""
    path = write_video(tmp_path / "video.ts", count=50, times=range(10, 60), max_b_frames=0, audio_sec=2.4)
    assert read_edited_video(path).first_picture_sec == pytest.approx(0.464)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("priming.mkv", {"audio_sec": 4.0}),  # the encoder of the sound adds samples before time 0
        ("silent.mp4", {"times": range(10, 110)}),
        ("stream.ts", {}),
        ("reordered.avi", {"max_b_frames": 2}),
        ("reordered.mp4", {"max_b_frames": 2, "audio_sec": 4.0}),
    ],
)
def test_most_files_start_with_their_first_picture(name, options, tmp_path):
    assert read_edited_video(write_video(tmp_path / name, count=100, **options)).first_picture_sec == 0


def test_joined_recordings_count_from_the_first_picture(tmp_path):
    path = write_video(tmp_path / "one.ts", count=50, times=range(10, 60), audio_sec=2.4)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(path.read_bytes() * 2)
    assert read_edited_video(joined).first_picture_sec == 0


def test_addresses_of_videos(tmp_path):
    """A file by its bytes, also where its name is no text; a video from the network without its passwords."""
    path = write_video(tmp_path / "video.mp4", count=10)
    strange = os.fsencode(tmp_path / "caf") + b"\xe9.mp4"
    shutil.copy(path, strange)
    video = read_edited_video(os.fsdecode(strange))
    assert video.url.endswith("/caf%E9.mp4")
    assert video.name == "caf\ufffd.mp4"
    with LocalCopy("https://me:secret@host/a.mp4") as copy:
        copy.write(path.read_bytes())
        video = read_edited_video(copy)
    assert (video.url, video.name) == ("https://host/a.mp4", "a.mp4")


@pytest.mark.parametrize(
    ("rate", "label", "expected"),
    [
        (NTSC, "01:00:00;00", (107_892, True)),
        (NTSC, "01:00:00:00", (108_000, False)),
        (NTSC, None, (0, True)),
        (Fraction(25), "10:00:00:00", (900_000, False)),
    ],
)
def test_timecode_of_a_file(rate, label, expected, tmp_path):
    path = tmp_path / "video.mov"
    with av.open(str(path), "w") as container:
        if label is not None:
            container.metadata["timecode"] = label
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            picture = np.zeros((48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    video = read_edited_video(path)
    assert video.rate == rate
    assert (video.start_frame, video.drop_frame) == expected


def test_the_rate_is_that_of_most_pictures(tmp_path):
    """One picture that lasts longer changes the average."""
    path = write_video(tmp_path / "video.mp4", count=20, times=[*range(19), 40])
    assert read_edited_video(path).rate == 25


def test_a_rate_without_timecode_is_reported(tmp_path, caplog):
    path = write_video(tmp_path / "video.mp4", count=10, rate=7)
    with caplog.at_level(logging.INFO):
        assert read_edited_video(path).rate == 30
    assert "has 7.000 frames per second; its timecode counts 30.000, from 0" in caplog.text


@pytest.mark.parametrize("name", ["out.txt", "out.mp4", ".csv", "csv"])
def test_unknown_endings_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.csv, .*\.xml, got"):
        write_moments(tmp_path / name, [], [make_video()])


@pytest.mark.parametrize("ending", EXPORT_ENDINGS)
def test_no_moments(ending, tmp_path):
    if ending == ".otio":
        pytest.importorskip("opentimelineio", reason="the extra `editors` is not installed")
    path = write(tmp_path / f"out{ending.upper()}", [], make_video())
    assert path.exists()
    if ending in (".fcpxml", ".xml"):
        assert not list(ET.parse(path).iter("marker"))


@pytest.mark.parametrize("ending", ONE_VIDEO_ENDINGS)
def test_formats_of_one_video_refuse_several(ending, tmp_path):
    with pytest.raises(ValueError, match="moments of one video, got 2; write .csv instead"):
        write_moments(tmp_path / f"out{ending}", [], [make_video(), make_video("b.mp4")])


def test_characters_that_xml_lacks_are_replaced(tmp_path):
    video = make_video()
    moment = ExportedMoment(video, 1, "bell \x07", 1, 1.0, 2.0, 0.5)
    for ending in (".fcpxml", ".xml"):
        assert "bell \ufffd" in write(tmp_path / f"out{ending}", [moment], video).read_text(encoding="utf-8")
        ET.parse(tmp_path / f"out{ending}")


def test_missing_opentimelineio_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    with pytest.raises(ImportError, match=r"pip install \"r2tuning\[editors\]\""):
        write_moments(tmp_path / "out.otio", [], [make_video()])
    assert not list(tmp_path.iterdir())
