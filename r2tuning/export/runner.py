"""Answer queries about videos with an exported model. Needs onnxruntime, tokenizers, av and numpy, and no torch.

    python run.py VIDEO QUERY [QUERY ...]

This file is `run.py` in every folder that `r2tuning export-onnx` writes, with a copy of the decoder beside it. Answers
equal those of the pipeline "video-grounding" up to rounding.
"""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


if __package__:  # a module of the package, else the copy
    from modeling_r2tuning.video_io_r2tuning import VideoFrameIterator, iter_video_frames
else:
    from decoder.video_io_r2tuning import (  # type: ignore[no-redef]
        VideoFrameIterator,
        iter_video_frames,
    )


logger = logging.getLogger(__name__)

FORMAT = "r2tuning-onnx-1"
SETTINGS, TOKENIZER = "settings.json", "tokenizer.json"
GRAPHS = {"frames": "frames.onnx", "text": "text.onnx", "heads": "heads.onnx"}
FRAMES_AT_ONCE = 32
QUERIES_AT_ONCE = 32
SIGMA = 0.5  # of Gaussian suppression
NUM_HIGHLIGHTS = 5
SUMMARY_SHARE, UNIT_SEC = 0.15, 2.0

Array = np.ndarray


@dataclass
class Window:
    """A part of a video, encoded.

    Args:
        start: Its first frame.
        num_frames: Number of its frames.
        video: `(num_steps, 1, num_frames, num_tokens, hidden)`, projected hidden states.
    """

    start: int
    num_frames: int
    video: Array


@dataclass
class Video:
    """A video in windows.

    Args:
        windows: In order of time; a list, or an iterator that encodes them when they are needed.
        num_frames: Number of frames of the whole video.
        fps: Frames per second.
        duration_sec: Length in seconds.
    """

    windows: Iterable[Window]
    num_frames: int
    fps: float
    duration_sec: float


class Runner:
    """An exported model.

    ```python
    runner = Runner("exported")
    answer = runner("talk.mp4", "people laugh")
    video = runner.encode("talk.mp4")  # once, for several calls
    answers = runner.ground(video, ["people laugh", "a man opens the door"])
    ```

    Args:
        folder: Written by `r2tuning export-onnx`.
        num_threads: Threads of a product; default: one for each core.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The folder is of another format.
    """

    def __init__(self, folder: str | os.PathLike, num_threads: int | None = None):
        self.folder = Path(folder)
        for name in (SETTINGS, TOKENIZER, *GRAPHS.values()):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(
                    f"'{self.folder}' has no '{name}': it is not a folder written by `r2tuning export-onnx`."
                )
        self.settings: dict[str, Any] = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        if self.settings.get("format") != FORMAT:
            raise ValueError(
                f"'{self.folder}' has the format {self.settings.get('format')!r}, this runner reads {FORMAT!r}. Export the "
                "checkpoint again."
            )
        self.tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        options = onnxruntime.SessionOptions()
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        self.sessions = {}
        for name, file in GRAPHS.items():
            path = str(self.folder / file)
            self.sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, video: Any, query: str | list[str], **options: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Answer one query or several about a video; a long video is never in memory as a whole.

        Args:
            video: Path, bytes, binary file object or http(s) address.
            query: A query or a list of queries.
            options: Those of `ground`.

        Returns:
            The answer, or a list of answers.
        """
        queries = [query] if isinstance(query, str) else list(query)
        answers = self.ground(self._open(video), queries, **options)
        return answers[0] if isinstance(query, str) else answers

    # ---- videos ----------------------------------------------------------------------------------------------------

    def encode(self, video: Any, progress: Callable[[int, int], None] | None = None) -> Video:
        """Encode a video once, to ask about it in several calls of `ground`.

        Args:
            video: Path, bytes, binary file object or http(s) address.
            progress: Called with the number of frames read so far and the total number.
        """
        opened = self._open(video, progress)
        opened.windows = list(opened.windows)
        return opened

    def _open(self, video: Any, progress: Callable[[int, int], None] | None = None) -> Video:
        """Open a video whose windows are encoded when they are needed, once; the arguments are those of `encode`."""
        size = self.settings["frame_size"]
        frames = iter_video_frames(
            video,
            self.settings["fps"],
            size=tuple(size) if isinstance(size, list) else size,
            interpolation=self.settings["interpolation"],
            chunk_size=FRAMES_AT_ONCE,
            progress=progress,
        )
        return Video(self._encode(frames), frames.num_frames, float(frames.fps), frames.duration_sec)

    def _encode(self, frames: VideoFrameIterator) -> Iterator[Window]:
        """Encode each frame once, and yield each window as soon as its last frame is encoded."""
        bounds = window_bounds(frames.num_frames, frames.fps, self.settings["window_sec"])
        pieces: list[list[Array]] = [[] for _ in bounds]
        first, done = 0, 0
        for chunk in frames:
            end = first + len(chunk)
            here = [index for index, (start, stop) in enumerate(bounds) if start < end and first < stop]
            endpoints = np.stack([temporal_endpoints(bounds[index], first, end) for index in here])
            pixels = normalise(chunk, self.settings)
            [video] = self.sessions["frames"].run(None, {"pixels": pixels, "endpoints": endpoints})
            for row, index in enumerate(here):
                start, stop = bounds[index]
                pieces[index].append(video[:, row : row + 1, max(start - first, 0) : stop - first])
            first = end
            while done < len(bounds) and bounds[done][1] <= end:
                start, stop = bounds[done]
                yield Window(start, stop - start, np.concatenate(pieces[done], axis=2))
                pieces[done] = []
                done += 1

    # ---- queries ---------------------------------------------------------------------------------------------------

    def ground(
        self,
        video: Video,
        queries: list[str],
        *,
        max_moments: int = 50,
        min_probability: float | None = 0.5,
    ) -> list[dict[str, Any]]:
        """Answer queries about a video.

        Args:
            video: From `encode`.
            queries: Sentences.
            max_moments: Number of points that are decoded for each query.
            min_probability: Probability from which a query counts as found; `None` = do not decide. Without effect on a
                model without existence head.

        Returns:
            For each query a dict as of the pipeline: `query`, `moments`, `saliency`, `frame_times`, `highlights`,
            `summary`, and with an existence head `probability` and `found`.

        Raises:
            ValueError: A query is empty, a setting is out of range, or the predictions are not finite.
        """
        if not queries or not all(isinstance(query, str) and query.strip() for query in queries):
            raise ValueError(f"`queries` must be non-empty strings, got {queries!r}.")
        if not isinstance(max_moments, int) or max_moments < 1:
            raise ValueError(f"`max_moments` must be a whole number of at least 1, got {max_moments!r}.")
        if min_probability is not None and not 0 <= min_probability <= 1:
            raise ValueError(f"`min_probability` must be from 0 to 1 or None, got {min_probability}.")
        input_ids, text_mask = self.tokenize(queries)
        words = self._encode_texts(input_ids, text_mask)
        owned = owned_frames(window_bounds(video.num_frames, video.fps, self.settings["window_sec"]))
        decoded = []
        for window, (first, end) in zip(video.windows, owned, strict=False):
            decoded.append(self._decode(window, first, end, words, text_mask))
        if len(decoded) < len(owned):
            raise ValueError("`video` has no windows left: `encode` it to call `ground` several times.")
        whole = join_windows(decoded)
        return self._answers(video, queries, whole, max_moments, min_probability)

    def tokenize(self, queries: list[str]) -> tuple[Array, Array]:
        """Token ids and their mask, both `(num_queries, text_length)`, padded on the right."""
        settings = self.settings
        limit = settings["longest_text"]
        rows = []
        for query in queries:
            text = query.lower() if settings["lowercase_text"] else query
            row = self.tokenizer.encode(text).ids
            if len(row) > limit:
                logger.warning("A query of %d tokens is truncated to %d.", len(row), limit)
                # The end of the text stays: CLIP takes its features from there.
                keeps_end = row[-1] in settings["special_ids"]
                row = [*row[: limit - 1], row[-1]] if keeps_end else row[:limit]
            rows.append(row)
        width = settings["max_text_length"] if settings["pad_to_max_text_length"] else max(map(len, rows))
        input_ids = np.full((len(rows), width), settings["pad_id"], dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=bool)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            mask[index, : len(row)] = True
        return input_ids, mask

    def _encode_texts(self, input_ids: Array, text_mask: Array) -> Array:
        """Projected hidden states of texts, `(num_steps, num_queries, text_length, hidden)`."""
        pieces = []
        for some in _batches(len(text_mask)):
            inputs = {"input_ids": input_ids[some], "attention_mask": text_mask[some]}
            pieces.append(self.sessions["text"].run(None, inputs)[0])
        return np.concatenate(pieces, axis=1)

    def _decode(self, window: Window, first: int, end: int, words: Array, text_mask: Array) -> "Decoded":
        """Predict in one window for all queries, and decode what the window owns, frames `first` to `end`."""
        multiple = self.settings["frame_multiple"]
        padded = max(math.ceil(window.num_frames / multiple), 2) * multiple
        video = np.pad(window.video, [(0, 0), (0, 0), (0, padded - window.num_frames), (0, 0), (0, 0)])
        frame_mask = np.arange(padded)[None] < window.num_frames  # (1, padded)
        names = self.settings["predictions"]
        batches: dict[str, list[Array]] = {name: [] for name in names}
        for some in _batches(len(text_mask)):
            inputs = {
                "video": video,
                "words": words[:, None, some],
                "frame_mask": frame_mask,
                "text_mask": text_mask[None, some],
            }
            for name, values in zip(names, self.sessions["heads"].run(names, inputs), strict=True):
                batches[name].append(values)
        points = batches.pop("points")[0]
        predicted = {name: np.concatenate(values) for name, values in batches.items()}
        return decode_window(predicted, points, window, first, end)

    def _answers(
        self, video: Video, queries: list[str], decoded: "Decoded", max_moments: int, min_probability: float | None
    ) -> list[dict[str, Any]]:
        """Turn predictions for a whole video into answers."""
        fps, duration_sec = np.float32(video.fps), np.float32(video.duration_sec)
        moments, scores = sort_by_score(decoded.moments / fps, decoded.scores, max_moments)
        moments, scores = refine_moments(moments, scores, duration_sec, self.settings)
        answers = []
        for index, query in enumerate(queries):
            answer: dict[str, Any] = {"query": query, "moments": list_moments(moments[index], scores[index])}
            answer |= describe_saliency(decoded.saliency[index], float(fps), float(duration_sec))
            if decoded.existence is not None:
                self._add_probability(answer, decoded.existence[index], min_probability)
            answers.append(answer)
        return answers

    def _add_probability(self, answer: dict[str, Any], logit: np.float32, min_probability: float | None) -> None:
        """Add `probability` and `found` to an answer, and empty an answer that is not found."""
        scale, bias = self.settings["existence_scale"], self.settings["existence_bias"]
        answer["probability"] = float(sigmoid(scale * np.float64(logit) + bias))
        if min_probability is None:
            return
        answer["found"] = answer["probability"] >= min_probability
        if not answer["found"]:
            answer.update(moments=[], highlights=[], summary=[])


def _batches(num_queries: int) -> Iterator[slice]:
    for start in range(0, num_queries, QUERIES_AT_ONCE):
        yield slice(start, start + QUERIES_AT_ONCE)


# ---- frames and windows --------------------------------------------------------------------------------------------


def normalise(frames: Array, settings: dict[str, Any]) -> Array:
    """From frames `(num_frames, height, width, 3)`, uint8, to pixels `(num_frames, 3, height, width)`, float32.

    The frames are cropped in the middle, if the settings say so, and normalised.
    """
    if settings["crop"] is not None:
        height, width = settings["crop"]
        top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
        frames = frames[:, top : top + height, left : left + width]
    pixels = frames.astype(np.float32) * np.float32(settings["rescale_factor"])
    pixels -= np.array(settings["mean"], dtype=np.float32)
    pixels /= np.array(settings["std"], dtype=np.float32)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def window_bounds(num_frames: int, fps: float, window_sec: float | None) -> list[tuple[int, int]]:
    """First frame and end (exclusive) of the windows of a video; they overlap by half."""
    if window_sec is None:
        return [(0, num_frames)]
    # One frame more than `window_sec` holds, so that rounding never splits a video of that length.
    window = max(2, math.ceil(window_sec * fps) + 1)
    bounds = [(0, min(window, num_frames))]
    while bounds[-1][1] < num_frames:
        start = bounds[-1][0] + window // 2
        bounds.append((start, min(start + window, num_frames)))
    return bounds


def owned_frames(bounds: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of each window, the first frame that it owns and the end: overlapping windows meet in the middle."""
    borders = [bounds[0][0]]
    for (_, end), (start, _) in zip(bounds[:-1], bounds[1:], strict=True):
        borders.append((start + end) // 2)
    borders.append(bounds[-1][1])
    return list(zip(borders[:-1], borders[1:], strict=True))


def temporal_endpoints(bounds: tuple[int, int], first: int, end: int) -> Array:
    """Relative start and end of the frames `first` to `end` of a video in one of its windows, `(end - first, 2)`."""
    start, stop = bounds
    time = np.arange(first - start, end - start, dtype=np.float32)
    return np.stack([time, time + 1], axis=-1) / np.float32(stop - start)


# ---- from predictions to answers -----------------------------------------------------------------------------------


@dataclass
class Decoded:
    """Predictions for each query.

    Args:
        moments: `(num_queries, num_points, 2)`, start and end in frames of the video.
        scores: `(num_queries, num_points)`, in [0, 1]; -1 = not to be counted.
        saliency: `(num_queries, num_frames)`.
        existence: `(num_queries,)`, logit that any moment matches; `None` without existence head.
    """

    moments: Array
    scores: Array
    saliency: Array
    existence: Array | None


def decode_window(predicted: dict[str, Array], points: Array, window: Window, first: int, end: int) -> Decoded:
    """Decode the points and frames of a window from frame `first` to `end` of the video.

    Args:
        predicted: The other outputs of the graph "heads".
        points: `(num_points, 4)`, position, lower, upper and stride in frames of the window.
        window: The window.
        first: First frame of the video that it owns.
        end: End of the frames that it owns.

    Raises:
        ValueError: The predictions are not finite.
    """
    logits, offsets = predicted["logits"], predicted.get("boundary_offsets")
    existence = predicted.get("existence_logits")
    checked = [logits, predicted["saliency_scores"]]
    if existence is not None:
        checked.append(existence)
    # Offsets may be infinite: moments are clamped to the video.
    is_finite = all(np.isfinite(values).all() for values in checked)
    if not is_finite or (offsets is not None and np.isnan(offsets).any()):
        raise ValueError("The predictions are not finite: the model's weights hold NaN.")
    point_mask, similarity = predicted["point_mask"][0], predicted["saliency_scores"]  # equal for all queries
    saliency = decode_saliency(logits, points, point_mask, window.num_frames)
    if offsets is None:
        moments, scores = np.zeros((len(logits), 0, 2), np.float32), np.zeros((len(logits), 0), np.float32)
    else:
        saliency = saliency * similarity[:, : window.num_frames]
        position, stride = points[:, 0], points[:, 3]
        starts, ends = position - stride * offsets[..., 0], position + stride * offsets[..., 1]
        moments = np.stack([starts, ends], axis=-1) + np.float32(window.start)
        owns = (first - window.start <= position) & (position < end - window.start) & point_mask
        scores = np.where(owns, sigmoid(logits), np.float32(-1))
    owned = saliency[:, first - window.start : end - window.start]
    return Decoded(moments, scores, owned, existence)


def decode_saliency(logits: Array, points: Array, point_mask: Array, num_frames: int) -> Array:
    """The highest class score of each frame over the levels of the pyramid, `(num_queries, num_frames)`.

    On a level of n points, frame t of T takes the score of point min(t // (T // n), n - 1).
    """
    scores = sigmoid(logits)
    time = np.arange(num_frames)
    best = np.full((len(logits), num_frames), -np.inf, dtype=np.float32)
    for stride in np.unique(points[:, 3]):
        level = scores[:, (points[:, 3] == stride) & point_mask]  # (num_queries, n)
        count = level.shape[1]
        if count:
            nearest = np.minimum(time // (num_frames // count), count - 1)
            best = np.maximum(best, level[:, nearest])
    return best


def join_windows(windows: list[Decoded]) -> Decoded:
    """Join the windows of a video; a query is present in the video if it is in any window."""
    logits = [window.existence for window in windows if window.existence is not None]
    return Decoded(
        moments=np.concatenate([window.moments for window in windows], axis=1),
        scores=np.concatenate([window.scores for window in windows], axis=1),
        saliency=np.concatenate([window.saliency for window in windows], axis=1),
        existence=np.max(logits, axis=0) if logits else None,
    )


def sigmoid(values: Any) -> Any:
    """1 / (1 + exp(-values)), in the precision of the values."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-values))


def sort_by_score(moments: Array, scores: Array, count: int | None = None) -> tuple[Array, Array]:
    """The best `count` moments (default all) and their scores, best first; equal scores keep their order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(moments, order[..., None], axis=1), np.take_along_axis(scores, order, axis=1)


def refine_moments(
    moments: Array, scores: Array, duration_sec: np.float32, settings: dict[str, Any]
) -> tuple[Array, Array]:
    """Clamp, round, suppress and sort moments `(num_queries, num_moments, 2)` in seconds.

    Only moments that end before the video does are rounded, half to even. Without suppression they are not sorted.
    """
    ends_early = moments[..., 1:] < duration_sec
    moments = np.minimum(np.maximum(moments, np.float32(0)), duration_sec)
    if settings["round_to"] is not None:
        unit = np.float32(settings["round_to"])
        moments = np.where(ends_early, np.round(moments / unit) * unit, moments)
    if settings["nms"] is None:
        return moments, scores
    lowered = [suppress(*each, settings) for each in zip(moments, scores, strict=True)]
    return sort_by_score(moments, np.stack(lowered))


def suppress(moments: Array, scores: Array, settings: dict[str, Any]) -> Array:
    """New scores of the moments `(num_moments, 2)` of one query: those that overlap better ones are lowered."""
    factors = suppression_factors(temporal_iou(moments, moments), settings)
    scores, remaining = scores.copy(), scores >= 0
    while remaining.any():
        best = int(np.where(remaining, scores, -1).argmax())
        remaining[best] = False
        scores = np.where(remaining, scores * factors[best], scores)
    return scores


def suppression_factors(iou: Array, settings: dict[str, Any]) -> Array:
    """By how much a moment lowers the score of another one, given their IoU."""
    if settings["nms"] == "hard":
        return (iou < settings["nms_threshold"]).astype(np.float32)
    if settings["nms"] == "linear":
        return 1 - iou
    return np.exp(-(iou**2) / np.float32(SIGMA))


def temporal_iou(first: Array, second: Array) -> Array:
    """Intersection over union of each moment of `first (n, 2)` with each of `second (m, 2)`; 0 where both are empty."""
    first, second = first[:, None], second[None]
    overlap = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    overlap = np.maximum(overlap, np.float32(0))
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - overlap
    return np.where(union > 0, overlap / np.maximum(union, np.finfo(np.float32).tiny), np.float32(0))


def list_moments(moments: Array, scores: Array) -> list[dict[str, float]]:
    """Moments of one query as dicts, without those that suppression removed and those that are not to be counted."""
    listed = []
    for (start, end), score in zip(moments.tolist(), scores.tolist(), strict=True):
        if score > 0:
            listed.append({"start": start, "end": end, "score": score})
    return listed


def describe_saliency(saliency: Array, fps: float, duration_sec: float) -> dict[str, Any]:
    """Saliency `(num_frames,)` of one query as a list, and the highlights and the summary chosen by it."""
    highlights = []
    for frame in np.argsort(-saliency, kind="stable")[:NUM_HIGHLIGHTS].tolist():
        highlights.append({"time": frame / fps, "score": float(saliency[frame])})
    summary = []
    for start, end in select_summary(saliency, fps, duration_sec):
        summary.append({"start": start, "end": end})
    return {
        "saliency": saliency.tolist(),
        "frame_times": [frame / fps for frame in range(len(saliency))],
        "highlights": highlights,
        "summary": summary,
    }


def select_summary(saliency: Array, fps: float, duration_sec: float) -> list[tuple[float, float]]:
    """Spans in seconds of the most salient units that together fill about `SUMMARY_SHARE` of the video."""
    frames_per_unit = max(1, round(UNIT_SEC * fps))
    starts = range(0, len(saliency), frames_per_unit)
    units = np.array([saliency[start : start + frames_per_unit].mean() for start in starts])
    count = max(1, int(SUMMARY_SHARE * duration_sec * fps / frames_per_unit))
    spans: list[tuple[float, float]] = []
    for unit in sorted(np.argsort(-units, kind="stable")[:count].tolist()):
        start = unit * frames_per_unit / fps
        end = (unit + 1) * frames_per_unit / fps if unit + 1 < len(units) else max(duration_sec, start)
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, min(end, max(duration_sec, start))))
    return spans


# ---- command -------------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Answer queries and print the answers as JSON; returns the exit status, 2 after an error."""
    args = make_parser().parse_args(argv)
    try:
        runner = Runner(args.folder, args.threads)
        answers = runner(args.video, args.queries, max_moments=args.max_moments, min_probability=args.min_probability)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"run.py: error: {error}\n")
        return 2
    sys.stdout.write(json.dumps(answers, ensure_ascii=False, indent=2) + "\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="run.py", description="Find the moments of a video that a sentence describes; prints JSON."
    )
    parser.add_argument("video", metavar="VIDEO", help="video file or address")
    parser.add_argument("queries", metavar="QUERY", nargs="+", help="what to look for")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(__file__).absolute().parent,
        metavar="DIR",
        help="the exported model (default: the folder of this file)",
    )
    parser.add_argument(
        "--max-moments", type=int, default=50, metavar="N", help="moments listed for each query (default: 50)"
    )
    parser.add_argument(
        "--min-probability",
        type=float,
        default=0.5,
        metavar="P",
        help="probability from which a query counts as found, for models with an existence head (default: 0.5)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a product (default: one for each core)")
    return parser


__all__ = ["Decoded", "Runner", "Video", "Window", "main"]


if __name__ == "__main__":
    sys.exit(main())
