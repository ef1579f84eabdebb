"""Predictions in the common form: read from a file, made by a checkpoint, written for the evaluation server."""

import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from dataset_scripts.benchmarks import BENCHMARKS, UNIT_SEC, BenchmarkSpec
from dataset_scripts.reading import Record, parse_json, read_lines
from dataset_scripts.targets import frame_rate
from modeling_r2tuning import EncodedVideo, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.containers_r2tuning import open_stream
from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.video_source_r2tuning import make_source
from r2tuning.features.cache import FeatureCache
from r2tuning_cli.defaults import SUBMISSION_SPLITS


logger = logging.getLogger(__name__)

LEAVE_OUT = "Replace the file, or pass `--missing-videos skip` to leave out what cannot be read."
SUBMISSION_FILE = "hl_{split}_submission.jsonl"  # names that the QVHighlights server asks for


def read_predictions(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read a prediction file: one JSON object a line, plain or compressed by gzip.

    Args:
        path: File of lines such as `{"qid": 1, "vid": "a", "pred_relevant_windows": [[start, end, score], ...],
            "pred_saliency_scores": [...]}`, times in seconds; either of the last two may be absent.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no such object; the message names it.
    """
    records = (Record(parse_json(line, path, number), f"{path}, line {number}") for number, line in read_lines(path))
    return [_check_prediction(record) for record in records]


def _check_prediction(record: Record) -> dict[str, Any]:
    """The fields of a prediction, as found."""
    record.identifier("vid" if record.has("vid") and not record.has("qid") else "qid")
    if record.has("pred_relevant_windows"):
        record.windows("pred_relevant_windows", "[start, end, score] triple")
    if record.has("pred_saliency_scores"):
        record.numbers("pred_saliency_scores")
    return record.fields


def write_predictions(rows: Iterable[dict[str, Any]], path: str | os.PathLike) -> None:
    """Write one JSON object a line; the file appears when it is whole."""
    with writing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_submission(rows: Iterable[dict[str, Any]], folder: str | os.PathLike, split: str) -> Path:
    """Write predictions as the QVHighlights server took them.

    The server wanted `submission.zip` with a file for val and one for test: it is made anew from what the folder
    holds, so call this once for each split.

    Args:
        rows: Predictions on `split`, with moments and saliency.
        folder: Where to write.
        split: `"val"` or `"test"`.

    Returns:
        Path of `submission.zip`.

    Raises:
        ValueError: Another split, or a prediction that lacks moments or saliency.
    """
    if split not in SUBMISSION_SPLITS:
        raise ValueError(f"`split` must be one of {SUBMISSION_SPLITS} for a submission, got {split!r}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "qid": _server_id(row)} for row in rows]
    lacking = [row["qid"] for row in rows if not {"pred_relevant_windows", "pred_saliency_scores"} <= set(row)]
    if lacking:
        raise ValueError(f"{len(lacking)} predictions lack moments or saliency, such as that of query {lacking[0]}.")
    write_predictions(rows, folder / SUBMISSION_FILE.format(split=split))
    archive = folder / "submission.zip"
    with writing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
        for name in (SUBMISSION_FILE.format(split=part) for part in SUBMISSION_SPLITS):
            if (folder / name).exists():
                file.write(folder / name, name)
    return archive


def _server_id(row: dict[str, Any]) -> int:
    """The id of a query as the server wants it."""
    qid = str(row.get("qid"))
    if not qid.isdecimal():
        raise ValueError(f"The `qid` of every prediction in a submission must be a whole number, got {qid[:60]!r}.")
    return int(qid)


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
    """Predict every query of a dataset; each video is encoded once, whatever the number of its queries.

    Args:
        model: In eval mode.
        processor: The model's.
        rows: In the schema of `dataset_scripts.features`; `video` is needed unless there is a cache.
        cache: Cached CLIP features instead of videos.
        benchmark: Name of the benchmark that the rows belong to.
        missing_videos: For a video or features that cannot be read: "error", or "skip" to give no prediction for the
            queries about it, which are logged.

    Yields:
        A prediction in the common form for each query, all queries of a video behind each other.

    Raises:
        ValueError: A video or its features cannot be read.
    """
    spec = BENCHMARKS[benchmark]
    videos: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        videos.setdefault(row["video_id"], []).append(row)
    failed = 0
    for queries in tqdm(videos.values(), desc="videos", unit=" videos", leave=False):
        try:
            encoded = _encode_video(model, processor, queries[0], cache, spec)
            texts = _encode_queries(model, processor, queries, cache)
        except (OSError, ValueError) as error:
            if missing_videos == "error":
                raise ValueError(f"'{queries[0]['video_id']}' cannot be read: {error} {LEAVE_OUT}") from error
            failed += len(queries)
            logger.warning(f"{len(queries)} queries about '{queries[0]['video_id']}' have no prediction: {error}")
            continue
        outputs = model.ground(encoded, **texts)
        answers = processor.post_process_video_grounding(outputs)
        for row, answer in zip(queries, answers, strict=True):
            yield _to_prediction(row, answer, spec)
    if failed:
        logger.warning(f"{failed} queries have no prediction, as their video could not be read.")


def find_unreadable(rows: Iterable[dict[str, Any]], cache: FeatureCache | None = None) -> dict[str, str]:
    """Why queries cannot be predicted, by qid, as far as the headers of their files tell; arguments as for `predict`."""
    reasons: dict[str, str] = {}
    videos: dict[str, str | None] = {}
    for row in rows:
        if row["video_id"] not in videos:
            videos[row["video_id"]] = _reason(_open_video, row, cache)
        reason = videos[row["video_id"]] or _reason(_open_query, row, cache)
        if reason is not None:
            reasons[row["qid"]] = f"query {row['qid']} about '{row['video_id']}': {reason}"
    return reasons


def _reason(read: Callable[..., Any], row: dict[str, Any], cache: FeatureCache | None) -> str | None:
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


def leave_out(
    rows: list[dict[str, Any]], reasons: dict[str, str], missing_videos: Literal["error", "skip"]
) -> list[dict[str, Any]]:
    """Rows without those of `find_unreadable`.

    Raises:
        ValueError: There are some, and `missing_videos` is "error"; or nothing is left.
    """
    if not reasons:
        return rows
    first = next(iter(reasons.values()))
    if missing_videos == "error":
        raise ValueError(f"{len(reasons):,} of {len(rows):,} queries cannot be used, such as {first} {LEAVE_OUT}")
    kept = [row for row in rows if row["qid"] not in reasons]
    if not kept:
        raise ValueError(f"None of {len(rows):,} queries can be used, such as {first}")
    logger.warning(f"{len(reasons):,} of {len(rows):,} queries are left out, such as {first}")
    return kept


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
) -> dict[str, torch.Tensor]:
    """The text inputs of `ground`, from the cache or by the tokenizer."""
    if cache is None:
        return dict(processor(text=[row["query"] for row in rows]).to(model.device))
    states = [cache.query(row["qid"], row["query"]) for row in rows]
    lengths = torch.tensor([len(state) for state in states])
    padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True).to(model.device)
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    return {"text_hidden_states": padded, "attention_mask": mask.to(model.device)}


def _to_prediction(row: dict[str, Any], answer: dict[str, Any], spec: BenchmarkSpec) -> dict[str, Any]:
    prediction = {"qid": row["qid"], "query": row["query"], "vid": row["video_id"]}
    if "moment_retrieval" in row["task"]:
        prediction["pred_relevant_windows"] = [[m["start"], m["end"], m["score"]] for m in answer["moments"]]
    if row["task"] != ["moment_retrieval"]:
        prediction["pred_saliency_scores"] = _saliency_of_units(row, answer, spec)
    return prediction


def _saliency_of_units(row: dict[str, Any], answer: dict[str, Any], spec: BenchmarkSpec) -> list[float]:
    """Saliency of the frame in the middle of each annotated unit; of each 2-second unit where none is annotated."""
    if row["saliency"] is not None:
        middles = [(start + end) / 2 for start, end in row["saliency"]["times_sec"]]
    else:
        num_units = int(row["duration_sec"] / UNIT_SEC)
        middles = [(unit + 0.5) * UNIT_SEC for unit in range(num_units)]
    scores, times = answer["saliency"], answer["frame_times"]
    if spec.saliency.frames == "one_per_unit" and len(scores) == len(middles):
        return scores
    fps = len(times) / (times[-1] + times[1]) if len(times) > 1 else 1.0
    return [scores[min(int(middle * fps), len(scores) - 1)] for middle in middles]


__all__ = [
    "find_unreadable",
    "leave_out",
    "predict",
    "read_predictions",
    "write_predictions",
    "write_submission",
]
