"""`r2tuning ground`: what goes to stdout, to stderr and to files."""

import errno
import io
import json
import logging
import os
import sys
from pathlib import Path

import av
import pytest
from cli_output import DURATION_SEC, QUERIES, only_line, read_json
from fresh_python import run_fresh
from tqdm import tqdm
from transformers.utils import logging as transformers_logging
from video_samples import read_number, truncate, write_video

import modeling_r2tuning
from modeling_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.video_io_r2tuning import load_video_frames
from r2tuning import terminal
from r2tuning.commands import ground as ground_module
from r2tuning.editors import clips
from r2tuning_cli.main import main


# ---- what is printed -----------------------------------------------------------------------------------------------


def test_table(ground, canned, video):
    status, out, err = ground("--top", 2, queries=["a  man\nin red"])
    assert (status, err) == (0, "")
    assert out == (
        f"{video} (0:20.0)\n"
        "\n"
        "Query: a man in red\n"
        "  rank      start        end  score\n"
        "     1     0:04.0     0:10.0  0.910\n"
        "     2     0:12.2     0:20.0  0.500\n"
        "  highlights: 0:10.0 (0.50), 0:00.0 (-0.25)\n"
        "  summary: 0:00.0-0:02.0, 1:00.0-61:11.0\n"
    )


def test_every_query_has_its_table(ground):
    status, out, err = ground()
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("Query")] == [f"Query: {query}" for query in QUERIES]
    assert [line.split()[0] for line in out.splitlines() if line.endswith("score")] == ["rank"] * 2
    ranks = [line.split()[0] for line in out.splitlines() if line[:6].strip().isdigit()]
    assert ranks == list("12345") * 2


def test_suppressed_moments_are_neither_printed_nor_written(ground, tmp_path):
    options = ("--nms", "hard", "--top", 50)
    shown = ground(*options, "--json", tmp_path / "kept.json")[1]
    everything = ground(*options, "--score-threshold", "none", "--json", tmp_path / "all.json")[1]
    assert (" 0.000\n" in shown, " 0.000\n" in everything) == (False, True)
    kept, every = (read_json(tmp_path / name)["answers"] for name in ("kept.json", "all.json"))
    for one, other in zip(kept, every, strict=True):
        assert one["moments"] == [moment for moment in other["moments"] if moment["score"] > 0]
        assert 0 < len(one["moments"]) < len(other["moments"])


def test_no_result_is_reported(ground, canned):
    canned.update(moments=[], highlights=[], summary=[])
    status, out, _ = ground(queries=["a man"])
    assert status == 0
    assert out.endswith("Query: a man\n  no moments\n  highlights: none\n  summary: none\n")


def test_there_may_be_no_moments(ground):
    status, out, _ = ground("--score-threshold", 1)
    assert status == 0
    assert out.count("\n  no moments\n") == 2
    assert "rank" not in out


def test_as_a_program_only_results_and_own_messages_are_shown(video, checkpoint, tmp_path):
    command = ["-m", "r2tuning_cli.main", "ground", video, "people laugh", "--model", checkpoint]
    finished = run_fresh([*command, "--json", tmp_path / "out.json"], cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"{video} (0:20.0)\n\nQuery: people laugh\n  rank ")
    assert finished.stderr == f"r2tuning: wrote {tmp_path / 'out.json'}\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


class EagerBar(tqdm):
    def __init__(self, **options):
        super().__init__(mininterval=0, **options)


def test_progress_is_shown_on_a_terminal(video, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(terminal, "tqdm", EagerBar)
    assert main(["ground", video, "a man", "--model", checkpoint, "--clips", str(tmp_path / "clips")]) == 0
    shown = sys.stderr.getvalue()
    assert "reading frames: " in shown
    assert "20/20" in shown
    assert "cutting clips: " in shown
    assert "5/5" in shown
    assert "Loading weights" not in shown


def test_warnings_of_the_library_are_one_line_each_and_once(ground, folder, tmp_path):
    path = truncate(write_video(tmp_path / "cut.mkv", count=200, rate=5), 0.5)
    status, _, err = ground("--clips", tmp_path / "clips", source=str(path))
    assert status == 0
    warnings = [line for line in err.splitlines() if line.startswith("r2tuning: warning: ")]
    assert len(warnings) == len(set(warnings))
    assert sum("before its declared end" in line for line in warnings) == 1
    assert all(line.startswith("r2tuning: ") for line in err.splitlines())


def test_settings_of_the_libraries_are_restored(ground):
    def state():
        package = logging.getLogger("modeling_r2tuning")
        bars = terminal.hub_utils.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
        return transformers_logging.get_verbosity(), *bars, package.level, list(package.handlers)

    before = state()
    ground()
    ground("--top", 0)
    assert state() == before


# ---- files ---------------------------------------------------------------------------------------------------------


def test_json_holds_everything(ground, video, checkpoint, tmp_path):
    status, _, err = ground("--json", tmp_path / "out.json", "--top", 1)
    assert (status, only_line(err)) == (0, f"r2tuning: wrote {tmp_path / 'out.json'}")
    document = read_json(tmp_path / "out.json")
    assert list(document) == ["video", "duration_sec", "fps", "model", "answers"]
    assert (document["video"], document["model"]) == (video, checkpoint)
    assert (document["duration_sec"], document["fps"]) == (DURATION_SEC, 1.0)
    assert [answer["query"] for answer in document["answers"]] == list(QUERIES)
    for answer in document["answers"]:
        assert set(answer) == {"query", "moments", "saliency", "frame_times", "highlights", "summary"}
        assert len(answer["moments"]) > 20
        assert len(answer["saliency"]) == len(answer["frame_times"]) == DURATION_SEC
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_json_equals_the_pipeline(ground, video, checkpoint, tmp_path):
    ground("--device", "cpu", "--json", tmp_path / "out.json")
    pipe = VideoGroundingPipeline(
        model=modeling_r2tuning.R2TuningForVideoGrounding.from_pretrained(checkpoint),
        processor=modeling_r2tuning.R2TuningProcessor.from_pretrained(checkpoint),
        device="cpu",
    )
    assert read_json(tmp_path / "out.json")["answers"] == pipe(video, query=list(QUERIES))


def test_json_replaces_a_file_only_when_it_is_complete(ground, canned, tmp_path):
    (tmp_path / "out.json").write_text("old")
    canned["saliency"][0] = float("nan")
    status, _, err = ground("--json", tmp_path / "out.json")
    assert status == 2
    assert only_line(err).startswith("r2tuning: error: ")
    assert (tmp_path / "out.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_plot(ground, tmp_path):
    pytest.importorskip("matplotlib", reason="the optional matplotlib draws")
    status, _, err = ground("--plot", tmp_path / "plot.png")
    assert (status, only_line(err)) == (0, f"r2tuning: wrote {tmp_path / 'plot.png'}")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_clips_are_the_moments_as_playable_files(ground, canned, tmp_path):
    status, _, err = ground("--clips", tmp_path / "new" / "clips", queries=["a man"])
    assert status == 0
    assert err.splitlines() == [
        "r2tuning: warning: moment 3 of query 1 is empty and was not cut",
        f"r2tuning: wrote 2 clips to {tmp_path / 'new' / 'clips'}",
    ]
    names = ["query01_moment01_talk_4.0-10.0s.mp4", "query01_moment02_talk_12.2-20.0s.mp4"]
    assert sorted(path.name for path in (tmp_path / "new" / "clips").iterdir()) == names
    for name, start, length in zip(names, (4.0, 12.25), (5.96, 7.75), strict=True):
        clip = load_video_frames(tmp_path / "new" / "clips" / name, fps=5)
        assert clip.duration_sec == pytest.approx(length, abs=0.21)
        assert read_number(clip.frames[0]) == int(start * 5)
        with av.open(str(tmp_path / "new" / "clips" / name)) as container:
            assert container.streams.video[0].codec_context.name == "h264"


def test_clips_of_the_best_moments_only(ground, tmp_path):
    assert ground("--clips", tmp_path, "--top", 1)[0] == 0
    assert [path.name.split("_")[:2] for path in sorted(tmp_path.iterdir())] == [
        ["query01", "moment01"],
        ["query02", "moment01"],
    ]


def test_clips_sort_by_query_and_rank(ground, canned, tmp_path, monkeypatch):
    canned["moments"] = [{"start": float(start), "end": start + 0.5, "score": 0.5} for start in reversed(range(12))]
    cut = []
    monkeypatch.setattr(clips, "cut_clip", lambda video, path, start, end: cut.append(path.name))
    assert ground("--clips", tmp_path, "--top", 12)[0] == 0
    assert len(cut) == 24
    assert cut == sorted(cut)


def test_json_to_standard_output(ground, video):
    """The table goes to standard error, so that another program can read the JSON."""
    status, out, err = ground("--json", "-")
    assert status == 0
    assert [answer["query"] for answer in json.loads(out)["answers"]] == list(QUERIES)
    assert err.startswith(f"{video} (0:20.0)\n\nQuery: {QUERIES[0]}\n  rank ")
    assert not Path("-").exists()


@pytest.fixture
def taken(tmp_path, video):
    """Paths that must not be written, by what they are."""
    places = {kind: tmp_path / f"{kind}.png" for kind in ("pipe", "link", "device", "video", "folder")}
    os.mkfifo(places["pipe"])
    (tmp_path / "target").write_text("kept")
    places["link"].symlink_to(tmp_path / "target")
    places["device"].symlink_to(os.devnull)
    os.link(video, places["video"])
    places["folder"].mkdir()
    return places


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize("kind", ["pipe", "link", "device", "video", "folder"])
def test_only_ordinary_files_are_replaced_and_never_the_video(ground, taken, tmp_path, monkeypatch, kind, option):
    """The command stops before the model is loaded."""
    monkeypatch.setattr(ground_module, "load_pipeline", lambda args: pytest.fail("the model was loaded"))
    before = os.lstat(taken[kind])
    status, _, err = ground(option, taken[kind])
    assert status == 2
    assert f"'{taken[kind]}' cannot be written" in only_line(err)
    assert os.lstat(taken[kind])[:3] == before[:3]
    assert (tmp_path / "target").read_text() == "kept"


def test_no_clip_replaces_the_video(ground, canned, video, tmp_path):
    clip = tmp_path / "query01_moment01_talk_4.0-10.0s.mp4"
    os.link(video, clip)
    status, _, err = ground("--clips", tmp_path, "--top", 1, queries=["a man"])
    assert status == 1
    assert f"'{clip}' cannot be written: it is an input" in err
    assert os.path.samefile(clip, video)


@pytest.mark.parametrize(("option", "name"), [("--json", "out.json"), ("--plot", "out.png"), ("--clips", "clips")])
def test_full_disk_names_the_file_and_leaves_nothing(ground, canned, tmp_path, monkeypatch, option, name):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    status, _, err = ground(option, tmp_path / name)
    assert status == (1 if option == "--clips" else 2)
    assert f"No space left on device: '{tmp_path / name}" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
