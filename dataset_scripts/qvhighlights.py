"""QVHighlights (Lei et al., NeurIPS 2021): moments and highlights of 150-second YouTube videos.

What to know of it:
- `vid` is "{YouTube id}_{start}_{end}", the seconds of the film that the video is cut from; it names the video file.
- `duration` is the length of the cut, 120 to 150 s and even; end - start of `vid` may be longer.
- A query has one to 25 moments, in order and without overlap, made of whole clips of two seconds.
- The release scores only the clips inside moments, 0 (very bad) to 4 (very good) by three people. Here every clip has a
  row, [0, 0, 0] outside. 140 queries of train and 35 of val have no clip that anybody found very good.
- Test came without moments and scores until its server closed; the public ground truth is read where it is held.
  Of several files for test, one with ground truth is taken.
"""

from collections.abc import Iterator

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
        """Path of the annotations of a split; for test, a file with ground truth comes first."""
        if split != "test" or self.config.data_files is not None:
            return super().find_file(split)
        paths = find_files(self.config.data_dir, self.FILES[split])
        return next((path for path in paths if holds_moments(path)), next(iter(paths), None))

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict]]:
        """Yield the queries of a file."""
        for record, example in read_moment_lines(path, split, report):
            yield record, {**example, "task": TASK}
