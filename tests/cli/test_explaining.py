"""`r2tuning explain`: attention of the words, similarity by layer, and their figures."""

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_ours
from transformers import AutoModel, AutoProcessor

from modeling_r2tuning import DEFAULT_MODEL
from r2tuning.commands.demo import make_demo
from r2tuning.visualization.explain import (
    layer_similarity,
    plot_layer_similarity,
    plot_word_attention,
    word_attention,
)
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
    attention = plot_word_attention(word_attention(*parts, video, query.text, num_frames=3))
    assert len(attention.axes) == 3 * len(query.text.split())
    similarity = plot_layer_similarity(layer_similarity(*parts, video, query.text), truth=query.moments)
    assert [axes.get_title("left") for axes in similarity.axes[:2]] == ["before training", "after training"]


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
