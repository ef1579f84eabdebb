"""What is wrong with a checkpoint that cannot be loaded, told in one line: which one, which file, and what to do."""

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
from transformers import CLIPConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file


PLACE_ARGUMENTS = ("revision", "subfolder")
HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download", "proxies")  # serve CLIP as well
CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MODEL_FILES = (CONFIG, WEIGHTS, INDEX)
TOKENIZER = "tokenizer.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", TOKENIZER, "tokenizer_config.json")
CLIP_PROCESSOR_FILES = PROCESSOR_FILES[1:]
OPTIONAL = {INDEX, "preprocessor_config.json", "tokenizer_config.json"}
BACKBONE_ADVICE = (
    "Pass `backbone_name_or_path=` with a CLIP of the Hub or a folder, or use a checkpoint saved with "
    "`save_backbone=True`."
)
LFS_POINTER = b"version https://git-lfs"
# Where the weights of a CLIP are in safetensors, if its main branch has them as a pickle only.
SAFETENSORS_REVISIONS = {"openai/clip-vit-base-patch32": "refs/pr/15"}


@contextmanager
def loading(
    name: str | os.PathLike | None, files: Sequence[str], what: str = "The checkpoint", advice: str = "", **hub: Any
) -> Iterator[None]:
    """Turn whatever goes wrong while a checkpoint is loaded into one error that names it and the file.

    Args:
        name: Its folder, or its repository on the Hub.
        files: What is read of it, in this order.
        what: What it is, at the start of the message.
        advice: Added to the message.
        hub: Where in the repository and how: `revision`, `subfolder`, `cache_dir`, `local_files_only` ...

    Raises:
        OSError: There is no such checkpoint, or it cannot be fetched.
        ValueError: A file is damaged, or the checkpoint is another kind of thing.
    """
    name = "" if name is None else os.fspath(name)  # weights may be given in place of a checkpoint
    _check_name(name, advice)
    try:
        yield
    except (ImportError, torch.OutOfMemoryError):  # not to be mended in the checkpoint
        raise
    except Exception as error:  # noqa: BLE001 (what is in a file decides where its reader fails, and with which error)
        explained = _explain(error, name, files, what, hub)
        raise type(explained)(f"{explained} {advice}".rstrip()) from error


def loading_backbone(name: str, **hub: Any) -> AbstractContextManager[None]:
    """`loading` for the CLIP that a checkpoint refers to."""
    return loading(name, MODEL_FILES, "CLIP", BACKBONE_ADVICE, **hub)


def read_backbone_config(name: str, **hub: Any) -> CLIPConfig:
    """Configuration of a CLIP on the Hub or in a folder.

    Raises:
        OSError: There is none, or it cannot be fetched.
        ValueError: It is another kind of model, or its configuration is damaged.
    """
    with loading(name, (CONFIG,), "CLIP", BACKBONE_ADVICE, **hub):
        found, _ = CLIPConfig.get_config_dict(name, **hub)
        if found.get("model_type") != "clip":
            raise ValueError(f"'{name}' is no CLIP: its `model_type` is {found.get('model_type')!r}.")
        return CLIPConfig.from_dict(found)


def check_weights(checkpoint: str | os.PathLike, info: dict[str, Any], reshape: bool) -> None:
    """Refuse weights that do not fit the model: they would have no effect, and what is missing would stay random.

    Args:
        checkpoint: Where they come from.
        info: What `from_pretrained` found.
        reshape: Weights of other shapes were allowed.

    Raises:
        ValueError: Some are missing, unknown or of other shapes.
    """
    misshaped = [] if reshape else sorted(info["mismatched_keys"])
    problems = {
        "lacks": sorted(info["missing_keys"]),
        "has unknown": sorted(info["unexpected_keys"]),
        "has misshaped": [f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in misshaped],
    }
    told = [f"{label} weights ({len(names)}, such as {names[:3]})" for label, names in problems.items() if names]
    if told:
        raise ValueError(
            f"The weights of the checkpoint '{checkpoint}' do not fit its {CONFIG}: it {' and '.join(told)}. Save it "
            "again, with `config.save_backbone` set only if CLIP is in it."
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str | os.PathLike) -> None:
    """Refuse a tokenizer that transformers made without a file, which takes all words for the same.

    Raises:
        FileNotFoundError: It has no vocabulary.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise FileNotFoundError(f"'{os.fspath(name)}' has no {TOKENIZER}, or one without a vocabulary.")


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer whose tokens the model does not all know.

    Raises:
        ValueError: It belongs to another model.
    """
    known = model.config.text_config.vocab_size
    if len(tokenizer) > known:
        raise ValueError(
            f"The tokenizer of '{tokenizer.name_or_path}' has {len(tokenizer)} tokens, the model '{model.name_or_path}' "
            f"knows {known}: take the {TOKENIZER} that was saved with the model."
        )


def safe_weights(name: str, hub: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained` by which a CLIP's weights come from safetensors, never from a pickle."""
    if hub.get("revision") is None and name in SAFETENSORS_REVISIONS and not os.path.isdir(name):
        found = cached_file(
            name,
            WEIGHTS,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **{key: value for key, value in hub.items() if value is not None},
        )
        if found is None:
            hub = {**hub, "revision": SAFETENSORS_REVISIONS[name]}
    return {**hub, "use_safetensors": True}


def is_repository_name(name: str) -> bool:
    """Whether a name has the form `organisation/name`; then only the Hub can tell whether there is such a repository."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _check_name(name: str, advice: str) -> None:
    """Refuse at once what can be no repository, without asking the Hub."""
    if name and not os.path.exists(name) and not is_repository_name(name):
        raise FileNotFoundError(
            f"'{name}' is neither a folder that exists nor a name on the Hub, 'organisation/name'. {advice}".rstrip()
        )


def _explain(error: Exception, name: str, files: Sequence[str], what: str, hub: dict[str, Any]) -> Exception:
    places = {file: _locate(name, file, hub) for file in files}
    unfetched = _unfetched(error, name, places, hub)
    if unfetched is not None:
        return OSError(_offline_message(name, unfetched, what, hub))
    for place in [*places.values(), *_shards(places.get(INDEX), name, hub)]:
        damage = place and find_damage(place)
        if damage:
            again = "Save or copy" if os.path.isdir(name) else f"`hf download {name} --force-download` fetches"
            return ValueError(f"{what} '{name}' cannot be loaded: '{place}' {damage}. {again} it again.")
    if WEIGHTS in files and places[CONFIG] and not (places[WEIGHTS] or places[INDEX]):
        return OSError(f"{what} '{name}' cannot be loaded: {_no_weights(name)}")
    kinds = (FileNotFoundError, PermissionError, OSError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), ValueError)
    reason = _reason(error)
    return kind(reason if name in reason else f"{what} '{name}' cannot be loaded: {reason}")


def _reason(error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, StrictDataclassError):
        return f"its {CONFIG} does not hold what it should: {reason}"
    if "ignore_mismatched_sizes" in reason:  # transformers logs which ones, and names an option that hides it
        return f"the weights in {WEIGHTS} have other shapes than {CONFIG} says"
    return reason if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {reason}"


# ---- files ---------------------------------------------------------------------------------------------------------


def _locate(name: str, file: str, hub: dict[str, Any]) -> str | None:
    """Path of a file of the checkpoint on this machine."""
    file = "/".join(part for part in (hub.get("subfolder"), file) if part)
    path = os.path.join(name, file) if os.path.isdir(name) else _cached(name, file, hub)
    return path if isinstance(path, str) and os.path.isfile(path) else None


def _cached(name: str, file: str, hub: dict[str, Any]) -> Any:
    """Path in the cache, `None` if the Hub was not asked for it, something else if it has no such file."""
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
    """Where a file may be."""
    if file == WEIGHTS and hub.get("revision") is None and name in SAFETENSORS_REVISIONS:
        return [None, SAFETENSORS_REVISIONS[name]]
    return [hub.get("revision")]


def _shards(index: str | None, name: str, hub: dict[str, Any]) -> list[str]:
    if index is None or find_damage(index):
        return []
    files = json.loads(Path(index).read_text(encoding="utf-8")).get("weight_map")
    names = {file for file in files.values() if isinstance(file, str)} if isinstance(files, dict) else set()
    places = {shard: _locate(name, shard, hub) for shard in sorted(names)}
    return [place or os.path.join(os.path.dirname(index), shard) for shard, place in places.items()]


def find_damage(path: str) -> str | None:
    """What is wrong with a file by itself."""
    if not os.path.isfile(path):
        return "is missing"
    if os.path.getsize(path) == 0:
        return "is empty"
    if path.endswith(".json"):
        return _find_damage_of_json(Path(path))
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "is a pointer of Git LFS in place of the weights (`git lfs pull` fetches them)"
    try:
        with safe_open(path, "pt"):
            return None
    except (SafetensorError, OSError) as error:
        return f"is no complete safetensors file ({error})"


def _find_damage_of_json(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error})"
    if not isinstance(content, dict):
        return "holds no JSON object"
    if path.name == TOKENIZER:
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 (raised as a bare Exception)
            return f"is no tokenizer ({error})"
    return None


# ---- messages ------------------------------------------------------------------------------------------------------


def _unfetched(
    error: BaseException | None, name: str, places: dict[str, str | None], hub: dict[str, Any]
) -> str | None:
    """A file that is needed and not in the cache, if the Hub could not be asked for it."""
    needed = [file for file in places if file not in OPTIONAL and not (file == WEIGHTS and places[INDEX])]
    missing = next((file for file in needed if places[file] is None), None)
    if os.path.isdir(name) or missing is None:
        return None
    while error is not None:
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return missing
        if isinstance(error, HfHubHTTPError):
            return None
        error = error.__cause__ or error.__context__
    # transformers hides that the Hub was not reached when it looks for weights; the cache knows of what the Hub lacks
    hidden = missing == WEIGHTS and _cached(name, WEIGHTS, hub) is None
    return missing if constants.HF_HUB_OFFLINE or hidden else None


def _offline_message(name: str, file: str, what: str, hub: dict[str, Any]) -> str:
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE forbids to fetch it: unset it, or"
    elif hub.get("local_files_only"):
        reason = "`local_files_only` forbids to fetch it: leave it out, or"
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
        f"it has no {WEIGHTS}, and {PICKLES[0]} is a pickle, which can run code and is never loaded. Convert it where you "
        f"trust it: `safetensors.torch.save_file(torch.load('{PICKLES[0]}', weights_only=True), '{WEIGHTS}', "
        "metadata={'format': 'pt'})`."
    )


__all__ = [
    "BACKBONE_ADVICE",
    "CLIP_PROCESSOR_FILES",
    "CONFIG",
    "HUB_ARGUMENTS",
    "MODEL_FILES",
    "PLACE_ARGUMENTS",
    "PROCESSOR_FILES",
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
