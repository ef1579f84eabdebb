import gzip
import json

import numpy as np
import parity
import pytest
import torch

from modeling_r2tuning.decoding_r2tuning import (
    decode_outputs,
    decode_saliency,
    owned_frames,
    refine_moments,
    select_highlights,
    select_summary,
    sort_by_score,
    temporal_iou,
    temporal_nms,
)
from modeling_r2tuning.points_r2tuning import make_point_mask, make_points
from r2tuning import convert_original_checkpoint


INPUTS = {"video_hidden_states": "video", "text_hidden_states": "query"}
METHODS = {"normal": "hard", "linear": "linear", "gaussian": "gaussian"}


def slow_nms(moments, scores, method, threshold=0.7, sigma=0.5):
    """The released loop: move the best remaining row to the front, then lower the scores of the rest."""
    rows = [[*moment, score] for moment, score in zip(moments.tolist(), scores.tolist(), strict=True)]
    for i in range(len(rows)):
        best = max(range(i, len(rows)), key=lambda j: rows[j][2])
        rows[i], rows[best] = rows[best], rows[i]
        for row in rows[i + 1 :]:
            overlap = max(0.0, min(row[1], rows[i][1]) - max(row[0], rows[i][0]))
            union = row[1] - row[0] + rows[i][1] - rows[i][0] - overlap
            iou = overlap / union if union > 0 else 0.0
            decay = {"hard": float(iou < threshold), "linear": 1 - iou, "gaussian": np.exp(-(iou**2) / sigma)}
            row[2] *= decay[method]
    return sorted(row[2] for row in rows)


def random_moments(generator, batch, count):
    moments = torch.rand(batch, count, 2, generator=generator).mul(60).round().sort(dim=-1).values
    return moments, torch.rand(batch, count, generator=generator)


def refine_case(rows, case):
    rows = torch.tensor(np.asarray(rows), dtype=torch.float32)[None]
    nms = case["nms"] or {}
    moments, scores = refine_moments(
        rows[..., :2],
        rows[..., 2],
        torch.tensor([float(case["duration"])]),
        METHODS[nms["type"]] if nms else None,
        nms.get("thres", 0.7),
        case["unit"],
    )
    return torch.cat([moments, scores[..., None]], dim=-1)[0].numpy()


def same_rows(got, want):
    """Whether two lists of rows agree as sets, moments to 1 ms and scores to 1e-5 (both are float32)."""
    return np.allclose(sorted(map(tuple, got.round(4))), sorted(map(tuple, want.round(4))), atol=1e-3)


@pytest.mark.parametrize("index", range(12))
def test_post_processing_equals_the_released_code(shared_data, index):
    arrays = parity.expected(shared_data / "parity", "nms", f"{index}/")
    got = refine_case(arrays["in"], parity.read_json(shared_data / "parity", "nms")[index])
    assert same_rows(got, arrays["out"])
    assert (np.diff(got[:, 2]) <= 0).all()


def test_post_processing_equals_the_released_evaluation(shared_data):
    with gzip.open(shared_data / "metrics/postprocessing.json.gz") as file:
        cases = json.load(file)
    for case in cases:
        want, got = np.array(case["output"]), refine_case(case["input"], case)
        assert np.isfinite(got).all()  # where both windows are empty, the released code gives NaN
        assert np.isnan(want).any() or same_rows(got, want)
    assert sum(not np.isnan(np.array(case["output"])).any() for case in cases) == 44


def assert_decoded(model, case, sample, want):
    """Compare saliency, and the 50 best moments as a set, with what the released model returns."""
    inputs = {name: torch.from_numpy(case[key][sample])[None].float() for name, key in INPUTS.items()}
    with torch.no_grad():
        decoded = decode_outputs(model(**inputs))
    np.testing.assert_allclose(decoded.saliency[0], want["saliency"], atol=2e-5, rtol=2e-4)
    moments, scores = sort_by_score(decoded.moments / case["fps"][sample], decoded.scores, 50)
    assert same_rows(torch.cat([moments, scores[..., None]], dim=-1)[0].numpy(), want["boundary"])


@pytest.mark.parametrize("sample", [0, 3, 4])
def test_small_model_decodes_as_the_released_code(tiny_clip_config, sample):
    state = {k: torch.from_numpy(v) for k, v in parity.released_weights(parity.FIXTURES, "s1").items()}
    model = convert_original_checkpoint(
        state, benchmark="qvhighlights", backbone_config=tiny_clip_config, num_attention_heads=4
    )
    case = parity.released_case(parity.FIXTURES, "S1")
    assert_decoded(model, case, sample, parity.expected(parity.FIXTURES, "S1", f"eval/{sample}/"))


@pytest.mark.parametrize("name", ["A", "C"])
def test_full_model_decodes_as_the_released_code(shared_data, name):
    folder = shared_data / "parity"
    state = {k: torch.from_numpy(v) for k, v in parity.released_weights(folder, "qvhighlights").items()}
    model = convert_original_checkpoint(state, benchmark="qvhighlights")
    assert_decoded(model, parity.released_case(folder, name), 0, parity.expected(folder, name))


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_nms_equals_a_slow_version_for_every_row_of_a_batch(method):
    moments, scores = random_moments(torch.Generator().manual_seed(0), 4, 25)
    got = temporal_nms(moments, scores, method)
    for row in range(4):
        assert sorted(got[row].tolist()) == pytest.approx(slow_nms(moments[row], scores[row], method), abs=1e-6)


def test_hard_nms_twice_changes_nothing():
    moments, scores = random_moments(torch.Generator().manual_seed(1), 2, 20)
    once = temporal_nms(moments, scores, "hard")
    assert torch.equal(temporal_nms(moments, once, "hard"), once)


def test_nms_ignores_padding():
    moments, scores = random_moments(torch.Generator().manual_seed(2), 1, 10)
    padded = torch.cat([moments, moments[:, :3]], dim=1), torch.cat([scores, torch.full((1, 3), -1.0)], dim=1)
    got = temporal_nms(*padded, "linear")
    assert torch.equal(got[:, :10], temporal_nms(moments, scores, "linear"))
    assert (got[:, 10:] == -1).all()


def test_iou_by_hand():
    first, second = torch.tensor([[0.0, 10.0], [4.0, 4.0]]), torch.tensor([[5.0, 15.0], [4.0, 4.0], [0.0, 10.0]])
    assert temporal_iou(first, second).flatten().tolist() == pytest.approx([1 / 3, 0, 1, 0, 0, 0])


def test_moments_are_clamped_and_only_free_ends_rounded():
    moments = torch.tensor([[[-1.0, 5.0], [3.2, 31.0], [3.0, 9.0]]])
    got, _ = refine_moments(moments, torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([30.5]), None, round_to=2.0)
    assert got[0].tolist() == [[0, 4], [pytest.approx(3.2), 30.5], [4, 8]]  # 2.5 and 1.5 units round to 2


def test_equal_scores_keep_their_order():
    moments = torch.arange(6.0).view(1, 3, 2)
    assert torch.equal(sort_by_score(moments, torch.ones(1, 3))[0], moments)


def test_saliency_repeats_scores_and_takes_the_best_level():
    """T = 5, strides 1 2 4: levels of 5, 2 and 1 points repeat 1, 2 and 5 times; the second fills up with its last."""
    points = make_points(5, [1, 2, 4])
    levels = torch.tensor([[0.1, 0.9, 0.1, 0.1, 0.1, 0.3, 0.6, 0.2]])
    mask = make_point_mask(points, torch.tensor([5]))
    frame_mask = torch.ones(1, 5, dtype=torch.bool)
    similarity = torch.tensor([[1.0, 1.0, 0.5, 1.0, -1.0]])
    got = decode_saliency(levels.logit(), similarity, points, mask, frame_mask, merge=True)
    assert got[0].tolist() == pytest.approx([0.3, 0.9, 0.3, 0.6, -0.6])
    got = decode_saliency(levels.logit(), similarity, points, mask, frame_mask, merge=False)
    assert got[0].tolist() == pytest.approx([0.3, 0.9, 0.6, 0.6, 0.6])


def test_saliency_of_a_padded_video_equals_its_own():
    generator = torch.Generator().manual_seed(3)
    alone, padded = make_points(7, [1, 2, 4, 8]), make_points(20, [1, 2, 4, 8])
    mask = make_point_mask(padded, torch.tensor([7]))
    logits = torch.randn(1, len(padded), generator=generator)
    similarity = torch.randn(1, 20, generator=generator)
    frame_mask = torch.arange(20)[None] < 7
    ones = torch.ones(1, len(alone), dtype=torch.bool)
    want = decode_saliency(logits[mask][None], similarity[:, :7], alone, ones, frame_mask[:, :7], merge=True)
    got = decode_saliency(logits, similarity, padded, mask, frame_mask, merge=True)
    assert torch.equal(got[:, :7], want)
    assert (got[:, 7:] == 0).all()


def test_windows_own_every_frame_once():
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[2, 6:] = False
    starts = torch.tensor([0, 4, 8])
    owned = owned_frames(mask, starts)
    frames = [start + i for start, (a, b) in zip([0, 4, 8], owned.tolist(), strict=True) for i in range(a, b)]
    assert frames == list(range(14))


def test_frames_between_windows_are_owned_by_none():
    owned = owned_frames(torch.ones(3, 8, dtype=torch.bool), torch.tensor([4, 8, 40]))
    assert owned.tolist() == [[0, 6], [2, 8], [0, 8]]


def test_windows_are_merged_without_duplicates():
    """Two windows of 6 frames overlap in 2..5: the first owns the frames and points 0-3, the second the rest."""
    points = make_points(6, [1])
    outputs = {
        "logits": torch.zeros(2, 6),
        "points": points,
        "point_mask": torch.ones(2, 6, dtype=torch.bool),
        "frame_mask": torch.ones(2, 6, dtype=torch.bool),
        "boundary_offsets": torch.ones(2, 6, 2),
        "saliency_scores": torch.stack([torch.full((6,), 0.2), torch.full((6,), 0.8)]),
        "query_index": torch.tensor([0, 0]),
        "window_starts": torch.tensor([0, 2]),
    }
    decoded = decode_outputs(outputs)
    kept = decoded.scores[0] >= 0
    assert decoded.moments[0][kept].tolist() == [[p - 1, p + 1] for p in range(8)]
    assert decoded.saliency[0].tolist() == pytest.approx([0.1] * 4 + [0.4] * 4)
    assert decoded.num_frames.tolist() == [8]


@pytest.mark.parametrize("num_queries", [1, 2])
def test_a_query_is_as_present_as_in_the_window_that_shows_it_best(num_queries):
    """Three windows; rows are ordered by query and then by window."""
    logits = torch.tensor([-3.0, 2.0, 0.5, -1.0, -2.0, -0.5])[: 3 * num_queries]
    outputs = {
        "logits": torch.zeros(3 * num_queries, 6),
        "existence_logits": logits,
        "points": make_points(6, [1]),
        "point_mask": torch.ones(3 * num_queries, 6, dtype=torch.bool),
        "frame_mask": torch.ones(3 * num_queries, 6, dtype=torch.bool),
        "boundary_offsets": torch.ones(3 * num_queries, 6, 2),
        "saliency_scores": torch.zeros(3 * num_queries, 6),
        "query_index": torch.arange(num_queries).repeat_interleave(3),
        "window_starts": torch.tensor([0, 3, 6]).repeat(num_queries),
    }
    assert decode_outputs(outputs).existence.tolist() == [2.0, -0.5][:num_queries]
    del outputs["existence_logits"]
    assert decode_outputs(outputs).existence is None


def test_highlights_are_the_best_frames():
    assert select_highlights(torch.tensor([0.1, 0.9, 0.5, 0.9]), 3) == [1, 3, 2]


@pytest.mark.parametrize(
    ("saliency", "fps", "duration", "share", "spans"),
    [
        ([0, 0, 9, 9, 0, 0, 5, 5, 0, 0], 1.0, 10.0, 0.4, [(2, 4), (6, 8)]),
        ([0, 9, 9, 0], 0.5, 8.0, 0.5, [(2, 6)]),
        ([0, 0, 0, 9], 0.5, 7.5, 0.25, [(6, 7.5)]),
        ([1], 0.5, 0.1, 0.15, [(0, 0.1)]),
        ([1, 2, 3, 4], 0.5, 8.0, 1.0, [(0, 8)]),
    ],
)
def test_summary_fills_its_share_with_the_best_units(saliency, fps, duration, share, spans):
    assert select_summary(torch.tensor(saliency, dtype=torch.float32), fps, duration, share) == spans
