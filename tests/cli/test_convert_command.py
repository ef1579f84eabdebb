"""`r2tuning convert`: arguments, output and errors."""

from pathlib import Path

import pytest
from cli_output import only_line
from tiny_checkpoints import save_released

from r2tuning_cli.main import main


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
        (("released.pth", "out", "--benchmark", "tacos", "--domain", "BK"), "`--domain` of tacos"),
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
