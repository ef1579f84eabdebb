"""Absent queries of Moving Shapes: certainly false, of the announced kind, and not recognised by their text."""

import hashlib
import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from dataset_scripts import AnnotationError, load_vtg_dataset
from dataset_scripts.benchmarks import ABSENT_KINDS, BENCHMARKS, FAMILIES, HARD_FAMILIES, absent_domains
from dataset_scripts.metrics.existence import roc_auc
from dataset_scripts.moving_shapes import generate as generator
from dataset_scripts.moving_shapes.generate import annotate_absent, annotate_video, generate_moving_shapes
from dataset_scripts.moving_shapes.queries import (
    MOTION_PHRASES,
    SIDES,
    Clause,
    is_sentence,
    word_order,
    word_pair,
    word_single,
)
from dataset_scripts.moving_shapes.render import render_identities
from dataset_scripts.moving_shapes.scenes import COLORS, FPS, SEEN, SPLITS, UNSEEN, make_scene


VIDEOS_PER_SPLIT = 24
NUM_REWORDINGS = 12
SMALL = {"train": 3, "test_unseen": 1}
SAMPLES_PER_FRAME = 8


@pytest.fixture(scope="module")
def annotations():
    """Present and absent rows of each video, by split."""
    return {split: annotate(5, split, range(VIDEOS_PER_SPLIT)) for split in SPLITS}


@pytest.fixture(scope="module")
def many_videos():
    """For statistics."""
    return {"train": annotate(7, "train", range(130)), "test": annotate(7, "test", range(60))}


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory):
    return generate_moving_shapes(tmp_path_factory.mktemp("shapes"), seed=3, num_videos=SMALL)


def annotate(seed, split, indices):
    return [(annotate_video(seed, split, index)[0], annotate_absent(seed, split, index)) for index in indices]


def absent_rows(annotations, *splits):
    videos = chain.from_iterable(annotations[split] for split in splits or SPLITS)
    return [row for _, absent in videos for row in absent]


def names_in(text):
    words = text.split()
    return [(color, shape) for color, shape in zip(words, words[1:], strict=False) if color in COLORS]


# ---- false at all times --------------------------------------------------------------------------------------------


def parse(text):
    """Names, detail and clause of a query, from its words alone."""
    words = text.split()
    clause = None
    for place, word in enumerate(words):
        if word in ("after", "before"):
            clause = (word, tuple(words[place + 2 : place + 4]), words[place + 4])
            words = words[:place] + words[place + 5 :]
            break
    main = " ".join(words)
    for action, phrases in MOTION_PHRASES.items():
        if main.endswith(tuple(phrase.removeprefix("{a}") for phrase in phrases)):
            return names_in(main), action, clause
    details = [word for word in words if word in (*SIDES, "small", "large")]
    return names_in(main), "".join(details), clause


class Scene:
    """Where queries may be true in a scene, from poses and maps of another size, with wide margins."""

    def __init__(self, split, index):
        self.scene = make_scene(5, split, index)
        identities, areas = render_identities(self.scene, 96)
        self.numbers = {(item.color, item.shape): number for number, item in enumerate(self.scene.objects)}
        self.num_pixels = [(identities == number + 1).sum(axis=(1, 2)) for number in self.numbers.values()]
        self.areas = areas

    def may_be_true(self, text):
        """Whether it is true in any frame, or nearly so; one visible pixel suffices."""
        names, detail, clause = parse(text)
        if any(name not in self.numbers for name in names):
            return False
        possible = np.ones(self.scene.num_frames, dtype=bool)
        for name in names:
            possible &= self.num_pixels[self.numbers[name]] > 0
        if detail:
            possible &= self.may_have(self.scene.objects[self.numbers[names[0]]], detail)
        if clause is not None:
            possible &= self.side(*clause)
        return bool(possible.any())

    def may_have(self, item, detail):
        if detail in ("spins", "blinks"):
            acting = np.zeros(self.scene.num_frames, dtype=bool)
            for segment in item.segments:
                turns = segment.start.angle != segment.end.angle
                if turns if detail == "spins" else segment.action == "blinks":
                    acting[segment.start_sec * FPS : segment.end_sec * FPS] = True
            return acting
        times = (np.arange(self.scene.num_frames * SAMPLES_PER_FRAME) + 0.5) / (SAMPLES_PER_FRAME * FPS)
        poses = item.poses(times).reshape(self.scene.num_frames, SAMPLES_PER_FRAME, 4)
        x, y, radius, _ = np.moveaxis(poses, -1, 0)
        changes = {"moves left": -x, "moves right": x, "moves up": -y, "moves down": y, "grows": radius}
        changes["shrinks"] = -radius
        if detail in changes:
            return (np.diff(changes[detail], axis=1) > 1e-6).any(axis=1)  # NaN compares false
        values = {"left": 0.45 - x, "right": x - 0.55, "top": 0.45 - y, "bottom": y - 0.55}
        values |= {"small": 0.1 - radius, "large": radius - 0.15}
        return (values[detail] > 0).any(axis=1)

    def side(self, order, name, change):
        """The side of the only instant at which an object appears or leaves, half a second wider."""
        number = self.numbers[name]
        visible = self.num_pixels[number] >= np.maximum(0.5 * self.areas[number], 1)
        [frame] = np.flatnonzero(np.diff(visible.astype(int)) == (1 if change == "appears" else -1)) + 1
        indices = np.arange(self.scene.num_frames)
        return indices >= frame - 2 if order == "after" else indices < frame + 2


def reword(row, random):
    """Another wording of a query."""
    names, detail, clause = parse(row["query"])
    family = row["domain"].split("/")[0]
    first, *others = [" ".join(name) for name in names]
    if others:
        return word_pair(first, others[0], random)
    if clause is None:
        return word_single(family, first, detail, random)
    main = ""
    while not is_sentence(main):
        main = word_single("motion" if detail else "presence", first, detail, random)
    order, name, change = clause
    return word_order(main, Clause(order, 0, change, 0), " ".join(name), random)


@pytest.mark.parametrize("split", ["test", "test_unseen"])
def test_absent_queries_are_false_in_every_wording(annotations, split):
    """The same check finds every present query true."""
    random = np.random.default_rng(0)
    for index, (present, absent) in enumerate(annotations[split]):
        scene = Scene(split, index)
        for row in absent:
            texts = [row["query"]] + [reword(row, random) for _ in range(NUM_REWORDINGS)]
            assert {(frozenset(names), *rest) for names, *rest in map(parse, texts)} == {
                (frozenset(names), *rest) for names, *rest in [parse(row["query"])]
            }
            assert not any(scene.may_be_true(text) for text in texts), row
        for row in present:
            assert scene.may_be_true(row["query"]), row


# ---- kinds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_kinds_differ_in_what_the_video_holds(annotations, split):
    for index, (_, absent) in enumerate(annotations[split]):
        objects = {(item.color, item.shape) for item in make_scene(5, split, index).objects}
        colors, shapes = ({item[part] for item in objects} for part in (0, 1))
        for row in absent:
            names, _, clause = parse(row["query"])
            missing = [name for name in names if name not in objects]
            kind = row["domain"].split("/")[1]
            assert len(missing) == (kind != "hard")
            for color, shape in missing:
                assert (color in colors and shape in shapes) == (kind == "binding")
            assert clause is None or clause[1] in objects


def test_two_absent_queries_for_three_present_ones_half_of_them_hard(annotations, many_videos):
    for videos, tolerance in ((many_videos["train"], 0.03), (annotations["test_unseen"], 0.06)):
        kinds = Counter(row["domain"].split("/")[1] for _, absent in videos for row in absent)
        num_present = sum(len(present) for present, _ in videos)
        assert kinds.total() / (kinds.total() + num_present) == pytest.approx(0.4, abs=0.005)
        shares = [kinds[kind] / kinds.total() for kind in ABSENT_KINDS]
        assert shares == pytest.approx([0.25, 0.25, 0.5], abs=tolerance)


def test_families_are_as_frequent_as_among_present_queries(annotations):
    present = Counter(row["domain"] for split in SPLITS for rows, _ in annotations[split] for row in rows)
    absent = Counter(row["domain"].split("/")[0] for row in absent_rows(annotations))
    for family in FAMILIES:
        assert absent[family] / absent.total() == pytest.approx(present[family] / present.total(), abs=0.03)
    found = {row["domain"] for row in absent_rows(annotations)}
    assert found == set(absent_domains()) - {"presence/hard"}


def test_a_statement_is_made_once(annotations):
    for split in SPLITS:
        for _, absent in annotations[split]:
            statements = [(frozenset(names), *rest) for names, *rest in (parse(row["query"]) for row in absent)]
            assert len(statements) == len(set(statements))


# ---- the text alone does not tell ----------------------------------------------------------------------------------


def test_names_occur_in_the_videos_of_the_split(annotations):
    seen = {name for row in absent_rows(annotations, "train", "val", "test") for name in names_in(row["query"])}
    assert seen == set(SEEN)
    for row in absent_rows(annotations, "test_unseen"):
        unseen = set(names_in(row["query"])) <= set(UNSEEN)
        assert unseen == (not row["domain"].endswith("/binding"))


def test_only_shapes_whose_spinning_is_visible_spin(annotations):
    spinning = [parse(row["query"]) for row in absent_rows(annotations)]
    shapes = {names[0][1] for names, detail, _ in spinning if detail == "spins"}
    assert shapes == {"square", "triangle", "cross"}


class BagOfWords:
    """Logistic regression on the number of times each word occurs."""

    def __init__(self, texts, absent):
        self.words = sorted({word for text in texts for word in text.split()})
        inputs = self.count(texts)
        targets = np.array(absent, dtype=float)
        self.weights = np.zeros(inputs.shape[1])
        for _ in range(15):  # Newton's method, with a penalty of 1/2 |weights|^2
            probabilities = 1 / (1 + np.exp(-inputs @ self.weights))
            gradient = inputs.T @ (probabilities - targets) + self.weights
            curvature = probabilities * (1 - probabilities)
            hessian = (inputs.T * curvature) @ inputs + np.eye(len(gradient))
            self.weights -= np.linalg.solve(hessian, gradient)

    def count(self, texts):
        counts = np.ones((len(texts), len(self.words) + 1))  # the last column is the bias
        for row, text in enumerate(texts):
            found = Counter(text.split())
            counts[row, :-1] = [found[word] for word in self.words]
        return counts

    def auroc(self, texts, absent):
        return roc_auc(self.count(texts) @ self.weights, absent)


def labelled(videos, family=None):
    """Texts and whether they are absent, of all families or one."""
    texts, labels = [], []
    for present, absent in videos:
        for row in present + absent:
            if family in (None, row["domain"].split("/")[0]):
                texts.append(row["query"])
                labels.append(row["relevant_windows"] == [])
    return texts, labels


def test_words_do_not_tell_whether_a_query_is_absent(many_videos):
    """The same classifier finds a difference as small as another article in a fifth of the absent queries."""
    (texts, labels), test = labelled(many_videos["train"]), labelled(many_videos["test"])
    assert BagOfWords(texts, labels).auroc(*test) < 0.55
    leaking = BagOfWords(mark_a_fifth(texts, labels), labels)
    assert leaking.auroc(mark_a_fifth(*test), test[1]) > 0.55


def mark_a_fifth(texts, labels):
    marked = []
    for number, (text, absent) in enumerate(zip(texts, labels, strict=True)):
        marked.append(f"this {text}" if absent and number % 5 == 0 else text)
    return marked


@pytest.mark.integration
def test_words_do_not_tell_in_any_family():
    training, test = annotate(7, "train", range(1200)), annotate(7, "test", range(1200))
    for family in (None, *FAMILIES):
        assert BagOfWords(*labelled(training, family)).auroc(*labelled(test, family)) < 0.55
        assert BagOfWords(*labelled(training)).auroc(*labelled(test, family)) < 0.55


# ---- files and loading ---------------------------------------------------------------------------------------------


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_present_queries_and_summaries_are_those_of_the_first_version():
    """As published before there were absent queries."""
    rows = [annotate_video(0, split, index) for split in SPLITS for index in range(3)]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert digest == "7d2fb86d5a8a1c5fe8b6468d582ec411481c33f47217e371d6f44cbf4627c0d4"


def test_fields_of_absent_rows(benchmark_folder):
    absent = read_lines(benchmark_folder / "moving_shapes_absent_train.jsonl")
    present = read_lines(benchmark_folder / "moving_shapes_train.jsonl")
    durations = {row["vid"]: row["duration"] for row in present}
    for row in absent:
        assert row.keys() == {"qid", "query", "vid", "duration", "relevant_windows", "domain"}
        assert row["duration"] == durations[row["vid"]]
        assert row["relevant_windows"] == []
    qids = [row["qid"] for row in present + absent]
    assert len(qids) == len(set(qids))


def test_an_older_folder_gets_the_missing_files_without_its_videos_being_written(benchmark_folder, monkeypatch):
    before = {path: path.read_bytes() for path in benchmark_folder.glob("*.jsonl")}
    for path in benchmark_folder.glob("*_absent_*"):
        path.unlink()
    monkeypatch.setattr(generator, "write_video", None)
    generate_moving_shapes(benchmark_folder, seed=3, num_videos=SMALL)
    assert {path: path.read_bytes() for path in benchmark_folder.glob("*.jsonl")} == before


def load(folder, **options):
    return load_vtg_dataset("moving_shapes_absent", data_dir=folder, **options)


def test_a_split_holds_both_kinds_of_queries_video_by_video(benchmark_folder):
    rows = load(benchmark_folder, split="train", video_dir=benchmark_folder)
    present = load_vtg_dataset("moving_shapes", split="train", data_dir=benchmark_folder, video_dir=benchmark_folder)
    assert [row for row in rows if row["moments"]] == list(present)
    absent = [row for row in rows if not row["moments"]]
    assert [row["qid"] for row in absent] == [
        row["qid"] for row in read_lines(benchmark_folder / "moving_shapes_absent_train.jsonl")
    ]
    for row in absent:
        assert (row["moments"], row["saliency"], row["task"]) == ([], None, ["moment_retrieval"])
        assert row["video"]["path"].endswith(f"{row['video_id']}.mp4")
    assert rows["video_id"] == sorted(rows["video_id"])
    assert list(load(benchmark_folder, split="train", video_dir=benchmark_folder, streaming=True)) == list(rows)


def test_parts_are_domains(benchmark_folder):
    rows = load(benchmark_folder, split="train")
    parts = dict(BENCHMARKS["moving_shapes_absent"].parts)
    assert set(parts.pop("all")) == {*FAMILIES, *absent_domains()}
    for part, domains in parts.items():
        expected = [row["qid"] for row in rows if row["domain"] in domains]
        assert load(benchmark_folder, split="train", domain=part)["qid"] == expected
    assert set(load(benchmark_folder, split="train", domain="hard")["domain"]) == set(HARD_FAMILIES)
    kinds = {
        domain.partition("/")[2] for domain in load(benchmark_folder, split="train", domain="absent-easy")["domain"]
    }
    assert kinds == {"", "easy"}


def test_a_folder_of_an_earlier_version_is_refused_with_advice(benchmark_folder, tmp_path):
    name = "moving_shapes_absent_train.jsonl"
    (tmp_path / name).write_bytes((benchmark_folder / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"moving_shapes_train\.jsonl' with the present ones is missing. Run"):
        load(tmp_path, split="train")


def test_a_domain_must_agree_with_the_moments(benchmark_folder, tmp_path):
    """The two files of a split may also be passed as one."""
    lines = []
    for kind in ("", "absent_"):
        lines += (benchmark_folder / f"moving_shapes_{kind}train.jsonl").read_text().splitlines()
    path = tmp_path / "both.jsonl"
    path.write_text("\n".join(lines))
    rows = load_vtg_dataset("moving_shapes_absent", split="train", data_files=path)
    assert len(rows) == len(lines)
    path.write_text("\n".join(lines).replace('"domain": "size"', '"domain": "size/easy"'))
    with pytest.raises(AnnotationError, match=r"both.jsonl, line \d+: `domain` is 'size/easy', .* has moments"):
        load_vtg_dataset("moving_shapes_absent", split="train", data_files=path)
    kept = load_vtg_dataset("moving_shapes_absent", split="train", data_files=path, on_error="skip")
    assert len(kept) == len(lines) - sum(row["domain"] == "size" for row in rows)
