"""Greedy pairing, against a plain version, and measures that do not depend on the other queries."""

import numpy as np

from dataset_scripts.metrics.alignment import Query
from dataset_scripts.metrics.generalized import measure_pairs
from dataset_scripts.metrics.multi_moment import measure_queries
from dataset_scripts.metrics.pairing import pair_greedily


def plain_pairs(ious, threshold):
    """IoU of the moment that each prediction takes, NaN where it takes none."""
    free = list(range(len(ious[0])))
    pairs = []
    for row in ious:
        best = max(free, key=lambda moment: row[moment], default=None)  # the first of equal ones
        if best is None or row[best] < threshold:
            pairs.append(np.nan)
        else:
            free.remove(best)
            pairs.append(row[best])
    return pairs


def test_equal_to_the_plain_version():
    generator = np.random.default_rng(0)
    ious = generator.integers(0, 5, (40, 4, 3)) / 4  # with ties and zeros
    thresholds = np.array([0.5, 0.0, -1.0])
    pairs = pair_greedily(ious, thresholds)
    for query, rows in enumerate(ious):
        for index, threshold in enumerate(thresholds):
            np.testing.assert_array_equal(pairs[query, :, index], plain_pairs(rows, threshold))


def test_what_cannot_be_paired():
    ious = np.full((1, 2, 2), -np.inf)
    ious[0, 1, 1] = 0.0
    assert np.isnan(pair_greedily(ious, np.array([-1.0]))[0, 0, 0])
    assert pair_greedily(ious, np.array([-1.0]))[0, 1, 0] == 0


def random_queries():
    """Queries with 1 to 30 moments and 0 to 15 predictions."""
    generator = np.random.default_rng(1)
    queries = []
    for number in range(30):
        moments = np.sort(generator.integers(0, 100, (number + 1, 2)), axis=1) + [0, 1]
        windows = np.sort(generator.integers(0, 100, (number // 2, 2)), axis=1) + [0, 1]
        scores = generator.random((len(windows), 1))
        record = {"pred_relevant_windows": np.hstack([windows, scores]).tolist()}
        queries.append(Query(str(number), [record], [{"moments": moments.tolist()}]))
    return queries


def test_queries_are_measured_alike_alone_and_together():
    queries = random_queries()
    together = measure_pairs(queries)
    assert np.nansum(together.iou) > 0
    for index, query in enumerate(queries):
        for values, alone in zip(together, measure_pairs([query]), strict=True):
            np.testing.assert_array_equal(values[index], alone[0])


def test_order_of_queries_does_not_matter():
    queries = random_queries()
    forwards, backwards = measure_queries(queries)["full"], measure_queries(queries[::-1])["full"]
    # Queries are grouped by size, so the order within the result is that of the groups.
    order, other = np.argsort(forwards.num_moments), np.argsort(backwards.num_moments)
    assert len(order) == len(queries)
    for values, others in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(values[order], others[other])
