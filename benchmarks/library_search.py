"""How well a library is searched: Moving Shapes test and test_unseen, 200 videos, as one corpus.

python -m benchmarks.library_search DATA [--model CHECKPOINT] [--queries 200]

DATA is the folder of Moving Shapes with its videos. A query that names a colour and a shape is true in several videos, so it
counts as answered if any of the moments at which it is true, in any video, is among the first k (IoU of at least 0.7 or 0.5).
The library keeps encoded copies. Compared are

- two stages: the best 5, 10, 20 and 30 windows are grounded;
- every window is grounded, with the library's scores, with the model's scores as they are, and with their product with the
  probability;
- the first stage alone: fixed windows of 8 s without overlap, ranked by the mean of their four best frames;
- a random video and place, with a length drawn from the true ones; and a random video with the most frequent true place.

Times are seconds of a query in this process. `--vectors block` uses the vectors of the R2 block where the backbone's are to
be had.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measurement import print_report
from dataset_scripts.moving_shapes.generate import observe_video
from dataset_scripts.moving_shapes.queries import Fact, ObjectFacts, Query, find_clauses, single_facts
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.checks import locate_model
from r2tuning.library import Library, Moment
from r2tuning.library.moments import WindowReader
from r2tuning.library.vectors import query_vectors


SPLITS = {"test": 150, "test_unseen": 50}
RANKS, THRESHOLDS = (1, 5, 10), (0.5, 0.7)
NUM_WINDOWS = (5, 10, 20, 30)
FIXED_SEC = 8.0
EVERY = 10**6

Span = tuple[float, float]
Truth = dict[str, list[Span]]  # moments by name of the video


def true_moments(query: Query, asked: list[ObjectFacts], corpus: dict[str, list[ObjectFacts]]) -> Truth:
    """All moments of the corpus at which a query of one of its videos is true.

    Args:
        query: The query.
        asked: The objects of the video that it was made for.
        corpus: The objects of every video.
    """
    names = [asked[number].name for number in query.objects]
    truth = {}
    for video, objects in corpus.items():
        facts = list(_find_facts(query, names, objects))
        if query.clause is not None:
            limit = asked[query.clause.number].name, query.clause.order, query.clause.change
            facts = [fact for main in facts for fact in _limit(main, limit, objects)]
        moments = [moment for fact in facts for moment in fact.moments()]
        if moments:
            truth[video] = moments
    return truth


def _find_facts(query: Query, names: list[str], objects: list[ObjectFacts]) -> Any:
    """When the main sentence is true, for each object, or pair of objects, of these names."""
    if len(names) == 2:
        for first in objects:
            for second in objects:
                if first is not second and [first.name, second.name] == names:
                    yield first.visible & second.visible
        return
    family = query.family
    if family == "order":
        family = "motion" if query.detail else "presence"
    for item in objects:
        for kind, detail, fact in single_facts(item):
            if (item.name, kind, detail) == (names[0], family, query.detail):
                yield fact


def _limit(main: Fact, limit: tuple[str, str, str], objects: list[ObjectFacts]) -> Any:
    """A fact limited by each clause that says the same as the query's."""
    for clause in find_clauses(objects):
        if (objects[clause.number].name, clause.order, clause.change) == limit:
            inside = clause.covers(len(main.true))
            yield Fact(main.true & inside, main.uncertain & inside)


# ---- answers -------------------------------------------------------------------------------------------------------


def as_they_are(moment: Moment, best: float) -> float:
    """The model's own score: a moment's score is the probability, times its share of the best score of its video."""
    return moment.score / (moment.probability or 1.0) * best


def rescore(moments: list[Moment], best: dict[str, float], score: Callable[[Moment, float], float]) -> list[Moment]:
    """The same moments in another order."""
    return sorted(moments, key=lambda moment: -score(moment, best[moment.path]))


def search_frames(library: Library, query: str) -> list[Moment]:
    """The first stage alone, in fixed windows."""
    tokens = library.processor(text=[query])
    if library.projection is None:
        vector = query_vectors(library.model, library.model.encode_text(**tokens))
    else:
        vector = library.projection.queries(**tokens)
    records = {record.entry: record for record in library.videos()}
    hits = library.tables.search(vector.numpy(), sum(record.num_frames for record in records.values()))[0]
    size = round(FIXED_SEC * library.settings.fps)
    found: dict[tuple[int, int], list[float]] = {}
    for entry, frame, similarity in zip(
        hits.entry.tolist(), hits.frame.tolist(), hits.similarity.tolist(), strict=True
    ):
        found.setdefault((entry, frame // size), []).append(similarity)
    moments = []
    for (entry, window), similarities in found.items():
        record = records[entry]
        end = min((window + 1) * FIXED_SEC, record.duration_sec)
        moments.append(Moment(record.path, window * FIXED_SEC, end, float(np.mean(similarities[:4]))))
    return sorted(moments, key=lambda moment: -moment.score)


def guess(
    durations: dict[str, float], places: np.ndarray, random: np.random.Generator, most_frequent: bool
) -> list[Moment]:
    """Moments in random videos.

    Args:
        durations: Length of each video, by path.
        places: `(num_moments, 2)`, start and length of true moments as shares of the video's length.
        random: Random numbers.
        most_frequent: Take the median place, instead of a random start and a true length.
    """
    moments = []
    for path in random.choice(list(durations), 10, replace=False):
        start, length = np.median(places, axis=0)
        if not most_frequent:
            length = random.choice(places[:, 1])
            start = random.uniform(0, 1 - length)
        moments.append(Moment(path, start * durations[path], (start + length) * durations[path], 0.0))
    return moments


# ---- scores --------------------------------------------------------------------------------------------------------


def recall(answers: Sequence[list[Moment]], truths: Sequence[Truth]) -> dict[str, float]:
    """Share of the queries, in percent, with a true moment among the first k."""
    scores = {}
    for threshold in THRESHOLDS:
        first = []
        for moments, truth in zip(answers, truths, strict=True):
            hits = [_best_iou(moment, truth) >= threshold for moment in moments[: max(RANKS)]]
            first.append(hits.index(True) if True in hits else max(RANKS))
        for rank in RANKS:
            scores[f"R@{rank} at {threshold}"] = round(100 * float(np.mean([place < rank for place in first])), 1)
    return scores


def _best_iou(moment: Moment, truth: Truth) -> float:
    best = 0.0
    for start, end in truth.get(Path(moment.path).stem, []):
        overlap = max(min(moment.end, end) - max(moment.start, start), 0.0)
        union = max(moment.end, end) - min(moment.start, start)
        best = max(best, overlap / union if union > 0 else 0.0)
    return best


def measure(library: Library, queries: list[str], truths: list[Truth], seed: int) -> dict[str, Any]:
    """Answer all queries in every way."""
    report: dict[str, Any] = {}
    seconds, answers = {}, {}
    for count in (*NUM_WINDOWS, EVERY):
        library.search(queries[0], num_windows=count)  # once unmeasured
        started = time.perf_counter()
        answers[count] = [answer.moments for answer in library.search(queries, top=EVERY, num_windows=count)]
        seconds[count] = (time.perf_counter() - started) / len(queries)
    every = answers.pop(EVERY)
    whole = recall(every, truths)
    for count, found in answers.items():
        scores = recall(found, truths)
        share = round(100 * scores["R@10 at 0.7"] / whole["R@10 at 0.7"], 1)
        times = round(seconds[count] / seconds[EVERY], 3)
        report[f"{count} windows"] = {
            **scores,
            "seconds": round(seconds[count], 4),
            "share of R@10 at 0.7": share,
            "share of time": times,
        }
    report["every window"] = {**whole, "seconds": round(seconds[EVERY], 4)}
    plain = _other_scores(library, queries, every)
    report["every window, scores as they are"] = recall(plain["as they are"], truths)
    report["every window, scores times probability"] = recall(plain["times probability"], truths)
    started = time.perf_counter()
    report["first stage alone"] = recall([search_frames(library, query) for query in queries], truths)
    report["first stage alone"]["seconds"] = round((time.perf_counter() - started) / len(queries), 4)
    durations = {record.path: record.duration_sec for record in library.videos()}
    lengths = {Path(path).stem: duration for path, duration in durations.items()}
    places = []
    for truth in truths:
        for video, spans in truth.items():
            places += [(start / lengths[video], (end - start) / lengths[video]) for start, end in spans]
    random = np.random.default_rng(seed)
    for name, frequent in (("random", False), ("position prior", True)):
        guesses = [guess(durations, np.array(places), random, frequent) for _ in queries]
        report[name] = recall(guesses, truths)
    return report


def _other_scores(library: Library, queries: list[str], every: list[list[Moment]]) -> dict[str, list[list[Moment]]]:
    """The moments of every window, ranked by the model's own scores, and by these times the probability."""
    ranked: dict[str, list[list[Moment]]] = {"as they are": [], "times probability": []}
    for query, moments in zip(queries, every, strict=True):
        best = best_scores(library, query)
        ranked["as they are"].append(rescore(moments, best, as_they_are))
        ranked["times probability"].append(rescore(moments, best, lambda moment, score: moment.score * score))
    return ranked


def best_scores(library: Library, query: str) -> dict[str, float]:
    """The model's highest score in each video, by path."""
    reader = WindowReader(library.folder, library.settings, library.model, library.processor)
    records = {record.entry: record for record in library.videos()}
    wanted = {entry: [0] for entry in records}
    videos = reader.read(wanted, records)
    outputs = library.model.ground(videos, **library.processor(text=[query]))
    best = {}
    for entry, output in zip(wanted, outputs, strict=True):
        (answer,) = library.processor.post_process_video_grounding(output)
        best[records[entry].path] = answer["moments"][0]["score"]
    return best


def main() -> None:
    """Index the corpus, answer the queries, print."""
    args = make_parser().parse_args()
    observed = {}
    for split, count in SPLITS.items():
        for index in range(count):
            video, facts, queries = observe_video(0, split, index)
            observed[video["vid"]] = (facts, queries)
    corpus = {video: facts for video, (facts, _) in observed.items()}
    asked = [(video, query) for video, (_, queries) in observed.items() for query in queries]
    chosen = np.random.default_rng(args.seed).choice(len(asked), args.queries, replace=False)
    texts, truths = [], []
    for index in sorted(chosen.tolist()):
        video, query = asked[index]
        texts.append(query.text)
        truths.append(true_moments(query, corpus[video], corpus))
    model = R2TuningForVideoGrounding.from_pretrained(locate_model(args.model), **_backbone(args)).eval()
    if args.vectors == "block":
        model.config.save_backbone = True  # as in a checkpoint that holds its backbone
    processor = R2TuningProcessor.from_pretrained(locate_model(args.model))
    with tempfile.TemporaryDirectory() as folder:
        library = Library.create(Path(folder, "library"), model, processor, keep_features=True)
        started = time.perf_counter()
        library.add(args.data / "videos" / f"{video}.mp4" for video in corpus)
        indexing = time.perf_counter() - started
        frames = sum(record.num_frames for record in library.videos())
        report = measure(library, texts, truths, args.seed)
    num_true = [len(truth) for truth in truths]
    report["settings"] = {
        "queries": args.queries,
        "seed": args.seed,
        "videos": len(corpus),
        "frames": frames,
        "vectors": args.vectors,
        "vectors of the backbone": library.projection is not None,
        "threads": torch.get_num_threads(),
        "videos in which a query is true, median": float(np.median(num_true)),
        "frames indexed per second": round(frames / indexing, 1),
    }
    print_report(report)


def _backbone(args: argparse.Namespace) -> dict[str, Any]:
    if args.backbone is None:
        return {}
    return {"backbone_name_or_path": args.backbone, "backbone_revision": None}


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of Moving Shapes, with its videos")
    parser.add_argument("--model", default="packaged", metavar="CHECKPOINT", help="checkpoint (default: packaged)")
    parser.add_argument("--backbone", metavar="DIR", help="a backbone to use instead of the one that it names")
    parser.add_argument("--vectors", choices=("auto", "block"), default="auto", help="vectors of the first stage")
    parser.add_argument("--queries", type=int, default=200, metavar="N", help="queries asked (default: 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which queries (default: 0)")
    return parser


if __name__ == "__main__":
    main()
