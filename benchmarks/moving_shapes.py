"""Scores on Moving Shapes by family of queries: checkpoints compared with answers that need no training.

python -m benchmarks.moving_shapes DATA --backbone CLIP --model NAME=CHECKPOINT ... [--split test] [--features CACHE]

The latter are random moments, the whole video, and CLIP without training: the span in which the similarity of frame and
query differs most from that outside, with the similarity as saliency.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoProcessor, CLIPModel
from transformers.utils import logging as transformers_logging

from benchmarks.measurement import format_report, write_text
from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS, UNIT_SEC
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.evaluation.predictions import predict
from r2tuning.evaluation.run import PART_COLUMNS, score_parts
from r2tuning.features.cache import FeatureCache


PARTS = BENCHMARKS["moving_shapes"].parts
FPS = 1.0
NUM_MOMENTS = 10  # of an answer without training, the best first
MOST_OVERLAP = 0.5  # between two of them
Moments = list[list[float]]  # start and end in seconds, and score
Row = dict[str, Any]


def main() -> None:
    """Print the table and JSON."""
    args = make_parser().parse_args()
    transformers_logging.set_verbosity_error()
    rows = list(load_vtg_dataset("moving_shapes", split=args.split, data_dir=args.data, video_dir=args.data))
    answers = {
        "random moments": answer_each(rows, RandomMoments(seed=0)),
        "whole video": answer_each(rows, whole_video),
        "CLIP without training": list(contrast_moments(rows, args.backbone)),
    }
    for model in args.model:
        name, checkpoint = model.split("=", 1)
        answers[name] = list(answer_by_model(rows, checkpoint, args.features))
    scores = {name: score_parts("moving_shapes", predictions, rows) for name, predictions in answers.items()}
    report = format_report({"split": args.split, "queries": count_parts(rows), "scores": scores})
    sys.stdout.write(f"{format_table(scores)}\n\n{report}")
    if args.output is not None:
        write_text(args.output, report)


def count_parts(rows: list[Row]) -> dict[str, int]:
    """Queries of each part and family."""
    domains = Counter(row["domain"] for row in rows)
    counts = {}
    for part, families in PARTS.items():
        counts[part] = sum(domains[family] for family in families)
    return counts


def format_table(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """A table in Markdown; a cell holds the four columns."""
    lines = [f"| {' / '.join(PART_COLUMNS)} | {' | '.join(PARTS)} |", f"|{'---|' * (len(PARTS) + 1)}"]
    for name, parts in scores.items():
        cells = []
        for columns in parts.values():
            cells.append(" / ".join(f"{value:.1f}" for value in columns.values()))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- answers without training --------------------------------------------------------------------------------------


def answer_each(rows: list[Row], answer: Callable[[Row], tuple[Moments, list[float]]]) -> list[Row]:
    """Predictions in the common form, from moments and saliency."""
    return [_prediction(row, *answer(row)) for row in rows]


def _prediction(row: Row, moments: Moments, saliency: list[float]) -> Row:
    return {
        "qid": row["qid"],
        "query": row["query"],
        "vid": row["video_id"],
        "pred_relevant_windows": moments,
        "pred_saliency_scores": saliency,
    }


def whole_video(row: Row) -> tuple[Moments, list[float]]:
    """One moment, and the same saliency everywhere."""
    return [[0.0, row["duration_sec"], 1.0]], [0.0] * len(row["saliency"]["scores"])


class RandomMoments:
    """Moments whose ends are drawn uniformly, with random scores and saliency."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def __call__(self, row: Row) -> tuple[Moments, list[float]]:
        """Moments and saliency of one query."""
        ends = np.sort(self.random.uniform(0, row["duration_sec"], (NUM_MOMENTS, 2)), axis=1)
        scores = np.sort(self.random.random(NUM_MOMENTS))[::-1]
        saliency = self.random.random(len(row["saliency"]["scores"]))
        return np.column_stack([ends, scores]).tolist(), saliency.tolist()


@torch.inference_mode()
def contrast_moments(rows: list[Row], folder: str) -> Iterator[Row]:
    """Answers of a CLIP that was trained on single pictures only."""
    clip = CLIPModel.from_pretrained(folder).eval()
    processor = R2TuningProcessor.from_backbone(folder, fps=FPS)
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row["video_id"], []).append(row)
    for queries in tqdm(videos.values(), desc="CLIP", unit=" videos", leave=False):
        text = processor(text=[row["query"] for row in queries])
        pixels = torch.cat(list(processor.stream_video(queries[0]["video"]["path"])))
        similarity = clip(pixel_values=pixels, **text).logits_per_text.double().numpy()  # (queries, frames)
        for row, curve in zip(queries, similarity, strict=True):
            moments = best_contrast(curve, row["duration_sec"])
            unit_middles = (np.arange(len(row["saliency"]["scores"])) + 0.5) * UNIT_SEC * FPS  # in frames
            saliency = curve[np.minimum(unit_middles.astype(int), len(curve) - 1)]
            yield _prediction(row, moments, saliency.tolist())


def best_contrast(curve: np.ndarray, duration_sec: float) -> Moments:
    """Spans of frames by the variance between inside and outside (Otsu's criterion), where inside is higher.

    Args:
        curve: `(num_frames,)`, similarity.
        duration_sec: Length of the video.
    """
    count = len(curve)
    start, end = np.triu_indices(count + 1, 1)
    total = np.concatenate([[0.0], np.cumsum(curve - curve.mean())])
    inside = total[end] - total[start]  # sum of what exceeds the mean of the whole curve
    length = end - start
    score = np.where(length < count, inside / np.sqrt(length * np.maximum(count - length, 1)), 0.0)
    kept: list[int] = []
    for index in np.argsort(-score, kind="stable"):
        if len(kept) == NUM_MOMENTS or (kept and score[index] <= 0):
            break
        overlap = np.minimum(end[index], end[kept]) - np.maximum(start[index], start[kept])
        if not (overlap > MOST_OVERLAP * np.minimum(length[index], length[kept])).any():
            kept.append(index)
    frame_sec = duration_sec / count
    return [[start[index] * frame_sec, end[index] * frame_sec, float(score[index])] for index in kept]


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
