"""The settings of a library, in `library.json`: what its vectors and encoded copies depend on besides the videos."""

import hashlib
import itertools
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from modeling_r2tuning import R2TuningForVideoGrounding
from r2tuning.json_files import read_json, write_json


VERSION = 1
SETTINGS_FILE = "library.json"
ADVICE = "Search with the checkpoint that it was made with, or index the videos into a new library."


@dataclass(frozen=True)
class LibrarySettings:
    """Settings of a library.

    Attributes:
        model: The checkpoint: an absolute path, a name on the Hub, or "packaged".
        backbone: Its frozen encoders, if they are not those that the checkpoint names.
        weights: Digest of all weights.
        fps: Frames sampled per second of video.
        window_sec: Longest window in seconds; `None` = a video is one window.
        dim: Size of a frame's vector.
        keep_features: Whether encoded copies of the videos are kept.
    """

    model: str
    backbone: str | None
    weights: str
    fps: float
    window_sec: float | None
    dim: int
    keep_features: bool

    def save(self, folder: Path) -> None:
        """Write the file."""
        write_json(folder / SETTINGS_FILE, {"version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> "LibrarySettings":
        """Read the file.

        Raises:
            FileNotFoundError: There is no library.
            ValueError: The file is damaged, or of another version of the package.
        """
        path = folder / SETTINGS_FILE
        try:
            found = read_json(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no library at '{folder}'; make one with `r2tuning index VIDEOS --library {folder}`."
            ) from error
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.pop("version", None) != VERSION or found.keys() != names:
            raise ValueError(
                f"'{path}' does not hold the settings of a library of this version; index the videos into a new folder."
            )
        return cls(**found)

    def check_weights(self, model: R2TuningForVideoGrounding) -> None:
        """Refuse a model whose vectors would not be comparable with those of the library.

        Raises:
            ValueError: The model has other weights.
        """
        if model_digest(model) != self.weights:
            raise ValueError(f"The library was made with another checkpoint or backbone, '{self.model}'. {ADVICE}")


def model_digest(model: R2TuningForVideoGrounding) -> str:
    """A digest of all weights; the same in float32 and in bfloat16."""
    digest = hashlib.sha256()
    for name, value in sorted(itertools.chain(model.named_parameters(), model.named_buffers())):
        bits = value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)
        digest.update(name.encode())
        digest.update(bits.numpy())
    return digest.hexdigest()[:16]


__all__ = ["SETTINGS_FILE", "LibrarySettings", "model_digest"]
