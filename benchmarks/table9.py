"""The paper's Table 9: every transfer method by learnable parameters, memory, time of a step and accuracy.

python -m benchmarks.table9 --output table9 [--batch 32 --frames 75]
python -m benchmarks.table9 --output table9 --data-dir shapes --video-dir shapes/videos --features half --backbone shapes_clip

Memory and time are those of a step with a ViT-B/32 of random weights under autocast: pixels in, CLIP, forward, backward,
optimiser. On a GPU memory is the allocator's peak, on a CPU what the process grows by; the paper's batch, 32 queries of
75 frames, is counted tensor by tensor for two and three queries and extrapolated. Each method is measured in a process
of its own. With `--data-dir` every method is also trained, all with the same `--budget`; the features must have its
frame rate (`r2tuning extract --fps 0.5 --output half`). Complete runs are kept.
"""

import argparse
import itertools
import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from benchmarks.measurement import format_report, write_text
from benchmarks.memory import KeptForBackward, extrapolate_peak, read_peak, start_peak
from benchmarks.variants import BUDGET_HELP, SMALL_BUDGET, Budget, mean_and_spread, run_variant, two_digits
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS
from r2tuning.training.model import layers_read
from r2tuning.visualization.style import (
    BLUE,
    RULE_COLOR,
    SMALL_SIZE,
    VERMILLION,
    import_figure,
    remove_frame,
    save_figure,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

ROOT = Path(__file__).parents[1]
MEGA, GIGA = 1024**2, 1024**3  # the paper's "M" is the former
WORDS = 20
FPS, MOMENT_SEC = 0.5, (4.0, 12.0)
COLUMNS = ("parameters, M", "memory, GB", "kept for backward, GB", "step, s", "counted for the paper's batch, GB")
PAPER_BATCH, PAPER_FRAMES = 32, 75
FOUR_DIGITS = 4
SIZES = (3, 10, 30, 100)  # learnable parameters in M that the legend explains
CAP_SIZE = 2  # of the lines of the spread, to each side in points
# Where the label of a dot is tried: distances from its edge in points, and sides as steps to the right and up.
LABEL_DISTANCES = (3, 10, 20)
LABEL_SIDES = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1))


@dataclass(frozen=True)
class Paper:
    """A row of Table 9: QVHighlights val, ViT-B/32, 224 x 224, batch 32, fp16.

    Args:
        title: Name of the method.
        parameters: Learnable parameters in M.
        memory: Peak memory in GB.
        mAP: mAP of moment retrieval.
    """

    title: str
    parameters: float
    memory: float
    mAP: float  # noqa: N815 (its name)


PAPER = {
    "none": Paper("w/o tuning", 2.7, 4.3, 42.22),
    "full": Paper("full tuning", 147.0, 58.5, 42.41),
    "lora": Paper("LoRA", 4.4, 55.4, 41.29),
    "vpt": Paper("VPT", 2.8, 42.9, 42.36),
    "vop": Paper("VoP", 14.5, 45.2, 42.45),
    "st_adapter": Paper("ST-Adapter", 12.2, 44.3, 44.27),
    "e3va": Paper("E³VA", 3.3, 10.8, 45.06),
    "losa": Paper("LoSA", 4.8, 10.9, 44.97),
    "lst": Paper("LST", 7.4, 10.8, 45.03),
    "r2_tuning": Paper("R²-Tuning", 2.7, 10.6, 47.59),
}


# ---- one method, in a process of its own ---------------------------------------------------------------------------


def measure(method: str, args: argparse.Namespace) -> dict[str, float]:
    """Parameters, memory and time of a method's step."""
    device, precision = torch.device(args.device), getattr(torch, args.precision)
    torch.manual_seed(0)
    fields = {"method": method, **layers_read(method, R2TuningConfig())}
    model = R2TuningForVideoGrounding(R2TuningConfig(**fields)).train().to(device)
    if args.activation_checkpointing:
        model.activation_checkpointing_enable()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    step = make_step(model, optimizer, precision)
    batch = make_batch(model, args.batch, args.frames, device)

    in_use = start_peak(device)
    seconds = time_steps(step, batch, args.steps, device)
    peak = read_peak(device) - in_use
    with torch.autocast(device.type, precision), KeptForBackward(model, batch) as kept:
        model(**batch)
    held = [*model.parameters(), *model.buffers(), *optimizer_tensors(optimizer)]
    counted = extrapolate_peak(step, lambda size: make_batch(model, size, PAPER_FRAMES, device), held, PAPER_BATCH)
    parameters = sum(parameter.numel() for parameter in learned) / MEGA
    values = (parameters, peak / GIGA, kept.bytes / GIGA, seconds, counted / GIGA)
    return {name: round(value, FOUR_DIGITS) for name, value in zip(COLUMNS, values, strict=True)}


def make_step(
    model: R2TuningForVideoGrounding, optimizer: torch.optim.Optimizer, precision: torch.dtype
) -> Callable[[dict[str, Any]], None]:
    """A training step under autocast, with loss scaling where the precision needs it."""
    device_type = model.device.type
    scaler = torch.amp.GradScaler(device_type, enabled=precision == torch.float16)

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast(device_type, precision):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def time_steps(
    step: Callable[[dict[str, Any]], None], batch: dict[str, Any], count: int, device: torch.device
) -> float:
    """Median seconds of `count` steps after a first one."""
    times = []
    for _ in range(1 + count):
        start = time.perf_counter()
        step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors of an optimiser's state."""
    tensors = []
    for values in optimizer.state.values():
        tensors.extend(values.values())
    return tensors


def make_batch(model: R2TuningForVideoGrounding, size: int, frames: int, device: torch.device) -> dict[str, Any]:
    """Random pixels and words, each query with one moment."""
    side, vocabulary = model.config.vision_config.image_size, model.config.text_config.vocab_size
    return {
        "pixel_values_videos": torch.randn(size, frames, 3, side, side, device=device),
        "input_ids": torch.randint(vocabulary, (size, WORDS), device=device),
        "moments": [torch.tensor([MOMENT_SEC], device=device)] * size,
        "saliency": torch.rand(size, frames, device=device),
        "positive_frame": torch.full((size,), 3, device=device),
        "fps": FPS,
    }


# ---- all methods ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, train, and write the table."""
    args = make_parser().parse_args()
    if args.measure is not None:
        sys.stdout.write(json.dumps(measure(args.measure, args)))
        return
    args.output.mkdir(parents=True, exist_ok=True)
    rows = {}
    for method in args.methods:
        row = {**measure_apart(method, vars(args)), "paper": asdict(PAPER[method])}
        if args.largest_batch:
            row["largest batch"] = largest_batch(method, vars(args))
        if args.data_dir is not None:
            row["accuracy"] = train(method, args)
        rows[method] = row
        write(args, rows)
    sys.stdout.write(format_table(args, rows))


def measure_apart(method: str, settings: dict[str, Any]) -> dict[str, float]:
    """`measure` in another process.

    Raises:
        MemoryError: The batch does not fit.
        RuntimeError: The process failed for another reason.
    """
    words = [sys.executable, "-m", "benchmarks.table9", "--measure", method]
    for name in ("device", "precision", "batch", "frames", "steps"):
        words += [f"--{name}", str(settings[name])]
    if settings["activation_checkpointing"]:
        words.append("--activation-checkpointing")
    sys.stderr.write(f"{method}, batch {settings['batch']}\n")
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if "OutOfMemoryError" in result.stderr:
        raise MemoryError(method)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(words)} failed: {result.stderr[-2000:]}")
    return json.loads(result.stdout)


def largest_batch(method: str, settings: dict[str, Any]) -> int:
    """Largest batch that fits on the GPU, to an eighth."""
    fits, fails = 0, None
    while fails is None or fails - fits > max(1, fits // 8):
        batch = max(1, 2 * fits) if fails is None else (fits + fails) // 2
        try:
            measure_apart(method, {**settings, "batch": batch, "steps": 1})
            fits = batch
        except MemoryError:
            fails = batch
    return fits


def train(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Mean and spread of mAP over the seeds, by split."""
    plain = METHOD_SPECS[method].reads_plain_layers
    source = {"features": args.features} if plain and args.features else {"video-dir": args.video_dir}
    data = {"data-dir": args.data_dir, "backbone": args.backbone, **source}
    budget = Budget(args.preset, data, tuple(args.splits), args.budget)
    runs = [run_variant(args.output / "runs", {"method": method}, seed, budget) for seed in args.seeds]
    found: dict[str, Any] = {"seconds": round(statistics.mean(run["seconds"] for run in runs), 1)}
    for split in args.splits:
        values = [run[split]["scores"]["brief"]["MR-full-mAP"] for run in runs]
        found[split] = dict(zip(("mAP", "spread"), mean_and_spread(values), strict=True))
    return found


# ---- the table -----------------------------------------------------------------------------------------------------


def write(args: argparse.Namespace, rows: dict[str, dict[str, Any]]) -> None:
    """Write JSON, Markdown and, if methods were trained, the figure."""
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    names = ("precision", "batch", "frames", "activation_checkpointing", "preset", "budget", "seeds")
    settings = {name: getattr(args, name) for name in names}
    write_text(args.output / "table9.json", format_report({"device": device, **settings, "rows": rows}))
    write_text(args.output / "table9.md", format_table(args, rows))
    if args.data_dir is not None:
        draw(args, rows)


def format_table(args: argparse.Namespace, rows: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown, our values and the paper's."""
    splits = args.splits if args.data_dir is not None else []
    head = ["method", *COLUMNS]
    head += [f"mAP, {args.preset} {split}" for split in splits]
    head += [f"paper: {name}" for name in ("parameters, M", "memory, GB", "mAP, QVHighlights val")]
    lines = [_join(head), f"|{'---|' * len(head)}", *map(_join, _cells(rows, splits))]
    return "\n".join(lines) + "\n"


def _join(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(rows: dict[str, dict[str, Any]], splits: list[str]) -> Iterator[list[str]]:
    for row in rows.values():
        paper = row["paper"]
        cells = [paper["title"]]
        cells += [f"{row[column]:.2f}" for column in COLUMNS]
        for split in splits:
            score = row["accuracy"][split]
            cells.append(f"{score['mAP']:.2f} ± {two_digits(score['spread'])}")
        cells += [str(paper[name]) for name in ("parameters", "memory", "mAP")]
        yield cells


# ---- the figure ----------------------------------------------------------------------------------------------------


class Dot(NamedTuple):
    """A method in the figure: memory in GB, mAP, radius in points, its name, and the spread of its mAP."""

    x: float
    y: float
    radius: float
    label: str
    spread: float = 0.0


def draw(args: argparse.Namespace, rows: dict[str, dict[str, Any]]) -> None:
    """Accuracy over memory; the area of a dot grows with the learnable parameters, the line is the spread over seeds."""
    figure = import_figure()(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    split = args.splits[0]
    dots = []
    for method, row in rows.items():
        x, score = row["memory, GB"], row["accuracy"][split]
        area = dot_area(row["parameters, M"])
        color = VERMILLION if method == "r2_tuning" else BLUE
        axes.scatter(x, score["mAP"], s=area, color=color, alpha=0.75, linewidth=0, zorder=3)
        if score["spread"] is not None:
            axes.errorbar(x, score["mAP"], score["spread"], color=RULE_COLOR, linewidth=0.8, capsize=CAP_SIZE)
        dots.append(Dot(x, score["mAP"], area**0.5 / 2, row["paper"]["title"], score["spread"] or 0.0))
    spread = f" ± spread over {len(args.seeds)} seeds" if len(args.seeds) > 1 else ""
    memory = f"peak memory of a step of {args.batch} x {args.frames} frames, GB"
    axes.set(xlabel=memory, ylabel=f"mAP on {args.preset} {split}, %{spread}")
    axes.margins(x=0.1, y=0.08)
    if min(dot.x for dot in dots) > 0:  # a small step may not make the process grow
        _use_logarithms(axes)
    remove_frame(axes)
    _explain_sizes(axes, [row["parameters, M"] for row in rows.values()])
    place_labels(figure, axes, dots)
    save_figure(figure, args.output / "table9.png")


def dot_area(parameters: float) -> float:
    """Area, in square points, of the dot of a method with so many learnable parameters, in M."""
    return 20 + 6 * parameters


def _use_logarithms(axes: "Axes") -> None:
    """Make the x axis logarithmic, with numbers such as 0.2, 0.5 and 1 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(xscale="log", xlabel=f"{axes.get_xlabel()}, logarithmic")
    axes.xaxis.set_major_locator(LogLocator(subs=[1, 2, 5]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def _explain_sizes(axes: "Axes", parameters: list[float]) -> None:
    """Add a legend with dots of round sizes within the range of the methods."""
    sizes = [size for size in SIZES if min(parameters) / 2 <= size <= max(parameters) * 2]
    handles = []
    for size in sizes:
        handles.append(axes.scatter([], [], s=dot_area(size), color=BLUE, alpha=0.75, linewidth=0))
    axes.legend(
        handles,
        [f"{size} M" for size in sizes],
        title="learnable parameters",
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        labelspacing=1.8,
        handletextpad=1.8,
        frameon=False,
        fontsize=SMALL_SIZE,
        title_fontsize=SMALL_SIZE,
    )


def place_labels(figure: "Figure", axes: "Axes", dots: list[Dot]) -> None:
    """Write the label of each dot beside it where it covers no dot, no spread and no other label; a far one gets a line.

    Args:
        figure: The figure, complete but for the labels. Its layout is final from here on.
        axes: The axes of the dots.
        dots: What to label, in this order. Where no place is free, the least covered one is taken.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    inside = axes.get_window_extent()
    taken = []
    for dot in dots:
        taken += _dot_boxes(axes, dot)
    for dot in dots:
        least = math.inf
        for distance, (right, up) in itertools.product(LABEL_DISTANCES, LABEL_SIDES):
            text = _write_label(axes, dot, right, up, distance, has_line=False)
            box = text.get_window_extent()
            covered = box.width * box.height - _shared_area(box, inside)
            for other in taken:
                covered += _shared_area(box, other)
            text.remove()
            if covered < least:
                least, chosen, place = covered, box, (right, up, distance)
        taken.append(chosen)
        _write_label(axes, dot, *place, has_line=place[-1] > LABEL_DISTANCES[0])


def _write_label(axes: "Axes", dot: Dot, right: int, up: int, distance: float, *, has_line: bool) -> "Annotation":
    """Write a label on a side of its dot.

    Args:
        axes: The axes.
        dot: The dot.
        right: 1 to the right of the dot, -1 to the left, 0 in its middle.
        up: 1 above the dot, -1 below, 0 in its middle.
        distance: From the edge of the dot, in points.
        has_line: Whether a line connects the two.
    """
    reach = (dot.radius + distance) / math.hypot(right, up)
    line = {"arrowstyle": "-", "color": RULE_COLOR, "linewidth": 0.6, "shrinkA": 0, "shrinkB": dot.radius}
    return axes.annotate(
        dot.label,
        (dot.x, dot.y),
        (right * reach, up * reach),
        textcoords="offset points",
        ha={1: "left", 0: "center", -1: "right"}[right],
        va={1: "bottom", 0: "center", -1: "top"}[up],
        fontsize=SMALL_SIZE,
        arrowprops=line if has_line else None,
    )


def _dot_boxes(axes: "Axes", dot: Dot) -> "list[Bbox]":
    """The places of a dot and of the line of its spread, in pixels."""
    from matplotlib.transforms import Bbox

    figure = cast("Figure", axes.figure)
    x, y = axes.transData.transform((dot.x, dot.y))
    radius = dot.radius * figure.dpi / 72
    _, lowest = axes.transData.transform((dot.x, dot.y - dot.spread))
    _, highest = axes.transData.transform((dot.x, dot.y + dot.spread))
    cap = CAP_SIZE * figure.dpi / 72
    line = Bbox.from_extents(x - cap, lowest, x + cap, highest)
    return [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius), line]


def _shared_area(one: "Bbox", other: "Bbox") -> float:
    """Area that two boxes share, in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--output", type=Path, default=Path("table9"), help="folder to write (default: table9)")
    parser.add_argument("--methods", nargs="+", choices=tuple(PAPER), default=list(PAPER), help="default: all")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", help="default: cuda where there is one")
    parser.add_argument("--precision", choices=("float16", "bfloat16"), default="float16" if cuda else "bfloat16")
    parser.add_argument("--batch", type=int, default=32 if cuda else 2, help="queries (default: 32, on a CPU 2)")
    parser.add_argument("--frames", type=int, default=75 if cuda else 16, help="default: 75, on a CPU 16")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--activation-checkpointing", action="store_true", help="as in train/run.py")
    parser.add_argument("--largest-batch", action="store_true", help="also find the largest batch that fits (GPU)")
    parser.add_argument("--measure", choices=tuple(PAPER), help=argparse.SUPPRESS)
    training = parser.add_argument_group("accuracy")
    training.add_argument("--data-dir", help="folder of the annotations; without it nothing is trained")
    training.add_argument("--video-dir", help="folder of videos or of a frame store, for methods inside CLIP")
    training.add_argument("--features", help="feature cache for the others (default: from the videos)")
    training.add_argument("--backbone", help="CLIP, a folder or a name on the Hub")
    training.add_argument("--preset", default="moving_shapes", help="preset of train/run.py (default: moving_shapes)")
    training.add_argument("--budget", type=json.loads, default=SMALL_BUDGET, metavar="JSON", help=BUDGET_HELP)
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    training.add_argument("--splits", nargs="+", default=["val", "test_unseen"], help="default: val test_unseen")
    return parser


if __name__ == "__main__":
    main()
