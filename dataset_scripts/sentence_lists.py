"""Annotations as one JSON document, `{video: {times: [[start, end], ...], sentences: [...], ...}}`.

TACoS in the form of 2D-TAN, ActivityNet Captions and TimeLens-Bench have this form, with other names of the two lists.
"""

from collections.abc import Iterator

from .cleaning import Report
from .reading import AnnotationError, Record, read_json
from .videos import strip_extension


__all__ = ["read_videos"]


def read_videos(path: str, times: str, sentences: str, report: Report) -> Iterator[tuple[Record, str, list[Record]]]:
    """The videos of a document, each with its sentences.

    Args:
        path: The document.
        times: Name of the list of [start, end] pairs.
        sentences: Name of the list of sentences, of the same length.
        report: Counts malformed records.

    Yields:
        A video, its id without a file extension, and a record for each of its sentences: the field `sentence`, and under
        the name `times` a list of its only [start, end] pair.

    Raises:
        AnnotationError: The lists differ in length, or the document has another form.
    """
    for name, content in Record(read_json(path), path).fields.items():
        with report.skip_errors():
            video = Record(content, f"{path}, video '{name}'")
            video_id = Record({"name": strip_extension(name)}, video.place).text("name")
            yield video, video_id, _pair(video, times, sentences)


def _pair(video: Record, times: str, sentences: str) -> list[Record]:
    intervals, texts = video.items(times), video.items(sentences)
    if len(intervals) != len(texts):
        raise AnnotationError(
            f"{video.place}: found {len(intervals)} `{times}` and {len(texts)} `{sentences}`, expected one sentence for "
            f"each of `{times}`"
        )
    records = []
    for number, (interval, text) in enumerate(zip(intervals, texts, strict=True)):
        fields = {times: [interval], "sentence": text}
        records.append(Record(fields, f"{video.place}, sentence {number}"))
    return records
