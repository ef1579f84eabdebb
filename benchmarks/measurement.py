"""What the benchmark scripts share: timing functions in turn, and reports in JSON that name their command."""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from r2tuning.json_files import write_text


Function = Callable[[], Any]


class Seconds(NamedTuple):
    """Time of a function by the clock on the wall and by the processor."""

    wall: float
    processor: float


def time_in_turn(functions: dict[str, Function], repeats: int) -> dict[str, Seconds]:
    """Median times of each function; its first run is not counted.

    The functions take turns, so that a slow minute of the machine affects them equally.
    """
    times: dict[str, list[Seconds]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            wall, processor = time.perf_counter(), time.process_time()
            function()
            times[name].append(Seconds(time.perf_counter() - wall, time.process_time() - processor))
    medians = {}
    for name, values in times.items():
        walls = [value.wall for value in values[1:]]
        processors = [value.processor for value in values[1:]]
        medians[name] = Seconds(statistics.median(walls), statistics.median(processors))
    return medians


def command_line() -> str:
    """The command that is running, as it is typed."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def format_report(report: dict[str, Any]) -> str:
    """A report as JSON, its command first."""
    return json.dumps({"command": command_line(), **report}, indent=2, ensure_ascii=False) + "\n"


def print_report(report: dict[str, Any], path: Path | None = None) -> None:
    """Print a report and, if there is a path, write it."""
    text = format_report(report)
    sys.stdout.write(text)
    if path is not None:
        write_text(path, text)


__all__ = ["Function", "Seconds", "command_line", "format_report", "print_report", "time_in_turn", "write_text"]
