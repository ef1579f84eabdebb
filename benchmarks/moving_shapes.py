"""Scores on Moving Shapes by family of queries: checkpoints beside answers that need no training.

python benchmarks/moving_shapes.py DATA --backbone CLIP --model NAME=CHECKPOINT ... [--split test] [--features CACHE]

Beside the checkpoints stand random moments, the whole video, and CLIP without training: the window in which the
similarity of frame and query is most unlike that outside, with the similarity as saliency.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoProcessor, CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from dataset_scripts import load_vtg_dataset
from dataset_scripts.moving_shapes.builder import PARTS
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.evaluation.predictions import predict
from r2tuning.evaluation.run import PART_COLUMNS, score_parts
from r2tuning.features.cache import FeatureCache
from r2tuning.hub.model_card import write_text


CLIP_SEC = 2.0
FPS = 1.0
NUM_WINDOWS = 10  # of an answer without training, the best first
MOST_OVERLAP = 0.5  # between two of them
Windows = list[list[float]]
Row = dict[str, Any]


def main() -> None:
    """Print the table and JSON."""
    args = make_parser().parse_args()
    transformers_logging.set_verbosity_error()
    rows = list(load_vtg_dataset("moving_shapes", split=args.split, data_dir=args.data, video_dir=args.data))
    answers = {
        "random moments": answer_each(rows, RandomMoments(seed=0)),
        "whole video": answer_each(rows, whole_video),
        "CLIP without training": list(contrast_windows(rows, args.backbone)),
    }
    for name, checkpoint in (model.split("=", 1) for model in args.model):
        answers[name] = list(answer_by_model(rows, checkpoint, args.features))
    scores = {name: score_parts(predictions, rows) for name, predictions in answers.items()}
    document = {"command": shlex.join(sys.argv), "split": args.split, "queries": count_parts(rows), "scores": scores}
    sys.stdout.write(f"{format_table(scores)}\n\n{json.dumps(document, indent=2)}\n")
    if args.output is not None:
        write_text(args.output, json.dumps(document, indent=2) + "\n")


def count_parts(rows: list[Row]) -> dict[str, int]:
    """Queries of each part and family."""
    return {part: sum(row["domain"] in families for row in rows) for part, families in PARTS.items()}


def format_table(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """A table in Markdown; a cell holds the four columns."""
    lines = [f"| {' / '.join(PART_COLUMNS)} | {' | '.join(PARTS)} |", f"|{'---|' * (len(PARTS) + 1)}"]
    for name, parts in scores.items():
        cells = (" / ".join(f"{value:.1f}" for value in columns.values()) for columns in parts.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- answers without training --------------------------------------------------------------------------------------


def answer_each(rows: list[Row], answer: Callable[[Row], tuple[Windows, list[float]]]) -> list[Row]:
    """Predictions in the common form, from windows and saliency."""
    return [_prediction(row, *answer(row)) for row in rows]


def _prediction(row: Row, windows: Windows, saliency: list[float]) -> Row:
    return {
        "qid": row["qid"],
        "query": row["query"],
        "vid": row["video_id"],
        "pred_relevant_windows": windows,
        "pred_saliency_scores": saliency,
    }


def whole_video(row: Row) -> tuple[Windows, list[float]]:
    """One moment, and no clip better than another."""
    return [[0.0, row["duration_sec"], 1.0]], [0.0] * len(row["saliency"]["scores"])


class RandomMoments:
    """Windows whose ends are drawn evenly, with random scores and saliency."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def __call__(self, row: Row) -> tuple[Windows, list[float]]:
        """Windows and saliency of one query."""
        ends = np.sort(self.random.uniform(0, row["duration_sec"], (NUM_WINDOWS, 2)), axis=1)
        scores = np.sort(self.random.random(NUM_WINDOWS))[::-1]
        saliency = self.random.random(len(row["saliency"]["scores"]))
        return np.column_stack([ends, scores]).tolist(), saliency.tolist()


@torch.inference_mode()
def contrast_windows(rows: list[Row], folder: str) -> Iterator[Row]:
    """Answers of a CLIP that was trained on pictures only."""
    clip = CLIPModel.from_pretrained(folder).eval()
    parts = (CLIPImageProcessor.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder))
    processor = R2TuningProcessor(*parts, fps=FPS)
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row["video_id"], []).append(row)
    for queries in tqdm(videos.values(), desc="CLIP", unit=" videos", leave=False):
        text = processor(text=[row["query"] for row in queries])
        pixels = torch.cat(list(processor.stream_video(queries[0]["video"]["path"])))
        similarity = clip(pixel_values=pixels, **text).logits_per_text.double().numpy()  # (queries, frames)
        for row, curve in zip(queries, similarity, strict=True):
            windows = best_windows(curve, row["duration_sec"])
            middles = (np.arange(len(row["saliency"]["scores"])) + 0.5) * CLIP_SEC * FPS
            yield _prediction(row, windows, curve[np.minimum(middles.astype(int), len(curve) - 1)].tolist())


def best_windows(curve: np.ndarray, duration_sec: float) -> Windows:
    """Windows of frames by the variance between inside and outside (Otsu's criterion), inside the higher.

    Args:
        curve: `(num_frames,)`, similarity.
        duration_sec: Length of the video.
    """
    count = len(curve)
    start, end = np.triu_indices(count + 1, 1)
    total = np.concatenate([[0.0], np.cumsum(curve - curve.mean())])
    inside = total[end] - total[start]  # above the mean of the whole
    length = end - start
    score = np.where(length < count, inside / np.sqrt(length * np.maximum(count - length, 1)), 0.0)
    kept: list[int] = []
    for index in np.argsort(-score, kind="stable"):
        if len(kept) == NUM_WINDOWS or (kept and score[index] <= 0):
            break
        overlap = np.minimum(end[index], end[kept]) - np.maximum(start[index], start[kept])
        if not (overlap > MOST_OVERLAP * np.minimum(length[index], length[kept])).any():
            kept.append(index)
    second = duration_sec / count
    return [[start[index] * second, end[index] * second, float(score[index])] for index in kept]


# ---- answers of a checkpoint ---------------------------------------------------------------------------------------


def answer_by_model(rows: list[Row], checkpoint: str, features: str | None) -> Iterator[Row]:
    """Predictions of a trained model, from a cache or from the videos."""
    model = R2TuningForVideoGrounding.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    cache = None if features is None else FeatureCache(features, model=model, fps=processor.fps)
    yield from predict(model, processor, rows, cache, benchmark="moving_shapes")


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="folder that `python -m dataset_scripts.moving_shapes` wrote")
    parser.add_argument("--backbone", required=True, help="CLIP to answer without training")
    parser.add_argument("--model", nargs="*", default=[], metavar="NAME=CHECKPOINT", help="trained models")
    parser.add_argument("--split", default="test", help="split (default: test)")
    parser.add_argument("--features", help="feature cache for the checkpoints (default: from the videos)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON")
    return parser


if __name__ == "__main__":
    main()
