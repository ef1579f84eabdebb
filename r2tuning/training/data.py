"""Training examples, and the loader that prefetches their batches."""

import ctypes
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from dataset_scripts.benchmarks import BENCHMARKS, OWN_DATA
from dataset_scripts.custom_examples import END_TOLERANCE_SEC
from dataset_scripts.targets import frame_rate, prepare_moments, prepare_saliency
from modeling_r2tuning import R2TuningProcessor
from r2tuning.features.cache import FeatureCache
from r2tuning.features.store import fit_length
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.plan import BatchPlan, PlannedBatches


PREFETCHED_BATCHES = 2  # of each worker
PR_SET_PDEATHSIG = 1  # option of Linux's prctl: the signal that a process gets when its parent ends


class GroundingData(Dataset):
    """Queries of a benchmark with their videos and labels; see `GroundingCollator` for the fields of an example.

    The index of an example is its draw (see `r2tuning.training.plan`): rows repeat after the last one.

    Args:
        rows: Examples in the schema of `dataset_scripts.features`.
        processor: Reads videos and queries if there is no cache.
        cache: Cached features to use instead.
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
        self.processor = processor
        self.cache = cache
        self.spec = BENCHMARKS[benchmark]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[int]) -> list[dict[str, Any]]:
        """Several examples; queries about the same video share its tensor."""
        videos: dict[str, tuple[str, torch.Tensor]] = {}
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
        """Name of the model's argument for videos, and the tensor of one video, without batch axis."""
        if self.cache is not None:
            return "video_hidden_states", self.cache.video(row["video_id"])
        fps = frame_rate(row, self.spec, self.processor.fps)
        pieces: Iterable[torch.Tensor] = self.processor.stream_video(row["video"]["path"], fps=fps)
        if self.spec.saliency.frames == "one_per_unit":
            pieces = fit_length(pieces, len(row["saliency"]["scores"]))
        return "pixel_values_videos", torch.cat(list(pieces))

    def _read_query(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        if self.cache is not None:
            return {"text_hidden_states": self.cache.query(row["qid"], row["query"])}
        tokens = self.processor(text=row["query"])
        return {name: tokens[name][0] for name in ("input_ids", "attention_mask")}

    def _label(self, row: dict[str, Any], video: tuple[str, torch.Tensor]) -> dict[str, Any]:
        """The video, cut to its annotated part (TVSum), and the training targets."""
        name, frames = video
        fps = frame_rate(row, self.spec, self.processor.fps)
        if self.spec.name == OWN_DATA:
            _check_end(row, len(frames) / fps, 1 / fps)
        saliency = prepare_saliency(row, len(frames), fps, self.spec)
        example = {
            "video_id": row["video_id"],
            name: frames[: len(saliency)],
            "saliency": torch.from_numpy(saliency),
            "fps": fps,
            "duration_sec": row["duration_sec"],
        }
        if "moment_retrieval" in row["task"]:
            if row["moments"] is None:
                raise ValueError(f"qid {row['qid']}: `moments` are not annotated; an absent query has `[]`.")
            example["moments"] = torch.from_numpy(prepare_moments(row["moments"], len(frames), fps))
        return example


def count_labels(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Number of "videos", "queries", "moments", and of "absent" queries: annotated ones without a moment.

    Args:
        rows: Examples in the schema of `dataset_scripts.features`.
    """
    counts = {"videos": len({row["video_id"] for row in rows}), "queries": len(rows), "moments": 0, "absent": 0}
    for row in rows:
        counts["moments"] += len(row["moments"] or ())
        counts["absent"] += row["moments"] == []
    return counts


def _check_end(row: dict[str, Any], sampled_sec: float, frame_sec: float) -> None:
    """Refuse own data with a moment after the last frame, which `prepare_moments` would move to it in silence.

    Loading compares moments with the lengths of the files. This compares them with the frames that are trained on, which
    may come from a cache that was made of other files.

    Args:
        row: The annotation.
        sampled_sec: Length of the sampled video.
        frame_sec: Time from one frame to the next; the number of frames is rounded.

    Raises:
        ValueError: A moment begins or ends after the sampled video.
    """
    for start, end in row["moments"] or []:
        if start >= sampled_sec + frame_sec or end > sampled_sec + frame_sec + END_TOLERANCE_SEC:
            raise ValueError(
                f"'{row['video_id']}' has frames for {sampled_sec:g} s, but qid {row['qid']} has the moment [{start:g}, "
                f"{end:g}]. Extract its features or frames again, or correct its length in the table."
            )


def make_loader(
    data: GroundingData, collator: GroundingCollator, plan: BatchPlan, first_step: int = 0, rank: int = 0
) -> DataLoader:
    """A loader whose single pass is the whole run, so that it prefetches across epochs and during evaluations.

    If an example cannot be read, the loader yields a `ValueError` in place of its batch.

    Args:
        data: Training examples.
        collator: Makes batches of them.
        plan: Assigns examples to steps.
        first_step: Step to start from.
        rank: Number of the training process.
    """
    workers = plan.config.num_workers
    return DataLoader(
        _ReportingData(data),
        batch_sampler=PlannedBatches(plan, first_step, rank),
        collate_fn=_ReportingCollator(collator),
        num_workers=workers,
        prefetch_factor=PREFETCHED_BATCHES if workers else None,
        worker_init_fn=_depend_on_parent,
        pin_memory=torch.cuda.is_available() and not plan.config.cpu,
        # By default the loader draws from the global generator, which dropout uses too: a resumed run would differ.
        generator=torch.Generator().manual_seed(plan.config.seed),
    )


class _ReportingData(Dataset):
    """Returns errors in place of examples: torch converts an error raised in a worker to the text of a traceback."""

    def __init__(self, data: GroundingData):
        self.data = data

    def __getitems__(self, draws: list[int]) -> list[dict[str, Any]] | ValueError:
        try:
            return self.data.__getitems__(draws)
        except (OSError, ValueError) as error:
            return ValueError(str(error))  # other types may not survive pickling


@dataclass(frozen=True)
class _ReportingCollator:
    """Collates examples, and returns errors of `_ReportingData` unchanged."""

    collator: GroundingCollator

    def __call__(self, examples: list[dict[str, Any]] | ValueError) -> dict[str, torch.Tensor] | ValueError:
        return examples if isinstance(examples, ValueError) else self.collator(examples)


def _depend_on_parent(worker: int) -> None:
    """Make a worker ignore signals, and end when its parent does.

    A terminal or scheduler signals all processes, but the parent needs its workers to finish the step. If the parent is
    killed, its workers must end: they occupy memory and hold the lock on the run's folder.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere workers are not forked
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


__all__ = ["GroundingData", "count_labels", "make_loader"]
