import pytest
from model_checks import ModelChecks


CONFIGURATIONS = {
    "default": {},
    "tvsum": {"strides": (1,), "use_temporal_endpoints": False, "use_moment_head": False},
    "paper": {"loss_recipe": "paper"},
    "tvsum_paper": {"strides": (1,), "use_temporal_endpoints": False, "use_moment_head": False, "loss_recipe": "paper"},
    "self_cross": {"attention_order": "self_cross"},
    "separate_blocks": {"shared_block": False},
    "forward": {"layer_fusion": "forward"},
    "single": {"layer_fusion": "single"},
    "mean": {"layer_fusion": "mean"},
    "three_layers": {"num_temporal_layers": 3},
    "one_step": {"num_recurrent_steps": 1},
    "no_calibration": {"use_video_calibration": False, "use_layer_calibration": False},
}


class TestR2Tuning(ModelChecks):
    @pytest.fixture(params=CONFIGURATIONS)
    def model(self, request, make_model):
        return make_model(**CONFIGURATIONS[request.param])
