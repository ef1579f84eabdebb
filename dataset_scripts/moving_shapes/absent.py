"""Absent queries of Moving Shapes: sentences like those of `queries.py` that are true at no time of their video.

| kind | the query is about | example, for a video of a red circle and a blue square |
|---|---|---|
| easy | a combination that is not in the video, and whose colour and shape are not both there | the green circle |
| binding | a combination that is not in the video, and whose colour and shape are there on two objects | the blue circle |
| hard | objects of the video, with a place, size, motion or order that never occurs, or never together | the red circle grows |

Every absent query is modelled on a present query of its video, drawn at random. It has the same family, and if it is easy
or binding, it differs only in the name of one object: with a clause of order, that of the main sentence, since "before" a
thing that never happens may be true. There are two absent queries for three present ones; half of them are hard, a
quarter binding and a quarter easy. "presence" has no hard kind, so the other families have more of it.

An absent query is certainly false: whatever it says of an object is not even uncertain at any time at which the object
exists, whether it is visible or hidden, and with a clause of order not within a second of the clause's side either.

The text alone does not tell whether a query is absent. Names are combinations that occur in the videos of the split, but
binding queries of "test_unseen" need those of the other splits. Only shapes whose spinning is visible spin. Hard queries
are drawn with weights that give their details and clauses the frequencies that those of present queries have.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .queries import (
    SHORTEST_SEC,
    SIDES,
    Clause,
    ObjectFacts,
    Query,
    find_clauses,
    is_sentence,
    is_sound,
    word_order,
    word_pair,
    word_single,
)
from .scenes import ANGULAR, FPS, SEEN, combinations_of


ABSENT_PER_PRESENT = 2 / 3
HARD_SHARE = 0.5
# Share of binding queries among those that are not hard. In one of eight videos no name can be bound, which the others
# make up for; the videos of "test_unseen" always have one.
BINDING_SHARE = 0.56
BINDING_SHARE_UNSEEN = 0.5

# Weights of the details and clauses of hard queries, fitted so that each is about as frequent as in present queries. A
# large weight makes up for a rare opportunity: few videos have an object that is never small, for example.
MOVES = ("moves left", "moves right", "moves up", "moves down")
DETAIL_WEIGHTS = {
    "place": dict.fromkeys(SIDES, 1.0),
    "size": {"small": 45.0, "large": 1.0},
    "motion": {**dict.fromkeys(MOVES, 1.0), "grows": 1.4, "shrinks": 1.65, "blinks": 1.15, "spins": 1.2},
}
ORDER_WEIGHTS = {  # by the action in the main sentence; "" = it is about presence
    "": 28.0,
    **dict.fromkeys(MOVES, 1.0),
    "grows": 1.3,
    "shrinks": 0.9,
    "blinks": 17.0,
    "spins": 20.0,
}
CLAUSE_WEIGHTS = {
    ("after", "appears"): 44.0,
    ("before", "leaves"): 44.0,
    ("after", "leaves"): 1.0,
    ("before", "appears"): 1.0,
}
# Weight of names of binding queries that share a word with the other name in the query. A name whose colour and shape
# are in the video would share one with another object of the video more often than that object's companions do.
SHARED_WORD_WEIGHT = 0.03


@dataclass(frozen=True)
class AbsentQuery:
    """A query that is true at no time of a video.

    Attributes:
        family: The family of the present query that it replaces.
        kind: One of `ABSENT_KINDS`.
        text: The sentence.
    """

    family: str
    kind: str
    text: str


@dataclass(frozen=True)
class Statement:
    """What a query says, without its wording; two wordings of one statement are not both asked."""

    family: str
    names: tuple[str, ...]
    detail: str = ""
    clause: Clause | None = None


def make_absent_queries(
    facts: list[ObjectFacts],
    present: list[Query],
    split: str,
    random: np.random.Generator,
) -> list[AbsentQuery]:
    """Draw the absent queries of a video.

    Args:
        facts: From `observe`.
        present: The present queries of the video, from `make_queries`.
        split: The split of the video, which decides the combinations that easy queries may name.
        random: Random numbers that choose the queries and their wording.
    """
    maker = _Maker(facts, combinations_of(split), random)
    number = _round_randomly(ABSENT_PER_PRESENT * len(present), random)
    sources = [present[index] for index in random.permutation(len(present))[:number]]
    num_hard = _round_randomly(HARD_SHARE * number, random)
    # Few videos have a hard query of co-presence, so it comes first.
    for source in sorted(sources, key=lambda query: query.family != "co-presence"):
        if len(maker.made) < num_hard and maker.add_hard(source):
            sources.remove(source)
    binding_share = BINDING_SHARE_UNSEEN if split == "test_unseen" else BINDING_SHARE
    num_binding = _round_randomly(binding_share * len(sources), random)
    for place, index in enumerate(random.permutation(len(sources))):
        kind, other = ("binding", "easy") if place < num_binding else ("easy", "binding")
        if not maker.add_renamed(sources[index], kind):
            maker.add_renamed(sources[index], other)
    return maker.made


def _round_randomly(value: float, random: np.random.Generator) -> int:
    """A neighbouring integer whose expected value is `value`."""
    return int(value + random.random())


class _Maker:
    """Makes the absent queries of one video, each statement once."""

    def __init__(self, facts: list[ObjectFacts], combinations: Sequence[tuple[str, str]], random: np.random.Generator):
        self.facts = facts
        self.random = random
        self.made: list[AbsentQuery] = []
        self.asked: set[Statement] = set()
        # The objects that are visible long enough to be called present.
        self.clear = [item for item in facts if item.visible.true.sum() >= SHORTEST_SEC * FPS]
        self.renamings = _find_renamings(facts, self.clear, combinations)

    def add_hard(self, source: Query) -> bool:
        """Add a hard query of the family of `source`; whether there is one."""
        return self._draw(self._find_hard(source.family), "hard")

    def add_renamed(self, source: Query, kind: str) -> bool:
        """Add `source` with the name of an object that is not there; whether there is one."""
        return self._draw(self._find_renamed(source, kind), kind)

    def _draw(self, candidates: list[tuple[Statement, float]], kind: str) -> bool:
        """Draw a statement that is not asked yet, with its weight; whether there is one."""
        candidates = [(statement, weight) for statement, weight in candidates if statement not in self.asked]
        if not candidates:
            return False
        weights = np.array([weight for _, weight in candidates])
        statement, _ = candidates[self.random.choice(len(candidates), p=weights / weights.sum())]
        self.asked.add(statement)
        self.made.append(AbsentQuery(statement.family, kind, self._word(statement)))
        return True

    def _find_hard(self, family: str) -> list[tuple[Statement, float]]:
        """The hard statements of a family, each with its weight."""
        if family == "co-presence":
            return [(statement, 1.0) for statement in self._find_separate()]
        if family == "order":
            return self._find_disordered()
        found = []
        for item in self.clear:
            for detail, weight in DETAIL_WEIGHTS.get(family, {}).items():
                can_be = detail != "spins" or _can_spin(item.name)
                if can_be and not _possible(item, family, detail).any():
                    found.append((Statement(family, (item.name,), detail), weight))
        return found

    def _find_separate(self) -> list[Statement]:
        """Pairs of objects that never exist at the same time, in both orders."""
        found = []
        for first, second in itertools.permutations(self.clear, 2):
            if not (_possible(first, "presence") & _possible(second, "presence")).any():
                found.append(Statement("co-presence", (first.name, second.name)))
        return found

    def _find_disordered(self) -> list[tuple[Statement, float]]:
        """Sentences that are true, but only on the other side of the instant of a clause."""
        clauses = list(find_clauses(self.facts))
        found = []
        for number, item in enumerate(self.facts):
            mains = [("", item.visible)]
            mains += [(action, item.visible & fact) for action, fact in item.actions.items()]
            for detail, fact in mains:
                if not is_sound(fact):
                    continue
                possible = _possible(item, "motion" if detail else "presence", detail)
                for clause in clauses:
                    side = clause.covers(len(possible), margin=FPS)
                    if clause.number != number and not (possible & side).any():
                        statement = Statement("order", (item.name,), detail, clause)
                        weight = ORDER_WEIGHTS[detail] * CLAUSE_WEIGHTS[clause.order, clause.change]
                        found.append((statement, weight))
        return found

    def _find_renamed(self, source: Query, kind: str) -> list[tuple[Statement, float]]:
        """`source` with each name of a kind in place of one of its names, with the weight of the name."""
        names = [self.facts[number].name for number in source.objects]
        place = int(self.random.integers(len(names)))
        others = names[:place] + names[place + 1 :]
        if source.clause is not None:
            others.append(self.facts[source.clause.number].name)
        found = []
        for name in self.renamings[kind]:
            if source.detail == "spins" and not _can_spin(name):
                continue
            names[place] = name
            shares = any(_share_word(name, other) for other in others)
            weight = SHARED_WORD_WEIGHT if shares and kind == "binding" else 1.0
            found.append((Statement(source.family, tuple(names), source.detail, source.clause), weight))
        return found

    def _word(self, statement: Statement) -> str:
        if statement.family == "co-presence":
            first, second = self.random.permutation(statement.names).tolist()
            return word_pair(first, second, self.random)
        if statement.clause is None:
            return word_single(statement.family, statement.names[0], statement.detail, self.random)
        family = "motion" if statement.detail else "presence"
        main = ""
        while not is_sentence(main):
            main = word_single(family, statement.names[0], statement.detail, self.random)
        return word_order(main, statement.clause, self.facts[statement.clause.number].name, self.random)


def _possible(item: ObjectFacts, family: str, detail: str = "") -> np.ndarray:
    """`(num_frames,)` bool: where a query about an object might be true, although the object may be hidden."""
    if family == "presence":
        return item.radius > 0
    facts = {"place": item.sides, "size": item.sizes, "motion": item.actions}[family]
    return facts[detail].true | facts[detail].uncertain


def _share_word(name: str, other: str) -> bool:
    """Whether two names have the same colour or the same shape."""
    return not set(name.split()).isdisjoint(other.split())


def _can_spin(name: str) -> bool:
    return name.split()[1] in ANGULAR


def _find_renamings(
    facts: list[ObjectFacts], clear: list[ObjectFacts], combinations: Sequence[tuple[str, str]]
) -> dict[str, list[str]]:
    """Names of combinations that are not in a video, by kind."""
    shown = {tuple(item.name.split()) for item in facts}
    colors = {color for color, _ in shown}
    shapes = {shape for _, shape in shown}
    easy = []
    for color, shape in combinations:
        if not (color in colors and shape in shapes):
            easy.append(f"{color} {shape}")
    clear_names = [item.name.split() for item in clear]
    binding = []
    for color, shape in SEEN:
        has_color = any(name[0] == color for name in clear_names)
        has_shape = any(name[1] == shape for name in clear_names)
        if (color, shape) not in shown and has_color and has_shape:
            binding.append(f"{color} {shape}")
    return {"easy": easy, "binding": binding}


__all__ = ["AbsentQuery", "make_absent_queries"]
