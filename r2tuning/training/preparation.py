"""Assembly of a training run: devices, data, model, and the checkpoint that it resumes from."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.logging import get_logger
from accelerate.utils import gather_object, is_tensorboard_available, set_seed

from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.metrics import compute_scores
from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.precision_r2tuning import cpu_has_bfloat16
from r2tuning.evaluation.predictions import count_missing, find_unreadable, leave_out
from r2tuning.features.cache import FeatureCache, recorded_lengths
from r2tuning.json_files import read_json, write_json
from r2tuning.training.checkpoints import STATE, CheckpointFolder, Progress
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig
from r2tuning.training.curves import History
from r2tuning.training.data import GroundingData, count_labels
from r2tuning.training.model import has_existence_head, make_model, make_processor
from r2tuning.training.optim import count_warmup_steps, learning_rate, make_optimizer
from r2tuning.training.plan import BatchPlan
from r2tuning.training.training_run import TrainingRun
from r2tuning_cli.training_options import OWN_DATA_FACTS


logger = get_logger(__name__)

LOWER_IS_BETTER = ("EX-FAR@95", "EX-ECE")  # the best model is that of the highest score

# Settings that may differ when a run is resumed: locations, what does not affect the weights, and the number of epochs,
# which may grow.
CHANGEABLE_ON_RESUME = frozenset(
    {
        *("output_dir", "data_dir", "data_file", "val_file", "features", "video_dir", "backbone"),
        *("missing_videos", "on_error", "num_workers", "cpu"),
        *(
            "epochs",
            "eval_split",
            "eval_epochs",
            "best_metric",
            "save_steps",
            "keep_checkpoints",
            "resume",
            "log_with",
            "push_to",
            *OWN_DATA_FACTS,
        ),
    }
)


def prepare_run(config: TrainingConfig) -> TrainingRun:
    """A run before its first step; nothing is written yet.

    Raises:
        FileNotFoundError: Annotations, videos or features are missing.
        ImportError: A tracker is not installed.
        OSError: The backbone cannot be found or downloaded.
        ValueError: A setting does not fit the data or the model, or files cannot be read.
    """
    accelerator = make_accelerator(config)
    rows = load_rows(config)
    num_missing = _count_missing(config, rows)
    set_seed(config.seed)
    model = _prepare_model(config, accelerator)
    processor = make_processor(config, model.config)
    cache = None if config.features is None else FeatureCache(config.features, model=model, fps=model.config.fps)
    num_eval_rows = len(_eval_rows(config, rows))
    rows = usable_rows(config, rows, model, accelerator)
    data = GroundingData(rows[config.train_split], processor, cache, benchmark=config.benchmark)
    plan = _make_plan(config, data, accelerator)
    prepared, optimizer = accelerator.prepare(model.train(), make_optimizer(model, config))
    set_seed(config.seed, device_specific=True)  # so that dropout differs from process to process
    return TrainingRun(
        config=config,
        accelerator=accelerator,
        model=prepared,
        processor=processor,
        optimizer=optimizer,
        data=data,
        collator=GroundingCollator(config.seed, model.config.positive_saliency),
        plan=plan,
        eval_rows=_eval_rows(config, rows),
        progress=Progress(num_processes=accelerator.num_processes, num_queries=len(data)),
        history=History(data={split: count_labels(rows[split]) for split in rows}),
        checkpoints=CheckpointFolder(config.output_dir, accelerator, model, processor, config.keep_checkpoints),
        num_left_out=num_missing + num_eval_rows - len(_eval_rows(config, rows)),
    )


def _prepare_model(config: TrainingConfig, accelerator: Accelerator) -> R2TuningForVideoGrounding:
    model = make_model(config)
    if config.activation_checkpointing:
        model.activation_checkpointing_enable()
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        # On a CPU, the backward pass of torch's fused attention in bfloat16 is 12 times slower or more (torch 2.13).
        model.set_attn_implementation("eager")
    return model


def _make_plan(config: TrainingConfig, data: GroundingData, accelerator: Accelerator) -> BatchPlan:
    video_ids = [row["video_id"] for row in data.rows]
    durations = [row["duration_sec"] for row in data.rows]
    return BatchPlan(video_ids, config, accelerator.num_processes, durations)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Devices, precision, gradient accumulation and trackers.

    Raises:
        ImportError: TensorBoard or another tracker is not installed.
    """
    if not is_tensorboard_available():
        raise ImportError('Training writes logs for TensorBoard: pip install "tensorboard>=2.14"')
    precision = config.mixed_precision
    if precision == "bf16" and PartialState(cpu=config.cpu).device.type == "cpu" and not cpu_has_bfloat16():
        logger.warning("This CPU does not compute in bfloat16: `mixed_precision` is 'no' here instead of 'bf16'.")
        precision = "no"
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.gradient_accumulation,
        cpu=config.cpu,
        log_with=["tensorboard", *config.log_with],
        project_dir=str(Path(config.output_dir) / "logs"),
    )
    available = {str(tracker) for tracker in accelerator.log_with}
    missing = sorted(set(config.log_with) - available)
    if missing:  # accelerate drops them silently
        raise ImportError(f"`log_with` names {missing}, which cannot be imported: pip install {' '.join(missing)}")
    return accelerator


# ---- data ----------------------------------------------------------------------------------------------------------


def load_rows(config: TrainingConfig) -> dict[str, list[dict[str, Any]]]:
    """Annotations of the training and the evaluation split, by split.

    Raises:
        FileNotFoundError: Annotations are missing, or videos are while `config.missing_videos` is "error".
        ValueError: The evaluation split does not have the score `config.best_metric`.
    """
    rows = {}
    for split in (config.train_split, config.eval_split):
        if split is not None:
            rows[split] = list(load_vtg_dataset(config.benchmark, **_loading_options(config, split)))
    if config.eval_split is not None:
        _check_metric(rows[config.eval_split], config)
    return rows


def _loading_options(config: TrainingConfig, split: str) -> dict[str, Any]:
    """Arguments of `load_vtg_dataset`."""
    return {
        "split": split,
        "domain": config.domain,
        "data_dir": config.data_dir,
        "data_files": _annotation_files(config),
        "video_dir": config.video_dir,
        "missing_videos": config.missing_videos,
        "on_error": config.on_error,
        "lengths": recorded_lengths(config.benchmark, config.features),
    }


def _annotation_files(config: TrainingConfig) -> dict[str, str] | None:
    """Annotation files by split, if they were given one by one."""
    if config.data_file is None:
        return None
    files = {config.train_split: config.data_file}
    if config.val_file is not None:
        files[config.eval_split or "val"] = config.val_file
    return files


def _eval_rows(config: TrainingConfig, rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [] if config.eval_split is None else rows[config.eval_split]


def _count_missing(config: TrainingConfig, rows: dict[str, list[dict[str, Any]]]) -> int:
    """Number of queries of the evaluation split that were left out because their videos are missing."""
    if config.eval_split is None:
        return 0
    num_loaded = len(rows[config.eval_split])
    return count_missing(config.benchmark, num_loaded, _loading_options(config, config.eval_split))


def usable_rows(
    config: TrainingConfig,
    rows: dict[str, list[dict[str, Any]]],
    model: R2TuningForVideoGrounding,
    accelerator: Accelerator,
) -> dict[str, list[dict[str, Any]]]:
    """Rows whose files have a readable header.

    Feature files of both splits are opened, but videos of the evaluation split only: an unreadable training video stops
    training when it is needed, whereas an evaluation without a video would have another score.

    Raises:
        ValueError: Files cannot be read while `config.missing_videos` is "error".
    """
    cache = None if config.features is None else FeatureCache(config.features, model=model, check=False)
    usable = dict(rows)
    for split in rows:
        if cache is None and split != config.eval_split:
            continue
        share = rows[split][accelerator.process_index :: accelerator.num_processes]
        reasons = dict(gather_object(list(find_unreadable(share, cache).items())))
        usable[split] = leave_out(rows[split], reasons, config.missing_videos)
    return usable


def _check_metric(rows: list[dict[str, Any]], config: TrainingConfig) -> None:
    """Score placeholder predictions, so that a wrong `best_metric` is found now and not after an epoch."""
    has_head = has_existence_head(config)
    nothing_to_score = all(row["moments"] == [] and row["saliency"] is None for row in rows)
    if nothing_to_score and not has_head and BENCHMARKS[config.benchmark].metric == "grounding":
        raise ValueError(
            f"The best model cannot be chosen on the split '{config.eval_split}': none of its queries has a moment. Evaluate "
            "on one with moments (`eval_split`, or `val_file` for own data), or pass `eval_split` none."
        )
    predictions = []
    for row in rows:
        num_scores = len(row["saliency"]["scores"]) if row["saliency"] else 1
        prediction = {
            "qid": row["qid"],
            "pred_relevant_windows": [[0.0, row["duration_sec"], 1.0]],
            "pred_saliency_scores": [0.0] * num_scores,
        }
        if has_head:
            prediction["pred_exist_score"] = 0.5
        predictions.append(prediction)
    scores = compute_scores(config.benchmark, predictions, rows)["brief"]
    known = sorted(name for name, score in scores.items() if score is not None and name not in LOWER_IS_BETTER)
    if config.best_metric not in known:
        raise ValueError(f"`best_metric` must be one of {known}, got {config.best_metric!r}.")


def longest_batch(run: TrainingRun) -> dict[str, torch.Tensor]:
    """The largest possible part of a batch, made of the longest videos."""
    durations = {row["video_id"]: row["duration_sec"] for row in run.data.rows}
    videos = sorted(run.plan.rows_by_video, key=lambda video_id: -durations[video_id])
    draws = []
    for video_id in videos[: run.plan.groups_per_step // run.plan.num_parts]:
        rows = run.plan.rows_by_video[video_id]
        draws += [rows[index % len(rows)] for index in range(run.config.queries_per_video)]
    return run.collator(run.data.__getitems__(draws))


# ---- resuming ------------------------------------------------------------------------------------------------------


def start_or_resume(run: TrainingRun) -> None:
    """Restore the newest intact checkpoint, if there is one, and write the files of the run.

    Raises:
        FileExistsError: The run's folder holds models but no checkpoint.
        ValueError: The run was started with other settings, or all checkpoints are damaged.
    """
    run.checkpoints.prepare()
    checkpoint = run.checkpoints.find()
    if checkpoint is not None:
        before = read_json(checkpoint / STATE / run.settings_path.name)
        _check_settings(before, run.config)
        run.progress = run.checkpoints.load(checkpoint, len(run.data), exact=run.config.resume != "inexact")
        data = run.history.data
        run.history = replace(History.load(checkpoint / STATE / run.metrics_path.name), data=data)
        logger.info(f"resuming from '{checkpoint}'")
        if run.config.epochs > before["epochs"]:
            _lengthen(run, before["epochs"])
    if run.accelerator.is_main_process:
        _rewrite(run.settings_path, asdict(run.config))
        if checkpoint is not None:
            _rewrite(run.metrics_path, asdict(run.history))
    run.accelerator.wait_for_everyone()


def _rewrite(path: Path, document: dict[str, Any]) -> None:
    """Write a file for people and for `record_results`; a resumed run itself reads the checkpoint's copy."""
    try:
        read_json(path)
    except FileNotFoundError:
        pass
    except ValueError as error:
        logger.warning(f"'{path}' was damaged ({error}) and is restored.")
    write_json(path, document, indent=None)


def _check_settings(before: dict[str, Any], config: TrainingConfig) -> None:
    """Refuse to resume a run with settings that would change its result; it may only be given more epochs.

    Raises:
        ValueError: The message lists the settings that differ.
    """
    differing = []
    for name, value in asdict(config).items():
        if name not in CHANGEABLE_ON_RESUME and _place(before.get(name)) != _place(value):
            differing.append(f"`{name}` was {json.dumps(before.get(name))}, now is {json.dumps(value)}")
    if (before.get("val_file") is None) != (config.val_file is None):
        # Paths may change, but without a file of its own the evaluation takes videos from the training data.
        differing.append(f"`val_file` was {json.dumps(before.get('val_file'))}, now is {json.dumps(config.val_file)}")
    if differing:
        raise ValueError(f"The run in '{config.output_dir}' was started with other settings: {'; '.join(differing)}.")
    if config.epochs < before["epochs"]:
        raise ValueError(
            f"`epochs` of the run in '{config.output_dir}' was {before['epochs']}, now is {config.epochs}: a run can be "
            "given more epochs, but not fewer, as it may have taken steps that a shorter run would not."
        )


def _place(value: Any) -> Any:
    """A setting in the form in which it is compared: two names of one folder are equal."""
    return os.path.realpath(value) if isinstance(value, str) and os.path.isdir(value) else value


def _lengthen(run: TrainingRun, epochs_before: int) -> None:
    """Record that a run was given more epochs, and report what its learning rate does."""
    config, step = run.config, run.progress.step
    run.progress.lengthened.append({"step": step, "epochs": epochs_before})
    next_rate = learning_rate(step, run.plan.steps_per_epoch, config)
    if step < count_warmup_steps(run.plan.steps_per_epoch, config):
        effect = "its warm-up goes on as before"
    elif config.schedule == "cosine":
        last_rate = learning_rate(step - 1, run.plan.steps_per_epoch, replace(config, epochs=epochs_before))
        effect = (
            f"from here on the learning rate follows the half cosine of {config.epochs} epochs: it goes from "
            f"{last_rate:.3g} in the last step to {next_rate:.3g} in the next"
        )
    elif config.drop_epochs:
        effect = (
            f"the learning rate is {next_rate:.3g} in the next step; its drops stay at epochs {config.drop_epochs}"
        )
    else:
        effect = f"the learning rate is {next_rate:.3g} in the next step and has no drops"
    logger.info(f"the run is lengthened from {epochs_before} to {config.epochs} epochs; {effect}")


__all__ = ["load_rows", "longest_batch", "make_accelerator", "prepare_run", "start_or_resume"]
