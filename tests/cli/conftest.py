"""A video, checkpoints, and `r2tuning ground` run on them."""

import pytest
from cli_output import DURATION_SEC, QUERIES
from tiny_checkpoints import save_clip, save_ours
from video_samples import write_video

from modeling_r2tuning import VideoGroundingPipeline
from r2tuning.commands import ground as ground_module
from r2tuning.commands import shared
from r2tuning_cli.main import main


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is looked for on the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def video(folder):
    """20 seconds, 5 numbered pictures a second."""
    return str(write_video(folder / "talk.mp4", count=5 * DURATION_SEC, rate=5))


@pytest.fixture(scope="session")
def checkpoint(folder, make_model):
    """Our checkpoint, CLIP included, sampled at one frame a second."""
    model = make_model(save_backbone=True, backbone_name_or_path=None, fps=1.0)
    return str(save_ours(model, folder / "checkpoint", fps=1.0))


@pytest.fixture(scope="session")
def clip(folder, tiny_clip):
    return str(save_clip(tiny_clip, folder / "clip"))


@pytest.fixture
def ground(video, checkpoint, capsys):
    """Run `r2tuning ground` on the video; return status, stdout and stderr."""

    def run(*options, queries=QUERIES, source=video, model=checkpoint):
        capsys.readouterr()  # of the test's own preparations
        status = main(["ground", source, *queries, "--model", model, *map(str, options)])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def spy(monkeypatch):
    """What the pipeline was made of and called with."""
    seen = {}

    class Spy(VideoGroundingPipeline):
        def __init__(self, **parts):
            seen.update(parts)
            super().__init__(**parts)

        def __call__(self, video, **options):
            seen["options"] = options
            return super().__call__(video, **options)

    monkeypatch.setattr(shared, "VideoGroundingPipeline", Spy)
    return seen


@pytest.fixture
def canned(monkeypatch):
    """Let the pipeline give a fixed answer to every query."""
    answer = {
        "moments": [
            {"start": 4.0, "end": 9.96, "score": 0.91},
            {"start": 12.25, "end": 20.0, "score": 0.5},
            {"start": 8.0, "end": 8.0, "score": 0.25},
        ],
        "saliency": [0.5, 0.25],
        "frame_times": [0.0, 10.0],
        "highlights": [{"time": 10.0, "score": 0.5}, {"time": 0.0, "score": -0.25}],
        "summary": [{"start": 0.0, "end": 2.0}, {"start": 59.96, "end": 3671.0}],
    }

    def pipe(video, query, progress, **options):
        progress(32, 64)
        return [{"query": each, **answer} for each in query]

    pipe.processor = type("Processor", (), {"fps": 0.5})
    monkeypatch.setattr(ground_module, "load_pipeline", lambda args: pipe)
    return answer
