"""Checkpoints pushed with the real client to the loopback Hub: what is published, kept, refused and retried."""

import json
import shlex
import shutil
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
from carried_files import FILES as CODE
from huggingface_hub import ModelCard
from loopback_hub import READ_TOKEN, LoopbackHub, run_python
from tiny_checkpoints import save_clip, save_ours

from r2tuning.hub import repository
from r2tuning.hub.model_card import Results
from r2tuning.hub.push import push_checkpoint
from r2tuning.hub.repository import RECORD
from r2tuning_cli.main import main


NAME = "org/r2tuning-qvhl"
COMMITS = ["initial commit", "Publish an R2-Tuning checkpoint"]
ENDPOINT = {"handler.py", "requirements.txt"}  # which the package adds
PUBLISHED = {
    *CODE,
    *("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("model.safetensors", "README.md", "results.json", "metrics.json", "curves.png", RECORD),
    *ENDPOINT,
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that this process talks to, with short waits between attempts."""
    monkeypatch.setattr(repository, "WAITS_SEC", (0.01, 0.02, 0.03))
    with LoopbackHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A checkpoint with its results, among files that must not be published."""
    folder = tmp_path / "run" / "best"
    shutil.copytree(checkpoint, folder)
    Results(
        benchmark="qvhighlights",
        split="val",
        scores={"MR-full-R1@0.5": 67.74, "MR-full-mAP": 47.86},
        training={
            **{"command": "python train/run.py", "commit": "c0ffee", "epoch": 3, "step": 30, "seconds": 60},
            **{"device": "CPU", "versions": {"torch": "2"}, "settings": {}},
        },
    ).save(folder)
    (folder / "metrics.json").write_text("{}")
    (folder / "curves.png").write_bytes(b"png")
    for name in ("training_state/optimizer.bin", "optimizer.pt", "answers.json", "talk.mp4", ".hidden", "notes.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private")
    return folder


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- what is published ---------------------------------------------------------------------------------------------


def test_a_checkpoint_goes_into_one_commit_and_nothing_else_does(hub, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert push_checkpoint(folder, NAME) == f"{hub.endpoint}/{NAME}"
    assert hub.commits(NAME) == COMMITS
    assert not hub.is_private(NAME)
    files = hub.files(NAME)
    assert files.keys() == PUBLISHED
    for name in PUBLISHED - {"README.md", "config.json", RECORD, *ENDPOINT}:
        assert files[name] == before[folder / name], name
    assert f'pipeline("video-grounding", model="{NAME}"' in files["README.md"].decode()
    assert json.loads(files["config.json"]) == json.loads((folder / "config.json").read_text())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_repository_is_updated(hub, folder):
    hub.add_repo(NAME, {"notes.txt": b"theirs", "old_r2tuning.py": b"", "model-00001-of-00002.safetensors": b"1"})
    push_checkpoint(folder, NAME)
    assert hub.files(NAME).keys() == {*PUBLISHED, "notes.txt"}
    push_checkpoint(folder, NAME)
    assert hub.commits(NAME) == COMMITS  # nothing has changed
    (folder / "curves.png").unlink()
    edit_json(folder / "results.json", scores={"MR-full-mAP": 48.86})
    push_checkpoint(folder, NAME)
    assert hub.commits(NAME) == [*COMMITS, COMMITS[1]]
    assert hub.files(NAME).keys() == {*PUBLISHED, "notes.txt"} - {"curves.png"}
    card = hub.files(NAME)["README.md"].decode()
    assert "48.86" in card
    assert "curves" not in card


def test_results_are_added_to_a_card_written_by_the_user(hub, folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine\n")
    push_checkpoint(folder, NAME)
    card = hub.files(NAME)["README.md"].decode()
    assert card.startswith("---\nlicense: mit\n")
    assert "\n---\nMine\n\n<!-- r2tuning: begin results -->\n## Results\n" in card
    assert "67.74" in card
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine, again\n")
    push_checkpoint(folder, NAME)  # nobody has edited it on the Hub
    assert "---\nMine, again\n" in hub.files(NAME)["README.md"].decode()


# ---- what others do on the Hub is kept ------------------------------------------------------------------------------


def edit_on_hub(name, change):
    api = huggingface_hub.HfApi()
    old = Path(api.hf_hub_download(NAME, name)).read_bytes()
    api.upload_file(path_or_fileobj=change(old), path_in_repo=name, repo_id=NAME)


def add_on_hub(name, content):
    huggingface_hub.HfApi().upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=NAME)


def test_a_card_edited_on_the_hub_keeps_its_text(hub, folder, caplog):
    caplog.set_level("INFO")
    push_checkpoint(folder, NAME)

    def edit(card):
        card = card.replace(b"license: cc-by-nc-sa-4.0", b"license: mit\ncontact: me  # on weekdays")
        card = card.replace(b"tags:\n", b"tags:\n- mine\n").replace(b"## Use", b"Beware of the dog.\r\n\r\n## Use")
        return (
            card.replace(b"<!-- r2tuning: begin use", b"Here I am.\r\n\r\n<!-- r2tuning: begin use") + b"\nThe end.\n"
        )

    edit_on_hub("README.md", edit)
    edit_json(folder / "results.json", scores={"MR-full-mAP": 48.86})
    for _ in range(2):
        push_checkpoint(folder, NAME)
        card = hub.files(NAME)["README.md"].decode()
        for kept in ("license: mit", "contact: me  # on weekdays", "- mine", "Here I am.\r\n", "\nThe end.\n"):
            assert card.count(kept) == 1
        assert "Beware of the dog" not in card  # it was inside a generated part
        assert ("48.86" in card, "47.86" in card, "67.74" in card) == (True, False, False)
        assert [result.metric_value for result in ModelCard(card).data.eval_results] == [48.86]
        assert card.count("r2tuning: begin results -->") == 1
    assert "README.md was edited on the Hub: its text is kept" in caplog.text
    assert hub.commits(NAME)[-1] == COMMITS[1]
    assert len(hub.commits(NAME)) == 4  # the second push changed nothing
    assert not (folder / "README.md").exists()


def test_an_earlier_card_keeps_its_text(hub, folder):
    hub.add_repo(NAME, {"README.md": b"# A title\n\nWords.\n"})
    push_checkpoint(folder, NAME)
    card = hub.files(NAME)["README.md"].decode()
    assert "\n# A title\n\nWords.\n\n<!-- r2tuning: begin results -->\n" in card
    assert ModelCard(card).data.library_name == "transformers"


def test_a_card_that_is_not_text_is_not_changed(hub, folder, caplog):
    hub.add_repo(NAME, {"README.md": b"caf\xe9"})
    push_checkpoint(folder, NAME)
    push_checkpoint(folder, NAME)
    assert hub.files(NAME)["README.md"] == b"caf\xe9"
    assert "README.md on the Hub is not UTF-8 text" in caplog.text


def test_files_of_others_are_never_deleted_or_replaced(hub, folder, caplog):
    (folder / "LICENSE").write_text("ours")
    push_checkpoint(folder, NAME)
    assert hub.files(NAME)["LICENSE"] == b"ours"
    theirs = {"LICENSE": b"theirs", "notes_r2tuning.py": b"", "model.onnx": b"1", "model-q4.safetensors": b"2"}
    for name, content in theirs.items():
        add_on_hub(name, content)
    edit_on_hub("curves.png", lambda old: b"nicer")
    (folder / "curves.png").unlink()
    (folder / "metrics.json").unlink()
    for _ in range(2):
        push_checkpoint(folder, NAME)
        files = hub.files(NAME)
        assert {name: files[name] for name in theirs} == theirs
        assert files["curves.png"] == b"nicer"
        assert "metrics.json" not in files  # ours, and as we wrote it
    assert "LICENSE was written or edited on the Hub and is kept as it is there" in caplog.text
    (folder / "LICENSE").unlink()
    push_checkpoint(folder, NAME)
    assert hub.files(NAME)["LICENSE"] == b"theirs"


def test_a_license_added_on_the_hub_is_kept(hub, folder):
    push_checkpoint(folder, NAME)
    add_on_hub("LICENSE", b"theirs")
    push_checkpoint(folder, NAME)
    assert hub.files(NAME)["LICENSE"] == b"theirs"


def test_without_a_record_only_code_and_weights_are_removed(hub, folder):
    """Published by an earlier version, or by somebody else."""
    weights = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}"}
    others = {"LICENSE": b"theirs", "curves.png": b"theirs", "metrics.txt": b""}
    hub.add_repo(NAME, {"old_r2tuning.py": b"", **weights, **others})
    push_checkpoint(folder, NAME)
    assert hub.files(NAME).keys() == {*PUBLISHED, *others}
    hub.add_repo(NAME, {**weights, RECORD: b"no list"})
    push_checkpoint(folder, NAME)
    assert hub.files(NAME).keys() == {*PUBLISHED, *weights}


def test_an_edit_between_reading_and_writing_is_not_lost(hub, folder, monkeypatch, caplog):
    push_checkpoint(folder, NAME)
    edit_json(folder / "results.json", scores={"MR-full-mAP": 48.86})
    commit, edits = huggingface_hub.HfApi.create_commit, ["Now"]

    def edit_first(self, *arguments, **options):
        if edits:
            text = edits.pop().encode()
            edit_on_hub("README.md", lambda card: card + text)
        return commit(self, *arguments, **options)

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", edit_first)
    push_checkpoint(folder, NAME)
    card = hub.files(NAME)["README.md"].decode()
    assert card.endswith("Now")
    assert "48.86" in card
    assert "A commit has happened since" in caplog.text


def test_the_command_asks_no_questions(hub, folder, monkeypatch, capsys):
    """Neither for a token nor for trust in the code, be it the checkpoint's or that on the Hub."""

    def ask(*_):
        raise AssertionError("a question")

    for name in ("builtins.input", "getpass.getpass"):
        monkeypatch.setattr(name, ask)
    for _ in range(2):
        assert main(["push", str(folder), NAME]) == 0
        edit_on_hub("README.md", lambda card: card + b"more")
    for token in ("", "hf_wrong", READ_TOKEN):
        monkeypatch.setenv("HF_TOKEN", token)
        assert main(["push", str(folder), NAME]) == 2
    assert "Traceback" not in capsys.readouterr().err


# ---- CLIP ----------------------------------------------------------------------------------------------------------


def test_a_local_clip_needs_a_name_on_the_hub(hub, make_model, clip_folder, tmp_path):
    save_ours(make_model(), tmp_path / "ours")
    with pytest.raises(ValueError, match=f"fetches its backbone from '{clip_folder}', where nobody else can find it"):
        push_checkpoint(tmp_path / "ours", NAME)
    push_checkpoint(tmp_path / "ours", NAME, backbone="org/clip")
    files = hub.files(NAME)
    assert json.loads(files["config.json"])["backbone_name_or_path"] == "org/clip"
    assert "\nbase_model: org/clip\n" in files["README.md"].decode()
    assert json.loads((tmp_path / "ours/config.json").read_text())["backbone_name_or_path"] == str(clip_folder)


def test_a_checkpoint_with_clip_refers_to_no_other(hub, folder, clip_folder):
    edit_json(folder / "config.json", backbone_name_or_path=str(clip_folder))
    push_checkpoint(folder, NAME)
    assert json.loads(hub.files(NAME)["config.json"])["backbone_name_or_path"] is None
    assert "base_model" not in hub.files(NAME)["README.md"].decode()
    with pytest.raises(ValueError, match="`backbone` must be left out"):
        push_checkpoint(folder, NAME, backbone="org/clip")


# ---- loaded in another process -------------------------------------------------------------------------------------

# The code blocks of the card follow.
WITHOUT_PACKAGE = """
    import json, sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name == "modeling_r2tuning":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Refuse())
    from transformers import AutoModel

    def outcome(name, **options):
        try:
            return type(AutoModel.from_pretrained(name, **options)).__module__.split(".")[0]
        except (OSError, ValueError) as error:
            return str(error)

    seen = {
        "untrusted": outcome(NAME),
        "missing": outcome("org/none", trust_remote_code=True),
        "anonymous": outcome(NAME, trust_remote_code=True, token=False),
        "reader": outcome(NAME, trust_remote_code=True, token=READ_TOKEN),
    }
"""
PRINT = """
    seen |= {"pipeline": answer["saliency"], "parts": answers[0]["saliency"]}
    print()  # transformers has asked a question
    print(json.dumps(seen))
"""
WITH_PACKAGE = """
    import modeling_r2tuning
    from transformers import AutoModel, AutoProcessor, pipeline

    grounder = pipeline("video-grounding", model=NAME)
    model, processor = AutoModel.from_pretrained(NAME), AutoProcessor.from_pretrained(NAME)
    trusted = AutoModel.from_pretrained(NAME, trust_remote_code=True)
    assert {type(part).__module__.split(".")[0] for part in (grounder, model, processor, trusted)} == {"modeling_r2tuning"}
    print(grounder("talk.mp4", query="a man in a red shirt opens the door")["saliency"])
"""


def run(code, hub, folder, **values):
    """Run code in `folder` with our packages on the path; return the JSON of the last line that it prints."""
    root = str(Path(__file__).parents[2])
    constants = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    result = run_python(
        constants + textwrap.dedent(code), {**hub.env(folder / "home"), "PYTHONPATH": root}, cwd=folder
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.integration
def test_a_private_checkpoint_loads_with_a_token_that_may_read_it(hub, folder, checkpoint, tmp_path):
    push_checkpoint(folder, NAME, private=True)
    assert hub.is_private(NAME)
    shutil.copy(checkpoint / "sample.mp4", tmp_path / "talk.mp4")
    card = hub.files(NAME)["README.md"].decode()
    blocks = [block.split("```")[0] for block in card.split("```python\n")[1:]]
    assert len(blocks) == 2
    code = "\n".join([textwrap.dedent(WITHOUT_PACKAGE), *blocks, textwrap.dedent(PRINT)])
    seen = run(code, hub, tmp_path, NAME=NAME, READ_TOKEN=READ_TOKEN)
    assert seen["reader"] == "transformers_modules"
    assert "trust_remote_code=True" in seen["untrusted"]
    assert "org/none is not a local folder" in seen["missing"]
    assert f"{NAME} is not a local folder" in seen["anonymous"]
    assert seen["parts"] == pytest.approx(seen["pipeline"], abs=1e-6)
    assert run(WITH_PACKAGE, hub, tmp_path, NAME=NAME) == pytest.approx(seen["pipeline"], abs=1e-6)


# ---- refused -------------------------------------------------------------------------------------------------------


def test_private_refuses_a_public_repository(hub, folder):
    hub.add_repo(NAME, {})
    with pytest.raises(PermissionError, match=f"'{NAME}' exists and is public"):
        push_checkpoint(folder, NAME, private=True)
    assert hub.commits(NAME) == ["initial commit"]


def test_a_token_that_may_write_is_needed(hub, folder, monkeypatch):
    hub.add_repo(NAME, {})
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(PermissionError, match="may not write there.* finish with `r2tuning push .*best org/"):
        push_checkpoint(folder, NAME)
    assert hub.commits(NAME) == ["initial commit"]
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="There is no token for the Hugging Face Hub"):
        push_checkpoint(folder, NAME)


@pytest.mark.parametrize("name", ["r2tuning-qvhl", "a/b/c", "org/", "org/two words", "org/-name"])
def test_invalid_repository_names_are_refused(hub, folder, name):
    with pytest.raises(ValueError, match="must be 'organisation/name'|epo id|repo_name"):
        push_checkpoint(folder, name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "There is no folder"),
        (lambda folder: (folder / "config.json").unlink(), "holds no model"),
        (lambda folder: edit_json(folder / "config.json", model_type="clip"), "holds a model of type 'clip'"),
        (lambda folder: edit_json(folder / "config.json", custom_pipelines={}), "lacks `custom_pipelines`"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors. Write it with"),
        (lambda folder: (folder / "pipeline_r2tuning.py").unlink(), "lacks pipeline_r2tuning.py"),
        (lambda folder: (folder / "processor_config.json").unlink(), "lacks processor_config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "model.safetensors' is not a complete"),
        (
            lambda folder: (folder / "processor_config.json").write_text("{"),
            "processor_config.json' is not valid JSON",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "tokenizer.json' holds no JSON object"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json' holds no JSON object"),
        (lambda folder: (folder / "README.md").write_bytes(b"\xe9"), "README.md' is not UTF-8 text"),
        (lambda folder: (folder / "results.json").write_text("[1"), "results.json' is not valid JSON"),
        (lambda folder: (folder / "results.json").write_text('{"score": 1}'), "does not hold results"),
    ],
)
def test_incomplete_or_damaged_checkpoints_are_refused(hub, folder, damage, message):
    damage(folder)
    with pytest.raises((OSError, ValueError), match=message):
        push_checkpoint(folder, NAME)
    assert not hub._repos


def test_a_run_is_not_a_checkpoint(hub, folder):
    with pytest.raises(ValueError, match=f"push one of its models, such as '{folder}'"):
        push_checkpoint(folder.parent, NAME)


# ---- interrupted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/repos/create", None),  # closes the connection
        ("POST", "/api/repos/create", 503),
        ("POST", "/commit/", None),
        ("POST", "/commit/", 500),
        ("PUT", "/lfs/objects/", 403),  # the address has expired
    ],
)
def test_transient_failures_are_retried(hub, folder, caplog, method, path, status):
    hub.fail_next(method, path, status, times=3)
    push_checkpoint(folder, NAME)
    assert caplog.text.count("trying again") == 3
    assert hub.commits(NAME) == COMMITS
    assert hub.files(NAME).keys() == PUBLISHED


@pytest.mark.parametrize(("path", "status"), [("/api/repos/create", 404), ("/commit/", 403), ("/commit/", 400)])
def test_refusals_are_not_retried(hub, folder, caplog, path, status):
    hub.fail_next("POST", path, status)
    with pytest.raises(OSError, match="finish with"):
        push_checkpoint(folder, NAME)
    assert "trying again" not in caplog.text
    push_checkpoint(folder, NAME)


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/commit/", 502), ("PUT", "/lfs/objects/", 400)])
def test_the_command_in_the_error_message_completes_the_push(hub, folder, capsys, method, path, status):
    hub.fail_next(method, path, status, times=4)
    with pytest.raises(ConnectionError, match="The test ordered this failure.* is unharmed; finish with") as raised:
        push_checkpoint(folder, NAME, private=True)
    assert hub.commits(NAME) == ["initial commit"]
    capsys.readouterr()
    command = shlex.split(str(raised.value).split("`")[1])
    assert command[0] == "r2tuning"
    assert main(command[1:]) == 0
    assert capsys.readouterr().out == f"{hub.endpoint}/{NAME}\n"
    assert hub.commits(NAME) == COMMITS
    assert hub.files(NAME).keys() == PUBLISHED
    assert hub.is_private(NAME)


def test_an_unreachable_hub_is_reported(hub, folder, caplog):
    hub.stop()
    with pytest.raises(ConnectionError, match="finish with `r2tuning push"):
        push_checkpoint(folder, NAME)
    assert caplog.text.count("trying again") == 3


# ---- the command ---------------------------------------------------------------------------------------------------


def test_command_pushes(hub, make_model, tiny_clip, tmp_path, capsys):
    save_clip(tiny_clip, tmp_path / "clip")
    save_ours(make_model(backbone_name_or_path=str(tmp_path / "clip")), tmp_path / "ours")
    capsys.readouterr()  # progress bars
    assert main(["push", str(tmp_path / "ours"), NAME]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("r2tuning: error: The checkpoint in ")
    assert main(["push", str(tmp_path / "ours"), NAME, "--private", "--backbone", "org/clip"]) == 0
    assert capsys.readouterr() == (f"{hub.endpoint}/{NAME}\n", "")
    assert hub.is_private(NAME)


def test_command_reports_every_attempt(hub, folder, capsys):
    hub.fail_next("POST", "/commit/", 500, times=4)
    assert main(["push", str(folder), NAME]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("r2tuning: warning: the Hub failed (") for line in lines[:3])
    assert lines[3].startswith("r2tuning: error: Publishing failed: ")
