"""Moving Shapes: a benchmark of video temporal grounding that is generated from a seed.

    python -m dataset_scripts.moving_shapes OUT --seed 0

Coloured shapes appear and disappear, move, grow, shrink, blink and spin in front of textured, drifting backgrounds. The
folder OUT receives

- `videos/{split}_{number}.mp4`;
- `moving_shapes_{split}.jsonl`: queries with moments and saliency, in the format of QVHighlights, with the family of the
  query as `domain`. The families presence, co-presence, place and size form the main part, motion and order the hard one;
- `moving_shapes_absent_{split}.jsonl`: queries that are true at no time of their video, with "family/kind" as `domain`;
- `moving_shapes_summary_{split}.jsonl`: a title for each video and the importance of its shots, as in TVSum.

The splits are train, val, test, and test_unseen, whose five combinations of colour and shape occur in no other split.

A video depends only on the seed, its split and its number, not on the number of processes or of videos. Annotations are
also independent of the frame size. `scenes.py` draws scenes, `render.py` their pixels, `queries.py` the queries that are
true at some time and `absent.py` the others.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dataset_scripts.files import claiming, remove_leftovers, writing

from .absent import make_absent_queries
from .queries import ObjectFacts, Query, make_queries, observe, rate_importance, rate_saliency
from .render import DEFAULT_SIZE, DEFAULT_TRAIL_SEC, write_video
from .scenes import SPLITS, make_scene, random_stream


NUM_VIDEOS = {"train": 900, "val": 100, "test": 150, "test_unseen": 50}
SIZES = (64, 224)
SETTINGS_FILE = "moving_shapes.json"
VERSION = 1  # incremented when the same seed gives other videos or annotations than before
QUERIES, RATINGS, JUDGEMENTS, ABSENT = 1, 2, 3, 4  # purposes of random streams; the scene's is 0
# Records of a video: present queries, absent queries, and the summary.
VideoRows = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


def generate_moving_shapes(
    folder: str | os.PathLike,
    *,
    seed: int = 0,
    num_videos: Mapping[str, int] = NUM_VIDEOS,
    size: int = DEFAULT_SIZE,
    trail_sec: float = DEFAULT_TRAIL_SEC,
    processes: int = 1,
) -> Path:
    """Write the videos and annotations of the benchmark. Existing videos are kept, so an interrupted run can be resumed.

    Args:
        folder: Folder to write, created if necessary.
        seed: Seed of the benchmark, at least 0.
        num_videos: Number of videos by split; other splits are not written.
        size: Height and width of the videos in pixels, even, from 64 to 224.
        trail_sec: Duration of the trail behind moving objects, which shows their direction in a single frame.
        processes: Number of processes. A script that uses several needs the usual `if __name__ == "__main__":`.

    Returns:
        The folder.

    Raises:
        FileExistsError: Another process is writing to the folder.
        ValueError: An argument is out of range, or the folder holds videos with other settings.
        RuntimeError: A process was killed.
    """
    _check_arguments(seed, num_videos, size, trail_sec, processes)
    folder = Path(folder)
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    settings = {"version": VERSION, "seed": seed, "size": size, "trail_sec": trail_sec}
    jobs: list[tuple[str, int]] = []
    for split in SPLITS:
        jobs += [(split, index) for index in range(num_videos.get(split, 0))]
    work = partial(_make_video, videos, seed, size, trail_sec)
    with claiming(folder), _parallel_map(processes) as parallel_map:
        _check_settings(folder / SETTINGS_FILE, settings)
        remove_leftovers(videos)
        for leftover in videos.glob("*.mp4.*.partial"):  # of earlier versions
            leftover.unlink()
        results = list(tqdm(parallel_map(work, jobs), total=len(jobs), desc="Moving Shapes", unit=" videos"))
        _write_annotations(folder, jobs, results)
    return folder


def _write_annotations(folder: Path, jobs: list[tuple[str, int]], results: list[VideoRows]) -> None:
    rows_of_files: dict[str, list[dict[str, Any]]] = {}
    for (split, _), (rows, absent, summary) in zip(jobs, results, strict=True):
        for kind, lines in (("", rows), ("absent_", absent), ("summary_", [summary])):
            rows_of_files.setdefault(f"moving_shapes_{kind}{split}.jsonl", []).extend(lines)
    for name, lines in rows_of_files.items():
        _write_lines(folder / name, lines)


def annotate_video(seed: int, split: str, index: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The annotations of a video, without its pixels.

    Args:
        seed: Seed of the benchmark.
        split: One of `SPLITS`.
        index: Number of the video in its split.

    Returns:
        A record for each query in the format of QVHighlights, and the record of the video's summary.
    """
    video, facts, queries = observe_video(seed, split, index)
    ratings = random_stream(seed, split, index, RATINGS)
    rows = []
    for number, query in enumerate(queries):
        saliency = rate_saliency(query, facts, ratings)
        units = np.flatnonzero(query.unit_shares())
        rows.append(
            {
                "qid": f"{video['vid']}_{number}",
                "query": query.text,
                **video,
                "relevant_windows": query.fact.moments(),
                "relevant_clip_ids": units.tolist(),
                "saliency_scores": saliency[units].tolist(),
                "domain": query.family,
            }
        )
    title, importance = rate_importance(facts, random_stream(seed, split, index, JUDGEMENTS))
    return rows, {"query": title, **video, "shot_scores": importance.tolist()}


def annotate_absent(seed: int, split: str, index: int) -> list[dict[str, Any]]:
    """The absent queries of a video: a record for each, without moments and saliency.

    Args:
        seed: Seed of the benchmark.
        split: One of `SPLITS`.
        index: Number of the video in its split.
    """
    video, facts, queries = observe_video(seed, split, index)
    random = random_stream(seed, split, index, ABSENT)
    rows = []
    for number, query in enumerate(make_absent_queries(facts, queries, split, random)):
        rows.append(
            {
                "qid": f"{video['vid']}_absent_{number}",
                "query": query.text,
                **video,
                "relevant_windows": [],
                "domain": f"{query.family}/{query.kind}",
            }
        )
    return rows


@lru_cache(maxsize=1)  # a video's present and absent queries follow from the same facts
def observe_video(seed: int, split: str, index: int) -> tuple[dict[str, Any], list[ObjectFacts], list[Query]]:
    """Id and duration of a video, the facts about its objects, and its present queries."""
    scene = make_scene(seed, split, index)
    facts = observe(scene)
    video = {"vid": f"{split}_{index:05d}", "duration": scene.duration_sec}
    return video, facts, make_queries(facts, random_stream(seed, split, index, QUERIES))


def _make_video(videos: Path, seed: int, size: int, trail_sec: float, job: tuple[str, int]) -> VideoRows:
    """Write a video unless it exists, and return its annotations."""
    rows, summary = annotate_video(seed, *job)
    absent = annotate_absent(seed, *job)
    path = videos / f"{summary['vid']}.mp4"
    if not path.exists():
        write_video(make_scene(seed, *job), path, size=size, trail_sec=trail_sec)
    return rows, absent, summary


@contextmanager
def _parallel_map(processes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` over several processes that yields results in order."""
    if processes == 1:
        yield map
        return
    # Spawned, since a fork would copy locks that threads of other libraries hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            yield partial(pool.map, chunksize=4)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A process was killed (often: out of memory). Run the same command with fewer processes to resume."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # otherwise all pending videos would be written first
            raise


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with writing(path) as unfinished:
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Store the settings of a folder's videos, or refuse to mix videos with different settings."""
    if not path.exists():
        _write_lines(path, [settings])
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != settings:
        raise ValueError(
            f"'{path.parent}' holds Moving Shapes with the settings {found}, not {settings}. Choose a new folder, or "
            "remove that one."
        )


def _check_arguments(seed: int, num_videos: Mapping[str, int], size: int, trail_sec: float, processes: int) -> None:
    lowest, highest = SIZES
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}.")
    if not lowest <= size <= highest or size % 2:
        raise ValueError(f"`size` must be even, from {lowest} to {highest}, got {size}.")
    if not 0 <= trail_sec <= 5:
        raise ValueError(f"`trail_sec` must be from 0 to 5, got {trail_sec}.")
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}.")
    for split, number in num_videos.items():
        if split not in SPLITS or number < 0:
            raise ValueError(f"`num_videos` must give a number of at least 0 for some of {SPLITS}, got {num_videos}.")


# ---- command line --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = _make_parser().parse_args(argv)
    try:
        folder = generate_moving_shapes(
            args.output,
            seed=args.seed,
            num_videos={split: getattr(args, _option(split).replace("-", "_")) for split in SPLITS},
            size=args.size,
            trail_sec=args.trail,
            processes=args.processes,
        )
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.stderr.write(f"moving_shapes: error: {error}\n")
        return 2
    sys.stdout.write(f"{folder}\n")
    return 0


def _option(split: str) -> str:
    return f"videos-{split.removeprefix('test_')}"


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_scripts.moving_shapes",
        description="Generate Moving Shapes, a benchmark of video temporal grounding: videos of coloured shapes with "
        "queries, moments, saliency and importance, and queries that nothing in the video matches. After an "
        "interruption, run the command again to continue; it keeps the videos that exist.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same benchmark")
    for split, number in NUM_VIDEOS.items():
        text = (
            "of test_unseen, with combinations that are in no other split" if split == "test_unseen" else f"of {split}"
        )
        parser.add_argument(f"--{_option(split)}", type=int, default=number, metavar="N", help=f"videos {text}")
    parser.add_argument(
        "--size", type=int, default=DEFAULT_SIZE, metavar="PIXELS", help="height and width, {} to {}".format(*SIZES)
    )
    parser.add_argument(
        "--trail",
        type=float,
        default=DEFAULT_TRAIL_SEC,
        metavar="SECONDS",
        help="how long the trail behind a moving shape lasts; with 0 no single frame shows a direction",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="number of processes")
    return parser


__all__ = [
    "NUM_VIDEOS",
    "SETTINGS_FILE",
    "annotate_absent",
    "annotate_video",
    "generate_moving_shapes",
    "observe_video",
]
