"""Conversion of the authors' files to folders: done once, and atomically."""

import json
import os
import stat
from pathlib import Path

import huggingface_hub
import pytest
import torch
from loopback_hub import LoopbackHub, run_python
from tiny_checkpoints import openai_state_dict, released_state_dict, save_clip, save_released
from transformers import CLIPTextConfig
from video_samples import write_video

from modeling_r2tuning import (
    R2TuningForVideoGrounding,
    R2TuningProcessor,
)
from r2tuning.checks import check_model_type
from r2tuning.released import resolve
from r2tuning.released.convert import convert_original_checkpoint
from r2tuning.released.resolve import convert_to_directory, resolve_checkpoint


REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip(tiny_clip, tmp_path_factory):
    """Folder of a CLIP that the small released weights fit."""
    return str(save_clip(tiny_clip, tmp_path_factory.mktemp("checkpoints") / "clip"))


@pytest.fixture
def released(tmp_path):
    return save_released(tmp_path / "released.pth")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of converted files, in an `HF_HOME` of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "r2tuning"


@pytest.fixture
def conversions(monkeypatch):
    """The arguments of each conversion that `resolve_checkpoint` starts."""
    calls = []

    def convert(*args, **kwargs):
        calls.append(kwargs)
        convert_to_directory(*args, **kwargs)

    monkeypatch.setattr(resolve, "convert_to_directory", convert)
    return calls


# ---- convert_to_directory ------------------------------------------------------------------------------------------


def test_folder_holds_the_converted_model_and_refers_to_clip(released, clip, tiny_clip, tmp_path):
    convert_to_directory(released, tmp_path / "new" / "out", benchmark="qvhighlights", backbone=clip)
    model = R2TuningForVideoGrounding.from_pretrained(tmp_path / "new" / "out")
    expected = convert_original_checkpoint(
        released_state_dict(), benchmark="qvhighlights", backbone_config=tiny_clip.config
    )
    for name, value in expected.state_dict().items():
        if name.startswith(("r2_block.", "grounding_head.")):
            torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    for part in ("vision_model", "text_model"):
        for name, value in getattr(tiny_clip, part).state_dict().items():
            torch.testing.assert_close(getattr(model, part).state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert model.config.backbone_name_or_path == clip
    assert not model.config.save_backbone
    assert (tmp_path / "new" / "out" / "model.safetensors").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("benchmark", "domain", "settings"),
    [
        ("qvhighlights", None, (0.5, "hard", 2.0)),
        ("charades_sta", None, (1.0, "linear", 0.1)),
        ("tvsum", "BK", (0.5, None, None)),
        ("youtube_highlights", "dog", (0.59, None, None)),
    ],
)
def test_processor_has_the_settings_of_the_benchmark(benchmark, domain, settings, clip, tmp_path):
    source = save_released(tmp_path / "in.pth", with_moments=domain is None)
    convert_to_directory(source, tmp_path / "out", benchmark=benchmark, domain=domain, backbone=clip)
    processor = R2TuningProcessor.from_pretrained(tmp_path / "out")
    assert (processor.fps, processor.nms, processor.round_to) == settings
    assert processor.image_processor.crop_size["height"] == 64
    assert processor.tokenizer("ab c")["input_ids"] == [62, 0, 27, 28, 63]


def test_clip_in_the_checkpoint_is_kept(clip, tiny_clip, tmp_path):
    source = save_released(tmp_path / "in.pth", **openai_state_dict(tiny_clip))
    convert_to_directory(source, tmp_path / "out", benchmark="tacos", backbone=clip)
    model = R2TuningForVideoGrounding.from_pretrained(tmp_path / "out", backbone_name_or_path=None)
    assert model.config.save_backbone
    weights = model.vision_model.state_dict()
    for name, value in tiny_clip.vision_model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0, msg=name)


def test_relative_backbone_folder_becomes_absolute(released, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(clip).parent)
    convert_to_directory(released, tmp_path / "out", benchmark="tacos", backbone="clip")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["backbone_name_or_path"] == clip


def test_output_may_be_an_empty_folder(released, clip, tmp_path):
    (tmp_path / "out").mkdir()
    convert_to_directory(released, tmp_path / "out", benchmark="tacos", backbone=clip)
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_folder_has_ordinary_permissions(released, clip, tmp_path):
    convert_to_directory(released, tmp_path / "out", benchmark="tacos", backbone=clip)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.safetensors").touch()
    for name in ("", "model.safetensors"):
        modes = {stat.S_IMODE((tmp_path / folder / name).stat().st_mode) for folder in ("out", "other")}
        assert len(modes) == 1, name


def test_existing_files_are_not_overwritten(released, clip, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full' is not empty"):
        convert_to_directory(released, tmp_path / "full", benchmark="tacos", backbone=clip)
    with pytest.raises(FileExistsError, match=r"released\.pth' is a file"):
        convert_to_directory(released, released, benchmark="tacos", backbone=clip)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"benchmark": "movies"}, ValueError, "`benchmark` must be one of"),
        ({"benchmark": "tvsum", "domain": "dog"}, ValueError, "`domain` of tvsum must be one of"),
        ({"source": "missing.pth"}, FileNotFoundError, r"No checkpoint at 'missing\.pth'"),
        ({"backbone": "/no/such/clip"}, OSError, "'/no/such/clip' is neither"),
    ],
)
def test_wrong_arguments_are_refused(change, error, message, released, clip, tmp_path):
    arguments = {"source": released, "output": tmp_path / "out", "benchmark": "tacos", "backbone": clip, **change}
    with pytest.raises(error, match=message):
        convert_to_directory(arguments.pop("source"), arguments.pop("output"), **arguments)
    assert not (tmp_path / "out").exists()


def test_another_model_instead_of_clip_is_refused(released, tmp_path):
    CLIPTextConfig().save_pretrained(tmp_path / "text_only")
    with pytest.raises(
        ValueError, match="text_only' holds a model of type 'clip_text_model', expected a model of type 'clip'"
    ):
        convert_to_directory(released, tmp_path / "out", benchmark="tacos", backbone=str(tmp_path / "text_only"))


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        check_model_type(str(tmp_path), "clip")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_conversion_leaves_nothing(error, released, clip, tmp_path, monkeypatch):
    def save_half(model, processor, folder):
        (Path(folder) / "config.json").write_text("{")
        raise error

    monkeypatch.setattr(resolve, "save_checkpoint", save_half)
    with pytest.raises(error):
        convert_to_directory(released, tmp_path / "out", benchmark="tacos", backbone=clip)
    assert [path.name for path in tmp_path.iterdir()] == ["released.pth"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"adapter.scale": torch.ones(4)}}, "it lacks 'coef'"),
        ({"state_dict": {1: torch.ones(4)}}, "cannot be loaded"),
        ({"adapter.scale": torch.tensor(1.0)}, "cannot be loaded"),
        (torch.ones(3), "holds no dictionary of weights"),
    ],
)
def test_file_that_is_not_a_checkpoint_is_refused(content, message, clip, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message) as raised:
        convert_to_directory(tmp_path / "other.pth", tmp_path / "out", benchmark="tacos", backbone=clip)
    assert "other.pth'" in str(raised.value)


def test_a_damaged_file_leaves_nothing(clip, tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"bad\.pth' is not a PyTorch checkpoint"):
        convert_to_directory(tmp_path / "bad.pth", tmp_path / "out", benchmark="tacos", backbone=clip)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


# ---- resolve_checkpoint --------------------------------------------------------------------------------------------


def test_converted_checkpoints_are_returned_unchanged(tmp_path):
    (tmp_path / "model.pth").mkdir()
    for model in (str(tmp_path), "org/model", tmp_path / "model.pth"):
        assert resolve_checkpoint(model) == os.fspath(model)


@pytest.mark.parametrize("given", [{"benchmark": "tacos"}, {"domain": "BK"}])
def test_benchmark_is_refused_where_it_does_not_apply(given):
    with pytest.raises(ValueError, match="leave them out for 'org/model'"):
        resolve_checkpoint("org/model", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs a `benchmark`, one of"),
        ({"benchmark": "movies"}, "`benchmark` must be one of"),
        ({"benchmark": "tvsum"}, "one model for each domain: give one of"),
        ({"benchmark": "tacos", "domain": "BK"}, "`domain` of tacos"),
    ],
)
def test_originals_need_a_benchmark_and_its_domain(given, message):
    with pytest.raises(ValueError, match=message):
        resolve_checkpoint("yeliudev/R2-Tuning", **given)


def test_missing_file_is_refused(cache):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at 'missing\.pth'"):
        resolve_checkpoint("missing.pth", benchmark="tacos")


def test_a_file_is_converted_once(released, clip, cache, conversions):
    first = resolve_checkpoint(released, benchmark="qvhighlights", backbone=clip)
    second = resolve_checkpoint(str(released), benchmark="qvhighlights", backbone=clip)
    assert first == second
    assert len(conversions) == 1
    assert [str(folder) for folder in cache.iterdir()] == [first]
    assert R2TuningForVideoGrounding.from_pretrained(first).config.fps == 0.5


def test_everything_that_changes_the_result_changes_the_cache_folder(
    released, clip, cache, conversions, tmp_path, monkeypatch
):
    twin = tmp_path / "twin"
    twin.symlink_to(clip)
    found = [
        resolve_checkpoint(released, benchmark="qvhighlights", backbone=clip),
        resolve_checkpoint(released, benchmark="tacos", backbone=clip),
        resolve_checkpoint(released, benchmark="tacos", backbone=str(twin)),
    ]
    save_released(released, **{"coef": torch.ones(3)})
    found.append(resolve_checkpoint(released, benchmark="tacos", backbone=clip))
    monkeypatch.setattr("modeling_r2tuning.__version__", "99.0")
    found.append(resolve_checkpoint(released, benchmark="tacos", backbone=clip))
    assert len(set(found)) == len(conversions) == 5


def test_an_interrupted_conversion_is_repeated(released, clip, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "save_checkpoint", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            resolve_checkpoint(released, benchmark="tacos", backbone=clip)
    assert list(cache.iterdir()) == []
    assert Path(resolve_checkpoint(released, benchmark="tacos", backbone=clip), "config.json").is_file()


def test_another_process_may_convert_first(released, clip, cache, monkeypatch):
    def finish_second(source, output, **kwargs):
        convert_to_directory(source, output, **kwargs)
        convert_to_directory(source, output, **kwargs)

    monkeypatch.setattr(resolve, "convert_to_directory", finish_second)
    assert Path(resolve_checkpoint(released, benchmark="tacos", backbone=clip), "config.json").is_file()


# ---- end to end, with the real Hub client --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with LoopbackHub() as running:
        files = {path.name: path for path in Path(clip).iterdir()}
        running.add_repo("openai/clip-vit-base-patch32", files)
        names = {"r2_tuning_qvhighlights-ed516355.pth": True, "r2_tuning_tvsum_bk-45b59440.pth": False}
        originals = {f"checkpoints/{name}": save_released(folder / name, moments) for name, moments in names.items()}
        running.add_repo("yeliudev/R2-Tuning", originals)
        yield running


def test_published_files_are_downloaded_converted_and_cached_in_one_step(hub, tmp_path):
    write_video(tmp_path / "talk.mp4", count=60, rate=2)
    finished = run_python(
        """
        import json, os, sys
        from pathlib import Path
        from r2tuning.released import resolve
        from r2tuning_cli.main import main

        convert, made = resolve.convert_to_directory, []
        resolve.convert_to_directory = lambda *args, **kwargs: (made.append(kwargs), convert(*args, **kwargs))
        common = ["ground", "talk.mp4", "a man", "--model", "yeliudev/R2-Tuning"]
        qvhighlights = [*common, "--benchmark", "qvhighlights"]
        statuses = [main([*qvhighlights, "--json", f"qv{turn}.json"]) for turn in (1, 2)]
        statuses.append(main([*common, "--benchmark", "tvsum", "--domain", "BK", "--json", "tvsum.json"]))
        statuses.append(main([*common, "--benchmark", "tvsum", "--domain", "VU"]))
        cached = sorted(path.name for path in Path(os.environ["HF_HOME"], "r2tuning").iterdir())
        Path("seen.json").write_text(json.dumps({"statuses": statuses, "made": made, "cached": cached}))
        """,
        {**hub.env(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["statuses"] == [0, 0, 0, 2]  # the Hub of this test has no file for VU
    name = "openai/clip-vit-base-patch32"
    assert seen["made"] == [
        {"benchmark": "qvhighlights", "domain": None, "backbone": name},
        {"benchmark": "tvsum", "domain": "BK", "backbone": name},
    ]
    assert [folder.split("-")[:2] for folder in seen["cached"]][1] == ["tvsum", "BK"]
    first, second, tvsum = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("qv1", "qv2", "tvsum"))
    assert first == second
    assert first["fps"] == 0.5
    assert len(first["answers"][0]["saliency"]) == 15
    inside = [moment for moment in first["answers"][0]["moments"] if moment["end"] < 30]
    assert inside
    assert all(moment["start"] % 2 == moment["end"] % 2 == 0 for moment in inside)
    assert tvsum["answers"][0]["moments"] == []
    lines = finished.stderr.splitlines()
    assert lines[-1].startswith("r2tuning: error: ")
    assert "r2_tuning_tvsum_vu-6f8ebb4b.pth" in lines[-1]
    assert all(line.startswith("r2tuning: ") for line in lines), finished.stderr
