"""Arguments of `r2tuning check-data`, `evaluate`, `extract` and `export-dataset`, and their help texts."""

import argparse
from pathlib import Path
from typing import Any

from dataset_scripts.benchmarks import BENCHMARKS, HUB_PREFIX, OWN_DATA

from .argument_types import add_renamed_clip_option, positive_integer, positive_number, repository_name
from .defaults import DEFAULT_BACKBONE, DEFAULT_NUM_LAYERS, SUBMISSION_SPLITS
from .execution_arguments import add_execution_arguments, check_execution


EVALUATE_DESCRIPTION = """\
Score predictions, a checkpoint or a library on a benchmark; print tables and, with --output, write JSON.
"""
EVALUATE_EPILOG = """\
examples:
  r2tuning evaluate --predictions preds.jsonl --benchmark qvhighlights --data-dir ANNOTATIONS
  r2tuning evaluate --model RUN/best --benchmark tvsum --domain BK --data-dir ANNOTATIONS --video-dir VIDEOS
"""
CHECK_DESCRIPTION = """\
Check your own table and videos before training: count videos, queries and moments, and name each row that cannot be used
or should be looked at.
"""
CHECK_EPILOG = """\
examples:
  r2tuning check-data --data-file my.csv --video-dir clips/
  r2tuning check-data --data-file train.jsonl --val-file val.jsonl --video-dir clips/ --json report.json

The table is CSV, JSON lines, JSON or Parquet. It has the columns video, query, start and end with a row for each moment, or
video, query and moments, [[start, end], ...]. The columns duration, split, qid and saliency are optional. Times are seconds,
mm:ss or h:mm:ss; a query that nothing in its video matches has an empty start and end, or the moments [].

The exit status is 0 when nothing was found, 1 when some rows or videos need attention, and 2 when a split has nothing that
can be used, or after an error.
"""
EXTRACT_DESCRIPTION = """\
Encode every video and query of a benchmark with the backbone once and keep the last K hidden states of both encoders,
one file each, in half precision. Training and evaluation read them (`--features CACHE`) instead of running the
backbone.

With `--store frames` no features are computed: the frames that the backbone would see are kept as small lossless
videos, to be used as `--video-dir CACHE/videos`. A video of 150 s takes about 5 MB instead of 23 MB of features (CLIP
ViT-B/32, 0.5 frames per second), and the backbone runs during training.

The command can be stopped and restarted at any time: complete files are kept, corrupt ones are named and replaced. A
folder belongs to one benchmark, backbone, K and frame rate; a command with other settings is refused.
"""
EXTRACT_EPILOG = """\
examples:
  r2tuning extract --benchmark qvhighlights --split train --split val \\
      --data-dir ANNOTATIONS --video-dir VIDEOS --output CACHE
  r2tuning extract --benchmark tvsum --model CHECKPOINT \\
      --data-dir ANNOTATIONS --video-dir VIDEOS --output CACHE --num-processes 4
  r2tuning extract --benchmark tvsum --data-dir ANNOTATIONS --video-dir VIDEOS --output CACHE \\
      --executor ray --ray-address 10.0.0.1:6379 --num-processes 16

The exit status is 0 when everything is there, 1 when some videos or queries failed (they are listed), 2 after an error
and 130 after Ctrl-C.
"""
EXPORT_DESCRIPTION = """\
Write a benchmark as a Parquet dataset with a card, which plain `load_dataset` reads, and publish it with --push.
"""
EXPORT_EPILOG = """\
example:
  r2tuning export-dataset qvhighlights exported --data-dir ANNOTATIONS --push org/qvhighlights
"""
DOMAIN_HELP = (
    "one domain of YouTube Highlights, TVSum, Moving Shapes or TimeLens-Bench (default: all); on Soccer-GMR the labels, "
    "standard or full (default: standard)"
)


def add_annotation_arguments(group: argparse._ActionsContainer) -> None:
    """Where the annotations are: in a folder, or in files that are named one by one."""
    group.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the annotation files")
    group.add_argument(
        "--data-file",
        metavar="FILE",
        help="a single annotation file, in place of those in --data-dir; for the benchmark 'custom' your own table, a "
        f"dataset folder or {HUB_PREFIX}ORG/NAME",
    )
    group.add_argument(
        "--val-file",
        metavar="FILE",
        help="for 'custom': a table of the split val, so that no videos of --data-file are held out for it",
    )


def check_annotation_arguments(args: argparse.Namespace, benchmark: str) -> None:
    """Refuse options of `add_annotation_arguments` that do not go together."""
    has_file = args.data_file is not None or args.val_file is not None
    if benchmark == OWN_DATA:
        if has_file == (args.data_dir is not None):
            raise ValueError("Pass either `data_file`, your own table, or `data_dir`, a folder of such tables.")
    elif args.val_file is not None:
        raise ValueError(f"Leave out `val_file`, which the benchmark '{OWN_DATA}' alone has; got it with {benchmark}.")
    elif not has_file and args.data_dir is None:
        raise ValueError(f"Pass `data_dir`, the folder of the annotation files of {benchmark}.")


def annotation_files(args: argparse.Namespace, benchmark: str) -> str | dict[str, str] | None:
    """The files of `add_annotation_arguments` in the form of `load_vtg_dataset`; `None` = those in `--data-dir`."""
    if benchmark != OWN_DATA:
        return args.data_file
    files = {}
    for split, path in (("train", args.data_file), ("val", args.val_file)):
        if path is not None:
            files[split] = path
    return files or None


def dataset_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `load_vtg_dataset` that do not depend on the split."""
    return {
        "domain": args.domain,
        "data_dir": args.data_dir,
        "data_files": annotation_files(args, args.benchmark),
        "video_dir": args.video_dir,
        "missing_videos": args.missing_videos,
        "on_error": args.on_error,
    }


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning evaluate`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="predictions, one JSON object per line, or the submission file of TVR or VUE-TR; may be a .gz file",
    )
    source.add_argument("--model", metavar="DIR_OR_REPO", help="checkpoint that makes the predictions, or 'packaged'")
    source.add_argument(
        "--library",
        type=Path,
        metavar="LIB",
        help="library that is searched for each query, made by `r2tuning index` from the videos of --video-dir (TVR)",
    )
    parser.add_argument("--benchmark", required=True, choices=tuple(BENCHMARKS), help="the benchmark")
    parser.add_argument("--split", default="val", metavar="NAME", help="the split (default: val)")
    parser.add_argument("--domain", metavar="NAME", help=DOMAIN_HELP)
    add_annotation_arguments(parser)
    _add_on_error_argument(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the scores as JSON")
    parser.add_argument(
        "--match-reference-code",
        action="store_true",
        help="follow the public evaluation code in its corner cases; what it has no answer to, such as a query without a "
        "prediction, is then an error instead of a score of 0",
    )
    parser.add_argument("--shared-queries-only", action="store_true", help="score only queries that have a prediction")
    parser.add_argument(
        "--submission", type=Path, metavar="DIR", help="also write files for the QVHighlights server to this folder"
    )
    _add_evaluated_model_arguments(parser)


def _add_evaluated_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with --model or --library")
    group.add_argument("--video-dir", type=Path, metavar="DIR", help="folder of the videos")
    group.add_argument("--features", type=Path, metavar="DIR", help="feature cache, used instead of videos")
    group.add_argument(
        "--missing-videos",
        choices=("error", "skip"),
        default="error",
        help="videos that are missing or unreadable: stop, or leave their queries out and count them (default: error)",
    )
    group.add_argument(
        "--record",
        action="store_true",
        help="add the scores to the results and the card of the checkpoint, which must be a folder",
    )
    group.add_argument(
        "--save-predictions", type=Path, metavar="FILE", help="write the predictions, one JSON object per line"
    )
    group.add_argument(
        "--backbone", metavar="DIR_OR_REPO", help="a backbone to use instead of the one that the checkpoint names"
    )
    add_renamed_clip_option(parser)
    group.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda if there is a GPU, else cpu)"
    )


def check_evaluate(args: argparse.Namespace) -> None:
    """Refuse options of `r2tuning evaluate` that do not go together."""
    check_annotation_arguments(args, args.benchmark)
    if args.submission is not None and args.split not in SUBMISSION_SPLITS:
        raise ValueError(f"`submission` needs `split` {' or '.join(SUBMISSION_SPLITS)}, got '{args.split}'.")
    if args.model is not None:
        if args.video_dir is None and args.features is None:
            raise ValueError("`model` needs `video_dir` or `features`.")
        return
    source, refused = "predictions", ["record", "save_predictions", "backbone", "device"]
    if args.library is not None:
        source, refused = "library", ["record", "backbone", "features"]
        if args.video_dir is None:
            raise ValueError("`library` needs `video_dir`, by which its videos get their ids.")
    for name in refused:
        if getattr(args, name):
            raise ValueError(f"`{name}` goes with `model`; leave it out with `{source}`.")


def add_extract_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning extract`."""
    _add_extracted_data_arguments(parser)
    _add_feature_arguments(parser)
    _add_work_arguments(parser)


def _add_extracted_data_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to extract")
    group.add_argument("--benchmark", required=True, choices=tuple(BENCHMARKS), help="the benchmark")
    group.add_argument(
        "--split",
        action="append",
        choices=("train", "val", "test", "test_unseen"),
        help="a split; may be given several times (default: all splits whose annotations exist)",
    )
    group.add_argument("--domain", metavar="NAME", help=DOMAIN_HELP)
    add_annotation_arguments(group)
    group.add_argument(
        "--video-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the videos, searched with all its subfolders",
    )
    group.add_argument(
        "--missing-videos",
        choices=("error", "skip"),
        default="error",
        help="annotated videos that are not in --video-dir: stop, or leave them out and count them (default: error)",
    )
    _add_on_error_argument(group)


def _add_feature_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to extract it")
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--backbone",
        default=DEFAULT_BACKBONE,
        metavar="DIR_OR_REPO",
        help=f"the backbone that computes the features (default: {DEFAULT_BACKBONE})",
    )
    source.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="an R2-Tuning checkpoint that will read the features, by the same names as `train --init-from`: it "
        "determines backbone, K and the frame rate",
    )
    add_renamed_clip_option(parser)
    group.add_argument("--fps", type=positive_number, metavar="N", help=_fps_help())
    group.add_argument(
        "--num-layers",
        type=positive_integer,
        metavar="K",
        help=f"how many of the backbone's last layers are kept (default: {DEFAULT_NUM_LAYERS}); for features only",
    )
    group.add_argument(
        "--store",
        choices=("features", "frames"),
        default="features",
        help="keep the features, or the frames as small videos for training that runs the backbone (default: features)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        default="float32",
        help="precision in which the backbone computes (default: float32); bfloat16 is faster on most GPUs and on CPUs "
        "with AMX or AVX512-BF16 and changes the features by about 1 %%, as does int8, which is faster on other CPUs (needs "
        "torchao); files are always in half precision; for features only",
    )


def _fps_help() -> str:
    rates, per_unit = [], []
    for name, spec in BENCHMARKS.items():
        if has_one_frame_per_unit(name):
            per_unit.append(name)
        else:
            rates.append(f"{name} {spec.fps:g}")
    return (
        f"frames sampled per second (default: the benchmark's: {', '.join(rates)}; {', '.join(per_unit)} always has one "
        "frame for each annotated unit)"
    )


def has_one_frame_per_unit(benchmark: str) -> bool:
    """Whether the frame rate follows from the annotation of each video, as on YouTube Highlights."""
    return BENCHMARKS[benchmark].saliency.frames == "one_per_unit"


def _add_work_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to write and what to use")
    group.add_argument(
        "--output", type=Path, required=True, metavar="CACHE", help="output folder, which may hold an unfinished cache"
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1 ... (default: cuda if there is a GPU, else cpu); for features only",
    )
    add_execution_arguments(group)


def check_extract(args: argparse.Namespace) -> None:
    """Refuse options of `r2tuning extract` that do not go together."""
    check_annotation_arguments(args, args.benchmark)
    check_execution(args)
    if args.model is not None and (args.fps is not None or args.num_layers is not None):
        raise ValueError("`model` determines the frame rate and K; leave `fps` and `num_layers` out.")
    if args.fps is not None and has_one_frame_per_unit(args.benchmark):
        raise ValueError(f"{args.benchmark} has one frame for each annotated unit; leave `fps` out.")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning export-dataset`."""
    parser.add_argument("name", metavar="BENCHMARK", choices=tuple(BENCHMARKS), help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("output", type=Path, metavar="OUT", help="output folder, new or empty")
    add_annotation_arguments(parser)
    parser.add_argument(
        "--video-dir",
        type=Path,
        metavar="DIR",
        help="folder of the videos, from which the lengths of own videos are read",
    )
    _add_on_error_argument(parser)
    parser.add_argument(
        "--push", type=repository_name, metavar="ORG/NAME", help="upload to this dataset repository on the Hub"
    )
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument(
        "--publish-anyway",
        action="store_true",
        help="allow a public repository although the annotations' licence does not permit redistribution",
    )


def check_export(args: argparse.Namespace) -> None:
    """Refuse options of `r2tuning export-dataset` that do not go together."""
    check_annotation_arguments(args, args.name)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning check-data`."""
    add_annotation_arguments(parser)
    parser.add_argument(
        "--video-dir",
        type=Path,
        metavar="DIR",
        help="folder of the videos, searched with all its subfolders; without it their lengths are those in the table",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")


def check_check(args: argparse.Namespace) -> None:
    """Refuse options of `r2tuning check-data` that do not go together."""
    check_annotation_arguments(args, OWN_DATA)


def _add_on_error_argument(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="malformed annotations: stop, or leave them out and count them (default: raise)",
    )


__all__ = [
    "CHECK_DESCRIPTION",
    "CHECK_EPILOG",
    "EVALUATE_DESCRIPTION",
    "EVALUATE_EPILOG",
    "EXPORT_DESCRIPTION",
    "EXPORT_EPILOG",
    "EXTRACT_DESCRIPTION",
    "EXTRACT_EPILOG",
    "add_annotation_arguments",
    "add_check_arguments",
    "add_evaluate_arguments",
    "add_export_arguments",
    "add_extract_arguments",
    "annotation_files",
    "check_annotation_arguments",
    "check_check",
    "check_evaluate",
    "check_export",
    "check_extract",
    "dataset_options",
    "has_one_frame_per_unit",
]
