"""Fonts for queries in any language: matplotlib's default font has the letters of a few alphabets only.

Installed fonts that have the missing characters are added; matplotlib takes each character from the first font that has
it.
"""

import functools
import logging
import unicodedata
from collections.abc import Iterable
from typing import Any


logger = logging.getLogger(__name__)

# Fonts of matplotlib that are never chosen: one draws every character as a box that names its script, the others have
# symbols where letters belong.
LAST_RESORT = "Last Resort"
EXCLUDED = (LAST_RESORT, "cm", "STIXNonUnicode", "STIXSize")
PREFERRED = ("Noto Sans", "Noto", "")  # beginnings of names, the best first
UNDRAWN = ("C", "Z")  # Unicode categories that need no glyph: control and format characters, spaces
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")  # beginnings of the names of characters
PACKAGES = {True: "Noto Sans CJK (Debian: fonts-noto-cjk)", False: "Noto Sans (Debian: fonts-noto)"}


def text_style(texts: Iterable[str], weight: str = "normal") -> dict[str, Any]:
    """Properties of matplotlib's texts that draw the given ones; warns once if no installed font has some characters.

    Args:
        texts: What is to be drawn.
        weight: Weight of the font. Where fonts must be added it is normal, as few of them have others.

    Returns:
        Keyword arguments: the weight and, if matplotlib's own fonts lack characters, the families.
    """
    from matplotlib import rcParams  # optional, so it is imported only when something is drawn

    characters = "".join(sorted(set("".join(texts))))
    families, missing = find_fonts(characters)
    if missing:
        _warn_once("".join(missing))
    if not families:
        return {"fontweight": weight}
    return {"fontweight": "normal", "fontfamily": [*rcParams["font.family"], *families]}


@functools.lru_cache(maxsize=256)
def _warn_once(missing: str) -> None:
    """Warn that no font has some characters; several pictures of one query have the same."""
    from matplotlib import get_cachedir

    logger.warning(
        f"No installed font has the characters {' '.join(missing)}, which are drawn as boxes. Install a font that has "
        f"them: {_packages_for(missing)}. If it is not found then, delete the font list of matplotlib in "
        f"'{get_cachedir()}'."
    )


@functools.lru_cache(maxsize=256)
def find_fonts(characters: str) -> tuple[list[str], list[str]]:
    """Find installed fonts for what matplotlib's default font lacks.

    Args:
        characters: The characters to draw, each once.

    Returns:
        Families to add, and the characters that no font has.
    """
    from matplotlib import font_manager

    wanted = [character for character in characters if unicodedata.category(character)[0] not in UNDRAWN]
    default = font_manager.findfont(font_manager.FontProperties())
    missing = set(wanted) - _covered(default, wanted)
    if not missing:
        return [], []
    files = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    found = {}  # of each family, the best first
    for name in sorted(files, key=_rank):
        if not name.startswith(EXCLUDED):
            found[name] = _covered(files[name], missing)
    families = []
    while missing:
        best = max(found, key=lambda name: len(found[name] & missing), default=None)
        if best is None or not found[best] & missing:
            break
        families.append(best)
        missing -= found[best]
    if missing:  # boxes instead of a warning of matplotlib for every character, where it has this font
        families += [name for name in files if name.startswith(LAST_RESORT)]
    return families, sorted(missing)


def _covered(path: str, characters: Iterable[str]) -> set[str]:
    """The characters that a font file has; none if it cannot be read."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):
        return set()
    return {character for character in characters if font.get_char_index(ord(character))}


def _rank(name: str) -> tuple[int, str]:
    beginning = next(beginning for beginning in PREFERRED if name.startswith(beginning))
    return PREFERRED.index(beginning), name


def _packages_for(characters: Iterable[str]) -> str:
    """Fonts to install for characters."""
    needed = {PACKAGES[unicodedata.name(character, "").startswith(CJK)] for character in characters}
    return " and ".join(sorted(needed))


__all__ = ["find_fonts", "text_style"]
