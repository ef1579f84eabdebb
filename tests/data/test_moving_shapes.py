"""The generated benchmark: the same from the same seed, true to its pixels, and not answered by guessing."""

import filecmp
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest

from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import HARD_FAMILIES, MAIN_FAMILIES
from dataset_scripts.files import claiming
from dataset_scripts.metrics import compute_scores
from dataset_scripts.moving_shapes import generate as generator
from dataset_scripts.moving_shapes.frames import FrameSettings, iter_captioned_frames
from dataset_scripts.moving_shapes.generate import annotate_video, generate_moving_shapes, main
from dataset_scripts.moving_shapes.queries import (
    MOTION_PHRASES,
    SIDES,
    make_queries,
    observe,
    rate_importance,
    vocabulary,
)
from dataset_scripts.moving_shapes.render import render_frames, render_identities, write_video
from dataset_scripts.moving_shapes.scenes import (
    ACTIONS,
    COLORS,
    FPS,
    SEEN,
    SHAPES,
    SPLITS,
    UNSEEN,
    make_scene,
    random_stream,
)


VIDEOS_PER_SPLIT = 40
SMALL = {"train": 3, "test_unseen": 1}


@pytest.fixture(scope="module")
def annotations():
    """Records of queries and of summaries of some videos of every split."""
    return {split: [annotate_video(5, split, index) for index in range(VIDEOS_PER_SPLIT)] for split in SPLITS}


@pytest.fixture(scope="module")
def benchmark_folder(tmp_path_factory):
    return generate_moving_shapes(tmp_path_factory.mktemp("shapes"), seed=3, num_videos=SMALL)


def queries_of(annotations, split):
    return [row for rows, _ in annotations[split] for row in rows]


def all_queries(annotations):
    return [row for split in SPLITS for row in queries_of(annotations, split)]


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_bytes(folder, other):
    assert list_files(folder) == list_files(other)
    _, different, errors = filecmp.cmpfiles(folder, other, list_files(folder), shallow=False)
    assert different == errors == []


# ---- the same from the same seed -----------------------------------------------------------------------------------


def test_the_number_of_processes_does_not_change_any_byte(benchmark_folder, tmp_path):
    generate_moving_shapes(tmp_path, seed=3, num_videos=SMALL, processes=2)
    assert_same_bytes(benchmark_folder, tmp_path)


def test_resumes_after_an_interruption(benchmark_folder, tmp_path, monkeypatch):
    """Complete videos are kept, the interrupted one is written again, and the result is the same."""
    made = []

    def stop_at_the_third(scene, path, **options):
        if len(made) == 2:
            path.with_name(f"{path.name}.1.partial").write_bytes(b"half a video")  # as earlier versions did
            killed = path.with_name(".r2tuning-a.partial")
            killed.mkdir()
            (killed / path.name).write_bytes(b"half a video")
            raise KeyboardInterrupt
        made.append(path)
        write_video(scene, path, **options)

    monkeypatch.setattr(generator, "write_video", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        generate_moving_shapes(tmp_path, seed=3, num_videos=SMALL)
    assert not list(tmp_path.glob("moving_shapes_*.jsonl"))
    monkeypatch.undo()
    times = {path: path.stat().st_mtime_ns for path in made}
    generate_moving_shapes(tmp_path, seed=3, num_videos=SMALL)
    assert {path: path.stat().st_mtime_ns for path in made} == times
    assert_same_bytes(benchmark_folder, tmp_path)


def test_a_second_run_into_the_folder_is_refused(benchmark_folder, capsys):
    """At the start, even with other settings, and whether or not any video is missing."""
    before = list_files(benchmark_folder)
    with claiming(benchmark_folder):
        for options in (["--seed", "3"], ["--seed", "4"]):
            assert main([str(benchmark_folder), *options, "--processes", "1"]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err.count("\n") == 1
            assert err.startswith(f"moving_shapes: error: Another run is writing to '{benchmark_folder}'")
    assert list_files(benchmark_folder) == before


def test_more_videos_do_not_change_the_others(benchmark_folder, tmp_path):
    generate_moving_shapes(tmp_path, seed=3, num_videos={"train": 1})
    video = "videos/train_00000.mp4"
    assert filecmp.cmp(benchmark_folder / video, tmp_path / video, shallow=False)
    few, many = ((folder / "moving_shapes_train.jsonl").read_text() for folder in (tmp_path, benchmark_folder))
    assert many.startswith(few)
    assert len(many) > len(few)


def test_another_seed_or_split_is_another_video():
    scenes = [make_scene(0, "train", 0), make_scene(1, "train", 0), make_scene(0, "val", 0), make_scene(0, "train", 1)]
    assert all(first != second for place, first in enumerate(scenes) for second in scenes[:place])
    assert make_scene(0, "train", 0) == scenes[0]


def test_frames_do_not_depend_on_where_drawing_starts():
    scene = make_scene(0, "train", 2)
    np.testing.assert_array_equal(render_frames(scene, 0, scene.num_frames)[37:52], render_frames(scene, 37, 52))


# ---- true to the pixels --------------------------------------------------------------------------------------------


AREAS = {"circle": np.pi, "square": 1.72**2, "triangle": 3**1.5 * 0.65**2, "ring": 0.75 * np.pi, "cross": 2.36}


class Evidence:
    """The pixels of a video: maps of another size than that of the annotations, and frames on black."""

    def __init__(self, scene, size=96):
        self.size = size
        identities, _ = render_identities(scene, size)
        self.seen = {name(item): identities == number + 1 for number, item in enumerate(scene.objects)}
        self.whole, self.opacity = {}, {}
        black = {"shots": (replace(scene.shots[0], level=0, contrast=0),), "brightness": (0, 1, 0), "noise": 0}
        for item in scene.objects:
            alone = replace(scene, objects=(item,), distractors=(), **black)
            self.whole[name(item)] = render_identities(alone, size)[0] == 1
            mask = render_identities(alone)[0] == 1
            light = (render_frames(alone, 0, scene.num_frames).sum(axis=-1) * mask).sum(axis=(1, 2))
            self.opacity[name(item)] = light / np.maximum(mask.sum(axis=(1, 2)), 1) / sum(item.rgb)

    def visible(self, item, frame):
        area = self.whole[item][frame].sum()
        return area > 0 and self.seen[item][frame].sum() >= 0.5 * area

    def center(self, item, frame):
        rows, columns = np.nonzero(self.whole[item][frame])
        return columns.mean() / self.size, rows.mean() / self.size

    def at_side(self, item, frame, side):
        x, y = self.center(item, frame)
        return {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}[side] < 0.415

    def radius(self, item, frame):
        return np.sqrt(self.whole[item][frame].sum() / AREAS[item.split()[1]]) / self.size

    def acts(self, item, frame, action):
        """Judged by the pictures around it."""
        if not (self.visible(item, frame - 1) and self.visible(item, frame + 1)):
            return False
        if action == "blinks":
            window = self.opacity[item][frame - 3 : frame + 4]
            return window[window > 0].min() < 0.5  # 0 where it is absent
        moved = np.subtract(self.center(item, frame + 1), self.center(item, frame - 1))
        if action.startswith("moves"):
            return moved @ {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[action.split()[1]] > 0.04
        growth = np.log(self.radius(item, frame + 1) / self.radius(item, frame - 1))
        if action in ("grows", "shrinks"):
            return (growth if action == "grows" else -growth) > 0.03
        first, second = (self.whole[item][number] for number in (frame - 1, frame + 1))
        turned = (first ^ second).sum() - abs(int(first.sum()) - int(second.sum()))
        return np.abs(moved).max() < 0.01 and turned > 0.08 * first.sum()


@pytest.fixture(scope="module")
def evidences():
    return [Evidence(make_scene(5, "train", index)) for index in range(12)]


def name(item):
    return f"{item.color} {item.shape}"


def names_in(text):
    words = text.split()
    return [f"{color} {shape}" for color, shape in zip(words, words[1:], strict=False) if color in COLORS]


def action_in(text):
    """The action of a motion query."""
    said = text.replace(names_in(text)[0], "").split(maxsplit=1)[1]
    return next(
        action
        for action, phrases in MOTION_PHRASES.items()
        if said.strip() in {phrase.replace("{a}", "").strip() for phrase in phrases}
    )


def is_true(evidence, family, text, frame):
    """The truth of a query in a frame, from its words and the pixels alone."""
    items = names_in(text)
    if not all(evidence.visible(item, frame) for item in items):
        return False
    if family == "place":
        return evidence.at_side(items[0], frame, next(word for word in text.split() if word in SIDES))
    if family == "size":
        radius = evidence.radius(items[0], frame)
        return radius < 0.097 if "small" in text else radius > 0.152
    if family == "motion":
        return evidence.acts(items[0], frame, action_in(text))
    return True


def frames_to_check(row, random):
    """Frames inside and outside the moments, not next to their edges."""
    inside = np.zeros(row["duration"] * FPS, dtype=bool)
    for start, end in row["relevant_windows"]:
        inside[round(start * FPS) : round(end * FPS)] = True
    far = np.ones_like(inside)
    far[:4] = far[-4:] = False
    for edge in np.flatnonzero(np.diff(inside)) + 1:
        far[max(edge - 4, 0) : edge + 4] = False
    for truth in (True, False):
        frames = np.flatnonzero(far & (inside == truth))
        yield from ((frame, truth) for frame in random.permutation(frames)[:8].tolist())


@pytest.mark.parametrize("family", [*MAIN_FAMILIES, "motion"])
def test_moments_agree_with_the_pixels(annotations, evidences, family):
    """True inside the moments and false outside, in random frames; a second on either side of an edge is left out."""
    random = np.random.default_rng(0)
    checked, wrong = Counter(), []
    for evidence, (rows, _) in zip(evidences, annotations["train"], strict=False):
        for row in rows:
            if row["domain"] == family:
                for frame, truth in frames_to_check(row, random):
                    checked[truth] += 1
                    if is_true(evidence, family, row["query"], frame) != truth:
                        wrong.append((row["qid"], row["query"], frame / FPS, truth))
    assert min(checked[True], checked[False]) > 40
    assert wrong == []


def test_every_edge_is_where_the_pixels_change(annotations, evidences):
    """Presence, to the frame: true in the first and the last frame of a moment, false before and after."""
    edges = 0
    for evidence, (rows, _) in zip(evidences, annotations["train"], strict=False):
        for row in rows:
            if row["domain"] == "presence":
                for start, end in ((round(start * FPS), round(end * FPS)) for start, end in row["relevant_windows"]):
                    frames = [start - 1, start, end - 1, end]
                    expected = [False, True, True, False]
                    for frame, truth in zip(frames, expected, strict=True):
                        if 0 <= frame < row["duration"] * FPS:
                            edges += 1
                            assert is_true(evidence, "presence", row["query"], frame) == truth
    assert edges > 50


def test_order_queries_follow_the_instant_of_the_clause(annotations, evidences):
    """All moments are before or after the only time at which the anchor appears or leaves, as the clause says."""
    orders = 0
    for evidence, (rows, _) in zip(evidences, annotations["train"], strict=False):
        for row in rows:
            if row["domain"] != "order":
                continue
            words = row["query"].split()
            clause = next(place for place, word in enumerate(words) if word in ("after", "before"))
            anchor, change = " ".join(words[clause + 2 : clause + 4]), words[clause + 4]
            visible = np.array([evidence.visible(anchor, frame) for frame in range(row["duration"] * FPS)])
            edges = np.flatnonzero(np.diff(visible.astype(int)) == (1 if change == "appears" else -1)) + 1
            assert len(edges) == 1
            start, end = row["relevant_windows"][0][0], row["relevant_windows"][-1][1]
            assert start * FPS > edges[0] if words[clause] == "after" else end * FPS < edges[0]
            orders += 1
    assert orders > 8


def test_in_most_order_queries_the_clause_decides():
    orders = [
        query
        for index in range(VIDEOS_PER_SPLIT)
        for query in make_queries(observe(make_scene(5, "val", index)), random_stream(5, "val", index, 1))
        if query.family == "order"
    ]
    assert np.mean([query.decides for query in orders]) > 0.5


def test_only_clear_queries_are_asked(annotations):
    """One to five moments of at least two seconds, gaps of at least one, less than three quarters of the video."""
    counts = Counter()
    for row in all_queries(annotations):
        moments = np.array(row["relevant_windows"])
        counts[len(moments)] += 1
        assert np.diff(moments).min() >= 2
        assert (moments[1:, 0] - moments[:-1, 1]).min(initial=1) >= 1
        assert 0 <= moments[0, 0] < moments[-1, 1] <= row["duration"]
        assert np.diff(moments).sum() < 0.75 * row["duration"]
    assert set(counts) == {1, 2, 3, 4, 5}


# ---- what is asked -------------------------------------------------------------------------------------------------


def score_windows(rows, window):
    predictions = [{"qid": row["qid"], "pred_relevant_windows": [[*window(row), 1.0]]} for row in rows]
    references = [
        {"qid": r["qid"], "query": r["query"], "moments": r["relevant_windows"], "saliency": None} for r in rows
    ]
    return compute_scores("qvhighlights", predictions, references)["brief"]["MR-full-R1@0.5"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("families", [MAIN_FAMILIES, HARD_FAMILIES, MAIN_FAMILIES + HARD_FAMILIES])
def test_guessing_does_not_help(annotations, split, families):
    random = np.random.default_rng(0)
    rows = [row for row in queries_of(annotations, split) if row["domain"] in families]
    assert score_windows(rows, lambda row: [0, row["duration"]]) < 30
    assert score_windows(rows, lambda row: [row["duration"] / 4, row["duration"] * 3 / 4]) < 30
    assert score_windows(rows, lambda row: sorted(random.uniform(0, row["duration"], 2).tolist())) < 30


@pytest.mark.parametrize("split", SPLITS)
def test_every_family_is_asked(annotations, split):
    counts = Counter(row["domain"] for row in queries_of(annotations, split))
    assert set(counts) == {*MAIN_FAMILIES, *HARD_FAMILIES}
    assert min(counts.values()) > VIDEOS_PER_SPLIT / 2


def test_every_action_and_every_combination_occurs(annotations):
    queries = queries_of(annotations, "train") + queries_of(annotations, "test")
    assert {action_in(row["query"]) for row in queries if row["domain"] == "motion"} == set(ACTIONS)
    assert {tuple(item.split()) for row in queries for item in names_in(row["query"])} == set(SEEN)


def test_unseen_combinations_are_unseen(annotations):
    for split in SPLITS:
        asked = {tuple(item.split()) for row in queries_of(annotations, split) for item in names_in(row["query"])}
        shown = {
            (item.color, item.shape)
            for index in range(VIDEOS_PER_SPLIT)
            for item in make_scene(5, split, index).objects
        }
        assert asked <= shown <= set(UNSEEN if split == "test_unseen" else SEEN)
    assert len(SEEN) == 25
    assert set(SEEN).isdisjoint(UNSEEN)
    assert {shape for _, shape in UNSEEN} == set(SHAPES)


def test_vocabulary_has_the_words_and_no_others(annotations):
    texts = [row["query"] for row in all_queries(annotations)]
    texts += [summary["query"] for split in SPLITS for _, summary in annotations[split]]
    assert {word for text in texts for word in text.split()} == set(vocabulary())


def test_an_object_occurs_once_and_spins_only_if_that_is_visible():
    for index in range(VIDEOS_PER_SPLIT):
        objects = make_scene(5, "test", index).objects
        assert 2 <= len({name(item) for item in objects}) == len(objects) <= 4
        for item in objects:
            assert item.shape not in ("circle", "ring") or all(s.action != "spins" for s in item.segments)


# ---- annotators ----------------------------------------------------------------------------------------------------


def test_saliency_is_scored_only_inside_moments(annotations):
    """Three annotators give 0 to 4 to the units that overlap a moment, and at least one score is 4."""
    for row in all_queries(annotations):
        touched = {
            clip
            for clip in range(row["duration"] // 2)
            if any(start < 2 * clip + 2 and 2 * clip < end for start, end in row["relevant_windows"])
        }
        assert row["relevant_clip_ids"] == sorted(touched)
        scores = np.array(row["saliency_scores"])
        assert scores.shape == (len(touched), 3)
        assert scores.min() >= 0
        assert scores.max() == 4


def test_annotators_agree_with_each_other_more_than_with_chance(annotations):
    rows = [row for row in queries_of(annotations, "train") if len(row["saliency_scores"]) > 4]
    scores = np.concatenate([row["saliency_scores"] for row in rows])
    correlations = np.corrcoef(scores.T)[np.triu_indices(3, 1)]
    assert ((correlations > 0.3) & (correlations < 0.95)).all()
    assert np.all(np.diff(scores.mean(axis=0)) > 0.05)  # each more lenient than the one before


def test_importance_follows_the_object_in_the_title():
    """Twenty annotators give 1 to 5; shots with the object score higher, most where it acts."""
    with_object, without = [], []
    for index in range(20):
        facts = observe(make_scene(5, "train", index))
        title, scores = rate_importance(facts, np.random.default_rng(index))
        item = next(item for item in facts if item.name == names_in(title)[0])
        assert scores.shape == (len(item.visible.true) // (2 * FPS), 20)
        assert 1 <= scores.min() < scores.max() <= 5
        shares = item.visible.true.reshape(-1, 2 * FPS).mean(axis=1)
        with_object += scores[shares == 1].mean(axis=1).tolist()
        without += scores[shares == 0].mean(axis=1).tolist()
    assert np.mean(with_object) > np.mean(without) + 1


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 96])
def test_the_video_shows_the_rendered_frames(tmp_path, size):
    scene = make_scene(0, "train", 1)
    write_video(scene, tmp_path / "video.mp4", size=size)
    with av.open(str(tmp_path / "video.mp4")) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", size, size)
        assert stream.average_rate == FPS
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    pictures = render_frames(scene, 0, scene.num_frames, size=size)
    assert frames.shape == (scene.duration_sec * FPS, size, size, 3)
    assert np.abs(frames.astype(float) - pictures).mean(axis=(1, 2, 3)).max() < 8
    assert list_files(tmp_path) == ["video.mp4"]


def test_rows_have_the_schema(benchmark_folder):
    rows = load_vtg_dataset(
        "moving_shapes", split="train", data_dir=benchmark_folder, video_dir=benchmark_folder / "videos"
    )
    records = [row for index in range(SMALL["train"]) for row in annotate_video(3, "train", index)[0]]
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert (row["qid"], row["query"], row["domain"]) == (record["qid"], record["query"], record["domain"])
        assert row["moments"] == [list(moment) for moment in record["relevant_windows"]]
        assert row["video"]["path"] == str(benchmark_folder / "videos" / f"{record['vid']}.mp4")
        assert row["task"] == ["moment_retrieval", "highlight_detection"]
        scores = np.array(row["saliency"]["scores"])
        assert len(scores) == row["duration_sec"] / 2
        assert np.flatnonzero(scores.any(axis=1)).tolist() == [
            clip for clip, row in zip(record["relevant_clip_ids"], record["saliency_scores"], strict=True) if any(row)
        ]


def test_a_family_is_a_domain(benchmark_folder):
    rows = load_vtg_dataset("moving_shapes", split="train", data_dir=benchmark_folder, domain="motion")
    assert set(rows["domain"]) == {"motion"}
    part = load_vtg_dataset("moving_shapes", split="train", data_dir=benchmark_folder, domain="hard")
    assert set(part["domain"]) == set(HARD_FAMILIES)
    assert len(rows) == sum(
        row["domain"] == "motion" for row in load_vtg_dataset("moving_shapes", data_dir=benchmark_folder)["train"]
    )


def test_summaries_have_the_schema(benchmark_folder):
    rows = load_vtg_dataset("moving_shapes_summary", data_dir=benchmark_folder)
    assert {split: len(rows[split]) for split in rows} == SMALL
    row, (_, record) = rows["test_unseen"][0], annotate_video(3, "test_unseen", 0)
    assert (row["qid"], row["query"], row["task"]) == (record["vid"], record["query"], ["video_summarization"])
    assert row["saliency"]["scores"] == record["shot_scores"]
    assert row["moments"] is None


def test_annotations_do_not_depend_on_the_frame_size(benchmark_folder, tmp_path):
    generate_moving_shapes(tmp_path, seed=3, num_videos={"test_unseen": 1}, size=96, trail_sec=0)
    for kind in ("", "absent_", "summary_"):
        file = f"moving_shapes_{kind}test_unseen.jsonl"
        assert filecmp.cmp(benchmark_folder / file, tmp_path / file, shallow=False)


def test_videos_with_different_settings_are_not_mixed(benchmark_folder):
    with pytest.raises(ValueError, match="Choose a new folder"):
        generate_moving_shapes(benchmark_folder, seed=4, num_videos=SMALL)


@pytest.mark.parametrize(
    "arguments",
    [{"seed": -1}, {"size": 65}, {"size": 32}, {"size": 256}, {"trail_sec": -1}, {"processes": 0},
     {"num_videos": {"validation": 3}}, {"num_videos": {"val": -1}}],
)  # fmt: skip
def test_wrong_arguments_are_named(tmp_path, arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`.*got"):
        generate_moving_shapes(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_the_command_writes_a_benchmark_and_reports_errors(tmp_path, capsys):
    numbers = ["--videos-train", "0", "--videos-val", "1", "--videos-test", "0", "--videos-unseen", "0"]
    assert main([str(tmp_path), "--seed", "3", "--processes", "1", *numbers]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    assert list_files(tmp_path) == [
        "moving_shapes.json",
        "moving_shapes_absent_val.jsonl",
        "moving_shapes_summary_val.jsonl",
        "moving_shapes_val.jsonl",
        "videos/val_00000.mp4",
    ]
    assert len((tmp_path / "moving_shapes_summary_val.jsonl").read_text().splitlines()) == 1
    assert main([str(tmp_path), "--seed", "4", *numbers]) == 2
    assert "Choose a new folder" in capsys.readouterr().err


# ---- single pictures -----------------------------------------------------------------------------------------------


def make_frames(stop, start=0, seed=0, **settings):
    return list(iter_captioned_frames(seed, start, stop, FrameSettings(**settings)))


def test_captions_have_all_words_and_no_others():
    captions = [caption for frame in make_frames(700, num_captions=3) for caption in frame.captions]
    assert {word for caption in captions for word in caption.split()} == set(vocabulary())


def test_a_variant_differs_in_one_word_and_in_its_pixels():
    frames = make_frames(150, variants=True, num_captions=3)
    for first, second in zip(frames[::2], frames[1::2], strict=True):
        for caption, other in zip(first.captions, second.captions, strict=True):
            words = zip(caption.split(), other.split(), strict=True)
            assert sum(word != other_word for word, other_word in words) == 1
        difference = np.abs(first.image.astype(int) - second.image).max(axis=-1)
        assert (difference > 12).any()
        assert (difference > 12).mean() < 0.4  # most of the picture is the same


def test_any_range_of_frames_can_be_generated_alone():
    whole, part = make_frames(20), make_frames(20, start=13)
    assert [frame.captions for frame in whole[13:]] == [frame.captions for frame in part]
    np.testing.assert_array_equal([frame.image for frame in whole[13:]], [frame.image for frame in part])


def test_the_listed_objects_are_in_the_frame():
    """Apart from light and noise, the pixel at the centre of a resting circle or square has its colour."""
    checked = 0
    for frame in make_frames(60, pair_share=0, combinations=tuple(c for c in SEEN if c[1] in ("circle", "square"))):
        for item in frame.objects:
            alone = all(np.hypot(o.x - item.x, o.y - item.y) > o.radius + 0.05 for o in frame.objects if o != item)
            if alone and item.action != "blinks":
                pixel = frame.image[int(item.y * 64), int(item.x * 64)].astype(float)
                color = min(
                    COLORS, key=lambda c: np.abs(pixel / pixel.max() - np.divide(COLORS[c], max(COLORS[c]))).sum()
                )
                assert color == item.color
                checked += 1
    assert checked > 60


def test_clauses_agree_with_their_facts():
    sayable = {*COLORS, *SHAPES, "small", "large"}
    for frame in make_frames(150, pair_share=0.2, num_captions=2, variants=True):
        for caption, clauses in zip(frame.captions, frame.clauses, strict=True):
            assert sorted(clause.index for clause in clauses) == list(range(len(frame.objects)))
            for clause in clauses:
                assert clause.text in caption
                assert clause.facts <= frame.objects[clause.index].facts
                words, [*actions] = set(clause.text.split()), clause.facts & MOTION_PHRASES.keys()
                assert words & sayable == clause.facts & sayable
                if not actions:
                    assert words & set(SIDES) == clause.facts & set(SIDES)
                for action in actions:
                    assert any(phrase.removeprefix("{a} ") in clause.text for phrase in MOTION_PHRASES[action])


def test_captions_are_true_for_the_objects():
    for frame in make_frames(100, pair_share=0, num_captions=2):
        shown = {name(item): item for item in frame.objects}
        for caption in frame.captions:
            assert sorted(names_in(caption)) == sorted(shown)
            clauses = caption.removeprefix("both ").replace(" together with ", " and ").split(" and ")
            for clause in clauses:
                item = shown[names_in(clause)[0]]
                assert (
                    item.side("x") in clause
                    if {"left", "right"} & set(clause.split()[3:]) and "at" in clause
                    else True
                )
                assert "small" not in clause.split() or item.radius < 0.1
                assert "large" not in clause.split() or item.radius > 0.15


def test_only_the_chosen_combinations_are_shown():
    frames = make_frames(80, combinations=UNSEEN, pair_share=0.3)
    captions = [caption for frame in frames for caption in frame.captions]
    assert {tuple(item.split()) for caption in captions for item in names_in(caption)} == set(UNSEEN)


def test_variants_need_related_combinations():
    with pytest.raises(ValueError, match="With `variants`, each of the `combinations` must .*'red triangle'"):
        FrameSettings(combinations=UNSEEN, variants=True)
    spinning = tuple((color, shape) for color in ("red", "blue", "cyan") for shape in ("circle", "square", "ring"))
    with pytest.raises(ValueError, match="its shape, if that can spin.*'red square'"):
        FrameSettings(combinations=spinning, variants=True)
    assert len(make_frames(200, combinations=SEEN, variants=True, pair_share=0.5)) == 400


def moving_scene():
    """A circle half-way on its way to the right, and one on its way to the left."""
    scene = make_scene(0, "train", 0)
    item = next(item for item in scene.objects if item.shape == "square")
    segment = item.segments[0]
    left, right = segment.start._replace(x=0.2, angle=0), segment.start._replace(x=0.8, angle=0)
    black = {"shots": (replace(scene.shots[0], level=0, contrast=0),), "brightness": (0, 1, 0), "noise": 0}
    return [
        replace(
            scene,
            objects=(replace(item, segments=(replace(segment, start_sec=0, end_sec=4, start=a, end=b),)),),
            distractors=(),
            **black,
        )
        for a, b in ((left, right), (right, left))
    ]


def test_blur_shows_the_line_and_a_trail_the_direction():
    """Reversed in time, a blurred movement looks the same, but not one with a trail; a sharp frame shows no movement."""
    right, left = moving_scene()
    numbers = (7, 8), (8, 9)  # the pictures on either side of the middle

    def pictures(**options):
        return render_frames(right, *numbers[0], **options)[0], render_frames(left, *numbers[1], **options)[0]

    blurred, mirrored = pictures(trail_sec=0)
    np.testing.assert_allclose(blurred.astype(int), mirrored, atol=2)
    sharp, _ = pictures(trail_sec=0, exposure_sec=0)
    assert (sharp > 20).any(axis=(0, 2)).sum() < (blurred > 20).any(axis=(0, 2)).sum()
    trailed, other = pictures()
    assert np.abs(trailed.astype(int) - other).max() > 50
    columns = np.flatnonzero((trailed > 20).any(axis=(0, 2)))
    body = np.flatnonzero((blurred > 20).any(axis=(0, 2)))
    assert columns.min() < body.min() - 3  # it comes from the left
    assert columns.max() == body.max()
