"""Score over the number of annotated moments, from scratch and from a checkpoint of another domain.

python -m benchmarks.training_size --backbone CLIP --output FOLDER [--sizes 50 500 5000] [--seeds 0 1 2]

Two domains of Moving Shapes share no shape, no colour and no motion: the checkpoint to start from is trained on the one,
and the models that are compared on the other, whose tables and videos are read as anyone's own data are (`--preset
custom`). Both share CLIP, which knows all shapes and colours. The last epoch is scored, on 100 videos. Run the command
again after an interruption: complete runs are kept.
"""

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.measurement import format_report, write_text
from benchmarks.variants import ROOT, Budget, mean_and_spread, run_name, run_script, run_variant, two_digits
from dataset_scripts.moving_shapes.queries import make_queries, observe
from dataset_scripts.moving_shapes.render import write_video
from dataset_scripts.moving_shapes.scenes import REPERTOIRE, SEEN, make_scene, random_stream
from modeling_r2tuning.files_r2tuning import writing
from r2tuning.checkpoint_files import METRICS
from r2tuning.training.run_folder import BEST
from r2tuning.visualization.style import (
    RULE_COLOR,
    SMALL_SIZE,
    import_figure,
    remove_frame,
    save_figure,
    series_styles,
)


QUERIES = 1  # purpose of the random stream, as in the benchmark itself
VIDEOS = {"train": 500, "test": 100}
METRIC = "MR-full-R1@0.5"
# All but the size are settings of Moving Shapes, which a new model needs and a loaded one brings.
MODEL = {"hidden_size": 128, "dropout": 0.0, "initial_pooling_scale": 1.0, "save_backbone": True, "fps": 1.0}
OPTIONS = {"mixed-precision": "bf16", "num-workers": 1, "queries-per-video": 4}  # quick on a CPU
SOURCE_OPTIONS = {"epochs": 8, "learning-rate": 1e-3}
MOST_EPOCHS = 30
EPOCHS = {50: MOST_EPOCHS, 500: MOST_EPOCHS, 5000: 10}
STARTS = ("from scratch", "--init-from")


@dataclass(frozen=True)
class Domain:
    """Shapes, colours and actions of a set of videos.

    Attributes:
        name: Name of its folder and tables.
        seed: Seed of its videos.
        colors: Colours of the objects.
        shapes: Shapes of the objects.
        actions: Kinds of action, of `REPERTOIRE`.
    """

    name: str
    seed: int
    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    actions: tuple[str, ...]

    def combinations(self) -> list[tuple[str, str]]:
        """Its combinations of colour and shape that CLIP has seen."""
        return [pair for pair in itertools.product(self.colors, self.shapes) if pair in SEEN]

    def repertoire(self) -> dict[str, float]:
        """Frequencies of its actions."""
        return {kind: REPERTOIRE[kind] for kind in self.actions}


SOURCE = Domain("source", 11, ("red", "green", "blue"), ("circle", "square", "triangle"), ("horizontal", "vertical"))
TARGET = Domain("target", 12, ("yellow", "pink", "cyan"), ("ring", "cross"), ("size", "blink", "spin"))


# ---- data ----------------------------------------------------------------------------------------------------------


def write_domain(folder: Path, domain: Domain) -> None:
    """Write the videos of a domain and a table for each split; what exists is kept."""
    videos = folder / domain.name
    videos.mkdir(parents=True, exist_ok=True)
    for split, count in VIDEOS.items():
        table = table_path(folder, domain.name, split)
        if table.exists():
            continue
        lines = []
        for index in tqdm(range(count), desc=f"{domain.name} {split}", unit=" videos"):
            lines += _write_one(videos, domain, split, index)
        write_lines(table, lines)


def _write_one(videos: Path, domain: Domain, split: str, index: int) -> list[dict[str, Any]]:
    """Write a video and return the rows of its table."""
    scene = make_scene(domain.seed, split, index, domain.combinations(), domain.repertoire())
    path = videos / f"{split}_{index:05d}.mp4"
    if not path.exists():
        with writing(path) as partial:
            write_video(scene, partial)
    rows = []
    for query in make_queries(observe(scene), random_stream(domain.seed, split, index, QUERIES)):
        rows.append({"video": path.name, "query": query.text, "moments": query.fact.moments()})
    return rows


def write_sizes(folder: Path, sizes: list[int]) -> dict[int, dict[str, int]]:
    """Write a table of the target's first videos for each number of moments.

    Returns:
        Numbers of moments, queries and videos by size.
    """
    lines = table_path(folder, TARGET.name, "train").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    counts = {}
    for size in sizes:
        chosen = take_moments(rows, size)
        write_lines(table_path(folder, TARGET.name, str(size)), chosen)
        videos = {row["video"] for row in chosen}
        moments = sum(len(row["moments"]) for row in chosen)
        counts[size] = {"moments": moments, "queries": len(chosen), "videos": len(videos)}
    return counts


def take_moments(rows: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """The first queries that together have `size` moments, or a few more."""
    total = 0
    for number, row in enumerate(rows, 1):
        total += len(row["moments"])
        if total >= size:
            return rows[:number]
    raise ValueError(f"The target has {total} moments, fewer than {size}: raise VIDEOS['train'].")


def table_path(folder: Path, domain: str, part: str) -> Path:
    """Path of a table."""
    return folder / f"{domain}_{part}.jsonl"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table as JSON lines."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def extract(folder: Path, domain: Domain, backbone: str) -> dict[str, str]:
    """Extract the features of a domain into one cache.

    Returns:
        Options of `train/run.py` that name the features, the whole table and the table to score on.
    """
    tables = {
        "data-file": table_path(folder, domain.name, "train"),
        "val-file": table_path(folder, domain.name, "test"),
    }
    cache = folder / f"{domain.name}_features"
    words = ["--benchmark", "custom", "--video-dir", folder / domain.name, "--backbone", backbone, "--output", cache]
    for name, table in tables.items():
        words += [f"--{name}", table]
    command = [sys.executable, "train/run_feature_extraction.py", *words, "--fps", MODEL["fps"]]
    subprocess.run([str(word) for word in command], cwd=ROOT, check=True)
    return {"features": str(cache), **{name: str(table) for name, table in tables.items()}}


# ---- runs ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run what is missing, then print the table, write JSON and draw the picture."""
    args = make_parser().parse_args()
    data = {}
    for domain in (SOURCE, TARGET):
        write_domain(args.output, domain)
        data[domain.name] = extract(args.output, domain, args.backbone)
    counts = write_sizes(args.output, args.sizes)
    runs = args.output / "runs"
    scratch = {"backbone": args.backbone}
    source = train(runs, {**data[SOURCE.name], **scratch}, SOURCE_OPTIONS, seed=0)
    starts = {"from scratch": scratch, "--init-from": {"init-from": source["checkpoint"]}}
    lines = []
    for size in args.sizes:
        table = {"data-file": str(table_path(args.output, TARGET.name, str(size)))}
        options = {"epochs": EPOCHS.get(size, MOST_EPOCHS), "learning-rate": args.learning_rate}
        for start, weights in starts.items():
            places = {**data[TARGET.name], **table, **weights}
            results = [train(runs, places, options, seed) for seed in args.seeds]
            lines.append(_line(size, counts[size], start, results))
    untrained = score_source(source["checkpoint"], data[TARGET.name])
    write_text(args.output / "training_size.json", format_report({"source_on_target": untrained, "rows": lines}))
    draw(lines, untrained, args.output / "training_size.png")
    sys.stdout.write(f"{format_table(lines)}\nwithout training on the target: {two_digits(untrained)}\n")


def train(runs: Path, places: dict[str, str], options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train one model and score its last epoch.

    Args:
        runs: Folder of all runs.
        places: Options of `train/run.py` that name tables, features, and CLIP or the checkpoint to start from.
        options: Its other options.
        seed: Seed of the run.

    Returns:
        "score", "seconds" of training and "checkpoint", the model's folder.
    """
    shared = {**OPTIONS, "eval-epochs": options["epochs"]}
    if "init-from" not in places:
        shared["model"] = MODEL
    budget = Budget("custom", places, (), shared)
    result = run_variant(runs, options, seed, budget)
    run = runs / run_name(options, seed, budget)
    history = json.loads((run / METRICS).read_text(encoding="utf-8"))
    score = history["evaluations"][-1]["scores"][METRIC]
    return {"score": score, "seconds": result["seconds"], "checkpoint": str(run / BEST)}


def score_source(checkpoint: str, places: dict[str, str]) -> float:
    """Score of the checkpoint to start from on the target, without training."""
    output = Path(checkpoint).parent / "target.json"
    options = {**places, "model": checkpoint, "benchmark": "custom", "split": "val", "output": str(output)}
    run_script("train/run_evaluation.py", options)
    return json.loads(output.read_text(encoding="utf-8"))["scores"]["brief"][METRIC]


def _line(size: int, counts: dict[str, int], start: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    mean, spread = mean_and_spread([run["score"] for run in runs])
    seconds = round(sum(run["seconds"] for run in runs) / len(runs), 1)
    return {"size": size, **counts, "start": start, METRIC: mean, "spread": spread, "seconds": seconds}


def format_table(lines: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    rows = [
        "| moments | queries | videos | start | R1@0.5 | spread | seconds of training |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        numbers = " | ".join(str(line[name]) for name in ("moments", "queries", "videos"))
        scores = f"{two_digits(line[METRIC])} | {two_digits(line['spread'])}"
        rows.append(f"| {numbers} | {line['start']} | {scores} | {line['seconds']:.0f} |")
    return "\n".join(rows) + "\n"


def draw(lines: list[dict[str, Any]], untrained: float, path: Path) -> None:
    """Curves of the score over the number of moments, on a logarithmic axis."""
    figure = import_figure()(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for start, style in zip(STARTS, series_styles(len(STARTS)), strict=True):
        curve = [line for line in lines if line["start"] == start]
        sizes = [line["moments"] for line in curve]
        scores = [line[METRIC] for line in curve]
        spreads = [line["spread"] or 0.0 for line in curve]
        axes.errorbar(sizes, scores, spreads, **style._asdict(), capsize=3, elinewidth=0.8, label=start)
    axes.axhline(untrained, color=RULE_COLOR, linestyle=":", label="the checkpoint, not trained further")
    axes.set(xscale="log", ylim=(0, 100))
    axes.set(xlabel="annotated moments, logarithmic", ylabel="R1@0.5 on 100 videos, %")
    sizes = sorted({line["moments"] for line in lines})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    remove_frame(axes)
    legend = figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=SMALL_SIZE, handlelength=3)
    legend.set_title("vertical lines: spread over the seeds", prop={"size": SMALL_SIZE})
    save_figure(figure, path)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="the CLIP that `train/pretrain_backbone.py` makes")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(EPOCHS), help="numbers of moments to train on")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of every model (default: 0 1 2)"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=5e-4,
        help="learning rate on the target (default: the preset's, 5e-4)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the data, the runs and the results")
    return parser


if __name__ == "__main__":
    main()
