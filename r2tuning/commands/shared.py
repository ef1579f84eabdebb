"""What `r2tuning demo`, `ground` and `explain` have in common: video, model, and clips of the moments."""

import argparse
import contextlib
import json
import logging
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
from modeling_r2tuning.video_io_r2tuning import cut_clip
from modeling_r2tuning.video_source_r2tuning import LocalCopy, file_stem, local_copy
from r2tuning.checks import check_model_type, choose_device, locate_model
from r2tuning.released.resolve import check_original, resolve_checkpoint
from r2tuning.terminal import progress_bar, write_line
from r2tuning.visualization.timeline import format_absence


logger = logging.getLogger(__name__)

MAX_NAME_BYTES = 255
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


def open_video(args: argparse.Namespace) -> contextlib.AbstractContextManager[str | LocalCopy]:
    """The video; one from an address or a pipe is copied once, since it is read several times."""
    limit = {"max_bytes": args.max_download} if "max_download" in args else {}
    with progress_bar("copying", " bytes") as progress:
        copied = local_copy(args.video, progress=progress, **limit)
    return cast("contextlib.AbstractContextManager[str | LocalCopy]", copied)  # a path stays a path


class Cut(NamedTuple):
    """A part of a video to be written as a file.

    Attributes:
        video: The video.
        query: Number of the query, from 1.
        rank: Rank of the moment, from 1.
        start: In seconds.
        end: In seconds.
    """

    video: str | LocalCopy
    query: int
    rank: int
    start: float
    end: float


def cut_moments(
    answers: list[dict[str, Any]], video: str | LocalCopy, duration_sec: float, folder: Path, top: int
) -> None:
    """Write the best moments of each query as files, named so that they sort by query and rank."""
    cuts = []
    for query, answer in enumerate(answers, 1):
        absence = format_absence(answer)
        if absence is not None:
            logger.info("nothing is cut for query %d: %s", query, absence)
        for rank, moment in enumerate(answer["moments"][:top], 1):
            cuts.append(Cut(video, query, rank, moment["start"], min(moment["end"], duration_sec)))
    write_clips(cuts, folder)


def write_clips(cuts: list[Cut], folder: Path) -> None:
    """Write parts of videos as files, named so that they sort by query and rank."""
    largest = max((max(cut.query, cut.rank) for cut in cuts), default=1)
    digits = max(2, len(str(largest)))
    num_clips = 0
    with progress_bar("cutting clips", " clips") as progress:
        for count, (video, query, rank, start, end) in enumerate(cuts, 1):
            if start < end:
                place = f"query{query:0{digits}}_moment{rank:0{digits}}_"
                cut_clip(video, folder / _clip_name(place, video, f"_{start:.1f}-{end:.1f}s.mp4"), start, end)
                num_clips += 1
            else:
                logger.warning("moment %d of query %d is empty and was not cut", rank, query)
            progress(count, len(cuts))
    logger.info("wrote %d clips to %s", num_clips, folder)


def write_document(document: dict[str, Any], path: Path) -> None:
    """Write JSON to a file, or to standard output if that is "-"."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)
    if not is_unicode(text):  # a path that is not UTF-8
        text = json.dumps(document, allow_nan=False, indent=2)
    if path == STANDARD_OUTPUT:
        write_line(sys.stdout, text)
        return
    with writing(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
    logger.info("wrote %s", path)


def is_unicode(text: str) -> bool:
    """Whether a text has no surrogates, which stand for bytes of a path that is not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _clip_name(beginning: str, video: str | LocalCopy, ending: str) -> str:
    """A name that holds the video's, cut to what file systems allow."""
    stem = file_stem(video).encode()[: MAX_NAME_BYTES - len(beginning) - len(ending)]
    return beginning + stem.decode(errors="ignore") + ending


__all__ = [
    "STANDARD_OUTPUT",
    "Cut",
    "check_model_options",
    "cut_moments",
    "load_pipeline",
    "model_name",
    "open_video",
    "write_clips",
    "write_document",
]
