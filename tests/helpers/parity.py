"""Weights and inputs made by a formula, and what the released code gives for them.

A folder holds `cases.json`, `shapes.json` and one `.npz` of expected arrays for each case: `tests/fixtures` for the
small case S1, the shared data for all others. Names and values are the released code's.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np


FIXTURES = Path(__file__).parents[1] / "fixtures"
FULL_SIZE = {"K": 4, "P": 50, "vision_width": 768, "text_width": 512}
# A constant added to every logit of a softmax: their gradient is zero, and what is computed is rounding noise.
NOISE = ("adapter.v_map.bias", "adapter.tem.cross_att.k.bias", "adapter.tem.self_att.k.bias")


def draw(name, shape, mean=0.0, std=1.0):
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(math.prod(shape))
    return (mean + std * values).astype(np.float32).reshape(shape)


def draw_weight(key, shape):
    if key.endswith(("_loss_sal.scale", "logit_scale")):
        return np.full(shape, math.log(1 / 0.07), np.float32)
    special = {"coef": (1.0, 0.1), "adapter.gate": (0.0, 0.5), "adapter.scale": (0.6, 0.2)}
    if key in special:
        return draw(key, shape, *special[key])
    if len(shape) >= 2:
        return draw(key, shape, std=math.prod(shape[1:]) ** -0.5)
    return draw(key, shape, 1.0, 0.1) if key.endswith("weight") else draw(key, shape, std=0.05)


def read_json(folder, name):
    return json.loads((Path(folder) / f"{name}.json").read_text())


def released_weights(folder, which):
    return {key: draw_weight(key, tuple(shape)) for key, shape in read_json(folder, "shapes")[which].items()}


def released_case(folder, name):
    """Entry of `cases.json` with `video` `(T, K, P, width)` and `query` `(L, K, width)` of each sample."""
    case = read_json(folder, "cases")[name]
    size = {**FULL_SIZE, **case.get("config", {})}
    shapes = {
        "video": [(length, size["K"], size["P"], size["vision_width"]) for length in case["T"]],
        "query": [(length, size["K"], size["text_width"]) for length in case["L"]],
    }
    for kind, each in shapes.items():
        # Cached features are stored in half precision.
        case[kind] = [draw(f"{name}/{kind}/{i}", shape).astype(np.float16) for i, shape in enumerate(each)]
    return case


def expected(folder, name, prefix=""):
    """Arrays of one `.npz` whose name begins with `prefix`, which is taken off."""
    with np.load(Path(folder) / f"{name}.npz") as stored:
        return {key.removeprefix(prefix): stored[key] for key in stored.files if key.startswith(prefix)}
