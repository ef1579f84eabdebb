"""CLIP features of a benchmark on disk: what is in the folder, how a file is checked, and the reader.

    settings.json                                  what the features depend on
    videos/<video id>.safetensors                  (num_frames, num_layers, num_tokens, width)
    queries/<qid>-<digest of the text>.safetensors (text_length, num_layers, width), valid tokens only
    partial/                                       files that are being written

A file holds one tensor in half precision, CLIP's last K states with the deepest layer last, and a record of what it was
made from, with a checksum. `run_feature_extraction.py` writes all this. `FeatureCache` reads it, and the caches that the
authors published.
"""

import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.files_r2tuning import remove_leftovers, writing


FORMAT = 1
ONE_PER_CLIP = "one frame per annotated clip"  # the frame rate of YouTube Highlights, another for each video
NOT_COMPARED = ("clip",)  # the same CLIP has several names; its weights are compared
MAX_NAME = 200  # bytes; file systems allow 255, a digest and an ending follow
STALE_SEC = 3600.0  # earlier versions wrote files into `partial` itself; none took so long
OFFICIAL_VIDEOS, OFFICIAL_QUERIES = "*_vid_k*", "*_txt_k*"  # such as clip_b32_vid_k4 and clip_b32_txt_k4
OFFICIAL_SUFFIXES = ("", "-cam-002")  # of TACoS
CHANGED, NOT_IN_CACHE = "changes what CLIP computes", {"e3va": "reads what is between CLIP's layers"}
AGAIN = "Run train/run_feature_extraction.py again: it makes this file anew."


class FeatureCache:
    """Reads the CLIP features of a benchmark: a folder that `run_feature_extraction.py` wrote, or a published one.

    A published cache is a folder of the authors with one folder of videos (`clip_b32_vid_k4`) and one of queries
    (`clip_b32_txt_k4`), whose files are named by video id and qid. They say nothing of CLIP's weights, the frame rate
    and the text, which must be taken on trust; K and the widths follow from the shapes.

    Args:
        folder: The cache.
        model: The model that is to read the features; `None` = any, then nothing is compared. One that reads fewer of
            CLIP's layers than a cache of ours holds is given the last ones.
        fps: Frames per second that are expected; `None` = any. One frame per annotated clip is no matter of choice.
        check: Compare checksums: each file is read wholly when this object reads it first. `False`: only what the
            header says, so that a part of a long video is read without the rest.

    Raises:
        FileNotFoundError: There is no cache.
        ValueError: It was made with another CLIP, K or frame rate, or it is of an unknown kind; or the model's method
            needs more than a cache can hold.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        model: R2TuningForVideoGrounding | None = None,
        fps: float | None = None,
        check: bool = True,
    ):
        self.folder = Path(folder)
        self.check = check
        self.settings = read_settings(self.folder)
        self._config = None if model is None else model.config
        self._checked = set()
        if model is not None and not model.config.method_spec.reads_plain_layers:
            raise ValueError(
                f"`method` '{model.config.method}' {NOT_IN_CACHE.get(model.config.method, CHANGED)}, which no feature "
                "cache holds. Pass the videos instead (`--video-dir`)."
            )
        if self.settings is None:
            self._videos, self._queries = _find_official(self.folder)
            return
        wanted = {"format": FORMAT, "store": "features"}
        if model is not None:
            enough, found = model.config.num_recurrent_steps, self.settings.get("num_layers")
            enough = max(enough, found) if isinstance(found, int) else enough
            wanted |= {"clip_weights": fingerprint(model), "num_layers": enough}
        if fps is not None and self.settings.get("fps") != ONE_PER_CLIP:
            wanted["fps"] = float(fps)
        compare_settings(self.folder, self.settings, wanted)
        self._digest = settings_digest(self.settings)

    def video(self, video_id: str) -> torch.Tensor:
        """Features of a video, mapped into memory: parts are read from the disk as they are used.

        Args:
            video_id: As in the dataset.

        Returns:
            `(num_frames, num_layers, num_tokens, width)`, last layer last, in half precision.

        Raises:
            FileNotFoundError: The video is not in the cache.
            ValueError: The file is corrupt.
        """
        if self.settings is None:
            return self._load_official(self._videos, video_id, self._video_shape())
        return self._load(video_path(self.folder, video_id), {"id": video_id})

    def query(self, qid: str, text: str) -> torch.Tensor:
        """Features of a query; arguments as in the dataset.

        The text is asked for because a qid is unique within a split only, and may move when annotations change.

        Returns:
            `(text_length, num_layers, width)`, last layer last, in half precision: the tokens from start to end of
            text.

        Raises:
            FileNotFoundError: The query is not in the cache.
            ValueError: The file is corrupt.
        """
        if self.settings is None:
            return self._load_official(self._queries, qid, self._text_shape())
        return self._load(query_path(self.folder, qid, text), {"id": qid, "text": text})

    def _load(self, path: Path, record: dict[str, Any]) -> torch.Tensor:
        states, found = load_features(path, check=self.check and path not in self._checked)
        wanted = {**record, "settings": self._digest}
        if any(found.get(name) != value for name, value in wanted.items()):
            raise ValueError(f"'{path}' belongs to another cache or to another id. {AGAIN}")
        self._checked.add(path)
        return self._layers(states)

    def _layers(self, states: torch.Tensor) -> torch.Tensor:
        """Those of the cached layers that the model reads."""
        return states if self._config is None else states[:, self._config.layers_read]

    def _video_shape(self) -> tuple[int, ...] | None:
        if self._config is None:
            return None
        vision = self._config.vision_config
        num_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        return self._config.num_recurrent_steps, num_tokens, vision.hidden_size

    def _text_shape(self) -> tuple[int, ...] | None:
        if self._config is None:
            return None
        return self._config.num_recurrent_steps, self._config.text_config.hidden_size

    def _load_official(self, folder: Path, name: str, shape: tuple[int, ...] | None) -> torch.Tensor:
        """Read `name`.npy; `shape` is that of a frame or token, which may be flattened in the file."""
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"The id {name!r} leads out of '{folder}', where a published cache has its files.")
        paths = [folder / f"{name}{suffix}.npy" for suffix in OFFICIAL_SUFFIXES]
        path = next((path for path in paths if path.is_file()), paths[0])
        try:
            # copy-on-write, as tensors cannot be read-only
            states = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 (numpy raises many types, such as TokenError and BadZipFile)
            raise ValueError(f"'{path}' is corrupt or no features ({error}). Download it again.") from error
        if shape is None and states.dim() == 2:
            raise ValueError(
                f"'{path}' is flattened: pass `model` to `FeatureCache`, which knows the shape of a frame."
            )
        if shape is not None and states.dim() == 2 and states.shape[1] == math.prod(shape):
            states = states.unflatten(1, shape)
        if not states.is_floating_point() or 0 in states.shape or states.shape[1:] != (shape or states.shape[1:]):
            raise ValueError(
                f"'{path}' holds {states.dtype} of the shape {tuple(states.shape)}; the model needs floating-point "
                f"numbers of the shape (any, {', '.join(map(str, shape or ['any']))}): its K and CLIP must be those of "
                "the cache."
            )
        if self.check and path not in self._checked and not states.isfinite().all():
            raise ValueError(f"'{path}' holds numbers that are not finite. Download it again.")
        self._checked.add(path)
        return self._layers(states)


def _find_official(folder: Path) -> tuple[Path, Path]:
    """The folders of videos and of queries of a published cache."""
    found = [sorted(folder.glob(pattern)) for pattern in (OFFICIAL_VIDEOS, OFFICIAL_QUERIES)]
    if not any(found):
        raise FileNotFoundError(
            f"'{folder}' is no feature cache: it has neither a settings.json, as train/run_feature_extraction.py "
            f"writes it, nor folders named {OFFICIAL_VIDEOS} and {OFFICIAL_QUERIES}, as the authors publish them."
        )
    if [len(paths) for paths in found] != [1, 1]:
        names = [path.name for paths in found for path in paths]
        raise ValueError(
            f"A published cache has one folder named {OFFICIAL_VIDEOS} and one named {OFFICIAL_QUERIES}; '{folder}' has "
            f"{names}. Make a folder of links to the two that belong together."
        )
    return found[0][0], found[1][0]


# ---- settings ------------------------------------------------------------------------------------------------------


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Content of settings.json, `None` if there is none."""
    path = folder / "settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is corrupt ({error}). Extract the features into a new folder.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"'{path}' holds no settings. Extract the features into a new folder.")
    return settings


def prepare_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make a cache's folder with its settings, or check those of an existing one, and clean it up.

    Raises:
        ValueError: The folder was made with other settings.
    """
    found = read_settings(folder)
    if found is not None:
        compare_settings(folder, found, settings)
    partial = folder / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    remove_leftovers(partial)
    for path in partial.iterdir():
        with suppress(FileNotFoundError):  # another process does the same
            if not path.is_dir() and time.time() - path.stat().st_mtime > STALE_SEC:
                path.unlink()
    if found is None:
        write_json(folder, folder / "settings.json", settings)


def compare_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a cache whose settings differ from those wanted.

    Raises:
        ValueError: The message lists what differs.
    """
    differing = [
        f"`{name}` is {json.dumps(found.get(name))} there, {json.dumps(value)} is needed"
        for name, value in wanted.items()
        if name not in NOT_COMPARED and found.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"The cache '{folder}' was made with other settings: {'; '.join(differing)} (its CLIP is "
            f"{json.dumps(found.get('clip'))}). Ask for what it was made with, or use another folder."
        )


def settings_digest(settings: dict[str, Any]) -> str:
    """Identifies settings; every file names those that it was made with."""
    compared = {name: value for name, value in settings.items() if name not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(model: R2TuningForVideoGrounding) -> str:
    """Identifies the weights of a model's CLIP; the same in float32 and in bfloat16."""
    digest = hashlib.sha256()
    for encoder in (model.vision_model, model.text_model):
        for _, value in sorted(encoder.state_dict().items()):
            digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy())
    return digest.hexdigest()[:16]


# ---- files ---------------------------------------------------------------------------------------------------------


def video_path(folder: Path, video_id: str, ending: str = "safetensors") -> Path:
    """File of a video."""
    return folder / "videos" / f"{safe_name(video_id)}.{ending}"


def query_path(folder: Path, qid: str, text: str) -> Path:
    """File of a query: two texts with the same qid have two files."""
    return folder / "queries" / f"{safe_name(qid)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def safe_name(identifier: str) -> str:
    """A file name for any id, another for each; letters, digits and `_.-~` stay as they are."""
    name = quote(identifier, safe="")
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME // 2]}+{hashlib.sha256(identifier.encode()).hexdigest()}"  # `quote` leaves no "+"


def save_features(folder: Path, path: Path, states: torch.Tensor, record: dict[str, Any]) -> None:
    """Write a file of a cache.

    Args:
        folder: The cache.
        path: The file.
        states: Contiguous, in half precision.
        record: What the file was made from; plain values.
    """
    text = json.dumps({**record, "checksum": _checksum(states, record)}, sort_keys=True)
    with replacing(folder, path) as partial:
        save_file({"hidden_states": states}, partial, metadata={"record": text})


def load_features(path: Path, *, check: bool = True) -> tuple[torch.Tensor, dict[str, Any]]:
    """The tensor of a file, mapped into memory, and its record.

    Args:
        path: The file.
        check: Read it all and compare the checksum.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is corrupt.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There are no features at '{path}'. Run train/run_feature_extraction.py.")
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
            states = file.get_tensor("hidden_states")
        checksum = record.pop("checksum")
        if check and _checksum(states, record) != checksum:
            raise ValueError("its content does not fit its checksum")
    except Exception as error:  # noqa: BLE001 (safetensors raises several types, all meaning an unusable file)
        raise ValueError(f"'{path}' is corrupt: {error or type(error).__name__}. {AGAIN}") from error
    return states, record


def write_json(folder: Path, path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file of a cache."""
    with replacing(folder, path) as partial:
        partial.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def replacing(folder: Path, path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of `path` at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, temporary_in=folder / "partial") as partial:
        yield partial


def _checksum(states: torch.Tensor, record: dict[str, Any]) -> int:
    head = json.dumps([record, list(states.shape), str(states.dtype)], sort_keys=True)
    return zlib.crc32(states.numpy(), zlib.crc32(head.encode()))


__all__ = [
    "FORMAT",
    "ONE_PER_CLIP",
    "FeatureCache",
    "compare_settings",
    "fingerprint",
    "load_features",
    "prepare_folder",
    "query_path",
    "read_settings",
    "replacing",
    "safe_name",
    "save_features",
    "settings_digest",
    "video_path",
    "write_json",
]
