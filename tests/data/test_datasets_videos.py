"""Videos of a benchmark: finding files, missing files, and reading their lengths."""

import json
import logging
import os

import annotation_samples as samples
import pytest
import video_samples

from dataset_scripts import AnnotationError, load_vtg_dataset
from dataset_scripts.videos import CONTAINERS, VideoFolder, index_videos, probe_video


def touch(folder, *names):
    """Write empty files, since only their names matter."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def video_names(name, container="mp4"):
    suffix = samples.VIDEO_SUFFIX.get(name, "")
    return [f"{video_id}{suffix}.{container}" for video_id in samples.video_durations(name)]


# ---- finding ----


def test_every_container_is_found_at_any_depth_in_any_case(tmp_path):
    names = [f"{'a/' * (number % 3)}video{number}.{ending}" for number, ending in enumerate(CONTAINERS)]
    touch(tmp_path, *names, "LOUD.MP4", "no_ending", "notes.txt", ".mp4", "dots.in.name_10.0_20.0.mkv", "features.npy")
    index = index_videos(tmp_path)
    assert index.pop("LOUD") == str(tmp_path / "LOUD.MP4")
    assert index.pop("dots.in.name_10.0_20.0") == str(tmp_path / "dots.in.name_10.0_20.0.mkv")
    assert index == {f"video{number}": str(tmp_path / name) for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["v.mkv", "v.mp4", "v.avi"], "v.mp4"),
        (["v.mkv", "a/b/v.mp4"], "a/b/v.mp4"),
        (["a/b/v.mp4", "z/v.mp4"], "z/v.mp4"),
        (["b/v.mp4", "a/v.mp4"], "a/v.mp4"),
    ],
)
def test_the_choice_among_several_files_is_deterministic(tmp_path, names, taken):
    assert index_videos(touch(tmp_path, *names)) == {"v": str(tmp_path / taken)}


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/v.mp4", "videos/w.mp4")
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "videos", target_is_directory=True)
    assert set(index_videos(tmp_path / "videos")) == {"v", "w"}


def test_a_file_with_the_benchmark_suffix_is_preferred(tmp_path):
    videos = VideoFolder(touch(tmp_path, "s1-cam-002.avi", "s1.mp4", "s2.avi"), "-cam-002")
    assert videos.find("s1") == str(tmp_path / "s1-cam-002.avi")
    assert videos.find("s2") == str(tmp_path / "s2.avi")
    assert videos.find("s3") is None
    assert videos.find("s3") is None
    assert videos.missing == {"s3": 2}


@pytest.mark.parametrize("name", samples.FORMS)
def test_column_holds_the_path_and_nothing_is_decoded(tmp_path, monkeypatch, name):
    folder = samples.write_benchmark(name, tmp_path / "annotations")
    touch(tmp_path / "videos", *(f"part/{file}" for file in video_names(name, "MKV")))
    monkeypatch.chdir(tmp_path)
    for streaming in (False, True):
        loaded = load_vtg_dataset(name, data_dir=folder, video_dir="videos", streaming=streaming)
        for dataset in loaded.values():
            for row in dataset:
                file = f"{row['video_id']}{samples.VIDEO_SUFFIX.get(name, '')}.MKV"
                assert row["video"] == {"bytes": None, "path": str(tmp_path / "videos" / "part" / file)}
                assert os.path.isfile(row["video"]["path"])


def test_a_missing_folder_is_an_error(tmp_path):
    folder = samples.write_tacos(tmp_path)
    with pytest.raises(FileNotFoundError, match="`video_dir` '.*nowhere' is not a folder"):
        load_vtg_dataset("tacos", data_dir=folder, video_dir=tmp_path / "nowhere")


# ---- missing videos ----


@pytest.mark.parametrize("name", samples.FORMS)
def test_missing_videos_are_reported_by_number_and_example(tmp_path, name):
    folder = samples.write_benchmark(name, tmp_path / "annotations")
    split = samples.SPLITS[name][0]
    ids = list(dict.fromkeys(load_vtg_dataset(name, split=split, data_dir=folder)["video_id"]))
    suffix = samples.VIDEO_SUFFIX.get(name, "")
    videos = touch(tmp_path / "videos", f"{ids[0]}{suffix}.mp4")
    with pytest.raises(FileNotFoundError) as error:
        load_vtg_dataset(name, split=split, data_dir=folder, video_dir=videos)
    message = str(error.value)
    assert message.startswith(f"{len(ids) - 1} annotated videos have no file in '{videos}'")
    assert sum(f"'{video_id}{suffix}'" in message for video_id in ids) == min(len(ids) - 1, 3)
    assert 'missing_videos="skip"' in message


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_videos_are_left_out_and_counted(tmp_path, caplog, streaming):
    caplog.set_level(logging.INFO)
    folder = samples.write_tacos(tmp_path / "annotations")
    videos = touch(tmp_path / "videos", "s11-train-cam-002.avi")
    options = {"split": "train", "data_dir": folder, "video_dir": videos, "missing_videos": "skip"}
    rows = list(load_vtg_dataset("tacos", streaming=streaming, **options))
    assert [row["video_id"] for row in rows] == ["s11-train"] * 2
    assert caplog.messages[-1].endswith("; 4 examples of 2 missing videos dropped")
    assert caplog.records[-1].levelno == logging.WARNING


def test_streaming_yields_nothing_after_the_first_missing_video(tmp_path):
    folder = samples.write_tacos(tmp_path / "annotations")
    videos = touch(tmp_path / "videos", "s10-train.mp4", "s12-train.mp4")
    rows = []
    with pytest.raises(FileNotFoundError, match="1 annotated videos"):  # noqa: PT012 - the rows before it count
        for row in load_vtg_dataset("tacos", split="train", data_dir=folder, video_dir=videos, streaming=True):
            rows.append(row["video_id"])
    assert rows == ["s10-train"] * 2


def test_an_empty_video_folder_is_an_error(tmp_path):
    folder = samples.write_tacos(tmp_path / "annotations")
    options = {"split": "train", "data_dir": folder, "video_dir": touch(tmp_path / "videos", "x.mp4")}
    with pytest.raises(ValueError, match="6 examples of 3 missing videos dropped; expected at least one example"):
        load_vtg_dataset("tacos", missing_videos="skip", **options)


def test_a_changed_folder_is_read_again(tmp_path):
    folder = samples.write_tacos(tmp_path / "annotations")
    videos = touch(tmp_path / "videos", *video_names("tacos"))
    load_vtg_dataset("tacos", split="train", data_dir=folder, video_dir=videos)
    (videos / "s10-train-cam-002.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="1 annotated videos"):
        load_vtg_dataset("tacos", split="train", data_dir=folder, video_dir=videos)


# ---- what the files say ----


@pytest.mark.parametrize(
    ("container", "options"),
    [("mp4", {}), ("mkv", {}), ("mkv", {"container_options": {"live": "1"}}), ("ts", {}), ("avi", {"codec": "mpeg4"})],
    ids=["mp4", "mkv", "mkv without a length", "ts", "avi"],
)
def test_length_of_a_video(tmp_path, container, options):
    path = video_samples.write_video(tmp_path / f"v.{container}", count=60, rate=20, **options)
    facts = probe_video(str(path))
    assert facts.duration_sec == pytest.approx(3.0)
    assert facts.fps == pytest.approx(20)
    assert facts.num_frames == 60


def test_real_videos_have_their_documented_lengths(shared_data):
    facts = {path.name: probe_video(str(path)) for path in (shared_data / "videos").glob("*.m*")}
    assert facts["charades.mp4"].duration_sec == pytest.approx(30.70, abs=0.01)
    assert facts["charades.mp4"].num_frames == 460
    assert facts["av1_video.mkv"].duration_sec == pytest.approx(5.0)
    assert facts["four_scenes_60s.mp4"].duration_sec == pytest.approx(60.0)
    assert facts["nasa_vfr.mp4"].num_frames == 225


@pytest.mark.parametrize("content", [b"", b"no video", b"RIFF"])
def test_unreadable_video(tmp_path, content):
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"v\.mp4: found a file that cannot be read as a video"):
        probe_video(str(tmp_path / "v.mp4"))


def test_a_file_without_a_video_stream_is_an_error(tmp_path):
    path = video_samples.write_audio(tmp_path / "v.mp4")
    with pytest.raises(AnnotationError, match=r"v\.mp4: found a file that has no video stream"):
        probe_video(str(path))


@pytest.fixture
def charades(tmp_path):
    """Annotations without a table of durations, and videos."""
    folder = samples.write_charades_sta(tmp_path / "annotations", durations=False)
    return folder, samples.write_videos("charades_sta", tmp_path / "videos", "mkv")


def test_durations_of_charades_come_from_the_videos(charades):
    folder, videos = charades
    dataset = load_vtg_dataset("charades_sta", split="train", data_dir=folder, video_dir=videos)
    assert dataset["duration_sec"][:] == pytest.approx([10.5, 10.5, 11.5, 11.5, 12.5, 12.5], abs=0.05)


def test_the_table_of_charades_is_preferred_to_the_videos(charades):
    folder, videos = charades
    samples.write_text(folder / "Charades_v1_train.csv", "id,length\nTRA00,7.25\n")
    dataset = load_vtg_dataset("charades_sta", split="train", data_dir=folder, video_dir=videos)
    assert dataset["duration_sec"][:] == pytest.approx([7.25, 7.25, 11.5, 11.5, 12.5, 12.5], abs=0.05)


def test_a_broken_or_missing_video_without_a_duration(charades, caplog):
    folder, videos = charades
    (videos / "TRA00.mkv").unlink()
    options = {"split": "train", "data_dir": folder, "video_dir": videos}
    with pytest.raises(FileNotFoundError, match="1 annotated videos .* 'TRA00'"):
        load_vtg_dataset("charades_sta", **options)
    assert len(load_vtg_dataset("charades_sta", missing_videos="skip", **options)) == 4
    assert "2 examples of 1 missing videos dropped" in caplog.messages[-1]
    (videos / "TRA00.mkv").write_bytes(b"broken")
    with pytest.raises(AnnotationError, match=r"TRA00\.mkv: found a file that cannot be read as a video"):
        load_vtg_dataset("charades_sta", **options)
    assert len(load_vtg_dataset("charades_sta", on_error="skip", **options)) == 4


@pytest.fixture
def youtube_folders(tmp_path):
    folder = samples.write_youtube_highlights(tmp_path / "annotations", "folders")
    return folder, samples.write_videos("youtube_highlights", tmp_path / "videos")


def test_the_authors_folders_of_youtube_highlights_need_videos(youtube_folders):
    folder, videos = youtube_folders
    with pytest.raises(ValueError, match="have no frame rates; pass the folder of the videos as `video_dir`"):
        load_vtg_dataset("youtube_highlights", data_dir=folder, on_error="skip")
    dataset = load_vtg_dataset("youtube_highlights", split="val", data_dir=folder, video_dir=videos)
    assert dataset["duration_sec"][:] == pytest.approx([10.0, 10.0])
    streamed = load_vtg_dataset("youtube_highlights", split="val", data_dir=folder, video_dir=videos, streaming=True)
    assert list(streamed) == list(dataset)
    (videos / "dog-clip1.mp4").unlink()
    options = {"split": "val", "data_dir": folder, "video_dir": videos}
    with pytest.raises(FileNotFoundError, match="1 annotated videos"):
        load_vtg_dataset("youtube_highlights", **options)
    rest = load_vtg_dataset("youtube_highlights", missing_videos="skip", **options)
    assert rest["qid"][:] == ["surfing-clip1"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("match_label.json", [[[0, 50]]], r"match_label.json: found something else, expected a pair of lists"),
        ("match_label.json", [[[0, 50]], [1, 1]], r"match_label.json: `match` is \[1, 1\], expected one label"),
        ("info.json", {"title": "x"}, "`info` is .*, expected a list"),
        ("info.json", None, "dog-clip1: found no info.json"),
    ],
)
def test_bad_folder_of_youtube_highlights(youtube_folders, file, content, message):
    folder, videos = youtube_folders
    path = folder / "dog" / "dog-clip1" / file
    path.unlink() if content is None else path.write_text(json.dumps(content))
    options = {"split": "val", "data_dir": folder, "video_dir": videos}
    with pytest.raises(AnnotationError, match=message):
        load_vtg_dataset("youtube_highlights", **options)
    assert len(load_vtg_dataset("youtube_highlights", on_error="skip", **options)) == 1


def test_youtube_anno_is_preferred_to_the_authors_folders(youtube_folders):
    folder, _ = youtube_folders
    samples.write_youtube_highlights(folder, "anno")
    assert len(load_vtg_dataset("youtube_highlights", split="val", data_dir=folder)) == 2
