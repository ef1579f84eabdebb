"""Frames a second of a ViT-B/32-sized image encoder in float32, bfloat16 and int8 by three libraries, and how its states deviate.

python -m benchmarks.int8 [--threads 1] [--frames 32] [--repeats 5] [--output REPORT.json] [--table TABLE.md]

The weights are random. Deviations are of the hidden states that R2-Tuning reads, those of the last four layers: 1 minus the
cosine with the state in float32, mean and largest over all tokens. What a package that is not installed would do is left out.
"""

import argparse
import copy
import importlib.util
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measurement import Function, Seconds, print_report, time_in_turn, write_text
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.precision_r2tuning import cpu_has_bfloat16


FLOAT32 = "float32"
Report = dict[str, dict[str, float]]


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = R2TuningForVideoGrounding(R2TuningConfig()).eval()
    pixels = torch.randn(args.frames, 3, 224, 224)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        encoders = make_encoders(model, pixels, Path(folder), args.threads)
        exact = encoders[FLOAT32]()
        deviations = {name: deviation(encode(), exact) for name, encode in encoders.items()}
        seconds = time_in_turn(encoders, args.repeats)
    report = summarise(seconds, deviations, args.frames)
    sys.stdout.write(f"{format_table(report)}\n\n")
    if args.table is not None:
        write_text(args.table, format_table(report) + "\n")
    settings = {"threads": args.threads, "frames": args.frames, "torch": torch.__version__}
    print_report({**settings, "encoders": report}, args.output)


def make_encoders(
    model: R2TuningForVideoGrounding, pixels: torch.Tensor, folder: Path, threads: int
) -> dict[str, Function]:
    """For each way to encode, a function that gives the states `(num_frames, num_layers, num_tokens, hidden)`.

    Args:
        model: In float32.
        pixels: `(num_frames, 3, height, width)`.
        folder: For temporary files.
        threads: Threads of ONNX Runtime.
    """
    models = {FLOAT32: model}
    if cpu_has_bfloat16():
        models["bfloat16"] = copy.deepcopy(model)
        models["bfloat16"].vision_model.to(torch.bfloat16)
    if importlib.util.find_spec("torchao") is not None:
        models["int8, torchao"] = copy.deepcopy(model)
        models["int8, torchao"].quantize_encoders()
    with warnings.catch_warnings():  # that it is deprecated
        warnings.simplefilter("ignore")
        quantized = copy.deepcopy(model)
        torch.ao.quantization.quantize_dynamic(quantized.vision_model, {nn.Linear}, inplace=True)
        models["int8, torch.ao (deprecated)"] = quantized
    encoders: dict[str, Function] = {}
    for name, each in models.items():
        encoders[name] = lambda each=each: each.get_video_hidden_states(pixels[None])[0]
    if all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnxscript")):
        encoders.update(make_onnx_encoders(model, pixels, folder, threads))
    return encoders


class LastStates(nn.Module):
    """The states of a model's image encoder as a module of its own, which can be exported."""

    def __init__(self, model: R2TuningForVideoGrounding):
        super().__init__()
        self.vision_model = model.vision_model
        self.num_layers = model.config.num_recurrent_steps

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """States `(num_frames, num_layers, num_tokens, hidden)` of pixels `(num_frames, 3, height, width)`."""
        output = self.vision_model(pixel_values=pixels, output_hidden_states=True)
        return torch.stack(output.hidden_states[-self.num_layers :], dim=1)


def make_onnx_encoders(
    model: R2TuningForVideoGrounding, pixels: torch.Tensor, folder: Path, threads: int
) -> dict[str, Function]:
    """ONNX Runtime in float32 and with its dynamic int8, as in `make_encoders`."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    paths = {"float32, ONNX Runtime": folder / "float32.onnx", "int8, ONNX Runtime": folder / "int8.onnx"}
    exact, quantized = paths.values()
    torch.onnx.export(LastStates(model).eval(), (pixels,), exact, dynamo=True, verbose=False)
    quantize_dynamic(exact, quantized, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    encoders: dict[str, Function] = {}
    for name, path in paths.items():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: pixels.numpy()}
        encoders[name] = lambda session=session, feed=feed: torch.from_numpy(session.run(None, feed)[0])
    return encoders


def deviation(states: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    """Mean and largest deviation of states from those in float32, as 1 minus the cosine."""
    distance = 1.0 - torch.cosine_similarity(states.double(), exact.double(), dim=-1)
    distance = distance.clamp(min=0.0)  # rounding
    return {"deviation_mean": distance.mean().item(), "deviation_max": distance.max().item()}


def summarise(seconds: dict[str, Seconds], deviations: dict[str, Any], frames: int) -> Report:
    """Frames per second, ratios to float32 in the same run, and deviations."""
    report = {}
    for name, median in seconds.items():
        report[name] = {
            "frames_per_second": frames / median.wall,
            "frames_per_core_second": frames / median.processor,
            "times_as_fast": seconds[FLOAT32].processor / median.processor,
            **deviations[name],
        }
    return report


def format_table(report: Report) -> str:
    """The report in Markdown."""
    lines = [
        "| encoder | frames per core-second | times as fast | 1 - cosine, mean | largest |",
        "|---|---|---|---|---|",
    ]
    for name, row in report.items():
        speed = f"{row['frames_per_core_second']:.1f} | {row['times_as_fast']:.2f}"
        lines.append(f"| {name} | {speed} | {row['deviation_mean']:.1e} | {row['deviation_max']:.1e} |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of each library (default: 1)")
    parser.add_argument("--frames", type=int, default=32, help="frames encoded at once (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions (default: 5)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    return parser


if __name__ == "__main__":
    main()
