"""A killed `r2tuning index` is continued by the same command."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_checkpoints import save_ours
from video_samples import write_video

from r2tuning_cli.main import main


pytest.importorskip("lancedb", reason='needs LanceDB: pip install "r2tuning[library]"')

from r2tuning.library.contents import LibraryContents
from r2tuning.library.entries import FEATURES
from r2tuning.library.library import Library


@pytest.mark.integration
def test_a_killed_index_goes_on(tmp_path, make_model):
    """Nothing that was added is lost, and the answers are those of a library that was never interrupted."""
    model = make_model(save_backbone=True, backbone_name_or_path=None, fps=1.0, use_existence_head=True)
    save_ours(model, tmp_path / "model", fps=1.0)
    (tmp_path / "videos").mkdir()
    for number in range(12):
        write_video(tmp_path / "videos" / f"{number}.mp4", count=150 + 5 * number, rate=5)
    options = ["--model", str(tmp_path / "model"), "--keep-features"]
    command = ["index", str(tmp_path / "videos"), "--library", str(tmp_path / "lib"), *options]
    process = subprocess.Popen([sys.executable, "-m", "r2tuning_cli.main", *command], stderr=subprocess.DEVNULL)
    copies = tmp_path / "lib" / FEATURES
    while process.poll() is None and not (copies.exists() and len(os.listdir(copies)) >= 3):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    before = LibraryContents.open(tmp_path / "lib").videos()
    assert 2 <= len(before) < 12
    assert main(command) == 0
    library = Library.open(tmp_path / "lib")
    after = library.videos()
    assert len(after) == 12
    assert [record for record in after if record.id in {old.id for old in before}] == before
    assert main(["index", str(tmp_path / "videos"), "--library", str(tmp_path / "other"), *options]) == 0
    want = Library.open(tmp_path / "other").search(["a", "b c"])
    assert [answer.moments for answer in library.search(["a", "b c"])] == [answer.moments for answer in want]
    assert library.verify().without_copy == []
