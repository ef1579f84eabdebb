"""TACoS (Regneri et al., TACL 2013), the split of 2D-TAN: sentences and their moments in cooking videos of minutes.

Notes:
- The 2D-TAN files name the video ("s34-d28.avi") and give moments in frames; seconds are frame / fps, and the duration
  is num_frames / fps. A query id is "{video}_{number of the sentence}", as in lighthouse.
- 43 moments of train end after the last frame; their ends are set to the duration.
- Pairs of video and sentence repeat (1,703 in train), and so do whole records (1,201 in train): several people described
  the same moment. They are kept and counted.
- Sentences may begin or end with whitespace; the longest has 64 words, more than CLIP's 77 tokens.
- Video files are named "{video}-cam-002".
- R2-Tuning validates on test.
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


__all__ = ["TACoS"]

TASK = ["moment_retrieval"]


class TACoS(BenchmarkBuilder):
    """Builder of TACoS, from the files of 2D-TAN or from JSON lines."""

    SPEC = BENCHMARKS["tacos"]
    FILES = {
        split: (f"{split}.json", f"{split}.jsonl", f"tacos_{split}.jsonl", f"tacos_{split}_release.jsonl")
        for split in ("train", "val", "test")
    }
    VIDEO_SUFFIX = "-cam-002"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in cooking videos for sentences.",
            features=FEATURES,
            homepage="https://www.coli.uni-saarland.de/projects/smile/tacos",
            license="MPII Cooking 2: research use only",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the sentences of a file in either format."""
        pairs = read_moment_lines(path, split, report) if is_json_lines(path) else read_frames(path, report)
        for record, example in pairs:
            yield record, {**example, "task": TASK}


def read_frames(path: str, report: Report) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Records and examples of a 2D-TAN file, {video: {"timestamps", "sentences", "fps", "num_frames"}}."""
    for video, video_id, sentences in read_videos(path, "timestamps", "sentences", report):
        with report.skip_errors():
            fps, num_frames = video.number("fps", above=0), video.number("num_frames", above=0)
            duration = video.duration(num_frames / fps)
            for number, record in enumerate(sentences):
                with report.skip_errors():
                    yield record, _read_sentence(record, f"{video_id}_{number}", video_id, fps, duration)


def _read_sentence(record: Record, qid: str, video_id: str, fps: float, duration: float) -> dict[str, Any]:
    return {
        "qid": qid,
        "query": record.text("sentence", "a sentence"),
        "video_id": video_id,
        "duration_sec": duration,
        "moments": [[start / fps, end / fps] for start, end in record.intervals("timestamps")],
        "saliency": None,
        "domain": None,
    }
