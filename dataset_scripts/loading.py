"""Loading a benchmark by its name."""

import importlib
import os
import reprlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import datasets

from .benchmarks import BENCHMARKS
from .builder import BenchmarkBuilder
from .custom_tables import DataFiles, name_sources
from .reading import is_json_lines


__all__ = ["find_builder", "load_vtg_dataset"]


def load_vtg_dataset(
    name: str,
    *,
    split: str | None = None,
    data_dir: str | os.PathLike | None = None,
    domain: str | None = None,
    data_files: DataFiles | None = None,
    video_dir: str | os.PathLike | None = None,
    missing_videos: Literal["error", "skip"] = "error",
    on_error: Literal["raise", "skip"] = "raise",
    streaming: bool = False,
    lengths: Mapping[str, float] | None = None,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    """Load a benchmark from its authors' files, or from the files that R2-Tuning uses.

    The files are read each time; nothing is cached. One line of the log for each split says what was cleaned, left out
    or noticed.

    Args:
        name: One of `BENCHMARKS` in `dataset_scripts.benchmarks`, such as "qvhighlights". Those of Moving Shapes are read
            from a folder that `python -m dataset_scripts.moving_shapes` wrote.
        split: "train", "val", "test" or "test_unseen", where the benchmark has it; `None` = all splits whose files
            exist.
        data_dir: Folder of the annotations. The format of a file is detected from its contents.
        domain: One domain of YouTube Highlights or TVSum, one family of Moving Shapes, one source of TimeLens-Bench;
            `None` = all. On Soccer-GMR the labels, "standard" (`None`) or "full".
        data_files: The annotation file, or files by split, where they have other names. For "custom" the user's own table,
            a dataset folder, or "hf://datasets/ORG/NAME"; a single one is divided into "train" and "val" (see
            `custom.py`).
        video_dir: Folder of the videos, searched with all its subfolders; `None` = the column `video` is null.
        missing_videos: "error", or "skip" to leave out (and count) examples whose video is not in `video_dir`.
        on_error: "raise" an `AnnotationError` for a malformed record, or "skip" and count it.
        streaming: Read the files during iteration instead of loading them into memory.
        lengths: For "custom" without `video_dir`: lengths of the videos in seconds by id, such as those that a feature
            cache has recorded. They come before the column `duration`.

    Returns:
        A dataset in the schema `FEATURES`, or a dictionary of datasets by split if `split` is `None`.

    Raises:
        ValueError: An argument is not one of its choices.
        FileNotFoundError: The annotations of a split, or annotated videos, are missing.
        AnnotationError: A file is malformed; a `ValueError` that says where. With `streaming` it is raised on iteration.
    """
    config = _choose_config(name, split, domain)
    builder_class = find_builder(name)
    if data_files is not None:
        config["data_files"] = _name_files(data_files, split, builder_class)
    for option, folder in (("data_dir", data_dir), ("video_dir", video_dir)):
        config[option] = None if folder is None else str(Path(folder).expanduser())
    config.update(missing_videos=missing_videos, on_error=on_error)
    if lengths is not None:
        if not builder_class.DIVIDES_FILES:
            raise ValueError(f"`lengths` is for own data; {name} has the lengths of its videos.")
        config["lengths"] = dict(lengths)
    with tempfile.TemporaryDirectory() as cache:
        builder = builder_class(cache_dir=cache, **config)
        if streaming:
            return builder.as_streaming_dataset(split=split)
        try:
            builder.download_and_prepare()
        except datasets.exceptions.DatasetGenerationError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from error.__cause__.__cause__  # the builder's own error, which datasets wraps
        return builder.as_dataset(split=split, in_memory=True)


def find_builder(name: str) -> type[BenchmarkBuilder]:
    """The builder of a benchmark, imported now: the registry itself imports nothing."""
    module, _, class_name = BENCHMARKS[name].builder.partition(":")
    return getattr(importlib.import_module(module), class_name)


def _choose_config(name: str, split: str | None, domain: str | None) -> dict[str, Any]:
    """Arguments of the builder that choose what to load."""
    if name not in BENCHMARKS:
        raise ValueError(f"`name` must be one of {list(BENCHMARKS)}, got {name!r}.")
    builder_class = find_builder(name)
    if split is not None and split not in builder_class.FILES:
        raise ValueError(f"`split` of {name} must be one of {list(builder_class.FILES)}, got {split!r}.")
    if domain is None:
        return {"split": split}
    domains = [config.name for config in builder_class.BUILDER_CONFIGS if config.name != "all"]
    if not domains:
        raise ValueError(f"{name} has no domains; leave out `domain`, got {domain!r}.")
    if domain not in domains:
        raise ValueError(f"`domain` of {name} must be one of {domains}, got {domain!r}.")
    return {"split": split, "config_name": domain}


def _name_files(
    data_files: DataFiles, split: str | None, builder_class: type[BenchmarkBuilder]
) -> datasets.data_files.DataFilesDict:
    """The checked annotation files by split, in the type that the builder takes."""
    for path in data_files.values() if isinstance(data_files, Mapping) else [data_files]:
        if not isinstance(path, str | os.PathLike):
            found = reprlib.repr(path)
            raise ValueError(f"`data_files` has {found}, expected one path for each split; join the files.")
    if builder_class.DIVIDES_FILES:
        sources = name_sources(data_files)
        return datasets.data_files.DataFilesDict({name: _one_file(source) for name, source in sources.items()})
    if not isinstance(data_files, Mapping):
        if split is None and _holds_one_split(Path(data_files).expanduser(), builder_class):
            raise ValueError("Pass `split` with a single path, or `data_files` as {split: path}.")
        data_files = dict.fromkeys(builder_class.FILES if split is None else [split], data_files)
    paths = {name: str(Path(path).expanduser()) for name, path in data_files.items()}
    if split is not None and split not in paths:
        raise ValueError(f"`data_files` must name a file for the split '{split}', got those of {list(paths)}.")
    files = {}
    for name, path in paths.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f"`data_files` for {name}: '{path}' is not a file.")
        files[name] = _one_file(path)
    return datasets.data_files.DataFilesDict(files)


def _one_file(path: str) -> datasets.data_files.DataFilesList:
    # Built directly, since datasets would take a path with brackets for a pattern.
    return datasets.data_files.DataFilesList([path], [(path,)])


def _holds_one_split(path: Path, builder_class: type[BenchmarkBuilder]) -> bool:
    """Whether a file holds a single split: by the benchmark's file names, or because it is JSON lines."""
    names_of_splits = [set(names) for names in builder_class.FILES.values()]
    names_of_all_splits = set.intersection(*names_of_splits)
    return not names_of_all_splits or (path.is_file() and is_json_lines(path))
