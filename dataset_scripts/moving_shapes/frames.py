"""Single frames of Moving Shapes with captions, for training a CLIP: drawn as the videos are, but not encoded.

Each frame can be followed by a variant: the same scene with one attribute changed, and the same captions with one word
changed. All words of the queries occur. A single frame shows

- colour, shape, place and size;
- with a trail, the direction of a movement, and that an object shrinks or spins; without, only the line of a movement;
- that an object blinks, half of the time: when it is dimmed.

That an object grows, appears or leaves, and the order of events, takes two frames. For those words some images are pairs:
the left half is an earlier frame and the right half a later one, each at half the width. Videos hold no such frames.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .queries import (
    COPRESENCE_PHRASES,
    LARGE_EDGE,
    MOTION_PHRASES,
    ORDER_PHRASES,
    PLACE_PHRASES,
    PRESENCE_PHRASES,
    SIDE_EDGE,
    SIZE_PHRASES,
    SMALL_EDGE,
)
from .render import BLINK_FRAMES, DEFAULT_SIZE, DEFAULT_TRAIL_SEC, EXPOSURE_SEC, render_frames
from .scenes import (
    ANGULAR,
    COMBINATIONS,
    FPS,
    RADII,
    SHAPES,
    SPLITS,
    Pose,
    Scene,
    SceneObject,
    Segment,
    draw_camera,
    draw_distractor,
    draw_rgb,
    draw_segment,
    draw_shot,
)


SECONDS = 2  # length of the short scene around a frame
FIRST_INDEX, LAST_INDEX = 2, 7  # range of the frames that are taken from it: the trail is already visible
PANEL_INDEX = 6  # index of both frames of a pair
ACTING_SHARE, SIZED_SHARE, COPRESENCE_SHARE = 0.5, 0.35, 0.3
KINDS = ("horizontal", "horizontal", "vertical", "vertical", "size", "size", "blink", "spin")
AXES = {"x": ("left", "right"), "y": ("top", "bottom")}
OPPOSITES = {"moves left": "moves right", "moves up": "moves down", "grows": "shrinks"}
OPPOSITES |= {after: before for before, after in OPPOSITES.items()}


@dataclass(frozen=True)
class FrameSettings:
    """Settings of the captioned frames.

    Attributes:
        size: Height and width in pixels.
        trail_sec: Duration of the trail behind moving objects; 0 = no trail.
        exposure_sec: Exposure of a frame; 0 = no motion blur.
        combinations: Colours and shapes that occur; `SEEN` excludes those of "test_unseen".
        pair_share: Share of images that are pairs of an earlier and a later frame.
        num_captions: Number of captions of each frame.
        variants: Whether each frame is followed by a variant.
    """

    size: int = DEFAULT_SIZE
    trail_sec: float = DEFAULT_TRAIL_SEC
    exposure_sec: float = EXPOSURE_SEC
    combinations: tuple[tuple[str, str], ...] = COMBINATIONS
    pair_share: float = 0.15
    num_captions: int = 1
    variants: bool = False

    def __post_init__(self) -> None:
        if not self.variants:
            return
        for color, shape in self.combinations:
            if len(self.renamed(color, shape, shape in ANGULAR)) < 4:
                raise ValueError(
                    "With `variants`, each of the `combinations` must share its colour or shape with at least 4 others "
                    "(its shape, if that can spin), so that one of these is not in the frame; got "
                    f"'{color} {shape}', which does not."
                )

    def renamed(self, color: str, shape: str, spins: bool) -> list[tuple[str, str]]:
        """Combinations that an object can have in a variant: another colour or shape, but only a colour if it spins."""
        names = []
        for other_color, other_shape in self.combinations:
            if spins and other_shape != shape:
                continue
            if (other_color == color) != (other_shape == shape):
                names.append((other_color, other_shape))
        return names


@dataclass(frozen=True)
class ShownObject:
    """An object in a frame, at the middle of the exposure; lengths in frame sides."""

    color: str
    shape: str
    x: float
    y: float
    radius: float
    action: str

    @property
    def size(self) -> str | None:
        """The name of its size, "small" or "large"; `None` in between."""
        if self.radius < SMALL_EDGE:
            return "small"
        return "large" if self.radius > LARGE_EDGE else None

    def side(self, axis: str) -> str | None:
        """The side of the frame at which it is, along "x" or "y"; `None` in the middle."""
        value = getattr(self, axis)
        if min(value, 1 - value) >= SIDE_EDGE:
            return None
        return AXES[axis][int(value > 0.5)]

    @property
    def facts(self) -> frozenset[str]:
        """All words that describe it."""
        facts = (self.color, self.shape, self.size, self.side("x"), self.side("y"), self.action)
        return frozenset(fact for fact in facts if fact)


@dataclass(frozen=True)
class Clause:
    """The part of a caption about one object.

    Attributes:
        index: Index of the object.
        text: A query that is true for it.
        facts: The words of the text that describe it; the text is true for every object that has all these facts.
    """

    index: int
    text: str
    facts: frozenset[str]


@dataclass(frozen=True)
class CaptionedFrame:
    """A frame with its captions.

    Attributes:
        image: `(size, size, 3)` uint8 RGB.
        captions: The captions; caption i of a variant differs in one word from caption i of its original.
        clauses: The clauses of each caption, one for each object; empty for a pair.
        objects: All objects in drawing order; empty for a pair.
    """

    image: np.ndarray
    captions: tuple[str, ...]
    clauses: tuple[tuple[Clause, ...], ...]
    objects: tuple[ShownObject, ...]


def iter_captioned_frames(
    seed: int, start: int, stop: int, settings: FrameSettings = FrameSettings()
) -> Iterator[CaptionedFrame]:
    """Yield the frames from number `start` to before `stop`, each followed by its variant if the settings ask for one.

    Every range can be generated on its own, so that several processes can share the work.

    Args:
        seed: At least 0; the same seed and number give the same frame.
        start: Number of the first frame.
        stop: Number after the last frame.
        settings: Settings of the frames.
    """
    for number in range(start, stop):
        random = np.random.default_rng([seed, len(SPLITS), number])  # no video has this stream
        make = _make_pair if random.random() < settings.pair_share else _make_single
        yield from make(random, settings)


def _draw_objects(random: np.random.Generator, settings: FrameSettings, number: int) -> list[SceneObject]:
    """Draw objects that perform one action, or rest, for the whole short scene."""
    objects: list[SceneObject] = []
    for index in random.permutation(len(settings.combinations))[:number].tolist():
        color, shape = settings.combinations[index]
        kind = KINDS[random.integers(len(KINDS))]
        acts = random.random() < ACTING_SHARE and (kind != "spin" or shape in ANGULAR)
        segment = draw_segment(random, (0, SECONDS, acts), None, shape, [kind], objects)
        objects.append(SceneObject(color, shape, draw_rgb(random, color), (segment,)))
    return sorted(objects, key=lambda item: -item.mean_radius)


def _draw_scene(random: np.random.Generator, objects: list[SceneObject]) -> Scene:
    distractors = tuple(draw_distractor(random, SECONDS) for _ in range(random.integers(0, 3)))
    return Scene(SECONDS, tuple(objects), distractors, (draw_shot(random),), **draw_camera(random))


def _render(scene: Scene, index: int, settings: FrameSettings) -> np.ndarray:
    [frame] = render_frames(
        scene,
        index,
        index + 1,
        size=settings.size,
        trail_sec=settings.trail_sec,
        exposure_sec=settings.exposure_sec,
    )
    return frame


# ---- a frame -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wording:
    """How a caption describes one object.

    Attributes:
        index: Index of the object.
        topic: What is said about it: "presence", "x", "y", "corner", "size", "action"; or "together" in a co-presence.
        phrase: Index of the phrase among those of the topic.
        article: "the" or "a".
        sized: Whether its size is part of its name.
    """

    index: int
    topic: str
    phrase: int
    article: str
    sized: bool

    def say(self, item: ShownObject) -> str:
        """The text of the clause."""
        side = {"x": item.side("x"), "y": item.side("y"), "corner": f"{item.side('y')} {item.side('x')}"}
        name = f"{item.color} {item.shape}"
        sized = f"{self.article} {item.size} {name}"
        a = sized if self.sized else f"{self.article} {name}"
        phrase = _phrases(item, self.topic)[self.phrase]
        return phrase.format(a=a, sized=sized, size=item.size, side=side.get(self.topic))

    def clause(self, item: ShownObject) -> Clause:
        """The clause with its facts."""
        facts: list[str | None] = [item.color, item.shape]
        if self.sized or self.topic == "size":
            facts.append(item.size)
        for axis in AXES:
            if self.topic in (axis, "corner"):
                facts.append(item.side(axis))
        if self.topic == "action":
            facts.append(item.action)
        return Clause(self.index, self.say(item), frozenset(fact for fact in facts if fact))


def _phrases(item: ShownObject, topic: str) -> tuple[str, ...]:
    if topic == "action":
        return MOTION_PHRASES[item.action]
    return {"presence": PRESENCE_PHRASES, "size": SIZE_PHRASES}.get(topic, PLACE_PHRASES)


def _topics(item: ShownObject) -> list[str]:
    """The topics in which an object can be described; an action counts twice."""
    topics = ["presence", *(axis for axis in AXES if item.side(axis))]
    if len(topics) == 3:
        topics.append("corner")
    if item.size:
        topics.append("size")
    if item.action in MOTION_PHRASES:
        topics += ["action", "action"]
    return topics


def _make_single(random: np.random.Generator, settings: FrameSettings) -> list[CaptionedFrame]:
    scene = _draw_scene(random, _draw_objects(random, settings, int(random.integers(1, 5))))
    index = int(random.integers(FIRST_INDEX, LAST_INDEX + 1))
    scenes, changed, topic = [scene], None, None
    if settings.variants:
        changed, topic, item = _draw_change(random, scene, index, settings)
        scenes.append(replace(scene, objects=(*scene.objects[:changed], item, *scene.objects[changed + 1 :])))
    shown = _show(scene, index)
    wordings = [_draw_wordings(random, shown, changed, topic) for _ in range(settings.num_captions)]
    return [_caption(scene, index, wordings, settings) for scene in scenes]


def _caption(scene: Scene, index: int, wordings: list[list[Wording]], settings: FrameSettings) -> CaptionedFrame:
    """The frame of a scene with a caption in each wording."""
    objects = _show(scene, index)
    captions, clauses = [], []
    for wording in wordings:
        text, parts = _tell(wording, objects)
        captions.append(text)
        clauses.append(parts)
    return CaptionedFrame(_render(scene, index, settings), tuple(captions), tuple(clauses), objects)


def _pose(item: SceneObject, index: int) -> Pose:
    """The pose of an object in a frame."""
    return Pose(*item.poses(np.array((index + 0.5) / FPS)).tolist())


def _show(scene: Scene, index: int) -> tuple[ShownObject, ...]:
    """The objects as they are in a frame."""
    shown = []
    for item in scene.objects:
        pose = _pose(item, index)
        shown.append(ShownObject(item.color, item.shape, pose.x, pose.y, pose.radius, item.segments[0].action))
    return tuple(shown)


def _draw_wordings(
    random: np.random.Generator, shown: tuple[ShownObject, ...], changed: int | None, topic: str | None
) -> list[Wording]:
    """Draw a wording for each object; the object `changed` is described in the `topic` in which a variant differs."""
    together = topic is None and len(shown) == 2 and random.random() < COPRESENCE_SHARE
    wordings = []
    for index in random.permutation(len(shown)).tolist():
        item = shown[index]
        topics = ["presence"] if together else _topics(item)
        chosen = topic if index == changed and topic else topics[random.integers(len(topics))]
        phrases = COPRESENCE_PHRASES if together else _phrases(item, chosen)
        phrase = int(random.integers(len(phrases)))
        may_be_sized = item.size is not None and chosen != "size" and index != changed
        sized = may_be_sized and random.random() < SIZED_SHARE
        wordings.append(Wording(index, "together" if together else chosen, phrase, _draw_article(random), sized))
    return wordings


def _draw_article(random: np.random.Generator) -> str:
    return ("the", "a")[random.integers(2)]


def _tell(wordings: list[Wording], shown: tuple[ShownObject, ...]) -> tuple[str, tuple[Clause, ...]]:
    """The caption and its clauses."""
    if wordings[0].topic != "together":
        clauses = tuple(wording.clause(shown[wording.index]) for wording in wordings)
        return " and ".join(clause.text for clause in clauses), clauses
    bare = [replace(wording, topic="presence", phrase=0) for wording in wordings]
    clauses = tuple(wording.clause(shown[wording.index]) for wording in bare)
    a, b = (clause.text for clause in clauses)
    return COPRESENCE_PHRASES[wordings[0].phrase].format(a=a, b=b), clauses


# ---- its variant ---------------------------------------------------------------------------------------------------


def _draw_change(
    random: np.random.Generator, scene: Scene, index: int, settings: FrameSettings
) -> tuple[int, str | None, SceneObject]:
    """Draw the change of a variant.

    Returns:
        Index of an object, the topic in which the variant differs (`None` = its name), and the changed object.
    """
    shown = _show(scene, index)
    changed = int(random.integers(len(shown)))
    item, others = scene.objects[changed], scene.objects[:changed] + scene.objects[changed + 1 :]
    topics = [topic for topic in ("x", "y", "size", "action") if topic in _topics(shown[changed])]
    for topic in random.permutation([*topics, "name"]).tolist():
        new = None if topic == "name" else _change_topic(random, item, index, topic)
        if new is not None and not _collides(new, others, index):
            return changed, topic, new
    taken = {(other.color, other.shape) for other in scene.objects}
    return changed, None, _rename(random, item, taken, settings)


def _rename(
    random: np.random.Generator, item: SceneObject, taken: set[tuple[str, str]], settings: FrameSettings
) -> SceneObject:
    """The object in another colour or another shape."""
    names = settings.renamed(item.color, item.shape, item.segments[0].action == "spins")
    choices = [name for name in names if name not in taken]
    color, shape = choices[random.integers(len(choices))]
    rgb = item.rgb if color == item.color else draw_rgb(random, color)
    return replace(item, color=color, shape=shape, rgb=rgb)


def _change_topic(random: np.random.Generator, item: SceneObject, index: int, topic: str) -> SceneObject | None:
    """The object at the opposite side, in the opposite size or with the opposite action; `None` if impossible."""
    if topic == "action":
        return _reverse(item, index)
    if topic == "size":
        return _resize(random, item, index)
    segment = item.segments[0]
    shift = 1 - 2 * getattr(_pose(item, index), topic)
    start = segment.start._replace(**{topic: getattr(segment.start, topic) + shift})
    end = segment.end._replace(**{topic: getattr(segment.end, topic) + shift})
    return replace(item, segments=(replace(segment, start=start, end=end),))


def _resize(random: np.random.Generator, item: SceneObject, index: int) -> SceneObject | None:
    """The object in the opposite size; `None` if its size changes, or if it would not fit into the frame."""
    segment, pose = item.segments[0], _pose(item, index)
    if segment.start.radius != segment.end.radius:
        return None
    lowest, highest = RADII["large" if pose.radius < SMALL_EDGE else "small"]
    radius = random.uniform(lowest, highest)
    if not _fits(pose._replace(radius=radius), item.shape):
        return None
    start, end = segment.start._replace(radius=radius), segment.end._replace(radius=radius)
    return replace(item, segments=(replace(segment, start=start, end=end),))


def _reverse(item: SceneObject, index: int) -> SceneObject | None:
    """The object coming from the opposite side, or size, to the same pose in the frame; `None` if impossible."""
    segment, pose = item.segments[0], _pose(item, index)
    if segment.action not in OPPOSITES:
        return None
    start, end = _mirror(segment.start, pose), _mirror(segment.end, pose)
    if min(start.radius, end.radius) < 0.03:
        return None
    return replace(item, segments=(replace(segment, action=OPPOSITES[segment.action], start=start, end=end),))


def _mirror(pose: Pose, center: Pose) -> Pose:
    return Pose(
        2 * center.x - pose.x,
        2 * center.y - pose.y,
        2 * center.radius - pose.radius,
        2 * center.angle - pose.angle,
    )


def _fits(pose: Pose, shape: str) -> bool:
    reach = pose.radius * SHAPES[shape]
    return all(reach <= place <= 1 - reach for place in (pose.x, pose.y))


def _collides(item: SceneObject, others: tuple[SceneObject, ...], index: int) -> bool:
    pose = _pose(item, index)
    for other in others:
        other_pose = _pose(other, index)
        distance = math.hypot(pose.x - other_pose.x, pose.y - other_pose.y)
        if distance < pose.radius + other_pose.radius:
            return True
    return False


# ---- a pair of frames ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """An object that acts, or is present, in one of two frames, and another that appears or leaves between them.

    Attributes:
        main: The object that acts or rests.
        anchor: The other object, at rest.
        order: "after" = `main` acts in the later frame; "before" = in the earlier one.
        change: "appears" or "leaves", said of `anchor`.
    """

    main: SceneObject
    anchor: SceneObject
    order: str
    change: str

    def panels(self) -> list[list[SceneObject]]:
        """Objects of the earlier and of the later frame."""
        segment = self.main.segments[0]
        after = self.order == "after"
        idle = []
        if segment.action != "rests":
            pose = segment.start if after else segment.end
            idle = [replace(self.main, segments=(Segment(0, SECONDS, "rests", pose, pose),))]
        panels = [idle, [self.main]] if after else [[self.main], idle]
        panels[int(self.change == "appears")].append(self.anchor)
        return panels

    def tell(self, wording: tuple[int, int, str, str]) -> str:
        """The caption."""
        phrase, order_phrase, article, anchor_article = wording
        phrases = MOTION_PHRASES.get(self.main.segments[0].action, PRESENCE_PHRASES[1:])  # the first is no sentence
        main = phrases[phrase % len(phrases)].format(a=f"{article} {self.main.color} {self.main.shape}")
        clause = f"{self.order} {anchor_article} {self.anchor.color} {self.anchor.shape} {self.change}"
        return ORDER_PHRASES[order_phrase].format(main=main, clause=clause)


def _make_pair(random: np.random.Generator, settings: FrameSettings) -> list[CaptionedFrame]:
    main, anchor = _draw_objects(random, settings, 2)
    main = replace(main, segments=(replace(main.segments[0], phase=BLINK_FRAMES),))  # dimmed if it blinks
    pose = _pose(anchor, PANEL_INDEX)
    anchor = replace(anchor, segments=(Segment(0, SECONDS, "rests", pose, pose),))
    pair = Pair(main, anchor, ("after", "before")[random.integers(2)], ("appears", "leaves")[random.integers(2)])
    scene = _draw_scene(random, [])
    pairs = [pair, _change_pair(random, pair, settings)] if settings.variants else [pair]
    wordings = []
    for _ in range(settings.num_captions):
        phrase, order_phrase = int(random.integers(3)), int(random.integers(2))
        wordings.append((phrase, order_phrase, _draw_article(random), _draw_article(random)))
    frames = []
    for pair in pairs:
        captions = tuple(pair.tell(wording) for wording in wordings)
        no_clauses: tuple[tuple[Clause, ...], ...] = ((),) * len(wordings)
        frames.append(CaptionedFrame(_render_pair(pair, scene, settings), captions, no_clauses, ()))
    return frames


def _change_pair(random: np.random.Generator, pair: Pair, settings: FrameSettings) -> Pair:
    """The pair with one word of its caption changed."""
    taken = {(item.color, item.shape) for item in (pair.main, pair.anchor)}
    field = ("order", "change", "main", "anchor")[random.integers(4)]
    if field == "order":
        return replace(pair, order="before" if pair.order == "after" else "after")
    if field == "change":
        return replace(pair, change="leaves" if pair.change == "appears" else "appears")
    if field == "main":
        return replace(pair, main=_rename(random, pair.main, taken, settings))
    return replace(pair, anchor=_rename(random, pair.anchor, taken, settings))


def _render_pair(pair: Pair, scene: Scene, settings: FrameSettings) -> np.ndarray:
    halves = []
    for objects in pair.panels():
        image = _render(replace(scene, objects=tuple(objects)), PANEL_INDEX, settings)
        halves.append(image.reshape(settings.size, settings.size // 2, 2, 3).mean(axis=2))
    return np.concatenate(halves, axis=1).astype(np.uint8)


__all__ = ["CaptionedFrame", "Clause", "FrameSettings", "ShownObject", "iter_captioned_frames"]
