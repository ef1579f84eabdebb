"""A video encoded once, in which any number of queries can be grounded, and its file format."""

import json
import math
import os
import zlib
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .files_r2tuning import writing


FORMAT = "r2tuning-encoded-video-2"  # format 1 had no checksum, so damaged files gave wrong answers


@dataclass
class EncodedVideo:
    """The query-independent features of a video: its projected hidden states, window by window.

    They belong to the weights that computed them (`fingerprint`); another checkpoint refuses them.

    Attributes:
        video_embeds: For each window `(num_steps, window_frames, num_tokens, hidden)`, in the order of the recurrent
            steps; 51 kB for each frame and step with CLIP ViT-B/32 in float32. The last window is padded.
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

    def __post_init__(self) -> None:
        _check_embeds(self.video_embeds)
        _check_windows(self.frame_mask, self.window_starts, len(self.video_embeds), self.video_embeds[0].shape[1])
        for name in ("fps", "duration_sec"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < float(value) < math.inf:
                raise ValueError(f"`{name}` must be a positive, finite number, got {value}.")
        if not isinstance(self.fingerprint, str) or not self.fingerprint:
            raise ValueError(f"`fingerprint` must be a non-empty string, got {self.fingerprint!r}.")

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return len(self.window_starts)

    @property
    def num_frames(self) -> int:
        """Length of the whole video in frames."""
        return int(self.window_starts[-1] + self.frame_mask[-1].sum())

    def to(self, *args: Any, **kwargs: Any) -> "EncodedVideo":
        """Copy to another device or floating-point type (arguments of `torch.Tensor.to`); half precision halves it."""
        embeds = [window.to(*args, **kwargs) for window in self.video_embeds]
        device = embeds[0].device
        return replace(
            self,
            video_embeds=embeds,
            frame_mask=self.frame_mask.to(device),
            window_starts=self.window_starts.to(device),
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with a checksum, atomically.

        Raises:
            OSError: The file cannot be written.
            ValueError: Some values are not finite.
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
        """Read a file written by `save`. The whole file is read, as its checksum is verified.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is damaged, in an earlier format or not an encoded video.
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
            raise ValueError("its contents do not match its checksum")
        num_windows = len(tensors["frame_mask"])
        video = cls(
            video_embeds=[tensors.pop(f"video_embeds.{index}") for index in range(num_windows)],
            **tensors,  # frame_mask and window_starts
            fps=float(metadata["fps"]),
            duration_sec=float(metadata["duration_sec"]),
            fingerprint=metadata["fingerprint"],
        )
        _check_finite(video.video_embeds)
        return video


def _checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """CRC-32 of everything in a file but the checksum itself."""
    shapes = {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()}
    checksum = zlib.crc32(json.dumps([metadata, shapes], sort_keys=True).encode())
    for _, value in sorted(tensors.items()):
        contents = value.flatten().view(torch.uint8).numpy()
        checksum = zlib.crc32(contents, checksum)  # type: ignore[arg-type]  # Python before 3.12 has no type of buffers
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
    """Check that the windows are those of `stream_windows`: decoding relies on them to assign each frame to one."""
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
    lengths = frame_mask.sum(dim=1).tolist()
    stride = size // 2
    least = 1 if num_windows == 1 else size - stride + 1
    padded_right = torch.arange(size, device=frame_mask.device) < frame_mask.sum(dim=1, keepdim=True)
    if not torch.equal(frame_mask, padded_right) or set(lengths[:-1]) - {size} or lengths[-1] < least:
        raise ValueError(
            "`frame_mask` must be `True` except at the end of the last window, which must have at least "
            f"{least} of {size} frames; got windows of {lengths} frames."
        )
    if window_starts.tolist() != [index * stride for index in range(num_windows)]:
        raise ValueError(
            f"`window_starts` must be multiples of {stride} from 0 on, as windows of {size} frames overlap by half; got "
            f"{window_starts.tolist()}."
        )


def _check_finite(windows: list[torch.Tensor]) -> None:
    if not all(torch.stack(window.aminmax()).isfinite().all() for window in windows):
        raise ValueError("`video_embeds` must be finite, got infinite values or NaN.")


__all__ = ["EncodedVideo"]
