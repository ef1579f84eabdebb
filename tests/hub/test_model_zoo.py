"""The twenty released checkpoints: names, published results, conversion and publication."""

import hashlib
import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from loopback_hub import READ_TOKEN, LoopbackHub
from tiny_checkpoints import save_clip, save_released
from transformers import AutoModel, AutoProcessor

from dataset_scripts.benchmarks import BENCHMARKS, ORIGINAL_REPOSITORY, released_benchmarks
from r2tuning.hub import repository
from r2tuning.hub.model_card import Results, read_published
from r2tuning.released.model_zoo import convert_all, released_models
from r2tuning_cli.main import main


NAMES = [
    *("r2tuning-qvhl", "r2tuning-ego4d", "r2tuning-charades", "r2tuning-tacos"),
    *("r2tuning-youtube-dog", "r2tuning-youtube-gymnastics", "r2tuning-youtube-parkour"),
    *("r2tuning-youtube-skating", "r2tuning-youtube-skiing", "r2tuning-youtube-surfing"),
    *(f"r2tuning-tvsum-{domain}" for domain in ("bk", "bt", "ds", "fm", "ga", "ms", "pk", "pr", "vt", "vu")),
]
FEW = ["r2tuning-qvhl", "r2tuning-tvsum-bk", "r2tuning-tvsum-vu"]


def write_originals(folder, monkeypatch, few):
    """Write small stand-ins for the authors' files, named by their hashes; for all models, or for those of `FEW`."""
    folder.mkdir()
    for name, benchmark in released_benchmarks().items():
        files = {}
        for domain, file in benchmark.released_checkpoints.items():
            if not few or name == "qvhighlights" or domain in ("BK", "VU"):
                path = save_released(folder / "new.pth", with_moments=benchmark.positive_saliency is None)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
                files[domain] = f"{file.split('-')[0]}-{digest}"
                path.rename(folder / f"r2_tuning_{files[domain]}.pth")
        monkeypatch.setitem(BENCHMARKS, name, replace(benchmark, released_checkpoints=files))
    return folder


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """The files of the models of `FEW`, which are the only ones here."""
    return write_originals(tmp_path / "originals", monkeypatch, few=True)


@pytest.fixture
def clip(tiny_clip, tmp_path):
    return save_clip(tiny_clip, tmp_path / "clip")


@pytest.fixture
def hub(monkeypatch, tmp_path, clip):
    monkeypatch.setattr(repository, "WAITS_SEC", ())
    with LoopbackHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        hub.add_repo("org/clip", {path.name: path for path in clip.iterdir()})
        yield hub


def test_names():
    assert [model.name for model in released_models()] == NAMES


def test_every_model_has_published_results():
    published = read_published()
    assert published.keys() == {"source", *released_benchmarks()}
    for name, benchmark in released_benchmarks().items():
        domains = {f"mAP-{domain}" for domain in benchmark.domains}
        assert not domains or published[name]["scores"].keys() == domains
    assert published["qvhighlights"]["scores"]["MR-full-R1@0.7"] == 51.87
    assert published["tacos"]["scores"]["MR-full-R1@0.3"] == 50.96
    assert published["youtube_highlights"]["scores"]["mAP-surfing"] == 82.76
    assert published["tvsum"]["scores"]["mAP-VU"] == 85.90


@pytest.mark.integration
def test_all_twenty_are_converted_with_their_cards(clip, tmp_path, monkeypatch, capsys):
    originals = write_originals(tmp_path / "originals", monkeypatch, few=False)
    assert main(["convert", "--all", str(tmp_path / "out"), "--source", str(originals), "--backbone", str(clip)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "out" / name) for name in NAMES]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)
    assert err.count("r2tuning: converted ") == 20
    for model in released_models():
        folder = tmp_path / "out" / model.name
        results, card = Results.load(folder), ModelCard((folder / "README.md").read_text())
        assert (results.benchmark, results.domain) == (model.benchmark, model.domain)
        assert {result.metric_name: result.metric_value for result in card.data.eval_results} == results.scores
        assert "Redistribution and use" in (folder / "LICENSE").read_text()
    fm = Results.load(tmp_path / "out/r2tuning-tvsum-fm")
    assert (fm.scores, fm.split) == ({"mAP-FM": 75.61}, "val")
    charades = tmp_path / "out/r2tuning-charades"
    assert AutoModel.from_pretrained(charades).config.fps == 1.0
    assert AutoProcessor.from_pretrained(charades).round_to == 0.1
    assert not AutoModel.from_pretrained(tmp_path / "out/r2tuning-tvsum-bk").config.use_moment_head


def test_failures_are_listed_and_retried_by_the_next_run(originals, clip, tmp_path, capsys):
    (lost,) = originals.glob("*_bk-*")
    lost.rename(tmp_path / "lost.pth")
    command = ["convert", "--all", str(tmp_path / "out"), "--source", str(originals), "--backbone", str(clip)]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "out" / name) for name in FEW if not name.endswith("bk")]
    last = err.splitlines()[-1]
    assert last.startswith("r2tuning: error: 1 of 3 checkpoints failed: r2tuning-tvsum-bk; run the command again")
    assert f"r2tuning: error: r2tuning-tvsum-bk: There is no file '{lost}'" in err
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    (tmp_path / "lost.pth").rename(lost)
    assert main(command) == 0
    assert capsys.readouterr().err == "r2tuning: converted r2tuning-tvsum-bk\n"
    for path, time in times.items():
        assert path == tmp_path / "out" or path.stat().st_mtime_ns == time


def test_an_interrupted_conversion_is_completed(originals, clip, tmp_path):
    """A process that is killed between two files leaves a folder that does not look complete."""
    convert_all(tmp_path / "out", source=originals, backbone=clip)
    folder = tmp_path / "out" / FEW[0]
    for name in ("LICENSE", "README.md"):
        (folder / name).unlink()
    (tmp_path / "out" / FEW[1] / "README.md").unlink()
    assert convert_all(tmp_path / "out", source=originals, backbone=clip) == {}
    assert "67.74" in (folder / "README.md").read_text()
    assert (folder / "LICENSE").exists()


def test_another_file_does_not_get_the_published_results(originals, clip, tmp_path, caplog):
    (path,) = originals.glob("*_vu-*")
    save_released(path, with_moments=False, **{"loss.weight": AutoModel.from_pretrained(clip).logit_scale.detach()})
    assert convert_all(tmp_path / "out", source=originals, backbone=clip) == {}
    assert f"'{path}' is not the published file" in caplog.text
    assert Results.load(tmp_path / "out/r2tuning-tvsum-vu").scores == {}
    assert "No scores are recorded" in (tmp_path / "out/r2tuning-tvsum-vu/README.md").read_text()
    assert Results.load(tmp_path / "out/r2tuning-tvsum-bk").scores == {"mAP-BK": 91.23}


def test_files_are_downloaded_converted_and_pushed(hub, originals, tmp_path, capsys):
    """A file that the Hub lacks and an upload that fails do not stop the other models."""
    files = {f"checkpoints/{path.name}": path for path in originals.glob("*.pth")}
    (lost,) = (name for name in files if "_bk-" in name)
    hub.add_repo(ORIGINAL_REPOSITORY, {name: path for name, path in files.items() if name != lost})
    hub.fail_next("POST", "/commit/", 500)
    command = ["convert", "--all", str(tmp_path / "out"), "--backbone", "org/clip", "--push-to", "org", "--private"]
    assert main(command) == 2
    assert "2 of 3 checkpoints failed: r2tuning-qvhl, r2tuning-tvsum-bk;" in capsys.readouterr().err
    assert len(hub.commits("org/r2tuning-tvsum-vu")) == 2
    hub.add_repo(ORIGINAL_REPOSITORY, files)
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0  # nothing is left to do
    for name in FEW:
        assert len(hub.commits(f"org/{name}")) == 2
        assert hub.is_private(f"org/{name}")
        pushed = hub.files(f"org/{name}")
        assert f'model="org/{name}"' in pushed["README.md"].decode()
        assert json.loads(pushed["results.json"])["original"].startswith("yeliudev/R2-Tuning/checkpoints/r2_tuning_")
        assert pushed["LICENSE"].startswith(b"The weights")
    model = AutoModel.from_pretrained("org/r2tuning-qvhl")
    assert model.config.backbone_name_or_path == "org/clip"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "none"], "There is no folder 'none'"),
        (["--backbone", "/no/clip"], "'/no/clip' is neither"),
        (["--push-to", "a/b"], "must be 'organisation/name', got 'a/b/r2tuning-qvhl'"),
        (
            ["--push-to", "org", "--backbone", "clip"],
            "`--backbone` must be a name on the Hub if checkpoints are pushed",
        ),
        (["--benchmark", "tacos"], "`--all` converts every checkpoint: leave out"),
        (["tacos.pth", "out"], "`--all` converts every checkpoint: leave out"),
    ],
)
def test_impossible_options_are_refused_at_once(hub, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "--all", "out", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("r2tuning: error: ")
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--source", "x"], ["--push-to", "org"], ["--private"]])
def test_options_that_need_all(option, capsys):
    assert main(["convert", "a.pth", "out", "--benchmark", "tacos", *option]) == 2
    assert f"`{option[0]}` goes with `--all`" in capsys.readouterr().err


def test_a_read_only_token_cannot_push(hub, originals, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    failures = convert_all(tmp_path / "out", source=originals, backbone="org/clip", push_to="org")
    assert failures.keys() == set(FEW)
    assert all("may not write there" in reason for reason in failures.values())
    assert all((tmp_path / "out" / name / "README.md").exists() for name in FEW)
