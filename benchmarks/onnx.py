"""Time of the exported graphs in ONNX Runtime beside the same modules in torch: frames, texts and queries.

python -m benchmarks.onnx [--model CHECKPOINT] [--threads 1 2] [--output FILE]

Without a checkpoint the model has the size of CLIP ViT-B/32 and random weights. Pin the process to as many cores as
there are threads, for example with `taskset -c 0,1`.
"""

import argparse
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from benchmarks.measurement import Function, Seconds, print_report, time_in_turn
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from r2tuning.checks import locate_model
from r2tuning.export.folder import quantise, run_both, write_graph
from r2tuning.export.graphs import FramesGraph, Graph, HeadsGraph, TextGraph, frame_multiple


INT8 = "text, int8"


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    torch.manual_seed(0)
    if args.model is None:
        model = R2TuningForVideoGrounding(R2TuningConfig()).eval()
    else:
        model = R2TuningForVideoGrounding.from_pretrained(locate_model(args.model), dtype=torch.float32).eval()
    graphs: dict[str, Graph] = {"frames": FramesGraph(model), "text": TextGraph(model), "heads": HeadsGraph(model)}
    with tempfile.TemporaryDirectory() as folder:
        paths, deviations = export(graphs, Path(folder))
        speeds = {}
        for threads in args.threads:
            speeds[f"{threads} threads"] = measure(graphs, paths, threads, args)
    output = vars(args).pop("output")
    print_report({**vars(args), "deviation": deviations, "speed": speeds}, output)


def export(graphs: dict[str, Graph], folder: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write the graphs, and that of the texts also in 8 bits; return their paths and how far they are from torch."""
    paths, deviations = {}, {}
    for name, graph in graphs.items():
        paths[name] = folder / f"{name}.onnx"
        write_graph(graph, paths[name])
        expected, found = run_both(graph, paths[name])
        deviations[name] = float(abs(expected[0] - found[0]).max())  # of the logits, for the heads
    paths[INT8] = folder / "int8.onnx"
    shutil.copyfile(paths["text"], paths[INT8])
    deviations[INT8] = quantise(graphs["text"], paths[INT8])
    return paths, deviations


def measure(
    graphs: dict[str, Graph], paths: dict[str, Path], threads: int, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Median seconds of each task in torch and ONNX Runtime, and how many times as fast ONNX Runtime is.

    With one thread, the processor's time is meaningful on a busy machine, too.
    """
    torch.set_num_threads(threads)
    multiple = frame_multiple(graphs["heads"].model)
    window = -(-args.window // multiple) * multiple
    words = {"text_length": args.words}
    tasks = {
        f"{args.frames} frames": ("frames", {"num_windows": 1, "num_frames": args.frames}),
        f"{args.queries} texts": ("text", {"batch": args.queries, **words}),
        "1 query": ("heads", {"num_videos": 1, "num_queries": 1, "num_frames": window, **words}),
        f"{args.queries} queries": (
            "heads",
            {"num_videos": 1, "num_queries": args.queries, "num_frames": window, **words},
        ),
    }
    functions: dict[str, Function] = {}
    for task, (name, sizes) in tasks.items():
        inputs = graphs[name].draw_inputs(**sizes)
        functions[f"{task}: torch"] = functools.partial(run_torch, graphs[name], inputs)
        functions[f"{task}: onnx"] = make_onnx(paths[name], inputs, threads)
        if name == "text":
            functions[f"{task}: int8"] = make_onnx(paths[INT8], inputs, threads)
    seconds = time_in_turn(functions, args.repeats)
    rows: dict[str, dict[str, Any]] = {}
    for label, times in seconds.items():
        task, kind = label.split(": ")
        rows.setdefault(task, {})[kind] = times._asdict()
    for row in rows.values():
        for kind in sorted(row.keys() - {"torch"}):
            row[f"{kind} is faster by"] = {clock: row["torch"][clock] / row[kind][clock] for clock in Seconds._fields}
    return rows


@torch.inference_mode()
def run_torch(graph: Graph, inputs: dict[str, torch.Tensor]) -> None:
    """Run a graph in torch."""
    graph(**inputs)


def make_onnx(path: Path, inputs: dict[str, torch.Tensor], threads: int) -> Function:
    """A function that runs a written graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return functools.partial(session.run, None, arrays)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, name on the Hub or 'packaged' (default: random weights)")
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1], help="default: one per core")
    parser.add_argument("--frames", type=int, default=16, help="frames encoded at once (default: 16)")
    parser.add_argument("--window", type=int, default=75, help="frames that are queried (default: 75)")
    parser.add_argument("--words", type=int, default=12, help="tokens of a query (default: 12)")
    parser.add_argument("--queries", type=int, default=10, help="queries at once (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions (default: 5)")
    parser.add_argument("--output", type=Path, help="file for the report")
    return parser


if __name__ == "__main__":
    main()
