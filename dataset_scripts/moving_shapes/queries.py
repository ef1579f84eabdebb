"""Queries of Moving Shapes and their simulated annotators: when each query is true, saliency and importance.

| part | family | true when | example |
|---|---|---|---|
| main | presence | the object is visible | a red circle can be seen |
| main | co-presence | both objects are visible | the red circle together with the blue square |
| main | place | its centre is at that side of the frame | the red circle is at the left |
| main | size | it has that size | the small red circle |
| hard | motion | it performs that action | the red circle moves left |
| hard | order | another query is true, after or before an event | ... before the blue square leaves |

Truth is decided for each frame of the video, on maps of visible objects: an object is visible if at least half of its
pixels are. A fact that changes gradually passes through a zone in which it is neither true nor false. Some queries are
not asked: those that stay in this zone for longer than a second, that are true for less than two seconds or interrupted
for less than one, that have more than five moments, or that are true for three quarters of the video.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dataset_scripts.benchmarks import UNIT_SEC

from .render import render_identities
from .scenes import ACTIONS, COLORS, FPS, RADII, SHAPES, Scene


QUERIES_PER_VIDEO = {"presence": 2, "co-presence": 1, "place": 2, "size": 1, "motion": 3, "order": 2}

VISIBLE_SHARE, VISIBLE_ZONE = 0.5, 0.15  # a fact is uncertain within the zone around its threshold
SIDE_EDGE, SIDE_ZONE = 0.415, 0.045
SMALL_EDGE, LARGE_EDGE, SIZE_ZONE = 0.097, 0.152, 0.015
UNCERTAIN_SEC, SHORTEST_SEC, SHORTEST_GAP_SEC = 1, 2, 1
MOST_MOMENTS, MOST_COVERED = 5, 0.75

UNIT_FRAMES = int(UNIT_SEC) * FPS
RATERS = np.array([-0.3, 0.0, 0.3])  # leniency of the three annotators of saliency
RATING_NOISE = 0.5
NUM_JUDGES, JUDGE_LENIENCY, JUDGE_NOISE = 20, 0.4, 0.7  # annotators of importance

SIDES = ("left", "right", "top", "bottom")
PRESENCE_PHRASES = ("{a}", "{a} is visible", "{a} is in the picture", "{a} can be seen")
COPRESENCE_PHRASES = (
    "{a} and {b}",
    "{a} together with {b}",
    "{a} and {b} are visible",
    "{a} and {b} can be seen",
    "both {a} and {b} are in the picture",
)
PLACE_PHRASES = (
    "{a} at the {side}",
    "{a} is at the {side}",
    "{a} near the {side}",
    "{a} at the {side} of the picture",
)
SIZE_PHRASES = ("{sized}", "{sized} is visible", "{sized} can be seen", "{a} is {size}")
MOTION_PHRASES = {
    "moves left": ("{a} moves left", "{a} is moving left", "{a} goes left"),
    "moves right": ("{a} moves right", "{a} is moving right", "{a} goes right"),
    "moves up": ("{a} moves up", "{a} is moving up", "{a} goes up"),
    "moves down": ("{a} moves down", "{a} is moving down", "{a} goes down"),
    "grows": ("{a} grows", "{a} is growing", "{a} becomes larger"),
    "shrinks": ("{a} shrinks", "{a} is shrinking", "{a} becomes smaller"),
    "blinks": ("{a} blinks", "{a} is blinking", "{a} flashes"),
    "spins": ("{a} spins", "{a} is spinning", "{a} turns around"),
}
ORDER_PHRASES = ("{main} {clause}", "{clause} {main}")
STATE_PHRASES = {"presence": PRESENCE_PHRASES, "place": PLACE_PHRASES, "size": SIZE_PHRASES}


def vocabulary() -> tuple[str, ...]:
    """All words of queries, titles and captions, in alphabetical order."""
    words = {"the", "a", "small", "large", "after", "before", "appears", "leaves", *SIDES, *COLORS, *SHAPES}
    for phrases in (PRESENCE_PHRASES, COPRESENCE_PHRASES, PLACE_PHRASES, SIZE_PHRASES, *MOTION_PHRASES.values()):
        for phrase in phrases:
            words.update(word for word in phrase.split() if not word.startswith("{"))
    return tuple(sorted(words))


# ---- facts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """Whether something is true in each frame.

    Attributes:
        true: `(num_frames,)` bool.
        uncertain: `(num_frames,)` bool, where it is neither clearly true nor clearly false.
    """

    true: np.ndarray
    uncertain: np.ndarray

    def __and__(self, other: "Fact") -> "Fact":
        possible = (self.true | self.uncertain) & (other.true | other.uncertain)
        certain = self.true & ~self.uncertain & other.true & ~other.uncertain
        return Fact(self.true & other.true, possible & ~certain)

    def moments(self) -> list[tuple[float, float]]:
        """Start and end, in seconds, of every interval in which it is true."""
        return [(start / FPS, end / FPS) for start, end in find_runs(self.true)]


def find_runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Start and end index (exclusive) of every run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _below(values: np.ndarray, edge: float, zone: float) -> Fact:
    with np.errstate(invalid="ignore"):  # NaN where the object is absent: neither true nor uncertain
        return Fact(values < edge, np.abs(values - edge) < zone)


@dataclass(frozen=True)
class ObjectFacts:
    """The facts about one object.

    Attributes:
        name: Colour and shape, such as "red circle".
        visible: Whether it is visible.
        radius: `(num_frames,)`, 0 where it is absent.
        sides: Whether it is at each of `SIDES`, visible or not.
        sizes: Whether it is small or large, visible or not.
        actions: Whether it performs each of `ACTIONS`, visible or not.
    """

    name: str
    visible: Fact
    radius: np.ndarray
    sides: dict[str, Fact]
    sizes: dict[str, Fact]
    actions: dict[str, Fact]


def observe(scene: Scene) -> list[ObjectFacts]:
    """The facts about every object of a scene, in the order of `scene.objects`."""
    identities, areas = render_identities(scene)
    times = (np.arange(scene.num_frames) + 0.5) / FPS
    facts = []
    for number, item in enumerate(scene.objects):
        num_visible = (identities == number + 1).sum(axis=(1, 2))  # pixels, (num_frames,)
        hidden_share = 1 - num_visible / np.maximum(areas[number], 1)
        x, y, radius, _ = item.poses(times).T
        facts.append(
            ObjectFacts(
                name=f"{item.color} {item.shape}",
                visible=_below(hidden_share, 1 - VISIBLE_SHARE, VISIBLE_ZONE),
                radius=np.nan_to_num(radius),
                sides={
                    "left": _below(x, SIDE_EDGE, SIDE_ZONE),
                    "right": _below(1 - x, SIDE_EDGE, SIDE_ZONE),
                    "top": _below(y, SIDE_EDGE, SIDE_ZONE),
                    "bottom": _below(1 - y, SIDE_EDGE, SIDE_ZONE),
                },
                sizes={
                    "small": _below(radius, SMALL_EDGE, SIZE_ZONE),
                    "large": _below(-radius, -LARGE_EDGE, SIZE_ZONE),
                },
                actions={action: _acting(scene, number, action) for action in ACTIONS},
            )
        )
    return facts


def _acting(scene: Scene, number: int, action: str) -> Fact:
    true = np.zeros(scene.num_frames, dtype=bool)
    for segment in scene.objects[number].segments:
        if segment.action == action:
            true[segment.start_sec * FPS : segment.end_sec * FPS] = True
    return Fact(true, np.zeros_like(true))


def _unit_means(values: np.ndarray) -> np.ndarray:
    """Mean over the frames of each two-second unit."""
    return values.reshape(-1, UNIT_FRAMES).mean(axis=1)


# ---- queries -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clause:
    """A clause of order: after or before the only instant at which an object appears or leaves.

    Attributes:
        order: "after" or "before".
        number: Index of the object.
        change: "appears" or "leaves".
        frame: The first frame after the change.
    """

    order: str
    number: int
    change: str
    frame: int

    def covers(self, num_frames: int, margin: int = 0) -> np.ndarray:
        """`(num_frames,)` bool: the frames on the clause's side of the instant, extended by `margin` frames."""
        indices = np.arange(num_frames)
        if self.order == "after":
            return indices >= self.frame - margin
        return indices < self.frame + margin


@dataclass(frozen=True)
class Query:
    """A query about a video.

    Attributes:
        family: One of `QUERIES_PER_VIDEO`.
        text: The sentence.
        fact: When it is true.
        objects: Indices of the objects in the main sentence, without the object of a clause of order.
        detail: The side, size or action in the main sentence; empty if it is about presence.
        clause: For the family "order".
        decides: For the family "order": whether the clause excludes a moment of the main sentence.
    """

    family: str
    text: str
    fact: Fact
    objects: tuple[int, ...]
    detail: str = ""
    clause: Clause | None = None
    decides: bool = False

    def unit_shares(self) -> np.ndarray:
        """Share of each two-second unit in which it is true."""
        return _unit_means(self.fact.true.astype(float))


def make_queries(facts: list[ObjectFacts], random: np.random.Generator) -> list[Query]:
    """Draw the queries of a video. There are fewer of a family if the scene has no more.

    Args:
        facts: From `observe`.
        random: Random numbers that choose the queries and their wording.
    """
    queries = [*_state_queries(facts, random), *_order_queries(facts, random)]
    queries = [query for query in queries if is_sound(query.fact)]
    chosen = []
    for family, number in QUERIES_PER_VIDEO.items():
        of_family = [query for query in queries if query.family == family]
        of_family = [of_family[index] for index in random.permutation(len(of_family))]
        # Queries whose clause excludes a moment are rare, so they come first.
        chosen += sorted(of_family, key=lambda query: not query.decides)[:number]
    return chosen


def is_sound(fact: Fact) -> bool:
    """Whether a query with this truth may be asked."""
    runs = find_runs(fact.true)
    if not 1 <= len(runs) <= MOST_MOMENTS:
        return False
    lengths = [end - start for start, end in runs]
    gaps = [start - end for (_, end), (start, _) in itertools.pairwise(runs)]
    uncertain_lengths = [end - start for start, end in find_runs(fact.uncertain)]
    return (
        min(lengths) >= SHORTEST_SEC * FPS
        and min(gaps, default=FPS) >= SHORTEST_GAP_SEC * FPS
        and max(uncertain_lengths, default=0) <= UNCERTAIN_SEC * FPS
        and bool(fact.true.mean() < MOST_COVERED)
    )


def _state_queries(facts: list[ObjectFacts], random: np.random.Generator) -> Iterator[Query]:
    """All queries of every family but "order", each in one wording."""
    for number, item in enumerate(facts):
        a = _with_article(item.name, random)
        for family, detail, fact in single_facts(item):
            yield Query(family, word_single(family, item.name, detail, random, a), fact, (number,), detail)
        for other in range(number):
            first, second = random.permutation([number, other]).tolist()
            text = word_pair(facts[first].name, facts[second].name, random)
            yield Query("co-presence", text, item.visible & facts[other].visible, (first, second))


def single_facts(item: ObjectFacts) -> Iterator[tuple[str, str, Fact]]:
    """Family, detail and truth of every query about one object."""
    yield "presence", "", item.visible
    for family, details in (("place", item.sides), ("size", item.sizes), ("motion", item.actions)):
        for detail, fact in details.items():
            yield family, detail, item.visible & fact


def _order_queries(facts: list[ObjectFacts], random: np.random.Generator) -> Iterator[Query]:
    """Sentences about one object, limited by the instant at which another appears or leaves, if it does so only once."""
    mains = [query for query in _state_queries(facts, random) if query.family in ("presence", "motion")]
    for query in mains:
        if not is_sentence(query.text):
            continue
        for clause in find_clauses(facts):
            if clause.number not in query.objects:
                text = word_order(query.text, clause, facts[clause.number].name, random)
                yield from _limit(query, clause, text)


def find_clauses(facts: list[ObjectFacts]) -> Iterator[Clause]:
    """Clauses about every instant at which an object clearly appears or leaves."""
    for number, item in enumerate(facts):
        if item.visible.uncertain.any():
            continue
        for change, frame in _instants(item.visible.true):
            for order in ("after", "before"):
                yield Clause(order, number, change, frame)


def _instants(visible: np.ndarray) -> list[tuple[str, int]]:
    """Changes that happen exactly once in a video, each with the index of the frame."""
    changes = np.diff(visible.astype(np.int8))
    appears, leaves = np.flatnonzero(changes == 1) + 1, np.flatnonzero(changes == -1) + 1
    found = []
    if len(appears) == 1 and not visible[0]:
        found.append(("appears", int(appears[0])))
    if len(leaves) == 1 and not visible[-1]:
        found.append(("leaves", int(leaves[0])))
    return found


def _limit(query: Query, clause: Clause, text: str) -> Iterator[Query]:
    """The query limited by a clause, unless one of its moments contains the instant or is within a second of it."""
    runs = find_runs(query.fact.true)
    if any(start - FPS < clause.frame < end + FPS for start, end in runs):
        return
    inside = clause.covers(len(query.fact.true))
    fact = Fact(query.fact.true & inside, query.fact.uncertain & inside)
    kept = len(find_runs(fact.true))
    if kept:
        yield replace(query, family="order", text=text, fact=fact, clause=clause, decides=kept < len(runs))


# ---- wording -------------------------------------------------------------------------------------------------------


def _with_article(name: str, random: np.random.Generator) -> str:
    return f"{random.choice(['the', 'a'])} {name}"


def word_single(family: str, name: str, detail: str, random: np.random.Generator, a: str | None = None) -> str:
    """Draw a wording of a query about one object.

    Args:
        family: Any family except "co-presence" and "order".
        name: The object, such as "red circle".
        detail: The side, size or action.
        random: Random numbers.
        a: The name with its article; `None` = draw the article.
    """
    if a is None:
        a = _with_article(name, random)
    phrases = MOTION_PHRASES[detail] if family == "motion" else STATE_PHRASES[family]
    phrase = random.choice(phrases)
    sized = _with_article(f"{detail} {name}", random) if family == "size" else ""
    return phrase.format(a=a, side=detail, size=detail, sized=sized)


def word_pair(first: str, second: str, random: np.random.Generator) -> str:
    """Draw a wording of a query about the co-presence of two objects."""
    phrase = random.choice(COPRESENCE_PHRASES)
    return phrase.format(a=_with_article(first, random), b=_with_article(second, random))


def word_order(main: str, clause: Clause, name: str, random: np.random.Generator) -> str:
    """Draw a wording of a clause about the object `name`, before or behind a main sentence."""
    words = f"{clause.order} {_with_article(name, random)} {clause.change}"
    return random.choice(ORDER_PHRASES).format(main=main, clause=words)


def is_sentence(text: str) -> bool:
    """Whether a query is more than an article, a colour and a shape, so that a clause can follow it."""
    return len(text.split()) > 3


# ---- annotators ----------------------------------------------------------------------------------------------------


def rate_saliency(query: Query, facts: list[ObjectFacts], random: np.random.Generator) -> np.ndarray:
    """Saliency of every unit, 0 to 4, by three simulated annotators.

    It is higher, the longer the query is true and the larger its objects are.

    Args:
        query: The query.
        facts: From `observe`.
        random: Random numbers for the annotators' errors.

    Returns:
        `(num_units, 3)` int; 0 in units in which the query is never true. At least one score is 4.
    """
    share = query.unit_shares()
    radius = sum(facts[number].radius for number in query.objects)
    radius = _unit_means(radius * query.fact.true) / np.maximum(share, 1e-9)
    interest = share * (0.65 + 0.35 * radius / radius.max())
    ideal = 4 * interest / interest.max()
    scores = ideal[:, None] + RATERS + random.normal(0, RATING_NOISE, (len(ideal), len(RATERS)))
    scores = np.clip(np.rint(scores), 0, 4).astype(int)
    scores[share == 0] = 0
    if scores.max() < 4:
        scores[ideal.argmax(), -1] = 4
    return scores


def rate_importance(facts: list[ObjectFacts], random: np.random.Generator) -> tuple[str, np.ndarray]:
    """A title that names one object, and the importance of every two-second shot by twenty simulated annotators.

    A shot is more important, the longer the object is visible, the larger it is and the more it acts.

    Args:
        facts: From `observe`.
        random: Random numbers that choose the object, and for the annotators' errors.

    Returns:
        The title, and `(num_shots, 20)` int from 1 to 5.
    """
    coming_and_going = [item for item in facts if 0 < item.visible.true.mean() < 0.8] or facts
    item = coming_and_going[random.integers(len(coming_and_going))]
    acting = np.any([fact.true for fact in item.actions.values()], axis=0)
    interest = item.visible.true * (1.3 + item.radius / RADII["large"][1] + 1.5 * acting)
    leniency = random.normal(0, JUDGE_LENIENCY, NUM_JUDGES)
    scores = 1.2 + _unit_means(interest)[:, None] + leniency
    scores = np.rint(scores + random.normal(0, JUDGE_NOISE, scores.shape)).astype(int)
    return _with_article(item.name, random), np.clip(scores, 1, 5)


__all__ = [
    "COPRESENCE_PHRASES",
    "LARGE_EDGE",
    "MOTION_PHRASES",
    "ORDER_PHRASES",
    "PLACE_PHRASES",
    "PRESENCE_PHRASES",
    "QUERIES_PER_VIDEO",
    "SHORTEST_SEC",
    "SIDES",
    "SIDE_EDGE",
    "SIZE_PHRASES",
    "SMALL_EDGE",
    "Clause",
    "Fact",
    "ObjectFacts",
    "Query",
    "find_clauses",
    "find_runs",
    "is_sentence",
    "is_sound",
    "make_queries",
    "observe",
    "rate_importance",
    "rate_saliency",
    "single_facts",
    "vocabulary",
    "word_order",
    "word_pair",
    "word_single",
]
