"""`r2tuning ground` and `explain` with an existence head: the probability, and "not there"."""

import math

import pytest
import torch
from cli_output import DURATION_SEC, QUERIES, only_line, read_json
from tiny_checkpoints import make_tokenizer, save_ours
from transformers.utils import logging

from modeling_r2tuning import R2TuningProcessor, VideoGroundingPipeline
from modeling_r2tuning.processing_r2tuning import make_image_processor
from r2tuning.commands import ground as ground_module
from r2tuning.commands.ground import format_answer
from r2tuning.visualization.style import format_probability
from r2tuning.visualization.timeline import format_absence
from r2tuning_cli.main import main


PRESENT, ABSENT = QUERIES


@pytest.fixture(scope="module")
def rated(make_model, folder, video):
    """A checkpoint with an existence head, calibrated so that the first query has a probability of 88 %, the second 12 %."""
    model = make_model(use_existence_head=True, save_backbone=True, backbone_name_or_path=None, fps=1.0)
    processor = R2TuningProcessor(make_image_processor(64), make_tokenizer(), fps=1.0)
    pipe = VideoGroundingPipeline(model=model, processor=processor)
    answers = pipe(video, query=list(QUERIES))
    there, not_there = (torch.tensor(answer["probability"]).double().logit().item() for answer in answers)
    if there < not_there:
        for parameter in model.grounding_head.existence_head.linear2.parameters():
            parameter.data.neg_()
        there, not_there = -there, -not_there
    scale = 4 / (there - not_there)
    settings = {"fps": 1.0, "existence_scale": scale, "existence_bias": 2 - scale * there}
    return str(save_ours(model, folder / "rated", **settings))


@pytest.fixture
def answers(canned, monkeypatch):
    """The pipeline answers that the second query is not there."""
    present = {**canned, "probability": 0.934, "found": True}
    absent = {**canned, "probability": 0.1249, "found": False, "moments": [], "highlights": [], "summary": []}
    answers = [{"query": PRESENT, **present}, {"query": ABSENT, **absent}]

    def pipe(video, query, progress, **options):
        return answers

    pipe.processor = type("Processor", (), {"fps": 0.5})
    monkeypatch.setattr(ground_module, "load_pipeline", lambda args: pipe)
    return answers


def test_probabilities_are_whole_percent():
    assert [format_probability(value) for value in (0.0, 0.004, 0.125, 0.934, 1.0)] == [
        "0 %",
        "0 %",
        "12 %",
        "93 %",
        "100 %",
    ]


def test_only_a_query_that_was_not_found_is_absent():
    assert format_absence({"moments": []}) is None
    assert format_absence({"probability": 0.1}) is None
    assert format_absence({"probability": 0.9, "found": True}) is None
    assert format_absence({"probability": 0.12, "found": False}) == "not there (12 %)"


# ---- ground --------------------------------------------------------------------------------------------------------


def test_table_says_what_is_not_there(ground, answers, video):
    status, out, err = ground("--top", 1)
    assert (status, err) == (0, "")
    assert out == (
        f"{video} (0:20.0)\n"
        "\n"
        f"Query: {PRESENT}\n"
        "  probability: 93 %\n"
        "  rank      start        end  score\n"
        "     1     0:04.0     0:10.0  0.910\n"
        "  highlights: 0:10.0 (0.50), 0:00.0 (-0.25)\n"
        "  summary: 0:00.0-0:02.0, 1:00.0-61:11.0\n"
        "\n"
        f"Query: {ABSENT}\n"
        "  not there (12 %)\n"
    )


def test_a_query_that_is_there_may_have_no_moments():
    answer = {"query": "a", "moments": [], "highlights": [], "summary": [], "probability": 0.7}
    assert (
        format_answer(answer, 5) == "Query: a\n  probability: 70 %\n  no moments\n  highlights: none\n  summary: none"
    )


def test_nothing_is_cut_for_a_query_that_is_not_there(ground, answers, tmp_path):
    status, _, err = ground("--clips", tmp_path, "--top", 2)
    assert status == 0
    assert err.splitlines() == [
        "r2tuning: nothing is cut for query 2: not there (12 %)",
        f"r2tuning: wrote 2 clips to {tmp_path}",
    ]
    assert all(path.name.startswith("query01_") for path in tmp_path.iterdir())


def test_plot_shows_what_is_not_there(ground, answers, tmp_path):
    pytest.importorskip("matplotlib", reason="the optional matplotlib draws")
    assert ground("--plot", tmp_path / "plot.svg")[0] == 0
    assert "<!-- not there (12 %) -->" in (tmp_path / "plot.svg").read_text()


def test_json_has_probability_and_decision(ground, rated, tmp_path):
    status, out, _ = ground("--json", tmp_path / "out.json", model=rated)
    assert status == 0
    assert "  probability: 88 %\n  rank " in out
    assert out.endswith(f"Query: {ABSENT}\n  not there (12 %)\n")
    present, absent = read_json(tmp_path / "out.json")["answers"]
    assert (present["found"], absent["found"]) == (True, False)
    assert present["probability"] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-3)
    assert absent["probability"] == pytest.approx(1 / (1 + math.exp(2)), abs=1e-3)
    assert len(present["moments"]) > 20
    assert absent["moments"] == absent["highlights"] == absent["summary"] == []
    assert len(absent["saliency"]) == len(absent["frame_times"]) == DURATION_SEC


@pytest.mark.parametrize(("threshold", "num_absent"), [("0.05", 0), ("0", 0), ("none", 0), ("0.95", 2)])
def test_threshold_decides(ground, rated, threshold, num_absent):
    status, out, err = ground("--min-probability", threshold, model=rated)
    assert (status, err) == (0, "")
    assert out.count("\n  not there (") == num_absent
    assert out.count("\n  rank ") == out.count("\n  probability: ") == 2 - num_absent


def test_without_the_head_the_option_is_reported_once(ground):
    logging.warning_once.cache_clear()  # as in a new process
    status, out, err = ground("--min-probability", 0.9)
    assert status == 0
    assert only_line(err).startswith(
        "r2tuning: warning: `--min-probability` has no effect: this model has no existence"
    )
    assert ground()[1:] == (out, "")


@pytest.mark.parametrize("value", ["1.5", "-0.1", "half", "nan"])
def test_other_thresholds_are_refused(ground, value):
    status, _, err = ground("--min-probability", value)
    assert status == 2
    assert f"--min-probability: must be a number from 0 to 1 or none, got '{value}'" in only_line(err)


# ---- explain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("query", "percent"), [(PRESENT, 88), (ABSENT, 12)])
def test_explain_says_the_probability(rated, video, tmp_path, capsys, query, percent):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    assert main(["explain", video, query, "--out", str(tmp_path), "--model", rated]) == 0
    out, err = capsys.readouterr()
    assert only_line(err) == f"r2tuning: the probability that anything in the video matches the query is {percent} %"
    assert len(out.splitlines()) == 3
