"""TimeLens-Bench (Zhang et al., 2025): three test sets annotated again, Charades-STA, ActivityNet Captions, QVHighlights.

Notes:
- Each source has a file, `{source}-timelens.json`: {video: {"duration", "spans", "queries"}}, one span for a query. The
  source is the domain; all files of a folder are read together, and may be loaded and scored one by one.
- As in the public reader, blanks inside a query become one, and blanks and full stops at both ends are removed.
- A query id is "{video}_{number of the query}"; the release has none.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder, BenchmarkConfig
from .cleaning import Report
from .features import FEATURES
from .reading import Record, find_files
from .sentence_lists import read_videos
from .videos import VideoFolder


__all__ = ["TimeLensBench"]

TASK = ["moment_retrieval"]
SOURCES = ("charades", "activitynet", "qvhighlights")
FILE_NAMES = {source: f"{source}-timelens.json" for source in SOURCES}


class TimeLensBench(BenchmarkBuilder):
    """Builder of TimeLens-Bench: one source, or all whose files are in the folder."""

    SPEC = BENCHMARKS["timelens_bench"]
    BUILDER_CONFIGS = [BenchmarkConfig(name=name) for name in ("all", *SOURCES)]
    DEFAULT_CONFIG_NAME = "all"
    FILES = {"test": tuple(FILE_NAMES.values())}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments for sentences in videos of three benchmarks, annotated again.",
            features=FEATURES,
            homepage="https://github.com/TencentARC/TimeLens",
            license="unknown",
        )

    def file_names(self, split: str) -> tuple[str, ...]:
        """Names of the files of the chosen sources."""
        if self.config.name == "all":
            return self.FILES[split]
        return (FILE_NAMES[self.config.name],)

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of the chosen sources."""
        paths = [path]
        if self.config.data_files is None:
            paths = find_files(self.config.data_dir, self.file_names(split))
        for source_path in paths:
            yield from _read_source(source_path, self._source(source_path), report)

    def _source(self, path: str) -> str | None:
        """The source of a file: the chosen one, or that in its name; `None` if neither says."""
        if self.config.name != "all":
            return self.config.name
        names = {name: source for source, name in FILE_NAMES.items()}
        return names.get(os.path.basename(path).removesuffix(".gz"))


def _read_source(path: str, source: str | None, report: Report) -> Iterator[tuple[Record, dict[str, Any]]]:
    for video, video_id, queries in read_videos(path, "spans", "queries", report):
        with report.skip_errors():
            duration = video.duration(video.number("duration", above=0))
            for number, record in enumerate(queries):
                with report.skip_errors():
                    example = {
                        "qid": f"{video_id}_{number}",
                        "query": _tidy(record, report),
                        "video_id": video_id,
                        "duration_sec": duration,
                        "moments": record.intervals("spans"),
                        "saliency": None,
                        "domain": source,
                        "task": TASK,
                    }
                    yield record, example


def _tidy(record: Record, report: Report) -> str:
    """The query as the public reader gives it."""
    query = record.text("sentence", "a query")
    tidied = re.sub(r"\s+", " ", query).strip().strip(".").strip()
    if not tidied:
        raise record.error("sentence", "a query of more than full stops")
    report.change("queries stripped of repeated blanks and of full stops at their ends", tidied != query)
    return tidied
