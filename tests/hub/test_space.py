"""The web app as a Space: its files, the wheel in it, and what `r2tuning push --space` publishes and keeps."""

import ast
import base64
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from importlib import metadata
from urllib.error import URLError
from zipfile import ZipFile

import pytest
import yaml
from cli_output import only_line
from fresh_python import ROOT, run_fresh
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from small_environment import make_environment

from modeling_r2tuning import R2TuningForVideoGrounding
from r2tuning.hub import repository, space, wheel
from r2tuning.hub.repository import RECORD
from r2tuning.hub.space import push_space, write_space
from r2tuning.hub.wheel import make_wheel
from r2tuning_cli.main import main


NAME = "org/find-moments"
TEMPLATES = ROOT / "hub_cards/space"
COMMITS = ["initial commit", "Publish the app of R2-Tuning"]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
WHEEL = f"r2tuning-{metadata.version('r2tuning')}-py3-none-any.whl"
FILES = {"README.md", "app.py", "requirements.txt", WHEEL}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that this process talks to, with short waits between attempts."""
    monkeypatch.setattr(repository, "WAITS_SEC", (0.01, 0.02, 0.03))
    with LoopbackHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture(scope="module")
def packed():
    """Content of the wheel."""
    return make_wheel()[1]


@pytest.fixture
def quick_wheel(monkeypatch):
    """A small file in place of the wheel, which takes a third of a second."""
    monkeypatch.setattr(space, "make_wheel", lambda: (WHEEL, b"wheel"))


def read_metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def read_folder(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


# ---- the files in the sources --------------------------------------------------------------------------------------


def test_the_card_configures_a_space():
    found = read_metadata((TEMPLATES / "README.md").read_text())
    assert found["sdk"] == "gradio"
    assert f"\ngradio=={found['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert found["python_version"] == "3.11"  # a string: as a number, 3.10 would be 3.1
    assert (TEMPLATES / found["app_file"]).exists()
    assert found["license"] == "apache-2.0"
    assert {found["colorFrom"], found["colorTo"]} <= COLOURS
    assert len(found["short_description"]) <= 60
    assert "models" not in found


def test_the_requirements_are_those_of_the_package_and_the_app():
    """With PyTorch for CPUs, and with what any checkpoint may need."""
    call = ast.parse((ROOT / "setup.py").read_text()).body[-1].value
    [needed] = [ast.literal_eval(word.value) for word in call.keywords if word.arg == "install_requires"]
    [extras] = [ast.literal_eval(word.value) for word in call.keywords if word.arg == "extras_require"]
    for extra in ("app", "editors", "lora", "siglip"):
        needed += extras[extra]
    first, *lines = (TEMPLATES / "requirements.txt").read_text().splitlines()
    assert first == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert sorted(lines) == sorted(set(needed))


# ---- the wheel -----------------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_its_data(packed):
    archive = ZipFile(io.BytesIO(packed))
    names = set(archive.namelist())
    for path in ("modeling_r2tuning/default_model/model.safetensors", "r2tuning/training/presets/qvhighlights.json"):
        assert archive.read(path) == (ROOT / path).read_bytes()
    assert archive.read("r2tuning/hub_cards/space/app.py") == (TEMPLATES / "app.py").read_bytes()
    info = WHEEL.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert {
        f"{info}/{part}" for part in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    } <= names
    assert not any("__pycache__" in path for path in names)
    assert make_wheel() == (WHEEL, packed), "equal files give equal bytes"


def test_the_record_of_the_wheel_lists_every_file_with_its_checksum(packed):
    archive = ZipFile(io.BytesIO(packed))
    record = WHEEL.removesuffix("-py3-none-any.whl") + ".dist-info/RECORD"
    rows = [line.split(",") for line in archive.read(record).decode().splitlines()]
    assert sorted(row[0] for row in rows) == sorted(archive.namelist())
    for path, checksum, size in rows[:-1]:
        digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(path)).digest()).decode().rstrip("=")
        assert (checksum, size) == (f"sha256={digest}", str(archive.getinfo(path).file_size))
    assert rows[-1] == [record, "", ""]


def test_other_files_of_a_checkout_are_not_packed(tmp_path, monkeypatch):
    package = tmp_path / "packed"
    for name in (
        "__init__.py",
        "part/code.py",
        "py.typed",
        "default_model/weights",
        "notes.txt",
        ".token",
        "part/a.log",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(wheel, "PACKAGES", ("packed",))
    names = {name for name in wheel._read_packages() if not name.startswith("r2tuning/hub_cards/")}
    assert names == {f"packed/{name}" for name in ("__init__.py", "part/code.py", "py.typed", "default_model/weights")}


@pytest.mark.integration
def test_pip_installs_the_wheel(packed, tmp_path):
    (tmp_path / WHEEL).write_bytes(packed)
    words = ["install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path / "site", tmp_path / WHEEL]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    assert (tmp_path / "site/bin/r2tuning").exists()
    assert (tmp_path / "site/modeling_r2tuning/default_model/model.safetensors").exists()


# ---- app.py --------------------------------------------------------------------------------------------------------


def run_app(folder, cwd):
    """Run `app.py` of a Space whose wheel holds a package that only prints how it was called."""
    with ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr("r2tuning/__init__.py", "")
        archive.writestr("r2tuning/app/__init__.py", "")
        code = "import os\ndef launch_app(model=None):\n    print(model, os.getcwd(), __file__)\n"
        archive.writestr("r2tuning/app/launch.py", code)
    finished = run_fresh([folder / "app.py"], cwd=cwd)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


@pytest.mark.integration
def test_the_app_is_started_from_the_wheel_whatever_the_working_directory(quick_wheel, checkpoint, tmp_path):
    write_space(tmp_path / "space", str(checkpoint))
    model, cwd, file = run_app(tmp_path / "space", tmp_path)
    assert os.path.samefile(os.path.join(cwd, model), tmp_path / "space/checkpoint")
    assert not file.startswith(str(ROOT))
    assert not os.path.exists(file), "the unpacked wheel is left"


# ---- written -------------------------------------------------------------------------------------------------------


def test_a_space_with_the_packaged_model_is_complete(packed, tmp_path):
    write_space(tmp_path / "space")
    files = read_folder(tmp_path / "space")
    assert files.keys() == FILES
    for name in ("app.py", "requirements.txt"):
        assert files[name].read_bytes() == (TEMPLATES / name).read_bytes()
    assert files[WHEEL].read_bytes() == packed
    assert read_metadata(files["README.md"].read_text()) == read_metadata((TEMPLATES / "README.md").read_text())


def test_a_folder_that_holds_files_is_refused(quick_wheel, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_space(tmp_path)


def test_a_checkpoint_in_a_folder_goes_into_the_space(quick_wheel, checkpoint, tmp_path):
    own = tmp_path / "best"
    shutil.copytree(checkpoint, own)
    (own / "optimizer.pt").write_text("private")
    write_space(tmp_path / "space", str(own))
    files = read_folder(tmp_path / "space")
    assert 'MODEL = "checkpoint"  # a name' in files["app.py"].read_text()
    names = {name.removeprefix("checkpoint/") for name in files if name.startswith("checkpoint/")}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert not {"optimizer.pt", "sample.mp4", "handler.py", "requirements.txt"} & names
    R2TuningForVideoGrounding.from_pretrained(tmp_path / "space/checkpoint")


def test_the_page_of_a_space_links_to_a_model_on_the_hub(hub, quick_wheel, tmp_path):
    hub.add_repo("org/r2tuning-qvhl", {"config.json": b'{"model_type": "r2tuning"}'})
    write_space(tmp_path / "space", "org/r2tuning-qvhl")
    assert read_folder(tmp_path / "space").keys() == FILES
    assert 'MODEL = "org/r2tuning-qvhl"' in (tmp_path / "space/app.py").read_text()
    assert read_metadata((tmp_path / "space/README.md").read_text())["models"] == ["org/r2tuning-qvhl"]


def test_models_that_nobody_could_load_are_refused(hub, make_model, clip_folder, tmp_path):
    hub.add_repo("org/clip", {"config.json": b'{"model_type": "clip"}'})
    for model, message in {
        "nowhere": "`model` must be a folder, or a name on the Hub",
        "org/none": "org/none is not a local folder",
        "org/clip": "holds a model of type 'clip'",
        str(tmp_path): "holds no model",
    }.items():
        with pytest.raises((OSError, ValueError), match=message):
            write_space(tmp_path / "space", model)
    for model in ("packaged", "org/clip"):
        with pytest.raises(ValueError, match="`backbone` goes with a checkpoint in a folder"):
            write_space(tmp_path / "space", model, backbone="org/clip")
    assert not (tmp_path / "space").exists()


# ---- published -----------------------------------------------------------------------------------------------------


def test_a_space_goes_into_one_commit(hub, quick_wheel):
    for _ in range(2):
        assert push_space(NAME) == f"{hub.endpoint}/spaces/{NAME}"
        assert hub.commits(NAME, "space") == COMMITS  # the second push changes nothing
    files = hub.files(NAME, "space")
    assert files.keys() == {*FILES, RECORD}
    assert files[WHEEL] == b"wheel"
    assert not hub.is_private(NAME, "space")


def test_files_of_an_earlier_push_are_removed_and_those_of_others_kept(hub, quick_wheel, checkpoint, monkeypatch):
    push_space(NAME, str(checkpoint))
    assert "checkpoint/model.safetensors" in hub.files(NAME, "space")
    api = HfApi()
    for name, content in {"examples/talk.mp4": b"theirs", "requirements.txt": b"torch\n"}.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=NAME, repo_type="space")
    monkeypatch.setattr(space, "make_wheel", lambda: ("r2tuning-9-py3-none-any.whl", b"newer"))
    push_space(NAME)
    files = hub.files(NAME, "space")
    kept = {"examples/talk.mp4", "requirements.txt"}
    assert files.keys() == {"README.md", "app.py", "r2tuning-9-py3-none-any.whl", RECORD, *kept}
    assert files["requirements.txt"] == b"torch\n"


def test_a_card_edited_on_the_hub_keeps_its_text_and_title(hub, quick_wheel):
    theirs = b"---\ntitle: Find it\nemoji: \xf0\x9f\x90\x95\nsdk: static\npinned: true\n---\nMine\n"
    hub.add_repo(NAME, {"README.md": theirs}, "space")
    for _ in range(2):
        push_space(NAME)
        card = hub.files(NAME, "space")["README.md"].decode()
        found = read_metadata(card)
        assert (found["title"], found["emoji"], found["pinned"]) == ("Find it", "🐕", True)
        assert (found["sdk"], found["app_file"]) == ("gradio", "app.py")
        assert card.endswith("---\nMine\n")
    assert len(hub.commits(NAME, "space")) == 2


def test_the_card_that_the_hub_gives_a_new_space_is_replaced(hub, quick_wheel):
    theirs = b"---\ntitle: App\nemoji: \xf0\x9f\x90\x95\nsdk: gradio\n---\n\nCheck out the configuration reference at https://hub\n"
    hub.add_repo(NAME, {"README.md": theirs}, "space")
    push_space(NAME)
    assert read_metadata(hub.files(NAME, "space")["README.md"].decode())["title"] == "R2-Tuning"
    assert "Drop a video" in hub.files(NAME, "space")["README.md"].decode()


def test_two_wheels_in_a_space_are_refused(quick_wheel, tmp_path):
    write_space(tmp_path / "space")
    (tmp_path / "space" / "r2tuning-0.0.1-py3-none-any.whl").write_bytes(b"")
    result = run_fresh(["app.py"], None, tmp_path / "space")
    assert "Keep one of r2tuning-0.0.1-py3-none-any.whl, " in result.stderr


def test_private_refuses_a_public_space(hub, quick_wheel):
    push_space("org/private", private=True)
    assert hub.is_private("org/private", "space")
    hub.add_repo(NAME, {}, "space")
    with pytest.raises(PermissionError, match=f"'{NAME}' exists and is public"):
        push_space(NAME, private=True)


def test_the_command_in_the_error_message_completes_the_push(hub, quick_wheel, checkpoint, capsys):
    hub.fail_next("POST", "/commit/", 502, times=4)
    with pytest.raises(ConnectionError, match="The test ordered this failure. Finish with") as raised:
        push_space(NAME, os.path.relpath(checkpoint), private=True)
    command = shlex.split(str(raised.value).split("`")[1])
    capsys.readouterr()
    assert main(command[1:]) == 0
    assert capsys.readouterr().out == f"{hub.endpoint}/spaces/{NAME}\n"
    assert hub.is_private(NAME, "space")
    assert "checkpoint/model.safetensors" in hub.files(NAME, "space")


# ---- the command ---------------------------------------------------------------------------------------------------


def test_command_writes_or_publishes_a_space(hub, quick_wheel, tmp_path, capsys):
    folder = tmp_path / "space"
    assert main(["push", "--space", NAME, "--output", str(folder)]) == 0
    assert capsys.readouterr() == (f"{folder}\n", "")
    assert read_folder(folder).keys() == FILES
    assert not hub._repos
    assert main(["push", "--space", NAME, "packaged"]) == 0
    assert capsys.readouterr() == (f"{hub.endpoint}/spaces/{NAME}\n", "")
    assert hub.files(NAME, "space").keys() == {*FILES, RECORD}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space"], "--space: expected one argument"),
        (["--space", "find-moments"], "must be 'organisation/name', got 'find-moments'"),
        (["--space", NAME, "run/best", "org/model"], "`--space` names the repository: leave out 'org/model'"),
        (["run/best", "org/model", "--output", "x"], "`--output` goes with `--space` (see `r2tuning push --help`)"),
        (["--space", NAME, "--output", "x", "--private"], "`--private` goes with publishing"),
        (["--space", NAME, "nowhere", "--output", "x"], "there is no folder 'nowhere'"),
    ],
)
def test_wrong_commands(words, message, capsys):
    assert main(["push", *words]) == 2
    assert message in only_line(capsys.readouterr().err)


# ---- it runs -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(python, folder, home):
    """Run `app.py` of a Space; yield the address of its page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    env |= {"GRADIO_ANALYTICS_ENABLED": "False", "NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen([python, "app.py"], cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/", process, home / "log"
    finally:
        process.terminate()
        process.wait(30)


def check_that_it_serves(python, tmp_path):
    write_space(tmp_path / "space")
    (tmp_path / "home").mkdir()
    with serving(python, tmp_path / "space", tmp_path / "home") as (address, process, log):
        end = time.monotonic() + 120
        while True:
            try:
                page = urllib.request.urlopen(address, timeout=10).read().decode()
                break
            except URLError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
    assert "gradio" in page
    assert json.loads(page.split("window.gradio_config = ")[1].split(";</script>")[0])["components"]


def requirements():
    return (TEMPLATES / "requirements.txt").read_text().splitlines()


needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


@needs_gradio
@pytest.mark.integration
def test_it_runs_where_only_its_requirements_are_installed(tmp_path):
    python = make_environment(tmp_path / "environment", requirements()[1:])
    check_that_it_serves(python, tmp_path)


@pytest.mark.slow
def test_it_runs_in_an_environment_that_pip_makes_from_its_requirements(tmp_path):
    """In the versions of constraints.txt; the extra index may be out of reach."""
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment/bin/python"
    write_space(tmp_path / "copy")
    words = ["install", "--quiet", "-r", "requirements.txt", "-c", ROOT / "constraints.txt"]
    env = {**os.environ, "PIP_RETRIES": "0"}
    subprocess.run([python, "-m", "pip", *words], cwd=tmp_path / "copy", env=env, check=True)
    check_that_it_serves(python, tmp_path)
