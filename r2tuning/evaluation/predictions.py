"""Predictions in the common form: read from a file, made by a checkpoint, written for the evaluation server."""

import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS, OWN_DATA, UNIT_SEC, BenchmarkSpec
from dataset_scripts.custom import count_missing_queries
from dataset_scripts.reading import Record, parse_json, read_lines
from dataset_scripts.targets import frame_rate
from modeling_r2tuning import EncodedVideo, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.containers_r2tuning import open_stream
from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.video_source_r2tuning import make_source
from r2tuning.features.cache import FeatureCache
from r2tuning_cli.defaults import SUBMISSION_SPLITS


logger = logging.getLogger(__name__)

ADVICE = "Replace the file, or pass `--missing-videos skip` to leave out what cannot be read."
SUBMISSION_FILE = "hl_{split}_submission.jsonl"  # the QVHighlights server expects these names
SUBMISSION_FIELDS = ("pred_relevant_windows", "pred_saliency_scores")


# ---- files ---------------------------------------------------------------------------------------------------------


def read_predictions(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read a prediction file: one JSON object per line, plain or compressed by gzip.

    Args:
        path: File of lines such as `{"qid": 1, "vid": "a", "pred_relevant_windows": [[start, end, score], ...],
            "pred_saliency_scores": [...], "pred_exist_score": 0.9}`, times in seconds; each of the last three may be
            absent.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no such object; the message names it.
    """
    predictions = []
    for number, line in read_lines(path):
        record = Record(parse_json(line, path, number), f"{path}, line {number}")
        predictions.append(_check_prediction(record))
    return predictions


def _check_prediction(record: Record) -> dict[str, Any]:
    """The fields of a prediction, unchanged."""
    record.identifier("vid" if record.has("vid") and not record.has("qid") else "qid")
    if record.has("pred_relevant_windows"):
        record.intervals("pred_relevant_windows", "[start, end, score] triple")
    if record.has("pred_saliency_scores"):
        record.numbers("pred_saliency_scores")
    if record.has("pred_exist_score"):
        record.number("pred_exist_score")
    return record.fields


def write_predictions(rows: Iterable[dict[str, Any]], path: str | os.PathLike) -> None:
    """Write one JSON object per line; the file appears complete or not at all."""
    with writing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(_as_json_line(row))


def _as_json_line(row: dict[str, Any]) -> str:
    """A row as a line of JSON in which text of any script stays readable."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can escape but UTF-8 does not have
        return json.dumps(row) + "\n"
    return line


def write_submission(rows: Iterable[dict[str, Any]], folder: str | os.PathLike, split: str) -> Path:
    """Write predictions in the form of the QVHighlights evaluation server.

    The server expects `submission.zip` with one file for val and one for test. Call this function once for each split:
    it rebuilds the archive from the files in the folder.

    Args:
        rows: Predictions on `split`, with moments and saliency.
        folder: Where to write.
        split: `"val"` or `"test"`.

    Returns:
        Path of `submission.zip`.

    Raises:
        ValueError: `split` is another one, or a prediction lacks moments, saliency or a whole number as `qid`.
    """
    if split not in SUBMISSION_SPLITS:
        raise ValueError(f"`split` must be one of {SUBMISSION_SPLITS} for a submission, got {split!r}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "qid": _server_id(row)} for row in rows]
    incomplete = [row["qid"] for row in rows if not row.keys() >= set(SUBMISSION_FIELDS)]
    if incomplete:
        raise ValueError(
            f"{len(incomplete)} predictions lack moments or saliency, such as that of query {incomplete[0]}."
        )
    write_predictions(rows, folder / SUBMISSION_FILE.format(split=split))
    archive = folder / "submission.zip"
    with writing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
        for part in SUBMISSION_SPLITS:
            name = SUBMISSION_FILE.format(split=part)
            if (folder / name).exists():
                file.write(folder / name, name)
    return archive


def _server_id(row: dict[str, Any]) -> int:
    """The id of a query as the server expects it."""
    qid = str(row.get("qid"))
    if not qid.isdecimal():
        raise ValueError(f"The `qid` of every prediction in a submission must be a whole number, got {qid[:60]!r}.")
    return int(qid)


# ---- predicting ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def predict(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    rows: Iterable[dict[str, Any]],
    cache: FeatureCache | None = None,
    *,
    benchmark: str,
    missing_videos: Literal["error", "skip"] = "error",
) -> Iterator[dict[str, Any]]:
    """Predict every query of a dataset; each video is encoded once for all its queries.

    Args:
        model: The model, in eval mode.
        processor: Its processor.
        rows: Examples in the schema of `dataset_scripts.features`; `video` is needed unless there is a cache.
        cache: Cached features to use instead of videos.
        benchmark: Name of the benchmark that the rows belong to.
        missing_videos: What to do if a video or its features cannot be read: "error" raises, "skip" logs the queries
            about it and yields no predictions for them.

    Yields:
        A prediction in the common form for each query, grouped by video; with `pred_exist_score`, the probability that
        anything matches, if the model has an existence head.

    Raises:
        ValueError: A video or its features cannot be read.
    """
    spec = BENCHMARKS[benchmark]
    queries_by_video: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        queries_by_video.setdefault(row["video_id"], []).append(row)
    num_failed = 0
    for video_id, queries in tqdm(queries_by_video.items(), desc="videos", unit=" videos", leave=False):
        try:
            video = _encode_video(model, processor, queries[0], cache, spec)
            texts = _encode_queries(model, processor, queries, cache)
        except (OSError, ValueError) as error:
            if missing_videos == "error":
                raise ValueError(f"'{video_id}' cannot be read: {error} {ADVICE}") from error
            num_failed += len(queries)
            logger.warning(f"{len(queries)} queries about '{video_id}' have no prediction: {error}")
            continue
        outputs = model.ground(video, **texts)
        answers = processor.post_process_video_grounding(outputs)
        for query, answer in zip(queries, answers, strict=True):
            yield _to_prediction(query, answer, spec)
    if num_failed:
        logger.warning(f"{num_failed} queries have no prediction, because their videos could not be read.")


def _encode_video(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    row: dict[str, Any],
    cache: FeatureCache | None,
    spec: BenchmarkSpec,
) -> EncodedVideo:
    fps = frame_rate(row, spec, processor.fps)
    if cache is not None:
        states = cache.video(row["video_id"])
        return model.encode_video(video_hidden_states=states, fps=fps, duration_sec=row["duration_sec"])
    if row["video"] is None:
        raise ValueError("the dataset was loaded without `video_dir`, and there is no feature cache.")
    stream = processor.stream_video(row["video"]["path"], fps=fps)
    return model.encode_video(stream, fps=fps, duration_sec=row["duration_sec"])


def _encode_queries(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    rows: list[dict[str, Any]],
    cache: FeatureCache | None,
) -> dict[str, Any]:
    """The text arguments of `ground`, padded, from the cache or from the tokenizer."""
    if cache is None:
        return dict(processor(text=[row["query"] for row in rows]).to(model.device))
    states = [cache.query(row["qid"], row["query"]) for row in rows]
    lengths = torch.tensor([len(state) for state in states])
    padded = pad_sequence(states, batch_first=True).to(model.device)
    mask = torch.arange(padded.shape[1]) < lengths[:, None]  # (num_queries, text_length)
    return {"text_hidden_states": padded, "attention_mask": mask.to(model.device)}


def _to_prediction(row: dict[str, Any], answer: dict[str, Any], spec: BenchmarkSpec) -> dict[str, Any]:
    prediction = {"qid": row["qid"], "query": row["query"], "vid": row["video_id"]}
    if "moment_retrieval" in row["task"]:
        moments = [[moment["start"], moment["end"], moment["score"]] for moment in answer["moments"]]
        prediction["pred_relevant_windows"] = moments
    if row["task"] != ["moment_retrieval"]:
        prediction["pred_saliency_scores"] = _unit_saliency(row, answer, spec)
    if "probability" in answer:
        prediction["pred_exist_score"] = answer["probability"]
    return prediction


def _unit_saliency(row: dict[str, Any], answer: dict[str, Any], spec: BenchmarkSpec) -> list[float]:
    """Saliency of the frame in the middle of each annotated unit, or of each 2 seconds if nothing is annotated."""
    if row["saliency"] is not None:
        middles = [(start + end) / 2 for start, end in row["saliency"]["times_sec"]]
    else:
        num_units = int(row["duration_sec"] / UNIT_SEC)
        middles = [(unit + 0.5) * UNIT_SEC for unit in range(num_units)]
    scores, times = answer["saliency"], answer["frame_times"]
    if spec.saliency.frames == "one_per_unit" and len(scores) == len(middles):
        return scores
    # The i-th frame has the time i / fps, so the last time plus the second one is num_frames / fps.
    fps = len(times) / (times[-1] + times[1]) if len(times) > 1 else 1.0
    return [scores[min(int(middle * fps), len(scores) - 1)] for middle in middles]


# ---- files that cannot be read -------------------------------------------------------------------------------------


def find_unreadable(rows: Iterable[dict[str, Any]], cache: FeatureCache | None = None) -> dict[str, str]:
    """Queries that cannot be predicted because the header of a file is missing or damaged.

    Args:
        rows: As for `predict`.
        cache: As for `predict`.

    Returns:
        The reasons, by qid.
    """
    reasons: dict[str, str] = {}
    videos: dict[str, str | None] = {}
    for row in rows:
        if row["video_id"] is None:  # a hidden split
            reasons[row["qid"]] = f"query {row['qid']} names no video to ground it in"
            continue
        if row["video_id"] not in videos:
            videos[row["video_id"]] = _find_reason(_open_video, row, cache)
        reason = videos[row["video_id"]] or _find_reason(_open_query, row, cache)
        if reason is not None:
            reasons[row["qid"]] = f"query {row['qid']} about '{row['video_id']}': {reason}"
    return reasons


def _find_reason(read: Callable[..., Any], row: dict[str, Any], cache: FeatureCache | None) -> str | None:
    try:
        read(row, cache)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _open_video(row: dict[str, Any], cache: FeatureCache | None) -> None:
    if cache is not None:
        cache.video(row["video_id"])
    elif row["video"] is not None:
        with open_stream(make_source(row["video"]["path"])):
            pass


def _open_query(row: dict[str, Any], cache: FeatureCache | None) -> None:
    if cache is not None:
        cache.query(row["qid"], row["query"])


def count_missing(benchmark: str, num_loaded: int, options: Mapping[str, Any]) -> int:
    """Number of queries that `load_vtg_dataset` left out of a split because their videos are missing.

    Args:
        benchmark: Name of the benchmark.
        num_loaded: Number of queries that it returned.
        options: The other arguments that it was called with.
    """
    if options["missing_videos"] == "error":
        return 0
    if benchmark == OWN_DATA:
        names = ("split", "data_dir", "data_files", "video_dir", "lengths")
        return count_missing_queries(**{name: options[name] for name in names})
    if options["video_dir"] is None:
        return 0
    return len(load_vtg_dataset(benchmark, **{**options, "video_dir": None})) - num_loaded


def leave_out(
    rows: list[dict[str, Any]], reasons: dict[str, str], missing_videos: Literal["error", "skip"]
) -> list[dict[str, Any]]:
    """Rows that can be used.

    Args:
        rows: All rows.
        reasons: Why some cannot be used, from `find_unreadable`.
        missing_videos: "error" to refuse them, "skip" to leave them out.

    Raises:
        ValueError: A row cannot be used and `missing_videos` is "error", or no row can be used.
    """
    if not reasons:
        return rows
    first = next(iter(reasons.values()))
    if missing_videos == "error":
        raise ValueError(f"{len(reasons):,} of {len(rows):,} queries cannot be used, such as {first} {ADVICE}")
    kept = [row for row in rows if row["qid"] not in reasons]
    if not kept:
        raise ValueError(f"None of {len(rows):,} queries can be used, such as {first}")
    logger.warning(f"{len(reasons):,} of {len(rows):,} queries are left out, such as {first}")
    return kept


__all__ = [
    "count_missing",
    "find_unreadable",
    "leave_out",
    "predict",
    "read_predictions",
    "write_predictions",
    "write_submission",
]
