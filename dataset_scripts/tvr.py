"""TVR (Lei et al., ECCV 2020): sentences about clips of TV shows, for retrieval from the whole corpus.

Notes:
- A sentence has one moment in one video of some 75 s, a cut of an episode; in the val split every video has five.
- `type` is the domain: the sentence is answered by the video (`v`), the subtitles (`t`) or both (`vt`).
- The test split is `test_public`: its lines hold the sentences alone. Video, duration and moments are null there, since
  the video is part of the answer.
- Many sentences end in a blank, which is removed.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .cleaning import Report
from .features import FEATURES
from .moment_lines import read_records
from .reading import Record
from .videos import VideoFolder


__all__ = ["TVR"]

TASK = ["moment_retrieval"]
TYPES = ("v", "t", "vt")
ANSWER_FIELDS = ("vid_name", "duration", "ts")  # of which a hidden split has none


class TVR(BenchmarkBuilder):
    """Builder of TVR."""

    SPEC = BENCHMARKS["tvr"]
    FILES = {
        "train": ("tvr_train_release.jsonl",),
        "val": ("tvr_val_release.jsonl",),
        "test": ("tvr_test_public_release.jsonl",),
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in clips of TV shows for sentences, to be retrieved from all clips.",
            features=FEATURES,
            homepage="https://github.com/jayleicn/TVRetrieval",
            license="MIT",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the sentences of a file."""
        for record in read_records(path, report):
            with report.skip_errors():
                is_hidden = split == "test" and not any(map(record.has, ANSWER_FIELDS))
                answer = HIDDEN_ANSWER if is_hidden else _read_answer(record)
                example = {
                    "qid": record.identifier("desc_id"),
                    "query": record.text("desc", "a sentence"),
                    "saliency": None,
                    "task": TASK,
                    **answer,
                }
                yield record, example


HIDDEN_ANSWER = {"video_id": None, "duration_sec": None, "moments": None, "domain": None}


def _read_answer(record: Record) -> dict[str, Any]:
    """What a line says about the video in which its sentence has a moment."""
    start_and_end = record.numbers("ts")
    if len(start_and_end) != 2:
        raise record.error("ts", "a [start, end] pair of numbers")
    if record.fields.get("type") not in TYPES:
        raise record.error("type", f"one of {', '.join(TYPES)}")
    return {
        "video_id": record.text("vid_name"),
        "duration_sec": record.duration(record.number("duration", above=0)),
        "moments": [list(map(float, start_and_end))],
        "domain": record.fields["type"],
    }
