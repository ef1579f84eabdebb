"""`r2tuning ground`: finds the moments of queries in videos; prints, writes, draws and cuts them."""

import argparse
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from dataset_scripts.videos import strip_extension, walk_files
from modeling_r2tuning.files_r2tuning import check_replaceable, writing
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.processing_r2tuning import as_text_list
from modeling_r2tuning.video_io_r2tuning import iter_video_frames
from modeling_r2tuning.video_source_r2tuning import LocalCopy, display_name
from r2tuning.commands.shared import (
    STANDARD_OUTPUT,
    check_model_options,
    cut_moments,
    load_pipeline,
    model_name,
    open_video,
    write_document,
    write_exports,
)
from r2tuning.editors.clips import distinct_stems
from r2tuning.editors.document import encode_document, make_document
from r2tuning.editors.export import check_export
from r2tuning.editors.media import EditedVideo, read_edited_video
from r2tuning.editors.moments import ExportedMoment, list_moments
from r2tuning.terminal import progress_bar, report, write_line
from r2tuning.visualization.timeline import (
    format_absence,
    format_probability,
    format_time,
    import_figure,
    plot_grounding,
)
from r2tuning_cli.defaults import MAX_MOMENTS
from r2tuning_cli.grounding_arguments import is_batch, split_inputs
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)

DONE, SOME_FAILED = 0, 1
PIPELINE_OPTIONS = ("fps", "min_probability", "nms", "round_to", "score_threshold", "window_sec")


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status: 0, or 1 if some of several videos could not be read."""
    return report(functools.partial(_ground, args), prefix, option_names("ground"), (TypeError,))


def _ground(args: argparse.Namespace) -> int:
    named, queries = split_inputs(args)
    if args.queries_file is not None:
        queries = queries + read_queries(args.queries_file)
    as_text_list(queries, "QUERY")  # refuses empty ones
    check_model_options(args)
    videos = find_videos(named) if is_batch(args) else named
    _check_outputs(args, videos)
    with _line_writer(args.jsonl) as write_json_line:
        run = _Run(args, queries, distinct_stems(videos), write_json_line)
        if not is_batch(args):
            run.ground(args.video)
        else:
            run.ground_all(videos)
    write_exports(args.export, run.exported_moments, run.exported_videos)
    return SOME_FAILED if run.failed else DONE


def read_queries(path: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8, or all its lines are blank.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"`queries_file` '{path}' must be a text file in UTF-8: {error}.") from error
    queries = [line.strip() for line in lines if line.strip()]
    if not queries:
        raise ValueError(f"`queries_file` '{path}' must hold a query on each line, but has none.")
    return queries


def find_videos(named: Iterable[str]) -> list[str]:
    """The videos that are named, each once, and in place of folders the video files in them, sorted.

    Raises:
        ValueError: A folder holds no video file.
    """
    found: dict[str, None] = {}
    for name in named:
        if not os.path.isdir(name):
            found[name] = None
            continue
        files = sorted(file for file in walk_files(name) if strip_extension(file) != file)
        if not files:
            raise ValueError(f"The folder '{display_name(name)}' holds no video files.")
        found |= dict.fromkeys(files)
    return list(found)


class _Run:
    """Grounds videos one after the other and writes what the arguments ask for.

    Args:
        args: The arguments.
        queries: What to find.
        stems: For each video, a different start for the names of its clips.
        write_json_line: Takes the document of each video.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        queries: list[str],
        stems: dict[str, str],
        write_json_line: Callable[[dict[str, Any]], None],
    ):
        self.args = args
        self.queries = queries
        self.stems = stems
        self.write_json_line = write_json_line
        self.failed: dict[str, str] = {}
        self.pipe: VideoGroundingPipeline | None = None
        self.exported_moments: list[ExportedMoment] = []
        self.exported_videos: list[EditedVideo] = []

    @property
    def table(self) -> TextIO:
        """Where tables are printed."""
        return sys.stderr if STANDARD_OUTPUT in (self.args.json, self.args.jsonl) else sys.stdout

    def ground(self, path: str) -> None:
        """Ground one video; an error ends the command."""
        with open_video(path, self.args) as video:
            self._write(path, video, *self._answer(video))

    def ground_all(self, videos: list[str]) -> None:
        """Ground videos; those that cannot be read are skipped, and named at the end."""
        self.pipe = load_pipeline(self.args)  # a bad model is no fault of a video
        for path in videos:
            with contextlib.ExitStack() as stack:
                try:
                    video = stack.enter_context(open_video(path, self.args))
                    duration_sec, answers = self._answer(video)
                except (OSError, ValueError) as error:
                    self.failed[path] = str(error)
                    self.write_json_line({"video": display_name(path), "error": str(error)})
                    continue
                try:
                    self._write(path, video, duration_sec, answers)
                except ValueError as error:  # such as a file from which nothing can be copied
                    self.failed[path] = str(error)
                write_line(self.table, "")
        if self.failed:
            logger.warning("%d of %d videos failed:", len(self.failed), len(videos))
        for path, reason in self.failed.items():
            logger.warning("'%s': %s", display_name(path), reason)

    def _answer(self, video: str | LocalCopy) -> tuple[float, list[dict[str, Any]]]:
        """Length of a video in seconds, and the answers to all queries."""
        duration_sec = iter_video_frames(video, 1.0).duration_sec  # refuses a bad video before the model is fetched
        if self.pipe is None:
            self.pipe = load_pipeline(self.args)
        with progress_bar("reading frames", " frames") as progress:
            answers = self.pipe(
                video,
                query=self.queries,
                max_moments=max(MAX_MOMENTS, self.args.top),
                progress=progress,
                **self._pipeline_options(),
            )
        return duration_sec, answers

    def _pipeline_options(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self.args).items() if name in PIPELINE_OPTIONS}

    def _write(self, path: str, video: str | LocalCopy, duration_sec: float, answers: list[dict[str, Any]]) -> None:
        args = self.args
        write_line(self.table, f"{display_name(path)} ({format_time(duration_sec)})")
        for answer in answers:
            write_line(self.table, "\n" + format_answer(answer, args.top))
        document = make_document(path, duration_sec, self._fps(), model_name(args), answers)
        if args.json is not None:
            write_document(document, args.json)
        self.write_json_line(document)
        if args.export:
            edited = read_edited_video(video)
            self.exported_videos.append(edited)
            self.exported_moments += list_moments(answers, edited, args.top)
        if args.plot is not None:
            plot_grounding(answers, video, args.plot, top=args.top)
            logger.info("wrote %s", args.plot)
        if args.clips is not None:
            cut_moments(answers, video, duration_sec, args.clips, args.top, self.stems[path], copy=args.copy)

    def _fps(self) -> float:
        """Frames sampled per second."""
        if "fps" in self.args:
            return self.args.fps
        return cast(VideoGroundingPipeline, self.pipe).processor.fps


@contextlib.contextmanager
def _line_writer(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes documents as lines of JSON; the file appears once the block ends."""
    if path is None:
        yield lambda document: None
    elif path == STANDARD_OUTPUT:
        yield lambda document: write_line(sys.stdout, encode_document(document))
    else:
        with writing(path) as partial, open(partial, "w", encoding="utf-8") as file:
            yield lambda document: write_line(file, encode_document(document))
        logger.info("wrote %s", path)


def _check_outputs(args: argparse.Namespace, videos: list[str]) -> None:
    """Refuse at the start what could not be written at the end."""
    for path in (args.json, args.jsonl, args.plot, *args.export):
        if path not in (None, STANDARD_OUTPUT):
            check_replaceable(path, *videos)
    for path in args.export:
        check_export(path)
    if args.plot is not None:
        import_figure()
    if args.clips is not None:
        args.clips.mkdir(parents=True, exist_ok=True)


def format_answer(answer: dict[str, Any], top: int) -> str:
    """A table of the best moments of a query, its highlights and its summary; one line if it is not there."""
    query = " ".join(answer["query"].split())
    absence = format_absence(answer)
    if absence is not None:
        return f"Query: {query}\n  {absence}"
    lines = [f"Query: {query}"]
    if "probability" in answer:
        lines.append(f"  probability: {format_probability(answer['probability'])}")
    lines.append("  rank      start        end  score" if answer["moments"] else "  no moments")
    for rank, moment in enumerate(answer["moments"][:top], 1):
        start, end = format_time(moment["start"]), format_time(moment["end"])
        lines.append(f"  {rank:>4} {start:>10} {end:>10}  {moment['score']:.3f}")
    highlights = (f"{format_time(frame['time'])} ({frame['score']:.2f})" for frame in answer["highlights"])
    lines.append(f"  highlights: {_join(highlights)}")
    summary = (f"{format_time(span['start'])}-{format_time(span['end'])}" for span in answer["summary"])
    lines.append(f"  summary: {_join(summary)}")
    return "\n".join(lines)


def _join(texts: Iterable[str]) -> str:
    return ", ".join(texts) or "none"


__all__ = ["find_videos", "format_answer", "read_queries", "run"]
