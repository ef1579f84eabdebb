"""Tiny models for every test, and the shared data where it is present. Nothing is downloaded."""

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from random_checkpoint import write_checkpoint
from tiny_models import TINY, TINY_TEXT, TINY_VISION
from transformers import CLIPConfig, CLIPModel

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor


pytest.register_assert_rewrite("model_checks")
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)  # the same examples in each run
settings.load_profile("fixed")
# What is imported stays for good: looking at it again and again for garbage took an eighth of the tests' time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)
torch.set_num_threads(1)  # threads that wait for each other make tiny models four times slower on a busy machine
# No test outlives a power failure, and waiting for the disk takes a fifth of the time.
os.fsync = lambda descriptor: None
os.environ["OMP_NUM_THREADS"] = "1"  # the same in processes that tests start, whose sums must be equal to the last bit


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the project's shared data: `VTG_SHARED_DATA`, else `shared/data` beside the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("VTG_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at '{folder}' (set VTG_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_clip_config():
    """CLIP with 4 patches a frame, 3 layers of width 64 (vision) and 48 (text)."""
    return CLIPConfig(vision_config=dict(TINY_VISION), text_config=dict(TINY_TEXT), projection_dim=32)


@pytest.fixture(scope="session")
def tiny_clip(tiny_clip_config):
    torch.manual_seed(0)
    return CLIPModel(tiny_clip_config).eval()


@pytest.fixture(scope="session")
def clip_folder(tiny_clip, tmp_path_factory):
    """`tiny_clip` as a checkpoint on disk."""
    folder = tmp_path_factory.mktemp("clip")
    tiny_clip.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_config(clip_folder):
    """Make a tiny `R2TuningConfig`, its CLIP in `clip_folder`; arguments are fields that differ."""

    def make(**fields):
        defaults = {"vision_config": TINY_VISION, "text_config": TINY_TEXT, **TINY}
        return R2TuningConfig(**{**defaults, "backbone_name_or_path": str(clip_folder), **fields})

    return make


@pytest.fixture(scope="session")
def make_model(make_config, tiny_clip):
    """Make a tiny model in eval mode on `tiny_clip`; arguments are fields of its configuration that differ."""

    def make(**fields):
        torch.manual_seed(1)
        model = R2TuningForVideoGrounding(make_config(**fields))
        if not {"vision_config", "text_config"} & fields.keys():
            model.copy_backbone(tiny_clip.vision_model, tiny_clip.text_model)
        for parameter in (model.r2_block.scale, model.r2_block.gate, model.grounding_head.level_scale):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # as initialised, the spatial path adds nothing
        for name, parameter in model.named_parameters():
            if name.startswith("method.") or ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # as initialised, adapters add nothing
        return model.eval()

    return make


@pytest.fixture
def tiny_model(make_model):
    return make_model()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder with a complete random checkpoint and `sample.mp4`."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def processor(checkpoint):
    return R2TuningProcessor.from_pretrained(checkpoint)
