"""Reading Moving Shapes, the benchmark that `python -m dataset_scripts.moving_shapes` generates, into the schema.

What to know of it:
- Queries are in the form of QVHighlights; the family of a query is its domain. The parts "main" and "hard" may be asked
  for in place of a family. Moments lie on quarters of a second,
  mostly on whole seconds.
- "test_unseen" asks for combinations of colour and shape that are in no other split.
- Titles and the importance of shots, as in TVSum, are a benchmark of their own, `moving_shapes_summary`.
"""

from collections.abc import Iterator

import datasets

from dataset_scripts.benchmarks import BENCHMARKS, UNIT_SEC
from dataset_scripts.builder import BenchmarkBuilder, BenchmarkConfig
from dataset_scripts.cleaning import Report
from dataset_scripts.features import FEATURES
from dataset_scripts.moment_lines import read_moment_lines, read_records
from dataset_scripts.reading import Record
from dataset_scripts.videos import VideoFolder

from .queries import HARD_FAMILIES, MAIN_FAMILIES, QUERIES_PER_VIDEO
from .scenes import SPLITS


PARTS = {"all": tuple(QUERIES_PER_VIDEO), "main": MAIN_FAMILIES, "hard": HARD_FAMILIES}
PARTS |= {family: (family,) for family in QUERIES_PER_VIDEO}


class MovingShapes(BenchmarkBuilder):
    """Builder of the queries of Moving Shapes; a family, the main or the hard part, or all."""

    SPEC = BENCHMARKS["moving_shapes"]
    BUILDER_CONFIGS = [BenchmarkConfig(name=name) for name in PARTS]
    DEFAULT_CONFIG_NAME = "all"
    FILES = {split: (f"moving_shapes_{split}.jsonl",) for split in SPLITS}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments and highlights in generated videos of moving shapes.", features=FEATURES
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict]]:
        """Yield the queries of the chosen part."""
        for record, example in read_moment_lines(path, split, report):
            domain = record.text("domain", f"one of {', '.join(QUERIES_PER_VIDEO)}")
            if domain in PARTS[self.config.name]:
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
    ) -> Iterator[tuple[Record, dict]]:
        """Yield the videos of a file."""
        for record in read_records(path, report):
            with report.skip_errors():
                yield record, _read_summary(record)


def _read_summary(record: Record) -> dict:
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


__all__ = ["PARTS", "MovingShapes", "MovingShapesSummary"]
