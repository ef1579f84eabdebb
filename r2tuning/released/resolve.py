"""Convert the authors' released files to folders for `from_pretrained`: to a given folder, or once into a cache."""

import hashlib
import json
import os
from pathlib import Path
from typing import cast

from huggingface_hub import constants, hf_hub_download
from transformers import CLIPConfig
from transformers.utils import logging

import modeling_r2tuning
from dataset_scripts.benchmarks import ORIGINAL_REPOSITORY, released_benchmarks
from modeling_r2tuning.files_r2tuning import check_new_folder, writing_folder
from modeling_r2tuning.loading_r2tuning import loading, read_backbone_config
from modeling_r2tuning.pipeline_r2tuning import save_checkpoint
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from r2tuning.checks import check_model_name, check_model_type, locate_model
from r2tuning.released.convert import convert_original_checkpoint, get_benchmark, original_filename
from r2tuning_cli.defaults import DEFAULT_BACKBONE


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

    The folder is written atomically: it appears complete or not at all.

    Args:
        source: The `.pth` file.
        output: Folder to write; must be new or empty.
        benchmark: What the checkpoint was trained on, one of `released_benchmarks()`.
        domain: For YouTube Highlights and TVSum.
        backbone: Name on the Hub, or folder, of the CLIP that the checkpoint was trained on; default: ViT-B/32. Its
            tokenizer and image settings are copied into `output`. Its weights are not: the checkpoint refers to them.

    Raises:
        FileExistsError: `output` is a file, or a folder that is not empty.
        FileNotFoundError: `source` does not exist.
        OSError: CLIP cannot be found.
        ValueError: The benchmark or domain is unknown; or `source` is not a checkpoint, or does not fit that CLIP.
    """
    settings = get_benchmark(benchmark, domain)
    output = Path(output).resolve()
    check_new_folder(output)
    if not os.path.isfile(source):
        raise FileNotFoundError(f"No checkpoint at '{os.fspath(source)}'.")
    backbone = _backbone_name(backbone)
    check_model_type(backbone, "clip")  # the only kind that the authors trained on
    backbone_config = cast("CLIPConfig", read_backbone_config(backbone))
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
    """Return what `from_pretrained` takes: `model` itself, or the converted copy of a released file.

    A released file is downloaded and converted once; the copy is kept in the folder `r2tuning` of `HF_HOME`.

    Args:
        model: A folder, a name on the Hub, or an original: `"yeliudev/R2-Tuning"` or a `.pth` file.
        benchmark: Required for an original, and only allowed there: one of `released_benchmarks()`.
        domain: For an original of YouTube Highlights or TVSum.
        backbone: As for `convert_to_directory`.

    Returns:
        A folder or a name on the Hub.

    Raises:
        OSError: A file cannot be found or downloaded.
        ValueError: `benchmark` or `domain` is missing, unknown or not applicable; or the file is not a checkpoint.
    """
    check_original(model, benchmark, domain)
    name = os.fspath(model)
    if benchmark is None:  # `check_original` requires a benchmark for every original
        return name
    if name == ORIGINAL_REPOSITORY:
        name = fetch_original(original_filename(benchmark, domain))
    return _convert_once(Path(name), benchmark, domain, _backbone_name(backbone))


def check_name(option: str, name: str) -> None:
    """Refuse what `resolve_name` cannot resolve, before anything is fetched.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is a file of the authors that must be converted first, or they released no such checkpoint.
    """
    released = released_checkpoint(name)
    if released is not None:
        original_filename(*released)
    elif is_original(name):
        raise ValueError(
            f"`{option}` '{name}' does not say what it was trained on. For a released checkpoint pass "
            f"'{ORIGINAL_REPOSITORY}/BENCHMARK' or '{ORIGINAL_REPOSITORY}/BENCHMARK/DOMAIN'; convert a .pth file to a "
            "folder with `r2tuning convert FILE.pth FOLDER --benchmark NAME`, and pass the folder."
        )
    else:
        check_model_name(option, locate_model(name))


def resolve_name(name: str, *, backbone: str | None = None) -> str:
    """Return what `from_pretrained` takes for a checkpoint that is given by one name.

    Args:
        name: A folder, a name on the Hub, "packaged", or "yeliudev/R2-Tuning/BENCHMARK[/DOMAIN]" for a released
            checkpoint, which is converted as by `resolve_checkpoint`.
        backbone: As for `convert_to_directory`.

    Raises:
        OSError: A file cannot be found or downloaded.
        ValueError: The name is none of these.
    """
    check_name("model", name)
    released = released_checkpoint(name)
    if released is None:
        return locate_model(name)
    benchmark, domain = released
    return resolve_checkpoint(ORIGINAL_REPOSITORY, benchmark=benchmark, domain=domain, backbone=backbone)


def released_checkpoint(name: str) -> tuple[str, str | None] | None:
    """Benchmark and domain in the name "yeliudev/R2-Tuning/BENCHMARK[/DOMAIN]", `None` for other names."""
    prefix = f"{ORIGINAL_REPOSITORY}/"
    if not name.startswith(prefix) or os.path.isdir(name):
        return None
    benchmark, _, domain = name.removeprefix(prefix).partition("/")
    return benchmark, domain or None


def check_original(model: str | os.PathLike, benchmark: str | None, domain: str | None) -> None:
    """Check the arguments of `resolve_checkpoint` before anything is fetched.

    Raises:
        FileNotFoundError: The `.pth` file does not exist.
        ValueError: `benchmark` or `domain` is missing, unknown or not applicable.
    """
    name = os.fspath(model)
    if not is_original(name):
        if benchmark is not None or domain is not None:
            raise ValueError(
                f"`benchmark` and `domain` are for original checkpoints ('{ORIGINAL_REPOSITORY}' or a .pth file); "
                f"leave them out for '{name}'."
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
    """Download a file of the authors' repository; return its path in the Hub's cache.

    Raises:
        OSError: The file cannot be fetched.
    """
    with loading(ORIGINAL_REPOSITORY, (filename,), "The authors' repository"):
        return hf_hub_download(ORIGINAL_REPOSITORY, filename)


def is_original(model: str | os.PathLike) -> bool:
    """Whether `model` names a checkpoint of the released code, which does not say which benchmark it belongs to."""
    name = os.fspath(model)
    return not os.path.isdir(name) and (name == ORIGINAL_REPOSITORY or name.endswith(".pth"))


def _convert_once(source: Path, benchmark: str, domain: str | None, backbone: str) -> str:
    """Convert a file into the cache unless it is there already; return the folder."""
    folder = Path(constants.HF_HOME) / "r2tuning" / _cache_key(source, benchmark, domain, backbone)
    if not folder.is_dir():
        logger.info("converting '%s' to '%s'", source, folder)
        try:
            convert_to_directory(source, folder, benchmark=benchmark, domain=domain, backbone=backbone)
        except OSError:
            if not folder.is_dir():  # otherwise another process converted the same file at the same time
                raise
    return str(folder)


def _cache_key(source: Path, benchmark: str, domain: str | None, backbone: str) -> str:
    """Name the cached folder after everything that its contents depend on."""
    version = modeling_r2tuning.__version__
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    settings = json.dumps([benchmark, domain, content, backbone, version])
    digest = hashlib.sha256(settings.encode()).hexdigest()
    label = benchmark if domain is None else f"{benchmark}-{domain}"
    return f"{label}-{version}-{digest[:16]}"


def _backbone_name(backbone: str | None) -> str:
    """Return a name on the Hub, or the absolute path of a folder.

    The name is stored in the checkpoint, which may be loaded from another working directory.
    """
    if backbone is None:
        return DEFAULT_BACKBONE
    return os.path.abspath(backbone) if os.path.isdir(backbone) else backbone


__all__ = [
    "check_name",
    "check_original",
    "convert_to_directory",
    "fetch_original",
    "is_original",
    "released_checkpoint",
    "resolve_checkpoint",
    "resolve_name",
]
