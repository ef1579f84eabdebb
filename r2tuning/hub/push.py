"""Checkpoints to the Hub: model, processor, code, card and results in one commit."""

import json
import os
import shlex
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the latter is httpx's, by whatever name it is installed
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from modeling_r2tuning.loading_r2tuning import find_damage
from r2tuning.checks import check_model_type
from r2tuning.hub.publishing import CARD, Repository, publish, reason, with_patience

from .model_card import make_model_card, read_json, read_text, refresh_model_card


logger = logging.get_logger(__name__)

CODE = tuple(f"{part}_r2tuning.py" for part in ("configuration", "modeling", "processing", "pipeline"))
REQUIRED = ("config.json", "processor_config.json", "tokenizer.json", *CODE)
WEIGHTS = "model*.safetensors"
# Of a folder nothing else is published: no state of the optimizer, no videos, no answers.
PUBLISHED = (
    *(WEIGHTS, "model.safetensors.index.json", "config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*_r2tuning.py"),
    *("LICENSE", "results.json", "metrics.json", "curves.png"),
    *("lora/adapter_config.json", "lora/adapter_model.safetensors"),
)
# In a repository with our code, but without a list of what we wrote, these are ours.
OURS = (WEIGHTS, "model.safetensors.index.json", "*_r2tuning.py", "lora/adapter_*")


def push_checkpoint(
    folder: str | os.PathLike, repo_id: str, *, private: bool = False, backbone: str | None = None
) -> str:
    """Publish a checkpoint on the Hub, in a new repository or as the next commit of one that exists.

    Everything goes in one commit, so that nothing half-published is ever seen. What an earlier push has written and
    this one does not is removed; files that others added stay. The card is made of the folder's settings and
    `results.json`. Where it was edited, on the Hub or else in the folder, only its marked parts and its metadata are
    made anew. A LICENSE that was written or edited on the Hub is kept. The folder itself is left as it is.

    Args:
        folder: As `save_checkpoint` writes it.
        repo_id: `organisation/name`, or your user's name for the organisation.
        private: Make the repository private; one that exists must be.
        backbone: Name on the Hub of the CLIP that the checkpoint refers to, where it refers to a local folder.

    Returns:
        Address of the repository.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no complete checkpoint of R2-Tuning, or one that nobody else could load; or a name without
            organisation.
        PermissionError: No token, or one that may not write there; or the repository is public and should be private.
        ConnectionError: The upload failed, though it was tried several times. The message has the command to finish.
    """
    check_destination(repo_id)
    folder = Path(folder)
    config = _published_config(folder, backbone)
    paths = {path.relative_to(folder).as_posix(): path for path in [*folder.iterdir(), *folder.glob("lora/*")]}
    files = {name: path for name, path in sorted(paths.items()) if path.is_file() and _belongs(name)}
    files["config.json"] = json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
    fresh = str(make_model_card(folder, repo_id, config))
    in_folder = read_text(folder / CARD) if (folder / CARD).exists() else None

    def make_card(on_hub: str | None) -> str:
        edited = in_folder if on_hub is None else on_hub
        return fresh if edited is None else refresh_model_card(edited, fresh)

    try:
        address = with_patience(lambda: _create(HfApi(), repo_id, private), logger)
        with_patience(lambda: _publish(repo_id, files, make_card), logger)
    except (HTTPError, OSError, RuntimeError) as error:
        options = [*(["--private"] if private else []), *(["--backbone", backbone] if backbone is not None else [])]
        command = shlex.join(["r2tuning", "push", os.path.abspath(folder), repo_id, *options])
        raise _explain(error, f"The checkpoint in '{folder}' is unharmed; finish with `{command}`.") from error
    return address


def check_destination(repo_id: str) -> None:
    """Refuse at once, without asking the Hub, what could not be pushed in the end.

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


def _belongs(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in PUBLISHED)


def _published_config(folder: Path, backbone: str | None) -> dict[str, Any]:
    """The checkpoint's `config.json` with a CLIP that others can fetch."""
    _check_complete(folder)
    config = read_json(folder / "config.json")
    if backbone is not None and config["save_backbone"]:
        raise ValueError(f"`backbone` must be left out: the checkpoint in '{folder}' holds its own CLIP.")
    if backbone is not None:
        config |= {"backbone_name_or_path": backbone, "backbone_revision": None}
    name = config["backbone_name_or_path"]
    if name is not None and not os.path.isabs(name) and not os.path.isdir(name):
        return config
    if config["save_backbone"]:
        return {**config, "backbone_name_or_path": None}
    raise ValueError(
        f"The checkpoint in '{folder}' fetches CLIP from '{name}', where nobody else finds it. Name the same CLIP on the "
        "Hub (`backbone`, `--backbone`), or save the checkpoint with `model.config.save_backbone = True`."
    )


def _check_complete(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'.")
    if (folder / "best/config.json").exists() and not (folder / "config.json").exists():
        raise ValueError(f"'{folder}' is a training run; push one of its models, such as '{folder / 'best'}'.")
    check_model_type(str(folder), "r2tuning")
    lacking = [name for name in REQUIRED if not (folder / name).exists()]
    if not any(folder.glob(WEIGHTS)):
        lacking.append("model.safetensors")
    if not read_json(folder / "config.json").get("custom_pipelines"):
        lacking.append("`custom_pipelines` in config.json")
    if lacking:
        raise ValueError(
            f"The checkpoint in '{folder}' lacks {', '.join(lacking)}. Write it with "
            "`modeling_r2tuning.save_checkpoint(model, processor, folder)`."
        )
    for path in sorted([*folder.glob("*.json"), *folder.glob(WEIGHTS), *folder.glob("lora/adapter_*")]):
        damage = find_damage(str(path)) if _belongs(path.relative_to(folder).as_posix()) else None
        if damage:
            raise ValueError(f"'{path}' {damage}. Save or copy the checkpoint again before it is published.")


# ---- the Hub -------------------------------------------------------------------------------------------------------


def _create(api: HfApi, repo_id: str, private: bool) -> str:
    """Make the repository if there is none; its address."""
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise PermissionError(f"'{repo_id}' exists and is public: make it private on the Hub first, or name another.")
    return str(address)


def _publish(repo_id: str, files: dict[str, Path | bytes], make_card: Callable[[str | None], str]) -> None:
    repository = Repository(repo_id, "model")
    has_code = any(fnmatch(name, "*_r2tuning.py") for name in repository.files)
    publish(
        repository,
        files,
        make_card,
        ours=lambda name: has_code and any(fnmatch(name, pattern) for pattern in OURS),
        message="Publish an R2-Tuning checkpoint",
        logger=logger,
    )


def _explain(error: Exception, advice: str) -> OSError:
    """An error that says what went wrong and how to go on."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        kind, hint = PermissionError, "The token may not write there: `hf auth login` with one that may. "
    else:
        kind, hint = (PermissionError if isinstance(error, PermissionError) else ConnectionError), ""
    return kind(f"Publishing failed: {reason(error).rstrip('.')}. {hint}{advice}")


__all__ = ["check_destination", "push_checkpoint"]
