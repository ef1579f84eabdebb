"""Write a checkpoint as a folder that runs without torch: three ONNX graphs, settings, tokenizer and runner."""

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import torch
from torch.onnx import ONNXProgram

import modeling_r2tuning
from modeling_r2tuning.files_r2tuning import check_new_folder, writing_folder
from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from r2tuning.checks import check_model_name, check_model_type, locate_model
from r2tuning.export import runner
from r2tuning.export.graphs import FramesGraph, Graph, HeadsGraph, TextGraph, merge_adapters, trace
from r2tuning.export.runner import GRAPHS, SETTINGS
from r2tuning.export.settings import make_settings, write_tokenizer


logger = logging.getLogger(__name__)

RUNNER, DECODER = "run.py", "decoder"
# What `video_io_r2tuning` is made of; none of it needs torch.
DECODER_FILES = (
    "containers_r2tuning",
    "files_r2tuning",
    "mp4_tables_r2tuning",
    "video_cutting_r2tuning",
    "video_entries_r2tuning",
    "video_io_r2tuning",
    "video_rendering_r2tuning",
    "video_selection_r2tuning",
    "video_sound_r2tuning",
    "video_source_r2tuning",
    "video_timeline_r2tuning",
)
MAX_BYTES = 1_800_000_000  # of weights within an .onnx file, which cannot exceed 2 GB
TOLERANCE = 1e-4  # between torch and ONNX Runtime, relative to the largest value


def export_checkpoint(checkpoint: str, output: str | os.PathLike, *, int8_text: bool = False) -> None:
    """Load a checkpoint and export it, see `export_model`.

    Args:
        checkpoint: A folder, a name on the Hub, or "packaged".
        output: Folder to write, new or empty.
        int8_text: As of `export_model`.

    Raises:
        OSError: The checkpoint cannot be found or fetched.
        ValueError: The checkpoint is damaged or cannot be exported.
    """
    check_new_folder(output)
    name = locate_model(checkpoint)
    check_model_name("CHECKPOINT", name)
    check_model_type(name, "r2tuning")
    model = R2TuningForVideoGrounding.from_pretrained(name, dtype=torch.float32).eval()
    export_model(model, R2TuningProcessor.from_pretrained(name), output, int8_text=int8_text)


def export_model(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    output: str | os.PathLike,
    *,
    int8_text: bool = False,
) -> None:
    """Write a folder with everything that answers queries without torch; it appears complete or not at all.

    Each graph is compared with the model on random inputs of other sizes than those that it was traced with.

    Args:
        model: On the CPU, in float32 and in eval mode. LoRA's adapters are merged into its weights.
        processor: Its processor.
        output: Folder to write, new or empty.
        int8_text: Quantise the weights of the text graph to 8 bits.

    Raises:
        FileExistsError: `output` is a file, or a folder that is not empty.
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: The model is in another mode or precision, its method mixes frames, or the processor cannot be
            exported.
        RuntimeError: A graph gives other numbers than the model.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'Exporting needs {" and ".join(missing)}: `pip install "r2tuning[onnx]"`.')
    _check_model(model)
    merge_adapters(model)
    graphs = {"frames": FramesGraph(model), "text": TextGraph(model), "heads": HeadsGraph(model)}
    settings = make_settings(model, processor, graphs["heads"].outputs)
    with writing_folder(output) as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the inputs that graphs are compared on
        write_tokenizer(processor, folder)
        for name, graph in graphs.items():
            logger.info("exporting the graph '%s'", name)
            write_graph(graph, folder / GRAPHS[name])
            check_graph(graph, folder / GRAPHS[name])
        if int8_text:
            settings["int8_text"] = quantise(graphs["text"], folder / GRAPHS["text"])
        text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
        (folder / SETTINGS).write_text(text, encoding="utf-8")
        copy_runner(folder)


def _check_model(model: R2TuningForVideoGrounding) -> None:
    """Refuse a model whose graphs could not be traced, or would not give its answers."""
    precisions = {(parameter.device.type, parameter.dtype) for parameter in model.parameters()}
    if model.training or model.has_int8_encoders or precisions != {("cpu", torch.float32)}:
        raise ValueError(
            "`model` must be in eval mode, on the CPU and in float32 to be exported: load it with "
            "`from_pretrained(..., dtype=torch.float32)`."
        )
    if model.config.method_spec.mixes_frames:
        raise ValueError(
            f"The method '{model.config.method}' cannot be exported: the frames of a window see each other in its image "
            "encoder, and the graph encodes each frame on its own."
        )


def write_graph(graph: Graph, path: Path) -> None:
    """Trace a graph and write it as ONNX; weights of more than 1.8 GB go to a file beside it."""
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            trace(graph),
            dynamo=True,
            verbose=False,
            input_names=list(graph.dynamic_shapes()),
            output_names=list(graph.outputs),
        )
        program = cast("ONNXProgram", program)
        _strip(program)
        num_bytes = 0
        for value in program.model.graph.initializers.values():
            num_bytes += 0 if value.const_value is None else value.const_value.nbytes
        program.save(str(path), external_data=num_bytes > MAX_BYTES)


def _strip(program: ONNXProgram) -> None:
    """Remove the stack trace that the exporter notes for each operation, with paths of this machine."""
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    program.model.metadata_props.clear()
    program.model.graph.metadata_props.clear()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress torch's warnings about operators of torchvision, which no graph has."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def check_graph(graph: Graph, path: Path) -> float:
    """Compare a written graph with the model on random inputs.

    Returns:
        The largest difference, relative to the largest value of the output.

    Raises:
        RuntimeError: It is more than `TOLERANCE`.
    """
    expected, found = run_both(graph, path)
    worst = 0.0
    for name, ours, theirs in zip(graph.outputs, expected, found, strict=True):
        finite = np.isfinite(ours)
        if ours.shape != theirs.shape or (finite != np.isfinite(theirs)).any():
            raise RuntimeError(f"`{name}` of '{path.name}' differs from the model's in shape or in infinite values.")
        difference = np.abs(ours[finite].astype(np.float64) - theirs[finite].astype(np.float64)).max()
        worst = max(worst, difference / max(np.abs(ours[finite]).max(), 1.0))
        if worst > TOLERANCE:
            raise RuntimeError(f"`{name}` of '{path.name}' differs from the model's by {worst:.1e}.")
    return worst


def run_both(graph: Graph, path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs of the model and of a written graph for the same random inputs."""
    inputs = graph.draw_inputs(**graph.other_sizes())
    with torch.no_grad():
        outputs = graph(*inputs.values())
    expected = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(list(graph.outputs), {name: value.numpy() for name, value in inputs.items()})
    return [value.numpy() for value in expected], found


def quantise(graph: Graph, path: Path) -> dict[str, float]:
    """Quantise the weights of a written graph to 8 bits, in place.

    Returns:
        The mean and the lowest cosine between its outputs and the model's on random inputs.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    partial = path.with_suffix(".int8.onnx")
    with _quiet_quantiser():
        quantize_dynamic(path, partial, weight_type=QuantType.QInt8, per_channel=True)
    partial.replace(path)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # the weights, if they were in a file of their own
    [expected], [found] = run_both(graph, path)
    cosine = (expected * found).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(found, axis=-1)
    logger.info("int8: the cosine of the words is %.5f on average, at least %.5f", cosine.mean(), cosine.min())
    return {"mean_cosine": float(cosine.mean()), "lowest_cosine": float(cosine.min())}


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Suppress the advice to run the quantiser's own pre-processing, which torch's optimiser replaces."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def copy_runner(folder: Path) -> None:
    """Copy the runner and the decoder that it uses."""
    shutil.copyfile(runner.__file__, folder / RUNNER)
    source = Path(modeling_r2tuning.__file__).parent
    (folder / DECODER).mkdir()
    (folder / DECODER / "__init__.py").touch()
    for name in DECODER_FILES:
        shutil.copyfile(source / f"{name}.py", folder / DECODER / f"{name}.py")


__all__ = ["DECODER_FILES", "check_graph", "export_checkpoint", "export_model", "write_graph"]
