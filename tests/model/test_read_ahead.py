"""`ReadAhead`: a source is read in a thread, and is otherwise used as if the caller iterated over it."""

import atexit
import contextvars
import os
import threading
import time
import traceback
import weakref
from contextlib import contextmanager

import pytest
import torch
from fresh_python import run_fresh
from video_samples import textured_pictures, write_video

from modeling_r2tuning import read_ahead_r2tuning
from modeling_r2tuning.read_ahead_r2tuning import DEPTH, ReadAhead, reading_ahead


WAIT_SEC = 10.0  # until an event that must come
SETTING = contextvars.ContextVar("SETTING", default="outside")


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + WAIT_SEC
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert set(threading.enumerate()) <= before


class Source:
    """A generator that records what happens to it.

    Args:
        count: Number of pieces.
        error: Raised instead of the piece after them.
        make: Makes a piece from its number; default: the number.
    """

    def __init__(self, count, error=None, make=int):
        self.asked = [threading.Event() for _ in range(count + 1)]
        self.threads = set()
        self.closed_in = None
        self.pieces = self._make(count, error, make)

    def _make(self, count, error, make):
        try:
            for number in range(count):
                self.asked[number].set()
                self.threads.add(threading.current_thread())
                yield make(number)
            self.asked[count].set()
            if error is not None:
                raise error
        finally:
            self.closed_in = threading.current_thread()


def test_pieces_come_in_order():
    source = Source(20)
    assert list(ReadAhead(source.pieces)) == list(range(20))
    assert len(source.threads) == 1
    assert threading.current_thread() not in source.threads


def test_the_next_pieces_are_read_while_one_is_in_use():
    source = Source(9)
    with ReadAhead(source.pieces) as coming:
        for number in coming:
            assert source.asked[min(number + DEPTH, 9)].wait(WAIT_SEC)


def test_no_more_pieces_are_read_than_may_be_kept():
    source = Source(9)
    with ReadAhead(source.pieces) as coming:
        next(coming)
        assert source.asked[DEPTH].wait(WAIT_SEC)
        assert not source.asked[DEPTH + 1].wait(0.05)


def test_the_thread_keeps_no_piece():
    made = []

    def make(number):
        piece = torch.tensor(number)
        made.append(weakref.ref(piece))
        return piece

    for piece in ReadAhead(Source(5, make=make).pieces):
        number = piece.item()
        del piece
        deadline = time.monotonic() + WAIT_SEC
        while made[number]() is not None and time.monotonic() < deadline:  # the thread may be about to forget it
            time.sleep(0.001)
        assert made[number]() is None


def test_an_error_comes_after_the_pieces_before_it_and_shows_where_it_arose():
    coming = ReadAhead(Source(5, ValueError("damaged")).pieces)
    assert [next(coming) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="damaged") as caught:
        next(coming)
    assert "_make" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    with pytest.raises(StopIteration):
        next(coming)


def test_what_cannot_be_iterated_is_refused():
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        list(ReadAhead(3))


@pytest.mark.parametrize("how", ["close", "error", "interrupt", "abandoned"])
def test_a_source_is_closed_in_its_own_thread(how):
    source = Source(9)
    coming = ReadAhead(source.pieces)
    next(coming)
    error = {"error": RuntimeError, "interrupt": KeyboardInterrupt}.get(how)
    if error is not None:
        with pytest.raises(error), coming:
            raise error
    elif how == "close":
        coming.close()
        coming.close()
        assert list(coming) == []
    thread = next(iter(source.threads))
    del coming
    thread.join(WAIT_SEC)
    assert source.closed_in is thread
    assert not source.asked[DEPTH + 2].is_set()


def test_an_iterator_that_is_no_generator_is_left_open():
    class Camera:
        closed = False

        def __iter__(self):
            return self

        def __next__(self):
            return 1

        def close(self):
            self.closed = True

    camera = Camera()
    with ReadAhead(camera) as coming:
        next(coming)
    assert not camera.closed


@pytest.mark.parametrize(("error", "closing_sec"), [(RuntimeError, 0.01), (KeyboardInterrupt, WAIT_SEC)])
def test_a_source_that_hangs_holds_nothing_up(error, closing_sec, monkeypatch):
    """After Ctrl-C nothing is waited for."""
    monkeypatch.setattr(read_ahead_r2tuning, "CLOSING_SEC", closing_sec)
    continues = threading.Event()

    def hang():
        yield 1
        continues.wait(WAIT_SEC)

    coming = ReadAhead(hang())
    next(coming)
    start = time.monotonic()
    with pytest.raises(error), coming:
        raise error
    assert time.monotonic() - start < WAIT_SEC / 2
    continues.set()


def test_nothing_is_left_to_do_at_exit(monkeypatch):
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", registered.remove)
    for _ in range(3):
        list(ReadAhead(Source(2).pieces))
        assert registered == []


EXIT = """
import runpy, sys, time

ReadAhead = runpy.run_path(sys.argv[1])["ReadAhead"]

def count():
    number = 0
    while True:
        yield number
        number += 1

def finish():
    try:
        yield 0
        time.sleep(0.3)
    finally:
        print("closed")

waiting, busy = ReadAhead(count()), ReadAhead(finish())
print(next(waiting), next(busy))
"""


def test_the_interpreter_exits_while_pieces_are_being_read():
    """It waits for the piece that is being read, as a thread that computes must not be torn down."""
    result = run_fresh(["-c", EXIT, read_ahead_r2tuning.__file__], timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "0 0\nclosed\n", "")


def refuse_to_start(self):
    raise RuntimeError("can't start new thread")


def test_without_a_thread_the_caller_reads(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)
    source = Source(5)
    with ReadAhead(source.pieces) as coming:
        assert [next(coming), next(coming)] == [0, 1]
    assert source.threads == {threading.current_thread()}
    assert source.closed_in is threading.current_thread()
    assert list(ReadAhead(Source(3).pieces)) == [0, 1, 2]


# ---- what a thread has for itself ----------------------------------------------------------------------------------


@contextmanager
def context_variable():
    token = SETTING.set("inside")
    yield
    SETTING.reset(token)


def modes():
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    is_inference = torch.is_inference_mode_enabled()
    return SETTING.get(), torch.is_grad_enabled(), is_inference, torch.get_default_device(), autocast


@pytest.mark.parametrize(
    "mode",
    [
        context_variable,
        torch.no_grad,
        torch.enable_grad,
        torch.inference_mode,
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.float16),
    ],
)
def test_the_source_sees_the_modes_of_the_caller(mode):
    with mode():
        want = modes()
        coming = ReadAhead(modes() for _ in range(2))
    assert list(coming) == [want, want]  # those at the start, wherever it is iterated
    assert modes() == ("outside", True, False, torch.device("cpu"), None)


# ---- what is read ahead --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [None, torch.zeros(3), [torch.zeros(3)], (torch.zeros(3),)])
def test_what_is_in_memory_is_not_read_ahead(pieces):
    with reading_ahead(pieces) as same:
        assert same is pieces


@pytest.fixture
def stand_in(tiny_model, monkeypatch):
    """The tiny model without its arithmetic: encoding takes the time that the function `encode` takes."""

    def make(encode):
        shape = (1, 1, 1, 4)

        def read_states(pixels, *args, **kwargs):
            encode()
            return torch.zeros(1, pixels.shape[1], *shape[1:])

        monkeypatch.setattr(tiny_model, "get_video_hidden_states", read_states)
        monkeypatch.setattr(tiny_model, "_begin_projection", lambda states: states)
        monkeypatch.setattr(tiny_model, "_project_window", lambda begun, dtype: torch.zeros(1, len(begun), 1, 4))
        return tiny_model

    return make


def pixels_of(number):
    return torch.zeros(1, 3, 2, 2)


def test_a_video_is_decoded_while_it_is_encoded(stand_in):
    source, encoded = Source(6, make=pixels_of), []

    def encode():
        assert source.asked[min(len(encoded) + 1, 6)].wait(WAIT_SEC)  # for the next piece
        encoded.append(True)

    assert stand_in(encode).encode_video(source.pieces).num_frames == len(encoded) == 6


def test_decoding_beside_a_slower_encoder_costs_little_time(stand_in):
    """At most a tenth of the encoder's time, when the encoder leaves the CPU alone. Here both sleep."""
    seconds = {"decode": 0.0, "encode": 0.0}

    def sleep(name, duration):
        start = time.perf_counter()
        time.sleep(duration)
        seconds[name] += time.perf_counter() - start

    def decode():
        for _ in range(15):
            sleep("decode", 0.006)
            yield pixels_of(0)

    model = stand_in(lambda: sleep("encode", 0.012))
    start = time.perf_counter()
    model.encode_video(decode())
    whole = time.perf_counter() - start
    assert whole < 1.1 * seconds["encode"] + 0.05  # for the threads of a loaded machine to be scheduled
    assert whole < seconds["decode"] + seconds["encode"]


def fail(*args):
    raise RuntimeError("out of memory")


def test_an_encoder_that_fails_closes_the_video(stand_in):
    source = Source(9, make=pixels_of)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        stand_in(fail).encode_video(source.pieces)
    assert source.closed_in in source.threads
    assert caught.traceback  # which refers to the suspended windows


ENCODE = {
    "windows": lambda model, pieces: model.encode_video(pieces, window_sec=6),
    "compact": lambda model, pieces: model.encode_video(pieces, window_sec=6, compact=True),
    "grounded at once": lambda model, pieces: model.encode_and_ground(
        pieces, input_ids=torch.ones(1, 4, dtype=torch.long), window_sec=6
    ),
}


@pytest.mark.parametrize("encode", ENCODE.values(), ids=ENCODE)
def test_a_projection_that_fails_closes_the_video(stand_in, monkeypatch, encode):
    source, model = Source(50, make=pixels_of), stand_in(lambda: None)
    monkeypatch.setattr(model, "_project_window", fail)
    monkeypatch.setattr(model, "_begin_projection", fail)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        encode(model, source.pieces)
    assert source.closed_in in source.threads
    assert not source.asked[50].is_set()
    assert caught.traceback


def open_files(folder):
    paths = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return [path for path in paths if path.startswith(str(folder))]


def test_the_file_of_a_video_is_closed(processor, tmp_path):
    write_video(tmp_path / "video.mp4", textured_pictures(40))
    stream = processor.stream_video(tmp_path / "video.mp4", fps=10.0, chunk_size=4)
    coming = reading_ahead(stream)
    next(coming)
    assert open_files(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"), coming:
        fail()
    assert open_files(tmp_path) == []


def test_both_inputs_are_refused_before_any_piece_is_read(tiny_model):
    source = Source(3)
    with pytest.raises(ValueError, match="got both or none"):
        tiny_model.encode_video(source.pieces, video_hidden_states=torch.zeros(1))
    assert not source.asked[0].is_set()
