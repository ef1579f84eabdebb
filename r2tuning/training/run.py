"""Train R2-Tuning on a benchmark.

accelerate launch train/run.py --preset qvhighlights --data-dir ANNOTATIONS --features CACHE --output-dir RUN
python train/run.py --preset tvsum --data-dir ANNOTATIONS --video-dir VIDEOS --output-dir RUN --resume auto

The exit status is 0 when the run is complete, 2 after an error of usage or in a file, 3 when a loss was NaN or infinite,
4 when all but the upload was done, and 143 (SIGTERM) or 130 (Ctrl-C) when it was stopped: it has then saved a
checkpoint, and `--resume auto` goes on from there.
"""

import contextlib
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from accelerate import PartialState
from accelerate.logging import get_logger
from huggingface_hub.errors import StrictDataclassError
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.utils import logging as transformers_logging

from dataset_scripts.advice import spell_options
from dataset_scripts.benchmarks import BENCHMARKS
from modeling_r2tuning.files_r2tuning import claiming
from r2tuning.checks import check_folders, check_model_name
from r2tuning.json_files import write_json
from r2tuning.training.config import TrainingConfig, read_config
from r2tuning.training.curves import draw_curves
from r2tuning.training.dry_run import dry_run
from r2tuning.training.hub import check_push, push_run, record_results
from r2tuning.training.loop import NonFiniteError, train
from r2tuning.training.preparation import longest_batch, prepare_run, start_or_resume
from r2tuning.training.run_folder import check_new_run
from r2tuning.training.signals import Interrupted
from r2tuning.training.training_run import TrainingRun


logger = get_logger(__name__)

DONE, USAGE, NOT_FINITE, NOT_PUBLISHED = 0, 2, 3, 4
STOPPED = 128  # and the number of the signal, as a shell has it
OPTIONS = ("preset", *(entry.name for entry in fields(TrainingConfig)))
# What the functions that read data and publish call their arguments.
OTHER_OPTIONS = {"name": "--benchmark", "split": "--train-split` or `--eval-split", "repo_id": "--push-to"}
USER_ERRORS = (ImportError, OSError, StrictDataclassError, ValueError)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    configure_logging()
    try:
        config = read_config(argv)
        check_paths(config)
        models = split_domains(config)
        for each in models:
            check_push(each)
        with claim_folders(models), logging_redirect_tqdm():
            outcomes = {each.domain: train_model(each) for each in models}
        if config.domain == "all" and not config.dry_run:
            report_average({domain: outcome.score for domain, outcome in outcomes.items()}, Path(config.output_dir))
    except Interrupted as stop:
        sys.stderr.write(f"run: {stop}; `--resume auto` goes on from there\n")
        return STOPPED + stop.number
    except NonFiniteError as error:
        sys.stderr.write(f"run: error: {error}\n")
        return NOT_FINITE
    except USER_ERRORS as error:
        sys.stderr.write(f"run: error: {spell_options(error, OPTIONS, OTHER_OPTIONS)}\n")
        return USAGE
    PartialState().destroy_process_group()
    return DONE if all(outcome.is_published for outcome in outcomes.values()) else NOT_PUBLISHED


@dataclass(frozen=True)
class Outcome:
    """Best score on the evaluation split, and whether the model is where it was to be published."""

    score: float | None = None
    is_published: bool = True


def train_model(config: TrainingConfig) -> Outcome:
    """Train one model, or go on with it, evaluate and publish it."""
    run = prepare_run(config)
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
    """Put results and a model card beside the models of a complete run; push the best one if that is asked for."""
    outcome = Outcome(run.progress.best_score)
    if not run.accelerator.is_main_process:
        return outcome
    best = final if run.progress.best_step is None else final.with_name("best")
    for folder in {best, final}:
        record_results(folder)
    if run.config.push_to is None:
        return outcome
    return replace(outcome, is_published=push_run(best, run.config.push_to))


def configure_logging() -> None:
    """Our own messages from "info" on, those of libraries from "warning" on; of other processes only errors."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    is_first = os.environ.get("RANK", "0") == "0"
    for name in ("r2tuning", "dataset_scripts"):
        logging.getLogger(name).setLevel(logging.INFO if is_first else logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # for a file of a few megabytes


def split_domains(config: TrainingConfig) -> list[TrainingConfig]:
    """Settings of each model: one, or one for each domain, with a folder and a repository of its own."""
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
    """Refuse what is not there before anything is read or fetched.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: The benchmark is unknown.
    """
    if config.benchmark not in BENCHMARKS:
        raise ValueError(f"`benchmark` must be one of {list(BENCHMARKS)}, got {config.benchmark!r}.")
    check_folders(data_dir=config.data_dir, features=config.features, video_dir=config.video_dir)
    check_model_name("backbone", config.backbone)


@contextlib.contextmanager
def claim_folders(models: list[TrainingConfig]) -> Iterator[None]:
    """Keep other runs out of the folders of these, which must be new where nothing is to be gone on from.

    Raises:
        FileExistsError: Another run writes there, or a run has written there that is not to be gone on with.
        OSError: A folder cannot be made or written.
    """
    is_first = os.environ.get("RANK", "0") == "0"
    with contextlib.ExitStack() as stack:
        for config in models:
            if not is_first or config.dry_run:
                continue
            folder = Path(config.output_dir)
            make_folder(folder)
            stack.enter_context(claiming(folder))
            if config.resume == "never":
                check_new_run(folder)
        yield


def make_folder(folder: Path) -> None:
    """Make the folder of a run, and see whether it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"`output_dir` '{folder}' cannot be written: {error}") from error


def start_trackers(run: TrainingRun) -> None:
    """Open TensorBoard and the others; what TensorBoard has from beyond the checkpoint is hidden."""
    settings = {name: str(value) for name, value in asdict(run.config).items()}
    arguments = {"tensorboard": {"purge_step": run.progress.step + 1}} if run.progress.step else {}
    run.accelerator.init_trackers("r2tuning", settings, arguments)


def finish_trackers(run: TrainingRun) -> None:
    """Close the trackers, write the history as far as it goes, and draw its curves."""
    try:
        for tracker in run.accelerator.trackers:
            tracker.finish()
        if run.accelerator.is_main_process and run.history.steps:
            run.history.save(run.metrics_path)
            draw_curves(run.history, run.metrics_path.with_name("curves.png"), run.config.best_metric)
    except OSError as error:  # a full disk, say: what ended the run matters more
        logger.error(f"The curves were not written to '{run.config.output_dir}': {error}")


def report_average(scores: dict[str | None, float | None], folder: Path) -> None:
    """Write and print the best score of each domain and their mean."""
    if not PartialState().is_main_process or None in scores.values():
        return
    document = {"domains": scores, "average": round(statistics.mean(scores.values()), 2)}
    write_json(folder / "metrics.json", document, indent=None)
    lines = [f"{name:12} {score:6.2f}" for name, score in {**scores, "average": document["average"]}.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["main", "report_average", "split_domains", "train_model"]
