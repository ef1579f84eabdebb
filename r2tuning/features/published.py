"""Reader of the feature caches that the authors of R2-Tuning published: NumPy files without any metadata."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


VIDEO_FOLDERS = "*_vid_k*"  # such as clip_b32_vid_k4
QUERY_FOLDERS = "*_txt_k*"  # such as clip_b32_txt_k4
SUFFIXES = ("", "-cam-002")  # that follow an id in file names; the latter in TACoS


class PublishedCache:
    """Reads `<id>.npy` from a folder of videos and one of queries.

    Args:
        folder: Folder that holds both.

    Raises:
        FileNotFoundError: Neither folder is there.
        ValueError: One is missing, or there are several.
    """

    def __init__(self, folder: Path):
        videos, queries = sorted(folder.glob(VIDEO_FOLDERS)), sorted(folder.glob(QUERY_FOLDERS))
        if not videos and not queries:
            raise FileNotFoundError(
                f"'{folder}' is no feature cache: it has neither a settings.json, as `r2tuning extract` writes it, "
                f"nor folders named {VIDEO_FOLDERS} and {QUERY_FOLDERS}, as the authors publish them."
            )
        if len(videos) != 1 or len(queries) != 1:
            names = [path.name for path in (*videos, *queries)]
            raise ValueError(
                f"A published cache has one folder named {VIDEO_FOLDERS} and one named {QUERY_FOLDERS}; '{folder}' has "
                f"{names}. Make a folder of links to the two that belong together."
            )
        self.videos, self.queries = videos[0], queries[0]
        self._checked: set[Path] = set()

    def video(self, video_id: str, shape: tuple[int, ...] | None, *, check: bool) -> torch.Tensor:
        """Features of a video, `(num_frames, *shape)`; arguments as for `query`."""
        return self._load(self.videos, video_id, shape, check)

    def query(self, qid: str, shape: tuple[int, ...] | None, *, check: bool) -> torch.Tensor:
        """Features of a query, `(text_length, *shape)`, mapped into memory.

        Args:
            qid: Id in the dataset.
            shape: Shape of the features of one frame or token, which may be flattened in the file; `None` accepts any.
            check: Refuse numbers that are not finite, the first time that a file is read.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is corrupt or of another shape, or the id points outside of the folder.
        """
        return self._load(self.queries, qid, shape, check)

    def _load(self, folder: Path, name: str, shape: tuple[int, ...] | None, check: bool) -> torch.Tensor:
        path = _find_file(folder, name)
        states = _read_array(path)
        if shape is None and states.dim() == 2:
            raise ValueError(
                f"'{path}' is flattened: pass `model` to `FeatureCache`, which knows the shape of a frame."
            )
        if shape is not None and states.dim() == 2 and states.shape[1] == math.prod(shape):
            states = states.unflatten(1, shape)
        _check_shape(path, states, shape)
        if check and path not in self._checked and not states.isfinite().all():
            raise ValueError(f"'{path}' holds numbers that are not finite. Download it again.")
        self._checked.add(path)
        return states


def _find_file(folder: Path, name: str) -> Path:
    """The file of an id; if there is none, the path that it should have."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"The id {name!r} leads out of '{folder}', where a published cache has its files.")
    paths = [folder / f"{name}{suffix}.npy" for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def _read_array(path: Path) -> torch.Tensor:
    try:
        # Copy-on-write, as a tensor cannot be read-only.
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 (numpy raises many types, such as TokenError and BadZipFile)
        raise ValueError(f"'{path}' is corrupt or no features ({error}). Download it again.") from error


def _check_shape(path: Path, states: torch.Tensor, shape: tuple[int, ...] | None) -> None:
    fits = shape is None or states.shape[1:] == shape
    if states.is_floating_point() and 0 not in states.shape and fits:
        return
    sizes: Sequence[object] = ["any"] if shape is None else shape
    raise ValueError(
        f"'{path}' holds {states.dtype} of the shape {tuple(states.shape)}; the model needs floating-point "
        f"numbers of the shape (any, {', '.join(map(str, sizes))}): its K and backbone must be those of the cache."
    )


__all__ = ["PublishedCache"]
