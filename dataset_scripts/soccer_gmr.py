"""Soccer-GMR (2026): queries about soccer videos of up to 210 s that any number of moments match, or none.

Notes:
- There are two sets of labels: "standard", for evaluation, and "full", for studies of scale. They have query ids of
  their own, and no video is in different splits of the two.
- About half of the queries match nothing: `relevant_windows` is empty. The others have up to six moments, which may
  overlap; most last some seconds.
- The kind of action (`corner kick`, `foul committed`; 20 kinds in "standard", 29 in "full", which spells some of them in
  two ways) is the domain.
- `vid` ends in .mp4 or .mkv for most videos of "full" and never in "standard". The extension is removed, so that a
  video has one name; 54 videos of the full val split then have one name where they had two, and 47 of those have
  durations that differ by less than a second.
- Pairs of video and query repeat (24 in the standard train split, 5 in val), always with the same moments. They are kept
  and counted.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder, BenchmarkConfig
from .cleaning import Report
from .features import FEATURES
from .moment_lines import read_moment_lines
from .reading import Record
from .videos import VideoFolder, strip_extension


__all__ = ["SoccerGMR"]

TASK = ["moment_retrieval"]


class SoccerGMR(BenchmarkBuilder):
    """Builder of Soccer-GMR: the labels "standard", which is the default, or "full"."""

    SPEC = BENCHMARKS["soccer_gmr"]
    BUILDER_CONFIGS = [BenchmarkConfig(name="standard"), BenchmarkConfig(name="full")]
    DEFAULT_CONFIG_NAME = "standard"
    FILES = {
        split: (f"Standard/{split}.jsonl", f"standard_{split}.jsonl", f"{split}.jsonl")
        for split in ("train", "val", "test")
    }
    # Not "{split}.jsonl", the standard labels where both lie in one folder.
    FULL_FILES = {split: (f"Full/{split}.jsonl", f"full_{split}.jsonl") for split in FILES}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in soccer videos for queries that may match none, one or several.",
            features=FEATURES,
            homepage="https://github.com/dymm9977/generalized-moment-retrieval",
            license="MIT",
        )

    def file_names(self, split: str) -> tuple[str, ...]:
        """Names of the files of a split; they depend on the labels."""
        return self.FULL_FILES[split] if self.config.name == "full" else self.FILES[split]

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the queries of a file."""
        for record, example in read_moment_lines(path, split, report):
            with report.skip_errors():
                video_id = strip_extension(example["video_id"])
                report.change("file extensions removed from names of videos", video_id != example["video_id"])
                action = record.text("action_type", "a kind of action")
                yield record, {**example, "video_id": video_id, "domain": action, "task": TASK}
