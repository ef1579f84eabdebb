import pytest
import torch

from modeling_r2tuning.points_r2tuning import (
    assign_targets,
    level_lengths,
    make_point_mask,
    make_points,
    offsets_to_moments,
)


INF = float("inf")


def assign(num_frames, strides, moments):
    """Targets of one video whose moments are all real."""
    points = make_points(num_frames, strides)
    mask = make_point_mask(points, torch.tensor([num_frames]))
    moments = torch.tensor(moments, dtype=torch.float32).reshape(1, -1, 2)
    positive, offsets = assign_targets(points, mask, moments, torch.ones(moments.shape[:2]).bool())
    return points, positive[0], offsets[0]


# ---- points ------------------------------------------------------------------------------------------------------


def test_points_of_five_frames():
    """Positions, ranges and strides by hand; an odd last frame has no point on level 2."""
    want = [
        *[[position, 0, 2, 1] for position in range(5)],
        *[[0, 2, 4, 2], [2, 2, 4, 2]],
        [0, 4, INF, 4],
    ]
    assert torch.equal(make_points(5, [1, 2, 4]), torch.tensor(want, dtype=torch.float32))


def test_a_level_too_long_for_the_video_is_dropped_and_the_others_keep_their_ranges():
    want = [[0, 0, 2, 1], [1, 0, 2, 1], [2, 0, 2, 1], [0, 2, 4, 2]]
    assert torch.equal(make_points(3, [1, 2, 4, 8]), torch.tensor(want, dtype=torch.float32))
    assert level_lengths(3, [1, 2, 4, 8]) == [3, 1, 0, 0]


def test_a_single_level_covers_every_length():
    points = make_points(4, [1])
    assert points[:, 1:].tolist() == [[0, INF, 1]] * 4


@pytest.mark.parametrize("longest", [8, 13])
def test_a_videos_points_in_a_batch_are_those_it_has_alone(longest):
    strides, lengths = [1, 2, 4, 8], torch.arange(1, longest + 1)
    points = make_points(longest, strides)
    mask = make_point_mask(points, lengths)
    for length, row in zip(lengths.tolist(), mask, strict=True):
        assert torch.equal(points[row], make_points(length, strides))


# ---- targets -----------------------------------------------------------------------------------------------------


def test_three_points_and_one_moment():
    """Moment [0.5, 2.5]: its centre is 1.5; point 0 lies outside, 1 and 2 inside, 3 outside."""
    _, positive, offsets = assign(4, [1], [[0.5, 2.5]])
    assert positive.tolist() == [False, True, True, False]
    assert offsets[positive].tolist() == [[0.5, 1.5], [1.5, 0.5]]
    assert not offsets[~positive].any()


def test_only_points_near_the_centre_are_positive():
    """Moment [0, 9], centre 4.5: 3, 4, 5 and 6 are at most 1.5 strides away, both ends included."""
    _, positive, _ = assign(10, [1], [[0, 9]])
    assert positive.nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_the_farther_end_decides_the_level():
    """Moment [2, 8]: its farther end is never within 2 frames, within 4 from the points 4 and 6, beyond 4 from 8."""
    points, positive, offsets = assign(16, [1, 2, 4], [[2, 8]])
    assert points[positive][:, [0, 3]].tolist() == [[4, 2], [6, 2], [4, 4], [8, 4]]
    assert offsets[positive].tolist() == [[1, 2], [2, 1], [0.5, 1], [1.5, 0]]


def test_ends_and_ranges_are_inclusive():
    """Moment [2, 4]: its ends are points, and at a distance of 2 frames both levels are positive."""
    points, positive, _ = assign(8, [1, 2], [[2, 4]])
    assert points[positive][:, [0, 3]].tolist() == [[2, 1], [3, 1], [4, 1], [2, 2], [4, 2]]


@pytest.mark.parametrize("moments", [[[0, 9], [4, 6]], [[4, 6], [0, 9]]])
def test_the_shortest_of_several_moments_is_assigned(moments):
    points, positive, offsets = assign(10, [1], moments)
    ends = offsets_to_moments(points, offsets)
    assert ends[4].tolist() == ends[5].tolist() == ends[6].tolist() == [4, 6]
    assert ends[3].tolist() == [0, 9]
    assert positive.nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_a_point_beyond_the_video_is_never_positive():
    """A moment that ends with its video ends at a point which is padding in a longer batch."""
    points = make_points(8, [1, 2])
    mask = make_point_mask(points, torch.tensor([4, 8]))
    moments = torch.tensor([[[2.0, 4.0]], [[2.0, 4.0]]])
    positive, _ = assign_targets(points, mask, moments, torch.ones(2, 1).bool())
    assert points[positive[0]][:, [0, 3]].tolist() == [[2, 1], [3, 1], [2, 2]]
    assert points[positive[1]][:, [0, 3]].tolist() == [[2, 1], [3, 1], [4, 1], [2, 2], [4, 2]]


def test_a_masked_moment_has_no_effect():
    """Whatever its values are; if all moments are masked, no point is positive."""
    points = make_points(6, [1, 2])
    mask = make_point_mask(points, torch.tensor([6, 6]))
    moments = torch.tensor([[[1.0, 4.0], [0.0, 0.0]], [[2.0, 3.0], [1.0, 5.0]]])
    moment_mask = torch.tensor([[True, False], [False, False]])
    positive, offsets = assign_targets(points, mask, moments, moment_mask)
    _, want, want_offsets = assign(6, [1, 2], [[1, 4]])
    assert torch.equal(positive[0], want)
    assert torch.equal(offsets[0], want_offsets)
    assert not positive[1].any()


def test_a_video_without_moments_has_no_positive_point():
    _, positive, offsets = assign(6, [1, 2], [])
    assert not positive.any()
    assert offsets.shape == (9, 2)


def assign_slowly(points, moments):
    """Targets of one video, point by point and moment by moment."""
    for position, lower, upper, stride in points:
        fitting = []
        for start, end in moments:
            inside = start <= position <= end
            central = abs(position - (start + end) / 2) <= 1.5 * stride
            if inside and central and lower <= max(position - start, end - position) <= upper:
                fitting.append((end - start, (position - start) / stride, (end - position) / stride))
        yield min(fitting)[1:] if fitting else None


@pytest.mark.parametrize("seed", range(5))
def test_targets_equal_those_of_a_slow_version(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths, strides = torch.tensor([37, 20, 5]), [1, 2, 4, 8]
    # Sixteenths are exact in float32.
    moments = (torch.rand(3, 6, 2, generator=generator) * lengths[:, None, None] * 16).round() / 16
    moments = moments.sort(dim=-1).values
    mask = torch.rand(3, 6, generator=generator) < 0.7
    points = make_points(37, strides)
    point_mask = make_point_mask(points, lengths)
    positive, offsets = assign_targets(points, point_mask, moments, mask)
    for row in range(3):
        assert not positive[row, ~point_mask[row]].any()
        want = list(assign_slowly(points[point_mask[row]].tolist(), moments[row, mask[row]].tolist()))
        got = offsets[row, point_mask[row]].tolist()
        assert positive[row, point_mask[row]].tolist() == [target is not None for target in want]
        assert [tuple(g) for g, w in zip(got, want, strict=True) if w] == [w for w in want if w]


def test_decoding_targets_gives_back_their_moments():
    moments = [[1.25, 3.5], [10.0, 19.0], [24.0, 31.5]]
    points, positive, offsets = assign(32, [1, 2, 4, 8], moments)
    decoded = offsets_to_moments(points, offsets)[positive]
    assert {tuple(moment) for moment in decoded.tolist()} == {tuple(moment) for moment in moments}


def test_offsets_are_in_strides():
    points = torch.tensor([[4.0, 0.0, 2.0, 1.0], [8.0, 4.0, INF, 4.0]])
    offsets = torch.tensor([[[1.0, 2.0], [0.5, 1.0]]])
    assert offsets_to_moments(points, offsets).tolist() == [[[3, 6], [6, 12]]]
