"""`r2tuning evaluate --predictions` on the benchmarks that have evaluators of their own, and their submission files."""

import gzip
import json
import re
import shutil

import pytest
import retrieval_samples as samples
from annotation_samples import write_json, write_json_lines, write_text

from dataset_scripts import AnnotationError
from r2tuning.evaluation.run import format_scores, main
from r2tuning.evaluation.submissions import read_prediction_file
from r2tuning.hub.model_card import Results


def read_json(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return json.load(file)


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Run the command; returns its status, the scores in its JSON file, and what it printed."""

    def run(benchmark, predictions, data_dir, *options):
        output = tmp_path / "scores.json"
        words = ["--benchmark", benchmark, "--predictions", predictions, "--data-dir", data_dir, "--output", output]
        status = main([str(word) for word in [*words, *options]])
        printed = capsys.readouterr()
        scores = json.loads(output.read_text())["scores"] if status == 0 else None
        return status, scores, printed.out if status == 0 else printed.err

    return run


# ---- the figures of the public evaluators (`tests/metrics` compares all cases) ----


# Folder, case, ending and split, and one of the figures
PUBLIC = {
    "soccer_gmr": ("gmr", "noisy", ".jsonl.gz", "val", "71.04"),  # AUROC
    "qv_m2": ("qv_m2", "all_noisy", ".jsonl.gz", "val", "58.69"),  # G-mAP
    "tvr": ("tvr", "noisy", ".json.gz", "val", "80.00"),  # VCMR R100@0.5
    "vue_tr": ("vue_tr", "released_Vidi", ".json.gz", "test", "35.43"),  # AUC of IoU
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_predictions_score_as_published(shared_data, evaluate, tmp_path, name):
    folder, case, ending, split, figure = PUBLIC[name]
    expected = read_json(shared_data / "metrics" / folder / "expected.json")[case]
    path = shared_data / "metrics" / folder / f"{case}{ending}"
    options = ["--split", split, "--match-reference-code"]
    if name == "tvr":
        document = read_json(path)
        videos = read_json(shared_data / "tvr/tvr_video2dur_idx.json.gz")["val"]
        document["video2idx"] = {video: index for video, (_, index) in videos.items()}
        path = write_json(tmp_path / "submission", document)
        options.append("--shared-queries-only")  # the case has 250 of the queries
    status, scores, printed = evaluate(name, path, shared_data / name, *options)
    assert status == 0, printed
    assert {key: scores[key] for key in expected} == expected
    assert figure in printed.split()


# ---- forms of a prediction file ----


def perfect_soccer(row):
    windows = row["relevant_windows"]
    return {"qid": row["qid"], "pred_relevant_windows": windows, "pred_exist_score": float(windows != [])}


def perfect_qv_m2(row):
    return {"qid": row["qid"], "pred_relevant_windows": [[*window, 1.0] for window in row["relevant_windows"]]}


def perfect_tvr(row):
    return {"qid": row["desc_id"], "VCMR": [[row["vid_name"], *row["ts"]]], "VR": [row["vid_name"]]}


def perfect_timelens():
    records = []
    for source in ("charades", "activitynet", "qvhighlights"):
        for video_id, video in samples.timelens(source).items():
            for number, span in enumerate(video["spans"]):
                records.append({"qid": f"{video_id}_{number}", "pred_relevant_windows": [span]})
    return records


# Answers to the generated annotations in our form, without scores where those are optional
PERFECT = {
    "soccer_gmr": list(map(perfect_soccer, samples.soccer_rows("val"))),
    "qv_m2": list(map(perfect_qv_m2, samples.qv_m2_rows("val"))),
    "tvr": list(map(perfect_tvr, samples.tvr_rows("val"))),
    "vue_tr": [{"qid": row["query_id"], "pred_relevant_windows": row["gt"]} for row in samples.vue_rows()],
    "timelens_bench": perfect_timelens(),
}
BEST = {
    "soccer_gmr": {"AUROC": 100.0, "Rej-F1@0.4": 100.0, "mAP": 100.0},
    "qv_m2": {"MR-full-mAP": 100.0, "MR-full-mIoU@1": 100.0},
    "tvr": {"VCMR-R1@0.7": 100.0, "VR-R1": 100.0},
    "vue_tr": {"AUC-recall": 100.0},
    "timelens_bench": {"R1@0.7": 100.0, "mIoU": 100.0},
}


@pytest.mark.parametrize("name", BEST)
def test_perfect_predictions_score_best(evaluate, tmp_path, name):
    folder = samples.write_benchmark(name, tmp_path / "data")
    path = write_json_lines(tmp_path / "predictions.jsonl", PERFECT[name], compress=True)
    split = "val" if "val" in samples.SPLITS[name] else "test"
    status, scores, printed = evaluate(name, path, folder, "--split", split)
    assert status == 0, printed
    assert {key: scores["brief"][key] for key in BEST[name]} == BEST[name]
    assert "100.00" in printed


def test_one_source_of_timelens_bench_is_scored(evaluate, tmp_path):
    folder = samples.write_benchmark("timelens_bench", tmp_path / "data")
    records = [record for record in PERFECT["timelens_bench"] if record["qid"].startswith("charades")]
    path = write_json_lines(tmp_path / "predictions", records)
    status, scores, printed = evaluate("timelens_bench", path, folder, "--split", "test", "--domain", "charades")
    assert (status, scores["brief"]["mIoU"]) == (0, 100.0)
    assert "4 queries" in printed


def test_the_submission_files_of_tvr_and_vue_tr_are_read(tmp_path):
    document = {
        "video2idx": {"a": 5, "b": 6},
        "VCMR": [{"desc_id": 1, "predictions": [[6, 0.5, 2, 0.9]]}],
        "VR": [{"desc_id": 1, "predictions": [[5, 0, 0, 0.9]]}],
    }
    answers = [{"query_id": 3, "answer": [[0, 1], []], "task": "temporal_retrieval"}, {"query_id": 4, "answer": [[]]}]
    for indent in (None, 2):
        path = write_text(tmp_path / "tvr", json.dumps(document, indent=indent), compress=indent is None)
        assert read_prediction_file(path, "tvr") == [{"qid": "1", "VCMR": [["b", 0.5, 2]], "VR": ["a"]}]
        path = write_text(tmp_path / "vue", json.dumps(answers, indent=indent))
        expected = [{"qid": 3, "pred_relevant_windows": [[0, 1]]}, {"qid": 4, "pred_relevant_windows": []}]
        assert read_prediction_file(path, "vue_tr") == expected
    path = write_json_lines(tmp_path / "lines", answers)
    assert read_prediction_file(path, "vue_tr") == expected


def test_the_other_benchmarks_read_lines_with_scores_alone(tmp_path):
    path = write_json_lines(tmp_path / "lines", [{"qid": 1, "pred_relevant_windows": [[0, 1]]}])
    assert read_prediction_file(path, "soccer_gmr")[0]["pred_relevant_windows"] == [[0, 1]]
    for name in ("qvhighlights", "qv_m2", "activitynet_captions"):
        with pytest.raises(AnnotationError, match=r"line 1: .* expected a \[start, end, score\] triple"):
            read_prediction_file(path, name)


GOOD = {"qid": 0, "pred_relevant_windows": [[0, 1]]}
TVR = {"video2idx": {"a": 5}, "VCMR": [{"desc_id": 1, "predictions": [[5, 0, 1]]}]}
MALFORMED = [
    ("soccer_gmr", f"{json.dumps(GOOD)}\n{{", "line 2, column 2: found broken JSON"),
    ("soccer_gmr", f"{json.dumps(GOOD)}\n[1]", r"line 2: found \[1\], expected an object"),
    ("soccer_gmr", "{", "line 1, column 2: found broken JSON"),
    ("soccer_gmr", json.dumps([GOOD, {"qid": 1.5}]), "record 1: `qid` is 1.5"),
    ("soccer_gmr", json.dumps([{**GOOD, "pred_relevant_windows": [[1]]}]), r"`pred_relevant_windows\[0\]` is \[1\]"),
    ("soccer_gmr", json.dumps([{**GOOD, "pred_relevant_windows": [[1, "2"]]}]), "of numbers"),
    ("soccer_gmr", json.dumps([{**GOOD, "pred_relevant_windows": [[]]}]), r"\[0\]` is \[\], expected \[start, end\]"),
    ("soccer_gmr", json.dumps([{**GOOD, "pred_relevant_windows": 1}]), "is 1, expected a list of"),
    ("soccer_gmr", json.dumps([{**GOOD, "pred_saliency_scores": [None]}]), "expected a number"),
    ("vue_tr", json.dumps([{"query_id": 0, "answer": [[1]]}]), r"record 0: `answer\[0\]` is \[1\], expected \[start"),
    ("vue_tr", json.dumps([{"query_id": 0, "answer": None}]), "`answer` is None, expected a list of"),
    ("vue_tr", json.dumps([{"query_id": None, "answer": []}]), "record 0: `qid` is missing"),
    (
        "vue_tr",
        json.dumps([{"query_id": [1], "answer": []}]),
        r"record 0: `query_id` is \[1\], expected a whole number",
    ),
    (
        "vue_tr",
        json.dumps({"a": 1}, indent=1),
        "found a JSON document of another form, expected a list of predictions",
    ),
    ("vue_tr", "[1]", "record 0: found 1, expected an object"),
    ("tvr", json.dumps({**TVR, "video2idx": ["a"]}), r"`video2idx` is \['a'\], expected an object"),
    ("tvr", json.dumps({"video2idx": {"a": 5}}), "`VCMR` is missing, expected one or several of VCMR, SVMR, VR"),
    ("tvr", json.dumps({**TVR, "VCMR": {}}), r"`VCMR` is \{\}, expected a list of predictions"),
    ("tvr", json.dumps({**TVR, "VR": [3]}), r"VR\[0\]: found 3, expected an object"),
    ("tvr", json.dumps({**TVR, "VR": [{"predictions": []}]}), r"VR\[0\]: `desc_id` is missing"),
    ("tvr", json.dumps({**TVR, "VR": [{"desc_id": 1}]}), r"VR\[0\]: `predictions` is missing, expected a list"),
    ("tvr", json.dumps({**TVR, "VR": [{"desc_id": 1, "predictions": [["a"]]}]}), r"`predictions\[0\]` is \['a'\]"),
    ("tvr", json.dumps({**TVR, "VR": [{"desc_id": 1, "predictions": [[6]]}]}), "with indices of `video2idx`"),
]


@pytest.mark.parametrize(("name", "text", "message"), MALFORMED)
def test_a_malformed_file_is_an_error_that_names_the_place(tmp_path, name, text, message):
    path = write_text(tmp_path / "predictions", text)
    with pytest.raises(AnnotationError, match=message) as error:
        read_prediction_file(path, name)
    assert str(error.value).startswith(str(path))


def test_an_error_is_one_line_of_the_command(evaluate, tmp_path):
    folder = samples.write_benchmark("tvr", tmp_path / "data")
    path = write_text(tmp_path / "predictions", json.dumps(TVR))
    status, _, printed = evaluate("tvr", path, folder)
    assert status == 2
    assert printed.splitlines()[-1].startswith("run_evaluation: error: ")
    assert "Traceback" not in printed


# ---- what is printed and written ----


def test_a_figure_without_queries_is_null_in_the_file_and_a_dash_in_the_table(evaluate, tmp_path):
    """The public code of TVR gives NaN for a type without queries, which JSON does not have."""
    rows = [row for row in samples.tvr_rows("val") if row["type"] != "vt"]
    folder = tmp_path / "data"
    write_json_lines(folder / "tvr_val_release.jsonl", rows)
    records = [{"qid": row["desc_id"], "VR": [row["vid_name"]]} for row in rows]
    path = write_json_lines(tmp_path / "predictions", records)
    status, scores, printed = evaluate("tvr", path, folder, "--match-reference-code")
    assert status == 0, printed
    assert scores["VR_by_type"]["vt-r1"] is None
    assert printed.splitlines()[-1].split() == ["vt", "-", "-", "-", "-"]


@pytest.mark.parametrize("options", [[], ["--match-reference-code"]])
def test_a_range_of_qv_m2_without_a_query_is_printed_as_dashes(evaluate, tmp_path, options):
    folder = samples.write_benchmark("qv_m2", tmp_path / "data")
    path = write_json_lines(tmp_path / "predictions", PERFECT["qv_m2"])
    status, _, printed = evaluate("qv_m2", path, folder, *options)
    assert status == 0, printed
    lines = [line.split() for line in printed.splitlines()]
    assert [line[1] for line in lines if line and line[0] == "short"] == ["100.00", "100.00"]
    assert [line[1:] for line in lines if line and line[0] == "long"] == [["-"] * 4, ["-"] * 6]


def test_groups_of_vue_tr_are_printed_in_the_order_of_their_categories(evaluate, tmp_path):
    folder = samples.write_benchmark("vue_tr", tmp_path / "data")
    path = write_json_lines(tmp_path / "predictions", PERFECT["vue_tr"])
    _, _, printed = evaluate("vue_tr", path, folder, "--split", "test")
    first_words = [line.split()[0] for line in printed[printed.index("AUC") :].splitlines()]
    assert first_words == [
        "AUC",
        "overall",
        "ultra-short",
        "ultra-long",
        "keyword",
        "phrase",
        "vision",
        "vision+audio",
    ]


def test_tables_of_the_other_benchmarks_are_unchanged():
    scores = {"brief": {"mAP-dog": 50.0, "mAP-average": 50.0}}
    document = {"benchmark": "tvsum", "split": "val", "num_queries": 1, "num_left_out": 0, "scores": scores}
    lines = ["tvsum val, 1 queries", "", "domain     mAP", "dog      50.00", "average  50.00"]
    assert format_scores(document) == "\n".join(lines) + "\n"


# ---- checkpoints ----


@pytest.mark.parametrize(
    ("name", "score", "measure"),
    [
        ("soccer_gmr", "G-mIoU@1", "G-mIoU@1"),
        ("tvr", "SVMR-R1@0.5", "R1@0.5"),
        ("vue_tr", "AUC-IoU", "AUC-IoU"),
        ("qv_m2", "MR-full-mAP", "mAP"),
    ],
)
def test_scores_of_a_checkpoint_are_recorded_in_its_card(checkpoint, tmp_path, capsys, name, score, measure):
    """It grounds the queries of each benchmark in its video, and the saved predictions have the same scores."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    split = "val" if "val" in samples.SPLITS[name] else "test"
    Results(name, split, {score: 12.5}).save(folder)
    data_dir = write_about_one_video(name, tmp_path / "data", "sample")
    saved, output = tmp_path / "predictions.jsonl", tmp_path / "scores.json"
    data = ["--benchmark", name, "--split", split, "--data-dir", data_dir, "--output", output]
    model = ["--model", folder, "--video-dir", folder, "--device", "cpu", "--save-predictions", saved, "--record"]
    assert main([str(word) for word in [*data, *model]]) == 0, capsys.readouterr().err
    scores = json.loads(output.read_text())["scores"]
    card = (folder / "README.md").read_text()
    assert f"The same weights on the `{split}` split" in card
    assert score in card
    assert f" {scores['brief'][score]:.2f} " in card
    assert f"type: {measure}\n" in card
    assert main([str(word) for word in [*data, "--predictions", saved]]) == 0, capsys.readouterr().err
    assert json.loads(output.read_text())["scores"] == scores


def write_about_one_video(name, folder, video_id):
    """The generated annotations of a benchmark, all about the same video."""
    samples.write_benchmark(name, folder)
    for path in folder.rglob("*.json*"):
        text = path.read_text()
        for field in ("vid", "vid_name", "video_id"):
            text = re.sub(rf'"{field}": "[^"]*"', f'"{field}": "{video_id}"', text)
        path.write_text(text)
    return folder
