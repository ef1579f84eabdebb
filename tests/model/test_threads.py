"""One model serves several threads, and several models one process: every answer equals that of a single thread."""

import sys
import threading

import pytest
import torch
from model_checks import make_inputs
from test_methods import METHODS, make  # noqa: F401 (a fixture)

from modeling_r2tuning import VideoGroundingPipeline


# Something that a call leaves on the model for the length of a layer is noticed within 6 calls of each thread.
NUM_THREADS = 8
BY_DEFAULT = ("lora", "vop", "e3va")  # peft's layers, layers run by the method, and hooks
ROUNDS = [8, pytest.param(50, marks=pytest.mark.integration)]


@pytest.fixture(autouse=True)
def many_switches():
    """Make threads switch a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(calls, rounds):
    """Make calls in threads; return how many results differ from those of a single thread, and all errors.

    Args:
        calls: Functions without arguments; each thread begins with another one.
        rounds: Number of calls in each thread.
    """
    alone = [call() for call in calls]
    unlike, errors = [], []

    def work(number):
        for turn in range(rounds):
            index = (number + turn) % len(calls)
            try:
                if not same(calls[index](), alone[index]):
                    unlike.append(index)
            except Exception as error:  # noqa: BLE001 (it is what the test reports)
                errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(unlike), errors


def same(got, want):
    if isinstance(want, torch.Tensor):
        return torch.equal(got, want)
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(same(got[key], want[key]) for key in want)
    if isinstance(want, list | tuple):
        return len(got) == len(want) and all(map(same, got, want))
    return got == want


def make_calls(model, halved, seeds=(0, 1)):
    """`forward`, `encode_video` and `ground` on different videos and words."""

    def under_autocast(function):
        def call():
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=halved):
                return function()

        return call

    calls = []
    for seed in seeds:
        torch.manual_seed(seed)
        inputs = make_inputs(model.config, (5,), (4,))
        pixels, ids = inputs["pixel_values_videos"][0] + seed, inputs["input_ids"]
        encoded = under_autocast(lambda pixels=pixels: model.encode_video(pixels, window_sec=6))()
        calls += [
            under_autocast(lambda inputs=inputs: dict(model(**inputs))),
            under_autocast(lambda pixels=pixels: model.encode_video(iter(pixels.split(2)), window_sec=6).video_embeds),
            under_autocast(lambda encoded=encoded, ids=ids: dict(model.ground(encoded, input_ids=ids))),
        ]
    return calls


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("halved", [False, True], ids=["float32", "autocast"])
def test_threads_share_a_model(make_model, halved, rounds):
    assert in_threads(make_calls(make_model(num_recurrent_steps=1), halved), rounds) == (0, [])


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.integration) for name in METHODS]
)
def test_threads_share_a_model_of_any_method(make, method):  # noqa: F811
    model = make(method)
    assert in_threads(make_calls(model, False, (0,)) + make_calls(model, True, (1,)), 6) == (0, [])


@pytest.mark.integration
def test_two_models_work_side_by_side(make_model):
    other = make_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    calls = make_calls(make_model(), True, (0,)) + make_calls(other, True, (0,))
    assert not torch.equal(calls[0]()["logits"], calls[3]()["logits"])
    assert in_threads(calls, 12) == (0, [])


@pytest.mark.parametrize("rounds", ROUNDS)
def test_threads_share_a_pipeline(make_model, processor, rounds):
    text = {**make_model().config.text_config.to_dict(), "vocab_size": 600, "max_position_embeddings": 77}
    model = make_model(text_config=text, num_recurrent_steps=1)
    pipe = VideoGroundingPipeline(model=model, processor=processor)
    videos = torch.randint(256, (2, 2, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    queries = ["a", ["a man opens the door", "x"], "word " * 40, "a longer query about nothing at all"]
    calls = [lambda v=v, q=q: pipe(v.numpy(), query=q) for v, q in zip([*videos, *videos], queries, strict=True)]
    assert in_threads(calls, rounds) == (0, [])
