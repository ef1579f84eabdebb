"""QVHighlights (Lei et al., NeurIPS 2021): moments and highlights of 150-second YouTube videos.

Notes:
- `vid` is "{YouTube id}_{start}_{end}", in seconds of the YouTube video that the cut is from; it names the video file.
- `duration` is the length of the cut: even, from 120 to 150 s; end - start of `vid` may be longer.
- A query has one to 25 moments, in order and without overlap, which consist of whole units of two seconds.
- The release scores only the units inside moments, from 0 (very bad) to 4 (very good), by three annotators. Here every
  unit has a row, which is [0, 0, 0] outside. 140 queries of train and 35 of val have no unit that anybody found very
  good.
- The test split had no public moments and scores until its server closed. If the folder holds several files for the test
  split, one with ground truth is read.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .cleaning import Report
from .features import FEATURES
from .moment_lines import holds_moments, read_moment_lines
from .reading import Record, find_files
from .videos import VideoFolder


__all__ = ["QVHighlights"]

TASK = ["moment_retrieval", "highlight_detection"]


class QVHighlights(BenchmarkBuilder):
    """Builder of QVHighlights from the release or from R2-Tuning's copy of it."""

    SPEC = BENCHMARKS["qvhighlights"]
    FILES = {
        "train": ("highlight_train_release.jsonl", "qvhighlights_train.jsonl"),
        "val": ("highlight_val_release.jsonl", "qvhighlights_val.jsonl"),
        "test": ("highlight_test_with_gt.jsonl", "highlight_test_release.jsonl", "qvhighlights_test.jsonl"),
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments and highlights in YouTube videos for natural-language queries.",
            features=FEATURES,
            homepage="https://github.com/jayleicn/moment_detr",
            license="CC BY-NC-SA 4.0",
        )

    def find_file(self, split: str) -> str | None:
        """Path of the annotations of a split; for the test split a file with ground truth is preferred."""
        if split == "test" and self.config.data_files is None:
            for path in find_files(self.config.data_dir, self.FILES[split]):
                if holds_moments(path):
                    return path
        return super().find_file(split)

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of a file."""
        for record, example in read_moment_lines(path, split, report):
            yield record, {**example, "task": TASK}
