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
from modeling_r2tuning.pipeline_r2tuning import VideoGroundingPipeline
from modeling_r2tuning.processing_r2tuning import as_text_list
from modeling_r2tuning.video_io_r2tuning import iter_video_frames
from modeling_r2tuning.video_source_r2tuning import ADDRESS, LocalCopy, display_name
from r2tuning.commands.shared import (
    DONE,
    SOME_FAILED,
    STANDARD_OUTPUT,
    check_model_options,
    check_outputs,
    cut_moments,
    load_pipeline,
    model_name,
    open_video,
    write_document,
    write_exports,
)
from r2tuning.editors.clips import distinct_stems
from r2tuning.editors.document import encode_document, make_document
from r2tuning.editors.media import EditedVideo, read_edited_video
from r2tuning.editors.moments import ExportedMoment, list_moments
from r2tuning.terminal import progress_bar, report, write_line
from r2tuning.visualization.style import format_number, format_probability, format_time
from r2tuning.visualization.timeline import format_absence, plot_grounding
from r2tuning_cli.defaults import MAX_MOMENTS
from r2tuning_cli.grounding_arguments import is_batch, split_inputs
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)

PIPELINE_OPTIONS = ("fps", "min_probability", "nms", "round_to", "score_threshold", "window_sec")


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status: 0, or 1 if some of several videos could not be read, or clips not cut."""
    return report(functools.partial(_ground, args), prefix, option_names("ground"), (TypeError,))


def _ground(args: argparse.Namespace) -> int:
    named, queries = split_inputs(args)
    if args.queries_file is not None:
        queries = queries + read_queries(args.queries_file)
    as_text_list(queries, "QUERY")  # refuses empty ones
    check_model_options(args)
    videos = find_videos(named) if is_batch(args) else named
    check_outputs(args, [args.json, args.jsonl], videos)
    with _line_writer(args.jsonl) as write_json_line:
        run = _Run(args, queries, distinct_stems(videos), write_json_line)
        with run.exporting():
            if not is_batch(args):
                run.ground(args.video)
            else:
                run.ground_all(videos)
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
    """The videos that are named, each file once, and in place of folders the video files in them, sorted.

    Raises:
        ValueError: A folder holds no video file.
    """
    found: dict[str, str] = {}  # by their places, since a file can be named in several ways
    for name in named:
        files = [name]
        if os.path.isdir(name):
            files = sorted(file for file in walk_files(name) if strip_extension(file) != file)
        if not files:
            raise ValueError(f"The folder '{display_name(name)}' holds no video files.")
        for file in files:
            place = file if ADDRESS.match(file) else os.path.realpath(file)
            found.setdefault(place, file)
    return list(found.values())


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

    @contextlib.contextmanager
    def exporting(self) -> Iterator[None]:
        """Write the exports when the block ends; after an error or an interrupt, of the videos done so far."""
        try:
            yield
        except BaseException:
            if self.exported_videos:
                self._try_to_export()
            raise
        write_exports(self.args.export, self.exported_moments, self.exported_videos)

    def _try_to_export(self) -> None:
        """Write the exports after an error, which must not be hidden by another."""
        try:
            write_exports(self.args.export, self.exported_moments, self.exported_videos)
        except (OSError, ValueError) as error:
            logger.warning("%s", error)

    def ground(self, path: str) -> None:
        """Ground one video; an error ends the command."""
        with open_video(path, self.args) as video:
            duration_sec, answers = self._answer(video)
            document = self._report(path, duration_sec, answers)
            self._write(path, video, document)

    def ground_all(self, videos: list[str]) -> None:
        """Ground videos; those that cannot be read, and those of which something cannot be written, are named at the end.

        Where the table or the lines of JSON cannot be written, the command ends: all videos share them.
        """
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
                document = self._report(path, duration_sec, answers)
                try:
                    self._write(path, video, document)
                except (OSError, ValueError) as error:
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

    def _report(self, path: str, duration_sec: float, answers: list[dict[str, Any]]) -> dict[str, Any]:
        """Print the answers about a video, and add its line of JSON; returns its document."""
        write_line(self.table, f"{display_name(path)} ({format_time(duration_sec)})")
        for answer in answers:
            write_line(self.table, "\n" + format_answer(answer, self.args.top))
        document = make_document(path, duration_sec, self._fps(), model_name(self.args), answers)
        self.write_json_line(document)
        return document

    def _write(self, path: str, video: str | LocalCopy, document: dict[str, Any]) -> None:
        """Write what belongs to one video, and keep its moments for the exports."""
        args, answers = self.args, document["answers"]
        if args.export:
            edited = read_edited_video(video)
            self.exported_videos.append(edited)
            self.exported_moments += list_moments(answers, edited, args.top)
        if args.json is not None:
            write_document(document, args.json)
        if args.plot is not None:
            plot_grounding(answers, video, args.plot, top=args.top)
            logger.info("wrote %s", args.plot)
        if args.clips is not None:
            num_failed = cut_moments(
                answers, video, document["duration_sec"], args.clips, args.top, self.stems[path], copy=args.copy
            )
            if num_failed:
                self.failed[path] = f"{num_failed} clips were not cut"

    def _fps(self) -> float:
        """Frames sampled per second."""
        if "fps" in self.args:
            return self.args.fps
        return cast(VideoGroundingPipeline, self.pipe).processor.fps


@contextlib.contextmanager
def _line_writer(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes documents as lines of JSON.

    Each line is in the file once the function returns, so that an interrupted command keeps the lines of all videos that
    were done. The first line replaces an existing file.
    """
    if path is None:
        yield lambda document: None
    elif path == STANDARD_OUTPUT:
        yield lambda document: write_line(sys.stdout, encode_document(document))
    else:
        writer = _LineFile(path)
        try:
            yield writer.write
        finally:
            writer.close()


class _LineFile:
    """A file of JSON lines, opened when the first one is written."""

    def __init__(self, path: Path):
        self.path = path
        self.file: TextIO | None = None

    def write(self, document: dict[str, Any]) -> None:
        """Add a line, and wait until it is on the disk."""
        if self.file is None:
            self.file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        write_line(self.file, encode_document(document))
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self.file is not None:
            self.file.close()
            logger.info("wrote %s", self.path)


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
        lines.append(f"  {rank:>4} {start:>10} {end:>10}  {format_number(moment['score'], 3)}")
    highlights = (f"{format_time(frame['time'])} ({format_number(frame['score'])})" for frame in answer["highlights"])
    lines.append(f"  highlights: {_join(highlights)}")
    summary = (f"{format_time(span['start'])}-{format_time(span['end'])}" for span in answer["summary"])
    lines.append(f"  summary: {_join(summary)}")
    return "\n".join(lines)


def _join(texts: Iterable[str]) -> str:
    return ", ".join(texts) or "none"


__all__ = ["find_videos", "format_answer", "read_queries", "run"]
