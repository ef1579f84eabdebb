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
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measurement import format_report, write_text
from benchmarks.variants import BUDGET_HELP, SMALL_BUDGET, Budget, mean_and_spread, run_variant, two_digits
from modeling_r2tuning import R2TuningConfig
from r2tuning.visualization.style import (
    BLACK,
    BLUE,
    SMALL_SIZE,
    TITLE_SIZE,
    VERMILLION,
    format_number,
    import_figure,
    remove_frame,
    save_figure,
    series_styles,
)


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
MIN_WIDTH, BAR_WIDTH = 6.4, 1.0  # inches; the legend has room in the former
MIN_BARS = 5  # that there is room for
NAME_WIDTH = 14  # characters of a variant's name in a line below its bar
CURVE_SHIFT = 0.05  # between curves, on the axis of K


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
    width = max(MIN_WIDTH, 1.0 + BAR_WIDTH * min(len(lines), 6))
    figure = import_figure()(figsize=(width, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title(TITLES[table], loc="left", fontsize=TITLE_SIZE)
    if table == "fig7":
        _draw_curves(axes, lines)
    else:
        _draw_bars(axes, lines)
    axes.set_ylabel("mAP, %")
    remove_frame(axes)
    legend = figure.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=SMALL_SIZE, handlelength=3)
    seeds = max(line.get("seeds", 1) for line in lines)
    spread = f"; vertical lines: spread over {seeds} seeds" if seeds > 1 else ""
    legend.set_title(f"{preset}{spread}", prop={"size": SMALL_SIZE})
    save_figure(figure, path)


def _draw_curves(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    """Draw curves beside each other by a little, so that none hides the spread of another."""
    for number, (fusion, style) in enumerate(zip(FUSIONS, series_styles(len(FUSIONS)), strict=True)):
        curve = [line for line in lines if line["name"].startswith(fusion)]
        shift = CURVE_SHIFT * (number - (len(FUSIONS) - 1) / 2)
        steps = [step + shift for step in range(1, len(curve) + 1)]
        axes.errorbar(
            steps,
            _means(curve),
            _spreads(curve),
            **style._asdict(),
            label=fusion,
            markersize=5,
            capsize=2,
            elinewidth=0.8,
        )
    axes.set_xlabel("K, number of layers from the last")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_bars(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    """Draw a bar for each variant with its value in it, and the paper's value to the right of the bar."""
    places = range(len(lines))
    error = {"color": BLACK, "linewidth": 0.8}
    axes.bar(places, _means(lines), 0.5, yerr=_spreads(lines), color=BLUE, capsize=3, error_kw=error, label="ours")
    for place, mean in zip(places, _means(lines), strict=True):
        axes.annotate(
            format_number(mean, 1),
            (place, 0),
            (0, 4),
            textcoords="offset points",
            ha="center",
            color="white",
            fontsize=SMALL_SIZE,
        )
    beside = [place + 0.36 for place in places]
    papers = [line["paper_mAP"] for line in lines]
    axes.plot(beside, papers, "D", color=VERMILLION, markersize=5, label="paper, QVHighlights val")
    names = [textwrap.fill(line["name"], NAME_WIDTH) for line in lines]
    axes.set_xticks(places, names)
    margin = 0.6 + max(0, MIN_BARS - len(lines)) / 2  # a few bars are no wider than others
    axes.set_xlim(-margin, len(lines) - 1 + margin)


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
