"""Evaluation of the model during training, shared among the training processes."""

from typing import Any

from accelerate.logging import get_logger
from accelerate.utils import gather_object

from dataset_scripts.metrics import compute_scores
from r2tuning.evaluation.predictions import predict
from r2tuning.training.signals import StopSignals
from r2tuning.training.training_run import TrainingRun


logger = get_logger(__name__)


def evaluate(run: TrainingRun, signals: StopSignals) -> bool:
    """Score the model on the evaluation split, and record the scores in progress and history.

    A signal ends the evaluation early; it is then due again when the run is resumed.

    Returns:
        Whether the model is the best so far.

    Raises:
        ValueError: A video cannot be read while `config.missing_videos` is "error", or no video can be read.
    """
    predictions, failures = predict_share(run, run.eval_rows, signals)
    failures = gather_object(failures)
    if run.any_process(signals.number is not None):
        return False
    if failures:
        raise ValueError(f"The evaluation failed: {failures[0]}")
    predictions = gather_object(predictions)
    _leave_out_unanswered(run, predictions)
    scores = compute_scores(run.config.benchmark, predictions, run.eval_rows)["brief"]
    return _record_scores(run, scores)


def _record_scores(run: TrainingRun, scores: dict[str, Any]) -> bool:
    progress, metric = run.progress, run.config.best_metric
    score = scores[metric]
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


__all__ = ["evaluate", "predict_share"]
