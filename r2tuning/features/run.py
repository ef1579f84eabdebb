"""`r2tuning extract` and `train/run_feature_extraction.py`: computes the features of a benchmark once."""

import argparse
import contextlib
import functools
import itertools
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch

from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.int8_r2tuning import check_int8
from modeling_r2tuning.loading_r2tuning import read_backbone_config
from modeling_r2tuning.towers_r2tuning import load_backbone
from r2tuning.checks import (
    check_annotation_files,
    check_folders,
    check_model_name,
    check_model_type,
    choose_device,
)
from r2tuning.execution.ray_cluster import check_cluster
from r2tuning.features.extraction import Summary, extract
from r2tuning.features.frames import FrameStore, frame_settings
from r2tuning.features.jobs import QueryJob, plan_jobs
from r2tuning.features.settings import ONE_PER_UNIT, prepare_folder
from r2tuning.features.store import FeatureStore, feature_settings
from r2tuning.released.resolve import check_name, resolve_name
from r2tuning.terminal import report, silence_transformers
from r2tuning_cli.data_arguments import dataset_options, has_one_frame_per_unit
from r2tuning_cli.defaults import DEFAULT_NUM_LAYERS
from r2tuning_cli.main import run_script
from r2tuning_cli.programs import option_names


logger = logging.getLogger("r2tuning.features.run")  # also if the module is run as a script
processor_logger = logging.getLogger("modeling_r2tuning.processing_r2tuning")

DONE, SOME_FAILED = 0, 1


def main(argv: list[str] | None = None) -> int:
    """Run the script `train/run_feature_extraction.py`; returns its exit status."""
    return run_script("extract", "run_feature_extraction.py", run, argv)


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status: 0 if all is complete, 1 if some videos or queries failed."""
    work = functools.partial(_extract, args)
    return report(work, prefix, option_names("extract"), (RuntimeError,))


def _extract(args: argparse.Namespace) -> int:
    check_arguments(args)
    try:
        with _quiet_processor():
            summary = extract_features(args)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("run the same command again to resume") from interrupt
    sys.stdout.write(format_summary(summary))
    return SOME_FAILED if summary.failed else DONE


def extract_features(args: argparse.Namespace) -> Summary:
    """Load the dataset and the backbone, prepare the folder, do the work."""
    rows = load_rows(args)
    if args.model is not None:
        args.model = resolve_name(args.model)
    is_shared = args.num_processes > 1 or args.executor == "ray"
    store = make_store(args, "cpu" if is_shared else choose_device(args.device))
    prepare_folder(args.output, store.settings)
    jobs = plan_jobs(rows, store.settings["fps"], with_queries=args.store == "features")
    report_truncated_queries([job.text for job in jobs if isinstance(job, QueryJob)], store.processor)
    return extract(
        jobs,
        store,
        functools.partial(make_process_store, args),
        executor=args.executor,
        num_processes=args.num_processes,
        ray_address=args.ray_address,
        device="cpu" if args.store == "frames" else args.device,
    )


@contextlib.contextmanager
def _quiet_processor() -> Iterator[None]:
    """Keep the processor from warning of each truncated query; they are counted instead."""
    level = processor_logger.level
    processor_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        processor_logger.setLevel(level)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what does not exist, before anything is read or fetched."""
    check_folders(data_dir=args.data_dir, video_dir=args.video_dir)
    check_annotation_files(args.benchmark, data_file=args.data_file, val_file=args.val_file)
    check_model_name("backbone", args.backbone)
    if args.model is not None:
        check_name("model", args.model)
    if args.executor == "ray":
        check_cluster(args.ray_address)
        device = torch.device(args.device or "cuda")  # the cluster may have GPUs that this machine lacks
    else:
        device = choose_device(args.device)
    if args.dtype == "int8" and args.store == "features":
        check_int8(device)
    if args.output.exists() and not args.output.is_dir():
        raise FileExistsError(f"`output` must be a folder, '{args.output}' is not one.")


def report_truncated_queries(texts: list[str], processor: R2TuningProcessor) -> None:
    """Log how many queries are longer than the backbone reads."""
    if not texts:
        return
    limit = processor.longest_text
    num_truncated = sum(length > limit for length in processor.count_tokens(texts))
    if num_truncated:
        logger.warning("%d of %d queries are longer than %d tokens and truncated", num_truncated, len(texts), limit)


def load_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The examples of the requested splits."""
    options = dataset_options(args)
    if args.split is None:
        return itertools.chain.from_iterable(load_vtg_dataset(args.benchmark, **options).values())
    splits = [load_vtg_dataset(args.benchmark, split=split, **options) for split in dict.fromkeys(args.split)]
    return itertools.chain.from_iterable(splits)


def make_store(args: argparse.Namespace, device: torch.device | str) -> FeatureStore | FrameStore:
    """The store that the arguments describe, with the backbone on `device`."""
    processor = load_processor(args)
    fps = ONE_PER_UNIT if has_one_frame_per_unit(args.benchmark) else float(processor.fps)
    if args.store == "frames":
        return FrameStore(args.output, processor, frame_settings(processor, args.benchmark, fps))
    model = load_model(args)
    name = args.model or args.backbone
    name = os.path.abspath(name) if os.path.isdir(name) else name
    settings = feature_settings(model, processor, args.benchmark, fps, args.dtype, name)
    model.to(device).eval()  # type: ignore[arg-type]  # decorated in transformers without types
    if args.dtype == "int8":
        model.quantize_encoders()
    else:
        for encoder in (model.vision_model, model.text_model):
            encoder.to(getattr(torch, args.dtype))
    return FeatureStore(args.output, model, processor, settings)


def make_process_store(args: argparse.Namespace, rank: int, num_processes: int) -> FeatureStore | FrameStore:
    """The store of one of several processes, which are distributed over the GPUs."""
    silence_transformers()
    processor_logger.setLevel(logging.ERROR)
    device = choose_device(args.device)
    if device == torch.device("cuda"):
        device = torch.device("cuda", rank % torch.cuda.device_count())
    return make_store(args, device)


def load_processor(args: argparse.Namespace) -> R2TuningProcessor:
    """The checkpoint's processor, or one for the backbone."""
    if args.model is not None:
        check_model_type(args.model, "r2tuning")
        return R2TuningProcessor.from_pretrained(args.model)
    return R2TuningProcessor.from_backbone(args.backbone, fps=args.fps or BENCHMARKS[args.benchmark].fps)


def load_model(args: argparse.Namespace) -> R2TuningForVideoGrounding:
    """The checkpoint, or an untrained model with the weights of the backbone; in float32. Only the encoders are used."""
    if args.model is not None:
        model = R2TuningForVideoGrounding.from_pretrained(args.model, dtype=torch.float32)
        if model.config.method_spec.place != "recurrence":
            raise ValueError(
                f"`model` must be a checkpoint of the method 'r2_tuning', got '{model.config.method}', which reads "
                "other states of the backbone. Pass `backbone` and `num_layers` instead."
            )
        return model
    backbone = read_backbone_config(args.backbone)
    config = R2TuningConfig(
        vision_config=backbone.vision_config,
        text_config=backbone.text_config,
        backbone_name_or_path=args.backbone,
        num_recurrent_steps=args.num_layers or DEFAULT_NUM_LAYERS,
    )
    model = R2TuningForVideoGrounding(config)
    model.copy_backbone(*load_backbone(config, args.backbone))
    return model


def format_summary(summary: Summary) -> str:
    """What was done, as printed lines."""
    lines = []
    for kind in ("queries", "videos"):
        done, complete = summary.done[kind], summary.complete[kind]
        outdated = sum(job.kind == kind for job in summary.outdated)
        failed = sum(job.kind == kind for job in summary.failed)
        if not (done or complete or failed):
            continue
        frames = f" ({summary.num_frames:,} frames)" if kind == "videos" else ""
        line = f"{kind}: {done:,} extracted{frames}, {complete:,} were complete, {failed:,} failed"
        if outdated:
            line += f"; {outdated:,} were corrupt or outdated"
        lines.append(line)
    lines += [f"failed: {job.id}: {reason}" for job, reason in summary.failed.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["extract_features", "format_summary", "main", "run"]
