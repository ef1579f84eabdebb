"""Checkpoints loaded with `trust_remote_code`, where our packages cannot be imported."""

import json
import os

import pytest
import torch
from carried_files import FILES
from fresh_python import WITHOUT_PACKAGE, run_fresh
from model_checks import make_inputs
from safetensors.torch import save_file


CODE = """
import json, sys
from transformers import AutoModel, AutoProcessor, pipeline
folder, out = sys.argv[1:]
video = folder + "/sample.mp4"
assert not {"modeling_r2tuning", "r2tuning", "r2tuning_cli", "dataset_scripts"} & sys.modules.keys()
pipe = pipeline("video-grounding", model=folder, trust_remote_code=True)
first = pipe(video, query="a red circle")
pipe.save_pretrained(out)
again = pipeline(model=out, trust_remote_code=True)
second = again(video, query="a red circle")
model = AutoModel.from_pretrained(out, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(out, trust_remote_code=True)
third = processor.post_process_video_grounding(model(**processor(videos=video, text="a red circle")))[0]
names = [type(x).__module__.split(".")[0] for x in (pipe, model, processor)]
print(json.dumps({"names": names, "answers": [first["saliency"], second["saliency"], third["saliency"]]}))
"""
METHODS_CODE = """
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModel
scores = {}
for name in sys.argv[1:]:
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules")
    with torch.no_grad():
        scores[name] = model(**load_file(name + "/inputs.safetensors")).saliency_scores.flatten().tolist()
print(json.dumps(scores))
"""


def run_without_package(code, folder, *arguments):
    """Run code where the package cannot be imported; return the JSON of the last line that it prints."""
    env = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    result = run_fresh(["-c", WITHOUT_PACKAGE + code, *arguments], env, folder, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def without_package(checkpoint, tmp_path_factory):
    """What `CODE` prints, and the folder that it saves to."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return run_without_package(CODE, folder, checkpoint, folder / "again"), folder / "again"


@pytest.mark.integration
@torch.no_grad()
def test_every_method_works_without_the_package(make_model, tmp_path):
    want = {}
    for method in ("none", "full", "lora", "vpt", "vop", "st_adapter", "e3va", "losa", "lst"):
        beside = method in ("e3va", "losa", "lst")
        model = make_model(method=method, num_recurrent_steps=3 if beside else 1)
        model.save_pretrained(tmp_path / method)
        save_file(make_inputs(model.config), tmp_path / method / "inputs.safetensors")
        want[method] = model(**make_inputs(model.config)).saliency_scores.flatten().tolist()
    got = run_without_package(METHODS_CODE, tmp_path, *want)
    for method, scores in want.items():
        assert got[method] == pytest.approx(scores, abs=1e-5), method


def test_checkpoint_contains_all_of_its_code(checkpoint):
    assert {path.name for path in checkpoint.glob("*.py")} == FILES


def test_checkpoint_works_without_the_package(without_package):
    printed, _ = without_package
    assert printed["names"] == ["transformers_modules"] * 3


def test_answers_are_the_same_with_and_without_the_package(without_package, checkpoint, processor):
    from modeling_r2tuning import R2TuningForVideoGrounding

    model = R2TuningForVideoGrounding.from_pretrained(checkpoint)
    outputs = model(**processor(videos=checkpoint / "sample.mp4", text="a red circle"))
    want = processor.post_process_video_grounding(outputs)[0]["saliency"]
    for saliency in without_package[0]["answers"]:
        assert saliency == pytest.approx(want, abs=1e-5)


def test_a_copy_saved_without_the_package_is_complete(without_package):
    assert {path.name for path in without_package[1].glob("*.py")} == FILES
