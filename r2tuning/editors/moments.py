"""The moments that an export lists, and their places on a timeline."""

import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from r2tuning.editors.media import EditedVideo
from r2tuning.editors.timecode import to_frame


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedMoment:
    """A moment to be exported.

    Attributes:
        video: The video that it lies in.
        query_number: Number of its query, from 1.
        query: The sentence, on one line.
        rank: From 1, the best of its query.
        start_sec: Start in seconds from the start of the file.
        end_sec: End in seconds, after the start.
        score: From 0 to 1.
        probability: That anything in the video matches the query; `None` if the model gives none.
    """

    video: EditedVideo
    query_number: int
    query: str
    rank: int
    start_sec: float
    end_sec: float
    score: float
    probability: float | None = None

    @property
    def label(self) -> str:
        """The query and the score."""
        return f"{self.query} ({self.score:.2f})"

    @property
    def frames(self) -> tuple[int, int]:
        """First frame and the frame after the last one, from the start of the file; at least one frame."""
        first = min(to_frame(self.start_sec, self.video.rate), self.video.num_frames - 1)
        end = min(to_frame(self.end_sec, self.video.rate), self.video.num_frames)
        return first, max(end, first + 1)


@dataclass(frozen=True)
class PlacedMoment:
    """A moment on a timeline, where the moments follow each other without gaps.

    Attributes:
        moment: The moment.
        source_in: First frame, from the start of the file, at the rate of the video.
        source_out: The frame after the last one, likewise.
        record_in: First frame on the timeline, at the rate of the timeline.
        record_out: The frame after the last one, likewise.
    """

    moment: ExportedMoment
    source_in: int
    source_out: int
    record_in: int
    record_out: int


def make_moment(
    video: EditedVideo,
    query_number: int,
    query: str,
    rank: int,
    *,
    start_sec: float,
    end_sec: float,
    score: float,
    probability: float | None,
) -> ExportedMoment:
    """A moment of an answer, to be exported.

    Args:
        video: The video that it lies in.
        query_number: Number of its query, from 1.
        query: The sentence.
        rank: From 1, the best of its query.
        start_sec: Start in seconds since the first picture.
        end_sec: End in seconds since the first picture.
        score: From 0 to 1.
        probability: That anything in the video matches the query; `None` if the model gives none.
    """
    return ExportedMoment(
        video=video,
        query_number=query_number,
        query=" ".join(query.split()),
        rank=rank,
        start_sec=video.first_picture_sec + start_sec,
        end_sec=min(video.first_picture_sec + end_sec, video.duration_sec),
        score=score,
        probability=probability,
    )


def list_moments(answers: list[dict[str, Any]], video: EditedVideo, top: int) -> list[ExportedMoment]:
    """The best moments of the pipeline's answers about a video.

    Args:
        answers: One for each query.
        video: The video.
        top: Largest number of moments of each query.
    """
    moments = []
    for number, answer in enumerate(answers, 1):
        for rank, moment in enumerate(answer["moments"][:top], 1):
            exported = make_moment(
                video,
                number,
                answer["query"],
                rank,
                start_sec=moment["start"],
                end_sec=moment["end"],
                score=moment["score"],
                probability=answer.get("probability"),
            )
            moments.append(exported)
    return drop_empty(moments)


def drop_empty(moments: list[ExportedMoment]) -> list[ExportedMoment]:
    """Leave out moments that end where they start, with a warning for each."""
    kept = []
    for moment in moments:
        if moment.start_sec < moment.end_sec:
            kept.append(moment)
        else:
            logger.warning("moment %d of query %d is empty and was not exported", moment.rank, moment.query_number)
    return kept


def place_moments(moments: list[ExportedMoment], rate: Fraction) -> list[PlacedMoment]:
    """Place moments one after the other on a timeline that runs at `rate` frames per second."""
    placed = []
    position = 0
    for moment in moments:
        first, end = moment.frames
        length = max(to_frame((end - first) / moment.video.rate, rate), 1)
        placed.append(PlacedMoment(moment, first, end, position, position + length))
        position += length
    return placed


__all__ = ["ExportedMoment", "PlacedMoment", "drop_empty", "list_moments", "make_moment", "place_moments"]
