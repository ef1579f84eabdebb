"""A library is filled, updated and searched; its answers are those of the model on each video."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import torch
from model_checks import CLOSE
from tiny_checkpoints import save_ours
from video_samples import write_video

from modeling_r2tuning import EncodedVideo, R2TuningForVideoGrounding, R2TuningProcessor, VideoGroundingPipeline


pytest.importorskip("lancedb", reason='needs LanceDB: pip install "r2tuning[library]"')

from r2tuning.library import entries
from r2tuning.library.contents import LibraryContents
from r2tuning.library.library import Library


QUERIES = ["a b", "c"]
LENGTHS = {"short": 3, "middle": 12, "long": 60}  # frames at 5 per second, of which one in 5 is sampled


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def model_folder(folder, make_model):
    """Windows of 5 frames at one frame per second; with an existence head."""
    model = make_model(
        save_backbone=True, backbone_name_or_path=None, fps=1.0, window_sec=4.0, use_existence_head=True
    )
    return str(save_ours(model, folder / "model", fps=1.0))


@pytest.fixture(scope="module")
def model(model_folder):
    return R2TuningForVideoGrounding.from_pretrained(model_folder).eval()


@pytest.fixture(scope="module")
def own_processor(model_folder):
    return R2TuningProcessor.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def videos(folder):
    (folder / "videos").mkdir()
    for name, seconds in LENGTHS.items():
        write_video(folder / "videos" / f"{name}.mp4", count=5 * seconds, rate=5)
    return folder / "videos"


@pytest.fixture
def library(tmp_path, model, own_processor, videos):
    """With encoded copies."""
    library = Library.create(tmp_path / "lib", model, own_processor, keep_features=True)
    library.add([videos])
    return library


@pytest.fixture
def small_library(tmp_path, model, own_processor, videos):
    """Without encoded copies, so that a search decodes the windows again."""
    library = Library.create(tmp_path / "lib", model, own_processor)
    library.add([videos])
    return library


@pytest.fixture(params=["library", "small_library"], ids=["kept", "decoded again"])
def any_library(request):
    return request.getfixturevalue(request.param)


# ---- answers -----------------------------------------------------------------------------------------------------


def test_a_search_of_all_windows_answers_as_the_pipeline(any_library, model, own_processor, videos):
    """Every video's moments are those of the pipeline; a score is the probability, times the share of the best one's."""
    answers = any_library.search(QUERIES, top=1000, num_windows=1000)
    pipe = VideoGroundingPipeline(model=model, processor=own_processor)
    for query, answer in zip(QUERIES, answers, strict=True):
        assert (answer.query, answer.skipped, answer.missing) == (query, {}, [])
        assert [moment.score for moment in answer.moments] == sorted(
            (moment.score for moment in answer.moments), reverse=True
        )
        for name in LENGTHS:
            path = str(videos / f"{name}.mp4")
            want = pipe(path, query=query, max_moments=1000, min_probability=None)
            found = [moment for moment in answer.moments if moment.path == path]
            assert len(found) == len(want["moments"]) > 0
            best = want["moments"][0]["score"]
            # Encoded copies are in half precision.
            closeness = {"atol": 5e-3, "rtol": 5e-3} if any_library.settings.keep_features else CLOSE
            for moment, wanted in zip(found, want["moments"], strict=True):
                got = torch.tensor([moment.start, moment.end, moment.score, moment.probability])
                score = want["probability"] * wanted["score"] / best
                expected = torch.tensor([wanted["start"], wanted["end"], score, want["probability"]])
                torch.testing.assert_close(got, expected, **closeness)


def test_both_ways_to_read_windows_agree(tmp_path, model, own_processor, videos):
    answers = []
    for keep in (False, True):
        library = Library.create(tmp_path / str(keep), model, own_processor, keep_features=keep)
        library.add([videos])
        answers.append(library.search(QUERIES, top=5, num_windows=3))
    for decoded, kept in zip(*answers, strict=True):
        assert decoded.num_windows == kept.num_windows == 3
        assert [moment.path for moment in decoded.moments] == [moment.path for moment in kept.moments]
        for one, other in zip(decoded.moments, kept.moments, strict=True):
            assert (one.start, one.end, one.score) == pytest.approx((other.start, other.end, other.score), abs=5e-3)


def test_only_the_windows_found_are_read(library, monkeypatch):
    read = []
    load = EncodedVideo.load

    def spy(path, *args, windows, **kwargs):
        read.append(len(windows))
        return load(path, *args, windows=windows, **kwargs)

    monkeypatch.setattr(EncodedVideo, "load", spy)
    (answer,) = library.search("a", num_windows=4)
    assert sum(read) == answer.num_windows == 4


def test_several_queries_and_threads_get_the_answers_of_one(library):
    want = [library.search(query)[0].moments for query in QUERIES]
    assert [answer.moments for answer in library.search(QUERIES)] == want
    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(lambda _: library.search(QUERIES), range(12)):
            assert [answer.moments for answer in answers] == want


def test_top_and_probability_bound_an_answer(library):
    (everything,) = library.search("a", top=1000)
    (best,) = library.search("a", top=2)
    assert len(best.moments) == 2
    assert best.moments == everything.moments[:2]
    probabilities = sorted({moment.probability for moment in everything.moments})
    (likely,) = library.search("a", top=1000, min_probability=probabilities[-1])
    assert {moment.probability for moment in likely.moments} == {probabilities[-1]}


def test_path_and_date_select_videos(library, videos):
    date = datetime.now(UTC) - timedelta(days=300)
    os.utime(videos / "middle.mp4", (1e9, 1e9))  # 2001
    assert library.add([videos]).done["videos"] == 0  # its contents are the same, so only its time is recorded
    for options, names in [
        ({"path": "*/short.mp4"}, {"short"}),
        ({"path": "*/nothing"}, set()),
        ({"after": date}, {"short", "long"}),
        ({"before": date}, {"middle"}),
        ({"before": date, "path": "*/short.mp4"}, set()),
    ]:
        (answer,) = library.search("a", top=1000, num_windows=1000, **options)
        assert {os.path.basename(moment.path).removesuffix(".mp4") for moment in answer.moments} == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": []}, "queries"),
        ({"queries": ""}, "queries"),
        ({"queries": "a", "top": 0}, "`top` must be at least 1, got 0"),
        ({"queries": "a", "num_windows": 0}, "`num_windows` must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(library, options, message):
    with pytest.raises(ValueError, match=message):
        library.search(**options)


# ---- changes -----------------------------------------------------------------------------------------------------


def test_adding_again_changes_nothing(library, videos):
    before = library.videos()
    summary = library.add([videos, videos / "short.mp4"])
    assert (summary.complete["videos"], summary.done["videos"]) == (3, 0)
    assert library.videos() == before


def test_a_replaced_video_is_indexed_again(library, tmp_path):
    path = write_video(tmp_path / "new.mp4", count=20, rate=5)
    library.add([path])
    (old,) = [record for record in library.videos() if record.path == str(path)]
    write_video(path, count=40, rate=5)
    summary = library.add([path])
    assert summary.done["videos"] == 1
    (new,) = [record for record in library.videos() if record.path == str(path)]
    assert (old.id, old.num_frames, new.num_frames) == (new.id, 4, 8)
    assert old.entry != new.entry
    copies = {file.name for file in (library.folder / "features").iterdir()}
    assert copies == {entries.copy_path(library.folder, record.entry).name for record in library.videos()}
    (answer,) = library.search("a", top=1000, num_windows=1000, path=f"*{path.name}")
    assert max(moment.end for moment in answer.moments) > 4


def test_a_video_that_changes_while_it_is_indexed_is_not_added(library, tmp_path, monkeypatch):
    path = write_video(tmp_path / "new.mp4", count=20, rate=5)
    stream = library.processor.stream_video

    def replace_file(*args, **kwargs):
        found = stream(*args, **kwargs)
        os.utime(path, (1e9, 1e9))
        return found

    monkeypatch.setattr(library.processor, "stream_video", replace_file)
    summary = library.add([path])
    assert list(summary.failed.values()) == ["the file changed while it was read; index it again"]
    assert len(library.videos()) == 3


def test_what_cannot_be_read_is_counted_and_the_rest_is_added(library, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    write_video(tmp_path / "good.mp4", count=20, rate=5)
    summary = library.add([tmp_path / "bad.mp4", tmp_path / "good.mp4"])
    assert (summary.done["videos"], len(summary.failed)) == (1, 1)
    assert len(library.videos()) == 4
    with pytest.raises(FileNotFoundError, match="no file or folder '.*nothing'"):
        library.add([tmp_path / "nothing"])


def test_an_interrupted_add_continues(library, tmp_path, monkeypatch):
    """What was added stays; a copy without its video is removed once no process can be about to add it."""
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", count=20, rate=5)
    add = library.tables.add

    def interrupt(record, *args):
        if record.path.endswith("b.mp4"):
            raise KeyboardInterrupt
        add(record, *args)

    monkeypatch.setattr(library.tables, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        library.add([tmp_path / f"{name}.mp4" for name in "abc"])
    monkeypatch.undo()
    assert len(library.videos()) == 4
    summary = library.add([tmp_path / f"{name}.mp4" for name in "abc"])
    assert (summary.complete["videos"], summary.done["videos"]) == (1, 2)
    copies = len(list((library.folder / "features").iterdir()))
    library.optimize()
    assert len(list((library.folder / "features").iterdir())) == copies
    monkeypatch.setattr(entries, "ABANDONED_SEC", -1.0)
    library.optimize()
    assert len(list((library.folder / "features").iterdir())) == 6
    assert library.verify().without_copy == []


def test_a_lost_copy_is_made_again(library, videos):
    (record, *_) = library.videos()
    entries.copy_path(library.folder, record.entry).unlink()
    (answer,) = library.search("a", num_windows=1000)
    assert list(answer.skipped) == [record.path]
    assert library.verify().without_copy == [record.path]
    assert library.add([videos]).done["videos"] == 1
    assert library.search("a", num_windows=1000)[0].skipped == {}


def test_verify_names_missing_and_changed_files(library, tmp_path):
    paths = [write_video(tmp_path / f"{name}.mp4", count=20, rate=5) for name in "ab"]
    library.add(paths)
    modified = paths[1].stat().st_mtime_ns
    paths[0].unlink()
    content = bytearray(paths[1].read_bytes())
    content[-1] ^= 1
    paths[1].write_bytes(content)
    os.utime(paths[1], ns=(modified, modified))  # size and time are as they were
    found = LibraryContents.open(library.folder).verify()
    assert (found.missing, found.changed, found.without_copy) == ([str(paths[0])], [str(paths[1])], [])


def test_a_missing_video_is_reported_in_the_answer(any_library, tmp_path):
    path = write_video(tmp_path / "gone.mp4", count=20, rate=5)
    any_library.add([path])
    path.unlink()
    (answer,) = any_library.search("a", top=1000, num_windows=1000)
    if any_library.settings.keep_features:  # its moments are known
        assert (answer.missing, answer.skipped) == ([str(path)], {})
    else:
        assert (answer.missing, answer.skipped) == ([], {str(path): "the file is missing"})
    assert len({moment.path for moment in answer.moments}) == (4 if any_library.settings.keep_features else 3)


def test_removed_videos_are_gone(library, videos):
    (record,) = [record for record in library.videos() if record.path.endswith("long.mp4")]
    library.remove([record.id])
    assert len(library.videos()) == 2
    assert not entries.copy_path(library.folder, record.entry).exists()
    (answer,) = library.search("a", top=1000, num_windows=1000)
    assert {moment.path for moment in answer.moments} == {str(videos / f"{name}.mp4") for name in ("short", "middle")}
    assert library.optimize().deleted_rows == record.num_frames
    assert library.search("a", top=1000, num_windows=1000)[0].moments == answer.moments


@pytest.mark.parametrize(
    "name", ["день 一天.mp4", "two\nlines.mp4", 'it\'s "quoted" %s.mp4', os.fsdecode(b"caf\xe9.mp4")]
)
def test_any_file_name_is_found_again(tmp_path, model, own_processor, name):
    library = Library.create(tmp_path / "lib", model, own_processor)
    path = tmp_path / "videos" / name
    path.parent.mkdir()
    os.replace(write_video(tmp_path / "plain.mp4", count=20, rate=5), path)
    assert library.add([path.parent]).done["videos"] == 1
    library = Library.open(library.folder, model, own_processor)
    assert library.add([path]).done["videos"] == 0
    assert {moment.path for moment in library.search("a")[0].moments} == {str(path)}
    assert library.verify().missing == []


def test_searching_writes_nothing(any_library):
    def state():
        return {path: path.lstat().st_mtime_ns for path in any_library.folder.rglob("*")}

    before = state()
    Library.open(any_library.folder, any_library.model, any_library.processor).search("a")
    LibraryContents.open(any_library.folder).verify()
    assert state() == before


def test_adding_goes_on_while_others_search(library, tmp_path):
    """A search during an add sees the old contents or the new ones."""
    paths = [write_video(tmp_path / f"{index}.mp4", count=20, rate=5) for index in range(4)]
    adding = threading.Thread(target=library.add, args=(paths,))
    adding.start()
    numbers = []
    while adding.is_alive():
        (answer,) = library.search("a", top=1000, num_windows=1000)
        numbers.append(len({moment.path for moment in answer.moments}))
    adding.join()
    assert numbers == sorted(numbers)
    assert len({moment.path for moment in library.search("a", top=1000, num_windows=1000)[0].moments}) == 7


def test_a_search_ignores_what_is_added_meanwhile(library, tmp_path, monkeypatch):
    """Also if the number of videos stays the same, because one is replaced."""
    path = write_video(tmp_path / "new.mp4", count=20, rate=5)
    library.add([path])
    search = library.tables.search

    def replace_first(*args, **kwargs):
        monkeypatch.undo()
        write_video(path, count=40, rate=5)
        library.add([path])
        return search(*args, **kwargs)

    monkeypatch.setattr(library.tables, "search", replace_first)
    (answer,) = library.search("a", top=1000, num_windows=1000)
    assert len({moment.path for moment in answer.moments}) == 3
    assert len({moment.path for moment in library.search("a", top=1000, num_windows=1000)[0].moments}) == 4


# ---- the model ---------------------------------------------------------------------------------------------------


def test_a_library_loads_the_model_that_it_was_made_with(library, model_folder):
    opened = Library.open(library.folder)
    assert opened.settings.model == model_folder
    (got,), (want,) = opened.search("a"), library.search("a")
    assert got.moments == want.moments


def test_another_checkpoint_is_refused(library, make_model, own_processor):
    other = make_model(
        save_backbone=True, backbone_name_or_path=None, fps=1.0, window_sec=4.0, use_existence_head=True
    )
    with torch.no_grad():
        other.vision_model.encoder.layers[0].mlp.fc1.bias[0] += 0.5
    with pytest.raises(ValueError, match="made with another checkpoint or backbone"):
        Library.open(library.folder, other, own_processor)


def test_a_folder_with_other_files_is_not_made_a_library(tmp_path, model, own_processor):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        Library.create(tmp_path, model, own_processor)
    with pytest.raises(FileNotFoundError, match="There is no library at"):
        LibraryContents.open(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"version": 2}', "no json"])
def test_damaged_settings_are_named(library, content):
    (library.folder / "library.json").write_text(content)
    with pytest.raises(ValueError, match=r"library\.json"):
        LibraryContents.open(library.folder)


def test_a_model_without_existence_head_keeps_its_scores(tmp_path, make_model, videos):
    folder = save_ours(
        make_model(save_backbone=True, backbone_name_or_path=None, fps=1.0), tmp_path / "model", fps=1.0
    )
    model, processor = (
        R2TuningForVideoGrounding.from_pretrained(folder).eval(),
        R2TuningProcessor.from_pretrained(folder),
    )
    library = Library.create(tmp_path / "lib", model, processor)
    library.add([videos / "middle.mp4"])
    (answer,) = library.search("a", top=3)
    pipe = VideoGroundingPipeline(model=model, processor=processor)
    want = pipe(str(videos / "middle.mp4"), query="a")["moments"][:3]
    assert [moment.probability for moment in answer.moments] == [None] * 3
    with pytest.raises(ValueError, match="`min_probability` needs a model with an existence head"):
        library.search("a", min_probability=0.5)
    assert [moment.score for moment in answer.moments] == pytest.approx([moment["score"] for moment in want], abs=1e-5)
