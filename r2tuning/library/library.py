"""A library of videos that is searched by sentences."""

import functools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Self

import torch

from modeling_r2tuning import DEFAULT_MODEL, EncodedVideo, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.files_r2tuning import check_new_folder, remove_leftovers, writing_folder
from modeling_r2tuning.user_inputs_r2tuning import as_text_list
from modeling_r2tuning.windows_r2tuning import window_size
from r2tuning.features.extraction import Summary, extract
from r2tuning.features.files import PARTIAL
from r2tuning.library.candidates import rank_windows
from r2tuning.library.contents import TABLES, LibraryContents
from r2tuning.library.entries import FEATURES, IndexJob, IndexStore, expect_frames, find_videos, video_id
from r2tuning.library.moments import Moment, WindowReader, ground_windows
from r2tuning.library.schemas import VideoRecord
from r2tuning.library.settings import LibrarySettings
from r2tuning.library.tables import LibraryTables
from r2tuning.library.vectors import BackboneProjection, load_projection, query_vectors, weights_digest
from r2tuning.terminal import long_progress_bar
from r2tuning_cli.defaults import MAX_MOMENTS, PACKAGED


NUM_WINDOWS = 30  # grounded for each query
LEAST_HITS = 40  # frames looked up for each of them


@dataclass(frozen=True)
class SearchAnswer:
    """What a search found for a query.

    Attributes:
        query: The sentence.
        moments: The best moments of all videos, best first.
        num_windows: Number of windows that were grounded.
        skipped: Why candidates could not be grounded, by the path of their video.
        missing: Videos of `moments` whose files are not there any more.
        seconds: Time taken by each stage: "windows" (with the query's own encoding), "reading" and "grounding".
    """

    query: str
    moments: list[Moment]
    num_windows: int
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Library(LibraryContents):
    """A folder with a vector for each frame of many videos, in which sentences are looked up.

    ```python
    library = Library.create("lib", model, processor)
    library.add(["holiday.mp4", "videos/"])
    answer = library.search("a man opens the door")[0]
    ```

    Several threads may search one object. Several processes may add and search at once; removing and optimizing are for
    one at a time.

    Args:
        folder: The library's folder. Use `create` or `open`.
        settings: Its settings.
        tables: Its tables.
        model: The model that it was made with.
        processor: Its processor.
        projection: The projections of its backbone, if the vectors are those.
    """

    def __init__(
        self,
        folder: Path,
        settings: LibrarySettings,
        tables: LibraryTables,
        model: R2TuningForVideoGrounding,
        processor: R2TuningProcessor,
        projection: BackboneProjection | None,
    ):
        super().__init__(folder, settings, tables)
        self.model = model
        self.processor = processor
        self.projection = projection

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        model: R2TuningForVideoGrounding,
        processor: R2TuningProcessor,
        *,
        keep_features: bool = False,
    ) -> Self:
        """Make an empty library.

        Args:
            folder: Folder to create; it may exist if it is empty.
            model: The model to search with; it is loaded again by its `name_or_path` when the library is opened.
            processor: Its processor.
            keep_features: Keep an encoded copy of each video, so that a search decodes none. With CLIP ViT-B/32 it takes
                102 kB a frame, twice that in videos longer than a window.

        Raises:
            FileExistsError: The folder is not empty.
            ValueError: The model was not loaded from a checkpoint.
        """
        folder = Path(folder).absolute()
        check_new_folder(folder)
        if not model.name_or_path:
            raise ValueError("`model` must come from a checkpoint (`from_pretrained`), which the library records.")
        config = model.config
        backbone = None if config.save_backbone else config.backbone_name_or_path
        projection = load_projection(model)
        settings = LibrarySettings(
            model=_portable_name(model.name_or_path),
            backbone=None if backbone is None else _portable_name(backbone),
            backbone_revision=None if backbone is None else config.backbone_revision,
            weights=weights_digest(model),
            projection=None if projection is None else projection.digest(),
            fps=processor.fps,
            window_sec=config.window_sec,
            dim=config.hidden_size if projection is None else projection.dim,
            keep_features=keep_features,
        )
        with writing_folder(folder) as partial:
            for name in (FEATURES, PARTIAL):
                (partial / name).mkdir()
            LibraryTables.create(partial / TABLES, settings.dim)
            settings.save(partial)
        tables = LibraryTables.open(folder / TABLES)
        return cls(folder, settings, tables, model.eval(), processor, projection)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike,
        model: R2TuningForVideoGrounding | None = None,
        processor: R2TuningProcessor | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Open a library.

        Args:
            folder: Its folder; a read-only one can be searched.
            model: The model that it was made with, on any device; default: loaded by the name that the library records.
            processor: Its processor, likewise.
            device: Where to put a model that is loaded.
            dtype: Precision of its frozen encoders, float32 or bfloat16.

        Raises:
            FileNotFoundError: There is no library.
            ValueError: It is damaged, or was made with another model.
        """
        folder = Path(folder).absolute()
        settings = LibrarySettings.load(folder)
        tables = LibraryTables.open(folder / TABLES)
        if model is None:
            model = _load_model(settings, dtype).to(device)  # type: ignore[arg-type]  # decorated in transformers without types
        if processor is None:
            processor = R2TuningProcessor.from_pretrained(_located(settings.model))
        projection = None if settings.projection is None else load_projection(model)
        _check_weights(settings, model, projection)
        return cls(folder, settings, tables, model.eval(), processor, projection)

    def add(self, videos: Iterable[str | os.PathLike], *, num_processes: int = 1, **execution: Any) -> Summary:
        """Add videos, and replace those whose files have changed; others are left as they are.

        A video that cannot be read is counted in the summary, and the others are added. What is added stays if the work is
        interrupted; the same call then continues it.

        Args:
            videos: Video files, and folders in which all video files are added.
            num_processes: Processes that share the work.
            execution: More arguments of `r2tuning.features.extraction.extract`, such as `executor="ray"`.

        Raises:
            FileNotFoundError: There is no such file or folder.
            OSError: The library cannot be written.
        """
        known = {record.path: record.num_frames for record in self.videos()}
        paths = find_videos(videos)
        jobs = []
        with long_progress_bar("reading headers", "files", len(paths)) as bar:
            for path in paths:
                jobs.append(IndexJob(video_id(path), path, known.get(path) or expect_frames(path, self.settings.fps)))
                bar.update()
        remove_leftovers(self.folder / PARTIAL)
        store = IndexStore(self.folder, self.settings, self.tables, self.model, self.processor, self.projection)
        encoders = next(self.model.vision_model.parameters()).dtype
        make_store = functools.partial(open_store, self.folder, str(self.model.device), encoders)
        device = self.model.device.type
        return extract(jobs, store, make_store, num_processes=num_processes, device=device, **execution)

    def search(
        self,
        queries: str | Sequence[str],
        top: int = 10,
        *,
        num_windows: int = NUM_WINDOWS,
        path: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        min_probability: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[SearchAnswer]:
        """Find the moments of all videos that sentences describe.

        The windows whose frames are most similar to the query are found first; then the model grounds the query in them.

        Args:
            queries: One sentence or several.
            top: Largest number of moments of each answer.
            num_windows: Windows that are grounded for each query: more find more and take longer.
            path: Search only videos whose path matches this pattern, such as "*/holiday/*".
            after: Search only videos whose files were modified then or later.
            before: Search only videos whose files were modified earlier.
            min_probability: Leave out videos that are less likely to hold anything that matches; needs an existence head.
            progress: Called with the number of queries answered and their total number.

        Returns:
            An answer to each query, in order.

        Raises:
            ValueError: A query or a number is not allowed, or the library is damaged.
        """
        texts = as_text_list(queries, "queries")
        for name, number in (("top", top), ("num_windows", num_windows)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        if min_probability is not None and not self.model.config.use_existence_head:
            raise ValueError(
                "`min_probability` needs a model with an existence head, which this library's model lacks."
            )
        records = {record.entry: record for record in _select(self.videos(), path, after, before)}
        answers = []
        for index, query in enumerate(texts):
            answer = self._answer(query, records, num_windows, top)
            if min_probability is not None:
                kept = [moment for moment in answer.moments if (moment.probability or 0.0) >= min_probability]
                answer = replace(answer, moments=kept)
            answers.append(answer)
            if progress is not None:
                progress(index + 1, len(texts))
        return answers

    def _answer(self, query: str, records: dict[int, VideoRecord], num_windows: int, top: int) -> SearchAnswer:
        started = time.perf_counter()
        tokens = self.processor(text=[query]).to(self.model.device)
        text = self.model.encode_text(**tokens)
        vector = query_vectors(self.model, text) if self.projection is None else self.projection.queries(**tokens)
        # A scene that matches fills many places; enough are looked up for this number of windows.
        size = window_size(self.settings.window_sec, self.settings.fps)
        frames_of_a_window = max(LEAST_HITS, 0 if size is None else size // 2)
        (hits,) = self.tables.search(vector.numpy(), num_windows * frames_of_a_window, records)
        candidates = rank_windows(hits, records, num_windows)
        wanted: dict[int, list[int]] = {}
        for candidate in candidates:
            wanted.setdefault(candidate.entry, []).append(candidate.window)
        found = time.perf_counter()
        reader = WindowReader(self.folder, self.settings, self.model, self.processor)
        videos, skipped = {}, {}
        for entry, video in zip(wanted, reader.read(wanted, records), strict=True):
            if isinstance(video, EncodedVideo):
                videos[records[entry].path] = video
            else:
                skipped[records[entry].path] = str(video)
        read = time.perf_counter()
        moments = ground_windows(self.model, self.processor, videos, text, max(top, MAX_MOMENTS))[:top]
        paths = dict.fromkeys(moment.path for moment in moments)
        return SearchAnswer(
            query=query,
            moments=moments,
            num_windows=len(candidates),
            skipped=skipped,
            missing=[name for name in paths if not os.path.isfile(name)],
            seconds={
                "windows": found - started,
                "reading": read - found,
                "grounding": time.perf_counter() - read,
            },
        )


def open_store(folder: Path, device: str, dtype: torch.dtype, rank: int, num_processes: int) -> IndexStore:
    """The store of one of several processes that index; they are distributed over the GPUs."""
    if device.startswith("cuda"):
        device = f"cuda:{rank % torch.cuda.device_count()}"
    library = Library.open(folder, device=device, dtype=dtype)
    return IndexStore(folder, library.settings, library.tables, library.model, library.processor, library.projection)


def _check_weights(
    settings: LibrarySettings, model: R2TuningForVideoGrounding, projection: BackboneProjection | None
) -> None:
    """Refuse a model whose vectors would not be comparable with those of the library."""
    found = weights_digest(model), None if projection is None else projection.digest()
    if found != (settings.weights, settings.projection):
        raise ValueError(
            f"The library was made with another checkpoint or backbone than this one: '{settings.model}'"
            f"{f' on {settings.backbone!r}' if settings.backbone else ''}. Search with that one, or index the videos into a "
            "new library."
        )


def _select(
    records: list[VideoRecord], path: str | None, after: datetime | None, before: datetime | None
) -> list[VideoRecord]:
    """The videos whose paths and times of modification are asked for."""
    if path is not None:
        records = [record for record in records if fnmatch(record.path, path)]
    if after is not None:
        first = after.timestamp() * 1e9
        records = [record for record in records if record.modified_ns >= first]
    if before is not None:
        end = before.timestamp() * 1e9
        records = [record for record in records if record.modified_ns < end]
    return records


def _portable_name(name: str) -> str:
    """A checkpoint's name that holds in every working directory, and for every installation of the packaged model."""
    if Path(name).is_dir():
        path = os.path.abspath(name)
        return PACKAGED if path == os.path.abspath(DEFAULT_MODEL) else path
    return name


def _located(name: str) -> str:
    return str(DEFAULT_MODEL) if name == PACKAGED else name


def _load_model(settings: LibrarySettings, dtype: torch.dtype) -> R2TuningForVideoGrounding:
    backbone: dict[str, Any] = {}
    if settings.backbone is not None:
        backbone = {"backbone_name_or_path": settings.backbone, "backbone_revision": settings.backbone_revision}
    return R2TuningForVideoGrounding.from_pretrained(_located(settings.model), dtype=dtype, **backbone)


__all__ = ["Library", "SearchAnswer", "open_store"]
