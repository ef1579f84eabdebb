"""Checkpoints of a run: written beside and renamed, the newest kept, found again after a kill.

    step_000452/          model and processor, complete for the Auto classes
        training_state/   optimizer, gradient scaler, random generators of every process, progress.json
    best/  final/         model and processor alone

A folder under one of these names is always whole. What a killed process was writing, or had pushed aside, begins with a
dot and is cleared away at the next start. With several machines the folder must be on a disk that all of them share.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from safetensors.torch import load_file

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint
from modeling_r2tuning.method_lora_r2tuning import is_lora, load_lora


logger = get_logger(__name__)

STATE = "training_state"
PROGRESS = f"{STATE}/progress.json"
WEIGHTS = "model.safetensors"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: Steps that are done.
        evaluated_step: Steps that were done at the last evaluation.
        best_step: Steps that were done when the best model was evaluated; `None` = none was.
        best_score: Its score.
        num_processes: Training processes; with another number a resumed run is not exact.
    """

    step: int = 0
    evaluated_step: int = 0
    best_step: int | None = None
    best_score: float | None = None
    num_processes: int = 1


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: The run's folder.
        accelerator: Has prepared the model and the optimizer.
        model: The model itself, as it is published.
        processor: Its processor.
        keep: Newest checkpoints to keep.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        accelerator: Accelerator,
        model: R2TuningForVideoGrounding,
        processor: R2TuningProcessor,
        keep: int,
    ):
        self.folder = Path(folder)
        self.accelerator, self.model, self.processor, self.keep = accelerator, model, processor, keep
        # Of the weights only what is learned is kept, in the model's own file, not also frozen CLIP beside it.
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def prepare(self) -> None:
        """Make the folder, and clear away what a killed process has left."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in self.folder.glob(".*.old"):
                target = self.folder / old.name[1:].removesuffix(".old")
                if not target.exists():
                    old.rename(target)
            self._clear()
        self.accelerator.wait_for_everyone()

    def _clear(self) -> None:
        for leftover in [*self.folder.glob(".*.old"), *self.folder.glob(".*.partial")]:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def steps(self) -> list[Path]:
        """Checkpoints, the oldest first."""
        found = {path: re.fullmatch(r"step_(\d+)", path.name) for path in self.folder.glob("step_*")}
        return sorted((path for path, match in found.items() if match), key=lambda path: int(found[path][1]))

    # ---- saving --------------------------------------------------------------------------------------------------

    def save(self, progress: Progress, is_best: bool) -> bool:
        """Write a checkpoint, and the best model from it; old ones go only when it is complete.

        Returns:
            Whether it was written. If not, say for want of disk space, all that was there before is still there, and
            training may go on.
        """
        partial = self.folder / f".step_{progress.step:06d}.partial"
        if self._try(self._write, partial, progress) and self._try(self._publish, partial, progress, is_best):
            return True
        if self.accelerator.is_main_process:
            self._clear()
        self.accelerator.wait_for_everyone()
        return False

    def _try(self, action: Callable[..., None], *arguments: Any) -> bool:
        """Whether every process could do something."""
        failed = False
        try:
            action(*arguments)
        except Exception as error:  # noqa: BLE001 (each library has its own types for a full disk)
            failed = True
            logger.error(f"A checkpoint was not written: {error}", main_process_only=False)
        return not any(gather_object([failed]))

    def _write(self, partial: Path, progress: Progress) -> None:
        self.accelerator.save_state(str(partial / STATE))
        if self.accelerator.is_main_process:
            save_checkpoint(self.model, self.processor, partial)
            write_json(partial / PROGRESS, asdict(progress))

    def _publish(self, partial: Path, progress: Progress, is_best: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        _flush(partial)
        if is_best:  # before the checkpoint that knows of it, so that the two never contradict each other
            self._copy_model(partial, "best")
        _replace(partial, self.folder / f"step_{progress.step:06d}")
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(old.rename(self.folder / f".{old.name}.partial"))

    def save_final(self) -> Path:
        """Give the model of the newest checkpoint the name `final`."""
        if self.accelerator.is_main_process:
            self._copy_model(self.steps()[-1], "final")
        self.accelerator.wait_for_everyone()
        return self.folder / "final"

    def _copy_model(self, source: Path, name: str) -> None:
        partial = self.folder / f".{name}.partial"
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(STATE))
        _flush(partial)
        _replace(partial, self.folder / name)

    # ---- loading -------------------------------------------------------------------------------------------------

    def find(self, resume: str) -> Path | None:
        """The newest checkpoint, to go on from; `None` = there is none.

        Args:
            resume: "auto", or "never", which tells that a run is to be begun.

        Raises:
            FileExistsError: "never", but there are checkpoints, which the run would replace.
        """
        newest = self.steps()[-1] if self.steps() else None
        if resume == "never" and newest is not None:
            raise FileExistsError(
                f"'{self.folder}' holds checkpoints of a run, the newest is {newest.name}. Go on with `--resume auto`, "
                "or name another `--output-dir`."
            )
        return newest

    def load(self, checkpoint: Path) -> Progress:
        """Put model, optimizer and random generators into the state of a checkpoint."""
        progress = Progress(**json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8")))
        if progress.num_processes != self.accelerator.num_processes:
            logger.warning(
                f"'{checkpoint}' was written by {progress.num_processes} processes, now there are "
                f"{self.accelerator.num_processes}: the run goes on, but not exactly as it would have."
            )
            progress.num_processes = self.accelerator.num_processes
        lacking = set(self.model.load_state_dict(load_file(checkpoint / WEIGHTS), strict=False).missing_keys)
        if self.model.config.method == "lora":
            load_lora(self.model, checkpoint)
            lacking = {name for name in lacking if not is_lora(name)}
        if any(parameter.requires_grad and name in lacking for name, parameter in self.model.named_parameters()):
            raise ValueError(f"'{checkpoint}' belongs to another model: it lacks weights that this one learns.")
        self.accelerator.load_state(str(checkpoint / STATE))
        return progress


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a file beside and rename it."""
    with writing(path) as partial:
        partial.write_text(json.dumps(document) + "\n", encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of `path` at once."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    """Put a finished folder in the place of another."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Have all files on the disk before the folder gets its name: a machine may fail as well as a process."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


__all__ = ["PROGRESS", "CheckpointFolder", "Progress", "write_json", "writing"]
