"""The first stage of a search: the windows whose frames are most similar to a query."""

from collections.abc import Mapping
from typing import NamedTuple

from r2tuning.library.schemas import VideoRecord
from r2tuning.library.tables import FrameHits


FRAMES_OF_A_SCORE = 4


class Candidate(NamedTuple):
    """A window that may hold the moment.

    Attributes:
        entry: The version of its video.
        window: Its number in the video.
        similarity: Mean cosine of the query and its four best frames.
    """

    entry: int
    window: int
    similarity: float


def rank_windows(hits: FrameHits, records: Mapping[int, VideoRecord], count: int) -> list[Candidate]:
    """The best windows among the frames found.

    A window's score is the mean of its four best frames, or of all if the video has fewer. Frames that are not among the
    hits count as the worst hit, which none of them exceeds.

    Args:
        hits: Frames most similar to a query, best first.
        records: The videos, by entry.
        count: Number of windows.
    """
    similarities: dict[tuple[int, int], list[float]] = {}
    columns = (hits.entry.tolist(), hits.window.tolist(), hits.similarity.tolist())
    for entry, window, similarity in zip(*columns, strict=True):
        similarities.setdefault((entry, window), []).append(similarity)
    candidates = []
    for (entry, window), found in similarities.items():
        wanted = min(FRAMES_OF_A_SCORE, records[entry].num_frames)
        best = (found + [hits.similarity[-1].item()] * wanted)[:wanted]
        candidates.append(Candidate(entry, window, sum(best) / wanted))
    # Windows of equal score, such as those of copies of a file, come in the order of their paths.
    order = sorted(candidates, key=lambda found: (-found.similarity, records[found.entry].path, found.window))
    return order[:count]


__all__ = ["Candidate", "rank_windows"]
