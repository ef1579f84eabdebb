"""Write a small model with random weights and a sample video, to try the whole path without a download.

    python examples/random_model.py demo
    r2tuning ground demo/sample.mp4 "a red circle" --model demo

Its answers mean nothing: nobody trained it.
"""

import argparse
import json
import sys
from pathlib import Path

import av
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import CLIPImageProcessor, CLIPTokenizer

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint


def byte_tokenizer() -> CLIPTokenizer:
    """A tokenizer in CLIP's format that knows single bytes only."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: index for index, token in enumerate(tokens)}, [], model_max_length=77)


def random_model(tokenizer: CLIPTokenizer, **settings) -> R2TuningForVideoGrounding:
    """A model with a tiny CLIP inside; `settings` are fields of `R2TuningConfig`."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 4}
    config = R2TuningConfig(
        vision_config={"hidden_size": 64, "intermediate_size": 128, "image_size": 64, "patch_size": 32, **sizes},
        text_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **sizes,
        },
        **{"hidden_size": 32, "num_attention_heads": 4, "fps": 1.0, "save_backbone": True, **settings},
    )
    return R2TuningForVideoGrounding(config).eval()


def random_processor(tokenizer: CLIPTokenizer) -> R2TuningProcessor:
    """The processor of `random_model`."""
    image_processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    return R2TuningProcessor(image_processor, tokenizer, fps=1.0)


def write_sample_video(path: Path, seconds: int = 20, fps: int = 10):
    """A red disc that crosses the picture between the seconds 5 and 12."""
    rows, columns = np.mgrid[:120, :160]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index in range(seconds * fps):
            picture = np.full((120, 160, 3), 60, np.uint8)
            time = index / fps
            if 5 <= time < 12:
                center = 20 + (time - 5) / 7 * 120
                picture[(rows - 60) ** 2 + (columns - center) ** 2 < 400] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_annotations(path: Path):
    """Two queries about the sample video, in the form of QVHighlights."""
    sample = {"vid": "sample", "duration": 20}
    shown = {
        "relevant_windows": [[4, 12]],
        "relevant_clip_ids": [2, 3, 4, 5],
        "saliency_scores": [[2, 3, 3], [4, 4, 3], [4, 4, 4], [3, 4, 2]],
    }
    hidden = {
        "relevant_windows": [[0, 4], [12, 20]],
        "relevant_clip_ids": [0, 1, 6, 7, 8, 9],
        "saliency_scores": [[1, 2, 1], [2, 2, 1], [3, 2, 2], [2, 2, 2], [4, 3, 2], [1, 2, 2]],
    }
    queries = [
        {"qid": 1, "query": "a red circle crosses the picture", **sample, **shown},
        {"qid": 2, "query": "an empty picture", **sample, **hidden},
    ]
    path.write_text("".join(json.dumps(query) + "\n" for query in queries))


def write_checkpoint(directory: Path):
    """Write a complete checkpoint, `sample.mp4` and annotations of it into a folder."""
    tokenizer = byte_tokenizer()
    save_checkpoint(random_model(tokenizer), random_processor(tokenizer), directory)
    write_sample_video(directory / "sample.mp4")
    write_annotations(directory / "highlight_val_release.jsonl")


def main():
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder to write the checkpoint, sample.mp4 and annotations to")
    directory = parser.parse_args().directory
    write_checkpoint(directory)
    sys.stdout.write(f"Wrote a model with RANDOM weights to {directory}: its answers mean nothing.\n")


if __name__ == "__main__":
    main()
