"""Push a checkpoint to the Hub: model, processor, code, card and results in one commit."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HTTPError  # that of httpx, under whatever name httpx is installed
from huggingface_hub.utils import validate_repo_id

from modeling_r2tuning.loading_r2tuning import (
    CONFIG,
    INDEX,
    PROCESSOR,
    PROCESSOR_FILES,
    SENTENCEPIECE,
    TOKENIZER,
    WEIGHTS,
    find_damage,
)
from r2tuning.checkpoint_files import CARD, CURVES, LICENSE, METRICS, RESULTS
from r2tuning.checks import check_model_type
from r2tuning.hub.endpoint import endpoint_files
from r2tuning.hub.model_card import make_model_card, refresh_model_card
from r2tuning.hub.repository import Repository, create_repository, explain_failure, publish, retry
from r2tuning.json_files import read_json, read_text


CODE = tuple(f"{part}_r2tuning.py" for part in ("configuration", "modeling", "processing", "pipeline"))
REQUIRED = (CONFIG, PROCESSOR, *CODE)
WEIGHTS_PATTERN = "model*.safetensors"  # one file or several
# A folder may hold more: the state of the optimizer, videos, answers. Only files that match a pattern are published.
PUBLISHED = (
    *(CONFIG, WEIGHTS_PATTERN, INDEX, *PROCESSOR_FILES, "special_tokens_map.json", "*_r2tuning.py"),
    *(LICENSE, RESULTS, METRICS, CURVES),
    *("lora/adapter_config.json", "lora/adapter_model.safetensors"),
)
# In a repository that holds our code but no record of what we wrote, files that match these patterns are ours.
OURS = (WEIGHTS_PATTERN, INDEX, "*_r2tuning.py", "lora/adapter_*")


def push_checkpoint(
    folder: str | os.PathLike, repo_id: str, *, private: bool = False, backbone: str | None = None
) -> str:
    """Publish a checkpoint on the Hub, in a new repository or as the next commit of an existing one.

    Everything goes into one commit, so that a half-published checkpoint is never visible. Files that an earlier push
    wrote and this push does not are removed; files that others added are kept. The card is made from the settings and
    the `results.json` in the folder. If the card was edited, on the Hub or else in the folder, only its marked parts
    and its metadata are replaced. The files `handler.py` and `requirements.txt`, with which an Inference Endpoint serves
    the checkpoint, come from this package. They and a LICENSE are kept as they are if they were written or edited on
    the Hub. The folder is not changed.

    Args:
        folder: Checkpoint as written by `save_checkpoint`.
        repo_id: `organisation/name`; your user name also counts as an organisation.
        private: Make the repository private; an existing repository must already be private.
        backbone: Name on the Hub of the backbone that the checkpoint was trained on; needed if the checkpoint refers to a
            local folder.

    Returns:
        Address of the repository.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder does not hold a complete checkpoint of R2-Tuning, or one that nobody else could load; or
            `repo_id` has no organisation.
        PermissionError: There is no token, or it may not write to the repository; or the repository is public and
            `private` was asked for.
        ConnectionError: The upload failed after several attempts. The message has the command that repeats it.
    """
    check_destination(repo_id)
    folder = Path(folder)
    config, checkpoint = collect_checkpoint(folder, backbone)
    files = {**endpoint_files(folder, config), **checkpoint}
    fresh = str(make_model_card(folder, repo_id, config))
    in_folder = read_text(folder / CARD) if (folder / CARD).exists() else None

    def make_card(on_hub: str | None) -> str:
        edited = in_folder if on_hub is None else on_hub
        return fresh if edited is None else refresh_model_card(edited, fresh)

    try:
        address = retry(lambda: create_repository(repo_id, "model", private=private))
        retry(lambda: _publish(repo_id, files, make_card))
    except (HTTPError, OSError, RuntimeError) as error:
        command = _push_command(folder, repo_id, private, backbone)
        advice = f"The checkpoint in '{folder}' is unharmed; finish with `{command}`."
        raise explain_failure(error, advice) from error
    return address


def check_destination(repo_id: str) -> None:
    """Check, without asking the Hub, that a checkpoint can be pushed to a repository.

    Raises:
        PermissionError: There is no token.
        ValueError: `repo_id` is not of the form `organisation/name`.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be 'organisation/name', got '{repo_id}'.")
    validate_repo_id(repo_id)
    if get_token() is None:
        raise PermissionError(
            "There is no token for the Hugging Face Hub: log in with `hf auth login`, or set HF_TOKEN to a token that "
            "may write."
        )


# ---- what is published ---------------------------------------------------------------------------------------------


def collect_checkpoint(folder: Path, backbone: str | None = None) -> tuple[dict[str, Any], dict[str, Path | bytes]]:
    """List the files of a checkpoint that are published, without the card.

    Args:
        folder: The checkpoint.
        backbone: As for `push_checkpoint`.

    Returns:
        Content of its `config.json` as it is published; path on disk or content of each file, by path in the repository.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It does not hold a complete checkpoint of R2-Tuning, or one that nobody else could load.
    """
    config = _published_config(folder, backbone)
    files: dict[str, Path | bytes] = {}
    for path in [*folder.iterdir(), *folder.glob("lora/*")]:
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _is_published(name):
            files[name] = path
    files[CONFIG] = json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
    return config, files


def _is_published(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in PUBLISHED)


def _published_config(folder: Path, backbone: str | None) -> dict[str, Any]:
    """Read the checkpoint's `config.json` and make it refer to a backbone that others can fetch."""
    _check_complete(folder)
    config = read_json(folder / CONFIG)
    if backbone is not None:
        if config["save_backbone"]:
            raise ValueError(f"`backbone` must be left out: the checkpoint in '{folder}' holds its own backbone.")
        config |= {"backbone_name_or_path": backbone, "backbone_revision": None}
    name = config["backbone_name_or_path"]
    is_local = name is None or os.path.isabs(name) or os.path.isdir(name)
    if not is_local:
        return config
    if config["save_backbone"]:
        return {**config, "backbone_name_or_path": None}
    raise ValueError(
        f"The checkpoint in '{folder}' fetches its backbone from '{name}', where nobody else can find it. Name the "
        "same backbone on the Hub (`backbone`, `--backbone`), or save the checkpoint with `model.config.save_backbone = True`."
    )


def _check_complete(folder: Path) -> None:
    """Refuse a folder that is not a complete and undamaged checkpoint of R2-Tuning."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'.")
    if (folder / "best" / CONFIG).exists() and not (folder / CONFIG).exists():
        raise ValueError(f"'{folder}' is a training run; push one of its models, such as '{folder / 'best'}'.")
    check_model_type(str(folder), "r2tuning")
    missing = [name for name in REQUIRED if not (folder / name).exists()]
    if not any((folder / name).exists() for name in (TOKENIZER, SENTENCEPIECE)):
        missing.append(TOKENIZER)
    if not any(folder.glob(WEIGHTS_PATTERN)):
        missing.append(WEIGHTS)
    if not read_json(folder / CONFIG).get("custom_pipelines"):
        missing.append(f"`custom_pipelines` in {CONFIG}")
    if missing:
        raise ValueError(
            f"The checkpoint in '{folder}' lacks {', '.join(missing)}. Write it with "
            "`modeling_r2tuning.save_checkpoint(model, processor, folder)`."
        )
    for path in sorted([*folder.glob("*.json"), *folder.glob(WEIGHTS_PATTERN), *folder.glob("lora/adapter_*")]):
        if not _is_published(path.relative_to(folder).as_posix()):
            continue
        damage = find_damage(str(path))
        if damage:
            raise ValueError(f"'{path}' {damage}. Save or copy the checkpoint again before you publish it.")


# ---- the Hub -------------------------------------------------------------------------------------------------------


def _publish(repo_id: str, files: Mapping[str, Path | bytes], make_card: Callable[[str | None], str]) -> None:
    """Commit to the repository as it is now; run again by `retry` if somebody else commits at the same time."""
    repository = Repository(repo_id, "model")
    has_code = any(fnmatch(name, "*_r2tuning.py") for name in repository.files)

    def is_ours(name: str) -> bool:
        return has_code and any(fnmatch(name, pattern) for pattern in OURS)

    publish(repository, files, make_card, is_ours=is_ours, message="Publish an R2-Tuning checkpoint")


def _push_command(folder: Path, repo_id: str, private: bool, backbone: str | None) -> str:
    """Return the command line that pushes the checkpoint again."""
    words = ["r2tuning", "push", os.path.abspath(folder), repo_id]
    if private:
        words.append("--private")
    if backbone is not None:
        words += ["--backbone", backbone]
    return shlex.join(words)


__all__ = ["check_destination", "collect_checkpoint", "push_checkpoint"]
