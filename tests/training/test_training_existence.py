"""Training with an existence head: the probability is calibrated after each evaluation and stored with the model."""

import json
import shutil
import signal

import numpy as np
import pytest
from training_samples import MODEL, as_arguments, reset_accelerate, write_benchmark

from dataset_scripts.metrics.existence import score_existence
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.evaluation.calibration import SMALLEST_SCALE, apply_calibration, fit_probability
from r2tuning.evaluation.predictions import predict
from r2tuning.features.cache import FeatureCache
from r2tuning.training import loop, run, validation
from r2tuning.training.config import read_config
from r2tuning.training.preparation import prepare_run
from r2tuning.training.run import DONE, main
from r2tuning.training.signals import StopSignals
from r2tuning.training.validation import calibrate, evaluate


NOT_CALIBRATED = "does not have both present and absent queries"
UNTOUCHED = (1.0, 0.0)


@pytest.fixture(autouse=True)
def _fresh_accelerate(monkeypatch):
    """Each run starts as in a process of its own; it draws no curves, which would take the longest here."""
    reset_accelerate()
    monkeypatch.setattr(run, "draw_curves", lambda *arguments: None)


def with_head(options):
    return {**options, "model": json.dumps({**MODEL, "dropout": 0.0, "use_existence_head": True})}


@pytest.fixture(scope="module")
def options(tiny_clip, tmp_path_factory):
    """Two epochs of three steps, with a checkpoint after each step; a third of the queries is absent."""
    options = write_benchmark(tmp_path_factory.mktemp("benchmark"), tiny_clip, num_train=6, absent=True)
    parts = {
        "eval-split": "train",
        "learning-rate": 2e-2,
        "batch-size": 6,
        "queries-per-video": 3,
        "save-steps": 1,
        "keep-checkpoints": 10,
        "resume": "auto",
    }
    return with_head({**options, **parts})


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """Folder of an uninterrupted run."""
    reset_accelerate()
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_curves", lambda *arguments: None)
        assert main(as_arguments(options, output_dir=folder)) == DONE
    return folder


def calibration(folder):
    """The two numbers in a checkpoint."""
    settings = json.loads((folder / "processor_config.json").read_text())
    return settings["existence_scale"], settings["existence_bias"]


def make_run(options, folder):
    return prepare_run(read_config(as_arguments(options, output_dir=folder)))


def predict_again(options, folder, scale, bias):
    """Predictions of a checkpoint on the evaluation split, and the queries."""
    rows = make_run(options, folder / "unused").eval_rows
    model = R2TuningForVideoGrounding.from_pretrained(folder).eval()
    processor = R2TuningProcessor.from_pretrained(folder, existence_scale=scale, existence_bias=bias)
    cache = FeatureCache(options["features"], model=model, fps=model.config.fps)
    return list(predict(model, processor, rows, cache, benchmark="qvhighlights")), rows


# ---- complete runs -----------------------------------------------------------------------------------------------


def test_checkpoints_hold_the_calibration_of_the_last_evaluation(whole):
    first, second = calibration(whole / "step_000003"), calibration(whole / "step_000006")
    assert len({UNTOUCHED, first, second}) == 3
    found = [calibration(whole / f"step_{step:06d}") for step in range(1, 7)]
    assert found == [UNTOUCHED, UNTOUCHED, first, first, first, second]
    assert calibration(whole / "final") == second
    best = json.loads((whole / "step_000006/training_state/progress.json").read_text())["best_step"]
    assert calibration(whole / "best") == found[best - 1]


@pytest.mark.parametrize("step", [3, 6])
def test_recorded_scores_are_those_of_the_saved_model(options, whole, step):
    """Its numbers are fitted to its own logits, whatever the numbers were before."""
    folder = whole / f"step_{step:06d}"
    uncalibrated, rows = predict_again(options, folder, *UNTOUCHED)
    scores = [prediction["pred_exist_score"] for prediction in uncalibrated]
    present = {row["qid"]: bool(row["moments"]) for row in rows}
    fitted = fit_probability(scores, [present[prediction["qid"]] for prediction in uncalibrated])
    assert calibration(folder) == pytest.approx(fitted, rel=1e-4)
    calibrated, _ = predict_again(options, folder, *calibration(folder))
    found = score_existence(calibrated, rows)
    recorded = json.loads((whole / "metrics.json").read_text())["evaluations"][step // 3 - 1]["scores"]
    assert found == pytest.approx({name: recorded[name] for name in found}, abs=0.02)


def test_a_resumed_run_saves_the_same_calibration(options, whole, tmp_path, monkeypatch):
    """Resumed from step 4, so step 5 is saved with numbers that the resumed part did not fit."""
    learning_rate = loop.learning_rate
    with monkeypatch.context() as patch:

        def failing(step, *arguments):
            if step == 4:
                raise RuntimeError("power failure")
            return learning_rate(step, *arguments)

        patch.setattr(loop, "learning_rate", failing)
        with pytest.raises(RuntimeError, match="power failure"):
            main(as_arguments(options, output_dir=tmp_path))
    assert sorted(path.name for path in tmp_path.glob("step_*"))[-1] == "step_000004"
    reset_accelerate()
    assert main(as_arguments(options, output_dir=tmp_path)) == DONE
    names = sorted(path.parent.name for path in whole.glob("*/processor_config.json"))
    assert len(names) == 8
    for name in names:
        got, want = ((folder / name / "processor_config.json").read_text() for folder in (tmp_path, whole))
        assert got == want, name


def test_a_checkpoint_of_an_earlier_version_has_no_calibration(options, whole, tmp_path):
    run = make_run(options, tmp_path)
    shutil.copytree(whole / "step_000003", tmp_path / "step_000003")
    path = tmp_path / "step_000003/processor_config.json"
    settings = json.loads(path.read_text())
    del settings["existence_scale"], settings["existence_bias"]
    path.write_text(json.dumps(settings))
    assert run.checkpoints.load(tmp_path / "step_000003", len(run.data)).step == 3
    assert numbers(run) == UNTOUCHED


# ---- single evaluations ------------------------------------------------------------------------------------------


def make_predictions(run, seed=0):
    """Predictions in which present queries have higher scores on average."""
    generator = np.random.default_rng(seed)
    predictions = []
    for row in run.eval_rows:
        score = generator.uniform(0.3, 1.0) if row["moments"] else generator.uniform(0.0, 0.7)
        predictions.append({"qid": row["qid"], "pred_exist_score": score})
    return predictions


def numbers(run):
    return run.processor.existence_scale, run.processor.existence_bias


def test_the_order_of_the_predictions_changes_nothing(options, tmp_path):
    """With several processes they come in another order."""
    run = make_run(options, tmp_path)
    predictions = make_predictions(run)
    again = [dict(prediction) for prediction in reversed(predictions)]
    calibrate(run, predictions)
    first = numbers(run)
    calibrate(run, again)
    assert numbers(run) == first
    assert again[::-1] == predictions


def test_queries_without_annotation_are_calibrated_but_not_fitted(options, tmp_path):
    run = make_run(options, tmp_path)
    run.eval_rows = run.eval_rows[:8]
    predictions = make_predictions(run)
    raw = [prediction["pred_exist_score"] for prediction in predictions]
    run.eval_rows[0] = {**run.eval_rows[0], "moments": None}
    calibrate(run, predictions)
    want = fit_probability(raw[1:], [bool(row["moments"]) for row in run.eval_rows[1:]])
    assert numbers(run) == want
    assert [prediction["pred_exist_score"] for prediction in predictions] == [
        apply_calibration(score, *want) for score in raw
    ]


@pytest.mark.parametrize("kind", ["present", "absent"])
def test_one_kind_of_query_leaves_the_numbers_and_is_reported_once(options, tmp_path, caplog, kind):
    validation.logger.__class__.warning_once.cache_clear()  # as in a new process
    run = make_run(options, tmp_path)
    run.eval_rows = [row for row in run.eval_rows if bool(row["moments"]) == (kind == "present")]
    run.processor.existence_scale, run.processor.existence_bias = 2.0, -1.0
    predictions = make_predictions(run)
    raw = [prediction["pred_exist_score"] for prediction in predictions]
    calibrate(run, predictions)
    assert numbers(run) == (2.0, -1.0)
    assert predictions[0]["pred_exist_score"] == apply_calibration(raw[0], 2.0, -1.0)
    calibrate(run, predictions)
    assert caplog.text.count(NOT_CALIBRATED) == 1


def test_logits_that_tell_nothing_are_reported(options, tmp_path, caplog):
    run = make_run(options, tmp_path)
    predictions = make_predictions(run)
    for prediction in predictions:
        prediction["pred_exist_score"] = 1 - prediction["pred_exist_score"]
    calibrate(run, predictions)
    assert numbers(run)[0] == SMALLEST_SCALE
    assert "not higher for present queries" in caplog.text


def test_an_evaluation_that_a_signal_stops_leaves_the_numbers(options, tmp_path):
    run = make_run(options, tmp_path)
    run.processor.existence_scale, run.processor.existence_bias = 2.0, -1.0
    signals = StopSignals()
    signals.number = signal.SIGTERM
    assert evaluate(run, signals) is False
    assert numbers(run) == (2.0, -1.0)


def test_a_model_without_the_head_is_not_calibrated(options, tmp_path):
    run = make_run({**options, "model": json.dumps(MODEL)}, tmp_path)
    evaluate(run, StopSignals())
    assert numbers(run) == UNTOUCHED
    assert not any(name.startswith("EX-") for name in run.history.evaluations[0]["scores"])


# ---- the score that chooses the best model ---------------------------------------------------------------------------


def test_scores_of_a_head_that_the_start_brings_can_choose_the_best_model(options, whole, tmp_path):
    plain = {name: value for name, value in options.items() if name not in ("model", "backbone")}
    changes = {"init_from": whole / "final", "best_metric": "EX-AUROC", "output_dir": tmp_path / "run"}
    assert main(as_arguments(plain, **changes)) == DONE
