"""What a search found, as parts to cut out and as entries of edit lists."""

import logging

from r2tuning.editors.clips import Cut, safe_stem
from r2tuning.editors.media import EditedVideo, read_edited_video
from r2tuning.editors.moments import ExportedMoment, drop_empty, make_moment
from r2tuning.library.library import SearchAnswer


logger = logging.getLogger(__name__)


def list_cuts(answers: list[SearchAnswer]) -> list[Cut]:
    """The moments whose videos are there; of the others a warning is logged."""
    cuts = []
    for query, answer in enumerate(answers, 1):
        for rank, moment in enumerate(answer.moments, 1):
            if moment.path in answer.missing:
                logger.warning("moment %d of query %d was not cut: '%s' is missing", rank, query, moment.path)
            else:
                cuts.append(Cut(moment.path, query, rank, moment.start, moment.end, safe_stem(moment.path)))
    return cuts


def list_exports(answers: list[SearchAnswer]) -> tuple[list[ExportedMoment], list[EditedVideo]]:
    """The moments of all videos that can be read, and these videos; of the others a warning is logged."""
    videos: dict[str, EditedVideo] = {}
    unreadable: dict[str, Exception] = {}
    moments = []
    for number, answer in enumerate(answers, 1):
        for rank, moment in enumerate(answer.moments, 1):
            if moment.path not in videos and moment.path not in unreadable:
                try:
                    videos[moment.path] = read_edited_video(moment.path)
                except (OSError, ValueError) as error:
                    unreadable[moment.path] = error
            if moment.path in unreadable:
                logger.warning("moment %d of query %d was not exported: %s", rank, number, unreadable[moment.path])
                continue
            exported = make_moment(
                videos[moment.path],
                number,
                answer.query,
                rank,
                start_sec=moment.start,
                end_sec=moment.end,
                score=moment.score,
                probability=moment.probability,
            )
            moments.append(exported)
    return drop_empty(moments), list(videos.values())


__all__ = ["list_cuts", "list_exports"]
