"""ActivityNet Captions (Krishna et al., ICCV 2017): sentences and their moments in YouTube videos of up to 13 minutes.

Notes:
- The files are one document a split, {video: {"duration", "timestamps", "sentences"}}, or lighthouse's JSON lines.
- Two annotators described the same videos: `val_1` and `val_2`. As in 2D-TAN, the first is the val split and the second
  the test split, so that their videos are the same.
- Moments of the release are cleaned as those of other benchmarks, and counted: in train two are reversed and two have no
  length, and 261 end up to 0.01 s after the video; 134 in val and 111 in test.
- Most sentences begin with a blank, which is removed. The longest, in val, has 82 words, more than CLIP's 77 tokens.
- A query id is "{video}_{number of the sentence}"; lighthouse numbers the sentences of all splits from 0.
"""

from collections.abc import Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .cleaning import Report
from .features import FEATURES
from .moment_lines import read_moment_lines
from .reading import Record, is_json_lines
from .sentence_lists import read_videos
from .videos import VideoFolder


__all__ = ["ActivityNetCaptions"]

TASK = ["moment_retrieval"]
LINES = ("activitynet_{split}_release.jsonl", "activitynet_{split}.jsonl", "activitynet_captions_{split}.jsonl")


class ActivityNetCaptions(BenchmarkBuilder):
    """Builder of ActivityNet Captions, from the release, the files of 2D-TAN or JSON lines."""

    SPEC = BENCHMARKS["activitynet_captions"]
    FILES = {
        split: (*documents, *(name.format(split=split) for name in LINES))
        for split, documents in {
            "train": ("train.json",),
            "val": ("val.json", "val_1.json"),
            "test": ("test.json", "val_2.json"),
        }.items()
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in YouTube videos of human activities for sentences.",
            features=FEATURES,
            homepage="https://cs.stanford.edu/people/ranjaykrishna/densevid",
            license="none stated",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the sentences of a file in either format."""
        pairs = read_moment_lines(path, split, report) if is_json_lines(path) else read_captions(path, report)
        for record, example in pairs:
            yield record, {**example, "task": TASK}


def read_captions(path: str, report: Report) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Records and examples of a document, {video: {"duration", "timestamps", "sentences"}}."""
    for video, video_id, sentences in read_videos(path, "timestamps", "sentences", report):
        with report.skip_errors():
            duration = video.duration(video.number("duration", above=0))
            for number, record in enumerate(sentences):
                with report.skip_errors():
                    example = {
                        "qid": f"{video_id}_{number}",
                        "query": record.text("sentence", "a sentence"),
                        "video_id": video_id,
                        "duration_sec": duration,
                        "moments": record.intervals("timestamps"),
                        "saliency": None,
                        "domain": None,
                    }
                    yield record, example
