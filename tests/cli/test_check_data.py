"""`r2tuning check-data`, and the options for own data of the other commands."""

import json

import pytest
from video_samples import write_video

from r2tuning.training.config import read_config
from r2tuning_cli.data_arguments import annotation_files
from r2tuning_cli.main import main, make_parser


CLEAN = "video,query,start,end\na.mp4,a dog,1,0:03\nb.mp4,a cat,2,5\nb.mp4,no dog,,\n"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name in "ab":
        write_video(folder / f"{name}.mp4", count=40, rate=5)
    return folder


@pytest.fixture
def check(tmp_path, clips, capsys):
    """Check a table; returns status, stdout and stderr."""

    def run(text, *options):
        path = tmp_path / "my.csv"
        path.write_text(text)
        capsys.readouterr()
        status = main(["check-data", "--data-file", str(path), "--video-dir", str(clips), *map(str, options)])
        return (status, *capsys.readouterr())

    return run


def test_clean_data(check, tmp_path):
    status, output, errors = check(CLEAN, "--json", tmp_path / "report.json")
    assert (status, errors) == (0, "")
    assert "Nothing was found that needs attention." in output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["findings"] == {}
    assert sum(split["queries"] for split in report["splits"].values()) == 3


def test_findings_are_counted_and_named(check, tmp_path):
    header, *rows = CLEAN.splitlines()
    rows += ["a.mp4,late,7,30", "c.mp4,x,1,2", "c.mp4,y,1,2"]
    text = "\n".join([f"{header},split", *(f"{row},train" for row in rows)])
    status, output, _ = check(text, "--json", tmp_path / "report.json")
    assert status == 1
    assert "queries with a moment beyond the end of the video: 1 (cannot be used). Check that" in output
    assert "\n  my.csv, line 5: [7, 30] in 'a' of 8.00 s\n" in output
    assert "queries of missing videos: 2 (cannot be used). Add the files to `--video-dir`" in output
    assert "\n  my.csv, line 6: 'c.mp4': there is no such file\n  and 1 more\n" in output
    places = json.loads((tmp_path / "report.json").read_text())["findings"]["missing_video"]["places"]
    assert [place["place"] for place in places] == ["my.csv, line 6", "my.csv, line 7"]


def test_what_needs_no_attention_does_not_change_the_status(check, clips):
    status, output, _ = check("video,query,start,end,note,split\na,a dog,1,3,x,train\n")
    assert status == 0
    assert "columns that are not used: 1 (for information)" in output
    assert "videos without a query: 1 (for information)" in output


def test_unusable_data(check):
    status, output, _ = check("video,query,start,end,split\na,x,7,30,train\na,y,1,3,val\n")
    assert (status, "No query of train can be used." in output) == (2, True)
    assert check("video,query,start\na,x,7\n")[::2] == (
        2,
        "r2tuning: error: my.csv: found the columns ['video', 'query', 'start'], expected also `moments` or `start` and "
        "`end`\n",
    )
    status, output, _ = check("video,query,start,end\n")
    assert (status, "No query of train can be used." in output) == (2, True)


def test_a_single_video_is_reported(check):
    status, output, _ = check("video,query,start,end\na,x,1,2\n")
    assert status == 1
    assert "No video can be held out for val: pass a table for it (`--val-file`), or train without" in output


def test_a_split_whose_rows_are_all_broken_is_unusable(check, tmp_path):
    (tmp_path / "val.csv").write_text("video,query,start,end\nb,,1,2\n")
    status, output, _ = check("video,query,start,end\na,x,1,2\n", "--val-file", tmp_path / "val.csv")
    assert (status, "No query of val can be used." in output) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check-data"], "Pass either `--data-file`, your own table, or `--data-dir`"),
        (["check-data", "--data-file", "x", "--data-dir", "y"], "Pass either `--data-file`"),
        (
            ["check-data", "--data-file", "nowhere.csv"],
            "`--data-file` must be a file, a dataset folder or hf://datasets/",
        ),
        (["check-data", "--data-file", ".", "--val-file", "x"], "`--val-file` must be a file"),
        (["check-data", "--data-dir", "nowhere"], "`--data-dir` must be a folder"),
        (["check-data", "--data-dir", "."], "There is no table in '.'. Name it train, val or test"),
        (["export-dataset", "tacos", "out", "--data-dir", ".", "--val-file", "x"], "Leave out `--val-file`"),
        (["export-dataset", "custom", "out"], "Pass either `--data-file`"),
        (["export-dataset", "tacos", "out"], "Pass `--data-dir`, the folder of the annotation files of tacos"),
        (
            ["extract", "--benchmark", "tacos", "--video-dir", ".", "--output", "out"],
            "Pass `--data-dir`, the folder of the annotation files of tacos",
        ),
        (
            ["evaluate", "--benchmark", "tacos", "--predictions", "x", "--data-file", "nowhere"],
            "`--data-file` must be a file, but there is none",
        ),
        (["train", "--benchmark", "custom", "--output-dir", "x", "--video-dir", "."], "Pass either `--data-dir`"),
        (
            [
                "train",
                "--benchmark",
                "tacos",
                "--output-dir",
                "x",
                "--video-dir",
                ".",
                "--data-dir",
                ".",
                "--val-file",
                "x",
            ],
            "`--val-file` goes with `--data-file`",
        ),
        (
            ["train", "--benchmark", "custom", "--output-dir", "x", "--video-dir", ".", "--data-file", "nowhere"],
            "`--data-file` must be a file, a dataset folder",
        ),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_in_the_form_of_the_loader():
    def parse(*words):
        common = ["--benchmark", "custom", "--video-dir", "v", "--output", "o"]
        return annotation_files(make_parser().parse_args(["extract", *common, *words]), "custom")

    assert parse("--data-file", "hf://datasets/org/mine") == {"train": "hf://datasets/org/mine"}
    assert parse("--data-file", "a", "--val-file", "b") == {"train": "a", "val": "b"}
    assert parse("--val-file", "b") == {"val": "b"}
    assert parse("--data-dir", "a") is None


def test_settings_of_a_run_name_the_table():
    words = ["--benchmark", "custom", "--data-file", "a", "--val-file", "b", "--video-dir", "v", "--output-dir", "o"]
    config = read_config(words)
    assert (config.data_dir, config.data_file, config.val_file, config.on_error) == (None, "a", "b", "raise")
