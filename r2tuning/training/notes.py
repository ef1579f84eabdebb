"""Notes about a run that a user should read before its first step, one line each."""

from collections.abc import Callable

from accelerate.logging import get_logger

from dataset_scripts.benchmarks import OWN_DATA
from r2tuning.training.config import TrainingConfig, preset_names, read_preset
from r2tuning.training.optim import count_warmup_steps
from r2tuning.training.training_run import TrainingRun


logger = get_logger(__name__)

MIN_ABSENT_SHARE = 0.05  # of the training queries, from which an existence head is suggested
MIN_EPOCHS_TO_EXTRACT = 3  # from which a cache of features is suggested: it takes about one epoch to make


def log_notes(run: TrainingRun) -> None:
    """Log everything about a run that its settings do not show at first sight."""
    for find in FINDERS:
        note = find(run)
        if note is not None:
            logger.info(note)


def chooses_on_test(eval_split: str | None) -> bool:
    """Whether the best model of a run is chosen on a test split, so that its scores there are optimistic."""
    return eval_split is not None and eval_split.startswith("test")


def chooses_as_published(config: TrainingConfig) -> bool:
    """Whether the best model is chosen on the split that the benchmark's published recipe chooses it on."""
    has_recipe = config.benchmark in preset_names()
    return has_recipe and read_preset(config.benchmark).get("eval_split", "val") == config.eval_split


def _note_choice(run: TrainingRun) -> str | None:
    config = run.config
    if not chooses_on_test(config.eval_split):
        return None
    recipe = ", as in the published recipe" if chooses_as_published(config) else ""
    return (
        f"the best model is chosen by {config.best_metric} on the split '{config.eval_split}'{recipe}: its scores there are "
        "higher than on videos that had no part in the choice"
    )


def _note_warmup(run: TrainingRun) -> str | None:
    config, steps_per_epoch = run.config, run.plan.steps_per_epoch
    num_steps = count_warmup_steps(steps_per_epoch, config)
    if num_steps == config.warmup_steps:
        return None
    note = (
        f"the warm-up takes {num_steps} steps instead of {config.warmup_steps}: an epoch has {steps_per_epoch}, and "
        f"`warmup_epochs` is {config.warmup_epochs:g}"
    )
    if num_steps >= run.plan.num_steps:
        note += "; the run ends before it does: lower `warmup_epochs` or raise `epochs`"
    return note


def _note_features(run: TrainingRun) -> str | None:
    config = run.config
    model_config = run.accelerator.unwrap_model(run.model).config
    if config.benchmark != OWN_DATA or config.features is not None or not model_config.method_spec.reads_plain_layers:
        return None
    num_passes = config.epochs * config.repeat_factor
    if num_passes < MIN_EPOCHS_TO_EXTRACT:
        return None
    return (
        f"the backbone encodes each video {num_passes} times, once in each epoch; `r2tuning extract` does it once, and "
        "`features` reads the result"
    )


def _note_existence(run: TrainingRun) -> str | None:
    counts = run.history.data[run.config.train_split]
    has_head = run.accelerator.unwrap_model(run.model).config.use_existence_head
    share = counts["absent"] / counts["queries"]
    if has_head and not counts["absent"]:
        return (
            "the existence head only sees queries that have a moment, and learns to call every query present. Add queries "
            """without a moment, or train without the head: `model` '{"use_existence_head": false}'"""
        )
    if has_head or share < MIN_ABSENT_SHARE:
        return None
    return (
        f"""{counts["absent"]} of {counts["queries"]} training queries have no moment: `model` '{{"use_existence_head": true}}' """
        "also trains the answer that nothing in the video matches"
    )


FINDERS: tuple[Callable[[TrainingRun], str | None], ...] = (
    _note_choice,
    _note_warmup,
    _note_features,
    _note_existence,
)


__all__ = ["chooses_as_published", "chooses_on_test", "log_notes"]
