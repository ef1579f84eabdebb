"""Scenes of Moving Shapes: the place and action of every object at every time of a video, drawn from a seed, no pixels.

A scene holds two to four coloured shapes, each combination of colour and shape at most once. An object is present in one
or more spells, in which it alternately rests and acts. All changes happen on whole seconds. Lengths and coordinates are
fractions of the frame's side, x to the right and y down, so a scene has no resolution.

Resting objects are clearly at a side or clearly in the middle, and clearly small, medium or large, so that a query is
either true or false, except for a short time while something moves or grows.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np


FPS = 4  # frames per second of a video; enough for moments, whole seconds and the motion blur of a frame

COLORS = {
    "red": (215, 40, 40),
    "green": (40, 180, 60),
    "blue": (55, 75, 230),
    "yellow": (235, 215, 45),
    "pink": (235, 85, 200),
    "cyan": (50, 210, 220),
}
# Extent of a shape from its centre, in units of its radius.
SHAPES = {"circle": 1.0, "square": 1.22, "triangle": 1.3, "ring": 1.0, "cross": 1.07}
COMBINATIONS = tuple(itertools.product(COLORS, SHAPES))
# Reserved for the split "test_unseen": each shape once, five of the six colours.
UNSEEN = (("red", "triangle"), ("green", "ring"), ("blue", "cross"), ("yellow", "circle"), ("pink", "square"))
SEEN = tuple(combination for combination in COMBINATIONS if combination not in UNSEEN)

ANGULAR = ("square", "triangle", "cross")  # the shapes whose spinning is visible

SPLITS = ("train", "val", "test", "test_unseen")
RADII = {"small": (0.072, 0.082), "medium": (0.112, 0.128), "large": (0.175, 0.2)}
# Centres of resting objects: at a side, in the middle, at the other side; objects only pass through the gaps.
ZONES = ((0.0, 0.37), (0.46, 0.54), (0.63, 1.0))
# Kinds of action and their frequency; each object has a repertoire of two of them, so that its actions repeat.
REPERTOIRE = {"horizontal": 0.25, "vertical": 0.25, "size": 0.3, "blink": 0.1, "spin": 0.1}
ACTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "blinks", "spins")
SPEEDS = (0.12, 0.36)  # of moves, in frame sides per second: 8 to 23 pixels at a size of 64
SHORTEST_MOVE = 0.25
SLOWEST_GROWTH = 0.018  # of the radius, in frame sides per second
SPIN_SPEEDS = (2.4, 2.65)  # radians per second: no square or triangle seems at rest at 1, 2 or 4 frames per second
CANDIDATES = 16  # drawn for a segment; the one that hides least of other objects is used


class Pose(NamedTuple):
    """Centre and radius of an object in frame sides, and its angle in radians."""

    x: float
    y: float
    radius: float
    angle: float = 0.0


@dataclass(frozen=True)
class Segment:
    """An interval in which an object performs one action, while its pose changes linearly from `start` to `end`.

    Attributes:
        start_sec: Whole second at which it begins.
        end_sec: Whole second at which it ends.
        action: One of `ACTIONS`, or "rests".
        start: Pose at the beginning.
        end: Pose at the end.
        phase: For "blinks": number of frames by which the rhythm is shifted.
    """

    start_sec: int
    end_sec: int
    action: str
    start: Pose
    end: Pose
    phase: int = 0


@dataclass(frozen=True)
class SceneObject:
    """A shape and its actions.

    Attributes:
        color: One of `COLORS`, or "grey" for a blob.
        shape: One of `SHAPES`, or "blob".
        rgb: The colour with a small random deviation.
        segments: Actions in order of time.
    """

    color: str
    shape: str
    rgb: tuple[float, float, float]
    segments: tuple[Segment, ...]

    @cached_property
    def _tracks(self) -> tuple[np.ndarray, ...]:
        """Start times, end times, start poses and end poses of all segments."""
        tracks = []
        for name in ("start_sec", "end_sec", "start", "end"):
            values = [getattr(segment, name) for segment in self.segments]
            tracks.append(np.array(values, dtype=np.float64))
        return tuple(tracks)

    def poses(self, times_sec: np.ndarray) -> np.ndarray:
        """Poses `(..., 4)` at the times `(...)`, NaN where the object is absent."""
        starts, ends, first, last = self._tracks
        index = np.maximum(np.searchsorted(starts, times_sec, side="right") - 1, 0)
        share = (times_sec - starts[index]) / (ends - starts)[index]
        present = (share >= 0) & (share < 1)
        poses = first[index] + share[..., None] * (last - first)[index]
        return np.where(present[..., None], poses, np.nan)

    @property
    def mean_radius(self) -> float:
        """Mean over the segments. Large objects are drawn first, so that small ones stay visible."""
        radii = [segment.start.radius + segment.end.radius for segment in self.segments]
        return sum(radii) / (2 * len(self.segments))


@dataclass(frozen=True)
class Shot:
    """A background, from one cut to the next.

    Attributes:
        start_sec: Time of the cut, 0 for the first shot.
        seed: Seed of the texture.
        level: Mean brightness, 0 to 255.
        contrast: Contrast of the texture.
        tint: Factor of each colour channel.
        cells: Number of cells of the texture per side.
        drift: Velocity of the texture, (x, y) in frame sides per second.
    """

    start_sec: int
    seed: int
    level: float
    contrast: float
    tint: tuple[float, float, float]
    cells: int
    drift: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Everything that is visible in a video.

    Attributes:
        duration_sec: Length, an even number of seconds.
        objects: The objects in drawing order.
        distractors: Grey blobs that no query is about, drawn before the objects.
        shots: Backgrounds.
        brightness: Amplitude, period in seconds and phase of the sine that the light follows.
        noise: Standard deviation of the camera's noise, on a scale of 255.
        noise_seed: Seed of that noise.
    """

    duration_sec: int
    objects: tuple[SceneObject, ...]
    distractors: tuple[SceneObject, ...]
    shots: tuple[Shot, ...]
    brightness: tuple[float, float, float]
    noise: float
    noise_seed: int

    @property
    def num_frames(self) -> int:
        """Number of frames of the video."""
        return self.duration_sec * FPS


def random_stream(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """The random generator of one video for one purpose, independent of all others.

    Args:
        seed: Seed of the benchmark, at least 0.
        split: One of `SPLITS`.
        index: Number of the video in its split.
        purpose: Any number; draws for one purpose do not affect those for another.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index, purpose])


def combinations_of(split: str) -> tuple[tuple[str, str], ...]:
    """The combinations of colour and shape that occur in a split."""
    return UNSEEN if split == "test_unseen" else SEEN


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Draw the scene of a video.

    Args:
        seed: Seed of the benchmark, at least 0.
        split: One of `SPLITS`.
        index: Number of the video in its split.
    """
    random = random_stream(seed, split, index, 0)
    # Mostly short, so that the benchmark is generated quickly; one in ten is up to 150 s long, as in QVHighlights.
    duration = 2 * int(random.integers(31, 76) if random.random() < 0.1 else random.integers(10, 31))
    combinations = combinations_of(split)
    num_objects = random.choice([2, 3, 4], p=[0.3, 0.4, 0.3])
    objects: list[SceneObject] = []
    for number in random.choice(len(combinations), size=num_objects, replace=False):
        color, shape = combinations[number]
        objects.append(_draw_object(random, color, shape, duration, objects))
    objects.sort(key=lambda item: -item.mean_radius)  # the smallest is drawn last, so that it is not hidden
    distractors = [draw_distractor(random, duration) for _ in range(random.integers(0, 3))]
    return Scene(
        duration_sec=duration,
        objects=tuple(objects),
        distractors=tuple(distractors),
        shots=_draw_shots(random, duration),
        **draw_camera(random),
    )


def draw_camera(random: np.random.Generator) -> dict[str, Any]:
    """Draw the fields of a `Scene` about light and noise."""
    amplitude, period, phase = random.uniform([0.02, 4, 0], [0.15, 15, 2 * np.pi]).tolist()
    return {
        "brightness": (amplitude, period, phase),
        "noise": random.uniform(2, 8),
        "noise_seed": int(random.integers(2**31)),
    }


def draw_shot(random: np.random.Generator, start_sec: int = 0) -> Shot:
    """Draw a background."""
    angle, speed = random.uniform([0, 0.005], [2 * np.pi, 0.04])
    return Shot(
        start_sec=start_sec,
        seed=int(random.integers(2**31)),
        level=random.uniform(45, 150),
        contrast=random.uniform(8, 28),
        tint=tuple(random.uniform(0.88, 1.12, 3).tolist()),
        cells=int(random.integers(4, 12)),
        drift=(float(speed * np.cos(angle)), float(speed * np.sin(angle))),
    )


def _draw_shots(random: np.random.Generator, duration: int) -> tuple[Shot, ...]:
    """One background, or several with at least four seconds between two cuts."""
    cuts = [0]
    for cut in sorted(random.integers(4, duration - 3, size=random.poisson(duration / 30)).tolist()):
        if cut - cuts[-1] >= 4:
            cuts.append(cut)
    return tuple(draw_shot(random, cut) for cut in cuts)


def draw_distractor(random: np.random.Generator, duration: int) -> SceneObject:
    """Draw a grey blob that wanders through the whole video."""
    radius, grey = random.uniform(0.05, 0.1), random.uniform(60, 200)
    segments, time = [], 0
    x, y = random.uniform(0, 1, 2).tolist()
    pose = Pose(x, y, radius)
    while time < duration:
        end = min(time + int(random.integers(3, 9)), duration)
        x, y = random.uniform(0, 1, 2).tolist()
        target = Pose(x, y, radius)
        segments.append(Segment(time, end, "moves", pose, target))
        time, pose = end, target
    return SceneObject("grey", "blob", (grey, grey, grey), tuple(segments))


# ---- objects -------------------------------------------------------------------------------------------------------


def draw_rgb(random: np.random.Generator, color: str) -> tuple[float, float, float]:
    """Draw a shade of a colour."""
    return tuple((np.array(COLORS[color]) + random.uniform(-15, 15, 3)).tolist())


def draw_pose(random: np.random.Generator, shape: str, resizes: bool = False) -> Pose:
    """Draw a clear size and a clear place at which an object may rest, with room to grow if it `resizes`."""
    lowest, highest = RADII[("small", "large", "medium")[random.integers(2 if resizes else 3)]]
    radius = random.uniform(lowest, highest)
    margin = _margin(RADII["large"][1] if resizes else radius, shape)
    return Pose(_draw_place(random, margin), _draw_place(random, margin), radius)


def _margin(radius: float, shape: str) -> float:
    """Smallest distance of a centre from the edge of the frame."""
    return radius * SHAPES[shape] + 0.01


def _draw_place(random: np.random.Generator, margin: float) -> float:
    """Draw a coordinate, clearly at a side or in the middle."""
    low, high = ZONES[(0, 0, 1, 2, 2)[random.integers(5)]]
    return random.uniform(max(low, margin), min(high, 1 - margin))


def _draw_object(
    random: np.random.Generator, color: str, shape: str, duration: int, others: Sequence[SceneObject]
) -> SceneObject:
    weights = np.array(list(REPERTOIRE.values()))
    if shape not in ANGULAR:
        weights[-1] = 0  # they do not spin
    repertoire = random.choice(list(REPERTOIRE), size=2, replace=False, p=weights / weights.sum()).tolist()
    segments = []
    for start, end in _draw_spells(random, duration):
        pose = None
        for stretch in _divide_spell(random, start, end, duration):
            segments.append(draw_segment(random, stretch, pose, shape, repertoire, others))
            pose = segments[-1].end
    return SceneObject(color, shape, draw_rgb(random, color), tuple(segments))


def _draw_spells(random: np.random.Generator, duration: int) -> list[tuple[int, int]]:
    """Draw the intervals in which an object is present; if it always is, queries can only be about its actions."""
    number = random.choice([0, 1, 2, 3], p=[0.2, 0.4, 0.2, 0.2])
    if number == 0:
        return [(0, duration)]
    shortest, gap = 4, 3
    present = max(int(random.uniform(0.2, 0.6) * duration), shortest * number)
    absent = duration - present
    lengths = shortest + random.multinomial(present - shortest * number, random.dirichlet([2] * number))
    gaps = random.multinomial(absent - gap * (number - 1), random.dirichlet([1] * (number + 1)))
    gaps[1:-1] += gap
    starts = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
    return list(zip(starts.tolist(), (starts + lengths).tolist(), strict=True))


def _divide_spell(random: np.random.Generator, start: int, end: int, duration: int) -> list[tuple[int, int, bool]]:
    """Alternate rests and actions: start, end, whether the object acts. Long videos have longer rests."""
    parts, acts = [], bool(random.random() < 0.5)
    while start < end:
        length = int(random.integers(3, 8) if acts else random.integers(2, 6) * max(1, duration / 60))
        until = end if end - start - length < 2 else start + length
        parts.append((start, until, acts and 3 <= until - start <= 8))
        start, acts = until, not acts
    return parts


def draw_segment(
    random: np.random.Generator,
    interval: tuple[int, int, bool],
    pose: Pose | None,
    shape: str,
    repertoire: list[str],
    others: Sequence[SceneObject],
) -> Segment:
    """Draw an object's action in an interval: the first of some candidates that overlaps with no other object.

    Args:
        random: The random numbers.
        interval: Whole seconds at which it begins and ends, and whether the object acts.
        pose: Pose of the object at the beginning; `None` = it appears, at a random pose.
        shape: Shape of the object.
        repertoire: Kinds of action, from `REPERTOIRE`.
        others: Objects with which it should not overlap.

    Returns:
        The first candidate without overlap, or else the one with the lowest penalty: candidates that rest in place of
        acting are penalised as well.
    """
    start, end, acts = interval
    times = np.arange(start, end, 0.5)
    taken = [other.poses(times)[:, :3].tolist() for other in others]
    candidates, penalties = [], []
    for _ in range(CANDIDATES):
        first = pose or draw_pose(random, shape, "size" in repertoire)
        kind = repertoire[random.integers(len(repertoire))] if acts else "rest"
        segment = _draw_candidate(random, start, end, first, shape, kind)
        penalty = _overlap(segment, taken) + 0.1 * (acts and segment.action == "rests")
        if penalty == 0:
            return segment
        candidates.append(segment)
        penalties.append(penalty)
    return candidates[penalties.index(min(penalties))]


def _overlap(segment: Segment, taken: list[list[list[float]]]) -> float:
    """By how much an object comes too close to others, in frame sides; mean over half seconds.

    Args:
        segment: The object's action.
        taken: Centre and radius of each other object at each half second, NaN where it is absent.
    """
    # In plain Python, which is several times faster than NumPy for so few numbers.
    total, num_times = 0.0, 2 * (segment.end_sec - segment.start_sec)
    start, end = segment.start, segment.end
    dx = (end.x - start.x) / num_times
    dy = (end.y - start.y) / num_times
    dr = (end.radius - start.radius) / num_times
    for other in taken:
        for index, (other_x, other_y, other_radius) in enumerate(other):
            distance = math.hypot(start.x + index * dx - other_x, start.y + index * dy - other_y)
            excess = 1.1 * (start.radius + index * dr + other_radius) - distance
            if excess > 0:  # false for NaN
                total += excess / num_times
    return total


def _draw_candidate(random: np.random.Generator, start: int, end: int, pose: Pose, shape: str, kind: str) -> Segment:
    """Draw a segment with an action of a kind, or at rest if that is not possible."""
    if kind == "blink":
        return Segment(start, end, "blinks", pose, pose, phase=int(random.integers(6)))
    if kind == "spin":
        turn = random.uniform(*SPIN_SPEEDS) * (end - start) * (-1, 1)[random.integers(2)]
        return Segment(start, end, "spins", pose, pose._replace(angle=pose.angle + turn))
    target = None
    if kind == "size":
        target = _draw_size(random, pose, shape, end - start)
    elif kind == "horizontal":
        target = _draw_target(random, pose, shape, end - start, "x")
    elif kind == "vertical":
        target = _draw_target(random, pose, shape, end - start, "y")
    if target is None:
        return Segment(start, end, "rests", pose, pose)
    return Segment(start, end, _name_action(pose, target), pose, target)


def _name_action(start: Pose, end: Pose) -> str:
    """The action of `ACTIONS` that leads from one pose to another, which differs in x, y or radius."""
    if start.radius != end.radius:
        return "grows" if end.radius > start.radius else "shrinks"
    if start.x != end.x:
        return "moves right" if end.x > start.x else "moves left"
    return "moves down" if end.y > start.y else "moves up"


def _draw_target(random: np.random.Generator, pose: Pose, shape: str, seconds: int, axis: str) -> Pose | None:
    """Draw a pose to reach by moving along an axis; `None` if none was at the right distance."""
    margin, now = _margin(pose.radius, shape), getattr(pose, axis)
    slowest, fastest = SPEEDS
    for _ in range(CANDIDATES):
        place = _draw_place(random, margin)
        if max(slowest * seconds, SHORTEST_MOVE) <= abs(place - now) <= fastest * seconds:
            return pose._replace(**{axis: place})
    return None


def _draw_size(random: np.random.Generator, pose: Pose, shape: str, seconds: int) -> Pose | None:
    """Draw another size; `None` if it does not fit into the frame, or the change is too slow to be seen."""
    lowest, highest = RADII[("small", "medium", "large")[random.integers(3)]]
    radius = random.uniform(lowest, highest)
    margin = _margin(radius, shape)
    fits = all(margin <= place <= 1 - margin for place in (pose.x, pose.y))
    if not fits or abs(radius - pose.radius) < SLOWEST_GROWTH * seconds:
        return None
    return pose._replace(radius=radius)


__all__ = [
    "ACTIONS",
    "ANGULAR",
    "COLORS",
    "COMBINATIONS",
    "FPS",
    "RADII",
    "SEEN",
    "SHAPES",
    "SPLITS",
    "UNSEEN",
    "Pose",
    "Scene",
    "SceneObject",
    "Segment",
    "Shot",
    "combinations_of",
    "draw_camera",
    "draw_distractor",
    "draw_pose",
    "draw_rgb",
    "draw_segment",
    "draw_shot",
    "make_scene",
    "random_stream",
]
