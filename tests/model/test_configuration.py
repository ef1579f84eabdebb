import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_models import TINY_TEXT, TINY_VISION
from transformers import AutoConfig, AutoModel, CLIPTextConfig, CLIPVisionConfig

from modeling_r2tuning import R2TuningConfig
from modeling_r2tuning.method_specs_r2tuning import METHOD_SPECS, Method
from modeling_r2tuning.methods_r2tuning import MODULES


# Every field but `use_existence_head`, which cannot be on without a moment head.
DIFFERENT = {
    "vision_config": TINY_VISION,
    "text_config": TINY_TEXT,
    "backbone_name_or_path": "some/clip",
    "backbone_revision": "abc",
    "save_backbone": True,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_recurrent_steps": 1,
    "num_temporal_layers": 3,
    "attention_order": "self_cross",
    "shared_block": False,
    "method": "none",
    "layer_fusion": "mean",
    "initial_pooling_scale": 0.5,
    "strides": (1,),
    "use_temporal_endpoints": False,
    "use_moment_head": False,
    "dropout": 0.25,
    "drop_path": 0,
    "use_video_calibration": False,
    "use_layer_calibration": False,
    "loss_recipe": "paper",
    "saliency_loss_weight": 1,
    "existence_loss_weight": 1,
    "positive_saliency": "above_half",
    "fps": 2,
    "window_sec": None,
}


def test_defaults_are_the_papers_qvhighlights_model():
    config = R2TuningConfig()
    assert config.vision_config.to_dict() == CLIPVisionConfig().to_dict()  # ViT-B/32
    assert config.text_config.to_dict() == CLIPTextConfig().to_dict()
    assert (config.hidden_size, config.num_attention_heads, config.num_recurrent_steps) == (256, 8, 4)
    assert config.strides == [1, 2, 4, 8]
    assert (config.fps, config.window_sec) == (0.5, 150.0)


def test_every_field_comes_back_from_json(tmp_path):
    """All fields are covered: the test fails when a field is added that is not listed here."""
    own = set(R2TuningConfig.__annotations__) - {"model_type", "sub_configs"}
    assert own - {"use_existence_head"} == DIFFERENT.keys()
    config = R2TuningConfig(**DIFFERENT)
    default = R2TuningConfig()
    assert all(getattr(config, name) != getattr(default, name) for name in DIFFERENT)
    config.save_pretrained(tmp_path)
    for loaded in (R2TuningConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, R2TuningConfig)
        assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
        assert isinstance(loaded.vision_config, CLIPVisionConfig)
        assert isinstance(loaded.text_config, CLIPTextConfig)
        assert loaded.vision_config.hidden_size == 64


def test_the_existence_head_comes_back_from_json_and_is_off_in_old_files(tmp_path):
    R2TuningConfig(use_existence_head=True).save_pretrained(tmp_path)
    assert R2TuningConfig.from_pretrained(tmp_path).use_existence_head
    stored = json.loads((tmp_path / "config.json").read_text())
    for name in ("use_existence_head", "existence_loss_weight"):
        del stored[name]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    loaded = R2TuningConfig.from_pretrained(tmp_path)
    assert not loaded.use_existence_head
    assert loaded.existence_loss_weight == 0.3


def test_the_file_names_its_model_type(tmp_path):
    R2TuningConfig(**DIFFERENT).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "r2tuning"


@pytest.mark.parametrize("strides", [(1, 2), [1, 2]])
def test_strides_become_a_list(strides):
    assert R2TuningConfig(strides=strides).strides == [1, 2]


def test_configurations_of_the_encoders_may_be_objects_or_dicts():
    given = R2TuningConfig(
        vision_config=CLIPVisionConfig(**TINY_VISION), text_config=CLIPTextConfig(**TINY_TEXT), num_recurrent_steps=3
    )
    assert (
        given.to_dict()
        == R2TuningConfig(vision_config=TINY_VISION, text_config=TINY_TEXT, num_recurrent_steps=3).to_dict()
    )


def test_configurations_share_nothing():
    first, second = R2TuningConfig(), R2TuningConfig()
    first.strides.append(16)
    first.vision_config.hidden_size = 1
    assert second.strides == [1, 2, 4, 8]
    assert second.vision_config.hidden_size == 768


def test_full_tuning_keeps_clip_in_the_checkpoint():
    assert R2TuningConfig(method="full", num_recurrent_steps=1).save_backbone
    assert not R2TuningConfig(method="lora", num_recurrent_steps=1).save_backbone


@pytest.mark.parametrize(("fusion", "steps"), [("reversed", 4), ("forward", 4), ("single", 1), ("mean", 1)])
def test_number_of_steps(fusion, steps):
    assert R2TuningConfig(layer_fusion=fusion).num_steps == steps


WRONG = {
    "hidden_size": [
        (0, "at least 1, got 0"),
        (250, "even and a multiple of `num_attention_heads`"),
        ("256", "expected int"),
    ],
    "num_attention_heads": [
        (0, "at least 1"),
        (3, "multiple of `num_attention_heads`, got 256 and 3"),
        (-8, "at least 1"),
    ],
    "num_recurrent_steps": [(0, "at least 1"), (13, r"must not exceed .* \(12\), got 13"), (2.0, "expected int")],
    "num_temporal_layers": [(0, "at least 1")],
    "attention_order": [("self", "attention_order")],
    "layer_fusion": [("backward", "layer_fusion")],
    "loss_recipe": [("official", "loss_recipe")],
    "positive_saliency": [("above_mean", "positive_saliency")],
    "shared_block": [("yes", "expected bool")],
    "use_moment_head": [(1, "expected bool")],
    "strides": [
        ((), "increasing powers of two"),
        ((2, 4), "start with 1, got"),
        ((1, 3), "increasing powers of two"),
        ((1, 4, 2), "increasing powers of two"),
        ((1, 1), "increasing powers of two"),
        ((1, -2), "increasing powers of two"),
        ((1, 0), "increasing powers of two"),
        ((1.0, 2.0), "strides"),
        ("12", "strides"),
    ],
    "dropout": [(1.0, r"must be in \[0, 1\), got 1.0"), (-0.1, r"must be in \[0, 1\)"), (float("nan"), r"\[0, 1\)")],
    "drop_path": [(1, r"must be in \[0, 1\)")],
    "use_existence_head": [(1, "expected bool")],
    "existence_loss_weight": [
        (-0.1, "must not be negative or infinite, got -0.1"),
        (float("inf"), "infinite, got inf"),
    ],
    "saliency_loss_weight": [(-1, "must not be negative or infinite, got -1"), (float("nan"), "must not be negative")],
    "method": [
        *(
            (name, f"`num_recurrent_steps` must be 1 with `method` '{name}'.*got 4")
            for name in ("none", "full", "vpt")
        ),
        ("adapter", "method"),
    ],
    "fps": [
        (0, "must be positive and finite"),
        (-1.0, "must be positive"),
        (float("inf"), "finite"),
        (float("nan"), "positive"),
    ],
    "window_sec": [(0, "must be positive and finite, or None"), (-1.0, "positive"), (float("inf"), "finite")],
    "backbone_name_or_path": [(5, "backbone_name_or_path")],
}


@pytest.mark.parametrize(
    ("field", "value", "message"), [(field, *case) for field, cases in WRONG.items() for case in cases]
)
def test_wrong_values_are_refused_with_the_rule(field, value, message):
    with pytest.raises(StrictDataclassError, match=message) as caught:
        R2TuningConfig(**{field: value})
    assert field in str(caught.value)


def test_points_are_frames_where_only_frames_are_scored():
    with pytest.raises(StrictDataclassError, match=r"`strides` must be \[1\] without moment head"):
        R2TuningConfig(use_moment_head=False)


def test_an_existence_head_needs_a_moment_head():
    with pytest.raises(StrictDataclassError, match="`use_existence_head` needs `use_moment_head`"):
        R2TuningConfig(use_moment_head=False, strides=[1], use_existence_head=True)


def test_the_shallower_encoder_limits_the_number_of_layers_read():
    with pytest.raises(StrictDataclassError, match=r"number of layers of either encoder \(2\), got 3"):
        R2TuningConfig(
            vision_config=TINY_VISION, text_config={**TINY_TEXT, "num_hidden_layers": 2}, num_recurrent_steps=3
        )


def test_an_unknown_key_is_kept_so_that_older_versions_read_newer_files(tmp_path):
    config = R2TuningConfig(some_new_field=3)
    assert config.some_new_field == 3
    config.save_pretrained(tmp_path)
    assert R2TuningConfig.from_pretrained(tmp_path).some_new_field == 3


def test_an_installed_package_needs_no_pipeline_from_the_hub(tmp_path):
    """`custom_pipelines` would make transformers ask for `trust_remote_code`."""
    R2TuningConfig().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["custom_pipelines"] = {"video-grounding": {"impl": "pipeline_r2tuning.VideoGroundingPipeline"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert not hasattr(R2TuningConfig.from_pretrained(tmp_path), "custom_pipelines")


# ---- transfer methods --------------------------------------------------------------------------------------------


def test_every_method_has_a_specification_and_those_that_change_the_encoders_a_module():
    assert METHOD_SPECS.keys() == set(get_args(Method))
    with_module = {name for name, spec in METHOD_SPECS.items() if spec.place in ("inside", "beside")}
    assert MODULES.keys() == with_module - {"full", "lora"}


@pytest.mark.parametrize("method", METHOD_SPECS)
def test_properties_of_a_method_fit_together(method):
    spec = METHOD_SPECS[method]
    assert spec.place == "inside" or not (spec.mixes_frames or spec.trains_encoders or spec.uses_peft)
    assert spec.place == "beside" or not (spec.reads_branches or spec.layer_interval > 1)
    assert range(12)[spec.layers_read(12)][-1] == 11


# ---- files of earlier versions -----------------------------------------------------------------------------------

OLD_FILE = Path(__file__).parents[1] / "fixtures" / "config_with_clip_names.json"


@pytest.mark.parametrize("load", [R2TuningConfig.from_pretrained, AutoConfig.from_pretrained])
def test_a_stored_configuration_with_the_earlier_names_of_the_backbone_loads(tmp_path, load):
    """`clip_model_name_or_path` and `clip_revision` are now `backbone_name_or_path` and `backbone_revision`."""
    (tmp_path / "config.json").write_text(OLD_FILE.read_text())
    config = load(tmp_path)
    assert (config.backbone_name_or_path, config.backbone_revision) == ("some/clip", "refs/pr/7")
    assert (config.num_recurrent_steps, config.vision_config.hidden_size) == (3, 64)
    assert not [name for name in config.to_dict() if name.startswith("clip_")]


def test_an_argument_overrides_the_backbone_of_a_configuration_with_the_earlier_names(tmp_path):
    (tmp_path / "config.json").write_text(OLD_FILE.read_text())
    assert R2TuningConfig.from_pretrained(tmp_path, backbone_name_or_path="other").backbone_name_or_path == "other"


def test_a_checkpoint_with_the_earlier_names_loads_with_its_backbone(make_model, clip_folder, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["clip_model_name_or_path"] = settings.pop("backbone_name_or_path")
    settings["clip_revision"] = settings.pop("backbone_revision")
    assert settings["clip_model_name_or_path"] == str(clip_folder)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    loaded = AutoModel.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
