"""The model card of a checkpoint, made from the files in its folder: settings, and results in `results.json`."""

import html
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import CLIPVisionConfig

from modeling_r2tuning.loading_r2tuning import CONFIG, PROCESSOR, SENTENCEPIECE, is_repository_name
from modeling_r2tuning.tower_specs_r2tuning import encoder_spec
from r2tuning.checkpoint_files import CARD, CURVES, RESULTS
from r2tuning.hub.card_text import CARDS, CardRules, read_yaml, refresh_card
from r2tuning.json_files import read_json, read_text, write_json, write_text


MOMENT_RETRIEVAL = "moment-retrieval"
TASK = "Video temporal grounding"
PIPELINE_TAG = "video-text-to-text"  # the closest to ours among the tasks of the Hub
# How the names of measures begin; the rest of a score's name is what it was measured on ("MR-full-R1@0.5", "mAP-dog").
MEASURES = ("R1@", "R5@", "mAP", "mIoU", "Hit1", "AUROC", "FAR@", "ECE", "F1@")
PRIVATE_DATA = "a private data set"  # title of own data without a name
# Identifiers of licences that are common for data and that the Hub knows; others are "other" there, with a name.
LICENCES = frozenset(
    {
        *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
        *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
        *("cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "odbl", "odc-by", "pddl"),
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "unlicense", "other", "unknown"),
    }
)


@dataclass
class Results:
    """Content of `results.json`: the scores of a checkpoint, and how it was made.

    Attributes:
        benchmark: Benchmark that the model was trained on, by the name that `load_vtg_dataset` takes.
        split: Split that `scores` belong to; `None` if nothing was measured.
        scores: Percentages by the names that `compute_scores` returns; `None` = not defined. Empty if nothing was
            measured.
        domain: Domain of the benchmark, if it has several.
        original: The authors' file that the checkpoint was converted from; its scores are the authors'. `None` if the
            model was trained with this package.
        training: How the model was trained: "command", "commit", "epoch", "step", "seconds", "device", "versions" by
            package and "settings"; "start": the checkpoint that it started from, if any; "lengthened": when it was given
            more epochs; "chosen_on_test": whether it is the best of its run on a test split; "chosen_as_published":
            whether the published recipe chooses on the same split.
        evaluations: Scores on further splits, by split and by part of the split.
        left_out: Number of queries that were not scored because their videos were missing or unreadable.
        data: A user's own data, if the model was trained on them: "name", "licence" and "description", each `None` if it
            was not given, and "splits": the numbers of videos, queries, moments and absent queries of each split.
    """

    benchmark: str
    split: str | None
    scores: dict[str, float | None]
    domain: str | None = None
    original: str | None = None
    training: dict[str, Any] | None = None
    evaluations: dict[str, dict[str, dict[str, float | None]]] | None = None
    left_out: int = 0
    data: dict[str, Any] | None = None

    @classmethod
    def load(cls, folder: Path) -> "Results | None":
        """Read the results of the checkpoint in a folder; `None` if it has none.

        Raises:
            ValueError: The file is damaged.
        """
        path = folder / RESULTS
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"'{path}' does not hold results ({error}); remove the file or write it again."
            ) from error

    def save(self, folder: Path) -> None:
        """Write the results into the folder of a checkpoint."""
        write_json(folder / RESULTS, asdict(self))

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the training data: the benchmark's entry in `datasets.yaml`, or what the user said."""
        return read_facts(self.benchmark) if self.data is None else _own_facts(self.data)

    @property
    def title(self) -> str:
        """Benchmark and domain, for readers."""
        name = self.facts.get("pretty_name", self.benchmark)
        return name if self.domain is None else f"{name} ({self.domain})"

    @property
    def defined_scores(self) -> dict[str, float]:
        """The scores without those that are not defined."""
        return {name: value for name, value in self.scores.items() if value is not None}


def make_model_card(folder: Path, name: str, config: dict[str, Any]) -> ModelCard:
    """Make the card of a checkpoint from scratch.

    Args:
        folder: The checkpoint, with or without `results.json`.
        name: Repository or folder that the examples in the card load.
        config: Content of its `config.json`, as it is published.

    Raises:
        ValueError: A file of the checkpoint is damaged.
    """
    results = Results.load(folder)
    facts: dict[str, Any] = {}
    title, scores, training = None, {}, None
    if results is not None:
        facts = results.facts
        title = results.title
        scores = results.defined_scores
        training = results.training and _format_training(results.training)
    return ModelCard.from_template(
        _card_data(name, config, results, facts),
        template_path=str(CARDS / "model_card.md"),
        name=name,
        title=title,
        zoo=read_published()["source"],
        config=config,
        backbone=_backbone_title(config),
        needs_sentencepiece=(folder / SENTENCEPIECE).exists(),
        processor=read_json(folder / PROCESSOR),
        results=results,
        facts=facts,
        scores=scores,
        training=training,
        has_curves=(folder / CURVES).exists(),
    )


def write_model_card(folder: str | os.PathLike) -> None:
    """Write the card into the folder of a checkpoint; an existing card is refreshed as by `refresh_model_card`."""
    folder = Path(folder)
    path = folder / CARD
    card = str(make_model_card(folder, folder.name, read_json(folder / CONFIG)))
    if path.exists():
        card = refresh_model_card(read_text(path), card)
    write_text(path, card)


def discard_generated_card(folder: Path) -> None:
    """Remove the card of a checkpoint that nobody edited, so that new results are written into a new card.

    Refreshing replaces the marked parts alone; the title, for example, would stay.
    """
    path = folder / CARD
    if not path.exists():
        return
    try:
        generated = str(make_model_card(folder, folder.name, read_json(folder / CONFIG)))
    except ValueError:  # damaged results, which will be written again
        return
    if read_text(path) == generated:
        path.unlink()


def refresh_model_card(text: str, fresh: str) -> str:
    """Return a card, perhaps edited by hand, with the results, settings and metadata of a new one.

    Its licence and language are kept, and so are tags, datasets and results that others added.

    Args:
        text: The existing card.
        fresh: The card as `make_model_card` makes it.
    """
    rules = CardRules(
        always=("results",),
        kept=frozenset({"language", "license"}),
        words=frozenset({MOMENT_RETRIEVAL, *_read_all_facts()}),  # the latter: names of benchmarks
        task=TASK,
    )
    return refresh_card(text, fresh, rules)


def _own_facts(data: dict[str, Any]) -> dict[str, Any]:
    """Facts about a user's own data, in the form of an entry in `datasets.yaml`."""
    name, licence, description = (_one_line(data[key]) for key in ("name", "licence", "description"))
    facts = {
        "pretty_name": name or PRIVATE_DATA,
        "description": description and html.escape(description, quote=False),  # it must not look like a marker
        "licence": licence and f"{licence}.",
        "license": licence,
    }
    if licence is not None and licence.lower() in LICENCES:
        facts["license"] = licence.lower()
    elif licence is not None:
        facts["license"] = "other"
        slug = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")
        if slug:  # else it has no letter that the Hub takes
            facts["license_name"] = slug
    return facts


def _one_line(text: str | None) -> str | None:
    """A text of the user without line breaks, which would end a heading; `None` if it is empty."""
    return " ".join((text or "").split()) or None


def read_facts(benchmark: str) -> dict[str, Any]:
    """Read the entry of a benchmark in `hub_cards/datasets.yaml`; empty for an unknown benchmark."""
    return _read_all_facts().get(benchmark, {})


def _read_all_facts() -> dict[str, dict[str, Any]]:
    return read_yaml(CARDS / "datasets.yaml")


def read_published() -> dict[str, Any]:
    """Read `hub_cards/published_results.yaml`: the authors' scores by benchmark, and their source."""
    return read_yaml(CARDS / "published_results.yaml")


def _card_data(name: str, config: dict[str, Any], results: Results | None, facts: dict[str, Any]) -> ModelCardData:
    """Make the metadata that the Hub reads."""
    tags = ["video-temporal-grounding", "highlight-detection", "video-summarization", "r2tuning"]
    if config["use_moment_head"]:
        tags.insert(1, MOMENT_RETRIEVAL)
    license_name = facts.get("license")
    datasets, eval_results = None, None
    if results is not None:
        datasets = _dataset_names(results)
        eval_results = _eval_results(results) or None
        if results.original is not None:
            license_name = "bsd-3-clause"  # the authors' licence of their weights
    more = {}
    if "license_name" in facts:
        more["license_name"] = facts["license_name"]
    base_model, relation = _base_model(config, results)
    return ModelCardData(
        language="en",
        license=license_name,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=tags,
        base_model=base_model,
        base_model_relation=relation,
        datasets=datasets,
        model_name=name.split("/")[-1],
        eval_results=eval_results,
        **more,
    )


def _backbone_title(config: dict[str, Any]) -> str:
    """Name of the kind of backbone in a `config.json`, which is CLIP's where an early version did not record it."""
    vision_config = config.get("vision_config") or {}
    return encoder_spec(vision_config.get("model_type", CLIPVisionConfig.model_type)).title


def _dataset_names(results: Results) -> list[str] | None:
    """What the model was trained on: a benchmark, or own data that are on the Hub."""
    if results.data is None:
        return [results.benchmark]
    name = results.data["name"]
    return [name] if name is not None and is_repository_name(name) else None


def _base_model(config: dict[str, Any], results: Results | None) -> tuple[str | None, str | None]:
    """Repository of the model that this one was made from, and how: the checkpoint it started from, or else its backbone."""
    start = (results and results.training and results.training.get("start")) or {}
    if start.get("repository") is not None:
        return start["repository"], "finetune"
    if config["save_backbone"]:
        return None, None
    return config["backbone_name_or_path"], "adapter"


def _eval_results(results: Results) -> list[EvalResult]:
    """Convert the scores to the form of the Hub."""
    source = {}
    if results.original is not None:
        source = {"source_name": "R2-Tuning model zoo", "source_url": read_published()["source"]}
    found = []
    [dataset] = _dataset_names(results) or [results.benchmark]
    for score, value in results.defined_scores.items():
        result = EvalResult(
            task_type=PIPELINE_TAG,
            task_name=TASK,
            dataset_type=dataset,
            dataset_name=results.title,
            dataset_config=results.domain,
            dataset_split=results.split,
            metric_type=_metric_type(score),
            metric_name=score,
            metric_value=value,
            **source,
        )
        found.append(result)
    return found


def _metric_type(score: str) -> str:
    """Return the measure in the name of a score: "R1@0.5" for "MR-full-R1@0.5", "mAP" for "mAP-dog"."""
    if score.startswith("G-mIoU"):  # no mean of IoUs, in spite of its name
        return score
    for part in score.split("-"):
        if part.startswith(MEASURES):
            return part
    return score


def _format_training(training: dict[str, Any]) -> dict[str, Any]:
    """Add the duration and the versions of packages as text."""
    minutes = training["seconds"] / 60
    duration = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    versions = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
    return {**training, "duration": duration, "versions": versions}


__all__ = [
    "Results",
    "discard_generated_card",
    "make_model_card",
    "read_facts",
    "read_published",
    "refresh_model_card",
    "write_model_card",
]
