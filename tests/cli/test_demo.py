"""The model that comes with the package, and `r2tuning demo`, which shows it."""

import json

import pytest
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.utils import logging

from dataset_scripts import load_vtg_dataset
from dataset_scripts.moving_shapes.generate import generate_moving_shapes
from modeling_r2tuning import DEFAULT_MODEL, R2TuningConfig, R2TuningForVideoGrounding, save_checkpoint
from r2tuning.commands.demo import (
    DemoQuery,
    best_iou,
    find_absent_query,
    format_comparison,
    format_summary,
    make_demo,
)
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


@pytest.mark.integration
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
    with pytest.raises(ValueError, match="holds no backbone"):
        package(tmp_path, tmp_path / "out")


# ---- the demo --------------------------------------------------------------------------------------------------------


def test_demo_prints_truth_and_draws(tmp_path, capsys):
    """With an existence head, an absent query comes last, and queries that are not there have no file."""
    assert main(["demo", str(tmp_path / "out"), "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "--seed 3 makes the same video again" in printed
    _, queries = make_demo(tmp_path, 3)
    has_head = R2TuningConfig.from_pretrained(DEFAULT_MODEL).use_existence_head
    asked = [*queries, *find_absent_query(3)] if has_head else queries
    assert printed.count("Query (") == len(asked)
    num_found = len(asked) - printed.count("  found    not there (")
    assert len(list((tmp_path / "out/clips").glob("*.mp4"))) == num_found
    assert printed.count("  truth    not there") == len(asked) - len(queries)
    assert printed.count("  truth ") == sum(max(1, len(query.moments)) for query in asked)
    assert (tmp_path / "out/timeline.png").stat().st_size > 10_000
    assert (tmp_path / "out/video.mp4").read_bytes() == (tmp_path / "video.mp4").read_bytes()


@pytest.fixture
def sceptic(tmp_path):
    """The packaged model with an existence head that finds nothing in any video."""
    config = R2TuningConfig.from_pretrained(DEFAULT_MODEL, use_existence_head=True)
    model = R2TuningForVideoGrounding(config)
    weights = load_file(DEFAULT_MODEL / "model.safetensors")
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    processor = AutoProcessor.from_pretrained(DEFAULT_MODEL, existence_scale=1e-3, existence_bias=-4.0)
    save_checkpoint(model, processor, tmp_path / "sceptic")
    return str(tmp_path / "sceptic")


def test_demo_asks_for_what_is_not_there(sceptic, tmp_path, capsys):
    assert main(["demo", str(tmp_path / "out"), "--seed", "3", "--model", sceptic]) == 0
    printed, messages = capsys.readouterr()
    [absent] = find_absent_query(3)
    _, queries = make_demo(tmp_path, 3)
    comparison = f"Query ({absent.family}): {absent.text}\n                start        end  score  IoU\n"
    assert f"{comparison}  truth    not there\n  found    not there (2 %)\n" in printed
    assert printed.count("  found    not there (2 %)\n") == len(queries) + 1
    assert printed.endswith(f"for 0 of {len(queries)} queries. The query for what is not there was recognised.\n")
    assert list((tmp_path / "out/clips").iterdir()) == []
    assert messages.count("nothing is cut for query ") == len(queries) + 1


def test_the_absent_query_is_an_easy_one():
    for seed in range(1, 6):
        [query] = find_absent_query(seed)
        assert query.family.endswith("/easy")
        assert query.moments == []
        assert find_absent_query(seed) == [query]


def test_demo_asks_one_query_of_each_family(tmp_path):
    _, queries = make_demo(tmp_path, 3)
    families = [query.family for query in queries]
    assert len(set(families)) == len(families) >= 4


@pytest.mark.integration
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
    assert best_iou({"start": 4.0, "end": 8.0}, []) == 0


def test_summary_counts_best_moments_alone():
    query = DemoQuery("a red circle", "presence", [(0.0, 10.0)])
    right, wrong = {"start": 0.0, "end": 5.0}, {"start": 5.5, "end": 10.0}
    answers = [{"moments": [right, wrong]}, {"moments": [wrong, right]}, {"moments": []}]
    assert "for 1 of 3 queries" in format_summary([query] * 3, answers)
    assert format_comparison(query, answers[2], top=3).endswith("\n  found    no moments")


def test_an_absent_query_that_was_not_recognised_is_shown_as_found():
    absent = DemoQuery("a blue ring", "presence/easy", [])
    answer = {"moments": [{"start": 0.0, "end": 5.0, "score": 0.5}], "probability": 0.73, "found": True}
    lines = format_comparison(absent, answer, top=3).splitlines()
    assert lines[2:] == [
        "  truth    not there",
        "  found    there (73 %)",
        "  found 1      0:00.0     0:05.0  0.500  0.00",
    ]
    assert format_summary([absent], [answer]).endswith(
        "for 0 of 0 queries. The query for what is not there was not recognised."
    )
