"""The existence head, and training with absent queries: those that nothing in their video matches."""

import json

import pytest
import torch
from model_checks import CLOSE, assert_equal_outputs, make_inputs, make_labels

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding


# ---- the head ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_existence_logits_equal_a_slow_version(make_model):
    """Row by row, from the real frames and points alone."""
    model = make_model(use_existence_head=True)
    outputs = model(**make_inputs(model.config, cached=True))
    head = model.grounding_head.existence_head
    for row, text in enumerate(outputs.text_features):
        frames = outputs.video_features[row, outputs.frame_mask[row]].relu()
        summary = torch.cat([text, frames.max(dim=0).values, frames.mean(dim=0)])
        best_logit = outputs.logits[row, outputs.point_mask[row]].max()
        hidden = head.linear1(torch.cat([head.norm(summary), best_logit[None]])).relu()
        torch.testing.assert_close(outputs.existence_logits[row], head.linear2(hidden)[0], **CLOSE)


@torch.no_grad()
def test_windows_of_a_long_video_are_merged_by_their_highest_logit(make_model, processor):
    """Each window has the logit of a video of its own."""
    model = make_model(use_existence_head=True)
    inputs = make_inputs(model.config, (30, 1), (5, 2), cached=True)
    states = inputs["video_hidden_states"][0]
    text = {name: inputs[name] for name in ("text_hidden_states", "attention_mask")}
    outputs = model.ground(model.encode_video(video_hidden_states=states, window_sec=20), **text)
    assert outputs.window_starts.tolist() == [0, 5, 10, 15, 20] * 2
    answers = processor.post_process_video_grounding(outputs, min_probability=0.5)
    for query, answer in enumerate(answers):
        words = {name: tensor[query : query + 1] for name, tensor in text.items()}
        logits = []
        for start in (0, 5, 10, 15, 20):
            window = model(video_hidden_states=states[None, start : start + 11], **words)
            logits.append(window.existence_logits[0])
        rows = outputs.query_index == query
        torch.testing.assert_close(outputs.existence_logits[rows], torch.stack(logits), **CLOSE)
        assert answer["probability"] == pytest.approx(max(logits).sigmoid().item(), abs=1e-5)
        assert answer["found"] == (answer["probability"] >= 0.5)


@pytest.mark.parametrize("method", ["r2_tuning", "none"])
def test_the_existence_head_changes_no_other_initial_weight(make_config, method):
    fields = {"method": method, "num_recurrent_steps": 1}
    weights = {}
    for use_head in (False, True):
        torch.manual_seed(0)
        model = R2TuningForVideoGrounding(make_config(use_existence_head=use_head, **fields))
        weights[use_head] = model.state_dict()
    new = weights[True].keys() - weights[False].keys()
    assert {name.rpartition(".")[0] for name in new} == {
        f"grounding_head.existence_head.{part}" for part in ("norm", "linear1", "linear2")
    }
    assert list(weights[True])[: len(weights[False])] == list(weights[False])
    for name, value in weights[False].items():
        assert torch.equal(weights[True][name], value), name


def test_number_of_parameters_of_the_existence_head():
    with torch.device("meta"):
        model = R2TuningForVideoGrounding(R2TuningConfig(use_existence_head=True))
    # LayerNorm of 768, Linear from 769 to 256, Linear from 256 to 1
    size = sum(parameter.numel() for parameter in model.grounding_head.existence_head.parameters())
    assert size == 2 * 768 + (769 * 256 + 256) + (256 + 1)


def test_a_checkpoint_without_the_weights_of_its_existence_head_is_refused(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "use_existence_head": True}))
    with pytest.raises(ValueError, match=r"lacks weights \(6, such as \['grounding_head.existence_head.linear1.bias'"):
        R2TuningForVideoGrounding.from_pretrained(tmp_path)


# ---- absent queries ----------------------------------------------------------------------------------------------


def make_absent_batch(config):
    """A batch of three queries, the second of which is absent, as arguments of `forward`."""
    frames = (9, 7, 8)
    labels = make_labels(config, frames)
    labels["moments"] = [[[0.0, 4.0], [6.0, 17.0]], [], [[2.0, 5.0]]]
    return {**make_inputs(config, frames, (5, 2, 4), cached=True), **labels}


def losses_and_gradients(model, batch):
    model.zero_grad()
    outputs = model(**batch)
    outputs.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**outputs.loss_parts, "loss": outputs.loss}, gradients


@pytest.mark.parametrize("use_head", [False, True], ids=["without head", "with head"])
@pytest.mark.parametrize("recipe", ["released", "paper"])
@pytest.mark.parametrize("frame", [5, -1, 1000])
def test_the_positive_frame_of_an_absent_query_does_not_matter(make_model, use_head, recipe, frame):
    model = make_model(use_existence_head=use_head, loss_recipe=recipe)
    batch = make_absent_batch(model.config)
    changed = {**batch, "positive_frame": batch["positive_frame"].clone(), "saliency": batch["saliency"].clone()}
    changed["positive_frame"][1] = frame
    changed["saliency"][1] = 1.0
    for got, want in zip(losses_and_gradients(model, changed), losses_and_gradients(model, batch), strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert torch.equal(got[name], value), name


@torch.no_grad()
def test_an_absent_query_is_an_empty_list_or_a_row_without_real_moments(make_model):
    model = make_model(use_existence_head=True)
    batch = make_absent_batch(model.config)
    want = model(**batch).loss_parts
    padded = torch.tensor([[[0.0, 4.0], [6.0, 17.0]], [[3.0, 9.0]] * 2, [[2.0, 5.0], [0.0, 1.0]]])
    mask = torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    assert_equal_outputs(model(**{**batch, "moments": padded}, moment_mask=mask).loss_parts, want)


@torch.no_grad()
def test_a_batch_of_absent_queries_may_be_a_tensor_without_moments(make_model):
    model = make_model(use_existence_head=True)
    batch = make_absent_batch(model.config)
    want = model(**{**batch, "moments": [[], [], []]}).loss_parts
    assert_equal_outputs(model(**{**batch, "moments": torch.zeros(3, 0, 2)}).loss_parts, want)


@pytest.mark.parametrize("use_head", [False, True], ids=["without head", "with head"])
def test_every_parameter_gets_a_gradient_from_absent_queries_alone(make_model, use_head):
    model = make_model(use_existence_head=use_head)
    batch = make_absent_batch(model.config)
    _, gradients = losses_and_gradients(model.train(), {**batch, "moments": [[], [], []]})
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
