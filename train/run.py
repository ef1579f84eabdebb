"""Train R2-Tuning on a benchmark.

accelerate launch train/run.py --preset qvhighlights --data-dir ANNOTATIONS --features CACHE --output-dir RUN
python train/run.py --preset tvsum --data-dir ANNOTATIONS --video-dir VIDEOS --output-dir RUN --resume auto

The exit status is 0 when the run is complete, 2 after an error of usage, 3 when a loss was NaN or infinite, 4 when all
but the upload was done, and 143 (SIGTERM) or 130 (Ctrl-C) when it was stopped: it has then saved a checkpoint, and
`--resume auto` goes on from there.
"""

import logging
import os
import statistics
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from accelerate import PartialState
from accelerate.logging import get_logger
from huggingface_hub.errors import StrictDataclassError
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.utils import logging as transformers_logging


sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's root, for `train`

from dataset_scripts.advice import spell_options
from modeling_r2tuning.convert_r2tuning_checkpoint import BENCHMARKS
from train.checkpointing import write_json
from train.config import TrainingConfig, read_config
from train.curves import draw_curves
from train.hub import check_push, push_run, record_results
from train.loop import Interrupted, NonFiniteError, TrainingRun, dry_run, train
from train.preparation import longest_batch, prepare_run, start_or_resume


logger = get_logger(__name__)

DONE, USAGE, NOT_FINITE, NOT_PUBLISHED = 0, 2, 3, 4
STOPPED = 128  # and the number of the signal, as a shell has it
USER_ERRORS = (ImportError, OSError, StrictDataclassError, ValueError)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    configure_logging()
    try:
        config = read_config(argv)
        with logging_redirect_tqdm():
            outcomes = {each.domain: train_model(each) for each in split_domains(config)}
        if config.domain == "all" and not config.dry_run:
            report_average({domain: outcome.score for domain, outcome in outcomes.items()}, Path(config.output_dir))
    except Interrupted as stop:
        sys.stderr.write(f"run: {stop}; `--resume auto` goes on from there\n")
        return STOPPED + stop.number
    except NonFiniteError as error:
        sys.stderr.write(f"run: error: {error}\n")
        return NOT_FINITE
    except USER_ERRORS as error:
        options = ["preset", *(field.name for field in fields(TrainingConfig))]
        sys.stderr.write(f"run: error: {spell_options(error, options)}\n")
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
    if config.push_to is not None:
        check_push(config)
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
    for name in ("train", "dataset_scripts"):
        logging.getLogger(name).setLevel(logging.INFO if is_first else logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # for a file of a few megabytes


def split_domains(config: TrainingConfig) -> list[TrainingConfig]:
    """Settings of each model: one, or one for each domain, with a folder and a repository of its own."""
    if config.domain != "all":
        return [config]
    domains = BENCHMARKS[config.benchmark].files if config.benchmark in BENCHMARKS else {None: ""}
    if None in domains:
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
    write_json(folder / "metrics.json", document)
    lines = [f"{name:12} {score:6.2f}" for name, score in {**scores, "average": document["average"]}.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["main", "report_average", "split_domains", "train_model"]
