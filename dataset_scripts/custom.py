"""A user's own videos and table, in the schema of the benchmarks.

Notes:
- A table has a row for each moment (`video`, `query`, `start`, `end`) or for each query (`moments` instead of `start` and
  `end`). Optional columns are `duration`, `split`, `qid` and `saliency`. `custom_rows.py` lists the other names of columns,
  `custom_tables.py` the formats.
- A query with empty `start` and `end`, or with the moments [], is one that nothing in the video matches.
- A row that cannot be used is an error, or is left out with its whole query and counted, as a query that lost one of its
  moments would be trained on wrongly.
- The length of a video is that of its file. A moment may end up to 1 s after it, as rounded times do.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from .benchmarks import BENCHMARKS, OWN_DATA, UNIT_SEC
from .builder import BenchmarkBuilder, BenchmarkConfig
from .cleaning import MIN_TRAINING_SEC
from .custom_findings import KINDS, Findings, RowError
from .custom_rows import KNOWN_COLUMNS, OwnQuery, OwnRow, join_rows, read_rows, saliency_of
from .custom_tables import Table, is_dataset, name_sources, read_dataset, read_table
from .custom_values import video_id_of
from .custom_videos import END_TOLERANCE_SEC, OwnVideos, measure_videos
from .features import FEATURES
from .reading import LONGEST_SEC, AnnotationError, find_files


__all__ = ["Custom", "DataFiles", "OwnData", "count_missing_queries", "find_sources", "read_own_data"]

logger = logging.getLogger(__name__)

SPLIT_NAMES = ("train", "val", "test")
ENDINGS = ("jsonl", "json", "csv", "tsv", "parquet")
# File names in `data_dir`; `r2tuning export-dataset` writes the last one.
FILES = {split: (*(f"{split}.{ending}" for ending in ENDINGS), f"default/{split}.parquet") for split in SPLIT_NAMES}
HELD_OUT_SHARE = 10  # one video of ten
Example = dict[str, Any]
DataFiles = str | os.PathLike | Mapping[str, str | os.PathLike]


@dataclass
class OwnData:
    """A user's own data, read and checked.

    Attributes:
        examples: Usable examples by split, in the schema of `features.py`.
        findings: What was found.
        num_queries: Number of queries before any was left out, by split.
        held_out: Ids of the videos that were held out of the training data for validation.
    """

    examples: dict[str, list[Example]] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    num_queries: dict[str, int] = field(default_factory=dict)
    held_out: list[str] = field(default_factory=list)


def read_own_data(
    sources: Mapping[str, str],
    *,
    split: str | None = None,
    video_dir: str | None = None,
    lengths: Mapping[str, float] | None = None,
) -> OwnData:
    """Read tables and videos, and check them.

    Args:
        sources: A file, dataset folder or "hf://datasets/ORG/NAME" for each split. If there is only one, for "train", its
            rows are divided among the splits: by the column `split`, or else a tenth of the videos is held out as "val".
        split: The only split whose videos are read; `None` = all.
        video_dir: Folder of the videos.
        lengths: Lengths of the videos by id, used without `video_dir`.

    Returns:
        The data. Queries that cannot be used are left out; `findings` says why.

    Raises:
        AnnotationError: A table cannot be read at all.
        FileNotFoundError: `video_dir` does not exist.
        ValueError: There is only one video, so none can be held out.
    """
    data = OwnData()
    rows = _read_sources(sources, data.findings)
    pairs = _divide(rows, sources, split, data)
    queries = join_rows(pairs, data.findings)
    videos = OwnVideos(video_dir, lengths)
    _find_repeated_videos(queries, data.findings)
    for name in SPLIT_NAMES:
        chosen = [query for query in queries if query.split == name]
        if chosen and split in (None, name):
            data.num_queries[name] = len(chosen)
            data.examples[name] = _make_examples(chosen, videos, data.findings)
    return data


def find_sources(data_dir: str) -> dict[str, str]:
    """The tables in a folder by split.

    Raises:
        FileNotFoundError: There is none.
    """
    sources = {}
    for split, names in FILES.items():
        paths = find_files(data_dir, names)
        if paths:
            sources[split] = paths[0]
    if not sources:
        raise FileNotFoundError(
            f"There is no table in '{data_dir}'. Name it train, val or test with one of the endings {', '.join(ENDINGS)} "
            "(also with .gz), or pass it as `data_files`."
        )
    return sources


def count_missing_queries(
    split: str,
    *,
    data_dir: str | None = None,
    data_files: DataFiles | None = None,
    video_dir: str | None = None,
    lengths: Mapping[str, float] | None = None,
) -> int:
    """Number of queries of a split that are left out because their videos are missing or unreadable.

    The arguments are those of `load_vtg_dataset`.
    """
    sources = find_sources(data_dir or "") if data_files is None else name_sources(data_files)
    data = read_own_data(sources, split=split, video_dir=video_dir, lengths=lengths)
    return sum(map(len, data.findings.with_effect("missing").values()))


# ---- tables and splits ---------------------------------------------------------------------------------------------


def _read_sources(sources: Mapping[str, str], findings: Findings) -> dict[str, list[OwnRow]]:
    """The rows of each source, by the split that it was given for."""
    rows: dict[str, list[OwnRow]] = {}
    for given, source in sources.items():
        rows[given] = []
        tables = read_dataset(source) if is_dataset(source) else {"train": read_table(source, KNOWN_COLUMNS)}
        for name, table in tables.items():
            _note_table(table, findings)
            if list(tables) != ["train"]:  # the dataset's own splits are those of its rows
                for row in table.rows:
                    row.fields.setdefault("split", name)
                table.columns.append("split")
            rows[given] += read_rows(table, findings)
    return rows


def _note_table(table: Table, findings: Findings) -> None:
    ignored = [column for column in table.columns if column not in (*KNOWN_COLUMNS, "domain", "task")]
    for column in ignored:
        findings.add("ignored_columns", table.name, f"'{column}'")
    if table.legacy_encoding is not None:
        findings.add("other_encoding", table.name, f"read as {table.legacy_encoding}")


def _divide(
    rows: Mapping[str, list[OwnRow]], sources: Mapping[str, str], split: str | None, data: OwnData
) -> list[tuple[str, OwnRow]]:
    """Each row with its split."""
    if list(sources) != ["train"]:
        pairs = []
        for given, own_rows in rows.items():
            for row in own_rows:
                if row.split not in (None, given):
                    detail = f"`split` is {row.split}, but the file was given for {given}; pass a file with a column `split` alone"
                    data.findings.add("bad_split", row.place, detail)
                else:
                    pairs.append((given, row))
        return pairs
    if any(row.split is not None for row in rows["train"]):
        return [(row.split, row) for row in rows["train"] if row.split is not None]
    data.held_out = _hold_out({video_id_of(row.video) for row in rows["train"]}, split)
    held_out = set(data.held_out)
    pairs = []
    for row in rows["train"]:
        is_held_out = video_id_of(row.video) in held_out
        pairs.append(("val" if is_held_out else "train", row))
    return pairs


def _hold_out(video_ids: set[str], split: str | None) -> list[str]:
    """Ids of the videos to validate on: a tenth, at least one, chosen by a hash of the id alone."""
    if len(video_ids) < 2:
        if split == "train" or not video_ids:
            return []
        raise ValueError(
            "There is only one video, so none can be held out for validation. Pass a file for `val`, or load the split "
            "'train' alone."
        )
    in_order = sorted(video_ids, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    return in_order[: max(round(len(in_order) / HELD_OUT_SHARE), 1)]


def _find_repeated_videos(queries: list[OwnQuery], findings: Findings) -> None:
    splits: dict[str, str] = {}
    for query in queries:
        first = splits.setdefault(query.video_id, query.split)
        if query.split != first:
            findings.add("two_splits", query.video_id, f"in {first} and in {query.split}")


# ---- examples ------------------------------------------------------------------------------------------------------


def _make_examples(queries: list[OwnQuery], videos: OwnVideos, findings: Findings) -> list[Example]:
    """The usable queries of a split as examples; the others become findings."""
    paths = _find_videos(queries, videos, findings)
    lengths = _find_lengths(queries, paths, videos, findings)
    examples = []
    for query in queries:
        duration_sec = lengths.get(query.video_id)
        if duration_sec is None:
            continue  # a finding says why
        if query.split == "train" and duration_sec < MIN_TRAINING_SEC:
            findings.add("short_video", query.place, f"'{query.video_id}' has {duration_sec:.2f} s")
            continue
        try:
            examples.append(_make_example(query, duration_sec, paths.get(query.video_id), findings))
        except RowError as error:
            findings.add(error.kind, query.place, str(error))
    return examples


def _find_videos(queries: list[OwnQuery], videos: OwnVideos, findings: Findings) -> dict[str, str]:
    """The file of each video id that has one; none without a folder."""
    paths: dict[str, str] = {}
    ids_by_path: dict[str, str] = {}
    if videos.folder is None:
        return paths
    ambiguous = set()
    for query in queries:
        video_id = query.video_id
        try:
            path = videos.find(query.video)
            if paths.setdefault(video_id, path) != path:
                ambiguous.add(video_id)
            if video_id in ambiguous:
                raise RowError("ambiguous_video", f"'{video_id}' stands for {paths[video_id]} and {path}")
        except RowError as error:
            findings.add(error.kind, query.place, f"'{query.video}': {error}")
            continue
        first = ids_by_path.setdefault(path, video_id)
        if first != video_id:
            findings.add("two_names", query.place, f"'{video_id}' is the file of '{first}'")
    return {video_id: path for video_id, path in paths.items() if video_id not in ambiguous}


def _find_lengths(
    queries: list[OwnQuery], paths: Mapping[str, str], videos: OwnVideos, findings: Findings
) -> dict[str, float]:
    """Length in seconds of each video id where it is known."""
    if videos.folder is not None:
        return _measure_lengths(queries, paths, findings)
    lengths: dict[str, float] = {}
    for query in queries:
        known = (videos.lengths or {}).get(query.video_id)
        if known is None:
            known = next((row.duration_sec for row in query.rows if row.duration_sec is not None), None)
        if known is not None:
            lengths.setdefault(query.video_id, known)
    for query in queries:
        if query.video_id not in lengths:
            if videos.lengths is None:
                findings.add("no_duration", query.place, f"'{query.video_id}'")
            else:
                findings.add("missing_video", query.place, f"'{query.video_id}': its length is not recorded")
    return lengths


def _measure_lengths(queries: list[OwnQuery], paths: Mapping[str, str], findings: Findings) -> dict[str, float]:
    """Length in seconds of each readable video, compared with its header and with the table."""
    measured = measure_videos(paths.values())
    lengths = {}
    for query in queries:
        video_id = query.video_id
        if video_id not in paths:
            continue
        result = measured[paths[video_id]]
        if isinstance(result, ValueError):
            findings.add("unreadable_video", query.place, f"'{video_id}': {result}")
            continue
        length, declared = result
        if length > LONGEST_SEC:
            findings.add("unreadable_video", query.place, f"'{video_id}' has {length:.0f} s, more than a day")
            continue
        lengths[video_id] = length
        if declared - length > END_TOLERANCE_SEC:
            findings.add("damaged_video", video_id, f"its header declares {declared:.2f} s, found {length:.2f} s")
        for row in query.rows:
            if row.duration_sec is not None and abs(row.duration_sec - length) > END_TOLERANCE_SEC:
                findings.add(
                    "duration_differs", video_id, f"{row.duration_sec:g} s in the table, {length:.2f} s in the file"
                )
    return lengths


def _make_example(query: OwnQuery, duration_sec: float, path: str | None, findings: Findings) -> Example:
    """An example in the schema of `features.py`.

    Raises:
        RowError: A moment or the saliency does not fit the video.
    """
    moments = [_check_moment(start, end, query, duration_sec, findings) for start, end in query.moments]
    scores = saliency_of(query, duration_sec)
    saliency = None
    task = ["moment_retrieval"]
    if scores is not None:
        times = [[UNIT_SEC * unit, UNIT_SEC * (unit + 1)] for unit in range(len(scores))]
        times[-1][1] = max(min(times[-1][1], duration_sec), times[-1][0])
        saliency = {"times_sec": times, "scores": scores}
        task.append("highlight_detection")
    return {
        "qid": query.qid,
        "query": query.query,
        "video_id": query.video_id,
        "video": path,
        "duration_sec": duration_sec,
        "moments": sorted(moments),
        "saliency": saliency,
        "domain": None,
        "task": task,
    }


def _check_moment(start: float, end: float, query: OwnQuery, duration_sec: float, findings: Findings) -> list[float]:
    """A moment inside the video; an end a little after it is set to it."""
    found = f"[{start:g}, {end:g}]"
    if start < 0 or end < 0:
        raise RowError("negative_time", found)
    if end < start:
        raise RowError("reversed_moment", found)
    if end == start:
        raise RowError("empty_moment", found)
    if start >= duration_sec or end > duration_sec + END_TOLERANCE_SEC:
        raise RowError("beyond_end", f"{found} in '{query.video_id}' of {duration_sec:.2f} s")
    if end > duration_sec:
        findings.add("cut_end", query.place, f"{found} in '{query.video_id}' of {duration_sec:.2f} s")
        end = duration_sec
    return [start, end]


# ---- the builder ---------------------------------------------------------------------------------------------------


@dataclass
class CustomConfig(BenchmarkConfig):
    """How own data are loaded; see `BenchmarkConfig`.

    Args:
        lengths: Lengths of the videos in seconds by id, used without `video_dir`.
    """

    lengths: dict[str, float] | None = None


class Custom(BenchmarkBuilder):
    """Builder of a user's own data."""

    BUILDER_CONFIG_CLASS = CustomConfig
    SPEC = BENCHMARKS[OWN_DATA]
    DIVIDES_FILES = True
    FILES = FILES

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description="Moments in a user's own videos.", features=FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        self._check_config()
        sources = self._find_sources()
        config = self.config
        data = read_own_data(sources, split=config.split, video_dir=config.video_dir, lengths=config.lengths)
        _refuse(data.findings, config.on_error, config.missing_videos)
        wanted = list(data.num_queries) if config.split is None else [config.split]
        generators = []
        for split in wanted:
            if not data.examples.get(split):
                raise AnnotationError(_explain_empty(split, sources, data))
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"examples": data.examples[split]}))
            _log(split, sources, data)
        return generators

    def _find_sources(self) -> dict[str, str]:
        if self.config.data_files is None:
            return find_sources(self.config.data_dir)
        return {split: files[0] for split, files in self.config.data_files.items()}

    def _generate_examples(self, examples: list[Example]) -> Iterator[tuple[int, Example]]:
        yield from enumerate(examples)


def _refuse(findings: Findings, on_error: str, missing_videos: str) -> None:
    """Raise for findings that are errors.

    Raises:
        AnnotationError: There are unusable rows, and `on_error` is "raise".
        FileNotFoundError: Videos are missing or unreadable, and `missing_videos` is "error".
    """
    unusable = findings.describe("left_out")
    if unusable and on_error == "raise":
        raise AnnotationError(
            f"The table has {unusable}. `r2tuning check-data` lists them all; correct them, or leave these queries out "
            'with `on_error="skip"`.'
        )
    missing = findings.describe("missing")
    if missing and missing_videos == "error":
        raise FileNotFoundError(
            f"The table has {missing}. Add or replace the files, or leave these queries out with "
            '`missing_videos="skip"`.'
        )


def _explain_empty(split: str, sources: Mapping[str, str], data: OwnData) -> str:
    """Why a split has no example."""
    names = ", ".join(Path(source).name for source in sources.values())
    if split in data.num_queries:
        reasons = [data.findings.describe(effect) for effect in ("left_out", "missing", "changed")]
        return f"{names}: no query of {split} is left: {'; '.join(reason for reason in reasons if reason)}"
    found = ", ".join(data.num_queries) or "none that can be used"
    return f"{names}: found no queries of the split '{split}', but of: {found}"


def _log(split: str, sources: Mapping[str, str], data: OwnData) -> None:
    """Log in one line what a split holds and what was found."""
    examples = data.examples[split]
    names = ", ".join(Path(source).name for source in sources.values())
    num_videos = len({example["video_id"] for example in examples})
    num_absent = sum(not example["moments"] for example in examples)
    parts = [f"custom {split}: {len(examples):,} queries of {num_videos:,} videos read from {names}"]
    if num_absent:
        parts.append(f"{num_absent:,} queries that nothing matches")
    if data.held_out:
        parts.append(f"{len(data.held_out):,} videos held out for validation, by a hash of their names")
    counts = {kind: len(findings) for kind, findings in data.findings.by_kind().items()}
    parts += [f"{count:,} {KINDS[kind].title}" for kind, count in counts.items()]
    level = logging.WARNING if counts else logging.INFO
    logger.log(level, "%s", "; ".join(parts))
