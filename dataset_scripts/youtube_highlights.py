"""YouTube Highlights (Sun et al., ECCV 2014): which parts of a raw video were kept in an edited one.

Notes:
- There are no queries: R2-Tuning and others use the title of the video, item 5 of `info`. One title is blank and is
  replaced by the domain, since a model needs a query.
- The annotated units ("clips") are about 100 frames long and begin every 50 frames, so they overlap; a label `match` is
  1 (in the edited video), 0 (unsure) or -1 (not). Metrics count match > 0 as positive. The last units may end a few
  frames after the video.
- R2-Tuning samples one frame per unit: num_units / duration frames per second.
- `youtube_anno.json` holds the videos of all domains. The authors' release, one folder per domain and video, has the
  same labels but neither frame rates nor numbers of frames, which are read from the video files. If a folder has both,
  `youtube_anno.json` is read, since it needs no videos.
- The two are not the same benchmark: the authors' folders label all 419 videos of the split, `youtube_anno.json` 392 of
  them (and 30 that are in no split). Published scores are on the latter, so scores on the folders are not comparable.
- lighthouse's lines, `youtube_highlight_{split}_release.jsonl`, hold the videos of one split each. Their query is the
  domain, not the title, so scores on them are not comparable either.
"""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder, BenchmarkConfig
from .cleaning import Report
from .features import FEATURES
from .moment_lines import read_lighthouse_lines
from .reading import AnnotationError, Record, is_json_lines, read_json
from .splits import YOUTUBE_HIGHLIGHTS, read_splits, select_videos
from .videos import VideoFolder


__all__ = ["YouTubeHighlights"]

logger = logging.getLogger(__name__)

LABELS = "match_label.json"
TITLE = 5  # index of the title in `info`
OTHER_SCORES = (
    "The authors' folders of YouTube Highlights label all 419 videos of the split, youtube_anno.json 392. Published "
    "scores are on the latter: scores on the two are not comparable."
)


class YouTubeHighlights(BenchmarkBuilder):
    """Builder of YouTube Highlights, from `youtube_anno.json`, the authors' folders or lighthouse's lines."""

    SPEC = BENCHMARKS["youtube_highlights"]
    BUILDER_CONFIGS = [BenchmarkConfig(name=name) for name in ("all", *SPEC.domains)]
    DEFAULT_CONFIG_NAME = "all"
    # The last name stands for the authors' folders, which `find_file` finds.
    FILES = {
        split: ("youtube_anno.json", f"youtube_highlight_{split}_release.jsonl", f"DOMAIN/VIDEO/{LABELS}")
        for split in ("train", "val")
    }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Highlights of user videos, by what their owners kept when they edited them.",
            features=FEATURES,
            homepage="https://github.com/aliensunmin/DomainSpecificHighlight",
            license="not stated",
        )

    def find_file(self, split: str) -> str | None:
        """Path of `youtube_anno.json`, or of the folder that holds the authors' folders of domains."""
        path = super().find_file(split)
        if path is None and self.config.data_files is None and any(_list_folders(self.config.data_dir).values()):
            return str(self.config.data_dir)
        return path

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the annotated videos of a split."""
        if os.path.isdir(path):
            yield from self._read_folders(path, split, videos, report)
        elif is_json_lines(path):
            yield from read_lighthouse_lines(path, self.config.name, read_video, YOUTUBE_HIGHLIGHTS, report)
        else:
            annotations = Record(read_json(path), path).fields
            for domain, video_id in self._select_videos(split, annotations, report):
                with report.skip_errors():
                    record = Record(annotations[video_id], f"{path}, video '{video_id}'")
                    yield record, read_video(record, video_id, domain, report)

    def _read_folders(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        logger.warning(OTHER_SCORES)
        if videos.folder is None:
            raise ValueError(
                f"The annotations in '{path}' have no frame rates; pass the folder of the videos as `video_dir`, or use "
                "youtube_anno.json."
            )
        annotated = list(itertools.chain.from_iterable(_list_folders(path).values()))
        for domain, video_id in self._select_videos(split, annotated, report):
            with report.skip_errors():
                record = read_folder(os.path.join(path, domain, video_id), domain, video_id, videos)
                if record is not None:
                    yield record, read_video(record, video_id, domain, report)

    def _select_videos(self, split: str, annotated: Iterable[str], report: Report) -> list[tuple[str, str]]:
        """(domain, video id) of the annotated videos to load."""
        splits = read_splits(self.config.data_dir, YOUTUBE_HIGHLIGHTS)
        return select_videos(splits, self.config.name, split, annotated, report)


def _list_folders(root: str) -> dict[str, list[str]]:
    """Ids of the videos with labels in the authors' release, by domain."""
    found = {}
    for domain in YOUTUBE_HIGHLIGHTS:
        folder = os.path.join(root, domain)
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found[domain] = [name for name in names if os.path.isfile(os.path.join(folder, name, LABELS))]
    return found


def read_folder(folder: str, domain: str, video_id: str, videos: VideoFolder) -> Record | None:
    """A video of the authors' release in the layout of `youtube_anno.json`; `None` if its video file is missing."""
    path, info_path = os.path.join(folder, LABELS), os.path.join(folder, "info.json")
    if not os.path.isfile(info_path):
        raise AnnotationError(f"{folder}: found no info.json, expected it next to {LABELS}")
    labels, info = read_json(path), read_json(info_path)
    if not (isinstance(labels, list) and len(labels) == 2):
        raise AnnotationError(f"{path}: found something else, expected a pair of lists, [units, labels]")
    facts = videos.facts(video_id)
    if facts is None:
        return None
    fields = {"fps": facts.fps, "frames": facts.num_frames, "domain": domain, "info": info}
    return Record({**fields, "clip": labels[0], "match": labels[1]}, path)


def read_video(record: Record, video_id: str, domain: str, report: Report) -> dict[str, Any]:
    """The example of one video. lighthouse's lines have a query, the other formats `info` with the title."""
    fps, num_frames = record.number("fps", above=0), record.number("frames", above=0, spelled=True)
    if record.text("domain") != domain:
        raise record.error("domain", f"'{domain}', as in the split")
    units, labels = record.windows("clip"), record.items("match")
    if not units or len(units) != len(labels):
        raise record.error("match", f"one label for each of the {len(units)} items of `clip`")
    for number, ((start, end), label) in enumerate(zip(units, labels, strict=True)):
        if not 0 <= start < min(end, num_frames):
            raise record.item_error("clip", number, f"[start, end] in frames of the video, 0 to {num_frames:g}")
        if type(label) is not int or label not in (-1, 0, 1):
            raise record.item_error("match", number, "-1, 0 or 1")
    report.note("videos have units that end after them", any(end > num_frames for _, end in units))
    return {
        "qid": video_id,
        "query": record.text("query") if record.has("query") else read_title(record, domain, report),
        "video_id": video_id,
        "duration_sec": record.duration(num_frames / fps),
        "moments": None,
        "saliency": {
            "times_sec": [[start / fps, end / fps] for start, end in units],
            "scores": [[float(label)] for label in labels],
        },
        "domain": domain,
        "task": ["highlight_detection"],
    }


def read_title(record: Record, domain: str, report: Report) -> str:
    """The title in `info`, or the domain if the title is blank."""
    info = record.items("info")
    if len(info) <= TITLE or not isinstance(info[TITLE], str | None):
        raise record.error("info", f"a list with the title at index {TITLE}")
    title = Record({"title": info[TITLE] or ""}, record.place).text("title", blank=True)
    report.change("blank titles replaced by the domain", not title.strip())
    return title if title.strip() else domain
