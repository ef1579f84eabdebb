"""Charades-STA (Gao et al., ICCV 2017): sentences and their moments in videos of daily life, 30 s each.

Notes:
- The release is text, `VID start end##sentence`, in seconds. It has no query ids: the line number, from 0, is used. It
  has no durations: they come from the column `length` of `Charades_v1_{train,test}.csv`, the tables of Charades, or else
  from the video files.
- In four lines of train the end is before the start: LEOL6 8.0 7.0, IOL8Q 20.9 12.0, AKKWU 38.0 13.0 (twice). They are
  swapped here, as R2-Tuning does with reversed moments. All but the second then lie after the end of their video: an
  empty moment at the end remains, one second long in training. lighthouse dropped the four, so its query ids, from 0 to
  12,403, differ from ours after line 8,250.
- 1,805 ends of train lie after the end of the video (by up to 1.54 s, apart from those four); they are set to the
  duration.
- There is no val split; methods are validated on test.
"""

import csv
import io
import os
from collections.abc import Iterator
from typing import Any

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
TABLE_NAMES = ("Charades_v1_train.csv", "Charades_v1_test.csv")
TABLES = (*TABLE_NAMES, *(f"Charades/{name}" for name in TABLE_NAMES))
EXPECTED_LINE = "`VIDEO start end##sentence`, the times in seconds"


class CharadesSTA(BenchmarkBuilder):
    """Builder of Charades-STA, from the release (with the tables of Charades) or from JSON lines."""

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
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the sentences of a file in either format."""
        _, first = next(read_lines(path))
        if first.lstrip().startswith(b"{"):
            pairs = read_moment_lines(path, split, report)
        else:
            pairs = self._read_release(path, videos, report)
        for record, example in pairs:
            yield record, {**example, "task": TASK}

    def _read_release(self, path: str, videos: VideoFolder, report: Report) -> Iterator[tuple[Record, dict[str, Any]]]:
        lengths = read_lengths(os.path.dirname(path), self.config.data_dir)
        for number, line in read_lines(path):
            with report.skip_errors():
                record = parse_line(decode(line, f"{path}, line {number}"), f"{path}, line {number}")
                video_id = record.fields["video"]
                duration = find_duration(video_id, lengths, videos, record)
                if duration is None:
                    continue  # the video is missing, and reported with all missing videos
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
    """Split a line of the release into its fields."""
    head, separator, sentence = line.partition("##")
    words = head.split()
    if not separator or len(words) != 3:
        raise AnnotationError(f"{place}: found {line[:60]!r}, expected {EXPECTED_LINE}")
    fields: dict[str, Any] = {"video": words[0], "sentence": sentence}
    for name, word in zip(("start", "end"), words[1:], strict=True):
        number = parse_number(word)
        fields[name] = word if number is None else number  # a word is refused when the field is read
    return Record(fields, place)


def read_lengths(*folders: str | None) -> dict[str, Record]:
    """Rows of the Charades tables in the folders, by video id, with the column `length`."""
    paths = []
    for folder in folders:
        if folder is not None:
            paths += find_files(folder, TABLES)
    rows: dict[str, Record] = {}
    for path in dict.fromkeys(paths):
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
    """Length of a video in seconds, from the tables or else the video file; `None` if the file is missing."""
    if video_id in lengths:
        row = lengths[video_id]
        return row.duration(row.number("length", above=0, spelled=True))
    if videos.folder is None:
        raise AnnotationError(
            f"{record.place}: found no duration for video '{video_id}'; put Charades_v1_train.csv and "
            "Charades_v1_test.csv, the tables of Charades, next to the annotations, or pass the folder of the videos "
            "as `video_dir`"
        )
    facts = videos.facts(video_id)
    return None if facts is None else record.duration(facts.duration_sec)
