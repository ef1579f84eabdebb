"""Putting a training run together: devices, data, model, and the checkpoint that it goes on from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.logging import get_logger
from accelerate.utils import is_tensorboard_available, set_seed

from dataset_scripts import load_vtg_dataset
from dataset_scripts.metrics import compute_scores
from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.precision_r2tuning import cpu_has_bfloat16
from train.checkpointing import CheckpointFolder, Progress, write_json
from train.collate import GroundingCollator
from train.config import TrainingConfig
from train.curves import History
from train.data import BatchPlan, GroundingData
from train.feature_cache import FeatureCache
from train.loop import TrainingRun
from train.model import make_model, make_processor
from train.optim import make_optimizer


logger = get_logger(__name__)

# What a resumed run may change: where things are, and what is done besides training.
MAY_CHANGE = {
    *("output_dir", "data_dir", "features", "video_dir", "clip", "missing_videos", "num_workers", "cpu"),
    *("eval_split", "eval_epochs", "best_metric", "save_steps", "keep_checkpoints", "resume", "log_with", "push_to"),
}


def prepare_run(config: TrainingConfig) -> TrainingRun:
    """A run at its beginning; nothing is written yet."""
    accelerator = make_accelerator(config)
    set_seed(config.seed)
    model = make_model(config)
    if config.activation_checkpointing:
        model.activation_checkpointing_enable()
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        # Of CLIP's attention torch's own backward takes 12 times eager's in bfloat16 on a CPU, or more (torch 2.13).
        model.set_attn_implementation("eager")
    processor = make_processor(config, model.config.fps)
    cache = None if config.features is None else FeatureCache(config.features, model=model, fps=model.config.fps)
    rows = load_rows(config, model)
    data = GroundingData(rows[config.train_split], processor, cache)
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


def load_rows(config: TrainingConfig, model: R2TuningForVideoGrounding) -> dict[str, list[dict[str, Any]]]:
    """The annotations to train on and to evaluate on, by split.

    Raises:
        FileNotFoundError: There are no annotations, or videos or features are missing that must not be.
        ValueError: What is to be evaluated has no ground truth, or not the score of `config.best_metric`.
    """
    options = {name: getattr(config, name) for name in ("domain", "data_dir", "video_dir", "missing_videos")}
    splits = [config.train_split, *([] if config.eval_split is None else [config.eval_split])]
    rows = {split: list(load_vtg_dataset(config.benchmark, split=split, **options)) for split in splits}
    if config.features is not None:
        cache = FeatureCache(config.features, model=model, check=False)  # does not read all of it
        rows = {split: _rows_with_features(each, split, cache, config) for split, each in rows.items()}
    if config.eval_split is not None:
        _check_metric(rows[config.eval_split], config)
    return rows


def _rows_with_features(
    rows: list[dict[str, Any]], split: str, cache: FeatureCache, config: TrainingConfig
) -> list[dict[str, Any]]:
    present, lacking = [], []
    for row in rows:
        (present if _has_features(cache, row) else lacking).append(row)
    if lacking and config.missing_videos == "error":
        raise FileNotFoundError(
            f"{len(lacking)} queries of {split} have no features in '{cache.folder}', such as {lacking[0]['qid']} about "
            f"'{lacking[0]['video_id']}'. Run train/run_feature_extraction.py, or pass `--missing-videos skip`."
        )
    if lacking:
        logger.warning(f"{len(lacking)} queries of {split} are left out: '{cache.folder}' has no features of them.")
    return present


def _has_features(cache: FeatureCache, row: dict[str, Any]) -> bool:
    try:
        cache.video(row["video_id"])
        cache.query(row["qid"], row["query"])
    except FileNotFoundError:
        return False
    return True


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
    """Put the run into the state of the checkpoint that `config.resume` asks for, if there is one.

    Raises:
        ValueError: The settings differ from those that the run was begun with.
    """
    run.checkpoints.prepare()
    checkpoint = run.checkpoints.find(run.config.resume)
    settings_path = Path(run.config.output_dir) / "training_config.json"
    if checkpoint is not None:
        _check_settings(settings_path, run.config)
        run.progress = run.checkpoints.load(checkpoint)
        if run.metrics_path.exists():
            run.history = History.load(run.metrics_path, run.progress.step, run.progress.evaluated_step)
        logger.info(f"going on from '{checkpoint}'")
    if run.accelerator.is_main_process:
        write_json(settings_path, asdict(run.config))
    run.accelerator.wait_for_everyone()


def _check_settings(path: Path, config: TrainingConfig) -> None:
    """A run that goes on with other settings would be neither the old one nor a new one."""
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    differing = [
        f"`{name}` was {json.dumps(before.get(name))}, now is {json.dumps(value)}"
        for name, value in asdict(config).items()
        if name not in MAY_CHANGE and before.get(name) != value
    ]
    if differing:
        raise ValueError(f"The run in '{path.parent}' was begun otherwise: {'; '.join(differing)}.")


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
