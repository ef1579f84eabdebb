"""Every transfer method of Table 9 through `train/run.py`: from videos, resumed, from features where that is possible."""

import json
import shutil

import numpy as np
import pytest
import torch
from model_checks import assert_equal_outputs, is_learned, make_inputs
from safetensors.torch import load_file
from tiny_checkpoints import save_clip
from training_samples import MODEL, as_arguments, reset_accelerate, write_benchmark
from transformers import AutoModel

from r2tuning.training import run as run_script
from r2tuning.training.run import DONE, USAGE, main


METHODS = ("r2_tuning", "none", "full", "lora", "vpt", "vop", "st_adapter", "e3va", "losa", "lst")
# One for each way to work: in the block, training the encoders, with peft, mixing frames, and beside the encoders.
BY_DEFAULT = ("r2_tuning", "lora", "vop")
METHOD_FIELDS = {name: value for name, value in MODEL.items() if name != "num_recurrent_steps"}


@pytest.fixture(autouse=True)
def _fresh_accelerate(monkeypatch):
    """Each run starts as in a process of its own; it draws no curves, which would take the longest here."""
    reset_accelerate()
    monkeypatch.setattr(run_script, "draw_curves", lambda *arguments: None)


@pytest.fixture(scope="module")
def options(tiny_clip, checkpoint, tmp_path_factory):
    """Four steps on two queries about `sample.mp4`, a checkpoint after each."""
    folder = tmp_path_factory.mktemp("benchmark")
    clips = {"relevant_clip_ids": [2, 3], "saliency_scores": [[2, 3, 3], [4, 4, 3]]}
    lines = [
        {"qid": qid, "query": query, "vid": "sample", "duration": 20, "relevant_windows": [[4, 8]], **clips}
        for qid, query in enumerate(("a b", "c d e"))
    ]
    for split in ("train", "val"):
        (folder / f"highlight_{split}_release.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "preset": "qvhighlights",
        "data-dir": folder,
        "video-dir": checkpoint,
        "backbone": save_clip(tiny_clip, folder / "clip"),
        **{"epochs": 2, "repeat-factor": 2, "batch-size": 2, "eval-epochs": 2, "save-steps": 1, "keep-checkpoints": 9},
        **{"warmup-steps": 0, "learning-rate": 1e-3, "num-workers": 0, "resume": "auto", "cpu": None},
    }


def read_weights(folder):
    """All weights that a checkpoint stores."""
    adapter = folder / "lora/adapter_model.safetensors"
    return load_file(folder / "model.safetensors") | (load_file(adapter) if adapter.exists() else {})


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.integration) for name in METHODS]
)
def test_a_method_trains_from_videos_resumes_and_loads(options, tmp_path, method):
    """A run that resumes from its second step ends with the weights of an uninterrupted one, to the last bit."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = {**options, "model": json.dumps(MODEL if method == "r2_tuning" else METHOD_FIELDS)}
    assert main(as_arguments(options, method=method, output_dir=whole)) == DONE
    resumed.mkdir()
    shutil.copytree(whole / "step_000002", resumed / "step_000002")
    shutil.copy(whole / "training_config.json", resumed)
    reset_accelerate()
    assert main(as_arguments(options, method=method, output_dir=resumed)) == DONE
    first, final, again = (read_weights(path) for path in (whole / "step_000001", whole / "final", resumed / "final"))
    assert first.keys() == final.keys() == again.keys()
    assert all(torch.equal(again[name], value) for name, value in final.items())
    model = AutoModel.from_pretrained(whole / "final")
    assert model.config.method == method
    learned = [name for name in final if is_learned(model.config, name.replace(".weight", ".default.weight"))]
    assert len(learned) >= len(final) - 4  # full tuning leaves two norms alone
    assert not any(torch.equal(first[name], final[name]) for name in learned if final[name].any())
    reloaded = AutoModel.from_pretrained(resumed / "final")
    with torch.no_grad():
        inputs = make_inputs(model.config)
        assert_equal_outputs(reloaded(**inputs), model(**inputs))


def keep_layers(cache, layers):
    for path in cache.rglob("*.npy"):
        np.save(path, np.load(path)[:, layers])


@pytest.mark.parametrize("method", ["none", "losa", "lst"])
def test_methods_that_read_an_unchanged_backbone_train_from_features(tiny_clip, tmp_path, method):
    options = {**write_benchmark(tmp_path, tiny_clip), "model": json.dumps(METHOD_FIELDS), "epochs": 1}
    if method == "none":
        keep_layers(tmp_path / "cache", slice(-1, None))
    assert main(as_arguments(options, method=method, output_dir=tmp_path / "run")) == DONE
    assert AutoModel.from_pretrained(tmp_path / "run/final").config.method == method


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        *((method, "changes the encoders' hidden states") for method in ("full", "lora", "vpt", "vop", "st_adapter")),
        ("e3va", "reads states inside the encoders' layers"),
    ],
)
def test_other_methods_refuse_features(tiny_clip, tmp_path, capsys, method, reason):
    options = {**write_benchmark(tmp_path, tiny_clip), "model": json.dumps(METHOD_FIELDS)}
    assert main(as_arguments(options, method=method, output_dir=tmp_path / "run")) == USAGE
    message = capsys.readouterr().err
    assert f"`--method` '{method}' {reason}" in message
    assert "--video-dir" in message


def test_a_cache_with_too_few_layers_for_a_side_network_is_refused(tiny_clip, tmp_path, capsys):
    options = {**write_benchmark(tmp_path, tiny_clip), "model": json.dumps(METHOD_FIELDS)}
    keep_layers(tmp_path / "cache", slice(1, None))
    assert main(as_arguments(options, method="lst", output_dir=tmp_path / "run")) == USAGE
    assert "the model needs floating-point numbers of the shape (any, 3, 5, 64)" in capsys.readouterr().err
