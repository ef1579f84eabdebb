"""How well checkpoints recognise the absent queries of Moving Shapes, and what that costs on present queries.

python -m benchmarks.existence DATA --model NAME=CHECKPOINT ... [--features CACHE] [--output FILE] [--pictures FOLDER]

Several checkpoints of one NAME, such as several seeds, give a mean and a spread (standard deviation). Errors are standard
deviations over bootstrap samples of the videos. The score of a query is the output of the existence head, or, of a model
without one, the highest class logit of its points. The calibrated probability of a model with the head is the one that its
processor computes; for a model without the head the two numbers are fitted on the split `--fit-split`.

A kind is scored against all present queries, a family, and a kind of a family, against the present queries of that family.
The calibration error depends on the share of absent queries, so it compares models within a group, not groups.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoProcessor
from transformers.utils import logging as transformers_logging

from benchmarks.measurement import format_report, write_text
from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import ABSENT_KINDS, FAMILIES
from dataset_scripts.metrics.existence import calibration_error, false_alarm_rate, roc_auc
from modeling_r2tuning import R2TuningForVideoGrounding
from r2tuning.evaluation.calibration import apply_calibration, fit_probability
from r2tuning.evaluation.predictions import predict
from r2tuning.evaluation.run import score_parts
from r2tuning.features.cache import FeatureCache
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.style import (
    RULE_COLOR,
    SMALL_SIZE,
    TITLE_SIZE,
    format_number,
    format_probability,
    import_figure,
    remove_frame,
    save_figure,
    series_styles,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BENCHMARK = "moving_shapes_absent"
PRESENT_PARTS = ("main", "hard")
PRESENT_COLUMNS = ("R1@0.5", "mAP")
NUM_SAMPLES = 200  # of the bootstrap
NUM_BINS = 10  # of the calibration error
NUM_DIGITS = 4

LEGEND_LINE = 0.19  # inches; height of a model in a legend
SHOWN_SHARES = (0.02, 0.1, 0.4)  # of the queries, in the legend of the sizes of dots
FALSE_ALARM_GRID = np.linspace(0, 1, 201)

Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What one model says about each query of a split, in the order of the rows.

    Attributes:
        raw: `(num_queries,)`, the sigmoid of the existence head's output or of the highest class logit.
        calibrated: `(num_queries,)`, the calibrated probability.
        present: Scores on the present queries, by part and column.
    """

    raw: np.ndarray
    calibrated: np.ndarray
    present: dict[str, dict[str, float]]


# Each metric takes raw scores, calibrated probabilities and whether queries are present.
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
METRICS: dict[str, Metric] = {
    "AUROC": lambda raw, calibrated, present: roc_auc(raw, present),
    "false alarms at 95 % detection": lambda raw, calibrated, present: false_alarm_rate(raw, present),
    "ECE, raw": lambda raw, calibrated, present: calibration_error(raw, present, NUM_BINS),
    "ECE, calibrated": lambda raw, calibrated, present: calibration_error(calibrated, present, NUM_BINS),
}


def main() -> None:
    """Print a table and JSON, and draw."""
    args = make_parser().parse_args()
    transformers_logging.set_verbosity_error()
    rows = load_rows(args.data, args.split)
    answers: dict[str, list[Answers]] = {}
    for model in args.model:
        name, checkpoint = model.split("=", 1)
        answers.setdefault(name, []).append(answer(rows, checkpoint, args))
    scores = {}
    for name, runs in answers.items():
        scores[name] = {
            "checkpoints": len(runs),
            "existence": score_groups(rows, runs, args.samples),
            "present": summarise_present(runs),
        }
    counts = Counter(row["domain"] for row in rows)
    report = format_report({"split": args.split, "queries": dict(sorted(counts.items())), "scores": scores})
    sys.stdout.write(f"{format_tables(scores)}\n\n{report}")
    if args.output is not None:
        write_text(args.output, report)
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        draw_roc(rows, answers, args.pictures / "roc.png")
        draw_calibration(rows, answers, args.pictures / "calibration.png")


def load_rows(data: str, split: str) -> list[Row]:
    """Present and absent queries of a split."""
    return list(load_vtg_dataset(BENCHMARK, split=split, data_dir=data, video_dir=data))


def is_present(rows: list[Row]) -> np.ndarray:
    """`(num_queries,)` bool."""
    return np.array([bool(row["moments"]) for row in rows])


# ---- answers of a checkpoint ---------------------------------------------------------------------------------------


def answer(rows: list[Row], checkpoint: str, args: argparse.Namespace) -> Answers:
    """Scores and calibrated probabilities of a checkpoint, from a cache or from the videos."""
    model = R2TuningForVideoGrounding.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    cache = None if args.features is None else FeatureCache(args.features, model=model, fps=processor.fps)
    scale, bias = processor.existence_scale, processor.existence_bias
    processor.existence_scale, processor.existence_bias = 1.0, 0.0  # `predict` then returns the raw probability
    by_qid = {line["qid"]: line for line in predict(model, processor, rows, cache, benchmark=BENCHMARK)}
    predictions = [by_qid[row["qid"]] for row in rows]
    raw = raw_scores(predictions)
    if not model.config.use_existence_head:
        fit_rows = load_rows(args.data, args.fit_split)
        fit_scores = {line["qid"]: line for line in predict(model, processor, fit_rows, cache, benchmark=BENCHMARK)}
        fit_raw = raw_scores([fit_scores[row["qid"]] for row in fit_rows])
        scale, bias = fit_probability(fit_raw.tolist(), is_present(fit_rows).tolist())
    calibrated = np.array([apply_calibration(score, scale, bias) for score in raw])
    return Answers(raw, calibrated, score_present(rows, predictions))


def raw_scores(predictions: list[Row]) -> np.ndarray:
    """`(num_queries,)`: the existence head's probability, or else the highest class probability of a point.

    The best moment has the latter as its score, since suppression does not lower it.
    """
    scores = []
    for prediction in predictions:
        score = prediction.get("pred_exist_score")
        if score is None:
            score = prediction["pred_relevant_windows"][0][2]
        scores.append(score)
    return np.array(scores)


def score_present(rows: list[Row], predictions: list[Row]) -> dict[str, dict[str, float]]:
    """Scores of the moments of present queries, by part."""
    present = [row for row in rows if row["moments"]]
    qids = {row["qid"] for row in present}
    answered = [prediction for prediction in predictions if prediction["qid"] in qids]
    parts = score_parts("moving_shapes", answered, present)
    scores = {}
    for part in PRESENT_PARTS:
        if part in parts:
            scores[part] = {column: parts[part][column] for column in PRESENT_COLUMNS}
    return scores


# ---- scores --------------------------------------------------------------------------------------------------------


def find_groups(rows: list[Row]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask `(num_queries,)` of every group that has both present and absent queries."""
    present = is_present(rows)
    families = np.array([row["domain"].split("/")[0] for row in rows])
    kinds = np.array([row["domain"].partition("/")[2] for row in rows])
    groups = {"all": np.ones_like(present)}
    for kind in ABSENT_KINDS:
        groups[kind] = present | (kinds == kind)
    for family in FAMILIES:
        groups[family] = families == family
        for kind in ABSENT_KINDS:
            groups[f"{family}/{kind}"] = (families == family) & groups[kind]
    for name, mask in groups.items():
        if 0 < present[mask].sum() < mask.sum():
            yield name, mask


def score_groups(rows: list[Row], runs: list[Answers], num_samples: int) -> dict[str, dict[str, Any]]:
    """Every metric of every group: mean and spread over the models of a name, and the bootstrap error of the mean."""
    present = is_present(rows)
    samples = draw_samples(rows, num_samples)
    scores: dict[str, dict[str, Any]] = {}
    for group, mask in find_groups(rows):
        scores[group] = {"present": int((present & mask).sum()), "absent": int((~present & mask).sum())}
        indices = np.flatnonzero(mask)
        resampled = [sample[mask[sample]] for sample in samples]
        for name, metric in METRICS.items():
            values = [_evaluate(metric, run, present, indices) for run in runs]
            means = []
            for sample in resampled:
                if 0 < present[sample].sum() < len(sample):
                    means.append(statistics.mean(_evaluate(metric, run, present, sample) for run in runs))
            error = statistics.stdev(means) if len(means) > 1 else None
            scores[group][name] = {**summarise(values), "error": _round(error)}
    return scores


def _evaluate(metric: Metric, run: Answers, present: np.ndarray, indices: np.ndarray) -> float:
    return metric(run.raw[indices], run.calibrated[indices], present[indices])


def draw_samples(rows: list[Row], num_samples: int) -> list[np.ndarray]:
    """Indices of the queries of as many videos as there are, drawn with replacement, for each sample."""
    random = np.random.default_rng(0)
    of_videos: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        of_videos.setdefault(row["video_id"], []).append(index)
    queries = [np.array(indices) for indices in of_videos.values()]
    samples = []
    for _ in range(num_samples):
        drawn = random.integers(len(queries), size=len(queries))
        samples.append(np.concatenate([queries[number] for number in drawn]))
    return samples


def summarise(values: list[float]) -> dict[str, Any]:
    """Mean, spread (`None` for one value) and the values."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    rounded = [_round(value) for value in values]
    return {"mean": _round(statistics.mean(values)), "spread": _round(spread), "values": rounded}


def summarise_present(runs: list[Answers]) -> dict[str, dict[str, Any]]:
    """Scores of moments, by part and column."""
    summary: dict[str, dict[str, Any]] = {}
    for part, columns in runs[0].present.items():
        summary[part] = {}
        for column in columns:
            summary[part][column] = summarise([run.present[part][column] for run in runs])
    return summary


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), NUM_DIGITS)


def format_tables(scores: dict[str, dict[str, Any]]) -> str:
    """Tables in Markdown: all metrics by kind, AUROC by family and kind, and the scores of present queries."""
    by_kind, by_family, of_present = [], [], []
    for name, score in scores.items():
        existence = score["existence"]
        for group in ("all", *ABSENT_KINDS):
            if group in existence:
                values = existence[group]
                cells = [_format(values[metric]) for metric in METRICS]
                by_kind.append([name, f"{group} ({values['absent']})", *cells])
        cells = []
        for family in FAMILIES:
            groups = [existence.get(f"{family}/{kind}") for kind in ABSENT_KINDS]
            cells.append(" / ".join("-" if group is None else f"{group['AUROC']['mean']:.3f}" for group in groups))
        by_family.append([name, *cells])
        cells = []
        for columns in score["present"].values():
            cells.append(" / ".join(f"{value['mean']:.1f}" for value in columns.values()))
        of_present.append([name, *cells])
    parts = list(next(iter(scores.values()))["present"])
    tables = [
        _join_table(["model", "absent queries", *METRICS], by_kind),
        _join_table([f"AUROC: {' / '.join(ABSENT_KINDS)}", *FAMILIES], by_family),
        _join_table([f"present queries: {' / '.join(PRESENT_COLUMNS)}", *parts], of_present),
    ]
    return "\n\n".join(tables)


def _join_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _format(value: dict[str, Any]) -> str:
    suffix = "" if value["error"] is None else f" ± {value['error']:.3f}"
    return f"{value['mean']:.3f}{suffix}"


# ---- pictures ------------------------------------------------------------------------------------------------------


def draw_roc(rows: list[Row], answers: dict[str, list[Answers]], path: Path) -> None:
    """ROC curves for all absent queries and for each kind; over several models the mean, with their range shaded."""
    present = is_present(rows)
    masks = dict(find_groups(rows))
    groups = [group for group in ("all", *ABSENT_KINDS) if group in masks]
    figure = import_figure()(figsize=(3.4 * len(groups), 4.3 + LEGEND_LINE * len(answers)), layout="constrained")
    styles = series_styles(len(answers))
    for axes, group in zip(np.atleast_1d(figure.subplots(1, len(groups), sharey=True)), groups, strict=True):
        mask = masks[group]
        for (name, runs), style in zip(answers.items(), styles, strict=True):
            curves = np.array([roc_curve(run.raw[mask], present[mask]) for run in runs])
            area = statistics.mean(roc_auc(run.raw[mask], present[mask]) for run in runs)
            line = {"color": style.color, "linestyle": style.linestyle, "label": f"{name}: {format_number(area, 3)}"}
            axes.plot(FALSE_ALARM_GRID, curves.mean(axis=0), **line)
            if len(runs) > 1:
                bounds = (curves.min(axis=0), curves.max(axis=0))
                axes.fill_between(FALSE_ALARM_GRID, *bounds, color=style.color, alpha=0.2, lw=0)
        title = "all absent queries" if group == "all" else f"{group} absent queries"
        axes.set_xlabel("share of absent queries reported (false alarms)")
        _finish(axes, f"{title} ({int((mask & ~present).sum()):,})", "AUROC")
    figure.axes[0].set_ylabel("share of present queries detected")
    save_figure(figure, path)


def roc_curve(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Share of present queries detected at each share of false alarms in `FALSE_ALARM_GRID`, interpolated linearly."""
    thresholds = np.unique(scores)[::-1]
    kinds = []
    for kind in (scores[present], scores[~present]):
        ordered = np.sort(kind)
        num_detected = len(ordered) - np.searchsorted(ordered, thresholds, side="left")
        kinds.append(np.concatenate([[0.0], num_detected / len(ordered)]))
    detected, alarms = kinds
    # Where the curve is vertical, its upper end counts.
    last = np.append(np.diff(alarms) > 0, True)
    curve = np.interp(FALSE_ALARM_GRID, alarms[last], detected[last])
    return curve


def draw_calibration(rows: list[Row], answers: dict[str, list[Answers]], path: Path) -> None:
    """Share of present queries over the mean probability, in bins of equal width, before and after calibration.

    The queries of all models of a name are pooled; the size of a dot shows how many fall into a bin.
    """
    present = is_present(rows)
    figure = import_figure()(figsize=(8.4, 5.4 + LEGEND_LINE * len(answers)), layout="constrained")
    styles = series_styles(len(answers))
    panels = (("raw", "before calibration"), ("calibrated", "after calibration"))
    for axes, (field, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for (name, runs), style in zip(answers.items(), styles, strict=True):
            values = np.concatenate([getattr(run, field) for run in runs])
            means, shares, counts = calibration_curve(values, np.tile(present, len(runs)))
            error = statistics.mean(calibration_error(getattr(run, field), present, NUM_BINS) for run in runs)
            line = {"color": style.color, "linestyle": style.linestyle, "label": f"{name}: {format_number(error, 3)}"}
            axes.plot(means, shares, **line)
            axes.scatter(means, shares, s=dot_area(counts / counts.sum()), color=style.color, linewidth=0)
        axes.set_xlabel("probability that the query is present")
        _finish(axes, title, "calibration error")
    figure.axes[0].set_ylabel("share of present queries")
    _explain_sizes(figure)
    save_figure(figure, path)


def dot_area(share: Any) -> Any:
    """Area, in square points, of the dot of a bin with a share of the queries."""
    return 10 + 200 * share


def _explain_sizes(figure: "Figure") -> None:
    """Add a legend below the panels with dots of round shares."""
    handles = []
    for share in SHOWN_SHARES:
        label = f"{format_probability(share)} of the queries"
        handles.append(figure.axes[0].scatter([], [], s=dot_area(share), color=RULE_COLOR, linewidth=0, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL_SIZE, frameon=False)


def calibration_curve(probabilities: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of present queries and number of queries of every bin that is not empty."""
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    filled = counts > 0
    means = np.bincount(bins, weights=probabilities, minlength=NUM_BINS)[filled] / counts[filled]
    shares = np.bincount(bins, weights=present, minlength=NUM_BINS)[filled] / counts[filled]
    return means, shares, counts[filled]


def _finish(axes: "Axes", title: str, legend_title: str) -> None:
    """Add what the panels of both figures share: diagonal, title, and a legend of the models."""
    axes.plot([0, 1], [0, 1], color=RULE_COLOR, linewidth=0.8, zorder=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="N")
    axes.set_title(title, fontsize=TITLE_SIZE)
    remove_frame(axes)
    # Below the panel, as curves may be anywhere in it.
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    legend = axes.legend(title=legend_title, title_fontsize=SMALL_SIZE, frameon=False, **place)
    style = text_style(text.get_text() for text in legend.get_texts())
    for text in legend.get_texts():
        text.set(parse_math=False, fontsize=SMALL_SIZE, **style)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="folder that `python -m dataset_scripts.moving_shapes` wrote")
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME=CHECKPOINT", help="trained models")
    parser.add_argument("--split", default="test", help="split (default: test)")
    parser.add_argument("--fit-split", default="val", help="split on which a model without head is calibrated (val)")
    parser.add_argument("--features", help="feature cache for the checkpoints (default: from the videos)")
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES, help=f"bootstrap samples ({NUM_SAMPLES})")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write roc.png and calibration.png")
    return parser


if __name__ == "__main__":
    main()
