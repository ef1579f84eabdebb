"""The scripts in `benchmarks/`: what they run, what they compute and what they write."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from figure_checks import check_texts, drawn_texts, legend_labels
from fresh_python import run_fresh
from random_checkpoint import byte_tokenizer, random_model, random_processor
from torch import nn
from training_samples import MODEL, write_benchmark
from transformers import CLIPModel

from benchmarks import (
    ablations,
    existence,
    frame_variance,
    int8,
    measurement,
    metrics,
    probe,
    r2_block,
    table9,
    towers,
    training_size,
    training_step,
    untrained_text_encoder,
    variants,
)
from benchmarks.memory import KeptForBackward, LiveTensors, extrapolate_peak
from benchmarks.moving_shapes import best_contrast
from dataset_scripts.metrics import compute_scores
from dataset_scripts.metrics.existence import roc_auc
from dataset_scripts.moving_shapes.generate import generate_moving_shapes
from dataset_scripts.moving_shapes.scenes import make_scene
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, save_checkpoint
from modeling_r2tuning.block_r2tuning import R2Block
from modeling_r2tuning.method_specs_r2tuning import Method


@pytest.mark.parametrize("table", ablations.TITLES)
def test_every_variant_of_a_table_is_a_model(table):
    rows = ablations.rows_of(table, depth=4)
    configs = {str(R2TuningConfig(**row.model).to_dict()) for row in rows}
    assert len(configs) == len({str(row.model) for row in rows}), "a model has one name, so that it is one run"
    assert len(configs) == len(rows) - (3 if table == "fig7" else 0), "with a single layer all fusions are the same"
    assert len({row.name for row in rows}) == len(rows)


def test_a_table_has_our_numbers_and_the_papers():
    results = {
        name: [{"test": {"scores": {"brief": {"MR-full-mAP": value}}}} for value in values]
        for name, values in {"self, cross": (40.0, 42.0), "cross, self": (50.0, 50.0)}.items()
    }
    lines = list(ablations.lines_of("10", results, "test"))
    assert [(line["mAP"], line["paper_mAP"]) for line in lines] == [(41.0, 45.21), (50.0, 47.59)]
    assert lines[0]["spread"] == pytest.approx(2**0.5, abs=0.01)
    assert "| self, cross | 41.00 | 1.41 | 45.21 |" in ablations.format_table("Order", "moving_shapes", lines)


def test_lengths_of_queries_come_from_one_run():
    lengths = {name: {"queries": 0, "MR-mAP": None} for name in ablations.LENGTHS}
    lengths |= {"1-10": {"queries": 7, "MR-mAP": 30.0}, "11-20": {"queries": 2, "MR-mAP": 40.0}}
    lines = list(ablations.lines_of("6", {"R²-Tuning": [{"test": {"scores": {"by_query_length": lengths}}}]}, "test"))
    assert [(line["name"], line["mAP"], line["paper_mAP"]) for line in lines] == [
        ("1-10 words (7)", 30.0, 47.08),
        ("11-20 words (2)", 40.0, 49.13),
    ]


@pytest.mark.parametrize("table", ablations.TITLES)
def test_every_table_is_drawn(table, tmp_path):
    pytest.importorskip("matplotlib")
    lines = [
        {"name": row.name, "mAP": 40.0 + count, "spread": None, "paper_mAP": row.paper}
        for count, row in enumerate(ablations.rows_of(table, 2))
    ]
    figure = keep_figure(ablations, lambda: ablations.draw(table, "moving_shapes", lines, tmp_path / "table.png"))
    assert (tmp_path / "table.png").stat().st_size > 0
    texts = check_texts(figure)
    assert {"mAP, %", ablations.TITLES[table], "moving_shapes"} <= set(texts)
    expected = ablations.FUSIONS if table == "fig7" else ("ours", "paper, QVHighlights val")
    assert set(legend_labels(figure)) == set(expected)


def keep_figure(module, draw):
    """The figure that a function of a module draws and saves."""
    kept = []

    def save_figure(figure, path, save=module.save_figure):
        kept.append(figure)
        save(figure, path)

    with mock.patch.object(module, "save_figure", save_figure):
        draw()
    [figure] = kept
    return figure


def test_the_spread_over_seeds_is_named_and_few_bars_are_not_wide(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [
        {"name": name, "mAP": 44.0, "spread": 1.5, "paper_mAP": 47.0, "seeds": 3}
        for name in ("a rather long name of a variant", "another")
    ]
    figure = keep_figure(ablations, lambda: ablations.draw("10", "moving_shapes", lines, tmp_path / "table.png"))
    assert "moving_shapes; vertical lines: spread over 3 seeds" in check_texts(figure)
    [axes] = figure.axes
    bar = axes.patches[0].get_window_extent()
    [papers] = [line for line in axes.lines if line.get_marker() == "D"]
    diamonds = axes.transData.transform(papers.get_xydata())
    assert bar.width < axes.get_window_extent().width / 8
    assert bar.x1 < diamonds[0, 0] < bar.x1 + bar.width, "beside its bar, not on its value"


RESULTS = Path(table9.__file__).parent / "results"


@pytest.mark.parametrize("file", ["table9.json", "table9_1200.json"])
def test_labels_of_table_9_cover_neither_each_other_nor_dots(file, tmp_path):
    """As drawn from the stored results."""
    pytest.importorskip("matplotlib")
    found = json.loads((RESULTS / file).read_text())
    names = ("preset", "batch", "frames", "seeds")
    args = SimpleNamespace(output=tmp_path, splits=["val"], **{name: found[name] for name in names})
    figure = keep_figure(table9, lambda: table9.draw(args, found["rows"]))
    texts = check_texts(figure)
    titles = {row["paper"]["title"] for row in found["rows"].values()}
    assert titles <= set(texts)
    sizes = [text for text in texts if text.endswith(" M")]
    assert sizes == legend_labels(figure)
    assert len(sizes) >= 2
    [axes] = figure.axes
    spots = []
    for row in found["rows"].values():
        score = row["accuracy"]["val"]
        radius = table9.dot_area(row["parameters, M"]) ** 0.5 / 2
        dot = table9.Dot(row["memory, GB"], score["mAP"], radius, row["paper"]["title"], score["spread"])
        spots += table9._dot_boxes(axes, dot)
    for text, box in drawn_texts(figure):
        if text in titles:
            assert max(table9._shared_area(box, spot) for spot in spots) < 1, text


def test_a_step_that_does_not_grow_the_process_is_drawn_too(tmp_path):
    pytest.importorskip("matplotlib")
    found = json.loads((RESULTS / "table9.json").read_text())
    found["rows"]["none"]["memory, GB"] = 0.0
    args = SimpleNamespace(output=tmp_path, splits=["val"], preset="custom", batch=1, frames=2, seeds=[0])
    figure = keep_figure(table9, lambda: table9.draw(args, found["rows"]))
    assert figure.axes[0].get_xscale() == "linear"
    assert "w/o tuning" in check_texts(figure)


def test_training_sizes_are_drawn_with_their_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    lines = []
    for size in (50, 500, 5000):
        for start in training_size.STARTS:
            lines.append({"moments": size, "start": start, training_size.METRIC: 40.0, "spread": 1.0})
    figure = keep_figure(training_size, lambda: training_size.draw(lines, 36.0, tmp_path / "sizes.png"))
    assert {"50", "500", "5,000", "R1@0.5 on 100 videos, %"} <= set(check_texts(figure))
    assert len(legend_labels(figure)) == 3


@pytest.mark.integration
def test_a_complete_variant_is_not_run_again(tiny_clip, tmp_path, monkeypatch):
    options = write_benchmark(tmp_path / "benchmark", tiny_clip)
    data = {name: str(options[name]) for name in ("data-dir", "features", "backbone")}
    rest = {name: value for name, value in options.items() if name not in (*data, "preset", "cpu")}
    budget = variants.Budget(options["preset"], data, ("val",), {**rest, "model": MODEL, "epochs": 1})
    monkeypatch.setattr(variants.subprocess, "run", lambda words, **options: run_fresh(words[1:]))
    first = variants.run_variant(tmp_path / "runs", {"model": MODEL_CHANGE}, 0, budget)
    assert first["val"]["scores"]["brief"]["MR-full-mAP"] >= 0
    monkeypatch.setattr(variants, "run_script", None)
    assert variants.run_variant(tmp_path / "runs", {"model": MODEL_CHANGE}, 0, budget) == first
    with pytest.raises(TypeError, match="not callable"):
        variants.run_variant(tmp_path / "runs", {"model": MODEL_CHANGE}, 1, budget)


MODEL_CHANGE = {"attention_order": "self_cross"}


def test_table_9_has_every_method():
    assert table9.PAPER.keys() == set(Method.__args__)


@pytest.mark.parametrize("room", [0, 1, 5, 77])
def test_the_largest_batch_is_found_to_an_eighth(monkeypatch, room):
    tried = []

    def measure(method, settings):
        tried.append(settings["batch"])
        if settings["batch"] > room:
            raise MemoryError(method)

    monkeypatch.setattr(table9, "measure_apart", measure)
    assert room * 8 / 9 <= table9.largest_batch("lora", {}) <= room
    assert len(set(tried)) == len(tried) < 12


def test_tensors_kept_for_backward_are_counted_once():
    """For y = relu(W x) * relu(W x) that is the result of the ReLU, neither weights nor inputs."""
    linear, x = nn.Linear(8, 16, bias=False), torch.randn(4, 8)
    with KeptForBackward(linear, {"x": x}) as kept:
        hidden = linear(x).relu()
        (hidden * hidden).sum()
    assert kept.bytes == 4 * 16 * 4
    assert not kept.kept, "counting keeps nothing alive"


def test_the_peak_of_live_tensors_is_counted():
    weight = torch.ones(1000)
    with LiveTensors([weight]) as live:
        assert live.bytes == 4000
        result = (weight + 1) * 2  # the sum is freed
        view = result[:10]
        assert (live.bytes, live.peak) == (8000, 12_000)
        del result
        assert live.bytes == 8000, "the view keeps it"
        del view
        assert live.bytes == 4000


def test_the_peak_of_a_large_batch_follows_from_small_ones():
    linear = nn.Linear(64, 64, bias=False)

    def step(inputs):
        linear(inputs).square().sum().backward()

    step(torch.ones(1, 640, 64))
    held = [linear.weight, linear.weight.grad]
    found = extrapolate_peak(step, lambda batch: torch.ones(batch, 640, 64), held, 10)
    with LiveTensors(held) as live:
        step(torch.ones(10, 640, 64))
    assert found == pytest.approx(live.peak, rel=0.05)


def test_spans_of_the_highest_contrast():
    curve = np.array([0.0, 0.1, 0.9, 1.0, 0.9, 0.1, 0.0, 0.6, 0.7, 0.0])
    moments = best_contrast(curve, 20.0)
    assert moments[0][:2] == [4.0, 10.0]
    assert [14.0, 18.0] in [moment[:2] for moment in moments]
    assert best_contrast(np.ones(4), 8.0), "even a flat curve has an answer"


# ---- absent queries ------------------------------------------------------------------------------------------------


def make_answers(scores):
    return existence.Answers(np.array(scores), np.array(scores), {"main": {"R1@0.5": 50.0, "mAP": 40.0}})


ROWS = [
    {"video_id": video, "domain": domain, "moments": [] if "/" in domain else [[0, 2]]}
    for video in "ab"
    for domain in ("presence", "size", "size/hard", "presence/easy")
]


def test_existence_is_scored_by_kind_and_family():
    """The first model tells all but the hard query of size; the second tells nothing."""
    tells, guesses = make_answers([0.8, 0.7, 0.75, 0.1] * 2), make_answers([0.5] * 8)
    scores = existence.score_groups(ROWS, [tells], num_samples=3)
    assert set(scores) == {"all", "easy", "hard", "presence", "presence/easy", "size", "size/hard"}
    assert {group: values["AUROC"]["mean"] for group, values in scores.items()} == {
        "all": 0.75, "easy": 1, "hard": 0.5, "presence": 1, "presence/easy": 1, "size": 0, "size/hard": 0
    }  # fmt: skip
    assert scores["easy"]["false alarms at 95 % detection"]["mean"] == 0
    assert scores["hard"]["false alarms at 95 % detection"]["mean"] == 1
    assert (scores["hard"]["present"], scores["hard"]["absent"]) == (4, 2)
    both = existence.score_groups(ROWS, [tells, guesses], num_samples=3)["easy"]["AUROC"]
    assert (both["mean"], both["values"]) == (0.75, [1.0, 0.5])
    assert both["spread"] == pytest.approx(0.5**0.5 / 2, abs=1e-4)
    assert both["error"] == 0, "the two videos are equal"


def test_whole_videos_are_drawn_for_the_bootstrap():
    rows = [{"video_id": video} for video in "aabbbc"]
    samples = existence.draw_samples(rows, 20)
    of_video = {"a": [0, 1], "b": [2, 3, 4], "c": [5]}
    for sample in samples:
        counts = np.bincount(sample, minlength=6)
        assert all(len(set(counts[indices])) == 1 for indices in of_video.values())
        assert sum(counts[indices[0]] for indices in of_video.values()) == 3
    assert len({tuple(sample) for sample in samples}) > 5


def test_the_area_below_a_roc_curve_is_the_auroc():
    random = np.random.default_rng(0)
    present = random.random(4000) < 0.6
    scores = random.normal(size=4000) + present
    curve = existence.roc_curve(scores, present)
    assert np.trapezoid(curve, existence.FALSE_ALARM_GRID) == pytest.approx(roc_auc(scores, present), abs=2e-3)
    assert (curve[0] < 0.05, curve[-1]) == (True, 1)
    np.testing.assert_allclose(existence.roc_curve(np.ones(4000), present), existence.FALSE_ALARM_GRID)


def test_bins_of_the_calibration_curve():
    means, shares, counts = existence.calibration_curve(np.array([0.1, 0.12, 0.95, 1.0]), np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(means, [0.11, 0.975])
    np.testing.assert_array_equal(shares, [0.5, 1])
    np.testing.assert_array_equal(counts, [2, 2])


def make_existence_answers():
    random = np.random.default_rng(0)
    rows, answers = [], {}
    for number in range(300):
        kind = ("easy", "binding", "hard")[number % 3]
        domain = "place" if number % 2 else f"place/{kind}"
        rows.append({"domain": domain, "moments": [1] if number % 2 else [], "video_id": str(number)})
    present = existence.is_present(rows)
    for name in ("present queries only", "40 % absent", "$x$ модель"):
        raw = 1 / (1 + np.exp(-random.normal(size=300) - present))
        answers[name] = [existence.Answers(raw, raw**1.3, {})] * 2
    return rows, answers


@pytest.mark.parametrize("name", ["draw_roc", "draw_calibration"])
def test_pictures_of_existence_name_the_models_below_the_panels(name, tmp_path):
    pytest.importorskip("matplotlib")
    rows, answers = make_existence_answers()
    draw = getattr(existence, name)
    figure = keep_figure(existence, lambda: draw(rows, answers, tmp_path / "picture.png"))
    texts = check_texts(figure)
    for model in answers:
        assert len([text for text in texts if text.startswith(f"{model}: 0.")]) == len(figure.axes)
    for axes in figure.axes:
        assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0
    sizes = {f"{100 * share:.0f} % of the queries" for share in existence.SHOWN_SHARES}
    assert (name == "draw_calibration") == (sizes <= set(texts))


@pytest.mark.integration
def test_checkpoints_with_and_without_head_are_compared(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    data = generate_moving_shapes(tmp_path / "shapes", num_videos={"val": 1, "test": 2})
    tokenizer, processor = byte_tokenizer(), random_processor(byte_tokenizer())
    models = {"head": random_model(tokenizer, use_existence_head=True), "logit": random_model(tokenizer)}
    processor.existence_scale, processor.existence_bias = 2.0, 0.5
    for name, model in models.items():
        save_checkpoint(model, processor, tmp_path / name)
    words = [str(data), "--model", *(f"{name}={tmp_path / name}" for name in ("head", "head", "logit"))]
    options = ["--samples", "3", "--output", str(tmp_path / "found.json"), "--pictures", str(tmp_path / "pictures")]
    monkeypatch.setattr("sys.argv", ["existence.py", *words, *options])
    found = {}

    def keep(rows, checkpoint, args, answer=existence.answer):
        found[checkpoint] = answer(rows, checkpoint, args)
        return found[checkpoint]

    monkeypatch.setattr(existence, "answer", keep)
    existence.main()
    rows = existence.load_rows(str(data), "test")
    queries = [row for row in rows if row["video_id"] == rows[0]["video_id"]]
    for name, model in models.items():
        answers = found[str(tmp_path / name)]
        video = model.encode_video(processor.stream_video(rows[0]["video"]["path"]))
        with torch.inference_mode():
            outputs = model.ground(video, **processor(text=[row["query"] for row in queries]))
        logits = outputs.existence_logits if name == "head" else outputs.logits.amax(dim=1)
        np.testing.assert_allclose(answers.raw[: len(queries)], logits.sigmoid(), rtol=1e-5)
        if name == "head":
            expected = (2.0 * logits + 0.5).sigmoid()
            np.testing.assert_allclose(answers.calibrated[: len(queries)], expected, rtol=1e-5)
        else:
            assert answers.calibrated.mean() == pytest.approx(0.6, abs=0.05), "fitted on val, where 60 % are present"
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["scores"]["head"]["checkpoints"] == 2
    assert document["scores"]["head"]["existence"]["all"]["AUROC"]["spread"] == 0
    assert document["scores"]["head"]["present"].keys() == {"main", "hard"}
    assert sum(document["queries"].values()) == len(rows)
    assert "| head | all (" in capsys.readouterr().out
    assert all((tmp_path / "pictures" / name).stat().st_size > 0 for name in ("roc.png", "calibration.png"))


# ---- probes --------------------------------------------------------------------------------------------------------


def test_average_precision_depends_on_the_ranking_alone():
    truth = torch.tensor([0.0, 1, 1, 0, 1])
    assert probe.average_precision(torch.tensor([1.0, 9, 8, 2, 7]), truth) == 1
    assert probe.average_precision(torch.tensor([9.0, 8, 1, 2, 3]), truth) == pytest.approx(
        (1 / 2 + 2 / 3 + 3 / 5) / 3
    )


@pytest.mark.parametrize("num_tokens", [1, pytest.param(4, marks=pytest.mark.integration)])
def test_probes_find_what_a_token_holds(num_tokens, monkeypatch):
    """All information is in one token, whichever it is; in noise nothing is found."""
    monkeypatch.setattr(probe, "STEPS", 400)
    monkeypatch.setattr(probe, "LEARNING_RATE", 0.05)
    torch.manual_seed(0)
    truth = torch.zeros(1000, len(probe.NAMES), len(probe.COLUMNS))
    truth[:, :8] = (torch.rand(1000, 8, len(probe.COLUMNS)) < 0.2).float()
    noise = 0.1 * torch.randn(1000, num_tokens, 8 * len(probe.COLUMNS))
    tokens = noise.clone()
    tokens[torch.arange(1000), torch.randint(num_tokens, (1000,))] += truth[:, :8].flatten(1)

    def train_and_score(tokens):
        predict = probe.fit_probe(tokens[:800], truth[:800])
        return probe.score(predict(tokens[800:]), truth[:800], truth[800:])

    found, nothing = train_and_score(tokens), train_and_score(noise)
    assert min(found.values()) > 80 > 40 > max(nothing.values())


def test_a_scene_is_described_object_by_object():
    scene = make_scene(0, "val", 0)
    numbers = np.arange(0, scene.num_frames, 8)
    truth = probe.describe(scene, numbers)
    assert truth.shape == (len(numbers), 30, 7)
    shown = {f"{item.color} {item.shape}" for item in scene.objects}
    described = truth.sum(dim=(0, 2)).nonzero().flatten().tolist()
    assert {probe.NAMES[index] for index in described} <= shown
    assert truth[:, :, 0].any()
    assert (truth[:, :, 1:] <= truth[:, :, :1]).all(), "an object that is not there is at no side"
    assert (truth[:, :, 1] + truth[:, :, 2]).max() == 1, "not left and right at once"


def test_share_of_variance_between_frames():
    mask = torch.tensor([[True, True, False]])
    one = torch.tensor([1.0, 2.0, 2.0])
    assert frame_variance.share_of_variance(torch.stack([one, one, -one])[None], mask) == 0
    assert frame_variance.share_of_variance(torch.stack([one, -one, one])[None], mask) == pytest.approx(1)
    shifted = torch.stack([one + torch.tensor([0.0, 2, -2]), one - torch.tensor([0.0, 2, -2]), one])[None]
    assert frame_variance.share_of_variance(shifted, mask) == pytest.approx(8 / 17)


def test_an_untrained_text_encoder_leaves_the_image_encoder_unchanged(clip_folder):
    before = CLIPModel.from_pretrained(clip_folder).eval()
    after = CLIPModel.from_pretrained(clip_folder).eval()
    untrained_text_encoder.reinitialise_text(after, seed=1)
    pixels = torch.randn(2, 3, *[before.config.vision_config.image_size] * 2)
    assert torch.equal(*(clip.get_image_features(pixels).pooler_output for clip in (before, after)))
    words = torch.tensor([[0, 5, 1], [0, 6, 1]])
    vectors = [clip.text_model(words).last_hidden_state for clip in (before, after)]
    assert (vectors[0] - vectors[1]).norm(dim=-1).min() > 1
    assert (vectors[1][0, 1] - vectors[1][1, 1]).norm() > 1, "words stay distinct"


# ---- backbones -----------------------------------------------------------------------------------------------------

TINY_ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
TINY_VISION = {**TINY_ENCODER, "image_size": 32, "patch_size": 16}
TINY_TEXT = {**TINY_ENCODER, "vocab_size": 64, "max_position_embeddings": 16}


@pytest.mark.integration
def test_backbones_are_compared(tmp_path, monkeypatch, capsys):
    """Those with a CLS token and without one, by sizes and speeds; the table says which sizes are unverified."""
    origins = {"clip": "default", "siglip": "default", "org/siglip": "checkpoint", "org/clip": "unverified"}
    backbones = {}
    for name, origin in origins.items():
        backbones[name] = towers.Backbone(name.removeprefix("org/"), TINY_VISION, TINY_TEXT, origin)
    monkeypatch.setattr(towers, "BACKBONES", backbones)
    monkeypatch.setattr("sys.argv", ["towers.py", "--repeats", "1", "--output", str(tmp_path / "found.json")])
    towers.main()
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert list(rows) == list(origins)
    for row in rows.values():
        assert row["tokens per frame"] == 4 + 1, "patches and the token of the frame"
        assert row["cache, bytes per frame"] == 4 * 5 * 32 * 2
        assert row["frames per second, ratio to CLIP ViT-B/32"] > 0
        assert row["seconds of a query, ratio to CLIP ViT-B/32"] > 0
        assert row["frozen parameters"] > 0
    table = (tmp_path / "found.md").read_text()
    assert table == capsys.readouterr().out
    lines = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    assert lines == ["| CLIP, defaults", "| SigLIP, defaults", "| `org/siglip`", "| `org/clip` (sizes unverified)"]


def test_the_committed_table_of_backbones_is_complete():
    """Every kind and checkpoint is in it, with the cache that its sizes require."""
    results = Path(towers.__file__).parent / "results"
    rows = json.loads((results / "towers.json").read_text())["rows"]
    assert list(rows) == list(towers.BACKBONES)
    for name, backbone in towers.BACKBONES.items():
        config = backbone.make_config()
        vision = config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        wanted = config.num_recurrent_steps * tokens * vision.hidden_size * 2
        assert (rows[name]["tokens per frame"], rows[name]["cache, bytes per frame"]) == (tokens, wanted)
        with torch.device("meta"):
            model = R2TuningForVideoGrounding(config)
        learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert rows[name]["learned parameters"] == learned
        assert rows[name]["frozen parameters"] == sum(p.numel() for p in model.parameters()) - learned
    assert (results / "towers.md").read_text() == towers.format_table(rows)


# ---- plain transcriptions ------------------------------------------------------------------------------------------


def test_the_plain_r2_block_agrees_with_ours():
    torch.manual_seed(0)
    block = R2Block(R2TuningConfig()).eval()
    torch.nn.init.uniform_(block.scale, 0.5, 1.5)
    inputs = r2_block.make_inputs(2, 3, 4, torch.device("cpu"))
    with torch.no_grad():
        plain, ours = r2_block.plain_r2_block(block, *inputs), r2_block.our_r2_block(block, *inputs)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)


def test_the_plain_metrics_agree_with_ours():
    generator = np.random.default_rng(0)
    predictions, references = [], []
    for qid in range(20):
        ends = np.sort(generator.uniform(0, 60, (12, 2)), axis=1)
        scores = np.sort(generator.random((12, 1)), axis=0)[::-1]
        predictions.append(
            {
                "qid": qid,
                "pred_relevant_windows": np.hstack([ends, scores]).tolist(),
                "pred_saliency_scores": generator.integers(0, 5, 30).tolist(),
            }
        )
        start = int(generator.integers(0, 20))
        references.append(
            {
                "qid": str(qid),
                "query": "two words",
                "moments": [[start, start + 8], [30, 42], [25, 60]],  # short, middle, long
                "saliency": {"scores": generator.integers(0, 5, (30, 3)).tolist()},
            }
        )
    ours = compute_scores("qvhighlights", predictions, references)
    plain = metrics.plain_scores(predictions, references)
    assert metrics.largest_difference(ours, plain) <= 0.0051, "half a unit of the last printed digit"


@torch.no_grad()
def test_encoders_in_int8_are_compared(tiny_model, tmp_path, monkeypatch):
    """Without ONNX Runtime, which is optional; the module to export for it has the states of the model."""
    pixels = torch.randn(2, 3, 64, 64)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else find_spec(name))
    encoders = int8.make_encoders(tiny_model, pixels, tmp_path, threads=1)
    exact = encoders["float32"]()
    assert torch.equal(int8.LastStates(tiny_model)(pixels), exact)
    deviations = {name: int8.deviation(encode(), exact) for name, encode in encoders.items()}
    assert deviations.pop("float32")["deviation_max"] < 1e-12
    assert {"int8, torch.ao (deprecated)"} <= deviations.keys()
    assert all(0.0 < row["deviation_mean"] < row["deviation_max"] < 0.01 for row in deviations.values())


def test_speed_in_int8_is_relative_to_float32_in_core_seconds():
    seconds = {"float32": measurement.Seconds(9.0, 4.0), "int8": measurement.Seconds(8.0, 2.0)}
    deviations = dict.fromkeys(seconds, {"deviation_mean": 1e-5, "deviation_max": 2e-5})
    report = int8.summarise(seconds, deviations, frames=32)
    assert "| int8 | 16.0 | 2.00 | 1.0e-05 | 2.0e-05 |" in int8.format_table(report)


def test_functions_are_timed_in_turn():
    calls = []
    seconds = measurement.time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert 0 <= seconds["a"].wall < 1


def test_memory_and_overhead_of_a_step_are_measured(monkeypatch, tiny_model):
    """Dropout adds nothing to what is kept, and a batch of twice the queries keeps more."""
    monkeypatch.setattr(training_step, "make_model", lambda *args, **fields: tiny_model.train())
    kept = []
    for num_videos, rate in ((2, 0.0), (2, 0.5), (4, 0.0)):
        tiny_model.r2_block.steps[0].video_projection.dropout.p = rate
        batch = training_step.make_batch(tiny_model.config, num_videos, num_frames=3, num_words=4)
        measured = training_step.count_memory(tiny_model.train(), batch)
        assert measured["peak, MB"] >= measured["kept for backward, MB"] > 0
        kept.append(measured["kept for backward, MB"])
    assert kept[0] == kept[1] < kept[2]
    overhead = training_step.measure_overhead(repeats=1)
    assert overhead["operators"] > 100
    assert {"seconds, 2 queries", "seconds, 4 queries"} < overhead.keys()
