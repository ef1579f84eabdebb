"""Training on a user's own table: rows from videos or from a cache, and what a run and its card record."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from tiny_checkpoints import save_clip
from training_samples import MODEL, as_arguments
from video_samples import write_video

from r2tuning.features.cache import FeatureCache, recorded_lengths
from r2tuning.features.run import main as extract
from r2tuning.training.config import read_config
from r2tuning.training.data import GroundingData
from r2tuning.training.hub import command_line
from r2tuning.training.preparation import _check_settings, _count_missing, load_rows


NAMES = ["a", "日本語 #1", "b", "gone"]
TABLE = "video,query,start,end,split\n" + "".join(
    f"{name},a dog,1,4.5,{split}\n" for name, split in zip(NAMES, ["train", "train", "val", "val"], strict=True)
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A table, videos, and options that train on them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my.csv").write_text(TABLE, encoding="utf-8")
    (folder / "clips").mkdir()
    for name in NAMES[:3]:
        write_video(folder / f"clips/{name}.mp4", count=26, rate=5)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory, tiny_clip):
    return save_clip(tiny_clip, tmp_path_factory.mktemp("clip"))


def settings(own, **changes):
    options = {
        "benchmark": "custom",
        "data-file": own / "my.csv",
        "video-dir": own / "clips",
        "output-dir": own / "run",
        "missing-videos": "skip",
        "model": json.dumps(MODEL),
    }
    return read_config(as_arguments(options, **changes))


def extract_to(own, output, clip, *options):
    words = ["--benchmark", "custom", "--data-file", own / "my.csv", "--video-dir", own / "clips"]
    words += ["--missing-videos", "skip", "--backbone", clip, "--output", output, *options]
    assert extract([str(word) for word in words]) == 0


def test_rows_of_both_splits(own):
    config = settings(own)
    rows = load_rows(config)
    assert {split: [row["video_id"] for row in rows[split]] for split in rows} == {"train": NAMES[:2], "val": ["b"]}
    assert _count_missing(config, rows) == 1
    assert _count_missing(replace(config, missing_videos="error"), rows) == 0
    with pytest.raises(FileNotFoundError, match="'gone': there is no such file"):
        load_rows(replace(config, missing_videos="error"))


def test_a_file_of_its_own_for_the_evaluation(own, tmp_path):
    (tmp_path / "val.csv").write_text("video,query,start,end\nb,a dog,1,2\n")
    (tmp_path / "train.csv").write_text("video,query,start,end\na,a dog,1,2\n")
    config = settings(own, data_file=tmp_path / "train.csv", val_file=tmp_path / "val.csv")
    rows = load_rows(config)
    assert {split: [row["video_id"] for row in rows[split]] for split in rows} == {"train": ["a"], "val": ["b"]}
    alone = settings(own, data_file=tmp_path / "train.csv", eval_split="none")
    assert [row["video_id"] for row in load_rows(alone)["train"]] == ["a"]


def test_lengths_are_those_that_the_cache_recorded(own, tmp_path, clip):
    extract_to(own, tmp_path / "cache", clip, "--num-layers", "3")
    lengths = FeatureCache(tmp_path / "cache").lengths()
    assert lengths == {"a": 5.2, "b": 5.2, NAMES[1]: 5.2}
    assert recorded_lengths("tacos", tmp_path / "cache") is None
    from_videos = settings(own)
    from_cache = replace(from_videos, video_dir=None, features=str(tmp_path / "cache"))
    expected = load_rows(from_videos)
    loaded = load_rows(from_cache)
    for split, rows in loaded.items():
        assert rows == [{**row, "video": None} for row in expected[split]]
    assert _count_missing(from_cache, loaded) == 1


def test_frames_that_were_kept_are_found_by_their_ids(own, tmp_path, clip):
    extract_to(own, tmp_path / "frames", clip, "--store", "frames")
    config = settings(own, video_dir=tmp_path / "frames/videos")
    assert [row["video_id"] for row in load_rows(config)["train"]] == NAMES[:2]


def test_frames_that_end_before_a_moment_are_an_error(own, processor):
    """Loading compares moments with the files; a cache may have been made of other files."""
    [row, _] = load_rows(settings(own))["train"]
    data = GroundingData([row], processor, benchmark="custom")
    assert data[0]["moments"].tolist() == [[1.0, 4.5]]
    video = ("pixel_values_videos", torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"'a' has frames for 2 s, but qid a-\w+ has the moment \[1, 4.5\]"):
        data._label(row, video)
    assert GroundingData([row], processor, benchmark="qvhighlights")._label(row, video) is not None


def test_a_run_records_no_paths(own):
    line = command_line(settings(own, val_file=own / "my.csv"))
    assert "--data-file DATA_FILE --val-file VAL_FILE" in line
    assert str(own) not in line
    line = command_line(settings(own, data_file="hf://datasets/org/mine"))
    assert "--data-file hf://datasets/org/mine" in line


def test_a_run_resumes_with_a_table_elsewhere_but_not_with_another_split(own):
    config = settings(own)
    before = {**asdict(config), "data_file": "elsewhere.csv"}
    _check_settings(before, config)
    with pytest.raises(ValueError, match="`val_file` was null, now is"):
        _check_settings(before, replace(config, val_file="val.csv"))


def test_single_files_of_another_benchmark(tmp_path):
    for split in ("train", "val"):
        line = {"qid": 1, "query": split, "vid": "a", "duration": 10, "relevant_windows": [[2, 4]]}
        (tmp_path / f"{split}_lines").write_text(json.dumps(line) + "\n")
    options = {"benchmark": "qvhighlights", "data-file": tmp_path / "train_lines", "features": "x", "output-dir": "y"}
    rows = load_rows(read_config(as_arguments(options, val_file=tmp_path / "val_lines")))
    assert {split: [row["query"] for row in rows[split]] for split in rows} == {"train": ["train"], "val": ["val"]}
    with pytest.raises(ValueError, match="must name a file for the split 'val'"):
        load_rows(read_config(as_arguments(options)))
