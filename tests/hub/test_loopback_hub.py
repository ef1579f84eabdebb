"""The real Hub client against `LoopbackHub`, our imitation of the Hub: what other tests rely on."""

import json

import pytest
from loopback_hub import READ_TOKEN, LoopbackHub, run_python


WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def hub():
    with LoopbackHub() as running:
        yield running


def run_checked(code, env, **kwargs):
    """Run `code`, which must succeed, and return the JSON it prints last."""
    finished = run_python(code, env, **kwargs)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_upload_and_download_keep_every_byte(hub, tmp_path):
    folder = tmp_path / "upload"
    (folder / "weights").mkdir(parents=True)
    (folder / "config.json").write_text('{"size": 1}')
    (folder / "weights" / "model.safetensors").write_bytes(WEIGHTS)
    seen = run_checked(
        f"""
        import json
        from pathlib import Path
        from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download

        api, repo_id = HfApi(), "org/model"
        api.create_repo(repo_id)
        api.create_repo(repo_id, exist_ok=True)
        pushed = api.upload_folder(repo_id=repo_id, folder_path={str(folder)!r}, commit_message="Add the model")
        paths = [hf_hub_download(repo_id, name) for name in ("config.json", "weights/model.safetensors")]
        snapshot = Path(snapshot_download(repo_id, revision=pushed.oid, local_dir="copy"))
        with HfFileSystem().open(f"{{repo_id}}/weights/model.safetensors", block_size=50) as remote:
            remote.seek(100)
            part = remote.read(3)
        print(json.dumps({{
            "user": api.whoami()["name"],
            "downloaded": [Path(path).read_bytes().hex() for path in paths],
            "snapshot": (snapshot / "weights" / "model.safetensors").read_bytes().hex(),
            "part": list(part),
            "files": api.list_repo_files(repo_id),
            "tree": [entry.path for entry in api.list_repo_tree(repo_id, expand=True)],
            "info_is_of_the_commit": api.model_info(repo_id).sha == pushed.oid,
            "heads": [ref.target_commit == pushed.oid for ref in api.list_repo_refs(repo_id).branches],
        }}))
        """,
        hub.env(tmp_path / "home"),
        cwd=tmp_path,
    )
    assert seen == {
        "user": "tester",
        "downloaded": [b'{"size": 1}'.hex(), WEIGHTS.hex()],
        "snapshot": WEIGHTS.hex(),
        "part": [100, 101, 102],
        "files": ["config.json", "weights/model.safetensors"],
        "tree": ["config.json", "weights"],
        "info_is_of_the_commit": True,
        "heads": [True],
    }
    assert hub.files("org/model") == {"config.json": b'{"size": 1}', "weights/model.safetensors": WEIGHTS}
    assert hub.commits("org/model") == ["initial commit", "Add the model"]


def test_cards_datasets_and_deletions(hub, tmp_path):
    source = tmp_path / "train.jsonl"
    source.write_bytes(b"{}\n")
    hub.add_repo("org/data", {"data/train.jsonl": source, "data/test.jsonl": b"", "notes.txt": b""}, "dataset")
    hub.add_repo("org/model", {"config.json": b"{}"})
    seen = run_checked(
        """
        import json
        from huggingface_hub import HfApi, ModelCard

        api = HfApi()
        api.delete_file("notes.txt", "org/data", repo_type="dataset")
        api.delete_folder("data", "org/data", repo_type="dataset")
        api.create_repo("org/space", repo_type="space", space_sdk="static", private=True)
        ModelCard("---\\nlicense: mit\\npipeline_tag: video-classification\\n---\\nHello").push_to_hub("org/model")
        print(json.dumps({
            "license": ModelCard.load("org/model").data.license,
            "pipeline_tag": api.model_info("org/model").pipeline_tag,
            "dataset": api.dataset_info("org/data").id,
            "private": api.space_info("org/space").private,
        }))
        """,
        hub.env(tmp_path / "home"),
    )
    assert seen == {
        "license": "mit",
        "pipeline_tag": "video-classification",
        "dataset": "org/data",
        "private": True,
    }
    assert hub.files("org/data", "dataset") == {}
    assert hub.files("org/model")["README.md"].endswith(b"Hello")


ATTEMPTS = """
    import json
    from huggingface_hub import HfApi, errors

    api = HfApi()
    attempts = {
        "whoami": lambda: api.whoami(),
        "missing repository": lambda: api.hf_hub_download("org/none", "config.json"),
        "missing file": lambda: api.hf_hub_download("org/open", "none.json"),
        "missing revision": lambda: api.hf_hub_download("org/open", "config.json", revision="none"),
        "missing folder": lambda: list(api.list_repo_tree("org/open", "none")),
        "gated": lambda: api.hf_hub_download("org/gated", "config.json"),
        "private": lambda: api.hf_hub_download("org/private", "config.json") and None,
        "create": lambda: api.create_repo("org/new"),
        "upload": lambda: api.upload_file(path_or_fileobj=b"1", path_in_repo="new.txt", repo_id="org/open"),
    }

    def outcome(attempt):
        try:
            attempt()
        except errors.HfHubHTTPError as error:
            return [type(error).__name__, error.response.status_code]
        except errors.LocalTokenNotFoundError:
            return "no token"

    print(json.dumps({name: outcome(attempt) for name, attempt in attempts.items()}))
"""
MISSING = {
    "missing file": ["RemoteEntryNotFoundError", 404],
    "missing revision": ["RevisionNotFoundError", 404],
    "missing folder": ["RemoteEntryNotFoundError", 404],
}


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (
            READ_TOKEN,
            {
                "whoami": None,
                "missing repository": ["RepositoryNotFoundError", 404],
                "gated": ["GatedRepoError", 403],
                "private": None,
                "create": ["HfHubHTTPError", 403],
                "upload": ["HfHubHTTPError", 403],
            },
        ),
        (
            "",
            {
                "whoami": "no token",
                "missing repository": ["RepositoryNotFoundError", 401],
                "gated": ["GatedRepoError", 401],
                "private": ["RepositoryNotFoundError", 401],
                "create": ["HfHubHTTPError", 401],
                "upload": ["RepositoryNotFoundError", 401],
            },
        ),
    ],
    ids=["read-only", "anonymous"],
)
def test_refusals(hub, tmp_path, token, expected):
    hub.add_repo("org/open", {"config.json": b"{}"})
    hub.add_repo("org/gated", {"config.json": b"{}"}, gated=True)
    hub.add_repo("org/private", {"config.json": b"{}"}, private=True)
    assert run_checked(ATTEMPTS, {**hub.env(tmp_path), "HF_TOKEN": token}) == {**MISSING, **expected}
    assert hub.commits("org/open") == ["initial commit"]


def test_ordered_failures_affect_the_next_requests_only(hub, tmp_path):
    hub.add_repo("org/model", {})
    hub.fail_next("PUT", "org/model.git", 403)
    hub.fail_next("POST", "/commit/", 500, times=2)
    outcomes = run_checked(
        f"""
        import json
        from huggingface_hub import HfApi, errors

        def upload():
            try:
                HfApi().upload_file(path_or_fileobj={WEIGHTS!r}, path_in_repo="a.safetensors", repo_id="org/model")
            except errors.HfHubHTTPError as error:
                return error.response.status_code
            except RuntimeError as error:  # how the client reports an LFS upload
                return ["RuntimeError", error.__cause__.response.status_code]

        print(json.dumps([upload() for _ in range(4)]))
        """,
        hub.env(tmp_path),
    )
    assert outcomes == [["RuntimeError", 403], 500, 500, None]
    assert hub.files("org/model") == {"a.safetensors": WEIGHTS}


def test_a_transformers_model_comes_back_equal(hub, tmp_path):
    seen = run_checked(
        """
        import json
        import torch
        from transformers import CLIPConfig, CLIPModel

        tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        image = {"image_size": 32, "patch_size": 16}
        model = CLIPModel(CLIPConfig(text_config={**tower, "vocab_size": 50}, vision_config={**tower, **image}))
        model.push_to_hub("org/clip")
        loaded = CLIPModel.from_pretrained("org/clip").state_dict()
        unequal = [name for name, value in model.state_dict().items() if not torch.equal(value, loaded[name])]
        try:
            CLIPModel.from_pretrained("org/none")
        except OSError as error:
            print(json.dumps({"unequal": unequal, "message": str(error)}))
        """,
        hub.env(tmp_path),
    )
    assert seen["unequal"] == []
    assert "org/none is not a local folder" in seen["message"]
    assert sorted(hub.files("org/clip")) == ["README.md", "config.json", "model.safetensors"]
