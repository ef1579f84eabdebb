"""VUE-TR (ByteDance, 2025): moments in YouTube videos of half a minute to two hours, for keywords, phrases and sentences.

Notes:
- There is one file, without training queries; here it is the test split. Version 2 (`VUE-TRv2_ground_truth.json`) has the
  same fields.
- A query has one moment or several, which are in order and disjoint; most are whole seconds.
- The domain joins the three categories by which the public code reports scores: the length of the video (`ultra-short`,
  `short`, `medium`, `long`, `ultra-long`), the form of the query (`keyword`, `phrase`, `sentence`) and what it is about
  (`vision`, `audio`, `vision+audio`), as in "long/phrase/vision+audio".
"""

from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .cleaning import Report
from .features import FEATURES
from .reading import AnnotationError, Record, read_json
from .videos import VideoFolder


__all__ = ["CATEGORIES", "VUETR"]

TASK = ["moment_retrieval"]
TASK_NAME = "temporal_retrieval"
# The fields that make up the domain, in this order, and their values.
CATEGORIES = {
    "duration_category": ("ultra-short", "short", "medium", "long", "ultra-long"),
    "query_format": ("keyword", "phrase", "sentence"),
    "query_modality": ("vision", "audio", "vision+audio"),
}


class VUETR(BenchmarkBuilder):
    """Builder of VUE-TR, version 1 or 2."""

    SPEC = BENCHMARKS["vue_tr"]
    FILES = {"test": ("VUE-TR_ground_truth.json", "VUE-TRv2_ground_truth.json")}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in short to very long YouTube videos for keywords, phrases and sentences.",
            features=FEATURES,
            homepage="https://github.com/bytedance/vidi",
            license="CC BY-NC 4.0",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of the file."""
        rows = read_json(path)
        if not isinstance(rows, list):
            raise AnnotationError(f"{path}: found a JSON document of another form, expected a list of queries")
        for number, fields in enumerate(rows):
            with report.skip_errors():
                record = Record(fields, f"{path}, query {number}")
                yield record, _read_query(record)


def _read_query(record: Record) -> dict[str, Any]:
    if record.fields.get("task") != TASK_NAME:
        raise record.error("task", f"'{TASK_NAME}'")
    categories = []
    for field, values in CATEGORIES.items():
        if record.fields.get(field) not in values:
            raise record.error(field, f"one of {', '.join(values)}")
        categories.append(record.fields[field])
    return {
        "qid": record.identifier("query_id"),
        "query": record.text("query"),
        "video_id": record.text("video_id"),
        "duration_sec": record.duration(record.number("duration", above=0)),
        "moments": record.intervals("gt"),
        "saliency": None,
        "domain": "/".join(categories),
        "task": TASK,
    }
