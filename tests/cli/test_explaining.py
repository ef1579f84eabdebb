"""`r2tuning explain`: where words look, how layers agree, and their pictures."""

import numpy as np
import pytest
import torch
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


pytest.importorskip("matplotlib", reason="the optional matplotlib draws")


@pytest.fixture(scope="module")
def parts():
    return AutoModel.from_pretrained(DEFAULT_MODEL).eval(), AutoProcessor.from_pretrained(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A generated video and a query about it."""
    path, queries = make_demo(tmp_path_factory.mktemp("explain"), 5)
    return str(path), queries[0]


def test_maps_share_out_the_attention(parts, asked):
    video, query = asked
    found = word_attention(*parts, video, query.text, num_pictures=4)
    assert found.words == query.text.split()
    assert found.maps.shape == (len(found.words), 4, 8, 8)
    assert found.pictures.shape == (4, 64, 64, 3)
    assert found.maps.min() >= 0
    assert found.maps.sum(axis=(2, 3)).max() <= 1 + 1e-5, "the rest falls on the CLS token"
    assert list(found.times) == sorted(found.times)


def test_maps_are_those_of_the_model(parts, asked):
    """Pooling with the maps and the CLS token's share gives what the model pools."""
    model, processor = parts
    video, query = asked
    with torch.no_grad():
        stream = processor.stream_video(video)
        encoded = model.encode_video(torch.cat(list(stream)), fps=stream.fps, window_sec=None)
        words = model._project_text(model.get_text_hidden_states(processor(text=query.text)["input_ids"]))[-1]
        tokens = encoded.video_embeds[0][-1][None]
        step = model.r2_block.steps[0]
        attention = step.attend_patches(tokens, words)
        pooled = torch.einsum("vfnw,vfnc->vfwc", attention, tokens) + words[:, None]
        want = step.pool_patches(tokens, words, torch.ones(words.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(pooled.amax(dim=2), want, atol=1e-4, rtol=1e-4)
    found = word_attention(model, processor, video, query.text, num_pictures=tokens.shape[1])
    np.testing.assert_allclose(found.maps.sum(axis=(2, 3)).T, 1 - attention[0, :, 0, 1:-1].numpy(), atol=1e-5)


def test_training_brings_frames_that_fit_nearer_to_the_text(parts, asked):
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


def test_pictures_have_a_row_for_each_word_and_layer(parts, asked):
    video, query = asked
    attention = plot_word_attention(word_attention(*parts, video, query.text, num_pictures=3))
    assert len(attention.axes) == 3 * len(query.text.split())
    similarity = plot_layer_similarity(layer_similarity(*parts, video, query.text), truth=query.moments)
    assert [axes.get_title("left") for axes in similarity.axes[:2]] == ["before training", "after training"]


def test_command_writes_three_pictures(asked, tmp_path, capsys):
    assert main(["explain", asked[0], asked[1].text, "--out", str(tmp_path / "out")]) == 0
    names = ["answer.png", "attention.png", "similarity.png"]
    assert [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()] == names
    assert all((tmp_path / "out" / name).stat().st_size > 10_000 for name in names)


def test_models_that_look_at_no_patches_say_so(make_model, parts, asked):
    model = make_model(method="none", num_recurrent_steps=1)
    with pytest.raises(ValueError, match="'none' looks at no patches"):
        word_attention(model, parts[1], asked[0], asked[1].text)
