"""The handler of Inference Endpoints that is pushed with every checkpoint."""

import base64
import importlib.util
import json
import os
import subprocess

import pytest
from fresh_python import ROOT
from loopback_hub import LoopbackHub
from small_environment import make_environment

from modeling_r2tuning import VideoGroundingPipeline  # noqa: F401 (registers the pipeline)
from r2tuning.hub.endpoint import endpoint_files
from r2tuning.hub.push import push_checkpoint


NAME, QUERY = "org/r2tuning-tiny", "a red circle"
# Started as an endpoint starts: the repository is a folder, and the file is loaded by its path.
SERVE = """
import importlib.util, json, sys
folder, requests = sys.argv[1:]
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)
answers = [handler(request) for request in json.load(open(requests))]
from importlib import metadata
names = sorted(distribution.name for distribution in metadata.distributions())
print(json.dumps({"answers": answers, "installed": names, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(hub, checkpoint, tmp_path_factory):
    """A pushed checkpoint as an endpoint sees it."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        hub.connect(patch, folder / "home")
        push_checkpoint(checkpoint, NAME)
    for name, content in hub.files(NAME).items():
        (folder / name).write_bytes(content)
    hub.add_repo("org/videos", {"sample.mp4": checkpoint / "sample.mp4"})
    return folder


def load(folder):
    """Import the handler of a folder."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def handler(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
        patch.syspath_prepend(cache)
        yield load(folder).EndpointHandler(str(folder))


@pytest.fixture(scope="module")
def encoded(checkpoint):
    return base64.b64encode((checkpoint / "sample.mp4").read_bytes()).decode()


@pytest.fixture(scope="module")
def address(hub, folder):
    return f"{hub.endpoint}/org/videos/resolve/main/sample.mp4"


def ask(video, query=QUERY, **parameters):
    return {"inputs": {"video": video, "query": query}, "parameters": parameters}


# ---- answers -------------------------------------------------------------------------------------------------------


def test_a_video_in_base64_is_answered_as_by_the_pipeline(handler, encoded, checkpoint):
    want = handler.pipeline(str(checkpoint / "sample.mp4"), query=QUERY)
    assert json.loads(json.dumps(handler(ask(encoded)), allow_nan=False)) == want
    lines = "\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
    assert handler({"inputs": {"video": lines, "query": QUERY}}) == want


def test_an_address_is_answered_with_the_options_of_the_pipeline(handler, address, encoded):
    answers = handler(ask(address, [QUERY, "a blue square"], max_moments=2, num_highlights=1))
    assert [answer["query"] for answer in answers] == [QUERY, "a blue square"]
    for answer in answers:
        assert (len(answer["moments"]), len(answer["highlights"])) == (2, 1)
    assert answers == handler(ask(encoded, [QUERY, "a blue square"], max_moments=2, num_highlights=1))


def test_a_gpu_is_used_if_there_is_one(folder, monkeypatch):
    module = load(folder)
    monkeypatch.setattr(module, "pipeline", lambda task, **options: options["device"])
    monkeypatch.setattr(module, "get_class_from_dynamic_module", lambda *_: None)
    for available, device in {True: "cuda", False: "cpu"}.items():
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        assert module.EndpointHandler().pipeline == device


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "must have the form"),
        ({"video": "x", "query": "y"}, "must have the form"),
        ({"inputs": "https://example.org/talk.mp4"}, "must have the form"),
        ({"inputs": {"video": "x"}}, r"`inputs` must have the keys \['query', 'video'\], got \['video'\]"),
        ({"inputs": {"video": "x", "query": "y", "fps": 1}}, r"got \['fps', 'query', 'video'\]"),
        ({"inputs": {"video": "x", "query": "y"}, "parameters": [1]}, r"`parameters` must be an object, got \[1\]"),
        (ask("x", videos="y"), r"\['videos'\] must be in `inputs`"),
        (ask({"path": "talk.mp4"}), "`video` must be an http.* got {'path': 'talk.mp4'}"),
        (ask("A" * 9), "got 'AAAAAAAAA'"),
        (ask(""), "is empty"),
    ],
)
def test_malformed_requests_are_refused(handler, request_, message):
    with pytest.raises(ValueError, match=message):
        handler(request_)


def test_the_options_are_checked_by_the_pipeline(handler, encoded):
    with pytest.raises(ValueError, match="`max_moments` must be a whole number of at least 1, got 0"):
        handler(ask(encoded, max_moments=0))
    with pytest.raises(TypeError, match=r"Unknown options .*\['top'\]"):
        handler(ask(encoded, top=1))
    with pytest.raises((TypeError, ValueError), match="query"):
        handler(ask(encoded, query=5))


def test_files_of_the_server_are_not_opened(handler, checkpoint, tmp_path, monkeypatch):
    """Also those whose names are valid base64."""
    sample = checkpoint / "sample.mp4"
    (tmp_path / "talk").write_bytes(sample.read_bytes())
    monkeypatch.chdir(tmp_path)
    for video in (str(sample), f"file://{sample}", "/etc/hostname"):
        with pytest.raises(ValueError, match="Files of the server are not opened"):
            handler(ask(video))
    with pytest.raises(ValueError, match=r"`video` \(3 bytes\) cannot be read as a video"):
        handler(ask("talk"))


def test_a_playlist_opens_nothing(handler, checkpoint):
    playlist = f"#EXTM3U\n#EXTINF:2,\n{checkpoint / 'sample.mp4'}\n#EXT-X-ENDLIST\n"
    with pytest.raises(ValueError, match="a playlist, which names other files"):
        handler(ask(base64.b64encode(playlist.encode()).decode()))


def test_large_videos_are_refused(folder, handler, encoded, address, monkeypatch):
    monkeypatch.setattr(handler, "max_bytes", 1000)
    with pytest.raises(ValueError, match=r"`video` has more than 1,000 bytes: .*`MAX_VIDEO_MB`"):
        handler(ask(encoded))
    with pytest.raises(ValueError, match="has more than 1,000 bytes"):
        handler(ask(address))


def test_the_limit_comes_from_the_environment(folder, monkeypatch):
    module = load(folder)
    assert module._read_limit() == 500_000_000
    monkeypatch.setenv("MAX_VIDEO_MB", "2.5")
    assert module._read_limit() == 2_500_000
    for text in ("0", "-1", "inf", "nan", "large", ""):
        monkeypatch.setenv("MAX_VIDEO_MB", text)
        with pytest.raises(ValueError, match="`MAX_VIDEO_MB` must be a positive number"):
            module._read_limit()


# ---- pushed --------------------------------------------------------------------------------------------------------


def test_the_requirements_are_those_of_the_package(folder):
    """No lower bound differs from that of the package itself."""
    setup = (ROOT / "setup.py").read_text()
    lora = endpoint_files(folder, {"method": "lora"})["requirements.txt"].decode().split()
    (folder / "spiece.model").touch()
    siglip = endpoint_files(folder, {})["requirements.txt"].decode().split()
    (folder / "spiece.model").unlink()
    plain = (folder / "requirements.txt").read_text().split()
    assert set(lora) - set(plain) == {"peft>=0.21"}
    assert set(siglip) - set(plain) == {"protobuf>=4.25", "sentencepiece>=0.2"}
    for requirement in {*lora, *siglip}:
        assert f'"{requirement}"' in setup, requirement


@pytest.mark.parametrize("name", ["handler.py", "requirements.txt"])
def test_a_file_written_or_edited_on_the_hub_is_kept(hub, folder, checkpoint, tmp_path, monkeypatch, caplog, name):
    hub.connect(monkeypatch, tmp_path / "home")
    hub.add_repo("org/theirs", {name: b"theirs"})
    for _ in range(2):
        push_checkpoint(checkpoint, "org/theirs")
        assert hub.files("org/theirs")[name] == b"theirs"
    assert f"{name} was written or edited on the Hub and is kept as it is there" in caplog.text


@pytest.mark.integration
def test_it_runs_where_only_its_requirements_are_installed(folder, handler, encoded, address, tmp_path):
    requirements = (folder / "requirements.txt").read_text().split()
    python = make_environment(tmp_path / "environment", requirements)
    requests = [ask(encoded), ask(address, [QUERY, "a blue square"], max_moments=1)]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    env = {
        "PATH": os.environ["PATH"],
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [python, "-c", SERVE, folder, tmp_path / "requests.json"]
    finished = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    printed = json.loads(finished.stdout.splitlines()[-1])
    assert {"av", "pillow", "torch", "transformers"} <= set(map(str.lower, printed["installed"]))
    assert not {"r2tuning", "datasets", "accelerate"} & set(printed["installed"])
    assert not {"r2tuning", "modeling_r2tuning"} & set(printed["modules"])
    for answer, request in zip(printed["answers"], requests, strict=True):
        assert answer == handler(request)
