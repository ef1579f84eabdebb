"""`train/run_evaluation.py`: scoring of prediction files as in the public code, and of checkpoints."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from annotation_samples import moment_records, write_benchmark, write_json_lines, write_videos
from fresh_python import run_fresh
from random_checkpoint import random_model, random_processor

from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.targets import frame_rate
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, VideoGroundingPipeline
from r2tuning.evaluation.predictions import predict, read_predictions, write_submission
from r2tuning.evaluation.run import main, record, score_parts


SCRIPT = Path(__file__).parents[2] / "train/run_evaluation.py"


def perfect(rows):
    """Predictions that answer every query with its own moments and saliency."""
    predictions = []
    for row in rows:
        windows = [[*window, 1.0] for window in row["relevant_windows"]]
        saliency = [0.0] * (row["duration"] // 2)
        for clip, scores in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
            saliency[clip] = float(sum(scores))
        predictions.append(
            {"qid": row["qid"], "vid": row["vid"], "pred_relevant_windows": windows, "pred_saliency_scores": saliency}
        )
    return predictions


@pytest.fixture
def qvhighlights(tmp_path):
    return write_benchmark("qvhighlights", tmp_path / "qvhighlights")


def test_the_script_scores_a_file(qvhighlights, tmp_path):
    """A user gets a table on the terminal, and the same numbers as JSON."""
    path = write_json_lines(tmp_path / "preds.jsonl", perfect(moment_records("qvhighlights", "val")), compress=True)
    arguments = ["--predictions", path, "--benchmark", "qvhighlights", "--data-dir", qvhighlights]
    result = run_fresh([SCRIPT, *arguments, "--output", tmp_path / "scores.json"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["num_queries"] == 4
    brief = document["scores"]["brief"]
    assert brief["MR-full-mAP"] == 100
    assert brief["MR-full-mIoU"] == 100
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}
    assert lines["full"].count("100.00") == len(lines["full"]) - 1
    assert lines["Fair"][2] == f"{brief['HL-min-Fair-Hit1']:.2f}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preds.jsonl.gz", "qvhighlights", "scores.json"]


def test_public_predictions_score_as_published(shared_data, tmp_path, capsys):
    expected = json.loads((shared_data / "metrics/expected.json").read_text())["sample_val_preds"]["r2_tuning"]
    predictions = shared_data / "metrics/sample_val_preds.jsonl.gz"
    arguments = ["--benchmark", "qvhighlights", "--split", "val", "--data-dir", shared_data / "qvhighlights"]
    output = tmp_path / "scores.json"
    assert main([str(word) for word in ["--predictions", predictions, *arguments, "--output", output]]) == 0
    scores = json.loads(output.read_text())["scores"]
    assert {name: scores[name] for name in expected} == expected
    assert "1,550 queries" in capsys.readouterr().out


def test_a_split_without_ground_truth_can_only_be_submitted(qvhighlights, tmp_path, capsys):
    """It gives a file for the server; with the public ground truth it is scored."""
    rows = moment_records("qvhighlights", "test")
    path = write_json_lines(tmp_path / "preds.jsonl", perfect(rows))
    words = ["--predictions", path, "--benchmark", "qvhighlights", "--split", "test", "--data-dir"]
    assert main([str(word) for word in [*words, qvhighlights]]) == 2
    assert "no ground truth" in capsys.readouterr().err
    assert main([str(word) for word in [*words, qvhighlights, "--submission", tmp_path / "server"]]) == 0
    with zipfile.ZipFile(tmp_path / "server/submission.zip") as archive:
        assert archive.namelist() == ["hl_test_submission.jsonl"]
        lines = [json.loads(line) for line in archive.read("hl_test_submission.jsonl").splitlines()]
    assert [line["qid"] for line in lines] == [row["qid"] for row in rows]
    public = write_benchmark("qvhighlights", tmp_path / "public", test="annotated")
    assert main([str(word) for word in [*words, public]]) == 0
    assert "100.00" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--output", "--save-predictions"])
def test_unwritable_outputs_are_refused_at_the_start(tmp_path, option, capsys):
    """Before the annotations are read, which are missing here."""
    predictions, pipe = tmp_path / "predictions.jsonl", tmp_path / "pipe"
    predictions.write_text("{}")
    os.mkfifo(pipe)
    source = ["--predictions", predictions]
    if option == "--save-predictions":
        source = ["--model", "org/model", "--features", tmp_path, "--data-file", predictions]
    for path in (predictions, pipe, tmp_path / "nowhere/file"):
        words = [*source, "--benchmark", "tacos", "--data-dir", tmp_path, option, path]
        assert main([str(word) for word in words]) == 2
        assert f"run_evaluation: error: '{path}' cannot be written" in capsys.readouterr().err
    assert predictions.read_text() == "{}"


def test_a_failed_submission_keeps_the_last_one(tmp_path, monkeypatch):
    rows = perfect(moment_records("qvhighlights", "val"))
    before = write_submission(rows, tmp_path, "val").read_bytes()

    def full(*_):
        raise OSError(28, "No space left")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(OSError, match=rf"No space left: '{tmp_path}/submission\.zip'"):
        write_submission(rows, tmp_path, "val")
    assert (tmp_path / "submission.zip").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hl_val_submission.jsonl", "submission.zip"]


def test_a_submission_holds_both_splits(tmp_path):
    for split in ("val", "test"):
        write_submission(perfect(moment_records("qvhighlights", split)), tmp_path, split)
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == ["hl_val_submission.jsonl", "hl_test_submission.jsonl"]
    with pytest.raises(ValueError, match="lack moments or saliency"):
        write_submission([{"qid": 1, "vid": "a", "pred_relevant_windows": []}], tmp_path, "val")
    with pytest.raises(ValueError, match="`split` must be one of"):
        write_submission([], tmp_path, "train")
    with pytest.raises(
        ValueError, match="`qid` of every prediction in a submission must be a whole number, got '1.5'"
    ):
        write_submission([{"qid": 1.5}], tmp_path, "val")


def test_errors_are_one_line(qvhighlights, capsys):
    words = ["--predictions", "nowhere.jsonl", "--benchmark", "qvhighlights", "--data-dir", str(qvhighlights)]
    assert main(words) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    assert main(["--model", "x/y", *words[2:]]) == 2
    assert "`--model` needs `--video-dir` or `--features`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data-dir", "nowhere"], "`--data-dir` must be a folder, but there is none at 'nowhere'"),
        (["--video-dir", "nowhere"], "`--video-dir` must be a folder"),
        (["--features", "nowhere"], "`--features` must be a folder"),
        (["--model", "nowhere"], "`--model` must be a folder, or a name on the Hub"),
        (["--backbone", "nowhere"], "`--backbone` must be a folder, or a name on the Hub"),
        (["--split", "vall"], "`--split` of qvhighlights must be one of"),
        (["--domain", "dog"], "leave out `--domain`"),
        (["--device", "gpu"], "`--device` 'gpu' cannot be used: "),
        (["--device", "cuda:99"], "`--device` 'cuda:99' cannot be used"),
        (["--record"], "`--record` adds to the results of a training run on qvhighlights"),
        (["--output", "nowhere/scores.json"], "there is no folder 'nowhere'"),
        (["--save-predictions", "nowhere/preds.jsonl"], "there is no folder 'nowhere'"),
        (["--submission", "out"], "`--submission` needs `--split` val or test, got 'train'"),
        (["--split", "test"], "no ground truth to score against. Name a file that does with `--data-file`"),
    ],
)
def test_options_are_checked_before_the_checkpoint_is_loaded(
    qvhighlights, tmp_path, capsys, monkeypatch, words, message
):
    def fetch(*arguments, **options):
        raise AssertionError("the checkpoint was fetched")

    monkeypatch.setattr("r2tuning.evaluation.run.check_model_type", fetch)
    videos = tmp_path / "videos"
    videos.mkdir()
    given = {"--benchmark": "qvhighlights", "--data-dir": qvhighlights, "--model": "org/model", "--features": videos}
    if "--submission" in words:
        given["--split"] = "train"
    given |= dict(zip(words[::2], [*words[1::2], None], strict=False))
    arguments = [str(word) for pair in given.items() for word in pair if word is not None]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_checkpoint_options_are_refused_with_a_prediction_file(qvhighlights, tmp_path, capsys):
    path = write_json_lines(tmp_path / "preds.jsonl", perfect(moment_records("qvhighlights", "val")))
    words = ["--predictions", str(path), "--benchmark", "qvhighlights", "--data-dir", str(qvhighlights)]
    assert main([*words, "--record"]) == 2
    assert "`--record` goes with `--model`; leave it out with `--predictions`" in capsys.readouterr().err
    assert main([*words, "--output", str(path)]) == 2
    assert "is an input of this command" in capsys.readouterr().err


def test_two_outputs_need_two_paths(qvhighlights, tmp_path, capsys):
    words = ["--model", "packaged", "--benchmark", "qvhighlights", "--data-dir", str(qvhighlights)]
    outputs = ["--output", str(tmp_path / "o"), "--save-predictions", str(tmp_path / "o")]
    assert main([*words, "--features", str(tmp_path), *outputs]) == 2
    assert "is the path of two outputs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["qvhighlights", "tacos", "youtube_highlights", "tvsum"])
def test_a_checkpoint_predicts_every_query(name, checkpoint, tmp_path, capsys):
    """For every benchmark, in the common form; the saved file has the same scores."""
    data_dir, video_dir = write_benchmark(name, tmp_path / "data"), write_videos(name, tmp_path / "videos")
    arguments = ["--benchmark", name, "--split", "val", "--data-dir", str(data_dir)]
    model_arguments = ["--model", str(checkpoint), "--video-dir", str(video_dir), "--device", "cpu"]
    saved, first, again = (tmp_path / part for part in ("preds.jsonl", "first.json", "again.json"))
    words = [*arguments, *model_arguments, "--save-predictions", str(saved), "--output", str(first)]
    assert main(words) == 0, capsys.readouterr().err
    rows = load_vtg_dataset(name, split="val", data_dir=data_dir)
    predictions = {row["qid"]: row for row in read_predictions(saved)}
    assert set(predictions) == set(rows["qid"])
    for row in rows:
        prediction = predictions[row["qid"]]
        assert ("pred_relevant_windows" in prediction) == ("moment_retrieval" in row["task"])
        if row["saliency"] is not None:
            assert len(prediction["pred_saliency_scores"]) == len(row["saliency"]["scores"])
    assert main([*arguments, "--predictions", str(saved), "--output", str(again)]) == 0
    assert json.loads(again.read_text())["scores"] == json.loads(first.read_text())["scores"]


def test_youtube_highlights_is_sampled_at_one_frame_per_unit(tmp_path):
    data_dir = write_benchmark("youtube_highlights", tmp_path)
    row = load_vtg_dataset("youtube_highlights", split="val", data_dir=data_dir)[0]
    assert frame_rate(row, BENCHMARKS["youtube_highlights"], 0.5) * row["duration_sec"] == pytest.approx(
        len(row["saliency"]["scores"])
    )


@pytest.fixture
def broken(checkpoint, tmp_path):
    """Arguments to evaluate a checkpoint with a broken video, the path of that video, and the queries about it."""
    data_dir, video_dir = write_benchmark("tacos", tmp_path / "data"), write_videos("tacos", tmp_path / "videos")
    rows = load_vtg_dataset("tacos", split="val", data_dir=data_dir, video_dir=video_dir)
    path = Path(rows[0]["video"]["path"])
    path.write_bytes(b"broken")
    words = ["--model", checkpoint, "--benchmark", "tacos", "--data-dir", data_dir, "--video-dir", video_dir]
    lost = [row["qid"] for row in rows if row["video_id"] == rows[0]["video_id"]]
    return [str(word) for word in [*words, "--device", "cpu"]], path, lost


def test_an_unreadable_video_is_an_error(broken, capsys, monkeypatch):
    """It is found before anything is predicted."""

    def predict(*arguments, **options):
        raise AssertionError("a video was predicted")

    monkeypatch.setattr("r2tuning.evaluation.run.predict", predict)
    words, path, lost = broken
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f"{len(lost)} of 4 queries cannot be used, such as query {lost[0]} about " in message
    assert str(path) in message
    assert "pass `--missing-videos skip`" in message


def test_queries_without_a_readable_video_are_counted(broken, tmp_path, capsys):
    """Whether the video is unreadable or missing."""
    words, path, lost = broken
    arguments = [*words, "--missing-videos", "skip", "--output", str(tmp_path / "scores.json")]
    assert main(arguments) == 0
    document = json.loads((tmp_path / "scores.json").read_text())
    assert (document["num_queries"], document["num_left_out"]) == (4 - len(lost), len(lost))
    assert f"without {len(lost)} whose videos are missing or cannot be read" in capsys.readouterr().out
    path.unlink()
    assert main(arguments) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["num_left_out"] == len(lost)


def test_predict_skips_unreadable_videos_only_on_request(broken, checkpoint):
    words, path, lost = broken
    rows = load_vtg_dataset("tacos", split="val", data_dir=words[5], video_dir=words[7])
    model, processor = (
        R2TuningForVideoGrounding.from_pretrained(checkpoint),
        R2TuningProcessor.from_pretrained(checkpoint),
    )
    with pytest.raises(ValueError, match=f"'{rows[0]['video_id']}' cannot be read: .*{path.name}.*: it is text"):
        list(predict(model.eval(), processor, rows, benchmark="tacos"))
    predictions = list(predict(model, processor, rows, benchmark="tacos", missing_videos="skip"))
    assert {row["qid"] for row in predictions} == set(rows["qid"]) - set(lost)


# ---- parts of Moving Shapes ----


def make_row(qid, family):
    saliency = {"times_sec": [[0.0, 2.0], [2.0, 4.0]], "scores": [[4, 4, 4], [0, 0, 0]]}
    row = {"qid": qid, "query": "a red circle", "video_id": "v", "duration_sec": 4.0, "domain": family}
    return {**row, "moments": [[0.0, 2.0]], "saliency": saliency}


def test_parts_are_scored_separately():
    """A query without a prediction counts as zero, in its own part and family only."""
    rows = [make_row("a", "place"), make_row("b", "size"), make_row("c", "motion"), make_row("d", "size")]
    answer = {"pred_relevant_windows": [[0.0, 2.0, 1.0]], "pred_saliency_scores": [1.0, 0.0]}
    scores = score_parts("moving_shapes", [{"qid": qid, **answer} for qid in ("a", "c", "d")], rows)
    found = {part: columns["R1@0.5"] for part, columns in scores.items()}
    assert found == {"all": 75, "main": 66.67, "hard": 100, "place": 100, "size": 50, "motion": 100}


def test_parts_with_absent_queries_have_the_columns_of_existence():
    """Each kind of absent query is compared with all present queries."""
    rows = [make_row("a", "place"), make_row("b", "motion"), make_row("c", "place/easy"), make_row("d", "motion/hard")]
    for row in rows[2:]:
        row.update(moments=[], saliency=None)
    probabilities = {"a": 0.9, "b": 0.4, "c": 0.1, "d": 0.6}
    answer = {"pred_relevant_windows": [[0.0, 2.0, 1.0]], "pred_saliency_scores": [1.0, 0.0]}
    without = [{"qid": qid, **answer} for qid in probabilities]
    scores = score_parts(
        "moving_shapes_absent", [{**line, "pred_exist_score": probabilities[line["qid"]]} for line in without], rows
    )
    found = {part: (columns["AUROC"], columns["R1@0.5"]) for part, columns in scores.items()}
    kinds = {"absent-easy": (100, 100), "absent-hard": (50, 100), "absent-binding": (None, 100)}
    families = {"main": (None, 100), "hard": (None, 100), "place": (100, 100), "motion": (0, 100)}
    assert found == {"all": (75, 100), **families, **kinds}
    assert scores["all"]["Rej-F1@0.5"] == 50
    columns = [set(each) for each in score_parts("moving_shapes_absent", without, rows).values()]
    assert all("AUROC" not in each for each in columns)


def test_a_checkpoint_with_an_existence_head_predicts_the_probability(processor, checkpoint):
    """Whatever the task of a query is; the number is the calibrated one."""
    tokenizer = processor.tokenizer
    model = random_model(tokenizer, use_existence_head=True)
    rated = random_processor(tokenizer)
    rated.existence_scale, rated.existence_bias = 2.0, 0.5
    video = {"path": str(checkpoint / "sample.mp4"), "bytes": None}
    row = {"query": "a", "video_id": "v", "video": video, "duration_sec": 20.0, "saliency": None, "moments": []}
    tasks = {"1": ["moment_retrieval"], "2": ["highlight_detection"]}
    rows = [{**row, "qid": qid, "task": task} for qid, task in tasks.items()]
    first, second = predict(model, rated, rows, benchmark="qvhighlights")
    answer = VideoGroundingPipeline(model=model, processor=rated)(video["path"], query="a", min_probability=None)
    assert first["pred_exist_score"] == pytest.approx(answer["probability"], abs=1e-5)
    assert second["pred_exist_score"] == pytest.approx(first["pred_exist_score"], abs=1e-5)
    assert first["pred_relevant_windows"]
    without = list(predict(random_model(tokenizer), rated, rows, benchmark="qvhighlights"))
    assert not any("pred_exist_score" in prediction for prediction in without)


def test_scores_are_recorded_only_beside_results_of_a_run(checkpoint):
    document = {"model": str(checkpoint), "benchmark": "moving_shapes", "split": "test", "domain": None}
    with pytest.raises(ValueError, match=r"`record` adds to the results of a training run on moving_shapes"):
        record(document)
