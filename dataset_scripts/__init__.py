"""Annotations of six benchmarks of video temporal grounding and of a generated one, read into one schema.

    from dataset_scripts import load_vtg_dataset
    dataset = load_vtg_dataset("qvhighlights", split="val", data_dir="qvhighlights/")

`features.py` describes the schema. Each benchmark has a builder of its own, which says what to know of it.
"""

import os
import tempfile
from pathlib import Path
from typing import Literal

import datasets

from dataset_scripts.moving_shapes.builder import MovingShapes, MovingShapesSummary

from .builder import BenchmarkBuilder
from .charades_sta import CharadesSTA
from .ego4d_nlq import Ego4DNLQ
from .features import FEATURES
from .qvhighlights import QVHighlights
from .reading import AnnotationError, is_json_lines
from .tacos import TACoS
from .tvsum import TVSum
from .youtube_highlights import YouTubeHighlights


__all__ = ["BUILDERS", "FEATURES", "AnnotationError", "load_vtg_dataset"]

BUILDERS: dict[str, type[BenchmarkBuilder]] = {
    "qvhighlights": QVHighlights,
    "charades_sta": CharadesSTA,
    "ego4d_nlq": Ego4DNLQ,
    "tacos": TACoS,
    "youtube_highlights": YouTubeHighlights,
    "tvsum": TVSum,
    "moving_shapes": MovingShapes,
    "moving_shapes_summary": MovingShapesSummary,
}
PathOrPaths = str | os.PathLike | dict[str, str | os.PathLike]


def load_vtg_dataset(
    name: str,
    *,
    split: str | None = None,
    data_dir: str | os.PathLike | None = None,
    domain: str | None = None,
    data_files: PathOrPaths | None = None,
    video_dir: str | os.PathLike | None = None,
    missing_videos: Literal["error", "skip"] = "error",
    on_error: Literal["raise", "skip"] = "raise",
    streaming: bool = False,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    """Load a benchmark from the files of its authors or from the form that R2-Tuning uses.

    The files are read anew each time, never from a cache. What was cleaned, left out or noticed is logged in one line
    for each split.

    Args:
        name: "qvhighlights", "charades_sta", "ego4d_nlq", "tacos", "youtube_highlights" or "tvsum"; or "moving_shapes"
            or "moving_shapes_summary" of a folder that `python -m dataset_scripts.moving_shapes` made.
        split: "train", "val", "test" or "test_unseen", as far as the benchmark has it; `None` = all whose files exist.
        data_dir: Folder of the annotations. The form of a file is told by its content.
        domain: One domain of YouTube Highlights or TVSum, one family of Moving Shapes; `None` = all.
        data_files: The annotations themselves: a path, or paths by split, where they have other names.
        video_dir: Folder of the videos, searched with all its folders; `None` = the column `video` is null.
        missing_videos: "error", or "skip" to leave out (and count) examples whose video is not in `video_dir`.
        on_error: "raise" an `AnnotationError` for a malformed record, or "skip" and count it.
        streaming: Read while iterating, instead of loading into memory.

    Returns:
        A dataset in the schema `FEATURES`, or a dictionary of datasets by split if `split` is `None`.

    Raises:
        ValueError: An argument is not one of its choices.
        FileNotFoundError: The annotations of a split, or annotated videos, are not there.
        AnnotationError: A file does not hold what it should; a `ValueError` that says where. Streaming: on iteration.
    """
    config = _choose_config(name, split, domain)
    builder_class = BUILDERS[name]
    if data_files is not None:
        config["data_files"] = _name_files(data_files, split, builder_class)
    for option, folder in (("data_dir", data_dir), ("video_dir", video_dir)):
        config[option] = None if folder is None else str(Path(folder).expanduser())
    config.update(missing_videos=missing_videos, on_error=on_error)
    with tempfile.TemporaryDirectory() as cache:
        builder = builder_class(cache_dir=cache, **config)
        if streaming:
            return builder.as_streaming_dataset(split=split)
        try:
            builder.download_and_prepare()
        except datasets.exceptions.DatasetGenerationError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from error.__cause__.__cause__  # ours, which datasets wraps
        return builder.as_dataset(split=split, in_memory=True)


def _choose_config(name: str, split: str | None, domain: str | None) -> dict[str, object]:
    """Arguments of the builder that choose what to load."""
    if name not in BUILDERS:
        raise ValueError(f"`name` must be one of {list(BUILDERS)}, got {name!r}.")
    builder_class = BUILDERS[name]
    if split is not None and split not in builder_class.FILES:
        raise ValueError(f"`split` of {name} must be one of {list(builder_class.FILES)}, got {split!r}.")
    if domain is None:
        return {"split": split}
    domains = [config.name for config in builder_class.BUILDER_CONFIGS if config.name != "all"]
    if not domains:
        raise ValueError(f"{name} has no domains; leave `domain` away, got {domain!r}.")
    if domain not in domains:
        raise ValueError(f"`domain` of {name} must be one of {domains}, got {domain!r}.")
    return {"split": split, "config_name": domain}


def _name_files(
    data_files: PathOrPaths, split: str | None, builder_class: type[BenchmarkBuilder]
) -> datasets.data_files.DataFilesDict:
    """The files by split, checked, as the builder takes them."""
    if not isinstance(data_files, dict):
        if split is None and _holds_one_split(Path(data_files).expanduser(), builder_class):
            raise ValueError("Pass `split` with a single path, or `data_files` as {split: path}.")
        data_files = dict.fromkeys(builder_class.FILES if split is None else [split], data_files)
    paths = {name: str(Path(path).expanduser()) for name, path in data_files.items()}
    if split is not None and split not in paths:
        raise ValueError(f"`data_files` must name a file for the split '{split}', got those of {list(paths)}.")
    for name, path in paths.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f"`data_files` for {name}: '{path}' is not a file.")
    # built directly, as datasets would take a path with brackets for a pattern
    return datasets.data_files.DataFilesDict(
        {name: datasets.data_files.DataFilesList([path], [(path,)]) for name, path in paths.items()}
    )


def _holds_one_split(path: Path, builder_class: type[BenchmarkBuilder]) -> bool:
    """Whether a file holds the annotations of a single split, by what the benchmark has or by the form of the file."""
    holding_all = set.intersection(*map(set, builder_class.FILES.values()))
    return not holding_all or (path.is_file() and is_json_lines(path))
