"""The command `r2tuning`: finds moments in a video, shows itself, converts and publishes checkpoints."""

import argparse
import contextlib
import http.client
import json
import logging
import math
import os
import secrets
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import utils as hub_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from .checkpoints_r2tuning import DEFAULT_CLIP, check_model_type, convert_to_directory, resolve_checkpoint
from .convert_r2tuning_checkpoint import BENCHMARKS, ORIGINAL_REPOSITORY
from .demo_r2tuning import format_comparison, format_summary, make_demo
from .model_zoo_r2tuning import convert_all, released_models
from .modeling_r2tuning import R2TuningForVideoGrounding
from .pipeline_r2tuning import DEFAULT_MODEL, VideoGroundingPipeline
from .plotting_r2tuning import format_time, import_figure, plot_grounding
from .processing_r2tuning import NMS_METHODS, R2TuningProcessor
from .publishing_r2tuning import push_checkpoint
from .video_io_r2tuning import cut_clip, iter_video_frames


logger = logging.getLogger(__package__)

ERROR_STATUS, INTERRUPTED_STATUS = 2, 130
# What the user can put right; anything else is a bug and shows where.
USER_ERRORS = (
    ImportError,
    OSError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
    torch.cuda.OutOfMemoryError,
)
PIPELINE_OPTIONS = ("fps", "nms", "round_to", "score_threshold", "window_sec")
MAX_MOMENTS = 50  # in the JSON file
DEMO_SEEDS = 10**6
PLOT_ENDINGS = (".png", ".pdf", ".svg")

DESCRIPTION = """\
Find the moments of a video that a sentence describes (R2-Tuning, arXiv 2404.00801).

  r2tuning demo     see it work, on a generated video
  r2tuning ground   look for moments in a video
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
CONVERT_DESCRIPTION = """\
Turn a checkpoint of the authors' code into a folder that `r2tuning ground --model` and transformers read. The weights
of CLIP are not copied: the folder refers to them. Prints the folder's path.

With --all every released checkpoint is converted, each to a folder of its own with a model card that holds the results
that the authors published. What cannot be converted or pushed is named at the end; the same command again does what is
left.
"""
CONVERT_USAGE = """\
r2tuning convert ORIGINAL.pth OUT --benchmark NAME [--domain NAME] [--clip DIR_OR_REPO]
       r2tuning convert --all OUT [--source DIR] [--clip DIR_OR_REPO] [--push-to ORG [--private]]"""
PUSH_DESCRIPTION = """\
Publish a checkpoint on the Hugging Face Hub: model, processor, code, model card and results in one commit, to a new
repository or as an update of one. Prints its address.

The card is made of the folder's settings and of `results.json`, which training and `r2tuning convert --all` write. A
`README.md` of your own in the folder is taken instead. Nothing but the checkpoint is uploaded: no state of the
optimizer, no videos, no logs. Log in with `hf auth login` first, or set HF_TOKEN to a token that may write.
"""
PUSH_EPILOG = """\
example:
  r2tuning push runs/qvhighlights/best org/r2tuning-qvhl --private
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; default those of the process.

    Returns:
        Exit status: 0, 2 after an error, 130 after Ctrl-C.
    """
    try:
        args = _make_parser().parse_args(argv)
        with _quiet_libraries():
            args.run(args)
    except KeyboardInterrupt:
        _write(sys.stderr, "r2tuning: interrupted")
        return INTERRUPTED_STATUS
    except USER_ERRORS as error:
        _write(sys.stderr, f"r2tuning: error: {_one_line(error) or type(error).__name__}")
        return ERROR_STATUS
    return 0


# ---- sub-commands --------------------------------------------------------------------------------------------------


def _ground(args: argparse.Namespace) -> None:
    _check_outputs(args)
    with _local_video(args.video) as video:
        duration_sec = iter_video_frames(video, 1.0).duration_sec  # refuses a bad video before the model is fetched
        pipe = _load_pipeline(args)
        options = {name: value for name, value in vars(args).items() if name in PIPELINE_OPTIONS}
        with _progress_bar("looking at frames", " frames") as progress:
            answers = pipe(
                video, query=args.queries, max_moments=max(MAX_MOMENTS, args.top), progress=progress, **options
            )
        _write(sys.stdout, f"{args.video} ({format_time(duration_sec)})")
        for answer in answers:
            _write(sys.stdout, "\n" + _format_answer(answer, args.top))
        if args.json is not None:
            fps = options.get("fps", pipe.processor.fps)
            document = {"video": args.video, "duration_sec": duration_sec, "fps": fps, "model": args.model}
            _write_json({**document, "answers": answers}, args.json)
        if args.plot is not None:
            plot_grounding(answers, video, args.plot, top=args.top)
            logger.info("wrote %s", args.plot)
        if args.clips is not None:
            _cut_clips(answers, video, duration_sec, args.clips, args.top)


def _demo(args: argparse.Namespace) -> None:
    import_figure()
    seed = secrets.randbelow(DEMO_SEEDS) if args.seed is None else args.seed
    clips = args.output / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    video, queries = make_demo(args.output, seed)
    pipe = _load_pipeline(args)
    answers = pipe(str(video), query=[query.text for query in queries])
    _write(sys.stdout, f"{video} (--seed {seed} makes it again)")
    for query, answer in zip(queries, answers, strict=True):
        _write(sys.stdout, "\n" + format_comparison(query, answer, args.top))
    _write(sys.stdout, "\n" + format_summary(queries, answers))
    plot_grounding(
        answers, str(video), args.output / "timeline.png", top=args.top, truths=[q.moments for q in queries]
    )
    logger.info("wrote %s", args.output / "timeline.png")
    _cut_clips(answers, str(video), iter_video_frames(str(video), 1.0).duration_sec, clips, top=1)


def _convert(args: argparse.Namespace) -> None:
    if args.all is not None:
        _convert_all(args)
        return
    for option in ("source", "push_to", "private"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} goes with --all (see `r2tuning convert --help`)")
    convert_to_directory(args.original, args.output, benchmark=args.benchmark, domain=args.domain, clip=args.clip)
    _write(sys.stdout, str(args.output))


def _convert_all(args: argparse.Namespace) -> None:
    if (args.original, args.benchmark, args.domain) != (None, None, None):
        raise ValueError("--all converts every checkpoint: leave out ORIGINAL.pth, --benchmark and --domain")
    failures = convert_all(args.all, source=args.source, clip=args.clip, push_to=args.push_to, private=args.private)
    models = [model.name for model in released_models()]
    for name in models:
        if name not in failures:
            _write(sys.stdout, str(args.all / name))
    if failures:
        raise OSError(
            f"{len(failures)} of {len(models)} checkpoints failed: {', '.join(failures)}; the same command does what "
            "is left"
        )


def _push(args: argparse.Namespace) -> None:
    _write(sys.stdout, push_checkpoint(args.folder, args.repository, private=args.private, clip=args.clip))


def _load_pipeline(args: argparse.Namespace) -> VideoGroundingPipeline:
    device = _check_device(args.device)
    name = resolve_checkpoint(args.model, benchmark=args.benchmark, domain=args.domain, clip=args.clip)
    check_model_type(name, "r2tuning")
    clip = {} if args.clip is None else {"clip_model_name_or_path": args.clip, "clip_revision": None}
    model = R2TuningForVideoGrounding.from_pretrained(name, dtype=getattr(torch, args.dtype), **clip)
    if args.clip is not None and model.config.save_backbone:
        logger.warning("--clip has no effect: the checkpoint holds its own CLIP")
    return VideoGroundingPipeline(model=model, processor=R2TuningProcessor.from_pretrained(name), device=device)


def _check_device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used here: {error}") from error
    return device


@contextlib.contextmanager
def _local_video(video: str) -> Iterator[str]:
    """The path of the video; what is behind an address is fetched once, as it is read several times."""
    if not video.lower().startswith(("http://", "https://")):
        yield video
        return
    with tempfile.TemporaryDirectory(prefix="r2tuning-") as folder:
        path = os.path.join(folder, PurePosixPath(urlsplit(video).path).name or "video")
        try:
            with _progress_bar("downloading", " bytes") as progress:
                urllib.request.urlretrieve(video, path, lambda count, size, total: progress(count * size, total))
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(f"{video} could not be fetched ({error})") from error
        yield path


# ---- results -------------------------------------------------------------------------------------------------------


def _format_answer(answer: dict[str, Any], top: int) -> str:
    lines = [f"Query: {_one_line(answer['query'])}", "  rank      start        end  score"]
    for rank, moment in enumerate(answer["moments"][:top], 1):
        start, end = format_time(moment["start"]), format_time(moment["end"])
        lines.append(f"  {rank:>4} {start:>10} {end:>10}  {moment['score']:.3f}")
    if not answer["moments"]:
        lines[1] = "  no moments"
    highlights = (f"{format_time(found['time'])} ({found['score']:.2f})" for found in answer["highlights"])
    summary = (f"{format_time(span['start'])}-{format_time(span['end'])}" for span in answer["summary"])
    return "\n".join([*lines, f"  highlights: {', '.join(highlights)}", f"  summary: {', '.join(summary)}"])


def _write_json(document: dict[str, Any], path: Path) -> None:
    """Write a file under another name beside `path`, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)
        temporary.write_text(f"{text}\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    logger.info("wrote %s", path)


def _cut_clips(answers: list[dict[str, Any]], video: str, duration_sec: float, folder: Path, top: int) -> None:
    found = [
        (query, rank, moment["start"], min(moment["end"], duration_sec))
        for query, answer in enumerate(answers, 1)
        for rank, moment in enumerate(answer["moments"][:top], 1)
    ]
    with _progress_bar("cutting clips", " clips") as progress:
        for count, (query, rank, start, end) in enumerate(found, 1):
            if start < end:
                name = f"{Path(video).stem}_query{query}_moment{rank}_{start:.1f}-{end:.1f}s.mp4"
                cut_clip(video, folder / name, start, end)
            else:
                logger.warning("moment %d of query %d is empty and was not cut", rank, query)
            progress(count, len(found))
    logger.info("wrote %d clips to %s", sum(start < end for *_, start, end in found), folder)


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse at the start what could not be written at the end."""
    for path in (args.json, args.plot):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise OSError(f"cannot write '{path}': it must be a file in an existing folder")
    if args.plot is not None:
        import_figure()
        if args.plot.suffix.lower() not in PLOT_ENDINGS:
            raise ValueError(f"--plot must end in {', '.join(PLOT_ENDINGS)}, got '{args.plot}'")
    if args.clips is not None:
        args.clips.mkdir(parents=True, exist_ok=True)


# ---- terminal ------------------------------------------------------------------------------------------------------


def _write(stream: Any, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())


class _LogHandler(logging.Handler):
    """One line on stderr for each message, once, above a progress bar if there is one."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message."""
        prefix = "r2tuning: " if record.levelno == logging.INFO else f"r2tuning: {record.levelname.lower()}: "
        line = prefix + _one_line(record.getMessage())
        if line not in self.seen:
            self.seen.add(line)
            tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Show our own messages; of the libraries only errors and, on a terminal, the progress of downloads."""
    verbosity, level = transformers_logging.get_verbosity(), logger.level
    had_bars, hub_had_bars = transformers_logging.is_progress_bar_enabled(), not hub_utils.are_progress_bars_disabled()
    handler = _LogHandler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()  # switches the downloads' off, too
        _set_download_bars(hub_had_bars and sys.stderr.isatty())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            transformers_logging.set_verbosity(verbosity)
            if had_bars:
                transformers_logging.enable_progress_bar()
            _set_download_bars(hub_had_bars)


def _set_download_bars(shown: bool) -> None:
    change = hub_utils.enable_progress_bars if shown else hub_utils.disable_progress_bars
    change()


@contextlib.contextmanager
def _progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function of what is done and of the total that moves a bar; the bar is shown on a terminal only."""
    with tqdm(desc=label, unit=unit, leave=False, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def update(done: int, total: int) -> None:
            bar.total = max(total, done)
            bar.update(done - bar.n)

        yield update


# ---- arguments -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Raise instead of printing the usage: an error is one line."""
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def _make_parser() -> argparse.ArgumentParser:
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = _Parser(prog="r2tuning", description=DESCRIPTION, epilog=EXAMPLES, **layout)
    parser.add_argument("--version", action="version", version=f"r2tuning {sys.modules[__package__].__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, help="demo, ground, convert or push")
    demo = commands.add_parser(
        "demo", help="see it work, on a generated video", description=DEMO_DESCRIPTION, **layout
    )
    _add_demo_arguments(demo)
    ground = commands.add_parser(
        "ground", help="look for moments in a video", description=GROUND_DESCRIPTION, epilog=_ground_epilog(), **layout
    )
    _add_ground_arguments(ground)
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
    parser.set_defaults(run=_demo, benchmark=None, domain=None, clip=None, device=None, dtype="float32")
    parser.add_argument(
        "output", metavar="OUT", type=Path, nargs="?", default=Path("demo"), help="folder to write (default: demo)"
    )
    parser.add_argument("--seed", type=_whole, metavar="N", help="of the video (default: another one each time)")
    parser.add_argument("--top", type=_count, default=3, metavar="N", help="moments shown per query (default: 3)")
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), metavar="DIR_OR_REPO", help="default: the one of the package"
    )


def _add_ground_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_ground)
    parser.add_argument("video", metavar="VIDEO", help="video file, or http(s) address of one")
    parser.add_argument(
        "queries", metavar="QUERY", nargs="+", help="what to look for: a sentence in quotes, or several"
    )
    model = parser.add_argument_group("model")
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
        "--clip",
        metavar="DIR_OR_REPO",
        help="where CLIP's weights are (default: where the checkpoint says; for the authors' files "
        + DEFAULT_CLIP
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
    _add_search_arguments(parser.add_argument_group("how to look"))
    _add_output_arguments(parser.add_argument_group("results"))


def _add_search_arguments(group: Any) -> None:
    missing = {"default": argparse.SUPPRESS}  # the pipeline knows the defaults
    group.add_argument(
        "--fps",
        type=_positive,
        metavar="N",
        help="frames looked at per second of video (default: the model's, 0.5 for most)",
        **missing,
    )
    group.add_argument(
        "--window-sec",
        type=_positive_or_none,
        metavar="SECONDS",
        help="longest piece looked at in one pass; a longer video is cut into overlapping pieces; none = one pass (default: the model's, 150 to 1490)",
        **missing,
    )
    methods = [str(method).lower() for method in NMS_METHODS]
    group.add_argument(
        "--nms",
        type=_nms_method,
        metavar="{" + ",".join(methods) + "}",
        help="how moments that overlap a better one are suppressed (default: the model's)",
        **missing,
    )
    group.add_argument(
        "--round-to",
        type=_positive_or_none,
        metavar="SECONDS",
        help="round start and end to multiples of this; none = do not round (default: the model's)",
        **missing,
    )
    group.add_argument(
        "--score-threshold",
        type=_share,
        metavar="SCORE",
        help="leave out moments with a lower score, 0 to 1 (default: keep all)",
        **missing,
    )


def _add_output_arguments(group: Any) -> None:
    group.add_argument(
        "--top", type=_count, default=5, metavar="N", help="moments printed, drawn and cut per query (default: 5)"
    )
    group.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help=f"write everything: up to {MAX_MOMENTS} moments per query (or N of --top), saliency of every frame, "
        "highlights, summary; times in seconds",
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
    parser.set_defaults(run=_convert)
    one = [
        parser.add_argument("original", metavar="ORIGINAL.pth", help="checkpoint of the authors' code"),
        parser.add_argument("output", metavar="OUT", type=Path, help="folder to write; must be new or empty"),
        _add_benchmark_arguments(parser, required=True),
    ]
    parser.add_argument(
        "--clip",
        metavar="DIR_OR_REPO",
        help=f"the CLIP that the checkpoint was trained on (default: {DEFAULT_CLIP})",
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
    parser.set_defaults(run=_push)
    parser.add_argument("folder", metavar="DIR", help="checkpoint, such as the folder `best` of a training run")
    parser.add_argument("repository", metavar="ORG/NAME", help="repository on the Hub; made if there is none")
    parser.add_argument("--private", action="store_true", help="make the repository private; one that exists must be")
    parser.add_argument(
        "--clip",
        metavar="REPO",
        help="name on the Hub of the CLIP that the checkpoint refers to, if it refers to a folder of this machine",
    )


def _add_benchmark_arguments(group: Any, required: bool) -> argparse.Action:
    benchmark = group.add_argument(
        "--benchmark",
        required=required,
        choices=tuple(BENCHMARKS),
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


def _convert_epilog() -> str:
    return f"""\
{_benchmark_table()}

examples:
  r2tuning convert r2_tuning_tvsum_bk.pth tvsum_bk --benchmark tvsum --domain BK
  r2tuning convert --all released --push-to org
"""


def _benchmark_table() -> str:
    lines = ["benchmarks and domains:"]
    for name, benchmark in BENCHMARKS.items():
        domains = ", ".join(domain for domain in benchmark.files if domain is not None)
        lines.append(f"  {name:20}{domains}".rstrip())
    return "\n".join(lines)


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a positive number, got '{text}'")


def _positive_or_none(text: str) -> float | None:
    return None if text == "none" else _positive(text)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got '{text}'")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got '{text}'")


def _whole(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got '{text}'")


def _nms_method(text: str) -> str | None:
    methods = {str(method).lower(): method for method in NMS_METHODS}
    if text not in methods:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(methods)}, got '{text}'")
    return methods[text]


__all__ = ["main"]


if __name__ == "__main__":
    sys.exit(main())
