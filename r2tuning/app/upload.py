"""The component that takes a video."""

from pathlib import Path
from typing import Any

import gradio as gr

from dataset_scripts.videos import CONTAINERS


def make_video_upload(**options: Any) -> gr.File:
    """A component for one video file.

    Its value in a function is a pair: the path of the file, and its name on the user's machine, from which Gradio drops
    characters. It fetches no address that a caller names in place of a file, as Gradio would.

    Args:
        options: Of `gr.File`.
    """
    endings = [f".{ending}" for ending in CONTAINERS]
    upload = gr.File(file_types=["video", *endings], file_count="single", **options)
    preprocess, take_over = upload.preprocess, upload.async_move_resource_to_block_cache

    def preprocess_named(payload: Any) -> tuple[str, str] | None:
        path = preprocess(payload)
        return None if path is None else (str(path), Path(payload.orig_name or str(path)).name)

    async def take_over_file(place: str | Path | None) -> str | None:
        if "://" in str(place):
            raise gr.Error("Only a file can be uploaded, no address.")
        return await take_over(place)

    # On the object: a subclass would make Gradio write a file of types beside this one.
    upload.preprocess = preprocess_named  # type: ignore[method-assign, assignment]
    upload.async_move_resource_to_block_cache = take_over_file  # type: ignore[method-assign, assignment]
    return upload


__all__ = ["make_video_upload"]
