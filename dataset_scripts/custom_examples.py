"""From the queries of a user's own table to examples: which video is meant, and whether the moments lie inside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from .benchmarks import UNIT_SEC
from .cleaning import MIN_TRAINING_SEC
from .custom_findings import Findings, RowError
from .custom_rows import OwnQuery, saliency_of
from .custom_videos import OwnVideos, VideoLength, measure_videos
from .reading import LONGEST_SEC


__all__ = ["END_TOLERANCE_SEC", "Example", "find_videos", "make_examples"]

END_TOLERANCE_SEC = 1.0  # annotated times are often rounded to seconds
Example = dict[str, Any]


def make_examples(
    queries: list[OwnQuery], paths: Mapping[str, str], videos: OwnVideos, findings: Findings
) -> list[Example]:
    """The usable queries of a split, in the schema of `features.py`; the others become findings.

    Args:
        queries: Queries from `find_videos`.
        paths: Files from `find_videos`.
        videos: The folder, or recorded lengths.
        findings: Gets what cannot be used.
    """
    if videos.folder is None:
        lengths = _known_lengths(queries, videos, findings)
    else:
        lengths = _measured_lengths(queries, paths, findings)
    examples = []
    for query in queries:
        length = lengths.get(query.video_id)
        if length is None:
            continue  # a finding says why
        if query.split == "train" and length.real_sec < MIN_TRAINING_SEC:
            findings.add("short_video", query.place, f"'{query.video_id}' has {length.real_sec:.2f} s")
            continue
        try:
            examples.append(_make_example(query, length, paths.get(query.video_id), findings))
        except RowError as error:
            findings.add(error.kind, error.place or query.place, str(error))
    return examples


# ---- videos --------------------------------------------------------------------------------------------------------


def find_videos(
    queries: list[OwnQuery], splits: Sequence[str], videos: OwnVideos, findings: Findings
) -> tuple[list[OwnQuery], dict[str, str]]:
    """Look for the videos of all queries; without a folder, there is nothing to look for.

    Two files must not have one id, even in different splits: a feature cache has one entry for each id.

    Args:
        queries: Queries of all splits.
        splits: The splits that are loaded.
        videos: The folder.
        findings: Gets the queries of these splits whose video is missing or ambiguous.

    Returns:
        The other queries of these splits, and the file of each video id.
    """
    if videos.folder is None:
        return [query for query in queries if query.split in splits], {}
    found = []
    files: dict[str, dict[str, None]] = {}  # all files of an id
    for query in queries:
        try:
            for row in query.rows:
                path = videos.find(row.video)
                files.setdefault(query.video_id, {})[path] = None
            found.append(query)
        except RowError as error:
            if query.split in splits:
                findings.add(error.kind, row.place, f"'{row.video}': {error}")
    usable = []
    paths: dict[str, str] = {}
    for query in found:
        path, *others = files[query.video_id]
        if not others:
            paths[query.video_id] = path
        if query.split in splits and others:
            detail = f"'{query.video}': its id '{query.video_id}' stands for {path} and {others[0]}"
            findings.add("ambiguous_video", query.place, detail)
        elif query.split in splits:
            usable.append(query)
    _note_other_names(paths, findings)
    return usable, paths


def _note_other_names(paths: Mapping[str, str], findings: Findings) -> None:
    ids: dict[str, str] = {}
    for video_id, path in paths.items():
        first = ids.setdefault(path, video_id)
        if first != video_id:
            findings.add("two_names", f"'{first}'", f"also named '{video_id}'")


def _known_lengths(queries: list[OwnQuery], videos: OwnVideos, findings: Findings) -> dict[str, VideoLength]:
    """Length of each video id that is recorded elsewhere or written in the table."""
    lengths: dict[str, VideoLength] = {}
    for query in queries:
        seconds = (videos.lengths or {}).get(query.video_id)
        if seconds is None:
            seconds = next((row.duration_sec for row in query.rows if row.duration_sec is not None), None)
        if seconds is not None:
            lengths.setdefault(query.video_id, VideoLength(seconds))
    for query in queries:
        if query.video_id in lengths:
            _compare_lengths(query, lengths[query.video_id], findings)
        elif videos.lengths is None:
            findings.add("no_duration", query.place, f"'{query.video_id}'")
        else:
            findings.add("missing_features", query.place, f"'{query.video_id}' is not in the feature cache")
    return lengths


def _measured_lengths(queries: list[OwnQuery], paths: Mapping[str, str], findings: Findings) -> dict[str, VideoLength]:
    """Length of each readable video, compared with its header and with the table."""
    measured = measure_videos(paths[query.video_id] for query in queries)
    lengths = {}
    for query in queries:
        video_id = query.video_id
        length = measured[paths[video_id]]
        if isinstance(length, ValueError):
            findings.add("unreadable_video", query.place, f"'{video_id}': {length}")
        elif length.real_sec > LONGEST_SEC:
            findings.add("unreadable_video", query.place, f"'{video_id}' has {length.real_sec:.0f} s, more than a day")
        else:
            lengths[video_id] = length
            _compare_lengths(query, length, findings)
    return lengths


def _compare_lengths(query: OwnQuery, length: VideoLength, findings: Findings) -> None:
    place = f"'{query.video_id}'"
    declared = length.declared_sec
    if declared is not None and declared - length.real_sec > END_TOLERANCE_SEC:
        findings.add("damaged_video", place, f"{declared:.2f} s in the header, {length.real_sec:.2f} s in the file")
    for row in query.rows:
        if row.duration_sec is not None and abs(row.duration_sec - length.real_sec) > END_TOLERANCE_SEC:
            detail = f"{row.duration_sec:g} s in the table, {length.real_sec:.2f} s used"
            findings.add("duration_differs", place, detail)


# ---- examples ------------------------------------------------------------------------------------------------------


def _make_example(query: OwnQuery, length: VideoLength, path: str | None, findings: Findings) -> Example:
    """An example in the schema of `features.py`.

    Raises:
        RowError: A moment or the saliency does not fit the video.
    """
    moments = []
    for (start, end), place in query.moments.items():
        _check_moment(start, end, place, query, length)
        if end > length.real_sec:
            detail = f"[{start:g}, {end:g}] in '{query.video_id}' of {length.real_sec:.2f} s"
            findings.add("cut_end", place, detail)
        moments.append([start, min(end, length.real_sec)])
    saliency = _make_saliency(query, length.real_sec)
    task = ["moment_retrieval"]
    if saliency is not None:
        task.append("highlight_detection")
    return {
        "qid": query.qid,
        "query": query.query,
        "video_id": query.video_id,
        "video": path,
        "duration_sec": length.real_sec,
        "moments": sorted(moments),
        "saliency": saliency,
        "domain": None,
        "task": task,
    }


def _check_moment(start: float, end: float, place: str, query: OwnQuery, length: VideoLength) -> None:
    """Refuse a moment that is not inside the video; its end may be rounded up to a second or to a frame."""
    found = f"[{start:g}, {end:g}] in '{query.video_id}' of {length.real_sec:.2f} s"
    if start < 0 or end < 0:
        raise RowError("negative_time", found, place)
    if end < start:
        raise RowError("reversed_moment", found, place)
    if end == start:
        raise RowError("empty_moment", found, place)
    if start >= length.real_sec or end > length.real_sec + END_TOLERANCE_SEC + length.frame_sec:
        raise RowError("beyond_end", found, place)


def _make_saliency(query: OwnQuery, duration_sec: float) -> dict[str, Any] | None:
    scores = saliency_of(query, duration_sec)
    if scores is None:
        return None
    times = [[UNIT_SEC * unit, UNIT_SEC * (unit + 1)] for unit in range(len(scores))]
    times[-1][1] = min(times[-1][1], duration_sec)  # the last unit may be cut by the end of the video
    return {"times_sec": times, "scores": scores}
