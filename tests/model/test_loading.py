"""Checkpoints that cannot be loaded: one line names checkpoint, file and remedy; no pickle is ever opened."""

import json
import os
import pickle
import re
import shutil

import huggingface_hub
import pytest
import torch
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from tiny_checkpoints import save_clip, save_ours
from transformers import AutoModel, AutoProcessor, CLIPModel

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, loading_r2tuning
from r2tuning.checks import check_model_type
from r2tuning.evaluation.run import main as evaluate
from r2tuning.released.resolve import fetch_original
from r2tuning.training.config import TrainingConfig
from r2tuning.training.model import make_model as make_trained
from r2tuning_cli.main import main


WEIGHTS = "model.safetensors"


@pytest.fixture
def broken(checkpoint, tmp_path):
    """A copy of the checkpoint for a test to damage."""
    return shutil.copytree(checkpoint, tmp_path / "broken")


def write(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def cut(file, size):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def edit_json(file, **changes):
    def edit(folder):
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))

    return edit


def edit_weights(change):
    def edit(folder):
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def index_alone(weight_map):
    def write_index(folder):
        (folder / WEIGHTS).unlink()
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return write_index


class Trap:
    """An object whose pickle makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickle_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(folder / "opened")))
    (folder / WEIGHTS).unlink()


MODEL_DAMAGE = {
    "config cut": (cut("config.json", 100), r"broken/config.json' is not valid JSON"),
    "config empty": (cut("config.json", 0), r"broken/config.json' is empty"),
    "config list": (write("config.json", b"[]"), r"broken/config.json' holds no JSON object"),
    "config not UTF-8": (write("config.json", b'{"a": "\xe9"}'), r"broken/config.json' is not valid JSON"),
    "config of text": (
        edit_json("config.json", hidden_size="x"),
        "config.json does not hold valid settings: .* 'hidden_size'",
    ),
    "config too large": (edit_json("config.json", hidden_size=10**9), "broken' cannot be loaded: RuntimeError"),
    "fewer steps": (
        edit_json("config.json", num_recurrent_steps=2),
        r"do not fit its config.json: it has misshaped weights \(2, such as \['r2_block.gate \(3,\) instead of \(1,\)",
    ),
    "another method": (edit_json("config.json", method="lst"), "lacks weights .* has unknown weights"),
    "weight missing": (edit_weights(lambda found: found.pop("r2_block.gate")), r"lacks weights \(1, .*r2_block.gate"),
    "weight unknown": (
        edit_weights(lambda found: found.update(extra=torch.ones(1))),
        r"unknown weights \(1, such as \['extra'\]\)",
    ),
    "weights cut": (cut(WEIGHTS, 50_000), f"broken/{WEIGHTS}' is not a complete safetensors file"),
    "header cut": (cut(WEIGHTS, 500), f"broken/{WEIGHTS}' is not a complete safetensors file"),
    "weights empty": (cut(WEIGHTS, 0), f"broken/{WEIGHTS}' is empty"),
    "web page": (write(WEIGHTS, b"<html>" * 99), f"broken/{WEIGHTS}' is not a complete safetensors file"),
    "pointer": (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid"), "is a Git LFS pointer"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"broken' cannot be loaded: it has no {WEIGHTS}. Save"),
    "odd index": (index_alone({"a": 3, "b": "c"}), "broken"),
    "no shards": (
        index_alone({"r2_block.gate": "model-00001-of-00001.safetensors"}),
        "broken/model-00001-of-00001.safetensors' is missing",
    ),
    "pickle": (
        pickle_alone,
        f"it has no {WEIGHTS}, and pytorch_model.bin is a pickle.* never loaded. If you trust it",
    ),
}
PROCESSOR_DAMAGE = {
    "processor cut": (cut("processor_config.json", 30), r"broken/processor_config.json' is not valid JSON"),
    "processor list": (write("processor_config.json", b"[]"), r"broken/processor_config.json' holds no JSON object"),
    "tokenizer cut": (cut("tokenizer.json", 100), r"broken/tokenizer.json' is not valid JSON"),
    "tokenizer empty": (cut("tokenizer.json", 0), r"broken/tokenizer.json' is empty"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"broken' has no tokenizer.json"),
    "another tokenizer": (write("tokenizer.json", b'{"model": 3}'), r"broken/tokenizer.json' is not a tokenizer"),
    "tokenizer's settings": (
        write("tokenizer_config.json", b"[]"),
        r"broken/tokenizer_config.json' holds no JSON obj",
    ),
}


@pytest.mark.parametrize("damage", MODEL_DAMAGE)
def test_a_damaged_model(damage, broken):
    damage, message = MODEL_DAMAGE[damage]
    damage(broken)
    with pytest.raises((OSError, ValueError), match=message) as raised:
        R2TuningForVideoGrounding.from_pretrained(broken)
    assert str(broken) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (broken / "opened").exists()


@pytest.mark.parametrize("damage", PROCESSOR_DAMAGE)
def test_a_damaged_processor(damage, broken):
    damage, message = PROCESSOR_DAMAGE[damage]
    damage(broken)
    with pytest.raises((OSError, ValueError), match=message) as raised:
        R2TuningProcessor.from_pretrained(broken)
    assert "\n" not in str(raised.value)


def test_the_tokenizer_of_another_model(broken, checkpoint, capsys, tmp_path):
    from transformers import CLIPTokenizer

    words = {f"{index}</w>": index for index in range(2000)} | {"<|startoftext|>": 2000, "<|endoftext|>": 2001}
    CLIPTokenizer(words, []).save_pretrained(broken)
    assert main(["ground", str(checkpoint / "sample.mp4"), "1999", "--model", str(broken)]) == 2
    assert re.search(
        r"The tokenizer of '.*broken' has 2002 tokens, the model '.*broken' knows 514", capsys.readouterr().err
    )


def test_auto_classes_report_damage_alike(broken):
    """In files that the auto classes leave to ours."""
    MODEL_DAMAGE["weights cut"][0](broken)
    PROCESSOR_DAMAGE["tokenizer cut"][0](broken)
    with pytest.raises(ValueError, match=MODEL_DAMAGE["weights cut"][1]):
        AutoModel.from_pretrained(broken)
    with pytest.raises(ValueError, match=PROCESSOR_DAMAGE["tokenizer cut"][1]):
        AutoProcessor.from_pretrained(broken)


COMMANDS = {
    "ground": ["ground", "VIDEO", "a", "--model", "MODEL"],
    "explain": ["explain", "VIDEO", "a", "--model", "MODEL", "--out", "figures"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", ["config list", "fewer steps", "pickle", "tokenizer's settings"])
def test_the_command_reports_damage_in_one_line(command, damage, broken, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    damage, message = {**MODEL_DAMAGE, **PROCESSOR_DAMAGE}[damage]
    damage(broken)
    places = {"VIDEO": str(checkpoint / "sample.mp4"), "MODEL": str(broken)}
    capsys.readouterr()
    assert main([places.get(word, word) for word in COMMANDS[command]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("r2tuning: error: ")
    assert err.count("\n") == 1
    assert str(broken) in err


@pytest.mark.parametrize("damage", ["fewer steps", "pickle"])
def test_evaluation_reports_damage_in_one_line(damage, broken, tmp_path, capsys):
    from annotation_samples import write_benchmark

    MODEL_DAMAGE[damage][0](broken)
    options = ["--benchmark", "tacos", "--data-dir", str(write_benchmark("tacos", tmp_path / "data"))]
    capsys.readouterr()
    assert evaluate(["--model", str(broken), "--features", str(tmp_path), *options]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("run_evaluation: error: ")
    assert str(broken) in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "damage", [cut("lora/adapter_model.safetensors", 900), lambda folder: shutil.rmtree(folder / "lora")]
)
def test_damaged_adapters(damage, make_model, tmp_path):
    folder = save_ours(make_model(method="lora", num_recurrent_steps=1), tmp_path / "ours")
    damage(folder)
    with pytest.raises(
        (OSError, ValueError), match=r"ours.* lora/adapter_model.safetensors|ours/lora/adapter_model.sa"
    ):
        R2TuningForVideoGrounding.from_pretrained(folder)


def test_pickles_cannot_be_requested(checkpoint):
    with pytest.raises(ValueError, match="`use_safetensors` must be left out"):
        R2TuningForVideoGrounding.from_pretrained(checkpoint, use_safetensors=False)


def test_other_shapes_are_accepted_on_request(broken):
    MODEL_DAMAGE["fewer steps"][0](broken)
    model = R2TuningForVideoGrounding.from_pretrained(broken, ignore_mismatched_sizes=True)
    assert model.config.num_recurrent_steps == 2


def test_the_advice_about_a_pickle_works(broken):
    torch.save(load_file(broken / WEIGHTS), broken / "pytorch_model.bin")
    want = load_file(broken / WEIGHTS)
    (broken / WEIGHTS).unlink()
    with pytest.raises(OSError, match="If you trust it, convert it") as raised:
        R2TuningForVideoGrounding.from_pretrained(broken)
    line = str(raised.value).split("`")[1]
    for file in ("pytorch_model.bin", WEIGHTS):
        line = line.replace(f"'{file}'", repr(str(broken / file)))
    exec(f"import safetensors.torch, torch; {line}")
    found = R2TuningForVideoGrounding.from_pretrained(broken).state_dict()
    assert all(torch.equal(found[name], value) for name, value in want.items())


# ---- CLIP ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tiny_clip, tmp_path):
    return save_clip(tiny_clip, tmp_path / "clip")


CLIP_DAMAGE = {
    "config cut": (cut("config.json", 50), "clip/config.json' is not valid JSON"),
    "weights cut": (cut(WEIGHTS, 20_000), f"clip/{WEIGHTS}' is not a complete safetensors file"),
    "pickle": (pickle_alone, "pytorch_model.bin is a pickle"),
    "weight missing": (
        edit_weights(lambda found: found.pop("vision_model.embeddings.class_embedding")),
        "class_embedding",
    ),
    "other shapes": (
        edit_weights(lambda found: found.update({"vision_model.embeddings.class_embedding": torch.ones(3)})),
        "other shapes|misshaped",
    ),
}


@pytest.mark.parametrize("damage", CLIP_DAMAGE)
def test_a_damaged_clip(damage, clip, make_model, tmp_path):
    """A CLIP that a checkpoint refers to, or on which a model is trained."""
    folder = save_ours(make_model(backbone_name_or_path=str(clip)), tmp_path / "ours")
    damage, message = CLIP_DAMAGE[damage]
    damage(clip)
    for load in (R2TuningForVideoGrounding.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises((OSError, ValueError), match=message) as raised:
            load(folder)
        assert str(clip) in str(raised.value)
    options = {"data_dir": ".", "output_dir": ".", "video_dir": ".", "model": {"num_recurrent_steps": 3}}
    config = TrainingConfig(benchmark="qvhighlights", backbone=str(clip), **options)
    with pytest.raises((OSError, ValueError), match=message):
        make_trained(config)
    assert not (clip / "opened").exists()


def test_a_clip_with_more_weights_than_needed(clip):
    """OpenAI's checkpoints also hold buffers."""
    edit_weights(lambda found: found.update({"text_model.embeddings.position_ids": torch.arange(16)[None]}))(clip)
    options = {"data_dir": ".", "output_dir": ".", "video_dir": ".", "model": {"num_recurrent_steps": 3}}
    model = make_trained(TrainingConfig(benchmark="qvhighlights", backbone=str(clip), **options))
    model.save_pretrained(clip.parent / "ours")
    R2TuningForVideoGrounding.from_pretrained(clip.parent / "ours")


@pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json"])
@pytest.mark.parametrize("damage", [lambda path: path.write_text("{"), lambda path: path.unlink()])
def test_a_clip_with_a_damaged_processor(file, damage, clip):
    damage(clip / file)
    with pytest.raises((OSError, ValueError), match=file) as raised:
        R2TuningProcessor.from_backbone(clip, fps=1.0)
    assert str(clip) in str(raised.value)


@pytest.mark.parametrize("name", ["/no/such/clip", "./clip", "clips/vit/b32", "two words", "nowhere"])
def test_invalid_names_are_refused_before_anything_is_read(name, checkpoint, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    with pytest.raises(FileNotFoundError, match=f"'{name}' is neither a folder that exists nor a name on the Hub"):
        R2TuningForVideoGrounding.from_pretrained(checkpoint, backbone_name_or_path=name)
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        R2TuningForVideoGrounding.from_pretrained(name)


# ---- without the Hub ----------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path, clip):
    with LoopbackHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        hub.add_repo("org/clip", {path.name: path for path in clip.iterdir()})
        yield hub


@pytest.fixture
def offline(monkeypatch):
    def forbid():
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    return forbid


@pytest.fixture
def published(hub, make_model, tmp_path):
    """A checkpoint on the Hub whose CLIP is there too."""
    folder = save_ours(make_model(backbone_name_or_path="org/clip"), tmp_path / "ours")
    hub.add_repo("org/ours", {path.name: path for path in folder.iterdir()})
    return "org/ours"


def unfetched(name, file):
    return rf"'{name}' cannot be loaded: its file '{file}' is not in the cache, and .*`hf download {name}`"


def test_offline_with_an_empty_cache(published, offline):
    offline()
    with pytest.raises(OSError, match=unfetched(published, "config.json")) as raised:
        R2TuningForVideoGrounding.from_pretrained(published)
    assert "HF_HUB_OFFLINE" in str(raised.value)
    with pytest.raises(OSError, match=unfetched(published, "processor_config.json")):
        R2TuningProcessor.from_pretrained(published)
    with pytest.raises(OSError, match=unfetched(published, "config.json")):
        check_model_type(published, "r2tuning")
    original = "checkpoints/r2_tuning_tacos.pth"
    with pytest.raises(OSError, match=unfetched("yeliudev/R2-Tuning", original)):
        fetch_original(original)
    with pytest.raises(OSError, match=unfetched("org/clip", "config.json")):
        R2TuningForVideoGrounding.from_pretrained(published, backbone_name_or_path="org/clip")
    with pytest.raises(OSError, match=unfetched("org/clip", "config.json")):
        R2TuningProcessor.from_backbone("org/clip")


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_cache_that_lacks_weights(published, hub, offline, is_offline, monkeypatch):
    huggingface_hub.hf_hub_download(published, "config.json")
    if is_offline:
        offline()
    else:
        hub.stop()
        huggingface_hub.close_session()  # closes the open connections
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client retries for a minute
    with pytest.raises(OSError, match=unfetched(published, WEIGHTS)) as raised:
        R2TuningForVideoGrounding.from_pretrained(published)
    assert ("the Hub cannot be reached" in str(raised.value)) != is_offline
    assert "org/ours" in str(raised.value)


def test_a_cache_that_lacks_clip(published, offline):
    huggingface_hub.snapshot_download(published)
    huggingface_hub.hf_hub_download("org/clip", "config.json")
    offline()
    with pytest.raises(OSError, match=unfetched("org/clip", WEIGHTS)) as raised:
        R2TuningForVideoGrounding.from_pretrained(published)
    assert "Pass `backbone_name_or_path=`" in str(raised.value)


def test_a_full_cache_needs_no_hub(published, offline):
    for name in (published, "org/clip"):
        huggingface_hub.snapshot_download(name)
    offline()
    assert R2TuningForVideoGrounding.from_pretrained(published).config.backbone_name_or_path == "org/clip"
    R2TuningProcessor.from_pretrained(published)


def test_local_files_only(published):
    with pytest.raises(OSError, match="and `local_files_only` forbids fetching it"):
        R2TuningForVideoGrounding.from_pretrained(published, local_files_only=True)


def test_a_missing_repository(hub):
    with pytest.raises(OSError, match="org/none is not a local folder"):
        R2TuningForVideoGrounding.from_pretrained("org/none")


def test_a_pickle_on_the_hub(published, hub, tiny_clip, clip):
    pickle_alone(clip)
    hub.add_repo("org/clip", {path.name: path for path in clip.iterdir()})
    with pytest.raises(
        OSError, match="'org/clip' cannot be loaded: it has no model.safetensors, and pytorch_model.bin"
    ):
        R2TuningForVideoGrounding.from_pretrained(published)
    assert not (clip / "opened").exists()


def test_a_clip_with_safetensors_in_another_revision(published, hub, clip, monkeypatch, offline):
    """Like OpenAI's ViT-B/32, whose main branch has only a pickle."""
    hub.add_repo("org/clip", {path.name: path for path in clip.iterdir()})
    old = hub._repos["model", "org/clip"].commits[-1].oid
    huggingface_hub.HfApi().delete_file(WEIGHTS, "org/clip")
    monkeypatch.setitem(loading_r2tuning.SAFETENSORS_REVISIONS, "org/clip", old)
    want = CLIPModel.from_pretrained(clip).state_dict()
    with monkeypatch.context() as patch:
        huggingface_hub.snapshot_download(published)
        huggingface_hub.snapshot_download("org/clip")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match=rf"{WEIGHTS}' is not in the cache, .* download org/clip --revision {old}`"):
            R2TuningForVideoGrounding.from_pretrained(published)
    for _ in range(2):
        found = R2TuningForVideoGrounding.from_pretrained(published).vision_model.state_dict()
        assert all(torch.equal(value, want[f"vision_model.{name}"]) for name, value in found.items())
        offline()
