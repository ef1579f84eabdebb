"""How the probabilities of a long video's windows are best merged to one of the whole video, on Moving Shapes.

python -m benchmarks.existence_windows DATA --model CHECKPOINT --features CACHE [--window-sec 60]

Each test video is joined with others that hold none of the objects that its queries name, so that absent queries stay
absent. The long videos are grounded in windows, and the windows' logits merged in several ways: the highest; "noisy or",
1 - prod(1 - p) over all windows, as if they were independent, and over every second one, which do not overlap. "one pass"
grounds the long video without windows, "alone" the video before it is joined.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoProcessor

from benchmarks.measurement import print_report
from dataset_scripts import load_vtg_dataset
from dataset_scripts.metrics.existence import calibration_error, false_alarm_rate, roc_auc
from dataset_scripts.moving_shapes.scenes import COMBINATIONS
from modeling_r2tuning import R2TuningForVideoGrounding
from r2tuning.features.cache import FeatureCache


NUM_VIDEOS = 4  # that are joined
NAMES = [" ".join(combination) for combination in COMBINATIONS]
Row = dict[str, Any]


def merge_highest(probabilities: np.ndarray) -> np.ndarray:
    """The most probable window, from `(num_queries, num_windows)`."""
    return probabilities.max(axis=1)


def merge_noisy_or(probabilities: np.ndarray) -> np.ndarray:
    """All windows, as if they were independent."""
    return 1 - (1 - probabilities).prod(axis=1)


def merge_disjoint(probabilities: np.ndarray) -> np.ndarray:
    """Every second window, as if they were independent."""
    return merge_noisy_or(probabilities[:, ::2])


MERGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "highest": merge_highest,
    "noisy or": merge_noisy_or,
    "noisy or of every second": merge_disjoint,
}


def find_names(rows: list[Row]) -> set[str]:
    """Objects that the queries of a video name."""
    names = set()
    for row in rows:
        names |= {name for name in NAMES if name in row["query"]}
    return names


def find_partners(videos: dict[str, list[Row]], video_id: str, random: np.random.Generator) -> list[str]:
    """Videos, at random, that show no object that the queries of a video name."""
    named = find_names(videos[video_id])
    found = []
    for other in random.permutation(list(videos)).tolist():
        # An object that no query names is not noticed; that is rare.
        if other != video_id and not find_names(videos[other]) & named:
            found.append(other)
    return found[: NUM_VIDEOS - 1]


@torch.inference_mode()
def main() -> None:
    """Print the scores of every way to merge."""
    args = make_parser().parse_args()
    rows = load_vtg_dataset("moving_shapes_absent", split="test", data_dir=args.data)
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row["video_id"], []).append(row)
    answers = Answers(args.model, args.features, args.window_sec)
    random = np.random.default_rng(0)
    for video_id, queries in tqdm(videos.items(), unit=" videos"):
        partners = find_partners(videos, video_id, random)
        if len(partners) == NUM_VIDEOS - 1:
            answers.add(random.permutation([video_id, *partners]).tolist(), video_id, queries)
    print_report(answers.report(), args.output)


class Answers:
    """Probabilities of all queries, by the way they were merged."""

    def __init__(self, checkpoint: str, features: str, window_sec: float):
        self.model = R2TuningForVideoGrounding.from_pretrained(checkpoint).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.cache = FeatureCache(features, model=self.model, fps=self.processor.fps)
        self.window_sec = window_sec
        self.present: list[bool] = []
        self.probabilities: dict[str, list[float]] = {name: [] for name in (*MERGES, "one pass", "alone")}
        self.num_windows: list[int] = []

    def add(self, joined: list[str], video_id: str, queries: list[Row]) -> None:
        """Answer the queries about one video when it is joined with others."""
        states = torch.cat([self.cache.video(name) for name in joined])
        windows = self._ground(states, self.window_sec, queries)
        self.num_windows.append(windows.shape[1])
        for name, merge in MERGES.items():
            self.probabilities[name] += merge(windows).tolist()
        self.probabilities["one pass"] += self._ground(states, None, queries)[:, 0].tolist()
        self.probabilities["alone"] += self._ground(self.cache.video(video_id), None, queries)[:, 0].tolist()
        self.present += [bool(row["moments"]) for row in queries]

    def _ground(self, states: torch.Tensor, window_sec: float | None, queries: list[Row]) -> np.ndarray:
        """Calibrated probabilities of the windows, `(num_queries, num_windows)`."""
        video = self.model.encode_video(video_hidden_states=states, fps=self.processor.fps, window_sec=window_sec)
        text = self.processor(text=[row["query"] for row in queries])
        logits = self.model.ground(video, **text).existence_logits.double()
        calibrated = (self.processor.existence_scale * logits + self.processor.existence_bias).sigmoid()
        return calibrated.reshape(len(queries), -1).numpy()

    def report(self) -> dict[str, Any]:
        """AUROC, false alarms and calibration error of every way, and the rates at a probability of 0.5."""
        present = np.array(self.present)
        scores = {}
        for name, values in self.probabilities.items():
            each = np.array(values)
            scores[name] = {
                "AUROC": round(roc_auc(each, present), 4),
                "false alarms at 95 % detection": round(false_alarm_rate(each, present), 4),
                "ECE": round(calibration_error(each, present), 4),
                "detected at 0.5": round(float((each[present] >= 0.5).mean()), 4),
                "false alarms at 0.5": round(float((each[~present] >= 0.5).mean()), 4),
            }
        windows = {"videos": len(self.num_windows), "windows of each": round(float(np.mean(self.num_windows)), 2)}
        return {**windows, "queries": len(present), "scores": scores}


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="folder that `python -m dataset_scripts.moving_shapes` wrote")
    parser.add_argument("--model", required=True, help="checkpoint with an existence head")
    parser.add_argument("--features", required=True, help="feature cache")
    parser.add_argument("--window-sec", type=float, default=60.0, help="longest window in seconds (60)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON")
    return parser


if __name__ == "__main__":
    main()
