"""Read the pieces of a source in a thread of its own, while those before them are in use."""

import atexit
import contextvars
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Any, Self, TypeVar

import torch


Piece = TypeVar("Piece")

DEPTH = 2  # pieces that are read in advance: one would not even out pieces that take unequally long
# How long closing waits for the piece that is being read. A source may hang, for example on a network drive.
CLOSING_SEC = 10.0


class ReadAhead(Iterator[Piece]):
    """Iterator over the pieces of a source; a thread reads the next ones while the current one is in use.

    The thread alone uses the source, from `iter(source)` to the end, and closes it if it is a generator. The source sees
    the caller's context variables, gradient and inference mode, autocast, default device and CUDA stream, as they are when
    this object is made. Its errors are raised in the caller, after the pieces before them.

    ```python
    with ReadAhead(pieces) as coming:
        for piece in coming:
            ...
    ```

    At most `DEPTH` pieces exist beside the one in use: 39 MB for 32 frames of 224 x 224 pixels each in float32.

    Where no thread can be started, the caller reads the pieces itself.

    Args:
        source: Yields the pieces.
    """

    def __init__(self, source: Iterable[Piece]):
        self._own: Iterator[Piece] = iter(())  # the pieces that the caller reads itself
        self._channel: _Channel | None = _Channel()
        try:
            self._channel.start(source)
        except RuntimeError:  # the system allows no more threads
            self._channel = None
            self._own = iter(source)

    def __next__(self) -> Piece:
        if self._channel is None:
            return next(self._own)
        kind, value = self._channel.pieces.get()
        self._channel.room.release()
        if kind == "piece":
            return value
        self.close()
        if kind == "end":
            raise StopIteration
        try:
            raise value
        finally:
            del value  # the error's traceback refers to this frame

    def close(self) -> None:
        """Stop reading and close the source. This waits for the piece that is being read, at most `CLOSING_SEC`."""
        self._close(wait=True)

    def _close(self, wait: bool) -> None:
        if self._channel is None:
            _close_generator(self._own)
        else:
            self._channel.stop(CLOSING_SEC if wait else 0.0)
        self._channel, self._own = None, iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Ctrl-C takes effect at once; the thread ends after the piece that it is reading.
        self._close(wait=not isinstance(error, KeyboardInterrupt))

    def __del__(self) -> None:
        if self._channel is not None:
            self._channel.stop(0.0)  # no waiting: this may run in any thread, even in the one to wait for


def reading_ahead(pieces: Any) -> AbstractContextManager[Any]:
    """A `ReadAhead` for pieces that are yet to be made; what is in memory already is passed through.

    Args:
        pieces: An iterable; `None`, a tensor, a list or a tuple is passed through.
    """
    if pieces is None or isinstance(pieces, torch.Tensor | list | tuple):
        return nullcontext(pieces)
    return ReadAhead(pieces)


# ---- the thread ----------------------------------------------------------------------------------------------------


class _Channel:
    """A thread and what it shares with its `ReadAhead`, to which it does not refer, so that the latter can be collected.

    Attributes:
        pieces: Pairs of a kind, "piece", "error" or "end", and the value.
        room: Counts the pieces that may still be read.
    """

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.room = threading.Semaphore(DEPTH)
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def start(self, source: Iterable[Any]) -> None:
        """Start the thread.

        Raises:
            RuntimeError: The system allows no more threads.
        """
        run = contextvars.copy_context().run
        # A daemon, so that a source that hangs cannot keep the interpreter from exiting.
        thread = threading.Thread(
            target=run, args=(self._read, source, _Modes()), name="r2tuning-read-ahead", daemon=True
        )
        atexit.register(self.stop)  # a thread that still computes while the interpreter is torn down could crash it
        try:
            thread.start()
        except RuntimeError:
            atexit.unregister(self.stop)
            raise
        self._thread = thread

    def stop(self, wait_sec: float = CLOSING_SEC) -> None:
        """Tell the thread to end, and wait until it has, at most so many seconds."""
        self._is_stopped = True
        self.room.release()  # the thread may be waiting
        if self._thread is not None and wait_sec > 0:
            self._thread.join(wait_sec)

    def _read(self, source: Iterable[Any], modes: "_Modes") -> None:
        """Body of the thread."""
        try:
            with modes.entered():
                self._put_pieces(iter(source))
            self.pieces.put(("end", None))
        except BaseException as error:  # noqa: BLE001 (raised again in the caller)
            self.pieces.put(("error", error))
        finally:
            atexit.unregister(self.stop)

    def _put_pieces(self, pieces: Iterator[Any]) -> None:
        try:
            while True:
                self.room.acquire()
                if self._is_stopped:
                    return
                try:
                    piece = next(pieces)
                except StopIteration:
                    return
                self.pieces.put(("piece", piece))
                del piece  # only the caller keeps it
        finally:
            _close_generator(pieces)


def _close_generator(pieces: Iterator[Any]) -> None:
    """Close a generator. Other iterators are left alone: an object with a method `close` may be used again."""
    if isinstance(pieces, Generator):
        pieces.close()


class _Modes:
    """The modes of torch that belong to a thread, as they are in the thread that makes this object."""

    def __init__(self) -> None:
        self.is_inference = torch.is_inference_mode_enabled()
        self.has_gradients = torch.is_grad_enabled()
        self.device = torch.get_default_device()
        self.stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        accelerator = torch.accelerator.current_accelerator()
        self.autocasts: list[tuple[str, torch.dtype]] = []
        for kind in {"cpu", "cpu" if accelerator is None else accelerator.type}:
            if torch.is_autocast_enabled(kind):
                self.autocasts.append((kind, torch.get_autocast_dtype(kind)))

    def entered(self) -> ExitStack:
        """A context with these modes, for another thread."""
        stack = ExitStack()
        if self.stream is not None:
            stack.enter_context(torch.cuda.stream(self.stream))
        if self.device.type != "cpu":
            stack.enter_context(self.device)
        for kind, dtype in self.autocasts:
            stack.enter_context(torch.autocast(kind, dtype))
        stack.enter_context(torch.inference_mode(self.is_inference))
        stack.enter_context(torch.set_grad_enabled(self.has_gradients))
        return stack


__all__ = ["DEPTH", "ReadAhead", "reading_ahead"]
