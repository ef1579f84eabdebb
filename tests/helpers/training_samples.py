"""A benchmark that a tiny model learns in seconds: annotations, a feature cache and CLIP on disk.

A query is a letter. Each letter has a direction in CLIP's space; the frames of its moments point there, and so do the
words of the query. Nothing is downloaded or rendered.
"""

import json
from string import ascii_lowercase

import numpy as np
from accelerate.state import AcceleratorState, GradientState
from tiny_checkpoints import save_clip
from tiny_models import TINY, TINY_TEXT, TINY_VISION


NUM_TOKENS = (TINY_VISION["image_size"] // TINY_VISION["patch_size"]) ** 2 + 1
NUM_LETTERS = 6
CLIP_SEC = 2
MODEL = {
    **{name: list(value) if isinstance(value, tuple) else value for name, value in TINY.items()},
    "dropout": 0.1,
}


def write_benchmark(folder, clip, num_train=12, num_val=4, seed=0, absent=False):
    """Write `annotations`, `cache` and `clip`; returns options of `run.py` that train on them.

    With `absent`, every video has a third query: a letter that it does not show.
    """
    generator = np.random.default_rng(seed)
    directions = {
        "video": generator.standard_normal((NUM_LETTERS, TINY_VISION["hidden_size"])),
        "text": generator.standard_normal((NUM_LETTERS, TINY_TEXT["hidden_size"])),
    }
    for name in ("annotations", "cache/clip_tiny_vid_k3", "cache/clip_tiny_txt_k3"):
        (folder / name).mkdir(parents=True)
    for split, count in (("train", num_train), ("val", num_val)):
        lines = []
        for number in range(count):
            lines += write_video(
                folder / "cache", f"{split}{number}", len(lines), split, generator, directions, absent
            )
        path = folder / "annotations" / f"highlight_{split}_release.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_clip(clip, folder / "clip")
    return {
        "preset": "qvhighlights",
        "data-dir": folder / "annotations",
        "features": folder / "cache",
        "backbone": folder / "clip",
        "model": json.dumps(MODEL),
        "epochs": 2,
        "repeat-factor": 1,
        "batch-size": 8,
        "warmup-steps": 2,
        "learning-rate": 5e-3,
        "num-workers": 0,
        "cpu": None,
    }


def write_video(cache, video_id, first_qid, split, generator, directions, absent):
    """Write the features of a video and of its queries; returns their annotations.

    Two letters have a moment each; with `absent`, a third one has none.
    """
    num_frames = int(generator.integers(10, 16))
    states = 0.5 * generator.standard_normal((num_frames, 3, NUM_TOKENS, TINY_VISION["hidden_size"]))
    letters = generator.permutation(NUM_LETTERS)[: 3 if absent else 2]
    cut = int(generator.integers(3, num_frames - 3))
    spans = [(1, cut), (cut, num_frames - 1), (0, 0)][: len(letters)]
    lines = []
    for position, (letter, (start, end)) in enumerate(zip(letters, spans, strict=True)):
        states[start:end] += directions["video"][letter]
        qid = (0 if split == "train" else 1000) + first_qid + position
        words = 0.3 * generator.standard_normal((3 + position, 3, TINY_TEXT["hidden_size"]))
        np.save(cache / f"clip_tiny_txt_k3/{qid}.npy", (words + directions["text"][letter]).astype(np.float16))
        clips = list(range(start, end))
        lines.append(
            {
                "qid": qid,
                "query": ascii_lowercase[letter],
                "vid": video_id,
                "duration": num_frames * CLIP_SEC,
                "relevant_windows": [[start * CLIP_SEC, end * CLIP_SEC]] if end else [],
                "relevant_clip_ids": clips,
                "saliency_scores": generator.integers(2, 5, (len(clips), 3)).tolist(),
            }
        )
    np.save(cache / f"clip_tiny_vid_k3/{video_id}.npy", states.astype(np.float16))
    return lines


def as_arguments(options, **changes):
    """A command line; `None` = an option without value."""
    options = {**options, **{name.replace("_", "-"): value for name, value in changes.items()}}
    arguments = []
    for name, value in options.items():
        arguments += [f"--{name}"] if value is None else [f"--{name}", str(value)]
    return arguments


def reset_accelerate():
    """Forget the process state of accelerate, so that the next run starts as in a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
