"""Answer the requests of a Hugging Face Inference Endpoint.

`r2tuning push` puts this file beside a checkpoint. It needs what `requirements.txt` lists; the code of the model is in
the Python files of the checkpoint.

    {"inputs": {"video": "https://example.org/talk.mp4", "query": ["people laugh"]}, "parameters": {"max_moments": 3}}
"""

import base64
import os
from typing import Any

import torch
from transformers import pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module


DEFAULT_MAX_VIDEO_MB = 500
ADDRESSES = ("http://", "https://")
INPUTS = {"video", "query"}
REQUEST = (
    '{"inputs": {"video": an http(s) address or the bytes of a video file in base64, "query": a sentence or a list of '
    'them}, "parameters": options of the pipeline}'
)


class EndpointHandler:
    """The checkpoint of a folder, which answers one request after another or several at once.

    Requests may not name files of the server: a video is an address or comes in the request itself. Videos larger than
    `MAX_VIDEO_MB` megabytes, a variable of the environment, are refused.

    Args:
        path: Folder of the checkpoint; by default that of this file.
        kwargs: Not used; servers may pass more.

    Raises:
        ValueError: `MAX_VIDEO_MB` is not a positive number.
    """

    def __init__(self, path: str = "", **kwargs: Any):
        folder = os.path.abspath(path or os.path.dirname(__file__))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # The code that is trusted lies in the same repository as this file.
        self.pipeline = pipeline("video-grounding", model=folder, trust_remote_code=True, device=device)
        self.local_copy = get_class_from_dynamic_module("video_source_r2tuning.local_copy", folder)
        self.max_bytes = _read_limit()

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Answer a request.

        Args:
            data: `inputs`, a dict with `video` (an http(s) address, or the bytes of a video file in base64) and `query`
                (a string or a list of strings), and optionally `parameters`, options of the pipeline such as `max_moments`.

        Returns:
            The pipeline's answer to a query, a dict that JSON can hold, or a list of them for a list of queries.

        Raises:
            ConnectionError: The address cannot be fetched.
            TypeError: A parameter is unknown.
            ValueError: The request is malformed, an option is not allowed, or the video is too large or cannot be read.
        """
        inputs, parameters = _read_request(data)
        video = inputs["video"]
        if not video.lower().startswith(ADDRESSES):
            video = self._decode(video)
        with self.local_copy(video, max_bytes=self.max_bytes) as readable:
            return self.pipeline(readable, query=inputs["query"], **parameters)

    def _decode(self, text: str) -> bytes:
        """Decode a video sent in base64."""
        # 4 characters for 3 bytes; checked before the bytes take memory as well.
        if len(text) // 4 * 3 > self.max_bytes:
            raise ValueError(
                f"`video` has more than {self.max_bytes:,} bytes: send the address of the video, shorten it, or raise "
                "the limit, `MAX_VIDEO_MB` in the endpoint's environment."
            )
        try:
            return base64.b64decode("".join(text.split()), validate=True)  # encoders may break lines
        except ValueError as error:
            raise ValueError(
                "`video` must be an http(s) address or the bytes of a video file in base64, got "
                f"{_shorten(text)}. Files of the server are not opened."
            ) from error


def _read_limit() -> int:
    """Largest number of bytes of a video, from the environment."""
    text = os.environ.get("MAX_VIDEO_MB", str(DEFAULT_MAX_VIDEO_MB))
    try:
        limit = int(float(text) * 10**6)
    except (OverflowError, ValueError):  # such as "inf" and "large"
        limit = 0
    if limit < 1:
        raise ValueError(f"`MAX_VIDEO_MB` must be a positive number of megabytes, got {text!r}.")
    return limit


def _read_request(data: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check the form of a request; return its inputs and its parameters. The pipeline checks their values."""
    if not isinstance(data, dict) or not isinstance(data.get("inputs"), dict):
        raise ValueError(f"A request must have the form {REQUEST}.")
    inputs, parameters = data["inputs"], data.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise ValueError(f"`parameters` must be an object, got {_shorten(parameters)}.")
    if inputs.keys() != INPUTS:
        raise ValueError(f"`inputs` must have the keys {sorted(INPUTS)}, got {sorted(inputs)}.")
    misplaced = sorted(parameters.keys() & {*INPUTS, "videos"})
    if misplaced:
        raise ValueError(f"{misplaced} must be in `inputs`, not in `parameters`.")
    if not isinstance(inputs["video"], str):
        raise ValueError(
            f"`video` must be an http(s) address or base64, each a string, got {_shorten(inputs['video'])}."
        )
    return inputs, parameters


def _shorten(value: Any) -> str:
    """Show the beginning of what was received; base64 may be long."""
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."
