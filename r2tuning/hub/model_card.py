"""The model card of a checkpoint, made from the files in its folder: settings, and results in `results.json`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_r2tuning.loading_r2tuning import CONFIG, PROCESSOR
from r2tuning.checkpoint_files import CARD, CURVES, RESULTS
from r2tuning.hub.card_text import CARDS, CardRules, read_yaml, refresh_card
from r2tuning.json_files import read_json, read_text, write_json, write_text


MOMENT_RETRIEVAL = "moment-retrieval"
TASK = "Video temporal grounding"
PIPELINE_TAG = "video-text-to-text"  # the closest to ours among the tasks of the Hub
# How the names of measures begin; the rest of a score's name is what it was measured on ("MR-full-R1@0.5", "mAP-dog").
MEASURES = ("R1@", "R5@", "mAP", "mIoU", "Hit1", "AUROC", "FAR@", "ECE", "F1@")


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
            package and "settings".
        evaluations: Scores on further splits, by split and by part of the split.
        left_out: Number of queries that were not scored because their videos were missing or unreadable.
    """

    benchmark: str
    split: str | None
    scores: dict[str, float | None]
    domain: str | None = None
    original: str | None = None
    training: dict[str, Any] | None = None
    evaluations: dict[str, dict[str, dict[str, float | None]]] | None = None
    left_out: int = 0

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
    def title(self) -> str:
        """Benchmark and domain, for readers."""
        name = read_facts(self.benchmark).get("pretty_name", self.benchmark)
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
        facts = read_facts(results.benchmark)
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
    backbone = None if config["save_backbone"] else config["backbone_name_or_path"]
    license_name = facts.get("license")
    datasets, eval_results = None, None
    if results is not None:
        datasets = [results.benchmark]
        eval_results = _eval_results(results) or None
        if results.original is not None:
            license_name = "bsd-3-clause"  # the authors' licence of their weights
    return ModelCardData(
        language="en",
        license=license_name,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=tags,
        base_model=backbone,
        base_model_relation=backbone and "adapter",
        datasets=datasets,
        model_name=name.split("/")[-1],
        eval_results=eval_results,
    )


def _eval_results(results: Results) -> list[EvalResult]:
    """Convert the scores to the form of the Hub."""
    source = {}
    if results.original is not None:
        source = {"source_name": "R2-Tuning model zoo", "source_url": read_published()["source"]}
    found = []
    for score, value in results.defined_scores.items():
        result = EvalResult(
            task_type=PIPELINE_TAG,
            task_name=TASK,
            dataset_type=results.benchmark,
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


__all__ = ["Results", "make_model_card", "read_facts", "read_published", "refresh_model_card", "write_model_card"]
