"""Results of a run beside its models, and `--push-to` against the loopback Hub."""

import json
import shlex
import subprocess
from dataclasses import asdict

import pytest
from huggingface_hub import ModelCard
from loopback_hub import READ_TOKEN, LoopbackHub
from tiny_checkpoints import save_clip
from training_samples import MODEL, as_arguments, reset_accelerate, write_benchmark
from transformers import AutoModel

from r2tuning.hub import repository
from r2tuning.hub.model_card import Results
from r2tuning.training import hub as training_hub
from r2tuning.training.config import TrainingConfig, read_config
from r2tuning.training.hub import check_push, command_line, push_run, record_results
from r2tuning.training.run import main
from r2tuning_cli.main import main as r2tuning


NAME = "org/r2tuning-letters"


@pytest.fixture
def hub(monkeypatch, tmp_path, tiny_clip):
    monkeypatch.setattr(repository, "WAITS_SEC", (0.01, 0.01, 0.01))
    with LoopbackHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        clip = save_clip(tiny_clip, tmp_path / "hub_clip")
        hub.add_repo("org/clip", {path.name: path for path in clip.iterdir()})
        yield hub


@pytest.fixture(scope="module")
def run(tiny_clip, tmp_path_factory):
    """A run of three epochs, evaluated after each."""
    reset_accelerate()
    folder = tmp_path_factory.mktemp("run")
    options = write_benchmark(folder, tiny_clip, num_train=6, num_val=3) | {"epochs": 3, "keep-checkpoints": 9}
    options |= {"model": json.dumps({**MODEL, "save_backbone": True}), "output-dir": folder / "run"}
    assert main(as_arguments(options)) == 0
    return folder / "run"


def config_of(run, **changes):
    return TrainingConfig(**{**json.loads((run / "training_config.json").read_text()), **changes})


@pytest.mark.parametrize("name", ["best", "final", "step_000002"])
def test_results_belong_to_the_model(run, name):
    record_results(run / name)
    results, evaluations = Results.load(run / name), json.loads((run / "metrics.json").read_text())["evaluations"]
    found = {entry["step"]: entry for entry in evaluations}[results.training["step"]]
    assert (results.scores, results.training["epoch"]) == (found["scores"], found["epoch"])
    assert (results.benchmark, results.split, results.original) == ("qvhighlights", "val", None)
    if name == "best":
        assert results.scores["MR-full-mAP"] == max(entry["scores"]["MR-full-mAP"] for entry in evaluations)
    elif name == "final":
        assert results.training["step"] == evaluations[-1]["step"]
    else:
        assert results.training["step"] == 2
    for file in ("metrics.json", "curves.png"):
        assert (run / name / file).read_bytes() == (run / file).read_bytes()
    card = ModelCard((run / name / "README.md").read_text())
    assert {result.metric_name for result in card.data.eval_results} <= results.scores.keys()
    assert results.training["command"] in card.text
    assert "![curves](curves.png)" in card.text


def test_a_model_that_was_not_evaluated_has_no_scores(run):
    history = json.loads((run / "metrics.json").read_text())
    assert training_hub._evaluation_at(1, history) == {"step": 1, "epoch": 1, "scores": {}}


def test_damaged_results_are_written_again(run):
    path = run / "final/results.json"
    path.write_text("{")
    record_results(run / "final")
    assert Results.load(run / "final").benchmark == "qvhighlights"


def test_no_path_of_this_machine_is_published(run):
    record_results(run / "best")
    for name in ("results.json", "README.md"):
        assert str(run.parent) not in (run / "best" / name).read_text()
    settings = Results.load(run / "best").training["settings"]
    assert (settings["data_dir"], settings["backbone"], settings["output_dir"]) == (
        "DATA_DIR",
        "BACKBONE",
        "OUTPUT_DIR",
    )
    assert "num_workers" not in settings


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backbone": "org/clip", "eval_split": None, "cpu": False, "drop_epochs": [1, 2]},
        {"model": {"save_backbone": True, "strides": [1, 2]}, "queries_per_video": 2, "mixed_precision": "no"},
    ],
)
def test_the_recorded_command_has_every_setting_that_affects_the_result(run, changes):
    config = config_of(run, **changes)
    command = shlex.split(command_line(config))
    assert command[:2] == ["r2tuning", "train"]
    again = asdict(read_config(command[2:]))
    for name, value in asdict(config).items():
        if name not in training_hub.RESULT_INVARIANT_FIELDS | set(training_hub.PATH_FIELDS) - {"backbone"}:
            assert again[name] in (value, name.upper()), name


def test_a_run_is_pushed_with_its_results(hub, run):
    reset_accelerate()
    options = json.loads((run / "training_config.json").read_text())
    path = run.parent / "again.json"
    path.write_text(json.dumps({**options, "resume": "auto"}))
    assert main(["--preset", str(path), "--push-to", NAME]) == 0  # nothing is left to train
    assert hub.commits(NAME) == ["initial commit", "Publish an R2-Tuning checkpoint"]
    files = hub.files(NAME)
    assert {"metrics.json", "curves.png", "results.json", "model.safetensors", "pipeline_r2tuning.py"} <= files.keys()
    best = json.loads(files["results.json"])
    assert f"| `MR-full-mAP` | {best['scores']['MR-full-mAP']:.2f} |" in files["README.md"].decode()
    assert f'model="{NAME}"' in files["README.md"].decode()
    assert AutoModel.from_pretrained(NAME).config.save_backbone


def test_a_failed_upload_does_not_lose_the_run(hub, run, caplog, monkeypatch, capsys):
    hub.fail_next("POST", "/commit/", 500, times=4)
    assert not push_run(run / "best", NAME)
    assert hub.commits(NAME) == ["initial commit"]
    command = shlex.split(caplog.messages[-1].split("`")[1])
    assert r2tuning(command[1:]) == 0
    assert "results.json" in hub.files(NAME)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert not push_run(run / "best", "org/other")
    assert "may not write there" in caplog.text


def test_a_run_that_could_not_be_published_is_refused_at_the_start(hub, run, monkeypatch):
    check_push(config_of(run, push_to=NAME))  # CLIP is in the checkpoint
    check_push(config_of(run, push_to=NAME, model={}, backbone="org/clip"))
    with pytest.raises(ValueError, match="cannot be published: give `backbone` a name on the Hub"):
        check_push(config_of(run, push_to=NAME, model={}))
    with pytest.raises(ValueError, match="must be 'organisation/name', got 'letters'"):
        check_push(config_of(run, push_to="letters"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="no token"):
        check_push(config_of(run, push_to=NAME))


def test_the_commit_is_recorded_and_marked_if_files_differ(monkeypatch, tmp_path):
    monkeypatch.setattr(training_hub, "ROOT", tmp_path)
    assert training_hub._git_commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = training_hub._git_commit()
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert training_hub._git_commit() == f"{commit} with changes"
