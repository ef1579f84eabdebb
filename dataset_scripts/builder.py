"""The base of the builders: finding the annotation files, cleaning, videos, and the summary in the log.

A builder's own file says where its annotations lie and reads them. `load_vtg_dataset` runs the builders without a cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from .benchmarks import BenchmarkSpec
from .cleaning import Report, clean_moments, is_too_short_for_training, strip_query
from .reading import AnnotationError, Record, find_files
from .videos import VideoFolder


__all__ = ["BenchmarkBuilder", "BenchmarkConfig"]

CHOICES = {"missing_videos": ("error", "skip"), "on_error": ("raise", "skip")}


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """How a benchmark is loaded. `data_dir` and `data_files` are those of every builder of `datasets`.

    Args:
        video_dir: Folder of the videos; `None` = the column `video` is null.
        missing_videos: "error" or "skip", for annotated videos that are not in `video_dir`.
        on_error: "raise" or "skip", for malformed records.
        split: The only split to load; `None` = all splits whose files exist.
    """

    video_dir: str | None = None
    missing_videos: str = "error"
    on_error: str = "raise"
    split: str | None = None


class BenchmarkBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders; a builder sets the constants and defines `read_examples`."""

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    # The default of datasets is 10 where there is a video column, but ours holds only paths. Larger batches of examples
    # of long videos would take much memory.
    DEFAULT_WRITER_BATCH_SIZE = 100

    SPEC: ClassVar[BenchmarkSpec]
    # File names of each split relative to `data_dir`, the preferred name first; each may also end in `.gz`.
    FILES: ClassVar[dict[str, tuple[str, ...]]]
    # Part of a video's file name between its id and the file extension.
    VIDEO_SUFFIX: ClassVar[str] = ""

    def read_examples(
        self, path: str, split: str, videos: VideoFolder, report: Report
    ) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the examples of a file before cleaning, each with the record it was read from."""
        raise NotImplementedError

    def file_names(self, split: str) -> tuple[str, ...]:
        """Names of the files of a split in `data_dir`, the preferred one first."""
        return self.FILES[split]

    def find_file(self, split: str) -> str | None:
        """Path of the annotations of a split, or `None`."""
        if self.config.data_files is not None:
            return next(iter(self.config.data_files.get(split, [])), None)
        return next(iter(find_files(self.config.data_dir, self.file_names(split))), None)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        self._check_config()
        splits = list(self.FILES) if self.config.split is None else [self.config.split]
        paths = {split: self.find_file(split) for split in splits}
        if not any(paths.values()):
            names = "; ".join(f"{split}: {', '.join(self.file_names(split))}" for split in splits)
            raise FileNotFoundError(
                f"No annotations of {self.SPEC.name} in '{self.config.data_dir}'. Looked for {names} (also with .gz). "
                "Pass a file of another name as `data_files`."
            )
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "path": path})
            for split, path in paths.items()
            if path is not None
        ]

    def _check_config(self) -> None:
        config = self.config
        for field, choices in CHOICES.items():
            if getattr(config, field) not in choices:
                raise ValueError(f"`{field}` must be one of {list(choices)}, got {getattr(config, field)!r}.")
        splits = [] if config.split is None else [config.split]
        for split in [*splits, *(config.data_files or {})]:
            if split not in self.FILES:
                raise ValueError(f"{self.SPEC.name} has the splits {list(self.FILES)}, got {str(split)!r}.")
        if config.data_dir is None and config.data_files is None:
            raise ValueError(f"Pass `data_dir`, the folder that holds the annotations of {self.SPEC.name}.")

    def _generate_examples(self, split: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
        report = Report(self._title(split), self.config.on_error)
        videos = VideoFolder(self.config.video_dir, self.VIDEO_SUFFIX)
        qids, contents = set(), set()
        num_examples = 0
        for record, example in self.read_examples(path, split, videos, report):
            with report.skip_errors():
                if example["qid"] in qids:
                    raise AnnotationError(f"{record.place}: found qid '{example['qid']}' again, expected it only once")
                qids.add(example["qid"])
                content = repr((example["video_id"], example["query"], example["moments"]))
                if not (self._clean(example, split, report) and self._add_video(example, videos)):
                    continue
                report.note("examples say the same as an earlier one", content in contents)
                report.note("examples have no moment", example["moments"] == [])
                contents.add(content)
                yield num_examples, example
                num_examples += 1
        self._finish(num_examples, path, videos, report)

    def _title(self, split: str) -> str:
        """Benchmark, domain where there are several, and split: the beginning of the line in the log."""
        if self.BUILDER_CONFIGS:
            return f"{self.SPEC.name} {self.config.name} {split}"
        return f"{self.SPEC.name} {split}"

    def _clean(self, example: dict[str, Any], split: str, report: Report) -> bool:
        """Clean an example in place; whether it is kept."""
        example["query"] = strip_query(example["query"], report)
        if example["moments"] is None:
            return True
        training = split == "train"
        if training and is_too_short_for_training(example["duration_sec"], report):
            return False
        frame_sec = 1 / self.SPEC.fps if training else None
        example["moments"] = clean_moments(example["moments"], example["duration_sec"], report, frame_sec)
        return True

    def _add_video(self, example: dict[str, Any], videos: VideoFolder) -> bool:
        """Set the path of the video; whether the example is kept."""
        if example["video_id"] is None:  # the video is what a query of a hidden split asks for (TVR)
            example["video"] = None
            return True
        example["video"] = videos.find(example["video_id"])
        if videos.missing and self.config.missing_videos == "error":
            return False  # loading fails at the end, with an error that counts all missing videos
        return example["video"] is not None or self.config.video_dir is None

    def _finish(self, num_examples: int, path: str, videos: VideoFolder, report: Report) -> None:
        if videos.missing and self.config.missing_videos == "error":
            raise videos.missing_error()
        report.change(f"examples of {len(videos.missing):,} missing videos dropped", videos.missing.total())
        if num_examples == 0:
            raise AnnotationError(f"{report.summary(0, path)}; expected at least one example")
        report.log(num_examples, path)
