"""The command `r2tuning`: finds moments in a video, shows itself, converts and publishes checkpoints."""

import argparse
import contextlib
import json
import logging
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import utils as hub_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from modeling_r2tuning.files_r2tuning import check_replaceable, writing
from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor, as_text_list
from modeling_r2tuning.video_io_r2tuning import cut_clip, iter_video_frames
from modeling_r2tuning.video_source_r2tuning import LocalCopy, VideoInput, display_name, file_stem, local_copy
from r2tuning.checks import check_model_type
from r2tuning.hub.push import push_checkpoint
from r2tuning.released.model_zoo import convert_all, released_models
from r2tuning.released.resolve import check_original, convert_to_directory, resolve_checkpoint
from r2tuning.visualization.explain import layer_similarity, plot_layer_similarity, plot_word_attention, word_attention
from r2tuning.visualization.timeline import format_time, import_figure, plot_grounding
from r2tuning_cli.arguments import MAX_MOMENTS, make_parser, spell_options

from .demo import format_comparison, format_summary, make_demo


logger = logging.getLogger("r2tuning.commands")  # also when it is run as a script

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
DEMO_SEEDS = 10**6  # from 1 on: 0 is that of the benchmark
PICTURE_DPI = 150
MAX_NAME_BYTES = 255
PLOT_ENDINGS = (".png", ".pdf", ".svg")
STANDARD_OUTPUT = Path("-")
VIDEO_NAME = re.compile(r"https?://\S+|\S+\.(avi|flv|m4v|mkv|mov|mp4|mpe?g|ogv|ts|webm|wmv)", re.IGNORECASE)


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; default those of the process.

    Returns:
        Exit status: 0, 2 after an error, 130 after Ctrl-C.
    """
    try:
        args = make_parser().parse_args(argv)
        with _quiet_libraries():
            COMMANDS[args.command](args)
    except KeyboardInterrupt:
        _write(sys.stderr, "r2tuning: interrupted")
        return INTERRUPTED_STATUS
    except USER_ERRORS as error:
        _write(sys.stderr, f"r2tuning: error: {spell_options(_one_line(error)) or type(error).__name__}")
        return ERROR_STATUS
    return 0


# ---- sub-commands --------------------------------------------------------------------------------------------------


def _ground(args: argparse.Namespace) -> None:
    _check_queries(args.queries)
    _check_model_options(args)
    _check_outputs(args)
    table = sys.stderr if args.json == STANDARD_OUTPUT else sys.stdout
    with _local_video(args) as video:
        duration_sec = iter_video_frames(video, 1.0).duration_sec  # refuses a bad video before the model is fetched
        pipe = _load_pipeline(args)
        options = {name: value for name, value in vars(args).items() if name in PIPELINE_OPTIONS}
        with _progress_bar("looking at frames", " frames") as progress:
            answers = pipe(
                video, query=args.queries, max_moments=max(MAX_MOMENTS, args.top), progress=progress, **options
            )
        _write(table, f"{display_name(args.video)} ({format_time(duration_sec)})")
        for answer in answers:
            _write(table, "\n" + _format_answer(answer, args.top))
        if args.json is not None:
            fps = options.get("fps", pipe.processor.fps)
            document = {"video": display_name(args.video), "duration_sec": duration_sec, "fps": fps}
            _write_json({**document, "model": display_name(args.model), "answers": answers}, args.json)
        if args.plot is not None:
            plot_grounding(answers, video, args.plot, top=args.top)
            logger.info("wrote %s", args.plot)
        if args.clips is not None:
            _cut_clips(answers, video, duration_sec, args.clips, args.top)


def _demo(args: argparse.Namespace) -> None:
    _check_model_options(args)
    import_figure()
    seed = 1 + secrets.randbelow(DEMO_SEEDS) if args.seed is None else args.seed
    clips, timeline = args.output / "clips", args.output / "timeline.png"
    clips.mkdir(parents=True, exist_ok=True)
    check_replaceable(timeline)
    video, queries = make_demo(args.output, seed)
    pipe = _load_pipeline(args)
    answers = pipe(str(video), query=[query.text for query in queries])
    _write(sys.stdout, f"{video} (--seed {seed} makes it again)")
    for query, answer in zip(queries, answers, strict=True):
        _write(sys.stdout, "\n" + format_comparison(query, answer, args.top))
    _write(sys.stdout, "\n" + format_summary(queries, answers))
    plot_grounding(answers, str(video), timeline, top=args.top, truths=[q.moments for q in queries])
    logger.info("wrote %s", timeline)
    _cut_clips(answers, str(video), iter_video_frames(str(video), 1.0).duration_sec, clips, top=1)


def _explain(args: argparse.Namespace) -> None:
    _check_queries([args.query])
    _check_model_options(args)
    import_figure()
    args.out.mkdir(parents=True, exist_ok=True)
    paths = {name: args.out / f"{name}.png" for name in ("answer", "attention", "similarity")}
    for path in paths.values():
        check_replaceable(path, args.video)
    with _local_video(args) as video:
        pipe = _load_pipeline(args)
        about = (pipe.model, pipe.processor, video, args.query)
        figures = {
            "answer": plot_grounding(pipe(video, query=args.query), video),
            "attention": plot_word_attention(word_attention(*about)),
            "similarity": plot_layer_similarity(layer_similarity(*about)),
        }
    for name, figure in figures.items():
        with writing(paths[name]) as partial:
            figure.savefig(partial, dpi=PICTURE_DPI)
        _write(sys.stdout, str(paths[name]))


def _convert(args: argparse.Namespace) -> None:
    if args.all is not None:
        _convert_all(args)
        return
    for option in ("source", "push_to", "private"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} goes with --all (see `r2tuning convert --help`)")
    convert_to_directory(
        args.original, args.output, benchmark=args.benchmark, domain=args.domain, backbone=args.backbone
    )
    _write(sys.stdout, str(args.output))


def _convert_all(args: argparse.Namespace) -> None:
    if (args.original, args.benchmark, args.domain) != (None, None, None):
        raise ValueError("--all converts every checkpoint: leave out ORIGINAL.pth, --benchmark and --domain")
    failures = convert_all(
        args.all, source=args.source, backbone=args.backbone, push_to=args.push_to, private=args.private
    )
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
    _write(sys.stdout, push_checkpoint(args.folder, args.repository, private=args.private, backbone=args.backbone))


def _check_queries(queries: list[str]) -> None:
    for query in as_text_list(queries, "QUERY"):
        if VIDEO_NAME.fullmatch(query) or (Path(query).suffix and os.path.isfile(query)):
            raise ValueError(
                f"'{query}' names a file where a query is expected: run the command once for each video, and put "
                "each query in quotes"
            )


def _check_model_options(args: argparse.Namespace) -> None:
    """Refuse, before anything is fetched or read, a device, checkpoint or CLIP that cannot be used."""
    _check_device(args.device)
    check_original(args.model, args.benchmark, args.domain)
    if args.backbone is not None:
        check_model_type(args.backbone, "clip")


def _load_pipeline(args: argparse.Namespace) -> VideoGroundingPipeline:
    device = _check_device(args.device)
    name = resolve_checkpoint(args.model, benchmark=args.benchmark, domain=args.domain, backbone=args.backbone)
    check_model_type(name, "r2tuning")
    backbone = {} if args.backbone is None else {"backbone_name_or_path": args.backbone, "backbone_revision": None}
    model = R2TuningForVideoGrounding.from_pretrained(name, dtype=getattr(torch, args.dtype), **backbone)
    if args.backbone is not None and model.config.save_backbone:
        logger.warning("--backbone has no effect: the checkpoint holds its own CLIP")
    return VideoGroundingPipeline(model=model, processor=R2TuningProcessor.from_pretrained(name), device=device)


def _check_device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used here: {error}") from error
    return device


def _local_video(args: argparse.Namespace) -> contextlib.AbstractContextManager[VideoInput]:
    """The video; what is behind an address or comes through a pipe is copied once, as it is read several times."""
    with _progress_bar("copying", " bytes") as progress:
        return local_copy(args.video, args.max_download, progress)


COMMANDS = {"demo": _demo, "ground": _ground, "explain": _explain, "convert": _convert, "push": _push}


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
    return "\n".join([*lines, f"  highlights: {_join(highlights)}", f"  summary: {_join(summary)}"])


def _join(texts: Iterable[str]) -> str:
    return ", ".join(texts) or "none"


def _write_json(document: dict[str, Any], path: Path) -> None:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)
    if path == STANDARD_OUTPUT:
        _write(sys.stdout, text)
        return
    with writing(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
    logger.info("wrote %s", path)


def _cut_clips(
    answers: list[dict[str, Any]], video: str | LocalCopy, duration_sec: float, folder: Path, top: int
) -> None:
    found = [
        (query, rank, moment["start"], min(moment["end"], duration_sec))
        for query, answer in enumerate(answers, 1)
        for rank, moment in enumerate(answer["moments"][:top], 1)
    ]
    digits = max(2, len(str(max(top, len(answers)))))  # so that the names sort
    with _progress_bar("cutting clips", " clips") as progress:
        for count, (query, rank, start, end) in enumerate(found, 1):
            if start < end:
                place = f"query{query:0{digits}}_moment{rank:0{digits}}"
                name = _cut_name(video, f"_{place}_{start:.1f}-{end:.1f}s.mp4")
                cut_clip(video, folder / name, start, end)
            else:
                logger.warning("moment %d of query %d is empty and was not cut", rank, query)
            progress(count, len(found))
    logger.info("wrote %d clips to %s", sum(start < end for *_, start, end in found), folder)


def _cut_name(video: str | LocalCopy, ending: str) -> str:
    """As much of the video's name as file systems allow, and the ending."""
    return file_stem(video).encode()[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore") + ending


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse at the start what could not be written at the end."""
    for path in (args.json, args.plot):
        if path not in (None, STANDARD_OUTPUT):
            check_replaceable(path, args.video)
    if args.plot is not None:
        import_figure()
        if args.plot.suffix.lower() not in PLOT_ENDINGS:
            raise ValueError(f"--plot must end in {', '.join(PLOT_ENDINGS)}, got '{args.plot}'")
    if args.clips is not None:
        args.clips.mkdir(parents=True, exist_ok=True)


# ---- terminal ------------------------------------------------------------------------------------------------------


def _write(stream: Any, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
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
        line = prefix + spell_options(_one_line(record.getMessage()))
        if line not in self.seen:
            self.seen.add(line)
            tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Show our own messages; of the libraries only errors and, on a terminal, the progress of downloads."""
    verbosity = transformers_logging.get_verbosity()
    ours = [logging.getLogger(name) for name in ("r2tuning", "modeling_r2tuning")]
    levels = [logger.level for logger in ours]
    had_bars, hub_had_bars = transformers_logging.is_progress_bar_enabled(), not hub_utils.are_progress_bars_disabled()
    handler = _LogHandler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()  # switches the downloads' off, too
        _set_download_bars(hub_had_bars and sys.stderr.isatty())
        for logger in ours:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            for logger, level in zip(ours, levels, strict=True):
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


__all__ = ["main"]


if __name__ == "__main__":
    sys.exit(main())
