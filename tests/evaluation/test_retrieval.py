"""A corpus in the form of TVR is indexed, searched and scored."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from annotation_samples import write_json_lines
from tiny_checkpoints import save_ours
from video_samples import write_video

from dataset_scripts.metrics import score_corpus
from r2tuning.evaluation import run as evaluation
from r2tuning_cli.main import main


pytest.importorskip("lancedb", reason='needs LanceDB: pip install "r2tuning[library]"')


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_model):
    """Three videos of 8 seconds, six sentences, and a library of the videos with one more."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "videos").mkdir()
    rows = []
    for index in range(6):
        name = f"friends_{index % 3}"
        start = index % 4
        row = {"desc": "abcdef"[index], "desc_id": 100 + index, "vid_name": name, "duration": 8.0, "type": "v"}
        rows.append({**row, "ts": [start, start + 4.0]})
    for number in range(4):
        write_video(folder / "videos" / f"friends_{number}.mp4", count=40 + number, rate=5)
    write_json_lines(folder / "tvr_val_release.jsonl", rows)
    model = make_model(save_backbone=True, backbone_name_or_path=None, fps=1.0, use_existence_head=True)
    save_ours(model, folder / "model", fps=1.0)
    videos, library = str(folder / "videos"), str(folder / "lib")
    assert main(["index", videos, "--library", library, "--model", str(folder / "model")]) == 0
    return folder, rows


def evaluate(folder, *options):
    arguments = ["--benchmark", "tvr", "--data-dir", folder, "--library", folder / "lib", *options]
    return main(["evaluate", *map(str, arguments)])


def test_a_library_is_scored_by_the_metrics_of_its_corpus(corpus, tmp_path, capsys):
    folder, rows = corpus
    files = ("--output", tmp_path / "scores.json", "--save-predictions", tmp_path / "predictions.jsonl")
    assert evaluate(folder, "--video-dir", folder / "videos", *files) == 0
    assert "moments in the corpus" in capsys.readouterr().out
    document = json.loads((tmp_path / "scores.json").read_text())
    predictions = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [prediction["qid"] for prediction in predictions] == [str(row["desc_id"]) for row in rows]
    for prediction in predictions:
        videos = [video for video, *_ in prediction["VCMR"]]
        assert prediction["VR"] == list(dict.fromkeys(videos))
        assert {video.rpartition("/")[2] for video in videos} == {
            "friends_0",
            "friends_1",
            "friends_2",
            "friends_3.mp4",
        }
        scores = [score for *_, score in prediction["VCMR"]]
        assert scores == sorted(scores, reverse=True)
    references = []
    for row in rows:
        references.append(
            {"qid": str(row["desc_id"]), "video_id": row["vid_name"], "moments": [row["ts"]], "domain": "v"}
        )
    want = score_corpus(predictions, references)["brief"]
    assert document["scores"]["brief"] == want
    assert want["VR-R10"] == 100.0  # there are four videos
    assert document["library"] == str(folder / "lib")


def test_what_does_not_fit_is_refused(corpus, tmp_path, capsys):
    folder, _ = corpus
    shutil.copytree(folder / "videos", tmp_path / "others")
    for options, message in [
        ((), "`--library` needs `--video-dir`"),
        (("--video-dir", folder / "videos", "--record"), "`--record` goes with `--model`"),
        (("--video-dir", tmp_path / "others"), "holds none of the videos of 'tvr'"),
    ]:
        assert evaluate(folder, *options) == 2
        assert message in capsys.readouterr().err.replace("`library`", "`--library`")


def test_other_evaluations_do_not_need_lancedb():
    """The module that does is imported inside a function."""
    tree = ast.parse(Path(evaluation.__file__).read_text())
    modules = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert "r2tuning.evaluation.tables" in modules
    assert not [
        module for module in modules if module.startswith(("r2tuning.library", "r2tuning.evaluation.retrieval"))
    ]
