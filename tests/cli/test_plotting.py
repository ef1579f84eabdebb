"""The figure of the answers: what is drawn, and where."""

import io
import sys

import numpy as np
import pytest
from figure_checks import check_texts, drawn_texts, legend_labels
from video_samples import write_video

from r2tuning.visualization import fonts
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.style import (
    ABSENT_COLOR,
    CURVE_COLOR,
    MOMENT_COLOR,
    TIME_LABEL,
    TRUTH_COLOR,
    format_time,
    score_opacities,
)
from r2tuning.visualization.timeline import assign_lanes, plot_grounding


matplotlib = pytest.importorskip("matplotlib", reason="figures need matplotlib")
font_manager = pytest.importorskip("matplotlib.font_manager")
rcParams = matplotlib.rcParams

COLORS = [(200, 40, 40), (40, 160, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200)]


def colored_frames(width=96, height=64, seconds_each=4):
    for color in COLORS:
        for _ in range(seconds_each * 5):
            yield np.full((height, width, 3), color, dtype=np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of 20 seconds that shows five colours, each for 4 seconds."""
    return str(write_video(tmp_path_factory.mktemp("plot") / "colors.mp4", colored_frames(), rate=5))


def make_answer(query="people laugh", moments=((4.0, 10.0, 0.9), (6.0, 12.0, 0.45), (18.0, 20.0, 0.2)), frames=20):
    saliency = np.sin(np.arange(frames) / 3).tolist()
    return {
        "query": query,
        "moments": [{"start": start, "end": end, "score": score} for start, end, score in moments],
        "saliency": saliency,
        "frame_times": [float(time) for time in range(frames)],
        "highlights": [{"time": float(time), "score": saliency[time]} for time in (5, 4, 6)],
        "summary": [{"start": 4.0, "end": 8.0}],
    }


def bars(axes):
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]


def test_rows_are_frames_then_a_curve_and_moments_for_each_query(video):
    figure = plot_grounding([make_answer("first"), make_answer("second")], video)
    strip, *rows = figure.axes
    assert len(strip.images) == 10
    assert [axes.get_title("left") for axes in rows] == ["first", "", "second", ""]
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops == sorted(tops, reverse=True)
    assert {axes.get_xlim() for axes in figure.axes} == {(0, 20)}


def test_strip_shows_the_frames_at_the_right_times(video):
    images = plot_grounding(make_answer(), video).axes[0].images
    for index, image in enumerate(images):
        assert image.get_extent() == pytest.approx([2 * index, 2 * index + 2, 0, 1])
        expected = COLORS[(2 * index + 1) // 4]
        np.testing.assert_allclose(np.asarray(image.get_array()).mean((0, 1)), expected, atol=12)


def test_curve_reaches_the_end_and_highlights_lie_on_it(video):
    answer = make_answer()
    curve = plot_grounding(answer, video).axes[1]
    times, saliency = curve.lines[0].get_data()
    assert times[-1] == 20
    np.testing.assert_allclose(saliency[:-1], answer["saliency"])
    marks = curve.collections[-1].get_offsets()
    np.testing.assert_allclose(marks, [(found["time"], found["score"]) for found in answer["highlights"]])


def test_moments_are_labelled_bars_and_the_best_is_shaded(video):
    _, curve, axes = plot_grounding(make_answer(), video).axes
    assert bars(axes) == [(4.0, 10.0), (6.0, 12.0), (18.0, 20.0)]
    opacities = [bar.get_alpha() for bar in axes.patches]
    assert opacities == sorted(opacities, reverse=True)
    assert [text.get_text() for text in axes.texts] == ["1: 0.90", "2: 0.45", "3: 0.20", "moments"]
    assert bars(curve) == [(4.0, 10.0)]


def test_top_limits_the_number_of_moments(video):
    assert len(plot_grounding(make_answer(), video, top=2).axes[2].patches) == 2


@pytest.mark.parametrize(
    "answer",
    [
        make_answer(moments=()),
        make_answer(moments=((3.0, 3.0, 0.0),)),
        {**make_answer(frames=7), "saliency": [0.25] * 7, "highlights": []},
        {**make_answer(frames=7), "saliency": [0.2501, 0.25] * 3 + [0.25], "highlights": []},
    ],
    ids=["no moments", "empty moment", "flat curve", "nearly flat curve"],
)
def test_answers_with_little_to_draw(answer, video):
    figure = plot_grounding(answer, video)
    texts = [text.get_text() for text in figure.axes[2].texts]
    assert texts[-1] == ("moments" if answer["moments"] else "no moments")
    check_texts(figure)


# ---- texts, legend and colours -------------------------------------------------------------------------------------


def many_moments(count, length):
    return tuple((0.9 * rank, 0.9 * rank + length, 0.95 - 0.04 * rank) for rank in range(count))


@pytest.mark.parametrize(
    "answers",
    [
        [make_answer(moments=many_moments(20, 1.6))],
        [make_answer(moments=many_moments(22, 0.1))],
        [make_answer(moments=((1.0, 5.0, -0.001), (2.0, 6.0, -12.345), (19.9, 20.0, -1.2)))],
        [make_answer(moments=((1.0, 5.0, 0.5),) * 5)],
        [{**make_answer(f"query {number}"), "probability": 1.0, "found": number != 3} for number in range(10)],
        [make_answer("WOMAN MAN " * 40), make_answer("w" * 300), make_answer("$x_1$ and_so ^on\n two")],
        [{**make_answer(), "saliency": [-0.001, 0.002] * 10, "highlights": [{"time": 0.0, "score": -0.001}]}],
    ],
    ids=["20 moments", "22 short moments", "negative", "equal", "ten queries", "long queries", "small saliency"],
)
def test_texts_lie_in_the_figure_and_cover_no_others(answers, video):
    truths = [[(0.0, 3.0), (19.5, 20.0)] for _ in answers]
    texts = check_texts(plot_grounding(answers, video, top=22, truths=truths))
    assert TIME_LABEL in texts
    ranks = sum(len(answer["moments"]) for answer in answers)
    assert len([text for text in texts if ": " in text and text[0].isdigit()]) == ranks, "no label of a moment is lost"


@pytest.mark.parametrize(("rate", "count"), [(25, 25), (1, 10800)])
def test_texts_fit_on_one_second_and_on_three_hours(rate, count, tmp_path):
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    video = str(write_video(tmp_path / "video.mp4", (picture for _ in range(count)), rate=rate))
    length = count / rate
    moments = ((0.3 * length, 0.301 * length, 0.9), (0.3 * length, 0.302 * length, 0.4), (0.99 * length, length, 0.1))
    figure = plot_grounding(make_answer(moments=moments), video, truths=[[(0.5 * length, 0.5001 * length)]])
    check_texts(figure)
    pixels = [bar.get_window_extent().width for axes in figure.axes[2:] for bar in axes.patches]
    assert len(pixels) == 4
    assert min(pixels) >= 2, "the shortest bar can be seen"


def test_the_legend_explains_what_is_drawn_and_nothing_else(video):
    there = make_answer()
    bare = {**make_answer(moments=()), "highlights": []}
    absent = {**bare, "probability": 0.12, "found": False}
    everything = ["saliency", "highlight", "moment, rank: score", "best moment"]
    assert legend_labels(plot_grounding(there, video)) == everything
    assert legend_labels(plot_grounding(there, video, truths=[[(1.0, 2.0)]])) == [*everything, "annotated moment"]
    assert legend_labels(plot_grounding(there, video, truths=[[]])) == everything
    assert legend_labels(plot_grounding(bare, video)) == ["saliency"]
    assert legend_labels(plot_grounding(absent, video)) == ["saliency of a query that is not there"]


def test_annotated_moments_are_hatched_bars_above_the_found_ones(video):
    _, curve, truth, moments = plot_grounding(make_answer(), video, truths=[[(2.0, 5.0), (9.0, 14.0)]]).axes
    assert bars(truth) == [(2.0, 5.0), (9.0, 14.0)]
    assert all(bar.get_hatch() for bar in truth.patches)
    assert not any(bar.get_hatch() for bar in moments.patches)
    edges = {matplotlib.colors.to_hex(bar.get_edgecolor()).upper() for bar in truth.patches}
    faces = {matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in moments.patches}
    assert (edges, faces) == ({TRUTH_COLOR}, {MOMENT_COLOR})
    assert curve.get_position().y0 >= truth.get_position().y1 - 1e-9
    assert truth.get_position().y0 >= moments.get_position().y1 - 1e-9


def test_truths_of_another_number_are_refused(video):
    with pytest.raises(ValueError, match="an entry for each of the 1 answers, got 2"):
        plot_grounding(make_answer(), video, truths=[[], []])


@pytest.mark.parametrize("scores", [[0.9, 0.4, 0.0], [0.1, -0.2, -3.0], [-0.5, -0.6], [0.0, 0.0], [0.5, 0.5], []])
def test_better_moments_are_more_opaque_whatever_their_signs(scores):
    opacities = score_opacities(scores)
    assert opacities == sorted(opacities, reverse=True)
    assert all(0.15 <= opacity <= 0.75 for opacity in opacities)
    assert max(opacities, default=0.75) == pytest.approx(0.75)
    assert len(set(opacities)) == len(set(scores))


def test_a_label_stands_in_its_bar_or_beside_a_short_one(video):
    figure = plot_grounding(make_answer(moments=((4.0, 10.0, 0.9), (12.0, 12.5, 0.5), (19.8, 20.0, 0.2))), video)
    boxes = dict(drawn_texts(figure))
    long_bar, short_bar, last_bar = (bar.get_window_extent() for bar in figure.axes[2].patches)
    assert long_bar.x0 < boxes["1: 0.90"].x0 < boxes["1: 0.90"].x1 < long_bar.x1
    assert short_bar.x1 < boxes["2: 0.50"].x0
    assert boxes["3: 0.20"].x1 < last_bar.x0


def test_queries_are_shown_literally(video, tmp_path):
    figure = plot_grounding(make_answer(r"$5 \frac and_so on " + "very " * 60), video, tmp_path / "plot.png")
    title = figure.axes[1].get_title("left")
    assert title.startswith(r"$5 \frac and_so on very")
    assert title.endswith(" ...")


def test_a_query_that_is_not_there_has_a_grey_curve_and_says_so(video, tmp_path):
    there = {**make_answer("first"), "probability": 0.934, "found": True}
    absent = {**make_answer("second", moments=()), "highlights": [], "probability": 0.12, "found": False}
    figure = plot_grounding([there, absent, make_answer("third")], video, tmp_path / "plot.png")
    _, first, _, second, moments, third, _ = figure.axes
    texts = [text.get_text() for text in second.texts]
    assert texts == ["saliency", "not there (12 %)"]
    assert [text.get_text() for text in moments.texts] == ["no moments"]
    assert [text.get_text() for text in first.texts] == ["saliency", "there: 93 %"]
    assert [text.get_text() for text in third.texts] == ["saliency"]
    colors = [axes.lines[0].get_color() for axes in (first, second, third)]
    assert colors == [CURVE_COLOR, ABSENT_COLOR, CURVE_COLOR]


def test_the_probability_has_room_beside_query_and_truth(video):
    answer = {**make_answer("WOMAN MAN " * 20), "probability": 1.0}
    figure = plot_grounding(answer, video, truths=[[(4.0, 9.0)]])
    figure.canvas.draw()
    curve = figure.axes[1]
    boxes = {text.get_text(): text.get_window_extent() for text in curve.texts}
    probability = boxes["there: 100 %"]
    assert probability.x0 >= 0
    assert probability.x1 < curve._left_title.get_window_extent().x0
    assert probability.y0 >= boxes["saliency"].y1


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_file_has_the_format_of_its_ending(ending, video, tmp_path):
    plot_grounding(make_answer(), video, tmp_path / f"plot.{ending}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert (tmp_path / f"plot.{ending}").read_bytes().startswith(start)


def test_png_has_full_size_and_is_not_blank(video, tmp_path):
    from PIL import Image

    plot_grounding([make_answer()] * 3, video, tmp_path / "plot.png")
    picture = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    assert picture.shape[1] == 1650
    assert picture.std() > 20


def test_pyplot_is_not_imported(video):
    loaded = "matplotlib.pyplot" in sys.modules
    plot_grounding(make_answer(), video)
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize("size", [(40, 200), (400, 40), (96, 64)])
def test_frames_of_any_shape_keep_their_proportions(size, tmp_path):
    width, height = size
    frames = colored_frames(width, height, seconds_each=1)
    figure = plot_grounding(make_answer(), str(write_video(tmp_path / "shape.mp4", frames, rate=5)))
    axes = figure.axes[0]
    box = axes.get_window_extent()
    for image in axes.images:
        height, width, _ = image.get_array().shape
        assert width / height == pytest.approx(box.width / 10 / box.height, rel=0.05)


@pytest.mark.parametrize(("rate", "count"), [(25, 1), (1, 4000)])
def test_very_short_and_very_long_videos(rate, count, tmp_path):
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    video = write_video(tmp_path / "video.mp4", (picture for _ in range(count)), rate=rate)
    axes = plot_grounding(make_answer(), str(video), tmp_path / "plot.png").axes
    assert len(axes[0].images) == 10
    ticks = [label.get_text() for label in axes[-1].get_xticklabels()]
    assert ticks[0] == "0:00"
    assert len(ticks) <= 13
    assert len(set(ticks)) == len(ticks)


def test_video_may_be_a_file_object(video):
    with open(video, "rb") as file:
        assert len(plot_grounding(make_answer(), io.BytesIO(file.read())).axes) == 3


def test_no_answers_are_refused(video):
    with pytest.raises(ValueError, match="at least one answer"):
        plot_grounding([], video)


def test_missing_matplotlib_is_reported(video, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "r2tuning\[plot\]"'):
        plot_grounding(make_answer(), video)


def test_lanes_hold_neither_overlapping_bars_nor_labels():
    moments = [
        {"start": start, "end": end} for start, end in ((40, 60), (50, 70), (0, 20), (60, 62), (63, 80), (99, 100))
    ]
    assert assign_lanes(moments, 100.0) == [0, 1, 0, 0, 2, 0]


def test_no_moments_need_no_lanes():
    assert assign_lanes([], 100.0) == []


@pytest.mark.parametrize(
    ("time_sec", "text"),
    [(0, "0:00.0"), (5.04, "0:05.0"), (59.96, "1:00.0"), (75.25, "1:15.2"), (119.99, "2:00.0"), (7384.5, "123:04.5")],
)
def test_times_are_minutes_and_seconds(time_sec, text):
    assert format_time(time_sec) == text


# ---- queries in other languages ------------------------------------------------------------------------------------


@pytest.fixture
def add_font(tmp_path, monkeypatch):
    """Pretend that fonts are installed: entries of matplotlib's list, with the characters that each has."""
    installed = {}
    listed = [entry for entry in font_manager.fontManager.ttflist if entry.name in ("DejaVu Sans", LAST_RESORT)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    covered = fonts._covered
    monkeypatch.setattr(fonts, "_covered", lambda path, text: set(text) & installed.get(path, covered(path, text)))

    def add(name, characters):
        path = str(tmp_path / f"{name}.ttf")
        installed[path] = set(characters)
        listed.append(font_manager.FontEntry(path, name=name, style="normal", variant="normal", weight=400))

    for function in (fonts.find_fonts, fonts._warn_once):
        function.cache_clear()
    yield add
    for function in (fonts.find_fonts, fonts._warn_once):
        function.cache_clear()


LAST_RESORT = "Last Resort High-Efficiency"  # of matplotlib, from 3.11
CHINESE, DEVANAGARI = "打开门", "दरवाज"


def test_fonts_with_the_missing_characters_are_added(add_font, caplog):
    add_font("Some Sans", CHINESE[:2])
    add_font("A Serif", CHINESE)
    add_font("Noto Sans Devanagari", DEVANAGARI)
    add_font("cmr10", CHINESE + DEVANAGARI)  # symbols where letters belong
    own = rcParams["font.family"]
    style = text_style([f"a man {CHINESE}\n", "человек رجل"], weight="bold")
    assert style == {"fontweight": "normal", "fontfamily": [*own, "A Serif"]}
    assert text_style([CHINESE, DEVANAGARI])["fontfamily"] == [*own, "Noto Sans Devanagari", "A Serif"]
    assert not caplog.records


def test_of_equal_fonts_noto_sans_is_chosen(add_font):
    for name in ("Another", "Noto Serif CJK JP", "Noto Sans CJK JP", "Sans"):
        add_font(name, CHINESE)
    assert text_style([CHINESE])["fontfamily"][-1] == "Noto Sans CJK JP"


@pytest.mark.usefixtures("add_font")
def test_missing_fonts_are_named_in_one_warning(video, tmp_path, caplog):
    queries = [CHINESE, DEVANAGARI, CHINESE, "people laugh"]
    plot_grounding([make_answer(query) for query in queries], video, tmp_path / "plot.png")
    [record] = caplog.records
    characters = " ".join(sorted({*CHINESE, *DEVANAGARI}))
    assert f"No installed font has the characters {characters}, which are drawn as boxes" in record.message
    assert "Noto Sans (Debian: fonts-noto) and Noto Sans CJK (Debian: fonts-noto-cjk)" in record.message


def test_a_query_of_any_language_is_drawn_with_one_warning_at_most(video, tmp_path, caplog, recwarn):
    """With the fonts of this machine, whatever they are."""
    query = f"{CHINESE} رجل يفتح الباب человек 남자"
    figure = plot_grounding([make_answer(query)] * 2, video, tmp_path / "plot.png")
    assert figure.axes[1].get_title("left") == query
    assert len(caplog.records) <= 1
    has_boxes = any(entry.name == LAST_RESORT for entry in font_manager.fontManager.ttflist)
    assert not has_boxes or not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_latin_queries_are_drawn_as_before():
    assert text_style(["people laugh", "ein Mann öffnet die Tür", "a\u200db\tc"], "bold") == {"fontweight": "bold"}


@pytest.mark.parametrize("query", ["门" * 99, "мир " * 99, "open the door " * 20, "W" * 200, "i" * 999])
def test_long_queries_are_shortened_in_every_script(query, video):
    figure = plot_grounding(make_answer(query), video)
    title = figure.axes[1].get_title("left")
    assert query.startswith(title.removesuffix(" ..."))
    room = figure.axes[1].get_window_extent()
    [box] = [box for text, box in drawn_texts(figure) if text == title]
    assert room.x0 <= box.x0 < box.x1 <= room.x1
    assert box.width > 0.8 * room.width
