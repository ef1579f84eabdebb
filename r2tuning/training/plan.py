"""Batch planning: which examples each step and each process sees.

All randomness follows from the seed and a number: the order of an epoch from (seed, epoch), the positive frame of an
example from (seed, draw). A `draw` numbers every use of an example in a run. Therefore neither the number of loader or
training processes nor an interruption changes what a step sees.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from r2tuning.training.config import TrainingConfig


SORTED_STEPS = 50  # steps whose videos are sorted by length together

Group = list[int]  # draws of queries about one video


class BatchPlan:
    """Assigns draws to steps, and the parts of a step to processes.

    A batch consists of groups, one for each of its videos, of `queries_per_video` queries each. If fewer queries of a
    video are left, some of them appear twice. The last batch of an epoch may be smaller; if it has fewer groups than
    there are parts, groups from the start of the epoch fill it up.

    Args:
        video_ids: Video of each row.
        config: Settings of the run.
        num_processes: Number of training processes that share a batch.
        durations: Length in seconds of the video of each row; needed for `config.group_by_length`.

    Raises:
        ValueError: A batch holds fewer videos than there are parts, or `durations` are missing.
    """

    def __init__(
        self,
        video_ids: list[str],
        config: TrainingConfig,
        num_processes: int = 1,
        durations: list[float] | None = None,
    ):
        self.config = config
        self.num_processes = num_processes
        self.num_parts = num_processes * config.gradient_accumulation
        self.groups_per_step = config.batch_size // config.queries_per_video
        if self.groups_per_step < self.num_parts:
            raise ValueError(
                f"`batch_size` {config.batch_size} holds {self.groups_per_step} videos and cannot be divided among "
                f"{num_processes} processes with `gradient_accumulation` {config.gradient_accumulation}."
            )
        if config.group_by_length and durations is None:
            raise ValueError("`group_by_length` needs `durations`.")
        self.num_rows = len(video_ids)
        self.durations = durations or []
        self.rows_by_video: dict[str, list[int]] = {}
        for row, video_id in enumerate(video_ids):
            self.rows_by_video.setdefault(video_id, []).append(row)
        groups_per_epoch = self._groups_per_pass() * config.repeat_factor
        self.steps_per_epoch = math.ceil(groups_per_epoch / self.groups_per_step)
        self.num_steps = self.steps_per_epoch * config.epochs
        # The epoch that was shuffled last, and its groups.
        self._epoch: int | None = None
        self._groups: list[Group] = []

    def _groups_per_pass(self) -> int:
        size = self.config.queries_per_video
        if size == 1:
            return self.num_rows
        return sum(math.ceil(len(rows) / size) for rows in self.rows_by_video.values())

    def draws(self, step: int) -> list[Group]:
        """Groups of draws that a step consists of."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._groups = epoch, self._shuffle(epoch)
        start = index * self.groups_per_step
        groups = self._groups[start : start + self.groups_per_step]
        missing = max(0, self.num_parts - len(groups))
        return groups + list(itertools.islice(itertools.cycle(self._groups), missing))

    def parts(self, step: int) -> list[list[int]]:
        """Draws of each part of a step, as even as possible: of all processes, then of the next accumulation."""
        groups = self.draws(step)
        parts = []
        for part in range(self.num_parts):
            start = len(groups) * part // self.num_parts
            end = len(groups) * (part + 1) // self.num_parts
            parts.append(list(itertools.chain.from_iterable(groups[start:end])))
        return parts

    def batches(self, first_step: int, rank: int) -> Iterator[list[int]]:
        """Draws of every batch that a process computes from `first_step` to the end of the run."""
        for step in range(first_step, self.num_steps):
            yield from self.parts(step)[rank :: self.num_processes]

    def _shuffle(self, epoch: int) -> list[Group]:
        """Groups of an epoch in random order."""
        generator = np.random.default_rng([self.config.seed, epoch])
        # The passes over the data that make up an epoch are shuffled together.
        groups: list[Group] = []
        for number in range(self.config.repeat_factor):
            first_draw = (epoch * self.config.repeat_factor + number) * self.num_rows
            for rows in self._group_rows(generator):
                groups.append([first_draw + row for row in rows])
        shuffled = [groups[index] for index in generator.permutation(len(groups))]
        return self._sort_by_length(shuffled, generator) if self.config.group_by_length else shuffled

    def _sort_by_length(self, groups: list[Group], generator: np.random.Generator) -> list[Group]:
        """Put videos of similar length into the same batch, to save padding; the order of the batches stays random."""
        size = self.groups_per_step
        pool_size = SORTED_STEPS * size
        in_order: list[Group] = []
        for start in range(0, len(groups), pool_size):
            pool = groups[start : start + pool_size]
            in_order += sorted(pool, key=lambda group: self.durations[group[0] % self.num_rows])
        num_full_batches = len(groups) // size
        result: list[Group] = []
        for index in generator.permutation(num_full_batches):
            result += in_order[size * index : size * (index + 1)]
        return result + in_order[size * num_full_batches :]

    def _group_rows(self, generator: np.random.Generator) -> list[list[int]]:
        """Rows of one pass over the data, in groups about one video each."""
        size = self.config.queries_per_video
        if size == 1:
            return [[row] for row in range(self.num_rows)]
        groups = []
        for rows in self.rows_by_video.values():
            shuffled = generator.permutation(rows).tolist()
            num_filled = math.ceil(len(rows) / size) * size
            filled = [shuffled[index % len(rows)] for index in range(num_filled)]
            groups += [filled[start : start + size] for start in range(0, num_filled, size)]
        return groups


class PlannedBatches:
    """The batches of one process, as the `batch_sampler` of a `DataLoader`.

    Args:
        plan: The plan of the run.
        first_step: Step to start from.
        rank: Number of the process.
    """

    def __init__(self, plan: BatchPlan, first_step: int, rank: int):
        self.plan = plan
        self.first_step = first_step
        self.rank = rank

    def __iter__(self) -> Iterator[list[int]]:
        return self.plan.batches(self.first_step, self.rank)

    def __len__(self) -> int:
        return (self.plan.num_steps - self.first_step) * self.plan.config.gradient_accumulation


__all__ = ["BatchPlan", "PlannedBatches"]
