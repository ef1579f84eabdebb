"""Time to score predictions; on QVHighlights against a plain transcription of the metrics that scores query by query.

python -m benchmarks.metrics PREDICTIONS.jsonl[.gz] highlight_val_release.jsonl [--output metrics.json]
python -m benchmarks.metrics PREDICTIONS ANNOTATIONS --benchmark tvr

For scale, the public evaluators need for the validation queries: QVHighlights (1,550) about 11 s of processor time in 8
worker processes, Soccer-GMR (465) 0.4 s, QV-M2 (1,779) 3.8 s, TVR (10,895, three moments each, three tasks) 2 s.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurement import print_report, time_in_turn
from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.metrics import compute_scores
from r2tuning.evaluation.submissions import read_prediction_file


AP_THRESHOLDS = [step / 100 for step in range(50, 100, 5)]
RECALL_THRESHOLDS = [step / 100 for step in range(30, 100, 5)]
RANGES = {"full": (-1, 1e9), "long": (30, 1e9), "middle": (10, 30), "short": (0, 10)}
LEVELS = {"HL-min-Fair": 2, "HL-min-Good": 3, "HL-min-VeryGood": 4}


def plain_iou(window: list, moment: list) -> float:
    """Overlap over union."""
    overlap = max(0.0, min(window[1], moment[1]) - max(window[0], moment[0]))
    return overlap / (window[1] - window[0] + moment[1] - moment[0] - overlap) if overlap else 0.0


def plain_moment_ap(ious: list[list[float]], threshold: float) -> float:
    """Average precision of one query from the IoU of each predicted moment, best first, with each true one."""
    num_moments = len(ious[0])
    free = set(range(num_moments))
    hits: list[bool] = []
    precision: list[float] = []
    for row in ious:
        iou, moment = 0.0, -1
        for index in free:
            iou, moment = max((iou, moment), (row[index], index))
        hits.append(iou >= threshold)
        if hits[-1]:
            free.discard(moment)
        precision.append(sum(hits) / len(hits))
    total = 0.0
    for rank, hit in enumerate(hits):
        if hit:
            total += max(precision[rank:])  # interpolated: the highest precision at this rank or later
    return total / num_moments


def plain_range(predictions: dict, references: list[dict], above: float, up_to: float) -> dict:
    """Moment retrieval scores for moments of a range of lengths."""
    ap, first, five = [], [], []
    for row in references:
        moments = [moment for moment in row["moments"] if above < moment[1] - moment[0] <= up_to]
        if not moments:
            continue
        predicted = predictions[row["qid"]]["pred_relevant_windows"][:10]
        ious = []
        for window in predicted:
            ious.append([plain_iou(window, moment) for moment in moments])
        best_first = sorted(range(len(ious)), key=lambda rank: -predicted[rank][2])
        ranked = [ious[rank] for rank in best_first]
        ap.append([plain_moment_ap(ranked, threshold) for threshold in AP_THRESHOLDS])
        first.append(max(ious[0]))
        five.append(max(map(max, ious[:5])))
    mean = np.mean(ap, axis=0)
    average = dict(zip(map(str, AP_THRESHOLDS), mean, strict=True))
    average["average"] = mean.mean()
    return {
        "MR-mIoU": np.mean(first),
        "MR-mAP": average,
        "MR-R1": plain_recall(first),
        "MR-R5": plain_recall(five),
    }


def plain_recall(ious: list[float]) -> dict[str, Any]:
    """Share of the queries whose IoU reaches each threshold."""
    return {str(threshold): np.mean(np.array(ious) >= threshold) for threshold in RECALL_THRESHOLDS}


def plain_highlight_ap(scores: list[float], positive: list[bool]) -> float:
    """Interpolated average precision of one query and annotator; units of equal score share a rank."""
    order = sorted(range(len(scores)), key=lambda unit: -scores[unit])
    hits = 0
    points = []  # precision and number of hits at each rank
    for rank, unit in enumerate(order, 1):
        hits += positive[unit]
        if rank == len(order) or scores[order[rank]] != scores[unit]:
            points.append((hits / rank, hits))
    best, terms = 0.0, []
    for place in reversed(range(len(points))):
        precision, found = points[place]
        found_before = points[place - 1][1] if place else 0
        best = max(best, precision)
        if found != found_before:
            terms.append(best)
    return sum(terms) / len(terms) if terms else 0.0


def plain_level(predictions: dict, references: list[dict], level: int) -> dict:
    """Highlight detection scores at one level of saliency."""
    ap, hits = [], []
    for row in references:
        annotated = row["saliency"]["scores"]
        scores = predictions[row["qid"]]["pred_saliency_scores"]
        padded = [*scores, *[0.0] * len(annotated)][: len(annotated)]
        for annotator in zip(*annotated, strict=True):
            ap.append(plain_highlight_ap(padded, [score >= level for score in annotator]))
        top = max(range(len(scores)), key=scores.__getitem__)
        hits.append(top < len(annotated) and max(annotated[top]) >= level)
    return {"HL-mAP": np.mean(ap), "HL-Hit1": np.mean(hits)}


def plain_scores(predictions: list[dict], references: list[dict]) -> dict:
    """The scores of the public evaluator, as fractions, for files in which every query is complete."""
    by_query = {str(record["qid"]): record for record in predictions}
    scores = {}
    for name, (above, up_to) in RANGES.items():
        scores[name] = plain_range(by_query, references, above, up_to)
    for name, level in LEVELS.items():
        scores[name] = plain_level(by_query, references, level)
    return scores


def largest_difference(ours: dict, plain: dict) -> float:
    """In percent; half a unit of the last digit comes from rounding."""
    largest = 0.0
    for key, value in plain.items():
        if isinstance(value, dict):
            largest = max(largest, largest_difference(ours[key], value))
        else:
            largest = max(largest, abs(ours[key] - 100 * value))
    return largest


def read_lines(path: Path) -> list[dict]:
    """Records of a jsonl file, compressed or not."""
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_references(path: Path) -> list[dict]:
    """Rows as the dataset gives them, from a QVHighlights release file."""
    rows = []
    for record in read_lines(path):
        scores = [[0, 0, 0] for _ in range(int(record["duration"] / 2))]
        for unit, annotated in zip(record["relevant_clip_ids"], record["saliency_scores"], strict=True):
            scores[unit] = annotated
        row = {"qid": str(record["qid"]), "query": record["query"], "moments": record["relevant_windows"]}
        rows.append({**row, "saliency": {"scores": scores}})
    return rows


def main() -> None:
    """Measure, print and write."""
    args = make_parser().parse_args()
    measure = measure_against_plain if args.benchmark == "qvhighlights" else measure_alone
    print_report(measure(args), args.output)


def measure_against_plain(args: argparse.Namespace) -> dict[str, Any]:
    """Time and agreement of the metrics of QVHighlights and of their plain transcription."""
    predictions, references = read_lines(args.predictions), read_references(args.annotations)

    def ours() -> dict:
        return compute_scores("qvhighlights", predictions, references)

    def plain() -> dict:
        return plain_scores(predictions, references)

    times = time_in_turn({"ours": ours, "plain": plain}, args.repeats)
    seconds = {name: value.processor for name, value in times.items()}
    return {
        "queries": len(references),
        "processor seconds": seconds,
        "plain / ours": seconds["plain"] / seconds["ours"],
        "largest difference in percent": largest_difference(ours(), plain()),
    }


def measure_alone(args: argparse.Namespace) -> dict[str, Any]:
    """Time of the metric of a benchmark, in both of its modes."""
    predictions = read_prediction_file(args.predictions, args.benchmark)
    rows = load_vtg_dataset(args.benchmark, split=args.split, data_files=args.annotations)
    references = list(rows)

    def default() -> dict:
        return compute_scores(args.benchmark, predictions, references)

    def reference() -> dict:
        return compute_scores(args.benchmark, predictions, references, match_reference_code=True)

    times = time_in_turn({"default": default, "match_reference_code": reference}, args.repeats)
    seconds = {name: value.processor for name, value in times.items()}
    return {"benchmark": args.benchmark, "queries": len(references), "processor seconds": seconds}


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="predictions in the benchmark's submission form")
    parser.add_argument("annotations", type=Path, help="annotation file, such as highlight_val_release.jsonl")
    parser.add_argument(
        "--benchmark", default="qvhighlights", choices=tuple(BENCHMARKS), help="the benchmark (default: qvhighlights)"
    )
    parser.add_argument(
        "--split", default="val", help="split of the annotations, not read on QVHighlights (default: val)"
    )
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions (default: 7)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON")
    return parser


if __name__ == "__main__":
    main()
