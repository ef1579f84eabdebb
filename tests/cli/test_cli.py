"""The command line: every option, what goes to stdout, to stderr and to files, and one line for every error."""

import errno
import functools
import io
import json
import logging
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest
import torch
from tiny_checkpoints import save_clip, save_ours, save_released
from tqdm import tqdm
from transformers.utils import logging as transformers_logging
from video_samples import read_number, truncate, write_video

import modeling_r2tuning
from dataset_scripts.benchmarks import released_benchmarks
from modeling_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.video_io_r2tuning import load_video_frames
from r2tuning.commands import main as commands
from r2tuning.commands.main import main
from r2tuning_cli.arguments import SPELLINGS, make_parser, spell_options


DURATION_SEC = 20
QUERIES = ("a man in red", "people laugh")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """What is not here is not looked for elsewhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def video(folder):
    """20 seconds, 5 numbered pictures a second."""
    return str(write_video(folder / "talk.mp4", count=5 * DURATION_SEC, rate=5))


@pytest.fixture(scope="module")
def checkpoint(folder, make_model):
    """Our checkpoint, CLIP included, sampled at one frame a second."""
    model = make_model(save_backbone=True, backbone_name_or_path=None, fps=1.0)
    return str(save_ours(model, folder / "checkpoint", fps=1.0))


@pytest.fixture(scope="module")
def clip(folder, tiny_clip):
    return str(save_clip(tiny_clip, folder / "clip"))


@pytest.fixture
def ground(video, checkpoint, capsys):
    """Run `r2tuning ground` on the video; return status, stdout and stderr."""

    def run(*options, queries=QUERIES, source=video, model=checkpoint):
        capsys.readouterr()  # of the test's own preparations
        status = main(["ground", source, *queries, "--model", model, *map(str, options)])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def spy(monkeypatch):
    """What the pipeline was made of and called with."""
    seen = {}

    class Spy(VideoGroundingPipeline):
        def __init__(self, **parts):
            seen.update(parts)
            super().__init__(**parts)

        def __call__(self, video, **options):
            seen["options"] = options
            return super().__call__(video, **options)

    monkeypatch.setattr(commands, "VideoGroundingPipeline", Spy)
    return seen


@pytest.fixture
def canned(monkeypatch):
    """Let the pipeline give a fixed answer to every query."""
    answer = {
        "moments": [
            {"start": 4.0, "end": 9.96, "score": 0.91},
            {"start": 12.25, "end": 20.0, "score": 0.5},
            {"start": 8.0, "end": 8.0, "score": 0.25},
        ],
        "saliency": [0.5, 0.25],
        "frame_times": [0.0, 10.0],
        "highlights": [{"time": 10.0, "score": 0.5}, {"time": 0.0, "score": -0.25}],
        "summary": [{"start": 0.0, "end": 2.0}, {"start": 59.96, "end": 3671.0}],
    }

    def pipe(video, query, progress, **options):
        progress(32, 64)
        return [{"query": each, **answer} for each in query]

    pipe.processor = type("Processor", (), {"fps": 0.5})
    monkeypatch.setattr(commands, "_load_pipeline", lambda args: pipe)
    return answer


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def only_line(text):
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


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


def test_nothing_found_is_said(ground, canned):
    canned.update(moments=[], highlights=[], summary=[])
    status, out, _ = ground(queries=["a man"])
    assert status == 0
    assert out.endswith("Query: a man\n  no moments\n  highlights: none\n  summary: none\n")


def test_moments_may_be_none(ground):
    status, out, _ = ground("--score-threshold", 1)
    assert status == 0
    assert out.count("\n  no moments\n") == 2
    assert "rank" not in out


def test_as_a_program_only_results_and_own_messages_are_shown(video, checkpoint, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "r2tuning.commands.main", "ground", video, "people laugh"]
        + ["--model", checkpoint, "--json", str(tmp_path / "out.json")],
        cwd=Path(modeling_r2tuning.__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
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
    monkeypatch.setattr(commands, "tqdm", EagerBar)
    assert main(["ground", video, "a man", "--model", checkpoint, "--clips", str(tmp_path / "clips")]) == 0
    shown = sys.stderr.getvalue()
    assert "looking at frames: " in shown
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


def test_settings_of_the_libraries_are_put_back(ground):
    def state():
        package = logging.getLogger("modeling_r2tuning")
        bars = commands.hub_utils.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
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
    names = ["talk_query01_moment01_4.0-10.0s.mp4", "talk_query01_moment02_12.2-20.0s.mp4"]
    assert sorted(path.name for path in (tmp_path / "new" / "clips").iterdir()) == names
    for name, start, length in zip(names, (4.0, 12.25), (5.96, 7.75), strict=True):
        clip = load_video_frames(tmp_path / "new" / "clips" / name, fps=5)
        assert clip.duration_sec == pytest.approx(length, abs=0.21)
        assert read_number(clip.frames[0]) == int(start * 5)
        with av.open(str(tmp_path / "new" / "clips" / name)) as container:
            assert container.streams.video[0].codec_context.name == "h264"


def test_clips_of_the_best_moments_only(ground, tmp_path):
    assert ground("--clips", tmp_path, "--top", 1)[0] == 0
    assert [path.name.split("_")[1:3] for path in sorted(tmp_path.iterdir())] == [
        ["query01", "moment01"],
        ["query02", "moment01"],
    ]


def test_clips_sort_by_query_and_rank(ground, canned, tmp_path, monkeypatch):
    canned["moments"] = [{"start": float(start), "end": start + 0.5, "score": 0.5} for start in reversed(range(12))]
    cut = []
    monkeypatch.setattr(commands, "cut_clip", lambda video, path, start, end: cut.append(path.name))
    assert ground("--clips", tmp_path, "--top", 12)[0] == 0
    assert len(cut) == 24
    assert cut == sorted(cut)


def test_json_to_standard_output(ground, video):
    """The table gives way to it, so that another program can read it."""
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
    """The command ends before the model is loaded."""
    monkeypatch.setattr(commands, "_load_pipeline", lambda args: pytest.fail("the model was loaded"))
    before = os.lstat(taken[kind])
    status, _, err = ground(option, taken[kind])
    assert status == 2
    assert f"'{taken[kind]}' cannot be written" in only_line(err)
    assert os.lstat(taken[kind])[:3] == before[:3]
    assert (tmp_path / "target").read_text() == "kept"


def test_no_clip_replaces_the_video(ground, canned, video, tmp_path):
    clip = tmp_path / "talk_query01_moment01_4.0-10.0s.mp4"
    os.link(video, clip)
    status, _, err = ground("--clips", tmp_path, queries=["a man"])
    assert status == 2
    assert f"'{clip}' cannot be written: it is an input" in only_line(err)
    assert os.path.samefile(clip, video)


@pytest.mark.parametrize(("option", "name"), [("--json", "out.json"), ("--plot", "out.png"), ("--clips", "clips")])
def test_full_disk_names_the_file_and_leaves_nothing(ground, canned, tmp_path, monkeypatch, option, name):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    status, _, err = ground(option, tmp_path / name)
    assert status == 2
    assert f"No space left on device: '{tmp_path / name}" in only_line(err)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("--fps", "2.5"), {"fps": 2.5}),
        (("--window-sec", "7"), {"window_sec": 7.0}),
        (("--window-sec", "none"), {"window_sec": None}),
        (("--nms", "linear"), {"nms": "linear"}),
        (("--nms", "none"), {"nms": None}),
        (("--round-to", "0.5"), {"round_to": 0.5}),
        (("--round-to", "none"), {"round_to": None}),
        (("--score-threshold", "0.25"), {"score_threshold": 0.25}),
        (("--score-threshold", "none"), {"score_threshold": None}),
        (("--top", "60"), {"max_moments": 60}),
    ],
)
def test_options_reach_the_pipeline(arguments, options, ground, spy):
    assert ground(*arguments)[0] == 0
    given = {name: value for name, value in spy["options"].items() if name != "progress"}
    assert given == {"query": list(QUERIES), "max_moments": 50, **options}


def test_fps_and_rounding_change_the_result(ground, tmp_path):
    ground("--fps", 2, "--round-to", 5, "--json", tmp_path / "out.json")
    document = read_json(tmp_path / "out.json")
    assert document["fps"] == 2.0
    assert len(document["answers"][0]["saliency"]) == 2 * DURATION_SEC
    inside = [moment for moment in document["answers"][0]["moments"] if moment["end"] < DURATION_SEC]
    assert inside
    assert all(moment["start"] % 5 == moment["end"] % 5 == 0 for moment in inside)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_that_of_the_encoders(dtype, ground, spy):
    assert ground("--dtype", dtype)[0] == 0
    assert spy["model"].vision_model.dtype == spy["model"].text_model.dtype == getattr(torch, dtype)
    assert spy["model"].r2_block.scale.dtype == torch.float32


def test_device(ground, spy):
    ground()
    assert spy["device"].type == ("cuda" if torch.cuda.is_available() else "cpu")
    ground("--device", "cpu")
    assert spy["device"].type == "cpu"


def test_clip_says_where_the_encoders_are(ground, spy, make_model, clip, tiny_clip, tmp_path):
    model = save_ours(make_model(backbone_name_or_path="gone/clip", backbone_revision="old"), tmp_path / "small")
    status, _, err = ground(model=str(model))
    assert status == 2
    assert "gone/clip" in only_line(err)
    assert ground("--backbone", clip, model=str(model))[::2] == (0, "")
    weight = spy["model"].vision_model.embeddings.patch_embedding.weight
    torch.testing.assert_close(weight.cpu(), tiny_clip.vision_model.embeddings.patch_embedding.weight)


def test_clip_in_vain(ground, clip):
    status, _, err = ground("--backbone", clip)
    assert (status, only_line(err)) == (
        0,
        "r2tuning: warning: --backbone has no effect: the checkpoint holds its own CLIP",
    )


def test_model_may_be_an_original_file(ground, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    released = str(save_released(tmp_path / "released.pth", with_moments=False))
    arguments = ("--benchmark", "tvsum", "--domain", "BK", "--backbone", clip)
    status, out, err = ground(*arguments, model=released)
    assert status == 0
    assert only_line(err).startswith(f"r2tuning: converting '{released}' to '{tmp_path}")
    assert ground(*arguments, model=released) == (0, out, "")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Keep the requests out of stderr."""


def test_video_may_be_an_address(ground, folder, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        status, out, err = ground("--clips", tmp_path, "--top", 1, source=f"{address}/talk.mp4?size=1")
        missing = ground(source=f"{address}/missing.mp4")
        server.shutdown()
    assert status == 0, err
    assert out.startswith(f"{address}/talk.mp4?size=1 (0:20.0)\n")
    assert all(path.name.startswith("talk_query") for path in tmp_path.iterdir())
    assert missing[0] == 2
    assert only_line(missing[2]) == (
        f"r2tuning: error: `video` '{address}/missing.mp4' could not be fetched (HTTP Error 404: Not Found); "
        "check the address."
    )


def test_passwords_are_neither_printed_nor_written(ground, canned, folder, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        source = f"http://ann:sesame@{host}/talk.mp4?token=sesame"
        status, out, err = ground("--json", tmp_path / "out.json", "--clips", tmp_path, source=source)
        limited = ground("--max-download", "1kB", source=source)
        missing = ground(source=f"http://ann:sesame@{host}/missing.mp4")
        server.shutdown()
    shown = f"http://{host}/talk.mp4?token=..."
    assert status == 0, err
    assert out.startswith(f"{shown} (0:20.0)\n")
    assert read_json(tmp_path / "out.json")["video"] == shown
    assert only_line(limited[2]).startswith(f"r2tuning: error: `video` '{shown}' has more than 1,000 bytes; raise the")
    assert missing[0] == limited[0] == 2
    assert "sesame" not in "".join([out, err, *limited[1:], *missing[1:], *map(str, tmp_path.iterdir())])


def test_video_may_come_through_a_pipe(ground, canned, video, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(Path(video).read_bytes()), daemon=True).start()
    status, out, err = ground("--clips", tmp_path / "clips", "--top", 1, source=str(pipe), queries=["a man"])
    assert status == 0, err
    assert out.startswith(f"{pipe} (0:20.0)\n")
    (clip,) = os.listdir(tmp_path / "clips")
    assert clip.startswith("pipe_query01_moment")


@pytest.mark.parametrize(
    ("name", "shown", "begin"),
    [
        (os.fsdecode(b"caf\xe9.mp4"), "caf\ufffd.mp4", "caf\ufffd_query01_moment"),
        ("\u89c6" * 80 + ".mp4", "\u89c6" * 80 + ".mp4", "\u89c6" * 74),  # 244 bytes
    ],
    ids=["not UTF-8", "long"],
)
def test_video_may_have_any_name(name, shown, begin, ground, canned, video, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the optional matplotlib draws")
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(Path(video).read_bytes())
    outputs = ("--json", "out.json", "--plot", "out.png", "--clips", "clips", "--top", 1)
    status, out, err = ground(*outputs, source=name, queries=["a man"])
    assert status == 0, err
    assert out.startswith(f"{shown} (0:20.0)\n")
    assert read_json("out.json")["video"] == shown
    assert Path("out.png").stat().st_size > 0
    (clip,) = os.listdir("clips")
    assert clip.startswith(begin)
    assert clip.endswith("_4.0-10.0s.mp4")


def test_letters_that_a_terminal_lacks_are_replaced(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    commands._write(sys.stdout, "caf\u00e9 \udce9")
    assert sys.stdout.buffer.getvalue() == b"caf? ?\n"


def test_a_query_may_begin_with_a_dash(video, checkpoint, capsys):
    assert main(["ground", "--model", checkpoint, "--", video, "-- a man"]) == 0
    assert "Query: -- a man\n" in capsys.readouterr().out


# ---- convert -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["released.pth", "--benchmark"])
def test_convert_takes_its_arguments_in_any_order(first, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_released("released.pth")
    options = ["--benchmark", "tacos", "--backbone", clip]
    arguments = ["released.pth", *options, "out"] if first == "released.pth" else [*options, "released.pth", "out"]
    assert main(["convert", *arguments]) == 0
    assert capsys.readouterr().out == "out\n"


def test_convert_prints_the_folder_that_ground_reads(clip, ground, tmp_path, capsys):
    released = save_released(tmp_path / "released.pth")
    output = str(tmp_path / "out")
    assert main(["convert", str(released), output, "--benchmark", "charades_sta", "--backbone", clip]) == 0
    assert capsys.readouterr() == (f"{output}\n", "")
    assert ground(model=output)[::2] == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("released.pth", "out"), "--benchmark"),
        (("released.pth", "out", "--benchmark", "movies"), "invalid choice: 'movies'"),
        (("released.pth", "out", "--benchmark", "tacos", "--domain", "BK"), "--domain of tacos"),
        (("missing.pth", "out", "--benchmark", "tacos"), "No checkpoint at 'missing.pth'"),
        (("bad.pth", "out", "--benchmark", "tacos"), "'bad.pth' is not a PyTorch checkpoint"),
        (("released.pth", "full", "--benchmark", "tacos"), "is not empty"),
        (("released.pth", "out", "--benchmark", "tacos", "--backbone", "/no/clip"), "'/no/clip' is neither"),
    ],
)
def test_errors_of_convert(arguments, message, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_released("released.pth")
    Path("bad.pth").write_bytes(b"bad")
    Path("full").mkdir()
    Path("full", "file").touch()
    if "--backbone" not in arguments:
        arguments += ("--backbone", clip)
    assert main(["convert", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert only_line(err).startswith("r2tuning: error: ")
    assert message in err
    assert not Path("out").exists()


# ---- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["ground", "--help"], ["explain", "--help"], ["convert", "--help"], ["push", "--help"]],
)
def test_help_teaches_with_an_example(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capsys.readouterr()
    assert (stopped.value.code, err) == (0, "")
    assert "example" in out
    assert f"\n  r2tuning {arguments[0] if len(arguments) > 1 else 'ground'} " in out


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("ground", "fps window-sec top score-threshold nms round-to json plot clips"),
        ("explain", "out"),
    ],
)
def test_help_names_every_option_benchmark_and_domain(command, options, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    options += " max-download model benchmark domain backbone device dtype"
    assert all(f"\n  --{option} " in text for option in options.split())
    for name, spec in released_benchmarks().items():
        assert all(word in text for word in [name, *spec.domains])


@pytest.mark.parametrize(
    ("command", "options"),
    [("convert", "benchmark domain backbone all source push-to private"), ("push", "private backbone")],
)
def test_help_names_every_option(command, options, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert all(f"\n  --{option} " in text for option in options.split())


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"r2tuning {modeling_r2tuning.__version__}\n"


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND (see `r2tuning --help`)"),
        (["find"], "invalid choice: 'find'"),
        (["ground"], "required: VIDEO, QUERY (see `r2tuning ground --help`)"),
        (["ground", "talk.mp4", "--model", "m"], "required: QUERY"),
        (["ground", "talk.mp4", "a man", "--model", "m", "--fast"], "unrecognized arguments: --fast"),
        (["ground", "talk.mp4", "a man", "--mod", "m"], "unrecognized arguments: --mod m"),
        (["convert"], "required: ORIGINAL.pth, OUT, --benchmark (see `r2tuning convert --help`)"),
        (["convert", "--all"], "--all: expected one argument"),
        (["push", "my_model"], "required: ORG/NAME (see `r2tuning push --help`)"),
        (["push", "/no/model", "my_model"], "must be 'organisation/name', got 'my_model'"),
    ],
)
def test_wrong_commands(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert only_line(err).startswith("r2tuning: error: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fps", "0"), "--fps: must be a positive number (1e-06 to 1e+06), got '0'"),
        (("--fps", "none"), "--fps: must be a positive number (1e-06 to 1e+06), got 'none'"),
        (("--fps", "fast"), "--fps: must be a positive number (1e-06 to 1e+06), got 'fast'"),
        (("--fps", "inf"), "--fps: must be a positive number (1e-06 to 1e+06), got 'inf'"),
        (("--window-sec", "-3"), "--window-sec: must be a positive number (1e-06 to 1e+06) or none, got '-3'"),
        (("--round-to", "nan"), "--round-to: must be a positive number (1e-06 to 1e+06) or none, got 'nan'"),
        (("--nms", "soft"), "--nms: must be one of hard, linear, gaussian, none, got 'soft'"),
        (("--top", "0"), "--top: must be a whole number of at least 1, got '0'"),
        (("--top", "1.5"), "--top: must be a whole number of at least 1, got '1.5'"),
        (("--score-threshold", "2"), "--score-threshold: must be a number from 0 to 1 or none, got '2'"),
        (("--score-threshold", "x"), "--score-threshold: must be a number from 0 to 1 or none, got 'x'"),
        (("--dtype", "int8"), "--dtype: invalid choice: 'int8'"),
        (("--max-download", "0"), "--max-download: must be a size such as 500MB or 20GB, got '0'"),
        (("--max-download", "5 apples"), "--max-download: must be a size such as 500MB or 20GB, got '5 apples'"),
        (("--device", "toaster"), "--device toaster cannot be used here: "),
        (("--device", "meta"), "--device meta cannot be used here: "),
        (("--device", "cuda:77"), "--device cuda:77 cannot be used here: "),
        (("--benchmark", "movies"), "--benchmark: invalid choice: 'movies'"),
        (("--benchmark", "tacos"), "is none, leave them out"),
        (("--domain", "BK"), "is none, leave them out"),
        (("--json", "no/such/folder/out.json"), "'no/such/folder/out.json' cannot be written: there is no folder"),
        (("--json", "."), "'.' cannot be written"),
        (("--plot", "no/such/folder/out.png"), "'no/such/folder/out.png' cannot be written: there is no folder"),
        (("--plot", "out.gif"), "--plot must end in .png, .pdf, .svg, got 'out.gif'"),
        (("--clips", __file__), "File exists"),
    ],
)
def test_wrong_options(arguments, message, ground, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = ground(*arguments)
    assert (status, out) == (2, "")
    assert only_line(err).startswith("r2tuning: error: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("query", ["second.mp4", "film.MKV", "http://host/second", "notes.txt"])
@pytest.mark.parametrize("command", ["ground", "explain"])
def test_a_second_video_is_no_query(command, query, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("a file")
    more = ["a man"] if command == "ground" else ["--out", "out"]
    assert main([command, "gone.mp4", query, *more]) == 2
    assert f"'{query}' names a file where a query is expected: run the command once" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_query_may_speak_of_files(ground):
    assert ground(queries=["he opens talk.mp4", "mr. smith", "talk"])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backbone", "/no/clip"), "'/no/clip' is neither a folder that exists"),
        (("--backbone", "nowhere"), "'nowhere' is neither a folder that exists"),
        (("--benchmark", "tacos"), "--benchmark and --domain are for original checkpoints"),
        (("--model", "yeliudev/R2-Tuning"), "needs a --benchmark, one of"),
        (("--model", "gone.pth", "--benchmark", "tacos"), "No checkpoint at 'gone.pth'"),
        (("--model", "yeliudev/R2-Tuning", "--benchmark", "tvsum", "--domain", "XX"), "--domain of tvsum must be one"),
        (("--device", "toaster"), "--device toaster cannot be used here"),
    ],
)
@pytest.mark.parametrize("command", ["ground", "explain"])
def test_the_models_options_are_checked_before_anything_is_fetched(command, arguments, message, tmp_path, capsys):
    more = ["--out", str(tmp_path / "out")] if command == "explain" else []
    assert main([command, "http://127.0.0.1:9/gone.mp4", "a man", *more, *arguments]) == 2
    assert message in only_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_messages_of_the_library_name_the_options_of_the_command(capsys):
    message = "`backbone_name_or_path=` or `score_threshold`; `video`, `save_backbone=True` and `max_moments` stay"
    assert spell_options(message) == ("--backbone or --score-threshold; `video`, `save_backbone=True` and --top stay")
    shown = ""
    for command in ("ground", "convert"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown += capsys.readouterr().out
    assert all(f"\n  {option} " in shown for option in SPELLINGS.values())


def test_warnings_name_the_options_of_the_command(ground, canned, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "cut_clip", lambda *_: commands.logger.warning("set `window_sec=`"))
    assert "r2tuning: warning: set --window-sec\n" in ground("--clips", tmp_path)[2]


def test_bytes_that_are_not_utf_8_are_no_query(ground):
    assert "must be valid Unicode" in only_line(ground(queries=["a man \udcff"])[2])


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("500MB", 5 * 10**8), ("1.5 gb", 15 * 10**8), ("2kB", 2000), ("20TB", 2 * 10**13)]
)
def test_sizes(text, size):
    arguments = ["ground", "talk.mp4", "a man", "--max-download", text]
    assert make_parser().parse_args(arguments).max_download == size


def test_empty_query(ground):
    status, out, err = ground(queries=["a man", " "])
    assert (status, out) == (2, "")
    assert "empty query" in only_line(err)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder"])
def test_not_a_video_is_refused_before_the_model_is_fetched(kind, ground, tmp_path):
    path = tmp_path / "talk.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"no video " * 500)
    status, out, err = ground(source=str(path), model="/no/such/model")
    assert (status, out) == (2, "")
    assert only_line(err).startswith(f"r2tuning: error: `video` '{path}' ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/model", "'/no/such/model' is neither a folder that exists nor a name on the Hub"),
        ("clip", "holds a model of type 'clip'; needed is one of type 'r2tuning'"),
        ("nothing", "holds no model"),
        ("bad_config", "'bad_config/config.json' is no JSON"),
        ("bad_field", "hidden_size"),
        ("bad_weights", "rror"),
        ("no_tokenizer", "okenizer"),
        ("yeliudev/R2-Tuning", "'yeliudev/R2-Tuning' needs a --benchmark, one of"),
    ],
)
def test_not_a_model(name, message, ground, clip, make_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for broken in ("bad_field", "bad_weights", "no_tokenizer"):
        save_ours(make_model(save_backbone=True), tmp_path / broken)
    for empty in ("nothing", "bad_config"):
        (tmp_path / empty).mkdir()
    (tmp_path / "clip").symlink_to(clip)
    (tmp_path / "bad_config" / "config.json").write_text("{")
    (tmp_path / "bad_weights" / "model.safetensors").write_bytes(b"bad")
    for path in (tmp_path / "no_tokenizer").glob("tokenizer*"):
        path.unlink()
    config = read_json(tmp_path / "bad_field" / "config.json")
    (tmp_path / "bad_field" / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    status, out, err = ground(model=name)
    assert (status, out) == (2, "")
    assert only_line(err).startswith("r2tuning: error: ")
    assert message in err


def test_plot_without_matplotlib_is_refused_at_the_start(ground, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = ground("--plot", tmp_path / "plot.png", source="missing.mp4")
    assert status == 2
    assert only_line(err) == 'r2tuning: error: Plots need matplotlib: `pip install "r2tuning[plot]"`.'


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("no\nmemory"), PermissionError(13, "Permission denied")]
)
def test_one_line_for_what_goes_wrong_later(error, ground, canned, monkeypatch, tmp_path):
    def fail(*args):
        raise error

    monkeypatch.setattr(commands, "cut_clip", fail)
    status, _, err = ground("--clips", tmp_path)
    assert status == 2
    assert only_line(err) == "r2tuning: error: " + " ".join(str(error).split())


def test_a_bug_is_not_hidden(ground, canned, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "cut_clip", lambda *args: {}["missing"])
    with pytest.raises(KeyError):
        ground("--clips", tmp_path)


def test_interrupted(ground, canned, monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "cut_clip", interrupt)
    status, _, err = ground("--clips", tmp_path)
    assert (status, only_line(err)) == (130, "r2tuning: interrupted")
