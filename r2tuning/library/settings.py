"""The settings of a library, in `library.json`: what its vectors and encoded copies depend on besides the videos."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from r2tuning.json_files import read_json, write_json


VERSION = 1
SETTINGS_FILE = "library.json"


@dataclass(frozen=True)
class LibrarySettings:
    """Settings of a library.

    Attributes:
        model: The checkpoint: an absolute path, a name on the Hub, or "packaged".
        backbone: Its frozen encoders, a path or a name on the Hub; `None` if the checkpoint holds them.
        backbone_revision: Their revision on the Hub, if one is pinned.
        weights: Digest of the checkpoint's weights.
        projection: Digest of the backbone's projections, if the vectors are those; `None` if they are the R2 block's.
        fps: Frames sampled per second of video.
        window_sec: Longest window in seconds; `None` = a video is one window.
        dim: Size of a frame's vector.
        keep_features: Whether encoded copies of the videos are kept.
    """

    model: str
    backbone: str | None
    backbone_revision: str | None
    weights: str
    projection: str | None
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


__all__ = ["SETTINGS_FILE", "LibrarySettings"]
