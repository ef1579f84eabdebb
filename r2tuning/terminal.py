"""What all commands share at the terminal: one line for each message and error, quiet libraries, progress."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import torch
from huggingface_hub import utils as hub_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from r2tuning_cli.spelling import spell_options


ERROR_STATUS, INTERRUPTED_STATUS = 2, 130
OWN_PACKAGES = ("r2tuning", "modeling_r2tuning", "dataset_scripts")
# What the user can correct, for every command; any other error is a bug, so its traceback is shown.
USER_ERRORS: tuple[type[BaseException], ...] = (
    ImportError,
    OSError,
    SafetensorError,
    StrictDataclassError,
    ValueError,
    torch.cuda.OutOfMemoryError,
)


def report(
    work: Callable[[], int],
    prefix: str,
    names: Mapping[str, str],
    more_user_errors: tuple[type[BaseException], ...] = (),
) -> int:
    """Run a command with quiet libraries; an error that the user can correct becomes one line.

    Args:
        work: Does the work and returns the exit status.
        prefix: Start of each message: the name of the command or script.
        names: Options of the command by the names in the library's messages.
        more_user_errors: What the user can correct besides `USER_ERRORS`.

    Returns:
        Exit status: that of `work`, 2 after an error, 130 after Ctrl-C.
    """
    try:
        with own_messages(prefix, names), quiet_libraries():
            return work()
    except KeyboardInterrupt as interrupt:
        advice = f"; {interrupt}" if interrupt.args else ""
        write_line(sys.stderr, f"{prefix}: interrupted{advice}")
        return INTERRUPTED_STATUS
    except (*USER_ERRORS, *more_user_errors) as error:
        write_line(sys.stderr, f"{prefix}: error: {spell_options(error, names) or type(error).__name__}")
        return ERROR_STATUS


def write_line(stream: TextIO, text: str) -> None:
    """Write a line; characters that the stream's encoding lacks are replaced."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()


def is_first_process() -> bool:
    """Whether this is the one process that reports, of all that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


# ---- messages ------------------------------------------------------------------------------------------------------


class _LineHandler(logging.Handler):
    """Writes each message as a line to stderr, above a progress bar if there is one; repeated warnings only once."""

    def __init__(self, prefix: str, names: Mapping[str, str]):
        super().__init__()
        self.prefix, self.names = prefix, names
        self.seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message."""
        label = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{self.prefix}: {label}{spell_options(record.getMessage(), self.names)}"
        if record.levelno > logging.INFO and line in self.seen:
            return
        self.seen.add(line)
        tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def own_messages(prefix: str, names: Mapping[str, str]) -> Iterator[None]:
    """Show our own messages: "info" and above from the first of several processes, from the others only errors."""
    loggers = [logging.getLogger(name) for name in OWN_PACKAGES]
    levels = [logger.level for logger in loggers]
    handler = _LineHandler(prefix, names)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show only errors of the libraries and, on a terminal, the progress of downloads."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    hub_had_bars = not hub_utils.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        silence_transformers()
        _set_download_bars(hub_had_bars and is_first_process() and sys.stderr.isatty())
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            if had_bars:
                transformers_logging.enable_progress_bar()
            _set_download_bars(hub_had_bars)


def silence_transformers() -> None:
    """Show only errors of transformers and no progress bars, permanently; for a worker process."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # this also switches off those of downloads


def _set_download_bars(shown: bool) -> None:
    if shown:
        hub_utils.enable_progress_bars()
    else:
        hub_utils.disable_progress_bars()


@contextlib.contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function of the work done and the total, which moves a bar; the bar is shown on a terminal only."""
    with tqdm(desc=label, unit=unit, leave=False, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def update(done: int, total: int) -> None:
            bar.total = max(total, done)
            bar.update(done - bar.n)

        yield update


def long_progress_bar(label: str, unit: str, total: int, done: int = 0, *, is_shown: bool = True) -> tqdm:
    """A bar for work that may take hours; in a log file it is a line every 30 seconds."""
    return tqdm(
        desc=label,
        total=total,
        initial=done,
        unit=f" {unit}",
        disable=not is_shown,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 30.0,
        smoothing=0.05,
    )


__all__ = [
    "is_first_process",
    "long_progress_bar",
    "own_messages",
    "progress_bar",
    "quiet_libraries",
    "report",
    "silence_transformers",
    "write_line",
]
