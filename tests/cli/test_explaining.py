"""`r2tuning explain`: attention of the words, similarity by layer, and their figures."""

import numpy as np
import pytest
import torch
from figure_checks import check_texts
from tiny_checkpoints import save_ours
from transformers import AutoModel, AutoProcessor

from modeling_r2tuning import DEFAULT_MODEL
from r2tuning.commands.demo import make_demo
from r2tuning.visualization.explain import (
    LayerSimilarity,
    WordAttention,
    layer_similarity,
    overlay_attention,
    plot_layer_similarity,
    plot_word_attention,
    similarity_limit,
    word_attention,
)
from r2tuning.visualization.style import TIME_LABEL
from r2tuning_cli.main import main


pytest.importorskip("matplotlib", reason="figures need matplotlib")


@pytest.fixture(scope="module")
def parts():
    return AutoModel.from_pretrained(DEFAULT_MODEL).eval(), AutoProcessor.from_pretrained(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A generated video and a query about it."""
    path, queries = make_demo(tmp_path_factory.mktemp("explain"), 5)
    return str(path), queries[0]


def test_maps_are_shares_of_the_attention(parts, asked):
    video, query = asked
    found = word_attention(*parts, video, query.text, num_frames=4)
    assert found.words == query.text.split()
    assert found.maps.shape == (len(found.words), 4, 8, 8)
    assert found.frames.shape == (4, 64, 64, 3)
    assert found.maps.min() >= 0
    assert found.maps.sum(axis=(2, 3)).max() <= 1 + 1e-5, "the rest falls on the CLS token"
    assert list(found.times) == sorted(found.times)


def test_maps_are_the_attention_of_the_model(parts, asked):
    """Pooling by the maps and the share of the CLS token gives the features that the model pools."""
    model, processor = parts
    video, query = asked
    with torch.no_grad():
        stream = processor.stream_video(video)
        encoded = model.encode_video(torch.cat(list(stream)), fps=stream.fps, window_sec=None)
        words = model.project_text(model.get_text_hidden_states(processor(text=query.text)["input_ids"]))[-1]
        tokens = encoded.video_embeds[0][-1][None]
        step = model.r2_block.steps[0]
        attention = step.attend_patches(tokens, words)
        pooled = torch.einsum("vfwn,vfnc->vfwc", attention, tokens) + words[:, None]
        want = step.pool_patches(tokens, words, torch.ones(words.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(pooled.amax(dim=2), want, atol=1e-4, rtol=1e-4)
    found = word_attention(model, processor, video, query.text, num_frames=tokens.shape[1])
    np.testing.assert_allclose(found.maps.sum(axis=(2, 3)).T, 1 - attention[0, :, 1:-1, 0].numpy(), atol=1e-5)


def test_training_increases_the_similarity_of_matching_frames(parts, asked):
    video, query = asked
    state = torch.get_rng_state()
    found = layer_similarity(*parts, video, query.text)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.after.shape == found.before.shape == (4, len(found.times))
    assert found.layers == [1, 2, 3, 4]
    [(start, end)] = query.moments
    inside = (found.times >= start) & (found.times < end)

    def contrast(values):
        return values[:, inside].mean() - values[:, ~inside].mean()

    assert contrast(found.after) > contrast(found.before) + 0.02


def test_figures_have_a_row_for_each_word_and_layer(parts, asked):
    video, query = asked
    [attention] = plot_word_attention(word_attention(*parts, video, query.text, num_frames=3))
    assert [axes.get_ylabel() for axes in attention.axes] == ["", *query.text.split(), ""]
    similarity = plot_layer_similarity(layer_similarity(*parts, video, query.text), truth=query.moments)
    assert [axes.get_title("left") for axes in similarity.axes[:2]] == ["before training", "after training"]
    assert query.text in check_texts(similarity)


def make_attention(num_words, num_frames=3, frame_size=(32, 32), word="word"):
    random = np.random.default_rng(0)
    return WordAttention(
        words=[f"{word}{number}" for number in range(num_words)],
        times=np.arange(num_frames) * 61.5,
        frames=random.random((num_frames, *frame_size, 3)),
        maps=random.random((num_words, num_frames, 4, 4)).astype(np.float32) / 16,
        query="what is asked " * 3,
    )


@pytest.mark.parametrize(("num_words", "pages"), [(1, [1]), (12, [12]), (13, [12, 1]), (30, [12, 12, 6])])
def test_a_page_has_twelve_words_at_most(num_words, pages):
    found = make_attention(num_words)
    figures = plot_word_attention(found)
    words = []
    for figure, size in zip(figures, pages, strict=True):
        strips = figure.axes[1:-1]
        assert len(strips) == size
        assert all(len(strip.images) == 1 for strip in strips), "a strip is one image, not one for each frame"
        texts = check_texts(figure)
        part = "" if len(pages) == 1 else f"words {len(words) + 1} to {len(words) + size} of {num_words}: "
        assert any(text.startswith(f"{part}what is asked") for text in texts)
        words += [strip.get_ylabel() for strip in strips]
        assert TIME_LABEL in texts
        assert {"0:00.0", "1:01.5", "2:03.0"} <= set(texts)
    assert words == found.words


@pytest.mark.parametrize("num_frames", [1, 8])
@pytest.mark.parametrize("frame_size", [(32, 32), (64, 36), (36, 64)])
def test_pages_fit_whatever_the_frames(num_frames, frame_size):
    [figure] = plot_word_attention(make_attention(3, num_frames, frame_size, word="Donaudampfschiffahrt"))
    texts = check_texts(figure)
    assert "highest" in texts
    strip = figure.axes[1].get_window_extent()
    assert strip.width / strip.height == pytest.approx(num_frames * frame_size[1] / frame_size[0], rel=1e-6)


def test_the_colours_of_the_attention_are_those_of_the_bar():
    """No attention leaves the frame grey, the highest covers it; a frame without attention has no colour."""
    [figure] = plot_word_attention(make_attention(1))
    bar = np.asarray(figure.axes[-1].images[0].get_array())[0]
    frames = np.full((2, 8, 8, 3), 0.5)
    maps = np.stack([np.zeros((4, 4)), np.full((4, 4), 0.25)]).astype(np.float32)
    none, highest = overlay_attention(frames, maps, 0.25)
    np.testing.assert_allclose(none[4, 4], bar[0], atol=0.01)
    np.testing.assert_allclose(highest[4, 4], bar[-1], atol=0.01)
    assert np.ptp(none[4, 4]) < 0.02
    assert np.ptp(highest[4, 4]) > 0.3
    np.testing.assert_allclose(overlay_attention(frames, 0 * maps, 0.0)[1], none, atol=1e-6)


def test_parts_of_one_character_are_one_row(parts, asked):
    """A tokenizer of bytes cuts a Chinese character into three tokens, none of which can be written."""
    model, processor = parts
    ids = processor.tokenizer("门 é x")["input_ids"][1:-1]
    assert len(ids) == 6
    found = word_attention(model, processor, asked[0], "门 é x", num_frames=2)
    assert found.words == ["门", "é", "x"]
    assert found.maps.shape == (3, 2, 8, 8)
    assert found.maps.sum(axis=(2, 3)).max() <= 1 + 1e-5


def make_similarity(scale, query="people laugh"):
    values = scale * np.linspace(-1, 0.5, 12).reshape(4, 3)
    return LayerSimilarity([1, 2, 3, 4], np.arange(3.0), 0.1 * values, values, query)


@pytest.mark.parametrize(("scale", "limit"), [(0.03, 0.1), (0.14, 0.2), (0.55, 0.6), (1.0, 1.0)])
def test_the_scale_of_similarities_is_symmetric_fitted_and_named(scale, limit):
    found = make_similarity(scale)
    assert similarity_limit(found) == pytest.approx(limit)
    figure = plot_layer_similarity(found, truth=[(0.5, 1.5)])
    for axes in figure.axes[:2]:
        assert axes.images[0].get_clim() == pytest.approx((-limit, limit))
    texts = check_texts(figure)
    assert f"cosine of frame and query\n(colours fitted to ±{limit:.2f})" in texts
    assert {"people laugh", "truth", TIME_LABEL, f"-{limit:.2f}", "0.00"} <= set(texts)


def test_long_queries_are_shortened_above_the_maps():
    texts = check_texts(plot_layer_similarity(make_similarity(0.3, "WOMAN MAN " * 50)))
    [title] = [text for text in texts if text.startswith("WOMAN")]
    assert title.endswith(" ...")


@pytest.mark.integration
def test_long_queries_have_numbered_pages(asked, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("attention_2.png", "attention_3.png"):
        (out / name).write_bytes(b"of an earlier query")
    query = "a red circle and a blue square and a green cross near the top"
    assert main(["explain", asked[0], query, "--out", str(out)]) == 0
    names = ["answer.png", "attention.png", "attention_2.png", "similarity.png"]
    assert [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()] == names
    assert (out / "attention_2.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "attention_3.png").read_bytes() == b"of an earlier query"
    assert [record for record in caplog.records if "attention_3.png' was there before" in record.getMessage()]


def test_command_writes_three_figures(asked, tmp_path, capsys):
    assert main(["explain", asked[0], asked[1].text, "--out", str(tmp_path / "out")]) == 0
    names = ["answer.png", "attention.png", "similarity.png"]
    assert [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()] == names
    assert all((tmp_path / "out" / name).stat().st_size > 10_000 for name in names)


def test_model_without_patch_tokens_is_refused(make_model, parts, asked):
    model = make_model(method="none", num_recurrent_steps=1)
    with pytest.raises(ValueError, match="'none' uses no patch tokens, so there is no attention to show"):
        word_attention(model, parts[1], asked[0], asked[1].text)


def test_command_refuses_a_model_without_patch_tokens_before_the_video_is_read(make_model, tmp_path, capsys):
    save_ours(make_model(method="none", num_recurrent_steps=1), tmp_path / "none")
    (tmp_path / "damaged.mp4").write_bytes(b"not a video")
    command = ["explain", str(tmp_path / "damaged.mp4"), "a red circle", "--out", str(tmp_path / "out")]
    assert main([*command, "--model", str(tmp_path / "none")]) == 2
    assert "uses no patch tokens, so there is no attention to show" in capsys.readouterr().err
