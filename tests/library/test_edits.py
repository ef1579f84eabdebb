"""What a search found, as entries of edit lists."""

import pytest
from video_samples import write_video


pytest.importorskip("lancedb", reason='needs LanceDB: pip install "r2tuning[library]"')

from r2tuning.editors.media import read_edited_video
from r2tuning.library import edits
from r2tuning.library.library import SearchAnswer
from r2tuning.library.moments import Moment


def answer(*paths):
    return SearchAnswer("a  man\nin red", [Moment(str(path), 1.0, 2.0, 0.5) for path in paths], num_windows=1)


def test_moments_count_from_the_start_of_the_file(tmp_path):
    path = write_video(tmp_path / "late.mp4", count=50, times=range(10, 60), max_b_frames=0, audio_sec=2.4)
    [moment], [video] = edits.list_exports([answer(path)])
    assert (moment.query, moment.start_sec, moment.end_sec) == ("a man in red", 1.4, 2.4)
    assert video.duration_sec == pytest.approx(2.4)


def test_a_video_that_cannot_be_read_is_opened_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "bad.mp4").write_text("no video")
    opened = []

    def read(path):
        opened.append(path)
        return read_edited_video(path)

    monkeypatch.setattr(edits, "read_edited_video", read)
    assert edits.list_exports([answer(tmp_path / "bad.mp4", tmp_path / "bad.mp4")] * 2) == ([], [])
    assert opened == [str(tmp_path / "bad.mp4")]
    assert "moment 2 of query 2 was not exported: `video`" in caplog.text
