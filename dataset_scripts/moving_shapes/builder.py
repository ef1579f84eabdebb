"""Moving Shapes, the benchmark that `python -m dataset_scripts.moving_shapes` generates.

Notes:
- Queries are in the format of QVHighlights; the family of a query is its domain. The parts "main" and "hard" can be
  loaded in place of a family. Moments start and end on quarters of a second, mostly on whole seconds.
- The queries of "test_unseen" are about combinations of colour and shape that occur in no other split.
- Absent queries, which nothing in the video matches, are in files of their own. The benchmark `moving_shapes_absent` joins
  them with the present ones; their domain is "family/kind". 40 % of its queries are absent.
- Titles and the importance of shots, as in TVSum, are a benchmark of their own, `moving_shapes_summary`.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import datasets

from dataset_scripts.benchmarks import BENCHMARKS, FAMILIES, UNIT_SEC, absent_domains
from dataset_scripts.builder import BenchmarkBuilder, BenchmarkConfig
from dataset_scripts.cleaning import Report
from dataset_scripts.features import FEATURES
from dataset_scripts.moment_lines import read_moment_lines, read_records
from dataset_scripts.reading import Record, find_files
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


class MovingShapesAbsent(BenchmarkBuilder):
    """Builder of the present and absent queries of Moving Shapes together, video by video.

    The file of a split holds the absent queries; the present ones are read from `moving_shapes_{split}.jsonl` beside it. A
    file passed as `data_files` is read alone and may hold both.
    """

    SPEC = BENCHMARKS["moving_shapes_absent"]
    BUILDER_CONFIGS = [BenchmarkConfig(name=name) for name in SPEC.parts]
    DEFAULT_CONFIG_NAME = "all"
    FILES = {split: (f"moving_shapes_absent_{split}.jsonl",) for split in SPLITS}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in generated videos of moving shapes, and queries that nothing matches.",
            features=FEATURES,
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of the chosen part: those of a video one after the other, the present ones first."""
        paths = [path]
        if self.config.data_files is None:
            paths = [self._find_present(path, split), path]
        of_videos: dict[str, list[tuple[Record, dict[str, Any]]]] = {}
        for one in paths:
            for record, example in read_moment_lines(one, split, report):
                of_videos.setdefault(example["video_id"], []).append((record, example))
        for record, example in chain.from_iterable(of_videos.values()):
            with report.skip_errors():
                domain = _read_domain(record, example)
                if domain in self.SPEC.parts[self.config.name]:
                    tasks = ["moment_retrieval"]
                    if example["saliency"] is not None:
                        tasks.append("highlight_detection")
                    yield record, {**example, "domain": domain, "task": tasks}

    def _find_present(self, path: str, split: str) -> str:
        """Path of the present queries that belong to the absent ones in `path`."""
        folder, name = Path(path).parent, MovingShapes.FILES[split]
        found = find_files(folder, name)
        if not found:
            raise FileNotFoundError(
                f"'{path}' holds only absent queries and '{folder / name[0]}' with the present ones is missing. Run "
                "`python -m dataset_scripts.moving_shapes` again, which writes both and keeps existing videos."
            )
        return found[0]


def _read_domain(record: Record, example: dict[str, Any]) -> str:
    """The domain of a query, which must agree with whether it has moments."""
    absent = example["moments"] == []
    choices = absent_domains() if absent else FAMILIES
    expected = f"one of {', '.join(choices)}, as the query has {'no moments' if absent else 'moments'}"
    domain = record.text("domain", expected)
    if domain not in choices:
        raise record.error("domain", expected)
    return domain


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


__all__ = ["MovingShapes", "MovingShapesAbsent", "MovingShapesSummary"]
