"""The paper's ablations on any benchmark: train every variant of a table, score it, print and draw the table.

python -m benchmarks.ablations --table 5 --data-dir shapes --features half --backbone shapes_clip --output ablations

The features must have the frame rate of the `--budget` (`r2tuning extract --fps 0.5 --output half`). Run the command
again after an interruption: complete runs are kept. The paper's numbers are for QVHighlights val; only the order of the
variants can be compared, not the values.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measurement import format_report, write_text
from benchmarks.variants import BUDGET_HELP, SMALL_BUDGET, Budget, mean_and_spread, run_variant, two_digits
from modeling_r2tuning import R2TuningConfig
from modeling_r2tuning.files_r2tuning import writing


if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Row:
    """A variant of a table.

    Args:
        name: As in the paper.
        model: Fields of `R2TuningConfig` that set it apart from its defaults; equal rows are one run.
        paper: The paper's mAP on QVHighlights val; `None` = not given as a number.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    paper: float | None = None


CALIBRATION = [
    Row("none", {"use_video_calibration": False, "use_layer_calibration": False}, 44.01),
    Row("video", {"use_layer_calibration": False}, 46.74),
    Row("layer", {"use_video_calibration": False}, 44.60),
    Row("both", {}, 47.59),
]
ATTENTION = [Row("self, cross", {"attention_order": "self_cross"}, 45.21), Row("cross, self", {}, 47.59)]
BLOCKS = [Row("each layer its own", {"shared_block": False}, 47.48), Row("shared", {}, 47.59)]
LAYERS = (47.59, 47.62, 47.68, 47.81, 47.53, 47.42)
LENGTHS = {"1-10": 47.08, "11-20": 49.13, "21-30": 28.79, "31-40": 67.24, ">=41": 72.38}
TITLES = {
    "5": "Calibration losses (Table 5)",
    "6": "Length of the query in words (Table 6)",
    "10": "Order of the two attentions (Table 10)",
    "11": "One block for each layer, or one for all (Table 11)",
    "12": "Temporal layers in a step (Table 12)",
    "fig7": "Which of CLIP's layers, and in which order (Figure 7)",
}
FUSIONS = ("single", "mean", "forward", "reversed")


def rows_of(table: str, depth: int) -> list[Row]:
    """The variants of a table, for a CLIP of `depth` layers."""
    fixed = {"5": CALIBRATION, "6": [Row("R²-Tuning")], "10": ATTENTION, "11": BLOCKS}
    if table in fixed:
        return fixed[table]
    rows = []
    if table == "12":
        for count, paper in enumerate(LAYERS, 1):
            rows.append(Row(str(count), _changes(num_temporal_layers=count), paper))
        return rows
    for fusion in FUSIONS:
        for count in range(1, min(depth, 6) + 1):
            actual_fusion = fusion if count > 1 else "reversed"  # with a single layer they are all the same
            fields = _changes(layer_fusion=actual_fusion, num_recurrent_steps=count)
            rows.append(Row(f"{fusion}, K={count}", fields))
    return rows


def _changes(**fields: Any) -> dict[str, Any]:
    """The fields that differ from the defaults, so that equal models are equal runs."""
    defaults = R2TuningConfig()
    return {name: value for name, value in fields.items() if value != getattr(defaults, name)}


def main() -> None:
    """Run what is missing, then print the table, write JSON and draw it."""
    args = make_parser().parse_args()
    data = {"data-dir": args.data_dir, "features": args.features, "backbone": args.backbone}
    budget = Budget(args.preset, data, (args.split,), args.budget)
    folder = args.output / "runs"
    results = {}
    for row in rows_of(args.table, read_depth(args.backbone)):
        results[row.name] = [run_variant(folder, {"model": row.model}, seed, budget) for seed in args.seeds]
    lines = list(lines_of(args.table, results, args.split))
    settings = {name: getattr(args, name) for name in ("table", "preset", "split", "budget", "seeds")}
    write_text(args.output / f"table_{args.table}.json", format_report({**settings, "rows": lines}))
    text = format_table(TITLES[args.table], args.preset, lines)
    write_text(args.output / f"table_{args.table}.md", text)
    draw(args.table, args.preset, lines, args.output / f"table_{args.table}.png")
    sys.stdout.write(text)


def read_depth(backbone: str) -> int:
    """Number of layers of a CLIP's shallower encoder."""
    from transformers import CLIPConfig

    config = CLIPConfig.from_pretrained(backbone)
    return min(config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers)


def lines_of(table: str, results: dict[str, list[dict[str, Any]]], split: str) -> Iterator[dict[str, Any]]:
    """Name, the paper's mAP, and mean and spread of ours over the seeds; for Table 6 one line for each length."""
    if table == "6":
        [runs] = results.values()
        for name, paper in LENGTHS.items():
            found = [run[split]["scores"]["by_query_length"][name] for run in runs]
            if found[0]["queries"]:
                yield _line(f"{name} words ({found[0]['queries']})", paper, [each["MR-mAP"] for each in found])
        return
    papers = {row.name: row.paper for row in rows_of(table, 6)}
    for name, runs in results.items():
        yield _line(name, papers[name], [run[split]["scores"]["brief"]["MR-full-mAP"] for run in runs])


def _line(name: str, paper: float | None, values: list[float]) -> dict[str, Any]:
    mean, spread = mean_and_spread(values)
    return {"name": name, "paper_mAP": paper, "mAP": mean, "spread": spread, "seeds": len(values)}


def format_table(title: str, preset: str, lines: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    head = [
        f"# {title}",
        "",
        f"| | mAP on {preset} | spread | the paper's mAP on QVHighlights val |",
        "|---|---|---|---|",
    ]
    rows = []
    for line in lines:
        cells = [two_digits(line[column]) for column in ("mAP", "spread", "paper_mAP")]
        rows.append(f"| {line['name']} | {' | '.join(cells)} |")
    return "\n".join([*head, *rows]) + "\n"


def draw(table: str, preset: str, lines: list[dict[str, Any]], path: Path) -> None:
    """Bars with the spread over seeds next to the paper's values; for Figure 7 a curve over K for each fusion."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 0.9 * min(len(lines), 6), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(TITLES[table])
    if table == "fig7":
        _draw_curves(axes, preset, lines)
    else:
        _draw_bars(axes, preset, lines)
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    axes.spines[["top", "right"]].set_visible(False)
    with writing(path) as partial:
        figure.savefig(partial, dpi=150)


def _draw_curves(axes: "Axes", preset: str, lines: list[dict[str, Any]]) -> None:
    for fusion in FUSIONS:
        curve = [line for line in lines if line["name"].startswith(fusion)]
        steps = range(1, len(curve) + 1)
        axes.errorbar(steps, _means(curve), _spreads(curve), marker="o", capsize=3, label=fusion)
    axes.set(xlabel="K, layers from the last", ylabel=f"mAP on {preset}")


def _draw_bars(axes: "Axes", preset: str, lines: list[dict[str, Any]]) -> None:
    names = [line["name"] for line in lines]
    axes.bar(names, _means(lines), yerr=_spreads(lines), color="#35618f", capsize=3, width=0.6, label=preset)
    axes.plot(names, [line["paper_mAP"] for line in lines], "D", color="#d1495b", label="paper, QVHighlights val")
    axes.set(ylabel="mAP")


def _means(lines: list[dict[str, Any]]) -> list[float]:
    return [line["mAP"] for line in lines]


def _spreads(lines: list[dict[str, Any]]) -> list[float]:
    """Spreads, NaN where there is a single seed."""
    return [math.nan if line["spread"] is None else line["spread"] for line in lines]


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, choices=tuple(TITLES), help="table or figure of the paper")
    parser.add_argument("--preset", default="moving_shapes", help="preset of train/run.py (default: moving_shapes)")
    parser.add_argument("--data-dir", required=True, help="folder of the annotations")
    parser.add_argument("--features", required=True, help="feature cache")
    parser.add_argument("--backbone", required=True, help="the CLIP that made the features")
    parser.add_argument("--split", default="test", help="split to score on (default: test)")
    parser.add_argument("--budget", type=json.loads, default=SMALL_BUDGET, metavar="JSON", help=BUDGET_HELP)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of every variant (default: 0)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and tables")
    return parser


if __name__ == "__main__":
    main()
