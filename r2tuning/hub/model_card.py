"""The card of a checkpoint, filled from what lies in its folder: settings, and results in `results.json`."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_r2tuning.files_r2tuning import writing
from r2tuning.hub.card_text import CARDS, CardRules, refresh_card


RESULTS = "results.json"
MOMENTS = "moment-retrieval"
TASK = "Video temporal grounding"

logger = logging.getLogger(__name__)


@dataclass
class Results:
    """Content of `results.json`: what a checkpoint was measured at, and how it came about.

    Attributes:
        benchmark: What it was trained on, by the name that `load_vtg_dataset` knows.
        split: What it was measured on; `None` = it was not.
        scores: Percentages by the names that `compute_scores` gives; `None` = not defined. Empty = not measured.
        domain: The part of the benchmark, where there are several.
        original: The authors' file that it was converted from; its scores are theirs. `None` = trained by us.
        training: Of what was trained: "command", "commit", "epoch", "step", "seconds", "device", "versions" by package
            and "settings".
        evaluations: Scores on other splits, by split and by the part of it.
        left_out: Queries that were not scored, as their videos were missing or could not be read.
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
        """Results of the checkpoint in a folder, if there are any.

        Raises:
            ValueError: The file is damaged.
        """
        path = folder / RESULTS
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"'{path}' does not hold results ({error}); remove it or write it anew.") from error

    def save(self, folder: Path) -> None:
        """Write them beside a checkpoint."""
        write_text(folder / RESULTS, json.dumps(asdict(self), indent=2) + "\n")

    @property
    def title(self) -> str:
        """Benchmark and domain, to read."""
        name = read_facts(self.benchmark).get("pretty_name", self.benchmark)
        return name if self.domain is None else f"{name} ({self.domain})"


def make_model_card(folder: Path, name: str, config: dict[str, Any]) -> ModelCard:
    """The card of a checkpoint.

    Args:
        folder: The checkpoint, with or without `results.json`.
        name: What its examples load: a repository, or the folder.
        config: Content of its `config.json`, as it is published.
    """
    results = Results.load(folder)
    facts = {} if results is None else read_facts(results.benchmark)
    scores = {} if results is None else {key: value for key, value in results.scores.items() if value is not None}
    return ModelCard.from_template(
        _card_data(name, config, results, facts, scores),
        template_path=str(CARDS / "model_card.md"),
        name=name,
        title=results and results.title,
        zoo=read_published()["source"],
        config=config,
        processor=read_json(folder / "processor_config.json"),
        results=results,
        facts=facts,
        scores=scores,
        training=results and results.training and _to_read(results.training),
        has_curves=(folder / "curves.png").exists(),
    )


def write_model_card(folder: str | os.PathLike) -> None:
    """Write the card into the checkpoint's folder; of one that is there, what we generate is made anew."""
    folder = Path(folder)
    path = folder / "README.md"
    card = str(make_model_card(folder, folder.name, read_json(folder / "config.json")))
    write_text(path, refresh_model_card(read_text(path), card) if path.exists() else card)


def refresh_model_card(text: str, fresh: str) -> str:
    """A card, perhaps edited by hand, with the results, settings and metadata of a new one.

    Its licence and language stay, and so do tags, data sets and results that others added.
    """
    rules = CardRules(
        always=("results",),
        kept=frozenset({"language", "license"}),
        words=frozenset({MOMENTS, *_read_all_facts()}),  # the benchmarks
        task=TASK,
    )
    return refresh_card(text, fresh, rules, logger)


def read_facts(benchmark: str) -> dict[str, Any]:
    """What `hub_cards/datasets.yaml` says of a benchmark; empty if it does not know it."""
    return _read_all_facts().get(benchmark, {})


def _read_all_facts() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((CARDS / "datasets.yaml").read_text(encoding="utf-8"))


def read_published() -> dict[str, Any]:
    """Content of `hub_cards/published_results.yaml`."""
    return yaml.safe_load((CARDS / "published_results.yaml").read_text(encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is no JSON ({error}); write it anew.") from error


def read_text(path: Path) -> str:
    """A text file of a checkpoint.

    Raises:
        ValueError: It is not in UTF-8.
    """
    try:
        return path.read_bytes().decode()  # with the ends of lines as they are
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not in UTF-8 ({error}); save it as UTF-8.") from error


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    with writing(path) as partial:
        partial.write_bytes(text.encode())


def _card_data(
    name: str, config: dict[str, Any], results: Results | None, facts: dict[str, Any], scores: dict[str, float]
) -> ModelCardData:
    tasks = [MOMENTS] if config["use_moment_head"] else []
    clip = None if config["save_backbone"] else config["backbone_name_or_path"]
    license_name = "bsd-3-clause" if results is not None and results.original is not None else facts.get("license")
    return ModelCardData(
        language="en",
        license=license_name,
        library_name="transformers",
        pipeline_tag="video-text-to-text",  # the nearest of those that the Hub knows
        tags=["video-temporal-grounding", *tasks, "highlight-detection", "video-summarization", "r2tuning"],
        base_model=clip,
        base_model_relation=clip and "adapter",
        datasets=None if results is None else [results.benchmark],
        model_name=name.split("/")[-1],
        eval_results=[_eval_result(results, score, value) for score, value in scores.items()] or None,
    )


def _eval_result(results: Results, score: str, value: float) -> EvalResult:
    published = {"source_name": "R2-Tuning model zoo", "source_url": read_published()["source"]}
    return EvalResult(
        task_type="video-text-to-text",
        task_name=TASK,
        dataset_type=results.benchmark,
        dataset_name=results.title,
        dataset_config=results.domain,
        dataset_split=results.split,
        metric_type=_metric_type(score),
        metric_name=score,
        metric_value=value,
        **(published if results.original is not None else {}),
    )


def _metric_type(score: str) -> str:
    """Of a name such as "MR-full-R1@0.5" or "mAP-dog", the part that is a measure."""
    return next((part for part in score.split("-") if part.startswith(("R1@", "R5@", "mAP", "mIoU", "Hit1"))), score)


def _to_read(training: dict[str, Any]) -> dict[str, Any]:
    minutes = training["seconds"] / 60
    duration = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    versions = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
    return {**training, "duration": duration, "versions": versions}


__all__ = [
    "CARDS",
    "Results",
    "make_model_card",
    "read_json",
    "read_published",
    "read_text",
    "refresh_model_card",
    "write_model_card",
    "write_text",
]
