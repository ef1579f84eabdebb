"""`r2tuning train`, `train/run.py` and `accelerate launch -m r2tuning.training.run`: trains R2-Tuning on a benchmark."""

import argparse
import contextlib
import functools
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.logging import get_logger

from dataset_scripts.benchmarks import BENCHMARKS
from modeling_r2tuning.files_r2tuning import claiming
from r2tuning.checkpoint_files import CURVES, METRICS
from r2tuning.checks import check_annotation_files, check_folders, check_model_name
from r2tuning.json_files import write_json
from r2tuning.released.resolve import check_name
from r2tuning.terminal import is_first_process, report, write_line
from r2tuning.training.config import TrainingConfig, make_config
from r2tuning.training.curves import draw_curves
from r2tuning.training.dry_run import dry_run
from r2tuning.training.hub import check_push, push_run, record_results
from r2tuning.training.loop import NonFiniteError, train
from r2tuning.training.notes import log_notes
from r2tuning.training.preparation import longest_batch, prepare_run, start_or_resume
from r2tuning.training.run_folder import BEST, check_new_run
from r2tuning.training.signals import Interrupted
from r2tuning.training.training_run import TrainingRun
from r2tuning_cli.main import run_script
from r2tuning_cli.programs import option_names


logger = get_logger("r2tuning.training.run")  # also if the module is run as a script

DONE, USAGE, NOT_FINITE, NOT_PUBLISHED = 0, 2, 3, 4
STOPPED = 128  # plus the number of the signal, as in a shell


def main(argv: list[str] | None = None) -> int:
    """Run the script `train/run.py`; returns its exit status."""
    return run_script("train", "run.py", run, argv)


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status, which its help text explains."""
    return report(functools.partial(_train_all, args, prefix), prefix, option_names("train"))


def _train_all(args: argparse.Namespace, prefix: str) -> int:
    """Train each model that the settings describe; returns the exit status."""
    config = make_config(vars(args))
    check_paths(config)
    models = split_domains(config)
    for each in models:
        check_push(each)
    outcomes = {}
    try:
        with claim_folders(models):
            for each in models:
                outcomes[each.domain] = train_model(each)
    except Interrupted as stop:
        write_line(sys.stderr, f"{prefix}: {stop}; `--resume auto` resumes from there")
        return STOPPED + stop.number
    except NonFiniteError as error:
        write_line(sys.stderr, f"{prefix}: error: {error}")
        return NOT_FINITE
    if config.domain == "all" and not config.dry_run:
        report_average({domain: outcome.score for domain, outcome in outcomes.items()}, Path(config.output_dir))
    PartialState().destroy_process_group()
    return DONE if all(outcome.is_published for outcome in outcomes.values()) else NOT_PUBLISHED


@dataclass(frozen=True)
class Outcome:
    """What became of a model.

    Attributes:
        score: Best score on the evaluation split; `None` without an evaluation.
        is_published: False if the model could not be pushed.
    """

    score: float | None = None
    is_published: bool = True


def train_model(config: TrainingConfig) -> Outcome:
    """Train one model, or resume its training; evaluate and publish it."""
    run = prepare_run(config)
    log_notes(run)
    if config.dry_run:
        sys.stdout.write(f"{dry_run(run, longest_batch(run))}\n")
        return Outcome()
    start_or_resume(run)
    start_trackers(run)
    try:
        train(run)
    finally:
        finish_trackers(run)
    return publish(run, run.checkpoints.save_final())


def publish(run: TrainingRun, final: Path) -> Outcome:
    """Write results and model cards into the models' folders after a complete run; push the best model if requested."""
    outcome = Outcome(run.progress.best_score)
    if not run.accelerator.is_main_process:
        return outcome
    best = final if run.progress.best_step is None else final.with_name(BEST)
    for folder in {best, final}:
        record_results(folder)
    if run.config.push_to is None:
        return outcome
    return replace(outcome, is_published=push_run(best, run.config.push_to))


def split_domains(config: TrainingConfig) -> list[TrainingConfig]:
    """Settings of each model: one, or one per domain, each with its own folder and repository."""
    if config.domain != "all":
        return [config]
    domains = BENCHMARKS[config.benchmark].domains
    if not domains:
        raise ValueError(f"`domain` 'all' trains a model for each domain, but {config.benchmark} has none.")
    return [
        replace(
            config,
            domain=domain,
            output_dir=str(Path(config.output_dir) / domain),
            push_to=config.push_to and f"{config.push_to}-{domain.lower()}",
        )
        for domain in domains
    ]


def check_paths(config: TrainingConfig) -> None:
    """Refuse what does not exist, before anything is read or fetched.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: The benchmark is unknown.
    """
    if config.benchmark not in BENCHMARKS:
        raise ValueError(f"`benchmark` must be one of {list(BENCHMARKS)}, got {config.benchmark!r}.")
    check_annotation_files(config.benchmark, data_file=config.data_file, val_file=config.val_file)
    check_folders(data_dir=config.data_dir, features=config.features, video_dir=config.video_dir)
    if config.init_from is not None:
        check_name("init_from", config.init_from)
    if config.backbone is not None:
        check_model_name("backbone", config.backbone)


@contextlib.contextmanager
def claim_folders(models: list[TrainingConfig]) -> Iterator[None]:
    """Keep other runs out of these models' folders, which must be new unless training is to be resumed.

    Raises:
        FileExistsError: Another run is writing there, or has written there and is not to be resumed.
        OSError: A folder cannot be created or written.
    """
    with contextlib.ExitStack() as stack:
        for config in models:
            if not is_first_process() or config.dry_run:
                continue
            folder = Path(config.output_dir)
            make_folder(folder)
            stack.enter_context(claiming(folder))
            if config.resume == "never":
                check_new_run(folder)
        yield


def make_folder(folder: Path) -> None:
    """Create the folder of a run, and check that it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"`output_dir` '{folder}' cannot be written: {error}") from error


def start_trackers(run: TrainingRun) -> None:
    """Open TensorBoard and the other trackers; steps after the checkpoint are hidden in TensorBoard."""
    settings = {name: str(value) for name, value in asdict(run.config).items()}
    arguments = {"tensorboard": {"purge_step": run.progress.step + 1}} if run.progress.step else {}
    run.accelerator.init_trackers("r2tuning", settings, arguments)


def finish_trackers(run: TrainingRun) -> None:
    """Close the trackers, write the history so far, and draw its curves."""
    try:
        for tracker in run.accelerator.trackers:
            tracker.finish()
        if run.accelerator.is_main_process and run.history.steps:
            run.history.save(run.metrics_path)
            draw_curves(run.history, run.metrics_path.with_name(CURVES), run.config.best_metric)
    except OSError as error:  # such as a full disk; the error that ended the run matters more
        logger.error(f"The curves were not written to '{run.config.output_dir}': {error}")


def report_average(scores: dict[str | None, float | None], folder: Path) -> None:
    """Write and print the best score of each domain and their mean."""
    found = {name: score for name, score in scores.items() if score is not None}
    if not PartialState().is_main_process or len(found) < len(scores):
        return
    document: dict[str, Any] = {"domains": found, "average": round(statistics.mean(found.values()), 2)}
    write_json(folder / METRICS, document, indent=None)
    lines = [f"{name:12} {score:6.2f}" for name, score in {**found, "average": document["average"]}.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["main", "report_average", "run", "split_domains", "train_model"]
