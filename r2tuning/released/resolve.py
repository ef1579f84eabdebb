"""Folders that `from_pretrained` reads, made of the authors' released files: where told, or in a cache."""

import hashlib
import json
import os
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from transformers.utils import logging

import modeling_r2tuning
from dataset_scripts.benchmarks import ORIGINAL_REPOSITORY, released_benchmarks
from modeling_r2tuning.files_r2tuning import check_new_folder, writing_folder
from modeling_r2tuning.loading_r2tuning import loading, read_backbone_config
from modeling_r2tuning.pipeline_r2tuning import save_checkpoint
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from r2tuning_cli.defaults import DEFAULT_BACKBONE

from .convert import convert_original_checkpoint, get_benchmark, original_filename


logger = logging.get_logger(__name__)


def convert_to_directory(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    benchmark: str,
    domain: str | None = None,
    backbone: str | None = None,
) -> None:
    """Convert a checkpoint of the released code to a folder for `AutoModel`, `AutoProcessor` and `pipeline`.

    The folder appears when it is whole.

    Args:
        source: The `.pth` file.
        output: Folder to write; must be new or empty.
        benchmark: What the checkpoint was trained on, one of `released_benchmarks()`.
        domain: For YouTube Highlights and TVSum.
        backbone: The CLIP that the checkpoint was trained on, a name on the Hub or a folder; default: ViT-B/32. Its
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
    backbone = _backbone_name(backbone)
    backbone_config = read_backbone_config(backbone)
    with loading(source, ()):
        model = convert_original_checkpoint(
            source, benchmark=benchmark, domain=domain, backbone_config=backbone_config, backbone_name_or_path=backbone
        )
    processor = R2TuningProcessor.from_backbone(
        backbone, fps=settings.fps, nms=settings.nms, round_to=settings.round_to
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(output) as partial:
        save_checkpoint(model, processor, partial)


def resolve_checkpoint(
    model: str | os.PathLike, *, benchmark: str | None = None, domain: str | None = None, backbone: str | None = None
) -> str:
    """What to give to `from_pretrained`: `model` itself, or the converted copy of a released file.

    A released file is downloaded and converted once; the copy is kept in the folder `r2tuning` of `HF_HOME`.

    Args:
        model: A folder, a name on the Hub, or an original: `"yeliudev/R2-Tuning"` or a `.pth` file.
        benchmark: For an original only, and needed there: one of `released_benchmarks()`.
        domain: For an original of YouTube Highlights or TVSum.
        backbone: As for `convert_to_directory`.

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
    return _convert_once(Path(name), benchmark, domain, _backbone_name(backbone))


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
        raise ValueError(
            f"The original checkpoint '{name}' needs a `benchmark`, one of {list(released_benchmarks())}."
        )
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


def _convert_once(source: Path, benchmark: str, domain: str | None, backbone: str) -> str:
    """The folder of the converted file in the cache."""
    folder = Path(constants.HF_HOME) / "r2tuning" / _cache_key(source, benchmark, domain, backbone)
    if not folder.is_dir():
        logger.info("converting '%s' to '%s'", source, folder)
        try:
            convert_to_directory(source, folder, benchmark=benchmark, domain=domain, backbone=backbone)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return str(folder)


def _cache_key(source: Path, benchmark: str, domain: str | None, backbone: str) -> str:
    version = modeling_r2tuning.__version__
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps([benchmark, domain, content, backbone, version]).encode()).hexdigest()
    return "-".join([benchmark, *([domain] if domain else []), version, digest[:16]])


def _backbone_name(backbone: str | None) -> str:
    """Name on the Hub, or the absolute path of a folder: the checkpoint may be loaded from elsewhere."""
    backbone = DEFAULT_BACKBONE if backbone is None else os.fspath(backbone)
    return os.path.abspath(backbone) if os.path.isdir(backbone) else backbone


__all__ = [
    "check_original",
    "convert_to_directory",
    "fetch_original",
    "is_original",
    "resolve_checkpoint",
]
