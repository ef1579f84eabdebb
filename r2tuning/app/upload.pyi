"""The component that takes a video."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from dataset_scripts.videos import CONTAINERS

from gradio.events import Dependency

class VideoUpload(gr.File):
    """Takes one video file from the browser.

    Its value in a function is the path of the file and the name that the file has on the user's machine; Gradio's own
    component drops characters from the name. Nor does it fetch an address that a caller names in place of a file.
    """

    is_template = True  # in the browser it is Gradio's own

    def __init__(self, **kwargs: Any):
        endings = [f".{ending}" for ending in CONTAINERS]
        super().__init__(file_types=["video", *endings], file_count="single", **kwargs)

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Take over a file that the server has.

        Raises:
            Error: It is an address.
        """
        if "://" in str(url_or_file_path):
            raise gr.Error("Only a file can be uploaded, no address.")
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def preprocess(self, payload: Any) -> tuple[str, str] | None:  # type: ignore[override]
        """Path and name of the file; `None` if there is none."""
        path = super().preprocess(payload)
        if path is None:
            return None
        name = payload.orig_name if isinstance(payload, FileData) else None
        return str(path), Path(name or str(path)).name
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


__all__ = ["VideoUpload"]