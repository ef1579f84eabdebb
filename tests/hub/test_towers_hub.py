"""Models on backbones of every kind: remote code, cards, and the way to the Hub and back."""

import json

import pytest
import torch
from carried_files import FILES
from fresh_python import WITHOUT_PACKAGE
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub, run_python
from tiny_towers import KINDS, SENTENCES, VISION, as_parameters, make_backbone, make_model, save_backbone

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint
from modeling_r2tuning.tower_specs_r2tuning import TOWER_SPECS
from r2tuning.hub import repository
from r2tuning.hub.model_card import write_model_card
from r2tuning.hub.push import push_checkpoint


QUERIES = [SENTENCES[0], SENTENCES[3]]
ANSWER = """
import json, sys
import torch
from transformers import AutoModel, AutoProcessor, pipeline
scores = {}
for name in sys.argv[3:]:
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules")
    frames = torch.load(sys.argv[1], weights_only=True)
    queries = json.loads(sys.argv[2])
    with torch.no_grad():
        scores[name] = model(**processor(videos=frames, text=queries)).saliency_scores.tolist()
    pipe = pipeline("video-grounding", model=name, trust_remote_code=True)
    assert len(pipe(frames, query=queries)[0]["saliency"]) == len(frames)
print(json.dumps(scores))
"""
PARAMETERS = as_parameters(KINDS, ("siglip",))


def frames():
    return torch.rand(4, 3, VISION["image_size"], VISION["image_size"], generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=PARAMETERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def place(kind, tmp_path_factory):
    """Folder with a backbone."""
    folder = tmp_path_factory.mktemp(kind)
    save_backbone(kind, folder / "backbone")
    return folder


@torch.no_grad()
def scores_of(folder):
    model = R2TuningForVideoGrounding.from_pretrained(folder)
    processor = R2TuningProcessor.from_pretrained(folder)
    return model(**processor(videos=frames(), text=QUERIES)).saliency_scores.tolist()


def check_scores(got, want):
    for row, expected in zip(got, want, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.integration
def test_push_and_pull(kind, place, tmp_path, monkeypatch):
    """A checkpoint that refers to its backbone, both on the Hub, answers for a user who does not have our packages."""
    monkeypatch.setattr(repository, "WAITS_SEC", (0.01, 0.02))
    model = make_model(kind, make_backbone(kind), save_backbone=False, backbone_name_or_path=str(place / "backbone"))
    save_checkpoint(model, R2TuningProcessor.from_backbone(place / "backbone"), tmp_path / "model")
    want = scores_of(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").glob("*.py")} == FILES
    with LoopbackHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        hub.add_repo("org/backbone", {path.name: path for path in (place / "backbone").iterdir()})
        with pytest.raises(ValueError, match="fetches its backbone from"):
            push_checkpoint(tmp_path / "model", "org/ours")
        push_checkpoint(tmp_path / "model", "org/ours", backbone="org/backbone")
        card = ModelCard(hub.files("org/ours")["README.md"].decode())
        assert card.data.base_model == "org/backbone"
        torch.save(frames(), tmp_path / "frames.pt")
        code = (
            f"import sys\nsys.argv = ['', {str(tmp_path / 'frames.pt')!r}, {json.dumps(QUERIES)!r}, 'org/ours']\n"
            + WITHOUT_PACKAGE
            + ANSWER
        )
        finished = run_python(code, hub.env(tmp_path / "other"))
        assert finished.returncode == 0, finished.stderr
    check_scores(json.loads(finished.stdout.splitlines()[-1])["org/ours"], want)


def test_the_card_names_the_backbone(kind, place, tmp_path):
    title = TOWER_SPECS[kind].title
    for name, save_backbone_too in (("whole", True), ("small", False)):
        model = make_model(kind, save_backbone=save_backbone_too, backbone_name_or_path="org/backbone")
        save_checkpoint(model, R2TuningProcessor.from_backbone(place / "backbone"), tmp_path / name)
        write_model_card(tmp_path / name)
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        holds = f"and {title}." if save_backbone_too else f"{title} is downloaded when the model is loaded"
        assert holds in card
        assert (
            f"| {title} | {'in this repository' if save_backbone_too else '`org/backbone`'}, last 3 layers |" in card
        )
        assert ("licence of its own" in card) == (kind != "clip")
        words = card.replace("Chinese-CLIP", "").replace("MetaCLIP", "").replace("AltCLIP", "")
        assert ("CLIP" in words) == (kind == "clip")
        assert "sentencepiece" not in card
