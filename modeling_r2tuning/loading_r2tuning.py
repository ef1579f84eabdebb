"""Explain in one line why a checkpoint cannot be loaded: which checkpoint, which file, and what to do.

transformers reports the same cause in many ways (an offline Hub, a damaged file and a missing file often look alike),
and some causes not at all. `loading` wraps its calls and finds the cause by looking at the checkpoint's files itself.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .tower_specs_r2tuning import backbone_spec


PLACE_ARGUMENTS = ("revision", "subfolder")
HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download", "proxies")  # also used for the backbone
CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MODEL_FILES = (CONFIG, WEIGHTS, INDEX)
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SENTENCEPIECE = "spiece.model"  # the vocabulary of tokenizers that run in sentencepiece, as SigLIP's first one
PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
BACKBONE_PROCESSOR_FILES = (IMAGE_PROCESSOR, TOKENIZER, SENTENCEPIECE, TOKENIZER_CONFIG)
PROCESSOR_FILES = (PROCESSOR, *BACKBONE_PROCESSOR_FILES)
OPTIONAL = {INDEX, IMAGE_PROCESSOR, SENTENCEPIECE, TOKENIZER_CONFIG}
REPLACED_BY = {WEIGHTS: INDEX, TOKENIZER: SENTENCEPIECE}  # a file that need not exist if the other does
TOKENIZER_PACKAGES = ("sentencepiece", "protobuf")
BACKBONE_ADVICE = (
    "Pass `backbone_name_or_path=` with a backbone of the Hub or a folder, or use a checkpoint saved with "
    "`save_backbone=True`."
)
LFS_POINTER = b"version https://git-lfs"
# Revisions that hold a backbone's weights in safetensors, for those whose main branch has only a pickle.
SAFETENSORS_REVISIONS = {"openai/clip-vit-base-patch32": "refs/pr/15"}


@contextmanager
def loading(
    name: str | os.PathLike | None, files: Sequence[str], what: str = "The checkpoint", advice: str = "", **hub: Any
) -> Iterator[None]:
    """Turn any error while a checkpoint is loaded into one that names the checkpoint and the file.

    Args:
        name: The checkpoint's folder, or its repository on the Hub.
        files: The files that are read, in the order in which they are checked.
        what: What is loaded, at the start of the message.
        advice: Text to append to the message.
        hub: Hub arguments of the call: `revision`, `subfolder`, `cache_dir`, `local_files_only` ...

    Raises:
        OSError: There is no such checkpoint, or it cannot be fetched.
        ValueError: A file is damaged, or the checkpoint is of another kind.
        ImportError: A package is not installed, such as one that the tokenizer needs.
    """
    name = "" if name is None else os.fspath(name)  # `from_pretrained(None, state_dict=...)` has no checkpoint
    _check_name(name, advice)
    try:
        yield
    except ImportError as error:
        missing = [package for package in TOKENIZER_PACKAGES if package in str(error).lower()]
        if not missing:
            raise
        raise ImportError(
            f"The tokenizer of '{name}' needs {missing[0]}, which is not installed: `pip install \"r2tuning[siglip]\"`, "
            f"or without this package `pip install {' '.join(TOKENIZER_PACKAGES)}`."
        ) from error
    except torch.OutOfMemoryError:  # not the checkpoint's fault
        raise
    except Exception as error:  # noqa: BLE001 (a damaged file makes its reader fail anywhere, with any error)
        explained = _explain(error, name, files, what, hub)
        raise type(explained)(f"{explained} {advice}".rstrip()) from error


def loading_backbone(name: str, **hub: Any) -> AbstractContextManager[None]:
    """`loading` for the backbone that a checkpoint refers to."""
    return loading(name, MODEL_FILES, "The backbone", BACKBONE_ADVICE, **hub)


def read_backbone_config(name: str, **hub: Any) -> PreTrainedConfig:
    """Read the configuration of a backbone on the Hub or in a folder.

    Raises:
        OSError: There is no such model, or it cannot be fetched.
        ValueError: It is of a kind that is not supported, or its configuration is damaged.
    """
    with loading(name, (CONFIG,), "The backbone", BACKBONE_ADVICE, **hub):
        found, _ = PreTrainedConfig.get_config_dict(name, **hub)
        # Any other class would build a configuration of defaults from these settings.
        return backbone_spec(name, found.get("model_type")).config_class.from_dict(found)


def check_weights(checkpoint: str | os.PathLike, info: dict[str, Any], reshape: bool) -> None:
    """Refuse weights that do not fit the model; transformers would ignore them and leave missing ones random.

    Args:
        checkpoint: Folder or repository of the weights.
        info: The loading info of `from_pretrained`.
        reshape: Whether weights of other shapes are allowed.

    Raises:
        ValueError: Some weights are missing, unknown or of other shapes.
    """
    misshaped = []
    if not reshape:
        for name, found, expected in sorted(info["mismatched_keys"]):
            misshaped.append(f"{name} {tuple(found)} instead of {tuple(expected)}")
    problems = []
    for label, names in (
        ("lacks", sorted(info["missing_keys"])),
        ("has unknown", sorted(info["unexpected_keys"])),
        ("has misshaped", misshaped),
    ):
        if names:
            problems.append(f"{label} weights ({len(names)}, such as {names[:3]})")
    if problems:
        raise ValueError(
            f"The weights of the checkpoint '{checkpoint}' do not fit its {CONFIG}: it {' and '.join(problems)}. Save it "
            "again, with `config.save_backbone` set only if the checkpoint contains the backbone."
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str | os.PathLike) -> None:
    """Refuse a tokenizer without a vocabulary, which gives all words the same tokens.

    transformers makes such a tokenizer if the file is missing.

    Raises:
        FileNotFoundError: The tokenizer has no vocabulary.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise FileNotFoundError(
            f"'{os.fspath(name)}' has no {TOKENIZER} or {SENTENCEPIECE}, or one without a vocabulary."
        )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings for.

    Raises:
        ValueError: The tokenizer belongs to another model.
    """
    known = model.config.text_config.vocab_size
    if len(tokenizer) > known:
        raise ValueError(
            f"The tokenizer of '{tokenizer.name_or_path}' has {len(tokenizer)} tokens, the model '{model.name_or_path}' "
            f"knows {known}: use the {TOKENIZER} that was saved with the model."
        )


def safe_weights(name: str, hub: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `from_pretrained` with which a backbone is loaded from safetensors, never from a pickle.

    Args:
        name: Folder or repository of the backbone.
        hub: Hub arguments of the call.
    """
    if hub.get("revision") is None and name in SAFETENSORS_REVISIONS and not os.path.isdir(name):
        found = cached_file(
            name,
            WEIGHTS,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **{key: value for key, value in hub.items() if value is not None},
        )
        # The main branch may get the file one day; until then it is in another revision.
        if found is None:
            hub = {**hub, "revision": SAFETENSORS_REVISIONS[name]}
    return {**hub, "use_safetensors": True}


def is_repository_name(name: str) -> bool:
    """Return whether a name has the form `organisation/name`, so that only the Hub knows whether it exists."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _check_name(name: str, advice: str) -> None:
    """Refuse a name that cannot be a repository without asking the Hub."""
    if name and not os.path.exists(name) and not is_repository_name(name):
        raise FileNotFoundError(
            f"'{name}' is neither a folder that exists nor a name on the Hub, 'organisation/name'. {advice}".rstrip()
        )


def _explain(error: Exception, name: str, files: Sequence[str], what: str, hub: dict[str, Any]) -> Exception:
    """Make the error to raise instead of `error`: the most specific cause that the files show, else its own text."""
    paths = {file: _locate(name, file, hub) for file in files}
    unfetched = _find_unfetched(error, name, paths, hub)
    if unfetched is not None:
        return OSError(_offline_message(name, unfetched, what, hub))
    found = [path for path in paths.values() if path is not None]
    for path in found + _shards(paths.get(INDEX), name, hub):
        damage = find_damage(path)
        if damage is not None:
            again = "Save or copy" if os.path.isdir(name) else f"`hf download {name} --force-download` fetches"
            return ValueError(f"{what} '{name}' cannot be loaded: '{path}' {damage}. {again} it again.")
    if WEIGHTS in files and paths[CONFIG] and not (paths[WEIGHTS] or paths[INDEX]):
        return OSError(f"{what} '{name}' cannot be loaded: {_no_weights(name)}")
    reason = _reason(error)
    message = reason if name in reason else f"{what} '{name}' cannot be loaded: {reason}"
    # Subclasses such as HfHubHTTPError need more arguments than a message, so a plain kind is raised.
    for kind in (FileNotFoundError, PermissionError, OSError):
        if isinstance(error, kind):
            return kind(message)
    return ValueError(message)


def _reason(error: Exception) -> str:
    """The text of an error in one line, in words that mean something to a user."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, StrictDataclassError):
        return f"its {CONFIG} does not hold valid settings: {reason}"
    # transformers only logs which weights they are, and advises an option that would hide the problem.
    if "ignore_mismatched_sizes" in reason:
        return f"the weights in {WEIGHTS} have other shapes than {CONFIG} says"
    return reason if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {reason}"


# ---- files ---------------------------------------------------------------------------------------------------------


def _locate(name: str, file: str, hub: dict[str, Any]) -> str | None:
    """Path of a checkpoint's file on this machine, `None` if it is not there."""
    file = "/".join(part for part in (hub.get("subfolder"), file) if part)
    path = os.path.join(name, file) if os.path.isdir(name) else _cached(name, file, hub)
    return path if isinstance(path, str) and os.path.isfile(path) else None


def _cached(name: str, file: str, hub: dict[str, Any]) -> Any:
    """Path in the cache; `None` if the Hub was never asked for the file, another object if the Hub does not have it."""
    found = None
    for revision in _revisions(name, file, hub):
        try:
            found = try_to_load_from_cache(name, file, cache_dir=hub.get("cache_dir"), revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            break
    return found


def _revisions(name: str, file: str, hub: dict[str, Any]) -> list[str | None]:
    """Revisions in which a file may be; `None` = the main branch."""
    if file == WEIGHTS and hub.get("revision") is None and name in SAFETENSORS_REVISIONS:
        return [None, SAFETENSORS_REVISIONS[name]]
    return [hub.get("revision")]


def _shards(index: str | None, name: str, hub: dict[str, Any]) -> list[str]:
    """Paths of the weight files that an index names, whether they exist or not."""
    if index is None or find_damage(index):
        return []
    weight_map = json.loads(Path(index).read_text(encoding="utf-8")).get("weight_map")
    if not isinstance(weight_map, dict):
        return []
    names = {file for file in weight_map.values() if isinstance(file, str)}
    paths = []
    for shard in sorted(names):
        missing = os.path.join(os.path.dirname(index), shard)
        paths.append(_locate(name, shard, hub) or missing)
    return paths


def find_damage(path: str) -> str | None:
    """Check a file by itself.

    Returns:
        What is wrong with it, as the end of a sentence; `None` if it is undamaged.
    """
    if not os.path.isfile(path):
        return "is missing"
    if os.path.getsize(path) == 0:
        return "is empty"
    if path.endswith(".json"):
        return _find_damage_of_json(Path(path))
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "is a Git LFS pointer instead of the weights (`git lfs pull` fetches them)"
    try:
        with safe_open(path, "pt"):  # checks the header against the size of the file
            return None
    except (SafetensorError, OSError) as error:
        return f"is not a complete safetensors file ({error})"


def _find_damage_of_json(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"is not valid JSON ({error})"
    if not isinstance(content, dict):
        return "holds no JSON object"
    if path.name == TOKENIZER:
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 (tokenizers raises a bare Exception)
            return f"is not a tokenizer ({error})"
    return None


# ---- messages ------------------------------------------------------------------------------------------------------


def _find_unfetched(error: Exception, name: str, paths: dict[str, str | None], hub: dict[str, Any]) -> str | None:
    """Find the file that is missing because the Hub could not be asked for it; `None` if that is not the cause."""
    missing = _first_missing(paths)
    if os.path.isdir(name) or missing is None:
        return None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return missing
        if isinstance(cause, HfHubHTTPError):
            return None  # the Hub answered
        cause = cause.__cause__ or cause.__context__
    # When transformers looks for weights, it hides that the Hub was not reached. The cache, however, records which
    # files the Hub lacks: if it knows nothing of the weights, the Hub was never reached.
    is_hidden = missing == WEIGHTS and _cached(name, WEIGHTS, hub) is None
    return missing if constants.HF_HUB_OFFLINE or is_hidden else None


def _first_missing(paths: dict[str, str | None]) -> str | None:
    """The first required file without a path, unless a file is there that replaces it."""
    for file, path in paths.items():
        is_replaced = file in REPLACED_BY and paths.get(REPLACED_BY[file]) is not None
        if path is None and file not in OPTIONAL and not is_replaced:
            return file
    return None


def _offline_message(name: str, file: str, what: str, hub: dict[str, Any]) -> str:
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE forbids fetching it: unset it, or"
    elif hub.get("local_files_only"):
        reason = "`local_files_only` forbids fetching it: leave it out, or"
    else:
        reason = "the Hub cannot be reached:"
    revision = _revisions(name, file, hub)[-1]
    revision = "" if revision is None else f" --revision {revision}"
    return (
        f"{what} '{name}' cannot be loaded: its file '{file}' is not in the cache, and {reason} run "
        f"`hf download {name}{revision}` once where there is a network, or name a local folder."
    )


def _no_weights(name: str) -> str:
    if os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in PICKLES):
        return f"it has no {WEIGHTS}. Save or copy it again."
    return (
        f"it has no {WEIGHTS}, and {PICKLES[0]} is a pickle, which can run code and is never loaded. If you trust it, "
        f"convert it: `safetensors.torch.save_file(torch.load('{PICKLES[0]}', weights_only=True), '{WEIGHTS}', "
        "metadata={'format': 'pt'})`."
    )


__all__ = [
    "BACKBONE_ADVICE",
    "BACKBONE_PROCESSOR_FILES",
    "CONFIG",
    "HUB_ARGUMENTS",
    "INDEX",
    "MODEL_FILES",
    "PLACE_ARGUMENTS",
    "PROCESSOR",
    "PROCESSOR_FILES",
    "SENTENCEPIECE",
    "TOKENIZER",
    "WEIGHTS",
    "check_tokenizer",
    "check_vocabulary",
    "check_weights",
    "find_damage",
    "is_repository_name",
    "loading",
    "loading_backbone",
    "read_backbone_config",
    "safe_weights",
]
