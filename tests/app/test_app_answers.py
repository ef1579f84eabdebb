"""What the page answers, keeps and writes, without a browser."""

import json
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from video_samples import textured_pictures, write_video

from modeling_r2tuning import DEFAULT_MODEL, R2TuningForVideoGrounding, R2TuningProcessor, VideoGroundingPipeline
from r2tuning.app.downloads import CLIPS, list_formats, write_answers
from r2tuning.app.grounding import Choices, Grounder, split_queries
from r2tuning.app.markup import render_answers, render_player
from r2tuning.app.playback import is_playable, make_playable
from r2tuning.app.sessions import Abandoned, Sessions
from r2tuning_cli.defaults import EXPORT_ENDINGS


QUERIES = ["the red circle", "a blue square moves left"]
TEXT = "\n".join(QUERIES)


def silent(*_):
    """Show no progress."""


@pytest.fixture(scope="module")
def pipe():
    model = R2TuningForVideoGrounding.from_pretrained(DEFAULT_MODEL)
    return VideoGroundingPipeline(model=model, processor=R2TuningProcessor.from_pretrained(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "été <1>.mp4"
    return write_video(path, textured_pictures(30), rate=5, audio_sec=6.0)


@pytest.fixture
def grounder(pipe, tmp_path):
    (tmp_path / "pages").mkdir()
    return Grounder(pipe, Sessions(tmp_path / "pages"), max_duration_sec=100.0)


def ask(grounder, video, key="a"):
    session = grounder.sessions.get(key)
    grounder.open(session, video, silent)
    grounder.ask(session, TEXT, silent)
    return session


def test_answers_are_those_of_the_pipeline(grounder, pipe, video):
    session = ask(grounder, video)
    assert grounder.decode(session, Choices()) == pipe(str(video), query=QUERIES)


def test_sliders_do_not_need_the_model(grounder, video, monkeypatch):
    session = ask(grounder, video)
    monkeypatch.setattr(grounder.pipe, "model", None)
    answers = grounder.decode(session, Choices(min_probability=0.0))
    scores = [moment["score"] for moment in answers[0]["moments"]]
    chosen = grounder.decode(session, Choices(score_threshold=scores[2], min_probability=0.0))
    assert [moment["score"] for moment in chosen[0]["moments"]] == scores[:3]
    assert not grounder.decode(session, Choices(min_probability=1.0))[0]["found"]


def test_another_query_does_not_read_the_video_again(grounder, video, monkeypatch):
    session = ask(grounder, video)
    first = grounder.decode(session, Choices())
    monkeypatch.setattr(grounder.pipe.processor, "stream_video", None)
    grounder.ask(session, QUERIES[0], silent)
    grounder.ask(session, TEXT, silent)
    assert grounder.decode(session, Choices()) == first


def test_an_encoded_video_that_had_to_go_is_encoded_again(grounder, video):
    first = ask(grounder, video, "a")
    before = grounder.decode(first, Choices())
    grounder.sessions.max_encoded_bytes = 1
    second = ask(grounder, video, "b")
    assert first.encoded is None
    assert second.encoded is not None
    assert grounder.decode(first, Choices()) == before  # the sliders work on
    grounder.ask(first, TEXT, silent)
    assert grounder.decode(first, Choices()) == before


def test_several_pages_at_once(grounder, video):
    other = write_video(video.with_name("other.mp4"), textured_pictures(60), rate=5)
    alone = [grounder.decode(ask(grounder, path, f"alone {path.name}"), Choices()) for path in (video, other)]
    with ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda key: ask(grounder, (video, other)[key % 2], str(key)), range(8)))
    for key, session in enumerate(sessions):
        assert grounder.decode(session, Choices()) == alone[key % 2]


def test_errors_name_the_file_as_the_user_does(grounder, tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    session = grounder.sessions.get("a")
    with pytest.raises(ValueError, match=r"'notes\.mp4' cannot be read as a video"):
        grounder.open(session, text, silent)
    assert session.video is None


def test_limits(grounder, video):
    session = grounder.sessions.get("a")
    with pytest.raises(ValueError, match="Upload a video first"):
        grounder.ask(session, TEXT, silent)
    grounder.max_duration_sec = 5.0
    with pytest.raises(ValueError, match=r"lasts 0:06\.0 min, and this page takes at most 0:05\.0 min"):
        grounder.open(session, video, silent)
    with pytest.raises(ValueError, match="Type what to find"):
        split_queries(" \n\n")
    with pytest.raises(ValueError, match="At most 20 sentences at once, got 21"):
        split_queries("a\n" * 21)


def test_files_go_with_their_page(grounder, video):
    session = ask(grounder, video)
    former = session.video.path
    assert former.is_file()
    ask(grounder, video)
    assert not former.exists()
    assert session.video.path.is_file()
    grounder.sessions.close("a")
    assert not session.folder.exists()
    assert video.is_file()
    with pytest.raises(Abandoned):
        session.make_folder()
    assert grounder.sessions.get("a") is not session


def test_a_page_that_comes_back_in_time_is_kept(tmp_path):
    sessions = Sessions(tmp_path, grace_sec=0.05)
    session = sessions.get("a")
    sessions.leave("a")
    assert sessions.get("a") is session  # used before the time is over
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert not session.is_closed
    sessions.leave("a")
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert session.is_closed
    assert not session.folder.exists()


def test_work_stops_when_its_page_is_closed(grounder, video):
    session = grounder.sessions.get("a")
    grounder.open(session, video, silent)
    with pytest.raises(Abandoned):
        grounder.ask(session, TEXT, lambda *_: grounder.sessions.close("a"))


def test_nothing_typed_becomes_markup(grounder, video):
    session = ask(grounder, video)
    answers = grounder.decode(session, Choices(min_probability=0.0))
    answers[0]["query"] = '<img src=x onerror="alert(1)">'
    page = render_answers(answers, session.video, 3) + render_player(session.video)
    assert "<img src=x" not in page
    assert "<1>" not in page
    assert page.count("<tr data-start") == 6


def test_browsers_play_the_copy(tmp_path):
    pictures = list(textured_pictures(10))
    assert is_playable(write_video(tmp_path / "a.mp4", pictures, audio_sec=0.4))
    others = [
        write_video(tmp_path / "old.avi", pictures, codec="mpeg4"),
        write_video(tmp_path / "deep.mp4", pictures, pix_fmt="yuv420p10le"),
        write_video(tmp_path / "a.mkv", pictures),
        write_video(tmp_path / "late.mp4", pictures, times=range(20, 30), audio_sec=2.0),
    ]
    for path in others:
        assert not is_playable(path)
        make_playable(path, tmp_path / "copy.mp4", 0.4)
        assert is_playable(tmp_path / "copy.mp4")


def test_every_download_opens(grounder, video, tmp_path):
    pytest.importorskip("opentimelineio", reason='needs OpenTimelineIO: pip install "r2tuning[editors]"')
    pytest.importorskip("matplotlib", reason='needs matplotlib: pip install "r2tuning[plot]"')
    session = ask(grounder, video)
    answers = grounder.decode(session, Choices(min_probability=0.0))
    kinds = [kind for _, kind in list_formats(is_one_video=True)]
    assert set(EXPORT_ENDINGS) < set(kinds)
    found = {}
    for kind in kinds:
        found[kind] = write_answers(
            kind,
            session.make_folder(),
            answers,
            session.video,
            num_moments=2,
            fps=grounder.pipe.processor.fps,
            model="packaged",
            progress=silent,
        )
    assert all(path.name.startswith("été _1_") for path in found.values())
    assert json.loads(found[".json"].read_text())["answers"] == answers
    assert found[".png"].read_bytes().startswith(b"\x89PNG")
    with zipfile.ZipFile(found[CLIPS]) as archive:
        archive.extractall(tmp_path)
        assert len(archive.namelist()) == 4
        for name in archive.namelist():
            with av.open(str(tmp_path / name)) as container:
                assert container.streams.video
                assert container.streams.audio
    for kind in EXPORT_ENDINGS:
        text = found[kind].read_text(encoding="utf-8")
        assert str(session.folder) not in text, "editors look for the user's own file"
    assert "été <1>.mp4" in found[".csv"].read_text(encoding="utf-8")


def test_the_example_is_known_to_the_packaged_model(grounder, tmp_path):
    from r2tuning.app.example import make_example

    path, queries = make_example(tmp_path)
    session = grounder.sessions.get("a")
    grounder.open(session, path, silent)
    grounder.ask(session, "\n".join(queries), silent)
    answers = grounder.decode(session, Choices())
    assert len(answers) == 3
    assert all(answer["found"] for answer in answers)
    assert np.mean([answer["moments"][0]["score"] for answer in answers]) > 0.5
