"""Evaluation of the model during training, shared among the training processes."""

import contextlib
from collections.abc import Iterator
from typing import Any

from accelerate.logging import get_logger
from accelerate.utils import gather_object

from dataset_scripts.metrics import compute_scores
from modeling_r2tuning import R2TuningProcessor
from r2tuning.evaluation.calibration import SMALLEST_SCALE, apply_calibration, fit_probability
from r2tuning.evaluation.predictions import predict
from r2tuning.training.signals import StopSignals
from r2tuning.training.training_run import TrainingRun


logger = get_logger(__name__)


def evaluate(run: TrainingRun, signals: StopSignals) -> bool:
    """Score the model on the evaluation split, and record the scores in progress and history.

    If the model has an existence head, its probability is calibrated before it is scored. A signal ends the
    evaluation early; it is then due again when the run is resumed.

    Returns:
        Whether the model is the best so far.

    Raises:
        ValueError: A video cannot be read while `config.missing_videos` is "error", or no video can be read.
    """
    with uncalibrated(run.processor):
        predictions, failures = predict_share(run, run.eval_rows, signals)
    failures = gather_object(failures)
    if run.any_process(signals.number is not None):
        return False
    if failures:
        raise ValueError(f"The evaluation failed: {failures[0]}")
    predictions = gather_object(predictions)
    _leave_out_unanswered(run, predictions)
    if run.accelerator.unwrap_model(run.model).config.use_existence_head:
        calibrate(run, predictions)
    scores = compute_scores(run.config.benchmark, predictions, run.eval_rows)["brief"]
    return _record_scores(run, scores)


@contextlib.contextmanager
def uncalibrated(processor: R2TuningProcessor) -> Iterator[None]:
    """Let the probability be sigmoid(logit), so that a fit does not depend on earlier ones."""
    scale, bias = processor.existence_scale, processor.existence_bias
    processor.existence_scale, processor.existence_bias = 1.0, 0.0
    try:
        yield
    finally:
        processor.existence_scale, processor.existence_bias = scale, bias


def calibrate(run: TrainingRun, predictions: list[dict[str, Any]]) -> None:
    """Fit the two numbers of the probability, set them on the processor, and calibrate `pred_exist_score`.

    If all queries are present, or all absent, the processor keeps its numbers. Every process has the predictions of all
    processes and takes them in the order of the rows, so the numbers are the same in each and for any number of processes.

    Args:
        run: The run, whose processor is saved with the next checkpoint.
        predictions: Uncalibrated predictions of `run.eval_rows`; changed in place.
    """
    processor = run.processor
    by_qid = {prediction["qid"]: prediction for prediction in predictions}
    rows = [row for row in run.eval_rows if row["moments"] is not None]
    scores = [by_qid[row["qid"]]["pred_exist_score"] for row in rows]
    present = [len(row["moments"]) > 0 for row in rows]
    if any(present) and not all(present):
        processor.existence_scale, processor.existence_bias = fit_probability(scores, present)
        _report_calibration(run)
    else:
        logger.warning_once(
            "The evaluation split does not have both present and absent queries: the probability that a query is there is "
            "not calibrated."
        )
    for prediction in predictions:
        prediction["pred_exist_score"] = apply_calibration(
            prediction["pred_exist_score"], processor.existence_scale, processor.existence_bias
        )


def _report_calibration(run: TrainingRun) -> None:
    scale, bias = run.processor.existence_scale, run.processor.existence_bias
    logger.info(f"epoch {run.epoch}: a query is there with probability sigmoid({scale:.3g} * logit {bias:+.3g})")
    if scale == SMALLEST_SCALE:
        logger.warning(
            "The logits are not higher for present queries than for absent ones, so every query gets about the same "
            "probability."
        )


def _record_scores(run: TrainingRun, scores: dict[str, Any]) -> bool:
    progress, metric = run.progress, run.config.best_metric
    score = scores.get(metric)
    if score is None:
        raise ValueError(
            f"`best_metric` {metric} is not defined without the {run.num_left_out} queries of the evaluation split whose "
            "videos could not be read. Replace these videos, or choose another score."
        )
    progress.evaluated_step = progress.step
    run.history.evaluations.append(
        {"step": progress.step, "epoch": run.epoch, "scores": scores, "left_out": run.num_left_out}
    )
    run.log({f"eval/{name}": value for name, value in scores.items() if value is not None})
    is_best = progress.best_score is None or score > progress.best_score
    if is_best:
        progress.best_step, progress.best_score = progress.step, score
    logger.info(f"epoch {run.epoch}: {metric} {score:.2f}{', the best so far' if is_best else ''}")
    return is_best


def _leave_out_unanswered(run: TrainingRun, predictions: list[dict[str, Any]]) -> None:
    """Exclude queries whose videos could not be read from this evaluation and all later ones, and count them."""
    answered = {prediction["qid"] for prediction in predictions}
    rows = [row for row in run.eval_rows if row["qid"] in answered]
    if not rows:
        raise ValueError("None of the videos of the evaluation split could be read.")
    run.num_left_out += len(run.eval_rows) - len(rows)
    run.eval_rows = rows


def predict_share(
    run: TrainingRun, rows: list[dict[str, Any]], signals: StopSignals
) -> tuple[list[dict[str, Any]], list[str]]:
    """Predict the queries of this process's share of the videos.

    Args:
        run: The run.
        rows: Queries of all processes.
        signals: A signal ends the predictions early.

    Returns:
        Predictions, and error messages. An error is returned rather than raised so that the other processes learn of it
        instead of waiting for this one.
    """
    model = run.accelerator.unwrap_model(run.model)
    videos = list(dict.fromkeys(row["video_id"] for row in rows))
    share = set(videos[run.accelerator.process_index :: run.accelerator.num_processes])
    own_rows = [row for row in rows if row["video_id"] in share]
    predictions, failures = [], []
    model.eval()
    try:
        for prediction in predict(
            model,
            run.processor,
            own_rows,
            run.data.cache,
            benchmark=run.config.benchmark,
            missing_videos=run.config.missing_videos,
        ):
            predictions.append(prediction)
            if signals.number is not None:
                break
    except (OSError, ValueError) as error:
        failures.append(str(error))
    model.train()
    return predictions, failures


__all__ = ["calibrate", "evaluate", "predict_share", "uncalibrated"]
