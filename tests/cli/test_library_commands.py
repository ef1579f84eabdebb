"""`r2tuning index`, `search` and `library`: what they print, write and refuse."""

import csv
import json
import os
import re
from xml.etree import ElementTree

import pytest
from cli_output import read_json
from tiny_checkpoints import save_ours
from video_samples import write_video

from r2tuning.commands import shared
from r2tuning.editors import clips
from r2tuning_cli.main import main


pytest.importorskip("lancedb", reason='needs LanceDB: pip install "r2tuning[library]"')


@pytest.fixture(scope="module")
def model(folder, make_model):
    model = make_model(save_backbone=True, backbone_name_or_path=None, fps=1.0, use_existence_head=True)
    return str(save_ours(model, folder / "library_model", fps=1.0))


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("one", "two"):
        write_video(tmp_path / "videos" / f"{name}.mp4", count=40, rate=5)
    return tmp_path / "videos"


@pytest.fixture
def run(capsys):
    """Run a command; return status, stdout and the lines of stderr that are messages."""

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, [line for line in err.splitlines() if line.startswith("r2tuning: ")]

    return run


@pytest.fixture
def library(tmp_path, videos, model, run):
    assert run("index", videos, "--library", tmp_path / "lib", "--model", model)[0] == 0
    return tmp_path / "lib"


def test_index_says_what_it_did(tmp_path, videos, model, run):
    library = tmp_path / "lib"
    status, out, err = run("index", videos, "--library", library, "--model", model, "--keep-features")
    assert (status, err) == (0, [])
    assert out.splitlines() == [
        "2 videos indexed (16 frames), 0 were in the library, 0 failed",
        f"the library '{library}' holds 2 videos of 0.0 hours",
    ]
    (videos / "two.mp4").unlink()
    (videos / "bad.mp4").write_text("no video")
    status, out, err = run("index", videos, "--library", library)
    assert status == 1
    assert out.splitlines()[:3] == [
        "0 videos indexed (0 frames), 1 were in the library, 1 failed",
        f"the library '{library}' holds 2 videos of 0.0 hours",
        f"the files of 1 of them are missing; `r2tuning library remove {library} --missing` removes them",
    ]
    assert out.splitlines()[3].startswith(f"failed: {videos / 'bad.mp4'}: ")


@pytest.mark.integration
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_several_processes_make_the_same_library(tmp_path, videos, model, run, library, executor):
    if executor == "ray":
        pytest.importorskip("ray", reason='needs Ray: pip install "r2tuning[ray]"')
    options = ("--num-processes", 2, "--executor", executor, "--device", "cpu")
    status, out, _ = run("index", videos, "--library", tmp_path / "other", "--model", model, *options)
    assert status == 0
    assert out.startswith("2 videos indexed (16 frames)")
    answers = []
    for folder in (library, tmp_path / "other"):
        run("search", folder, "a", "--json", tmp_path / "found.json")
        answers.append(read_json(tmp_path / "found.json")["answers"][0]["moments"])
    assert answers[0] == answers[1]


def test_search_prints_and_writes_the_same(library, videos, run, tmp_path):
    files = {"--json": "found.json", "--plot": "found.png", "--clips": "clips"}
    options = [part for option, name in files.items() for part in (option, tmp_path / name)]
    status, out, err = run("search", library, "a  b", "c", "--top", 3, *options)
    assert status == 0
    document = read_json(tmp_path / "found.json")
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("Query")] == ["Query: a b", "Query: c"]
    rows = [line.split() for line in lines if line[:6].strip().isdigit()]
    moments = [moment for answer in document["answers"] for moment in answer["moments"]]
    assert len(rows) == len(moments) == 6
    for row, moment in zip(rows, moments, strict=True):
        assert row[1] == f"{moment['score']:.3f}"
        assert row[-1] == moment["path"]
        assert moment["path"] in {str(videos / "one.mp4"), str(videos / "two.mp4")}
        assert 0 <= moment["start"] <= moment["end"] <= 8
    assert "searched 2 videos in" in lines[-1]
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    cut = sorted(path.name for path in (tmp_path / "clips").iterdir())
    lengths = [moment["end"] - moment["start"] for moment in moments]
    assert len(cut) == sum(length > 0 for length in lengths)
    assert cut[0].startswith("query01_moment01_")
    assert f"r2tuning: wrote {tmp_path / 'found.json'}" in err


def test_json_may_go_to_standard_output(library, run, capsys):
    status, out, _ = run("search", library, "a", "--json", "-")
    assert status == 0
    assert json.loads(out)["answers"][0]["query"] == "a"


def test_search_exports_the_moments_of_all_videos(library, videos, run, tmp_path):
    csv_path, xml_path = tmp_path / "found.csv", tmp_path / "found.fcpxml"
    options = ("--json", tmp_path / "found.json", "--export", csv_path, "--export", xml_path)
    status, _, err = run("search", library, "a", "--top", 4, *options)
    assert status == 0
    assert err[-2:] == [f"r2tuning: wrote {csv_path}", f"r2tuning: wrote {xml_path}"]
    found = read_json(tmp_path / "found.json")["answers"][0]["moments"]
    with open(csv_path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [moment for moment in found if moment["start"] < min(moment["end"], 8.0)]
    assert [(row["video"], row["start_sec"]) for row in rows] == [
        (moment["path"], f"{moment['start']:.3f}") for moment in kept
    ]
    assert float(rows[0]["probability"]) == pytest.approx(kept[0]["probability"], abs=1e-6)
    assert len(list(ElementTree.parse(xml_path).iter("asset-clip"))) == len(kept) > 0


def test_a_clip_that_cannot_be_cut_does_not_stop_the_search(library, videos, run, tmp_path, monkeypatch):
    """The other clips are cut, the exports are written, and the exit status is 1."""
    cut_clip = clips.cut_clip

    def cut(video, *arguments):
        if video.path == str(videos / "one.mp4"):
            raise ValueError(f"{video.source.name} cannot be read")
        cut_clip(video, *arguments)

    monkeypatch.setattr(clips, "cut_clip", cut)
    outputs = ("--clips", tmp_path / "clips", "--export", tmp_path / "found.csv")
    status, _, err = run("search", library, "a", "--top", 10, *outputs)
    assert status == 1
    names = [path.name for path in (tmp_path / "clips").iterdir()]
    assert names
    assert not [name for name in names if "_one_" in name]
    export, failed, wrote = err[-3:]
    assert export == f"r2tuning: wrote {tmp_path / 'found.csv'}"
    assert f"clips were not cut: `video` '{videos / 'one.mp4'}' cannot be read" in failed
    assert wrote == f"r2tuning: wrote {len(names)} clips to {tmp_path / 'clips'}"


def test_an_export_that_fails_does_not_keep_clips_from_being_cut(library, run, tmp_path, monkeypatch):
    def refuse(path, moments, videos):
        raise ValueError("`export` cannot hold these videos")

    monkeypatch.setattr(shared, "write_moments", refuse)
    outputs = ("--export", tmp_path / "o.edl", "--plot", tmp_path / "o.png", "--clips", tmp_path / "clips")
    status, _, err = run("search", library, "a", "--top", 2, *outputs)
    assert status == 2
    assert err[-1] == "r2tuning: error: `--export` cannot hold these videos"
    assert (tmp_path / "o.png").exists()
    assert list((tmp_path / "clips").iterdir())


def test_search_refuses_two_outputs_of_one_path(library, run, tmp_path):
    path = tmp_path / "o.csv"
    status, _, err = run("search", library, "a", "--export", path, "--export", path)
    assert status == 2
    assert "is the path of two outputs" in err[0]


def test_a_missing_video_is_named(library, videos, run, tmp_path):
    (videos / "one.mp4").unlink()
    status, out, err = run("search", library, "a", "--clips", tmp_path / "clips", "--plot", tmp_path / "found.png")
    assert status == 0
    assert str(videos / "one.mp4") not in out
    assert f"r2tuning: warning: '{videos / 'one.mp4'}' was not searched: the file is missing" in err


def test_library_lists_verifies_and_removes(library, videos, run, tmp_path):
    status, out, _ = run("library", "list", library)
    assert status == 0
    assert out.splitlines()[0].split() == ["0:08.0", "8", "frames", str(videos / "one.mp4")]
    assert "2 videos, 16 frames" in out
    assert run("library", "verify", library)[:2] == (0, "2 of 2 videos are as they were indexed\n")
    (videos / "one.mp4").unlink()
    status, out, _ = run("library", "verify", library, "--json", tmp_path / "found.json")
    assert status == 1
    assert out.splitlines() == [f"missing: {videos / 'one.mp4'}", "1 of 2 videos are as they were indexed"]
    assert read_json(tmp_path / "found.json")["missing"] == [str(videos / "one.mp4")]
    assert run("library", "remove", library, "--missing")[:2] == (
        0,
        f"removed: {videos / 'one.mp4'}\n1 videos removed\n",
    )
    status, out, _ = run("library", "optimize", library)
    assert out.startswith("8 frames of removed or replaced videos deleted")
    assert run("library", "remove", library, os.path.relpath(videos / "two.mp4"))[0] == 0
    assert run("search", library, "a")[1].splitlines()[:2] == ["Query: a", "  nothing found"]


REFUSED = {
    "no library": (("search", "nowhere", "a"), "There is no library at '.*nowhere'"),
    "empty query": (("search", "LIB", " "), "QUERY"),
    "plot ending": (("search", "LIB", "a", "--plot", "x.gif"), "`--plot` must end in .png"),
    "export of one video": (("search", "LIB", "a", "--export", "x.srt"), "moments of one video only; use one of .csv"),
    "date": (("search", "LIB", "a", "--after", "yesterday"), "must be a date such as"),
    "no video": (("index", "nothing", "--library", "LIB"), "There is no file or folder '.*nothing'"),
    "late copies": (("index", "VIDEOS", "--library", "LIB", "--keep-features"), "`--keep-features` cannot be set"),
    "other model": (("index", "VIDEOS", "--library", "LIB", "--model", "packaged"), "another checkpoint or backbone"),
    "unknown video": (("library", "remove", "LIB", "other.mp4"), "The library has no video '.*other.mp4'"),
    "nothing to remove": (("library", "remove", "LIB"), "needs the videos to remove, or --missing"),
    "too much": (("library", "list", "LIB", "a.mp4"), "takes no videos"),
    "ray address": (("index", "VIDEOS", "--library", "LIB", "--ray-address", "a:1"), "needs `--executor` ray"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_one_line(library, videos, run, name):
    arguments, message = REFUSED[name]
    places = {"LIB": library, "VIDEOS": videos}
    status, out, err = run(*(places.get(argument, argument) for argument in arguments))
    assert (status, out) == (2, "")
    assert [line for line in err if "warning" not in line] == err[-1:]
    assert err[-1].startswith("r2tuning: error: ")
    assert re.search(message, err[-1])


def test_the_page_of_a_library_needs_a_precision_that_it_can_have(folder, capsys):
    assert main(["app", "--library", str(folder / "lib"), "--dtype", "float16"]) == 2
    assert "`--dtype` must be float32 or bfloat16 with a library, got float16" in capsys.readouterr().err
