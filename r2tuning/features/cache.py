"""Features of a benchmark on disk: hidden states of the frozen encoders.

    settings.json                                  what the features depend on
    videos/<video id>.safetensors                  (num_frames, num_layers, num_tokens, hidden)
    queries/<qid>-<digest of the text>.safetensors (text_length, num_layers, hidden), valid tokens only
    partial/                                       unfinished files

A file holds one tensor in half precision, the last K hidden states of an encoder with the deepest layer last, and a
record of what it was made from with a checksum. `r2tuning extract` writes these caches. `FeatureCache` reads them, and
the caches that the authors published.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dataset_scripts.benchmarks import OWN_DATA
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from r2tuning.features.files import EXTRACT_AGAIN, load_features, query_path, video_path
from r2tuning.features.published import PublishedCache
from r2tuning.features.settings import (
    FORMAT,
    ONE_PER_UNIT,
    compare_settings,
    fingerprint,
    read_settings,
    settings_digest,
)


class FeatureCache:
    """Reads the features of a benchmark, extracted by `r2tuning extract` or published by the authors.

    A published cache has one folder of videos (`clip_b32_vid_k4`) and one of queries (`clip_b32_txt_k4`), whose files
    are named by video id and qid. It does not record the backbone's weights, frame rate or texts, so these cannot be
    verified; K and the hidden sizes follow from the shapes.

    Args:
        folder: The cache.
        model: Model that will read the features; `None` skips the comparison with it. A model that reads fewer of
            the backbone's layers than an extracted cache holds gets the last ones.
        fps: Expected frames per second; `None` accepts any. Ignored for caches with one frame per annotated unit.
        check: Verify the checksum of each file when it is read for the first time, which reads the whole file. `False`
            reads the header alone, so that part of a long video is read without the rest.

    Raises:
        FileNotFoundError: There is no cache.
        ValueError: The cache was made with another backbone, K or frame rate, or is of an unknown kind; or the model's
            method needs more than a cache holds.
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
        self._checked: set[Path] = set()
        if model is not None:
            _check_method(model.config)
        if self.settings is None:
            self._published = PublishedCache(self.folder)
            return
        compare_settings(self.folder, self.settings, _wanted_settings(self.settings, model, fps))
        self._digest = settings_digest(self.settings)

    def video(self, video_id: str) -> torch.Tensor:
        """Features of a video, mapped into memory: parts are read from the disk as they are used.

        Args:
            video_id: Id in the dataset.

        Returns:
            `torch.Tensor` of shape `(num_frames, num_layers, num_tokens, hidden)`, deepest layer last, in half
            precision.

        Raises:
            FileNotFoundError: The video is not in the cache.
            ValueError: The file is corrupt.
        """
        if self.settings is None:
            return self._select_layers(self._published.video(video_id, self._frame_shape(), check=self.check))
        return self._load(video_path(self.folder, video_id), {"id": video_id})

    def query(self, qid: str, text: str) -> torch.Tensor:
        """Features of a query.

        Args:
            qid: Id in the dataset.
            text: The query. It is needed because a qid is unique within a split only, and may change its text when
                annotations are revised.

        Returns:
            `torch.Tensor` of shape `(text_length, num_layers, hidden)`, deepest layer last, in half precision: the
            tokens from start to end of text.

        Raises:
            FileNotFoundError: The query is not in the cache.
            ValueError: The file is corrupt.
        """
        if self.settings is None:
            return self._select_layers(self._published.query(qid, self._token_shape(), check=self.check))
        return self._load(query_path(self.folder, qid, text), {"id": qid, "text": text})

    def lengths(self) -> dict[str, float]:
        """Lengths in seconds of all videos of an extracted cache, by id, as recorded when they were read.

        Files that cannot be read are left out; reading their features gives the error.
        """
        lengths = {}
        for path in sorted((self.folder / "videos").glob("*.safetensors")):
            with suppress(OSError, ValueError):
                _, record = load_features(path, check=False)
                if "duration_sec" in record:
                    lengths[record["id"]] = record["duration_sec"]
        return lengths

    def _load(self, path: Path, record: dict[str, Any]) -> torch.Tensor:
        states, found = load_features(path, check=self.check and path not in self._checked)
        wanted = {**record, "settings": self._digest}
        if any(found.get(name) != value for name, value in wanted.items()):
            raise ValueError(f"'{path}' belongs to another cache or to another id. {EXTRACT_AGAIN}")
        self._checked.add(path)
        return self._select_layers(states)

    def _select_layers(self, states: torch.Tensor) -> torch.Tensor:
        """The cached layers that the model reads."""
        return states if self._config is None else states[:, self._config.layers_read]

    def _frame_shape(self) -> tuple[int, ...] | None:
        """`(num_layers, num_tokens, hidden)` that the model needs."""
        if self._config is None:
            return None
        vision: Any = self._config.vision_config
        num_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        return self._config.num_recurrent_steps, num_tokens, vision.hidden_size

    def _token_shape(self) -> tuple[int, ...] | None:
        """`(num_layers, hidden)` that the model needs."""
        if self._config is None:
            return None
        return self._config.num_recurrent_steps, self._config.text_config.hidden_size


def recorded_lengths(benchmark: str, folder: str | os.PathLike | None) -> dict[str, float] | None:
    """The lengths that a cache of own data has recorded, for `load_vtg_dataset`; `None` where they are not needed.

    Args:
        benchmark: Name of the benchmark; only own data may lack a column with the lengths of the videos.
        folder: The cache; `None` = there is none.
    """
    if benchmark != OWN_DATA or folder is None:
        return None
    return FeatureCache(folder, check=False).lengths()


def _check_method(config: R2TuningConfig) -> None:
    """Refuse transfer methods that need other states of the encoders than the ones that a cache holds."""
    spec = config.method_spec
    if not spec.reads_plain_layers:
        reason = "changes the encoders' hidden states"
        if spec.reads_branches:
            reason = "reads states inside the encoders' layers"
        raise ValueError(
            f"`method` '{config.method}' {reason}, which no feature cache holds. Pass the videos instead "
            "(`--video-dir`)."
        )


def _wanted_settings(
    found: dict[str, Any], model: R2TuningForVideoGrounding | None, fps: float | None
) -> dict[str, Any]:
    """Settings that a cache must have, given those found in it."""
    wanted: dict[str, Any] = {"format": FORMAT, "store": "features"}
    if model is not None:
        wanted["clip_weights"] = fingerprint(model)
        wanted["num_layers"] = model.config.num_recurrent_steps
        if isinstance(found.get("num_layers"), int):  # more layers than the model reads are fine
            wanted["num_layers"] = max(wanted["num_layers"], found["num_layers"])
    if fps is not None and found.get("fps") != ONE_PER_UNIT:
        wanted["fps"] = float(fps)
    return wanted


__all__ = ["FeatureCache", "recorded_lengths"]
