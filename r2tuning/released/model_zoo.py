"""Convert the authors' twenty released checkpoints, each with its model card and the published results."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from dataset_scripts.benchmarks import BENCHMARKS, ORIGINAL_REPOSITORY, released_benchmarks
from modeling_r2tuning.loading_r2tuning import CONFIG
from r2tuning.checkpoint_files import CARD, LICENSE
from r2tuning.checks import check_model_type
from r2tuning.hub.card_text import CARDS
from r2tuning.hub.model_card import Results, read_published, write_model_card
from r2tuning.hub.push import check_destination, push_checkpoint
from r2tuning.json_files import write_text
from r2tuning.released.convert import original_filename
from r2tuning.released.resolve import convert_to_directory, fetch_original
from r2tuning_cli.defaults import DEFAULT_BACKBONE


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ReleasedModel:
    """One of the authors' checkpoints.

    Attributes:
        benchmark: Benchmark that it was trained on.
        domain: Domain of the benchmark; `None` if the benchmark has none.
    """

    benchmark: str
    domain: str | None

    @property
    def name(self) -> str:
        """Name of the converted checkpoint, such as "r2tuning-qvhl" or "r2tuning-tvsum-bk"."""
        name = f"r2tuning-{BENCHMARKS[self.benchmark].short_name}"
        return name if self.domain is None else f"{name}-{self.domain.lower()}"

    @property
    def original(self) -> str:
        """Path of the file in the authors' repository."""
        return original_filename(self.benchmark, self.domain)

    def results(self, file: Path) -> Results:
        """Return the results that the authors publish for this checkpoint.

        Args:
            file: The file that was converted. If it is not the authors' file, the results hold no scores.
        """
        published = read_published()[self.benchmark]
        scores = published["scores"]
        if self.domain is not None:
            score = f"mAP-{self.domain}"
            scores = {score: scores[score]}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        published_digest = Path(self.original).stem.split("-")[-1]  # the authors' file names end with it
        if not digest.startswith(published_digest):
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
    """List all twenty, by benchmark and domain."""
    models = []
    for name, spec in released_benchmarks().items():
        models += [ReleasedModel(name, domain) for domain in spec.released_checkpoints]
    return models


def convert_all(
    output: str | os.PathLike,
    *,
    source: str | os.PathLike | None = None,
    backbone: str | None = None,
    push_to: str | None = None,
    private: bool = False,
) -> dict[str, str]:
    """Convert every released checkpoint to a folder of its own, and publish the folders if `push_to` is given.

    Existing folders are not converted again, and unchanged files are not uploaded again: after a failure the same call
    completes the rest.

    Args:
        output: Folder for the converted folders, which are named like the repositories ("r2tuning-qvhl", ...).
        source: Folder with the authors' `.pth` files or a copy of their repository; default: download from the Hub.
        backbone: As for `convert_to_directory`.
        push_to: Organisation or user on the Hub.
        private: Make the repositories private.

    Returns:
        The error message of each checkpoint that failed, by its name.

    Raises:
        OSError: `source` or CLIP cannot be found.
        PermissionError: There is no token to push with.
        ValueError: `push_to` is not the name of an organisation; `backbone` is not a CLIP; or `backbone` is a folder and
            the checkpoints are to be pushed.
    """
    if source is not None and not os.path.isdir(source):
        raise FileNotFoundError(f"There is no folder '{source}'.")
    if push_to is not None:
        check_destination(f"{push_to}/{released_models()[0].name}")
        if backbone is not None and os.path.isdir(backbone):
            raise ValueError(
                f"`backbone` must be a name on the Hub if checkpoints are pushed, got the folder '{backbone}'."
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
    """Convert a released checkpoint and add its results, licence and card; a complete folder is left as it is.

    Args:
        model: The checkpoint to convert.
        folder: Folder to write or, after an interruption, to complete.
        source: As for `convert_all`.
        backbone: As for `convert_to_directory`.

    Raises:
        OSError: The file or CLIP cannot be found.
        ValueError: The file is not a checkpoint, or does not fit CLIP.
    """
    if (folder / CARD).exists():  # written last, so the folder is complete
        return
    file = _find(model, source)
    if not (folder / CONFIG).exists():
        convert_to_directory(file, folder, benchmark=model.benchmark, domain=model.domain, backbone=backbone)
    model.results(file).save(folder)
    write_text(folder / LICENSE, (CARDS / "original_license.txt").read_text(encoding="utf-8"))
    write_model_card(folder)
    logger.info(f"converted {model.name}")


def _find(model: ReleasedModel, source: str | os.PathLike | None) -> Path:
    """Return the path of the authors' file, downloaded if there is no `source`."""
    if source is None:
        return Path(fetch_original(model.original))
    in_repository = Path(source) / model.original
    if in_repository.is_file():
        return in_repository
    by_name = Path(source) / in_repository.name
    if by_name.is_file():
        return by_name
    raise FileNotFoundError(f"There is no file '{by_name}'.")


__all__ = ["ReleasedModel", "convert_all", "convert_released", "released_models"]
