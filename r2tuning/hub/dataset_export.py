"""Export a benchmark as a Parquet dataset with its card, and push it to the Hub.

r2tuning export-dataset qvhighlights OUT --data-dir ANNOTATIONS [--push org/qvhighlights]
"""

import contextlib
import json
import logging
import os
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, cast

from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from huggingface_hub.errors import HTTPError  # re-exported from httpx, whichever package provides it

from dataset_scripts import FEATURES, load_vtg_dataset
from dataset_scripts.custom_tables import DataFiles
from dataset_scripts.files import check_new_folder, writing_folder
from r2tuning.checkpoint_files import CARD
from r2tuning.hub.card_text import CARDS, CardRules, refresh_card
from r2tuning.hub.model_card import read_facts
from r2tuning.hub.repository import Repository, describe_error, publish, retry


CARD_RULES = CardRules(always=("counts", "making"), kept=frozenset({"language", "license", "pretty_name"}))
# Characters that `datasets` refuses in the name of a configuration, which is the name of a folder as well.
UNSAFE_CHARACTERS = re.compile(r'[<>:/\\|?*"\x00-\x1f]')
# Upper bounds of the Hub's size categories, in rows of all splits.
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}


def export_dataset(
    name: str,
    output: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    data_files: DataFiles | None = None,
    video_dir: str | os.PathLike | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    repo_id: str | None = None,
) -> Path:
    """Write all splits of a benchmark as Parquet, with a dataset card that lists every configuration.

    Args:
        name: Name of the benchmark.
        output: Folder to create; it is written atomically.
        data_dir: Folder of the annotation files, as for `load_vtg_dataset`.
        data_files: Annotation files in place of `data_dir`, as for `load_vtg_dataset`.
        video_dir: Folder of the videos, from which the lengths of own videos are read. The exported rows name no file.
        on_error: `"raise"`, or `"skip"` to leave out and count malformed annotations.
        repo_id: Repository in the card's example; defaults to the name of the folder.

    Returns:
        The folder. Benchmarks with domains have a configuration for each domain and `all`, the others `default`. Domains
        of several categories, such as "long/phrase/vision", have one for each first category.

    Raises:
        ValueError: Unknown benchmark or malformed annotations.
        FileExistsError: The folder exists and is not empty, or is a file or a link.
    """
    output = Path(output).absolute()
    check_new_folder(output)
    with _collect_log() as log:
        splits = load_vtg_dataset(
            name, data_dir=data_dir, data_files=data_files, video_dir=video_dir, on_error=on_error
        )
    configs = _split_by_domain(cast(DatasetDict, splits))  # loaded without `split` and not streamed
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(output) as folder:
        for config, datasets in configs.items():
            (folder / config).mkdir()
            for split, dataset in datasets.items():
                exported = dataset if video_dir is None else _without_paths(dataset)
                exported.to_parquet(folder / config / f"{split}.parquet")
        lines = [line.replace(f"{data_dir}{os.sep}", "") for line in log]
        card = _make_card(name, configs, lines, repo_id or output.name)
        (folder / CARD).write_text(str(card), encoding="utf-8")
    return output


def _without_paths(dataset: Dataset) -> Dataset:
    """The dataset without the paths of this machine's videos, whose files `to_parquet` would otherwise embed."""
    rows = [{**row, "video": None} for row in dataset]
    return Dataset.from_list(rows, features=FEATURES)


def push_dataset(
    name: str, folder: str | os.PathLike, repo_id: str, *, private: bool = False, publish_anyway: bool = False
) -> str:
    """Upload an exported folder to a dataset repository in one commit; the repository is created if necessary.

    A card that was edited there keeps its text, and files that others added are kept. Files of an earlier upload that
    are not in this folder are deleted.

    Args:
        name: The benchmark in the folder.
        folder: Folder from `export_dataset`.
        repo_id: `organisation/name`.
        private: Make the repository private.
        publish_anyway: Allow a public repository although the annotations may not be redistributed.

    Returns:
        URL of the repository.

    Raises:
        FileNotFoundError: The folder holds no exported dataset.
        PermissionError: The annotations may not be redistributed and the repository is public.
        RuntimeError: The upload failed; the message has the command to repeat it.
    """
    check_licence(name, repo_id, private or publish_anyway)
    folder, api = Path(folder), HfApi()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if CARD not in files:
        raise FileNotFoundError(f"'{folder}' holds no exported dataset: there is no {CARD}.")
    fresh = files.pop(CARD).read_text(encoding="utf-8")

    def make_card(on_hub: str | None) -> str:
        return fresh if on_hub is None else refresh_card(on_hub, fresh, CARD_RULES)

    try:
        address = retry(lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True))
        is_private = api.repo_info(repo_id, repo_type="dataset").private
        check_licence(name, repo_id, is_private or publish_anyway)  # an existing repository may be public
        message = f"Add {name} as Parquet"
        retry(lambda: publish(Repository(repo_id, "dataset"), files, make_card, message=message))
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
    """Refuse to publish annotations that may not be redistributed.

    Args:
        name: The benchmark.
        repo_id: The target repository.
        allowed: Whether the repository is private, or the user has the right to publish.

    Raises:
        PermissionError: The annotations may not be redistributed and `allowed` is `False`.
    """
    facts = read_facts(name)
    if not facts["redistributable"] and not allowed:
        raise PermissionError(
            f"The annotations of {name} may not be redistributed, and '{repo_id}' is or would be public. "
            f"{facts['licence']} Push to a private repository (`--private`), or pass `--publish-anyway` if you have the "
            "right to publish them."
        )


@contextlib.contextmanager
def _collect_log() -> Iterator[list[str]]:
    """Collect the log of `dataset_scripts`: for each split a line that says what was read and changed."""
    handler = _LineCollector()
    logger = logging.getLogger("dataset_scripts")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _LineCollector(logging.Handler):
    """Keeps every message."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of a record."""
        self.lines.append(record.getMessage())


def _split_by_domain(splits: DatasetDict) -> dict[str, dict[str, Dataset]]:
    """Datasets by configuration and split; splits without a row of a domain are left out."""
    rows: dict[str, dict[str, list[int]]] = {}  # row numbers by configuration and split
    for split, dataset in splits.items():
        for row, domain in enumerate(dataset["domain"]):
            if domain is not None:
                rows.setdefault(_config_name(domain), {}).setdefault(split, []).append(row)
    if not rows:
        return {"default": dict(splits)}
    configs = {"all": dict(splits)}
    for config in sorted(rows):
        configs[config] = {split: splits[split].select(numbers) for split, numbers in rows[config].items()}
    return configs


def _config_name(domain: str) -> str:
    """Name of the configuration that holds a domain, such as "long" for "long/phrase/vision"."""
    name = UNSAFE_CHARACTERS.sub("_", domain.partition("/")[0]).strip(". ")
    if name in ("", "all"):  # no folder, or the configuration of all domains
        return f"{name}_"
    return name


def _make_card(name: str, configs: dict[str, dict[str, Dataset]], log: list[str], repo_id: str) -> DatasetCard:
    facts = read_facts(name)
    described = {key: value for key, value in facts.items() if key != "license"}
    first, splits = next(iter(configs.items()))
    entries = []
    for config, datasets in configs.items():
        files = [{"split": split, "path": f"{config}/{split}.parquet"} for split in datasets]
        entries.append({"config_name": config, "default": config == first, "data_files": files})
    log_lines = [f"- {line}" for line in log]
    data = DatasetCardData(
        pretty_name=facts["pretty_name"],
        license=facts["license"],
        language="en",
        task_categories=["other"],
        tags=["video-temporal-grounding", "moment-retrieval", "highlight-detection", "video"],
        size_categories=_size_category(sum(map(len, splits.values()))),
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
        log="\n".join(log_lines),
        **described,
    )


def _size_category(num_rows: int) -> str:
    for bound, label in SIZE_CATEGORIES.items():
        if num_rows < bound:
            return label
    return "100K<n<1M"


def _count_table(splits: dict[str, Dataset]) -> str:
    """Markdown table with a line for each split; it counts queries without a moment where there are any."""
    annotated, num_absent = {}, {}
    for split, dataset in splits.items():
        annotated[split] = [moments for moments in dataset["moments"] if moments is not None]
        num_absent[split] = annotated[split].count([])
    columns = ["split", "queries", "videos", "moments", "mean duration (s)"]
    if any(num_absent.values()):
        columns.append("queries that nothing matches")
    lines = [_table_line(columns), "|---" * len(columns) + "|"]
    for split, dataset in splits.items():
        durations = dict(zip(dataset["video_id"], dataset["duration_sec"], strict=True))
        durations.pop(None, None)  # the video of a hidden split
        mean = f"{sum(durations.values()) / len(durations):.1f}" if durations else "-"
        num_moments = f"{sum(map(len, annotated[split])):,}" if annotated[split] else "-"
        cells = [split, f"{len(dataset):,}", f"{len(durations):,}", num_moments, mean]
        if len(columns) > len(cells):
            cells.append(f"{num_absent[split]:,}")
        lines.append(_table_line(cells))
    return "\n".join(lines)


def _table_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _version() -> str:
    try:
        return metadata.version("r2tuning")
    except metadata.PackageNotFoundError:
        return "of a source checkout"


__all__ = ["check_licence", "export_dataset", "push_dataset"]
