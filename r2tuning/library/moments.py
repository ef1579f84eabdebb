"""The second stage of a search: the windows found are grounded, and the moments of all videos are ranked."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from modeling_r2tuning import EncodedVideo, R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.encoding_r2tuning import EncodedText
from modeling_r2tuning.windows_r2tuning import plan_windows, window_size
from r2tuning.library.entries import FileState, copy_path
from r2tuning.library.schemas import VideoRecord
from r2tuning.library.settings import LibrarySettings


CHANGED = "the file has changed since it was indexed"
READERS = 4  # threads that read encoded copies


@dataclass(frozen=True)
class Moment:
    """A moment of a video in a library.

    Attributes:
        path: The video's file.
        start: In seconds.
        end: In seconds.
        score: From 0 to 1; comparable between videos.
        probability: That anything in the windows searched matches the query; `None` for a model without existence head.
    """

    path: str
    start: float
    end: float
    score: float
    probability: float | None = None


class WindowReader:
    """Gives windows of the videos of a library in encoded form, from their encoded copies or from their files.

    Args:
        folder: The library.
        settings: Its settings.
        model: The model.
        processor: Its processor.
    """

    def __init__(
        self,
        folder: Path,
        settings: LibrarySettings,
        model: R2TuningForVideoGrounding,
        processor: R2TuningProcessor,
    ):
        self.folder = folder
        self.settings = settings
        self.model = model
        self.processor = processor

    def read(self, wanted: dict[int, list[int]], records: dict[int, VideoRecord]) -> list[EncodedVideo | Exception]:
        """Windows of several videos, in order; the error of each that cannot be read.

        Args:
            wanted: Numbers of the windows, by entry.
            records: The videos, by entry.
        """
        if not self.settings.keep_features:
            return [self._encode(records[entry], windows) for entry, windows in wanted.items()]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self._load, wanted.keys(), wanted.values()))

    def _load(self, entry: int, windows: list[int]) -> EncodedVideo | Exception:
        try:
            return EncodedVideo.load(copy_path(self.folder, entry), windows=windows)
        except (OSError, ValueError) as error:
            return error

    def _encode(self, record: VideoRecord, windows: list[int]) -> EncodedVideo | Exception:
        """Decode and encode windows of a video again; the same frames as when it was indexed."""
        starts, mask = plan_windows(record.num_frames, window_size(self.settings.window_sec, record.fps))
        chosen = sorted(windows)
        try:
            check_file(record)
            embeds = []
            for window in chosen:
                first, count = int(starts[window]), int(mask[window].sum())
                last = first + count
                end_sec = None if last == record.num_frames else last / record.fps
                stream = self.processor.stream_video(
                    record.path, fps=record.fps, start_sec=first / record.fps, end_sec=end_sec
                )
                part = self.model.encode_video(stream, fps=record.fps, window_sec=None).video_embeds[0]
                if part.shape[1] != count:
                    raise ValueError(CHANGED)
                embeds.append(F.pad(part, (0, 0, 0, 0, 0, mask.shape[1] - count)))
        except (OSError, ValueError) as error:
            return error
        fingerprint = self.model.get_fingerprint()
        return EncodedVideo(embeds, mask[chosen], starts[chosen], record.fps, record.duration_sec, fingerprint)


def check_file(record: VideoRecord) -> None:
    """Refuse a video whose file is not the one that was indexed.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It has changed.
    """
    try:
        state = FileState.of(record.path)
    except OSError as error:
        raise FileNotFoundError("the file is missing") from error
    if state != FileState(record.size_bytes, record.modified_ns):
        raise ValueError(CHANGED)


def ground_windows(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    videos: dict[str, EncodedVideo],
    text: EncodedText,
    max_moments: int,
) -> list[Moment]:
    """Ground a query in windows of several videos; moments of all, best first.

    Args:
        model: The model.
        processor: Its processor.
        videos: Windows of each video, by its path.
        text: One query.
        max_moments: Largest number of moments of a video.
    """
    outputs = model.ground(list(videos.values()), text)
    moments: list[Moment] = []
    for path, output in zip(videos, outputs, strict=True):
        (answer,) = processor.post_process_video_grounding(output, score_threshold=0.0, max_moments=max_moments)
        moments += list_moments(path, answer)
    return sorted(moments, key=lambda moment: (-moment.score, moment.path, moment.start))


def list_moments(path: str, answer: dict[str, Any]) -> Iterator[Moment]:
    """The moments of an answer about one video, with scores that can be compared with those of other videos.

    The model's scores compare the moments of a video, and its existence head says how likely the video has any: the score
    is the probability, times the moment's score as a share of the best one's. Without that head the scores stay as they are.
    """
    probability = answer.get("probability")
    factor = 1.0
    if probability is not None and answer["moments"]:
        factor = probability / answer["moments"][0]["score"]
    for found in answer["moments"]:
        yield Moment(path, found["start"], found["end"], found["score"] * factor, probability)


__all__ = ["Moment", "WindowReader", "check_file", "ground_windows"]
