"""Ego4D natural language queries (Grauman et al., CVPR 2022): questions about egocentric videos.

Notes:
- A video has cuts ("clips") of about eight minutes; a cut has annotations, each with a list of queries. Here the cut is
  the video: `video_id` is its clip_uid, times are relative to its start, and the files of the release have its name.
- A query id is "{clip_uid}_{annotation_uid}_{index in the list}", as in the official code.
- Some entries have no query, or null (five in v1 train, one in v1 val); they are left out and counted.
- Many moments are empty (about 14 % of v1 are near zero); some end after the cut.
- The test split has no times.
- v2 has the same nesting. Its texts may still start with the label of the annotators' form ("Query Text:Where is ..."),
  which is removed; its field `answer` is not used.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .cleaning import Report
from .features import FEATURES
from .moment_lines import read_moment_lines
from .reading import Record, is_json_lines, read_json
from .videos import VideoFolder


__all__ = ["Ego4DNLQ"]

TASK = ["moment_retrieval"]
FORM_LABEL = "Query Text:"


class Ego4DNLQ(BenchmarkBuilder):
    """Builder of Ego4D-NLQ from the official files, v1 or v2, or from JSON lines."""

    SPEC = BENCHMARKS["ego4d_nlq"]
    FILES = {
        "train": ("nlq_train.json", "nlq_train_v2.json", "nlq_train.jsonl", "ego4d_nlq_train.jsonl"),
        "val": ("nlq_val.json", "nlq_val_v2.json", "nlq_val.jsonl", "ego4d_nlq_val.jsonl"),
        "test": (
            "nlq_test.json",
            "nlq_test_unannotated.json",
            "nlq_test_unannotated_v2.json",
            "nlq_test.jsonl",
            "ego4d_nlq_test.jsonl",
        ),
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in egocentric videos that answer a question.",
            features=FEATURES,
            homepage="https://ego4d-data.org",
            license="Ego4D licence agreement: not to be redistributed",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of a file in either format."""
        read = read_moment_lines if is_json_lines(path) else read_cuts
        for record, example in read(path, split, report):
            yield record, {**example, "task": TASK}


def read_cuts(path: str, split: str, report: Report) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Records and examples of an official file."""
    for _, video in _children(Record(read_json(path), path), "videos", report):
        for _, cut in _children(video, "clips", report):
            for _, annotation in _children(cut, "annotations", report):
                with report.skip_errors():
                    yield from _read_annotation(cut, annotation, split, report)


def _read_annotation(
    cut: Record, annotation: Record, split: str, report: Report
) -> Iterator[tuple[Record, dict[str, Any]]]:
    cut_uid, annotation_uid = cut.text("clip_uid"), annotation.text("annotation_uid")
    duration = _cut_duration(cut)
    for index, query in _children(annotation, "language_queries", report):
        with report.skip_errors():
            if not _has_query(query, report):
                continue
            example = {
                "qid": f"{cut_uid}_{annotation_uid}_{index}",
                "query": _remove_label(query.text("query"), report),
                "video_id": cut_uid,
                "duration_sec": duration,
                "moments": _read_moments(query, split),
                "saliency": None,
                "domain": None,
            }
            yield query, example


def _children(parent: Record, field: str, report: Report) -> Iterator[tuple[int, Record]]:
    """Positions and records of a list inside a record."""
    with report.skip_errors():
        for number, fields in enumerate(parent.items(field)):
            with report.skip_errors():
                yield number, Record(fields, f"{parent.place}, {field}[{number}]")


def _cut_duration(cut: Record) -> float:
    """Length of a cut, from its own times or from its times in the video it was cut from."""
    times = "clip" if cut.has("clip_end_sec") else "video"
    duration = cut.number(f"{times}_end_sec") - cut.number(f"{times}_start_sec")
    if duration <= 0:
        raise cut.error(f"{times}_end_sec", "an end after the start")
    return cut.duration(duration)


def _has_query(record: Record, report: Report) -> bool:
    query = record.fields.get("query")
    is_blank = isinstance(query, str) and not query.removeprefix(FORM_LABEL).strip()
    missing = query is None or is_blank
    report.change("entries without a query left out", missing)
    return not missing


def _remove_label(query: str, report: Report) -> str:
    report.change("labels of the annotation form removed from queries", query.startswith(FORM_LABEL))
    return query.removeprefix(FORM_LABEL)


def _read_moments(record: Record, split: str) -> list[list[float]] | None:
    if split == "test" and not (record.has("clip_start_sec") or record.has("clip_end_sec")):
        return None
    return [[record.number("clip_start_sec"), record.number("clip_end_sec")]]
