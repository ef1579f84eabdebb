"""What the benchmark scripts share: timing functions in turn, and reports in JSON that name their command."""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

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


PRODUCT_SIZE = 2048


def measure_against_floor(functions: dict[str, Function], gigaflop: float, repeats: int) -> dict[str, float]:
    """Seconds of functions by the clock on the wall, beside the least that their matrix products can take.

    Args:
        functions: Functions that compute the same; the last one is compared with the floor.
        gigaflop: Operations of its matrix products in billions, from `count_gigaflop`.
        repeats: Timed repetitions.
    """
    square = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE)
    times = time_in_turn({**functions, "product": lambda: square @ square}, repeats)
    seconds = {name: value.wall for name, value in times.items()}
    rate = 2 * PRODUCT_SIZE**3 / 1e9 / seconds.pop("product")
    first, *_, last = seconds
    row = {f"{name}, seconds": value for name, value in seconds.items()}
    if len(seconds) > 1:
        row[f"{first} / {last}"] = seconds[first] / seconds[last]
    floor = gigaflop / rate
    return {
        **row,
        "GFLOP": gigaflop,
        "GFLOP per second": rate,
        "floor, seconds": floor,
        f"{last} / floor": seconds[last] / floor,
    }


def count_gigaflop(function: Function) -> float:
    """Operations of the matrix products and attention of a call, in billions."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        function()
    return counter.get_total_flops() / 1e9


def _count_attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _count_attention_backward(gradient: torch.Size, *states: Any, **_: Any) -> int:
    return sdpa_backward_flop_count(gradient, *states[:3])


# The counter of torch 2.13 leaves out attention on CPUs.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _count_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _count_attention_backward,
}


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


__all__ = [
    "Function",
    "Seconds",
    "command_line",
    "count_gigaflop",
    "format_report",
    "measure_against_floor",
    "print_report",
    "time_in_turn",
    "write_text",
]
