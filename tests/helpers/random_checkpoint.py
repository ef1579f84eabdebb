"""A small model with random weights and a sample video, complete on disk."""

from pathlib import Path

import av
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint
from modeling_r2tuning.processing_r2tuning import make_image_processor


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
    return R2TuningProcessor(make_image_processor(64), tokenizer, fps=1.0)


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


def write_checkpoint(directory: Path):
    """Write a complete checkpoint and `sample.mp4` into a folder."""
    tokenizer = byte_tokenizer()
    save_checkpoint(random_model(tokenizer), random_processor(tokenizer), directory)
    write_sample_video(directory / "sample.mp4")
