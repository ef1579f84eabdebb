"""Feature extraction as users run it: resuming after a kill, corrupt files, several processes, storing frames."""

import os
import sys
import threading
import time
from pathlib import Path

import annotation_samples
import numpy as np
import pytest
import torch
from fresh_python import FreshPython, quick_spawn
from tiny_checkpoints import save_clip, save_ours
from transformers import CLIPModel
from video_samples import truncate, write_video

from dataset_scripts import load_vtg_dataset
from modeling_r2tuning import R2TuningProcessor
from modeling_r2tuning.processing_r2tuning import FrameStream
from r2tuning.features.cache import FeatureCache
from r2tuning.features.files import query_path
from r2tuning.features.jobs import VideoJob, plan_jobs
from r2tuning.features.run import main
from r2tuning.features.settings import ONE_PER_UNIT
from r2tuning.features.store import FeatureStore, fit_length
from r2tuning_cli.programs import make_script_parser


SCRIPT = Path(__file__).parents[2] / "train/run_feature_extraction.py"
NUM_LAYERS, FPS = 3, 5.0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small QVHighlights: annotations and videos."""
    place = tmp_path_factory.mktemp("extraction")
    annotation_samples.write_benchmark("qvhighlights", place / "annotations")
    annotation_samples.write_videos("qvhighlights", place / "videos")
    return place


@pytest.fixture(scope="module")
def clip(place, tiny_clip):
    return save_clip(tiny_clip, place / "clip")


@pytest.fixture
def options(place, clip):
    """Make the command's arguments; `None` leaves one out."""

    def make(output, **changes):
        chosen = {
            "benchmark": "qvhighlights",
            "data_dir": place / "annotations",
            "video_dir": place / "videos",
            "backbone": clip,
            "num_layers": NUM_LAYERS,
            "fps": FPS,
            "output": output,
            **changes,
        }
        pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in chosen.items() if value is not None]
        return [word for pair in pairs for word in pair]

    return make


@pytest.fixture
def run(options, capsys):
    """Run the command in this process; returns status, stdout and stderr."""

    def run(output, **changes):
        capsys.readouterr()
        status = main(options(output, **changes))
        return (status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def complete(place, clip):
    """The cache that an uninterrupted run of two processes makes; tests must not change it."""
    output = place / "complete"
    arguments = ["--data-dir", place / "annotations", "--video-dir", place / "videos", "--backbone", clip]
    arguments += ["--num-layers", NUM_LAYERS, "--fps", FPS, "--output", output, "--num-processes", 2]
    with quick_spawn():
        assert main(["--benchmark", "qvhighlights", *map(str, arguments)]) == 0
    return output


@pytest.fixture
def copy(complete, tmp_path):
    """A copy of that cache."""
    for source in complete.rglob("*"):
        if source.is_file():
            target = tmp_path / "copy" / source.relative_to(complete)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def rows(place):
    dataset = load_vtg_dataset("qvhighlights", data_dir=place / "annotations", video_dir=place / "videos")
    return [row for split in dataset.values() for row in split]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- features ------------------------------------------------------------------------------------------------------


def test_every_video_and_query_has_its_file(complete, rows):
    cache = FeatureCache(complete, fps=FPS)
    for row in rows:
        assert len(cache.video(row["video_id"])) == row["duration_sec"] * FPS
        assert cache.query(row["qid"], row["query"]).shape[1:] == (NUM_LAYERS, 48)
    assert len(contents(complete)) == 2 * len(rows) + 1


def test_features_and_pixels_give_the_same_outputs(complete, clip, rows, tiny_model):
    """Up to rounding to half precision, 11 bits."""
    processor = R2TuningProcessor.from_pretrained(save_ours(tiny_model, clip.parent / "checkpoint", fps=FPS))
    cache = FeatureCache(complete, model=tiny_model, fps=processor.fps)
    for row in rows[:4]:
        inputs = processor(row["video"]["path"], row["query"])
        video, text = cache.video(row["video_id"])[None], cache.query(row["qid"], row["query"])[None]
        with torch.no_grad():
            expected = tiny_model.get_video_hidden_states(inputs["pixel_values_videos"])
            assert torch.equal(video, expected.half())
            assert torch.equal(text, tiny_model.get_text_hidden_states(inputs["input_ids"]).half())
            from_pixels = tiny_model(**inputs)
            from_cache = tiny_model(video_hidden_states=video, text_hidden_states=text)
        for name in ("logits", "boundary_offsets", "saliency_scores"):
            torch.testing.assert_close(from_cache[name], from_pixels[name], rtol=2e-3, atol=2e-3)


def test_a_checkpoint_determines_clip_k_and_the_frame_rate(run, clip, make_model, tmp_path):
    model = make_model(num_recurrent_steps=2, save_backbone=True, backbone_name_or_path=None, fps=1.0)
    checkpoint = save_ours(model, tmp_path / "checkpoint", fps=1.0)
    source = {"backbone": None, "model": checkpoint, "split": "val"}
    status, _, stderr = run(tmp_path / "cache", **source)
    assert status == 2
    assert "leave `--fps` and `--num-layers` out" in stderr
    assert run(tmp_path / "cache", **source, fps=None, num_layers=None)[0] == 0
    cache = FeatureCache(tmp_path / "cache", model=model, fps=1.0)
    assert cache.video("val_Vid-0_60.0_76.0").shape == (16, 2, 5, 64)


def test_a_checkpoint_of_another_method_is_refused(run, make_model, tmp_path):
    """It reads other states of CLIP, which no other model could use."""
    model = make_model(method="none", num_recurrent_steps=1, save_backbone=True, backbone_name_or_path=None)
    source = {"backbone": None, "model": save_ours(model, tmp_path / "checkpoint"), "split": "val"}
    status, _, stderr = run(tmp_path / "cache", **source, fps=None, num_layers=None)
    assert status == 2
    assert "`--model` must be a checkpoint of the method 'r2_tuning', got 'none'" in stderr


@pytest.mark.parametrize(("method", "steps", "read"), [("none", 1, [2]), ("losa", 3, [0, 1, 2]), ("lst", 3, [0, 2])])
def test_a_method_gets_the_cached_layers_that_it_reads(complete, make_model, method, steps, read):
    model = make_model(method=method, num_recurrent_steps=steps)
    name = "val_Vid-0_60.0_76.0"
    states = FeatureCache(complete).video(name)
    assert states.shape[1] == 3
    assert torch.equal(FeatureCache(complete, model=model).video(name), states[:, read])


def test_bfloat16_is_close_but_makes_a_different_cache(run, complete, copy, tmp_path):
    name = "val_Vid-0_60.0_76.0"
    assert run(tmp_path / "cache", split="val", dtype="bfloat16")[0] == 0
    ours, exact = (FeatureCache(folder).video(name).float() for folder in (tmp_path / "cache", complete))
    assert 0 < (ours - exact).norm() / exact.norm() < 0.02
    status, _, stderr = run(copy, split="val", dtype="bfloat16")
    assert status == 2
    assert '`dtype` is "float32" there, "bfloat16" is needed' in stderr


def test_int8_is_close_but_makes_a_different_cache(run, complete, copy, tmp_path):
    pytest.importorskip("torchao", reason="int8 needs torchao")
    name = "val_Vid-0_60.0_76.0"
    assert run(tmp_path / "cache", split="val", dtype="int8")[0] == 0
    ours, exact = (FeatureCache(folder).video(name).float() for folder in (tmp_path / "cache", complete))
    assert 0 < (ours - exact).norm() / exact.norm() < 0.02
    status, _, stderr = run(copy, split="val", dtype="int8")
    assert status == 2
    assert '`dtype` is "float32" there, "int8" is needed' in stderr


@pytest.mark.parametrize(("device", "message"), [("cuda", "`--dtype` int8 needs `--device` cpu"), ("cpu", "torchao")])
def test_int8_that_cannot_be_used_is_refused_at_the_start(run, tmp_path, monkeypatch, device, message):
    monkeypatch.setattr("r2tuning.features.run.choose_device", lambda name: torch.device(device))
    monkeypatch.setitem(sys.modules, "torchao", None)
    status, _, stderr = run(tmp_path / "cache", dtype="int8")
    assert status == 2
    assert message in stderr
    assert not (tmp_path / "cache").exists()


def test_youtube_highlights_has_one_frame_for_each_annotated_clip(run, tmp_path):
    name = "youtube_highlights"
    annotations = annotation_samples.write_benchmark(name, tmp_path / "annotations")
    videos = annotation_samples.write_videos(name, tmp_path / "videos")
    write_video(videos / "dog-clip0.mp4", count=260, rate=25)  # longer than annotated: 200
    write_video(videos / "dog-clip1.mp4", count=200, rate=25)  # shorter: 250
    paths = {"benchmark": name, "data_dir": annotations, "video_dir": videos}
    status, _, stderr = run(tmp_path / "cache", **paths)
    assert status == 2
    assert "leave `--fps` out" in stderr
    assert run(tmp_path / "cache", **paths, fps=None)[0] == 0
    cache = FeatureCache(tmp_path / "cache")
    assert cache.settings["fps"] == ONE_PER_UNIT
    for split in load_vtg_dataset(name, data_dir=annotations).values():
        for row in split:
            assert len(cache.video(row["video_id"])) == len(row["saliency"]["scores"])


@pytest.mark.parametrize("num_frames", [1, 31, 40, 41, 150])
def test_a_video_is_fitted_to_a_number_of_frames(num_frames):
    pieces = [np.arange(32), np.arange(32, 40)]
    fitted = np.concatenate(list(fit_length(iter(pieces), num_frames)))
    assert fitted.tolist() == [min(frame, 39) for frame in range(num_frames)]


def test_truncated_queries_are_counted(run, complete, caplog):
    assert run(complete)[0] == 0
    assert "13 of 13 queries are longer than 16 tokens and truncated" in caplog.text


def test_one_qid_in_two_splits_is_two_jobs(rows):
    one, other = rows[0], {**rows[1], "qid": rows[0]["qid"]}
    jobs = plan_jobs([one, other, one], 0.5, with_queries=True)
    assert [(job.kind, job.id) for job in jobs] == [
        ("queries", one["qid"]),
        ("queries", one["qid"]),
        ("videos", one["video_id"]),
        ("videos", other["video_id"]),
    ]
    assert len({query_path(Path(), job.id, job.text) for job in jobs if job.kind == "queries"}) == 2


def test_a_video_annotated_in_two_domains_is_refused(rows):
    clips = {"times_sec": [[0.0, 2.0]] * 3, "scores": [[1.0]] * 3}
    one = {**rows[0], "task": ["highlight_detection"], "saliency": clips}
    other = {**one, "saliency": {name: values[:2] for name, values in clips.items()}}
    assert len(plan_jobs([one, one], ONE_PER_UNIT, with_queries=False)) == 1
    with pytest.raises(ValueError, match="annotated twice"):
        plan_jobs([one, other], ONE_PER_UNIT, with_queries=False)


# ---- interrupted, corrupt, refused ---------------------------------------------------------------------------------


# Runs a script whose processes are forked from a server that has imported the extraction.
RUN_SCRIPT = """
import multiprocessing, runpy, sys
from fresh_python import quick_spawn

del sys.argv[0]
multiprocessing.get_context("forkserver").set_forkserver_preload(["r2tuning.features.run"])
with quick_spawn():
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.integration
def test_a_killed_extraction_is_completed_exactly(options, run, complete, tmp_path):
    """Killed while two processes work, completed by one, and compared with an uninterrupted run of two."""
    output, count = tmp_path / "cache", len(contents(complete))
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}  # where Python looks when it is given the script
    process = FreshPython(["-c", RUN_SCRIPT, SCRIPT, *options(output, num_processes=2)], environment, tmp_path)
    wait_until(lambda: len(list(output.glob("videos/*.safetensors"))) >= 2 or process.poll() is not None)
    workers = started_processes(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_running, workers)))
    before = contents(output)
    assert 3 <= len(before) < count
    expected = contents(complete)
    assert all(expected[path] == data for path, data in before.items() if path.parts[0] != "partial")
    status, stdout, _ = run(output)
    assert status == 0
    assert "corrupt" not in stdout
    assert contents(output) == expected


def started_processes(process):
    """Processes that `process` and those that it started have started, on systems that report them."""
    path = Path(f"/proc/{process}/task/{process}/children")
    started = path.read_text().split() if path.exists() else []
    for child in list(started):
        started += started_processes(child)
    return started


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout_sec=90):
    deadline = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.integration
def test_a_ray_cluster_that_loses_a_machine_makes_the_same_files(run, place, complete, tmp_path, monkeypatch):
    """Of two machines with a process each, one is lost in the middle; paths are relative to the working directory."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    machine = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=machine)
    lost = cluster.add_node(**machine)
    monkeypatch.chdir(tmp_path)
    output = Path("cache")

    def lose():
        wait_until(lambda: len(list(output.glob("videos/*.safetensors"))) >= 3)
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        arguments = {"video_dir": os.path.relpath(place / "videos"), "executor": "ray", "num_processes": 2}
        status, stdout, stderr = run(output, ray_address=cluster.address, **arguments)
    finally:
        thread.join()
        cluster.shutdown()
    assert status == 0
    assert "videos: 13 extracted" in stdout
    assert "queries: 13 extracted, 0 were complete, 0 failed" in stdout
    assert "raylet" not in stdout + stderr
    assert contents(output) == contents(complete)


def test_corrupt_files_are_reported_and_extracted_again(run, complete, copy, caplog):
    videos = sorted(copy.glob("videos/*"))
    query = sorted(copy.glob("queries/*"))[0]
    videos[0].write_bytes(b"")
    videos[1].write_bytes(b"garbage" * 999)
    truncate(videos[2], 0.5)
    for path in (videos[3], query):
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    untouched = {path: path.stat().st_mtime_ns for path in videos[4:]}
    status, stdout, _ = run(copy)
    assert status == 0
    assert "videos: 4 extracted (350 frames), 9 were complete, 0 failed; 4 were corrupt or outdated" in stdout
    assert "queries: 1 extracted, 12 were complete, 0 failed; 1 were corrupt or outdated" in stdout
    for path in (*videos[:4], query):
        assert f"{path}' is corrupt" in caplog.text
    assert contents(copy) == contents(complete)
    assert untouched == {path: path.stat().st_mtime_ns for path in untouched}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 1}, "`fps` is 5.0 there, 1.0 is needed"),
        ({"num_layers": 2}, "`num_layers` is 3 there, 2 is needed"),
        ({"store": "frames"}, '`store` is "features" there, "frames" is needed'),
        ({"num_layers": 4}, "`--num-layers` must not exceed the number of layers"),
    ],
)
def test_other_settings_are_refused(run, copy, changes, message):
    before = contents(copy)
    status, _, stderr = run(copy, **changes)
    assert status == 2
    assert message in " ".join(stderr.split())
    assert contents(copy) == before


def test_other_weights_are_refused(run, copy, tiny_clip_config, tmp_path):
    other = save_clip(CLIPModel(tiny_clip_config), tmp_path / "other")
    status, _, stderr = run(copy, backbone=other)
    assert status == 2
    assert "`clip_weights` is" in stderr


def test_a_broken_video_does_not_stop_the_others(run, place, clip, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in (place / "videos").iterdir():
        (videos / path.name).symlink_to(path)
    broken = videos / "val_Vid-1_60.0_78.0.mp4"
    broken.unlink()
    broken.write_bytes(b"no video")
    status, stdout, _ = run(tmp_path / "cache", video_dir=videos, split="val")
    assert status == 1
    assert "videos: 3 extracted (260 frames), 0 were complete, 1 failed" in stdout
    assert f"failed: val_Vid-1_60.0_78.0: `video` '{broken}' cannot be read as a video" in stdout
    with pytest.raises(FileNotFoundError):
        FeatureCache(tmp_path / "cache").video("val_Vid-1_60.0_78.0")
    broken.unlink()
    broken.symlink_to(place / "videos" / broken.name)
    status, stdout, _ = run(tmp_path / "cache", video_dir=videos, split="val")
    assert status == 0
    assert "videos: 1 extracted (90 frames), 3 were complete, 0 failed" in stdout


def test_a_replaced_video_is_extracted_again(run, place, complete, copy, caplog, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in (place / "videos").iterdir():
        (videos / path.name).symlink_to(path)
    replaced = videos / "test_Vid-0_60.0_76.0.mp4"
    replaced.unlink()
    write_video(replaced, count=250, rate=25)
    status, stdout, _ = run(copy, video_dir=videos)
    assert status == 0
    assert "videos: 1 extracted (50 frames), 12 were complete" in stdout
    assert "was made from something else: ['source_bytes'] changed" in caplog.text
    assert len(FeatureCache(copy).video(replaced.stem)) == 50


def test_features_that_are_not_finite_are_not_written(run, tiny_clip, tmp_path):
    sound = tiny_clip.vision_model.pre_layrnorm.bias.detach().clone()
    try:
        with torch.no_grad():
            tiny_clip.vision_model.pre_layrnorm.bias[0] = 1e6
        clip = save_clip(tiny_clip, tmp_path / "clip")
    finally:
        with torch.no_grad():
            tiny_clip.vision_model.pre_layrnorm.bias.copy_(sound)
    status, stdout, _ = run(tmp_path / "cache", backbone=clip, split="val")
    assert status == 1
    assert "failed: val_Vid-0_60.0_76.0: its features are too large for half precision" in stdout
    assert not list((tmp_path / "cache").glob("videos/*"))


def test_a_video_that_ends_early_is_not_written(tiny_model, processor, tmp_path):
    store = FeatureStore(tmp_path, tiny_model, processor, {})
    stream = FrameStream(iter([]), num_frames=5, fps=1.0, duration_sec=5.0)
    with pytest.raises(ValueError, match="only 3 of its 5 frames could be read"):
        list(store.write(VideoJob("short", "short.mp4", 1.0, 30, False), iter([stream, torch.zeros(3, 3, 64, 64)])))
    assert not list(tmp_path.iterdir())


def test_a_distributed_launcher_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, stderr = run(tmp_path / "cache")
    assert status == 2
    assert "`--num-processes` starts the others" in stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray_address": "10.0.0.1:6379"}, "`--ray-address` needs `--executor` ray"),
        ({"executor": "ray", "device": "cuda:1"}, "`--executor` ray needs `--device` cpu or cuda, got 'cuda:1'"),
        ({"executor": "ray", "ray_address": "127.0.0.1:1"}, "No Ray cluster answers at `--ray-address` '127.0.0.1:1'"),
        ({"executor": "ray", "dtype": "int8"}, "`--dtype` int8 needs `--device` cpu"),
    ],
)
def test_options_of_ray_that_cannot_be_used_are_refused(run, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    status, _, stderr = run(tmp_path / "cache", **changes)
    assert status == 2
    assert message in stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": "missing"}, "`--data-dir` must be a folder, but there is none at 'missing'"),
        ({"video_dir": "missing"}, "`--video-dir` must be a folder, but there is none at 'missing'"),
        ({"backbone": "missing"}, "`--backbone` must be a folder, or a name on the Hub such as"),
        ({"model": "./missing", "backbone": None, "fps": None, "num_layers": None}, "there is no folder './missing'"),
        (
            {"model": "yeliudev/R2-Tuning/tvsum", "backbone": None, "fps": None, "num_layers": None},
            "tvsum has one model for each domain",
        ),
        (
            {"model": "original.pth", "backbone": None, "fps": None, "num_layers": None},
            "convert a .pth file to a folder",
        ),
        ({"device": "cuda:99"}, "`--device` 'cuda:99' cannot be used"),
        ({"domain": "dog"}, "leave out `--domain`"),
    ],
)
def test_missing_inputs_are_reported_in_one_line(run, tmp_path, changes, message, monkeypatch):
    """Before anything is downloaded."""

    def fetch(*arguments, **options):
        raise AssertionError("CLIP was fetched")

    monkeypatch.setattr("r2tuning.features.run.check_model_type", fetch)
    status, _, stderr = run(tmp_path / "cache", **changes)
    assert status == 2
    assert message in stderr.splitlines()[-1]
    assert not (tmp_path / "cache").exists()


def test_a_missing_video_is_left_out_by_the_option_that_the_message_names(run, place, tmp_path):
    (tmp_path / "videos").mkdir()
    _, _, stderr = run(tmp_path / "cache", video_dir=tmp_path / "videos")
    assert "or pass `--missing-videos skip`" in stderr.splitlines()[-1]


def test_every_option_is_explained():
    actions = make_script_parser("extract", SCRIPT.name)._actions
    assert all(action.help for action in actions)


@pytest.mark.parametrize(
    "option", ["--fps=0", "--fps=nan", "--num-layers=0", "--num-processes=x", "--store=pixels", "--ray-address=head"]
)
def test_a_bad_option_is_refused(option, options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*options(tmp_path), option])
    assert option.split("=")[0] in capsys.readouterr().err


# ---- frames --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(place, clip):
    """The small videos that an uninterrupted run makes; tests must not change them."""
    output = place / "frames"
    arguments = ["--data-dir", place / "annotations", "--video-dir", place / "videos", "--backbone", clip]
    arguments += ["--store", "frames", "--output", output]
    with quick_spawn():
        assert main(["--benchmark", "qvhighlights", *map(str, arguments)]) == 0
    return output


def test_small_videos_replace_the_original_ones(frames, place, processor, rows):
    """They hold the same frames at the same times, hence the same pixels."""
    dataset = load_vtg_dataset("qvhighlights", data_dir=place / "annotations", video_dir=frames / "videos")
    small = [row for split in dataset.values() for row in split]
    assert [row["qid"] for row in small] == [row["qid"] for row in rows]
    for row, stand_in in zip(rows, small, strict=True):
        expected, found = (processor(each["video"]["path"], fps=0.5) for each in (row, stand_in))
        assert torch.equal(found["pixel_values_videos"], expected["pixel_values_videos"])
        assert torch.equal(found["fps"], expected["fps"])


@pytest.mark.parametrize("fps", [0.875, 1 / 3, 0.59318, 29.97])
def test_any_frame_rate_is_preserved(run, tmp_path, processor, place, fps):
    name = "val_Vid-0_60.0_76.0.mp4"
    assert run(tmp_path / "frames", store="frames", fps=fps, split="val")[0] == 0
    paths = (place / "videos" / name, tmp_path / "frames/videos" / name)
    source, small = (processor.stream_video(path, fps=fps) for path in paths)
    assert small.num_frames == source.num_frames
    assert small.duration_sec == pytest.approx(source.num_frames / fps)
    assert torch.equal(torch.cat(list(small)), torch.cat(list(source)))


def test_features_of_small_videos_equal_those_of_the_original_ones(run, frames, place, tmp_path):
    for name, video_dir in (("small", frames / "videos"), ("large", place / "videos")):
        assert run(tmp_path / name, video_dir=video_dir, fps=None, split="val")[0] == 0
    small, large = FeatureCache(tmp_path / "small"), FeatureCache(tmp_path / "large")
    for path in (tmp_path / "large/videos").iterdir():
        assert torch.equal(small.video(path.stem), large.video(path.stem))


def test_corrupt_small_videos_are_made_again(run, frames, tmp_path, caplog):
    output = tmp_path / "frames"
    settings = {"store": "frames", "fps": None}
    assert run(output, **settings)[0] == 0
    assert contents(output) == contents(frames)
    paths = sorted(output.glob("videos/*.mp4"))
    truncate(paths[0], 0.5)
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2] ^= 1
    paths[1].write_bytes(data)
    record = output / "records" / f"{paths[2].stem}.json"
    record.unlink()
    status, stdout, _ = run(output, **settings)
    assert status == 0
    assert "videos: 3 extracted (27 frames), 10 were complete, 0 failed; 3 were corrupt or outdated" in stdout
    assert all(f"{path}' is corrupt" in caplog.text for path in paths[:3])
    assert contents(output) == contents(frames)


def test_a_frame_store_is_not_a_feature_cache(frames):
    with pytest.raises(ValueError, match='`store` is "frames" there, "features" is needed'):
        FeatureCache(frames)
