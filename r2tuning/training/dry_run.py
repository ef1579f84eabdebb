"""Estimate the time and memory that a run needs, from two steps and a short evaluation."""

import itertools
import math
import resource
import time

import torch
from tqdm import tqdm

from r2tuning.training.loop import train_step
from r2tuning.training.signals import StopSignals
from r2tuning.training.training_run import TrainingRun
from r2tuning.training.validation import predict_share


SAMPLE_VIDEOS = 2  # videos that each process evaluates


def dry_run(run: TrainingRun, longest: dict[str, torch.Tensor]) -> str:
    """Train one step on the longest videos, for the peak memory, and a usual step, for the time.

    Args:
        run: The run; nothing of it is saved.
        longest: A batch of the longest videos.

    Returns:
        The estimates, as lines of text.
    """
    batches = itertools.chain([longest] * run.config.gradient_accumulation, run.batches())
    train_step(run, batches)
    start = time.perf_counter()
    train_step(run, batches)
    step_sec = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = [
        f"{run.plan.num_steps:,} steps of {step_sec:.2f} s in {run.config.epochs} epochs: "
        f"{_format_time(run.plan.num_steps * step_sec)}",
        f"peak memory with the longest videos: {peak_bytes / 2**30:.2f} GiB for each process",
    ]
    if run.accelerator.device.type == "cuda":
        lines.append(f"  and on the GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    if run.eval_rows:
        lines.append(_estimate_evaluations(run))
    return "\n".join(lines)


def _estimate_evaluations(run: TrainingRun) -> str:
    videos = list(dict.fromkeys(row["video_id"] for row in run.eval_rows))
    sample = videos[: SAMPLE_VIDEOS * run.accelerator.num_processes]
    rows = [row for row in run.eval_rows if row["video_id"] in sample]
    start = time.perf_counter()
    _, failures = predict_share(run, rows, StopSignals())
    if failures:
        raise ValueError(failures[0])
    seconds = (time.perf_counter() - start) * len(videos) / len(sample)
    count = math.ceil(run.config.epochs / run.config.eval_epochs)
    total = _format_time(count * seconds)
    return f"{count:,} evaluations of {len(videos):,} videos, {_format_time(seconds)} each: {total}"


def _format_time(seconds: float) -> str:
    return tqdm.format_interval(round(seconds))


__all__ = ["dry_run"]
