"""A video encoded once, to be asked any number of queries, and the plan of windows for long videos."""

import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Real

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from .files_r2tuning import writing


FORMAT = "r2tuning-encoded-video-2"  # 1 had no checksum, so that damaged files gave other answers


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

    Raises:
        ValueError: The parts do not fit together.
    """

    video_embeds: list[torch.Tensor]
    frame_mask: torch.Tensor
    window_starts: torch.Tensor
    fps: float
    duration_sec: float
    fingerprint: str

    def __post_init__(self):
        _check_embeds(self.video_embeds)
        _check_windows(self.frame_mask, self.window_starts, len(self.video_embeds), self.video_embeds[0].shape[1])
        for name in ("fps", "duration_sec"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be a positive, finite number, got {value}.")
        if not isinstance(self.fingerprint, str) or not self.fingerprint:
            raise ValueError(f"`fingerprint` must be a string that is not empty, got {self.fingerprint!r}.")

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
        """Write a safetensors file with a checksum, which appears when it is whole.

        Raises:
            OSError: The file cannot be written.
            ValueError: There are numbers that are not finite.
        """
        _check_finite(self.video_embeds)
        tensors = {f"video_embeds.{index}": window for index, window in enumerate(self.video_embeds)}
        tensors |= {"frame_mask": self.frame_mask, "window_starts": self.window_starts}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        numbers = {name: str(float(getattr(self, name))) for name in ("fps", "duration_sec")}
        metadata = {"format": FORMAT, **numbers, "fingerprint": self.fingerprint}
        metadata["checksum"] = _checksum(tensors, metadata)
        with writing(path) as partial:
            save_file(tensors, partial, metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str = "cpu") -> "EncodedVideo":
        """Read a file written by `save`, all of it, as its checksum is compared.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, of an earlier format or something else.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"No encoded video at '{os.fspath(path)}'.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            video = cls._from_file(tensors, metadata)
        except Exception as error:  # noqa: BLE001 (safetensors raises several types, all meaning an unusable file)
            reason = str(error).rstrip(".")
            raise ValueError(
                f"'{os.fspath(path)}' is not a usable encoded video: {reason}. Encode the video again."
            ) from error
        return video.to(device)

    @classmethod
    def _from_file(cls, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> "EncodedVideo":
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        checksum = metadata.pop("checksum", None)
        if checksum != _checksum(tensors, metadata):
            raise ValueError("its content does not fit its checksum")
        video = cls(
            video_embeds=[tensors.pop(f"video_embeds.{index}") for index in range(len(tensors["frame_mask"]))],
            **tensors,
            fps=float(metadata["fps"]),
            duration_sec=float(metadata["duration_sec"]),
            fingerprint=metadata["fingerprint"],
        )
        _check_finite(video.video_embeds)
        return video


def _checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Of all that a file holds, but for the checksum itself."""
    shapes = {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()}
    checksum = zlib.crc32(json.dumps([metadata, shapes], sort_keys=True).encode())
    for _, value in sorted(tensors.items()):
        checksum = zlib.crc32(value.flatten().view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"


def _check_embeds(windows: list[torch.Tensor]) -> None:
    shape = "(num_steps, window_frames, num_tokens, hidden)"
    if not isinstance(windows, list) or not all(isinstance(window, torch.Tensor) for window in windows):
        raise ValueError(f"`video_embeds` must be a list of tensors {shape}, got {type(windows).__name__}.")
    kinds = {(tuple(window.shape), window.dtype, window.device) for window in windows}
    if len(kinds) != 1:
        raise ValueError(f"`video_embeds` must be windows of one shape, precision and device, got {list(kinds)}.")
    if windows[0].dim() != 4 or 0 in windows[0].shape or not windows[0].is_floating_point():
        raise ValueError(
            f"`video_embeds` must be floating-point tensors {shape}, got {windows[0].dtype} of the shape "
            f"{tuple(windows[0].shape)}."
        )


def _check_windows(frame_mask: torch.Tensor, window_starts: torch.Tensor, num_windows: int, size: int) -> None:
    """Whether windows are those of `stream_windows`, which decoding relies on to give each frame to one of them."""
    if frame_mask.dtype != torch.bool or frame_mask.shape != (num_windows, size):
        raise ValueError(
            f"`frame_mask` must be boolean, of the shape {(num_windows, size)}, got {frame_mask.dtype} of the shape "
            f"{tuple(frame_mask.shape)}."
        )
    if window_starts.dtype != torch.int64 or window_starts.shape != (num_windows,):
        raise ValueError(
            f"`window_starts` must be int64, of the shape {(num_windows,)}, got {window_starts.dtype} of the shape "
            f"{tuple(window_starts.shape)}."
        )
    lengths, step = frame_mask.sum(dim=1).tolist(), size // 2
    least = 1 if num_windows == 1 else size - step + 1
    padded_right = torch.arange(size, device=frame_mask.device) < frame_mask.sum(dim=1, keepdim=True)
    if not torch.equal(frame_mask, padded_right) or set(lengths[:-1]) - {size} or lengths[-1] < least:
        raise ValueError(
            "`frame_mask` must be `True` but for the end of the last window, which must have at least "
            f"{least} of {size} frames; got windows of {lengths} frames."
        )
    if window_starts.tolist() != [index * step for index in range(num_windows)]:
        raise ValueError(
            f"`window_starts` must be multiples of {step} from 0 on, as windows of {size} frames overlap by half; got "
            f"{window_starts.tolist()}."
        )


def _check_finite(windows: list[torch.Tensor]) -> None:
    if not all(torch.stack(window.aminmax()).isfinite().all() for window in windows):
        raise ValueError("`video_embeds` must be finite, got infinite numbers or NaN.")


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
