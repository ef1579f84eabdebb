"""The authors' release of TVSum, with scores of frames, in the layout of `tvsum_anno.json`, with scores of shots."""

import csv
import io
import os
from contextlib import suppress
from typing import Any

import numpy as np

from .benchmarks import UNIT_SEC
from .cleaning import Report
from .reading import AnnotationError, decode, find_files, parse_number, read_lines, read_text


__all__ = ["find_frame_rate", "is_mat_file", "read_mat", "read_tables"]

USUAL_RATES = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 60.0)
# Bounds of (true length - stated length) in seconds, for the .mat and for the whole seconds of the table.
MAT_TOLERANCE = (-0.1, 0.1)
TABLE_TOLERANCE = (-0.6, 1.1)
MAX_VALUES = 2**24  # in a field of the .mat: 20 annotators, 7 hours at 30 frames per second
INFO_TABLE = "ydata-tvsum50-info.tsv"
INFO_COLUMNS = ["category", "video_id", "title", "url", "length"]


def is_mat_file(path: str) -> bool:
    """Whether a file is a MATLAB file, from its first bytes."""
    with open(path, "rb") as file:
        return file.read(8).startswith((b"MATLAB", b"\x89HDF"))


def read_mat(path: str) -> dict[str, dict[str, Any]]:
    """The videos of `ydata-tvsum50.mat`, by id.

    Raises:
        ImportError: h5py is not installed.
        AnnotationError: The file is not the release's.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "Reading ydata-tvsum50.mat needs h5py: pip install h5py. Or pass another form as `data_files`, "
            "tvsum_anno.json or ydata-tvsum50-anno.tsv."
        ) from error
    try:
        return _read_videos(h5py, path)
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        expected = "`tvsum50` of MATLAB version 7.3"
        message = f"{path}: found a file that cannot be read ({error}), expected {expected}"
        # Without its traceback, which would leave h5py's objects to the garbage collector: where that runs in another
        # thread, it may wait for h5py's lock for ever.
        raise AnnotationError(message) from error.with_traceback(None)


def _read_videos(h5py: Any, path: str) -> dict[str, dict[str, Any]]:
    """The videos of a file, by id."""
    videos = {}
    with h5py.File(path, "r") as file:
        for number in range(len(file["tvsum50"]["video"])):
            row = {name: _read(file[column[number, 0]]) for name, column in file["tvsum50"].items()}
            domain, video_id, title = _text(row["category"]), _text(row["video"]), _text(row["title"])
            scores = row["user_anno"]
            if scores.shape[1] != row["nframes"].item():
                scores = scores.T  # (num_annotators, num_frames)
            videos[video_id] = _shots_of_frames(scores, row["length"].item(), MAT_TOLERANCE, domain, title)
    return videos


def _read(dataset: Any) -> np.ndarray:
    """The values of an HDF5 dataset, checked first: its shape may declare far more than the file stores."""
    if dataset.size > MAX_VALUES:
        raise ValueError(f"{dataset.size:,} values in one field, more than {MAX_VALUES:,}")
    return dataset[()]


def _text(codes: np.ndarray) -> str:
    """Text of MATLAB's 16-bit code units. In some titles of the published file they hold single bytes of UTF-8."""
    units = codes.ravel().astype("<u2")
    if units.max(initial=0) < 256:
        with suppress(UnicodeDecodeError):
            return bytes(units.tolist()).decode("utf-8")
    return units.tobytes().decode("utf-16-le")


def read_tables(path: str, report: Report) -> dict[str, dict[str, Any]]:
    """The videos of `ydata-tvsum50-anno.tsv`, by id, with titles and lengths from the other table in its folder."""
    scores: dict[str, list[np.ndarray]] = {}
    for number, line in read_lines(path):
        with report.skip_errors():
            video_id, row = _parse_scores(decode(line, f"{path}, line {number}"), f"{path}, line {number}")
            rows = scores.setdefault(video_id, [])
            if rows and len(rows[0]) != len(row):
                raise AnnotationError(f"{path}, line {number}: found {len(row)} scores, expected {len(rows[0])}")
            rows.append(row)
    if not scores:
        raise report.errors[0]  # no line fits, so the file is not the table
    info_path = next(iter(find_files(os.path.dirname(path), (INFO_TABLE,))), None)
    if info_path is None:
        raise FileNotFoundError(f"'{path}' has no titles and lengths; put {INFO_TABLE} into the same folder.")
    videos = {}
    for video_id, (domain, title, length) in _read_info(info_path, report).items():
        if video_id in scores:
            videos[video_id] = _shots_of_frames(np.stack(scores[video_id]), length, TABLE_TOLERANCE, domain, title)
    return videos


def _parse_scores(line: str, place: str) -> tuple[str, np.ndarray]:
    parts = line.split("\t")
    expected = "a video id, its category and comma-separated scores, separated by tabs"
    message = f"{place}: found {line[:40]!r}, expected {expected}"
    if len(parts) != 3:
        raise AnnotationError(message)
    try:
        return parts[0], np.array(parts[2].split(","), float)
    except ValueError as error:
        raise AnnotationError(message) from error


def _read_info(path: str, report: Report) -> dict[str, tuple[str, str, float]]:
    """Category, title and length in whole seconds of each video."""
    videos = {}
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t")
    try:
        for row in reader:
            if row == INFO_COLUMNS or not any(map(str.strip, row)):
                continue
            with report.skip_errors():
                length = _parse_length(row[-1])
                if len(row) != len(INFO_COLUMNS) or length is None:
                    expected = f"{', '.join(INFO_COLUMNS)} (m:ss), separated by tabs"
                    raise AnnotationError(f"{path}, line {reader.line_num}: found {row}, expected {expected}")
                videos[row[1]] = (row[0], row[2], length)
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {reader.line_num}: found a broken table ({error})") from error
    return videos


def _parse_length(text: str) -> float | None:
    """Seconds of "m:ss" or "h:mm:ss"."""
    seconds = 0.0
    for part in map(parse_number, text.split(":")):
        if part is None:
            return None
        seconds = 60 * seconds + part
    return seconds if seconds > 0 else None


def _shots_of_frames(
    scores: np.ndarray, length: float, tolerance: tuple[float, float], domain: str, title: str
) -> dict[str, Any]:
    """A video in the layout of `tvsum_anno.json`: the scores in the middle of every complete shot."""
    num_frames = scores.shape[1]
    fps = find_frame_rate(scores, length + tolerance[0], length + tolerance[1])
    num_shots = int(num_frames / fps / UNIT_SEC + 1e-6)  # 4.0 s may come out as 3.9999999
    middles = ((np.arange(num_shots) + 0.5) * UNIT_SEC * fps).astype(int)
    return {"fps": fps, "frames": num_frames, "domain": domain, "title": title, "anno": scores[:, middles].T.tolist()}


def find_frame_rate(scores: np.ndarray, shortest_sec: float, longest_sec: float) -> float:
    """Frames per second of a video whose scores change only between two-second shots.

    Args:
        scores: Array of shape `(num_annotators, num_frames)`.
        shortest_sec: Lower bound of the length.
        longest_sec: Upper bound of the length; the two differ by less than a shot.

    Returns:
        The usual rate that fits the bounds, and the changes to within a frame; otherwise the rate that fits the changes
        best.
    """
    num_frames = scores.shape[1]
    middle = 2 * num_frames / (shortest_sec + longest_sec)
    changes = np.flatnonzero((np.diff(scores, axis=1) != 0).any(axis=0)) + 0.5  # in frames
    shots = np.round(changes / (UNIT_SEC * middle))  # number of the shot that begins at each change

    def misfit(rate: float) -> float:
        return np.abs(changes - UNIT_SEC * rate * shots).max(initial=0)

    usual = [rate for rate in USUAL_RATES if shortest_sec <= num_frames / rate <= longest_sec]
    best = min(usual, key=lambda rate: (misfit(rate), abs(rate - middle)), default=None)
    if best is not None and misfit(best) <= 1:
        return best
    if not shots.any():
        return middle
    # Least squares: the rate that minimises sum((changes - UNIT_SEC * rate * shots) ** 2).
    return float((changes * shots).sum() / (UNIT_SEC * (shots**2).sum()))
