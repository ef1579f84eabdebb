"""QV-M2 (2025): QVHighlights with further queries, of which most have several moments.

Notes:
- The fields are those of QVHighlights. The val split holds all 1,550 val queries of QVHighlights and 229 new ones; the
  test split 323 new ones.
- The new queries have `relevant_clip_ids` but no `saliency_scores`: their saliency is null, and they serve moment
  retrieval alone.
- Every query has a moment, at most 25. Moments may touch.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .cleaning import Report
from .features import FEATURES
from .moment_lines import read_moment_lines
from .reading import Record
from .videos import VideoFolder


__all__ = ["QVM2"]

TASK = ["moment_retrieval", "highlight_detection"]
TASK_WITHOUT_SCORES = ["moment_retrieval"]


class QVM2(BenchmarkBuilder):
    """Builder of QV-M2."""

    SPEC = BENCHMARKS["qv_m2"]
    FILES = {
        split: (f"{split}.jsonl", f"QV-M2/{split}.jsonl", f"qv_m2_{split}.jsonl") for split in ("train", "val", "test")
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Several moments in YouTube videos for each natural-language query.",
            features=FEATURES,
            homepage="https://github.com/Zhuo-Cao/QV-M2",
            license="CC BY-NC-SA 4.0",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of a file."""
        for record, example in read_moment_lines(path, split, report, scores_required=False):
            task = TASK_WITHOUT_SCORES if example["saliency"] is None else TASK
            yield record, {**example, "task": task}
