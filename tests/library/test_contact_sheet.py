"""The picture of what a search found: frames, places in the videos, names and a legend."""

import numpy as np
import pytest
from figure_checks import check_texts, legend_labels
from video_samples import write_video

from r2tuning.library.contact_sheet import plot_search
from r2tuning.library.library import SearchAnswer
from r2tuning.library.moments import Moment
from r2tuning.visualization import fonts


pytest.importorskip("matplotlib", reason="figures need matplotlib")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A landscape and a portrait video of ten seconds; the name of the latter is long."""
    folder = tmp_path_factory.mktemp("sheet")
    found = []
    for name, (height, width) in {"wide.mp4": (32, 64), "a_rather_long_name_" * 4 + "_007.mp4": (64, 32)}.items():
        pictures = (np.full((height, width, 3), 5 * number, dtype=np.uint8) for number in range(50))
        found.append(str(write_video(folder / name, pictures, rate=5)))
    return found


def search_answer(query, *moments):
    return SearchAnswer(query, list(moments), num_windows=1)


def test_texts_fit_and_cover_no_others(videos):
    wide, tall = videos
    moments = (
        Moment(wide, 2.0, 4.0, 0.83, 0.93),
        Moment(tall, 5.0, 5.0, -0.001, 1.0),
        Moment("/nowhere/missing.mp4", 1.0, 2.0, 0.3),
    )
    answers = [search_answer("WOMAN MAN " * 40, *moments), search_answer("nothing"), search_answer("$x$", moments[0])]
    figure = plot_search(answers)
    texts = check_texts(figure)
    assert legend_labels(figure) == ["length of the video", "moment"]
    assert "rank: score; times in min:s" in texts
    assert "1: 0.83   there: 93 %" in texts
    assert "2: 0.00   there: 100 %" in texts
    assert "the file is missing or cannot be read" in texts
    assert "nothing found" in texts
    [name] = [text for text in texts if text.startswith("a_rather_long")]
    assert name.endswith(" ...__007.mp4"), "names of recordings differ at the end"


def test_frames_stand_side_by_side_and_the_shortest_moment_can_be_seen(videos):
    for video in videos:
        figure = plot_search([search_answer("a query", Moment(video, 5.0, 5.0, 0.5))])
        *frames, place = figure.axes
        boxes = [axes.get_window_extent() for axes in frames]
        assert len(boxes) == 6
        gaps = [right.x0 - left.x1 for left, right in zip(boxes, boxes[1:], strict=False)]
        assert max(gaps) - min(gaps) < 1e-6
        assert 2 < gaps[0] < 10
        length, moment = (bar.get_window_extent() for bar in place.patches)
        assert moment.width >= 2
        assert length.x0 < moment.x0 < moment.x1 < length.x1
        assert boxes[0].y0 > length.y1


def test_other_scripts_in_queries_and_names_have_one_warning_at_most(videos, tmp_path, caplog):
    fonts._warn_once.cache_clear()
    path = tmp_path / "打开门.mp4"
    path.symlink_to(videos[0])
    figure = plot_search([search_answer("दरवाज", Moment(str(path), 2.0, 4.0, 0.5))])
    figure.draw_without_rendering()
    assert len(caplog.records) <= 1
