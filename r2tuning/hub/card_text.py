"""Refresh cards that people edit: the generated parts and the metadata are replaced, everything else is kept.

Each generated part of a card stands between two markers, comments on lines of their own that readers do not see:

    <!-- r2tuning: begin results -->
    <!-- r2tuning: end results -->

Only text between an intact pair of markers is ever replaced. That is what protects the words of the people who edit a
card, so a damaged pair counts as no pair: its text is kept, and the part is added again where the rules ask for it.
"""

import functools
import logging
import re
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml


logger = logging.getLogger(__name__)

CARDS = Path(str(resources.files("r2tuning.hub_cards")))  # the folder `hub_cards` of the sources
MARKER = re.compile(r"^[ \t]*<!-- r2tuning: (begin|end) (\w+) -->[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?(?:\n|\Z)", re.MULTILINE | re.DOTALL)
TOP_LEVEL_KEY = re.compile(r"""^(?:"([^"]+)"|'([^']+)'|([\w.-]+))[ \t]*:(?=\s|$)""")
BOOL_TAG = "tag:yaml.org,2002:bool"
BYTE_ORDER_MARK = "\ufeff"


@functools.cache
def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of `hub_cards`, once: parsing it takes longer than anything else about a card."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _without_bool(resolvers: list[tuple[str, re.Pattern[str]]]) -> list[tuple[str, re.Pattern[str]]]:
    return [(tag, pattern) for tag, pattern in resolvers if tag != BOOL_TAG]


class _Loader(yaml.SafeLoader):
    """Reads the booleans of YAML 1.2, as the Hub does: `no` is a word (the language Norwegian), not `False`."""

    yaml_implicit_resolvers = {
        letter: _without_bool(resolvers) for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(BOOL_TAG, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


@dataclass(frozen=True)
class CardRules:
    """How an existing card is refreshed.

    Attributes:
        always: Generated parts that are appended where the card lacks them; other parts that somebody removed stay
            removed.
        kept: Metadata keys that are only filled in where the card lacks them.
        words: Entries of lists in the metadata that only we write; they are removed where they no longer apply.
        task: Name of the task of our evaluation results in the metadata; `None` if we write no results.
    """

    always: tuple[str, ...]
    kept: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    task: str | None = None


def refresh_card(text: str, fresh: str, rules: CardRules) -> str:
    """Return a card with the generated parts and the metadata of a new one.

    Nothing outside the generated parts is lost.

    Args:
        text: The existing card; it may have been edited, or written by somebody else altogether.
        fresh: The card as we would write it from scratch.
        rules: How the two are merged.
    """
    fresh_metadata, fresh_body = _split(fresh)
    text = text.removeprefix(BYTE_ORDER_MARK)
    old_metadata, body = _split(text)
    metadata = _merge_metadata(old_metadata, fresh_metadata, rules)
    if metadata is None:
        logger.warning("the metadata of the card is not valid YAML; it is kept as text below the new metadata")
        metadata, body = fresh_metadata, f"\n{text}"
    return f"---\n{metadata}---\n{_refresh_body(body, fresh_body, rules)}"


def _split(card: str) -> tuple[str, str]:
    """Split a card into its metadata (YAML, without the dashes) and its body."""
    front_matter = FRONT_MATTER.match(card)
    if front_matter is None:
        return "", f"\n{card.lstrip()}"
    return front_matter[1], card[front_matter.end() :]


# ---- body ----------------------------------------------------------------------------------------------------------


def _refresh_body(body: str, fresh: str, rules: CardRules) -> str:
    """Replace the intact generated parts of a body, remove stray markers, append the parts that are missing."""
    new = {name: fresh[start:end] for name, (start, end) in _find_parts(fresh).items()}
    old = _find_parts(body)
    replacements = []
    for name, (start, end) in old.items():
        if name in new:
            replacements.append((start, end, new[name]))
    stray = _find_stray_markers(body, new, replacements)
    if stray:
        names = sorted({marker[2] for marker in stray})
        logger.warning(f"the markers around {names} in the card are damaged; the text there is kept")
    for marker in stray:
        replacements.append((marker.start(), marker.end(), ""))
    # From the end backwards: the positions before a replacement stay valid.
    for start, end, replacement in sorted(replacements, reverse=True):
        body = body[:start] + replacement + body[end:]
    for name in rules.always:
        if name not in old:
            body = f"{body.rstrip()}\n\n{new[name]}"
    return body


def _find_parts(body: str) -> dict[str, tuple[int, int]]:
    """Find start and end of each generated part, markers included; parts with damaged markers are left out."""
    markers = list(MARKER.finditer(body))
    counts = Counter(marker.groups() for marker in markers)
    parts = {}
    for first, second in zip(markers, markers[1:], strict=False):
        name = first[2]
        is_pair = first.groups() == ("begin", name) and second.groups() == ("end", name)
        is_unique = counts["begin", name] == 1 and counts["end", name] == 1
        if is_pair and is_unique:
            parts[name] = (first.start(), second.end())
    return parts


def _find_stray_markers(
    body: str, new: dict[str, str], replacements: list[tuple[int, int, str]]
) -> list[re.Match[str]]:
    """Find the markers of known parts that do not belong to a part that is replaced."""
    paired = set()
    for start, end, _ in replacements:
        paired |= {start, end}
    stray = []
    for marker in MARKER.finditer(body):
        is_paired = marker.start() in paired or marker.end() in paired
        if marker[2] in new and not is_paired:
            stray.append(marker)
    return stray


# ---- metadata ------------------------------------------------------------------------------------------------------


def _merge_metadata(theirs: str, ours: str, rules: CardRules) -> str | None:
    """Merge two YAML texts; `None` if `theirs` is not a YAML mapping.

    The lines of keys whose values do not change are kept as they are, comments and quotes included.
    """
    old = _load_yaml(theirs)
    if not isinstance(old, dict):
        return None
    new = _merge_values(old, yaml.load(ours, _Loader) or {}, rules)
    lines = {}
    for key, text in _lines_by_key(theirs).items():
        if key is None or key in new:
            lines[key] = text
    for key, value in new.items():
        is_unchanged = key in lines and key in old and old[key] == value
        if not is_unchanged:
            lines[key] = _dump({key: value})
    merged = "".join(lines.values())
    # Flow style, anchors or keys over several lines cannot be edited line by line; then everything is rewritten.
    return merged if _load_yaml(merged) == new else _dump(new)


def _load_yaml(text: str) -> Any:
    """Parse YAML, an empty text as a mapping; `None` if it is not valid."""
    try:
        return yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, ValueError):  # `ValueError`: a date such as 2024-13-45
        return None


def _merge_values(old: dict[str, Any], new: dict[str, Any], rules: CardRules) -> dict[str, Any]:
    """Merge two mappings of metadata: keys of `old` that `new` lacks are kept."""
    merged = dict(old)
    for key, value in new.items():
        # A licence that is kept keeps its name, too.
        kept_by = "license" if key == "license_name" else key
        if kept_by in rules.kept and old.get(kept_by) is not None:
            continue
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            value = _merge_words(old.get(key), value, rules)
        merged[key] = value
    if rules.task is not None:
        merged.pop("model-index", None)
        results = _merge_results(old.get("model-index"), new.get("model-index") or [], rules.task)
        if results:
            merged["model-index"] = results
    return merged


def _merge_words(theirs: Any, ours: list[str], rules: CardRules) -> list[Any]:
    """Our words, then those of others; words of ours that no longer apply are dropped."""
    others = theirs or []
    if not isinstance(others, list):
        others = [others]  # the Hub also takes a single word for a list
    known = [*ours, *rules.words]  # a list, as what others wrote may not be hashable
    return ours + [word for word in others if word not in known]


def _merge_results(theirs: Any, ours: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """Our results, and the results of others on other tasks that the card holds."""
    merged = []
    by_name = {}
    for entry in ours:
        copied = {**entry, "results": list(entry["results"])}
        merged.append(copied)
        by_name[entry["name"]] = copied
    for entry in theirs if isinstance(theirs, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("results"), list):
            continue  # the Hub would not accept it as results either
        others = [result for result in entry["results"] if not _is_of_task(result, task)]
        if others and entry.get("name") in by_name:
            by_name[entry["name"]]["results"] += others
        elif others:
            merged.append({**entry, "results": others})
    return merged


def _is_of_task(result: Any, task: str) -> bool:
    described = result.get("task") if isinstance(result, dict) else None
    return isinstance(described, dict) and described.get("name") == task


def _lines_by_key(text: str) -> dict[str | None, str]:
    """Group YAML lines by their top-level key; lines before the first key stand under `None`."""
    lines: dict[str | None, str] = {}
    key = None
    for line in text.splitlines(keepends=True):
        found = TOP_LEVEL_KEY.match(line)
        if found:
            key = found[1] or found[2] or found[3]
        lines[key] = lines.get(key, "") + line
    return lines


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


__all__ = ["CARDS", "CardRules", "read_yaml", "refresh_card"]
