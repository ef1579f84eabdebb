"""The training loop: steps, evaluations, checkpoints, and what happens when something asks it to stop."""

import contextlib
import itertools
import math
import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object, send_to_device
from torch import nn
from tqdm import tqdm

from dataset_scripts.metrics import compute_scores
from modeling_r2tuning import R2TuningProcessor
from r2tuning.evaluation.predictions import predict
from r2tuning.training.checkpoints import CheckpointFolder, Progress
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig
from r2tuning.training.curves import History
from r2tuning.training.data import BatchPlan, GroundingData, make_loader
from r2tuning.training.optim import learning_rate


logger = get_logger(__name__)

SAMPLE_VIDEOS = 2  # evaluated by a dry run


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite; the message names the queries of the batch."""


class Interrupted(Exception):  # noqa: N818 (no error: the run was asked to stop, and did)
    """The run was stopped by a signal after it had saved a checkpoint."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.number = number


class StopSignals:
    """Takes notice of SIGTERM and Ctrl-C, so that a step can be finished; a second one has its usual effect."""

    def __init__(self):
        self.number: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any):
        self.number = number
        signal.signal(number, self._before[number])


@dataclass
class TrainingRun:
    """All that takes part in a training run.

    Attributes:
        config: Its settings.
        accelerator: Has prepared `model` and `optimizer`.
        model: The model, perhaps wrapped for distributed training.
        processor: Its processor.
        optimizer: Of what is learned.
        data: What it is trained on.
        collator: Makes batches of it.
        plan: Which queries make which step.
        eval_rows: What is evaluated; empty = nothing.
        num_left_out: Queries that are not, as their videos are missing or cannot be read.
        progress: How far the run has come.
        history: What was measured.
        checkpoints: Where it is saved.
    """

    config: TrainingConfig
    accelerator: Accelerator
    model: nn.Module
    processor: R2TuningProcessor
    optimizer: AcceleratedOptimizer
    data: GroundingData
    collator: GroundingCollator
    plan: BatchPlan
    eval_rows: list[dict[str, Any]]
    progress: Progress
    history: History
    checkpoints: CheckpointFolder
    num_left_out: int = 0

    @property
    def metrics_path(self) -> Path:
        """Where the history is written."""
        return Path(self.config.output_dir) / "metrics.json"

    def batches(self) -> Generator[dict[str, torch.Tensor], None, None]:
        """Batches of this process from the next step to the end of the run; to be closed, which ends the workers.

        Raises:
            ValueError: An example cannot be read.
        """
        rank, others = self.accelerator.process_index, set(multiprocessing.active_children())
        batches = iter(make_loader(self.data, self.collator, self.plan, self.progress.step, rank))
        workers = set(multiprocessing.active_children()) - others
        try:
            for batch in batches:
                if isinstance(batch, ValueError):
                    raise batch
                yield batch
        finally:
            del batches  # tells them to end, and waits some seconds
            for worker in workers:
                with contextlib.suppress(RuntimeError):  # by which torch tells of its end; it must not hide the reason
                    worker.kill()  # one that is stuck, in a read from a dead disk, say; they do not heed SIGTERM
                    worker.join(timeout=1)

    @property
    def settings_path(self) -> Path:
        """Where the settings are written."""
        return Path(self.config.output_dir) / "training_config.json"

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step == self.plan.num_steps

    @property
    def is_evaluation_due(self) -> bool:
        """Whether an epoch is at its end that is to be evaluated and is not yet."""
        epoch, rest = divmod(self.progress.step, self.plan.steps_per_epoch)
        due = rest == 0 and epoch > 0 and (epoch % self.config.eval_epochs == 0 or self.is_finished)
        return due and bool(self.eval_rows) and self.progress.evaluated_step < self.progress.step

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint, by the number of steps."""
        return self.is_finished or self.progress.step % (self.config.save_steps or self.plan.steps_per_epoch) == 0


def train(run: TrainingRun) -> None:
    """Train to the end, from wherever the run is.

    Raises:
        Interrupted: By a signal; a checkpoint was saved.
        NonFiniteError: A loss or gradient is NaN or infinite.
        OSError: The last checkpoint could not be written.
        ValueError: A video or its features cannot be read.
    """
    saved = replace(run.progress)
    with StopSignals() as signals, _progress_bar(run) as bar, contextlib.closing(run.batches()) as batches:
        while True:
            stopping = _any_process(run.accelerator, signals.number is not None)
            if run.progress != saved and (stopping or run.is_checkpoint_due or run.is_evaluation_due):
                saved = save(run, saved)  # also before an evaluation, which may fail
            if run.is_evaluation_due and not stopping:
                is_best = evaluate(run, signals)
                stopping = run.is_evaluation_due  # it was broken off
                if run.progress != saved:
                    saved = save(run, saved, is_best)
            if stopping or run.is_finished:
                break
            start = time.perf_counter()
            values = train_step(run, batches)
            _report(run, values, time.perf_counter() - start, bar)
    if run.progress != saved:
        raise OSError(f"The checkpoint of step {run.progress.step} could not be written to '{run.config.output_dir}'.")
    if not run.is_finished or run.is_evaluation_due:
        raise Interrupted(signals.number or signal.SIGTERM, run.progress.step)


def train_step(run: TrainingRun, batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, float]:
    """One step of the optimizer: all parts of the batch forward and backward, then the update.

    Returns:
        The loss and its parts, the norm of the gradient before clipping, and the learning rate.

    Raises:
        NonFiniteError: The loss, or without a gradient scaler its gradient, is NaN or infinite.
    """
    accelerator, config = run.accelerator, run.config
    rate = learning_rate(run.progress.step, run.plan.steps_per_epoch, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    values: dict[str, float] = {}
    for _ in range(config.gradient_accumulation):
        batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
        with accelerator.accumulate(run.model):
            outputs = run.model(**batch)
            for name, value in _as_floats(outputs).items():
                values[name] = values.get(name, 0.0) + value / config.gradient_accumulation
            _check_finite(run, "loss", values["loss"])
            accelerator.backward(outputs.loss)
            if accelerator.sync_gradients:
                values["grad_norm"] = accelerator.clip_grad_norm_(run.model.parameters(), config.max_grad_norm).item()
                if accelerator.scaler is None:  # which skips steps whose gradient overflows
                    _check_finite(run, "gradient", values["grad_norm"])
            run.optimizer.step()
            run.optimizer.zero_grad()
    run.progress.step += 1
    return {**values, "learning_rate": rate}


def _as_floats(outputs: Any) -> dict[str, float]:
    """The loss and its parts, fetched from the device together."""
    tensors = {"loss": outputs.loss, **outputs.loss_parts}
    return dict(zip(tensors, torch.stack([tensor.detach() for tensor in tensors.values()]).tolist(), strict=True))


def _check_finite(run: TrainingRun, what: str, value: float) -> None:
    if not math.isfinite(value):
        draws = itertools.chain.from_iterable(run.plan.draws(run.progress.step))
        qids = list(dict.fromkeys(run.data.row(draw)["qid"] for draw in draws))
        raise NonFiniteError(
            f"The {what} of step {run.progress.step} is {value}. Its batch holds the queries {', '.join(qids)}: look "
            "for damaged features or annotations, or lower the learning rate. The last checkpoint is unharmed."
        )


def _report(run: TrainingRun, values: dict[str, float], seconds: float, bar: tqdm) -> None:
    step = run.progress.step
    epoch = (step - 1) // run.plan.steps_per_epoch + 1
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    run.history.add_step(step=step, epoch=epoch, **finite, seconds=seconds)
    _log(run, {f"train/{name}": value for name, value in values.items()})
    shown = " ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
    bar.set_postfix_str(f"epoch {epoch}/{run.config.epochs} {shown}", refresh=False)
    bar.update()


def _log(run: TrainingRun, values: dict[str, float]) -> None:
    """Tell the trackers; a full disk or a lost connection does not stop the run."""
    try:
        run.accelerator.log(values, step=run.progress.step)
    except OSError as error:
        logger.warning_once(f"A tracker failed, the run goes on: {error}")


def _progress_bar(run: TrainingRun) -> tqdm:
    return tqdm(
        desc="training",
        total=run.plan.num_steps,
        initial=run.progress.step,
        unit=" steps",
        disable=not run.accelerator.is_main_process,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 30.0,  # seconds; the latter in a log file
    )


def _any_process(accelerator: Accelerator, flag: bool) -> bool:
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)))


# ---- checkpoints and evaluation ------------------------------------------------------------------------------------


def save(run: TrainingRun, saved: Progress, is_best: bool = False) -> Progress:
    """Write a checkpoint and the history.

    Args:
        run: The run.
        saved: Progress at the last checkpoint.
        is_best: Whether the model is the best so far.

    Returns:
        Progress at the last checkpoint now: if nothing could be written, that is the one before.
    """
    try:
        if run.accelerator.is_main_process:
            run.history.save(run.metrics_path)
    except OSError as error:
        logger.error(f"'{run.metrics_path}' was not written: {error}")
    records = {run.metrics_path.name: asdict(run.history), run.settings_path.name: asdict(run.config)}
    if run.checkpoints.save(run.progress, records, is_best):
        return replace(run.progress)
    if is_best:  # its weights will be gone, so the next better than the one before is the best
        run.progress.best_step, run.progress.best_score = saved.best_step, saved.best_score
    return saved


def evaluate(run: TrainingRun, signals: StopSignals) -> bool:
    """Score the model on the evaluation split; whether it is the best so far.

    The videos are shared out among the processes. A signal breaks it off; it is then due again when the run is resumed.

    Raises:
        ValueError: A video cannot be read, and `config.missing_videos` is "error"; or none can.
    """
    predictions, failures = _predict_share(run, run.eval_rows, signals)
    failures = gather_object(failures)
    if _any_process(run.accelerator, signals.number is not None):
        return False
    if failures:
        raise ValueError(f"The evaluation failed: {failures[0]}")
    predictions = gather_object(predictions)
    leave_out_unanswered(run, predictions)
    scores = compute_scores(run.config.benchmark, predictions, run.eval_rows)["brief"]
    score = scores[run.config.best_metric]
    progress, epoch = run.progress, run.progress.step // run.plan.steps_per_epoch
    progress.evaluated_step = progress.step
    run.history.evaluations.append(
        {"step": progress.step, "epoch": epoch, "scores": scores, "left_out": run.num_left_out}
    )
    _log(run, {f"eval/{name}": value for name, value in scores.items() if value is not None})
    is_best = progress.best_score is None or score > progress.best_score
    if is_best:
        progress.best_step, progress.best_score = progress.step, score
    logger.info(f"epoch {epoch}: {run.config.best_metric} {score:.2f}{', the best so far' if is_best else ''}")
    return is_best


def leave_out_unanswered(run: TrainingRun, predictions: list[dict[str, Any]]) -> None:
    """Take queries whose videos could not be read from this evaluation and those to come, and count them."""
    answered = {prediction["qid"] for prediction in predictions}
    rows = [row for row in run.eval_rows if row["qid"] in answered]
    if not rows:
        raise ValueError("None of the videos to evaluate on could be read.")
    run.num_left_out += len(run.eval_rows) - len(rows)
    run.eval_rows = rows


def _predict_share(
    run: TrainingRun, rows: list[dict[str, Any]], signals: StopSignals
) -> tuple[list[dict[str, Any]], list[str]]:
    """Predictions of this process's share of the videos, and what went wrong: all processes are to know of it."""
    model = run.accelerator.unwrap_model(run.model)
    videos = list(dict.fromkeys(row["video_id"] for row in rows))
    share = set(videos[run.accelerator.process_index :: run.accelerator.num_processes])
    mine = [row for row in rows if row["video_id"] in share]
    predictions, failures = [], []
    model.eval()
    try:
        for prediction in predict(
            model,
            run.processor,
            mine,
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


# ---- dry run -------------------------------------------------------------------------------------------------------


def dry_run(run: TrainingRun, longest: dict[str, torch.Tensor]) -> str:
    """Do a step on the longest videos, for memory, and an ordinary one, for time; tell what to expect.

    Args:
        run: Nothing of it is saved.
        longest: A batch of the longest videos.
    """
    count = run.config.gradient_accumulation
    batches = itertools.chain([longest] * count, run.batches())
    train_step(run, batches)
    start = time.perf_counter()
    train_step(run, batches)
    step_sec = time.perf_counter() - start
    lines = [
        f"{run.plan.num_steps:,} steps of {step_sec:.2f} s in {run.config.epochs} epochs: "
        f"{_as_time(run.plan.num_steps * step_sec)}",
        f"peak memory with the longest videos: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB "
        "for each process",
    ]
    if run.accelerator.device.type == "cuda":
        lines.append(f"  and on the GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    if run.eval_rows:
        lines.append(_expect_evaluation(run))
    return "\n".join(lines)


def _expect_evaluation(run: TrainingRun) -> str:
    videos = list(dict.fromkeys(row["video_id"] for row in run.eval_rows))
    sample = videos[: SAMPLE_VIDEOS * run.accelerator.num_processes]
    start = time.perf_counter()
    _, failures = _predict_share(run, [row for row in run.eval_rows if row["video_id"] in sample], StopSignals())
    if failures:
        raise ValueError(failures[0])
    seconds = (time.perf_counter() - start) * len(videos) / len(sample)
    count = math.ceil(run.config.epochs / run.config.eval_epochs)
    return f"{count:,} evaluations of {len(videos):,} videos, {_as_time(seconds)} each: {_as_time(count * seconds)}"


def _as_time(seconds: float) -> str:
    return tqdm.format_interval(round(seconds))


__all__ = [
    "Interrupted",
    "NonFiniteError",
    "StopSignals",
    "TrainingRun",
    "dry_run",
    "evaluate",
    "save",
    "train",
    "train_step",
]
