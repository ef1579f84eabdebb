"""Errors of the commands: one line for each, as early as possible."""

import json
import sys
from pathlib import Path

import pytest
import torch
from cli_output import only_line, read_json
from tiny_checkpoints import save_ours

from r2tuning.editors import clips
from r2tuning_cli.main import main, make_parser
from r2tuning_cli.programs import PROGRAMS, make_script_parser, option_names
from r2tuning_cli.spelling import spell_options


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND (see `r2tuning --help`)"),
        (["find"], "invalid choice: 'find'"),
        (["ground"], "required: VIDEO (see `r2tuning ground --help`)"),
        (["ground", "talk.mp4", "--model", "m"], "a QUERY is required"),
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
        (("--dtype", "int4"), "--dtype: invalid choice: 'int4'"),
        (("--max-download", "0"), "--max-download: must be a size such as 500MB or 20GB, got '0'"),
        (("--max-download", "5 apples"), "--max-download: must be a size such as 500MB or 20GB, got '5 apples'"),
        (("--device", "toaster"), "`--device` 'toaster' cannot be used: "),
        (("--device", "meta"), "`--device` 'meta' cannot be used: "),
        (("--device", "cuda:77"), "`--device` 'cuda:77' cannot be used: "),
        (("--benchmark", "movies"), "--benchmark: invalid choice: 'movies'"),
        (("--benchmark", "tacos"), "leave them out for"),
        (("--domain", "BK"), "leave them out for"),
        (("--json", "no/such/folder/out.json"), "'no/such/folder/out.json' cannot be written: there is no folder"),
        (("--json", "."), "'.' cannot be written"),
        (("--plot", "no/such/folder/out.png"), "'no/such/folder/out.png' cannot be written: there is no folder"),
        (("--plot", "out.gif"), "`--plot` must end in .png, .pdf, .svg, got 'out.gif'"),
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
def test_a_video_in_place_of_a_query_is_refused(command, query, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("a file")
    more = ["a man"] if command == "ground" else ["--out", "out"]
    assert main([command, "gone.mp4", query, *more]) == 2
    assert f"'{query}' names a file where a query is expected: " in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_query_may_mention_files(ground):
    assert ground(queries=["he opens talk.mp4", "mr. smith", "talk"])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backbone", "/no/clip"), "'/no/clip' is neither a folder that exists"),
        (("--backbone", "nowhere"), "'nowhere' is neither a folder that exists"),
        (("--benchmark", "tacos"), "`--benchmark` and `--domain` are for original checkpoints"),
        (("--model", "yeliudev/R2-Tuning"), "needs a `--benchmark`, one of"),
        (("--model", "gone.pth", "--benchmark", "tacos"), "No checkpoint at 'gone.pth'"),
        (
            ("--model", "yeliudev/R2-Tuning", "--benchmark", "tvsum", "--domain", "XX"),
            "`--domain` of tvsum must be one",
        ),
        (("--device", "toaster"), "`--device` 'toaster' cannot be used"),
    ],
)
@pytest.mark.parametrize("command", ["ground", "explain"])
def test_model_options_are_checked_before_anything_is_fetched(command, arguments, message, tmp_path, capsys):
    more = ["--out", str(tmp_path / "out")] if command == "explain" else []
    assert main([command, "http://127.0.0.1:9/gone.mp4", "a man", *more, *arguments]) == 2
    assert message in only_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_messages_of_the_library_name_the_options_of_the_command():
    names = option_names("ground")
    message = "`backbone_name_or_path=` or `score_threshold`; `video`, `save_backbone=True` and `max_moments` stay"
    assert spell_options(message, names) == (
        "`--backbone` or `--score-threshold`; `video`, `save_backbone=True` and `--top` stay"
    )
    assert spell_options('pass `missing_videos="skip"`', option_names("train")) == "pass `--missing-videos skip`"


@pytest.mark.parametrize("name", PROGRAMS)
def test_messages_name_options_that_exist(name):
    flags = set()
    for action in make_script_parser(name, name)._actions:
        flags.update(action.option_strings)
    for spelled in option_names(name).values():
        assert all(word.strip("`") in flags for word in spelled.split() if "--" in word)


def test_warnings_name_the_options_of_the_command(ground, canned, monkeypatch, tmp_path):
    monkeypatch.setattr(clips, "cut_clip", lambda *_: clips.logger.warning("set `window_sec=`"))
    assert "r2tuning: warning: set `--window-sec`\n" in ground("--clips", tmp_path)[2]


def test_a_query_must_be_valid_unicode(ground):
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
def test_a_bad_video_is_refused_before_the_model_is_fetched(kind, ground, tmp_path):
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
        ("clip", "holds a model of type 'clip', expected a model of type 'r2tuning'"),
        ("nothing", "holds no model"),
        ("bad_config", "'bad_config/config.json' is not valid JSON"),
        ("bad_field", "hidden_size"),
        ("bad_weights", "rror"),
        ("no_tokenizer", "okenizer"),
        ("yeliudev/R2-Tuning", "'yeliudev/R2-Tuning' needs a `--benchmark`, one of"),
    ],
)
def test_what_is_not_a_model_is_refused(name, message, ground, clip, make_model, tmp_path, monkeypatch):
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
    ("error", "status", "message"),
    [
        (torch.cuda.OutOfMemoryError("no\nmemory"), 2, "error: no memory"),
        (PermissionError(13, "Permission denied"), 1, "warning: 2 clips were not cut: [Errno 13] Permission denied"),
    ],
)
def test_later_errors_are_one_line(error, status, message, ground, canned, monkeypatch, tmp_path):
    def fail(*args):
        raise error

    monkeypatch.setattr(clips, "cut_clip", fail)
    found, _, err = ground("--clips", tmp_path, "--top", 1)
    assert found == status
    assert err.splitlines()[0] == f"r2tuning: {message}"


def test_a_bug_is_not_hidden(ground, canned, monkeypatch, tmp_path):
    monkeypatch.setattr(clips, "cut_clip", lambda *args: {}["missing"])
    with pytest.raises(KeyError):
        ground("--clips", tmp_path)


def test_interrupted(ground, canned, monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(clips, "cut_clip", interrupt)
    status, _, err = ground("--clips", tmp_path)
    assert (status, only_line(err)) == (130, "r2tuning: interrupted")


def test_a_missing_optional_package_is_named(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "r2tuning.training.run", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    options = ["--preset", "tacos", "--data-dir", ".", "--features", ".", "--output-dir", "run"]
    assert main(["train", *options]) == 2
    error = only_line(capsys.readouterr().err)
    assert "accelerate" in error
    assert error.endswith('; run `pip install "r2tuning[train]"`')
