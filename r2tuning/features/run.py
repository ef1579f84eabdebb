"""Compute the CLIP features of a benchmark once, for training and evaluation without CLIP.

python train/run_feature_extraction.py --benchmark qvhighlights --data-dir ANNOTATIONS --video-dir VIDEOS --output CACHE
"""

import argparse
import contextlib
import functools
import itertools
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.utils import logging as transformers_logging

from dataset_scripts import load_vtg_dataset
from dataset_scripts.advice import spell_options
from dataset_scripts.benchmarks import BENCHMARKS
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.loading_r2tuning import read_backbone_config
from r2tuning.checks import DEFAULT_BACKBONE, check_device, check_folders, check_model_name, check_model_type
from r2tuning.features.extraction import Store, Summary, extract
from r2tuning.features.frames import FrameStore, frame_settings
from r2tuning.features.jobs import QueryJob, plan_jobs
from r2tuning.features.settings import ONE_PER_UNIT, prepare_folder
from r2tuning.features.store import FeatureStore, feature_settings


logger = logging.getLogger(__name__)
processor_logger = logging.getLogger("modeling_r2tuning.processing_r2tuning")

DONE, SOME_FAILED, ERROR = 0, 1, 2
INTERRUPTED = 130
DEFAULT_NUM_LAYERS = 4  # K of the paper
OTHER_OPTIONS = {"name": "--benchmark", "num_recurrent_steps": "--num-layers"}  # what functions call their arguments
USER_ERRORS = (ImportError, OSError, RuntimeError, StrictDataclassError, ValueError)

DESCRIPTION = """\
Run every video and query of a benchmark through CLIP once and keep the last K hidden states of both encoders, one file
each, in half precision. Training and evaluation read them from there (`--features CACHE`) instead of running CLIP.

With `--store frames` no features are computed: the frames that CLIP would see are kept, one small lossless video each,
and serve as `--video-dir CACHE/videos`. A video of 150 s takes about 5 MB instead of 23 MB of features (ViT-B/32,
0.5 frames per second), and CLIP runs in training.

The command can be stopped and started again at any time: what is complete is kept, what is corrupt is named and made
anew. A folder belongs to one benchmark, CLIP, K and frame rate; a command that asks for another is refused.
"""
EPILOG = """\
examples:
  python train/run_feature_extraction.py --benchmark qvhighlights --split train --split val \\
      --data-dir ANNOTATIONS --video-dir VIDEOS --output CACHE
  python train/run_feature_extraction.py --benchmark tvsum --model CHECKPOINT \\
      --data-dir ANNOTATIONS --video-dir VIDEOS --output CACHE --num-processes 4

The exit status is 0 when all is there, 1 when some videos or queries failed (they are listed), 2 after an error and 130
after Ctrl-C.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    for name in ("dataset_scripts", "r2tuning"):
        logging.getLogger(name).setLevel(logging.INFO)
    args = make_parser().parse_args(argv)
    try:
        with quiet_libraries(), logging_redirect_tqdm():
            summary = run(args)
    except KeyboardInterrupt:
        sys.stderr.write("run_feature_extraction: interrupted; run the same command again to go on\n")
        return INTERRUPTED
    except USER_ERRORS as error:
        sys.stderr.write(f"run_feature_extraction: error: {spell_options(error, vars(args), OTHER_OPTIONS)}\n")
        return ERROR
    sys.stdout.write(format_summary(summary))
    return SOME_FAILED if summary.failed else DONE


def run(args: argparse.Namespace) -> Summary:
    """Load the dataset and CLIP, prepare the folder, do the work."""
    check_arguments(args)
    rows = load_rows(args)
    store = make_store(args, "cpu" if args.num_processes > 1 else choose_device(args.device))
    prepare_folder(args.output, store.settings)
    jobs = plan_jobs(rows, store.settings["fps"], with_queries=args.store == "features")
    report_cut_queries([job.text for job in jobs if isinstance(job, QueryJob)], store.processor)
    return extract(jobs, store, functools.partial(make_process_store, args), num_processes=args.num_processes)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what contradicts itself, and what is not there, before anything is read or fetched."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Start this script once, without torchrun or accelerate: --num-processes makes processes.")
    if args.model is not None and (args.fps is not None or args.num_layers is not None):
        raise ValueError("--model settles the frame rate and K; leave --fps and --num-layers out.")
    if args.fps is not None and has_one_frame_per_unit(args.benchmark):
        raise ValueError(f"{args.benchmark} has one frame for each annotated clip; leave --fps out.")
    check_folders(data_dir=args.data_dir, video_dir=args.video_dir)
    for option in ("backbone", "model"):
        if getattr(args, option) is not None:
            check_model_name(option, getattr(args, option))
    choose_device(args.device)
    if args.output.exists() and not args.output.is_dir():
        raise FileExistsError(f"`output` must be a folder, '{args.output}' is none.")


def has_one_frame_per_unit(benchmark: str) -> bool:
    """Whether the frame rate follows from the annotation of each video, as on YouTube Highlights."""
    return BENCHMARKS[benchmark].saliency.frames == "one_per_unit"


def report_cut_queries(texts: list[str], processor: R2TuningProcessor) -> None:
    """Say how many queries are longer than CLIP reads."""
    lengths = [len(ids) for ids in processor.tokenizer(texts)["input_ids"]] if texts else [0]
    if max(lengths) > 0:
        longest = texts[lengths.index(max(lengths))]
        limit = processor(text=longest)["input_ids"].shape[1]
        cut = sum(length > limit for length in lengths)
        if cut:
            logger.warning("%d of %d queries are longer than %d tokens and cut there", cut, len(texts), limit)


def load_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The examples of all splits that are asked for."""
    options = {
        "domain": args.domain,
        "data_dir": args.data_dir,
        "video_dir": args.video_dir,
        "missing_videos": args.missing_videos,
        "on_error": args.on_error,
    }
    if args.split is None:
        return itertools.chain.from_iterable(load_vtg_dataset(args.benchmark, **options).values())
    splits = [load_vtg_dataset(args.benchmark, split=split, **options) for split in dict.fromkeys(args.split)]
    return itertools.chain.from_iterable(splits)


def make_store(args: argparse.Namespace, device: torch.device | str) -> Store:
    """The store that the arguments ask for, its CLIP on `device`."""
    processor = load_processor(args)
    fps = ONE_PER_UNIT if has_one_frame_per_unit(args.benchmark) else float(processor.fps)
    if args.store == "frames":
        return FrameStore(args.output, processor, frame_settings(processor, args.benchmark, fps))
    model = load_model(args)
    name = args.model or args.backbone
    name = os.path.abspath(name) if os.path.isdir(name) else name
    settings = feature_settings(model, processor, args.benchmark, fps, args.dtype, name)
    for encoder in (model.vision_model, model.text_model):
        encoder.to(getattr(torch, args.dtype))
    return FeatureStore(args.output, model.to(device).eval(), processor, settings)


def make_process_store(args: argparse.Namespace, rank: int, num_processes: int) -> Store:
    """The store of one of several processes, which take the GPUs in turn."""
    silence_libraries()
    device = choose_device(args.device)
    if device == torch.device("cuda"):
        device = torch.device("cuda", rank % torch.cuda.device_count())
    return make_store(args, device)


def load_processor(args: argparse.Namespace) -> R2TuningProcessor:
    """The checkpoint's processor, or one for CLIP."""
    if args.model is not None:
        check_model_type(args.model, "r2tuning")
        return R2TuningProcessor.from_pretrained(args.model)
    read_backbone_config(args.backbone)  # refuses another kind of model
    return R2TuningProcessor.from_backbone(args.backbone, fps=args.fps or BENCHMARKS[args.benchmark].fps)


def load_model(args: argparse.Namespace) -> R2TuningForVideoGrounding:
    """The checkpoint, or a model on CLIP of which nothing but CLIP is of use; in float32."""
    if args.model is not None:
        model = R2TuningForVideoGrounding.from_pretrained(args.model, dtype=torch.float32)
        if model.config.method != "r2_tuning":
            raise ValueError(
                f"--model must be a checkpoint of the method 'r2_tuning', got '{model.config.method}', which reads "
                "something else of CLIP. Pass --backbone and --num-layers instead."
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
    model._load_backbone(args.backbone)
    return model


def choose_device(name: str | None) -> torch.device:
    """The device of that name; by default a GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    return torch.device(name)


# ---- the terminal --------------------------------------------------------------------------------------------------


def format_summary(summary: Summary) -> str:
    """What was done, as lines to read."""
    lines = []
    for kind in ("queries", "videos"):
        done, complete = summary.done[kind], summary.complete[kind]
        outdated, failed = (sum(job.kind == kind for job in jobs) for jobs in (summary.outdated, summary.failed))
        if done or complete or failed:
            frames = f" ({summary.num_frames:,} frames)" if kind == "videos" else ""
            counts = f"{done:,} extracted{frames}, {complete:,} were complete, {failed:,} failed"
            lines.append(f"{kind}: {counts}" + (f"; {outdated:,} were corrupt or outdated" if outdated else ""))
    lines += [f"failed: {job.id}: {reason}" for job, reason in summary.failed.items()]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence them for a while."""
    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    level = processor_logger.level
    silence_libraries()
    try:
        yield
    finally:
        processor_logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def silence_libraries() -> None:
    """Of transformers only errors and no progress bars; the processor would say of each query alone that it is cut."""
    processor_logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_data_arguments(parser.add_argument_group("what to extract"))
    add_clip_arguments(parser.add_argument_group("how to extract it"))
    add_work_arguments(parser.add_argument_group("where and with what"))
    return parser


def add_data_arguments(group: Any) -> None:
    """Arguments that choose videos and queries."""
    group.add_argument("--benchmark", required=True, choices=tuple(BENCHMARKS), help="the benchmark")
    group.add_argument(
        "--split",
        action="append",
        choices=("train", "val", "test", "test_unseen"),
        help="a split; may be given several times (default: all whose annotations are there)",
    )
    group.add_argument("--domain", help="one domain of YouTube Highlights, TVSum or Moving Shapes (default: all)")
    group.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="folder of the annotation files")
    group.add_argument(
        "--video-dir", type=Path, required=True, metavar="DIR", help="folder of the videos, searched with its folders"
    )
    group.add_argument(
        "--missing-videos",
        choices=("error", "skip"),
        default="error",
        help="annotated videos that are not in --video-dir: stop, or leave them out and count them (default: error)",
    )
    group.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="malformed annotations: stop, or leave them out and count them (default: raise)",
    )


def add_clip_arguments(group: Any) -> None:
    """Arguments that settle what the features are."""
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--backbone",
        default=DEFAULT_BACKBONE,
        metavar="DIR_OR_REPO",
        help=f"CLIP, a folder or a Hugging Face repository (default: {DEFAULT_BACKBONE})",
    )
    source.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="an R2-Tuning checkpoint that is to read the features: it settles CLIP, K and the frame rate",
    )
    rates, per_unit = [], []
    for name, spec in BENCHMARKS.items():
        if has_one_frame_per_unit(name):
            per_unit.append(name)
        else:
            rates.append(f"{name} {spec.fps:g}")
    group.add_argument(
        "--fps",
        type=positive(float),
        metavar="RATE",
        help=f"frames per second (default: the benchmark's: {', '.join(rates)}; {', '.join(per_unit)} always has one frame for "
        "each annotated clip)",
    )
    group.add_argument(
        "--num-layers",
        type=positive(int),
        metavar="K",
        help=f"how many of CLIP's last layers are kept (default: {DEFAULT_NUM_LAYERS}); features only",
    )
    group.add_argument(
        "--store",
        choices=("features", "frames"),
        default="features",
        help="keep CLIP's features, or the frames as small videos for training with CLIP on the fly (default: features)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision in which CLIP works (default: float32); bfloat16 is faster on most GPUs and on CPUs with AMX or "
        "AVX512-BF16 and changes the features by about 1 %%; files are in half precision always; features only",
    )


def add_work_arguments(group: Any) -> None:
    """Arguments that change nothing about the result."""
    group.add_argument("--output", type=Path, required=True, metavar="CACHE", help="folder to write, or to go on with")
    group.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1 ... (default: cuda if there is one, else cpu); features only",
    )
    group.add_argument(
        "--num-processes",
        type=positive(int),
        default=1,
        metavar="N",
        help="processes that share the work (default: 1). They take the GPUs in turn; several on one GPU are of use, as "
        "reading videos takes longer there than CLIP. On a CPU they share its cores out",
    )


def positive(kind: type) -> Callable[[str], float]:
    """Reads a positive number of a kind."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 < kind(text) < math.inf:
                return kind(text)
        raise argparse.ArgumentTypeError(f"must be a positive {kind.__name__}, got '{text}'")

    return read


if __name__ == "__main__":
    sys.exit(main())
