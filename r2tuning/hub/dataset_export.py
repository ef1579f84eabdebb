"""Turn a benchmark into a Parquet dataset with its card, and push it to the Hub.

r2tuning export-dataset qvhighlights OUT --data-dir ANNOTATIONS [--push org/qvhighlights]
"""

import contextlib
import json
import logging
import os
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from huggingface_hub.errors import HTTPError  # httpx's, by whatever name it is installed

from dataset_scripts import load_vtg_dataset
from dataset_scripts.files import check_new_folder, writing_folder
from r2tuning.hub.card_text import CARDS, CardRules, refresh_card
from r2tuning.hub.repository import CARD, Repository, describe_error, publish, retry


CARD_RULES = CardRules(always=("counts", "making"), kept=frozenset({"language", "license", "pretty_name"}))
# Upper bounds of the Hub's size categories, in rows of all splits.
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}


def export_dataset(
    name: str,
    output: str | os.PathLike,
    *,
    data_dir: str | os.PathLike,
    on_error: str = "raise",
    repo_id: str | None = None,
) -> Path:
    """Write all splits of a benchmark as Parquet, with a dataset card that names every configuration.

    Args:
        name: One of the six benchmarks.
        output: Folder to make; it appears only when it is complete.
        data_dir: Folder of the annotation files, as for `load_vtg_dataset`.
        on_error: `"raise"`, or `"skip"` to leave out and count malformed annotations.
        repo_id: Name that the example in the card uses; default the folder's.

    Returns:
        The folder. Benchmarks with domains have a configuration for each and `all`, the others `default`.

    Raises:
        ValueError: Unknown benchmark or malformed annotations.
        FileExistsError: The folder exists and is not empty, or is a file or a link.
    """
    output = Path(output).absolute()
    check_new_folder(output)
    with _collect_log() as log:
        splits = load_vtg_dataset(name, data_dir=data_dir, on_error=on_error)
    configs = _split_by_domain(splits)
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(output) as folder:
        for config, datasets in configs.items():
            (folder / config).mkdir()
            for split, dataset in datasets.items():
                dataset.to_parquet(folder / config / f"{split}.parquet")
        lines = [line.replace(f"{data_dir}{os.sep}", "") for line in log]
        card = _make_card(name, configs, lines, repo_id or output.name)
        (folder / CARD).write_text(str(card), encoding="utf-8")
    return output


def push_dataset(
    name: str, folder: str | os.PathLike, repo_id: str, *, private: bool = False, publish_anyway: bool = False
) -> str:
    """Upload an exported folder to a dataset repository, made if need be, in one commit.

    A card that was edited there keeps its text, and files that others added stay. What an earlier upload has written
    and this folder does not hold is removed.

    Args:
        name: The benchmark in the folder.
        folder: From `export_dataset`.
        repo_id: `organisation/name`.
        private: Make the repository private.
        publish_anyway: Allow a public repository though the annotations may not be redistributed.

    Returns:
        Address of the repository.

    Raises:
        FileNotFoundError: The folder holds no exported dataset.
        PermissionError: The annotations may not be redistributed and the repository is public.
        RuntimeError: The upload failed; the message says how to repeat it.
    """
    check_licence(name, repo_id, private or publish_anyway)
    folder, api = Path(folder), HfApi()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if CARD not in files:
        raise FileNotFoundError(f"'{folder}' holds no exported dataset: there is no {CARD}.")
    fresh = files.pop(CARD).read_text(encoding="utf-8")
    try:
        address = retry(lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True))
        is_private = api.repo_info(repo_id, repo_type="dataset").private
        check_licence(name, repo_id, is_private or publish_anyway)  # it may have existed, and be public
        retry(
            lambda: publish(
                Repository(repo_id, "dataset"),
                files,
                lambda on_hub: fresh if on_hub is None else refresh_card(on_hub, fresh, CARD_RULES),
                message=f"Add {name} as Parquet",
            )
        )
    except PermissionError:
        raise
    except (HTTPError, OSError, RuntimeError) as error:
        command = _push_command(name, folder, repo_id, private=private, publish_anyway=publish_anyway)
        raise RuntimeError(
            f"Uploading to '{repo_id}' failed: {describe_error(error)}. The dataset is complete in '{folder}'; upload it with "
            f"`{command}`."
        ) from error
    return str(address)


def _push_command(name: str, folder: Path, repo_id: str, **options: bool) -> str:
    arguments = [*map(json.dumps, (name, os.path.abspath(folder), repo_id))]
    arguments += [f"{option}=True" for option, is_set in options.items() if is_set]
    code = f"from r2tuning.hub.dataset_export import push_dataset; push_dataset({', '.join(arguments)})"
    return shlex.join(["python", "-c", code])


def check_licence(name: str, repo_id: str, allowed: bool) -> None:
    """Refuse to publish what may not be redistributed.

    Args:
        name: The benchmark.
        repo_id: Repository it is to go to.
        allowed: The repository is private, or the user holds the right to publish.

    Raises:
        PermissionError: The annotations may not be redistributed and it is not allowed.
    """
    facts = read_facts(name)
    if not facts["redistributable"] and not allowed:
        raise PermissionError(
            f"The annotations of {name} may not be redistributed, and '{repo_id}' is public or would be. "
            f"{facts['licence']} Push to a private repository (`--private`), or pass `--publish-anyway` if you hold "
            "the right."
        )


@contextlib.contextmanager
def _collect_log() -> Iterator[list[str]]:
    """What the package logs meanwhile: for each split a line that says what was read and changed."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("dataset_scripts")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _split_by_domain(splits: DatasetDict) -> dict[str, dict[str, Dataset]]:
    """Datasets by configuration and split."""
    domains = sorted({domain for dataset in splits.values() for domain in dataset.unique("domain")} - {None})
    if not domains:
        return {"default": dict(splits)}
    configs = {"all": dict(splits)}
    for domain in domains:
        of_domain = {split: _select(dataset, domain) for split, dataset in splits.items()}
        configs[domain] = {split: dataset for split, dataset in of_domain.items() if len(dataset)}
    return configs


def _select(dataset: Dataset, domain: str) -> Dataset:
    return dataset.select([row for row, value in enumerate(dataset["domain"]) if value == domain])


def read_facts(name: str) -> dict:
    """What `hub_cards/datasets.yaml` says of a benchmark."""
    return yaml.safe_load((CARDS / "datasets.yaml").read_text(encoding="utf-8"))[name]


def _make_card(name: str, configs: dict[str, dict[str, Dataset]], log: list[str], repo_id: str) -> DatasetCard:
    facts = read_facts(name)
    first, splits = next(iter(configs.items()))
    entries = [
        {
            "config_name": config,
            "default": config == first,
            "data_files": [{"split": split, "path": f"{config}/{split}.parquet"} for split in datasets],
        }
        for config, datasets in configs.items()
    ]
    rows = sum(map(len, splits.values()))
    data = DatasetCardData(
        pretty_name=facts["pretty_name"],
        license=facts["license"],
        language="en",
        task_categories=["other"],
        tags=["video-temporal-grounding", "moment-retrieval", "highlight-detection", "video"],
        size_categories=next((label for bound, label in SIZE_CATEGORIES.items() if rows < bound), "100K<n<1M"),
        configs=entries,
    )
    return DatasetCard.from_template(
        data,
        template_path=str(CARDS / "dataset_card.md"),
        repo_id=repo_id,
        first_config=first if len(configs) > 1 else None,
        first_split=next(iter(splits)),
        counts=_count_table(splits),
        command=f"r2tuning export-dataset {name}",
        version=_version(),
        log="\n".join(f"- {line}" for line in log),
        **{key: value for key, value in facts.items() if key != "license"},
    )


def _count_table(splits: dict[str, Dataset]) -> str:
    """Markdown table with a line for each split."""
    lines = ["| split | queries | videos | moments | mean duration (s) |", "|---|---|---|---|---|"]
    for split, dataset in splits.items():
        durations = dict(zip(dataset["video_id"], dataset["duration_sec"], strict=True))
        annotated = [moments for moments in dataset["moments"] if moments is not None]
        moments = f"{sum(map(len, annotated)):,}" if annotated else "-"
        mean = sum(durations.values()) / max(len(durations), 1)
        lines.append(f"| {split} | {len(dataset):,} | {len(durations):,} | {moments} | {mean:.1f} |")
    return "\n".join(lines)


def _version() -> str:
    try:
        return metadata.version("r2tuning")
    except metadata.PackageNotFoundError:
        return "of a source checkout"


__all__ = ["check_licence", "export_dataset", "push_dataset", "read_facts"]
