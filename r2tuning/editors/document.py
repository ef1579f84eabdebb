"""Answers about a video as a JSON document."""

import json
import os
from typing import Any

from modeling_r2tuning.files_r2tuning import writing
from modeling_r2tuning.video_source_r2tuning import display_name


def make_document(
    video: str, duration_sec: float, fps: float, model: str, answers: list[dict[str, Any]]
) -> dict[str, Any]:
    """A document of the pipeline's answers about a video.

    Args:
        video: Its path or address.
        duration_sec: Its length in seconds.
        fps: Frames sampled per second.
        model: Name or path of the checkpoint.
        answers: One for each query.
    """
    return {
        "video": display_name(video),
        "duration_sec": duration_sec,
        "fps": fps,
        "model": display_name(model),
        "answers": answers,
    }


def encode_document(document: dict[str, Any], indent: int | None = None) -> str:
    """JSON, by default on one line."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=indent)
    if not is_unicode(text):  # a path that is not UTF-8
        text = json.dumps(document, allow_nan=False, indent=indent)
    return text


def save_document(document: dict[str, Any], path: str | os.PathLike) -> None:
    """Write JSON to a file."""
    with writing(path) as partial:
        partial.write_text(encode_document(document, indent=2) + "\n", encoding="utf-8")


def is_unicode(text: str) -> bool:
    """Whether a text has no surrogates, which stand for bytes of a path that is not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


__all__ = ["encode_document", "is_unicode", "make_document", "save_document"]
