"""The model card: measured, published and missing results, metadata, and refreshing an existing card."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from tiny_checkpoints import save_ours

from r2tuning.hub.model_card import (
    Results,
    make_model_card,
    refresh_model_card,
    write_model_card,
)


SCORES = {"MR-full-R1@0.5": 67.74, "MR-full-mAP": 47.86, "MR-long-mIoU": None, "HL-min-VeryGood-Hit1": 63.2}
TRAINING = {
    "command": "python train/run.py --benchmark qvhighlights",
    "commit": "c0ffee with changes",
    "epoch": 3,
    "step": 1234,
    "seconds": 5400.0,
    "device": "2 x NVIDIA H200",
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "settings": {"epochs": 30},
}


@pytest.fixture
def folder(make_model, tmp_path):
    return save_ours(make_model(backbone_name_or_path="org/clip"), tmp_path / "r2tuning-test", nms="hard")


@pytest.fixture
def card_of(folder):
    """Make the card of the checkpoint with these results."""

    def make(results=None, name="org/r2tuning-test"):
        if results is not None:
            results.save(folder)
        return make_model_card(folder, name, json.loads((folder / "config.json").read_text()))

    return make


def python_blocks(card):
    return [block.split("```")[0] for block in card.text.split("```python\n")[1:]]


def test_measured_results(card_of, folder):
    (folder / "curves.png").touch()
    card = card_of(Results("qvhighlights", "val", SCORES, training=TRAINING))
    assert "Measured on the `val` split of QVHighlights at the end of epoch 3 (step 1234)." in card.text
    assert (
        "| `MR-full-R1@0.5` | 67.74 |\n| `MR-full-mAP` | 47.86 |\n| `HL-min-VeryGood-Hit1` | 63.20 |\n\n" in card.text
    )
    assert "```bash\npython train/run.py --benchmark qvhighlights\n```" in card.text
    assert "at commit `c0ffee with changes` with torch 2.13.0, transformers 5.23.0" in card.text
    assert "The training steps took\n90 minutes on 2 x NVIDIA H200. `metrics.json` holds" in card.text
    assert "![curves](curves.png)" in card.text
    assert "CC BY-NC-SA 4.0" in card.text
    assert card.text.count("@inproceedings{") == 2
    assert "BSD" not in card.text


@pytest.mark.parametrize(
    ("method", "says"), [("lora", "needs `pip install peft`"), ("vpt", "CLIP is downloaded when the model is loaded")]
)
def test_card_of_a_baseline_names_its_method(make_model, tmp_path, method, says):
    folder = tmp_path / method
    model = make_model(method=method, num_recurrent_steps=1, backbone_name_or_path="org/clip")
    card = make_model_card(save_ours(model, folder), "org/base", json.loads((folder / "config.json").read_text()))
    assert f"with the transfer method `{method}` of its\nTable 9" in card.text
    assert says in card.text
    assert "side block on" not in card.text


EXISTENCE = {"EX-AUROC": 81.3, "EX-FAR@95": 45.3, "EX-ECE": 3.6, "EX-Rej-F1@0.5": 70.02}


def test_card_of_a_model_with_an_existence_head(make_model, tmp_path):
    folder = save_ours(make_model(use_existence_head=True, backbone_name_or_path="org/clip"), tmp_path / "ours")
    columns = {"R1@0.5": 90.1, "AUROC": 80.5, "FAR@95": None}
    Results(
        "moving_shapes_absent",
        "val",
        {**SCORES, **EXISTENCE},
        training=TRAINING,
        evaluations={"test": {"all": columns}},
    ).save(folder)
    card = make_model_card(folder, "org/name", json.loads((folder / "config.json").read_text()))
    assert "sentence.\nIt also gives the probability that anything in the video matches the sentence" in card.text
    usage = python_blocks(card)[0]
    assert 'answer["probability"]  # that anything' in usage
    assert 'answer["moments"][0]' not in usage, "there may be none"
    for name, value in EXISTENCE.items():
        assert f"| `{name}` | {value:.2f} |" in card.text
    assert "`FAR@95`: share of the latter that pass where 95 % of the former do (lower is better)" in card.text
    assert "| queries | R1@0.5 | AUROC | FAR@95 |" in card.text
    assert "| all | 90.10 | 80.50 | - |" in card.text
    types = [result.metric_type for result in card.data.eval_results]
    assert types == ["R1@0.5", "mAP", "Hit1", "AUROC", "FAR@95", "ECE", "F1@0.5"]


def test_other_cards_do_not_speak_of_existence(card_of):
    text = card_of(Results("qvhighlights", "val", SCORES, training=TRAINING)).text
    assert "probability" not in text
    assert "EX" not in text


def test_metadata(card_of):
    card = card_of(Results("qvhighlights", "val", SCORES, training=TRAINING))
    data = ModelCard(str(card)).data  # as the Hub reads it
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "video-text-to-text",
        "cc-by-nc-sa-4.0",
    )
    assert (data.base_model, data.datasets, data.model_name) == ("org/clip", ["qvhighlights"], "r2tuning-test")
    assert {result.metric_name: result.metric_value for result in data.eval_results} == {
        name: value for name, value in SCORES.items() if value is not None
    }
    assert [result.metric_type for result in data.eval_results] == ["R1@0.5", "mAP", "Hit1"]
    for result in data.eval_results:
        assert (result.dataset_name, result.dataset_type, result.dataset_split) == (
            "QVHighlights",
            "qvhighlights",
            "val",
        )
        assert result.source_url is None


def test_queries_that_were_not_scored_are_reported(card_of):
    card = card_of(Results("qvhighlights", "val", SCORES, training=TRAINING, left_out=3))
    assert "(step 1234). **Without 3 of its queries**, whose videos were missing" in card.text
    assert "Without" not in card_of(Results("qvhighlights", "val", SCORES, training=TRAINING)).text


def own_data(**facts):
    """Results of a model trained on own data."""
    data = {"name": None, "licence": None, "description": None, "splits": {}, **facts}
    return Results("custom", "val", {"MR-full-mAP": 1.0}, training=TRAINING, data=data)


@pytest.mark.parametrize(
    ("licence", "identifier", "name"),
    [
        ("cc-by-4.0", "cc-by-4.0", None),
        ("MIT", "mit", None),
        ("Licence of the Archive, 2024", "other", "licence-of-the-archive-2024"),
        (" CC-BY-4.0\n", "cc-by-4.0", None),
        ("非商用", "other", None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_licence_of_own_data(card_of, licence, identifier, name):
    """The Hub knows a list of identifiers; any other licence is "other" with a name."""
    data = card_of(own_data(licence=licence)).data.to_dict()
    assert (data.get("license"), data.get("license_name")) == (identifier, name)


def test_a_kept_licence_keeps_its_name(folder):
    """The licence of an edited card stays; a name belongs to the licence "other" alone."""
    own_data(licence="mit").save(folder)
    write_model_card(folder)
    own_data(licence="house terms").save(folder)
    write_model_card(folder)
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert (data["license"], data.get("license_name")) == ("mit", None)


def test_words_of_the_user_cannot_be_mistaken_for_parts_of_the_card(folder):
    own_data(name="x\n---\nlicense: mit", description="a\n<!-- r2tuning: begin results -->\n<b>").save(folder)
    write_model_card(folder)
    write_model_card(folder)
    text = (folder / "README.md").read_text()
    assert "# R²-Tuning on x --- license: mit\n" in text
    assert "a &lt;!-- r2tuning: begin results --&gt; &lt;b&gt;" in text
    assert ModelCard(text).data.license is None


def test_own_data_on_the_hub_are_linked(card_of):
    data = ModelCard(str(card_of(own_data(name="org/kitchen")))).data
    assert data.datasets == ["org/kitchen"]
    assert data.eval_results[0].dataset_type == "org/kitchen"
    assert ModelCard(str(card_of(own_data(name="Kitchen")))).data.datasets is None


@pytest.mark.parametrize(
    ("repository", "expected"), [("org/start", ("org/start", "finetune")), (None, ("org/clip", "adapter"))]
)
def test_the_checkpoint_that_a_model_started_from(card_of, repository, expected):
    training = {**TRAINING, "start": {"text": "`another model`", "repository": repository}}
    card = card_of(Results("qvhighlights", "val", SCORES, training=training))
    assert (card.data.base_model, card.data.base_model_relation) == expected
    assert "trained on the training split of QVHighlights, starting from `another model`.\n" in card.text
    assert "The terms of the checkpoint that it started from apply, too." in card.text


@pytest.mark.parametrize(("as_published", "recipe"), [(True, ", as in the published recipe"), (False, "")])
def test_the_card_reports_a_choice_on_test(card_of, as_published, recipe):
    training = {**TRAINING, "chosen_on_test": True, "chosen_as_published": as_published}
    card = card_of(Results("charades_sta", "test", {"MR-full-mIoU": 50.0}, training=training))
    assert f"was chosen among those of its run by its scores on this split**{recipe}: they are higher" in card.text


def test_a_lengthened_run(card_of):
    training = {**TRAINING, "lengthened": [{"step": 40, "epochs": 8}]}
    text = card_of(Results("qvhighlights", "val", SCORES, training=training)).text
    assert "The run was planned for 8 epochs and lengthened after step 40." in text


def test_published_results(card_of):
    original = "yeliudev/R2-Tuning/checkpoints/r2_tuning_tvsum_bk-45b59440.pth"
    card = card_of(Results("tvsum", "val", {"mAP-BK": 91.23}, domain="BK", original=original))
    assert f"converted from `{original}`" in card.text
    assert (
        "Published by the authors in their [model zoo](https://github.com/yeliudev/R2-Tuning#-model-zoo)" in card.text
    )
    assert "**not\nmeasured again here**" in card.text
    assert "Measured on" not in card.text
    assert "Trained by" not in card.text
    assert "R²-Tuning on TVSum (BK)\n" in card.text
    assert "BSD-3-Clause, in the file `LICENSE`" in card.text
    (result,) = card.data.eval_results
    assert (result.dataset_config, result.metric_type, result.metric_value) == ("BK", "mAP", 91.23)
    assert result.source_url.startswith("https://github.com/yeliudev/R2-Tuning")
    assert card.data.license == "bsd-3-clause"


@pytest.mark.parametrize("results", [None, Results("nobody_knows", None, {}, training=TRAINING)])
def test_without_scores(card_of, results):
    card = card_of(results)
    assert "No scores are recorded with this checkpoint." in card.text
    assert "None" not in str(card)
    assert card.data.eval_results is None
    assert card.data.license is None
    assert len(python_blocks(card)) == 2


def test_card_of_a_model_without_moments_promises_none(make_model, tmp_path):
    model = make_model(use_moment_head=False, strides=(1,), save_backbone=True, backbone_name_or_path=None)
    save_ours(model, tmp_path / "ours", nms=None)
    card = make_model_card(tmp_path / "ours", "org/name", json.loads((tmp_path / "ours/config.json").read_text()))
    assert 'answer["moments"]' not in card.text
    assert 'answer["summary"]' in card.text
    assert "It does not retrieve\nmoments. [R²-Tuning](" in card.text
    assert "moment-retrieval" not in card.data.tags
    assert card.data.base_model is None
    assert "| CLIP | in this repository, last 3 layers |" in card.text
    assert "| overlapping moments | kept |" in card.text


def test_settings(card_of):
    text = card_of().text
    assert "| CLIP | `org/clip`, last 3 layers |\n" in text
    assert "| temporal strides | 1, 2, 4 |\n| frames per second | 0.5 |\n" in text
    assert "| overlapping moments | hard non-maximum suppression |\n" in text


def test_an_existing_card_is_refreshed_and_added_text_is_kept(folder):
    write_model_card(folder)
    path = folder / "README.md"
    assert 'model="r2tuning-test"' in path.read_text()
    assert yaml.safe_load(path.read_text().split("---")[1])["library_name"] == "transformers"
    Results("tacos", "test", {"MR-full-mIoU": 12.3}, training=TRAINING).save(folder)
    path.write_text(path.read_text() + "\nMy own words.\n")
    write_model_card(folder)
    assert "12.30" in path.read_text()
    (folder / "results.json").unlink()
    write_model_card(folder)
    assert "12.30" not in path.read_text()
    assert "No scores are recorded" in path.read_text()
    assert path.read_text().endswith("\nMy own words.\n")


# ---- an existing card is refreshed ---------------------------------------------------------------------------------


@pytest.fixture
def cards(card_of):
    """Without results, and with some."""
    return str(card_of()), str(card_of(Results("tvsum", "val", {"mAP-BK": 91.23}, domain="BK", training=TRAINING)))


def mark(kind, name):
    return f"<!-- r2tuning: {kind} {name} -->\n"


DAMAGE = {
    "no end": lambda card: card.replace(mark("end", "results"), ""),
    "no begin": lambda card: card.replace(mark("begin", "results"), ""),
    "two begins": lambda card: card.replace(
        mark("begin", "results"), mark("begin", "results") + "x\n" + mark("begin", "results")
    ),
    "twice": lambda card: card + mark("begin", "results") + "again\n" + mark("end", "results"),
    "swapped": lambda card: (
        card.replace(mark("begin", "results"), "#")
        .replace(mark("end", "results"), mark("begin", "results"))
        .replace("#", mark("end", "results"), 1)
    ),
    "another inside": lambda card: card.replace(mark("end", "results"), mark("begin", "use") + mark("end", "results")),
    "none": lambda card: re.sub("<!-- r2tuning.*-->\n", "", card),
    "nothing": lambda card: "",
    "only metadata": lambda card: "---\nlicense: mit\n---\n",
    "other ends of lines": lambda card: card.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_text_is_lost_when_markers_are_damaged(damage, cards):
    old, new = cards
    text = DAMAGE[damage](old.replace("## Settings", "My words.\n\n## Settings") + "\nThe end.\n")
    found = refresh_model_card(text, new)
    kept = [line for line in text.splitlines() if "r2tuning: " not in line and not line.startswith(("- ", "  "))]
    if damage == "other ends of lines":  # the markers are intact
        kept = [line for line in kept if line == "The end."]
    elif damage != "nothing":
        kept = [line for line in kept if line in text.partition(mark("begin", "use"))[0]] + ["The end."]
        assert "The end." in found or damage == "only metadata"
        kept = [line for line in kept if line != "The end." or damage != "only metadata"]
    assert set(kept) <= set(found.splitlines())
    assert found.count("| `mAP-BK` | 91.23 |") == 1
    assert found.count("r2tuning: begin results") == found.count("r2tuning: end results") == 1
    assert ModelCard(found).data.eval_results[0].metric_value == 91.23
    assert refresh_model_card(found, new) == found


def test_text_between_damaged_markers_is_kept(cards):
    old, new = cards
    text = old.replace(mark("end", "results"), "").replace("## Results", "## Results\n\nMeasured by me.")
    found = refresh_model_card(text, new)
    assert found.count("Measured by me.") == 1
    assert found.index("Measured by me.") < found.index("91.23 |")


def test_removed_parts_stay_away_except_the_results(cards):
    old, new = cards
    text = re.sub(
        "<!-- r2tuning: begin (use|results|settings) -->.*?<!-- r2tuning: end .*? -->\n", "", old, flags=re.S
    )
    found = refresh_model_card(text, new)
    assert found.endswith(mark("end", "results"))
    assert "## Use" not in found
    assert "## Settings" not in found


THEIRS = """\
# a comment
license: mit
"quoted": "no"
no: [1, 2]
language: no
tags: # mine
- mine
- moment-retrieval
datasets: org/own
released: 2024-01-02
model-index:
- name: r2tuning-test
  results:
  - task: {type: video-text-to-text, name: Video temporal grounding}
    dataset: {type: tacos, name: TACoS}
    metrics: [{type: mAP, value: 1.0}]
  - task: {type: other, name: Something else}
    dataset: {type: own, name: Own}
    metrics: [{type: mAP, value: 2.0}]
- name: another
  results:
  - task: {type: other, name: Something else}
    dataset: {type: own, name: Own}
    metrics: [{type: mAP, value: 3.0}]
"""


def test_metadata_that_others_added_is_kept(cards):
    found = refresh_model_card(f"---\n{THEIRS}---\nWords\n", cards[1])
    front = found.split("---\n")[1]
    for line in THEIRS.splitlines()[:5]:
        assert line in front.splitlines()
    assert "released: 2024-01-02\n" in front
    data = yaml.safe_load(front)
    assert data["datasets"] == ["tvsum", "org/own"]
    assert data["tags"][-1] == "mine"
    assert data["tags"].count("moment-retrieval") == 1  # this model retrieves moments
    values = {
        entry["name"]: [result["metrics"][0]["value"] for result in entry["results"]] for entry in data["model-index"]
    }
    assert values == {"r2tuning-test": [91.23, 2.0], "another": [3.0]}
    without = yaml.safe_load(refresh_model_card(found, cards[0]).split("---\n")[1])
    assert [len(entry["results"]) for entry in without["model-index"]] == [1, 1]
    assert without["datasets"] == ["tvsum", "org/own"]  # without results the card names no datasets of ours


@pytest.mark.parametrize(
    "front",
    [
        "a: [",
        "- 1",
        "words",
        "a: 1\na: {",
        "{license: mit, a: 1}",
        "model-index: 3",
        "tags: x",
        "tags: [{a: 1}]",
        "date: 2024-13-45",
    ],
)
def test_any_metadata_can_be_refreshed(front, cards):
    found = refresh_model_card(f"---\n{front}\n---\nWords\n", cards[1])
    data = yaml.safe_load(found.split("---\n")[1])
    assert data["library_name"] == "transformers"
    assert found.count("\nWords\n") == 1
    if front.startswith(("a: [", "- 1", "words", "a: 1", "date")):
        assert front in found
    if "mit" in front:
        assert (data["license"], data["a"]) == ("mit", 1)
    assert refresh_model_card(found, cards[1]) == found
