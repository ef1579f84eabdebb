"""Moving Shapes, the benchmark that `python -m dataset_scripts.moving_shapes` generates.

Notes:
- Queries are in the format of QVHighlights; the family of a query is its domain. The parts "main" and "hard" can be
  loaded in place of a family. Moments start and end on quarters of a second, mostly on whole seconds.
- The queries of "test_unseen" are about combinations of colour and shape that occur in no other split.
- Titles and the importance of shots, as in TVSum, are a benchmark of their own, `moving_shapes_summary`.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from dataset_scripts.benchmarks import BENCHMARKS, FAMILIES, UNIT_SEC
from dataset_scripts.builder import BenchmarkBuilder, BenchmarkConfig
from dataset_scripts.cleaning import Report
from dataset_scripts.features import FEATURES
from dataset_scripts.moment_lines import read_moment_lines, read_records
from dataset_scripts.reading import Record
from dataset_scripts.videos import VideoFolder

from .scenes import SPLITS


class MovingShapes(BenchmarkBuilder):
    """Builder of the queries of Moving Shapes: one family, the main or the hard part, or all."""

    SPEC = BENCHMARKS["moving_shapes"]
    BUILDER_CONFIGS = [BenchmarkConfig(name=name) for name in SPEC.parts]
    DEFAULT_CONFIG_NAME = "all"
    FILES = {split: (f"moving_shapes_{split}.jsonl",) for split in SPLITS}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments and highlights in generated videos of moving shapes.", features=FEATURES
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of the chosen part."""
        for record, example in read_moment_lines(path, split, report):
            domain = record.text("domain", f"one of {', '.join(FAMILIES)}")
            if domain in self.SPEC.parts[self.config.name]:
                yield record, {**example, "domain": domain, "task": ["moment_retrieval", "highlight_detection"]}


class MovingShapesSummary(BenchmarkBuilder):
    """Builder of the titles and shot importances of Moving Shapes."""

    SPEC = BENCHMARKS["moving_shapes_summary"]
    FILES = {split: (f"moving_shapes_summary_{split}.jsonl",) for split in SPLITS}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Importance of every two seconds of generated videos of moving shapes.", features=FEATURES
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the videos of a file."""
        for record in read_records(path, report):
            with report.skip_errors():
                yield record, _read_summary(record)


def _read_summary(record: Record) -> dict[str, Any]:
    scale = MovingShapesSummary.SPEC.saliency
    scores = record.scores("shot_scores", scale.lowest, scale.highest)
    video_id = record.text("vid")
    return {
        "qid": video_id,
        "query": record.text("query", "a title"),
        "video_id": video_id,
        "duration_sec": record.duration(record.number("duration", above=0)),
        "moments": None,
        "saliency": {
            "times_sec": [[UNIT_SEC * shot, UNIT_SEC * (shot + 1)] for shot in range(len(scores))],
            "scores": scores,
        },
        "domain": "moving_shapes",
        "task": ["video_summarization"],
    }


__all__ = ["MovingShapes", "MovingShapesSummary"]
