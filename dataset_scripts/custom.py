"""A user's own videos and table, in the schema of the benchmarks.

Notes:
- A table has a row for each moment (`video`, `query`, `start`, `end`) or for each query (`moments` instead of `start` and
  `end`). Optional columns are `duration`, `split`, `qid` and `saliency`. `custom_rows.py` lists the other names of columns,
  `custom_tables.py` the formats.
- A query with empty `start` and `end`, or with the moments [], is one that nothing in the video matches.
- A row that cannot be used is an error, or its whole query is left out and counted: a query that lost one of its moments
  would be trained on wrongly.
- The length of a video is that of its file. A moment may end up to 1 s and a frame after it, as rounded times do.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets

from .benchmarks import BENCHMARKS, OWN_DATA
from .builder import BenchmarkBuilder, BenchmarkConfig
from .custom_examples import Example, find_videos, make_examples
from .custom_findings import KINDS, Findings
from .custom_rows import KNOWN_COLUMNS, OwnQuery, OwnRow, join_rows, read_rows
from .custom_tables import DataFiles, Table, is_dataset, name_sources, read_dataset, read_table
from .custom_videos import OwnVideos
from .features import FEATURES
from .reading import AnnotationError, find_files


__all__ = ["Custom", "OwnData", "count_missing_queries", "find_sources", "read_own_data"]

logger = logging.getLogger(__name__)

SPLIT_NAMES = ("train", "val", "test")
ENDINGS = ("jsonl", "json", "csv", "tsv", "parquet")
# File names in `data_dir`; `r2tuning export-dataset` writes the last one.
PATTERNS = (*(f"{{split}}.{ending}" for ending in ENDINGS), "default/{split}.parquet")
FILES = {split: tuple(pattern.format(split=split) for pattern in PATTERNS) for split in SPLIT_NAMES}
VIDEOS_PER_HELD_OUT = 10
OTHER_COLUMNS = ("domain", "task")  # of Parquet files that `r2tuning export-dataset` wrote


@dataclass
class OwnData:
    """A user's own data, read and checked.

    Attributes:
        examples: Usable examples by split, in the schema of `features.py`.
        findings: What was found.
        num_queries: Number of queries whose rows could be used, by split; 0 where rows or a file have none.
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
    video_dir: str | os.PathLike | None = None,
    lengths: Mapping[str, float] | None = None,
) -> OwnData:
    """Read tables and videos, and check them.

    Args:
        sources: A file, dataset folder or "hf://datasets/ORG/NAME" for each split. If there is only one, for "train", its
            rows are divided among the splits: by the column `split`, or else a tenth of the videos is held out as "val".
            Of several, nothing is held out, even if there is none for "val".
        split: The only split whose videos are read; `None` = all.
        video_dir: Folder of the videos.
        lengths: Lengths of the videos by id, used without `video_dir`.

    Returns:
        The data. Queries that cannot be used are left out; `findings` says why.

    Raises:
        AnnotationError: A table cannot be read at all.
        FileNotFoundError: `video_dir` does not exist.
    """
    data = OwnData()
    rows, has_splits = _read_sources(sources, data.findings)
    pairs = _divide(rows, has_splits, split, data)
    queries = join_rows(pairs, data.findings, is_one_table=len(sources) == 1)
    _note_repeated_videos(queries, data.findings)
    videos = OwnVideos(video_dir, lengths)
    wanted = SPLIT_NAMES if split is None else (split,)
    found, paths = find_videos(queries, wanted, videos, data.findings)
    for name in _find_splits(sources, pairs, has_splits):
        data.num_queries[name] = sum(query.split == name for query in queries)
        if name in wanted:
            chosen = [query for query in found if query.split == name]
            data.examples[name] = make_examples(chosen, paths, videos, data.findings)
    if split is None:
        for relative in videos.unused():
            data.findings.add("unused_video", f"'{relative}'", "no row names it")
    return data


def find_sources(data_dir: str | os.PathLike) -> dict[str, str]:
    """The tables in a folder by split.

    Raises:
        FileNotFoundError: There is none.
    """
    sources = {}
    for split, names in FILES.items():
        paths = find_files(Path(data_dir).expanduser(), names)
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
    data_dir: str | os.PathLike | None = None,
    data_files: DataFiles | None = None,
    video_dir: str | os.PathLike | None = None,
    lengths: Mapping[str, float] | None = None,
) -> int:
    """Number of queries of a split that are left out because their videos are missing or unreadable.

    The arguments are those of `load_vtg_dataset`.
    """
    sources = find_sources(data_dir or "") if data_files is None else name_sources(data_files)
    data = read_own_data(sources, split=split, video_dir=video_dir, lengths=lengths)
    return sum(map(len, data.findings.with_effect("missing").values()))


# ---- tables and splits ---------------------------------------------------------------------------------------------


def _read_sources(sources: Mapping[str, str], findings: Findings) -> tuple[dict[str, list[OwnRow]], bool]:
    """The rows of each source by the split that it was given for; and whether they have splits of their own."""
    rows: dict[str, list[OwnRow]] = {}
    has_splits = False
    for given, source in sources.items():
        rows[given] = []
        for table in _read_tables(source, name_of(source, sources)):
            own_rows = read_rows(table, findings)
            _note_table(table, own_rows, findings)
            has_splits = has_splits or "split" in table.columns
            rows[given] += own_rows
    return rows, has_splits


def name_of(source: str, sources: Mapping[str, str]) -> str:
    """Name of a source in messages: without its folder, unless another one has the same name."""
    name = Path(source).name
    same = [other for other in set(sources.values()) if Path(other).name == name]
    return name if len(same) == 1 else source


def _read_tables(source: str, name: str) -> list[Table]:
    if not is_dataset(source):
        return [read_table(source, name, KNOWN_COLUMNS)]
    tables = read_dataset(source, name)
    if list(tables) != ["train"]:  # the dataset's own splits are those of its rows
        for split, table in tables.items():
            for row in table.rows:
                row.fields.setdefault("split", split)
            table.columns.append("split")
    return list(tables.values())


def _note_table(table: Table, rows: list[OwnRow], findings: Findings) -> None:
    for column in table.columns:
        if column not in (*KNOWN_COLUMNS, *OTHER_COLUMNS):
            findings.add("ignored_column", table.name, f"'{column}'")
    if table.legacy_encoding is not None:
        findings.add("other_encoding", table.name, f"read as {table.legacy_encoding}")
    scores = []
    for row in rows:
        scores += [max(unit) for unit in row.saliency or []]
    if scores and max(scores) <= 1:
        findings.add("saliency_scale", table.name, f"the highest score is {max(scores):g}")


def _divide(
    rows: Mapping[str, list[OwnRow]], has_splits: bool, split: str | None, data: OwnData
) -> list[tuple[str, OwnRow]]:
    """Each row with its split; rows whose split cannot be used are broken."""
    if list(rows) == ["train"]:
        own_rows = rows["train"]
        if has_splits:
            return [(row.split or "train", row) for row in own_rows]  # a row without a readable split is broken
        data.held_out = _hold_out(own_rows)
        if own_rows and not data.held_out and split != "train":
            data.findings.add("one_video", f"'{own_rows[0].video_id}'", "the video of all rows")
        held_out = set(data.held_out)
        return [("val" if row.video_id in held_out else "train", row) for row in own_rows]
    pairs = []
    for given, own_rows in rows.items():
        for row in own_rows:
            is_elsewhere = row.split not in (None, given)
            if is_elsewhere:
                detail = f"`split` is {row.split}, but the file was given for {given}; pass this file alone"
                data.findings.add("bad_split", row.place, detail)
            pairs.append((given, replace(row, is_broken=row.is_broken or is_elsewhere)))
    return pairs


def _find_splits(sources: Mapping[str, str], pairs: list[tuple[str, OwnRow]], has_splits: bool) -> list[str]:
    """The splits that a file was given for or that a row belongs to, even if none of their queries can be used."""
    found = set()
    if list(sources) == ["train"]:
        for split, row in pairs:
            is_unknown = has_splits and row.is_broken and row.split is None
            if not is_unknown:
                found.add(split)
    found = found or set(sources)
    return [split for split in SPLIT_NAMES if split in found]


def _hold_out(rows: list[OwnRow]) -> list[str]:
    """Ids of the videos to validate on, chosen by a hash of the id alone: a tenth, at least one; none of a single one.

    At least one of them has a moment, since queries that nothing matches are not enough to score moments.
    """
    has_moment: dict[str, bool] = {}
    for row in rows:
        has_moment[row.video_id] = has_moment.get(row.video_id, False) or bool(row.moments)
    if len(has_moment) < 2:
        return []
    in_order = sorted(has_moment, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    first = next((video_id for video_id in in_order if has_moment[video_id]), in_order[0])
    others = [video_id for video_id in in_order if video_id != first]
    return [first, *others][: max(round(len(in_order) / VIDEOS_PER_HELD_OUT), 1)]


def _note_repeated_videos(queries: list[OwnQuery], findings: Findings) -> None:
    splits: dict[str, str] = {}
    for query in queries:
        first = splits.setdefault(query.video_id, query.split)
        if query.split != first:
            findings.add("two_splits", f"'{query.video_id}'", f"in {first} and in {query.split}")


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
            _log(split, sources, data)
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "path": ""}))
        self._examples = data.examples
        return generators

    def _find_sources(self) -> dict[str, str]:
        if self.config.data_files is None:
            return find_sources(self.config.data_dir)
        return {split: files[0] for split, files in self.config.data_files.items()}

    def _generate_examples(self, split: str, path: str) -> Iterator[tuple[int, Example]]:
        yield from enumerate(self._examples[split])


def _refuse(findings: Findings, on_error: str, missing_videos: str) -> None:
    """Raise for findings that are errors.

    Raises:
        AnnotationError: There are unusable rows, and `on_error` is "raise".
        FileNotFoundError: Videos are missing or unreadable, and `missing_videos` is "error".
    """
    unusable = findings.describe("left_out")
    if unusable and on_error == "raise":
        raise AnnotationError(
            f"The table has {unusable}.{_advise(findings, 'left_out')} `r2tuning check-data` lists everything; to leave "
            'these queries out, pass `on_error="skip"`.'
        )
    missing = findings.describe("missing")
    if missing and missing_videos == "error":
        raise FileNotFoundError(
            f"The table has {missing}.{_advise(findings, 'missing')} To leave these queries out, pass "
            '`missing_videos="skip"`.'
        )


def _advise(findings: Findings, effect: str) -> str:
    """The advice on the findings with an effect, if they are of one kind."""
    kinds = list(findings.with_effect(effect))
    return f" {KINDS[kinds[0]].advice}" if len(kinds) == 1 else ""


def _explain_empty(split: str, sources: Mapping[str, str], data: OwnData) -> str:
    """Why a split has no example."""
    names = ", ".join(name_of(source, sources) for source in sources.values())
    if split in data.num_queries:
        reasons = [data.findings.describe(effect) for effect in ("left_out", "missing", "changed")]
        reason = "; ".join(filter(None, reasons)) or "the table has no rows"
        return f"{names}: no query of {split} is left: {reason}"
    if split == "val" and "one_video" in data.findings.by_kind():
        return f"{names}: found a single video. {KINDS['one_video'].advice}"
    found = ", ".join(name for name, number in data.num_queries.items() if number) or "none that can be used"
    return f"{names}: found no queries of the split '{split}', but of: {found}"


def _log(split: str, sources: Mapping[str, str], data: OwnData) -> None:
    """Log in one line what a split holds and what was found."""
    examples = data.examples[split]
    names = ", ".join(name_of(source, sources) for source in sources.values())
    num_videos = len({example["video_id"] for example in examples})
    num_absent = sum(not example["moments"] for example in examples)
    parts = [f"custom {split}: {len(examples):,} queries of {num_videos:,} videos read from {names}"]
    if num_absent:
        parts.append(f"queries that nothing matches: {num_absent:,}")
    if data.held_out:
        parts.append(f"videos held out for val, by a hash of their names: {len(data.held_out):,}")
    level = logging.INFO
    for kind, findings in data.findings.by_kind().items():
        parts.append(f"{KINDS[kind].title}: {len(findings):,}")
        if KINDS[kind].effect != "information":
            level = logging.WARNING
    logger.log(level, "%s", "; ".join(parts))
