"""The style that all pictures share: colours, lines, numbers, times, and texts that fit."""

from itertools import combinations

import pytest
from figure_checks import color_distance

from r2tuning.visualization import style


matplotlib = pytest.importorskip("matplotlib", reason="figures need matplotlib")

ROLES = (
    style.CURVE_COLOR,
    style.MOMENT_COLOR,
    style.HIGHLIGHT_COLOR,
    style.TRUTH_COLOR,
    style.ABSENT_COLOR,
)
ROLE_DISTANCE, LINE_DISTANCE = 21, 14  # CIE76


@pytest.mark.parametrize("deficiency", ["deuteranopia", "protanopia"])
def test_colour_blind_people_can_tell_roles_and_lines_apart(deficiency):
    """Distances are nine and six times what is just noticeable; lines differ in dashes and markers as well."""
    for one, other in combinations(ROLES, 2):
        assert color_distance(one, other, deficiency) > ROLE_DISTANCE, (one, other)
    for one, other in combinations(style.SERIES_COLORS, 2):
        assert color_distance(one, other, deficiency) > LINE_DISTANCE, (one, other)


def test_red_and_green_of_equal_lightness_would_fail():
    assert color_distance("#d1495b", "#3a7d44", "deuteranopia") < ROLE_DISTANCE
    assert color_distance("#2ca02c", "#d62728", "deuteranopia") < LINE_DISTANCE  # matplotlib's own


def test_no_two_lines_of_a_panel_look_alike():
    styles = style.series_styles(35)
    assert len({(line.color, line.linestyle) for line in styles}) == 35
    assert len({line.color for line in styles[:7]}) == len({line.marker for line in styles[:7]}) == 7


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.001, 2, "0.00"), (-0.0, 3, "0.000"), (-0.006, 2, "-0.01"), (0.125, 1, "0.1"), (12, 2, "12.00")],
)
def test_what_rounds_to_zero_has_no_sign(value, digits, text):
    assert style.format_number(value, digits) == text


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (-0.08, 0.12, ["-0.08", "0.12"]),
        (0.118, 0.121, ["0.118", "0.121"]),
        (-0.0041, 0.0019, ["-0.004", "0.002"]),
        (0.25, 0.25, ["0.25"]),
        (0.25, 0.25003, ["0.25"]),
        (-0.00002, 0.00002, ["0.00"]),
    ],
)
def test_values_of_an_axis_have_the_digits_that_tell_them_apart(low, high, labels):
    assert [label for _, label in style.label_range(low, high)] == labels


@pytest.mark.parametrize("duration_sec", [0.04, 1.0, 59.9, 3600.0, 10800.0, 5e6])
def test_time_axes_have_a_unit_and_few_distinct_ticks(duration_sec):
    axes = style.import_figure()().subplots()
    style.label_time(axes, duration_sec)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert 1 <= len(labels) <= 13
    assert len(set(labels)) == len(labels)
    assert axes.get_xlabel() == "time, min:s"


@pytest.fixture
def write():
    """Write a text into a figure and fit it to three inches."""
    figure = style.import_figure()(figsize=(10, 1))

    def fit(text, **options):
        written = figure.text(0, 0.5, text, parse_math=False)
        style.fit_text(written, 3.0, **options)
        assert written.get_window_extent().width <= 3.0 * figure.dpi
        return written.get_text()

    return fit


def test_a_text_that_fits_is_kept(write):
    assert write("people laugh") == "people laugh"


def test_long_texts_are_cut_between_words(write):
    shortened = write("open the door " * 90)
    assert shortened.endswith((" open ...", " the ...", " door ..."))
    assert len(shortened) > 20


@pytest.mark.parametrize("letter", ["W", "i", "ж"])
def test_texts_without_spaces_are_cut_where_the_room_ends(write, letter):
    shortened = write(letter * 200)
    assert shortened == letter * (len(shortened) - 4) + " ..."
    assert len(shortened) > 8


def test_an_accent_stays_with_its_letter(write):
    assert not write("e\N{COMBINING ACUTE ACCENT}" * 100).removesuffix(" ...").endswith("e")


def test_the_ending_of_a_name_can_be_kept(write):
    shortened = write("a_long_name_" * 10 + "_007.mp4", num_last=8)
    assert shortened.startswith("a_long_name_")
    assert shortened.endswith(" ..._007.mp4")


def test_files_have_the_format_of_their_ending_or_png(tmp_path):
    figure = style.import_figure()(figsize=(1, 1))
    for name, start in (("a.png", b"\x89PNG"), ("a", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")):
        style.save_figure(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


TINY = {"start": 1.0, "end": 2.0, "score": -0.0001}


def tables_with_tiny_scores():
    from r2tuning.commands import demo, ground, search
    from r2tuning.library.library import SearchAnswer
    from r2tuning.library.moments import Moment

    highlight = {"time": 1.0, "score": -0.001}
    answer = {"query": "a dog", "moments": [TINY], "highlights": [highlight], "summary": []}
    yield ground.format_answer(answer, 5)
    yield demo.format_comparison(demo.DemoQuery("a dog", "place", [(1.0, 2.0)]), answer, 5)
    yield search.format_answer(SearchAnswer("a dog", [Moment("a.mp4", 1.0, 2.0, -0.0001)], num_windows=1))


def test_no_table_shows_a_negative_zero():
    for table in tables_with_tiny_scores():
        assert "0.00" in table
        assert "-0.0" not in table
