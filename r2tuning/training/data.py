"""Training examples, which of them make which step, and the loader that reads ahead.

Everything random here follows from the seed and a number alone: the order of an epoch from (seed, epoch), the positive
frame of an example from (seed, draw). A `draw` numbers every use of an example in a run. So neither the number of
worker or training processes nor an interruption changes what a step sees.
"""

import ctypes
import itertools
import math
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.targets import frame_rate, prepare_moments, prepare_saliency
from modeling_r2tuning import R2TuningProcessor
from r2tuning.features.cache import FeatureCache
from r2tuning.features.store import fit_length
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig


PREFETCH = 2  # batches that each worker has ready
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends
SORTED_STEPS = 50  # steps whose videos are sorted by length together


class GroundingData(Dataset):
    """Queries of a benchmark with their videos and labels; see `GroundingCollator` for the fields of an example.

    The index of an example is its draw: rows repeat after the last one.

    Args:
        rows: In the schema of `dataset_scripts.features`.
        processor: Reads videos and texts where there is no cache.
        cache: CLIP features instead.
        benchmark: Name of the benchmark that the rows belong to.
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        processor: R2TuningProcessor,
        cache: FeatureCache | None = None,
        *,
        benchmark: str,
    ):
        self.rows = rows
        self.spec = BENCHMARKS[benchmark]
        self.processor = processor
        self.cache = cache

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[int]) -> list[dict[str, Any]]:
        """Several examples; those of the same video share its tensor."""
        videos = {}
        examples = []
        for draw in draws:
            row = self.row(draw)
            if row["video_id"] not in videos:
                videos[row["video_id"]] = self._read_video(row)
            examples.append({"draw": draw, **self._read_query(row), **self._label(row, videos[row["video_id"]])})
        return examples

    def row(self, draw: int) -> dict[str, Any]:
        """The annotation that a draw belongs to."""
        return self.rows[draw % len(self.rows)]

    def _read_video(self, row: dict[str, Any]) -> tuple[str, torch.Tensor]:
        """Name of the model's argument, and its value for one video."""
        if self.cache is not None:
            return "video_hidden_states", self.cache.video(row["video_id"])
        fps = frame_rate(row, self.spec, self.processor.fps)
        pieces = self.processor.stream_video(row["video"]["path"], fps=fps)
        if self.spec.saliency.frames == "one_per_unit":
            pieces = fit_length(pieces, len(row["saliency"]["scores"]))
        return "pixel_values_videos", torch.cat(list(pieces))

    def _read_query(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        if self.cache is not None:
            return {"text_hidden_states": self.cache.query(row["qid"], row["query"])}
        return {"input_ids": self.processor(text=row["query"])["input_ids"][0]}

    def _label(self, row: dict[str, Any], video: tuple[str, torch.Tensor]) -> dict[str, Any]:
        """Targets on the frames of the video, and the video cut to its annotated part (TVSum)."""
        name, frames = video
        fps = frame_rate(row, self.spec, self.processor.fps)
        saliency = prepare_saliency(row, len(frames), fps, self.spec)
        example = {
            "video_id": row["video_id"],
            name: frames[: len(saliency)],
            "saliency": torch.from_numpy(saliency),
            "fps": fps,
            "duration_sec": row["duration_sec"],
        }
        if "moment_retrieval" in row["task"]:
            example["moments"] = torch.from_numpy(prepare_moments(row["moments"], len(frames), fps))
        return example


class BatchPlan:
    """Which draws make which step, and which part of a step falls to which process.

    A batch consists of groups, one for each video in it, of `queries_per_video` queries each. A video with fewer
    queries left has some of them twice. The last batch of an epoch may be smaller; if it has not even a group for each
    part, groups from the beginning of the epoch fill it up.

    Args:
        video_ids: Video of each row.
        config: Settings of the run.
        num_processes: Training processes, which share a batch.
        durations: Length of the video of each row, in seconds; used by `config.group_by_length`.
    """

    def __init__(
        self,
        video_ids: list[str],
        config: TrainingConfig,
        num_processes: int = 1,
        durations: list[float] | None = None,
    ):
        self.config = config
        self.durations = durations
        self.num_processes = num_processes
        self.num_parts = num_processes * config.gradient_accumulation
        self.groups_per_step = config.batch_size // config.queries_per_video
        if self.groups_per_step < self.num_parts:
            raise ValueError(
                f"`batch_size` {config.batch_size} holds {self.groups_per_step} videos and cannot be shared out among "
                f"{num_processes} processes with `gradient_accumulation` {config.gradient_accumulation}."
            )
        self.rows_by_video: dict[str, list[int]] = {}
        for row, video_id in enumerate(video_ids):
            self.rows_by_video.setdefault(video_id, []).append(row)
        self.num_rows = len(video_ids)
        size = config.queries_per_video
        groups = (
            sum(math.ceil(len(rows) / size) for rows in self.rows_by_video.values()) if size > 1 else self.num_rows
        )
        self.steps_per_epoch = math.ceil(groups * config.repeat_factor / self.groups_per_step)
        self.num_steps = self.steps_per_epoch * config.epochs
        self._epoch, self._groups = None, None

    def draws(self, step: int) -> list[list[int]]:
        """Draws of a step, group by group."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._groups = epoch, self._shuffle(epoch)
        start = index * self.groups_per_step
        groups = self._groups[start : start + self.groups_per_step]
        missing = max(0, self.num_parts - len(groups))
        return groups + list(itertools.islice(itertools.cycle(self._groups), missing))

    def parts(self, step: int) -> list[list[int]]:
        """Draws of the parts of a step, as even as can be: those of all processes, then of the next accumulation."""
        groups = self.draws(step)
        ends = [len(groups) * part // self.num_parts for part in range(self.num_parts + 1)]
        return [sum(groups[start:end], []) for start, end in zip(ends, ends[1:], strict=False)]

    def batches(self, first_step: int, rank: int) -> Iterator[list[int]]:
        """Draws of every batch that a process computes from a step to the end of the run."""
        for step in range(first_step, self.num_steps):
            yield from self.parts(step)[rank :: self.num_processes]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        """Groups of an epoch in random order."""
        generator = np.random.default_rng([self.config.seed, epoch])
        passes = [self._one_pass(generator) for _ in range(self.config.repeat_factor)]
        first = epoch * self.config.repeat_factor * self.num_rows
        groups = [
            [first + number * self.num_rows + row for row in group]
            for number, groups in enumerate(passes)
            for group in groups
        ]
        groups = [groups[index] for index in generator.permutation(len(groups))]
        return self._sort(groups, generator) if self.config.group_by_length else groups

    def _sort(self, groups: list[list[int]], generator: np.random.Generator) -> list[list[int]]:
        """Bring videos of like length together, so that little is padded; the order of batches stays random."""
        pool, size = SORTED_STEPS * self.groups_per_step, self.groups_per_step
        pools = [groups[start : start + pool] for start in range(0, len(groups), pool)]
        in_order = [
            group for some in pools for group in sorted(some, key=lambda g: self.durations[g[0] % self.num_rows])
        ]
        whole = len(groups) // size
        batches = [in_order[size * index : size * (index + 1)] for index in generator.permutation(whole)]
        return [group for batch in batches for group in batch] + in_order[size * whole :]

    def _one_pass(self, generator: np.random.Generator) -> list[list[int]]:
        size = self.config.queries_per_video
        if size == 1:
            return [[row] for row in range(self.num_rows)]
        groups = []
        for rows in self.rows_by_video.values():
            shuffled = generator.permutation(rows).tolist()
            filled = [shuffled[index % len(rows)] for index in range(math.ceil(len(rows) / size) * size)]
            groups += [filled[start : start + size] for start in range(0, len(filled), size)]
        return groups


class PlannedBatches:
    """The batches of one process as a `batch_sampler`."""

    def __init__(self, plan: BatchPlan, first_step: int, rank: int):
        self.plan, self.first_step, self.rank = plan, first_step, rank

    def __iter__(self) -> Iterator[list[int]]:
        return self.plan.batches(self.first_step, self.rank)

    def __len__(self) -> int:
        return (self.plan.num_steps - self.first_step) * self.plan.config.gradient_accumulation


def make_loader(
    data: GroundingData, collator: GroundingCollator, plan: BatchPlan, first_step: int = 0, rank: int = 0
) -> DataLoader:
    """One pass over this loader is the whole run: it reads ahead across epochs, also while a model is evaluated.

    What cannot be read is an error in the place of a batch.
    """
    workers = plan.config.num_workers
    return DataLoader(
        _ReportingData(data),
        batch_sampler=PlannedBatches(plan, first_step, rank),
        collate_fn=_ReportingCollator(collator),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_depend_on_parent,
        pin_memory=torch.cuda.is_available() and not plan.config.cpu,
        # Without one of its own it would draw from the generator of dropout, and a resumed run would differ.
        generator=torch.Generator().manual_seed(plan.config.seed),
    )


class _ReportingData(Dataset):
    """Gives errors out in the place of examples: raised by a worker, one would come as a text with a traceback."""

    def __init__(self, data: GroundingData):
        self.data = data

    def __getitems__(self, draws: list[int]) -> list[dict[str, Any]] | ValueError:
        try:
            return self.data.__getitems__(draws)
        except (OSError, ValueError) as error:
            return ValueError(str(error))  # of a type that can be pickled


@dataclass(frozen=True)
class _ReportingCollator:
    """Passes such an error on."""

    collator: GroundingCollator

    def __call__(self, examples: list[dict[str, Any]] | ValueError) -> dict[str, torch.Tensor] | ValueError:
        return examples if isinstance(examples, ValueError) else self.collator(examples)


def _depend_on_parent(worker: int) -> None:
    """Leave signals to the parent, and end with it.

    A terminal or scheduler signals all processes; the parent finishes its step, for which it needs the workers. When it
    is killed they must not live on with what they hold: memory, and its claim on the folder of the run.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere workers are not forked
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


__all__ = ["BatchPlan", "GroundingData", "PlannedBatches", "make_loader"]
