"""`r2tuning ground`: every option reaches the pipeline, and videos may come from anywhere."""

import functools
import io
import os
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from cli_output import DURATION_SEC, QUERIES, only_line, read_json
from tiny_checkpoints import save_ours, save_released

from r2tuning import terminal
from r2tuning_cli.main import main


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
        (("--min-probability", "none"), {"min_probability": None}),
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


def test_int8_is_for_the_encoders(ground, spy):
    pytest.importorskip("torchao", reason="int8 needs torchao")
    assert ground("--dtype", "int8")[0] == 0
    assert spy["model"].has_int8_encoders


def test_int8_on_a_gpu_is_refused(ground, monkeypatch):
    monkeypatch.setattr("r2tuning.commands.shared.choose_device", lambda name: torch.device("cuda"))
    status, _, err = ground("--dtype", "int8")
    assert status == 2
    assert "`--dtype` int8 needs `--device` cpu, got cuda" in err


def test_device(ground, spy):
    ground()
    assert spy["device"].type == ("cuda" if torch.cuda.is_available() else "cpu")
    ground("--device", "cpu")
    assert spy["device"].type == "cpu"


def test_backbone_names_the_frozen_encoders(ground, spy, make_model, clip, tiny_clip, tmp_path):
    model = save_ours(make_model(backbone_name_or_path="gone/clip", backbone_revision="old"), tmp_path / "small")
    status, _, err = ground(model=str(model))
    assert status == 2
    assert "gone/clip" in only_line(err)
    assert ground("--backbone", clip, model=str(model))[::2] == (0, "")
    weight = spy["model"].vision_model.embeddings.patch_embedding.weight
    torch.testing.assert_close(weight.cpu(), tiny_clip.vision_model.embeddings.patch_embedding.weight)


def test_a_backbone_without_effect_is_reported(ground, clip):
    status, _, err = ground("--backbone", clip)
    assert (status, only_line(err)) == (
        0,
        "r2tuning: warning: `--backbone` has no effect: the checkpoint holds its own backbone",
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
    assert all("_talk_" in path.name for path in tmp_path.iterdir())
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
    assert clip.startswith("query01_moment01_pipe_")


@pytest.mark.parametrize(
    ("name", "shown", "begin"),
    [
        (os.fsdecode(b"caf\xe9.mp4"), "caf\ufffd.mp4", "query01_moment01_caf\ufffd_"),
        ("\u89c6" * 80 + ".mp4", "\u89c6" * 80 + ".mp4", "query01_moment01_" + "\u89c6" * 74),  # 244 bytes
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


def test_characters_that_the_terminal_lacks_are_replaced(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    terminal.write_line(sys.stdout, "caf\u00e9 \udce9")
    assert sys.stdout.buffer.getvalue() == b"caf? ?\n"


def test_a_query_may_begin_with_a_dash(video, checkpoint, capsys):
    assert main(["ground", "--model", checkpoint, "--", video, "-- a man"]) == 0
    assert "Query: -- a man\n" in capsys.readouterr().out
