"""What the tests of the export share: the graphs, sizes of their inputs, and the comparison of answers."""

import pytest

from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS
from r2tuning.export.graphs import FramesGraph, HeadsGraph, TextGraph


GRAPHS = {"frames": FramesGraph, "text": TextGraph, "heads": HeadsGraph}
SMALL = {"num_recurrent_steps": 2, "strides": (1, 2)}
# Sizes of inputs, among them 1, which tracers are tempted to take for a constant; frames of heads are even here.
SIZES = {
    "frames": [{"num_windows": 1, "num_frames": 1}, {"num_windows": 3, "num_frames": 40}],
    "text": [{"batch": 1, "text_length": 1}, {"batch": 5, "text_length": 16}],
    "heads": [
        {"num_videos": 1, "num_queries": 1, "num_frames": 4, "text_length": 1},
        {"num_videos": 1, "num_queries": 4, "num_frames": 34, "text_length": 9},
        {"num_videos": 3, "num_queries": 1, "num_frames": 10, "text_length": 16},
    ],
}
QUERIES = ["a red disc crosses the picture", "x", "a man opens the door and then " + "laughs " * 30]


def fields_of(method):
    """Fields of a tiny configuration with this method."""
    return {"method": method, "num_recurrent_steps": 1 if METHOD_SPECS[method].reads_last_layer_only else 2}


def assert_same(found, expected):
    """Compare answers: numbers up to rounding, everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert found == expected
