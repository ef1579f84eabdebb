"""Folders that `from_pretrained` reads, made of the authors' released files: where told, or in a cache."""

import hashlib
import json
import os
import sys
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from transformers import PreTrainedConfig
from transformers.utils import logging

from .convert_r2tuning_checkpoint import (
    BENCHMARKS,
    ORIGINAL_REPOSITORY,
    convert_original_checkpoint,
    get_benchmark,
    original_filename,
)
from .files_r2tuning import check_new_folder, writing_folder
from .loading_r2tuning import CONFIG, loading, read_clip_config
from .pipeline_r2tuning import save_checkpoint
from .processing_r2tuning import R2TuningProcessor


logger = logging.get_logger(__name__)

DEFAULT_CLIP = "openai/clip-vit-base-patch32"  # of all published files


def convert_to_directory(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    benchmark: str,
    domain: str | None = None,
    clip: str | None = None,
) -> None:
    """Convert a checkpoint of the released code to a folder for `AutoModel`, `AutoProcessor` and `pipeline`.

    The folder appears when it is whole.

    Args:
        source: The `.pth` file.
        output: Folder to write; must be new or empty.
        benchmark: What the checkpoint was trained on, one of `BENCHMARKS`.
        domain: For YouTube Highlights and TVSum.
        clip: The CLIP that the checkpoint was trained on, a name on the Hub or a folder; default: ViT-B/32. Its
            tokenizer and image settings are copied, its weights are not: the checkpoint refers to it.

    Raises:
        FileExistsError: `output` is a file, or a folder that is not empty.
        FileNotFoundError: There is no `source`.
        OSError: CLIP is not found.
        ValueError: Unknown benchmark or domain, or a checkpoint that does not fit CLIP or is none.
    """
    settings = get_benchmark(benchmark, domain)
    output = Path(output).resolve()
    check_new_folder(output)
    if not os.path.isfile(source):
        raise FileNotFoundError(f"No checkpoint at '{os.fspath(source)}'.")
    clip = _clip_name(clip)
    clip_config = read_clip_config(clip)
    with loading(source, ()):
        model = convert_original_checkpoint(
            source, benchmark=benchmark, domain=domain, clip_config=clip_config, clip_model_name_or_path=clip
        )
    processor = R2TuningProcessor.from_clip(clip, fps=settings.fps, nms=settings.nms, round_to=settings.round_to)
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(output) as partial:
        save_checkpoint(model, processor, partial)


def resolve_checkpoint(
    model: str | os.PathLike, *, benchmark: str | None = None, domain: str | None = None, clip: str | None = None
) -> str:
    """What to give to `from_pretrained`: `model` itself, or the converted copy of a released file.

    A released file is downloaded and converted once; the copy is kept in the folder `r2tuning` of `HF_HOME`.

    Args:
        model: A folder, a name on the Hub, or an original: `"yeliudev/R2-Tuning"` or a `.pth` file.
        benchmark: For an original only, and needed there: one of `BENCHMARKS`.
        domain: For an original of YouTube Highlights or TVSum.
        clip: As for `convert_to_directory`.

    Returns:
        A folder or a name on the Hub.

    Raises:
        OSError: A file cannot be found or downloaded.
        ValueError: `benchmark` or `domain` is missing, unknown or given in vain; or the file is no checkpoint.
    """
    check_original(model, benchmark, domain)
    name = os.fspath(model)
    if not is_original(name):
        return name
    if name == ORIGINAL_REPOSITORY:
        name = fetch_original(original_filename(benchmark, domain))
    return _convert_once(Path(name), benchmark, domain, _clip_name(clip))


def check_original(model: str | os.PathLike, benchmark: str | None, domain: str | None) -> None:
    """Refuse before anything is fetched what `resolve_checkpoint` cannot resolve.

    Raises:
        FileNotFoundError: There is no such `.pth` file.
        ValueError: `benchmark` or `domain` is missing, unknown or given in vain.
    """
    name = os.fspath(model)
    if not is_original(name):
        if benchmark is not None or domain is not None:
            raise ValueError(
                f"`benchmark` and `domain` are for original checkpoints ('{ORIGINAL_REPOSITORY}' or a .pth file); "
                f"'{name}' is none, leave them out."
            )
        return
    if benchmark is None:
        raise ValueError(f"The original checkpoint '{name}' needs a `benchmark`, one of {list(BENCHMARKS)}.")
    get_benchmark(benchmark, domain)
    if name != ORIGINAL_REPOSITORY and not os.path.isfile(name):
        raise FileNotFoundError(f"No checkpoint at '{name}'.")


def fetch_original(filename: str) -> str:
    """Path in the Hub's cache of a file of the authors' repository.

    Raises:
        OSError: It cannot be fetched.
    """
    with loading(ORIGINAL_REPOSITORY, (filename,), "The authors' repository"):
        return hf_hub_download(ORIGINAL_REPOSITORY, filename)


def is_original(model: str | os.PathLike) -> bool:
    """Whether `model` names checkpoints of the released code, which say nothing of their benchmark themselves."""
    name = os.fspath(model)
    return not os.path.isdir(name) and (name == ORIGINAL_REPOSITORY or name.endswith(".pth"))


def check_model_type(name: str, expected: str) -> None:
    """Refuse a folder or Hub repository that holds another kind of model, which would load with random weights.

    Raises:
        OSError: There is no model of that name, or it cannot be fetched.
        ValueError: It is of another type, or its configuration is damaged.
    """
    with loading(name, (CONFIG,), "The model"):
        found = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if found != expected:
        holds = "no model" if found is None else f"a model of type '{found}'"
        raise ValueError(f"'{name}' holds {holds}; needed is one of type '{expected}'.")


def _convert_once(source: Path, benchmark: str, domain: str | None, clip: str) -> str:
    """The folder of the converted file in the cache."""
    folder = Path(constants.HF_HOME) / "r2tuning" / _cache_key(source, benchmark, domain, clip)
    if not folder.is_dir():
        logger.info("converting '%s' to '%s'", source, folder)
        try:
            convert_to_directory(source, folder, benchmark=benchmark, domain=domain, clip=clip)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return str(folder)


def _cache_key(source: Path, benchmark: str, domain: str | None, clip: str) -> str:
    version = sys.modules[__package__].__version__
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps([benchmark, domain, content, clip, version]).encode()).hexdigest()
    return "-".join([benchmark, *([domain] if domain else []), version, digest[:16]])


def _clip_name(clip: str | None) -> str:
    """Name on the Hub, or the absolute path of a folder: the checkpoint may be loaded from elsewhere."""
    clip = DEFAULT_CLIP if clip is None else os.fspath(clip)
    return os.path.abspath(clip) if os.path.isdir(clip) else clip


__all__ = [
    "DEFAULT_CLIP",
    "check_model_type",
    "check_original",
    "convert_to_directory",
    "fetch_original",
    "is_original",
    "resolve_checkpoint",
]
