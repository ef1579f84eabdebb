"""A video encoded once, to be asked any number of queries, and the plan of windows for long videos."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from .files_r2tuning import writing


FORMAT = "r2tuning-encoded-video-1"


@dataclass
class EncodedVideo:
    """All of a video that does not depend on the query: its projected CLIP states, window by window.

    It belongs to the weights that made it (`fingerprint`); another checkpoint refuses it.

    Attributes:
        video_embeds: For each window `(num_steps, window_frames, num_tokens, hidden)`, in the order of the recurrent
            steps; 51 kB a frame and step with CLIP ViT-B/32 in float32. The last window is padded.
        frame_mask: `(num_windows, window_frames)`, boolean, `True` = real.
        window_starts: `(num_windows,)`, first frame of each window.
        fps: Frames per second.
        duration_sec: Length of the video in seconds.
        fingerprint: Identifies the projection weights.
    """

    video_embeds: list[torch.Tensor]
    frame_mask: torch.Tensor
    window_starts: torch.Tensor
    fps: float
    duration_sec: float
    fingerprint: str

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return len(self.window_starts)

    @property
    def num_frames(self) -> int:
        """Length of the whole video in frames."""
        return int(self.window_starts[-1] + self.frame_mask[-1].sum())

    def to(self, *args, **kwargs) -> "EncodedVideo":
        """Copy on another device or in another floating-point type; half precision halves its size."""
        embeds = [window.to(*args, **kwargs) for window in self.video_embeds]
        device = embeds[0].device
        return replace(
            self,
            video_embeds=embeds,
            frame_mask=self.frame_mask.to(device),
            window_starts=self.window_starts.to(device),
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file, which appears when it is whole."""
        tensors = {f"video_embeds.{index}": window for index, window in enumerate(self.video_embeds)}
        tensors |= {"frame_mask": self.frame_mask, "window_starts": self.window_starts}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {name: str(getattr(self, name)) for name in ("fps", "duration_sec", "fingerprint")}
        with writing(path) as partial:
            save_file(tensors, partial, metadata={"format": FORMAT, **metadata})

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str = "cpu") -> "EncodedVideo":
        """Read a file written by `save`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or something else.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"No encoded video at '{os.fspath(path)}'.")
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            return cls(
                video_embeds=[tensors.pop(f"video_embeds.{index}") for index in range(len(tensors["frame_mask"]))],
                **tensors,
                fps=float(metadata["fps"]),
                duration_sec=float(metadata["duration_sec"]),
                fingerprint=metadata["fingerprint"],
            )
        except Exception as error:  # noqa: BLE001 (safetensors raises several types, all meaning an unusable file)
            raise ValueError(
                f"'{os.fspath(path)}' is not a usable encoded video: {error}. Encode the video again."
            ) from error


def window_size(window_sec: float | None, fps: float) -> int | None:
    """Frames of a window; one more than `window_sec` holds, so that rounding never splits a video of that length."""
    return None if window_sec is None else max(2, math.ceil(window_sec * fps) + 1)


def stream_windows(pieces: Iterable[torch.Tensor], window: int | None) -> Iterator[tuple[int, torch.Tensor]]:
    """Cut a stream of frames into windows that overlap by half; only one window and one piece are held.

    Args:
        pieces: Tensors whose first axis is time, behind each other.
        window: Frames of a window; `None` = one window of all.

    Yields:
        First frame of the window and the window itself; the last one may be shorter, but not than the overlap.

    Raises:
        ValueError: There are no frames.
    """
    start, held = 0, None
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece])
        while window is not None and len(held) > window:
            yield start, held[:window]
            start, held = start + window // 2, held[window // 2 :]
    if held is None or len(held) == 0:
        raise ValueError("The video has no frames.")
    yield start, held


def encode_windows(
    windows: Iterable[tuple[int, torch.Tensor]],
    project: Callable[[torch.Tensor], torch.Tensor],
    fps: float,
    duration_sec: float | None,
    fingerprint: str,
) -> EncodedVideo:
    """Project window after window and put them together, the last one padded.

    Args:
        windows: From `stream_windows`.
        project: From a window's CLIP states to `(num_steps, window_frames, num_tokens, hidden)`.
        fps: Frames per second.
        duration_sec: Length of the video in seconds; `None` = number of frames / fps.
        fingerprint: Identifies the weights of `project`.
    """
    starts, embeds = [], []
    for start, states in windows:
        starts.append(start)
        embeds.append(project(states))
    lengths = torch.tensor([embed.shape[1] for embed in embeds], device=embeds[0].device)
    num_frames = starts[-1] + int(lengths[-1])
    missing = embeds[0].shape[1] - embeds[-1].shape[1]
    if missing:
        embeds[-1] = F.pad(embeds[-1], (0, 0, 0, 0, 0, missing))
    return EncodedVideo(
        video_embeds=embeds,
        frame_mask=torch.arange(embeds[0].shape[1], device=lengths.device) < lengths[:, None],
        window_starts=torch.tensor(starts, device=lengths.device),
        fps=float(fps),
        duration_sec=float(num_frames / fps if duration_sec is None else duration_sec),
        fingerprint=fingerprint,
    )


__all__ = ["EncodedVideo", "encode_windows", "stream_windows", "window_size"]
