"""What the page answers, keeps and writes, without a browser."""

import json
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


def open_video(grounder, path, key="a", name=None, progress=silent):
    session = grounder.sessions.get(key)
    grounder.open(session, path, path.name if name is None else name, progress)
    return session


def ask(grounder, path, key="a"):
    session = open_video(grounder, path, key)
    grounder.ask(session, TEXT, silent)
    return session


def decode(grounder, session, **choices):
    return grounder.decode(session.video.predictions, Choices(**choices))


def test_answers_are_those_of_the_pipeline(grounder, pipe, video):
    session = ask(grounder, video)
    assert decode(grounder, session) == pipe(str(video), query=QUERIES)


def test_sliders_do_not_need_the_model(grounder, video, monkeypatch):
    session = ask(grounder, video)
    monkeypatch.setattr(grounder.pipe, "model", None)
    answers = decode(grounder, session, min_probability=0.0)
    scores = [moment["score"] for moment in answers[0]["moments"]]
    chosen = decode(grounder, session, score_threshold=scores[2], min_probability=0.0)
    assert [moment["score"] for moment in chosen[0]["moments"]] == scores[:3]
    assert not decode(grounder, session, min_probability=1.0)[0]["found"]


def test_another_query_does_not_read_the_video_again(grounder, video, monkeypatch):
    session = ask(grounder, video)
    first = decode(grounder, session)
    monkeypatch.setattr(grounder.pipe.processor, "stream_video", None)
    grounder.ask(session, QUERIES[0], silent)
    grounder.ask(session, TEXT, silent)
    assert decode(grounder, session) == first


def test_an_encoded_video_that_had_to_go_is_encoded_again(grounder, video):
    first = ask(grounder, video, "a")
    before = decode(grounder, first)
    grounder.sessions.max_encoded_bytes = 1
    second = ask(grounder, video, "b")
    assert first.video.encoded is None
    assert second.video.encoded is not None
    assert decode(grounder, first) == before  # the sliders work on
    grounder.ask(first, TEXT, silent)
    assert decode(grounder, first) == before


def test_several_pages_at_once(grounder, video):
    other = write_video(video.with_name("other.mp4"), textured_pictures(60), rate=5)
    alone = [decode(grounder, ask(grounder, path, f"alone {path.name}")) for path in (video, other)]
    with ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda key: ask(grounder, (video, other)[key % 2], str(key)), range(8)))
    for key, session in enumerate(sessions):
        assert decode(grounder, session) == alone[key % 2]


def test_errors_name_the_file_as_the_user_does(grounder, tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(ValueError, match=r"^'my notes\.mp4' cannot be read as a video"):
        open_video(grounder, text, name="my notes.mp4")
    session = grounder.sessions.get("a")
    assert session.video is None
    assert not list(session.folder.iterdir())


def test_limits(grounder, video):
    session = grounder.sessions.get("a")
    with pytest.raises(ValueError, match="Upload a video first"):
        grounder.ask(session, TEXT, silent)
    grounder.max_duration_sec = 5.0
    with pytest.raises(ValueError, match=r"lasts 0:06\.0 min, and this page takes at most 0:05\.0 min"):
        open_video(grounder, video)
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


def test_pages_are_closed_some_time_after_their_last_use(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("r2tuning.app.sessions.time.monotonic", lambda: now)
    sessions = Sessions(tmp_path, grace_sec=600.0, max_idle_sec=10_000.0)
    left, back, idle = sessions.get("left"), sessions.get("back"), sessions.get("idle")
    sessions.leave("left")
    sessions.leave("back")
    now = 500.0
    assert sessions.get("back") is back
    now = 700.0
    sessions.close_unused()
    assert [session.is_closed for session in (left, back, idle)] == [True, False, False]
    now = 1200.0  # a connection that has ended once is not opened again, so its end is not seen
    sessions.close_unused()
    assert [session.is_closed for session in (left, back, idle)] == [True, True, False]
    now = 11_000.0
    sessions.close_unused()
    assert idle.is_closed
    assert not list(tmp_path.iterdir())


def test_the_latest_upload_is_shown(grounder, video):
    """Also if an earlier one takes longer, and if the video is removed meanwhile."""
    old = write_video(video.with_name("old.avi"), textured_pictures(10), codec="mpeg4")
    session = grounder.sessions.get("a")
    with pytest.raises(Abandoned):
        open_video(grounder, old, progress=lambda *_: open_video(grounder, video))
    assert session.video.name == video.name
    with pytest.raises(Abandoned):
        open_video(grounder, old, progress=lambda *_: session.show(session.begin(), None))
    assert session.video is None
    assert not list(session.folder.iterdir())


def test_a_video_that_cannot_be_taken_leaves_the_one_before(grounder, video, tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    session = ask(grounder, video)
    before = decode(grounder, session)
    with pytest.raises(ValueError, match="cannot be read"):
        open_video(grounder, text)
    assert session.video.played.is_file()
    assert decode(grounder, session) == before


def test_answers_stay_with_their_video(grounder, video):
    """A video that is replaced while it is encoded does not give its features to the other."""
    other = write_video(video.with_name("other.mp4"), textured_pictures(60), rate=5)
    session = open_video(grounder, video)
    former, encoded = grounder.encode(session, silent)
    open_video(grounder, other)
    grounder.sessions.keep(former, encoded)
    assert session.video.encoded is None


def test_work_stops_when_its_page_is_closed(grounder, video):
    for end in (grounder.sessions.close, grounder.sessions.leave):
        session = open_video(grounder, video)
        with pytest.raises(Abandoned):
            grounder.ask(session, TEXT, lambda *_, end=end: end("a"))
    grounder.ask(grounder.sessions.get("a"), TEXT, silent)  # it is back


def test_nothing_typed_becomes_markup(grounder, video):
    session = ask(grounder, video)
    answers = decode(grounder, session, min_probability=0.0)
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
    answers = decode(grounder, session, min_probability=0.0)
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
    session = open_video(grounder, path)
    grounder.ask(session, "\n".join(queries), silent)
    answers = decode(grounder, session)
    assert len(answers) == 3
    assert all(answer["found"] for answer in answers)
    assert np.mean([answer["moments"][0]["score"] for answer in answers]) > 0.5
