"""Time to score QVHighlights predictions, against a plain transcription of the metrics that goes query by query.

python benchmarks/metrics.py PREDICTIONS.jsonl[.gz] highlight_val_release.jsonl [--output benchmarks/results/metrics.json]

For scale: the public evaluator needs about 11 s of processor time (8 worker processes) for the 1,550 validation queries.
"""

import argparse
import gzip
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from dataset_scripts.files import writing
from dataset_scripts.metrics import compute_scores


AP_THRESHOLDS = [step / 100 for step in range(50, 100, 5)]
RECALL_THRESHOLDS = [step / 100 for step in range(30, 100, 5)]
RANGES = {"full": (-1, 1e9), "long": (30, 1e9), "middle": (10, 30), "short": (0, 10)}
LEVELS = {"HL-min-Fair": 2, "HL-min-Good": 3, "HL-min-VeryGood": 4}


def plain_iou(window: list, moment: list) -> float:
    """Overlap over union."""
    overlap = max(0.0, min(window[1], moment[1]) - max(window[0], moment[0]))
    return overlap / (window[1] - window[0] + moment[1] - moment[0] - overlap) if overlap else 0.0


def plain_moment_ap(ious: list[list[float]], threshold: float) -> float:
    """Average precision of one query from the IoU of each window, best first, with each moment."""
    free, hits, precision = set(range(len(ious[0]))), [], []
    for row in ious:
        best = max(((row[index], index) for index in free), default=(0.0, -1))
        hits.append(best[0] >= threshold)
        free.discard(best[1] if hits[-1] else None)
        precision.append(sum(hits) / len(hits))
    return sum(max(precision[n:]) for n, hit in enumerate(hits) if hit) / len(ious[0])


def plain_range(predictions: dict, references: list[dict], above: float, up_to: float) -> dict:
    """MR figures of one range."""
    ap, first, five = [], [], []
    for row in references:
        moments = [moment for moment in row["moments"] if above < moment[1] - moment[0] <= up_to]
        if not moments:
            continue
        windows = predictions[row["qid"]]["pred_relevant_windows"]
        ious = [[plain_iou(window, moment) for moment in moments] for window in windows[:10]]
        order = sorted(range(len(ious)), key=lambda n: -windows[n][2])
        ap.append([plain_moment_ap([ious[n] for n in order], threshold) for threshold in AP_THRESHOLDS])
        first.append(max(ious[0]))
        five.append(max(max(row) for row in ious[:5]))
    mean = np.mean(ap, axis=0)
    recall = {
        key: {str(threshold): np.mean([iou >= threshold for iou in ious]) for threshold in RECALL_THRESHOLDS}
        for key, ious in (("MR-R1", first), ("MR-R5", five))
    }
    average = {**dict(zip(map(str, AP_THRESHOLDS), mean, strict=True)), "average": mean.mean()}
    return {"MR-mIoU": np.mean(first), "MR-mAP": average, **recall}


def plain_highlight_ap(scores: list[float], positive: list[bool]) -> float:
    """Interpolated average precision of one query and annotator."""
    order = sorted(range(len(scores)), key=lambda clip: -scores[clip])
    hits, points = 0, []
    for rank, clip in enumerate(order, 1):
        hits += positive[clip]
        if rank == len(order) or scores[order[rank]] != scores[clip]:
            points.append((hits / rank, hits))
    best, terms = 0.0, []
    for (precision, found), (_, before) in zip(points[::-1], [*points[-2::-1], (0, 0)], strict=True):
        best = max(best, precision)
        if found != before:
            terms.append(best)
    return sum(terms) / len(terms) if terms else 0.0


def plain_level(predictions: dict, references: list[dict], level: int) -> dict:
    """HL figures of one level."""
    ap, hits = [], []
    for row in references:
        annotated, scores = row["saliency"]["scores"], predictions[row["qid"]]["pred_saliency_scores"]
        padded = [*scores, *[0.0] * len(annotated)][: len(annotated)]
        ap += [plain_highlight_ap(padded, [s >= level for s in some]) for some in zip(*annotated, strict=True)]
        top = max(range(len(scores)), key=scores.__getitem__)
        hits.append(top < len(annotated) and max(annotated[top]) >= level)
    return {"HL-mAP": np.mean(ap), "HL-Hit1": np.mean(hits)}


def plain_scores(predictions: list[dict], references: list[dict]) -> dict:
    """The figures of the public evaluator, in fractions, for files in which every query has all it needs."""
    by_query = {str(record["qid"]): record for record in predictions}
    return {
        **{name: plain_range(by_query, references, *limits) for name, limits in RANGES.items()},
        **{name: plain_level(by_query, references, level) for name, level in LEVELS.items()},
    }


def largest_difference(ours: dict, plain: dict) -> float:
    """In percent; half a unit of the last digit comes from rounding."""
    return max(
        largest_difference(ours[key], value) if isinstance(value, dict) else abs(ours[key] - 100 * value)
        for key, value in plain.items()
    )


def read_lines(path: Path) -> list[dict]:
    """Records of a jsonl file, compressed or not."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_references(path: Path) -> list[dict]:
    """Rows as the dataset gives them, from a QVHighlights release file."""
    rows = []
    for record in read_lines(path):
        scores = [[0, 0, 0] for _ in range(int(record["duration"] / 2))]
        for clip, annotated in zip(record["relevant_clip_ids"], record["saliency_scores"], strict=True):
            scores[clip] = annotated
        row = {"qid": str(record["qid"]), "query": record["query"], "moments": record["relevant_windows"]}
        rows.append({**row, "saliency": {"scores": scores}})
    return rows


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="predictions in the QVHighlights submission form")
    parser.add_argument("annotations", type=Path, help="highlight_val_release.jsonl")
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions (default: 7)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/metrics.json"), help="results file")
    args = parser.parse_args()
    predictions, references = read_lines(args.predictions), read_references(args.annotations)
    functions = {
        "ours": lambda: compute_scores("qvhighlights", predictions, references),
        "plain": lambda: plain_scores(predictions, references),
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(args.repeats + 1):  # in turn, so that a slow minute hits both alike
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    seconds = {name: statistics.median(values[1:]) for name, values in times.items()}
    names = args.predictions.name, args.annotations.name
    report = {
        "command": " ".join(["python", Path(sys.argv[0]).parent.name + "/" + Path(sys.argv[0]).name, *names]),
        "queries": len(references),
        "processor seconds": seconds,
        "plain / ours": seconds["plain"] / seconds["ours"],
        "largest difference in percent": largest_difference(functions["ours"](), functions["plain"]()),
    }
    with writing(args.output) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))  # noqa: T201 (a script's result)


if __name__ == "__main__":
    main()
