"""The metrics as `evaluate` modules, in fresh processes that keep their files to a temporary folder."""

import json
import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dataset_scripts/metrics"
IMPORT = """
import sys
sys.modules["transformers"] = None  # which evaluate would import, and torch with it
import evaluate
del sys.modules["transformers"]
"""
LOAD = """
import json
results = {}
for name, (path, configuration, predictions, references) in json.load(sys.stdin).items():
    metric = evaluate.load(path, configuration)
    for prediction, reference in zip(predictions, references):
        metric.add(prediction=prediction, reference=reference)
    results[name] = metric.compute(match_number=True)
    assert metric.compute(predictions=predictions, references=references) == results[name]
    assert metric.features["predictions"]["qid"].dtype == "string" and "@inproceedings" in metric.citation
    assert metric.description and "Examples" in metric.inputs_description
try:
    evaluate.load(path.replace("summarization", "highlight_detection"), "charades_sta")
except ValueError as error:
    results["refused"] = str(error)
assert "dataset_scripts" not in sys.modules  # the copies beside each module are all it needs
json.dump(results, sys.stdout)
"""
DOCTESTS = """
import doctest, importlib
for name in (".scoring", ".moment_retrieval", ".highlight_detection", ".summarization"):
    result = doctest.testmod(importlib.import_module("dataset_scripts.metrics" + name))
    assert result.attempted >= 3 and not result.failed, name
"""
PREDICTIONS = [
    {"qid": 1, "query": "x", "vid": "a", "pred_relevant_windows": None, "pred_saliency_scores": None},
    {
        "qid": 2,
        "vid": "b",
        "pred_relevant_windows": [[0, 4, 1], [9.5, 30.0, 0.3]],
        "pred_saliency_scores": [1, 0.5, 0],
    },
    {"qid": 3, "pred_relevant_windows": []},
]
REFERENCES = [
    {"qid": "1", "query": "a dog", "moments": [[0.0, 2.0], [4.0, 8.0]], "saliency": None, "domain": None},
    {"qid": "2", "query": "a cat", "moments": [[0.0, 4.0]], "saliency": {"times_sec": [[0, 2]], "scores": [[4]]}},
    {"qid": "3", "query": "a bird", "moments": None, "saliency": {"times_sec": [[0, 2]], "scores": [[4], [0], [0]]}},
]


JOBS = {
    "moments": ("moment_retrieval", None, PREDICTIONS, REFERENCES),
    "highlights": ("highlight_detection", None, PREDICTIONS, REFERENCES),
    "youtube": (
        "highlight_detection",
        "youtube_highlights",
        PREDICTIONS,
        [{"qid": str(n), "domain": "dog", "saliency": {"scores": [[1], [0], [-1]]}} for n in (1, 2, 3)],
    ),
    "summaries": (
        "summarization",
        None,
        PREDICTIONS,
        [{"qid": str(n), "domain": "BK", "saliency": {"scores": [[5, 1], [1, 1], [1, 3]]}} for n in (1, 2, 3)],
    ),
}


def run(code, folder, cwd, stdin=""):
    """Run `code` with the caches of Hugging Face in `folder`."""
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    command = [sys.executable, "-c", IMPORT + code]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, cwd=cwd)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def test_load_by_path_in_a_fresh_process(tmp_path):
    """Records as they are: other keys, numbers as ids, absent keys, nulls, any number of windows."""
    jobs = {name: (str(FOLDER / f"{file}.py"), *rest) for name, (file, *rest) in JOBS.items()}
    results = json.loads(run(LOAD, tmp_path, tmp_path, json.dumps(jobs)))
    assert results["moments"]["full"]["MR-mIoU"] == results["moments"]["full"]["MR-R1"]["0.5"] == 50
    assert results["highlights"]["HL-min-Fair"] == {"HL-mAP": 50, "HL-Hit1": 50}
    assert results["youtube"] == {"mAP-dog": 33.33, "mAP-average": 33.33}
    assert results["summaries"] == {"mAP-BK": 19.44, "mAP-average": 19.44}
    assert "got 'charades_sta'" in results["refused"]


def test_docstring_examples(tmp_path):
    run(DOCTESTS, tmp_path, ROOT)
