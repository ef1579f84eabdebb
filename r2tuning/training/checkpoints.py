"""Checkpoints of a run: complete once they are visible, verified before use, found again after a kill or a power cut.

    step_000452/          model and processor, complete for the Auto classes
        training_state/   optimizer, gradient scaler, random state of every process; progress, measurements, settings
        checksums.json    size and checksum of every other file
    best/  final/         model and processor alone, with their checksums

With several machines the run's folder must be on a disk that all of them share.
"""

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list, gather_object
from accelerate.utils import load as load_pickle  # restricted to tensors and plain values
from safetensors.torch import load_file

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint
from modeling_r2tuning.files_r2tuning import remove_leftovers
from modeling_r2tuning.loading_r2tuning import PROCESSOR, WEIGHTS
from modeling_r2tuning.method_lora_r2tuning import is_lora, load_lora
from r2tuning.json_files import read_json, write_json
from r2tuning.training.checksums import copy_checksums, find_damage, write_checksums
from r2tuning.training.folders import discard_folder, finish_replacing, replacing_folder
from r2tuning.training.run_folder import BEST, FINAL, check_new_run, find_steps, step_folder


logger = get_logger(__name__)

STATE = "training_state"  # folder inside a checkpoint
PROGRESS_FILE = f"{STATE}/progress.json"
CALIBRATION = ("existence_scale", "existence_bias")  # settings of the processor that training fits


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: Completed steps.
        evaluated_step: Steps that were completed at the last evaluation.
        best_step: Steps after which the best model was evaluated; `None` if there is none yet.
        best_score: Score of the best model, in percent.
        num_processes: Training processes; a run that is resumed with another number is not exact.
    """

    step: int = 0
    evaluated_step: int = 0
    best_step: int | None = None
    best_score: float | None = None
    num_processes: int = 1


class _NotWrittenError(Exception):
    """A process could not write its part of a checkpoint; it has logged the reason."""


class CheckpointFolder:
    """Writes, finds and loads the checkpoints of one run.

    Args:
        folder: The run's folder.
        accelerator: The accelerator that has prepared the model and the optimizer.
        model: The unwrapped model, as it is published.
        processor: Its processor.
        keep: Number of newest checkpoints to keep.
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
        self.accelerator = accelerator
        self.model = model
        self.processor = processor
        self.keep = keep
        # accelerate would save all weights, the frozen encoders too. The model's own file holds the learned ones.
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def prepare(self) -> None:
        """Make the run's folder, and complete or remove what a killed process left unfinished in it."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            finish_replacing(self.folder)
        self.accelerator.wait_for_everyone()

    # ---- saving --------------------------------------------------------------------------------------------------

    def save(self, progress: Progress, records: dict[str, Any], is_best: bool = False) -> bool:
        """Write a checkpoint, then remove the oldest ones.

        Args:
            progress: How far the run has come.
            records: Further JSON documents for `training_state`, by file name.
            is_best: Whether to write the model to `best` as well.

        Returns:
            Whether the checkpoint was written. If it was not, for example because the disk is full, all earlier
            checkpoints are still there and training may continue.
        """
        try:
            with contextlib.ExitStack() as stack:
                partial = self._on_every_process(self._begin, stack, progress)
                partial = broadcast_object_list([partial])[0]
                self._on_every_process(self._write, partial, progress, records)
                self._on_every_process(self._publish, partial, stack, is_best)
        except _NotWrittenError:
            return False
        return True

    def _on_every_process(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call `action` in every process.

        Raises:
            _NotWrittenError: It failed in one of them. Every process raises, so that none waits for the others.
        """
        result, failed = None, False
        try:
            result = action(*arguments)
        except Exception as error:  # noqa: BLE001 (each library has its own types for a full disk)
            failed = True
            logger.error(f"A checkpoint was not written: {error}", main_process_only=False)
        if any(gather_object([failed])):
            raise _NotWrittenError
        return result

    def _begin(self, stack: contextlib.ExitStack, progress: Progress) -> Path | None:
        """Open the folder that becomes the checkpoint when `stack` is closed."""
        if not self.accelerator.is_main_process:
            return None
        return stack.enter_context(replacing_folder(step_folder(self.folder, progress.step)))

    def _write(self, partial: Path, progress: Progress, records: dict[str, Any]) -> None:
        self.accelerator.save_state(str(partial / STATE))
        if self.accelerator.is_main_process:
            save_checkpoint(self.model, self.processor, partial)
            write_json(partial / PROGRESS_FILE, asdict(progress), indent=None)
            for name, record in records.items():
                write_json(partial / STATE / name, record, indent=None)

    def _publish(self, partial: Path, stack: contextlib.ExitStack, is_best: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        write_checksums(partial)
        # `best` comes before the checkpoint whose progress refers to it, so that the two never contradict each other.
        if is_best:
            self._copy_model(partial, BEST)
        stack.close()  # gives the checkpoint its name
        for old in find_steps(self.folder)[: -self.keep]:
            discard_folder(old)

    def save_final(self) -> Path:
        """Copy the model of the newest checkpoint to `final`; returns that folder."""
        if self.accelerator.is_main_process:
            self._copy_model(find_steps(self.folder)[-1], FINAL)
        self.accelerator.wait_for_everyone()
        return self.folder / FINAL

    def _copy_model(self, source: Path, name: str) -> None:
        """Copy a checkpoint without its training state."""
        with replacing_folder(self.folder / name) as partial:
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns(STATE), dirs_exist_ok=True)
            copy_checksums(source, partial, without=STATE)

    # ---- loading -------------------------------------------------------------------------------------------------

    def find(self) -> Path | None:
        """The newest intact checkpoint, `None` if the run has none yet.

        Damaged checkpoints that are newer are renamed.

        Raises:
            FileExistsError: The folder holds models of a run, but no checkpoint.
            ValueError: All checkpoints are damaged.
        """
        name = self._on_main(self._find)
        return None if name is None else self.folder / name

    def _find(self) -> str | None:
        damages: dict[Path, str] = {}
        for checkpoint in reversed(find_steps(self.folder)):
            damage = find_damage(checkpoint)
            if damage is None:
                _set_aside(damages, checkpoint)
                return checkpoint.name
            damages[checkpoint] = damage
        if damages:
            raise ValueError(
                f"No checkpoint in '{self.folder}' is intact: {'; '.join(damages.values())}. Restore the files from a "
                "copy, or start a new run in another `--output-dir`."
            )
        check_new_run(self.folder)
        return None

    def load(self, checkpoint: Path, *, exact: bool = True) -> Progress:
        """Restore model, calibration, optimizer and random state from a checkpoint.

        Args:
            checkpoint: A checkpoint that `find` returned.
            exact: Refuse to resume if the final weights would differ from those of an uninterrupted run.

        Raises:
            ValueError: The checkpoint belongs to another model, it cannot be resumed from exactly, or the best model is
                damaged.
        """
        progress = Progress(**read_json(checkpoint / PROGRESS_FILE))
        if progress.num_processes != self.accelerator.num_processes:
            now = f"now there are {self.accelerator.num_processes}"
            _deviate(exact, f"'{checkpoint}' was written by {progress.num_processes} processes, {now}")
            progress.num_processes = self.accelerator.num_processes
        self._load_weights(checkpoint)
        self._load_calibration(checkpoint)
        self.accelerator.load_state(str(checkpoint / STATE))
        # accelerate does not report a random state that it could not restore.
        random_state = checkpoint / STATE / f"random_states_{self.accelerator.process_index}.pkl"
        if not self._has_random_state(random_state):
            _deviate(exact, f"The random state could not be restored from '{random_state}'")
        self._check_best(progress)
        return progress

    def _load_weights(self, checkpoint: Path) -> None:
        incompatible = self.model.load_state_dict(load_file(checkpoint / WEIGHTS), strict=False)
        missing = set(incompatible.missing_keys)
        if self.model.config.method_spec.uses_peft:  # these weights are in a file of peft's
            load_lora(self.model, checkpoint)
            missing = {name for name in missing if not is_lora(name)}
        # Frozen weights are missing by design: they come from the backbone.
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and name in missing:
                raise ValueError(
                    f"'{checkpoint}' belongs to another model: it lacks weights that this one trains, such as '{name}'."
                )

    def _load_calibration(self, checkpoint: Path) -> None:
        """Restore what earlier evaluations fitted; the processor's other settings come from the run's settings."""
        settings = read_json(checkpoint / PROCESSOR)
        for name in CALIBRATION:
            if name in settings:  # not in checkpoints of earlier versions
                setattr(self.processor, name, settings[name])

    def _has_random_state(self, path: Path) -> bool:
        """Whether the random generators of this process are in the state that a file holds."""
        if not path.exists():
            return False
        states = load_pickle(path)
        if random.getstate() != states["random_state"]:
            return False
        if not torch.equal(torch.get_rng_state(), states["torch_manual_seed"]):
            return False
        if self.accelerator.device.type != "cuda":
            return True
        index, saved = torch.cuda.current_device(), states.get("torch_cuda_manual_seed", [])
        return index < len(saved) and torch.equal(torch.cuda.get_rng_state(index), saved[index])

    def _check_best(self, progress: Progress) -> None:
        """Verify the best model, which is published at the end of the run; one that is missing is forgotten."""
        best = self.folder / BEST
        if progress.best_step is None:
            return
        if not self._on_main(best.is_dir):
            logger.warning(f"'{best}' is missing: the best of the remaining evaluations will take its place.")
            progress.best_step = progress.best_score = None
            return
        damage = self._on_main(find_damage, best)
        if damage is not None:
            raise ValueError(
                f"{damage}. Restore the file from a copy; or remove the folder, then the best of the remaining "
                "evaluations takes its place."
            )

    def _on_main(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call `action` in the main process; every process returns its result or raises its error."""
        result = error = None
        if self.accelerator.is_main_process:
            try:
                result = action(*arguments)
            except (OSError, ValueError) as caught:
                error = caught
        result, error = broadcast_object_list([result, error])
        if error is not None:
            raise error
        return result


def _set_aside(damages: dict[Path, str], intact: Path) -> None:
    """Rename damaged checkpoints, as the run that resumes from an older one will write them again."""
    for damaged, damage in damages.items():
        aside = damaged.with_name(f"damaged_{damaged.name}")
        shutil.rmtree(aside, ignore_errors=True)
        damaged.rename(aside)
        logger.warning(f"{damage}. Resuming from '{intact}'; '{damaged}' was renamed to '{aside.name}'.")


def _deviate(exact: bool, message: str) -> None:
    """Refuse what makes a resumed run inexact, or warn of it."""
    if exact:
        raise ValueError(f"{message}: the final weights would differ. Start it as before, or pass `--resume inexact`.")
    logger.warning(f"{message}: the run resumes, but not exactly.", main_process_only=False)


__all__ = ["PROGRESS_FILE", "STATE", "CheckpointFolder", "Progress"]
