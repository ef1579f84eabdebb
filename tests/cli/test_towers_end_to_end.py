"""A backbone of each kind from its folder to answers: extract, train, ground, explain, evaluate, start another run.

SigLIP runs by default, as it differs most from CLIP: no CLS token, texts of a fixed length, frames without a crop.
"""

import json

import pytest
import torch
from tiny_towers import KINDS, SENTENCES, TEXT, VISION, as_parameters, make_tokenizer, save_backbone
from training_samples import as_arguments, reset_accelerate
from video_samples import textured_pictures, write_video

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.tower_specs_r2tuning import TOWER_SPECS
from r2tuning.features.cache import FeatureCache
from r2tuning.training import run as run_module
from r2tuning.training.run import main as train
from r2tuning_cli.main import main


QUERIES = [SENTENCES[0], SENTENCES[3], SENTENCES[5], "ein MANN lacht"]
LONG = " ".join(SENTENCES[:4])
NUM_PATCHES = (VISION["image_size"] // VISION["patch_size"]) ** 2
MODEL = {"hidden_size": 32, "num_attention_heads": 4, "num_recurrent_steps": 3, "strides": [1, 2, 4], "dropout": 0.1}
PARAMETERS = as_parameters(KINDS, ("siglip",))


def run_command(*words):
    """Run `r2tuning`; it must succeed."""
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module", params=PARAMETERS)
def place(request, tmp_path_factory):
    """Own data of four videos, one of them rotated, with queries in several scripts, and the backbone's folder."""
    folder = tmp_path_factory.mktemp(request.param)
    save_backbone(request.param, folder / "backbone")
    lines = ["video,query,start,end,split"]
    (folder / "videos").mkdir()
    for number, query in enumerate([*QUERIES, LONG]):
        name, rotation = f"v{number}", 90 if number == 1 else 0
        write_video(
            folder / f"videos/{name}.mp4",
            textured_pictures(48 + 8 * number),
            rate=4,
            configure=lambda stream, rotation=rotation: stream.set_display_rotation(rotation),
        )
        lines.append(f"{name},{query},2,8,{'val' if number == 3 else 'train'}")
    (folder / "my.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return request.param, folder


@pytest.fixture(scope="module")
def kind(place):
    return place[0]


@pytest.fixture(scope="module")
def folder(place):
    return place[1]


@pytest.fixture(scope="module")
def data(folder):
    """Options that name the data."""
    return ["--benchmark", "custom", "--data-file", folder / "my.csv", "--video-dir", folder / "videos"]


@pytest.fixture(scope="module")
def cache(folder, data):
    run_command(
        "extract",
        *data,
        "--backbone",
        folder / "backbone",
        "--num-layers",
        3,
        "--fps",
        1,
        "--output",
        folder / "cache",
    )
    return folder / "cache"


@pytest.fixture(scope="module")
def options(folder, cache):
    """Options of a run of two epochs on the cache."""
    return {
        "benchmark": "custom",
        "data-file": folder / "my.csv",
        "features": cache,
        "backbone": folder / "backbone",
        "model": json.dumps({**MODEL, "fps": 1.0, "save_backbone": True}),
        "epochs": 2,
        "batch-size": 2,
        "warmup-steps": 1,
        "num-workers": 0,
        "cpu": None,
    }


@pytest.fixture(scope="module")
def trained(folder, options):
    """The model of a run."""
    reset_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "draw_curves", lambda *arguments: None)
        assert train(as_arguments(options, output_dir=folder / "run")) == 0
    return folder / "run" / "best"


# ---- features and frames ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_cache_holds_the_states_of_the_tower(kind, folder, cache, trained):
    model = R2TuningForVideoGrounding.from_pretrained(trained)
    processor = R2TuningProcessor.from_pretrained(trained)
    found = FeatureCache(cache, model=model, fps=1.0)
    settings = json.loads((cache / "settings.json").read_text())
    assert settings["tower"] == model.config.vision_config.model_type
    for number in (0, 1, 4):
        pixels = torch.cat(list(processor.stream_video(folder / f"videos/v{number}.mp4")))
        want = model.get_video_hidden_states(pixels[None])[0]
        states = found.video(f"v{number}").float()
        assert states.shape == (len(pixels), 3, 1 + NUM_PATCHES, VISION["hidden_size"])
        torch.testing.assert_close(states, want, atol=2e-2, rtol=2e-2)


@torch.no_grad()
def test_cached_queries_are_those_of_their_tokens_alone(folder, cache, trained):
    model = R2TuningForVideoGrounding.from_pretrained(trained)
    processor = R2TuningProcessor.from_pretrained(trained)
    paths = sorted((cache / "queries").iterdir())
    lengths = set()
    for path in paths:
        from safetensors.torch import load_file

        [states] = load_file(path).values()
        lengths.add(len(states))
        assert states.shape[1:] == (3, TEXT["hidden_size"])
    want = {int(processor(text=query)["attention_mask"].sum()) for query in (*QUERIES, LONG)}
    assert lengths == want
    assert max(lengths) == model.config.max_text_length


def test_truncated_queries_are_counted_once(folder, data, capsys):
    output = folder / "again"
    run_command(
        "extract", *data, "--backbone", folder / "backbone", "--num-layers", 1, "--fps", 0.5, "--output", output
    )
    processor = R2TuningProcessor.from_backbone(folder / "backbone")
    longest = processor.longest_text
    count = sum(number > longest for number in processor.count_tokens([*QUERIES, LONG]))
    assert count > 0
    assert f"{count} of 5 queries are longer than {longest} tokens and truncated" in capsys.readouterr().err


def test_a_cache_of_another_backbone_is_refused(kind, folder, data, tmp_path, cache, capsys):
    save_backbone(kind, tmp_path / "other", seed=1)
    words = ["extract", *data, "--backbone", tmp_path / "other", "--num-layers", 3, "--fps", 1, "--output", cache]
    assert main([str(word) for word in words]) == 2
    assert "`clip_weights` is" in capsys.readouterr().err


def test_stored_frames_give_the_same_answer(folder, data, trained, tmp_path):
    run_command("extract", *data, "--model", trained, "--store", "frames", "--output", tmp_path / "frames")
    processor = R2TuningProcessor.from_pretrained(trained)
    for number in (0, 1):
        stored = processor.stream_video(tmp_path / f"frames/videos/v{number}.mp4")
        original = processor.stream_video(folder / f"videos/v{number}.mp4")
        assert torch.equal(torch.cat(list(stored)), torch.cat(list(original)))


# ---- training --------------------------------------------------------------------------------------------------------


def test_a_trained_model_holds_its_tower(kind, trained, folder):
    model = R2TuningForVideoGrounding.from_pretrained(trained)
    assert model.config.tower_spec is TOWER_SPECS[kind]
    processor = R2TuningProcessor.from_pretrained(trained)
    want = R2TuningProcessor.from_backbone(folder / "backbone")
    for name in ("max_text_length", "pad_to_max_text_length", "lowercase_text"):
        assert getattr(processor, name) == getattr(want, name)
    assert type(processor.tokenizer) is type(make_tokenizer(kind))


def test_a_run_that_starts_from_it_reads_texts_as_it_does(kind, trained, options, tmp_path, monkeypatch):
    """Its processor knows the length and the padding of the backbone's texts."""
    reset_accelerate()
    monkeypatch.setattr(run_module, "draw_curves", lambda *arguments: None)
    options = {name: value for name, value in options.items() if name not in ("backbone", "model")}
    assert train(as_arguments(options, init_from=trained, output_dir=tmp_path / "run", epochs=1)) == 0
    started = R2TuningProcessor.from_pretrained(tmp_path / "run" / "final")
    before = R2TuningProcessor.from_pretrained(trained)
    for text in (*QUERIES, LONG):
        assert torch.equal(started(text=text)["input_ids"], before(text=text)["input_ids"])
    run_command("ground", folder_of(options) / "videos/v0.mp4", QUERIES[1], "--model", tmp_path / "run" / "final")


def folder_of(options):
    return options["data-file"].parent


def test_training_on_videos_runs_the_tower(folder, options, tmp_path, monkeypatch):
    reset_accelerate()
    monkeypatch.setattr(run_module, "draw_curves", lambda *arguments: None)
    model = json.dumps({**MODEL, "fps": 1.0})
    options = {name: value for name, value in options.items() if name not in ("features", "model")}
    options |= {"video-dir": folder / "videos", "model": model, "epochs": 1, "output-dir": tmp_path / "run"}
    assert train(as_arguments(options)) == 0
    config = json.loads((tmp_path / "run/final/config.json").read_text())
    assert config["backbone_name_or_path"] == str(folder / "backbone")
    assert not config["save_backbone"]
    R2TuningForVideoGrounding.from_pretrained(tmp_path / "run/final")


# ---- commands --------------------------------------------------------------------------------------------------------


def test_ground_answers_in_every_script(folder, trained, tmp_path, capsys):
    path = tmp_path / "answers.json"
    run_command("ground", folder / "videos/v1.mp4", *QUERIES, "--model", trained, "--json", path)
    text = path.read_text(encoding="utf-8")
    for query in QUERIES:
        assert query in text, "readable, not escaped"
    answers = json.loads(text)["answers"]
    assert [answer["query"] for answer in answers] == QUERIES
    assert all(answer["moments"] for answer in answers)
    scores = {tuple(answer["saliency"]) for answer in answers}
    assert len(scores) == len(QUERIES)
    assert QUERIES[1] in capsys.readouterr().out


def test_ground_takes_the_backbone_from_elsewhere(folder, trained, tmp_path, capsys):
    model = R2TuningForVideoGrounding.from_pretrained(trained)
    model.config.save_backbone = False
    model.config.backbone_name_or_path = "org/nowhere"
    model.save_pretrained(tmp_path)
    R2TuningProcessor.from_pretrained(trained).save_pretrained(tmp_path)
    run_command("ground", folder / "videos/v0.mp4", QUERIES[0], "--model", tmp_path, "--backbone", folder / "backbone")
    assert QUERIES[0] in capsys.readouterr().out


def test_explain_shows_the_words_of_the_query(folder, trained, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    words = ["explain", folder / "videos/v0.mp4", "two people", "--model", trained, "--out", tmp_path]
    run_command(*words)
    assert len(list(tmp_path.glob("*.png"))) == 3


@torch.no_grad()
def test_explained_words_leave_out_padding_and_marks(folder, trained):
    from r2tuning.visualization.explain import word_attention

    model = R2TuningForVideoGrounding.from_pretrained(trained)
    processor = R2TuningProcessor.from_pretrained(trained)
    found = word_attention(model, processor, folder / "videos/v0.mp4", "two people", num_frames=2)
    text = processor(text="two people")
    ids = text["input_ids"][0][text["attention_mask"][0]].tolist()
    marks = processor.tokenizer.all_special_ids
    inner = ids[int(ids[0] in marks) : len(ids) - int(ids[-1] in marks)]
    assert found.words == [processor.tokenizer.decode(number).strip() for number in inner]
    assert found.maps.shape == (len(inner), 2, 3, 3)
    assert found.frames.shape == (2, VISION["image_size"], VISION["image_size"], 3)


@pytest.mark.parametrize("source", ["videos", "features"])
def test_evaluate_writes_readable_predictions(data, folder, trained, cache, tmp_path, source):
    place = ["--video-dir", folder / "videos"] if source == "videos" else ["--features", cache]
    words = ["evaluate", "--benchmark", "custom", "--data-file", folder / "my.csv", *place, "--split", "train"]
    run_command(*words, "--model", trained, "--save-predictions", tmp_path / "preds.jsonl")
    text = (tmp_path / "preds.jsonl").read_text(encoding="utf-8")
    assert QUERIES[1] in text
    rows = {row["query"]: row for row in map(json.loads, text.splitlines())}
    assert len(rows) == 4
    assert all(row["pred_relevant_windows"] for row in rows.values())


def test_convert_refuses_a_backbone_that_is_not_clip(kind, folder, tmp_path, capsys):
    if kind == "clip":
        pytest.skip("the authors trained on CLIP")
    from tiny_checkpoints import save_released

    source = save_released(tmp_path / "released.pth")
    words = ["convert", source, tmp_path / "out", "--benchmark", "qvhighlights", "--backbone", folder / "backbone"]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert f"holds a model of type '{kind}', expected a model of type 'clip'" in error
    assert not (tmp_path / "out").exists()
