"""The authors' twenty released checkpoints, converted one by one, each with its card and the published results."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from dataset_scripts.benchmarks import BENCHMARKS, ORIGINAL_REPOSITORY, released_benchmarks
from modeling_r2tuning.files_r2tuning import writing
from r2tuning.checks import check_model_type
from r2tuning.hub.model_card import CARDS, Results, read_published, write_model_card
from r2tuning.hub.push import check_destination, push_checkpoint
from r2tuning_cli.defaults import DEFAULT_BACKBONE

from .convert import original_filename
from .resolve import convert_to_directory, fetch_original


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ReleasedModel:
    """One of the authors' checkpoints."""

    benchmark: str
    domain: str | None

    @property
    def name(self) -> str:
        """Ours, such as "r2tuning-qvhl" or "r2tuning-tvsum-bk"."""
        name = f"r2tuning-{BENCHMARKS[self.benchmark].short_name}"
        return name if self.domain is None else f"{name}-{self.domain.lower()}"

    @property
    def original(self) -> str:
        """Path of the file in the authors' repository."""
        return original_filename(self.benchmark, self.domain)

    def results(self, file: Path) -> Results:
        """What the authors publish for it; no scores if `file` is another than theirs."""
        published = read_published()[self.benchmark]
        scores = published["scores"]
        if self.domain is not None:
            scores = {f"mAP-{self.domain}": scores[f"mAP-{self.domain}"]}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if not digest.startswith(Path(self.original).stem.split("-")[-1]):  # the authors name files by their hash
            logger.warning(
                f"'{file}' is not the published file: its SHA-256 begins with {digest[:8]}. The published results are "
                f"left out of the card of {self.name}."
            )
            scores = {}
        return Results(
            benchmark=self.benchmark,
            domain=self.domain,
            split=published["split"],
            scores=scores,
            original=f"{ORIGINAL_REPOSITORY}/{self.original}",
        )


def released_models() -> list[ReleasedModel]:
    """All twenty."""
    return [
        ReleasedModel(name, domain)
        for name, spec in released_benchmarks().items()
        for domain in spec.released_checkpoints
    ]


def convert_all(
    output: str | os.PathLike,
    *,
    source: str | os.PathLike | None = None,
    backbone: str | None = None,
    push_to: str | None = None,
    private: bool = False,
) -> dict[str, str]:
    """Convert every released checkpoint to a folder of its own, and publish it if asked to.

    What is there already is not converted again, and what the Hub has already is not uploaded again: after a failure
    the same call does what is left.

    Args:
        output: Folder of the folders, whose names are those of the repositories: "r2tuning-qvhl" and so on.
        source: Folder of the authors' `.pth` files under their names, or of their repository; default: the Hub.
        backbone: As for `convert_to_directory`.
        push_to: Organisation or user on the Hub.
        private: Make the repositories private.

    Returns:
        For each checkpoint that failed, the reason.

    Raises:
        OSError: `source` or CLIP is not found.
        PermissionError: There is no token to push with.
        ValueError: `push_to` is no name of an organisation, or `backbone` is another kind of model or, though the
            checkpoints are pushed, a folder.
    """
    if source is not None and not os.path.isdir(source):
        raise FileNotFoundError(f"There is no folder '{source}'.")
    if push_to is not None:
        check_destination(f"{push_to}/{released_models()[0].name}")
        if backbone is not None and os.path.isdir(backbone):
            raise ValueError(
                f"`backbone` must be a name on the Hub where checkpoints are pushed, got the folder '{backbone}'."
            )
    check_model_type(DEFAULT_BACKBONE if backbone is None else backbone, "clip")
    failures = {}
    for model in released_models():
        folder = Path(output) / model.name
        try:
            convert_released(model, folder, source=source, backbone=backbone)
            if push_to is not None:
                address = push_checkpoint(folder, f"{push_to}/{model.name}", private=private)
                logger.info(f"{model.name} is at {address}")
        except (OSError, ValueError) as error:
            logger.error(f"{model.name}: {error}")
            failures[model.name] = str(error)
    return failures


def convert_released(
    model: ReleasedModel, folder: Path, *, source: str | os.PathLike | None = None, backbone: str | None = None
) -> None:
    """Convert a released checkpoint with its results, licence and card; nothing is done where all is there."""
    if (folder / "README.md").exists():  # the last that is written
        return
    file = _find(model, source)
    if not (folder / "config.json").exists():
        convert_to_directory(file, folder, benchmark=model.benchmark, domain=model.domain, backbone=backbone)
    model.results(file).save(folder)
    with writing(folder / "LICENSE") as partial:
        shutil.copyfile(CARDS / "original_license.txt", partial)
    write_model_card(folder)
    logger.info(f"converted {model.name}")


def _find(model: ReleasedModel, source: str | os.PathLike | None) -> Path:
    if source is None:
        return Path(fetch_original(model.original))
    paths = [Path(source) / model.original, Path(source) / Path(model.original).name]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"There is no file '{paths[1]}'.")


__all__ = ["ReleasedModel", "convert_all", "convert_released", "released_models"]
