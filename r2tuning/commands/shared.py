"""What `r2tuning demo`, `ground` and `explain` have in common: video, model, and clips of the moments."""

import argparse
import contextlib
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from modeling_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.int8_r2tuning import check_int8
from modeling_r2tuning.loading_r2tuning import read_backbone_config
from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from modeling_r2tuning.video_io_r2tuning import copy_clip, copy_ending, cut_clip
from modeling_r2tuning.video_source_r2tuning import LocalCopy, file_stem, local_copy
from r2tuning.checks import check_model_type, choose_device, locate_model
from r2tuning.editors.export import write_moments
from r2tuning.editors.media import EditedVideo
from r2tuning.editors.moments import ExportedMoment
from r2tuning.released.resolve import check_original, resolve_checkpoint
from r2tuning.terminal import progress_bar, write_line
from r2tuning.visualization.timeline import format_absence


logger = logging.getLogger(__name__)

MAX_NAME_BYTES = 255
MAX_STEM_BYTES = 150  # of each of several videos, so that no name is shortened further
FORBIDDEN = re.compile(r'[<>:"/|?*]')  # in names on Windows, besides what `file_stem` replaces
STANDARD_OUTPUT = Path("-")


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


class Cut(NamedTuple):
    """A part of a video to be written as a file.

    Attributes:
        video: The video.
        query: Number of the query, from 1.
        rank: Rank of the moment, from 1.
        start: In seconds.
        end: In seconds.
        stem: What the file's name says of the video, see `distinct_stems`.
    """

    video: str | LocalCopy
    query: int
    rank: int
    start: float
    end: float
    stem: str


def cut_moments(
    answers: list[dict[str, Any]],
    video: str | LocalCopy,
    duration_sec: float,
    folder: Path,
    top: int,
    stem: str | None = None,
    *,
    copy: bool = False,
) -> None:
    """Write the best moments of each query as files, named so that they sort by query and rank.

    Args:
        answers: One for each query.
        video: The video.
        duration_sec: Its length.
        folder: Folder for the files.
        top: Largest number of moments of each query.
        stem: What the names say of the video; by default its own name.
        copy: As for `write_clips`.
    """
    stem = safe_stem(video) if stem is None else stem
    cuts = []
    for query, answer in enumerate(answers, 1):
        absence = format_absence(answer)
        if absence is not None:
            logger.info("nothing is cut for query %d: %s", query, absence)
        for rank, moment in enumerate(answer["moments"][:top], 1):
            cuts.append(Cut(video, query, rank, moment["start"], min(moment["end"], duration_sec), stem))
    write_clips(cuts, folder, copy=copy)


def write_clips(cuts: list[Cut], folder: Path, *, copy: bool = False) -> None:
    """Write parts of videos as files, named so that they sort by query and rank.

    Args:
        cuts: The parts.
        folder: Folder for the files.
        copy: Whether they are copied between key pictures instead of encoded; each miss is logged.
    """
    largest = max((max(cut.query, cut.rank) for cut in cuts), default=1)
    digits = max(2, len(str(largest)))
    num_clips = 0
    with progress_bar("cutting clips", " clips") as progress:
        for count, cut in enumerate(cuts, 1):
            if cut.start < cut.end:
                _write_clip(cut, folder, f"query{cut.query:0{digits}}_moment{cut.rank:0{digits}}_", copy=copy)
                num_clips += 1
            else:
                logger.warning("moment %d of query %d is empty and was not cut", cut.rank, cut.query)
            progress(count, len(cuts))
    logger.info("wrote %d clips to %s", num_clips, folder)


def _write_clip(cut: Cut, folder: Path, beginning: str, *, copy: bool) -> None:
    ending = f"_{cut.start:.1f}-{cut.end:.1f}s"
    if not copy:
        cut_clip(cut.video, folder / _clip_name(beginning, cut.stem, f"{ending}.mp4"), cut.start, cut.end)
        return
    name = _clip_name(beginning, cut.stem, ending + copy_ending(cut.video))
    part = copy_clip(cut.video, folder / name, cut.start, cut.end)
    logger.info(
        "%s starts %+.2f s and ends %+.2f s from the moment", name, part.start_sec - cut.start, part.end_sec - cut.end
    )


def write_document(document: dict[str, Any], path: Path) -> None:
    """Write JSON to a file, or to standard output if that is "-"."""
    text = encode_document(document, indent=2)
    if path == STANDARD_OUTPUT:
        write_line(sys.stdout, text)
        return
    with writing(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
    logger.info("wrote %s", path)


def write_exports(paths: list[Path], moments: list[ExportedMoment], videos: list[EditedVideo]) -> None:
    """Write moments in every format that can hold them.

    Raises:
        OSError: A file cannot be written.
        ValueError: A format cannot hold these videos; the others have been written.
    """
    errors = []
    for path in paths:
        if not videos:
            logger.warning("'%s' was not written, because there are no moments", path)
            continue
        try:
            write_moments(path, moments, videos)
        except ValueError as error:
            errors.append(error)
            continue
        logger.info("wrote %s", path)
    if errors:
        raise errors[0]


def encode_document(document: dict[str, Any], indent: int | None = None) -> str:
    """JSON, by default on one line."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=indent)
    if not is_unicode(text):  # a path that is not UTF-8
        text = json.dumps(document, allow_nan=False, indent=indent)
    return text


def is_unicode(text: str) -> bool:
    """Whether a text has no surrogates, which stand for bytes of a path that is not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def safe_stem(video: str | LocalCopy) -> str:
    """The name of a video without its ending and without the characters that some file system refuses."""
    return FORBIDDEN.sub("_", file_stem(video))


def distinct_stems(videos: list[str]) -> dict[str, str]:
    """A different stem for each video, also where file systems ignore case; numbered where names are equal."""
    stems: dict[str, str] = {}
    used: set[str] = set()
    for video in videos:
        base = safe_stem(video)
        if len(videos) > 1:
            base = _shorten(base, MAX_STEM_BYTES)
        stem, number = base, 2
        while stem.casefold() in used:
            stem = f"{base}-{number}"
            number += 1
        used.add(stem.casefold())
        stems[video] = stem
    return stems


def _clip_name(beginning: str, stem: str, ending: str) -> str:
    """A name that holds the video's, cut to what file systems allow."""
    return beginning + _shorten(stem, MAX_NAME_BYTES - len(beginning) - len(ending)) + ending


def _shorten(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")


__all__ = [
    "STANDARD_OUTPUT",
    "Cut",
    "check_model_options",
    "cut_moments",
    "distinct_stems",
    "encode_document",
    "load_pipeline",
    "model_name",
    "open_video",
    "safe_stem",
    "write_clips",
    "write_document",
    "write_exports",
]
