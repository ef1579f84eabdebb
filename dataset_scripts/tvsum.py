"""TVSum (Song et al., CVPR 2015): twenty people rated how important every two seconds of 50 YouTube videos are.

Notes:
- There are no queries: the title of the video serves as the query.
- The release has a score from 1 to 5 for every frame, constant over shots of two seconds, in MATLAB v7.3
  (`ydata-tvsum50.mat`) or in two tables; `tvsum_anno.json` has the shots. Here a row is a shot: the score in the middle
  of its two seconds, for floor(duration / 2) shots. The rest of the video, less than two seconds, has no row.
- The .mat holds lengths of the container, some hundredths of a second longer than the video stream, and the tables whole
  seconds. The frame rate is found among the usual ones from the times at which the scores change; the duration is the
  number of frames divided by it. WG0MBPpPC6I and Se3oxnaPsz0 are then one frame shorter than in `tvsum_anno.json`.
- Titles with a comma are quoted in the .mat, and two titles hold bytes of UTF-8 in place of characters. Both are repaired.
- lighthouse's lines, `tvsum_{split}_release.jsonl`, hold the videos of one split each, with the shots as `label`. Where
  `duration` counts shots, as in the files that they derive from, it is doubled.
- The published split has 4 training videos and 1 validation video in each of the ten domains.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import datasets

from .benchmarks import BENCHMARKS, UNIT_SEC
from .builder import BenchmarkBuilder, BenchmarkConfig
from .cleaning import Report, unquote_title
from .features import FEATURES
from .moment_lines import read_lighthouse_lines
from .reading import Record, is_json_lines, read_json, read_lines
from .splits import TVSUM, read_splits, select_videos
from .tvsum_release import is_mat_file, read_mat, read_tables
from .videos import VideoFolder


__all__ = ["TVSum"]

NUM_ANNOTATORS = 20
TABLE = "ydata-tvsum50-anno.tsv"
MAT_FILE = "ydata-tvsum50.mat"


class TVSum(BenchmarkBuilder):
    """Builder of TVSum, from the release, `tvsum_anno.json` or lighthouse's lines; one domain or all."""

    SPEC = BENCHMARKS["tvsum"]
    BUILDER_CONFIGS = [BenchmarkConfig(name=name) for name in ("all", *SPEC.domains)]
    DEFAULT_CONFIG_NAME = "all"
    FILES = {
        split: (
            MAT_FILE,
            f"matlab/{MAT_FILE}",
            TABLE,
            f"data/{TABLE}",
            "tvsum_anno.json",
            f"tvsum_{split}_release.jsonl",
        )
        for split in ("train", "val")
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Importance of every two seconds of a video, rated by twenty people.",
            features=FEATURES,
            homepage="https://github.com/yalesong/tvsum",
            license="videos: CC BY 3.0",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the annotated videos of a split."""
        if not is_mat_file(path) and is_json_lines(path):
            yield from read_lighthouse_lines(path, self.config.name, read_line, TVSUM, report)
            return
        annotations = read_annotations(path, report)
        splits = read_splits(self.config.data_dir, TVSUM)
        for domain, video_id in select_videos(splits, self.config.name, split, annotations, report):
            with report.skip_errors():
                record = Record(annotations[video_id], f"{path}, video '{video_id}'")
                yield record, read_video(record, video_id, domain, report)


def read_annotations(path: str, report: Report) -> Mapping[str, Any]:
    """Annotations of all videos by id, in the layout of `tvsum_anno.json`, from any format but JSON lines."""
    if is_mat_file(path):
        return read_mat(path)
    _, first = next(read_lines(path))
    if first.lstrip().startswith(b"{"):
        return Record(read_json(path), path).fields
    return read_tables(path, report)


def read_video(record: Record, video_id: str, domain: str, report: Report) -> dict[str, Any]:
    """The example of one video."""
    fps, num_frames = record.number("fps", above=0), record.number("frames", above=0, spelled=True)
    if record.text("domain") != domain:
        raise record.error("domain", f"'{domain}', as in the split")
    duration = record.duration(num_frames / fps)
    scores = _read_scores(record, "anno", math.ceil(duration / UNIT_SEC))
    return _make_example(video_id, record.text("title", blank=True), duration, scores, domain, report)


def read_line(record: Record, video_id: str, domain: str, report: Report) -> dict[str, Any]:
    """The example of one of lighthouse's lines."""
    duration, scores = record.number("duration", above=0), record.items("label")
    counts_shots = duration == len(scores)
    report.change("durations converted from shots to seconds", counts_shots)
    duration = record.duration(UNIT_SEC * duration if counts_shots else duration)
    scores = _read_scores(record, "label", math.ceil(duration / UNIT_SEC))
    return _make_example(video_id, record.text("query", "a title"), duration, scores, domain, report)


def _read_scores(record: Record, field: str, num_shots: int) -> list[list[float]]:
    scale = TVSum.SPEC.saliency
    scores = record.scores(field, scale.lowest, scale.highest)
    if not 0 < len(scores) <= num_shots or len(scores[0]) != NUM_ANNOTATORS:
        raise record.error(field, f"{NUM_ANNOTATORS} scores for each of at most {num_shots} shots")
    return scores


def _make_example(
    video_id: str, title: str, duration: float, scores: list[list[float]], domain: str, report: Report
) -> dict[str, Any]:
    report.note("videos have a blank title", not title.strip())
    return {
        "qid": video_id,
        "query": unquote_title(title, report),
        "video_id": video_id,
        "duration_sec": duration,
        "moments": None,
        "saliency": {
            "times_sec": [[UNIT_SEC * shot, UNIT_SEC * (shot + 1)] for shot in range(len(scores))],
            "scores": scores,
        },
        "domain": domain,
        "task": ["video_summarization"],
    }
