"""A library of videos that is searched by sentences."""

from r2tuning.library.library import Library, SearchAnswer
from r2tuning.library.moments import Moment


__all__ = ["Library", "Moment", "SearchAnswer"]
