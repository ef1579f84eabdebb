"""Tests that every model class must pass. Subclass `ModelChecks` in a test module and give it the fixture `model`.

Inputs are made for the model's own configuration; what is padded is filled with junk, which must not matter.
"""

import contextlib

import pytest
import torch


# Odd and longer than every stride; odd; shorter than the largest stride; shorter than all strides but the first.
FRAMES = (9, 7, 3, 1)
WORDS = (5, 2, 6, 3)
JUNK = 7.0
ENCODERS = ("vision_model.", "text_model.")
LEARNED_IN_CLIP = {"full": ("encoder.", "embeddings.", "pre_layrnorm."), "lora": (".lora_A.", ".lora_B.")}
IN_CLIP = {"full", "lora", "vpt", "vop", "st_adapter"}  # methods whose gradients pass through the encoders
# With other shapes the same sums are split differently: float32 results differ by about 1e-6.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def pad(examples, junk):
    """Stack tensors of different lengths, `(batch, longest, ...)`."""
    padded = examples[0].new_full((len(examples), max(map(len, examples)), *examples[0].shape[1:]), junk)
    for row, example in zip(padded, examples, strict=True):
        row[: len(example)] = example
    return padded


def length_mask(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def make_inputs(config, frames=FRAMES, words=WORDS, cached=False, seed=0):
    """A padded batch of random pixels and token ids, or of random hidden states."""
    vision, text = config.vision_config, config.text_config
    generator = torch.Generator().manual_seed(seed)
    if cached:
        query = [torch.randn(n, config.num_text_states, text.hidden_size, generator=generator) for n in words]
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        shape = (config.num_video_states, tokens, vision.hidden_size)
        video = [torch.randn(n, *shape, generator=generator) for n in frames]
        inputs = {"video_hidden_states": pad(video, JUNK), "text_hidden_states": pad(query, JUNK)}
    else:
        query = [torch.randint(0, text.vocab_size, (n,), generator=generator) for n in words]
        size = (3, vision.image_size, vision.image_size)
        video = [torch.randn(n, *size, generator=generator) for n in frames]
        inputs = {"pixel_values_videos": pad(video, JUNK), "input_ids": pad(query, 1)}
    return {**inputs, "frame_mask": length_mask(frames), "attention_mask": length_mask(words)}


def single(inputs, row):
    """One example of a batch, without its padding."""
    frames, words = inputs["frame_mask"][row].sum(), inputs["attention_mask"][row].sum()
    lengths = dict.fromkeys(("pixel_values_videos", "video_hidden_states", "frame_mask"), frames)
    return {name: tensor[row : row + 1, : lengths.get(name, words)] for name, tensor in inputs.items()}


def make_labels(config, frames=FRAMES, fps=0.5):
    generator = torch.Generator().manual_seed(1)
    labels = {
        "saliency": torch.rand(len(frames), max(frames), generator=generator),
        "positive_frame": torch.tensor([length // 2 for length in frames]),
    }
    if config.use_moment_head:
        labels["moments"] = [torch.tensor([[0.0, length / fps]]) for length in frames]
        labels["fps"] = fps
        if config.use_existence_head:
            labels["moments"][-1] = torch.zeros(0, 2)  # absent
    return labels


def assert_same_answer(outputs, row, alone):
    """A row of a batch has the outputs that its example has alone, and its padding is zero."""
    frames, points = outputs.frame_mask[row], outputs.point_mask[row]
    assert torch.equal(outputs.points[points], alone.points)
    assert alone.point_mask.all()
    pairs = {
        "logits": (outputs.logits[row, points], alone.logits[0]),
        "saliency_scores": (outputs.saliency_scores[row, frames], alone.saliency_scores[0]),
        "video_features": (outputs.video_features[row, frames], alone.video_features[0]),
        "text_features": (outputs.text_features[row], alone.text_features[0]),
    }
    if alone.existence_logits is not None:
        pairs["existence_logits"] = (outputs.existence_logits[row], alone.existence_logits[0])
    if alone.boundary_offsets is not None:
        pairs["boundary_offsets"] = (outputs.boundary_offsets[row, points], alone.boundary_offsets[0])
    for step, (batched, lone) in enumerate(zip(outputs.hidden_states, alone.hidden_states, strict=True)):
        pairs[f"hidden_states[{step}]"] = (batched[row, frames], lone[0])
    for name, (got, want) in pairs.items():
        torch.testing.assert_close(got, want, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert not outputs.saliency_scores[row, ~frames].any()
    assert not outputs.video_features[row, ~frames].any()


def move_weights(model):
    """Copy weights to newly allocated memory: on some CPUs the rounding of sums depends on the alignment in a file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def assert_equal_outputs(got, want, **tolerance):
    """All tensors of two outputs agree; bit by bit without a tolerance."""
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], **(tolerance or {"atol": 0, "rtol": 0}), msg=name)


def is_learned(config, name):
    """Whether a parameter of this name is learned: none of the encoders', except for two methods."""
    return not name.startswith(ENCODERS) or any(part in name for part in LEARNED_IN_CLIP.get(config.method, ()))


@contextlib.contextmanager
def saved_for_backward():
    """Shapes of all tensors that autograd keeps."""
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: shapes.append(tuple(tensor.shape)) or tensor, lambda t: t
    ):
        yield shapes


class ModelChecks:
    """Tests for every `config.method`; `model` is a fixture of the subclass, in eval mode."""

    # ---- batches -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @pytest.mark.parametrize("cached", [False, True], ids=["pixels", "cached"])
    def test_an_example_gives_the_same_answer_alone_and_in_a_ragged_batch(self, model, cached):
        inputs = make_inputs(model.config, cached=cached)
        outputs = model(**inputs, output_hidden_states=True)
        for row in range(len(FRAMES)):
            assert_same_answer(outputs, row, model(**single(inputs, row), output_hidden_states=True))

    @torch.no_grad()
    @pytest.mark.parametrize("extra", [1, 30])
    def test_more_padding_changes_nothing(self, model, extra):
        longest = {"frames": (*FRAMES, max(FRAMES) + extra), "words": (*WORDS, max(WORDS) + extra)}
        inputs = make_inputs(model.config, **longest, cached=True)
        outputs = model(**inputs, output_hidden_states=True)
        for row in range(len(FRAMES)):
            assert_same_answer(outputs, row, model(**single(inputs, row), output_hidden_states=True))

    @torch.no_grad()
    @pytest.mark.parametrize("cached", [False, True], ids=["pixels", "cached"])
    def test_one_video_row_serves_several_consecutive_queries(self, model, cached):
        inputs = make_inputs(model.config, (9, 6), (5, 2, 4, 3), cached=cached)
        video = [name for name in ("pixel_values_videos", "video_hidden_states", "frame_mask") if name in inputs]
        repeated = {name: inputs[name].repeat_interleave(2, dim=0) for name in video}
        want = model(**{**inputs, **repeated})
        assert_equal_outputs(model(**inputs), want, **CLOSE)
        assert_equal_outputs(model(**{**inputs, "frame_mask": repeated["frame_mask"]}), want, **CLOSE)

    @torch.no_grad()
    def test_cached_states_give_what_the_pixels_give(self, model):
        inputs = make_inputs(model.config)
        cached = {
            "video_hidden_states": model.get_video_hidden_states(
                inputs["pixel_values_videos"], frame_mask=inputs["frame_mask"]
            ),
            "text_hidden_states": model.get_text_hidden_states(inputs["input_ids"]),
        }
        masks = {name: inputs[name] for name in ("frame_mask", "attention_mask")}
        assert_equal_outputs(model(**cached, **masks), model(**inputs))

    @torch.no_grad()
    @pytest.mark.parametrize("chunk_size", [1, 4, None])
    def test_the_number_of_frames_encoded_at_once_does_not_matter(self, model, chunk_size):
        pixels = make_inputs(model.config)["pixel_values_videos"]
        states = model.get_video_hidden_states(pixels, chunk_size=chunk_size)
        torch.testing.assert_close(states, model.get_video_hidden_states(pixels), **CLOSE)

    # ---- outputs -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test_tuple_holds_what_the_output_holds(self, model):
        inputs = make_inputs(model.config)
        outputs = model(**inputs)
        as_tuple = model(**inputs, return_dict=False)
        assert isinstance(as_tuple, tuple)
        for got, want in zip(as_tuple, outputs.to_tuple(), strict=True):
            assert torch.equal(got, want)

    @torch.no_grad()
    def test_hidden_states_are_returned_on_request(self, model):
        inputs = make_inputs(model.config)
        assert model(**inputs).hidden_states is None
        outputs = model(**inputs, output_hidden_states=True)
        assert len(outputs.hidden_states) == model.config.num_steps
        frames = inputs["frame_mask"]
        assert torch.equal(outputs.hidden_states[-1][frames], outputs.video_features[frames])

    @torch.no_grad()
    def test_two_runs_in_eval_mode_are_equal(self, model):
        inputs = make_inputs(model.config)
        assert_equal_outputs(model(**inputs), model(**inputs))

    @pytest.mark.parametrize("cached", [False, True], ids=["pixels", "cached"])
    def test_inputs_are_never_changed(self, model, cached):
        inputs = {**make_inputs(model.config, cached=cached), **make_labels(model.config)}
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        before = {name: value.clone() for name, value in tensors.items()}
        model.train()(**inputs).loss.backward()
        for name, value in tensors.items():
            assert torch.equal(value, before[name]), name

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test_a_saved_model_comes_back_bit_by_bit(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        assert not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        inputs = make_inputs(model.config)
        assert_equal_outputs(move_weights(loaded)(**inputs), model(**inputs))

    def test_the_configuration_comes_back(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = type(model.config).from_pretrained(tmp_path)
        assert loaded.to_dict() == model.config.to_dict()

    # ---- gradients -----------------------------------------------------------------------------------------------

    def test_only_learned_parameters_get_gradients(self, model):
        model.train()(**make_inputs(model.config), **make_labels(model.config)).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == is_learned(model.config, name), name
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
            else:
                assert parameter.grad is None, name

    def test_every_parameter_gets_a_gradient_from_videos_too_short_for_some_levels(self, model):
        """Distributed training waits for a gradient of every parameter on every process."""
        inputs, labels = make_inputs(model.config, (1,), (3,)), make_labels(model.config, (1,))
        model.train()(**inputs, **labels).loss.backward()
        lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not lacking

    def test_the_encoders_keep_activations_only_if_gradients_pass_through_them(self, model):
        inputs = {**make_inputs(model.config), **make_labels(model.config)}
        with saved_for_backward() as shapes:
            states = model.train().get_video_hidden_states(
                inputs["pixel_values_videos"], frame_mask=inputs["frame_mask"]
            )
            words = model.get_text_hidden_states(inputs["input_ids"])
        assert states.requires_grad == bool(shapes) == (model.config.method in IN_CLIP)
        assert words.requires_grad == (model.config.method in IN_CLIP - {"vpt"})
        if model.config.method in IN_CLIP:
            vision = model.config.vision_config
            hidden = {shape[-1] for shape in shapes}
            assert {vision.hidden_size, vision.intermediate_size} <= hidden
            return
        with saved_for_backward() as from_pixels:
            model(**inputs)
        cached = {k: v for k, v in inputs.items() if k not in ("pixel_values_videos", "input_ids")}
        with saved_for_backward() as from_states:
            model(**cached, video_hidden_states=states, text_hidden_states=words)
        assert from_pixels == from_states

    @pytest.mark.parametrize("encoder", ["vision_model", "text_model"])
    def test_gradients_reach_an_encoder_that_is_trained(self, model, encoder):
        trained = getattr(model, encoder).encoder.layers[0].mlp.fc1.weight.requires_grad_(True)
        model.train()(**make_inputs(model.config), **make_labels(model.config)).loss.backward()
        assert trained.grad.abs().max() > 0
        for name, parameter in model.named_parameters():
            if parameter is not trained:
                assert (parameter.grad is not None) == is_learned(model.config, name), name

    def test_the_encoders_stay_in_eval_mode(self, model):
        assert model.train() is model
        assert model.r2_block.training
        assert not any(
            module.training for encoder in (model.vision_model, model.text_model) for module in encoder.modules()
        )
        assert model.eval() is model
        assert not model.r2_block.training

    # ---- precision and place -------------------------------------------------------------------------------------

    @torch.no_grad()
    def test_half_precision_of_the_encoders_keeps_learned_parameters_in_float32(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
        for name, parameter in loaded.named_parameters():
            half = name.startswith(ENCODERS) and "lora_" not in name
            assert parameter.dtype == (torch.bfloat16 if half else torch.float32), name
        inputs = {**make_inputs(model.config), **make_labels(model.config)}
        outputs, full = loaded(**inputs), model(**inputs)
        assert outputs.loss.dtype == outputs.logits.dtype == torch.float32
        # bfloat16 keeps three digits of the hidden states; the following layers average them.
        torch.testing.assert_close(outputs.saliency_scores, full.saliency_scores, atol=0.05, rtol=0)

    @torch.no_grad()
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_whole_model_runs_in_half_precision(self, model, dtype):
        inputs = {**make_inputs(model.config), **make_labels(model.config)}
        full = model(**inputs)
        half = model.to(dtype)(**inputs)
        assert half.loss.isfinite()
        # Both formats keep at least 8 bits; errors accumulate over the steps.
        torch.testing.assert_close(half.saliency_scores.float(), full.saliency_scores, atol=0.1, rtol=0)

    def test_activation_checkpointing_changes_no_gradient(self, model):
        inputs = {
            **make_inputs(model.config, cached=model.config.method_spec.reads_plain_layers),
            **make_labels(model.config),
        }
        gradients = []
        for enable in (False, True):
            model.zero_grad()
            if enable:
                model.activation_checkpointing_enable()
            torch.manual_seed(0)
            model.train()(**inputs).loss.backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, want in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], want, **CLOSE, msg=name)

    def test_training_runs_under_autocast(self, model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model.train()(**make_inputs(model.config), **make_labels(model.config))
        assert outputs.loss.dtype == outputs.logits.dtype == torch.float32  # heads and losses are in full precision
        outputs.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_all_tensors_are_created_on_the_device_of_the_inputs(self, model):
        """A tensor made without `device=` would land on the default device, here one that holds no values."""
        inputs = {**make_inputs(model.config, cached=True), **make_labels(model.config)}
        want = model(**inputs)
        with torch.device("meta"):
            got = model(**inputs)
        torch.testing.assert_close(got.loss, want.loss, atol=0, rtol=0)

    def test_the_model_moves_as_a_whole(self, model):
        """No tensor is held outside of parameters and buffers."""
        model.to("meta")
        everything = [*model.parameters(), *model.buffers()]
        assert {tensor.device.type for tensor in everything} == {"meta"}
        held = [v for m in model.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
        assert not held
