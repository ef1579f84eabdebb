"""Size, build time, memory and query time of a library's tables, and recall of their index.

python -m benchmarks.library --output benchmarks/results/library.json [--hours 100 1000 10000]

A synthetic library of one-hour videos, sampled at 0.5 frames a second. Vectors resemble those of CLIP: all share a
direction, a video has scenes of 10 to 80 seconds, a scene has one of 2,000 topics, and frames of a scene differ little.
A query is the part of a frame that is particular to it, and a direction that all texts share. Building and searching
are measured in processes of their own, which hold torch and this package, but no model. Memory is the peak of a process
above what it held after its imports; the operating system's cache of files is not counted.
"""

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measurement import print_report
from benchmarks.memory import read_peak, start_peak
from r2tuning.library import upkeep
from r2tuning.library.tables import FrameHits, LibraryTables, VideoRecord


DIM, FPS, WINDOW = 256, 0.5, 75  # numbers of a vector, frames a second, frames of a window
HOUR = round(3600 * FPS)  # frames
TOPICS = 2000
LIMIT = 1200  # frames that a search with the default number of windows asks for
CPU = torch.device("cpu")


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Random directions, float32 of shape `(*shape, DIM)`."""
    return normalise(generator.standard_normal((*shape, DIM), dtype=np.float32))


SHARED = draw(np.random.default_rng(0))
SHARED_BY_TEXTS = draw(np.random.default_rng(1))
TOPIC_VECTORS = draw(np.random.default_rng(2), TOPICS)


def make_video(number: int) -> np.ndarray:
    """Vectors of a video, float16 of shape `(HOUR, DIM)`."""
    generator = np.random.default_rng([3, number])
    lengths = generator.integers(5, 41, HOUR // 5)  # frames of a scene
    scene = np.repeat(np.arange(len(lengths)), lengths)[:HOUR]
    topics = TOPIC_VECTORS[generator.integers(0, TOPICS, len(lengths))]
    scenes = 0.6 * topics + 0.5 * draw(generator, len(lengths))
    return normalise(SHARED + scenes[scene] + 0.3 * draw(generator, HOUR)).astype(np.float16)


def make_queries(hours: int, count: int) -> np.ndarray:
    """Queries, float32 of shape `(count, DIM)`, each for a frame of a random video."""
    generator = np.random.default_rng(4)
    queries = []
    for _ in range(count):
        frame = make_video(int(generator.integers(hours)))[generator.integers(HOUR)].astype(np.float32)
        particular = frame - (frame @ SHARED) * SHARED
        queries.append(normalise(normalise(particular) + 1.5 * SHARED_BY_TEXTS))
    return np.stack(queries)


def make_record(number: int) -> VideoRecord:
    """Record of a synthetic video."""
    return VideoRecord(
        id=f"{number:016x}",
        path=f"/videos/{number}.mp4",
        digest=f"{number:064x}",
        size_bytes=0,
        modified_ns=0,
        duration_sec=3600.0,
        fps=FPS,
        num_frames=HOUR,
        entry=number + 1,
        added=datetime.now(UTC),
    )


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float, float]:
    """Result of a call, its seconds on the wall, and its seconds of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function(*args)
    return result, time.perf_counter() - wall, time.process_time() - processor


def build(folder: Path, hours: int) -> dict[str, float]:
    """Add all videos and optimize, without an index."""
    upkeep.INDEX_FROM_ROWS = HOUR * hours + 1
    tables = LibraryTables.create(folder, DIM)
    windows = np.arange(HOUR, dtype=np.int32) // WINDOW
    before = start_peak(CPU)
    adding = 0.0
    for number in range(hours):
        vectors = make_video(number)
        adding += timed(tables.add, make_record(number), windows, vectors)[1]
    peak = read_peak(CPU)
    unmerged = tables.statistics().size_bytes
    optimizing = timed(tables.optimize)[1]
    return {
        "add, seconds per video": adding / hours,
        "add, MB above start": (peak - before) / 1e6,
        "MB per hour before optimize": unmerged / hours / 1e6,
        "optimize, seconds": optimizing,
        "optimize, MB above start": (read_peak(CPU) - before) / 1e6,
        "MB per hour": tables.statistics().size_bytes / hours / 1e6,
    }


def build_index(folder: Path, hours: int) -> dict[str, float]:
    """Train the index."""
    upkeep.INDEX_FROM_ROWS = 0
    tables = LibraryTables.open(folder)
    size = tables.statistics().size_bytes
    before = start_peak(CPU)
    _, wall, processor = timed(tables.optimize)
    return {
        "training, seconds": wall,
        "training, seconds of the processor": processor,
        "training, MB above start": (read_peak(CPU) - before) / 1e6,
        "index, MB per hour": (tables.statistics().size_bytes - size) / hours / 1e6,
    }


def search(folder: Path, hours: int, count: int, exact: bool) -> tuple[dict[str, float], list[FrameHits]]:
    """Time queries, in the first of which all is cold but the system's cache of files."""
    queries = make_queries(hours, count)
    before = start_peak(CPU)
    tables = LibraryTables.open(folder)
    walls, processors, hits = [], [], []
    for query in queries:
        found, wall, processor = timed(lambda query=query: tables.search(query[None], LIMIT, exact=exact))
        walls.append(wall)
        processors.append(processor)
        hits += found
    kind = "exact" if exact else "index"
    times = {
        f"{kind}, seconds of the first query": walls[0],
        f"{kind}, seconds of a query": statistics.median(walls),
        f"{kind}, seconds of the fastest": min(walls),
        f"{kind}, seconds of the slowest": max(walls[1:]),
        f"{kind}, seconds of the processor": statistics.median(processors),
        f"{kind}, MB of a searching process above start": (read_peak(CPU) - before) / 1e6,
    }
    return times, hits


def recall(exact: list[FrameHits], found: list[FrameHits], count: int) -> float:
    """Part of the best frames that the index finds among as many, mean of the queries."""
    parts = []
    for wanted, hits in zip(exact, found, strict=True):
        best = set(zip(wanted.entry[:count].tolist(), wanted.frame[:count].tolist(), strict=True))
        given = set(zip(hits.entry[:count].tolist(), hits.frame[:count].tolist(), strict=True))
        parts.append(len(best & given) / len(best))
    return statistics.mean(parts)


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def measure(folder: Path, hours: int, count: int) -> dict[str, float]:
    """All figures of a library of some hours."""
    report = {"frames": HOUR * hours, **in_process(build, folder, hours)}
    times, exact = in_process(search, folder, hours, count, True)
    report |= times | in_process(build_index, folder, hours)
    times, found = in_process(search, folder, hours, count, False)
    recalls = {f"recall of the best {limit}": recall(exact, found, limit) for limit in (10, 100, LIMIT)}
    return report | times | recalls


def main() -> None:
    """Measure every size and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--queries", type=int, default=20, help="number of queries")
    parser.add_argument("--folder", type=Path, help="where the tables are made for a while (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="JSON file for the report")
    args = parser.parse_args()
    report = {}
    for hours in args.hours:
        scratch = Path(tempfile.mkdtemp(dir=args.folder))
        try:
            report[f"{hours} hours"] = measure(scratch / "tables", hours, args.queries)
        finally:
            shutil.rmtree(scratch)
        print_report(report, args.output)


if __name__ == "__main__":
    main()
