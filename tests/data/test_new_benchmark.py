"""A benchmark is added by a builder file, a spec, a preset and a card entry, and by nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import save_clip
from transformers import CLIPConfig

from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS, BenchmarkSpec, SaliencySpec
from dataset_scripts.loading import find_builder
from dataset_scripts.metrics import compute_scores
from dataset_scripts.splits import TVSUM, YOUTUBE_HIGHLIGHTS
from dataset_scripts.targets import frame_rate, prepare_saliency
from modeling_r2tuning import R2TuningConfig
from r2tuning.hub import dataset_export, model_card
from r2tuning.training.config import read_config
from r2tuning.training.model import make_processor, model_fields
from r2tuning_cli import training_options


ROOT = Path(__file__).parents[2]
BUILDER = """
import datasets

from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.builder import BenchmarkBuilder
from dataset_scripts.features import FEATURES
from dataset_scripts.moment_lines import read_records


class Toys(BenchmarkBuilder):
    SPEC = BENCHMARKS["toys"]
    FILES = {"train": ("toys_train.jsonl",), "val": ("toys_val.jsonl",)}

    def _info(self):
        return datasets.DatasetInfo(features=FEATURES)

    def read_examples(self, path, split, videos, report):
        for record in read_records(path, report):
            ratings = record.scores("ratings", self.SPEC.saliency.lowest, self.SPEC.saliency.highest)
            yield record, {
                "qid": record.text("id"),
                "query": record.text("title"),
                "video_id": record.text("id"),
                "duration_sec": record.number("seconds"),
                "moments": None,
                "saliency": {"times_sec": [[2.0 * i, 2.0 * i + 2.0] for i in range(len(ratings))], "scores": ratings},
                "domain": "toy",
                "task": ["highlight_detection"],
            }
"""
SPEC = BenchmarkSpec(
    name="toys",
    builder="toys_builder:Toys",
    metric="highlights",
    fps=1.0,
    saliency=SaliencySpec(0, 10),
    window_sec=60.0,
    positive_saliency="above_half",
    nms="gaussian",
    round_to=0.5,
)
PRESET = {"benchmark": "toys", "epochs": 3, "best_metric": "mAP-average"}
CARD = """
toys:
  pretty_name: Toys at Work
  license: mit
  redistributable: true
  tasks: [saliency]
  scores: two annotators, 0 to 10, for each 2-second unit
  description: Videos of toys.
  licence: MIT.
  source: A shelf.
  citation: none
"""
RECORD = {"id": "a", "title": "a robot", "seconds": 6.0, "ratings": [[0, 10], [10, 10], [0, 0]]}


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The folder of the annotations of a benchmark that was just added."""
    monkeypatch.setitem(BENCHMARKS, "toys", SPEC)
    (tmp_path / "toys_builder.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    presets = tmp_path / "presets"
    presets.mkdir()
    (presets / "toys.json").write_text(json.dumps(PRESET))
    monkeypatch.setattr(training_options, "PRESETS", presets)
    cards = tmp_path / "cards"
    shutil.copytree(ROOT / "hub_cards", cards)
    with open(cards / "datasets.yaml", "a") as file:
        file.write(CARD)
    for module in (dataset_export, model_card):
        monkeypatch.setattr(module, "CARDS", cards)
    for split in ("train", "val"):
        (tmp_path / f"toys_{split}.jsonl").write_text(json.dumps(RECORD) + "\n")
    yield tmp_path
    sys.modules.pop("toys_builder", None)


def test_a_new_benchmark_is_loaded_and_labelled(toys):
    dataset = load_vtg_dataset("toys", data_dir=toys)
    assert list(dataset) == ["train", "val"]
    [row] = dataset["train"]
    assert (row["query"], row["duration_sec"], row["domain"]) == ("a robot", 6.0, "toy")
    assert frame_rate(row, SPEC, fps=1.0) == 1.0
    expected = np.float32([0.5, 0.5, 1, 1, 0, 0])
    np.testing.assert_array_equal(prepare_saliency(row, 6, 1.0, SPEC), expected)


def test_a_new_benchmark_is_scored(toys):
    rows = load_vtg_dataset("toys", split="val", data_dir=toys)
    scores = compute_scores("toys", [{"qid": "a", "pred_saliency_scores": [0.5, 0.9, 0.1]}], rows)
    assert scores == {"brief": {"mAP-toy": 100.0, "mAP-average": 100.0}}


def test_a_new_benchmark_is_trained_on(toys, tiny_clip):
    clip = save_clip(tiny_clip, toys / "clip")
    words = [
        "--preset",
        "toys",
        "--data-dir",
        toys,
        "--video-dir",
        toys,
        "--output-dir",
        toys / "run",
        "--backbone",
        clip,
    ]
    config = read_config([str(word) for word in words])
    assert (config.benchmark, config.epochs) == ("toys", 3)
    fields = model_fields(config, CLIPConfig())
    assert (fields["fps"], fields["window_sec"]) == (1.0, 60.0)
    assert (fields["use_moment_head"], fields["positive_saliency"]) == (False, "above_half")
    processor = make_processor(config, R2TuningConfig(fps=fields["fps"]))
    assert (processor.fps, processor.nms, processor.round_to) == (1.0, "gaussian", 0.5)


def test_a_new_benchmark_has_a_dataset_card(toys):
    folder = dataset_export.export_dataset("toys", toys / "out", data_dir=toys)
    card = (folder / "README.md").read_text()
    assert "# Toys at Work, for video temporal grounding" in card
    assert "two annotators, 0 to 10" in card
    assert (folder / "all/train.parquet").is_file()


# ---- the registry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_spec_names_its_builder(name):
    assert find_builder(name).SPEC is BENCHMARKS[name]


def test_domains_are_those_of_the_splits_and_of_the_released_checkpoints():
    for name, splits in (("youtube_highlights", YOUTUBE_HIGHLIGHTS), ("tvsum", TVSUM)):
        spec = BENCHMARKS[name]
        assert spec.domains == tuple(splits) == tuple(spec.released_checkpoints)


def test_the_registry_imports_nothing_but_the_standard_library():
    code = """
import sys
before = set(sys.modules)
from dataset_scripts.benchmarks import BENCHMARKS
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert new <= {"dataset_scripts"} | set(sys.stdlib_module_names), new
assert "load_vtg_dataset" in dir(sys.modules["dataset_scripts"])
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_package_has_its_public_names_and_no_others():
    code = """
import dataset_scripts
assert dataset_scripts.load_vtg_dataset.__module__ == "dataset_scripts.loading"
assert issubclass(dataset_scripts.AnnotationError, ValueError) and "qid" in dataset_scripts.FEATURES
try:
    dataset_scripts.other
except AttributeError as error:
    assert "has no attribute 'other'" in str(error)
else:
    raise SystemExit("`other` was found")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
