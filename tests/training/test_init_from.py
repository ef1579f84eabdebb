"""`--init-from`: a run starts from the weights of a checkpoint."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import save_clip, save_ours
from training_samples import as_arguments, reset_accelerate, write_benchmark
from transformers import AutoModel, CLIPModel

from modeling_r2tuning import DEFAULT_MODEL, R2TuningProcessor
from r2tuning.hub.model_card import Results
from r2tuning.released import resolve
from r2tuning.training import run as run_script
from r2tuning.training.config import read_config
from r2tuning.training.hub import _describe_start, _public_settings, check_push, command_line
from r2tuning.training.init_from import find_checkpoint
from r2tuning.training.loop import train_step
from r2tuning.training.model import make_model as make_model_of_run
from r2tuning.training.preparation import prepare_run
from r2tuning.training.run import DONE, USAGE, main


STRUCTURE = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_recurrent_steps": 3,
    "strides": [1, 2],
    "layer_fusion": "forward",
}


@pytest.fixture(autouse=True)
def _fresh_accelerate(monkeypatch):
    """Each run starts as in a process of its own; it draws no curves, which would take the longest here."""
    reset_accelerate()
    monkeypatch.setattr(run_script, "draw_curves", lambda *arguments: None)


@pytest.fixture(scope="module")
def options(tiny_clip, tmp_path_factory):
    """A run of six steps; neither the model nor CLIP is set."""
    options = write_benchmark(tmp_path_factory.mktemp("benchmark"), tiny_clip)
    return {name: value for name, value in options.items() if name not in ("model", "backbone")}


@pytest.fixture(scope="module")
def clip(options):
    return options["data-dir"].parent / "clip"


@pytest.fixture(scope="module")
def start(make_model, clip, tmp_path_factory):
    """A checkpoint of another structure and other rates than the defaults, on `clip`."""
    other = {"dropout": 0.3, "fps": 2.0, "window_sec": 8.0, "loss_recipe": "paper", "backbone_name_or_path": str(clip)}
    return save_ours(
        make_model(**STRUCTURE, **other), tmp_path_factory.mktemp("start") / "model", nms="gaussian", nms_threshold=0.3
    )


@pytest.fixture(scope="module")
def whole_start(make_model, tmp_path_factory):
    """A checkpoint that holds its own CLIP."""
    model = make_model(**STRUCTURE, save_backbone=True, backbone_name_or_path=None)
    return save_ours(model, tmp_path_factory.mktemp("start") / "whole")


def make_run(options, **changes):
    return prepare_run(read_config(as_arguments(options, **changes)))


def model_of(run):
    return run.accelerator.unwrap_model(run.model)


def assert_equal_weights(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


# ---- weights and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["start", "whole_start"])
def test_a_run_starts_from_the_weights_of_the_checkpoint(options, name, request, tmp_path):
    """Those of the encoders too; the structure is the checkpoint's."""
    folder = request.getfixturevalue(name)
    model = model_of(make_run(options, init_from=folder, output_dir=tmp_path))
    assert_equal_weights(model, AutoModel.from_pretrained(folder))
    assert {field: getattr(model.config, field) for field in STRUCTURE} == STRUCTURE


def test_rates_and_losses_are_those_of_the_run(options, start, tmp_path):
    changes = {"init_from": start, "output_dir": tmp_path, "model": '{"window_sec": 20.0}'}
    config = model_of(make_run(options, **changes)).config
    assert (config.dropout, config.fps, config.window_sec, config.loss_recipe) == (0.5, 0.5, 20.0, "released")


def test_the_processor_reads_as_the_checkpoint_does_and_answers_as_the_benchmark_demands(options, start, tmp_path):
    post = '{"nms_threshold": 0.4}'
    processor = make_run(options, init_from=start, output_dir=tmp_path, post_processing=post).processor
    theirs = R2TuningProcessor.from_pretrained(start)
    assert processor.image_processor.to_dict() == theirs.image_processor.to_dict()
    assert processor.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    assert (processor.fps, processor.nms, processor.nms_threshold, processor.round_to) == (0.5, "hard", 0.4, 2.0)
    assert (theirs.nms, theirs.nms_threshold) == ("gaussian", 0.3)
    assert make_run(options, init_from=start, output_dir=tmp_path).processor.nms_threshold == 0.7


def test_the_first_step_is_that_of_manually_loaded_weights(options, start, clip, tmp_path):
    """The optimizer is new, and the random numbers of the step do not depend on where the weights come from."""
    ours = make_run(options, init_from=start, output_dir=tmp_path)
    values = train_step(ours, ours.batches())
    reset_accelerate()
    manual = make_run(options, backbone=clip, model=json.dumps(STRUCTURE), output_dir=tmp_path)
    weights = load_file(start / "model.safetensors")
    missing = model_of(manual).load_state_dict(weights, strict=False).missing_keys
    assert all(name.startswith(("vision_model.", "text_model.")) for name in missing)
    assert train_step(manual, manual.batches()) == values
    assert_equal_weights(model_of(ours), model_of(manual))


@pytest.mark.parametrize("method", ["full", "lora", "vpt", "losa"])
def test_checkpoints_of_other_methods_are_started_from(options, make_model, clip, tmp_path, method):
    fields = {"method": method, "num_recurrent_steps": 3 if method == "losa" else 1}
    folder = save_ours(make_model(**fields, backbone_name_or_path=str(clip)), tmp_path / "start")
    videos = {name: value for name, value in options.items() if name != "features"} | {"video-dir": tmp_path}
    config = config_of(videos, init_from=folder)
    model = make_model_of_run(config)
    assert model.config.method == method
    assert_equal_weights(model, AutoModel.from_pretrained(folder))


def test_an_existence_head_is_added_taken_over_or_left_out(options, start, make_model, clip, tmp_path, caplog):
    add, leave_out = '{"use_existence_head": true}', '{"use_existence_head": false}'
    plain = AutoModel.from_pretrained(start).state_dict()
    with caplog.at_level(logging.INFO):
        added = model_of(make_run(options, init_from=start, output_dir=tmp_path, model=add)).state_dict()
    assert f"'{start}' has no existence head" in caplog.text
    assert all(torch.equal(added[name], value) for name, value in plain.items())
    assert {name.rpartition("existence_head.")[1] for name in added.keys() - plain.keys()} == {"existence_head."}
    fields = {**STRUCTURE, "use_existence_head": True, "backbone_name_or_path": str(clip)}
    folder = save_ours(make_model(**fields), tmp_path / "with_head", existence_scale=2.0, existence_bias=-1.0)
    run = make_run(options, init_from=folder, output_dir=tmp_path)
    assert_equal_weights(model_of(run), AutoModel.from_pretrained(folder))
    assert (run.processor.existence_scale, run.processor.existence_bias) == (2.0, -1.0)
    with caplog.at_level(logging.INFO):
        run = make_run(options, init_from=folder, output_dir=tmp_path, model=leave_out)
    assert f"The existence head of '{folder}' is left out" in caplog.text
    assert model_of(run).grounding_head.existence_head is None
    assert (run.processor.existence_scale, run.processor.existence_bias) == (1.0, 0.0)


# ---- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_resumed_run_ends_with_the_same_weights(options, start, tmp_path, capsys):
    """Another start is refused; a run whose start is gone says so."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    copied = shutil.copytree(start, tmp_path / "start")
    options = {**options, "init-from": copied, "resume": "auto", "save-steps": 2, "keep-checkpoints": 9}
    assert main(as_arguments(options, output_dir=whole)) == DONE
    resumed.mkdir()
    shutil.copytree(whole / "step_000002", resumed / "step_000002")
    reset_accelerate()
    assert main(as_arguments(options, output_dir=resumed, init_from=start)) == USAGE
    assert f'`--init-from` was "{copied}", now is "{start}"' in capsys.readouterr().err
    assert main(as_arguments(options, output_dir=resumed)) == DONE
    first, ours = load_file(whole / "final/model.safetensors"), load_file(resumed / "final/model.safetensors")
    assert all(torch.equal(ours[name], value) for name, value in first.items())
    reset_accelerate()
    assert main(as_arguments(options, output_dir=resumed, init_from=copied / ".." / copied.name)) == DONE
    shutil.rmtree(copied)
    assert main(as_arguments(options, output_dir=resumed)) == USAGE
    assert "`--init-from` must be a folder, or a name on the Hub such as 'openai/" in capsys.readouterr().err


# ---- contradictions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": '{"hidden_size": 32}'}, "`hidden_size` is 16 there and 32 in this run"),
        ({"model": '{"num_recurrent_steps": 2}'}, "is 3 there and 2 in this run"),
        ({"model": '{"strides": [1, 2, 4]}'}, "is [1, 2] there and [1, 2, 4] in this run"),
        ({"model": '{"layer_fusion": "mean"}'}, "is 'forward' there and 'mean' in this run"),
        ({"model": '{"use_moment_head": false}'}, "is True there and False in this run"),
        ({"method": "lora"}, " is 'r2_tuning' there and 'lora' in this run"),
        ({"model": '{"hiden_size": 16}'}, "`--model` has fields that R2TuningConfig does not know: ['hiden_size']"),
        ({"model": '{"backbone_revision": "a"}'}, "`--model` must not set ['backbone_revision']: `--backbone` and"),
    ],
)
def test_settings_that_contradict_the_checkpoint_are_refused(options, start, tmp_path, capsys, changes, message):
    assert main(as_arguments(options, init_from=start, output_dir=tmp_path, **changes)) == USAGE
    error = capsys.readouterr().err
    assert message in error
    assert "`--model`" in error or f"`--init-from` '{start}' does not fit the settings of this run" in error


def test_settings_that_agree_with_the_checkpoint_are_allowed(options, start, tmp_path):
    run = make_run(options, init_from=start, output_dir=tmp_path, method="r2_tuning", model=json.dumps(STRUCTURE))
    assert model_of(run).config.hidden_size == 16


def test_a_checkpoint_without_moment_head_is_refused_where_moments_are_annotated(
    options, make_model, clip, tmp_path, capsys
):
    model = make_model(use_moment_head=False, strides=(1,), backbone_name_or_path=str(clip))
    folder = save_ours(model, tmp_path / "start")
    assert main(as_arguments(options, init_from=folder, output_dir=tmp_path / "run")) == USAGE
    assert "`use_moment_head` is False there and True in this run" in capsys.readouterr().err


# ---- encoders ------------------------------------------------------------------------------------------------------


def test_another_folder_of_the_same_clip_can_be_used(options, start, clip, tmp_path, caplog):
    other = shutil.copytree(clip, tmp_path / "clip")
    run = make_run(options, init_from=start, backbone=other, output_dir=tmp_path)
    assert model_of(run).config.backbone_name_or_path == str(other)
    assert_equal_weights(model_of(run), AutoModel.from_pretrained(start))
    assert f"was trained on the backbone '{clip}' and is used with '{other}'" in caplog.text
    caplog.clear()
    make_run(options, init_from=start, backbone=clip, output_dir=tmp_path)
    assert "was trained on" not in caplog.text


def test_a_clip_of_other_sizes_is_refused(options, start, tiny_clip_config, tmp_path, capsys):
    config = tiny_clip_config.to_dict()
    config["vision_config"] |= {"hidden_size": 32}
    other = save_clip(CLIPModel(type(tiny_clip_config)(**config)), tmp_path / "clip")
    assert main(as_arguments(options, init_from=start, backbone=other, output_dir=tmp_path)) == USAGE
    error = capsys.readouterr().err
    assert f"`--init-from` '{start}' and `--backbone` do not fit together: The backbone '{other}'" in error
    assert "hidden_size=32 where 64 is needed" in error


def test_the_clip_of_a_checkpoint_that_holds_one_stays(options, whole_start, clip, tmp_path, capsys):
    arguments = as_arguments(options, init_from=whole_start, output_dir=tmp_path)
    config = model_of(prepare_run(read_config(arguments))).config
    assert (config.save_backbone, config.backbone_name_or_path) == (True, None)
    assert main([*arguments, "--backbone", str(clip)]) == USAGE
    assert (
        f"'{whole_start}' holds the backbone that it was trained on, but `--backbone` names" in capsys.readouterr().err
    )
    assert main([*arguments, "--model", '{"save_backbone": false}']) == USAGE
    assert "`--model` sets `save_backbone` to false" in capsys.readouterr().err


def test_the_clip_can_be_put_into_the_new_checkpoint(options, start, tmp_path):
    run = make_run(options, init_from=start, output_dir=tmp_path, model='{"save_backbone": true}')
    config = model_of(run).config
    assert (config.save_backbone, config.backbone_name_or_path) == (True, None)
    assert_equal_weights(model_of(run), AutoModel.from_pretrained(start))


def test_features_of_another_clip_are_refused(options, start, tmp_path, capsys, monkeypatch):
    """The check is that of every run; here the model has the encoders of the checkpoint."""
    seen = []

    def cache(folder, *, model, **settings):
        seen.append(model)
        raise ValueError("made with another backbone")

    monkeypatch.setattr("r2tuning.training.preparation.FeatureCache", cache)
    assert main(as_arguments(options, init_from=start, output_dir=tmp_path)) == USAGE
    assert "made with another backbone" in capsys.readouterr().err
    assert_equal_weights(seen[0], AutoModel.from_pretrained(start))


# ---- names ---------------------------------------------------------------------------------------------------------


def config_of(options, **changes):
    return read_config(as_arguments(options, output_dir="run", **changes))


def test_the_packaged_model_has_a_name(options, start, tmp_path, monkeypatch):
    """Which a folder of that name takes."""
    config = config_of(options, init_from="packaged")
    assert find_checkpoint(config) == str(DEFAULT_MODEL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(start, "packaged")
    assert find_checkpoint(config) == "packaged"


def test_released_checkpoints_are_converted(options, start, monkeypatch):
    calls = []
    monkeypatch.setattr(resolve, "resolve_checkpoint", lambda *args, **named: calls.append((args, named)) or start)
    config = config_of(options, init_from="yeliudev/R2-Tuning/tvsum/BK", backbone="org/clip")
    assert find_checkpoint(config) == start
    assert calls == [(("yeliudev/R2-Tuning",), {"benchmark": "tvsum", "domain": "BK", "backbone": "org/clip"})]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "`--init-from` must be a folder, or a name on the Hub"),
        ("original.pth", "convert a .pth file to a folder with `r2tuning convert FILE.pth FOLDER --benchmark NAME`"),
        ("yeliudev/R2-Tuning", "pass 'yeliudev/R2-Tuning/BENCHMARK'"),
        ("yeliudev/R2-Tuning/moving_shapes", "`--benchmark` must be one of"),
        ("yeliudev/R2-Tuning/tvsum", "tvsum has one model for each domain"),
    ],
)
def test_names_that_cannot_be_used_are_refused_before_anything_is_read(options, tmp_path, capsys, name, message):
    assert main(as_arguments(options, init_from=name, data_dir=options["data-dir"], output_dir=tmp_path)) == USAGE
    assert message in capsys.readouterr().err


def test_another_kind_of_model_is_refused(options, clip, tmp_path, capsys):
    assert main(as_arguments(options, init_from=clip, output_dir=tmp_path)) == USAGE
    assert "holds a model of type 'clip', expected a model of type 'r2tuning'" in capsys.readouterr().err


# ---- publishing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "repository"),
    [
        ("org/r2tuning-qvhl", "`org/r2tuning-qvhl`", "org/r2tuning-qvhl"),
        ("packaged", "the model in the package `r2tuning`", None),
        ("yeliudev/R2-Tuning/tacos", "the authors' checkpoint for `tacos`", "yeliudev/R2-Tuning"),
        ("yeliudev/R2-Tuning/tvsum/BK", "the authors' checkpoint for `tvsum`, domain `BK`", "yeliudev/R2-Tuning"),
        ("tests", "a checkpoint that is not published", None),
        ("/gone/run/best", "a checkpoint that is not published", None),
    ],
)
def test_a_start_is_described_for_readers_and_for_the_hub(name, text, repository, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert _describe_start(name) == {"text": text, "repository": repository}


def test_a_local_start_is_described_by_its_results(tmp_path):
    Results("tacos", "test", {}).save(tmp_path)
    assert _describe_start(str(tmp_path))["text"] == "a checkpoint that is not published and was trained on TACoS"
    (tmp_path / "results.json").write_text("{")
    assert _describe_start(str(tmp_path))["text"] == "a checkpoint that is not published"


def test_published_settings_hold_names_but_no_folders(options, start):
    assert _public_settings(config_of(options, init_from=start))["init_from"] == "INIT_FROM"
    for name in ("packaged", "org/r2tuning-qvhl"):
        config = config_of(options, init_from=name)
        assert _public_settings(config)["init_from"] == name
        assert f"--init-from {name}" in command_line(config)
        assert "--backbone" not in command_line(config)


def test_a_model_on_a_local_clip_is_not_pushed(options, start, whole_start, monkeypatch):
    monkeypatch.setattr("r2tuning.training.hub.check_destination", lambda name: None)
    check_push(config_of(options, init_from=whole_start, push_to="org/name"))
    check_push(config_of(options, init_from=start, push_to="org/name", backbone="org/clip"))
    check_push(config_of(options, init_from=start, push_to="org/name", model='{"save_backbone": true}'))
    with pytest.raises(ValueError, match="cannot be published: give `backbone` a name on the Hub"):
        check_push(config_of(options, init_from=start, push_to="org/name"))
