"""Help texts and `--version`: complete, and answered before PyTorch is imported."""

import json
import subprocess
import sys
import typing

import pytest
from cli_output import only_line

import modeling_r2tuning
from dataset_scripts.benchmarks import released_benchmarks
from modeling_r2tuning.configuration_r2tuning import Method
from modeling_r2tuning.options_r2tuning import check_options
from modeling_r2tuning.video_source_r2tuning import MAX_DOWNLOAD_BYTES
from r2tuning_cli import argument_types, training_options
from r2tuning_cli.main import main, make_parser
from r2tuning_cli.programs import PROGRAMS, make_script_parser


SECONDS = 0.3  # of processor time, the interpreter's start included
HEAVY = ("torch", "transformers", "datasets", "numpy", "huggingface_hub", "modeling_r2tuning", "r2tuning")
WRONG = [
    [],
    ["find"],
    ["ground"],
    ["ground", "talk.mp4", "a man", "--fps", "0"],
    ["ground", "talk.mp4", "second.mp4"],
    ["ground", "talk.mp4", "a man", "--plot", "out.gif"],
    ["explain", "talk.mp4", "a man"],
    ["train"],
    ["train", "--preset", "unknown"],
    ["train", "--preset", "tacos", "--data-dir", ".", "--features", ".", "--output-dir", "run", "--epochs", "0"],
    ["evaluate", "--model", "org/model", "--benchmark", "tacos"],
    ["extract", "--benchmark", "tacos"],
    ["export-dataset", "tacos", "out"],
    ["convert", "--all", "out", "--benchmark", "tacos"],
    ["push", "folder", "name"],
]
MEASURE = """
import json, sys, time
from r2tuning_cli.main import main

seconds = [time.process_time()]
for words in json.loads(sys.argv[1]):
    try:
        status = main(words)
    except SystemExit as stopped:
        status = stopped.code or 0
    seconds.append(time.process_time() - sum(seconds))
    expected = 0 if words and words[-1] in ("--help", "--version") else 2
    assert status == expected, words
    loaded = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))
    assert not loaded, (words, loaded)
print("\\n" + json.dumps(seconds))
"""


def show_help(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, err) == (0, "")
    return out


def test_help_and_errors_of_usage_import_nothing_heavy_and_are_fast():
    helps = [["--help"], ["--version"], *([name, "--help"] for name in PROGRAMS)]
    arguments = [json.dumps([*helps, *WRONG]), json.dumps(HEAVY)]
    finished = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    start, *calls = json.loads(finished.stdout.splitlines()[-1])
    assert start + max(calls) < SECONDS
    errors = finished.stderr.splitlines()
    assert len(errors) == len(WRONG)
    assert all(line.startswith("r2tuning: error: ") for line in errors)


@pytest.mark.parametrize("words", [[], *([name] for name in PROGRAMS)], ids=" ".join)
def test_help_teaches_with_an_example(words, capsys):
    out = show_help(words, capsys)
    assert "example" in out
    assert f"\n  r2tuning {words[0] if words else 'ground'} " in out


def test_help_of_the_command_lists_the_sub_commands(capsys):
    out = show_help([], capsys)
    assert all(f"\n    {name}" in out for name in PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_argument_is_explained(name, capsys):
    out = show_help([name], capsys)
    for action in make_script_parser(name, name)._actions:
        if "--clip" in action.option_strings:
            continue
        assert action.help
        assert all(f"  {option}" in out or f", {option}" in out for option in action.option_strings)


@pytest.mark.parametrize("name", ["ground", "explain", "convert"])
def test_help_names_every_benchmark_and_domain(name, capsys):
    out = show_help([name], capsys)
    for benchmark, spec in released_benchmarks().items():
        assert all(word in out for word in [benchmark, *spec.domains])


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"r2tuning {modeling_r2tuning.__version__}\n"


# ---- what the command line knows of the library ----------------------------------------------------------------------


def test_methods_are_those_of_the_model():
    assert typing.get_args(training_options.Method) == typing.get_args(Method)


def test_help_counts_the_released_checkpoints(capsys):
    assert "convert the 20 released checkpoints" in " ".join(show_help(["convert"], capsys).split())


def test_help_names_the_largest_download(capsys):
    assert f"(default: {MAX_DOWNLOAD_BYTES // 10**9}GB)" in " ".join(show_help(["ground"], capsys).split())


TEXTS = (
    "0",
    "1e-7",
    "1e-6",
    "0.5",
    "1",
    "7",
    "1e6",
    "1e7",
    "-1",
    "nan",
    "inf",
    "none",
    "hard",
    "soft",
    "linear",
    "gaussian",
)


@pytest.mark.parametrize(
    ("option", "read"),
    [
        ("fps", argument_types.positive_number),
        ("window_sec", argument_types.positive_number_or_none),
        ("round_to", argument_types.positive_number_or_none),
        ("nms", argument_types.nms_method),
        ("score_threshold", argument_types.score_or_none),
        ("max_moments", argument_types.positive_integer),
    ],
)
def test_the_command_line_accepts_what_the_pipeline_accepts(option, read):
    """The same values, and the same words for what is allowed."""
    for text in TEXTS:
        accepted, rejected = None, None
        value = parse_literal(text)
        try:
            check_options(**{option: value})
        except ValueError as error:
            rejected = str(error)
        if value is None and option in ("fps", "max_moments"):
            continue  # in the library the default, which the command line has when the option is left out
        try:
            accepted = read(text)
        except argument_types.argparse.ArgumentTypeError as error:
            words = str(error).split(", got")[0]
            assert rejected is not None, (text, words)
            assert words.replace("none", "None") in rejected
            continue
        assert rejected is None, (text, rejected)
        assert accepted == value


def parse_literal(text):
    """The value that a caller of the library would pass."""
    if text == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# ---- options of earlier versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ground", "explain", "train", "evaluate", "extract", "convert", "push"])
@pytest.mark.parametrize("words", [["--clip", "folder"], ["--clip=folder"]])
def test_the_old_option_names_the_new_one(name, words, capsys):
    assert main([name, *words]) == 2
    assert only_line(capsys.readouterr().err) == (
        f"r2tuning: error: --clip is now called --backbone (see `r2tuning {name} --help`)"
    )


@pytest.mark.parametrize(
    ("name", "script"),
    [("train", "run.py"), ("evaluate", "run_evaluation.py"), ("extract", "run_feature_extraction.py")],
)
def test_the_scripts_name_it_too(name, script, capsys):
    with pytest.raises(SystemExit) as stopped:
        make_script_parser(name, script).parse_args(["--clip", "folder"])
    assert stopped.value.code == 2
    assert f"{script}: error: --clip is now called --backbone" in capsys.readouterr().err


# ---- sub-commands and scripts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_options_may_not_be_abbreviated(name):
    """Else a new option could change the meaning of an old command."""
    commands = next(action for action in make_parser()._actions if action.dest == "command").choices
    assert not commands[name].allow_abbrev
    assert not make_script_parser(name, name).allow_abbrev


@pytest.mark.parametrize("name", ["train", "evaluate", "extract"])
def test_a_script_takes_the_options_of_the_sub_command(name):
    commands = next(action for action in make_parser()._actions if action.dest == "command").choices

    def describe(parser):
        return [(action.option_strings, action.dest, action.default, action.help) for action in parser._actions]

    assert describe(commands[name]) == describe(make_script_parser(name, "script.py"))
