"""Answers about the video of a page: encode it once, ground queries in it, decode answers under changing options."""

import base64
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

from modeling_r2tuning.encoding_r2tuning import EncodedVideo
from modeling_r2tuning.pipeline_r2tuning import MIN_PROBABILITY, VideoGroundingPipeline
from modeling_r2tuning.user_inputs_r2tuning import as_text_list
from modeling_r2tuning.video_io_r2tuning import iter_video_frames, load_video_frames
from r2tuning.app.playback import is_playable, make_playable
from r2tuning.app.sessions import OpenVideo, Predictions, Session, Sessions
from r2tuning.visualization.style import format_time
from r2tuning_cli.defaults import MAX_MOMENTS


NUM_THUMBNAILS = 10
THUMBNAIL_SIZE = 96  # short side in pixels
JPEG_QUALITY = 80
MAX_QUERIES = 20
NUM_MOMENTS = 5  # of a query, at first

Progress = Callable[[float, str], None]  # takes the share that is done and what is being done


@dataclass(frozen=True)
class Choices:
    """How answers are decoded; none of it needs the model again.

    Attributes:
        score_threshold: Moments with a lower score are left out.
        num_moments: Largest number of moments of a query.
        min_probability: Queries that are less likely to match anything are "not there"; without effect on a model
            without existence head.
    """

    score_threshold: float = 0.0
    num_moments: int = NUM_MOMENTS
    min_probability: float = MIN_PROBABILITY


class Grounder:
    """A model that answers about the videos of all pages.

    Args:
        pipe: The model with its processor.
        sessions: The open pages.
        max_duration_sec: Length of the longest video that is taken.
    """

    def __init__(self, pipe: VideoGroundingPipeline, sessions: Sessions, max_duration_sec: float):
        self.pipe = pipe
        self.sessions = sessions
        self.max_duration_sec = max_duration_sec

    def open(self, session: Session, upload: Path, name: str, progress: Progress) -> OpenVideo:
        """Take a video that was uploaded and show it on its page; if it cannot be taken, the former one stays.

        Args:
            session: The page.
            upload: The file.
            name: Its name on the user's machine.
            progress: Is told what is being done.

        Raises:
            Abandoned: The page is closed, or was given another video meanwhile.
            OSError: There is no space for it.
            ValueError: It is no video, or too long.
        """
        attempt = session.begin()
        folder = session.make_folder()
        try:
            path = folder / upload.name
            _link(upload, path)
            video = self._read(path, name, progress)
            session.show(attempt, video)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return video

    def _read(self, path: Path, name: str, progress: Progress) -> OpenVideo:
        """Check a video, and make what the page shows of it."""
        try:
            duration_sec = iter_video_frames(path, 1.0).duration_sec
            self._check_duration(duration_sec)
            played = path
            if not is_playable(path):
                progress(0.0, "making a copy that browsers play")
                (path.parent / "played").mkdir()
                played = path.parent / "played" / "video.mp4"
                make_playable(path, played, duration_sec)
            thumbnails = _thumbnails(path, duration_sec)
        except (OSError, ValueError) as error:
            text = str(error).replace(f"`video` {str(path)!r}", f"'{name}'").replace(str(path), name)
            raise ValueError(text) from error
        return OpenVideo(path, name, duration_sec, thumbnails, played)

    def _check_duration(self, duration_sec: float) -> None:
        if duration_sec > self.max_duration_sec:
            raise ValueError(
                f"The video lasts {format_time(duration_sec)} min, and this page takes at most "
                f"{format_time(self.max_duration_sec)} min. Upload a part of it."
            )

    def encode(self, session: Session, progress: Progress) -> tuple[OpenVideo, EncodedVideo]:
        """Encode the video of a page, unless that is done; returns both.

        Raises:
            Abandoned: The page was closed or got another video meanwhile.
            ValueError: The page has no video, or it cannot be read.
        """
        video = _video(session)
        encoded = video.encoded
        if encoded is None:

            def show_frames(done: int, total: int) -> None:
                session.check_wanted(video)
                progress(done / total, "reading frames")

            stream = self.pipe.processor.stream_video(video.path, progress=show_frames)
            encoded = self.pipe.model.encode_video(stream, fps=stream.fps, duration_sec=stream.duration_sec)
            self.sessions.keep(video, encoded)
        return video, encoded

    def ask(self, session: Session, text: str, progress: Progress) -> None:
        """Ground queries in the video of a page.

        Args:
            session: The page.
            text: A query on each line.
            progress: Is told what is being done.

        Raises:
            Abandoned: As for `encode`.
            ValueError: As for `encode`, or there is no query or too many.
        """
        _video(session)
        queries = split_queries(text)
        video, encoded = self.encode(session, progress)
        tokens = self.pipe.processor(text=queries).to(self.pipe.model.device)
        video.predictions = Predictions(queries, self.pipe.model.ground(encoded, **tokens))

    def decode(self, predictions: Predictions | None, choices: Choices) -> list[dict[str, Any]]:
        """The answers to queries, as the pipeline gives them, with all their moments.

        Args:
            predictions: Of a page's video; `None` if nothing was asked.
            choices: How to decode them.

        Returns:
            An answer to each query.
        """
        if predictions is None:
            return []
        answers = self.pipe.postprocess(
            {"outputs": predictions.outputs, "queries": predictions.queries},
            score_threshold=choices.score_threshold,
            max_moments=max(MAX_MOMENTS, choices.num_moments),
            min_probability=choices.min_probability,
        )
        return cast("list[dict[str, Any]]", answers)  # as the queries are a list


def _video(session: Session) -> OpenVideo:
    if session.video is None:
        raise ValueError("Upload a video first. (A page that was left for ten minutes forgets its video.)")
    return session.video


def _link(upload: Path, path: Path) -> None:
    """Give a file a second name: the server removes its own after a while. Where that is not possible, copy it."""
    try:
        os.link(upload, path)
    except OSError:
        shutil.copyfile(upload, path)


def split_queries(text: str) -> list[str]:
    """The lines of a text that are not blank.

    Raises:
        ValueError: There are none, or too many.
    """
    queries = [line.strip() for line in text.splitlines() if line.strip()]
    if not queries:
        raise ValueError("Type what to find: a sentence on each line.")
    if len(queries) > MAX_QUERIES:
        raise ValueError(f"At most {MAX_QUERIES} sentences at once, got {len(queries)}.")
    return as_text_list(queries, "queries")


def _thumbnails(path: Path, duration_sec: float) -> tuple[str, ...]:
    """Frames in the middle of equal parts of a video, as data addresses of JPEG files."""
    found = load_video_frames(path, NUM_THUMBNAILS / duration_sec, size=THUMBNAIL_SIZE)
    addresses = []
    for frame in found.frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY)
        addresses.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return tuple(addresses)


__all__ = ["Choices", "Grounder", "Progress", "split_queries"]
