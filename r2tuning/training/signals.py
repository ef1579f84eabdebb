"""Stopping a run by SIGTERM or Ctrl-C after it has finished its step and saved a checkpoint."""

import signal
from types import FrameType
from typing import Any


class Interrupted(Exception):  # noqa: N818 (no error: the run was asked to stop, and did)
    """A signal stopped the run after it had saved a checkpoint.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.number = number


class StopSignals:
    """Context that records SIGTERM and SIGINT instead of ending the process; a second signal has its usual effect.

    Attributes:
        number: The signal that arrived, `None` before any did.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._handlers[number])


__all__ = ["Interrupted", "StopSignals"]
