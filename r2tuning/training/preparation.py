"""Putting a training run together: devices, data, model, and the checkpoint that it goes on from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.logging import get_logger
from accelerate.utils import gather_object, is_tensorboard_available, set_seed

from dataset_scripts import load_vtg_dataset
from dataset_scripts.metrics import compute_scores
from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.precision_r2tuning import cpu_has_bfloat16
from r2tuning.evaluation.predictions import find_unreadable, leave_out
from r2tuning.features.cache import FeatureCache
from r2tuning.training.checkpoints import STATE, CheckpointFolder, Progress, write_json
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig
from r2tuning.training.curves import History
from r2tuning.training.data import BatchPlan, GroundingData
from r2tuning.training.loop import TrainingRun
from r2tuning.training.model import make_model, make_processor
from r2tuning.training.optim import make_optimizer


logger = get_logger(__name__)

# What a resumed run may change: where things are, and what is done besides training.
MAY_CHANGE = {
    *("output_dir", "data_dir", "features", "video_dir", "backbone", "missing_videos", "num_workers", "cpu"),
    *("eval_split", "eval_epochs", "best_metric", "save_steps", "keep_checkpoints", "resume", "log_with", "push_to"),
}


def prepare_run(config: TrainingConfig) -> TrainingRun:
    """A run at its beginning; nothing is written yet."""
    accelerator = make_accelerator(config)
    rows = load_rows(config)
    num_missing = count_missing(config, rows)
    set_seed(config.seed)
    model = make_model(config)
    if config.activation_checkpointing:
        model.activation_checkpointing_enable()
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        # Of CLIP's attention torch's own backward takes 12 times eager's in bfloat16 on a CPU, or more (torch 2.13).
        model.set_attn_implementation("eager")
    processor = make_processor(config, model.config.fps)
    cache = None if config.features is None else FeatureCache(config.features, model=model, fps=model.config.fps)
    rows, num_unreadable = usable_rows(config, rows, model, accelerator)
    data = GroundingData(rows[config.train_split], processor, cache, benchmark=config.benchmark)
    video_ids, durations = ([row[name] for row in data.rows] for name in ("video_id", "duration_sec"))
    plan = BatchPlan(video_ids, config, accelerator.num_processes, durations)
    prepared, optimizer = accelerator.prepare(model.train(), make_optimizer(model, config))
    set_seed(config.seed, device_specific=True)  # every process drops out something else
    return TrainingRun(
        config=config,
        accelerator=accelerator,
        model=prepared,
        processor=processor,
        optimizer=optimizer,
        data=data,
        collator=GroundingCollator(config.seed, model.config.positive_saliency),
        plan=plan,
        eval_rows=rows.get(config.eval_split, []),
        progress=Progress(num_processes=accelerator.num_processes),
        history=History(),
        checkpoints=CheckpointFolder(config.output_dir, accelerator, model, processor, config.keep_checkpoints),
        num_left_out=num_missing + num_unreadable,
    )


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Devices, precision, accumulation and trackers.

    Raises:
        ImportError: TensorBoard or another tracker is missing.
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
    missing = sorted(set(config.log_with) - {str(tracker) for tracker in accelerator.log_with})
    if missing:  # accelerate leaves them out in silence
        raise ImportError(f"`log_with` names {missing}, which cannot be imported: pip install {' '.join(missing)}")
    return accelerator


def load_rows(config: TrainingConfig) -> dict[str, list[dict[str, Any]]]:
    """The annotations to train on and to evaluate on, by split.

    Raises:
        FileNotFoundError: There are no annotations, or videos are missing that must not be.
        ValueError: What is to be evaluated has no ground truth, or not the score of `config.best_metric`.
    """
    splits = [config.train_split, *([] if config.eval_split is None else [config.eval_split])]
    rows = {split: _load_split(config, split, config.video_dir) for split in splits}
    if config.eval_split is not None:
        _check_metric(rows[config.eval_split], config)
    return rows


def _load_split(config: TrainingConfig, split: str, video_dir: str | None) -> list[dict[str, Any]]:
    options = {name: getattr(config, name) for name in ("domain", "data_dir", "missing_videos")}
    return list(load_vtg_dataset(config.benchmark, split=split, video_dir=video_dir, **options))


def count_missing(config: TrainingConfig, rows: dict[str, list[dict[str, Any]]]) -> int:
    """Queries of the evaluation split that were left out for want of their videos."""
    if config.eval_split is None or config.video_dir is None or config.missing_videos == "error":
        return 0
    return len(_load_split(config, config.eval_split, None)) - len(rows[config.eval_split])


def usable_rows(
    config: TrainingConfig,
    rows: dict[str, list[dict[str, Any]]],
    model: R2TuningForVideoGrounding,
    accelerator: Accelerator,
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Rows whose files can be read, as far as their headers tell, and how many of the evaluation split cannot.

    Of videos only those of the evaluation split are opened: one that cannot be read stops training where it is needed,
    but an evaluation without it would have another score.

    Raises:
        ValueError: Files cannot be read that must not be left out.
    """
    cache = None if config.features is None else FeatureCache(config.features, model=model, check=False)
    usable = dict(rows)
    for split in [config.eval_split] if cache is None else rows:
        if split is None:
            continue
        mine = rows[split][accelerator.process_index :: accelerator.num_processes]
        reasons = {}
        for qid, reason in gather_object(list(find_unreadable(mine, cache).items())):
            reasons[qid] = reason
        usable[split] = leave_out(rows[split], reasons, config.missing_videos)
    return usable, len(rows.get(config.eval_split, [])) - len(usable.get(config.eval_split, []))


def _check_metric(rows: list[dict[str, Any]], config: TrainingConfig) -> None:
    """Score some predictions, so that a wrong name is found now and not after an epoch."""
    predictions = [
        {
            "qid": row["qid"],
            "pred_relevant_windows": [[0.0, row["duration_sec"], 1.0]],
            "pred_saliency_scores": [0.0] * (len(row["saliency"]["scores"]) if row["saliency"] else 1),
        }
        for row in rows
    ]
    scores = compute_scores(config.benchmark, predictions, rows)["brief"]
    if scores.get(config.best_metric) is None:
        known = sorted(name for name, score in scores.items() if score is not None)
        raise ValueError(f"`best_metric` must be one of {known}, got {config.best_metric!r}.")


# ---- from the beginning or from a checkpoint -----------------------------------------------------------------------


def start_or_resume(run: TrainingRun) -> None:
    """Put the run into the state of the newest whole checkpoint, if there is one.

    Raises:
        ValueError: The settings differ from those that the run was begun with, or all checkpoints are damaged.
    """
    run.checkpoints.prepare()
    checkpoint = run.checkpoints.find()
    if checkpoint is not None:
        _check_settings(checkpoint / STATE / run.settings_path.name, run.config)
        run.progress = run.checkpoints.load(checkpoint, exact=run.config.resume != "inexact")
        run.history = History.load(checkpoint / STATE / run.metrics_path.name)
        logger.info(f"going on from '{checkpoint}'")
    if run.accelerator.is_main_process:
        _restore(run.settings_path, asdict(run.config))
        if checkpoint is not None:
            _restore(run.metrics_path, asdict(run.history))
    run.accelerator.wait_for_everyone()


def _restore(path: Path, document: dict[str, Any]) -> None:
    """Write a file of the run that is read by people and by `record_results`; a resumed run does not depend on it."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError as error:
        logger.warning(f"'{path}' was damaged ({error}) and is written anew.")
    write_json(path, document)


def _check_settings(path: Path, config: TrainingConfig) -> None:
    """A run that goes on with other settings would be neither the old one nor a new one."""
    before = json.loads(path.read_text(encoding="utf-8"))
    differing = [
        f"`{name}` was {json.dumps(before.get(name))}, now is {json.dumps(value)}"
        for name, value in asdict(config).items()
        if name not in MAY_CHANGE and before.get(name) != value
    ]
    if differing:
        raise ValueError(f"The run in '{config.output_dir}' was begun otherwise: {'; '.join(differing)}.")


def longest_batch(run: TrainingRun) -> dict[str, torch.Tensor]:
    """The largest batch there can be: of the longest videos."""
    durations = {row["video_id"]: row["duration_sec"] for row in run.data.rows}
    videos = sorted(run.plan.rows_by_video, key=lambda video_id: -durations[video_id])
    size = run.config.queries_per_video
    draws = []
    for video_id in videos[: run.plan.groups_per_step // run.plan.num_parts]:
        rows = run.plan.rows_by_video[video_id]
        draws += [rows[index % len(rows)] for index in range(size)]
    return run.collator(run.data.__getitems__(draws))


__all__ = ["load_rows", "longest_batch", "make_accelerator", "prepare_run", "start_or_resume"]
