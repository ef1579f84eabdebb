"""Damaged prediction files, and ones in another encoding or form: the error is one line that names file and line."""

import gzip
import json
import random

import annotation_samples as samples
import pytest
import retrieval_samples

from dataset_scripts import AnnotationError, load_vtg_dataset
from dataset_scripts.loading import find_builder
from r2tuning.evaluation import run as run_evaluation
from r2tuning.evaluation.predictions import read_predictions
from r2tuning.evaluation.submissions import read_prediction_file
from r2tuning.features import run as run_feature_extraction
from r2tuning_cli.spelling import spell_options


GOOD = {"qid": 1, "vid": "v1", "pred_relevant_windows": [[4, 8, 0.9]], "pred_saliency_scores": [0, 0, 1, 1, 0]}
LINE = json.dumps(GOOD)


def changed(**fields):
    return json.dumps({**GOOD, **fields})


# The second of two lines, and what the error says about it
BAD_LINES = {
    "cut": (LINE[:-9], r"column \d+: found broken JSON"),
    "Latin-1": (
        LINE.encode().replace(b"v1", b"v\xf6"),
        r"found byte b'\\xf6' at position \d+, expected text in UTF-8",
    ),
    "endless nesting": ("[" * 100_000, "found JSON that cannot be used"),
    "an endless number": (changed(qid=7).replace("7", "7" * 5000), "found JSON that cannot be used"),
    "a list": ("[1, 2]", r"found \[1, 2\], expected an object with named fields"),
    "a scalar": ("0.5", "found 0.5, expected an object with named fields"),
    "a duplicate key": (LINE[:-1] + ', "qid": 2}', "the key 'qid' occurs more than once"),
    "no id": (json.dumps({"pred_relevant_windows": []}), "`qid` is missing, expected a whole number or a text"),
    "float qid": (changed(qid=1.0), "`qid` is 1.0, expected a whole number or a text"),
    "object as qid": (changed(qid={"a": 1}), "`qid` is {'a': 1}, expected a whole number or a text"),
    "float vid in its place": (changed(qid=None, vid=1.0), "`vid` is 1.0"),
    "scalar windows": (changed(pred_relevant_windows=0.5), "`pred_relevant_windows` is 0.5, expected a list of"),
    "windows as an object": (changed(pred_relevant_windows={"0": [0, 1, 1]}), "`pred_relevant_windows` is {"),
    "one window": (
        changed(pred_relevant_windows=[4, 8, 0.9]),
        r"`pred_relevant_windows\[0\]` is 4, expected a \[start",
    ),
    "window without score": (changed(pred_relevant_windows=[[4, 8]]), r"`pred_relevant_windows\[0\]` is \[4, 8\]"),
    "NaN": (changed(pred_relevant_windows=[[4, 8, float("nan")]]), r"`pred_relevant_windows\[0\]` is \[4, 8, nan\]"),
    "400 digits": (changed(pred_relevant_windows=[[4, 10**400, 1]]), r"`pred_relevant_windows\[0\]` is \[4, 1000"),
    "scalar scores": (changed(pred_saliency_scores=1), "`pred_saliency_scores` is 1, expected a list of numbers"),
    "nested scores": (
        changed(pred_saliency_scores=[[1], [2]]),
        r"`pred_saliency_scores\[0\]` is \[1\], expected a num",
    ),
    "scores as a text": (changed(pred_saliency_scores="0110"), "`pred_saliency_scores` is '0110'"),
    "existence as a text": (changed(pred_exist_score="0.5"), "`pred_exist_score` is '0.5', expected a number"),
    "NaN as existence": (changed(pred_exist_score=float("nan")), "`pred_exist_score` is nan, expected a number"),
    "true as existence": (changed(pred_exist_score=True), "`pred_exist_score` is True, expected a number"),
    "two scores of existence": (
        changed(pred_exist_score=[0.5, 0.5]),
        r"`pred_exist_score` is \[0.5, 0.5\], expected a num",
    ),
    "text in scores": (changed(pred_saliency_scores=["0.5"]), r"`pred_saliency_scores\[0\]` is '0.5', expected a num"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_an_invalid_line_is_reported(tmp_path, case):
    bad, message = BAD_LINES[case]
    path = tmp_path / "preds.jsonl"
    path.write_bytes(LINE.encode() + b"\n" + (bad if isinstance(bad, bytes) else bad.encode()))
    with pytest.raises(AnnotationError, match=f"preds.jsonl, line 2[:,] .*{message}"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (gzip.compress(b"\n", mtime=0), "found an empty file"),
        (LINE.encode("utf-16"), "line 1: found text in UTF-16"),
        (gzip.compress(f"{LINE}\n".encode(), mtime=0)[:-20], "line [12]: found a broken gzip file"),
        (gzip.compress(f"{LINE}\n".encode(), mtime=0)[:-4] + b"xxxx", "line 2: found a broken gzip file"),
        (b"\x1f\x8b", "line 1: found a broken gzip file"),
    ],
)
def test_an_invalid_file_is_reported(tmp_path, content, message):
    path = tmp_path / "preds.jsonl"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=f"preds.jsonl.*{message}"):
        read_predictions(path)


@pytest.mark.parametrize("packed", [False, True])
def test_valid_lines_are_returned_unchanged(tmp_path, packed):
    """With a byte order mark, blank lines, missing parts, more moments than are scored, and other fields."""
    rows = [GOOD, {"vid": "v"}, {"qid": "x", "extra": {"a": None}, "pred_relevant_windows": [[0, 1, 2]] * 40}]
    rows += [{**GOOD, "pred_exist_score": score} for score in (0, 0.25, -3.5, None)]
    text = "\ufeff" + "\r\n\n".join(map(json.dumps, rows))
    assert read_predictions(samples.write_text(tmp_path / "preds", text, packed)) == rows


# ---- the command ----


ANNOTATION = {"qid": 1, "query": "a", "duration": 20, "vid": "v1", "relevant_windows": [[4, 8]]}
RATED = {**ANNOTATION, "relevant_clip_ids": [2, 3], "saliency_scores": [[4], [3]]}


def evaluate(tmp_path, capsys, predictions, annotations=(RATED,), *options):
    """Exit status, standard output and standard error of `train/run_evaluation.py`."""
    path = tmp_path / "preds.jsonl"
    path.write_text(predictions)
    samples.write_json_lines(tmp_path / "highlight_val_release.jsonl", annotations)
    words = ["--predictions", path, "--benchmark", "qvhighlights", "--data-dir", tmp_path, *options]
    return (run_evaluation.main([str(word) for word in words]), *capsys.readouterr())


@pytest.mark.parametrize("case", ["endless nesting", "scalar windows", "float qid", "cut"])
def test_the_command_reports_the_error_in_one_line(tmp_path, capsys, case):
    status, _, error = evaluate(tmp_path, capsys, BAD_LINES[case][0])
    assert status == 2
    assert error.splitlines()[-1].startswith(f"run_evaluation: error: {tmp_path}/preds.jsonl, line 1")
    assert "Traceback" not in error


def test_saliency_of_a_single_annotator_is_scored(tmp_path, capsys):
    """A query without a relevant clip has as many scores a clip as the others, which counts as nothing found."""
    unrated = {**RATED, "qid": 2, "vid": "v2", "relevant_clip_ids": [], "saliency_scores": []}
    predictions = f"{LINE}\n{changed(qid=2, vid='v2')}"
    for annotations in ([RATED, unrated], [unrated, RATED]):
        status, output, error = evaluate(tmp_path, capsys, predictions, annotations)
        assert status == 0, error
        table = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
        assert table["VeryGood"] == ["25.00", "50.00"]
        rows = load_vtg_dataset("qvhighlights", split="val", data_dir=tmp_path)
        assert {len(scores) for row in rows for scores in row["saliency"]["scores"]} == {1}


def test_scores_of_existence_have_a_table(tmp_path, capsys):
    absent = {**RATED, "qid": 2, "relevant_windows": [], "relevant_clip_ids": [], "saliency_scores": []}
    other = {**absent, "qid": 3}
    scores = {1: 0.9, 2: 0.2, 3: 0.9}
    lines = [changed(qid=qid, pred_exist_score=score) for qid, score in scores.items()]
    output_path = tmp_path / "scores.json"
    options = ("--output", output_path)
    status, output, error = evaluate(tmp_path, capsys, "\n".join(lines), (RATED, absent, other), *options)
    assert status == 0, error
    # Of two pairs of a present and an absent query, one is ordered and one equal. Of two absent queries one is rejected.
    # Two queries with 0.9, half of them present, are 0.4 too high; one with 0.2, which is absent, 0.2.
    table = output.partition("existence")[2].splitlines()
    assert table[0].split() == ["AUROC", "FAR@95", "ECE", "Rej-F1@0.5"]
    assert table[1].split() == ["all", "75.00", "50.00", f"{100 * (2 * 0.4 + 0.2) / 3:.2f}", f"{100 * 2 / 3:.2f}"]
    brief = json.loads(output_path.read_text())["scores"]["brief"]
    assert (brief["EX-AUROC"], brief["MR-full-R1@0.5"]) == (75, 100)
    assert "existence" not in evaluate(tmp_path, capsys, LINE)[1]


def test_three_annotators_are_assumed_without_any_score(tmp_path):
    path = samples.write_json_lines(tmp_path / "rows", [{**RATED, "relevant_clip_ids": [], "saliency_scores": []}])
    [row] = load_vtg_dataset("qvhighlights", split="val", data_files=path)
    assert row["saliency"]["scores"] == [[0.0] * 3] * 10


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (
            [],
            "`--predictions` holds queries that `references` lacks: '9'. Check the split, or pass `--shared-queries-only`",
        ),
        (["--split", "train"], "Pass a file of another name as `--data-file`."),
        (["--split", "dev"], "`--split` of qvhighlights must be one of"),
        (["--video-dir", "."], "Add them, or pass `--missing-videos skip` to leave their examples out."),
        (["--domain", "dog"], "qvhighlights has no domains; leave out `--domain`"),
    ],
)
def test_advice_names_the_options_of_the_command(tmp_path, capsys, monkeypatch, options, advice):
    monkeypatch.chdir(tmp_path)
    status, _, error = evaluate(tmp_path, capsys, changed(qid=9), [RATED], *options)
    assert status == 2
    assert advice in error


def test_the_extraction_gives_the_same_advice(tmp_path, capsys):
    samples.write_charades_sta(tmp_path, durations=False)
    words = [
        "--benchmark",
        "charades_sta",
        "--data-dir",
        tmp_path,
        "--video-dir",
        tmp_path,
        "--output",
        tmp_path / "out",
    ]
    assert run_feature_extraction.main([str(word) for word in words]) == 2
    assert "or pass `--missing-videos skip`" in capsys.readouterr().err


def test_fields_of_a_file_are_not_taken_for_options():
    """A field may have the name of an option."""
    error = AnnotationError("f, line 1: `domain` is 'x', expected 'y'; see\n `domain`, `qid` or `match_number=False`")
    assert (
        spell_options(error, {"domain": "--domain", "match_number=False": "--shared"})
        == "f, line 1: `domain` is 'x', expected 'y'; see `--domain`, `qid` or `--shared`"
    )


# ---- bytes changed at random ----

FUZZ = 25
INSERTED = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"[",
    b"{}",
    b"\n",
    b"1e999",
    b"9" * 400,
    b"null",
    b"-",
    b"\\ud800",
    b"NaN",
]


def mutate(data, draw):
    """A few bytes replaced by others, or the rest cut off."""
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(data) + 1)
        data = data[:start] + draw.choice(INSERTED) + data[start + draw.randint(0, 4) :]
    return data if draw.random() < 0.9 else data[: draw.randrange(len(data) + 1)]


def error_of(read, path, data):
    """The error about changed bytes; `None` if they can still be read."""
    path.write_bytes(data)
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("packed", [False, True])
def test_any_prediction_file_is_read_or_reported(tmp_path, packed):
    draw = random.Random(0)
    data = f"{LINE}\n{changed(qid='a', vid='ä')}\n".encode()
    data = gzip.compress(data, mtime=0) if packed else data
    for _ in range(300):
        error = error_of(read_predictions, tmp_path / "preds", mutate(data, draw))
        assert error is None or str(tmp_path / "preds") in error


@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for name, forms in samples.FORMS.items() for form in forms if form != "folders"]
)
def test_any_annotation_file_is_read_or_reported(tmp_path, name, form):
    folder, split = samples.write_benchmark(name, tmp_path, form), samples.SPLITS[name][-1]
    path = next(folder / name for name in find_builder(name).FILES[split] if (folder / name).is_file())
    draw, data = random.Random(f"{name} {form}"), path.read_bytes()

    def read(path):
        load_vtg_dataset(name, split=split, data_files=path, data_dir=folder, on_error=draw.choice(["raise", "skip"]))

    for _ in range(FUZZ):
        error = error_of(read, path, mutate(data, draw))
        assert error is None or str(path) in error


@pytest.mark.parametrize("name", retrieval_samples.WRITERS)
def test_any_annotation_file_of_the_retrieval_benchmarks_is_read_or_reported(tmp_path, name):
    folder, split = retrieval_samples.write_benchmark(name, tmp_path), retrieval_samples.SPLITS[name][-1]
    path = next(folder / name for name in find_builder(name).FILES[split] if (folder / name).is_file())
    draw, data = random.Random(name), path.read_bytes()

    def read(path):
        load_vtg_dataset(name, split=split, data_files=path, on_error=draw.choice(["raise", "skip"]))

    for _ in range(8):
        error = error_of(read, path, mutate(data, draw))
        assert error is None or str(path) in error


SUBMISSIONS = {
    "soccer_gmr": f"{LINE}\n{changed(qid=2, pred_relevant_windows=[[1, 2]])}",
    "vue_tr": json.dumps([{"query_id": 3, "answer": [[0, 1], []]}, {"query_id": 4, "answer": [[]]}], indent=1),
    "tvr": json.dumps({"video2idx": {"a": 5}, "VCMR": [{"desc_id": 1, "predictions": [[5, 0.5, 2, 0.9]]}]}),
}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_any_submission_is_read_or_reported(tmp_path, name):
    draw, path = random.Random(name), tmp_path / "submission"
    for _ in range(200):
        error = error_of(lambda path: read_prediction_file(path, name), path, mutate(SUBMISSIONS[name].encode(), draw))
        assert error is None or str(path) in error
