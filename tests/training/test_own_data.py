"""Training on a user's own table and videos with the preset `custom`: notes in the log, model card, changed data."""

import json
import shlex

import pytest
from huggingface_hub import ModelCard
from tiny_checkpoints import save_clip, save_ours
from training_samples import MODEL, as_arguments, reset_accelerate
from video_samples import write_video

from dataset_scripts.benchmarks import BENCHMARKS, OWN_DATA
from r2tuning.hub.model_card import read_facts
from r2tuning.training import run as run_script
from r2tuning.training.config import TrainingConfig, preset_names, read_config, read_preset
from r2tuning.training.model import make_model as make_model_of_run
from r2tuning.training.notes import chooses_as_published, chooses_on_test
from r2tuning.training.run import DONE, USAGE, main


NUM_VIDEOS = 5
SECONDS = 6


@pytest.fixture(autouse=True)
def _fresh_accelerate(monkeypatch):
    """Each run starts as in a process of its own; it draws no curves, which would take the longest here."""
    reset_accelerate()
    monkeypatch.setattr(run_script, "draw_curves", lambda *arguments: None)


@pytest.fixture(scope="module")
def options(tiny_clip, tmp_path_factory):
    """Five videos, and a table of two queries about each; the last query has no moment. One video is for evaluation."""
    folder = tmp_path_factory.mktemp("own")
    lines = ["video,query,start,end,split"]
    for number in range(NUM_VIDEOS):
        write_video(folder / f"{number}.mp4", count=2 * SECONDS, rate=2)
        split = "val" if number == NUM_VIDEOS - 1 else "train"
        lines.append(f"{number}.mp4,a b,1,3,{split}")
        lines.append(f"{number}.mp4,c d,{'' if number == 3 else 2},{'' if number == 3 else 5},{split}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return {
        "preset": "custom",
        "data-file": folder / "table.csv",
        "video-dir": folder,
        "backbone": save_clip(tiny_clip, folder / "clip"),
        "model": json.dumps(MODEL),
        "epochs": 3,
        "batch-size": 4,
        "num-workers": 0,
        "cpu": None,
    }


@pytest.fixture(scope="module")
def run(options, tmp_path_factory):
    """A complete run with a described data set, and its messages."""
    reset_accelerate()
    folder = tmp_path_factory.mktemp("run") / "run"
    facts = {"data-name": "Kitchen", "data-licence": "CC-BY-4.0", "data-description": "Videos of a kitchen."}
    assert main(as_arguments({**options, **facts}, output_dir=folder)) == DONE
    return folder


def read_card(folder):
    return ModelCard((folder / "README.md").read_text())


# ---- the card --------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_model_was_trained_on(run):
    card = read_card(run / "best")
    assert "# R²-Tuning on Kitchen\n" in card.text
    assert "It was trained on Kitchen.\n" in card.text
    assert "Videos of a kitchen.\n\n| | videos | queries | moments | queries without a moment |\n" in card.text
    assert "| train | 4 | 8 | 7 | 1 |\n| val | 1 | 2 | 2 | 0 |\n" in card.text
    assert "subject to the terms of the training data: CC-BY-4.0." in card.text
    assert "on the `val` split of Kitchen" in card.text
    assert (card.data.license, card.data.datasets) == ("cc-by-4.0", None)
    assert {result.dataset_name for result in card.data.eval_results} == {"Kitchen"}
    assert "chosen among" not in card.text


def test_the_card_names_no_benchmark(run):
    """Nor does its metadata: what others annotated had no part in the model."""
    text = (run / "best/README.md").read_text().lower()
    for name in BENCHMARKS.keys() - {OWN_DATA}:
        assert name not in text
        assert read_facts(name).get("pretty_name", name).lower() not in text


def test_the_card_holds_no_path_and_no_private_words_in_its_command(run):
    card = read_card(run / "best")
    command = shlex.split(card.text.split("```bash\n")[1].split("\n```")[0])
    assert command[command.index("--data-file") + 1] == "DATA_FILE"
    assert "--data-name" not in command
    assert str(run.parent) not in (run / "best/results.json").read_text()


def test_a_finished_run_gets_another_card(options, run):
    """The description may change; without one the text is neutral."""
    assert main(as_arguments(options, output_dir=run, resume="auto")) == DONE
    card = read_card(run / "best")
    assert "# R²-Tuning on a private data set\n" in card.text
    assert "Kitchen" not in card.text
    assert "| train | 4 | 8 | 7 | 1 |" in card.text
    assert "subject to the terms of the training data.\n" in card.text
    assert card.data.license is None


def test_a_card_that_was_edited_is_kept(options, run):
    path = run / "best/README.md"
    path.write_text(path.read_text() + "\nMy own words.\n")
    assert main(as_arguments(options, output_dir=run, resume="auto", data_name="Garden")) == DONE
    assert path.read_text().endswith("\nMy own words.\n")
    assert "on the `val` split of Garden" in path.read_text()


def test_the_start_is_named(options, make_model, tmp_path):
    """A checkpoint in a folder without its path."""
    start = save_ours(make_model(backbone_name_or_path=str(options["backbone"])), tmp_path / "start")
    options = {name: value for name, value in options.items() if name not in ("model", "backbone")}
    arguments = as_arguments(options, init_from=start, output_dir=tmp_path / "run", epochs=1)
    assert main(arguments) == DONE
    text = (tmp_path / "run/best/README.md").read_text()
    assert "It was trained on a private data set, starting from a checkpoint that is not published.\n" in text
    assert "The terms of the checkpoint that it started from apply, too.\n" in text
    assert "--init-from INIT_FROM" in text
    assert str(tmp_path) not in text.replace(str(options["data-file"].parent), "")


# ---- what a run says at its start ------------------------------------------------------------------------------------


def messages_of(options, folder, caplog, **changes):
    """Messages of a dry run."""
    caplog.clear()
    with caplog.at_level("INFO"):
        assert main([*as_arguments(options, output_dir=folder, **changes), "--dry-run"]) == DONE
    return caplog.text


def test_notes_of_a_run(options, tmp_path, caplog):
    text = messages_of(options, tmp_path, caplog, eval_split="none")
    assert "the warm-up takes 4 steps instead of 500: an epoch has 2, and `warmup_epochs` is 2" in text
    assert "the backbone encodes each video 3 times, once in each epoch; `r2tuning extract` does it once" in text
    assert "1 of 8 training queries have no moment: `model` '{\"use_existence_head\": true}'" in text
    assert "the best model is chosen" not in text


def test_a_warm_up_that_takes_the_whole_run_is_reported(options, tmp_path, caplog):
    text = messages_of(options, tmp_path, caplog, eval_split="none", epochs=1)
    assert "`warmup_epochs` is 2; the run ends before it does: lower `warmup_epochs` or raise `epochs`" in text


def test_notes_that_do_not_apply(options, tmp_path, caplog):
    with_head = json.dumps({**MODEL, "use_existence_head": True})
    changes = {"model": with_head, "epochs": 2, "warmup_steps": 3, "eval_split": "none"}
    text = messages_of(options, tmp_path, caplog, **changes)
    for words in ("the warm-up takes", "the backbone encodes each video", "existence_head"):
        assert words not in text


def test_a_head_without_absent_queries_is_reported(options, tmp_path, caplog):
    table = tmp_path / "table.csv"
    lines = options["data-file"].read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if ",,," not in line))
    with_head = json.dumps({**MODEL, "use_existence_head": True})
    text = messages_of(options, tmp_path, caplog, model=with_head, data_file=table, eval_split="none")
    assert "the existence head only sees queries that have a moment, and learns to call every query present" in text


def test_a_choice_on_test_is_reported(options, tmp_path, caplog):
    """In the log and on the card; two published recipes choose so."""
    published = [name for name in preset_names() if chooses_on_test(read_preset(name).get("eval_split"))]
    assert published == ["charades_sta", "tacos"]
    for name in published:
        places = {"data_dir": "", "features": "", "output_dir": ""}
        assert chooses_as_published(TrainingConfig(**read_preset(name), **places))
    table = tmp_path / "table.csv"
    table.write_text(options["data-file"].read_text().replace(",val", ",test"))
    changes = {"data_file": table, "eval_split": "test", "epochs": 1}
    assert "the best model is chosen by MR-full-mAP on the split 'test': its scores there are higher" in messages_of(
        options, tmp_path, caplog, **changes
    )
    reset_accelerate()
    assert main(as_arguments(options, output_dir=tmp_path / "run", **changes)) == DONE
    words = "**The checkpoint was chosen among those of its run by its scores on this split**: they are higher"
    assert words in (tmp_path / "run/best/README.md").read_text()
    assert words not in (tmp_path / "run/final/README.md").read_text()


# ---- settings and data -----------------------------------------------------------------------------------------------


def test_frame_rate_and_window_are_those_of_the_start(options, make_model, tmp_path):
    """Own data prescribe none; dropout and losses are those of the run."""
    fields = {"fps": 0.5, "window_sec": 60.0, "dropout": 0.3, "backbone_name_or_path": str(options["backbone"])}
    start = save_ours(make_model(**fields), tmp_path / "start")
    options = {name: value for name, value in options.items() if name not in ("model", "backbone")}
    arguments = as_arguments(options, init_from=start, output_dir=tmp_path)
    config = make_model_of_run(read_config(arguments)).config
    assert (config.fps, config.window_sec, config.dropout) == (0.5, 60.0, 0.5)
    config = make_model_of_run(read_config([*arguments, "--model", '{"fps": 2.0}'])).config
    assert (config.fps, config.window_sec) == (2.0, 60.0)


def test_a_benchmark_is_not_described_by_the_user(options, tmp_path, capsys):
    arguments = as_arguments(options, output_dir=tmp_path, preset="qvhighlights", data_licence="mit")
    assert main(arguments) == USAGE
    assert "`--data-licence` describes your own data, the benchmark 'custom'; leave it out" in capsys.readouterr().err


def test_a_run_does_not_resume_on_changed_data(options, run, tmp_path, capsys):
    """A query more would change what every step sees."""
    table = tmp_path / "table.csv"
    table.write_text(options["data-file"].read_text() + "0.mp4,e f,1,4,train\n")
    arguments = as_arguments(options, output_dir=run, resume="auto", epochs=4, data_file=table)
    assert main(arguments) == USAGE
    assert "The training split had 8 queries, now it has 9: the final weights would differ" in capsys.readouterr().err


def test_a_split_without_moments_cannot_choose_the_best_model(options, tmp_path, capsys):
    table = tmp_path / "table.csv"
    lines = options["data-file"].read_text().splitlines()
    table.write_text("\n".join(line for line in lines if not line.endswith("3,val")).replace("2,5,val", ",,val"))
    assert main(as_arguments(options, data_file=table, output_dir=tmp_path / "run")) == USAGE
    assert "on the split 'val': none of its queries has a moment" in capsys.readouterr().err
