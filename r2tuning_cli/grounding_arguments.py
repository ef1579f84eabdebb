"""Arguments of `r2tuning demo`, `ground` and `explain`, and their help texts."""

import argparse
import os
import re
from pathlib import Path

from dataset_scripts.benchmarks import ORIGINAL_REPOSITORY, released_benchmarks

from .argument_types import (
    NMS_METHODS,
    add_renamed_clip_option,
    byte_size,
    nms_method,
    non_negative_integer,
    positive_integer,
    positive_number,
    positive_number_or_none,
    score_or_none,
)
from .defaults import DEFAULT_BACKBONE, EXPORT_ENDINGS, MAX_MOMENTS, ONE_VIDEO_ENDINGS, export_ending


PLOT_ENDINGS = (".png", ".pdf", ".svg")
VIDEO_NAME = re.compile(r"https?://\S+|\S+\.(avi|flv|m4v|mkv|mov|mp4|mpe?g|ogv|ts|webm|wmv)", re.IGNORECASE)
DEMO_DESCRIPTION = """\
Generate a video of moving coloured shapes that no model was trained on, ask one query of each kind about it, and print
the predicted moments beside the true ones. A model with an existence head is also asked for something that is not there.
OUT receives the video, a timeline, and each query's best moment as a video file.
"""
DEMO_EPILOG = """\
example:
  r2tuning demo my_demo --seed 7
"""
GROUND_USAGE = """\
r2tuning ground VIDEO QUERY [QUERY ...] [options]
       r2tuning ground VIDEO_OR_DIR [VIDEO_OR_DIR ...] (-q QUERY | --queries FILE) [options]"""
GROUND_DESCRIPTION = """\
Find moments in videos. For each query the best moments are printed as a table, followed by the most salient times
(highlights) and a short summary of the video with respect to the query. A model with an existence head also gives the
probability that anything in the video matches the query, and answers "not there" if it is low. Times are minutes:seconds.
Scores are between 0 and 1 and can be compared only between predictions of the same model.

With -q or --queries, all other arguments are videos or folders of them. A video that cannot be read is then skipped and named
at the end. Exit status: 0, 1 if videos were skipped or clips could not be cut, 2 after any other error.
"""
EXPLAIN_DESCRIPTION = """\
Show how a model arrives at its answer to one query. DIR receives three figures: answer.png, saliency and moments over
time (Figure 6 of the paper); attention.png, where each word attends in frames of the video (Figure 8), with at most 12
words a page, the further pages in attention_2.png, attention_3.png and so on; and similarity.png, how similar frames
and query are in each layer before and after training (Figure 9).
"""


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning demo`."""
    parser.set_defaults(benchmark=None, domain=None, backbone=None, device=None, dtype="float32")
    parser.add_argument(
        "output", metavar="OUT", type=Path, nargs="?", default=Path("demo"), help="output folder (default: demo)"
    )
    parser.add_argument(
        "--seed", type=non_negative_integer, metavar="N", help="seed of the video (default: a new one each time)"
    )
    parser.add_argument(
        "--top", type=positive_integer, default=3, metavar="N", help="moments shown per query (default: 3)"
    )
    parser.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="a checkpoint folder or Hugging Face repository (default: the packaged model)",
    )


def add_ground_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning ground`."""
    _add_video_arguments(parser)
    queries = parser.add_argument(
        "queries", metavar="QUERY", nargs="+", help="what to find: one sentence in quotes, or several, each in quotes"
    )
    queries.required = False  # `-q` may take its place; nargs="*" would refuse options between VIDEO and QUERY
    parser.add_argument(
        "-q",
        "--query",
        metavar="QUERY",
        action="append",
        help="what to find in all videos; may be given several times",
    )
    parser.add_argument(
        "--queries", metavar="FILE", type=Path, dest="queries_file", help="file with a query on each line"
    )
    add_model_arguments(parser)
    _add_search_arguments(parser)
    _add_output_arguments(parser)


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning explain`."""
    _add_video_arguments(parser)
    parser.add_argument("query", metavar="QUERY", help="what to find, a sentence in quotes")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the figures")
    add_model_arguments(parser)


def _add_video_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="a video file, its http(s) address, or /dev/stdin")
    parser.add_argument(
        "--max-download",
        type=byte_size,
        default=argparse.SUPPRESS,
        metavar="SIZE",
        help="limit for copying from an address or a pipe, such as 500MB; a number without a unit is in bytes "
        "(default: 20GB)",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that name the model, its backbone, device and precision."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="DIR_OR_REPO",
        help="a checkpoint folder or Hugging Face repository; or one of the authors' own checkpoints: "
        f"{ORIGINAL_REPOSITORY} or a .pth file, with --benchmark (converted once, then cached below HF_HOME). "
        "Default: the small packaged model, which was trained on generated videos of coloured shapes only",
    )
    add_benchmark_arguments(group, required=False)
    group.add_argument(
        "--backbone",
        metavar="DIR_OR_REPO",
        help="the frozen encoders (default: those named in the checkpoint; for the authors' checkpoints "
        f"{DEFAULT_BACKBONE})",
    )
    add_renamed_clip_option(parser)
    group.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda if there is a GPU, else cpu)"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        default="float32",
        help="precision of the frozen encoders (default: float32); bfloat16 is faster on most GPUs and on CPUs with "
        "AMX or AVX512-BF16, int8 on other CPUs (needs torchao)",
    )


def add_benchmark_arguments(group: argparse._ActionsContainer, *, required: bool) -> argparse.Action:
    """Add `--benchmark` and `--domain` of one of the authors' checkpoints; returns the former."""
    benchmark = group.add_argument(
        "--benchmark",
        required=required,
        choices=tuple(released_benchmarks()),
        metavar="NAME",
        help="the benchmark that the authors' checkpoint was trained on (names below)",
    )
    group.add_argument(
        "--domain", metavar="NAME", help="the domain, for benchmarks with a checkpoint for each (names below)"
    )
    return benchmark


def _add_search_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to search")
    # An option that is left out is not passed on: the pipeline knows the defaults.
    group.add_argument(
        "--fps",
        type=positive_number,
        default=argparse.SUPPRESS,
        metavar="N",
        help="frames sampled per second of video (default: the model's, 0.5 for most)",
    )
    group.add_argument(
        "--window-sec",
        type=positive_number_or_none,
        default=argparse.SUPPRESS,
        metavar="SECONDS",
        help="longest window grounded in one pass: a longer video is divided into overlapping windows; none = one pass "
        "(default: the model's, 150 to 1490)",
    )
    group.add_argument(
        "--nms",
        type=nms_method,
        default=argparse.SUPPRESS,
        metavar="{" + ",".join(NMS_METHODS) + "}",
        help="how moments that overlap a better one are suppressed (default: the model's)",
    )
    group.add_argument(
        "--round-to",
        type=positive_number_or_none,
        default=argparse.SUPPRESS,
        metavar="SECONDS",
        help="round start and end to multiples of this; none = no rounding (default: the model's)",
    )
    group.add_argument(
        "--score-threshold",
        type=score_or_none,
        default=argparse.SUPPRESS,
        metavar="SCORE",
        help="leave out moments with a lower score, 0 to 1; none = keep all (default: leave out only moments that were "
        "suppressed to a score of 0)",
    )
    group.add_argument(
        "--min-probability",
        type=score_or_none,
        default=argparse.SUPPRESS,
        metavar="P",
        help='answer "not there" to a query if the probability that anything in the video matches it is lower, 0 to 1; '
        "none = never (default: 0.5). Only for models with an existence head; others always name moments",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument(
        "--top",
        type=positive_integer,
        default=5,
        metavar="N",
        help="moments printed, drawn, exported and cut per query (default: 5)",
    )
    group.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"write everything: up to {MAX_MOMENTS} moments per query (or N of --top, if larger), saliency of every "
        "frame, highlights, summary, and the probability if the model gives one; times in seconds. With - it goes to "
        "standard output, and the table to standard error",
    )
    group.add_argument(
        "--jsonl",
        type=Path,
        metavar="FILE",
        help="write the same for each video on a line of its own, as soon as it is done; for a video that was skipped, the "
        "reason. The first line replaces an existing file; an interrupted command leaves the lines written so far. With - "
        "to standard output",
    )
    group.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw a timeline with frames, saliency curves and moments (.png, .pdf or .svg; needs matplotlib)",
    )
    add_export_arguments(group, "the printed moments")


def add_export_arguments(group: argparse._ActionsContainer, moments: str) -> None:
    """Arguments for clips and edit lists of `moments`."""
    group.add_argument("--clips", type=Path, metavar="DIR", help=f"cut out {moments} as mp4 files, with their sound")
    group.add_argument(
        "--copy",
        action="store_true",
        help="cut the clips without encoding, from the key picture nearest to each start to that nearest to the end: quick and "
        "without loss, but off by up to some seconds, which are reported",
    )
    group.add_argument(
        "--export",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"write {moments} for an editor, a player or a spreadsheet; may be given several times. The ending sets the "
        f"format: {', '.join(EXPORT_ENDINGS)} (YouTube chapters, LosslessCut, OpenTimelineIO, CMX 3600, Final Cut Pro, and "
        "Final Cut Pro 7, which Premiere reads)",
    )


def check_exports(args: argparse.Namespace, *, is_one_video: bool) -> None:
    """Refuse files that `--export` cannot write, and `--copy` without clips."""
    if args.copy and args.clips is None:
        raise ValueError("`copy` needs `clips`, the folder for the copies")
    for path in args.export:
        ending = export_ending(path)
        if ending in ONE_VIDEO_ENDINGS and not is_one_video:
            others = ", ".join(ending for ending in EXPORT_ENDINGS if ending not in ONE_VIDEO_ENDINGS)
            raise ValueError(f"`export` '{path}' can hold the moments of one video only; use one of {others}")


def split_inputs(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Videos and folders, and the queries of the command line: with `-q` or `--queries`, all positionals are videos."""
    positionals = args.queries or []
    if is_batch(args):
        return [args.video, *positionals], args.query or []
    return [args.video], positionals


def is_batch(args: argparse.Namespace) -> bool:
    """Whether the arguments may name several videos."""
    return args.query is not None or args.queries_file is not None


def check_ground(args: argparse.Namespace) -> None:
    """Refuse arguments of `r2tuning ground` that cannot be meant."""
    videos, queries = split_inputs(args)
    if not queries and args.queries_file is None:
        raise ValueError("a QUERY is required (see `r2tuning ground --help`)")
    if not is_batch(args) and os.path.isdir(args.video):
        raise ValueError(f"`video` '{args.video}' is a folder; to ground all videos in it, give each query with -q")
    _check_queries(queries, "for several videos, give each query with -q")
    is_one_video = len(videos) == 1 and not os.path.isdir(videos[0])
    for name in ("json", "plot"):
        if getattr(args, name) is not None and not is_one_video:
            raise ValueError(f"`{name}` takes the answers about one video; for several there is `jsonl`")
    check_exports(args, is_one_video=is_one_video)
    if args.json == args.jsonl == Path("-"):
        raise ValueError("`json` and `jsonl` cannot both go to standard output")
    if args.plot is not None and args.plot.suffix.lower() not in PLOT_ENDINGS:
        raise ValueError(f"`plot` must end in {', '.join(PLOT_ENDINGS)}, got '{args.plot}'")


def check_explain(args: argparse.Namespace) -> None:
    """Refuse arguments of `r2tuning explain` that cannot be meant."""
    _check_queries([args.query], "run the command once for each video, and put the query in quotes")


def _check_queries(queries: list[str], advice: str) -> None:
    for query in queries:
        if VIDEO_NAME.fullmatch(query) or (Path(query).suffix and os.path.isfile(query)):
            raise ValueError(f"'{query}' names a file where a query is expected: {advice}")


def benchmark_table() -> str:
    """Names of the benchmarks and domains that the authors' checkpoints were trained on."""
    lines = ["benchmarks and domains:"]
    for name, spec in released_benchmarks().items():
        lines.append(f"  {name:20}{', '.join(spec.domains)}".rstrip())
    return "\n".join(lines)


GROUND_EPILOG = f"""\
{benchmark_table()}

examples:
  r2tuning ground talk.mp4 "a man in a red shirt opens the door" "people laugh" \\
      --model {ORIGINAL_REPOSITORY} --benchmark qvhighlights \\
      --json talk.json --plot talk.png --clips talk_clips --export talk.edl --export talk.srt
  r2tuning ground videos/ -q "people laugh" -q "a man opens the door" --jsonl found.jsonl --export found.fcpxml
"""
EXPLAIN_EPILOG = f"""\
{benchmark_table()}

example:
  r2tuning explain talk.mp4 "people laugh" --out explained --model {ORIGINAL_REPOSITORY} --benchmark qvhighlights
"""


__all__ = [
    "DEMO_DESCRIPTION",
    "DEMO_EPILOG",
    "EXPLAIN_DESCRIPTION",
    "EXPLAIN_EPILOG",
    "GROUND_DESCRIPTION",
    "GROUND_EPILOG",
    "GROUND_USAGE",
    "add_benchmark_arguments",
    "add_demo_arguments",
    "add_explain_arguments",
    "add_export_arguments",
    "add_ground_arguments",
    "add_model_arguments",
    "benchmark_table",
    "check_explain",
    "check_exports",
    "check_ground",
    "is_batch",
    "split_inputs",
]
