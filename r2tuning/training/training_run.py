"""The state of a training run, which the loop, the evaluations and the checkpoints share."""

import contextlib
import multiprocessing
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from modeling_r2tuning import R2TuningProcessor
from r2tuning.checkpoint_files import METRICS
from r2tuning.training.checkpoints import CheckpointFolder, Progress
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig
from r2tuning.training.curves import History
from r2tuning.training.data import GroundingData, make_loader
from r2tuning.training.plan import BatchPlan
from r2tuning.training.run_folder import SETTINGS_FILE


logger = get_logger(__name__)


@dataclass
class TrainingRun:
    """Everything that takes part in a training run.

    Attributes:
        config: Settings.
        accelerator: The accelerator that has prepared `model` and `optimizer`.
        model: The model, wrapped if training is distributed.
        processor: Its processor.
        optimizer: Optimizer of the trainable parameters.
        data: Training examples.
        collator: Makes batches of examples.
        plan: Assigns examples to steps.
        eval_rows: Queries to evaluate; empty if there is no evaluation.
        progress: How far the run has come.
        history: Measurements so far.
        checkpoints: Where the run is saved.
        num_left_out: Queries that are not evaluated, because their videos are missing or cannot be read.
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
        """File of the history."""
        return Path(self.config.output_dir) / METRICS

    @property
    def settings_path(self) -> Path:
        """File of the settings."""
        return Path(self.config.output_dir) / SETTINGS_FILE

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return self.progress.step // self.plan.steps_per_epoch

    @property
    def is_finished(self) -> bool:
        """Whether all steps are completed."""
        return self.progress.step == self.plan.num_steps

    @property
    def is_evaluation_due(self) -> bool:
        """Whether an epoch has ended whose evaluation is scheduled and still missing."""
        if not self.eval_rows or self.progress.evaluated_step >= self.progress.step:
            return False
        is_epoch_end = self.progress.step % self.plan.steps_per_epoch == 0
        return is_epoch_end and (self.epoch % self.config.eval_epochs == 0 or self.is_finished)

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether a checkpoint is due after this number of steps."""
        interval = self.config.save_steps or self.plan.steps_per_epoch
        return self.is_finished or self.progress.step % interval == 0

    def batches(self) -> Generator[dict[str, torch.Tensor], None, None]:
        """Batches of this process from the next step to the end of the run; closing the generator ends its workers.

        Raises:
            ValueError: An example cannot be read.
        """
        others = set(multiprocessing.active_children())
        batches = iter(
            make_loader(self.data, self.collator, self.plan, self.progress.step, self.accelerator.process_index)
        )
        workers = set(multiprocessing.active_children()) - others
        try:
            for batch in batches:
                if isinstance(batch, ValueError):
                    raise batch
                yield batch
        finally:
            del batches  # asks the workers to end, and waits some seconds
            for worker in workers:
                # torch reports a dead worker by a RuntimeError, which must not hide the reason for closing.
                with contextlib.suppress(RuntimeError):
                    # A worker may be stuck, for example reading from a dead disk, and workers ignore SIGTERM.
                    worker.kill()
                    worker.join(timeout=1)

    def any_process(self, flag: bool) -> bool:
        """Whether `flag` is set in any of the training processes."""
        if self.accelerator.num_processes == 1:
            return flag  # reading it from an accelerator would wait for the last step
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device))
        return bool(total)

    def log(self, values: dict[str, float]) -> None:
        """Report values of the current step to the trackers; a full disk or lost connection does not stop the run."""
        try:
            self.accelerator.log(values, step=self.progress.step)
        except OSError as error:
            logger.warning_once(f"A tracker failed, training continues: {error}")


__all__ = ["TrainingRun"]
