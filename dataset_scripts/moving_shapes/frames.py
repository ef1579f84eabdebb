"""Single pictures of Moving Shapes with captions, for training a CLIP: drawn as the videos are, and never encoded.

Every picture can come with a variant: the same scene with one attribute changed, and the same captions with one word
changed. All words of the queries occur. What a single picture can carry, it carries:

- colour, shape, place and size;
- where there is a trail: the direction of a move, that something shrinks or spins. Without, the line of a move alone;
- that something blinks, half of the time: when it is dimmed.

That something grows, appears or leaves, and what is before or after, takes two pictures. For those words some pictures
are pairs: the left half is an earlier picture and the right half a later one, each squeezed. No video has such pictures.
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


SECONDS = 2  # of the little scene around a picture
FIRST_NUMBER, LAST_NUMBER = 2, 7  # of the pictures that are taken from it: the trail has begun
PANEL_NUMBER = 6  # of both pictures of a pair
ACTING_SHARE, SIZED_SHARE, COPRESENCE_SHARE = 0.5, 0.35, 0.3
KINDS = ("horizontal", "horizontal", "vertical", "vertical", "size", "size", "blink", "spin")
AXES = {"x": ("left", "right"), "y": ("top", "bottom")}
OPPOSITES = {"moves left": "moves right", "moves up": "moves down", "grows": "shrinks"}
OPPOSITES |= {after: before for before, after in OPPOSITES.items()}


@dataclass(frozen=True)
class FrameSettings:
    """Which pictures are made.

    Args:
        size: Height and width in pixels.
        trail_sec: How long the trail behind moving things lasts; 0 = none.
        exposure_sec: How long a picture gathers light; 0 = nothing is blurred.
        combinations: Colours and shapes that occur; `SEEN` leaves those of "test_unseen" out.
        pair_share: How many of the pictures are pairs of an earlier and a later one.
        num_captions: Wordings of each picture.
        variants: Whether each picture is followed by a variant.
    """

    size: int = DEFAULT_SIZE
    trail_sec: float = DEFAULT_TRAIL_SEC
    exposure_sec: float = EXPOSURE_SEC
    combinations: tuple[tuple[str, str], ...] = COMBINATIONS
    pair_share: float = 0.15
    num_captions: int = 1
    variants: bool = False

    def __post_init__(self):
        alone = [c for c in self.combinations if self.variants and len(self.renamed(*c, c[1] in ANGULAR)) < 4]
        if alone:
            raise ValueError(
                "`variants` need `combinations` each of which shares its colour or shape with at least 4 others, its "
                "shape where that can spin, so that one is not in the picture; "
                f"got {' '.join(alone[0])!r}, which does not."
            )

    def renamed(self, color: str, shape: str, spins: bool) -> list[tuple[str, str]]:
        """Combinations that an object can have in a variant: another colour or shape, another colour while it spins."""
        return [
            other
            for other in self.combinations
            if (other[0] == color) != (other[1] == shape) and not (spins and other[1] != shape)
        ]


@dataclass(frozen=True)
class ShownObject:
    """An object in a picture, at the middle of the exposure; lengths in picture sides."""

    color: str
    shape: str
    x: float
    y: float
    radius: float
    action: str

    @property
    def size(self) -> str | None:
        """Its size, if it has a name."""
        if self.radius < SMALL_EDGE:
            return "small"
        return "large" if self.radius > LARGE_EDGE else None

    def side(self, axis: str) -> str | None:
        """The side of the picture at which it is, along "x" or "y"."""
        value = getattr(self, axis)
        if min(value, 1 - value) >= SIDE_EDGE:
            return None
        return AXES[axis][int(value > 0.5)]

    @property
    def facts(self) -> frozenset[str]:
        """All that can be said of it."""
        facts = (self.color, self.shape, self.size, self.side("x"), self.side("y"), self.action)
        return frozenset(fact for fact in facts if fact)


@dataclass(frozen=True)
class Clause:
    """What a caption says of one object.

    Args:
        index: Of the object.
        text: A query that it answers.
        facts: What the text says of it; true of any object of whose facts they are a part.
    """

    index: int
    text: str
    facts: frozenset[str]


@dataclass(frozen=True)
class CaptionedFrame:
    """A picture and what is true of it.

    Args:
        image: `(size, size, 3)` uint8 RGB.
        captions: Several wordings; number i of a variant differs in one word from number i of its original.
        clauses: Those of each caption, one for each object.
        objects: All that is shown, in the order of drawing; empty for a pair of pictures, as are the clauses.
    """

    image: np.ndarray
    captions: tuple[str, ...]
    clauses: tuple[tuple[Clause, ...], ...]
    objects: tuple[ShownObject, ...]


def iter_captioned_frames(
    seed: int, start: int, stop: int, settings: FrameSettings = FrameSettings()
) -> Iterator[CaptionedFrame]:
    """Yield pictures `start` to before `stop`, each followed by its variant if the settings ask for one.

    Any stretch can be made alone, so that several processes can share the work.

    Args:
        seed: At least 0; the same seed and number give the same picture.
        start: Number of the first.
        stop: Number behind the last.
        settings: Which pictures.
    """
    for index in range(start, stop):
        random = np.random.default_rng([seed, len(SPLITS), index])  # unlike those of all videos
        make = _make_pair if random.random() < settings.pair_share else _make_single
        yield from make(random, settings)


def _draw_objects(random: np.random.Generator, settings: FrameSettings, number: int) -> list[SceneObject]:
    """Objects that do one thing, or rest, for the whole little scene."""
    objects = []
    for place in random.permutation(len(settings.combinations))[:number].tolist():
        color, shape = settings.combinations[place]
        kind = KINDS[random.integers(len(KINDS))]
        acts = random.random() < ACTING_SHARE and (kind != "spin" or shape in ANGULAR)
        segment = draw_segment(random, (0, SECONDS, acts), None, shape, [kind], objects)
        objects.append(SceneObject(color, shape, draw_rgb(random, color), (segment,)))
    return sorted(objects, key=lambda item: -item.mean_radius)


def _draw_scene(random: np.random.Generator, objects: list[SceneObject]) -> Scene:
    distractors = tuple(draw_distractor(random, SECONDS) for _ in range(random.integers(0, 3)))
    return Scene(SECONDS, tuple(objects), distractors, (draw_shot(random),), **draw_camera(random))


def _render(scene: Scene, number: int, settings: FrameSettings) -> np.ndarray:
    options = {"size": settings.size, "trail_sec": settings.trail_sec, "exposure_sec": settings.exposure_sec}
    return render_frames(scene, number, number + 1, **options)[0]


# ---- a picture -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wording:
    """How one object of a picture is spoken of: what about it, in which phrase, with which words around its name."""

    index: int
    topic: str
    phrase: int
    article: str
    sized: bool

    def say(self, item: ShownObject) -> str:
        """The clause."""
        side = {"x": item.side("x"), "y": item.side("y"), "corner": f"{item.side('y')} {item.side('x')}"}
        name = f"{item.color} {item.shape}"
        sized = f"{self.article} {item.size} {name}"
        a = sized if self.sized else f"{self.article} {name}"
        phrase = _phrases(item, self.topic)[self.phrase]
        return phrase.format(a=a, sized=sized, size=item.size, side=side.get(self.topic))

    def clause(self, item: ShownObject) -> Clause:
        """The clause with what it says."""
        facts = {item.color, item.shape}
        if self.sized or self.topic == "size":
            facts.add(item.size)
        facts |= {item.side(axis) for axis in AXES if self.topic in (axis, "corner")}
        facts |= {item.action} if self.topic == "action" else set()
        return Clause(self.index, self.say(item), frozenset(facts))


def _phrases(item: ShownObject, topic: str) -> tuple[str, ...]:
    if topic == "action":
        return MOTION_PHRASES[item.action]
    return {"presence": PRESENCE_PHRASES, "size": SIZE_PHRASES}.get(topic, PLACE_PHRASES)


def _topics(item: ShownObject) -> list[str]:
    """What can be said of an object."""
    topics = ["presence", *(axis for axis in AXES if item.side(axis))]
    if len(topics) == 3:
        topics.append("corner")
    if item.size:
        topics.append("size")
    return topics + (["action", "action"] if item.action in MOTION_PHRASES else [])


def _make_single(random: np.random.Generator, settings: FrameSettings) -> list[CaptionedFrame]:
    scene = _draw_scene(random, _draw_objects(random, settings, int(random.integers(1, 5))))
    number = int(random.integers(FIRST_NUMBER, LAST_NUMBER + 1))
    scenes, changed, topic = [scene], None, None
    if settings.variants:
        changed, topic, item = _draw_change(random, scene, number, settings)
        scenes.append(replace(scene, objects=(*scene.objects[:changed], item, *scene.objects[changed + 1 :])))
    shown = [_show(scene, number) for scene in scenes]
    wordings = [_draw_wordings(random, shown[0], changed, topic) for _ in range(settings.num_captions)]
    frames = []
    for scene, objects in zip(scenes, shown, strict=True):
        captions, clauses = zip(*(_tell(words, objects) for words in wordings), strict=True)
        frames.append(CaptionedFrame(_render(scene, number, settings), captions, clauses, objects))
    return frames


def _pose(item: SceneObject, number: int) -> Pose:
    return Pose(*item.poses(np.array((number + 0.5) / FPS)).tolist())


def _show(scene: Scene, number: int) -> tuple[ShownObject, ...]:
    """The objects as they are in a picture."""
    return tuple(
        ShownObject(item.color, item.shape, *_pose(item, number)[:3], item.segments[0].action)
        for item in scene.objects
    )


def _draw_wordings(
    random: np.random.Generator, shown: tuple[ShownObject, ...], changed: int | None, topic: str | None
) -> list[Wording]:
    """A wording for each object; that of number `changed` tells of the `topic` in which a variant differs."""
    together = topic is None and len(shown) == 2 and random.random() < COPRESENCE_SHARE
    wordings = []
    for index in random.permutation(len(shown)).tolist():
        item = shown[index]
        topics = ["presence"] if together else _topics(item)
        chosen = topic if index == changed and topic else topics[random.integers(len(topics))]
        phrase = int(random.integers(len(COPRESENCE_PHRASES) if together else len(_phrases(item, chosen))))
        sized = item.size is not None and chosen != "size" and index != changed and random.random() < SIZED_SHARE
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
    random: np.random.Generator, scene: Scene, number: int, settings: FrameSettings
) -> tuple[int, str | None, SceneObject]:
    """Number of an object, the topic in which a variant differs (`None` = its name), and the object in the variant."""
    shown = _show(scene, number)
    changed = int(random.integers(len(shown)))
    item, others = scene.objects[changed], scene.objects[:changed] + scene.objects[changed + 1 :]
    topics = [topic for topic in ("x", "y", "size", "action") if topic in _topics(shown[changed])]
    for topic in random.permutation([*topics, "name"]).tolist():
        new = None if topic == "name" else _change_topic(random, item, number, topic)
        if new is not None and not _collides(new, others, number):
            return changed, topic, new
    return changed, None, _rename(random, item, {(other.color, other.shape) for other in scene.objects}, settings)


def _rename(
    random: np.random.Generator, item: SceneObject, taken: set[tuple[str, str]], settings: FrameSettings
) -> SceneObject:
    """The object in another colour or another shape."""
    names = settings.renamed(item.color, item.shape, item.segments[0].action == "spins")
    choices = [name for name in names if name not in taken]
    color, shape = choices[random.integers(len(choices))]
    return replace(item, color=color, shape=shape, rgb=item.rgb if color == item.color else draw_rgb(random, color))


def _change_topic(random: np.random.Generator, item: SceneObject, number: int, topic: str) -> SceneObject | None:
    """The object at the opposite side, in the opposite size or with the opposite action; `None` if it cannot be."""
    segment, pose = item.segments[0], _pose(item, number)
    if topic == "action":
        return _reverse(item, segment, pose)
    if topic == "size":
        if segment.start.radius != segment.end.radius:
            return None
        radius = random.uniform(*RADII["large" if pose.radius < SMALL_EDGE else "small"])
        if not _fits(pose._replace(radius=radius), item.shape):
            return None
        start, end = (point._replace(radius=radius) for point in (segment.start, segment.end))
    else:
        shift = 1 - 2 * getattr(pose, topic)
        start, end = (
            point._replace(**{topic: getattr(point, topic) + shift}) for point in (segment.start, segment.end)
        )
    return replace(item, segments=(replace(segment, start=start, end=end),))


def _reverse(item: SceneObject, segment: Segment, pose: Pose) -> SceneObject | None:
    """The object coming from the opposite side, or size, to the same pose in the picture."""
    if segment.action not in OPPOSITES:
        return None
    start, end = (
        Pose(*(2 * now - then for now, then in zip(pose, point, strict=True)))
        for point in (segment.start, segment.end)
    )
    if min(start.radius, end.radius) < 0.03:
        return None
    return replace(item, segments=(replace(segment, action=OPPOSITES[segment.action], start=start, end=end),))


def _fits(pose: Pose, shape: str) -> bool:
    reach = pose.radius * SHAPES[shape]
    return all(reach <= place <= 1 - reach for place in (pose.x, pose.y))


def _collides(item: SceneObject, others: tuple[SceneObject, ...], number: int) -> bool:
    pose = _pose(item, number)
    poses = [_pose(other, number) for other in others]
    return any(math.hypot(pose.x - p.x, pose.y - p.y) < pose.radius + p.radius for p in poses)


# ---- a pair of pictures --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """An object that acts, or is there, in one of two pictures, and another that appears or leaves between them.

    Args:
        main: While it acts or rests.
        anchor: At rest.
        order: "after" = `main` does so in the later picture.
        change: "appears" or "leaves", of `anchor`.
    """

    main: SceneObject
    anchor: SceneObject
    order: str
    change: str

    def panels(self) -> list[list[SceneObject]]:
        """Objects of the earlier and of the later picture."""
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
        phrases = MOTION_PHRASES.get(self.main.segments[0].action, PRESENCE_PHRASES[1:])  # without the bare name
        main = phrases[phrase % len(phrases)].format(a=f"{article} {self.main.color} {self.main.shape}")
        clause = f"{self.order} {anchor_article} {self.anchor.color} {self.anchor.shape} {self.change}"
        return ORDER_PHRASES[order_phrase].format(main=main, clause=clause)


def _make_pair(random: np.random.Generator, settings: FrameSettings) -> list[CaptionedFrame]:
    main, anchor = _draw_objects(random, settings, 2)
    main = replace(main, segments=(replace(main.segments[0], phase=BLINK_FRAMES),))  # dimmed in the picture
    pose = _pose(anchor, PANEL_NUMBER)
    anchor = replace(anchor, segments=(Segment(0, SECONDS, "rests", pose, pose),))
    pair = Pair(main, anchor, ("after", "before")[random.integers(2)], ("appears", "leaves")[random.integers(2)])
    scene = _draw_scene(random, [])
    pairs = [pair, _change_pair(random, pair, settings)] if settings.variants else [pair]
    wordings = [
        (int(random.integers(3)), int(random.integers(2)), _draw_article(random), _draw_article(random))
        for _ in range(settings.num_captions)
    ]
    return [
        CaptionedFrame(_render_pair(pair, scene, settings), tuple(map(pair.tell, wordings)), ((),) * len(wordings), ())
        for pair in pairs
    ]


def _change_pair(random: np.random.Generator, pair: Pair, settings: FrameSettings) -> Pair:
    """The pair with one word of its caption changed."""
    taken = {(item.color, item.shape) for item in (pair.main, pair.anchor)}
    field = ("order", "change", "main", "anchor")[random.integers(4)]
    if field == "order":
        return replace(pair, order="before" if pair.order == "after" else "after")
    if field == "change":
        return replace(pair, change="leaves" if pair.change == "appears" else "appears")
    return replace(pair, **{field: _rename(random, getattr(pair, field), taken, settings)})


def _render_pair(pair: Pair, scene: Scene, settings: FrameSettings) -> np.ndarray:
    halves = []
    for objects in pair.panels():
        image = _render(replace(scene, objects=tuple(objects)), PANEL_NUMBER, settings)
        halves.append(image.reshape(settings.size, settings.size // 2, 2, 3).mean(axis=2))
    return np.concatenate(halves, axis=1).astype(np.uint8)


__all__ = ["CaptionedFrame", "Clause", "FrameSettings", "ShownObject", "iter_captioned_frames"]
