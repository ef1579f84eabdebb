"""The page in a real browser: upload, ask, watch, download, errors, several users, a narrow screen."""

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import av
import pytest
import requests
from video_samples import textured_pictures, write_video

from modeling_r2tuning import DEFAULT_MODEL, R2TuningForVideoGrounding, R2TuningProcessor, VideoGroundingPipeline


pytest.importorskip("gradio", reason='needs Gradio: pip install "r2tuning[app]"')

from r2tuning.app import grounding
from r2tuning.app.example import make_example
from r2tuning.app.grounding import Grounder
from r2tuning.app.launch import serving
from r2tuning.app.sessions import Sessions


pytestmark = pytest.mark.integration

IS_PLAYING_TO = (
    "([player, end]) => { const p = document.querySelector(player); return p.paused && p.currentTime >= end; }"
)
PLAYER = "#r2-video video"
SOUND = "player => player.webkitAudioDecodedByteCount"


@pytest.fixture(scope="module")
def pipe():
    model = R2TuningForVideoGrounding.from_pretrained(DEFAULT_MODEL)
    return VideoGroundingPipeline(model=model, processor=R2TuningProcessor.from_pretrained(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Path of a video that the model knows, and three queries that match."""
    return make_example(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def with_sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "sound.mp4"
    return write_video(path, textured_pictures(150), rate=25, audio_sec=6.0)


@pytest.fixture(scope="module")
def address(pipe):
    with serving(pipe, max_upload_mb=2.0, max_duration_sec=60.0) as found:
        yield found


def upload(page, path):
    page.locator("input[type=file]").first.set_input_files(path)
    return page


def ask(page, path, queries, button="Find"):
    upload(page, path)
    page.locator(PLAYER).wait_for()
    page.get_by_label("What to find").first.fill("\n".join(queries))
    page.get_by_role("button", name=button, exact=True).click()
    page.locator(".r2-answers").wait_for()
    return page


def choose(page, kind):
    page.get_by_label("Download as").first.click()
    page.get_by_role("option", name=kind).click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download", exact=True).first.click()
    return waiting.value


def seconds(text):
    minutes, rest = text.split(":")
    return 60 * int(minutes) + float(rest)


def test_upload_ask_and_watch(open_page, address, video, pipe):
    path, queries = video
    page = ask(open_page(address), path, queries)
    rows = page.locator(".r2-table tbody tr")
    expected = pipe(str(path), query=queries)
    shown = [len(answer["moments"][:5]) for answer in expected]
    assert rows.count() == sum(shown) == page.locator(".r2-lanes button").count()
    assert page.locator(".r2-strip img").count() == 10
    best = expected[0]["moments"][0]
    cells = rows.first.locator("td").all_inner_texts()
    assert cells[1] == queries[0]
    assert float(cells[5]) == round(best["score"], 2)
    assert abs(seconds(cells[3]) - best["start"]) <= 0.05

    def watch(press, moment):
        press.click()
        page.wait_for_function("player => !document.querySelector(player).paused", arg=PLAYER)
        assert abs(page.locator(PLAYER).evaluate("player => player.currentTime") - moment["start"]) < 0.6
        page.locator(PLAYER).evaluate("player => { player.playbackRate = 4; }")
        page.wait_for_function(IS_PLAYING_TO, arg=[PLAYER, moment["end"] - 0.001])
        assert page.locator(PLAYER).evaluate("player => player.currentTime") < moment["end"] + 0.6

    watch(rows.first, best)
    # Also after a pause.
    rows.first.click()
    page.wait_for_function("player => !document.querySelector(player).paused", arg=PLAYER)
    page.locator(PLAYER).evaluate("player => player.pause()")
    page.locator(PLAYER).evaluate("player => player.play()")
    page.wait_for_function(IS_PLAYING_TO, arg=[PLAYER, best["end"] - 0.001])
    assert page.locator(PLAYER).evaluate("player => player.currentTime") < best["end"] + 0.6
    watch(page.locator(".r2-query").nth(2).locator(".r2-lanes button").first, expected[2]["moments"][0])


def test_sliders_act_at_once(open_page, address, video):
    path, queries = video
    page = ask(open_page(address), path, queries)
    rows = page.locator(".r2-table tbody tr")
    before = rows.count()
    page.get_by_label("number input for Moments of each sentence, at most").fill("1")
    page.wait_for_function("() => document.querySelectorAll('.r2-table tbody tr').length === 3")
    page.get_by_label("number input for Lowest score of a moment").fill("1")
    page.get_by_text("No moment has such a score").wait_for()
    assert before > 3


def test_sliders_that_move_while_the_model_answers(open_page, address, video, monkeypatch):
    path, queries = video
    page = ask(open_page(address), path, queries)
    original = Grounder.ask

    def slowly(*args):
        time.sleep(1.5)
        original(*args)

    monkeypatch.setattr(Grounder, "ask", slowly)
    page.get_by_label("What to find").first.fill("\n".join(queries[:2]))
    page.get_by_role("button", name="Find", exact=True).click()
    page.get_by_label("number input for Moments of each sentence, at most").fill("1")
    page.wait_for_function("() => document.querySelectorAll('.r2-table tbody tr').length === 2")


def test_an_upload_that_takes_the_place_of_a_slower_one(open_page, address, video, with_sound, monkeypatch):
    original = grounding.is_playable

    def slowly(path):
        if path.name == video[0].name:
            time.sleep(3)
        return original(path)

    monkeypatch.setattr(grounding, "is_playable", slowly)
    page = upload(open_page(address), video[0])
    page.get_by_role("button", name="Clear").or_(page.get_by_label("Clear")).first.click()
    upload(page, with_sound).get_by_text(f"{with_sound.name} (").wait_for()
    page.wait_for_timeout(4000)
    assert with_sound.name in page.locator("#r2-video figcaption").inner_text()


def test_downloads_are_valid(open_page, address, with_sound, tmp_path):
    page = ask(open_page(address), with_sound, ["a red circle"])
    page.get_by_label("number input for Lowest probability that it is there").fill("0")
    page.locator(".r2-table").wait_for()
    choose(page, re.compile("clips")).save_as(tmp_path / "clips.zip")
    with zipfile.ZipFile(tmp_path / "clips.zip") as archive:
        assert len(archive.namelist()) == page.locator(".r2-table tbody tr").count()
        clip = Path(archive.extract(archive.namelist()[0], tmp_path))
    assert clip.name.startswith("query01_moment01_sound_")
    with av.open(str(clip)) as container:
        assert {stream.codec_context.name for stream in container.streams} == {"h264", "aac"}
    found = choose(page, re.compile("JSON"))
    assert found.suggested_filename == "sound.json"
    assert json.loads(Path(found.path()).read_text())["answers"][0]["query"] == "a red circle"
    assert Path(choose(page, re.compile(r"subtitles \(")).path()).read_text().startswith("1\n00:00:")
    assert Path(choose(page, re.compile("picture")).path()).read_bytes().startswith(b"\x89PNG")
    # The clip plays with its sound.
    clips = open_page(clip.as_uri())
    clips.locator("video").evaluate("player => player.play()")
    clips.wait_for_function("() => document.querySelector('video').currentTime > 0.2")
    assert clips.locator("video").evaluate(SOUND) > 0


def test_files_that_are_not_taken(open_page, address, tmp_path):
    page = open_page(address)
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    upload(page, text).get_by_text("'notes.mp4' cannot be read as a video").wait_for()
    long = write_video(tmp_path / "long.mp4", textured_pictures(65), rate=1)
    page.reload()
    upload(page, long).get_by_text("lasts 1:05.0 min, and this page takes at most 1:00.0 min").wait_for()
    large = tmp_path / "large.mp4"
    large.write_bytes(os.urandom(2_100_000))
    page.reload()
    upload(page, large).get_by_text("maximum allowed size").wait_for()
    page.get_by_role("button", name="Find", exact=True).click()
    page.get_by_text("Upload a video first").wait_for()


def test_unexpected_errors_are_said(open_page, address, video, monkeypatch):
    page = ask(open_page(address), *video)

    def fail(*_):
        raise RuntimeError("secret details")

    monkeypatch.setattr(Grounder, "ask", fail)
    page.get_by_role("button", name="Find", exact=True).click()
    page.get_by_text("Something went wrong on the server: RuntimeError").wait_for()


def test_names_stay_as_they_are(open_page, address, with_sound, tmp_path):
    """Gradio drops characters from names; edit lists must name the user's file."""
    path = tmp_path / "Wow! ${1+1} `x`.mp4"
    path.write_bytes(with_sound.read_bytes())
    page = ask(open_page(address), path, ["a red circle"])
    assert path.name in page.locator("#r2-video figcaption").inner_text()
    page.get_by_label("number input for Lowest probability that it is there").fill("0")
    page.locator(".r2-table").wait_for()
    assert path.name in Path(choose(page, re.compile("CMX 3600")).path()).read_text()


def test_two_users_side_by_side(open_page, address, video, with_sound, tmp_path):
    path, queries = video
    first, second = open_page(address), open_page(address)
    upload(first, path)
    upload(second, with_sound)
    first.locator(PLAYER).wait_for()
    second.locator(PLAYER).wait_for()
    for page in (first, second):
        page.get_by_label("What to find").first.fill(queries[0])
        page.get_by_role("button", name="Find", exact=True).click()
    for page, name in ((first, path.name), (second, with_sound.name)):
        page.locator(".r2-answers").wait_for()
        assert name in page.locator("#r2-video figcaption").inner_text()
    sources = {page.locator(PLAYER).get_attribute("src") for page in (first, second)}
    assert len(sources) == 2


def test_a_format_that_browsers_do_not_play(open_page, address, tmp_path):
    old = write_video(tmp_path / "old.avi", textured_pictures(50), codec="mpeg4")
    page = ask(open_page(address), old, ["a red circle"])
    page.locator(PLAYER).evaluate("player => player.play()")
    page.wait_for_function("player => document.querySelector(player).currentTime > 0.2", arg=PLAYER)


def test_a_narrow_screen(open_page, address, video):
    path, queries = video
    page = ask(open_page(address, viewport={"width": 360, "height": 740}), path, queries)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.locator(".r2-lanes button").first.scroll_into_view_if_needed()
    page.locator(".r2-lanes button").first.click()
    page.wait_for_function("player => !document.querySelector(player).paused", arg=PLAYER)


def test_the_example(open_page, address):
    page = open_page(address)
    page.get_by_role("button", name="Try an example").click()
    page.locator(".r2-table").wait_for()
    assert page.locator(".r2-query").count() == 3


def test_the_server_gives_out_its_own_files_only(open_page, address, video, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for place in (secret, "/etc/passwd", Path(__file__)):
        assert requests.get(f"{address}gradio_api/file={place}", timeout=10).status_code == 403
    for place in ("http://127.0.0.1:1/a", "https://example.com/a"):
        assert requests.get(f"{address}gradio_api/file={place}", timeout=10).status_code == 403
    for place in ("https://example.com/a.mp4", str(secret)):
        call = {"data": [{"path": place, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "abc"}
        assert requests.post(f"{address}gradio_api/queue/join", json=call, timeout=10).ok
        events = requests.get(f"{address}gradio_api/queue/data?session_hash=abc", timeout=30).text
        assert '"success":false' in events
    page = upload(open_page(address), video[0])
    source = page.locator(PLAYER).get_attribute("src")
    played = requests.get(address + source, headers={"Range": "bytes=0-9"}, timeout=10)
    assert played.status_code == 206
    assert played.content == video[0].read_bytes()[:10]


def test_files_are_deleted(browser, pipe, video, monkeypatch):
    monkeypatch.setattr("r2tuning.app.launch.Sessions", functools.partial(Sessions, grace_sec=0.1))
    with serving(pipe) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        upload(page, video[0]).locator(PLAYER).wait_for()
        path = Path(page.locator(PLAYER).get_attribute("src").removeprefix("gradio_api/file="))
        root = path.parents[3]
        assert path.is_file()
        assert (root / "uploads").is_dir()
        context.close()
        deadline = time.monotonic() + 30
        while path.exists():
            assert time.monotonic() < deadline, "the files of a closed page stay"
            time.sleep(0.1)
    assert not root.exists()


def test_the_library_tab(open_page, pipe, video, tmp_path):
    pytest.importorskip("lancedb", reason='needs LanceDB: pip install "r2tuning[library]"')
    from r2tuning.library.library import Library

    path, queries = video
    library = Library.create(tmp_path / "lib", pipe.model, pipe.processor, keep_features=True)
    library.add([path])
    with serving(pipe, library=library) as address:
        page = open_page(address)
        page.get_by_role("tab", name="Library").click()
        page.get_by_text("Videos: 1.").wait_for()
        page.get_by_label("What to find").last.fill(queries[0])
        page.get_by_role("button", name="Search", exact=True).click()
        page.get_by_text("Searched 1 videos in").wait_for()
        page.locator("[data-row]").first.click()
        page.wait_for_function("() => [...document.querySelectorAll('video')].some(p => p.currentTime > 0.2)")
        page.get_by_text(f"{path.name}, ").wait_for()
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download", exact=True).last.click()
        assert zipfile.is_zipfile(waiting.value.path())
        other = shutil.copy(path, tmp_path / "other.mp4")
        library.add([other])
        Path(other).unlink()
        page.get_by_role("button", name="Search", exact=True).click()
        page.get_by_text("other.mp4 (the file is missing)").first.wait_for()
        page.get_by_role("button", name="Download", exact=True).last.click()
        page.get_by_text("Moments of videos that are missing are left out: other.mp4.").wait_for()


def test_the_command(open_page, tmp_path):
    """It says where the page is, and leaves nothing behind when it is terminated."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "r2tuning_cli.main", "app", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        assert list(tmp_path.glob("r2tuning-app-*"))
        page = open_page(address)
        page.get_by_text("small model that comes with the package").wait_for()
        process.terminate()
        assert process.wait(30) == 0
    assert not list(tmp_path.glob("r2tuning-app-*"))


def test_a_port_that_is_taken(pipe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"`port` {port} cannot be used"), serving(pipe, port=port):
            pass


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
