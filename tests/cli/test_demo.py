"""The model that comes with the package, and `r2tuning demo`, which shows it."""

import json

import pytest
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.utils import logging

from dataset_scripts import load_vtg_dataset
from dataset_scripts.moving_shapes.generate import generate_moving_shapes
from modeling_r2tuning import DEFAULT_MODEL
from r2tuning.commands.demo import DemoQuery, best_iou, format_comparison, format_summary, make_demo
from r2tuning.evaluation.predictions import predict
from r2tuning.evaluation.run import score_parts
from r2tuning.hub.default_model import MAX_BYTES, package
from r2tuning.hub.model_card import Results
from r2tuning_cli.main import main


LIMITS = "knows only Moving Shapes"
FRESH_SEED, NUM_FRESH = 2026, 20
SPREAD = 10  # percentage points: some two standard deviations of a score of a hundred queries in 20 videos


# ---- the model of the package ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A benchmark of a seed that nothing was trained on."""
    folder = tmp_path_factory.mktemp("fresh")
    return generate_moving_shapes(folder, seed=FRESH_SEED, num_videos={"test": NUM_FRESH})


def test_a_pipeline_without_a_model_says_what_it_knows(caplog):
    logging.warning_once.cache_clear()  # as in a new process
    grounder = pipeline("video-grounding")
    pipeline("video-grounding")
    assert grounder.model.name_or_path == str(DEFAULT_MODEL)
    assert sum(LIMITS in record.getMessage() for record in caplog.records) == 1


def test_other_models_cause_no_warning(checkpoint, caplog):
    logging.warning_once.cache_clear()
    pipeline("video-grounding", model=str(checkpoint))
    assert LIMITS not in caplog.text


def test_fresh_videos_score_as_the_card_says(fresh):
    rows = list(load_vtg_dataset("moving_shapes", split="test", data_dir=fresh, video_dir=fresh))
    model = AutoModel.from_pretrained(DEFAULT_MODEL).eval()
    processor = AutoProcessor.from_pretrained(DEFAULT_MODEL)
    scores = score_parts("moving_shapes", list(predict(model, processor, rows, benchmark="moving_shapes")), rows)
    told = Results.load(DEFAULT_MODEL).evaluations["test"]
    for part in ("main", "all"):
        for name in ("R1@0.5", "mAP"):
            assert scores[part][name] == pytest.approx(told[part][name], abs=SPREAD), (part, name)
    assert f"{told['main']['R1@0.5']:.2f}" in (DEFAULT_MODEL / "README.md").read_text()


def test_the_packaged_model_is_small_and_names_no_local_path():
    files = list(DEFAULT_MODEL.iterdir())
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert not [path for path in files if path.suffix == ".py"]
    for path in files:
        if path.suffix != ".safetensors":
            assert "/tmp" not in path.read_text()
    assert not {"auto_map", "custom_pipelines"} & json.loads((DEFAULT_MODEL / "config.json").read_text()).keys()


def test_packaging_copies_all_needed_files(tmp_path):
    package(DEFAULT_MODEL, tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in DEFAULT_MODEL.iterdir()}


def test_packaging_refuses_a_model_without_clip(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no CLIP"):
        package(tmp_path, tmp_path / "out")


# ---- the demo --------------------------------------------------------------------------------------------------------


def test_demo_prints_truth_and_draws(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "out"), "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "--seed 3 makes the same video again" in printed
    _, queries = make_demo(tmp_path, 3)
    assert printed.count("Query (") == len(queries) == len(list((tmp_path / "out/clips").glob("*.mp4")))
    assert printed.count("  truth ") == sum(len(query.moments) for query in queries)
    assert (tmp_path / "out/timeline.png").stat().st_size > 10_000
    assert (tmp_path / "out/video.mp4").read_bytes() == (tmp_path / "video.mp4").read_bytes()


def test_demo_asks_one_query_of_each_family(tmp_path):
    _, queries = make_demo(tmp_path, 3)
    families = [query.family for query in queries]
    assert len(set(families)) == len(families) >= 4


def test_demo_makes_another_video_each_time(tmp_path, capsys):
    videos = []
    for name in ("a", "b"):
        assert main(["demo", str(tmp_path / name)]) == 0
        videos.append((tmp_path / name / "video.mp4").read_bytes())
    assert videos[0] != videos[1]


@pytest.mark.parametrize("seed", ["-1", "x"])
def test_demo_refuses_an_invalid_seed(seed, capsys):
    assert main(["demo", "--seed", seed]) == 2
    assert f"whole number of at least 0, got '{seed}'" in capsys.readouterr().err


def test_demo_checks_the_model_first(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "out"), "--model", "gone.pth"]) == 2
    assert "gone.pth" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_iou_is_taken_with_the_best_true_moment():
    assert best_iou({"start": 4.0, "end": 8.0}, [(0.0, 2.0), (6.0, 10.0)]) == pytest.approx(2 / 6)
    assert best_iou({"start": 4.0, "end": 8.0}, [(0.0, 2.0)]) == 0


def test_summary_counts_best_moments_alone():
    query = DemoQuery("a red circle", "presence", [(0.0, 10.0)])
    right, wrong = {"start": 0.0, "end": 5.0}, {"start": 5.5, "end": 10.0}
    answers = [{"moments": [right, wrong]}, {"moments": [wrong, right]}, {"moments": []}]
    assert "for 1 of 3 queries" in format_summary([query] * 3, answers)
    assert format_comparison(query, answers[2], top=3).endswith("\n  found    no moments")
