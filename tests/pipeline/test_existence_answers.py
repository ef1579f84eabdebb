"""Answers of the pipeline with an existence head: the probability, and "not there"."""

import json
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
import torch
from random_checkpoint import byte_tokenizer, random_model, random_processor
from transformers import pipeline
from transformers.utils import logging

from dataset_scripts.features import FEATURES
from modeling_r2tuning import VideoGroundingPipeline


QUERIES = ["a red circle", "x", "a much longer query about nothing at all"]
NOTHING = {"moments": [], "highlights": [], "summary": []}
WARNING = "this model has no existence head"


@pytest.fixture(scope="module")
def sample(checkpoint):
    return str(checkpoint / "sample.mp4")


@pytest.fixture(scope="module")
def grounder(sample):
    """A random model with an existence head, calibrated so that the probabilities lie around 0.5."""
    tokenizer = byte_tokenizer()
    processor = random_processor(tokenizer)
    made = VideoGroundingPipeline(model=random_model(tokenizer, use_existence_head=True), processor=processor)
    probabilities = [answer["probability"] for answer in made(sample, query=QUERIES)]
    lowest, middle, highest = sorted(torch.tensor(probabilities, dtype=torch.float64).logit().tolist())
    processor.existence_scale = 4 / (highest - lowest)
    processor.existence_bias = -processor.existence_scale * middle
    return made


@pytest.fixture(scope="module")
def undecided(grounder, sample):
    """Answers with probabilities alone."""
    return grounder(sample, query=QUERIES, min_probability=None)


@pytest.fixture(scope="module")
def threshold(undecided):
    """A threshold between the lowest and the second lowest probability, which is 0.5."""
    lowest, second, _ = sorted(answer["probability"] for answer in undecided)
    assert lowest < 0.4 < second == pytest.approx(0.5)
    return 0.45


def decide(answer, threshold):
    """The answer that the threshold makes of one without a decision."""
    if answer["probability"] >= threshold:
        return {**answer, "found": True}
    return {**answer, "found": False, **NOTHING}


def approximately(answer):
    """An answer, to be compared with one that was computed in another batch."""
    near = {**answer, "probability": pytest.approx(answer["probability"], abs=1e-4)}
    near["saliency"] = pytest.approx(answer["saliency"], abs=1e-5)
    for name in ("moments", "highlights"):
        near[name] = [pytest.approx(each, abs=1e-3) for each in answer[name]]
    return near


def test_queries_below_the_threshold_are_not_there(grounder, sample, undecided, threshold):
    answers = grounder(sample, query=QUERIES, min_probability=threshold)
    assert answers == [decide(answer, threshold) for answer in undecided]
    assert sorted(answer["found"] for answer in answers) == [False, True, True]
    assert all(answer["moments"] and "found" not in answer for answer in undecided)


def test_each_query_has_the_probability_that_it_has_alone(grounder, sample, undecided, threshold):
    for query, answer in zip(QUERIES, undecided, strict=True):
        alone = grounder(sample, query=query, min_probability=threshold)
        assert alone == approximately(decide(answer, threshold))


@pytest.mark.parametrize(("shift", "num_found"), [(1e-3, 2), (-1e-3, 1)])
def test_default_threshold_is_one_half(grounder, sample, monkeypatch, shift, num_found):
    monkeypatch.setattr(grounder.processor, "existence_bias", grounder.processor.existence_bias + shift)
    assert sum(answer["found"] for answer in grounder(sample, query=QUERIES)) == num_found


def test_zero_lets_every_query_keep_its_moments(grounder, sample, undecided):
    assert grounder(sample, query=QUERIES, min_probability=0) == [{**answer, "found": True} for answer in undecided]
    json.dumps(grounder(sample, query=QUERIES, min_probability=np.float32(0)))


def test_threshold_of_the_constructor(grounder, sample, undecided, threshold):
    made = VideoGroundingPipeline(model=grounder.model, processor=grounder.processor, min_probability=threshold)
    assert made(sample, query=QUERIES) == [decide(answer, threshold) for answer in undecided]
    assert made(sample, query=QUERIES, min_probability=None) == undecided


def test_rows_of_a_dataset(grounder, sample, undecided, threshold):
    row = {"qid": "1", "video_id": "a", "video": sample, "duration_sec": 20.0, "moments": []}
    row |= {"saliency": None, "domain": None, "task": ["moment_retrieval"]}
    rows = datasets.Dataset.from_list([{**row, "query": query} for query in QUERIES], features=FEATURES)
    for answer, got in zip(undecided, grounder(rows, min_probability=threshold), strict=True):
        assert got == approximately(decide(answer, threshold))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batch_size_changes_nothing(grounder, sample, undecided, threshold, batch_size):
    answers = grounder(sample, query=QUERIES, min_probability=threshold, batch_size=batch_size)
    assert answers == [approximately(decide(answer, threshold)) for answer in undecided]


def test_a_long_video_has_one_probability_for_each_query(grounder, sample):
    """That of its most probable window."""
    stream = grounder.processor.stream_video(sample)
    encoded = grounder.model.encode_video(stream, fps=stream.fps, duration_sec=stream.duration_sec, window_sec=5)
    outputs = grounder.model.ground(encoded, **grounder.processor(text=QUERIES))
    num_windows = len(encoded.window_starts)
    assert num_windows > 2
    highest = outputs.existence_logits.view(len(QUERIES), num_windows).amax(dim=1)
    scale, bias = grounder.processor.existence_scale, grounder.processor.existence_bias
    want = (scale * highest.double() + bias).sigmoid().tolist()
    lowest, second, _ = sorted(want)
    answers = grounder(sample, query=QUERIES, window_sec=5, min_probability=(lowest + second) / 2)
    assert [answer["probability"] for answer in answers] == pytest.approx(want, abs=1e-6)
    assert [answer["found"] for answer in answers] == [probability > lowest for probability in want]
    for answer in answers:
        assert bool(answer["moments"]) == answer["found"]
        assert len(answer["saliency"]) == 20


def test_threads_share_a_pipeline(grounder, sample, undecided, threshold):
    """Each call has a threshold of its own."""
    thresholds = [None, threshold, 0.0, 1.0] * 4
    want = {None: undecided}
    for each in thresholds[1:4]:
        want[each] = [decide(answer, each) for answer in undecided]
    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = list(pool.map(lambda each: grounder(sample, query=QUERIES, min_probability=each), thresholds))
    assert answers == [want[each] for each in thresholds]


def test_saved_pipeline_keeps_its_calibration(grounder, sample, undecided, tmp_path):
    grounder.save_pretrained(tmp_path)
    again = pipeline("video-grounding", model=str(tmp_path))
    assert again(sample, query=QUERIES, min_probability=None) == undecided


def test_a_model_without_the_head_warns_once_and_answers_as_before(checkpoint, sample, caplog):
    logging.warning_once.cache_clear()  # as in a new process
    made = pipeline("video-grounding", model=str(checkpoint))
    want = made(sample, query=QUERIES)
    assert all("probability" not in answer and "found" not in answer for answer in want)
    for off in (None, 0):
        assert made(sample, query=QUERIES, min_probability=off) == want
    assert WARNING not in caplog.text
    for threshold in (0.5, 1.0):
        assert made(sample, query=QUERIES, min_probability=threshold) == want
    assert caplog.text.count(WARNING) == 1
