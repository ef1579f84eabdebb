"""Cards on the Hub that people edit: what we generate is made anew, what others wrote is kept.

Generated parts of a text stand between two comments, a line each:

    <!-- r2tuning: begin results -->
    <!-- r2tuning: end results -->
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml


CARDS = resources.files("r2tuning.hub_cards")  # the folder `hub_cards`
MARK = re.compile(r"^[ \t]*<!-- r2tuning: (begin|end) (\w+) -->[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?(?:\n|\Z)", re.MULTILINE | re.DOTALL)
KEY = re.compile(r"""^(?:"([^"]+)"|'([^']+)'|([\w.-]+))[ \t]*:(?=\s|$)""")
BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """Reads `no` as a word, as the Hub does: the language Norwegian."""

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


@dataclass(frozen=True)
class CardRules:
    """How a card that exists is refreshed.

    Attributes:
        always: Parts that a card without them gets at its end; others that were removed stay away.
        kept: Keys of the metadata that are filled in only where the card lacks them.
        words: Entries of lists in the metadata that are ours alone: they go where they no longer apply.
        task: Results in the metadata under this name of a task are ours.
    """

    always: tuple[str, ...]
    kept: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    task: str | None = None


def refresh_card(text: str, fresh: str, rules: CardRules, logger: logging.Logger) -> str:
    """A card with its generated parts and metadata as in a new one.

    Nothing that stands outside of the generated parts is lost. Where the comments around a part are damaged, all of
    the text is kept, and the part is treated as missing.

    Args:
        text: The card, perhaps edited, or not ours at all.
        fresh: As we would write it where there is none.
        rules: How the two are brought together.
        logger: Is told of anything odd.
    """
    fresh_front, fresh_body = _split(fresh)
    text = text.removeprefix("\ufeff")
    front, body = _split(text)
    metadata = _merge_metadata(front, fresh_front, rules)
    if metadata is None:
        logger.warning("the metadata of the card is no YAML: it is kept as text below the new metadata")
        metadata, body = fresh_front, f"\n{text}"
    return f"---\n{metadata}---\n{_refresh_body(body, fresh_body, rules, logger)}"


def _split(card: str) -> tuple[str, str]:
    """Metadata, as YAML, and text."""
    found = FRONT.match(card)
    return ("", f"\n{card.lstrip()}") if found is None else (found[1], card[found.end() :])


# ---- text ----------------------------------------------------------------------------------------------------------


def _refresh_body(body: str, fresh: str, rules: CardRules, logger: logging.Logger) -> str:
    new = {name: fresh[start:end] for name, (start, end) in _parts(fresh).items()}
    old = _parts(body)
    changes = [(start, end, new[name]) for name, (start, end) in old.items() if name in new]
    inside = {position for start, end, _ in changes for position in (start, end)}
    stray = [mark for mark in MARK.finditer(body) if mark[2] in new and not inside & {mark.start(), mark.end()}]
    if stray:
        names = sorted({mark[2] for mark in stray})
        logger.warning(f"the marks around {names} in the card are damaged: the text there is kept as yours")
    changes += [(mark.start(), mark.end(), "") for mark in stray]
    for start, end, replacement in sorted(changes, reverse=True):
        body = body[:start] + replacement + body[end:]
    for name in rules.always:
        if name not in old:
            body = f"{body.rstrip()}\n\n{new[name]}"
    return body


def _parts(body: str) -> dict[str, tuple[int, int]]:
    """From where to where the marked parts go, marks included; of damaged ones none."""
    marks = list(MARK.finditer(body))
    counts = Counter((mark[1], mark[2]) for mark in marks)
    return {
        first[2]: (first.start(), second.end())
        for first, second in zip(marks, marks[1:], strict=False)
        if (first[1], second[1]) == ("begin", "end") and first[2] == second[2]
        if counts["begin", first[2]] == counts["end", first[2]] == 1
    }


# ---- metadata ------------------------------------------------------------------------------------------------------


def _merge_metadata(theirs: str, ours: str, rules: CardRules) -> str | None:
    """YAML of both; lines of keys that do not change are left as they are. `None` where `theirs` is none."""
    try:
        old = yaml.load(theirs, _Loader) or {}
    except (yaml.YAMLError, ValueError):  # the latter of dates
        return None
    if not isinstance(old, dict):
        return None
    new = _merge_values(old, yaml.load(ours, _Loader) or {}, rules)
    lines = {key: text for key, text in _lines_by_key(theirs).items() if key is None or key in new}
    lines |= {
        key: _dump({key: value})
        for key, value in new.items()
        if key not in lines or key not in old or old[key] != value
    }
    text = "".join(lines.values())
    try:
        is_right = (yaml.load(text, _Loader) or {}) == new
    except (yaml.YAMLError, ValueError):
        is_right = False
    return text if is_right else _dump(new)


def _merge_values(old: dict[str, Any], new: dict[str, Any], rules: CardRules) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        if key in rules.kept and old.get(key) is not None:
            continue
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            others = old.get(key) or []
            others = others if isinstance(others, list) else [others]
            value = value + [entry for entry in others if entry not in value and entry not in rules.words]
        merged[key] = value
    if rules.task is not None:
        results = _merge_results(old.get("model-index"), new.get("model-index") or [], rules.task)
        merged.pop("model-index", None)
        merged |= {"model-index": results} if results else {}
    return merged


def _merge_results(theirs: Any, ours: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """Our results, and those of others that are in the card."""
    merged = [{**entry, "results": list(entry["results"])} for entry in ours]
    by_name = {entry["name"]: entry for entry in merged}
    for entry in theirs if isinstance(theirs, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("results"), list):
            continue  # nothing that the Hub would take for results
        others = [result for result in entry["results"] if not _is_of_task(result, task)]
        if others and entry.get("name") in by_name:
            by_name[entry["name"]]["results"] += others
        elif others:
            merged.append({**entry, "results": others})
    return merged


def _is_of_task(result: Any, task: str) -> bool:
    of = result.get("task") if isinstance(result, dict) else None
    return isinstance(of, dict) and of.get("name") == task


def _lines_by_key(text: str) -> dict[str | None, str]:
    """The lines of each key at the top level; before the first key under `None`."""
    lines, key = {}, None
    for line in text.splitlines(keepends=True):
        found = KEY.match(line)
        if found:
            key = found[1] or found[2] or found[3]
        lines[key] = lines.get(key, "") + line
    return lines


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


__all__ = ["CardRules", "refresh_card"]
