"""Moments as video files."""

import av
import pytest
from video_samples import read_numbers, write_video

from modeling_r2tuning import video_io_r2tuning
from modeling_r2tuning.video_io_r2tuning import copy_clip, cut_clip, load_video_frames
from r2tuning.editors.clips import list_cuts, write_clips


def describe(path):
    """Numbers of the pictures and lengths of the streams; encoded bytes may differ from run to run."""
    with av.open(str(path)) as container:
        lengths = [stream.duration for stream in container.streams]
    return read_numbers(load_video_frames(path, 25).frames), lengths


@pytest.mark.parametrize("copy", [False, True])
def test_timestamps_of_a_video_are_read_once(copy, tmp_path, monkeypatch):
    """Whatever the order of its clips, which are those that are cut one by one."""
    moments = [{"start": 0.5, "end": 1.5}, {"start": 2.0, "end": 3.0}]
    cuts = []
    for name in ("a.mp4", "b.mp4"):
        path = write_video(tmp_path / name, count=100, gop=25, audio_sec=4.0)
        cuts += list_cuts([{"moments": moments}], str(path), 4.0, top=2)
    cuts = [cuts[0], cuts[2], cuts[1], cuts[3]]
    alone = []
    for cut in cuts:
        (copy_clip if copy else cut_clip)(cut.video, tmp_path / "alone.mp4", cut.start, cut.end)
        alone.append(describe(tmp_path / "alone.mp4"))
    scan, scanned = video_io_r2tuning.scan, []

    def count(source):
        scanned.append(source.name)
        return scan(source)

    monkeypatch.setattr(video_io_r2tuning, "scan", count)
    paths = write_clips(cuts, tmp_path, copy=copy)
    assert len(scanned) == len(set(scanned)) == 2
    assert [describe(path) for path in paths] == alone


def test_no_clip_replaces_a_video_that_was_scanned(tmp_path):
    path = write_video(tmp_path / "a.mp4", count=25)
    with pytest.raises(FileExistsError, match="it is an input"):
        cut_clip(video_io_r2tuning.scan_video(path), path, 0, 1)
