"""A video encoded once, in which any number of queries can be grounded, and its file format."""

import itertools
import json
import math
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .files_r2tuning import writing


FORMAT = "r2tuning-encoded-video-3"  # format 2 had no compact videos and one checksum, format 1 had none
PARTS = ("video_embeds", "token_statistics")  # one tensor a window or piece


@dataclass
class EncodedVideo:
    """The query-independent features of a video: its projected hidden states, window by window.

    They belong to the weights that computed them (`fingerprint`); another checkpoint refuses them.

    A compact video holds each frame once, although windows overlap. The position of a frame in its window takes part in the
    projection, so the features are those before the position is known, and `ground` completes the projection.

    A video may lack some of its windows, see `load`; then only the others are grounded.

    Attributes:
        video_embeds: For each window `(num_steps, window_frames, num_tokens, hidden)`, in the order of the recurrent
            steps; 51 kB for each frame and step with CLIP ViT-B/32 in float32. The last window is padded. If the video
            is compact, consecutive pieces of it, `(num_steps, piece_frames, num_tokens, hidden)`.
        frame_mask: `(num_windows, window_frames)`, boolean, `True` = real.
        window_starts: `(num_windows,)`, first frame of each window, rising.
        fps: Frames per second.
        duration_sec: Length of the video in seconds.
        fingerprint: Identifies the projection weights.
        token_statistics: Only if the video is compact: for each piece `(num_steps, piece_frames, num_tokens, n)`, from
            `R2Block.begin_projection`.

    Raises:
        ValueError: The parts do not fit together.
    """

    video_embeds: list[torch.Tensor]
    frame_mask: torch.Tensor
    window_starts: torch.Tensor
    fps: float
    duration_sec: float
    fingerprint: str
    token_statistics: list[torch.Tensor] | None = None

    def __post_init__(self) -> None:
        num_windows = len(self.window_starts) if self.is_compact else len(self.video_embeds)
        _check_embeds(self.video_embeds, self.is_compact)
        size = self.frame_mask.shape[-1] if self.is_compact else self.video_embeds[0].shape[1]
        _check_windows(self.frame_mask, self.window_starts, num_windows, size)
        if self.token_statistics is not None:
            _check_compact(self.video_embeds, self.token_statistics, self.num_frames)
        for name in ("fps", "duration_sec"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < float(value) < math.inf:
                raise ValueError(f"`{name}` must be a positive, finite number, got {value}.")
        if not isinstance(self.fingerprint, str) or not self.fingerprint:
            raise ValueError(f"`fingerprint` must be a non-empty string, got {self.fingerprint!r}.")

    @property
    def is_compact(self) -> bool:
        """Whether each frame is held once."""
        return self.token_statistics is not None

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return len(self.window_starts)

    @property
    def num_frames(self) -> int:
        """Length of the whole video in frames, or the end of its last window if that is missing."""
        return int(self.window_starts[-1] + self.frame_mask[-1].sum())

    def window_features(self, window: int, recurrent_step: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features of a window for one step, `(n, num_tokens, hidden)`, and their statistics, `(n, num_tokens, 2)`.

        Those of a compact video are without padding; those of others have no statistics.
        """
        embeds = self._of_window(self.video_embeds, window, recurrent_step)
        if self.token_statistics is None:
            return embeds, None
        return embeds, self._of_window(self.token_statistics, window, recurrent_step)

    def _of_window(self, parts: list[torch.Tensor], window: int, recurrent_step: int) -> torch.Tensor:
        if not self.is_compact:
            return parts[window][recurrent_step]
        first = int(self.window_starts[window])
        last = min(first + self.frame_mask.shape[1], self.num_frames)
        pieces, start = [], 0
        for part in parts:
            end = start + part.shape[1]
            if start < last and first < end:
                pieces.append(part[recurrent_step, max(first - start, 0) : last - start])
            start = end
        return torch.cat(pieces)

    def to(self, *args: Any, **kwargs: Any) -> "EncodedVideo":
        """Copy to another device or floating-point type (arguments of `torch.Tensor.to`); half precision halves it."""
        embeds = [window.to(*args, **kwargs) for window in self.video_embeds]
        device = embeds[0].device
        statistics = self.token_statistics
        return replace(
            self,
            video_embeds=embeds,
            frame_mask=self.frame_mask.to(device),
            window_starts=self.window_starts.to(device),
            token_statistics=None if statistics is None else [part.to(device) for part in statistics],
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with checksums, atomically.

        Raises:
            OSError: The file cannot be written.
            ValueError: Some values are not finite.
        """
        tensors = {"frame_mask": self.frame_mask, "window_starts": self.window_starts}
        for name in PARTS:
            parts = getattr(self, name) or []
            _check_finite(name, parts)
            tensors |= {f"{name}.{index}": part for index, part in enumerate(parts)}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        numbers = {name: str(float(getattr(self, name))) for name in ("fps", "duration_sec")}
        metadata = {"format": FORMAT, **numbers, "fingerprint": self.fingerprint}
        checksums = {name: _checksum(name, value, metadata) for name, value in tensors.items()}
        metadata["checksums"] = json.dumps(checksums, sort_keys=True)
        with writing(path) as partial:
            save_file(tensors, partial, metadata=metadata)

    @classmethod
    def load(
        cls, path: str | os.PathLike, device: torch.device | str = "cpu", *, windows: Iterable[int] | None = None
    ) -> "EncodedVideo":
        """Read a file written by `save`. The checksum of everything that is read is verified.

        Args:
            path: The file.
            device: Where to put the features.
            windows: Indices of the windows to read, the others are left out; not of a compact video. Default: all.

        Raises:
            FileNotFoundError: The file does not exist.
            IndexError: The video has no such window.
            ValueError: The file is damaged, in an earlier format or not an encoded video; or it is compact, and `windows`
                are selected.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"No encoded video at '{os.fspath(path)}'.")
        chosen = None if windows is None else sorted(set(windows))
        try:
            with safe_open(path, framework="pt") as file:
                video = cls._from_file(_CheckedTensors(file), chosen)
        except IndexError:
            raise
        except Exception as error:  # noqa: BLE001 (safetensors raises several types, all meaning an unusable file)
            reason = str(error).rstrip(".")
            raise ValueError(
                f"'{os.fspath(path)}' is not a usable encoded video: {reason}. Encode the video again."
            ) from error
        return video.to(device)

    @classmethod
    def _from_file(cls, tensors: "_CheckedTensors", chosen: list[int] | None) -> "EncodedVideo":
        starts, mask = tensors.read("window_starts"), tensors.read("frame_mask")
        parts = {name: tensors.names(name) for name in PARTS}
        if chosen is not None:
            if parts["token_statistics"]:
                raise ValueError("it is compact, so no `windows` can be selected")
            if not chosen or not 0 <= chosen[0] <= chosen[-1] < len(starts):
                raise IndexError(f"`windows` must be from 0 to {len(starts) - 1}, at least one, got {chosen}.")
            starts, mask = starts[chosen], mask[chosen]
            parts["video_embeds"] = [f"video_embeds.{index}" for index in chosen]
        read: dict[str, list[torch.Tensor]] = {}
        for name, keys in parts.items():
            read[name] = [tensors.read(key) for key in keys]
            _check_finite(name, read[name])
        return cls(
            video_embeds=read["video_embeds"],
            frame_mask=mask,
            window_starts=starts,
            fps=float(tensors.metadata["fps"]),
            duration_sec=float(tensors.metadata["duration_sec"]),
            fingerprint=tensors.metadata["fingerprint"],
            token_statistics=read["token_statistics"] or None,
        )


class _CheckedTensors:
    """The tensors of a file, whose checksums are compared when they are read."""

    def __init__(self, file: Any):
        self.metadata: dict[str, str] = file.metadata() or {}
        if self.metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {self.metadata.get('format')!r}, and this version reads {FORMAT!r}")
        self._file = file
        self._checksums = json.loads(self.metadata.pop("checksums"))

    def names(self, prefix: str) -> list[str]:
        """Names of the parts `prefix.0`, `prefix.1` ..., in order."""
        names: list[str] = []
        while (name := f"{prefix}.{len(names)}") in self._checksums:
            names.append(name)
        return names

    def read(self, name: str) -> torch.Tensor:
        """A tensor; raises an error if it differs from what was written."""
        tensor = self._file.get_tensor(name)
        if self._checksums.get(name) != _checksum(name, tensor, self.metadata):
            raise ValueError(f"its contents do not match its checksum ({name})")
        return tensor


@dataclass
class EncodedText:
    """Queries encoded once, which can be grounded in any number of videos.

    Attributes:
        text_embeds: `(num_steps, num_queries, text_length, hidden)`, projected hidden states, in the order of the
            recurrent steps.
        text_mask: `(num_queries, text_length)`, boolean, `True` = real.
        fingerprint: Identifies the projection weights.
    """

    text_embeds: torch.Tensor
    text_mask: torch.Tensor
    fingerprint: str

    @property
    def num_queries(self) -> int:
        """Number of queries."""
        return len(self.text_mask)

    def to(self, device: torch.device | str) -> "EncodedText":
        """Copy to another device."""
        return replace(self, text_embeds=self.text_embeds.to(device), text_mask=self.text_mask.to(device))


def _checksum(name: str, tensor: torch.Tensor, metadata: dict[str, str]) -> str:
    """CRC-32 of a tensor, with its name and shape and the metadata of its file."""
    header = json.dumps([metadata, name, str(tensor.dtype), list(tensor.shape)], sort_keys=True)
    contents = tensor.flatten().view(torch.uint8).numpy()
    checksum = zlib.crc32(contents, zlib.crc32(header.encode()))  # type: ignore[arg-type]  # before Python 3.12 no type of buffers
    return f"{checksum:08x}"


def _check_embeds(parts: list[torch.Tensor], is_compact: bool) -> None:
    shape = "(num_steps, num_frames, num_tokens, hidden)"
    if not isinstance(parts, list) or not all(isinstance(part, torch.Tensor) for part in parts):
        raise ValueError(f"`video_embeds` must be a list of tensors {shape}, got {type(parts).__name__}.")
    for part in parts:
        if part.dim() != 4 or 0 in part.shape or not part.is_floating_point():
            raise ValueError(
                f"`video_embeds` must be floating-point tensors {shape}, got {part.dtype} of the shape {tuple(part.shape)}."
            )
    frames = slice(1) if is_compact else slice(2)  # pieces of a compact video may differ in length
    kinds = {(tuple(part.shape[frames]), tuple(part.shape[2:]), part.dtype, part.device) for part in parts}
    if len(kinds) != 1:
        raise ValueError(f"`video_embeds` must be windows of one shape, precision and device, got {list(kinds)}.")


def _check_compact(embeds: list[torch.Tensor], statistics: list[torch.Tensor], num_frames: int) -> None:
    found = sum(part.shape[1] for part in embeds)
    if found != num_frames:
        raise ValueError(f"`video_embeds` must hold the {num_frames} frames of the windows, got {found}.")
    shapes = [tuple(part.shape[:3]) for part in embeds]
    if [tuple(part.shape[:-1]) for part in statistics] != shapes or len({part.shape[-1] for part in statistics}) != 1:
        raise ValueError(
            f"`token_statistics` must have the shapes of `video_embeds` but for the last axis, {shapes}, got "
            f"{[tuple(part.shape) for part in statistics]}."
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
    starts = window_starts.tolist()
    stride = size // 2
    least = 1 if starts[-1] == 0 else size - stride + 1
    padded_right = torch.arange(size, device=frame_mask.device) < frame_mask.sum(dim=1, keepdim=True)
    if not torch.equal(frame_mask, padded_right) or set(lengths[:-1]) - {size} or lengths[-1] < least:
        raise ValueError(
            "`frame_mask` must be `True` except at the end of the last window, which must have at least "
            f"{least} of {size} frames; got windows of {lengths} frames."
        )
    rising = all(start < later for start, later in itertools.pairwise(starts))
    if not rising or starts[0] < 0 or any(start % max(stride, 1) for start in starts):
        raise ValueError(
            f"`window_starts` must be multiples of {stride} from 0 on, rising, as windows of {size} frames overlap by half; "
            f"got {starts}."
        )


def _check_finite(name: str, parts: list[torch.Tensor]) -> None:
    for part in parts:
        if not part.isfinite().all():
            raise ValueError(f"`{name}` must be finite, got infinite values or NaN.")


__all__ = ["EncodedText", "EncodedVideo"]
