"""Parquet exports: equal row by row through plain `load_dataset`, honest cards, licences respected, pushed whole."""

import os
import re
import shlex
import shutil
import textwrap

import huggingface_hub
import pytest
import retrieval_samples
from annotation_samples import SPLITS, write_benchmark
from datasets import load_dataset
from fresh_python import run_fresh
from loopback_hub import LoopbackHub, constants, run_python

from dataset_scripts import load_vtg_dataset
from r2tuning.hub import dataset_export as export
from r2tuning.hub.model_card import read_facts


PUSH = """
    import sys
    from r2tuning_cli.main import main
    print("status", main(["export-dataset", NAME, OUT, "--data-dir", DATA, "--push", REPO, *OPTIONS]))
"""
LOAD = """
    from datasets import load_dataset
    print(load_dataset(REPO, split="val")["query"])
    print([row["query"] for row in load_dataset(REPO, split="val", streaming=True)])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """For each benchmark its annotations and the exported folder."""
    folders = {}
    for name in SPLITS:
        root = tmp_path_factory.mktemp(name)
        data_dir = write_benchmark(name, root / "data")
        folders[name] = data_dir, export.export_dataset(name, root / "out", data_dir=data_dir)
    return folders


@pytest.mark.parametrize("name", SPLITS)
def test_equal_row_by_row(exported, name, tmp_path):
    data_dir, folder = exported[name]
    for split, expected in load_vtg_dataset(name, data_dir=data_dir).items():
        loaded = load_dataset(str(folder), split=split, cache_dir=tmp_path)
        assert loaded.features == expected.features
        assert list(loaded) == list(expected)
        assert list(load_dataset(str(folder), split=split, streaming=True)) == list(expected)


@pytest.mark.parametrize("name", ["youtube_highlights", "tvsum"])
def test_every_domain_is_a_configuration(exported, name, tmp_path):
    data_dir, folder = exported[name]
    domains = set(load_vtg_dataset(name, split="val", data_dir=data_dir)["domain"])
    assert len(domains) == 2
    for domain in domains:
        expected = load_vtg_dataset(name, split="val", data_dir=data_dir, domain=domain)
        loaded = load_dataset(str(folder), domain, split="val", cache_dir=tmp_path)
        assert list(loaded) == list(expected)


@pytest.mark.parametrize("name", SPLITS)
def test_card_has_licence_counts_and_changes(exported, name):
    data_dir, folder = exported[name]
    card = (folder / "README.md").read_text()
    facts = read_facts(name)
    assert facts["citation"] in card
    assert f"license: {facts['license']}" in card
    assert ("These annotations may not be redistributed" in card) == (not facts["redistributable"])
    for split, dataset in load_vtg_dataset(name, data_dir=data_dir).items():
        assert f"| {split} | {len(dataset):,} | {len(set(dataset['video_id'])):,} |" in card
        assert re.search(rf"^- {name}.* {split}: {len(dataset):,} examples read from", card, re.MULTILINE)
    assert str(data_dir) not in card, "the card would show where the files lay on the maker's machine"


@pytest.mark.parametrize("name", retrieval_samples.WRITERS)
def test_absent_queries_hidden_videos_and_domains_with_blanks_and_slashes_come_back(name, tmp_path):
    data_dir = retrieval_samples.write_benchmark(name, tmp_path / "data")
    folder = export.export_dataset(name, tmp_path / "out", data_dir=data_dir)
    config = None if name in ("qv_m2", "activitynet_captions") else "all"
    for split, expected in load_vtg_dataset(name, data_dir=data_dir).items():
        loaded = load_dataset(str(folder), config, split=split, cache_dir=tmp_path)
        assert loaded.features == expected.features
        assert list(loaded) == list(expected)
        assert list(load_dataset(str(folder), config, split=split, streaming=True)) == list(expected)


@pytest.mark.parametrize(
    ("name", "split", "configs"),
    [
        ("soccer_gmr", "val", {"corner kick": 3, "foul committed": 3}),
        ("tvr", "val", {"t": 2, "v": 2, "vt": 2}),
        ("vue_tr", "test", {"ultra-long": 1, "ultra-short": 1}),
        ("timelens_bench", "test", {"activitynet": 4, "charades": 4, "qvhighlights": 4}),
    ],
)
def test_a_configuration_has_the_rows_of_its_domains(name, split, configs, tmp_path):
    data_dir = retrieval_samples.write_benchmark(name, tmp_path / "data")
    folder = export.export_dataset(name, tmp_path / "out", data_dir=data_dir)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted([*configs, "all"])
    for config, num_rows in configs.items():
        loaded = load_dataset(str(folder), config, split=split, cache_dir=tmp_path)
        assert len(loaded) == num_rows
        assert {domain.partition("/")[0] for domain in loaded["domain"]} == {config}


@pytest.mark.parametrize(
    ("domain", "config"),
    [("a/b", "a"), ("a b", "a b"), ('a:*"b', "a___b"), ("../x", "_"), ("..", "_"), ("/x", "_"), ("all", "all_")],
)
def test_every_domain_has_a_configuration_with_a_safe_name(domain, config):
    assert export._config_name(domain) == config


def test_card_counts_queries_that_nothing_matches(exported, tmp_path):
    data_dir = retrieval_samples.write_benchmark("soccer_gmr", tmp_path / "data")
    card = (export.export_dataset("soccer_gmr", tmp_path / "out", data_dir=data_dir) / "README.md").read_text()
    assert "| split | queries | videos | moments | mean duration (s) | queries that nothing matches |" in card
    assert "| val | 6 | 2 | 6 | 20.0 | 2 |" in card
    tvr = retrieval_samples.write_benchmark("tvr", tmp_path / "tvr")
    card = (export.export_dataset("tvr", tmp_path / "tvr_out", data_dir=tvr) / "README.md").read_text()
    assert "| test | 6 | 0 | - | - |" in card
    assert "that nothing matches |" not in (exported["tacos"][1] / "README.md").read_text()


def test_code_of_the_card_runs(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    for name in ("qvhighlights", "tvsum"):
        folder = exported[name][1]
        code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
        scope = {}
        exec(code.replace(f'"{folder.name}"', repr(str(folder))), scope)
        assert len(scope["dataset"]) > 0


def test_a_folder_that_is_not_empty_stays_unchanged(exported, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        export.export_dataset("tacos", tmp_path, data_dir=exported["tacos"][0])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_failed_export_leaves_nothing(tmp_path):
    data_dir = write_benchmark("tacos", tmp_path / "data")
    (data_dir / "val.json").write_text("{")
    with pytest.raises(ValueError, match=r"val\.json"):
        export.export_dataset("tacos", tmp_path / "out", data_dir=data_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def push(hub, home, name, data_dir, out, repo, *options):
    values = {"NAME": name, "OUT": str(out), "DATA": str(data_dir), "REPO": repo, "OPTIONS": list(options)}
    return run_python(constants(**values) + textwrap.dedent(PUSH), hub.env(home))


@pytest.fixture
def hub():
    with LoopbackHub() as server:
        yield server


@pytest.mark.integration
def test_push_and_load_by_name(hub, exported, tmp_path):
    data_dir, _ = exported["qvhighlights"]
    result = push(hub, tmp_path, "qvhighlights", data_dir, tmp_path / "out", "org/qvhighlights")
    assert "status 0" in result.stdout, result.stderr
    expected = load_vtg_dataset("qvhighlights", split="val", data_dir=data_dir)["query"]
    code = constants(REPO="org/qvhighlights") + textwrap.dedent(LOAD)
    loaded = run_python(code, hub.env(tmp_path / "other"))
    assert loaded.stdout.count(expected[0]) == 2, loaded.stderr


@pytest.mark.integration
def test_licence_is_respected(hub, exported, tmp_path):
    data_dir, _ = exported["charades_sta"]
    refused = push(hub, tmp_path, "charades_sta", data_dir, tmp_path / "out", "org/charades")
    assert "status 2" in refused.stdout
    assert "may not be redistributed" in refused.stderr
    assert not (tmp_path / "out").exists(), "refused before the work"
    private = push(hub, tmp_path, "charades_sta", data_dir, tmp_path / "private", "org/charades", "--private")
    assert "status 0" in private.stdout, private.stderr
    public = push(hub, tmp_path, "charades_sta", data_dir, tmp_path / "public", "org/mine", "--publish-anyway")
    assert "status 0" in public.stdout, public.stderr
    existing = push(hub, tmp_path, "charades_sta", data_dir, tmp_path / "existing", "org/mine", "--private")
    assert "status 2" in existing.stdout, "org/mine exists and is public, whatever --private says"
    assert "may not be redistributed" in existing.stderr


@pytest.mark.integration
def test_failed_upload_keeps_the_folder(hub, exported, tmp_path):
    environment = {**hub.env(tmp_path), "HF_TOKEN": "hf_wrong"}
    values = {"NAME": "qvhighlights", "OUT": str(tmp_path / "out"), "DATA": str(exported["qvhighlights"][0])}
    code = constants(**values, REPO="org/qvh", OPTIONS=[]) + textwrap.dedent(PUSH)
    result = run_python(code, environment)
    assert "status 2" in result.stdout
    assert (tmp_path / "out/README.md").exists()
    command = shlex.split(result.stderr.splitlines()[-1].split("`")[1])
    assert run_fresh(command[1:], {**os.environ, **hub.env(tmp_path)}).returncode == 0
    assert "README.md" in hub.files("org/qvh", "dataset")


def test_changes_of_others_in_the_repository_are_kept(hub, exported, tmp_path, monkeypatch):
    """An edited card and added files are kept; only files of an earlier push are deleted."""
    hub.connect(monkeypatch, tmp_path)
    monkeypatch.setattr("builtins.input", None)
    folder = shutil.copytree(exported["qvhighlights"][1], tmp_path / "out")
    shutil.copytree(folder / "default", folder / "extra")
    export.push_dataset("qvhighlights", folder, "org/qvh")
    assert len(hub.commits("org/qvh", "dataset")) == 2
    card = hub.files("org/qvh", "dataset")["README.md"].decode()
    assert card == (folder / "README.md").read_text()
    edited = card.replace("license: cc-by-nc-sa-4.0", "license: mit").replace("## Counts", "42") + "\nMine.\n"
    for name, content in {"README.md": edited.encode(), "LICENSE": b"theirs", "extra/more.parquet": b"1"}.items():
        options = {"path_in_repo": name, "repo_id": "org/qvh", "repo_type": "dataset"}
        huggingface_hub.HfApi().upload_file(path_or_fileobj=content, **options)
    shutil.rmtree(folder / "extra")
    for _ in range(2):
        export.push_dataset("qvhighlights", folder, "org/qvh")
        files = hub.files("org/qvh", "dataset")
        assert files["README.md"].decode() == card.replace("license: cc-by-nc-sa-4.0", "license: mit") + "\nMine.\n"
        assert files["LICENSE"] == b"theirs"
        assert [name for name in files if name.startswith("extra")] == ["extra/more.parquet"]
    assert len(hub.commits("org/qvh", "dataset")) == 6
