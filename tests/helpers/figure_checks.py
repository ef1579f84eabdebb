"""What every figure must satisfy: its texts lie inside it, cover no other text, and show no negative zero."""

import re
from itertools import combinations
from unittest import mock

import numpy as np


NEGATIVE_ZERO = re.compile("[-\N{MINUS SIGN}]0(\\.0*)?(?![.\\d])")
TOLERANCE = 1.0  # pixels that boxes may share or stick out: letters do not fill theirs

# How dichromats see linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
DEFICIENCIES = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def drawn_texts(figure):
    """Every text that is drawn, with its box in pixels."""
    from matplotlib.text import Text

    found = []
    draw = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), Text.get_window_extent(text, renderer)))
        draw(text, renderer)

    with mock.patch.object(Text, "draw", record):
        figure.draw_without_rendering()
    return found


def check_texts(figure):
    """Fail with the texts that leave the figure, cover each other or show a negative zero; returns all texts."""
    texts = drawn_texts(figure)
    outside = [text for text, box in texts if not _contains(figure.bbox, box)]
    assert not outside, f"outside the figure: {outside}"
    covered = [(one, other) for (one, a), (other, b) in combinations(texts, 2) if _overlap(a, b)]
    assert not covered, f"texts that cover each other: {covered}"
    shown = [text for text, _ in texts]
    assert not [text for text in shown if NEGATIVE_ZERO.search(text)]
    return shown


def _contains(outer, box):
    return (
        box.x0 >= outer.x0 - TOLERANCE
        and box.x1 <= outer.x1 + TOLERANCE
        and box.y0 >= outer.y0 - TOLERANCE
        and box.y1 <= outer.y1 + TOLERANCE
    )


def _overlap(one, other):
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width > TOLERANCE and height > TOLERANCE


def legend_labels(figure):
    """Texts of the legends of a figure and of its axes."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()]


def color_distance(one, other, deficiency):
    """CIE76 difference of two colours as "#rrggbb", as people with a colour deficiency see them; 2.3 is just noticeable."""
    return float(np.linalg.norm(_lab(one, deficiency) - _lab(other, deficiency)))


def _lab(color, deficiency):
    """CIE L*a*b* coordinates, for D65."""
    channels = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratios = np.array(to_xyz) @ seen / [0.9505, 1, 1.089]
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
