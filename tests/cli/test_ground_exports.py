"""`r2tuning ground` on several videos, and its edit lists."""

import csv
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from cli_output import DURATION_SEC, QUERIES, only_line, read_json
from video_samples import read_numbers, write_video

from modeling_r2tuning.video_io_r2tuning import load_video_frames
from r2tuning.commands import ground as ground_module
from r2tuning.commands import shared
from r2tuning.editors.clips import distinct_stems
from r2tuning_cli.main import main


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def videos(video, tmp_path):
    """A folder with two videos, a file that is none, and a text."""
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(video, folder / "a.mp4")
    shutil.copy(video, folder / "more" / "a.mp4")
    (folder / "b.mp4").write_text("<html>")
    (folder / "notes.txt").write_text("a man")
    return folder


@pytest.fixture
def run(canned, capsys):
    """Run `r2tuning ground` with canned answers; return status, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        return (main(["ground", *map(str, arguments)]), *capsys.readouterr())

    return run


# ---- several videos ------------------------------------------------------------------------------------------------


def test_a_bad_video_is_skipped_and_named_at_the_end(run, videos, tmp_path):
    status, out, err = run(videos, "-q", "a man", "--query", "people laugh", "--jsonl", tmp_path / "out.jsonl")
    assert status == 1
    names = [str(videos / name) for name in ("a.mp4", "b.mp4", "more/a.mp4")]
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["video"] for line in lines] == names
    assert [len(line.get("answers", [])) for line in lines] == [2, 0, 2]
    assert "it is an HTML page" in lines[1]["error"]
    assert [line for line in out.splitlines() if line.endswith(" (0:20.0)")] == [
        f"{names[0]} (0:20.0)",
        f"{names[2]} (0:20.0)",
    ]
    messages = err.splitlines()
    assert messages[:1] == ["r2tuning: warning: 1 of 3 videos failed:"]
    assert messages[1].startswith(f"r2tuning: warning: '{names[1]}': `video` '{names[1]}' cannot be read as a video")
    assert messages[2:] == [f"r2tuning: wrote {tmp_path / 'out.jsonl'}"]


def test_a_line_of_json_holds_what_the_json_file_does(ground, run, video, tmp_path):
    run(video, *QUERIES, "--json", tmp_path / "out.json", "--jsonl", tmp_path / "out.jsonl")
    [line] = read_lines(tmp_path / "out.jsonl")
    assert line == read_json(tmp_path / "out.json")


def test_several_videos_are_grounded_as_each_alone(video, checkpoint, folder, tmp_path, capsys):
    other = str(write_video(folder / "other.mp4", count=40, rate=5))
    options = ["-q", "a man", "--model", checkpoint, "--jsonl"]
    assert main(["ground", video, other, *options, str(tmp_path / "both.jsonl")]) == 0
    alone = []
    for path in (video, other):
        assert main(["ground", path, *options, str(tmp_path / "one.jsonl")]) == 0
        alone += read_lines(tmp_path / "one.jsonl")
    assert read_lines(tmp_path / "both.jsonl") == alone
    assert len(alone) == 2


def test_json_lines_to_standard_output(run, videos, video):
    status, out, err = run(videos / "a.mp4", video, "-q", "a man", "--jsonl", "-")
    assert status == 0
    assert [json.loads(line)["video"] for line in out.splitlines()] == [str(videos / "a.mp4"), video]
    assert err.startswith(f"{videos / 'a.mp4'} (0:20.0)\n\nQuery: a man\n")


def test_queries_of_a_file(run, video, tmp_path):
    (tmp_path / "queries.txt").write_text("\ufeffein Mann\n\n  people laugh \n", encoding="utf-8")
    status, out, _ = run(video, "--queries", tmp_path / "queries.txt", "-q", "first")
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("Query")] == [
        "Query: first",
        "Query: ein Mann",
        "Query: people laugh",
    ]


def test_options_may_stand_between_video_and_query(run, video):
    assert run(video, "--top", 1, "a man")[0] == 0
    assert run("--top", 1, video, "a man")[0] == 0
    assert run("-q", "a man", video, video)[0] == 0


def test_all_videos_bad(run, tmp_path):
    (tmp_path / "bad.mp4").write_text("")
    status, out, err = run(tmp_path / "bad.mp4", tmp_path / "gone.mp4", "-q", "a", "--export", tmp_path / "out.csv")
    assert (status, out) == (1, "")
    assert "2 of 2 videos failed" in err
    assert "because there are no moments" in err
    assert not (tmp_path / "out.csv").exists()


def test_a_bad_model_is_no_fault_of_the_videos(videos, capsys):
    assert main(["ground", str(videos), "-q", "a", "--model", "/no/such/model"]) == 2
    assert "videos failed" not in capsys.readouterr().err


def test_clips_of_videos_with_equal_names(run, videos, tmp_path):
    run(videos, "-q", "a man", "--clips", tmp_path / "clips", "--top", 1)
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == ["query01_moment01_a-2_4.0-10.0s.mp4", "query01_moment01_a_4.0-10.0s.mp4"]


def test_names_that_no_file_system_refuses(tmp_path):
    stems = distinct_stems(['a:b?"c".mp4', "x/TALK.mp4", "talk.mkv", "é" * 200 + ".mp4", "é" * 200 + ".mkv"])
    assert list(stems.values())[:3] == ["a_b__c_", "TALK", "talk-2"]
    long, other = list(stems.values())[3:]
    assert (long, other) == ("é" * 75, "é" * 75 + "-2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["VIDEO"], "a QUERY is required"),
        (
            ["VIDEO", "VIDEO", "-q", "a", "--json", "out.json"],
            "`--json` takes the answers about one video; for several there is `--jsonl`",
        ),
        (["DIR", "-q", "a", "--plot", "out.png"], "`--plot` takes the answers about one video"),
        (["DIR", "-q", "a", "--export", "out.srt"], "'out.srt' can hold the moments of one video only"),
        (["VIDEO", "a", "--export", "out.mp4"], "`--export` must end in .csv, "),
        (["VIDEO", "a", "--json", "-", "--jsonl", "-"], "`--json` and `--jsonl` cannot both go to standard output"),
        (["VIDEO", "-q", " "], "QUERY"),
        (["DIR", "a man"], "'DIR' is a folder; to ground all videos in it, give each query with -q"),
        (["VIDEO", "a", "--copy"], "`--copy` needs `--clips`"),
        (["VIDEO", "--queries", "VIDEO"], "`--queries` 'VIDEO' must be a text file in UTF-8"),
        (["VIDEO", "--queries", "empty.txt"], "must hold a query on each line"),
        (["VIDEO", "--queries", "gone.txt"], "No such file"),
        (["empty", "-q", "a"], "The folder 'empty' holds no video files"),
        (["VIDEO", "a", "--export", "no/out.csv"], "'no/out.csv' cannot be written"),
        (["VIDEO", "-q", "a", "--export", "VIDEO.csv"], "it is an input of this command"),
    ],
)
def test_wrong_arguments(arguments, message, run, video, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "video.csv").hardlink_to(videos / "a.mp4")
    places = {"VIDEO": str(videos / "a.mp4"), "DIR": str(videos), "VIDEO.csv": "video.csv"}
    status, out, err = run(*(places.get(argument, argument) for argument in arguments))
    assert (status, out) == (2, "")
    assert message.replace("'VIDEO'", f"'{places['VIDEO']}'").replace("'DIR'", f"'{videos}'") in only_line(err)


def test_a_video_that_is_named_twice_is_grounded_once(run, videos, tmp_path):
    (tmp_path / "link.mp4").symlink_to(videos / "a.mp4")
    again = videos / ".." / "videos" / "more"
    named = (videos / "a.mp4", videos / "more", again, tmp_path / "link.mp4")
    run(*named, "-q", "a", "--jsonl", tmp_path / "out.jsonl")
    assert [line["video"] for line in read_lines(tmp_path / "out.jsonl")] == [
        str(videos / "a.mp4"),
        str(videos / "more" / "a.mp4"),
    ]


@pytest.mark.parametrize(
    "outputs",
    [
        ("--json", "o", "--jsonl", "o"),
        ("--export", "o.csv", "--export", "./o.csv"),
        ("--json", "o.csv", "--export", "o.csv"),
        ("--json", "clips", "--clips", "clips"),
    ],
)
def test_two_outputs_need_two_paths(outputs, run, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(video, "a", *outputs)
    assert status == 2
    assert "is the path of two outputs" in only_line(err)
    assert not list(tmp_path.glob("o*"))


def test_a_folder_for_clips_that_cannot_be_written_is_refused_at_the_start(run, video, tmp_path, monkeypatch):
    clips, access = tmp_path / "clips", os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != clips and access(path, mode))
    monkeypatch.setattr(ground_module, "load_pipeline", lambda args: pytest.fail("the model was loaded"))
    status, _, err = run(video, "a", "--clips", clips)
    assert status == 2
    assert f"you may not write to the folder '{clips}'" in only_line(err)


# ---- interrupts and full disks -------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(monkeypatch):
    """Let the second video that is read be interrupted, after a check."""

    def interrupt(check):
        read, calls = ground_module._Run._answer, []

        def answer(self, video):
            calls.append(video)
            if len(calls) == 2:
                check()
                raise KeyboardInterrupt
            return read(self, video)

        monkeypatch.setattr(ground_module._Run, "_answer", answer)

    return interrupt


def test_an_interrupted_run_keeps_what_is_done(run, videos, tmp_path, interrupted):
    """A line of JSON is in the file once its video is done; the exports hold the videos that were done."""
    lines = tmp_path / "out.jsonl"
    lines.write_text("of a former run\n")
    interrupted(lambda: pytest.fail("no line") if len(read_lines(lines)) != 1 else None)
    outputs = ("--jsonl", lines, "--export", tmp_path / "out.csv")
    status, _, err = run(videos / "a.mp4", videos / "more" / "a.mp4", "-q", "a man", *outputs)
    assert status == 130
    assert [line["video"] for line in read_lines(lines)] == [str(videos / "a.mp4")]
    assert len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert f"wrote {lines}" in err
    assert "interrupted" in err.splitlines()[-1]


def test_an_export_that_fails_does_not_hide_the_interrupt(run, videos, video, tmp_path, interrupted, monkeypatch):
    interrupted(lambda: None)

    def refuse(path, moments, videos):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(shared, "write_moments", refuse)
    status, _, err = run(video, videos / "a.mp4", "-q", "a man", "--export", tmp_path / "out.csv")
    assert status == 130
    assert "warning: [Errno 28] No space left" in err


def test_lines_of_a_former_run_stay_until_the_first_new_one(videos, tmp_path):
    lines = tmp_path / "out.jsonl"
    lines.write_text("of a former run\n")
    assert main(["ground", str(videos), "-q", "a", "--model", "/no/such/model", "--jsonl", str(lines)]) == 2
    assert lines.read_text() == "of a former run\n"


def test_a_picture_that_cannot_be_written_costs_no_more_than_itself(run, video, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ground_module, "plot_grounding", refuse)
    outputs = ("--jsonl", tmp_path / "out.jsonl", "--export", tmp_path / "out.csv", "--plot", tmp_path / "out.png")
    status, _, err = run(video, "-q", "a", *outputs)
    assert status == 1
    assert "1 of 1 videos failed" in err
    assert "No space left on device" in err
    assert len(read_lines(tmp_path / "out.jsonl")) == 1
    assert (tmp_path / "out.csv").exists()
    status, _, err = run(video, "a", *outputs)
    assert status == 2
    assert f"wrote {tmp_path / 'out.csv'}" in err


def test_every_export_that_fails_is_named(run, video, tmp_path, monkeypatch):
    def refuse(path, moments, videos):
        raise ValueError(f"{path.name} failed")

    monkeypatch.setattr(shared, "write_moments", refuse)
    status, _, err = run(video, "a", "--export", tmp_path / "a.csv", "--export", tmp_path / "b.csv")
    assert status == 2
    assert err.splitlines()[-2:] == ["r2tuning: warning: b.csv failed", "r2tuning: error: a.csv failed"]


# ---- copies --------------------------------------------------------------------------------------------------------


def test_copied_clips_say_by_how_much_they_missed(run, tmp_path):
    """Key pictures are five seconds apart: the moments 4 to 9.96 and 12.25 to 20 become 5 to 10 and 10 to 20."""
    video = write_video(tmp_path / "talk.mkv", count=5 * DURATION_SEC, rate=5, options={"sc_threshold": "0"})
    status, _, err = run(video, "a man", "--clips", tmp_path / "clips", "--copy")
    assert status == 0
    first, second = "query01_moment01_talk_4.0-10.0s.mp4", "query01_moment02_talk_12.2-20.0s.mp4"
    assert err.splitlines() == [
        f"r2tuning: {first} starts +1.00 s and ends +0.04 s from the moment",
        f"r2tuning: {second} starts -2.25 s and ends +0.00 s from the moment",
        "r2tuning: warning: moment 3 of query 1 is empty and was not cut",
        f"r2tuning: wrote 2 clips to {tmp_path / 'clips'}",
    ]
    frames = load_video_frames(tmp_path / "clips" / first, 5).frames
    assert read_numbers(frames) == list(range(25, 50))


def test_a_video_that_cannot_be_copied_does_not_stop_the_others(run, video, tmp_path):
    avi = write_video(tmp_path / "old.avi", count=100, rate=5, max_b_frames=2)
    outputs = ("--jsonl", tmp_path / "out.jsonl", "--export", tmp_path / "out.csv")
    status, _, err = run(avi, video, "-q", "a", "--clips", tmp_path / "c", "--copy", *outputs)
    assert status == 1
    assert "warning: 2 clips were not cut: `video`" in err
    assert "does not state when each picture is shown" in err
    assert "cut it without `--copy`" in err
    assert f"'{avi}': 2 clips were not cut" in err
    assert [len(line["answers"]) for line in read_lines(tmp_path / "out.jsonl")] == [1, 1]
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5


def test_a_clip_that_cannot_be_written_does_not_stop_the_others(run, video, tmp_path):
    name = "query01_moment01_talk_4.0-10.0s.mp4"
    (tmp_path / "clips" / name).mkdir(parents=True)
    status, _, err = run(video, "a man", "--clips", tmp_path / "clips", "--export", tmp_path / "out.csv")
    assert status == 1
    assert f"warning: 1 clips were not cut: '{tmp_path / 'clips' / name}' cannot be written" in err
    assert (tmp_path / "clips" / "query01_moment02_talk_12.2-20.0s.mp4").is_file()
    assert f"wrote 1 clips to {tmp_path / 'clips'}" in err
    assert (tmp_path / "out.csv").exists()


# ---- exports -------------------------------------------------------------------------------------------------------


def test_exports_hold_the_printed_moments(run, video, tmp_path):
    options = []
    for ending in ("csv", "srt", "edl", "fcpxml"):
        options += ["--export", tmp_path / f"out.{ending}"]
    status, _, err = run(video, *QUERIES, "--top", 2, *options)
    assert status == 0
    rate, *wrote = err.splitlines()
    assert rate == f"r2tuning: '{video}' has 5.000 frames per second; its timecode counts 25.000, from 0"
    assert wrote == [f"r2tuning: wrote {path}" for path in options[1::2]]
    with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["rank"]) for row in rows] == [(query, rank) for query in QUERIES for rank in "12"]
    # At 5 frames per second the timecode counts 25: 9.96 and 12.25 seconds are 249 and, halves up, 306 frames.
    assert [row["start_timecode"] for row in rows[:2]] == ["00:00:04:00", "00:00:12:06"]
    assert [row["end_timecode"] for row in rows[:2]] == ["00:00:09:24", "00:00:20:00"]
    assert len(list(ET.parse(tmp_path / "out.fcpxml").iter("marker"))) == 4
    assert "00:00:04:00 00:00:09:24 00:00:00:00 00:00:05:24" in (tmp_path / "out.edl").read_text()
    assert (tmp_path / "out.srt").read_text().startswith("1\n00:00:04,000 --> 00:00:09,960\na man in red (0.91)\n")


def test_one_export_of_several_videos(run, videos, tmp_path):
    status, _, _ = run(
        videos, "-q", "a man", "--top", 1, "--export", tmp_path / "out.csv", "--export", tmp_path / "o.edl"
    )
    assert status == 1
    with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == [
            str(videos / "a.mp4"),
            str(videos / "more" / "a.mp4"),
        ]
    events = [line.split()[1] for line in (tmp_path / "o.edl").read_text().splitlines() if line[:3].isdigit()]
    assert events == ["A", "A2"]


def test_a_format_that_cannot_hold_the_videos_does_not_stop_the_others(run, video, tmp_path):
    other = write_video(tmp_path / "other.mp4", count=8 * DURATION_SEC, rate=8)  # 24 frames of timecode per second
    exports = ("--export", tmp_path / "out.edl", "--export", tmp_path / "out.fcpxml")
    status, _, err = run(video, other, "-q", "a", *exports)
    assert status == 2
    assert (
        "`--export` cannot write .edl, which has one frame rate, for videos of 24.000, 25.000" in err.splitlines()[-1]
    )
    assert [path.name for path in sorted(tmp_path.glob("out*"))] == ["out.fcpxml"]


def test_a_missing_package_is_named_at_the_start(run, video, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    monkeypatch.setattr(ground_module, "load_pipeline", lambda args: pytest.fail("the model was loaded"))
    status, _, err = run(video, "a", "--export", tmp_path / "out.otio")
    assert status == 2
    assert 'pip install "r2tuning[editors]"' in only_line(err)


def test_exports_are_those_of_the_real_model(ground, tmp_path):
    ground("--export", tmp_path / "out.csv", "--json", tmp_path / "out.json", "--top", 3)
    answers = read_json(tmp_path / "out.json")["answers"]
    with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
        rows = [(float(row["start_sec"]), float(row["end_sec"])) for row in csv.DictReader(file)]
    expected = []
    for answer in answers:
        for moment in answer["moments"][:3]:
            expected.append((round(moment["start"], 3), round(min(moment["end"], DURATION_SEC), 3)))
    assert rows == expected
