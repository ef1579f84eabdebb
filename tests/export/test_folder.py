"""Exported folders: complete or absent, equal to the checkpoint, and without need of torch."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_output import only_line
from export_samples import GRAPHS, QUERIES, SIZES, assert_same, fields_of
from fresh_python import run_fresh
from random_checkpoint import byte_tokenizer, random_model, random_processor, write_sample_video
from tiny_towers import KINDS, make_model

from modeling_r2tuning import DEFAULT_MODEL, R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint
from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from r2tuning_cli.main import main


onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
from benchmarks import onnx as benchmark  # noqa: E402 (needs onnxruntime)
from r2tuning.export import folder as exporting  # noqa: E402
from r2tuning.export.runner import Runner  # noqa: E402


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/export.md"
# A finder that refuses everything that a user of an exported folder does not have.
WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
script, *sys.argv[1:] = sys.argv[1:]
sys.path[0] = script.rpartition("/")[0]  # as for `python SCRIPT`
runpy.run_path(script, run_name="__main__")
"""
REFUSED = {"torch", "transformers", "safetensors", "PIL", "modeling_r2tuning", "r2tuning", "dataset_scripts"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, a video, and the checkpoint's export by the command."""
    place = tmp_path_factory.mktemp("export")
    tokenizer = byte_tokenizer()
    model = random_model(
        tokenizer, num_recurrent_steps=2, strides=(1, 2), window_sec=8.0, use_existence_head=True, shared_block=True
    )
    save_checkpoint(model, random_processor(tokenizer), place / "checkpoint")
    write_sample_video(place / "sample.mp4")
    assert main(["export-onnx", str(place / "checkpoint"), str(place / "exported")]) == 0
    return place


def load(folder):
    return R2TuningForVideoGrounding.from_pretrained(folder), R2TuningProcessor.from_pretrained(folder)


def assert_answers_agree(exported, model, processor, video):
    pipe = VideoGroundingPipeline(model=model, processor=processor)
    options = {"min_probability": None}
    answers = pipe(str(video), query=QUERIES, **options)
    assert answers[0]["frame_times"]
    assert_same(Runner(exported)(str(video), QUERIES, **options), answers)


@pytest.mark.integration
def test_answers_are_those_of_the_checkpoint(place):
    """A video of three windows, from file to moments."""
    model, processor = load(place / "checkpoint")
    assert_answers_agree(place / "exported", model, processor, place / "sample.mp4")


def assert_equal_at_every_size(name, graph, path):
    """Compare a written graph with the model for inputs of several sizes."""
    session = onnxruntime.InferenceSession(str(path))
    torch.manual_seed(2)
    for sizes in SIZES[name]:
        inputs = graph.draw_inputs(**sizes)
        with torch.no_grad():
            expected = graph(**inputs)
        expected = [expected] if isinstance(expected, torch.Tensor) else expected
        found = session.run(list(graph.outputs), {key: value.numpy() for key, value in inputs.items()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize("name", GRAPHS)
def test_one_graph_serves_every_size(place, name):
    graph = GRAPHS[name](load(place / "checkpoint")[0])
    assert_equal_at_every_size(name, graph, place / "exported" / f"{name}.onnx")


@pytest.mark.integration
def test_the_folder_runs_alone_and_without_torch(place, tmp_path):
    shutil.copytree(place / "exported", tmp_path / "moved")
    script = WITHOUT_TORCH.format(refused=REFUSED)
    command = [sys.executable, "-c", script, str(tmp_path / "moved/run.py"), str(place / "sample.mp4"), *QUERIES]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    expected = Runner(place / "exported")(str(place / "sample.mp4"), QUERIES)
    assert_same(json.loads(result.stdout), expected)
    command[-len(QUERIES) - 1] = "missing.mp4"
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert only_line(result.stderr).startswith("run.py: error: `video` 'missing.mp4' does not exist")


def test_the_runner_travels_unchanged(tmp_path):
    exporting.copy_runner(tmp_path)
    assert (tmp_path / "run.py").read_bytes() == (ROOT / "r2tuning/export/runner.py").read_bytes()
    for name in exporting.DECODER_FILES:
        copy = tmp_path / "decoder" / f"{name}.py"
        assert copy.read_bytes() == (ROOT / "modeling_r2tuning" / f"{name}.py").read_bytes()


@pytest.mark.integration
def test_weights_are_stored_once(place):
    """Each graph holds the weights that it uses and no others."""
    sizes = [(place / "exported" / f"{name}.onnx").stat().st_size for name in GRAPHS]
    weights = (place / "checkpoint/model.safetensors").stat().st_size
    assert sum(sizes) < weights + 1_000_000  # the graphs themselves


@pytest.mark.integration
def test_the_benchmark_measures_every_graph(place):
    model, _ = load(place / "checkpoint")
    graphs = {name: kind(model) for name, kind in GRAPHS.items()}
    paths = {name: place / "exported" / f"{name}.onnx" for name in GRAPHS}
    args = benchmark.make_parser().parse_args(["--frames", "2", "--window", "9", "--repeats", "1", "--words", "4"])
    rows = benchmark.measure(graphs, {**paths, benchmark.INT8: paths["text"]}, 1, args)
    assert list(rows) == ["2 frames", "10 texts", "1 query", "10 queries"]
    for name, row in rows.items():
        assert ("int8" in row) == (name == "10 texts")
        assert row["onnx is faster by"]["wall"] == pytest.approx(row["torch"]["wall"] / row["onnx"]["wall"])


# ---- one graph, which takes seconds --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The graph of the texts of a tiny model, and its file."""
    graph = GRAPHS["text"](random_model(byte_tokenizer(), num_recurrent_steps=2))
    path = tmp_path_factory.mktemp("text") / "text.onnx"
    exporting.write_graph(graph, path)
    return graph, path


def test_a_written_graph_equals_the_model(text):
    assert_equal_at_every_size("text", *text)
    assert exporting.check_graph(*text) < 1e-5


def test_no_path_of_this_machine_is_written(text):
    contents = text[1].read_bytes()
    assert str(ROOT).encode() not in contents
    assert Path(torch.__file__).parent.as_posix().encode() not in contents


def test_text_in_8_bits(text, tmp_path):
    graph, original = text
    path = tmp_path / "text.onnx"
    shutil.copyfile(original, path)
    torch.manual_seed(0)
    cosines = exporting.quantise(graph, path)
    assert path.stat().st_size < 0.6 * original.stat().st_size
    assert 0.99 < cosines["lowest_cosine"] <= cosines["mean_cosine"] < 1
    assert os.listdir(tmp_path) == ["text.onnx"]


@pytest.mark.integration
def test_weights_of_a_large_graph_have_a_file_of_their_own(text, tmp_path, monkeypatch):
    graph, path = text[0], tmp_path / "text.onnx"
    monkeypatch.setattr(exporting, "MAX_BYTES", 1000)
    exporting.write_graph(graph, path)
    assert sorted(os.listdir(tmp_path)) == ["text.onnx", "text.onnx.data"]
    assert exporting.check_graph(graph, path) < 1e-5
    exporting.quantise(graph, path)
    assert os.listdir(tmp_path) == ["text.onnx"]


def test_a_graph_that_differs_from_the_model_is_refused(text):
    graph = GRAPHS["text"](random_model(byte_tokenizer(), num_recurrent_steps=2))
    torch.nn.init.constant_(graph.model.r2_block.steps[0].text_projection.output_linear.bias, 0.5)
    with pytest.raises(RuntimeError, match="`words` of 'text.onnx' differs from the model's by"):
        exporting.check_graph(graph, text[1])


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [method for method, spec in METHOD_SPECS.items() if spec.mixes_frames])
def test_methods_that_mix_frames_are_refused(make_model, processor, tmp_path, method):
    with pytest.raises(
        ValueError, match=f"method '{method}' cannot be exported: the frames of a window see each other"
    ):
        exporting.export_model(make_model(**fields_of(method)), processor, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [torch.nn.Module.train, lambda model: model.text_model.bfloat16()])
def test_models_in_another_mode_or_precision_are_refused(make_model, processor, tmp_path, change):
    model = make_model()
    change(model)
    with pytest.raises(ValueError, match="must be in eval mode, on the CPU and in float32"):
        exporting.export_model(model, processor, tmp_path / "out")


def test_missing_packages_are_named(make_model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript: `pip install .r2tuning\[onnx\].`"):
        exporting.export_model(make_model(), processor, tmp_path / "out")


def test_a_failure_leaves_nothing(make_model, processor, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_graph", fail)
    with pytest.raises(OSError, match="No space left"):
        exporting.export_model(make_model(), processor, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_errors_of_the_command(tmp_path, capsys):
    (tmp_path / "file").touch()
    cases = {
        ("packaged", str(tmp_path)): f"The folder '{tmp_path}' is not empty; choose a new one or empty it.",
        ("nowhere", str(tmp_path / "new")): "`CHECKPOINT` must be a folder, or a name on the Hub",
        (str(tmp_path), str(tmp_path / "new")): f"'{tmp_path}' holds no model, expected",
    }
    for arguments, message in cases.items():
        assert main(["export-onnx", *arguments]) == 2
        assert only_line(capsys.readouterr().err).startswith(f"r2tuning: error: {message}")
    assert not (tmp_path / "new").exists()


# ---- other models, which take minutes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Where the commands and the Python of the page about the export ran, with what the runner printed."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "demo").mkdir()
    write_sample_video(folder / "demo/video.mp4")
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    printed = []
    for language, code in blocks:
        commands = [["-c", code]]
        if language == "bash":
            commands = [shlex.split(line) for line in code.splitlines() if not line.startswith("pip")]
        for program, *arguments in commands:
            if program == "r2tuning":
                program, arguments = "-m", ["r2tuning_cli.main", *arguments]
            elif program == "python":
                program, *arguments = arguments
            result = run_fresh([program, *arguments], cwd=folder, timeout=600)
            assert result.returncode == 0, result.stderr
            printed.append(result.stdout)
    return folder, printed


@pytest.mark.integration
def test_the_page_runs_as_written(page):
    folder, printed = page
    assert printed[0] == "exported\n"
    queries = [answer["query"] for answer in json.loads(printed[1])]
    assert queries == ["the red circle is at the left", "a blue square"]
    assert sorted(os.listdir(folder)) == ["demo", "exported", "exported_int8"]
    listed = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", PAGE.read_text(), re.MULTILINE)
    names = re.findall(r"`([^`/]+)/?`", " ".join(row for row in listed if "." in row))
    assert sorted(names) == sorted(name for name in os.listdir(folder / "exported") if name != "__pycache__")


@pytest.mark.integration
def test_the_packaged_model(page):
    folder, _ = page
    assert_answers_agree(folder / "exported", *load(DEFAULT_MODEL), folder / "demo/video.mp4")


@pytest.mark.integration
def test_the_packaged_model_with_text_in_8_bits(page):
    folder, _ = page
    cosines = json.loads((folder / "exported_int8/settings.json").read_text())["int8_text"]
    assert cosines["mean_cosine"] > 0.999
    exact, small = (Runner(folder / name) for name in ("exported", "exported_int8"))
    video = exact.encode(folder / "demo/video.mp4")
    [expected], [found] = (each.ground(video, ["a blue square"]) for each in (exact, small))
    assert found["probability"] == pytest.approx(expected["probability"], abs=0.1)
    assert found["probability"] != expected["probability"]


def assert_encoders_agree(model, folder):
    """Compare the graphs of the encoders; what follows them is the same for all kinds and methods."""
    for name in ("frames", "text"):
        graph = GRAPHS[name](model)
        exporting.write_graph(graph, folder / f"{name}.onnx")
        assert exporting.check_graph(graph, folder / f"{name}.onnx") < 1e-4


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_every_kind(tmp_path, kind):
    assert_encoders_agree(make_model(kind, num_recurrent_steps=2), tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("method", [method for method, spec in METHOD_SPECS.items() if not spec.mixes_frames])
def test_encoders_of_every_method_that_keeps_frames_apart(make_model, tmp_path, method):
    assert_encoders_agree(make_model(**fields_of(method)), tmp_path)


@pytest.mark.integration
def test_adapters_of_lora_are_merged(place, tmp_path):
    """From a checkpoint with adapters to answers; without patches, as in all methods but R2-Tuning."""
    tokenizer = byte_tokenizer()
    model, processor = random_model(tokenizer, strides=(1, 2), **fields_of("lora")), random_processor(tokenizer)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # as initialised, adapters add nothing
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    exporting.export_checkpoint(str(tmp_path / "checkpoint"), tmp_path / "out")
    assert_answers_agree(tmp_path / "out", model, processor, place / "sample.mp4")
