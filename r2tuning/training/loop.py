"""The training loop: steps, when to evaluate and to save, and how a run stops."""

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import torch
from accelerate.logging import get_logger
from accelerate.utils import send_to_device
from tqdm import tqdm

from r2tuning.terminal import long_progress_bar
from r2tuning.training.checkpoints import Progress
from r2tuning.training.optim import learning_rate
from r2tuning.training.signals import Interrupted, StopSignals
from r2tuning.training.training_run import TrainingRun
from r2tuning.training.validation import evaluate


logger = get_logger(__name__)


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite; the message names the queries of the batch."""


def train(run: TrainingRun) -> None:
    """Train from the current step to the end.

    Raises:
        Interrupted: A signal stopped the run; a checkpoint was saved.
        NonFiniteError: A loss or gradient is NaN or infinite.
        OSError: The last checkpoint could not be written.
        ValueError: A video or its features cannot be read.
    """
    saved = replace(run.progress)
    with StopSignals() as signals, _progress_bar(run) as bar, contextlib.closing(run.batches()) as batches:
        while True:
            stopping = run.any_process(signals.number is not None)
            # An evaluation may fail, so a checkpoint comes before it, and another one with its scores after it.
            if run.progress != saved and (stopping or run.is_checkpoint_due or run.is_evaluation_due):
                saved = save(run, saved)
            if run.is_evaluation_due and not stopping:
                is_best = evaluate(run, signals)
                stopping = run.is_evaluation_due  # still due: a signal ended it early
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
    """One optimizer step: forward and backward passes of all parts of the batch, then the update.

    Args:
        run: The run.
        batches: Yields the parts of the batch; `config.gradient_accumulation` of them are taken.

    Returns:
        The loss and its parts, the norm of the gradient before clipping, and the learning rate.

    Raises:
        NonFiniteError: The loss is NaN or infinite; or the gradient is, and no gradient scaler handles it.
    """
    accelerator, config = run.accelerator, run.config
    rate = learning_rate(run.progress.step, run.plan.steps_per_epoch, config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    losses: list[dict[str, torch.Tensor]] = []  # of each part of the batch
    values: dict[str, float] = {}
    for _ in range(config.gradient_accumulation):
        batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
        with accelerator.accumulate(run.model):
            outputs = run.model(**batch)
            parts = {"loss": outputs.loss, **outputs.loss_parts}
            losses.append({name: value.detach() for name, value in parts.items()})
            accelerator.backward(outputs.loss)
            if accelerator.sync_gradients:  # after the last part
                norm = accelerator.clip_grad_norm_(run.model.parameters(), config.max_grad_norm)
                values = _as_floats(losses, norm)
                _check_finite(run, "loss", values["loss"])
                if accelerator.scaler is None:  # a scaler skips the step when the gradient overflows
                    _check_finite(run, "gradient", values["grad_norm"])
            run.optimizer.step()
            run.optimizer.zero_grad()
    run.progress.step += 1
    return {**values, "learning_rate": rate}


def _as_floats(losses: list[dict[str, torch.Tensor]], norm: torch.Tensor) -> dict[str, float]:
    """Mean losses of the parts of a batch, and the norm of the gradient.

    They are read in one transfer. Nothing else in a step waits for the device.
    """
    scalars = [norm]
    for part in losses:
        scalars += part.values()
    numbers = iter(torch.stack(scalars).tolist())
    grad_norm = next(numbers)
    values: dict[str, float] = {}
    for part in losses:
        for name in part:
            values[name] = values.get(name, 0.0) + next(numbers) / len(losses)
    return {**values, "grad_norm": grad_norm}


def _check_finite(run: TrainingRun, what: str, value: float) -> None:
    if math.isfinite(value):
        return
    qids: dict[str, None] = {}  # in order, without repetitions
    for draw in itertools.chain.from_iterable(run.plan.draws(run.progress.step)):
        qids[run.data.row(draw)["qid"]] = None
    raise NonFiniteError(
        f"The {what} of step {run.progress.step} is {value}. Its batch holds the queries {', '.join(qids)}: look "
        "for damaged features or annotations, or lower the learning rate. The last checkpoint is not affected."
    )


def _report(run: TrainingRun, values: dict[str, float], seconds: float, bar: tqdm) -> None:
    """Add a step to the history, the trackers and the progress bar."""
    step = run.progress.step
    epoch = (step - 1) // run.plan.steps_per_epoch + 1
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    run.history.add_step(step=step, epoch=epoch, **finite, seconds=seconds)
    run.log({f"train/{name}": value for name, value in values.items()})
    shown = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items()]
    bar.set_postfix_str(f"epoch {epoch}/{run.config.epochs} {' '.join(shown)}", refresh=False)
    bar.update()


def _progress_bar(run: TrainingRun) -> tqdm:
    is_shown = run.accelerator.is_main_process
    return long_progress_bar("training", "steps", run.plan.num_steps, run.progress.step, is_shown=is_shown)


def save(run: TrainingRun, saved: Progress, is_best: bool = False) -> Progress:
    """Write a checkpoint and the history.

    Args:
        run: The run.
        saved: Progress at the previous checkpoint.
        is_best: Whether the model is the best so far.

    Returns:
        Progress at the newest checkpoint: the current one, or `saved` if nothing could be written.
    """
    try:
        if run.accelerator.is_main_process:
            run.history.save(run.metrics_path)
    except OSError as error:
        logger.error(f"'{run.metrics_path}' was not written: {error}")
    records = {run.metrics_path.name: asdict(run.history), run.settings_path.name: asdict(run.config)}
    if run.checkpoints.save(run.progress, records, is_best):
        return replace(run.progress)
    if is_best:
        # These weights will be lost, so the next model need only be better than the best one that was saved.
        run.progress.best_step, run.progress.best_score = saved.best_step, saved.best_score
    return saved


__all__ = ["NonFiniteError", "save", "train", "train_step"]
