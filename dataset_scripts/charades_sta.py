"""Charades-STA (Gao et al., ICCV 2017): sentences and their moments in the videos of Charades, 30 s of daily life.

What to know of it:
- The release is text, `VID start end##sentence`, in seconds. It has no query ids: the number of the line, from 0, is
  taken. It has no durations: they come from the column `length` of `Charades_v1_{train,test}.csv`, the tables of
  Charades, or else from the video files.
- Four lines of train have the end before the start: LEOL6 8.0 7.0, IOL8Q 20.9 12.0, AKKWU 38.0 13.0 (twice). They are
  swapped here, as R2-Tuning does with reversed windows. All but the second then lie after the end of their video: a
  moment of no length at the end is left, a second in training. lighthouse dropped the four, so that its query ids, from
  0 to 12,403, differ from ours after line 8,250.
- 1,805 ends of train lie after the end of the video (by up to 1.54 s, the four aside); they are cut.
- There is no val split; methods are validated on test.
"""

import csv
import io
import os
from collections.abc import Iterator

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .cleaning import Report
from .features import FEATURES
from .moment_lines import read_moment_lines
from .reading import AnnotationError, Record, decode, find_files, parse_number, read_lines, read_text
from .videos import VideoFolder


__all__ = ["CharadesSTA"]

TASK = ["moment_retrieval"]
TABLES = tuple(f"{folder}Charades_v1_{split}.csv" for folder in ("", "Charades/") for split in ("train", "test"))
EXPECTED_LINE = "`VIDEO start end##sentence`, the times in seconds"


class CharadesSTA(BenchmarkBuilder):
    """Builder of Charades-STA from the release (with the tables of Charades) or from JSON lines."""

    SPEC = BENCHMARKS["charades_sta"]
    FILES = {
        split: (
            f"charades_sta_{split}.txt",
            f"charades_{split}.jsonl",
            f"charades_sta_{split}.jsonl",
            f"charades_{split}_release.jsonl",
        )
        for split in ("train", "test")
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Moments in videos of indoor activities for sentences.",
            features=FEATURES,
            homepage="https://github.com/jiyanggao/TALL",
            license="Charades: non-commercial use only",
        )

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict]]:
        """Yield the sentences of a file of either form."""
        _, first = next(read_lines(path))
        if first.lstrip().startswith(b"{"):
            pairs = read_moment_lines(path, split, report)
        else:
            pairs = self._read_release(path, videos, report)
        for record, example in pairs:
            yield record, {**example, "task": TASK}

    def _read_release(self, path: str, videos: VideoFolder, report: Report) -> Iterator[tuple[Record, dict]]:
        lengths = read_lengths(os.path.dirname(path), self.config.data_dir)
        for number, line in read_lines(path):
            with report.skip_errors():
                record = parse_line(decode(line, f"{path}, line {number}"), f"{path}, line {number}")
                video_id = record.fields["video"]
                duration = find_duration(video_id, lengths, videos, record)
                if duration is None:
                    continue  # a missing video, which is reported with the others
                example = {
                    "qid": str(number - 1),
                    "query": record.text("sentence", "a sentence"),
                    "video_id": video_id,
                    "duration_sec": duration,
                    "moments": [[record.number("start"), record.number("end")]],
                    "saliency": None,
                    "domain": None,
                }
                yield record, example


def parse_line(line: str, place: str) -> Record:
    """Parts of a line of the release."""
    head, separator, sentence = line.partition("##")
    words = head.split()
    if not separator or len(words) != 3:
        raise AnnotationError(f"{place}: found {line[:60]!r}, expected {EXPECTED_LINE}")
    video, *times = words
    numbers = [parse_number(time) for time in times]
    start, end = (time if number is None else number for time, number in zip(times, numbers, strict=True))
    return Record({"video": video, "start": start, "end": end, "sentence": sentence}, place)


def read_lengths(*folders: str | None) -> dict[str, Record]:
    """Rows of the tables of Charades that lie in the folders, by video id, with the column `length`."""
    rows = {}
    for path in dict.fromkeys(path for folder in folders if folder is not None for path in find_files(folder, TABLES)):
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        try:
            for row in reader:
                record = Record(row, f"{path}, line {reader.line_num}")
                if not {"id", "length"} <= row.keys():
                    raise AnnotationError(f"{path}: found the columns {list(row)}, expected `id` and `length`")
                rows.setdefault(row["id"], record)
        except csv.Error as error:
            raise AnnotationError(f"{path}, line {reader.line_num}: found a broken table ({error})") from error
    return rows


def find_duration(video_id: str, lengths: dict[str, Record], videos: VideoFolder, record: Record) -> float | None:
    """Length of a video in seconds, by the tables or else the file; `None` if the file is missing."""
    if video_id in lengths:
        row = lengths[video_id]
        return row.duration(row.number("length", above=0, spelled=True))
    if videos.folder is None:
        raise AnnotationError(
            f"{record.place}: found no duration for video '{video_id}'; put Charades_v1_train.csv and "
            "Charades_v1_test.csv, the tables of Charades, beside the annotations, or pass the folder of the videos "
            "as `video_dir`"
        )
    facts = videos.facts(video_id)
    return None if facts is None else record.duration(facts.duration_sec)
