"""From the rows of a user's own table to queries: which column is which, and which rows belong to one query."""

import hashlib
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .benchmarks import UNIT_SEC
from .custom_findings import Findings, RowError
from .custom_tables import Table, TableRow
from .custom_values import Moment, clean_video_name, parse_moments, parse_saliency, parse_time, video_id_of
from .reading import LONGEST_SEC, AnnotationError, Record


__all__ = ["COLUMNS", "KNOWN_COLUMNS", "SPLITS", "OwnQuery", "join_rows", "read_rows", "saliency_of"]

# The names of each column, ours first. The others are those of QVHighlights, of this package's own Parquet files, and
# common ones that cannot mean anything else.
COLUMNS: dict[str, tuple[str, ...]] = {
    "video": ("video", "video_id", "vid", "file_name"),
    "query": ("query", "sentence", "text"),
    "start": ("start", "start_sec", "start_time"),
    "end": ("end", "end_sec", "end_time"),
    "moments": ("moments", "relevant_windows"),
    "saliency": ("saliency", "saliency_scores"),
    "units": ("relevant_clip_ids",),  # of QVHighlights: the units that `saliency_scores` belong to
    "duration": ("duration", "duration_sec"),
    "split": ("split",),
    "qid": ("qid",),
}
KNOWN_COLUMNS = tuple(name for names in COLUMNS.values() for name in names)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
DIGEST_LENGTH = 8


@dataclass(frozen=True)
class OwnRow:
    """A row of a table, its values read.

    Attributes:
        place: Where it was found.
        video: Cleaned name of the video.
        query: The sentence.
        moments: Its moments; `[]` = nothing in the video matches.
        lists_moments: The row has a list of moments, not start and end.
        qid: Id of the query; `None` = not given.
        split: Value of the column `split`, as one of train, val and test.
        duration_sec: Length of the video.
        saliency: Scores of each annotator for each unit, or (from QVHighlights) for each of `units`.
        units: Numbers of the units that have scores; `None` = all units.
        is_broken: Some value could not be read. The other rows of its query are then left out too, because the query
            would lack a moment.
    """

    place: str
    video: str
    query: str
    moments: list[Moment] = field(default_factory=list)
    lists_moments: bool = False
    qid: str | None = None
    split: str | None = None
    duration_sec: float | None = None
    saliency: list[list[float]] | None = None
    units: list[int] | None = None
    is_broken: bool = False

    @property
    def video_id(self) -> str:
        """Id of its video."""
        return video_id_of(self.video)

    def query_keys(self, scope: str) -> set[tuple[str, ...]]:
        """What it has in common with the other rows of its query in `scope`: a split, or "" for all splits."""
        keys: set[tuple[str, ...]] = {(scope, self.video_id, self.query)}
        return keys if self.qid is None else {*keys, (scope, self.qid)}


@dataclass
class OwnQuery:
    """A query of a video with all its moments.

    Attributes:
        rows: The rows that it was made of.
        qid: Its id.
        split: Its split.
        moments: Its moments in seconds, each with the place where it was found first.
        is_broken: One of its rows cannot be used, so that it would lack a moment.
    """

    rows: list[OwnRow]
    qid: str
    split: str
    moments: dict[Moment, str] = field(default_factory=dict)
    is_broken: bool = False

    @property
    def place(self) -> str:
        """Where its first row was found."""
        return self.rows[0].place

    @property
    def video(self) -> str:
        """Cleaned name of its video."""
        return self.rows[0].video

    @property
    def query(self) -> str:
        """The sentence."""
        return self.rows[0].query

    @property
    def video_id(self) -> str:
        """Id of its video."""
        return self.rows[0].video_id


# ---- rows ----------------------------------------------------------------------------------------------------------


def read_rows(table: Table, findings: Findings) -> list[OwnRow]:
    """The rows of a table; what cannot be read becomes a finding, and the row is left out or marked as broken.

    Raises:
        AnnotationError: A necessary column is missing.
    """
    names = _find_columns(table)
    rows = []
    for row in table.rows:
        try:
            start = _read_start(row, names)
        except RowError as error:
            findings.add(error.kind, row.place, str(error))
            continue
        try:
            start = replace(start, split=_read_split(row, names))  # which a broken row has as well
            rows.append(_read_rest(start, row, names, table.decimal_comma))
        except RowError as error:
            findings.add(error.kind, row.place, str(error))
            rows.append(replace(start, is_broken=True))
    return rows


def _find_columns(table: Table) -> dict[str, list[str]]:
    """The columns of the table that have each meaning."""
    found: dict[str, list[str]] = {}
    for meaning, names in COLUMNS.items():
        columns = [name for name in names if name in table.columns]
        if columns:
            found[meaning] = columns
    missing = [name for name in ("video", "query") if name not in found]
    if "moments" not in found and not ("start" in found and "end" in found):
        missing.append("moments` or `start` and `end")
    if not table.columns:
        raise AnnotationError(f"{table.name}: found no rows with named values, expected `{'`, `'.join(missing)}`")
    if missing:
        wanted = "`, `".join(missing)
        raise AnnotationError(f"{table.name}: found the columns {table.columns}, expected also `{wanted}`")
    return found


def _value(row: TableRow, names: Mapping[str, list[str]], meaning: str) -> tuple[str, Any]:
    """The column that holds a meaning in this row, and its value; the first name and `None` if no column does."""
    columns = names.get(meaning, [meaning])
    given = [column for column in columns if row.fields.get(column) is not None]
    if meaning == "video" and len(given) > 1:  # a name says more than the embedded video of a dataset
        given = [column for column in given if not isinstance(row.fields[column], Mapping)] or given
    if len(given) > 1 and any(row.fields[column] != row.fields[given[0]] for column in given):
        raise RowError("unreadable_row", f"`{given[0]}` and `{given[1]}` differ; keep one of these columns")
    column = given[0] if given else columns[0]
    return column, row.fields.get(column)


def _read_start(row: TableRow, names: Mapping[str, list[str]]) -> OwnRow:
    """What says to which query a row belongs."""
    if row.problem is not None:
        raise RowError("unreadable_row", row.problem)
    column, video = _value(row, names, "video")
    return OwnRow(
        place=row.place,
        video=clean_video_name(video, column),
        query=_read_query(row, names),
        qid=_read_qid(row, names),
    )


def _read_rest(start: OwnRow, row: TableRow, names: Mapping[str, list[str]], decimal_comma: bool) -> OwnRow:
    moments, lists_moments = _read_moments(row, names, decimal_comma)
    saliency, units = _read_saliency(row, names)
    column, duration = _value(row, names, "duration")
    duration_sec = None
    if duration is not None:
        duration_sec = parse_time(duration, column, decimal_comma)
        if not 0 < duration_sec <= LONGEST_SEC:
            expected = f"more than 0 and at most {LONGEST_SEC:,} s, a day"
            raise RowError("unreadable_row", f"`{column}` is {reprlib.repr(duration)}, expected {expected}")
    return replace(
        start,
        moments=moments,
        lists_moments=lists_moments,
        duration_sec=duration_sec,
        saliency=saliency,
        units=units,
    )


def _read_query(row: TableRow, names: Mapping[str, list[str]]) -> str:
    column, query = _value(row, names, "query")
    if query is None or (isinstance(query, str) and not query.strip()):
        raise RowError("empty_query", f"`{column}` is empty")
    try:
        return " ".join(Record({column: query}, "").text(column).split())
    except AnnotationError as error:
        raise RowError("unreadable_row", str(error).removeprefix(": ")) from error


def _read_moments(row: TableRow, names: Mapping[str, list[str]], decimal_comma: bool) -> tuple[list[Moment], bool]:
    """The moments of a row, and whether it lists them."""
    list_column, listed = _value(row, names, "moments")
    start_column, start = _value(row, names, "start")
    end_column, end = _value(row, names, "end")
    if listed is not None:
        if start is not None or end is not None:
            raise RowError("unreadable_row", f"both `{list_column}` and `{start_column}`, `{end_column}` have values")
        return parse_moments(listed, list_column), True
    # A key that is missing is not taken for an empty cell, which says that nothing matches.
    if not {start_column, end_column} <= row.fields.keys():
        wanted = list_column if "moments" in names else f"{start_column}` or `{end_column}"
        raise RowError("bad_time", f"`{wanted}` is missing; for a query that nothing matches, write [] as its moments")
    if start is None and end is None:
        return [], False
    if start is None or end is None:
        empty = start_column if start is None else end_column
        raise RowError("bad_time", f"`{empty}` is empty; leave both times empty where nothing matches")
    moment = (parse_time(start, start_column, decimal_comma), parse_time(end, end_column, decimal_comma))
    return [moment], False


def _read_saliency(row: TableRow, names: Mapping[str, list[str]]) -> tuple[list[list[float]] | None, list[int] | None]:
    """Scores, and the units that they belong to, if the row has any."""
    column, value = _value(row, names, "saliency")
    if isinstance(value, Mapping):  # as in this package's own Parquet files
        value = value.get("scores")
    if value is None:
        return None, None
    units_column, units = _value(row, names, "units")
    if units is None:
        return parse_saliency(value, column), None
    if not isinstance(units, list) or not isinstance(value, list) or len(units) != len(value):
        raise RowError("bad_saliency", f"`{column}` and `{units_column}` must be lists of equal length")
    if any(type(unit) is not int or unit < 0 for unit in units) or len(set(units)) < len(units):
        raise RowError("bad_saliency", f"`{units_column}` is {reprlib.repr(units)}, expected different units from 0")
    return (parse_saliency(value, column), units) if units else (None, None)


def _read_qid(row: TableRow, names: Mapping[str, list[str]]) -> str | None:
    column, qid = _value(row, names, "qid")
    if qid is None:
        return None
    if isinstance(qid, float) and qid.is_integer():  # whole numbers beside an empty cell, as pandas writes them
        qid = int(qid)
    try:
        return Record({column: qid}, "").identifier(column).strip()
    except AnnotationError as error:
        raise RowError("unreadable_row", str(error).removeprefix(": ")) from error


def _read_split(row: TableRow, names: Mapping[str, list[str]]) -> str | None:
    if "split" not in names:
        return None
    column, split = _value(row, names, "split")
    known = SPLITS.get(str(split).strip().lower())
    if known is None:
        found = "empty" if split is None else reprlib.repr(split)
        raise RowError("bad_split", f"`{column}` is {found}, expected train, val or test")
    return known


# ---- queries -------------------------------------------------------------------------------------------------------


def join_rows(rows: Iterable[tuple[str, OwnRow]], findings: Findings, *, is_one_table: bool = True) -> list[OwnQuery]:
    """The queries of one or several tables; rows of the same video and query in the same split are one query.

    Rows with a `qid` are joined by it instead. A query with a broken row is left out.

    Args:
        rows: (split, row) pairs.
        findings: Gets what cannot be joined.
        is_one_table: Each `qid` belongs to one query of all splits, as they come from the same table.
    """
    scoped = [("" if is_one_table else split, split, row) for split, row in rows]
    broken: set[tuple[str, ...]] = set()
    for scope, _, row in scoped:
        if row.is_broken:
            broken |= row.query_keys(scope)
    queries: dict[tuple[str, ...], OwnQuery] = {}
    for scope, split, row in scoped:
        if row.query_keys(scope) & broken:
            continue
        key, qid = _identify(scope, row)
        query = queries.setdefault(key, OwnQuery([], qid, split))
        try:
            _add_row(query, row, split, findings)
        except RowError as error:
            findings.add(error.kind, row.place, str(error))
            # A row with another query's id says nothing about this query; a row in another split does.
            query.is_broken = query.is_broken or error.kind != "duplicate_id"
    usable = []
    for query in queries.values():
        if not query.is_broken and not _is_contradiction(query, findings):
            usable.append(query)
    _note_several_qids(usable, findings)
    return usable


def _identify(scope: str, row: OwnRow) -> tuple[tuple[str, ...], str]:
    """What the rows of a query have in common, and the id of the query."""
    if row.qid is not None:
        return (scope, row.qid), row.qid
    # The id depends on nothing but video and query, so that it stays the same when other rows are added.
    digest = hashlib.sha256(row.query.encode()).hexdigest()[:DIGEST_LENGTH]
    return (scope, row.video_id, row.query), f"{row.video_id}-{digest}"


def _note_several_qids(queries: Iterable[OwnQuery], findings: Findings) -> None:
    first: dict[tuple[str, str, str], OwnQuery] = {}
    for query in queries:
        other = first.setdefault((query.split, query.video_id, query.query), query)
        if other is not query:
            detail = f"'{query.query}' has the qid '{query.qid}', but '{other.qid}' at {other.place}"
            findings.add("several_qids", query.place, detail)


def _add_row(query: OwnQuery, row: OwnRow, split: str, findings: Findings) -> None:
    """Add a row to a query, with the moments that are not there yet."""
    if query.rows:
        if (query.video_id, query.query) != (row.video_id, row.query):
            raise RowError("duplicate_id", f"qid '{row.qid}' belongs to the query at {query.place}")
        if split != query.split:
            raise RowError("bad_split", f"'{row.query}' is in {split} here, but in {query.split} at {query.place}")
        repeats = [moment for moment in row.moments if moment in query.moments]
        for moment in repeats:
            detail = f"[{moment[0]:g}, {moment[1]:g}] of '{row.query}', as at {query.moments[moment]}"
            findings.add("repeated_moment", row.place, detail)
        if not row.moments and not query.moments:
            findings.add("repeated_moment", row.place, f"nothing matches '{row.query}', as at {query.place}")
        if row.lists_moments and len(repeats) < len(row.moments):
            findings.add("joined_rows", row.place, f"'{row.query}', as at {query.place}")
    query.rows.append(row)
    for moment in row.moments:
        query.moments.setdefault(moment, row.place)


def _is_contradiction(query: OwnQuery, findings: Findings) -> bool:
    """Whether some rows of a query have moments and others say that nothing matches."""
    empty = [row for row in query.rows if not row.moments]
    if not query.moments or not empty:
        return False
    findings.add("contradiction", empty[0].place, f"'{query.query}' has a moment in another row")
    return True


def saliency_of(query: OwnQuery, duration_sec: float) -> list[list[float]] | None:
    """Scores of each unit of a video, a row for each unit with the score of each annotator; `None` = not annotated.

    Raises:
        RowError: The number of scores does not fit the video, or the rows of the query disagree.
    """
    annotated = [row for row in query.rows if row.saliency is not None]
    if not annotated:
        return None
    first = annotated[0]
    scores = first.saliency or []
    if any((row.saliency, row.units) != (scores, first.units) for row in annotated):
        raise RowError("bad_saliency", "the rows of this query have different saliency")
    num_units = int(duration_sec / UNIT_SEC)
    if first.units is not None:
        last = max(first.units)
        if UNIT_SEC * last >= duration_sec:  # the end of the video may cut the last unit
            raise RowError("bad_saliency", f"unit {last}, from 0, begins after the video's {duration_sec:.2f} s")
        dense = [[0.0] * len(scores[0]) for _ in range(max(num_units, last + 1))]
        for unit, row in zip(first.units, scores, strict=True):
            dense[unit] = row
        return dense
    if not num_units <= len(scores) <= num_units + 1:
        raise RowError(
            "bad_saliency", f"found {len(scores)} scores for a video of {duration_sec:.2f} s, expected {num_units}"
        )
    return scores
