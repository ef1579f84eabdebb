"""Checkpoints pushed and loaded with the real Hub client and a Hub on the loopback interface."""

import json
import textwrap
from typing import get_args

import pytest
from loopback_hub import LoopbackHub, constants, run_python
from tiny_checkpoints import save_ours
from transformers import CLIPConfig

from modeling_r2tuning.method_specs_r2tuning import Method
from r2tuning.training.model import layers_read


METHODS = get_args(Method)
PUSH = """
    from transformers import pipeline
    import modeling_r2tuning
    pipeline("video-grounding", model=FOLDER).push_to_hub("org/r2tuning-tiny")
"""
LOAD = """
    import json
    import modeling_r2tuning
    from transformers import AutoModel, AutoProcessor, pipeline
    model = AutoModel.from_pretrained(NAME)
    processor = AutoProcessor.from_pretrained(NAME)
    answers = [pipeline("video-grounding", model=each)(VIDEO, query="a red circle") for each in (NAME, FOLDER)]
    print(json.dumps([type(model).__name__, type(processor).__name__, *(each["saliency"] for each in answers)]))
"""
PUSH_THEIRS = """
    import modeling_r2tuning
    from transformers import AutoModel
    AutoModel.from_pretrained(FOLDER).push_to_hub(NAME)
"""
SUMS = """
    import json
    import modeling_r2tuning
    from transformers import AutoModel
    print(json.dumps([p.double().sum().item() for p in AutoModel.from_pretrained(NAME).parameters()]))
"""
PUSH_EACH = """
    from r2tuning.hub.push import push_checkpoint
    for method in METHODS:
        push_checkpoint(f"{FOLDER}/{method}", f"org/{method}")
"""
SUMS_EACH = """
    import json
    import modeling_r2tuning
    from transformers import AutoModel
    models = {method: AutoModel.from_pretrained(f"org/{method}") for method in METHODS}
    print(json.dumps({method: [model.config.method, *(p.double().sum().item() for p in model.parameters())]
        for method, model in models.items()}))
"""
NO_CLIP = """
    import modeling_r2tuning
    from transformers import AutoModel
    try:
        AutoModel.from_pretrained(NAME)
    except OSError as error:
        print("refused:", error)
"""


def run(code, hub, home, **values):
    result = run_python(constants(**values) + textwrap.dedent(code), hub.env(home))
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        yield hub


def test_a_pushed_checkpoint_loads_by_name(hub, checkpoint, tmp_path):
    run(PUSH, hub, tmp_path / "home", FOLDER=str(checkpoint))
    pushed = set(hub.files("org/r2tuning-tiny"))
    assert {path.name for path in checkpoint.iterdir() if path.suffix in (".json", ".py", ".safetensors")} <= pushed
    video = str(checkpoint / "sample.mp4")
    values = {"NAME": "org/r2tuning-tiny", "FOLDER": str(checkpoint), "VIDEO": video}
    printed = json.loads(run(LOAD, hub, tmp_path / "home2", **values))
    assert printed[:2] == ["R2TuningForVideoGrounding", "R2TuningProcessor"]
    assert printed[2] == printed[3]


@pytest.mark.integration
def test_a_lora_checkpoint_pushed_by_transformers_loads_by_name(hub, make_model, clip_folder, tmp_path):
    """peft's files are pushed too."""
    model = make_model(method="lora", num_recurrent_steps=1)
    model.config.backbone_name_or_path = "org/clip"
    save_ours(model, tmp_path / "lora")
    hub.add_repo("org/clip", {path.name: path for path in clip_folder.iterdir()})
    run(PUSH_THEIRS, hub, tmp_path / "home", FOLDER=str(tmp_path / "lora"), NAME="org/theirs")
    assert {"lora/adapter_config.json", "lora/adapter_model.safetensors"} <= set(hub.files("org/theirs"))
    want = [parameter.double().sum().item() for parameter in model.parameters()]
    assert json.loads(run(SUMS, hub, tmp_path / "home2", NAME="org/theirs")) == want


@pytest.mark.integration
def test_checkpoints_of_all_methods_load_by_name(hub, make_model, clip_folder, tmp_path):
    """Pushed by our command; CLIP comes from its own repository."""
    hub.add_repo("org/clip", {path.name: path for path in clip_folder.iterdir()})
    clip, want = CLIPConfig.from_pretrained(clip_folder), {}
    for method in METHODS:
        model = make_model(method=method, **layers_read(method, clip))
        model.config.backbone_name_or_path = "org/clip"
        save_ours(model, tmp_path / method)
        want[method] = [method, *(parameter.double().sum().item() for parameter in model.parameters())]
    run(PUSH_EACH, hub, tmp_path / "home", METHODS=METHODS, FOLDER=str(tmp_path))
    assert json.loads(run(SUMS_EACH, hub, tmp_path / "home2", METHODS=METHODS)) == want


def test_clip_is_downloaded_by_name(hub, make_model, clip_folder, tmp_path):
    """A checkpoint without CLIP downloads it from the Hub; if the Hub lacks it, the error says what to do."""
    model = make_model()
    model.config.backbone_name_or_path = "org/clip"
    save_ours(model, tmp_path / "small")
    assert (tmp_path / "small/model.safetensors").stat().st_size < 500_000
    refused = run(NO_CLIP, hub, tmp_path / "home", NAME=str(tmp_path / "small"))
    assert "org/clip" in refused
    assert "backbone_name_or_path" in refused
    hub.add_repo("org/clip", {path.name: path for path in clip_folder.iterdir()})
    assert run(NO_CLIP, hub, tmp_path / "home", NAME=str(tmp_path / "small")) == ""
