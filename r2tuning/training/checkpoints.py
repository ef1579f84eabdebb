"""Checkpoints of a run: written whole, verified when they are read, found again after a kill or a power cut.

    step_000452/          model and processor, complete for the Auto classes
        training_state/   optimizer, gradient scaler, random generators of every process; progress, measurements, settings
        checksums.json    size and checksum of every other file
    best/  final/         model and processor alone, with their checksums

A folder under one of these names was whole when it got the name. With several machines it must be on a disk that all of
them share.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list, gather_object
from accelerate.utils import load as load_pickle  # of tensors and plain values alone
from safetensors.torch import load_file

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint
from modeling_r2tuning.files_r2tuning import remove_leftovers, writing, writing_folder
from modeling_r2tuning.loading_r2tuning import WEIGHTS
from modeling_r2tuning.method_lora_r2tuning import is_lora, load_lora


logger = get_logger(__name__)

STATE = "training_state"
PROGRESS = f"{STATE}/progress.json"
CHECKSUMS = "checksums.json"
NEW, OLD = ".new", ".old"  # endings of hidden folders: whole, but not yet under its name; of no more use
BLOCK = 1 << 20  # bytes read at once


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


class _NotWrittenError(Exception):
    """A process could not do its part of a checkpoint; it has said why."""


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
        """Make the folder, and bring to an end what a killed process was doing there."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            _finish_replacing(self.folder)
        self.accelerator.wait_for_everyone()

    # ---- saving --------------------------------------------------------------------------------------------------

    def save(self, progress: Progress, records: dict[str, Any], is_best: bool = False) -> bool:
        """Write a checkpoint, and the best model from it; old ones go only when it is complete.

        Args:
            progress: How far the run has come.
            records: What else is to be known of it, by the name of a JSON file.
            is_best: Whether the model is the best so far.

        Returns:
            Whether it was written. If not, say for want of disk space, all that was there before is still there, and
            training may go on.
        """
        try:
            with contextlib.ExitStack() as stack:
                partial = self._together(self._begin, stack, progress)
                partial = broadcast_object_list([partial])[0]
                self._together(self._write, partial, progress, records)
                self._together(self._publish, partial, stack, is_best)
        except _NotWrittenError:
            return False
        return True

    def _together(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Do something in every process; if it fails in one, all of them give up."""
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
        if not self.accelerator.is_main_process:
            return None
        return stack.enter_context(_replacing_folder(self.folder / f"step_{progress.step:06d}"))

    def _write(self, partial: Path, progress: Progress, records: dict[str, Any]) -> None:
        self.accelerator.save_state(str(partial / STATE))
        if self.accelerator.is_main_process:
            save_checkpoint(self.model, self.processor, partial)
            write_json(partial / PROGRESS, asdict(progress))
            for name, record in records.items():
                write_json(partial / STATE / name, record)

    def _publish(self, partial: Path, stack: contextlib.ExitStack, is_best: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        write_json(partial / CHECKSUMS, _measure(partial))
        if is_best:  # before the checkpoint that knows of it, so that the two never contradict each other
            self._copy_model(partial, "best")
        stack.close()  # gives the folder its name
        for old in find_steps(self.folder)[: -self.keep]:
            _discard(old)

    def save_final(self) -> Path:
        """Give the model of the newest checkpoint the name `final`."""
        if self.accelerator.is_main_process:
            self._copy_model(find_steps(self.folder)[-1], "final")
        self.accelerator.wait_for_everyone()
        return self.folder / "final"

    def _copy_model(self, source: Path, name: str) -> None:
        with _replacing_folder(self.folder / name) as partial:
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns(STATE), dirs_exist_ok=True)
            checksums = _read_json(source / CHECKSUMS)
            model = {file: facts for file, facts in checksums.items() if not file.startswith(f"{STATE}/")}
            write_json(partial / CHECKSUMS, model)

    # ---- loading -------------------------------------------------------------------------------------------------

    def find(self) -> Path | None:
        """The newest whole checkpoint, to go on from; `None` = there is none.

        Damaged ones that are newer get another name.

        Raises:
            FileExistsError: There is a model of a run, but none of its checkpoints.
            ValueError: There are checkpoints, but all of them are damaged.
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
                f"No checkpoint in '{self.folder}' is whole: {'; '.join(damages.values())}. Put the files back from a "
                "copy, or begin anew in another `--output-dir`."
            )
        check_new_run(self.folder)
        return None

    def load(self, checkpoint: Path, *, exact: bool = True) -> Progress:
        """Put model, optimizer and random generators into the state of a checkpoint.

        Args:
            checkpoint: One that `find` has found.
            exact: Refuse what would make the run end with other weights than without the interruption.

        Raises:
            ValueError: It belongs to another model, or cannot be gone on from exactly; or the best model is damaged.
        """
        progress = Progress(**_read_json(checkpoint / PROGRESS))
        if progress.num_processes != self.accelerator.num_processes:
            now = f"now there are {self.accelerator.num_processes}"
            _deviate(exact, f"'{checkpoint}' was written by {progress.num_processes} processes, {now}")
            progress.num_processes = self.accelerator.num_processes
        self._load_weights(checkpoint)
        self.accelerator.load_state(str(checkpoint / STATE))
        state = checkpoint / STATE / f"random_states_{self.accelerator.process_index}.pkl"
        if not self._has_random_state(state):  # of which accelerate says nothing
            _deviate(exact, f"The random generators could not be put into the state of '{state}'")
        self._check_best(progress)
        return progress

    def _load_weights(self, checkpoint: Path) -> None:
        lacking = set(self.model.load_state_dict(load_file(checkpoint / WEIGHTS), strict=False).missing_keys)
        if self.model.config.method == "lora":
            load_lora(self.model, checkpoint)
            lacking = {name for name in lacking if not is_lora(name)}
        if any(parameter.requires_grad and name in lacking for name, parameter in self.model.named_parameters()):
            raise ValueError(f"'{checkpoint}' belongs to another model: it lacks weights that this one learns.")

    def _has_random_state(self, path: Path) -> bool:
        """Whether the generators of this process are in the state of a file."""
        if not path.exists():
            return False
        states, device = load_pickle(path), self.accelerator.device
        same = random.getstate() == states["random_state"]
        same &= torch.equal(torch.get_rng_state(), states["torch_manual_seed"])
        if device.type == "cuda":
            index, saved = torch.cuda.current_device(), states.get("torch_cuda_manual_seed", [])
            same &= index < len(saved) and torch.equal(torch.cuda.get_rng_state(index), saved[index])
        return same

    def _check_best(self, progress: Progress) -> None:
        """The best model is needed at the end of the run."""
        best = self.folder / "best"
        if progress.best_step is None:
            return
        if not self._on_main(best.is_dir):
            logger.warning(f"'{best}' is gone: the best of the evaluations to come takes its place.")
            progress.best_step = progress.best_score = None
        elif damage := self._on_main(find_damage, best):
            raise ValueError(
                f"{damage}. Put the file back from a copy; or remove the folder, then the best of the evaluations to "
                "come takes its place."
            )

    def _on_main(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """What the main process finds, or its error, in every process."""
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


# ---- what is in the folder of a run --------------------------------------------------------------------------------


def find_steps(folder: Path) -> list[Path]:
    """Checkpoints, the oldest first."""
    found = {path: re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*")}
    return sorted((path for path, match in found.items() if match), key=lambda path: int(found[path][1]))


def check_new_run(folder: Path) -> None:
    """Refuse a folder whose models a new run would replace.

    Raises:
        FileExistsError: There are some.
    """
    steps = find_steps(folder)
    if steps:
        raise FileExistsError(
            f"'{folder}' holds checkpoints of a run, the newest is {steps[-1].name}. Go on with `--resume auto`, or "
            "name another `--output-dir`."
        )
    models = [name for name in ("best", "final") if (folder / name).exists()]
    if models:
        raise FileExistsError(
            f"'{folder}' holds {' and '.join(models)} of a run, but none of its checkpoints to go on from. Name another "
            "`--output-dir`."
        )


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or with a model of a run; `None` = nothing."""
    try:
        checksums = _read_json(folder / CHECKSUMS)
        for name, facts in checksums.items():
            path = folder / name
            size = path.stat().st_size
            if size != facts["size"]:
                return f"'{path}' is damaged: it has {size:,} bytes instead of {facts['size']:,}"
            if _checksum(path) != facts["sha256"]:
                return f"'{path}' is damaged: its content does not fit its checksum"
    except FileNotFoundError as error:
        return f"'{error.filename}' is missing"
    except (OSError, ValueError) as error:
        return str(error)
    except (AttributeError, KeyError, TypeError):
        return f"'{folder / CHECKSUMS}' is damaged"
    return None


def _set_aside(damages: dict[Path, str], instead: Path) -> None:
    """Take their names from damaged checkpoints, of which a run that goes on makes new ones."""
    for damaged, damage in damages.items():
        aside = damaged.with_name(f"damaged_{damaged.name}")
        shutil.rmtree(aside, ignore_errors=True)
        damaged.rename(aside)
        logger.warning(f"{damage}. Going on from '{instead}'; '{damaged}' is called '{aside.name}' now.")


def _deviate(exact: bool, message: str) -> None:
    if exact:
        raise ValueError(
            f"{message}: the run would end with other weights. Start it as it was, or pass `--resume inexact`."
        )
    logger.warning(f"{message}: the run goes on, but not exactly as it would have.", main_process_only=False)


def _measure(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: {"size": path.stat().st_size, "sha256": _checksum(path)} for name, path in paths.items()}


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---- writing -------------------------------------------------------------------------------------------------------


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file of a run."""
    with writing(path) as partial:
        partial.write_text(json.dumps(document) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged: {error}") from error


@contextlib.contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Write a folder that appears under its name as a whole, in the place of the one that may be there."""
    _finish_replacing(path.parent)
    new = path.with_name(f".{path.name}{NEW}")
    with writing_folder(new) as partial:
        yield partial
    _put_in_place(new)


def _finish_replacing(folder: Path) -> None:
    """Do what a process has left undone that was killed between two renames."""
    for new in folder.glob(f".*{NEW}"):
        _put_in_place(new)
    for old in folder.glob(f".*{OLD}"):
        shutil.rmtree(old, ignore_errors=True)


def _put_in_place(new: Path) -> None:
    path = new.with_name(new.name[1:].removesuffix(NEW))
    if path.exists():
        _hide(path)
    new.rename(path)
    shutil.rmtree(_hidden(path), ignore_errors=True)


def _discard(path: Path) -> None:
    """Take a folder's name from it and remove it, so that no half of it is ever found."""
    _hide(path)
    shutil.rmtree(_hidden(path))


def _hide(path: Path) -> None:
    shutil.rmtree(_hidden(path), ignore_errors=True)
    path.rename(_hidden(path))


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}{OLD}")


__all__ = [
    "PROGRESS",
    "STATE",
    "CheckpointFolder",
    "Progress",
    "check_new_run",
    "find_damage",
    "find_steps",
    "write_json",
]
