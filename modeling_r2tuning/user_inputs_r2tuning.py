"""The kinds of videos and queries that users pass to the processor and the pipeline, and their checks."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch


__all__ = ["as_frames", "as_text_list", "as_video_list", "check_order", "is_file", "is_row", "unpack_row"]


def is_file(video: Any) -> bool:
    """Return whether a video is passed as a file (path, URL, bytes or file object), not as frames."""
    return isinstance(video, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(video, "read")


def is_row(video: Any) -> bool:
    """Return whether a video is a dict of `datasets.Video(decode=False)`."""
    return isinstance(video, dict) and video.keys() == {"path", "bytes"}


def unpack_row(video: Any) -> Any:
    """Return the bytes or else the path in a dict of `datasets.Video(decode=False)`; other videos as they are.

    Raises:
        ValueError: The dict has neither.
    """
    if not is_row(video):
        return video
    found = video["path"] if video["bytes"] is None else video["bytes"]
    if found is None:
        raise ValueError("A video's row must have a 'path' or 'bytes', got None for both.")
    return found


def as_video_list(videos: Any) -> list[Any]:
    """Return one video or several as a list of videos.

    Raises:
        ValueError: The list is empty.
    """
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return list(videos) if videos.ndim == 5 else [videos]
    if isinstance(videos, (list, tuple)):
        if not videos:
            raise ValueError("`videos` must hold at least one video, got an empty list.")
        # A list of images, each with three dimensions (PIL's have no `ndim`), is one video.
        first = videos[0]
        is_image = not is_file(first) and not isinstance(first, (dict, list, tuple))
        return [videos] if is_image and getattr(first, "ndim", 3) == 3 else list(videos)
    return [videos]


def as_text_list(text: Any, name: str = "text") -> list[str]:
    """Return one query or several as a list of queries.

    Args:
        text: A string or strings.
        name: Name of the argument in messages.

    Raises:
        TypeError: A query is not a string.
        ValueError: There is no query, or one is empty or not valid Unicode.
    """
    if not isinstance(text, Iterable) or isinstance(text, (bytes, bytearray, Mapping)):
        raise TypeError(f"`{name}` must be a string or a list of strings, got {text!r}.")
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise ValueError(f"`{name}` must hold at least one query, got an empty list.")
    for query in texts:
        if not isinstance(query, str):
            raise TypeError(f"`{name}` must be a string or a list of strings, got {type(query).__name__} in it.")
        if not query.strip():
            raise ValueError(f"`{name}` must not hold an empty query.")
        _check_unicode(query, name)
    return texts


def _check_unicode(query: str, name: str) -> None:
    """Refuse lone surrogates, which a tokenizer cannot encode.

    Python puts them into a command's arguments for bytes that are not UTF-8.
    """
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"`{name}` must be valid Unicode, got {query!r}.") from error


def as_frames(video: Any) -> np.ndarray:
    """Convert an array, a tensor or a list of images to frames `(num_frames, height, width, 3)`, uint8.

    Raises:
        TypeError: `video` is of another kind.
        ValueError: The shape, the type or the range of the numbers is wrong.
    """
    if isinstance(video, (list, tuple)):
        video = _stack_images(video)
    elif isinstance(video, torch.Tensor):
        video = video.detach().cpu().numpy()
    if not isinstance(video, np.ndarray):
        raise TypeError(
            "A video must be a path, URL, bytes, binary file object, array, tensor, list of images or row of "
            f"`datasets.Video(decode=False)`, got {type(video).__name__}."
        )
    if video.ndim == 4 and video.shape[1] == 3 and video.shape[3] != 3:
        video = video.transpose(0, 2, 3, 1)  # (num_frames, height, width, 3)
    if video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise ValueError(
            "Frames must have the shape (num_frames, height, width, 3) or (num_frames, 3, height, width) and not be "
            f"empty, got {video.shape}."
        )
    if np.issubdtype(video.dtype, np.floating):
        if not (np.isfinite(video).all() and video.min() >= 0 and video.max() <= 1):
            raise ValueError("Floating-point frames must be finite and in [0, 1].")
        video = np.round(video * 255).astype(np.uint8)
    if video.dtype != np.uint8:
        raise ValueError(f"Frames must be uint8, or floating point in [0, 1], got {video.dtype}.")
    return video


def _stack_images(images: list | tuple) -> np.ndarray:
    if not images:
        raise ValueError("A video has no frames: got an empty list.")
    if is_file(images[0]) or isinstance(images[0], dict):
        raise TypeError(f"A list as one video must hold its frames, got {type(images[0]).__name__} in it.")
    return np.stack([np.asarray(image) for image in images])


def check_order(videos: Any, text: Any) -> None:
    """Refuse a text in place of the videos together with a video in place of the texts.

    Raises:
        ValueError: The two are swapped.
    """
    video, query = _first(videos), _first(text)
    if isinstance(video, str) and not _is_video(video) and _is_video(query):
        raise ValueError(f"The order is (videos, text), got {video!r} as a video and a video as a text: swap them.")


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) and value else value


def _is_video(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower().startswith(("http://", "https://")) or os.path.isfile(value)
    return is_file(value) or is_row(value) or getattr(value, "ndim", 0) >= 3
