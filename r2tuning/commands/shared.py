"""What `r2tuning demo`, `ground`, `explain` and `search` have in common: video, model, and what they write."""

import argparse
import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch

from modeling_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.files_r2tuning import check_replaceable
from modeling_r2tuning.int8_r2tuning import check_int8
from modeling_r2tuning.loading_r2tuning import read_backbone_config
from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from modeling_r2tuning.video_source_r2tuning import LocalCopy, local_copy
from r2tuning.checks import check_distinct, check_model_type, choose_device, locate_model
from r2tuning.editors.clips import Cut, list_cuts, write_clips
from r2tuning.editors.document import encode_document, save_document
from r2tuning.editors.export import check_export, write_moments
from r2tuning.editors.media import EditedVideo
from r2tuning.editors.moments import ExportedMoment
from r2tuning.released.resolve import check_original, resolve_checkpoint
from r2tuning.terminal import progress_bar, write_line
from r2tuning.visualization.style import import_figure
from r2tuning.visualization.timeline import format_absence


logger = logging.getLogger(__name__)

STANDARD_OUTPUT = Path("-")
DONE, SOME_FAILED = 0, 1  # exit statuses


def check_model_options(args: argparse.Namespace) -> None:
    """Refuse a device, checkpoint or backbone that cannot be used, before anything is fetched or read.

    Raises:
        OSError: There is no such checkpoint or backbone.
        ValueError: The device cannot be used, or the options do not fit the checkpoint.
        ImportError: int8 needs a package that is not installed.
    """
    device = choose_device(args.device)
    if args.dtype == "int8":
        check_int8(device)
    check_original(model_name(args), args.benchmark, args.domain)
    if args.backbone is not None:
        read_backbone_config(args.backbone)


def model_name(args: argparse.Namespace) -> str:
    """The checkpoint to use, by default the packaged model."""
    return str(DEFAULT_MODEL) if args.model is None else locate_model(args.model)


def load_pipeline(args: argparse.Namespace) -> VideoGroundingPipeline:
    """Load the checkpoint; one of the authors' is converted first."""
    device = choose_device(args.device)
    name = resolve_checkpoint(model_name(args), benchmark=args.benchmark, domain=args.domain, backbone=args.backbone)
    check_model_type(name, "r2tuning")
    backbone = {}
    if args.backbone is not None:
        backbone = {"backbone_name_or_path": args.backbone, "backbone_revision": None}
    model = R2TuningForVideoGrounding.from_pretrained(name, dtype=getattr(torch, args.dtype), **backbone)
    if args.backbone is not None and model.config.save_backbone:
        logger.warning("`backbone` has no effect: the checkpoint holds its own backbone")
    return VideoGroundingPipeline(model=model, processor=R2TuningProcessor.from_pretrained(name), device=device)


def open_video(path: str, args: argparse.Namespace) -> contextlib.AbstractContextManager[str | LocalCopy]:
    """A video; one from an address or a pipe is copied once, since it is read several times."""
    limit = {"max_bytes": args.max_download} if "max_download" in args else {}
    with progress_bar("copying", " bytes") as progress:
        copied = local_copy(path, progress=progress, **limit)
    return cast("contextlib.AbstractContextManager[str | LocalCopy]", copied)  # a path stays a path


def check_outputs(args: argparse.Namespace, files: Iterable[Path | None], inputs: Iterable[str] = ()) -> None:
    """Refuse at the start what could not be written at the end: the files, and those of `export`, `plot` and `clips`.

    Args:
        args: The arguments of the command.
        files: What else the command writes; `None` = nothing, "-" = standard output.
        inputs: Videos that must not be replaced.

    Raises:
        ImportError: A package for an output is not installed.
        OSError: A file or the folder for clips could not be written.
        ValueError: Two outputs have the same path.
    """
    outputs: list[Path] = []
    for path in (*files, args.plot, *args.export):
        if path is not None and path != STANDARD_OUTPUT:
            check_replaceable(path, *inputs)
            outputs.append(path)
    check_distinct(outputs if args.clips is None else [*outputs, args.clips])
    for path in args.export:
        check_export(path)
    if args.plot is not None:
        import_figure()
    if args.clips is not None:
        args.clips.mkdir(parents=True, exist_ok=True)
        if not os.access(args.clips, os.W_OK):
            raise PermissionError(f"Clips cannot be written: you may not write to the folder '{args.clips}'.")


def cut_moments(
    answers: list[dict[str, Any]],
    video: str | LocalCopy,
    duration_sec: float,
    folder: Path,
    top: int,
    stem: str | None = None,
    *,
    copy: bool = False,
) -> int:
    """Write the best moments of each query as files; arguments as for `list_cuts`, result as of `cut_clips`."""
    for query, answer in enumerate(answers, 1):
        absence = format_absence(answer)
        if absence is not None:
            logger.info("nothing is cut for query %d: %s", query, absence)
    return cut_clips(list_cuts(answers, video, duration_sec, top, stem), folder, copy=copy)


def cut_clips(cuts: list[Cut], folder: Path, *, copy: bool = False) -> int:
    """Write parts of videos as files, with a progress bar; arguments as for `write_clips`.

    Returns:
        How many could not be cut; each reason is logged with the number of clips that it holds for.
    """
    reasons: Counter[str] = Counter()
    with progress_bar("cutting clips", " clips") as progress:
        paths = write_clips(
            cuts, folder, copy=copy, progress=progress, on_error=lambda _, error: reasons.update([str(error)])
        )
    for reason, count in reasons.items():
        logger.warning("%d clips were not cut: %s", count, reason)
    logger.info("wrote %d clips to %s", len(paths), folder)
    return reasons.total()


def write_document(document: dict[str, Any], path: Path) -> None:
    """Write JSON to a file, or to standard output if that is "-"."""
    if path == STANDARD_OUTPUT:
        write_line(sys.stdout, encode_document(document, indent=2))
        return
    save_document(document, path)
    logger.info("wrote %s", path)


def write_exports(paths: list[Path], moments: list[ExportedMoment], videos: list[EditedVideo]) -> None:
    """Write moments in every format that can hold them.

    Raises:
        OSError: A file cannot be written; the others have been written, unless a warning names them.
        ValueError: A format cannot hold these videos; likewise.
    """
    errors: list[OSError | ValueError] = []
    for path in paths:
        if not videos:
            logger.warning("'%s' was not written, because there are no moments", path)
            continue
        try:
            write_moments(path, moments, videos)
        except (OSError, ValueError) as error:
            errors.append(error)
            continue
        logger.info("wrote %s", path)
    for other in errors[1:]:
        logger.warning("%s", other)
    if errors:
        raise errors[0]


__all__ = [
    "DONE",
    "SOME_FAILED",
    "STANDARD_OUTPUT",
    "check_model_options",
    "check_outputs",
    "cut_clips",
    "cut_moments",
    "load_pipeline",
    "model_name",
    "open_video",
    "write_document",
    "write_exports",
]
