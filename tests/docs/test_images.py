"""The pictures of the documentation that are written by hand."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest


SVG = "{http://www.w3.org/2000/svg}"
PATH = Path(__file__).parents[2] / "docs/images/architecture.svg"
SIZES = {None: 13, "small": 12, "head": 16}  # in pixels, by the class of the text
ROOM = 6  # pixels between a text and the edge of its box


def boxes_of(root):
    for rect in root.iter(f"{SVG}rect"):
        yield tuple(float(rect.get(name, 0)) for name in ("x", "y", "width", "height"))


def test_texts_of_the_architecture_lie_in_their_boxes():
    pytest.importorskip("matplotlib", reason="matplotlib measures the texts")
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    root = ElementTree.parse(PATH).getroot()
    texts = list(root.iter(f"{SVG}text"))
    assert len(texts) > 20
    for text in texts:
        x, y = float(text.get("x")), float(text.get("y"))
        is_bold = text.get("font-weight") == "bold" or text.get("class") == "head"
        font = FontProperties(family="DejaVu Sans", weight="bold" if is_bold else "normal")
        words = " ".join(text.text.split())
        right = x + TextPath((0, 0), words, SIZES[text.get("class")], prop=font).get_extents().x1
        around = [box for box in boxes_of(root) if box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3]]
        left, _, width, _ = min(around, key=lambda box: box[2] * box[3])
        assert right <= left + width - ROOM, words


def test_the_architecture_shows_every_layer_of_the_package():
    shown = " ".join(text.text for text in ElementTree.parse(PATH).getroot().iter(f"{SVG}text"))
    folders = {path.parent.name for path in (PATH.parents[2] / "r2tuning").glob("*/__init__.py")}
    assert {folder for folder in folders if folder not in shown} == set()
