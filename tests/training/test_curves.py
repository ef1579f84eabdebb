"""The picture of a run: a panel for each kind of score, legends beside them, no two lines alike."""

import numpy as np
import pytest
from figure_checks import check_texts

from r2tuning.training import curves
from r2tuning.training.curves import History, draw_curves, group_scores, score_kind
from r2tuning.visualization import fonts


matplotlib = pytest.importorskip("matplotlib", reason="figures need matplotlib")

SCORES = {
    "MR-full-R1@0.5": 60.0,
    "MR-full-R1@0.7": 40.0,
    "MR-full-mR1": 45.0,
    "MR-full-mAP": 50.0,
    "MR-full-mAP@0.5": 65.0,
    "MR-long-mAP": None,
    "MR-full-mIoU": 55.0,
    "HL-min-Fair-mAP": 70.0,
    "HL-min-Fair-Hit1": 75.0,
    "EX-AUROC": 80.0,
    "mAP-dog": 30.0,
    "mAP-собака $x$": 31.0,
    "VCMR-R1@0.5": 3.0,
}
KINDS = [
    "existence",
    "highlight detection",
    "moment retrieval: recall",
    "moment retrieval: mAP",
    "moment retrieval: mIoU",
    "other scores",
    "average precision by domain",
]
LOSSES = ("loss", "classification", "boundary", "saliency", "video_calibration", "layer_calibration", "existence")


def make_history(num_steps=40, num_evaluations=2, scores=SCORES):
    random = np.random.default_rng(0)
    steps = {"step": list(range(1, num_steps + 1)), "epoch": [1] * num_steps}
    for name in (*LOSSES, "grad_norm", "learning_rate", "seconds"):
        steps[name] = (0.01 + random.random(num_steps)).tolist()
    evaluations = []
    for number in range(1, num_evaluations + 1):
        found = {name: score and score + number for name, score in scores.items()}
        evaluations.append({"step": 10 * number, "epoch": number, "scores": found, "left_out": 0})
    return History(steps, evaluations)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw a history; returns the figure, which is not written."""
    kept = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: kept.append(figure))

    def draw_history(history, best_metric="MR-full-mAP"):
        draw_curves(history, tmp_path / "curves.png", best_metric)
        return kept.pop()

    return draw_history


def test_the_picture_is_a_png_file(tmp_path):
    draw_curves(make_history(num_evaluations=0), tmp_path / "curves.png", "MR-full-mAP")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_each_kind_of_score_has_a_panel(draw):
    figure = draw(make_history())
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["loss and its terms", "learning rate", *KINDS]
    check_texts(figure)
    drawn = []
    for axes in figure.axes[2:]:
        names = [line.get_label().removesuffix(" (chooses the best)") for line in axes.lines]
        assert {score_kind(name) for name in names} == {axes.get_title("left")}
        drawn += names
    assert sorted(drawn) == sorted(name for name, score in SCORES.items() if score is not None)


def test_legends_lie_beside_their_panels_and_name_every_line(draw):
    figure = draw(make_history())
    figure.draw_without_rendering()
    loss_axes, rate_axes, *score_axes = figure.axes
    assert rate_axes.get_legend() is None
    for axes in (loss_axes, *score_axes):
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names == [line.get_label() for line in axes.lines]
        assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1
    assert [text.get_text() for text in loss_axes.get_legend().get_texts()][-2:] == ["layer calibration", "existence"]


def test_no_two_lines_of_a_panel_look_alike(draw):
    many = {f"mAP-domain{number}": 50.0 + number for number in range(30)}
    figure = draw(make_history(scores=many), best_metric="mAP-domain3")
    check_texts(figure)
    for axes in (figure.axes[0], figure.axes[2]):
        looks = {(line.get_color(), str(line._dash_pattern)) for line in axes.lines}
        assert len(looks) == len(axes.lines)
    widths = {line.get_label(): line.get_linewidth() for line in figure.axes[2].lines}
    assert max(widths, key=widths.get) == "mAP-domain3 (chooses the best)"


@pytest.mark.parametrize("num_steps", [1, 99, 100, 350])
def test_losses_are_running_means_on_top_of_their_values(num_steps, draw):
    history = make_history(num_steps, num_evaluations=0)
    figure = draw(history)
    check_texts(figure)
    assert len(figure.axes) == 2
    window = max(1, num_steps // 100)
    lines = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    steps, means = lines["video calibration"].get_data()
    values = history.steps["video_calibration"]
    assert steps[0] == window
    assert means[0] == pytest.approx(np.mean(values[:window]))
    assert means[-1] == pytest.approx(np.mean(values[-window:]))
    assert len(figure.axes[0].lines) == len(LOSSES) * (2 if window > 1 else 1)
    assert (lines["loss"].get_marker() == "o") == (num_steps == 1), "a line of one step would be invisible"


def test_names_in_other_scripts_get_a_font_or_a_warning(draw, caplog):
    fonts._warn_once.cache_clear()
    figure = draw(make_history(scores={"mAP-打开门": 30.0, "mAP-average": 31.0}))
    families = figure.axes[2].get_legend().get_texts()[0].get_fontfamily()
    assert caplog.records or len(families) > len(matplotlib.rcParams["font.family"])


def test_scores_without_a_value_have_no_line():
    evaluations = [{"scores": {"MR-long-mAP": None, "MR-full-mAP": 1.0}}, {"scores": {"HL-min-Fair-mAP": 2.0}}]
    kinds = group_scores(evaluations)
    assert kinds == {"highlight detection": ["HL-min-Fair-mAP"], "moment retrieval: mAP": ["MR-full-mAP"]}
