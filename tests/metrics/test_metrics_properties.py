"""The vectorised metrics against slow plain versions, and what must hold for any predictions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_scripts.metrics import compute_scores, score_highlights, score_moments
from dataset_scripts.metrics.highlights import youtube_average_precision
from dataset_scripts.metrics.summaries import tvsum_average_precision


THRESHOLDS = [step / 100 for step in range(50, 100, 5)]
RECALL_THRESHOLDS = [step / 100 for step in range(30, 100, 5)]
RANGES = {"full": (-math.inf, math.inf), "long": (30, math.inf), "middle": (10, 30), "short": (0, 10)}
LEVELS = {"HL-min-Fair": 2, "HL-min-Good": 3, "HL-min-VeryGood": 4}
examples = settings(max_examples=80)


def plain_iou(window, moment, hull):
    overlap = max(0.0, min(window[1], moment[1]) - max(window[0], moment[0]))
    if hull:
        union = max(window[1], moment[1]) - min(window[0], moment[0])
        return overlap / union if union else 0.0
    union = (window[1] - window[0]) + (moment[1] - moment[0]) - overlap
    return overlap / union if union else math.inf  # 0 / 0 is not below any threshold


def plain_moment_ap(windows, moments, threshold):
    free, hits = dict(enumerate(moments)), []
    for window in sorted(windows, key=lambda window: -window[2]):
        fitting = [(plain_iou(window, moment, False), index) for index, moment in free.items()]
        fitting = [pair for pair in fitting if pair[0] >= threshold]
        hits.append(bool(fitting))
        if fitting:
            free.pop(max(fitting)[1])
    precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    return sum(max(precision[n:]) for n, hit in enumerate(hits) if hit) / len(moments)


def plain_recall_iou(windows, moments):
    pairs = [
        (0.0 if plain_iou(*pair, False) == math.inf else plain_iou(*pair, False), plain_iou(*pair, True))
        for pair in itertools.product(windows, moments)
    ]
    return max(pairs, default=(0.0, 0.0), key=lambda pair: pair[0])[1]


def plain_moments(predictions, references, above, up_to):
    """Unrounded mAP by threshold, R1, R5 and mIoU of a range; `None` without a query."""
    windows = {str(record["qid"]): record["pred_relevant_windows"] for record in predictions}
    ap, first, five = [], [], []
    for row in references:
        moments = [moment for moment in row["moments"] if above < moment[1] - moment[0] <= up_to]
        if moments:
            some = windows.get(row["qid"], [])
            ap.append([plain_moment_ap(some[:10], moments, threshold) for threshold in THRESHOLDS])
            first.append(plain_recall_iou(some[:1], moments))
            five.append(plain_recall_iou(some[:5], moments))
    if not ap:
        return None
    recall = [[np.mean([iou >= at for iou in ious]) for at in RECALL_THRESHOLDS] for ious in (first, five)]
    return [*np.mean(ap, axis=0), np.mean(ap), *recall[0], *recall[1], np.mean(first)]


def plain_highlight_ap(scores, positive):
    precision, hits = [0.0], []
    for threshold in sorted(set(scores)):
        chosen = [label for label, score in zip(positive, scores, strict=True) if score >= threshold]
        precision.append(max(precision[-1], sum(chosen) / len(chosen)))
        hits.append(sum(chosen))
    hits.append(0)
    terms = [precision[n + 1] for n in range(len(hits) - 1) if hits[n] != hits[n + 1]]
    return np.mean(terms) if terms else 0.0


def plain_highlights(predictions, references, level):
    """Unrounded mAP and HIT@1."""
    predicted = {str(record["qid"]): record["pred_saliency_scores"] for record in predictions}
    ap, hits = [], []
    for row in references:
        annotated, scores = row["saliency"]["scores"], predicted.get(row["qid"], [])
        padded = [*scores, *[0.0] * len(annotated)][: len(annotated)]
        for annotator in zip(*annotated, strict=True):
            ap.append(plain_highlight_ap(padded, [score >= level for score in annotator]) if scores else 0.0)
        top = scores.index(max(scores)) if scores else len(annotated)
        hits.append(top < len(annotated) and max(annotated[top]) >= level)
    return [np.mean(ap), np.mean(hits)]


def plain_trapezoids(labels):
    total, hits, ap, recall, precision = sum(labels), 0, 0.0, 0.0, 1.0
    for n, label in enumerate(labels, 1):
        hits += label
        ap += (hits / max(total, 1) - recall) * (precision + hits / n) / 2
        recall, precision = hits / max(total, 1), hits / n
    return ap


second = st.integers(0, 20).map(lambda step: step * 2.5)
moment = st.tuples(second, second).map(sorted)
window = st.tuples(st.one_of(st.tuples(second, second), moment), st.sampled_from([0.1, 0.5, 0.9])).map(
    lambda pair: [*pair[0], pair[1]]
)
several = st.lists(moment, min_size=1, max_size=6)
score = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])
label = st.sampled_from([0, 1, 2, 3, 4])


@st.composite
def cases(draw, moments=several, annotators=3):
    """Predictions and references of up to six queries, with ties, gaps, reversed and empty intervals."""
    predictions, references = [], []
    for qid in range(draw(st.integers(1, 6))):
        clips = draw(st.integers(1, 8))
        annotated = draw(st.lists(st.tuples(*[label] * annotators).map(list), min_size=clips, max_size=clips))
        wanted = draw(moments)
        query = " ".join(["word"] * draw(st.integers(0, 50)))
        references.append({"qid": str(qid), "query": query, "moments": wanted, "saliency": {"scores": annotated}})
        windows = draw(st.lists(st.one_of(window, st.sampled_from(wanted).map(lambda w: [*w, 0.5])), max_size=13))
        scores = draw(st.lists(score, max_size=10))
        predictions.append({"qid": qid, "pred_relevant_windows": windows, "pred_saliency_scores": scores})
    return predictions, references


def numbers(figures):
    for figure in figures.values():
        yield from numbers(figure) if isinstance(figure, dict) else [figure]


def moment_figures(scores):
    return [*scores["MR-mAP"].values(), *scores["MR-R1"].values(), *scores["MR-R5"].values(), scores["MR-mIoU"]]


@given(cases())
@examples
def test_equal_to_the_plain_versions(case):
    scores = compute_scores("qvhighlights", *case)
    for name, (above, up_to) in RANGES.items():
        got, want = moment_figures(scores[name]), plain_moments(*case, above, up_to)
        if want is None:
            assert set(got) == {None}
        else:
            assert got == pytest.approx([100 * figure for figure in want], abs=0.00501)
    for name, level in LEVELS.items():
        want = [100 * figure for figure in plain_highlights(*case, level)]
        assert list(scores[name].values()) == pytest.approx(want, abs=0.00501)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=12, unique_by=lambda x: x[0]))
@examples
def test_the_trapezoidal_rule_equals_the_plain_version(clips):
    """For scores without ties, whose order is not defined in the released code."""
    scores, match = map(list, zip(*clips, strict=True))
    ranked = [labelled for _, labelled in sorted(clips, reverse=True)]
    assert youtube_average_precision(scores, match) == pytest.approx(plain_trapezoids(ranked))
    annotation = [[1 + labelled, 5] for labelled in match]
    above = [labelled and sum(match) <= len(match) // 2 for labelled in ranked]
    assert tvsum_average_precision(scores, annotation) == pytest.approx(plain_trapezoids(above[:5]) / 2)


@given(cases(), st.randoms(use_true_random=False))
@examples
def test_order_of_queries_does_not_matter(case, random):
    """Except for the last digit of a mean half-way between two, since sums are rounded in the order of addition."""
    shuffled = [random.sample(side, len(side)) for side in case]
    want, got = (list(numbers(compute_scores("qvhighlights", *some))) for some in (case, shuffled))
    assert [figure is None for figure in got] == [figure is None for figure in want]
    assert [f for f in got if f is not None] == pytest.approx([f for f in want if f is not None], abs=0.0101)


@given(cases())
@examples
def test_within_bounds(case):
    scores = compute_scores("qvhighlights", *case)
    scores.pop("by_query_length")
    assert all(0 <= figure <= 100 for figure in numbers(scores) if figure is not None)


@given(cases(moments=st.lists(moment.filter(lambda m: m[0] < m[1]), min_size=1, max_size=10), annotators=1))
@examples
def test_exact_predictions_score_100(case):
    _, references = case
    for row in references:
        row["saliency"]["scores"].append([4])  # without a positive clip nothing can be found
    predictions = [
        {
            "qid": row["qid"],
            "pred_relevant_windows": [[*moment, 1.0] for moment in row["moments"]],
            "pred_saliency_scores": [annotated for (annotated,) in row["saliency"]["scores"]],
        }
        for row in references
    ]
    scores = compute_scores("qvhighlights", predictions, references)
    assert set(moment_figures(scores["full"])) == {100}
    assert {figure for level in LEVELS for figure in scores[level].values()} == {100}


@given(cases())
@examples
def test_wrong_predictions_after_the_others_never_lower_the_map(case):
    """Wrong: IoU below the lowest threshold with every moment. The rule fails for predictions that fit several moments."""
    predictions, references = case
    better = []
    for record, row in zip(predictions, references, strict=True):
        some = record["pred_relevant_windows"]
        fits = [any(plain_iou(window, moment, False) >= 0.5 for moment in row["moments"]) for window in some]
        moved = [[*window[:2], window[2] if fit else -1.0] for window, fit in zip(some, fits, strict=True)]
        better.append({**record, "pred_relevant_windows": moved})
    old, new = (score_moments(some, references)["full"]["MR-mAP"] for some in (predictions, better))
    assert all(new[threshold] >= old[threshold] for threshold in old)


@given(cases(moments=st.lists(moment, min_size=1, max_size=1)))
@examples
def test_raising_the_closest_prediction_never_lowers_the_map(case):
    """With one moment per query, at every threshold. R1, R5 and mIoU depend on the order of the list and stay the same."""
    predictions, references = case
    better = []
    for record, row in zip(predictions, references, strict=True):
        some = record["pred_relevant_windows"][:10]
        overlaps = [plain_iou(window, row["moments"][0], False) for window in some]
        best = overlaps.index(max(overlaps)) if some else None
        moved = [[*window[:2], 2.0 if index == best else window[2]] for index, window in enumerate(some)]
        better.append({**record, "pred_relevant_windows": moved})
    old, new = (score_moments(some, references)["full"] for some in (predictions, better))
    assert all(new["MR-mAP"][threshold] >= old["MR-mAP"][threshold] for threshold in old["MR-mAP"])
    assert {**new, "MR-mAP": None} == {**old, "MR-mAP": None}


@given(st.lists(label, min_size=1, max_size=12), st.randoms(use_true_random=False), st.data())
@examples
def test_raising_a_positive_unit_never_lowers_the_highlight_scores(annotated, random, data):
    """For one annotator and scores without ties: a tie is one threshold, and breaking it may lower the mean."""
    scores = random.sample(range(100), len(annotated))
    clip = data.draw(st.integers(0, len(annotated) - 1))
    raised = [*scores]
    raised[clip] = data.draw(st.sampled_from([value + 0.5 for value in scores if value >= scores[clip]]))
    reference = [{"qid": "1", "saliency": {"scores": [[some] for some in annotated]}}]
    old, new = (score_highlights([{"qid": "1", "pred_saliency_scores": s}], reference) for s in (scores, raised))
    for name, level in LEVELS.items():
        if annotated[clip] >= level:
            assert new[name]["HL-mAP"] >= old[name]["HL-mAP"]
            assert new[name]["HL-Hit1"] >= old[name]["HL-Hit1"]
    match = [some - 2 for some in annotated]
    if match[clip] > 0:
        assert youtube_average_precision(raised, match) >= youtube_average_precision(scores, match) - 1e-12
