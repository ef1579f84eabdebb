"""Complete runs of `train/run.py` on a tiny benchmark, and the files that they write."""

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import save_clip
from training_samples import MODEL, as_arguments, reset_accelerate, write_benchmark
from transformers import AutoModel, AutoProcessor
from video_samples import write_video

from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.loading import find_builder
from dataset_scripts.metrics.existence import roc_auc
from examples.transformers_trainer import train as train_by_transformers
from r2tuning.training import run as run_script
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig, read_config, read_preset
from r2tuning.training.loop import NonFiniteError, train_step
from r2tuning.training.preparation import prepare_run
from r2tuning.training.run import DONE, NOT_FINITE, NOT_PUBLISHED, USAGE, main
from r2tuning.training.signals import StopSignals
from r2tuning.training.validation import evaluate


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Each run starts as in a process of its own."""
    reset_accelerate()


@pytest.fixture(scope="module")
def options(tiny_clip, tmp_path_factory):
    return write_benchmark(tmp_path_factory.mktemp("benchmark"), tiny_clip)


def make_run(options, **changes):
    return prepare_run(read_config(as_arguments(options, **changes)))


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def without_times(metrics):
    steps = {name: values for name, values in metrics["steps"].items() if name != "seconds"}
    return {**metrics, "steps": steps}


# ---- learning ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tiny_clip, tmp_path_factory):
    """A run of eight epochs, and the score before it."""
    folder = tmp_path_factory.mktemp("learned")
    options = write_benchmark(folder, tiny_clip, num_train=40, num_val=10)
    options |= {"epochs": 8, "eval-epochs": 2, "output-dir": folder / "run", "best-metric": "MR-full-R1@0.5"}
    reset_accelerate()
    untrained = make_run(options)
    evaluate(untrained, StopSignals())
    reset_accelerate()
    assert main(as_arguments(options)) == DONE
    return folder / "run", untrained.progress.best_score


def test_a_tiny_model_learns(learned):
    folder, untrained = learned
    metrics = read_metrics(folder)
    losses = metrics["steps"]["loss"]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    best = max(entry["scores"]["MR-full-R1@0.5"] for entry in metrics["evaluations"])
    assert best > untrained + 20


def test_a_run_writes_loadable_checkpoints_and_curves(learned):
    folder, _ = learned
    names = {path.name for path in folder.iterdir()}
    assert names == {"best", "curves.png", "final", "logs", "metrics.json", "step_000070", "step_000080", "training_config.json"}  # fmt: skip
    for name in ("best", "final", "step_000080"):
        model, processor = AutoModel.from_pretrained(folder / name), AutoProcessor.from_pretrained(folder / name)
        assert (model.config.fps, processor.fps) == (0.5, 0.5)
        assert (processor.nms, processor.round_to) == ("hard", 2.0)
        assert model.config.hidden_size == MODEL["hidden_size"]
        assert {"README.md", "results.json"} <= {path.name for path in (folder / name).iterdir()} or "step" in name
    assert not list((folder / "final").glob("training_state"))
    last = load_file(folder / "step_000080/model.safetensors")
    for key, value in load_file(folder / "final/model.safetensors").items():
        assert torch.equal(value, last[key])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "logs").rglob("events.out.tfevents.*"))


def test_the_best_model_has_the_best_score(learned, tmp_path):
    """Also when it is evaluated again."""
    folder, _ = learned
    evaluations = read_metrics(folder)["evaluations"]
    assert [entry["epoch"] for entry in evaluations] == [2, 4, 6, 8]
    scores = [entry["scores"]["MR-full-R1@0.5"] for entry in evaluations]
    config = TrainingConfig(
        **{**json.loads((folder / "training_config.json").read_text()), "output_dir": str(tmp_path)}
    )
    run = prepare_run(config)
    run.accelerator.unwrap_model(run.model).load_state_dict(load_file(folder / "best/model.safetensors"), strict=False)
    evaluate(run, StopSignals())
    assert run.progress.best_score == max(scores)


def test_metrics_contain_every_step(learned):
    steps = read_metrics(learned[0])["steps"]
    parts = {"classification", "boundary", "saliency", "video_calibration", "layer_calibration"}
    assert steps.keys() == {"step", "epoch", "loss", *parts, "grad_norm", "learning_rate", "seconds"}
    assert steps["step"] == list(range(1, 81))
    assert steps["epoch"] == sorted(10 * list(range(1, 9)))
    np.testing.assert_allclose(steps["loss"], sum(np.array(steps[part]) for part in parts), rtol=1e-5)


# ---- absent queries ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def absent_options(tiny_clip, tmp_path_factory):
    """Of the three queries about each video, one is absent."""
    options = write_benchmark(tmp_path_factory.mktemp("absent"), tiny_clip, num_train=6, absent=True)
    options |= {"batch-size": 18, "queries-per-video": 3, "learning-rate": 1e-2, "best-metric": "EX-AUROC"}
    return {**options, "model": json.dumps({**MODEL, "dropout": 0.0, "use_existence_head": True})}


def test_a_tiny_model_learns_which_queries_are_absent(absent_options, tmp_path):
    run = make_run(absent_options, output_dir=tmp_path, epochs=30)
    batches = run.batches()
    losses = [train_step(run, batches)["existence"] for _ in range(30)]
    batch = run.collator(run.data.__getitems__(list(range(len(run.data)))))
    with torch.no_grad():
        logits = run.model.eval()(**batch).existence_logits
    present = [row["moments"] != [] for row in run.data.rows]
    assert present == [True, True, False] * 6
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert roc_auc(logits.tolist(), present) > 0.95


@pytest.mark.parametrize("metric", ["EX-FAR@95", "EX-ECE"])
def test_the_best_model_has_the_highest_score(absent_options, tmp_path, metric):
    """Of these scores, the lowest is the best."""
    with pytest.raises(ValueError, match=f"`best_metric` must be one of .*'EX-AUROC'.* got '{metric}'"):
        make_run(absent_options, output_dir=tmp_path, best_metric=metric)


def test_the_score_of_existence_needs_the_head(absent_options, tmp_path):
    with pytest.raises(ValueError, match="`best_metric` must be one of .* got 'EX-AUROC'"):
        make_run({**absent_options, "model": json.dumps(MODEL)}, output_dir=tmp_path)


# ---- equal runs --------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_runs_of_the_same_seed_are_equal(options, tmp_path):
    """Also with a loader process."""
    for name, changes in {"a": {}, "b": {"num_workers": 1}, "c": {"seed": 1}}.items():
        assert main(as_arguments(options, output_dir=tmp_path / name, epochs=1, **changes)) == DONE
    first, second, other = (load_file(tmp_path / name / "final/model.safetensors") for name in "abc")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first if key.endswith("weight"))
    assert without_times(read_metrics(tmp_path / "a")) == without_times(read_metrics(tmp_path / "b"))


class EqualLengths(GroundingCollator):
    """All videos have ten frames and no moments."""

    def __call__(self, examples):
        short = []
        for example in examples:
            cut = {name: example[name][:10] for name in ("video_hidden_states", "saliency")}
            short.append({name: value for name, value in {**example, **cut}.items() if name != "moments"})
        return super().__call__(short)


def test_accumulated_parts_equal_the_whole_batch(options, tmp_path):
    """For losses that are means over examples; a contrastive loss sees only the examples of its part."""
    frames = {"use_moment_head": False, "use_temporal_endpoints": False, "strides": [1]}
    frames |= {"use_video_calibration": False, "dropout": 0.0, "drop_path": 0.0}
    values = []
    for accumulation in (1, 4):
        changes = {"model": json.dumps({**MODEL, **frames}), "gradient_accumulation": accumulation}
        run = make_run(options, output_dir=tmp_path, warmup_steps=0, **changes)
        run.collator = EqualLengths(0)
        batches = run.batches()
        values.append([train_step(run, batches) for _ in range(2)])
        assert run.progress.step == 2
    for whole, parts in zip(*values, strict=True):
        assert parts == pytest.approx(whole, rel=1e-4)


def test_a_step_sets_its_learning_rate_and_clips_the_gradient(options, tmp_path):
    run = make_run(options, output_dir=tmp_path, warmup_steps=10, max_grad_norm=1e-3)
    batches = run.batches()
    values = [train_step(run, batches) for _ in range(2)]
    assert run.optimizer.param_groups[0]["lr"] == values[1]["learning_rate"] == pytest.approx(5e-3 * (0.001 + 0.0999))
    assert values[0]["grad_norm"] > 0.1  # before it is clipped
    moments = [state["exp_avg"].square().sum() for state in run.optimizer.state.values()]
    assert sum(moments).sqrt().item() <= 1e-3 * (1 - 0.9**2) * 1.001  # two steps of Adam's running mean


def first_losses(options, folder, *precisions):
    """Loss of the first step in each precision."""
    losses = []
    for precision in precisions:
        reset_accelerate()
        run = make_run(options, output_dir=folder, mixed_precision=precision)
        losses.append(train_step(run, run.batches())["loss"])
    return losses


def test_half_precision_trains_nearly_the_same(options, tmp_path, monkeypatch):
    monkeypatch.setattr("r2tuning.training.preparation.cpu_has_bfloat16", lambda: True)
    whole, half = first_losses(options, tmp_path, "no", "bf16")
    assert whole != half
    assert half == pytest.approx(whole, rel=0.05)


def test_a_cpu_without_bfloat16_trains_in_float32(options, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("r2tuning.training.preparation.cpu_has_bfloat16", lambda: False)
    whole, instead = first_losses(options, tmp_path, "no", "bf16")
    assert whole == instead
    assert "`mixed_precision` is 'no' here instead of 'bf16'" in caplog.text


def test_features_and_videos_train_the_same(tiny_clip, checkpoint, tmp_path):
    """CLIP on the fly against its states in half precision, for one step on `sample.mp4`."""
    clips = {"relevant_clip_ids": [2, 3], "saliency_scores": [[2, 3, 3], [4, 4, 3]]}
    lines = [
        {"qid": 1, "query": "a b", "vid": "sample", "duration": 20, "relevant_windows": [[4, 8]], **clips},
        {"qid": 2, "query": "c d e", "vid": "sample", "duration": 20, "relevant_windows": [[4, 8]], **clips},
    ]
    (tmp_path / "highlight_train_release.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {"preset": "qvhighlights", "data-dir": tmp_path, "backbone": save_clip(tiny_clip, tmp_path / "clip")}
    options |= {"eval-split": "none", "output-dir": tmp_path / "run", "batch-size": 2, "num-workers": 0, "cpu": None}
    options |= {"repeat-factor": 1, "model": json.dumps({**MODEL, "dropout": 0.0, "drop_path": 0.0})}
    run = make_run(options, video_dir=checkpoint)
    model = run.accelerator.unwrap_model(run.model)
    with torch.no_grad():
        for name in ("clip_tiny_vid_k3", "clip_tiny_txt_k3"):
            (tmp_path / "cache" / name).mkdir(parents=True)
        for draw, qid in enumerate((1, 2)):
            example = run.data[draw]
            video = model.get_video_hidden_states(example["pixel_values_videos"][None])[0]
            text = model.get_text_hidden_states(example["input_ids"][None])[0]
            np.save(tmp_path / "cache/clip_tiny_vid_k3/sample.npy", video.half().numpy())
            np.save(tmp_path / f"cache/clip_tiny_txt_k3/{qid}.npy", text.half().numpy())
    raw = train_step(run, run.batches())
    cached = make_run(options, features=tmp_path / "cache")
    assert train_step(cached, cached.batches()) == pytest.approx(raw, rel=1e-2)


# ---- stops -------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(options, tmp_path, capsys):
    """A learning rate of 1e30 makes the weights infinite in the second step; the batch of the third is named."""
    changes = {"learning_rate": 1e30, "warmup_steps": 0}
    assert main(as_arguments(options, output_dir=tmp_path / "run", **changes)) == NOT_FINITE
    message = capsys.readouterr().err
    step = int(re.search(r"of step (\d) is (?:nan|inf)", message)[1])
    run = make_run(options, output_dir=tmp_path / "other", **changes)
    qids = {run.data.row(draw)["qid"] for group in run.plan.draws(step) for draw in group}
    assert set(re.search(r"queries ([\d, ]+):", message)[1].split(", ")) == qids
    assert len(read_metrics(tmp_path / "run")["steps"]["loss"]) == step


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_changed(options, tmp_path):
    run = make_run(options, output_dir=tmp_path)
    parameter = run.accelerator.unwrap_model(run.model).r2_block.gate
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = parameter.detach().clone()
    with pytest.raises(NonFiniteError, match="gradient of step 0 is nan"):
        train_step(run, run.batches())
    assert torch.equal(parameter.detach(), before)


def test_a_dry_run_reports_estimates_and_writes_nothing(options, tmp_path, capsys):
    assert main([*as_arguments(options, output_dir=tmp_path / "run"), "--dry-run"]) == DONE
    printed = capsys.readouterr().out
    assert re.search(r"6 steps of \d+\.\d\d s in 2 epochs: \d\d:\d\d", printed)
    assert re.search(r"peak memory with the longest videos: \d+\.\d\d GiB", printed)
    assert re.search(r"2 evaluations of 4 videos", printed)
    assert not (tmp_path / "run").exists()


# ---- settings ----------------------------------------------------------------------------------------------------


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        read_config(["--help"])
    printed = capsys.readouterr().out
    for field in fields(TrainingConfig):
        assert f"--{field.name.replace('_', '-')}" in printed
        assert field.metadata["help"].split()[0] in printed


def test_the_command_line_overrides_the_preset(options):
    config = read_config(as_arguments(options, output_dir="run", loss_recipe="paper", eval_split="none", save_steps=7))
    assert (config.benchmark, config.drop_epochs, config.epochs) == ("qvhighlights", [20], 2)
    assert (config.loss_recipe, config.eval_split, config.save_steps) == ("paper", None, 7)
    assert config.model == MODEL


def test_model_fields_are_merged_with_those_of_the_preset(options):
    config = read_config(
        as_arguments(options, output_dir="run", preset="moving_shapes", batch_size=6, model='{"hidden_size": 32}')
    )
    assert config.model == {**read_preset("moving_shapes")["model"], "hidden_size": 32}


def test_a_preset_can_be_a_file(options, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"benchmark": "tacos", "epochs": 3}))
    options = {**options, "preset": path}
    del options["epochs"]
    assert read_config(as_arguments(options, output_dir="run")).epochs == 3
    path.write_text(json.dumps({"benchmark": "tacos", "epoch": 3}))
    assert main(as_arguments(options, output_dir="run")) == USAGE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`--epochs` must be at least 1, got 0"),
        ({"save_steps": 0}, "`--save-steps` must be at least 1, got 0"),
        ({"learning_rate": 0}, "`--learning-rate` must be positive"),
        ({"weight_decay": "nan"}, "`--weight-decay` must not be negative, got nan"),
        ({"batch_size": 5, "queries_per_video": 2}, "`--batch-size` must be a multiple of `--queries-per-video`"),
        ({"video_dir": "."}, "either `--features`, a feature cache, or `--video-dir`"),
        ({"preset": "charades"}, "`--preset` must be one of"),
        ({"domain": "all"}, "qvhighlights has none"),
        ({"domain": "BK"}, "leave out `--domain`"),
        ({"train_split": "training"}, "`--train-split` or `--eval-split` of qvhighlights must be one of"),
        ({"model": '{"hiden_size": 8}'}, "`--model` has fields that R2TuningConfig does not know: ['hiden_size']"),
        ({"post_processing": '{"nsm": "hard"}'}, "`--post-processing` has unknown fields: ['nsm']"),
        ({"best_metric": "accuracy"}, "`--best-metric` must be one of"),
        ({"features": "nowhere"}, "`--features` must be a folder, but there is none at 'nowhere'"),
        ({"log_with": "wandb"}, "`--log-with` names ['wandb'], which cannot be imported"),
        ({"push_to": "letters"}, "`--push-to` must be 'organisation/name', got 'letters'"),
        ({"output_dir": __file__}, f"`--output-dir` '{__file__}' cannot be written"),
    ],
)
def test_wrong_settings_are_reported(options, tmp_path, capsys, changes, message):
    changes = {"output_dir": tmp_path, "epochs": 1, **changes}
    assert main(as_arguments(options, **changes)) == USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "qvhighlight"}, "`--benchmark` must be one of ['qvhighlights', "),
        ({"data_dir": "nowhere"}, "`--data-dir` must be a folder, but there is none at 'nowhere'"),
        ({"video_dir": "nowhere"}, "`--video-dir` must be a folder, but there is none at 'nowhere'"),
        ({"backbone": "nowhere"}, "`--backbone` must be a folder, or a name on the Hub such as 'openai/"),
        ({"backbone": "./runs/clip"}, "there is no folder './runs/clip'"),
        ({"eval_split": "test"}, "No annotations of qvhighlights in"),
        ({"best_metric": "accuracy"}, "`--best-metric` must be one of"),
    ],
)
def test_nothing_is_downloaded_before_the_data_is_checked(options, tmp_path, capsys, monkeypatch, changes, message):
    def fetch(*arguments, **options):
        raise AssertionError("CLIP was fetched")

    monkeypatch.setattr("r2tuning.training.preparation.make_model", fetch)
    options = {**options, "output-dir": tmp_path, "backbone": "org/clip"}
    if "video_dir" in changes:
        del options["features"]
    assert main(as_arguments(options, **changes)) == USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epochs": "3"}', "`--epochs` must be of the type int, got '3'"),
        ('{"drop_epochs": [1.5]}', "`--drop-epochs` must be of the type int, got 1.5"),
        ('{"schedule": "linear"}', "`--schedule` must be one of ['step', 'cosine'], got 'linear'"),
        ('{"epochs": 3', "mine.json' is not a preset: not JSON"),
        ("[3]", "mine.json' is not a preset: must be a JSON object"),
    ],
)
def test_an_invalid_preset_is_reported(options, tmp_path, capsys, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    options = {name: value for name, value in options.items() if name != "epochs"}
    assert main(as_arguments(options, preset=path, benchmark="qvhighlights", output_dir=tmp_path)) == USAGE
    assert message in capsys.readouterr().err


def test_json_options_must_be_objects(options, capsys):
    for text in ("3", "{"):
        with pytest.raises(SystemExit):
            read_config(as_arguments(options, output_dir="run", model=text))
        assert "argument --model: " in capsys.readouterr().err


def test_queries_without_features_are_reported_or_left_out(options, tmp_path, capsys):
    for split in ("train", "val"):
        name = f"highlight_{split}_release.jsonl"
        line = (options["data-dir"] / name).read_text().splitlines()[0]
        unknown = json.dumps({**json.loads(line), "qid": 99, "vid": "unknown"})
        (tmp_path / name).write_text((options["data-dir"] / name).read_text() + unknown + "\n")
    arguments = as_arguments(options, data_dir=tmp_path, output_dir=tmp_path / "run", epochs=1)
    assert main(arguments) == USAGE
    message = capsys.readouterr().err
    assert "1 of 25 queries cannot be used, such as query 99 about 'unknown': " in message
    assert str(options["features"] / "clip_tiny_vid_k3/unknown.npy") in message
    assert "pass `--missing-videos skip`" in message
    run = prepare_run(read_config([*arguments, "--missing-videos", "skip"]))
    assert {row["video_id"] for row in run.data.rows} == {f"train{number}" for number in range(12)}
    assert (len(run.eval_rows), run.num_left_out) == (8, 1)


@pytest.fixture
def damaged(options, tmp_path):
    """Options of a run whose features the test may damage, and their folder."""
    cache = Path(shutil.copytree(options["features"], tmp_path / "cache"))
    return {**options, "features": cache, "output-dir": tmp_path / "run", "epochs": 1}, cache / "clip_tiny_vid_k3"


def make_infinite(path):
    """Damage that the header of the file does not show."""
    states = np.load(path)
    states[-1] = np.inf
    np.save(path, states)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_stops_training_and_is_named(damaged, capsys, num_workers):
    """With loader processes as without."""
    options, folder = damaged
    make_infinite(folder / "train5.npy")
    assert main(as_arguments(options, num_workers=num_workers)) == USAGE
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"run: error: '{folder / 'train5.npy'}' holds numbers that are not finite")


def test_unreadable_evaluation_videos_are_an_error_or_left_out_and_counted(damaged, capsys):
    options, folder = damaged
    make_infinite(folder / "val1.npy")
    assert main(as_arguments(options)) == USAGE
    message = capsys.readouterr().err
    assert f"The evaluation failed: 'val1' cannot be read: '{folder / 'val1.npy'}' holds numbers" in message
    assert "pass `--missing-videos skip`" in message
    assert main(as_arguments(options, resume="auto", missing_videos="skip")) == DONE  # nothing was lost
    run = options["output-dir"]
    (evaluation,) = read_metrics(run)["evaluations"]
    assert evaluation["left_out"] == 2
    assert "**Without 2 of its queries**, whose videos were missing" in (run / "best/README.md").read_text()


def test_a_damaged_header_is_found_before_training(damaged, capsys, monkeypatch):
    def train(run):
        raise AssertionError("training began")

    monkeypatch.setattr(run_script, "train", train)
    options, folder = damaged
    (folder / "val1.npy").write_bytes((folder / "val1.npy").read_bytes()[:-10])
    assert main(as_arguments(options)) == USAGE
    assert f"2 of 8 queries cannot be used, such as query 1002 about 'val1': '{folder}" in capsys.readouterr().err
    run = prepare_run(read_config(as_arguments(options, missing_videos="skip")))
    assert ({row["video_id"] for row in run.eval_rows}, run.num_left_out) == ({"val0", "val2", "val3"}, 2)


def test_missing_videos_of_the_evaluation_are_counted(options, tmp_path):
    """Of four videos, two are missing and one cannot be read."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("train0", "val0"):
        write_video(folder / f"{name}.mp4", count=3)
    (folder / "val1.mp4").write_bytes(b"no video")
    options = {name: value for name, value in options.items() if name != "features"}
    run = make_run(options, video_dir=folder, missing_videos="skip", output_dir=tmp_path / "run")
    assert {row["video_id"] for row in run.eval_rows} == {"val0"}
    assert run.num_left_out == 6


def test_loss_recipe_and_backbone_reach_the_model(options, tmp_path):
    run = make_run(options, output_dir=tmp_path, loss_recipe="paper")
    config = run.accelerator.unwrap_model(run.model).config
    assert (config.loss_recipe, config.backbone_name_or_path) == ("paper", str(options["backbone"]))
    assert (config.saliency_loss_weight, config.window_sec) == (0.1, 150.0)


# ---- one model for each domain -----------------------------------------------------------------------------------


@pytest.fixture
def domains(options, tmp_path, monkeypatch):
    """Options to train on two domains of TVSum, with videos of 10 seconds."""
    cache, generator = tmp_path / "cache", np.random.default_rng(0)
    for name in ("clip_tiny_vid_k3", "clip_tiny_txt_k3"):
        (cache / name).mkdir(parents=True)
    videos = {}
    for domain in ("BK", "DS"):
        for number in range(3):
            name = f"{domain}{number}"
            scores = generator.integers(1, 6, (5, 20)).tolist()
            videos[name] = {"domain": domain, "title": "a b", "fps": 25, "frames": 250, "anno": scores}
            np.save(
                cache / f"clip_tiny_vid_k3/{name}.npy", generator.standard_normal((5, 3, 5, 64)).astype(np.float16)
            )
            np.save(cache / f"clip_tiny_txt_k3/{name}.npy", generator.standard_normal((4, 3, 48)).astype(np.float16))
    (tmp_path / "tvsum_anno.json").write_text(json.dumps(videos))
    splits = {domain: {"train": [f"{domain}0", f"{domain}1"], "val": [f"{domain}2"]} for domain in ("BK", "DS")}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    find_builder("tvsum")  # imported before the change: its class keeps the spec that it finds
    monkeypatch.setitem(BENCHMARKS, "tvsum", replace(BENCHMARKS["tvsum"], domains=("BK", "DS")))
    model = {name: value for name, value in MODEL.items() if name != "strides"}
    options = {**options, "preset": "tvsum", "data-dir": tmp_path, "features": cache, "model": json.dumps(model)}
    return {**options, "batch-size": 2, "output-dir": tmp_path / "run"}


def test_each_domain_has_its_own_model(domains, capsys, monkeypatch):
    pushed = []
    monkeypatch.setattr(run_script, "check_push", lambda config: None)
    monkeypatch.setattr(run_script, "push_run", lambda *arguments: pushed.append(arguments) or len(pushed) < 2)
    assert main(as_arguments(domains, push_to="org/r2tuning-tvsum")) == NOT_PUBLISHED  # the second one fails
    folder = domains["output-dir"]
    summary = read_metrics(folder)
    scores = {}
    for domain in ("BK", "DS"):
        model = AutoModel.from_pretrained(folder / domain / "final")
        assert (model.config.use_moment_head, model.config.strides) == (False, [1])
        evaluations = read_metrics(folder / domain)["evaluations"]
        scores[domain] = max(entry["scores"]["mAP-average"] for entry in evaluations)
    assert summary["domains"] == scores
    assert summary["average"] == pytest.approx(sum(scores.values()) / 2, abs=0.01)
    assert f"{summary['average']:.2f}" in capsys.readouterr().out
    assert pushed == [(folder / name / "best", f"org/r2tuning-tvsum-{name.lower()}") for name in ("BK", "DS")]


# ---- transformers ------------------------------------------------------------------------------------------------


def test_the_example_trains_with_the_trainer_of_transformers(options, tmp_path):
    config = read_config(as_arguments(options, output_dir=tmp_path, epochs=4))
    trainer = train_by_transformers(config, use_cpu=True, logging_steps=1, save_strategy="no", disable_tqdm=True)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert AutoModel.from_pretrained(tmp_path / "final").config.hidden_size == MODEL["hidden_size"]
