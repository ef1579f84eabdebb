"""`r2tuning train` on benchmarks that have no preset."""

import json
import re

import pytest
from training_samples import MODEL, as_arguments, reset_accelerate, write_benchmark

from r2tuning.training.config import read_config
from r2tuning.training.preparation import prepare_run
from r2tuning.training.run import DONE, main


# Where each benchmark expects its lines, which are in the form of QVHighlights
FILES = {
    "activitynet_captions": "activitynet_{split}_release.jsonl",
    "qv_m2": "{split}.jsonl",
    "soccer_gmr": "{split}.jsonl",
}
FPS = 0.5  # of the cached features


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Each run starts as in a process of its own."""
    reset_accelerate()


@pytest.fixture(scope="module")
def benchmark(tiny_clip, tmp_path_factory):
    return write_benchmark(tmp_path_factory.mktemp("benchmark"), tiny_clip)


@pytest.fixture
def arguments(benchmark, tmp_path):
    """Make the command line of a run on a benchmark."""

    def make(name, **changes):
        for split in ("train", "val"):
            rows = []
            for line in (benchmark["data-dir"] / f"highlight_{split}_release.jsonl").read_text().splitlines():
                rows.append({**json.loads(line), "action_type": "goal"})
            text = "\n".join(json.dumps(row) for row in rows)
            (tmp_path / FILES[name].format(split=split)).write_text(text)
        options = {**benchmark, "benchmark": name, "data-dir": tmp_path, "output-dir": tmp_path / "run"}
        del options["preset"]
        return as_arguments({**options, **changes})

    return make


def test_a_dry_run_on_activitynet_captions(arguments, capsys):
    assert main([*arguments("activitynet_captions"), "--dry-run"]) == DONE
    assert re.search(r"6 steps of \d+\.\d\d s in 2 epochs", capsys.readouterr().out)


@pytest.mark.parametrize(("name", "best_metric"), [("qv_m2", "MR-full-mAP"), ("soccer_gmr", "G-mIoU@1")])
def test_a_run_is_prepared_for_the_metric_of_the_benchmark(arguments, name, best_metric):
    changes = {"model": json.dumps({**MODEL, "fps": FPS}), "best-metric": best_metric}
    run = prepare_run(read_config(arguments(name, **changes)))
    assert run.model.config.window_sec == 150
    assert len(run.eval_rows) == 8


def test_the_scores_of_the_benchmark_are_named_where_the_best_metric_is_none_of_them(arguments):
    model = json.dumps({**MODEL, "fps": FPS})
    with pytest.raises(ValueError, match=r"`best_metric` must be one of .*G-mIoU@1.*, got 'MR-full-mAP'"):
        prepare_run(read_config(arguments("soccer_gmr", model=model)))
