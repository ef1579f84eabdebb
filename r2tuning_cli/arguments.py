"""Arguments of the command `r2tuning`, and its help texts."""

import argparse
import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modeling_r2tuning
from dataset_scripts.benchmarks import ORIGINAL_REPOSITORY, released_benchmarks
from modeling_r2tuning.options_r2tuning import NMS_METHODS, RULES
from modeling_r2tuning.pipeline_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.video_source_r2tuning import MAX_DOWNLOAD_BYTES
from r2tuning.checks import DEFAULT_BACKBONE
from r2tuning.released.model_zoo import released_models


MAX_MOMENTS = 50  # in the JSON file
# Arguments of the library that have an option here, as its messages name them.
SPELLINGS = {
    "benchmark": "--benchmark",
    "backbone": "--backbone",
    "backbone_name_or_path": "--backbone",
    "domain": "--domain",
    "fps": "--fps",
    "max_moments": "--top",
    "model": "--model",
    "nms": "--nms",
    "round_to": "--round-to",
    "score_threshold": "--score-threshold",
    "window_sec": "--window-sec",
}

DESCRIPTION = """\
Find the moments of a video that a sentence describes (R2-Tuning, arXiv 2404.00801).

  r2tuning demo     see it work, on a generated video
  r2tuning ground   look for moments in a video
  r2tuning explain  draw where each word of a query looks, and what each layer makes of it
  r2tuning convert  turn a checkpoint of the authors' code into a folder for `--model`
  r2tuning push     publish such a folder on the Hugging Face Hub
"""
EXAMPLES = f"""\
examples:
  r2tuning demo
  r2tuning ground talk.mp4 "people laugh" --model {ORIGINAL_REPOSITORY} --benchmark qvhighlights
  r2tuning ground talk.mp4 "a man opens the door" "people laugh" --model my_model --plot talk.png --clips found/
  r2tuning convert r2_tuning_tacos.pth my_model --benchmark tacos
  r2tuning push my_model org/my_model

`r2tuning COMMAND --help` explains every option.
"""
GROUND_DESCRIPTION = """\
Look for moments in a video. For each query a table of the best moments is printed, with the most salient times
(highlights) and a short summary of the video as the query sees it. Times are minutes:seconds; a score is between 0
and 1, and scores are comparable within one model only.
"""
DEMO_DESCRIPTION = """\
Generate a video of moving coloured shapes that no model has seen, ask it a query of each kind, and print what is found
beside the truth. OUT gets the video, a timeline and the best moment of each query as a clip.
"""
EXPLAIN_DESCRIPTION = """\
Draw how a model comes to its answer about one query. DIR gets answer.png, saliency and moments over time (Figure 6 of
the paper); attention.png, where each word looks in pictures of the video (Figure 8); and similarity.png, how much frames
and query agree in each layer before and after training (Figure 9).
"""
CONVERT_DESCRIPTION = """\
Turn a checkpoint of the authors' code into a folder that `r2tuning ground --model` and transformers read. The weights
of CLIP are not copied: the folder refers to them. Prints the folder's path.

With --all every released checkpoint is converted, each to a folder of its own with a model card that holds the results
that the authors published. What cannot be converted or pushed is named at the end; the same command again does what is
left.
"""
CONVERT_USAGE = """\
r2tuning convert ORIGINAL.pth OUT --benchmark NAME [--domain NAME] [--backbone DIR_OR_REPO]
       r2tuning convert --all OUT [--source DIR] [--backbone DIR_OR_REPO] [--push-to ORG [--private]]"""
PUSH_DESCRIPTION = """\
Publish a checkpoint on the Hugging Face Hub: model, processor, code, model card and results in one commit, to a new
repository or as an update of one. Prints its address.

The card is made of the folder's settings and of `results.json`, which training and `r2tuning convert --all` write. Text
of your own in `README.md` is kept, in the folder and on the Hub; only the marked parts and the metadata are refreshed.
Files that others added to the repository stay. Nothing but the checkpoint is uploaded: no state of the optimizer, no
videos, no logs. Log in with `hf auth login` first, or set HF_TOKEN to a token that may write.
"""
PUSH_EPILOG = """\
example:
  r2tuning push runs/qvhighlights/best org/r2tuning-qvhl --private
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Raise instead of printing the usage: an error is one line."""
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command; `command` names the sub-command."""
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = _Parser(prog="r2tuning", description=DESCRIPTION, epilog=EXAMPLES, **layout)
    parser.add_argument("--version", action="version", version=f"r2tuning {modeling_r2tuning.__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, help="demo, ground, explain, convert or push"
    )
    demo = commands.add_parser(
        "demo", help="see it work, on a generated video", description=DEMO_DESCRIPTION, **layout
    )
    _add_demo_arguments(demo)
    ground = commands.add_parser(
        "ground", help="look for moments in a video", description=GROUND_DESCRIPTION, epilog=_ground_epilog(), **layout
    )
    _add_ground_arguments(ground)
    explain = commands.add_parser(
        "explain",
        help="draw how a model comes to its answer",
        description=EXPLAIN_DESCRIPTION,
        epilog=_explain_epilog(),
        **layout,
    )
    _add_explain_arguments(explain)
    convert = commands.add_parser(
        "convert",
        help="convert a checkpoint of the authors' code",
        usage=CONVERT_USAGE,
        description=CONVERT_DESCRIPTION,
        epilog=_convert_epilog(),
        **layout,
    )
    _add_convert_arguments(convert)
    push = commands.add_parser(
        "push", help="publish a checkpoint on the Hub", description=PUSH_DESCRIPTION, epilog=PUSH_EPILOG, **layout
    )
    _add_push_arguments(push)
    return parser


def _add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(benchmark=None, domain=None, backbone=None, device=None, dtype="float32")
    parser.add_argument(
        "output", metavar="OUT", type=Path, nargs="?", default=Path("demo"), help="folder to write (default: demo)"
    )
    parser.add_argument("--seed", type=_whole, metavar="N", help="of the video (default: another one each time)")
    parser.add_argument(
        "--top", type=_option("max_moments"), default=3, metavar="N", help="moments shown per query (default: 3)"
    )
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), metavar="DIR_OR_REPO", help="default: the one of the package"
    )


def _add_ground_arguments(parser: argparse.ArgumentParser) -> None:
    _add_video_arguments(parser)
    parser.add_argument(
        "queries", metavar="QUERY", nargs="+", help="what to look for: a sentence in quotes, or several"
    )
    _add_model_arguments(parser.add_argument_group("model"))
    _add_search_arguments(parser.add_argument_group("how to look"))
    _add_output_arguments(parser.add_argument_group("results"))


def _add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    _add_video_arguments(parser)
    parser.add_argument("query", metavar="QUERY", help="what to look for, a sentence in quotes")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write the pictures to")
    _add_model_arguments(parser.add_argument_group("model"))


def _add_video_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file, http(s) address of one, or /dev/stdin")
    parser.add_argument(
        "--max-download",
        type=_size,
        default=MAX_DOWNLOAD_BYTES,
        metavar="SIZE",
        help="most that is copied from an address or a pipe, such as 500MB (a number without unit: bytes; "
        f"default: {MAX_DOWNLOAD_BYTES // 10**9}GB)",
    )


def _add_model_arguments(model: Any) -> None:
    model.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        metavar="DIR_OR_REPO",
        help="a checkpoint folder or Hugging Face repository; or the authors' own files: "
        f"{ORIGINAL_REPOSITORY} or a .pth file, with --benchmark (converted once, then cached below HF_HOME). "
        "Default: the small model of the package, which knows generated videos of coloured shapes only",
    )
    _add_benchmark_arguments(model, required=False)
    model.add_argument(
        "--backbone",
        metavar="DIR_OR_REPO",
        help="where CLIP's weights are (default: where the checkpoint says; for the authors' files "
        + DEFAULT_BACKBONE
        + ")",
    )
    model.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda if there is one, else cpu)"
    )
    model.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the frozen CLIP encoders (default: float32); bfloat16 is faster on most GPUs and on CPUs "
        "with AMX or AVX512-BF16",
    )


def _add_search_arguments(group: Any) -> None:
    missing = {"default": argparse.SUPPRESS}  # the pipeline knows the defaults
    group.add_argument(
        "--fps",
        type=_option("fps"),
        metavar="N",
        help="frames looked at per second of video (default: the model's, 0.5 for most)",
        **missing,
    )
    group.add_argument(
        "--window-sec",
        type=_option("window_sec"),
        metavar="SECONDS",
        help="longest piece looked at in one pass; a longer video is cut into overlapping pieces; none = one pass (default: the model's, 150 to 1490)",
        **missing,
    )
    methods = [str(method).lower() for method in NMS_METHODS]
    group.add_argument(
        "--nms",
        type=_option("nms"),
        metavar="{" + ",".join(methods) + "}",
        help="how moments that overlap a better one are suppressed (default: the model's)",
        **missing,
    )
    group.add_argument(
        "--round-to",
        type=_option("round_to"),
        metavar="SECONDS",
        help="round start and end to multiples of this; none = do not round (default: the model's)",
        **missing,
    )
    group.add_argument(
        "--score-threshold",
        type=_option("score_threshold"),
        metavar="SCORE",
        help="leave out moments with a lower score, 0 to 1 (default: 0, which leaves out those that overlap a better one "
        "and were suppressed to the score 0); none = keep all",
        **missing,
    )


def _add_output_arguments(group: Any) -> None:
    group.add_argument(
        "--top",
        type=_option("max_moments"),
        default=5,
        metavar="N",
        help="moments printed, drawn and cut per query (default: 5)",
    )
    group.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"write everything: up to {MAX_MOMENTS} moments per query (or N of --top), saliency of every frame, "
        "highlights, summary; times in seconds. - writes it to standard output, and the table to standard error",
    )
    group.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw a timeline with frames, saliency curves and moments (.png, .pdf or .svg; needs matplotlib)",
    )
    group.add_argument(
        "--clips", type=Path, metavar="DIR", help="cut the printed moments out as mp4 files without sound"
    )


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    one = [
        parser.add_argument("original", metavar="ORIGINAL.pth", help="checkpoint of the authors' code"),
        parser.add_argument("output", metavar="OUT", type=Path, help="folder to write; must be new or empty"),
        _add_benchmark_arguments(parser, required=True),
    ]
    parser.add_argument(
        "--backbone",
        metavar="DIR_OR_REPO",
        help=f"the CLIP that the checkpoint was trained on (default: {DEFAULT_BACKBONE})",
    )
    every = parser.add_argument_group("all released checkpoints")
    every.add_argument(
        "--all",
        action=_InPlaceOf,
        others=one,
        type=Path,
        metavar="OUT",
        help=f"convert the {len(released_models())} released checkpoints to folders in OUT: r2tuning-qvhl, "
        "r2tuning-charades, r2tuning-tvsum-bk ...",
    )
    every.add_argument(
        "--source",
        metavar="DIR",
        help=f"folder of the .pth files under the authors' names (default: fetched from {ORIGINAL_REPOSITORY})",
    )
    every.add_argument(
        "--push-to", metavar="ORG", help="publish each on the Hub in this organisation, as ORG/r2tuning-qvhl ..."
    )
    every.add_argument("--private", action="store_true", help="make the repositories private")


class _InPlaceOf(argparse.Action):
    """An option that makes required ones superfluous."""

    def __init__(self, *args, others: list[argparse.Action], **kwargs):
        super().__init__(*args, **kwargs)
        self.others = others

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values)
        for other in self.others:
            other.required = False


def _add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="checkpoint, such as the folder `best` of a training run")
    parser.add_argument("repository", metavar="ORG/NAME", help="repository on the Hub; made if there is none")
    parser.add_argument("--private", action="store_true", help="make the repository private; one that exists must be")
    parser.add_argument(
        "--backbone",
        metavar="REPO",
        help="name on the Hub of the CLIP that the checkpoint refers to, if it refers to a folder of this machine",
    )


def _add_benchmark_arguments(group: Any, required: bool) -> argparse.Action:
    benchmark = group.add_argument(
        "--benchmark",
        required=required,
        choices=tuple(released_benchmarks()),
        metavar="NAME",
        help="what the authors' checkpoint was trained on (names below)",
    )
    group.add_argument(
        "--domain", metavar="NAME", help="the part of the benchmark, where there are several (names below)"
    )
    return benchmark


def _ground_epilog() -> str:
    return f"""\
{_benchmark_table()}

example:
  r2tuning ground talk.mp4 "a man in a red shirt opens the door" "people laugh" \\
      --model {ORIGINAL_REPOSITORY} --benchmark qvhighlights \\
      --json talk.json --plot talk.png --clips talk_clips
"""


def _explain_epilog() -> str:
    return f"""\
{_benchmark_table()}

example:
  r2tuning explain talk.mp4 "people laugh" --out explained --model {ORIGINAL_REPOSITORY} --benchmark qvhighlights
"""


def _convert_epilog() -> str:
    return f"""\
{_benchmark_table()}

examples:
  r2tuning convert r2_tuning_tvsum_bk.pth tvsum_bk --benchmark tvsum --domain BK
  r2tuning convert --all released --push-to org
"""


def _benchmark_table() -> str:
    lines = ["benchmarks and domains:"]
    for name, spec in released_benchmarks().items():
        domains = ", ".join(spec.domains)
        lines.append(f"  {name:20}{domains}".rstrip())
    return "\n".join(lines)


def _option(name: str) -> Callable[[str], Any]:
    """Reads an option of the pipeline from text, by its rule."""
    rule = RULES[name]

    def read(text: str) -> Any:
        value = text
        with contextlib.suppress(ValueError):
            value = None if text == "none" else rule.kind(text)
        if not rule.allows(value):
            raise argparse.ArgumentTypeError(f"must be {rule.words.replace('None', 'none')}, got '{text}'")
        return value

    return read


def _whole(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got '{text}'")


def spell_options(message: str) -> str:
    """A message of the library with its arguments spelt as the command's options."""
    return re.sub(r"`(\w+)=?`", lambda found: SPELLINGS.get(found[1], found[0]), message)


def _size(text: str) -> int:
    """Bytes, from a number with or without a unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(|[kMGT]?B)", text, re.IGNORECASE)
    size = 0 if found is None else int(float(found[1]) * 1000 ** " kmgt".index(found[2][:-1].lower() or " "))
    if size < 1:
        raise argparse.ArgumentTypeError(f"must be a size such as 500MB or 20GB, got '{text}'")
    return size


__all__ = ["MAX_MOMENTS", "SPELLINGS", "make_parser", "spell_options"]
